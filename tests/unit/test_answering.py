"""The model that answers without torch: equal to the model in torch, with the same rules for items and bytes."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from headrace.errors import StateUnreadable
from learners.deep import visits as visits_module
from learners.deep.answering import AnsweringModel, _gelu
from learners.deep.artifact import metadata, weight_shapes
from learners.deep.model import DeepModel, DeepSettings, load_to_judge
from learners.deep.train import train
from learners.deep.visits import Visits
from learners.next_item.attributes import ItemAttributes
from learners.protocol import Listed

SMALL: Final = DeepSettings(width=16, layers=2, heads=2, context=6)
Reader = Callable[[bytes], Any]
READERS: Final[tuple[Reader, ...]] = (DeepModel.from_bytes, load_to_judge, AnsweringModel.from_bytes)


def drawn(settings: DeepSettings, items: int, seed: int) -> DeepModel:
    """Return a model with random weights; those of a new network are too regular, with biases of zero."""
    model = DeepModel(settings, seed)
    model.grow(f"i{n}" for n in range(items))
    generator = torch.Generator().manual_seed(seed)
    for weight in model.network.state_dict().values():
        weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return model


def assert_equal(found: Sequence[Listed], wanted: Sequence[Listed], within: float = 1e-5) -> None:
    """Compare complete answers: their probabilities, and the order as far as they differ by more."""
    for (items, scores), (wanted_items, wanted_scores) in zip(found, wanted, strict=True):
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, wanted_scores, atol=within, rtol=0)
        wanted_score = dict(zip(wanted_items, wanted_scores, strict=True))
        assert wanted_score.keys() == set(items)
        assert len(items) == len(wanted_items)
        np.testing.assert_allclose(scores, [wanted_score[item] for item in items], atol=within, rtol=0)


SETTINGS: Final = st.builds(
    lambda width, heads, **sizes: DeepSettings(width=width * heads, heads=heads, **sizes),
    width=st.integers(1, 20), heads=st.integers(1, 4), layers=st.integers(1, 3), context=st.integers(1, 12),
    temperature=st.floats(0.03, 2),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(SETTINGS, st.integers(1, 60), st.integers(0, 1_000), st.data())
def test_answers_are_those_of_torch(chosen: DeepSettings, items: int, seed: int, data: st.DataObject) -> None:
    model = drawn(chosen, items, seed)
    answering = AnsweringModel.from_bytes(model.to_bytes())
    known = st.integers(0, items + 5).map(lambda row: f"i{row}")  # some are unknown
    prefixes = data.draw(st.lists(st.lists(known, max_size=20), max_size=5))
    expected = model.predict(prefixes, items)
    assert_equal(answering.predict(prefixes, items), expected)
    together = AnsweringModel.from_bytes(model.to_bytes())
    together.prepare(prefixes[:3])
    together.prepare([*prefixes, *(prefix[:-1] for prefix in prefixes)])  # some are known, some are the same
    assert_equal(together.predict(prefixes, items), expected)


@settings(max_examples=40, deadline=None)
@given(SETTINGS, st.integers(0, 1_000), st.data())
def test_a_visit_that_grows_has_the_answers_of_one_that_is_computed_at_once(
    chosen: DeepSettings, seed: int, data: st.DataObject
) -> None:
    contents = drawn(chosen, 9, seed).to_bytes()
    growing, whole = AnsweringModel.from_bytes(contents), AnsweringModel.from_bytes(contents)
    visits = [list[str]()]
    for _ in range(data.draw(st.integers(1, 12))):  # one item or several more; or two visits part
        begun = data.draw(st.sampled_from(visits))
        visit = [*begun, *(f"i{row}" for row in data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=5)))]
        visits.append(visit)
        whole._visits.drop_from(0)
        # Each is within 1e-5 of the exact one.
        assert_equal(growing.predict([visit], 9), whole.predict([visit], 9), within=2e-5)
        if data.draw(st.booleans()):
            growing._sessions.clear()


def test_only_new_items_of_a_visit_are_computed(trained: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = list[int]()

    def mapped(self: AnsweringModel, block: Any, x: Any, visits: Any, place: slice) -> Any:
        computed.append(len(x))
        return before(self, block, x, visits, place)

    before = AnsweringModel._mapped
    monkeypatch.setattr(AnsweringModel, "_mapped", mapped)
    model, visit = AnsweringModel.from_bytes(trained), [f"a{row}" for row in (1, 2, 3, 4, 5, 6, 7, 1)]
    for length in (1, 2, 5, 6, 7, 8):  # the context has six items; each is computed by two models
        [grown] = model.predict([visit[:length]])
        [whole] = AnsweringModel.from_bytes(trained).predict([visit[:length]])
        np.testing.assert_allclose(grown[1], whole[1], atol=1e-6, rtol=0)
    assert computed[:: 2 * SMALL.layers] == [1, 1, 3, 1, 6, 6]


def test_computed_visits_are_dropped_when_they_take_too_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visits_module, "bytes_max", 100)
    visits = Visits(2, 9)
    for rows in ((1,), (2,), (1, 3), (4,), (5,), (6, 7, 8)):
        known, buffer = visits.begun(rows)
        assert known == (1 if rows == (1, 3) else 0)
        visits.keep(rows, buffer)
        assert visits._bytes == sum(one.nbytes for one in visits._computed.values()) <= 100
    assert list(visits._computed) == [(1, 3), (4,), (5,), (6, 7, 8)]
    visits.drop_from(6)
    assert list(visits._computed) == [(1, 3), (4,), (5,)]


def sessions(count: int, seed: int) -> list[list[str]]:
    """Return sessions that stay in one category."""
    rng = np.random.default_rng(seed)
    return [[f"{'ab'[n % 2]}{i}" for i in rng.integers(0, 8, 4)] for n in range(count)]


@pytest.fixture(scope="module")
def trained() -> bytes:
    """A model whose predicting weights are a mean of two rounds', with training offsets."""
    parent = train(None, sessions(200, 1), settings=SMALL, seed=1, passes=4, learning_rate=5e-3).model
    model = train(parent, sessions(200, 2), seed=2, passes=2).model
    model.average_with(parent.weights(), 0.5)
    return model.to_bytes()


