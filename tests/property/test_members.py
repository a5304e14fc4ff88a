"""Fast next-item learners against plain implementations of their definitions, on random histories.

The learners predict from arrays that they keep between calls; a prediction is asked for after each step, and slots are
forgotten and used again, so that what is kept and outdated would be seen.
"""

import math
from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.next_item.equal import EqualKeys
from learners.next_item.popularity import Popularity
from learners.next_item.session_knn import SessionKnn
from learners.next_item.transitions import Transitions
from learners.protocol import Context, Scores, top

SLOTS: Final = 6
SHOPPERS: Final = 3
DAY_MS: Final = 86_400_000

STEP = st.tuples(
    st.integers(0, SHOPPERS - 1), st.integers(0, SLOTS - 1), st.booleans(), st.sampled_from([0, 0, 1, 40, 6_000])
)
FORGET = st.lists(st.integers(0, SLOTS - 1), min_size=1, max_size=2, unique=True)
HISTORY = st.lists(st.one_of(*[STEP] * 9, FORGET), min_size=20, max_size=60)
History: TypeAlias = list[tuple[int, int, bool, int] | list[int]]


class Shoppers:
    """Contexts of a few shoppers, as simply as possible."""

    def __init__(self) -> None:
        self.items: dict[int, list[int]] = {shopper: [] for shopper in range(SHOPPERS)}
        self.starts = dict.fromkeys(range(SHOPPERS), 0)
        self.sessions: dict[int, int] = {}
        self.time_ms = 0

    def step(self, shopper: int, item: int, begins: bool, days: int) -> Context:
        """Add a step; return the context before it, as it is learned."""
        self.time_ms += days * DAY_MS
        if begins or shopper not in self.sessions:
            self.sessions[shopper] = max(self.sessions.values(), default=-1) + 1
            self.starts[shopper] = len(self.items[shopper])
        before = self.context(shopper)
        self.items[shopper] = [*self.items[shopper], item]
        return before

    def context(self, shopper: int) -> Context:
        return Context(self.items[shopper], self.starts[shopper], self.sessions.get(shopper, 1_000), self.time_ms)

    def forget(self, slots: Sequence[int]) -> None:
        for shopper, items in self.items.items():
            self.starts[shopper] -= sum(item in slots for item in items[: self.starts[shopper]])
            self.items[shopper] = [item for item in items if item not in slots]


def assert_same(found: Scores, wanted: dict[int, float]) -> None:
    """Scores within 1e-6; the same order, as far as scores differ by more. Scores that are almost 0 may be missing."""
    wanted = {slot: score for slot, score in wanted.items() if score > 1e-30}
    found = Scores(found.slots[found.scores > 1e-30], found.scores[found.scores > 1e-30])
    assert found.slots.dtype == np.int32
    assert found.scores.dtype == np.float32
    assert dict(zip(found.slots.tolist(), found.scores.tolist(), strict=True)) == pytest.approx(wanted, rel=1e-6)
    ordered = [wanted[slot] for slot in top(found, SLOTS).slots.tolist()]
    assert ordered == pytest.approx(sorted(wanted.values(), reverse=True), rel=1e-6)


