"""Prequential evaluation of the log's steps in order: each is predicted first and learned after a delay.

New items are included: an item that no learner has learned yet is a miss. A step is tested if its session already holds
an item; a seeded share of those is tested, and all are learned. Only *learning* is late: the session so far is known at
once, as on a shop's page. The longest of one learner's delays is learned first, so that the steps before the stretch
are learned only once. The deep learner here is the live system's network and memory (`learners.rounds.training_set`),
trained by rounds as in `benchmarks.continual`; an update takes no event time.

Used by `benchmarks.freshness` and `benchmarks.triggers`.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from benchmarks.basket import Basket, without_items
from benchmarks.contestants import Answers, empty, live, week_ms
from benchmarks.periods import Periods
from headrace.errors import Misconfigured
from learners.next_item.blend import Blend
from learners.next_item.contexts import Contexts
from learners.next_item.judgement import list_length
from learners.next_item.traits import Traits
from learners.parts.prequential import ranks_max
from learners.protocol import Context, NextItem, Scores, context_max, rank
from learners.rounds.training_set import TrainingSet

if TYPE_CHECKING:
    from learners.deep.model import DeepModel, DeepSettings

base_passes: Final = 3
"""Passes over all steps before a stretch, for the model with which it begins; fewer than in the live system, so that a
run takes minutes."""


class LoggedStep(NamedTuple):
    """One step of the log: its context, the item, and the item's name where the log has one."""

    context: Context
    item: int
    name: str = ""

    @property
    def prefix(self) -> Sequence[int]:
        """The items of the session before the step."""
        return self.context.items[self.context.start :]


class Stretch:
    """The part of a log that is tested, and the steps before it.

    Args:
        steps: all of the log up to the stretch's end.
        start: the stretch's first step.
        rate: share of its steps that are tested.
        once: whether items of the session are excluded as answers: baskets hold each item once.

    Attributes:
        asked: numbers of the steps that are tested, in order.
    """

    def __init__(
        self, steps: Sequence[LoggedStep], start: int, *, rate: float, seed: int = 0, once: bool = False
    ) -> None:
        self.steps, self.start, self.once = steps, start, once
        chosen = np.random.default_rng(seed).random(len(steps) - start) < rate
        self.asked: NDArray[np.int64] = np.array(
            [at for at in range(start, len(steps)) if chosen[at - start] and steps[at].prefix], np.int64
        )
        if not len(self.asked):
            raise Misconfigured(f"--rate: {rate} of steps {start} to {len(steps)} leaves no step to test")

    def by_events(self, events: int) -> NDArray[np.int64]:
        """Return for each tested step how many steps are learned by then, if learning is `events` steps late."""
        return np.maximum(0, self.asked - events)

    def by_clock(self, late_ms: int) -> NDArray[np.int64]:
        """Return for each tested step how many steps are learned by then, if learning is late by event time.

        Without a delay these are all steps before it, including those of the same instant.
        """
        if not late_ms:
            return self.by_events(0)
        times = np.array([step.context.time_ms for step in self.steps])
        return np.minimum(self.asked, np.searchsorted(times, times[self.asked] - late_ms, side="right"))

    def rows(self, begin: int, end: int) -> range:
        """Return which of the tested steps are the steps from `begin` to `end`."""
        first, last = np.searchsorted(self.asked, [begin, end]).tolist()
        return range(first, last)


def clicks(periods: Periods, last: int) -> Iterator[LoggedStep]:
    """Yield the clicks up to and including a period; a period counts as a week."""
    for period, found in enumerate(periods.clicks[: last + 1]):
        prefixes: dict[int, list[int]] = {}
        for place, (session, item) in enumerate(found):
            prefix = prefixes.setdefault(session, [])
            time_ms = period * week_ms + place * week_ms // len(found)
            yield LoggedStep(Context(prefix[-context_max:], 0, session, time_ms), item)
            prefix.append(item)


def lines(baskets: Iterable[Basket]) -> Iterator[LoggedStep]:
    """Yield the lines of baskets; a basket is a session."""
    contexts = Contexts()
    for shopper, invoice, time_ms, items, names in baskets:
        for item, name in zip(items, names, strict=True):
            context = contexts.context(shopper, time_ms, invoice)
            session = contexts.push(shopper, item, time_ms, invoice)
            # If the line began an invoice, only now it has a number.
            yield LoggedStep(replace(context, session=session), item, name)


