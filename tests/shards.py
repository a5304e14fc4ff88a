"""The default shards for tests: their placements, folds of any settings, and judges without a process around them."""

import time
from collections.abc import Callable
from typing import Any

from headrace.artifacts import Artifacts
from headrace.child import Ended
from headrace.events import Event, Rejection
from headrace.log.protocol import Outgoing, Record
from headrace.shard.blobs import Blobs
from headrace.state import State, decode, encode
from learners.families import default_placements
from learners.family import Judging
from learners.next_item.family import NextItemFamily, NextItemSettings
from learners.next_item.judge import NextItemJudge
from learners.purchase.family import PurchaseFamily
from learners.rounds import worker
from learners.rounds.family import Rounds
from learners.rounds.judge import RoundsJudge
from learners.rounds.settings import RoundsSettings
from learners.shop import MakeShop, Shop

ONLINE = default_placements()["online"]
FINETUNE = default_placements()["finetune"]
JUDGED, TRAINED = "learners.deep.model:load_to_judge", "learners.deep.model:load_to_train"


def silent(*_: Any, **__: Any) -> None:
    """Take a metric or a log line, and drop it."""


def online(settings: NextItemSettings | None = None, **bounds: Any) -> MakeShop:
    """Return what makes the online shard's fold, with these settings of `next_item`."""
    return MakeShop(ONLINE.kinds, {"next_item": settings or NextItemSettings(**bounds)})


def finetune(settings: RoundsSettings | None = None, **rules: Any) -> MakeShop:
    """Return what makes the fine-tuner's fold, with these settings of `rounds`."""
    return MakeShop(FINETUNE.kinds, {"rounds": settings or RoundsSettings(**rules)})


def next_item(shop: Shop) -> NextItemFamily:
    """Return a shop's family of next-item recommendation."""
    family = shop.families["next_item"]
    assert isinstance(family, NextItemFamily)
    return family


def purchase(shop: Shop) -> PurchaseFamily:
    """Return a shop's family of purchase propensity."""
    family = shop.families["purchase"]
    assert isinstance(family, PurchaseFamily)
    return family


def rounds(shop: Shop) -> Rounds:
    """Return a shop's family of rounds."""
    family = shop.families["rounds"]
    assert isinstance(family, Rounds)
    return family


def next_item_judge(
    blobs: Blobs,
    *,
    seed: int = 0,
    fixed: float | None = None,
    seconds: Callable[[], float] = time.perf_counter,
    warn: Callable[..., None] = silent,
) -> NextItemJudge:
    """Return the judge of next-item recommendation over these blobs; see `learners.next_item.judge.NextItemJudge`."""
    artifacts: Artifacts[Any] = Artifacts(blobs, JUDGED, warn)
    judging = Judging(NextItemSettings(judge_seed=seed), artifacts, seconds, silent, silent)
    return NextItemJudge(judging, fixed=fixed)


class InProcess:
    """A round's job, done at once in this process: what the child process runs, without the process."""

    started_ms = 0

    def __init__(self, data: bytes) -> None:
        self._output = worker.run(data, time.perf_counter)

    def poll(self) -> Ended | None:
        return Ended(self._output)

    def close(self) -> None:
        pass


def rounds_judge(
    blobs: Blobs,
    settings: RoundsSettings,
    *,
    report: Callable[..., None] = silent,
    log: Callable[..., None] = silent,
    seconds: Callable[[], float] = time.perf_counter,
) -> RoundsJudge:
    """Return the fine-tuner's judge over these blobs, which trains in this process."""
    judging = Judging(settings, Artifacts(blobs, TRAINED, log), seconds, report, log)
    return RoundsJudge(judging, start=InProcess)


def judge_all(trainer: RoundsJudge, family: Rounds, absorb: Callable[[bytes], None]) -> list[bytes]:
    """Let the judge judge, and the fold absorb, until no round is due or trained; return the judgements."""
    made: list[bytes] = []
    while True:
        found = trainer.judge(family, 0)
        for judgement in found:
            absorb(judgement)
        made += found
        if not trainer.ready(family):
            return made


class RoundsFold:
    """The fine-tuner's fold, as the loop drives it; other attributes are those of its family, lineup or schedule."""

    def __init__(self, settings: RoundsSettings | None = None, state: State | None = None) -> None:
        self.settings = settings or RoundsSettings()
        make = finetune(self.settings)
        self.shop = make(state, make().stamp)
        self.family = rounds(self.shop)

    def __getattr__(self, name: str) -> Any:
        for part in (self.family, self.family.lineup, self.family.schedule):
            if hasattr(part, name):
                return getattr(part, name)
        raise AttributeError(name)

    def learn(self, event: Event, partition: int, offset: int) -> None:
        self.shop.learn(event, partition, offset)

    def hear(self, topic: str, record: Record) -> Rejection | None:
        return self.shop.hear(topic, record)

    def absorb(self, judgement: bytes) -> None:
        self.shop.absorb(Rounds.name, judgement)

    def emit(self) -> list[Outgoing]:
        return self.shop.emit()

    def state(self) -> State:
        return self.shop.state()

    def again(self) -> "RoundsFold":
        """Return a fold that was restored from this one's bytes."""
        return RoundsFold(self.settings, decode(encode(self.state())))
