"""The fold of the shard `online` over records in memory, with judging, as fast as it goes: no log and no commits."""

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Self

from headrace.artifacts import Artifacts
from headrace.events import Rejection, decode
from headrace.log.protocol import Outgoing, Record
from headrace.shard.blobs import Blobs
from headrace.shard.intake import Intake
from headrace.topics import ALARMS
from learners.families import default_placements
from learners.family import Judging
from learners.next_item.family import NextItemFamily, NextItemSettings
from learners.next_item.judge import NextItemJudge
from learners.protocol import BLEND
from learners.purchase.family import PurchaseFamily
from learners.shop import Shop

ENTRY_EVENTS: Final = 200
"""Records between two judgings, as if they were one journal entry."""
judged_share: Final = 0.25


class OnlineFold:
    """The fold and its judge.

    Args:
        sections: settings of families, by name.
        clock: replaces the shop's clock.
        judged: share of the events that are judged.
        hear: is given each judgement of the next item.

    Attributes:
        shop: the fold.
        rejected: number of records that were rejected.
        learned: for each event that was learned, the number of records up to it.
        alarms: the records of `alarms`, also of the last entry if it is not full.
    """

    def __init__(
        self,
        sections: Mapping[str, Any] | None = None,
        *,
        clock: Any = None,
        judged: float = judged_share,
        hear: Callable[[bytes], None] | None = None,
    ) -> None:
        self.shop, self.rejected = Shop(default_placements()["online"].kinds, sections), 0
        self.learned: list[int] = []
        self.alarms: list[Outgoing] = []
        self._hear = hear
        self._intake = Intake()
        if clock is not None:
            self._intake._clock = clock
        self._folder = tempfile.TemporaryDirectory()
        artifacts: Artifacts[Any] = Artifacts(Blobs(Path(self._folder.name)), "builtins:bytes", print)
        judging = Judging(NextItemSettings(), artifacts, time.perf_counter, print, print)
        self._judge = NextItemJudge(judging, fixed=judged)

    def learn(self, records: Iterable[Record]) -> Self:
        """Learn from records, as many entries as they fill; return itself."""
        shop, judge, admit = self.shop, self._judge, self._intake.admit
        family = next_item(shop)
        for number, record in enumerate(records, 1):
            event = decode(record)
            if isinstance(event, Rejection):
                self.rejected += 1
            elif admit(event, record.time_ms) and shop.prepare(event):
                judge.observe(family, event, 0, record.offset)
                shop.learn(event, 0, record.offset)
                self.learned.append(number)
            if number % ENTRY_EVENTS == 0:
                for judgement in judge.judge(family, 0):
                    if self._hear is not None:
                        self._hear(judgement)
                    shop.absorb(NextItemFamily.name, judgement)
                self._keep(shop.emit())
        self._keep(shop.now.take())
        return self

    def close(self) -> None:
        """Delete what was kept on disk."""
        self._folder.cleanup()

    def _keep(self, written: Iterable[Outgoing]) -> None:
        self.alarms += [one for one in written if one.topic == ALARMS]


def next_item(shop: Shop) -> NextItemFamily:
    """Return the family of next-item recommendation."""
    family = shop.families[NextItemFamily.name]
    assert isinstance(family, NextItemFamily)
    return family


def purchase(shop: Shop) -> PurchaseFamily:
    """Return the family of purchase propensity."""
    family = shop.families[PurchaseFamily.name]
    assert isinstance(family, PurchaseFamily)
    return family


def quality(shop: Shop) -> dict[str, float]:
    """Return the prequential scores of the blend, and those of purchase propensity where there are labels."""
    ranking, labels = next_item(shop).ranking[BLEND], purchase(shop).probability
    found = {"recall@20": 0.0, "MRR@20": 0.0, "judged": float(ranking.judged), "labels": float(labels.judged)}
    if ranking.judged:
        scores = ranking.scores("whole")
        found |= {"recall@20": scores["recall@20"], "MRR@20": scores["mrr@20"]}
    scores = labels.scores("whole")
    return found | {name: scores[key] for name, key in (("AUC", "auc"), ("share bought", "base_rate")) if key in scores}
