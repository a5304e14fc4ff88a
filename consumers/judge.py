"""Judging beside the fold: what the models say of a picked event before it is learned. The online side's only torch."""

import time
from collections.abc import Callable
from typing import Final, NamedTuple
from zlib import crc32

from consumers.model import read_model
from headrace.blobs import Blobs
from headrace.events import Event
from learners import judgement
from learners.browsing import Question
from learners.deep import DeepModel
from learners.judgement import Judgement, Listed, listed, pool, rank_of, without
from learners.prequential import ranks_max
from learners.shop import BLEND, DEEP, Shop

share_max: Final = 0.3
"""Most of the loop's time that judging may take."""
halvings_max: Final = 10
"""Judged at least: one event in 1,024."""
steps_max: Final = 16
"""Steps of one event that are judged: an invoice of a thousand lines must not stall the loop."""
lag_min: Final = 20_000
"""Records behind below which growing lag is no reason to judge less: a burst of seconds is worked off."""


class _Observed(NamedTuple):
    """A step that was picked, and what the fast members said of its context: items remembered, of this session the last
    `session_items`."""

    event: Event
    partition: int
    offset: int
    number: int
    question: Question
    remembered: list[str]
    session_items: int
    lists: dict[str, Listed]
    inclusion: float


class ShopJudge:
    """Picks events by a seeded hash of their ids, at a rate that follows the load.

    `judged` counts the predictions that were judged. Judging may take `share_max` of the time: over that, or while lag
    grows, the rate halves, else it doubles up to 1. The rate is written into each judgement, so a replay need not know
    about time.

    Args:
        seconds: a monotonic clock.
        fixed: judge at this rate whatever it costs (for benchmarks of quality).
    """

    def __init__(
        self,
        blobs: Blobs,
        *,
        seed: int = 0,
        seconds: Callable[[], float] = time.perf_counter,
        fixed: float | None = None,
    ) -> None:
        self._blobs, self._seed, self._seconds, self._fixed = blobs, seed, seconds, fixed
        self.judged = 0
        self._halvings = 0
        self._observed: list[_Observed] = []
        self._spent_s = 0.0
        self._began_s = seconds()
        self._lag = 0
        self._loaded: tuple[str, DeepModel | None] | None = None

    @property
    def inclusion(self) -> float:
        """The probability with which an event is judged now."""
        return self._fixed if self._fixed is not None else 0.5**self._halvings

    def observe(self, fold: Shop, event: Event, partition: int, offset: int) -> None:
        """Pick the event or not; keep what the fast members say of its steps."""
        inclusion = self.inclusion
        if inclusion < 1 and crc32(event.id.encode(), self._seed) >= inclusion * 0x1_0000_0000:
            return
        began = self._seconds()
        for number, step in enumerate(fold.browsing.steps(event)[:steps_max]):
            if step.context.items:
                context, question = step.context, fold.browsing.question(step)
                lists, length = fold.browsing.lists(context), len(context.items) - context.start
                remembered = fold.browsing.ids(context.items)
                one = _Observed(event, partition, offset, number, question, remembered, length, lists, inclusion)
                self._observed.append(one)
        self._spent_s += self._seconds() - began

    def judge(self, fold: Shop, lag: int) -> list[bytes]:
        """Let the deep model answer for all that was observed, rank members and blend, and adapt the rate."""
        began = self._seconds()
        observed, self._observed = self._observed, []
        model = self._model(fold)
        deep = model.predict([one.question.prefix for one in observed], listed + 1) if model else None
        version = fold.champion.version if fold.champion and model else ""
        made = []
        for place, one in enumerate(observed):
            lists = dict(one.lists)
            if deep is not None:
                lists[DEEP] = without(deep[place], one.question.last)
            made.append(self._judge(fold, one, lists, version))
        if model:
            fold.browsing.introduce(model)
        self._spent_s += self._seconds() - began
        self._adapt(lag)
        self.judged += len(made)
        return judgement.encode(made)

    def _judge(self, fold: Shop, one: _Observed, lists: dict[str, Listed], version: str) -> Judgement:
        item, prefix = one.question.item, one.session_items
        pooled = pool(lists)
        start = len(one.remembered) - prefix
        traits = fold.browsing.describe(pooled.candidates, one.remembered, start, one.event.time_ms)
        ranks = {name: pooled.rank(name, item) for name in pooled.lists}
        ranks[BLEND] = rank_of(fold.blended(pooled, prefix, traits), pooled.candidates, item)
        return Judgement(
            partition=one.partition, offset=one.offset, step=one.number, time_ms=one.event.time_ms, prefix=prefix,
            inclusion=one.inclusion, model=version, item=item, candidates=pooled.candidates, scores=pooled.packed(),
            ranks={name: rank if rank <= ranks_max else 0 for name, rank in ranks.items()},
            traits=traits.tobytes(),
        )  # fmt: skip

    def _model(self, fold: Shop) -> DeepModel | None:
        """Return the champion, loaded once; None while a shop has none, or if it is lost."""
        if fold.champion is None:
            self._loaded = None
            return None
        if self._loaded is None or self._loaded[0] != fold.champion.blob:
            self._loaded = fold.champion.blob, read_model(self._blobs, fold.champion.blob)
        return self._loaded[1]

    def _adapt(self, lag: int) -> None:
        now_s = self._seconds()
        share = self._spent_s / max(1e-9, now_s - self._began_s)
        if share > share_max or (lag > lag_min and lag > self._lag):
            self._halvings = min(halvings_max, self._halvings + 1)
        elif share < share_max / 2:  # doubling would otherwise go straight over the budget again
            self._halvings = max(0, self._halvings - 1)
        self._lag, self._began_s, self._spent_s = lag, now_s, 0.0
