"""New items begin where their kin is: wares, kin, guests of a model, and when the live path tells of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from consumers.finetune import MODEL, MakeRounds, Trainer
from consumers.judge import ShopJudge
from headrace.blobs import Blobs
from headrace.config import FinetuneSettings
from headrace.events import Data, Event, Item, at
from headrace.metrics import FinetuneMetrics
from headrace.state import decode, encode
from learners import judgement
from learners.announcement import Announcement
from learners.deep import DeepModel, DeepSettings, threads
from learners.finetune import train
from learners.kin import Kin
from learners.shop import DEEP, Shop, ShopSettings
from learners.wares import Described, Wares

small = DeepSettings(width=16, layers=1, heads=2, context=10, dropout=0.0)


def described(*known: tuple[int, float]) -> Described:
    areas, prices = zip(*known, strict=True)
    return Described(np.array(areas, np.uint32), np.array(prices, np.float32))


def test_wares_keep_the_newest_word_and_forget() -> None:
    wares = Wares()
    wares.learn(3, "shoes", 10)
    wares.learn(2_000, "hats", None)
    wares.learn(3, "", 12)
    wares.learn(5, "", 0)
    wares.learn(5, "", 1e-60)  # 0 as a float32, of which there is no logarithm
    areas, prices = wares.of([3, 2_000, 5, -1, 9_999])
    assert (areas > 0).tolist() == [True, True, False, False, False]
    assert prices[0] == 12
    assert np.isnan(prices[1:]).all()
    again = Wares.from_state(decode(encode(wares.state())))
    assert encode(again.state()) == encode(wares.state())
    again.forget([3, 50_000])
    assert again.of([3]).areas.tolist() == [0]
    assert again.of([2_000]).areas.tolist() == wares.of([2_000]).areas.tolist() != [0]


def test_kin_are_of_the_same_category_and_of_like_price_first() -> None:
    nan = float("nan")
    units = torch.eye(6)
    kin = Kin(units, described((7, 1), (7, 3), (7, 100), (8, 5), (0, 5), (8, nan)))
    found, known = kin.vectors(described((7, 1), (7, nan), (8, 5), (9, 5), (0, 5)))
    assert known.tolist() == [True, True, True, False, False]
    cheap, unpriced, other = found[:3]
    assert cheap[0] > cheap[1] > cheap[2] > 0 == cheap[3:].abs().sum()
    assert unpriced[:3].tolist() == pytest.approx([float(unpriced[0])] * 3)
    assert other[3] > other[5] > 0 == other[:3].abs().sum()  # of its price the one, of an unknown price the other
    assert 0.5 < float(unpriced.norm()) < 1
    assert not found[3:].any()
    everywhere, _ = Kin(units, described(*[(7, 3.0)] * 6)).vectors(described((7, 300.0)))
    assert everywhere.std() < 1e-6


def test_prices_count_by_what_is_usual_and_not_by_their_currency() -> None:
    units = torch.nn.functional.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    chance = np.random.default_rng(1)
    known = [(1 + n % 3, float(np.exp(chance.normal()))) for n in range(40)]
    asked = [(1 + n % 3, float(np.exp(chance.normal()))) for n in range(9)]
    euros, _ = Kin(units, described(*known)).vectors(described(*asked))
    yen, _ = Kin(units, described(*[(a, 163 * p) for a, p in known])).vectors(
        described(*[(a, 163 * p) for a, p in asked])
    )
    torch.testing.assert_close(euros, yen)


class Shelf:
    """Categories of items by their first letter; `z` has none."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, items: Sequence[str]) -> Described:
        self.asked.append(len(items))
        return described(*[(0 if item[0] == "z" else ord(item[0]), float("nan")) for item in items])


def sessions(count: int, seed: int) -> list[list[str]]:
    """Sessions that stay in one category."""
    chance = np.random.default_rng(seed)
    return [[f"{'ab'[n % 2]}{i}" for i in chance.integers(0, 8, 4)] for n in range(count)]


@pytest.fixture(scope="module")
def model() -> DeepModel:
    return train(None, sessions(400, 1), settings=small, seed=1, passes=6, learning_rate=5e-3).model


def test_a_guest_is_recommended_and_understood(model: DeepModel) -> None:
    model, data = DeepModel.from_bytes(model.to_bytes()), model.to_bytes()
    shelf = Shelf()
    before = model.predict([["a1", "a2"]], 16)[0]
    assert model.meet(["a-new", "b-new", "z-new", "q-new", "a1"], shelf) == 2
    assert model.meet(["a-new", "a-later"], shelf) == 1
    assert shelf.asked == [16, 4, 1]
    assert model.guests == ["a-new", "b-new", "a-later"]
    in_a, in_b = (model.predict([[f"{area}1", f"{area}2"]], 19)[0][0] for area in "ab")
    assert in_a.index("a-new") < 8 < in_a.index("b-new")
    assert in_b.index("b-new") < 8 < in_b.index("a-new")
    assert {item[0] for item in model.predict([["b-new"]], 5)[0][0]} == {"b"}
    assert model.score_all([["a1"]]).shape == (1, 19)
    assert [item for item in in_a if not item.endswith(("new", "later"))] == before[0]
    assert model.to_bytes() == data
    assert (len(model), model.trained("a1"), model.trained("a-new")) == (16, True, False)


