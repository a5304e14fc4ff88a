"""The learners of the live system, behind the two verbs of the continual benchmark: learn a period, answer questions.

A contestant answers with ranks among all items seen, and with the short lists that a live judgement would keep, so that
the blend learns here from what it learns from there. Others to compare with are in `benchmarks.baselines`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.periods import Periods, Question
from headrace.config import FinetuneSettings
from headrace.state import State
from learners.judgement import listed
from learners.learner import Context, NextItem, Scores, context_max, rank, top
from learners.rehearsal import Rehearsal

if TYPE_CHECKING:
    from learners.deep import DeepModel, DeepSettings

week_ms: Final = 7 * 86_400_000
"""The files have no clock: a period counts as a week, its clicks evenly spread."""
empty: Final = -1
"""Slot of the places behind a list's last candidate."""
live: Final = FinetuneSettings()
"""How the live system's rounds train."""
training: Final = live.model_dump(
    include={"first_passes", "passes", "learning_rate", "width", "rehearsal_max", "rehearsal_share"}
)
"""The part of these settings that decides what a round makes."""
_chunk: Final = 512

Progress = Callable[[float], None]


class Answers(NamedTuple):
    """What a contestant said to N questions.

    Shapes:
        ranks: (N,) of the true items, 1 being best; slots: (N, listed), best first, then `empty`; scores: likewise.
    """

    ranks: NDArray[np.int32]
    slots: NDArray[np.int32]
    scores: NDArray[np.float32]

    def list(self, row: int) -> Scores:
        """Return one list."""
        size = int(np.count_nonzero(self.slots[row] != empty))
        return Scores(self.slots[row, :size], self.scores[row, :size])


class Round(NamedTuple):
    """What learning a period took: predictions trained on, passes, and the pass after which the model was taken."""

    tokens: int = 0
    passes: int = 0
    taken: int = 0


class Tuning(NamedTuple):
    """What a neural contestant is made from; a rate of None is its own default."""

    seed: int = 0
    rate: float | None = None
    strength: float | None = None


class Contestant(Protocol):
    """Who takes part. One that starts `anew` learns all periods up to the one named at once, others add one by one."""

    anew: bool

    def learn(self, periods: Periods, period: int, progress: Progress) -> Round:
        """Learn one more period; periods come in order, from 0. `progress` may be told the share done."""

    def answer(self, questions: Sequence[Question], periods: Periods, period: int) -> Iterator[Answers]:
        """Answer questions on a period that was not learned, some at a time. Never learns."""

    def model_bytes(self) -> bytes | None:
        """Return the deep model as it is now; None where there is none."""

    def state(self) -> State:
        """Return all that was learned."""

    def restore(self, state: State) -> None:
        """Become the contestant that `state` was taken from."""


class Fast:
    """A fast learner: it learns click by click, in the order of the log, as in the live system."""

    anew = False

    def __init__(self, make: Callable[[], NextItem]) -> None:
        self.learner = make()

    def learn(self, periods: Periods, period: int, progress: Progress) -> Round:
        """Learn the clicks of a period, each in the context of its session so far."""
        prefixes: dict[int, list[int]] = {}
        clicks = periods.clicks[period]
        for place, (session, item) in enumerate(clicks):
            prefix = prefixes.setdefault(session, [])
            time_ms = period * week_ms + place * week_ms // len(clicks)
            self.learner.learn(Context(prefix[-context_max:], 0, session, time_ms), item)
            prefix.append(item)
        return Round()

    def answer(self, questions: Sequence[Question], periods: Periods, period: int) -> Iterator[Answers]:
        """Answer one by one; the sessions asked about are new ones."""
        session, others = periods.started[period], periods.seen[period] - 1
        for start in range(0, len(questions), _chunk):
            part = questions[start : start + _chunk]
            ranks = np.empty(len(part), np.int32)
            slots = np.full((len(part), listed), empty, np.int32)
            values = np.zeros((len(part), listed), np.float32)
            for row, (prefix, item) in enumerate(part):
                scores = self.learner.predict(Context(prefix[-context_max:], 0, session, period * week_ms))
                ranks[row] = rank(scores, item, others)
                best = top(scores, listed)
                slots[row, : len(best.slots)], values[row, : len(best.slots)] = best
            yield Answers(ranks, slots, values)

    def model_bytes(self) -> bytes | None:
        """Return None."""
        return None

    def state(self) -> State:
        """Return the learner's state."""
        return self.learner.state()

    def restore(self, state: State) -> None:
        """Restore the learner."""
        self.learner = type(self.learner).from_state(state)


