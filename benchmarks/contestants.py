"""The learners of the live system, behind the two verbs of the continual benchmark: learn a period, answer questions.

A contestant answers with ranks among all items seen, and with the short lists that a live judgement would keep, so that
the blend learns here from what it learns from there.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.periods import Periods, Question
from headrace.state import State
from learners.judgement import listed
from learners.learner import Context, NextItem, Scores, context_max, rank, top
from learners.rehearsal import Rehearsal
from learners.rounds import RoundSettings

if TYPE_CHECKING:
    from learners.deep import DeepModel

week_ms: Final = 7 * 86_400_000
"""The files have no clock: a period counts as a week, its clicks evenly spread."""
empty: Final = -1
"""Slot of the places behind a list's last candidate."""
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


class Contestant(Protocol):
    """Who takes part. `tokens` counts predictions trained on, where that means anything."""

    tokens: int

    def learn(self, periods: Periods, period: int, progress: Progress) -> None:
        """Learn one more period; periods come in order, from 0. `progress` may be told the share done."""

    def answer(self, questions: Sequence[Question], periods: Periods, period: int) -> Iterator[Answers]:
        """Answer questions on a period that was not learned, some at a time. Never learns."""

    def state(self) -> State:
        """Return all that was learned."""

    def restore(self, state: State) -> None:
        """Become the contestant that `state` was taken from."""


class Fast:
    """A fast learner: it learns click by click, in the order of the log, as in the live system."""

    def __init__(self, make: Callable[[], NextItem]) -> None:
        self.learner = make()
        self.tokens = 0

    def learn(self, periods: Periods, period: int, progress: Progress) -> None:
        """Learn the clicks of a period, each in the context of its session so far."""
        prefixes: dict[int, list[int]] = {}
        clicks = periods.clicks[period]
        for place, (session, item) in enumerate(clicks):
            prefix = prefixes.setdefault(session, [])
            time_ms = period * week_ms + place * week_ms // len(clicks)
            self.learner.learn(Context(prefix[-context_max:], 0, session, time_ms), item)
            prefix.append(item)

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

    def state(self) -> State:
        """Return the learner's state."""
        return self.learner.state()

    def restore(self, state: State) -> None:
        """Restore the learner."""
        self.learner = type(self.learner).from_state(state)


class Deep:
    """The slow learner: after each period a round of training, from the last model on, with rehearsal of the past.

    Args:
        first_passes: over period 0, from nothing.
        passes: over each later period, each with as many sessions of the past.
    """

    def __init__(self, seed: int, *, first_passes: int = 8, passes: int = 3) -> None:
        self.seed = seed
        self.first_passes, self.passes = first_passes, passes
        self.model: DeepModel | None = None
        self.rehearsal = Rehearsal(seed, RoundSettings().rehearsal_max)
        self.tokens = 0

    def learn(self, periods: Periods, period: int, progress: Progress) -> None:
        """Run one round."""
        from learners.finetune import train

        sessions = [[periods.items[item] for item in items] for items in periods.sessions(period) if len(items) > 1]
        passes = self.passes if period else self.first_passes
        result = train(
            self.model,
            sessions,
            rehearsal=self.rehearsal.draw(passes * len(sessions), self.seed + period),
            seed=self.seed + period,
            passes=passes,
            progress=progress,
        )
        self.model = result.model
        self.tokens += result.tokens
        for place, items in enumerate(sessions):
            self.rehearsal.learn(items, period * week_ms + place * week_ms // len(sessions))

    def answer(self, questions: Sequence[Question], periods: Periods, period: int) -> Iterator[Answers]:
        """Answer in batches, by the probabilities of the whole vocabulary."""
        model = self.model
        assert model is not None, "the first period is learned before anything is asked"
        slot_of = {item: slot for slot, item in enumerate(periods.items[: periods.seen[period]])}
        columns = np.array([slot_of[item] for item in model.items], np.int32)
        column_of = np.full(len(slot_of), -1)
        column_of[columns] = np.arange(len(columns))
        for start in range(0, len(questions), _chunk):
            part = questions[start : start + _chunk]
            scores = model.score_all([[periods.items[item] for item in prefix] for prefix, _ in part])
            true = column_of[[item for _, item in part]]
            own = np.where(true >= 0, scores[np.arange(len(part)), true], 0.0)
            ranks = np.where(own > 0, np.count_nonzero(scores >= own[:, None], axis=1), len(slot_of))
            size = min(listed, len(columns))
            best = np.argpartition(-scores, size - 1, axis=1)[:, :size]
            values = np.take_along_axis(scores, best, axis=1)
            order = np.argsort(-values, axis=1, kind="stable")
            values = np.take_along_axis(values, order, axis=1)
            slots = np.where(values > 0, columns[np.take_along_axis(best, order, axis=1)], empty)
            space = ((0, 0), (0, listed - size))
            yield Answers(ranks.astype(np.int32), np.pad(slots, space, constant_values=empty), np.pad(values, space))

    def state(self) -> State:
        """Return the model's bytes, what it will rehearse, and the tokens."""
        model = self.model.to_bytes() if self.model else None
        return {"model": model, "rehearsal": self.rehearsal.state(), "tokens": self.tokens}

    def restore(self, state: State) -> None:
        """Restore the model."""
        from learners.deep import DeepModel

        self.model = DeepModel.from_bytes(state["model"]) if state["model"] else None
        self.rehearsal = Rehearsal.from_state(state["rehearsal"])
        self.tokens = state["tokens"]