def test_guests_that_come_one_by_one_lie_where_those_that_come_together_do(model: DeepModel) -> None:
    together, one_by_one = (DeepModel.from_bytes(model.to_bytes()) for _ in range(2))
    names = [f"{area}-{n}" for n in range(1_200) for area in "ab"]
    assert together.meet(names, Shelf()) == sum(
        one_by_one.meet(names[n : n + 100], Shelf()) for n in range(0, 2_400, 100)
    )
    np.testing.assert_allclose(together.score_all([["a1", "b-7"]]), one_by_one.score_all([["a1", "b-7"]]), rtol=1e-5)


def test_guests_leave_when_the_vocabulary_changes(model: DeepModel) -> None:
    model, data = DeepModel.from_bytes(model.to_bytes()), model.to_bytes()
    model.meet(["a-new"], Shelf())
    model.met = 3  # as whoever told it keeps count
    assert model.grow(["a-new"]) == 1
    assert (model.guests, model.met, model.items[-1], model.trained("a-new")) == ([], 0, "a-new", True)
    model.shrink(lambda item: item != "a-new")
    assert model.to_bytes() == data


def test_nothing_known_changes_nothing(model: DeepModel) -> None:
    other = DeepModel.from_bytes(model.to_bytes())
    nothing = Wares().of
    assert other.meet(["new"], lambda items: nothing([-1] * len(items))) == 0
    for one, two in zip(model.predict([["a1"], ["b1"]]), other.predict([["a1"], ["b1"]]), strict=True):
        assert one[0] == two[0]
        np.testing.assert_array_equal(one[1], two[1])


def test_guests_are_bounded(model: DeepModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learners.deep.guests_max", 3)
    other = DeepModel.from_bytes(model.to_bytes())
    assert [other.meet([f"a-{n}", f"b-{n}"], Shelf()) for n in range(3)] == [2, 1, 0]


def test_a_round_places_new_items_beside_their_kin(model: DeepModel) -> None:
    alone = [["a-new", "a-newer"], ["b-new", "b-newer"]]  # no known neighbour
    units = {}
    for name, describe in (("kin", Shelf()), ("ids", None)):
        placed = train(model, alone, seed=1, passes=1, learning_rate=1e-9, describe=describe).model
        unit = torch.nn.functional.normalize(placed.table, dim=1)
        own, others = (unit[placed.rows([f"{area}{n}" for n in range(8)])].mean(dim=0) for area in "ab")
        units[name] = float(unit[placed.rows(["a-new"])[0]] @ (own - others))
    assert units["kin"] > 0.5 > abs(units["ids"])


START_MS = 1_736_121_600_000


def view(number: int, shopper: str, item: str) -> Event:
    line, time_ms = Item(item, item_category=item[0], price=5.0), START_MS + 1_000 * number
    return Event(f"e{number}", "shop", "view_item", at(time_ms), Data([line]), "1.0", shopper, time_ms)


def test_the_judge_tells_the_model_of_new_items_after_it_has_answered(model: DeepModel, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    shop, judge = Shop(ShopSettings(items_max=64, shoppers_max=10)), ShopJudge(blobs, fixed=1.0)
    blob = blobs.put(MODEL, model.to_bytes())
    shop.champion = Announcement(id="x", kind="promoted", round=1, at_events=0, time_ms=0, blob=blob, version="r1")
    number = 0

    def turn(*views: tuple[str, str]) -> list[judgement.Judgement]:
        nonlocal number
        for shopper, item in views:
            event = view(number, shopper, item)
            judge.observe(shop, event, 0, number)
            shop.learn(event, 0, number)
            number += 1
        said = judge.judge(shop, 0)
        for record in said:
            shop.absorb(record)
        shop.emit()
        return [one for record in said for one in judgement.decode(record)]

    def deep(one: judgement.Judgement) -> set[str]:
        return {one.candidates[slot] for slot in one.lists()[DEEP].slots}

    turn(*[("ann", f"a{n}") for n in range(8)])
    said = turn(("ann", "a-new"), ("bob", "b1"), ("bob", "b2"))
    assert "a-new" not in deep(said[0]) | deep(said[1])
    (said_then,) = turn(("ann", "a1"))
    assert DEEP in said_then.scores
    (said_later,) = turn(("bob", "b-new"))
    assert "a-new" in deep(said_later)
    assert "b-new" not in deep(said_later)
    assert encode(Shop.from_state(decode(encode(shop.state()))).state()) == encode(shop.state())


def test_the_fine_tuner_tells_its_models_of_new_items(tmp_path: Path) -> None:
    settings = FinetuneSettings(round_events=300, width=16, first_passes=1, passes=1, threads=1)
    trainer, fold = Trainer(Blobs(tmp_path), settings, FinetuneMetrics()), MakeRounds(settings)(None)
    views = [(f"u{n}", item) for n, session in enumerate(sessions(100, 2)) for item in session]

    def learn(*views: tuple[str, str]) -> None:
        for shopper, item in views:
            fold.learn(view(fold.seen, shopper, item), 0, fold.seen)
        for said in trainer.judge(fold, 0):
            fold.absorb(said)
        fold.emit()

    with threads(1):
        learn(*views)
        assert fold.candidate is not None
        learn(("ann", "a-new"))
        learn(("bob", "b-new"))
    (model,) = trainer._models.values()
    assert model is not None
    assert model.guests == ["a-new", "b-new"]
