"""Retrieval: exact among few items; among many nearly as good, with nearly the same probabilities."""

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from learners.deep.answering import AnsweringModel
from learners.deep.model import DeepModel, DeepSettings
from learners.deep.retrieval import Retrieval, indexed_from, listed_max, neighbours, sample_size
from learners.next_item.attributes import ItemAttributes

TEMPERATURE: Final = 0.07
WIDTH: Final = 32
Floats = NDArray[np.float32]


def units(count: int, seed: int) -> Floats:
    """Return unit vectors around centres, each of about 50 vectors, as items of one kind lie."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((100, WIDTH), np.float32)
    found: Floats = centres[rng.integers(0, 100, count)] + 0.5 * rng.standard_normal((count, WIDTH), np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


ITEMS: Final = units(5_000, 1)
SESSIONS: Final = units(200, 2)


@pytest.fixture(scope="module")
def indexed() -> Retrieval:
    return Retrieval(ITEMS, TEMPERATURE, index_from=1_000)


def probabilities(held: Floats, session: Floats) -> NDArray[np.float64]:
    powers = np.exp(held.astype(np.float64) @ session / TEMPERATURE)
    return np.asarray(powers / powers.sum())


def test_the_index_finds_nearly_all_of_the_most_probable_items(indexed: Retrieval) -> None:
    shares = []
    for session in SESSIONS:
        rows, _ = indexed.nearest(session, 50)
        shares.append(len(np.intersect1d(rows, np.argsort(-probabilities(ITEMS, session))[:50])) / 50)
    assert np.mean(shares) > 0.99


def test_probabilities_from_the_index_are_nearly_the_exact_ones(indexed: Retrieval) -> None:
    assert len(ITEMS) > sample_size + neighbours, "the sum is an estimate"
    errors = []
    for session in SESSIONS:
        rows, found = indexed.nearest(session, 20)
        assert (np.diff(found) <= 0).all()
        errors.append(found / probabilities(ITEMS, session)[rows] - 1)
    sums = np.array(errors)
    assert np.abs(sums - sums[:, :1]).max() < 1e-4, "all of an answer have the same error, that of their sum"
    assert 0 < np.abs(sums).max() < 0.02
    assert abs(sums[:, 0].mean()) < 3 * sums[:, 0].std() / np.sqrt(len(sums)) + 1e-3, "it has no direction"


@pytest.mark.parametrize("n", [1, 20, 5_000, 6_000])
def test_below_the_threshold_answers_are_exact(n: int) -> None:
    few = Retrieval(ITEMS, TEMPERATURE, index_from=len(ITEMS) + 1)
    for session in SESSIONS[:20]:
        wanted = probabilities(ITEMS, session)
        rows, found = few.nearest(session, n)
        np.testing.assert_array_equal(np.sort(rows), np.sort(np.argsort(-wanted, kind="stable")[:n]))
        np.testing.assert_allclose(found, wanted[rows], rtol=1e-4)


def test_a_long_answer_is_exact(indexed: Retrieval) -> None:
    rows, found = indexed.nearest(SESSIONS[0], listed_max + 1)
    assert len(rows) == listed_max + 1
    np.testing.assert_allclose(found, probabilities(ITEMS, SESSIONS[0])[rows], rtol=1e-4)


def test_late_items_are_found_at_once_and_where_they_moved_to() -> None:
    changing, held = Retrieval(ITEMS, TEMPERATURE, index_from=1_000), ITEMS
    first, second = SESSIONS[0], SESSIONS[1]
    for count in (1, 3, 2_000):  # more than the spare rows
        added = np.arange(len(held), len(held) + count)
        changing.place(added.tolist(), np.repeat(first[None], count, axis=0))
        held = np.concatenate([held, np.repeat(first[None], count, axis=0)])
        rows, found = changing.nearest(first, min(4, len(held) - len(ITEMS)))
        np.testing.assert_array_equal(rows, np.arange(len(ITEMS), len(held))[:4], "lower rows come first")
        np.testing.assert_allclose(found, probabilities(held, first)[rows], rtol=0.02)
    changing.place([len(ITEMS)], second[None])
    assert changing.nearest(second, 1)[0].tolist() == [len(ITEMS)]
    assert len(ITEMS) not in changing.nearest(first, listed_max)[0]


def test_the_index_is_the_same_for_the_same_vectors(indexed: Retrieval) -> None:
    again = Retrieval(ITEMS.copy(), TEMPERATURE, index_from=1_000)
    for session in SESSIONS:
        for one, other in zip(indexed.nearest(session, 50), again.nearest(session, 50), strict=True):
            np.testing.assert_array_equal(one, other)


def test_answers_do_not_depend_on_other_threads(indexed: Retrieval) -> None:
    alone = [indexed.nearest(session, 50) for session in SESSIONS]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda session: indexed.nearest(session, 50), np.concatenate([SESSIONS] * 5)))
    for number, (rows, found) in enumerate(together):
        np.testing.assert_array_equal(rows, alone[number % len(SESSIONS)][0])
        np.testing.assert_array_equal(found, alone[number % len(SESSIONS)][1])


def test_a_search_that_ends_far_from_the_session_is_made_good() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.standard_normal((10, WIDTH))
    alike = np.repeat(kinds, 500, axis=0) + 1e-3 * rng.standard_normal((5_000, WIDTH))
    held = (alike / np.linalg.norm(alike, axis=1, keepdims=True)).astype(np.float32)
    sessions = (kinds / np.linalg.norm(kinds, axis=1, keepdims=True)).astype(np.float32)
    many = Retrieval(held, TEMPERATURE, index_from=1_000)
    assert many._index is not None
    far = [number for number, one in enumerate(sessions) if (many._index.search(one) // 500 != number).any()]
    assert far, "the graph of so similar items has parts that are not linked"
    for number, session in enumerate(sessions):
        rows, found = many.nearest(session, 50)
        assert (rows // 500 == number).all()
        np.testing.assert_allclose(found, probabilities(held, session)[rows], rtol=0.02)


@pytest.mark.parametrize("count", [1, 30, 230])
def test_an_index_of_few_items(count: int) -> None:
    few = Retrieval(ITEMS[:count], TEMPERATURE, index_from=1)
    rows, found = few.nearest(SESSIONS[0], 50)
    assert len(rows) == len(found) == min(50, count)
    np.testing.assert_allclose(found, probabilities(ITEMS[:count], SESSIONS[0])[rows], rtol=1e-4)


def attributes_of(items: Sequence[str]) -> ItemAttributes:
    return ItemAttributes(np.ones(len(items), np.uint32), np.full(len(items), 5.0, np.float32))


def test_a_model_with_an_index_answers_as_one_without() -> None:
    model = DeepModel(DeepSettings(width=WIDTH), 1)
    model.grow(f"i{number}" for number in range(3_000))
    exact = AnsweringModel.from_bytes(model.to_bytes())
    approximate = AnsweringModel.from_bytes(model.to_bytes(), index_from=1_000)
    late = [f"late-{number}" for number in range(5)]
    assert exact.add_late_items(late, attributes_of) == approximate.add_late_items(late, attributes_of) == 5
    for prefix in (["i1"], ["i7", "late-2"], ["unknown", "i2999", "i3"]):
        [(wanted, wanted_scores)] = exact.predict([prefix], 20)
        [(found, scores)] = approximate.predict([prefix], 20)
        assert len(set(found) & set(wanted)) >= 19
        np.testing.assert_allclose(scores[0], wanted_scores[0], rtol=0.02)
    assert approximate.predict([["unknown"], []], 20)[0][0] == []


def test_an_empty_model_has_empty_answers() -> None:
    empty = AnsweringModel.from_bytes(DeepModel(DeepSettings(width=WIDTH), 1).to_bytes())
    assert [items for items, _ in empty.predict([["a"], []], 20)] == [[], []]


PROGRAM: Final = """
import sys
import numpy as np
from learners.deep.answering import AnsweringModel
from learners.deep.retrieval import Retrieval
units = np.eye(40, 8, dtype=np.float32)
Retrieval(units, 0.07).nearest(units[0], 5)
print("usearch" in sys.modules)
Retrieval(units, 0.07, index_from=40).nearest(units[0], 5)
print("usearch" in sys.modules)
"""


def test_the_library_of_the_index_is_imported_only_for_an_index() -> None:
    assert indexed_from > 40
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "True"]
