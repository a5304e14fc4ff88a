"""Adapters of the live system's learners for the continual benchmark: they learn a period and answer questions.

A contestant answers with ranks among all items seen, and with the short lists that a live judgement would keep, so that
the blend learns from the same input as in the live system. Baselines are in `benchmarks.baselines`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from benchmarks.periods import Periods, Question
from headrace.state import State
from learners.next_item.judgement import list_length
from learners.protocol import Context, NextItem, Scores, context_max, rank, top
from learners.rounds.rehearsal import Rehearsal
from learners.rounds.settings import RoundsSettings

if TYPE_CHECKING:
    from learners.deep.model import DeepModel, DeepSettings

week_ms: Final = 7 * 86_400_000
"""The files have no clock: a period counts as a week, and its clicks are spread evenly."""
empty: Final = -1
"""Fills the places behind the last candidate of a list of slots."""
live: Final = RoundsSettings()
"""Settings of the live system's rounds."""
_trained_by: Final = {"first_passes", "passes", "learning_rate", "width", "rehearsal_max", "rehearsal_share"}
training: Final = {name: value for name, value in structs.asdict(live).items() if name in _trained_by}
"""The part of these settings on which the result of a round depends."""
_chunk: Final = 512

Progress = Callable[[float], None]


class Answers(NamedTuple):
    """A contestant's answers to N questions.

    Shapes:
        ranks: (N,) of the true items, 1 being best; slots: (N, list_length), best first, then `empty`; scores:
            likewise.
    """

    ranks: NDArray[np.int32]
    slots: NDArray[np.int32]
    scores: NDArray[np.float32]

    def list(self, row: int) -> Scores:
        """Return the candidates of one question."""
        size = int(np.count_nonzero(self.slots[row] != empty))
        return Scores(self.slots[row, :size], self.scores[row, :size])


class Round(NamedTuple):
    """Cost of learning a period: predictions trained on, passes, and the pass whose model was taken."""

    tokens: int = 0
    passes: int = 0
    taken: int = 0


class Tuning(NamedTuple):
    """Seed and settings of a neural contestant; None means its own default."""

    seed: int = 0
    rate: float | None = None
    strength: float | None = None


class Contestant(Protocol):
    """A learner in the benchmark.

    One with `from_scratch` learns all periods up to the one given at once; others learn the periods one by one.
    """

    from_scratch: bool

    def learn(self, periods: Periods, period: int, progress: Progress) -> Round:
        """Learn one more period; periods come in order, from 0. `progress` may be called with the share done."""

    def answer(self, questions: Sequence[Question], periods: Periods, period: int) -> Iterator[Answers]:
        """Yield answers to questions on a period that was not learned, in chunks. Never learns."""

    def model_bytes(self) -> bytes | None:
        """Return the bytes of the current deep model, or None without one."""

    def state(self) -> State:
        """Return all that was learned."""

    def restore(self, state: State) -> None:
        """Restore the contestant from which `state` was taken."""


class Fast:
    """A fast learner, which learns click by click in the order of the log, as in the live system."""

    from_scratch = False

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
        """Answer one by one; the sessions of the questions are new ones."""
        session, others = periods.started[period], periods.seen[period] - 1
        for start in range(0, len(questions), _chunk):
            part = questions[start : start + _chunk]
            ranks = np.empty(len(part), np.int32)
            slots = np.full((len(part), list_length), empty, np.int32)
            values = np.zeros((len(part), list_length), np.float32)
            for row, (prefix, item) in enumerate(part):
                scores = self.learner.predict(Context(prefix[-context_max:], 0, session, period * week_ms))
                ranks[row] = rank(scores, item, others)
                best = top(scores, list_length)
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
    """A contestant that trains the live system's network.

    Args:
        passes: over each later period.
        first_passes: over period 0, from scratch.
        settings: of the network; those of the live system if None.
    """

    from_scratch = False
    rate: float | None = None
    """The best learning rate of this contestant; None means the live system's."""

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
        """Answer by the probabilities over the whole vocabulary."""
        assert self.model is not None, "the first period is learned before the first question"
        return model_answers(self.model, questions, periods, period)

    def model_bytes(self) -> bytes | None:
        """Return the model's bytes."""
        return self.model.to_bytes() if self.model else None

    def state(self) -> State:
        """Return the model's bytes."""
        return {"model": self.model_bytes()}

    def restore(self, state: State) -> None:
        """Restore the model."""
        from learners.deep.model import DeepModel

        self.model = DeepModel.from_bytes(state["model"]) if state["model"] else None

    def _round(
        self, parent: "DeepModel | None", sessions: Sequence[Sequence[str]], period: int, passes: int, **options: Any
    ) -> Round:
        """Train a model and keep it."""
        from learners.deep.model import DeepSettings
        from learners.deep.train import train

        rate = self.tuning.rate or self.rate or live.learning_rate
        settings, seed = self.settings or DeepSettings(width=live.width), self.tuning.seed + period
        result = train(parent, sessions, settings=settings, seed=seed, passes=passes, learning_rate=rate, **options)
        self.model = result.model
        return Round(result.tokens, passes, passes)


