"""Prequential: the log's steps in order, each asked about first and learned after, as late as one likes.

New items are included: an item that nobody has learned yet is a miss. A step is asked about if its session already
holds something; of those a seeded share is asked, all are learned. Only *learning* is late: the session so far is known
at once, as a shop's page knows it. Of one learner's delays the latest is learned first, so that what came before the
stretch is learned once. The deep learner here is the live system's network and memory (`learners.material`), trained by
rounds as in `benchmarks.continual`; an update takes no time of the log.

Used by `benchmarks.freshness` and `benchmarks.triggers`.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from benchmarks.basket import Basket, beside
from benchmarks.contestants import Answers, empty, live, week_ms
from benchmarks.periods import Periods
from headrace.errors import Misconfigured
from learners.blend import Blend
from learners.contexts import Contexts
from learners.judgement import listed
from learners.learner import Context, NextItem, Scores, context_max, rank
from learners.material import Material
from learners.prequential import ranks_max
from learners.traits import Traits

if TYPE_CHECKING:
    from learners.deep import DeepModel, DeepSettings

base_passes: Final = 3
"""Passes over all that came before a stretch, for the model that it begins with; fewer than the live system's, so that
a run takes minutes."""


class Step(NamedTuple):
    """One step of the log: the context that it was taken in, the item, and its name where the log has one."""

    context: Context
    item: int
    name: str = ""

    @property
    def prefix(self) -> Sequence[int]:
        """The session so far."""
        return self.context.items[self.context.start :]


class Stretch:
    """The part of a log that is asked about, and the steps before it.

    Args:
        steps: all of the log up to the stretch's end.
        start: the stretch's first step.
        rate: share of its steps that are asked about.
        once: an item of the session is no answer: baskets hold each item once.

    Attributes:
        asked: numbers of the steps that are asked about, in order.
    """

    def __init__(self, steps: Sequence[Step], start: int, *, rate: float, seed: int = 0, once: bool = False) -> None:
        self.steps, self.start, self.once = steps, start, once
        chosen = np.random.default_rng(seed).random(len(steps) - start) < rate
        self.asked: NDArray[np.int64] = np.array(
            [at for at in range(start, len(steps)) if chosen[at - start] and steps[at].prefix], np.int64
        )
        if not len(self.asked):
            raise Misconfigured(f"--rate: {rate} of steps {start} to {len(steps)} are none to ask about")

    def by_events(self, events: int) -> NDArray[np.int64]:
        """Return for each step asked about how many steps are learned then, if learning is so many steps late."""
        return np.maximum(0, self.asked - events)

    def by_clock(self, late_ms: int) -> NDArray[np.int64]:
        """Return for each step asked about how many steps are learned then, if learning is late by the log's clock.

        Not late at all means all steps before it, those of the same instant too.
        """
        if not late_ms:
            return self.by_events(0)
        times = np.array([step.context.time_ms for step in self.steps])
        return np.minimum(self.asked, np.searchsorted(times, times[self.asked] - late_ms, side="right"))

    def rows(self, begin: int, end: int) -> range:
        """Return which of those asked about are the steps from `begin` to `end`."""
        first, last = np.searchsorted(self.asked, [begin, end]).tolist()
        return range(first, last)


def clicks(periods: Periods, last: int) -> Iterator[Step]:
    """Yield the clicks up to and with a period, a period being a week."""
    for period, found in enumerate(periods.clicks[: last + 1]):
        prefixes: dict[int, list[int]] = {}
        for place, (session, item) in enumerate(found):
            prefix = prefixes.setdefault(session, [])
            time_ms = period * week_ms + place * week_ms // len(found)
            yield Step(Context(prefix[-context_max:], 0, session, time_ms), item)
            prefix.append(item)


def lines(baskets: Iterable[Basket]) -> Iterator[Step]:
    """Yield the lines of baskets, a basket being a session."""
    contexts = Contexts()
    for shopper, invoice, time_ms, items, names in baskets:
        for item, name in zip(items, names, strict=True):
            context = contexts.context(shopper, time_ms, invoice)
            contexts.push(shopper, item, time_ms, invoice)
            # If the line began an invoice, only the context after it knows the session's number.
            yield Step(context._replace(session=contexts.context(shopper, time_ms, invoice).session), item, name)


class Lists:
    """Answers in the making, a row for each step asked about."""

    def __init__(self, stretch: Stretch) -> None:
        size = len(stretch.asked)
        self._stretch = stretch
        self._found = Answers(
            np.full(size, ranks_max + 1, np.int32), np.full((size, listed), empty, np.int32),
            np.zeros((size, listed), np.float32),
        )  # fmt: skip

    def put(self, row: int, scores: Scores) -> int:
        """Keep the best candidates of a row; return the rank of the item that came, behind `ranks_max` if missed."""
        step = self._stretch.steps[self._stretch.asked[row]]
        best = beside(scores, set(step.prefix) if self._stretch.once else ())
        found, size = self._found, len(best.slots)
        found.slots[row, :size], found.scores[row, :size] = best
        found.ranks[row] = place = rank(best, step.item, ranks_max)
        return place

    def answers(self) -> Answers:
        """Return what was put in."""
        return self._found


def fast(
    make: Callable[[], NextItem], stretch: Stretch, learned: Mapping[str, NDArray[np.int64]]
) -> tuple[dict[str, Answers], float]:
    """Return a fast learner's answers for each delay, and the mean seconds that a delay's stretch took.

    Args:
        learned: per delay, what `Stretch.by_events` or `by_clock` returns.
    """
    base, done = make(), 0
    seconds, found = 0.0, {}
    for name in sorted(learned, key=lambda name: int(learned[name].sum())):
        counts = learned[name]
        for step in stretch.steps[done : counts[0]]:
            base.learn(step.context, step.item)
        done = max(done, int(counts[0]))
        learner, lists, at = type(base).from_state(base.state()), Lists(stretch), done
        began = time.perf_counter()
        for row, count in enumerate(counts.tolist()):
            for step in stretch.steps[at:count]:
                learner.learn(step.context, step.item)
            at = count
            lists.put(row, learner.predict(stretch.steps[stretch.asked[row]].context))
        seconds += time.perf_counter() - began
        found[name] = lists.answers()
    return found, seconds / len(learned)


class _Told(NamedTuple):
    """What the blend is told of a step: each member's list, over numbers into `slots`, and these items' traits."""

    slots: NDArray[np.int32]
    lists: dict[str, Scores]
    traits: NDArray[np.uint8]
    step: Step

    @property
    def item(self) -> int:
        """The number of the item that came; -1 if nobody listed it."""
        found = np.flatnonzero(self.slots == self.step.item)
        return int(found[0]) if len(found) else -1


def blended(answers: Mapping[str, Answers], stretch: Stretch, learned: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the ranks in the blend, which begins knowing nothing; it learns from answers, and items' traits from
    steps, as late as the others do."""
    blend, traits = Blend(tuple(answers)), Traits()
    ranks = np.empty(len(stretch.asked), np.int32)
    waiting: deque[tuple[int, _Told]] = deque()
    done = 0
    for row, at in enumerate(stretch.asked.tolist()):
        count = int(learned[row])
        for context, item, name in stretch.steps[done:count]:
            traits.learn(item, "", context.time_ms, name)
        traits.settle()
        done = count
        while waiting and waiting[0][0] < count:
            told = waiting.popleft()[1]
            blend.learn(told.lists, len(told.step.prefix), told.item, told.traits.__getitem__)
        told = _told({name: answer.list(row) for name, answer in answers.items()}, stretch.steps[at], traits)
        ranks[row] = rank(
            blend.predict(told.lists, len(told.step.prefix), told.traits.__getitem__), told.item, ranks_max
        )
        waiting.append((at, told))
    return ranks


