"""What the blend sees of candidates, against plain implementations: their traits, and the pooling of members' lists."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.next_item.candidates import in_slots, pool
from learners.next_item.catalogue import Catalogue
from learners.next_item.equal import EqualKeys
from learners.next_item.judgement import pool as pool_of_ids
from learners.next_item.traits import TRAITS, Traits
from learners.parts.names import words_of
from learners.protocol import Context, Scores

SLOTS: Final = 9
HOUR_MS: Final = 3_600_000
WORDS: Final = ("red", "blue", "cup", "plate", "lamp")

NAME = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)
LEARN = st.tuples(st.integers(0, SLOTS - 1), st.sampled_from(["", "shoes", "hats"]), st.integers(0, 900), NAME)
FORGET = st.lists(st.integers(0, SLOTS - 1), min_size=1, max_size=3, unique=True)
SLOT = st.integers(-1, SLOTS)
ASKED: Final = [*range(SLOTS + 1), -1, -1]


class PlainTraits:
    """Traits by dicts and loops."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.categories: dict[int, str] = {}
        self.first_ms: dict[int, int] = {}
        self.words: dict[int, tuple[int, ...]] = {}

    def learn(self, slot: int, category: str, time_ms: int, name: str) -> None:
        self.steps.append((slot, time_ms))
        self.first_ms.setdefault(slot, time_ms)
        if category:
            self.categories[slot] = category
        if name:
            self.words[slot] = words_of(name)

    def forget(self, slots: Sequence[int]) -> None:
        self.steps = [one for one in self.steps if one[0] not in slots]
        for table in (self.categories, self.first_ms, self.words):
            for slot in slots:
                table.pop(slot, None)

    def similarity(self, one: int, other: int) -> float:
        counts = Counter(word for words in self.words.values() for word in words)

        def weights(slot: int) -> dict[int, float]:
            return {word: math.log((1 + len(self.words)) / counts[word]) for word in self.words.get(slot, ())}

        mine, theirs = weights(one), weights(other)
        lengths = math.hypot(*mine.values()) * math.hypot(*theirs.values())
        return sum(mine[word] * theirs[word] for word in mine.keys() & theirs.keys()) / lengths if lengths else 0.0

    def of(self, slot: int, context: Context) -> list[float]:
        items, start, now = context.items, context.start, context.time_ms
        if slot < 0:
            return [0.0] * len(TRAITS)
        last = items[-1] if len(items) > start else -1
        counts = [
            sum(0.5 ** ((now - time_ms) / (days * 24 * HOUR_MS)) for one, time_ms in self.steps if one == slot)
            for days in (90, 7)
        ]
        age_h = max(0, now - self.first_ms.get(slot, now)) / HOUR_MS
        pairs = list(pairwise(items))
        similar = [self.similarity(slot, one) for one in items[max(start, len(items) - 8) :]] if last >= 0 else [0.0]
        return [
            *(min(1.0, math.log1p(count) / math.log1p(100_000)) for count in counts),
            min(1.0, math.log1p(age_h) / math.log1p(24_000)),
            float(slot in self.categories and self.categories[slot] == self.categories.get(last)),
            float(slot == last),
            float((last, slot) in pairs),
            float((slot, last) in pairs),
            float(slot in items[:start]),
            similar[-1], sum(similar) / len(similar), max(similar),
        ]  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(*[LEARN] * 4, FORGET), min_size=8, max_size=25),
    st.lists(SLOT, min_size=3, max_size=12),
    st.integers(0, 3),
)
def test_traits_are_what_dicts_give(
    history: list[tuple[int, str, int, str] | list[int]], items: list[int], start: int
) -> None:
    traits, plain = Traits(), PlainTraits()
    hours = 0
    for one in history:
        if isinstance(one, list):
            traits.forget(one)
            plain.forget(one)
        else:
            slot, category, passed, name = one
            hours += passed
            traits.learn(slot, category, hours * HOUR_MS, name)
            traits.settle()
            plain.learn(slot, category, hours * HOUR_MS, name)
        context = Context(items, start, 0, hours * HOUR_MS)
        wanted = 255 * np.array([plain.of(slot, context) for slot in ASKED])
        found = traits.of(ASKED, context)
        assert found.dtype == np.uint8
        assert np.abs(found - np.floor(wanted)).max() <= 1, "rounded down, after errors of floats"


LISTED = st.lists(st.sampled_from([f"item-{n}" for n in range(12)]), max_size=6, unique=True)


@given(st.lists(LISTED, min_size=1, max_size=4), LISTED)
def test_candidates_are_those_that_a_dict_pools(fast: list[list[str]], deep: list[str]) -> None:
    """The model knows items that the catalogue does not know."""
    catalogue = Catalogue()
    for item in (item for items in fast for item in items):
        catalogue.admit(item)

    def scores(items: list[str]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        return np.arange(len(items), 0, -1).astype(np.float32)

    lists = {
        str(n): Scores(np.array(catalogue.slots_of(items), np.int32), scores(items)) for n, items in enumerate(fast)
    }
    lists["deep"], unknown = in_slots((deep, scores(deep)), catalogue)
    found = pool(lists, unknown, catalogue.slots_end, EqualKeys())
    wanted = pool_of_ids({**{str(n): (one, scores(one)) for n, one in enumerate(fast)}, "deep": (deep, scores(deep))})
    everything = Scores(np.arange(len(found.slots), dtype=np.int32), np.ones(len(found.slots), np.float32))
    assert found.named(everything.slots, catalogue) == wanted.candidates
    assert found.slots.tolist() == catalogue.slots_of(wanted.candidates)
    for name, (slots, values) in wanted.lists.items():
        assert found.lists[name].slots.tolist() == slots.tolist()
        assert found.lists[name].scores.tolist() == values.tolist()
