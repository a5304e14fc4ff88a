"""The benchmark of cold starts: which steps are tested, and what a log gives whose right answers are known."""

import numpy as np

from benchmarks.cold_start import Asked, Learners, Part, as_asked, asked, run_part
from benchmarks.prequential import LoggedStep
from learners.protocol import Context, Scores


def visits(count: int, items: list[list[int]]) -> list[LoggedStep]:
    """Return the steps of visits of `items`, in turn; each visit is of a new shopper."""
    return [
        LoggedStep(Context(visit[:place], 0, number, 1_000 * number + place), item)
        for number, visit in ((number, items[number % len(items)]) for number in range(count))
        for place, item in enumerate(visit)
    ]


def test_steps_are_tested_by_the_events_known_of_their_shopper_and_of_a_new_item() -> None:
    steps = [*visits(2, [[1, 2, 3]]), *visits(2, [[1, 9, 2, 4, 9]])]
    assert asked(steps, Part(0, 6, len(steps))) == {
        6: Asked(0, None), 7: Asked(1, 0), 9: Asked(3, 0), 10: Asked(4, 1),
        11: Asked(0, None), 12: Asked(1, 2), 14: Asked(3, 1), 15: Asked(4, 3),
    }  # fmt: skip


def test_between_sessions_all_remembered_items_are_asked_with() -> None:
    assert as_asked(Context([1, 2], 2, 0, 0)).start == 0
    assert as_asked(Context([1, 2], 1, 0, 0)).start == 1


def test_a_random_order_has_the_expected_score() -> None:
    learners = Learners(once=True)
    for step in visits(1, [list(range(40))]):
        learners.learn(step)
    basket = LoggedStep(Context([1, 2], 0, 9, 0), 7)
    recall, mrr = learners.expected(basket)
    assert recall == 20 / 38
    assert np.isclose(mrr, sum(1 / place for place in range(1, 21)) / 38)
    assert learners.expected(basket._replace(item=99)) == (0.0, 0.0)


def test_the_session_is_left_out_of_answers_about_baskets() -> None:
    learners = Learners(once=True)
    for step in visits(20, [[5, 6, 7]]):
        learners.learn(step)
    step = LoggedStep(Context([5, 6], 0, 99, 30_000), 7)
    deep = Scores(np.array([5, 7], np.int32), np.array([0.7, 0.3], np.float32))
    ranks = learners.ranks(step, deep)
    assert {ranks[name] for name in ("blend", "fast", "deep", "popularity", "transitions")} == {1}


def test_a_log_whose_right_answers_are_known() -> None:
    many = [[item, item + 1, item + 2, item + 3] for item in range(1, 200, 4)]
    steps = visits(600, many)
    end = len(steps)
    found = run_part(steps, Part(end // 2, 3 * end // 4, end), once=False, judged=300, most=100, seed=0)
    assert found["shopper"]["1"]["transitions"]["recall@20"] == 1.0
    assert found["shopper"]["1"]["blend"]["recall@20"] == 1.0
    assert found["shopper"]["0"]["predictions"] == 100
    assert found["shopper"]["0"]["deep"]["recall@20"] == 0.0, "it is not asked without an item"
    assert 0.05 < found["shopper"]["0"]["random"]["recall@20"] < 0.15
    assert found["shopper"]["10"] == {"predictions": 0}
    assert found["new item"]["0"] == {"predictions": 0}