class AnswerTable:
    """A table of answers that is filled row by row, one row per tested step."""

    def __init__(self, stretch: Stretch) -> None:
        size = len(stretch.asked)
        self._stretch = stretch
        self._found = Answers(
            np.full(size, ranks_max + 1, np.int32), np.full((size, list_length), empty, np.int32),
            np.zeros((size, list_length), np.float32),
        )  # fmt: skip

    def put(self, row: int, scores: Scores) -> int:
        """Store the best candidates of a row; return the rank of the true item, above `ranks_max` if it is a miss."""
        step = self._stretch.steps[self._stretch.asked[row]]
        best = without_items(scores, set(step.prefix) if self._stretch.once else ())
        found, size = self._found, len(best.slots)
        found.slots[row, :size], found.scores[row, :size] = best
        found.ranks[row] = place = rank(best, step.item, ranks_max)
        return place

    def answers(self) -> Answers:
        """Return the stored answers."""
        return self._found


def fast_answers(
    make: Callable[[], NextItem], stretch: Stretch, learned: Mapping[str, NDArray[np.int64]]
) -> tuple[dict[str, Answers], float]:
    """Return a fast learner's answers for each delay, and the mean seconds per delay.

    Args:
        learned: per delay, the result of `Stretch.by_events` or `by_clock`.
    """
    base, done = make(), 0
    seconds, found = 0.0, {}
    for name in sorted(learned, key=lambda name: int(learned[name].sum())):
        counts = learned[name]
        for step in stretch.steps[done : counts[0]]:
            base.learn(step.context, step.item)
        done = max(done, int(counts[0]))
        learner, lists, at = type(base).from_state(base.state()), AnswerTable(stretch), done
        began = time.perf_counter()
        for row, count in enumerate(counts.tolist()):
            for step in stretch.steps[at:count]:
                learner.learn(step.context, step.item)
            at = count
            lists.put(row, learner.predict(stretch.steps[stretch.asked[row]].context))
        seconds += time.perf_counter() - began
        found[name] = lists.answers()
    return found, seconds / len(learned)


class _BlendInput(NamedTuple):
    """The blend's input for a step: each member's list, as numbers into `slots`, and the traits of these items."""

    slots: NDArray[np.int32]
    lists: dict[str, Scores]
    traits: NDArray[np.uint8]
    step: LoggedStep

    @property
    def item(self) -> int:
        """The number of the true item, or -1 if it is on no list."""
        found = np.flatnonzero(self.slots == self.step.item)
        return int(found[0]) if len(found) else -1