def _told(said: Mapping[str, Scores], step: Step, traits: Traits) -> _Told:
    slots = np.unique(np.concatenate([scores.slots for scores in said.values()]))
    lists = {
        name: Scores(np.searchsorted(slots, scores.slots).astype(np.int32), scores.scores)
        for name, scores in said.items()
    }
    return _Told(slots, lists, traits.of(slots, step.context), step)


class Slow:
    """The deep learner: its model, what came since the last update, what it rehearses, and what it cost so far.

    Args:
        passes: of an update over what came since the last one, with the live system's share of sessions of the past.
        sessions_max: newest sessions that an update trains on; None for all. The others are rehearsed only.
    """

    def __init__(
        self, *, seed: int = 0, passes: int = live.passes, sessions_max: int | None = None,
        settings: "DeepSettings | None" = None,
    ) -> None:  # fmt: skip
        self.seed, self.passes, self.sessions_max, self.settings = seed, passes, sessions_max, settings
        self.model: DeepModel | None = None
        self.updates = self.tokens = 0
        self.seconds = 0.0
        self._material = Material(
            seed=seed, holdout_share=0.0, shoppers_max=live.shoppers_max, window_max=live.window_max,
            rehearsal_max=live.rehearsal_max, slices_max=1, slice_steps_max=0,
        )  # fmt: skip

    def fork(self) -> Self:
        """Return one that goes on from here by itself, its costs beginning at nothing."""
        other = type(self)(
            seed=self.seed, passes=self.passes, sessions_max=self.sessions_max, settings=self.settings
        )  # fmt: skip
        other.model = self.model  # training changes no model, it makes another
        other._material.restore(self._material.state())
        return other

    def follow(self, steps: Iterable[Step]) -> None:
        """Remember steps for the next update."""
        for context, item, _ in steps:
            self._material.follow(f"{context.session}", context.session, [f"{item}"], context.time_ms)

    def begin(self, steps: Iterable[Step], cache: Path | None = None, key: str = "") -> None:
        """Train the model to begin with on steps, from nothing; or take it from a file, if that exists.

        Raises:
            Misconfigured: the file holds another model than one of this `key`.
        """
        from learners.deep import DeepModel

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
            self._material.turn()

    def update(self) -> None:
        """Train on what came since the last update."""
        count = int(live.rehearsal_share * len(self._window())) * self.passes
        self._train(self.passes, self._material.rehearsal.draw(count, self.seed + self.updates), "")
        self.updates += 1

    def _window(self) -> list[Sequence[str]]:
        return self._material.window()[-(self.sessions_max or 0) :]

    def _train(self, passes: int, rehearsal: Sequence[Sequence[str]], key: str) -> None:
        from learners.deep import DeepSettings
        from learners.finetune import train

        began, seed = time.perf_counter(), self.seed + self.updates
        result = train(
            self.model, self._window(), rehearsal=rehearsal, settings=self.settings or DeepSettings(width=live.width),
            seed=seed, passes=passes, learning_rate=live.learning_rate, lineage={"key": key},
        )  # fmt: skip
        self.model = result.model
        self.tokens += result.tokens
        self._material.turn()
        self.seconds += time.perf_counter() - began

    def answer(self, stretch: Stretch, rows: Sequence[int], lists: Lists) -> list[int]:
        """Put the answers for these rows into lists; return the ranks of the items that came."""
        assert self.model is not None, "something is learned before anything is asked"
        prefixes = [stretch.steps[stretch.asked[row]].prefix for row in rows]
        n = listed + (max(map(len, prefixes), default=0) if stretch.once else 0)
        said = self.model.predict([[f"{item}" for item in prefix] for prefix in prefixes], n)
        return [
            lists.put(row, Scores(np.array([int(item) for item in items], np.int32), chances))
            for row, (items, chances) in zip(rows, said, strict=True)
        ]


Due = Callable[[int, int, Sequence[int]], bool]
"""From a part of the log, its first step and the one after its last, and the model's ranks in it, to whether an update
is due now."""


def slow(learner: Slow, stretch: Stretch, edges: Sequence[int], due: Due) -> Answers:
    """Let the deep learner answer for a stretch, part by part; after a part it may be updated.

    Args:
        edges: where parts begin, in order; the first is the stretch's start.
    """
    lists = Lists(stretch)
    for begin, end in zip(edges, [*edges[1:], len(stretch.steps)], strict=True):
        ranks = learner.answer(stretch, stretch.rows(begin, end), lists)
        learner.follow(stretch.steps[begin:end])
        if due(begin, end, ranks) and end < len(stretch.steps):
            learner.update()
    return lists.answers()


def cost(learner: Slow) -> dict[str, Any]:
    """Return what the updates of a stretch took."""
    return {"updates": learner.updates, "tokens": learner.tokens, "seconds": learner.seconds}
