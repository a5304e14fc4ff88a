"""What `headrace stock plan` tells: the plan of the live state, as text and as CSV."""

import csv
import json
from contextlib import closing
from pathlib import Path

import pytest

from headrace.config import settings as read_settings
from headrace.errors import Misconfigured
from headrace.events import at
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Outgoing
from headrace.shard.blobs import Blobs
from headrace.shard.loop import Loop, LoopSettings
from headrace.topics import DAY_MS, EVENTS, ITEMS
from learners.families import FAMILIES, default_placements
from learners.shop import MakeShop
from operators.deployment import Deployment
from operators.stock import plan_text, stock_plan, write_csv

START_MS = 20_000 * DAY_MS
DAYS = 40
PLACEMENTS = default_placements()
ONLINE = PLACEMENTS["online"]


def append(log: MemoryLog, *records: Outgoing) -> None:
    with closing(log.appender()) as appender:
        for record in records:
            appender.append(record)


def bought(day: int) -> Outgoing:
    """Return two boots and a hat that are bought on a day."""
    lines = [{"item_id": "boots", "quantity": 2}, {"item_id": "hat", "quantity": 1}]
    event = {
        "specversion": "1.0", "id": f"e{day}", "source": "test", "type": "purchase", "subject": f"s{day}",
        "time": at(START_MS + day * DAY_MS).isoformat(), "data": {"transaction_id": f"t{day}", "items": lines},
    }  # fmt: skip
    return Outgoing(EVENTS, f"s{day}".encode(), json.dumps(event).encode())


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[MemoryLog, Blobs]:
    """Return a log whose shop has few boots and many hats."""
    log, blobs = MemoryLog(clock=lambda: START_MS + DAYS * DAY_MS), Blobs(tmp_path_factory.mktemp("blobs"))
    log.create()
    settings = LoopSettings(commit_interval_s=0.0, idle_wait_s=0.0, snapshot_interval_s=0.0)
    with closing(Loop(log, blobs, ONLINE.shard, make=MakeShop(ONLINE.kinds), settings=settings)) as loop:
        append(log, *(bought(day) for day in range(DAYS)))
        loop.run(lambda: loop.fold.events >= DAYS)
        levels = {"boots": 4, "hat": 5_000}
        items = [
            Outgoing(ITEMS, name.encode(), json.dumps({"price": "10 EUR", "quantity": level}).encode())
            for name, level in levels.items()
        ]
        append(log, *items)
        append(log, bought(DAYS))
        loop.run(lambda: loop.fold.events > DAYS)
    return log, blobs


DEPLOYMENT = Deployment(read_settings().common, {}, FAMILIES, PLACEMENTS)


def test_the_plan_of_the_live_state_is_told_and_written(learned: tuple[MemoryLog, Blobs], tmp_path: Path) -> None:
    found, rows = stock_plan(*learned, DEPLOYMENT, {"n": 10, "budget": None, "service_level": None})
    (line,) = found.lines
    assert (line.item, line.on_hand) in {("boots", 2.0), ("boots", 4.0)}
    assert plan_text(found).startswith(f"boots: order {line.order:g} for {line.cost:,.2f} EUR\n    {line.reason}")
    assert "dead stock: 1 items" in plan_text(found)
    write_csv(rows, tmp_path / "orders.csv")
    with (tmp_path / "orders.csv").open(newline="") as file:
        (written,) = csv.DictReader(file)
    assert (written["item"], float(written["order"]), written["currency"]) == ("boots", line.order, "EUR")
    with pytest.raises(Misconfigured, match="wanted a file that can be written"):
        write_csv(rows, tmp_path)


def test_a_spreadsheet_computes_no_cell_of_the_file(tmp_path: Path) -> None:
    write_csv([["item", "order"], ["=1+2", -3.5]], tmp_path / "orders.csv")
    assert (tmp_path / "orders.csv").read_text() == "item,order\n'=1+2,-3.5\n"


def test_what_is_asked_is_within_bounds_and_a_budget_is_kept(learned: tuple[MemoryLog, Blobs]) -> None:
    found, rows = stock_plan(*learned, DEPLOYMENT, {"budget": 1.0})
    assert (found.lines, found.left_out, len(rows)) == ([], 1, 1)
    assert "1 orders are left out by the budget" in plan_text(found)
    with pytest.raises(Misconfigured, match=r"stock plan: Expected .* - at `\$.service_level`"):
        stock_plan(*learned, DEPLOYMENT, {"service_level": 1.5})


def test_a_log_that_nothing_was_learned_from_is_refused(tmp_path: Path) -> None:
    log = MemoryLog()
    log.create()
    with pytest.raises(Misconfigured, match="wanted a log and blobs from which the live state can be folded"):
        stock_plan(log, Blobs(tmp_path), DEPLOYMENT, {})
