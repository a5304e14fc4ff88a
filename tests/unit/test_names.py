"""Similarity of names: by their words, weighted by IDF."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from learners.parts.names import Names, words_max, words_of


def named(*names: str) -> Names:
    found = Names()
    for slot, name in enumerate(names):
        found.learn(slot, name)
    return found


def test_rare_words_count_more_than_common_ones() -> None:
    names = named("red cup", "red retrospot", "blue retrospot", "red lamp", "red bag", "red box")
    red, retrospot = names.similarity([0, 2], [1]).ravel()
    assert 0 < red < retrospot < 1


def test_case_order_and_digits_do_not_matter() -> None:
    names = named("Set of 6 RED spoons", "spoons, red: set of 12", "lamp")
    np.testing.assert_allclose(names.similarity([0, 1, 2], [0]).ravel(), [1, 1, 0])


def test_items_without_a_name_or_slot_have_similarity_0() -> None:
    names = named("red cup", "", "007")
    assert names.similarity([0, 1, 2, -1, 70_000], [1, -1, 70_000]).tolist() == [[0.0] * 3] * 5


def test_a_new_name_replaces_the_old_one_and_an_empty_one_does_not() -> None:
    names, wanted = named("red cup", "blue plate", "lamp"), named("blue cup", "blue plate", "lamp")
    names.learn(0, "blue cup")
    names.learn(0, "")
    np.testing.assert_array_equal(names.similarity([0, 1, 2], [0, 1]), wanted.similarity([0, 1, 2], [0, 1]))


def test_forgotten_names_are_not_counted() -> None:
    names = named("red cup", "red plate", "blue lamp", "red box")
    names.forget([1, 3, 9])
    wanted = Names()
    wanted.learn(0, "red cup")
    wanted.learn(2, "blue lamp")
    np.testing.assert_array_equal(names.similarity([0, 1, 2, 3], [0]), wanted.similarity([0, 1, 2, 3], [0]))
    assert names.state() == wanted.state()


def test_only_the_first_words_of_a_long_name_are_used() -> None:
    assert len(words_of(" ".join(f"word{chr(97 + n)}" for n in range(20)))) == words_max


@given(st.lists(st.tuples(st.integers(0, 5), st.text("ab rö1_", max_size=12)), max_size=12))
def test_state_continues_exactly_and_similarity_is_a_cosine(learned: list[tuple[int, str]]) -> None:
    names = Names()
    for slot, name in learned:
        names.learn(slot, name)
    again = Names.from_state(names.state())
    found = names.similarity(range(6), range(6))
    np.testing.assert_array_equal(again.similarity(range(6), range(6)), found)
    np.testing.assert_allclose(found, found.T, atol=1e-12)
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-12
    again.learn(2, "ab ab ba")
    names.learn(2, "ab ab ba")
    np.testing.assert_array_equal(again.similarity(range(6), [2]), names.similarity(range(6), [2]))