class Neural(ABC):
    """Who trains the live system's network, one way or another.

    Args:
        passes: over each later period.
        first_passes: over period 0, from nothing.
        settings: of the network; those of the live system if None.
    """

    anew = False
    rate: float | None = None
    """The learning rate that suits this contestant best; None: the live system's."""

    def __init__(
        self,
        tuning: Tuning,
        *,
        first_passes: int = live.first_passes,
        passes: int = live.passes,
        settings: "DeepSettings | None" = None,
    ) -> None:
        self.tuning, self.settings = tuning, settings
        self.first_passes, self.passes = first_passes, passes
        self.model: DeepModel | None = None

    @abstractmethod
    def learn(self, periods: Periods, period: int, progress: Progress) -> Round:
        """Train."""

    def answer(self, questions: Sequence[Question], periods: Periods, period: int) -> Iterator[Answers]:
        """Answer by the probabilities of the whole vocabulary."""
        assert self.model is not None, "something is learned before anything is asked"
        return answered(self.model, questions, periods, period)

    def model_bytes(self) -> bytes | None:
        """Return the model's bytes."""
        return self.model.to_bytes() if self.model else None

    def state(self) -> State:
        """Return the model's bytes."""
        return {"model": self.model_bytes()}

    def restore(self, state: State) -> None:
        """Restore the model."""
        from learners.deep import DeepModel

        self.model = DeepModel.from_bytes(state["model"]) if state["model"] else None

    def _round(
        self, parent: "DeepModel | None", sessions: Sequence[Sequence[str]], period: int, passes: int, **options: Any
    ) -> Round:
        """Train a model and keep it."""
        from learners.deep import DeepSettings
        from learners.finetune import train

        rate = self.tuning.rate or self.rate or live.learning_rate
        settings, seed = self.settings or DeepSettings(width=live.width), self.tuning.seed + period
        result = train(parent, sessions, settings=settings, seed=seed, passes=passes, learning_rate=rate, **options)
        self.model = result.model
        return Round(result.tokens, passes, passes)


class Deep(Neural):
    """The slow learner: after each period a round of training, from the last model on, with rehearsal of the past."""

    def __init__(self, tuning: Tuning, **options: Any) -> None:
        super().__init__(tuning, **options)
        self.rehearsal = Rehearsal(tuning.seed, live.rehearsal_max)

    def learn(self, periods: Periods, period: int, progress: Progress) -> Round:
        """Run one round."""
        sessions = named_sessions(periods, period)
        passes = self.passes if period else self.first_passes
        rehearsal = self.rehearsal.draw(int(live.rehearsal_share * len(sessions)) * passes, self.tuning.seed + period)
        told = self._round(self.model, sessions, period, passes, rehearsal=rehearsal, progress=progress)
        for place, items in enumerate(sessions):
            self.rehearsal.learn(items, period * week_ms + place * week_ms // len(sessions))
        return told

    def state(self) -> State:
        """Return the model's bytes and what it will rehearse."""
        return {**super().state(), "rehearsal": self.rehearsal.state()}

    def restore(self, state: State) -> None:
        """Restore the model and its rehearsal."""
        super().restore(state)
        self.rehearsal = Rehearsal.from_state(state["rehearsal"])


def named_sessions(periods: Periods, period: int) -> list[list[str]]:
    """Return a period's sessions that teach something, each the names of its items."""
    return [[periods.items[item] for item in items] for items in periods.sessions(period) if len(items) > 1]


def answered(model: "DeepModel", questions: Sequence[Question], periods: Periods, period: int) -> Iterator[Answers]:
    """Answer questions on a period with a model, some at a time: ranks, and lists of the most probable items."""
    slots_of, _ = _places(model, periods, period)
    size = min(listed, len(slots_of))
    space = ((0, 0), (0, listed - size))
    for ranks, scores in _scored(model, questions, periods, period):
        best = np.argpartition(-scores, size - 1, axis=1)[:, :size]
        values = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        values = np.take_along_axis(values, order, axis=1)
        slots = np.where(values > 0, slots_of[np.take_along_axis(best, order, axis=1)], empty)
        yield Answers(ranks, np.pad(slots, space, constant_values=empty), np.pad(values, space))


def ranked(model: "DeepModel", questions: Sequence[Question], periods: Periods, period: int) -> NDArray[np.int32]:
    """Return the ranks alone, among the items seen before the period."""
    parts = [ranks for ranks, _ in _scored(model, questions, periods, period)]
    return np.concatenate(parts) if parts else np.empty(0, np.int32)


def _places(model: "DeepModel", periods: Periods, period: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the slot of each of a model's rows, `empty` if unseen before the period, and the row of each slot, or -1.

    A model that learned later periods knows items that nobody could be asked about: they take no part.
    """
    slot_of = {item: slot for slot, item in enumerate(periods.items[: periods.seen[period]])}
    slots_of = np.array([slot_of.get(item, empty) for item in model.items], np.int32)
    row_of = np.full(len(slot_of), -1)
    known = np.flatnonzero(slots_of != empty)
    row_of[slots_of[known]] = known
    return slots_of, row_of


def _scored(
    model: "DeepModel", questions: Sequence[Question], periods: Periods, period: int
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float32]]]:
    """Yield the ranks of some true items, and every row's probability; what was not seen before the period has 0."""
    slots_of, row_of = _places(model, periods, period)
    for start in range(0, len(questions), _chunk):
        part = questions[start : start + _chunk]
        scores = model.score_all([[periods.items[item] for item in prefix] for prefix, _ in part])
        scores[:, slots_of == empty] = 0.0
        true = row_of[[item for _, item in part]]
        own = np.where(true >= 0, scores[np.arange(len(part)), true], 0.0)
        ranks = np.where(own > 0, np.count_nonzero(scores >= own[:, None], axis=1), len(row_of))
        yield ranks.astype(np.int32), scores