def test_answers_of_a_trained_model_are_those_of_torch(trained: bytes) -> None:
    model, answering = DeepModel.from_bytes(trained), AnsweringModel.from_bytes(trained)
    prefixes = sessions(50, 3)
    for n in (1, 5, 16, 100):
        found, wanted = answering.predict(prefixes, n), model.predict(prefixes, n)
        assert [items for items, _ in found] == [items for items, _ in wanted]
        for (_, scores), (_, wanted_scores) in zip(found, wanted, strict=True):
            np.testing.assert_allclose(scores, wanted_scores, atol=1e-5, rtol=0)


def test_of_equally_probable_items_those_with_the_lowest_rows_are_the_answer() -> None:
    model = drawn(SMALL, 40, 1)
    model.table[10:30] = model.table[3]
    model.invalidate()
    [(items, scores)] = AnsweringModel.from_bytes(model.to_bytes()).predict([["i3"]], 40)
    alike = [item for item, score in zip(items, scores, strict=True) if score == scores[items.index("i3")]]
    assert alike == ["i3", *(f"i{n}" for n in range(10, 30))]
    first = items.index("i3")
    [(fewer, _)] = AnsweringModel.from_bytes(model.to_bytes()).predict([["i3"]], first + 4)
    assert fewer == items[: first + 4]


def attributes_of(items: Sequence[str]) -> ItemAttributes:
    """Look up attributes: an item's category is its first letter, its price follows from its name; `z` has none."""
    categories = [0 if item[0] == "z" else ord(item[0]) for item in items]
    prices = [1.0 + sum(map(ord, item)) % 7 if len(item) < 4 else math.nan for item in items]
    return ItemAttributes(np.array(categories, np.uint32), np.array(prices, np.float32))


def test_late_items_are_those_of_torch(trained: bytes) -> None:
    model, answering = DeepModel.from_bytes(trained), AnsweringModel.from_bytes(trained)
    late = [f"{'abqz'[n % 4]}-{n}" for n in range(5_000)]
    prefixes = [["a1", "a-0"], ["b-1"], ["b1", "a-4", "z-3"]]
    for items in (late[:3], [*late[1:40], "a1"], [], late):
        added = model.add_late_items(items, attributes_of)
        assert answering.add_late_items(items, attributes_of) == added
        assert answering.late_items == model.late_items
        size = 16 + len(model.late_items)
        assert_equal(answering.predict(prefixes, size), model.predict(prefixes, size))
    assert len(answering.late_items) == 2_500
    assert (len(answering), answering.trained("a1"), answering.trained("a-0")) == (16, True, False)
    assert answering.rows(["a1", "nothing", "a-0"]) == model.rows(["a1", "nothing", "a-0"])