class PlainKnn:
    """Session-kNN by loops over all sessions and postings."""

    def __init__(self, k: int, candidates_max: int, sessions_max: int) -> None:
        self.k, self.candidates_max, self.sessions_max = k, candidates_max, sessions_max
        self.sessions: dict[int, list[int | None]] = {}
        self.postings: dict[int, list[int]] = {}
        self.swept = 0

    def learn(self, session: int, item: int) -> None:
        held = next((one for one in self.sessions if (one - session) % self.sessions_max == 0), -1)
        if held > session:
            return
        if held < session:
            self.sessions.pop(held, None)
        items = self.sessions.setdefault(session, [])
        if session - self.swept >= self.sessions_max:
            self.swept = session
            self.postings = {key: [one for one in its if one in self.sessions] for key, its in self.postings.items()}
        if item in items:
            return
        items.append(item)
        posting = self.postings.setdefault(item, [])
        posting.append(session)
        if len(posting) >= 2 * self.candidates_max:
            del posting[: self.candidates_max]

    def forget(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self.postings.pop(slot, None)
        for number, items in self.sessions.items():
            self.sessions[number] = [None if item in slots else item for item in items]

    def predict(self, context: Context) -> dict[int, float]:
        back = {item: steps for steps, item in reversed([*enumerate(reversed(context.items[context.start :]))])}
        similar = []
        shared = {number for item in back for number in self.postings.get(item, [])[-self.candidates_max :]}
        alive = sorted(number for number in shared & self.sessions.keys() if number != context.session)
        for number in alive[-self.candidates_max :]:
            items = [
                item for item in self.sessions[number]
                if item in back and number in self.postings[item][-self.candidates_max :]
            ]  # fmt: skip
            similarity = sum(0.8 ** back[item] for item in items) / math.sqrt(len(self.sessions[number]))
            similar.append((round(similarity, 12), number, min(items, key=back.__getitem__)))
        scores: dict[int, float] = {}
        nearest = sorted(sorted(similar)[-self.k :], key=lambda one: one[1])
        for age, (similarity, number, newest) in enumerate(nearest):
            kept = self.sessions[number]
            vote = similarity * 0.8 ** back[newest] * (1 + 1e-3 / len(nearest) * age)
            for place, item in enumerate(kept):
                if item is not None:
                    away = place - kept.index(newest)
                    fading = 0.8 ** abs(away) * (0.7 if away < 0 else 1.0)
                    scores[item] = scores.get(item, 0.0) + vote * fading
        return scores


@settings(max_examples=40, deadline=None)
@given(HISTORY, st.integers(1, 4), st.integers(2, 6))
def test_session_knn_is_what_loops_give(history: History, k: int, candidates_max: int) -> None:
    learner = SessionKnn(k=k, candidates_max=candidates_max, sessions_max=8, session_items_max=60)
    plain, shoppers = PlainKnn(k, candidates_max, 8), Shoppers()
    for one in history:
        if isinstance(one, list):
            learner.forget(one)
            plain.forget(one)
            shoppers.forget(one)
        else:
            context, item = shoppers.step(*one), one[1]
            learner.learn(context, item)
            plain.learn(context.session, item)
        for shopper in range(SHOPPERS):
            assert_same(learner.predict(shoppers.context(shopper)), plain.predict(shoppers.context(shopper)))


class PlainTransitions:
    """Transitions by a dict of dicts of counts that decay at once."""

    def __init__(self, reach: int) -> None:
        self.reach = reach
        self.counts: dict[int, dict[int, float]] = {}
        self.time_ms: int | None = None

    def _decay(self, time_ms: int) -> float:
        return 1.0 if self.time_ms is None else 0.5 ** ((time_ms - self.time_ms) / (90 * DAY_MS))

    def learn(self, context: Context, item: int) -> None:
        newest = context.items[context.start :][-self.reach :]
        if not newest:
            return
        factor, self.time_ms = self._decay(context.time_ms), context.time_ms
        self.counts = {key: {one: factor * count for one, count in its.items()} for key, its in self.counts.items()}
        for steps, last in enumerate(reversed(newest)):
            for key, companion, weight in ((last, item, 1.0), (item, last, 0.5)):
                table = self.counts.setdefault(key, {})
                table[companion] = table.pop(companion, 0.0) + weight * 0.6**steps

    def forget(self, slots: Sequence[int]) -> None:
        self.counts = {
            key: {one: count for one, count in its.items() if one not in slots}
            for key, its in self.counts.items() if key not in slots
        }  # fmt: skip

    def predict(self, context: Context) -> dict[int, float]:
        shares: dict[int, float] = {}
        now = self._decay(context.time_ms)
        for steps, last in enumerate(reversed(context.items[context.start :][-self.reach :])):
            table = self.counts.get(last, {})
            for place, (companion, count) in enumerate(table.items()):
                bonus = 1 + 1e-3 * place / max(1, len(table) - 1)
                share = bonus * count * now * 0.6**steps / (sum(table.values()) * now + 2.0)
                shares[companion] = shares.get(companion, 0.0) + share
        for known in set(context.items[: context.start]) & shares.keys():
            shares[known] *= 2.0
        return {item: share / sum(shares.values()) for item, share in shares.items()}


@settings(max_examples=40, deadline=None)
@given(HISTORY, st.integers(1, 5))
def test_transitions_are_what_dicts_give(history: History, reach: int) -> None:
    learner, plain, shoppers = Transitions(reach=reach), PlainTransitions(reach), Shoppers()
    for one in history:
        if isinstance(one, list):
            learner.forget(one)
            plain.forget(one)
            shoppers.forget(one)
        else:
            context = shoppers.step(*one)
            learner.learn(context, one[1])
            plain.learn(context, one[1])
        for shopper in range(SHOPPERS):
            context = shoppers.context(shopper)
            assert_same(learner.predict(context), plain.predict(context))


@settings(max_examples=40, deadline=None)
@given(HISTORY)
def test_popularity_is_that_of_a_new_learner_with_its_state(history: History) -> None:
    """A new learner has kept no answer of before."""
    learner, shoppers = Popularity(leaders_max=3), Shoppers()
    for one in history:
        if isinstance(one, list):
            learner.forget(one)
        else:
            learner.learn(shoppers.step(*one), one[1])
            if one[2]:
                learner.take_back(one[1], shoppers.time_ms)
        asked = shoppers.context(0)
        found, again = learner.predict(asked), Popularity.from_state(learner.state()).predict(asked)
        assert found.slots.tolist() == again.slots.tolist()
        assert found.scores.tolist() == again.scores.tolist()
        with pytest.raises(ValueError, match="read-only"):
            found.scores[:] = 0


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 3_000), st.floats(0, 1e6)), min_size=1, max_size=40), min_size=1),
    st.lists(st.integers(0, 3_000), min_size=1, max_size=40),
)
def test_equal_keys_are_those_of_a_dict(columns: Sequence[Sequence[tuple[int, float]]], asked: list[int]) -> None:
    equal = EqualKeys()
    for column in columns:
        sums: dict[int, float] = {}
        places: dict[int, int] = {}
        for place, (key, value) in enumerate(column):
            sums[key] = sums.get(key, 0.0) + value
            places.pop(key, None)
            places[key] = place
        keys = np.array([key for key, _ in column])
        distinct, found = equal.sums(keys, np.array([value for _, value in column]))
        assert dict(zip(distinct.tolist(), found.tolist(), strict=True)) == sums
        assert distinct.tolist() == list(places)
        assert equal.last_places(keys).tolist() == [places[key] for key in keys.tolist()]
        where, is_there = equal.find(np.array(asked), keys)
        assert is_there.tolist() == [key in places for key in asked]
        assert where[is_there].tolist() == [places[key] for key in asked if key in places]
