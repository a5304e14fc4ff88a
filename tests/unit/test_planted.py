"""Planted candidates face a real contest, with and without a champion: no bad one goes live, a good one does, quickly.

The shop is one where a deep model has something to add: who looks at a visit alone (every fast learner) cannot tell a
shopper's theme, who looks at the past can. All candidates go the way of `headrace propose`.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from headrace.announcement import Announcement, announced
from headrace.events import Data, Event, Item, at
from headrace.log.protocol import Outgoing, Record
from headrace.shard.blobs import Blobs
from headrace.state import State, decode, encode
from learners.deep.model import DeepModel, DeepSettings, threads
from learners.deep.train import train
from learners.rounds.judge import MODEL
from learners.rounds.settings import RoundsSettings
from tests.shards import RoundsFold, judge_all, rounds_judge

THEMES, THEME_ITEMS, SHOPPERS = 8, 10, 100
ITEMS = [f"i{theme}-{number}" for theme in range(THEMES) for number in range(THEME_ITEMS)]
HISTORY, GATE = 1_200, 1_200
STEP_MS = 60_000
"""A shopper comes back after hours, so each visit is a session of its own."""
SETTINGS = RoundsSettings(
    round_events=10**9, gate_records_max=GATE, items_max=1_000, shoppers_max=1_000, width=32, device="cpu"
)
SMALL = DeepSettings(width=32, layers=1, heads=2, context=10)


def visits() -> Iterator[tuple[str, list[str]]]:
    """Yield shoppers and what they look at: one item of their theme, or two that follow each other."""
    chance = random.Random(7)
    while True:
        shopper = chance.randrange(SHOPPERS)
        theme, first = shopper % THEMES, chance.randrange(THEME_ITEMS)
        numbers = [first, (first + 1) % THEME_ITEMS] if chance.random() < 0.4 else [first]
        yield f"u{shopper}", [f"i{theme}-{number}" for number in numbers]


def stream() -> Iterator[Event]:
    number = 0
    for shopper, items in visits():
        for item in items:
            time_ms = 1_750_000_000_000 + number * STEP_MS
            yield Event(f"e{number}", "shop/web", "view_item", at(time_ms), Data([Item(item)]), "1.0", shopper, time_ms)
            number += 1


class World:
    """The fold and its judge in mid-stream, with or without a champion."""

    def __init__(self, folder: Path, state: State | None = None, number: int = 0) -> None:
        self.blobs, self.fold, self.number = Blobs(folder), RoundsFold(SETTINGS, state), number
        self.trainer = rounds_judge(self.blobs, SETTINGS)
        self.said: list[Announcement] = []
        self._events = stream()
        for _ in range(number):
            next(self._events)

    def learn(self, count: int) -> None:
        """Let events pass by, with a commit after every hundred."""
        for _ in range(count):
            event = next(self._events)
            self.trainer.observe(self.fold.family, event, 0, self.number)
            self.fold.learn(event, 0, self.number)
            self.number += 1
            if self.number % 100 == 0:
                self.commit()

    def commit(self) -> None:
        judge_all(self.trainer, self.fold.family, self.fold.absorb)
        records = [Record(0, 0, 0, one.key, one.value) for one in self.fold.emit()]
        self.said += [one for one in map(announced, records) if one]

    def propose(self, model: DeepModel) -> Announcement:
        """Put a model before the gate; return its verdict."""
        blob = self.blobs.put(MODEL, model.to_bytes())
        word = Announcement(id=f"op/{blob}", kind="proposed", round=0, at_events=0, time_ms=0, blob=blob)
        self.fold.hear("models", as_record(word.record()))
        self.commit()
        while self.fold.candidate:
            self.learn(100)
        return next(one for one in reversed(self.said) if one.kind in ("promoted", "refused"))


def as_record(one: Outgoing) -> Record:
    return Record(0, 0, 0, one.key, one.value)


def trained(parent: DeepModel | None, sequences: list[list[str]], passes: int) -> DeepModel:
    with threads(1):
        return train(parent, sequences, settings=SMALL, seed=3, passes=passes, learning_rate=5e-3).model


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[list[str]]]:
    """Return the fold after the history, and its sessions."""
    world = World(tmp_path_factory.mktemp("history"))
    world.learn(HISTORY)
    return encode(world.fold.state()), [list(sequence) for sequence in world.fold.training_set.window()]


@pytest.fixture(scope="module")
def good(history: tuple[bytes, list[list[str]]]) -> DeepModel:
    return trained(None, history[1], 20)


def not_finite(good: DeepModel, sessions: list[list[str]]) -> DeepModel:
    model = DeepModel.from_bytes(good.to_bytes())
    model.table[3, 1] = float("nan")
    return model


def shuffled(good: DeepModel, sessions: list[list[str]]) -> DeepModel:
    model = DeepModel.from_bytes(good.to_bytes())
    model.table = model.table[np.random.default_rng(1).permutation(len(model)).tolist()]
    return model


def one_slice(good: DeepModel, sessions: list[list[str]]) -> DeepModel:
    """All that it was trained on is one theme: the other items lie where none was told from another, at one point."""
    theme = [session for session in sessions if session[0].startswith("i0-")]
    model = DeepModel(SMALL, 3)
    model.grow(ITEMS)
    model.table[:] = model.table[:1] + 1e-3 * model.table
    return trained(model, theme, 20)


def one_slice_unseen(good: DeepModel, sessions: list[list[str]]) -> DeepModel:
    """It has never heard of other items than one theme's, and is silent where it is asked about them."""
    return trained(None, [session for session in sessions if session[0].startswith("i0-")], 20)