class Deep(Neural):
    """The deep learner: one round per period, continuing from the last model, with rehearsal of the past."""

    def __init__(self, tuning: Tuning, **options: Any) -> None:
        super().__init__(tuning, **options)
        self.rehearsal = Rehearsal(tuning.seed, live.rehearsal_max)

    def learn(self, periods: Periods, period: int, progress: Progress) -> Round:
        """Run one round."""
        sessions = named_sessions(periods, period)
        passes = self.passes if period else self.first_passes
        rehearsal = self.rehearsal.draw(int(live.rehearsal_share * len(sessions)) * passes, self.tuning.seed + period)
        cost = self._round(self.model, sessions, period, passes, rehearsal=rehearsal, progress=progress)
        for place, items in enumerate(sessions):
            self.rehearsal.learn(items, period * week_ms + place * week_ms // len(sessions))
        return cost

    def state(self) -> State:
        """Return the model's bytes and the state of the rehearsal."""
        return {**super().state(), "rehearsal": self.rehearsal.state()}

    def restore(self, state: State) -> None:
        """Restore the model and its rehearsal."""
        super().restore(state)
        self.rehearsal = Rehearsal.from_state(state["rehearsal"])


def named_sessions(periods: Periods, period: int) -> list[list[str]]:
    """Return a period's sessions of at least two items, as item names."""
    return [[periods.items[item] for item in items] for items in periods.sessions(period) if len(items) > 1]


def model_answers(
    model: "DeepModel", questions: Sequence[Question], periods: Periods, period: int
) -> Iterator[Answers]:
    """Yield a model's answers to questions on a period in chunks: ranks, and lists of the most probable items."""
    slots_of, _ = _slot_maps(model, periods, period)
    size = min(list_length, len(slots_of))
    space = ((0, 0), (0, list_length - size))
    for ranks, scores in _ranks_and_scores(model, questions, periods, period):
        best = np.argpartition(-scores, size - 1, axis=1)[:, :size]
        values = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        values = np.take_along_axis(values, order, axis=1)
        slots = np.where(values > 0, slots_of[np.take_along_axis(best, order, axis=1)], empty)
        yield Answers(ranks, np.pad(slots, space, constant_values=empty), np.pad(values, space))


def model_ranks(model: "DeepModel", questions: Sequence[Question], periods: Periods, period: int) -> NDArray[np.int32]:
    """Return only the ranks, among the items seen before the period."""
    parts = [ranks for ranks, _ in _ranks_and_scores(model, questions, periods, period)]
    return np.concatenate(parts) if parts else np.empty(0, np.int32)


def _slot_maps(model: "DeepModel", periods: Periods, period: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the slot of each of a model's rows, `empty` if unseen before the period, and the row of each slot, or -1.

    A model that learned later periods knows items that cannot be in the questions: they are ignored.
    """
    slot_of = {item: slot for slot, item in enumerate(periods.items[: periods.seen[period]])}
    slots_of = np.array([slot_of.get(item, empty) for item in model.items], np.int32)
    row_of = np.full(len(slot_of), -1)
    known = np.flatnonzero(slots_of != empty)
    row_of[slots_of[known]] = known
    return slots_of, row_of


def _ranks_and_scores(
    model: "DeepModel", questions: Sequence[Question], periods: Periods, period: int
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float32]]]:
    """Yield in chunks the ranks of true items and each row's probability, 0 if not seen before the period."""
    slots_of, row_of = _slot_maps(model, periods, period)
    for start in range(0, len(questions), _chunk):
        part = questions[start : start + _chunk]
        scores = model.score_all([[periods.items[item] for item in prefix] for prefix, _ in part])
        scores[:, slots_of == empty] = 0.0
        true = row_of[[item for _, item in part]]
        own = np.where(true >= 0, scores[np.arange(len(part)), true], 0.0)
        ranks = np.where(own > 0, np.count_nonzero(scores >= own[:, None], axis=1), len(row_of))
        yield ranks.astype(np.int32), scores
