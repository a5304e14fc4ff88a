"""The basket benchmark on invoices small enough to compute by hand."""

import csv
import gzip
import math
from pathlib import Path
from typing import Any, ClassVar

import pytest

from benchmarks import basket
from benchmarks.basket import Basket, load, run
from headrace.errors import Misconfigured
from learners.next_item.transitions import Transitions
from learners.protocol import Context
from producers.online_retail import COLUMNS

A, B, C, D = range(4)


def bought(shopper: str, invoice: str, time_ms: int, items: list[int]) -> Basket:
    """Return a basket of items without names."""
    return Basket(shopper, invoice, time_ms, items, [""] * len(items))


STREAM = [
    bought("ann", "1", 0, [A, B, C]),
    bought("bob", "2", 60_000, [A, B, D]),
    bought("ann", "3", 120_000, [B, C]),
]


def test_ranks_by_hand() -> None:
    result = run(STREAM, ["counts", "markov"])["whole"]
    # Counts: B and C are new in the first basket (rank 1 each: no other items are known). Second basket: after A, the
    # others B and C have one count each, B ties with C: 2nd; then D is new: last of C and D: 2nd. Third: after B (2), A
    # has 2, C has 1 and D 1: C ties with D: 3rd.
    assert result["counts"]["mrr@20"] == pytest.approx((1 + 1 + 1 / 2 + 1 / 2 + 1 / 3) / 5)
    # The chain: after A came B: 1st. After B came C, not D: 2nd. After B came C and D, D last: C is 2nd.
    assert result["markov"]["mrr@20"] == pytest.approx((1 + 1 + 1 + 1 / 2 + 1 / 2) / 5)
    assert result["markov"]["predictions"] == 5


def test_items_of_the_basket_are_not_ranked() -> None:
    stream = [bought("ann", str(number), 0, [A, B]) for number in range(5)]
    # A is as frequent as B, but already in the basket when B is predicted.
    assert run(stream, ["counts"])["whole"]["counts"]["recall@10"] == 1.0
    assert run(stream, ["counts"])["whole"]["counts"]["mrr@10"] == 1.0


class Recorder(Transitions):
    """Records the calls of predict and learn."""

    calls: ClassVar[list[tuple[str, tuple[int, ...], int]]] = []

    def predict(self, context: Context) -> Any:
        self.calls.append(("predict", tuple(context.items[context.start :]), -1))
        return super().predict(context)

    def learn(self, context: Context, item: int) -> None:
        self.calls.append(("learn", tuple(context.items[context.start :]), item))
        super().learn(context, item)


def test_a_line_is_learned_after_its_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    Recorder.calls.clear()
    monkeypatch.setattr(basket, "KINDS", {"transitions": Recorder})
    run(STREAM[:1] + STREAM[2:], ["transitions", "blend"])
    assert Recorder.calls == [
        ("learn", (), A),
        ("predict", (A,), -1),
        ("learn", (A,), B),
        ("predict", (A, B), -1),
        ("learn", (A, B), C),
        ("learn", (), B),  # Ann's next invoice is another session, minutes later
        ("predict", (B,), -1),
        ("learn", (B,), C),
    ]


def test_a_sample_is_tested_and_all_lines_are_learned() -> None:
    stream = [bought(f"s{number}", str(number), 0, [A, B, C, D]) for number in range(50)]
    half = run(stream, ["markov", "blend"], sample=0.5, seed=1)
    assert 50 < half["whole"]["markov"]["predictions"] < 100
    assert half["whole"] == run(stream, ["markov", "blend"], sample=0.5, seed=1)["whole"]
    assert half["second_half"]["markov"]["mrr@10"] == 1.0


def line(invoice: str, code: str, quantity: int, customer: str) -> dict[str, Any]:
    values = (invoice, code, "A THING", quantity, "2010-12-01 08:26:00", 1.5, customer, "France")
    return dict(zip(COLUMNS, values, strict=True))


def test_only_known_customers_purchases_are_baskets(tmp_path: Path) -> None:
    path = tmp_path / "lines.csv.gz"
    with gzip.open(path, "wt", newline="") as file:
        rows = csv.DictWriter(file, COLUMNS)
        rows.writeheader()
        rows.writerows([
            line("1", "10001", 1, "7"), line("1", "10002", 1, "7"), line("1", "10001", 3, "7"),
            line("1", "POST", 1, "7"),
            line("2", "10002", 1, ""),
            line("C3", "10001", -1, "7"),
            line("4", "10003", 1, "8"),
        ])  # fmt: skip
    found = load(path)
    assert [(one.shopper, one.invoice, one.items) for one in found] == [("7", "1", [0, 1]), ("8", "4", [2])]


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="--data"):
        load(tmp_path / "none.csv")


def test_a_file_without_predictions_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "retail.csv"
    path.write_text("InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n")
    with pytest.raises(Misconfigured, match="predictions to make"):
        run(load(path), ["popularity"])


def test_figures_are_finite_for_every_learner() -> None:
    result = run(STREAM, basket.LEARNERS)
    for found in result["whole"].values():
        assert all(math.isfinite(value) for value in found.values())
