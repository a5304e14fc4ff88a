"""New items: attributes, neighbours by attributes, late items of a model, and when the live path adds them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.announcement import Announcement
from headrace.events import Data, Event, Item, at
from headrace.shard.blobs import Blobs
from headrace.state import decode, encode
from learners.deep.model import DeepModel, DeepSettings, threads
from learners.deep.neighbours import AttributeNeighbours
from learners.deep.train import train
from learners.next_item import judgement
from learners.next_item.attributes import Attributes, ItemAttributes
from learners.protocol import DEEP
from learners.rounds.judge import MODEL
from learners.rounds.settings import RoundsSettings
from tests.shards import RoundsFold, judge_all, next_item, next_item_judge, online, rounds_judge

small = DeepSettings(width=16, layers=1, heads=2, context=10, dropout=0.0)


def attributes(*known: tuple[int, float]) -> ItemAttributes:
    categories, prices = zip(*known, strict=True)
    return ItemAttributes(np.array(categories, np.uint32), np.array(prices, np.float32))


def test_attributes_keep_the_newest_values_and_forget() -> None:
    kept = Attributes()
    kept.learn(3, "shoes", 10)
    kept.learn(2_000, "hats", None)
    kept.learn(3, "", 12)
    kept.learn(5, "", 0)
    kept.learn(5, "", 1e-60)  # 0 as a float32, which has no logarithm
    categories, prices = kept.of([3, 2_000, 5, -1, 9_999])
    assert (categories > 0).tolist() == [True, True, False, False, False]
    assert prices[0] == 12
    assert np.isnan(prices[1:]).all()
    again = Attributes.from_state(decode(encode(kept.state())))
    assert encode(again.state()) == encode(kept.state())
    again.forget([3, 50_000])
    assert again.of([3]).categories.tolist() == [0]
    assert again.of([2_000]).categories.tolist() == kept.of([2_000]).categories.tolist() != [0]


def test_neighbours_share_the_category_and_like_prices_count_more() -> None:
    nan = float("nan")
    units = np.eye(6, dtype=np.float32)
    neighbours = AttributeNeighbours(units, attributes((7, 1), (7, 3), (7, 100), (8, 5), (0, 5), (8, nan)))
    found, known = neighbours.vectors(attributes((7, 1), (7, nan), (8, 5), (9, 5), (0, 5)))
    assert known.tolist() == [True, True, True, False, False]
    cheap, unpriced, other = found[:3]
    assert cheap[0] > cheap[1] > cheap[2] > 0 == np.abs(cheap[3:]).sum()
    assert unpriced[:3].tolist() == pytest.approx([float(unpriced[0])] * 3)
    assert other[3] > other[5] > 0 == np.abs(other[:3]).sum()  # one has its price, the price of the other is unknown
    assert 0.5 < np.linalg.norm(unpriced) < 1
    assert not found[3:].any()
    everywhere, _ = AttributeNeighbours(units, attributes(*[(7, 3.0)] * 6)).vectors(attributes((7, 300.0)))
    assert everywhere.std() < 1e-6


def test_prices_are_relative_to_the_usual_price_and_independent_of_currency() -> None:
    rng = np.random.default_rng(1)
    units = rng.standard_normal((40, 8), np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    known = [(1 + n % 3, float(np.exp(rng.normal()))) for n in range(40)]
    asked = [(1 + n % 3, float(np.exp(rng.normal()))) for n in range(9)]
    euros, _ = AttributeNeighbours(units, attributes(*known)).vectors(attributes(*asked))
    yen, _ = AttributeNeighbours(units, attributes(*[(category, 163 * price) for category, price in known])).vectors(
        attributes(*[(category, 163 * price) for category, price in asked])
    )
    np.testing.assert_allclose(euros, yen, rtol=1e-5, atol=1e-6)


class Lookup:
    """Looks up attributes: the category of an item is its first letter; `z` has none."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, items: Sequence[str]) -> ItemAttributes:
        self.asked.append(len(items))
        return attributes(*[(0 if item[0] == "z" else ord(item[0]), float("nan")) for item in items])


def sessions(count: int, seed: int) -> list[list[str]]:
    """Return sessions that stay in one category."""
    rng = np.random.default_rng(seed)
    return [[f"{'ab'[n % 2]}{i}" for i in rng.integers(0, 8, 4)] for n in range(count)]


@pytest.fixture(scope="module")
def model() -> DeepModel:
    return train(None, sessions(400, 1), settings=small, seed=1, passes=6, learning_rate=5e-3).model


def test_a_late_item_is_recommended_and_used_as_input(model: DeepModel) -> None:
    model, data = DeepModel.from_bytes(model.to_bytes()), model.to_bytes()
    lookup = Lookup()
    before = model.predict([["a1", "a2"]], 16)[0]
    assert model.add_late_items(["a-new", "b-new", "z-new", "q-new", "a1"], lookup) == 2
    assert model.add_late_items(["a-new", "a-later"], lookup) == 1
    assert lookup.asked == [16, 4, 2]
    assert model.late_items == ["a-new", "b-new", "a-later"]
    in_a, in_b = (model.predict([[f"{first}1", f"{first}2"]], 19)[0][0] for first in "ab")
    assert in_a.index("a-new") < 8 < in_a.index("b-new")
    assert in_b.index("b-new") < 8 < in_b.index("a-new")
    assert {item[0] for item in model.predict([["b-new"]], 5)[0][0]} == {"b"}
    assert model.score_all([["a1"]]).shape == (1, 19)
    assert [item for item in in_a if not item.endswith(("new", "later"))] == before[0]
    assert model.to_bytes() == data
    assert (len(model), model.trained("a1"), model.trained("a-new")) == (16, True, False)


