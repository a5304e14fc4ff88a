"""Material: what a round is given, and what becomes of it afterwards."""

import pytest

from learners.browsing import Question
from learners.material import Material


@pytest.fixture
def material() -> Material:
    return Material(
        seed=1, holdout_share=0.1, shoppers_max=2, window_max=2, rehearsal_max=9, slices_max=2, slice_steps_max=3
    )


def remembered(material: Material) -> set[tuple[str, ...]]:
    return set(material.rehearsal.draw(99, 0))


def test_sessions_go_from_open_to_window_to_rehearsal(material: Material) -> None:
    material.follow("ann", 1, ["a", "b"], 0)
    material.follow("ann", 1, ["c"], 1)
    assert material.window() == [["a", "b", "c"]], "open ones are trained on, too"
    for session in (2, 3, 4):
        material.follow("ann", session, [f"d{session}", "e"], session)
    assert material.window() == [("d2", "e"), ("d3", "e"), ["d4", "e"]]
    assert remembered(material) == {("a", "b", "c")}, "the window had no room for it"
    material.turn()
    assert remembered(material) == {("a", "b", "c"), ("d2", "e"), ("d3", "e"), ("d4", "e")}
    assert material.window() == []


def test_a_session_that_goes_on_after_a_round_begins_with_its_last_item(material: Material) -> None:
    material.follow("ann", 1, ["a", "b"], 0)
    material.turn()
    material.follow("ann", 1, ["c"], 2)
    assert material.window() == [["b", "c"]]


def test_who_is_idle_longest_makes_room_and_single_items_teach_nothing(material: Material) -> None:
    for number, shopper in enumerate(("ann", "bob", "cat")):
        material.follow(shopper, number, ["a", shopper], number)
    assert material.window() == [("a", "ann"), ["a", "bob"], ["a", "cat"]]
    for number, shopper in enumerate(("dan", "eve", "fay"), 3):
        material.follow(shopper, number, [shopper], number)
    material.turn()
    assert remembered(material) == {("a", "ann"), ("a", "bob"), ("a", "cat")}


def test_each_round_ends_a_slice_of_bounded_length(material: Material) -> None:
    asked = [Question(["a"], "a", f"{n}") for n in range(5)]
    for _ in range(3):
        material.hold(asked[:2])
        material.hold(asked[2:])
        material.turn()
    assert [[question.item for question in slice_] for slice_ in material.slices] == [["0", "1", "2"]] * 2


def test_a_session_is_as_old_as_its_newest_item_whoever_closes_it(material: Material) -> None:
    material.follow("ann", 1, ["a", "b"], 50)
    material.follow("ann", 1, ["c"], 40)  # a late one
    material.follow("ann", 2, ["d", "e"], 900)
    material.follow("bob", 3, ["f", "g"], 800)
    material.follow("cat", 4, ["h"], 10)  # sends ann's away
    material.turn()
    kept = {one.items: one.time_ms for _, _, one in material.rehearsal._heap}
    assert kept == {("a", "b", "c"): 50, ("d", "e"): 900, ("f", "g"): 800}