def test_answers_that_are_remembered_know_items_that_came_later(trained: bytes) -> None:
    asked, fresh = AnsweringModel.from_bytes(trained), AnsweringModel.from_bytes(trained)
    prefix, late = ["a1", "b1"], ["a-new", "b-new"]
    before = asked.predict([prefix], 20), asked.among(prefix, ["a1"])
    for model in (asked, fresh):
        assert model.add_late_items(late, attributes_of) == 2
    after = asked.predict([prefix], 20), asked.among(prefix, ["a1"])
    assert set(after[0][0][0]) == {*before[0][0][0], *late}
    assert_equal(after[0], fresh.predict([prefix], 20))
    assert_equal([after[1]], [fresh.among(prefix, ["a1"])])
    assert after[1][1] < before[1][1], "a share of all"


def test_a_late_item_moves_when_its_category_has_changed(trained: bytes) -> None:
    def moved(items: Sequence[str]) -> ItemAttributes:
        return attributes_of(["b" + item[1:] if item == "a-new" else item for item in items])

    moving, fixed = AnsweringModel.from_bytes(trained), AnsweringModel.from_bytes(trained)
    moving.add_late_items(["a-new", "b-2"], attributes_of)
    before, _ = moving.predict([["a-new"]], 18), moving.predict([["b1", "a-new"]], 18)
    assert moving.add_late_items(["a-new"], moved) == 0
    fixed.add_late_items(["a-new", "b-2"], moved)
    assert_equal(moving.predict([["a-new"]], 18), fixed.predict([["a-new"]], 18))
    assert moving.predict([["a-new"]], 18)[0][0] != before[0][0]
    grown = ["b1", "a-new", "a1"]
    assert_equal(moving.predict([grown], 18), fixed.predict([grown], 18))


def test_answers_do_not_depend_on_other_threads(trained: bytes) -> None:
    model = AnsweringModel.from_bytes(trained)
    model.add_late_items(["a-new"], attributes_of)
    prefixes = sessions(200, 4)
    alone = [model.predict([prefix], 17)[0] for prefix in prefixes]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda prefix: model.predict([prefix], 17)[0], prefixes))
    for one, other in zip(alone, together, strict=True):
        assert one[0] == other[0]
        np.testing.assert_array_equal(one[1], other[1])


def test_the_activation_is_x_times_the_normal_distribution_function() -> None:
    x = np.linspace(-12, 12, 20_001, dtype=np.float32)
    wanted = [value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in x.tolist()]
    np.testing.assert_allclose(_gelu(x), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("chosen", [SMALL, DeepSettings(width=9, layers=1, heads=3, context=4)])
def test_the_shapes_of_weights_are_those_of_the_network(chosen: DeepSettings) -> None:
    model = DeepModel(chosen, 1)
    model.grow(["a", "b"])
    assert weight_shapes(chosen, 2) == {name: tuple(weight.shape) for name, weight in model.weights().items()}


Tensors = dict[str, torch.Tensor]
DAMAGES: Final[dict[str, tuple[Callable[[Tensors], Any], str]]] = {
    "doubles": (lambda t: t.update(items=t["items"].double()), "do not fit"),
    "half of a weight": (lambda t: t.update({"network.norm.weight": t["network.norm.weight"].half()}), "do not fit"),
    "another shape": (lambda t: t.update({"network.norm.weight": torch.zeros(1, 16)}), "do not fit"),
    "a weight is missing": (lambda t: t.pop("network.pool.recency"), "do not fit"),
    "one weight too many": (lambda t: t.update({"network.more": torch.zeros(3)}), "do not fit"),
    "no items": (lambda t: t.pop("items"), "not a deep model"),
    "items are a number": (lambda t: t.update(items=torch.tensor(1.0)), "not a deep model"),
    "an offset is missing": (lambda t: t.pop("ahead.items"), "offsets do not fit"),
    "an offset in another type": (lambda t: t.update({"ahead.items": t["ahead.items"].float()}), "offsets do not fit"),
    "one offset too many": (lambda t: t.update({"ahead.more": torch.zeros(3).bfloat16()}), "offsets do not fit"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("read", READERS)
def test_whoever_reads_refuses_weights_that_do_not_fit(trained: bytes, read: Reader, damage: str) -> None:
    model, tensors = DeepModel.from_bytes(trained), load(trained)
    change, message = DAMAGES[damage]
    change(tensors)
    about = metadata(model.settings, model.seed, model.lineage, model.items)
    with pytest.raises(StateUnreadable, match=message):
        read(save(tensors, about))
    read(save(load(trained), about))
