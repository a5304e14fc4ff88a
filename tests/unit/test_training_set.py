"""The training set: what a round trains on, and what happens to it after the round."""

import pytest

from learners.protocol import Question
from learners.rounds.training_set import TrainingSet


@pytest.fixture
def training_set() -> TrainingSet:
    return TrainingSet(
        seed=1, holdout_share=0.1, shoppers_max=2, window_max=2, rehearsal_max=9, slices_max=2, slice_steps_max=3
    )


def rehearsed(training_set: TrainingSet) -> set[tuple[str, ...]]:
    return set(training_set.rehearsal.draw(99, 0))


def test_sessions_go_from_open_to_window_to_rehearsal(training_set: TrainingSet) -> None:
    training_set.add_steps("ann", 1, ["a", "b"], 0)
    training_set.add_steps("ann", 1, ["c"], 1)
    assert training_set.window() == [["a", "b", "c"]], "open sessions are included"
    for session in (2, 3, 4):
        training_set.add_steps("ann", session, [f"d{session}", "e"], session)
    assert training_set.window() == [("d2", "e"), ("d3", "e"), ["d4", "e"]]
    assert rehearsed(training_set) == {("a", "b", "c")}, "it was evicted from the window"
    training_set.end_round()
    assert rehearsed(training_set) == {("a", "b", "c"), ("d2", "e"), ("d3", "e"), ("d4", "e")}
    assert training_set.window() == []


def test_an_open_session_restarts_with_its_last_item_after_a_round(training_set: TrainingSet) -> None:
    training_set.add_steps("ann", 1, ["a", "b"], 0)
    training_set.end_round()
    training_set.add_steps("ann", 1, ["c"], 2)
    assert training_set.window() == [["b", "c"]]


def test_the_session_idle_longest_is_closed_and_single_items_are_ignored(training_set: TrainingSet) -> None:
    for number, shopper in enumerate(("ann", "bob", "cat")):
        training_set.add_steps(shopper, number, ["a", shopper], number)
    assert training_set.window() == [("a", "ann"), ["a", "bob"], ["a", "cat"]]
    for number, shopper in enumerate(("dan", "eve", "fay"), 3):
        training_set.add_steps(shopper, number, [shopper], number)
    training_set.end_round()
    assert rehearsed(training_set) == {("a", "ann"), ("a", "bob"), ("a", "cat")}


def test_each_round_ends_a_slice_of_bounded_length(training_set: TrainingSet) -> None:
    asked = [Question(["a"], "a", f"{n}") for n in range(5)]
    for _ in range(3):
        training_set.add_holdout("ann", asked[:2])
        training_set.add_holdout("bob", asked[2:])
        training_set.end_round()
    assert [[question.item for question in slice_] for slice_ in training_set.slices] == [["0", "1", "2"]] * 2


def test_a_session_has_the_time_of_its_newest_item_however_it_is_closed(training_set: TrainingSet) -> None:
    training_set.add_steps("ann", 1, ["a", "b"], 50)
    training_set.add_steps("ann", 1, ["c"], 40)  # a late event
    training_set.add_steps("ann", 2, ["d", "e"], 900)
    training_set.add_steps("bob", 3, ["f", "g"], 800)
    training_set.add_steps("cat", 4, ["h"], 10)  # closes ann's session
    training_set.end_round()
    kept = {one.items: one.time_ms for _, _, one in training_set.rehearsal._heap}
    assert kept == {("a", "b", "c"): 50, ("d", "e"): 900, ("f", "g"): 800}