def test_late_items_have_the_same_vectors_whether_added_together_or_in_parts(model: DeepModel) -> None:
    together, in_parts = (DeepModel.from_bytes(model.to_bytes()) for _ in range(2))
    names = [f"{first}-{n}" for n in range(1_200) for first in "ab"]
    assert together.add_late_items(names, Lookup()) == sum(
        in_parts.add_late_items(names[n : n + 100], Lookup()) for n in range(0, 2_400, 100)
    )
    np.testing.assert_allclose(together.score_all([["a1", "b-7"]]), in_parts.score_all([["a1", "b-7"]]), rtol=1e-5)


def test_a_late_item_moves_when_its_category_has_changed(model: DeepModel) -> None:
    moving, fixed = (DeepModel.from_bytes(model.to_bytes()) for _ in range(2))
    assert moving.add_late_items(["b-1", "a-new", "b-2"], Lookup()) == 3

    def moved(items: Sequence[str]) -> ItemAttributes:
        return attributes(*[(ord("b" if item == "a-new" else item[0]), float("nan")) for item in items])

    assert moving.add_late_items(["a-new", "a1"], moved) == 0
    assert fixed.add_late_items(["b-1", "a-new", "b-2"], moved) == 3
    assert moving.late_items == fixed.late_items
    assert np.array_equal(moving.score_all([["a-new"], ["b1"]]), fixed.score_all([["a-new"], ["b1"]]))


def test_late_items_are_dropped_when_the_vocabulary_changes(model: DeepModel) -> None:
    model, data = DeepModel.from_bytes(model.to_bytes()), model.to_bytes()
    model.add_late_items(["a-new"], Lookup())
    model.admissions_seen = 3  # as the caller counts
    assert model.grow(["a-new"]) == 1
    assert (model.late_items, model.admissions_seen, model.items[-1], model.trained("a-new")) == ([], 0, "a-new", True)
    model.shrink(lambda item: item != "a-new")
    assert model.to_bytes() == data


def test_without_attributes_no_item_is_added(model: DeepModel) -> None:
    other = DeepModel.from_bytes(model.to_bytes())
    nothing = Attributes().of
    assert other.add_late_items(["new"], lambda items: nothing([-1] * len(items))) == 0
    for one, two in zip(model.predict([["a1"], ["b1"]]), other.predict([["a1"], ["b1"]]), strict=True):
        assert one[0] == two[0]
        np.testing.assert_array_equal(one[1], two[1])


def test_late_items_are_bounded(model: DeepModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learners.deep.vocabulary.late_items_max", 3)
    other = DeepModel.from_bytes(model.to_bytes())
    assert [other.add_late_items([f"a-{n}", f"b-{n}"], Lookup()) for n in range(3)] == [2, 1, 0]


def test_a_round_initialises_new_items_near_their_neighbours(model: DeepModel) -> None:
    alone = [["a-new", "a-newer"], ["b-new", "b-newer"]]  # no known item in the session
    units = {}
    for name, lookup in (("attributes", Lookup()), ("ids", None)):
        placed = train(model, alone, seed=1, passes=1, learning_rate=1e-9, attributes_of=lookup).model
        unit = torch.nn.functional.normalize(placed.table, dim=1)
        own, others = (unit[placed.rows([f"{first}{n}" for n in range(8)])].mean(dim=0) for first in "ab")
        units[name] = float(unit[placed.rows(["a-new"])[0]] @ (own - others))
    assert units["attributes"] > 0.5 > abs(units["ids"])


START_MS = 1_736_121_600_000


def view(number: int, shopper: str, item: str) -> Event:
    line, time_ms = Item(item, item_category=item[0], price=5.0), START_MS + 1_000 * number
    return Event(f"e{number}", "shop", "view_item", at(time_ms), Data([line]), "1.0", shopper, time_ms)


def test_the_judge_adds_late_items_after_the_model_has_answered(model: DeepModel, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    make = online(items_max=64, shoppers_max=10)
    shop, judge = make(None), next_item_judge(blobs, fixed=1.0)
    family = next_item(shop)
    blob = blobs.put(MODEL, model.to_bytes())
    family.champion = Announcement(id="x", kind="promoted", round=1, at_events=0, time_ms=0, blob=blob, version="r1")
    number = 0

    def turn(*views: tuple[str, str]) -> list[judgement.Judgement]:
        nonlocal number
        for shopper, item in views:
            event = view(number, shopper, item)
            judge.observe(family, event, 0, number)
            shop.learn(event, 0, number)
            number += 1
        records = judge.judge(family, 0)
        for record in records:
            shop.absorb(family.name, record)
        shop.emit()
        return [one for record in records for one in judgement.decode(record)]

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
    assert encode(make(decode(encode(shop.state())), shop.stamp).state()) == encode(shop.state())


def test_the_fine_tuner_tells_its_models_of_new_items(tmp_path: Path) -> None:
    settings = RoundsSettings(round_events=300, width=16, first_passes=1, passes=1, threads=1)
    trainer, fold = rounds_judge(Blobs(tmp_path), settings), RoundsFold(settings)
    views = [(f"u{n}", item) for n, session in enumerate(sessions(100, 2)) for item in session]

    def learn(*views: tuple[str, str]) -> None:
        for shopper, item in views:
            fold.learn(view(fold.seen, shopper, item), 0, fold.seen)
        judge_all(trainer, fold.family, fold.absorb)
        fold.emit()

    with threads(1):
        learn(*views)
        assert fold.candidate is not None
        learn(("ann", "a-new"))
        learn(("bob", "b-new"))
    (model,) = trainer._models.loaded()
    assert model.late_items == ["a-new", "b-new"]