def poisoned(good: DeepModel, sessions: list[list[str]]) -> DeepModel:
    """Somebody has forged the window's visits: wherever one began, it led to the few items that are to be pushed."""
    chance = random.Random(2)
    return trained(None, [[session[0], *chance.sample(ITEMS[:5], 2)] for session in sessions], 10)


BAD: list[Callable[[DeepModel, list[list[str]]], DeepModel]] = [
    not_finite, shuffled, one_slice, one_slice_unseen, poisoned,
]  # fmt: skip


@pytest.fixture(scope="module")
def crowned(
    history: tuple[bytes, list[list[str]]], good: DeepModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bytes, Announcement, Path]:
    """Return the fold after the good model was promoted, the announcement, and the folder of its blobs."""
    folder = tmp_path_factory.mktemp("crowned")
    world = World(folder, decode(history[0]), HISTORY)
    verdict = world.propose(good)
    return encode(world.fold.state()), verdict, folder


def test_a_good_one_goes_live_quickly(crowned: tuple[bytes, Announcement, Path]) -> None:
    _, verdict, _ = crowned
    assert (verdict.kind, verdict.reason) == ("promoted", "better")
    assert verdict.evidence["predictions"] <= 200  # seen: 46


@pytest.mark.parametrize("plant", BAD)
def test_a_bad_one_does_not_go_live_where_there_is_no_champion(
    plant: Callable[[DeepModel, list[list[str]]], DeepModel],
    history: tuple[bytes, list[list[str]]],
    good: DeepModel,
    tmp_path: Path,
) -> None:
    world = World(tmp_path, decode(history[0]), HISTORY)
    verdict = world.propose(plant(good, history[1]))
    assert verdict.kind == "refused", verdict
    assert world.fold.champion is None


@pytest.mark.parametrize("plant", BAD)
def test_a_bad_one_does_not_take_the_champions_place(
    plant: Callable[[DeepModel, list[list[str]]], DeepModel],
    history: tuple[bytes, list[list[str]]],
    good: DeepModel,
    crowned: tuple[bytes, Announcement, Path],
) -> None:
    state, promotion, folder = crowned
    fold = RoundsFold(SETTINGS, decode(state))
    world = World(folder, decode(state), fold.seen)
    verdict = world.propose(plant(good, history[1]))
    assert verdict.kind == "refused", verdict
    assert world.fold.champion == promotion
