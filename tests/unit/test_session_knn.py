"""Session-kNN: against a slow implementation of its definition, and its bounds."""

import math

import numpy as np
import pytest

from learners.next_item.session_knn import SessionKnn
from learners.protocol import Context


def ask(*items: int, session: int = 10_000) -> Context:
    return Context(items, 0, session, 0)


def fill(learner: SessionKnn, sessions: dict[int, list[int]]) -> None:
    for number, items in sessions.items():
        for place, item in enumerate(items):
            learner.learn(Context(items[:place], 0, number, 0), item)


def answer(learner: SessionKnn, context: Context) -> dict[int, float]:
    slots, scores = learner.predict(context)
    return dict(zip(slots.tolist(), scores.tolist(), strict=True))


def reference(sessions: dict[int, list[int]], prefix: list[int], k: int, newest: int, places: bool) -> dict[int, float]:
    weights = {item: 0.8 ** (len(prefix) - place) for place, item in enumerate(prefix, 1)}
    similar = []
    for number, items in sorted(sessions.items()):
        shared = [item for item in dict.fromkeys(items) if item in weights]
        if shared:
            similarity = sum(weights[item] for item in shared) / math.sqrt(len(set(items)))
            similar.append((similarity, number, max(shared, key=weights.__getitem__)))
    similar = sorted(sorted(similar[-newest:], key=lambda found: found[1]), key=lambda found: found[0])[-k:]
    scores: dict[int, float] = {}
    for similarity, number, best in similar:
        items = list(dict.fromkeys(sessions[number]))
        for place, item in enumerate(items):
            away = place - items.index(best)
            fading = 0.8 ** abs(away) * (0.7 if away < 0 else 1.0) if places else 1.0
            scores[item] = scores.get(item, 0.0) + similarity * weights[best] * fading
    return scores


@pytest.mark.parametrize("places", [True, False])
def test_agrees_with_its_definition(places: bool) -> None:
    rng = np.random.default_rng(3)
    sessions = {n: rng.integers(0, 40, rng.integers(1, 7)).tolist() for n in range(400)}
    learner = SessionKnn(k=7, candidates_max=20, places=places)
    fill(learner, sessions)
    for _ in range(100):
        prefix = rng.integers(0, 40, rng.integers(1, 5)).tolist()
        expected = reference(sessions, prefix, 7, 20, places)
        found = answer(learner, ask(*prefix))
        assert found.keys() == expected.keys()
        assert found == pytest.approx(expected, rel=2e-3)


def test_of_equal_sessions_the_newer_one_counts_more() -> None:
    learner = SessionKnn()
    fill(learner, {1: [5, 6], 2: [5, 7]})
    found = answer(learner, ask(5))
    assert found[6] < found[7] < 1.01 * found[6]


def test_a_session_is_not_its_own_neighbour() -> None:
    learner = SessionKnn()
    fill(learner, {1: [5, 6], 2: [5, 7]})
    assert answer(learner, ask(5, 7, session=2)).keys() == {5, 6}


def test_newer_sessions_overwrite_the_oldest_in_the_ring() -> None:
    learner = SessionKnn(sessions_max=4)
    fill(learner, {n: [5, 10 + n] for n in range(6)})
    assert answer(learner, ask(5)).keys() == {5, 12, 13, 14, 15}
    learner.learn(Context([5, 11], 0, 1, 0), 30)  # session 1 was overwritten and stays forgotten
    assert 30 not in answer(learner, ask(5))


def test_the_index_is_swept_once_per_turn_of_the_ring() -> None:
    learner = SessionKnn(sessions_max=4, session_items_max=3)
    fill(learner, {n: [n, n + 1, n + 2] for n in range(1_000)})
    used, most = learner.bounds()["postings"]
    assert used <= most == 24
    assert learner.bounds()["items"][0] <= 24


def test_postings_are_counted_correctly() -> None:
    learner = SessionKnn(sessions_max=16, session_items_max=3, candidates_max=2)
    for n in range(100):
        fill(learner, {n: [5, n % 7, 10 + n]})
        assert learner.bounds()["postings"][0] == sum(map(len, learner._index.values()))
    learner.forget([5, 6])
    assert learner.bounds()["postings"][0] == sum(map(len, learner._index.values()))


def test_a_forgotten_slot_is_never_recommended_and_can_be_reused() -> None:
    learner = SessionKnn(candidates_max=3)
    fill(learner, {n: [5, 6] for n in range(20)})
    learner.forget([6])
    assert answer(learner, ask(5)).keys() == {5}
    assert not answer(learner, ask(6))
    fill(learner, {30: [6, 8]})
    assert answer(learner, ask(6)).keys() == {6, 8}


def test_a_robots_session_is_truncated() -> None:
    learner = SessionKnn(session_items_max=3)
    fill(learner, {1: list(range(100))})
    assert answer(learner, ask(0)).keys() == {0, 1, 2}
    assert not answer(learner, ask(50))