def blend_ranks(answers: Mapping[str, Answers], stretch: Stretch, learned: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the ranks in a blend that starts untrained.

    The blend learns from answers, and the items' traits from steps, with the same delay as the other learners.
    """
    blend, traits = Blend(tuple(answers)), Traits()
    ranks = np.empty(len(stretch.asked), np.int32)
    waiting: deque[tuple[int, _BlendInput]] = deque()
    done = 0
    for row, at in enumerate(stretch.asked.tolist()):
        count = int(learned[row])
        for context, item, name in stretch.steps[done:count]:
            traits.learn(item, "", context.time_ms, name)
        traits.settle()
        done = count
        while waiting and waiting[0][0] < count:
            given = waiting.popleft()[1]
            blend.learn(given.lists, len(given.step.prefix), given.item, given.traits.__getitem__)
        given = _blend_input({name: answer.list(row) for name, answer in answers.items()}, stretch.steps[at], traits)
        ranks[row] = rank(
            blend.predict(given.lists, len(given.step.prefix), given.traits.__getitem__), given.item, ranks_max
        )
        waiting.append((at, given))
    return ranks


def _blend_input(member_lists: Mapping[str, Scores], step: LoggedStep, traits: Traits) -> _BlendInput:
    slots = np.unique(np.concatenate([scores.slots for scores in member_lists.values()]))
    lists = {
        name: Scores(np.searchsorted(slots, scores.slots).astype(np.int32), scores.scores)
        for name, scores in member_lists.items()
    }
    return _BlendInput(slots, lists, traits.of(slots, step.context), step)


class DeepLearner:
    """The deep learner: its model, the sessions since the last update, the rehearsal, and the cost so far.

    Args:
        passes: of an update over the sessions since the last one, with the live system's share of past sessions.
        sessions_max: newest sessions on which an update trains; None for all. The others are only rehearsed.
    """

    def __init__(
        self, *, seed: int = 0, passes: int = live.passes, sessions_max: int | None = None,
        settings: "DeepSettings | None" = None,
    ) -> None:  # fmt: skip
        self.seed, self.passes, self.sessions_max, self.settings = seed, passes, sessions_max, settings
        self.model: DeepModel | None = None
        self.updates = self.tokens = 0
        self.seconds = 0.0
        self._training_set = TrainingSet(
            seed=seed, holdout_share=0.0, shoppers_max=live.shoppers_max, window_max=live.window_max,
            rehearsal_max=live.rehearsal_max, slices_max=1, slice_steps_max=0,
        )  # fmt: skip

    def fork(self) -> Self:
        """Return an independent copy whose costs start at 0."""
        other = type(self)(
            seed=self.seed, passes=self.passes, sessions_max=self.sessions_max, settings=self.settings
        )  # fmt: skip
        other.model = self.model  # training makes a new model and changes none
        other._training_set.restore(self._training_set.state())
        return other

    def follow(self, steps: Iterable[LoggedStep]) -> None:
        """Add steps to the training data of the next update."""
        for context, item, _ in steps:
            self._training_set.add_steps(f"{context.session}", context.session, [f"{item}"], context.time_ms)

    def begin(self, steps: Iterable[LoggedStep], cache: Path | None = None, key: str = "") -> None:
        """Train the first model on steps from scratch, or load it from a file if that exists.

        Raises:
            Misconfigured: the file holds a model with another `key`.
        """
        from learners.deep.model import DeepModel

        self.follow(steps)
        if cache is None or not cache.exists():
            self._train(base_passes, (), key)
            if cache is not None and self.model:
                cache.parent.mkdir(parents=True, exist_ok=True)
                cache.write_bytes(self.model.to_bytes())
        else:
            self.model = DeepModel.from_bytes(cache.read_bytes())
            if self.model.lineage.get("key") != key:
                raise Misconfigured(f"--base {cache}: wanted a model of {key}, found {self.model.lineage.get('key')}")
            self._training_set.end_round()

    def update(self) -> None:
        """Train on the sessions since the last update."""
        count = int(live.rehearsal_share * len(self._window())) * self.passes
        self._train(self.passes, self._training_set.rehearsal.draw(count, self.seed + self.updates), "")
        self.updates += 1

    def _window(self) -> list[Sequence[str]]:
        return self._training_set.window()[-(self.sessions_max or 0) :]

    def _train(self, passes: int, rehearsal: Sequence[Sequence[str]], key: str) -> None:
        from learners.deep.model import DeepSettings
        from learners.deep.train import train

        began, seed = time.perf_counter(), self.seed + self.updates
        result = train(
            self.model, self._window(), rehearsal=rehearsal, settings=self.settings or DeepSettings(width=live.width),
            seed=seed, passes=passes, learning_rate=live.learning_rate, lineage={"key": key},
        )  # fmt: skip
        self.model = result.model
        self.tokens += result.tokens
        self._training_set.end_round()
        self.seconds += time.perf_counter() - began

    def answer(self, stretch: Stretch, rows: Sequence[int], lists: AnswerTable) -> list[int]:
        """Store the answers for these rows in the table; return the ranks of the true items."""
        assert self.model is not None, "the model is trained before the first question"
        prefixes = [stretch.steps[stretch.asked[row]].prefix for row in rows]
        n = list_length + (max(map(len, prefixes), default=0) if stretch.once else 0)
        predictions = self.model.predict([[f"{item}" for item in prefix] for prefix in prefixes], n)
        return [
            lists.put(row, Scores(np.array([int(item) for item in items], np.int32), chances))
            for row, (items, chances) in zip(rows, predictions, strict=True)
        ]


Due = Callable[[int, int, Sequence[int]], bool]
"""From a part of the log (its first step, the step after its last) and the model's ranks in it, to whether an update is
due now."""


def deep_answers(learner: DeepLearner, stretch: Stretch, edges: Sequence[int], due: Due) -> Answers:
    """Return the deep learner's answers on a stretch, part by part; after a part it may be updated.

    Args:
        edges: where parts begin, in order; the first is the stretch's start.
    """
    lists = AnswerTable(stretch)
    for begin, end in zip(edges, [*edges[1:], len(stretch.steps)], strict=True):
        ranks = learner.answer(stretch, stretch.rows(begin, end), lists)
        learner.follow(stretch.steps[begin:end])
        if due(begin, end, ranks) and end < len(stretch.steps):
            learner.update()
    return lists.answers()


def cost(learner: DeepLearner) -> dict[str, Any]:
    """Return the cost of the updates of a stretch."""
    return {"updates": learner.updates, "tokens": learner.tokens, "seconds": learner.seconds}
