"""The judge of next-item predictions: scores the models on sampled events before the fold learns them.

It is the only module that runs torch in the shard `online`, and only while a model is in use.
"""

from typing import TYPE_CHECKING, Final, NamedTuple

from headrace.artifacts import Artifacts
from headrace.events import Event
from headrace.sampling import fraction
from learners.family import Judging
from learners.next_item import judgement
from learners.next_item.family import NextItemFamily
from learners.next_item.judgement import Judgement, list_length, packed_vectors, pool, rank_of, without_item
from learners.parts.prequential import ranks_max
from learners.protocol import BLEND, DEEP, Listed, Question

if TYPE_CHECKING:  # it imports torch
    from learners.deep.model import DeepModel

share_max: Final = 0.3
"""Most of the loop's time that judging may take."""
halvings_max: Final = 10
"""Most halvings of the sampling rate: at least one event in 1,024 is judged."""
steps_max: Final = 16
"""Most steps of one event that are judged, so that an invoice of a thousand lines does not stall the loop."""
lag_min: Final = 20_000
"""Growing lag reduces the rate only above this number of waiting records; a burst of a few seconds does not."""


class _Observed(NamedTuple):
    """A sampled step and the lists of the fast members for its context.

    `remembered` are the context's items; the last `session_items` of them are of this session.
    """

    time_ms: int
    partition: int
    offset: int
    number: int
    question: Question
    remembered: list[str]
    session_items: int
    lists: dict[str, Listed]
    inclusion: float


class NextItemJudge:
    """Samples events by a seeded hash of their ids, at a rate that follows the load.

    `judged` is the number of predictions judged so far. Judging may take `share_max` of the time: over that, or while
    lag grows, the rate halves, else it doubles up to 1. The rate is written into each judgement, so a replay does not
    measure time.

    Torch takes seconds to import; a thread imports it from the first commit with a champion on. Until then nothing is
    judged, because the champion would score as if absent.

    Args:
        fixed: a constant rate, independent of the load (for benchmarks of quality).
    """

    def __init__(self, judging: Judging, *, fixed: float | None = None) -> None:
        self._seed, self._seconds, self._fixed = judging.settings.judge_seed, judging.seconds, fixed
        self._models: Artifacts[DeepModel] = judging.artifacts
        self.judged = 0
        self._halvings = 0
        self._observed: list[_Observed] = []
        self._judging_s = 0.0
        self._turn_started_s = self._seconds()
        self._lag = 0
        self._limited = False

    @property
    def inclusion(self) -> float:
        """The probability with which an event is judged now."""
        return self._fixed if self._fixed is not None else 0.5**self._halvings

    def observe(self, family: NextItemFamily, event: Event, partition: int, offset: int) -> None:
        """Sample the event; if it is picked, keep the fast members' lists for its steps."""
        if not event.counts or (family.champion and not self._models.prepared):
            return
        inclusion = self.inclusion
        if inclusion < 1 and fraction(event.id, self._seed, "judge") >= inclusion:
            return
        began = self._seconds()
        for number, step in enumerate(family.browsing.steps(event)[:steps_max]):
            if step.context.items:
                context, question = step.context, family.browsing.question(step)
                lists, length = family.browsing.lists(context), len(context.items) - context.start
                remembered = family.browsing.ids(context.items)
                one = _Observed(
                    event.time_ms, partition, offset, number, question, remembered, length, lists, inclusion
                )
                self._observed.append(one)
        self._judging_s += self._seconds() - began

    def judge(self, family: NextItemFamily, lag: int) -> list[bytes]:
        """Return judgements of all observed steps, with the deep model's answers, and adapt the rate."""
        if family.champion and not self._models.prepare():
            self._observed.clear()
            return []
        began = self._seconds()
        observed, self._observed = self._observed, []
        model = self._model(family)
        prefixes = [one.question.prefix for one in observed]
        deep, vectors = model.predict_and_embed(prefixes, list_length + 1) if model else (None, None)
        packed = packed_vectors(vectors) if vectors is not None else [b""] * len(observed)
        version = family.champion.version if family.champion and model else ""
        made = []
        for place, one in enumerate(observed):
            lists = dict(one.lists)
            if deep is not None:
                lists[DEEP] = without_item(deep[place], one.question.last)
            made.append(self._judge(family, one, lists, version, packed[place]))
        if model:
            family.browsing.add_late_items_to(model)
        self._judging_s += self._seconds() - began
        self._adapt(lag)
        self.judged += len(made)
        return judgement.encode(made)

    def _judge(
        self, family: NextItemFamily, one: _Observed, lists: dict[str, Listed], version: str, vector: bytes
    ) -> Judgement:
        item, prefix = one.question.item, one.session_items
        pooled = pool(lists)
        start = len(one.remembered) - prefix
        traits = family.browsing.traits_of(pooled.candidates, one.remembered, start, one.time_ms)
        ranks = {name: pooled.rank(name, item) for name in pooled.lists}
        blended = family.blended(pooled.lists, prefix, traits)
        ranks[BLEND] = rank_of(blended, pooled.candidates, item)
        return Judgement(
            partition=one.partition, offset=one.offset, step=one.number, time_ms=one.time_ms,
            session_length=prefix,
            inclusion=one.inclusion, model=version, item=item, candidates=pooled.candidates, scores=pooled.packed(),
            ranks={name: rank if rank <= ranks_max else 0 for name, rank in ranks.items()},
            traits=traits.tobytes(), confidence=round(float(blended.scores.max(initial=0.0)), 6), vector=vector,
        )  # fmt: skip

    def _model(self, family: NextItemFamily) -> "DeepModel | None":
        """Return the champion, loaded once; None if there is none or its blob is lost."""
        if family.champion is None:
            self._models.retain(())
            return None
        if not self._limited:
            import torch

            torch.set_num_threads(1)  # for small batches more threads are slower, on a busy machine much slower
            self._limited = True
        self._models.retain((family.champion.blob,))
        return self._models.get(family.champion.blob)

    def _adapt(self, lag: int) -> None:
        now_s = self._seconds()
        share = self._judging_s / max(1e-9, now_s - self._turn_started_s)
        if share > share_max or (lag > lag_min and lag > self._lag):
            self._halvings = min(halvings_max, self._halvings + 1)
        elif share < share_max / 2:  # doubling must not exceed the budget
            self._halvings = max(0, self._halvings - 1)
        self._lag, self._turn_started_s, self._judging_s = lag, now_s, 0.0
