"""The online consumer: folds every event into the fast learners, judges some of them, and writes scores and alarms."""

import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import structlog
import torch

from consumers.judge import ShopJudge
from headrace.blobs import Blobs
from headrace.config import OnlineSettings
from headrace.log import Log
from headrace.loop import Loop, LoopSettings, Turn
from headrace.metrics import OnlineMetrics, Window
from headrace.state import State
from headrace.topics import EVENTS, MODELS, partitions_of
from learners.shop import Shop, ShopSettings

SHARD: Final = "online"
SOURCES: Final = partitions_of(EVENTS)
SIDES: Final = partitions_of(MODELS)
TELL_S: Final = 1.0
"""How often scores are told to Prometheus: computing the windowed ones takes milliseconds."""


class MakeShop:
    """Builds the online shard's fold from a state, or anew. Serving and replays build it alike."""

    def __init__(self, settings: OnlineSettings) -> None:
        self._settings = ShopSettings(items_max=settings.items_max, shoppers_max=settings.shoppers_max)

    def __call__(self, state: State | None) -> Shop:
        return Shop(self._settings) if state is None else Shop.from_state(state)


def run(log: Log, blobs: Blobs, settings: OnlineSettings, metrics: OnlineMetrics, stop: threading.Event) -> None:
    """Run the online shard until `stop` is set.

    Raises:
        BrokenWorld: see `headrace.errors`; calling again goes on from the last commit.
    """
    torch.set_num_threads(1)  # for small batches more threads are slower, on a busy machine much slower
    judge = ShopJudge(blobs, seed=settings.judge_seed)
    loop = Loop(
        log,
        blobs,
        SHARD,
        make=MakeShop(settings),
        sources=SOURCES,
        sides=SIDES,
        judge=judge,
        settings=LoopSettings(
            commit_interval_s=settings.commit_interval_s,
            snapshot_interval_s=settings.snapshot_interval_s,
            flood_share=settings.flood_share,
        ),
    )
    loop.on_turn = _Teller(metrics, loop.fold, judge)
    try:
        structlog.get_logger().info("folding", shard=SHARD, entry=loop.number, events=loop.fold.events)
        loop.run(stop.is_set)
        structlog.get_logger().info("stopped", shard=SHARD, entry=loop.number, events=loop.fold.events)
    finally:
        loop.close()


class _Teller:
    """Tells Prometheus what each turn did, and now and then how good the learners are."""

    def __init__(self, metrics: OnlineMetrics, shop: Shop, judge: ShopJudge) -> None:
        self._metrics, self._shop, self._judge = metrics, shop, judge
        self._alarms = dict(shop.alarms)
        self._told_at = 0.0
        self._judged = judge.judged
        metrics.watched(shop.alarms)

    def __call__(self, turn: Turn) -> None:
        metrics, shop, judge = self._metrics, self._shop, self._judge
        metrics.turn(turn)
        metrics.judgements.inc(judge.judged - self._judged)
        self._judged = judge.judged
        metrics.judged_ratio.set(judge.inclusion)
        metrics.champion_round.set(shop.champion.round if shop.champion else 0)
        for detector, count in shop.alarms.items():
            for _ in range(count - self._alarms[detector]):
                metrics.alarm(detector)
        self._alarms = dict(shop.alarms)
        if time.monotonic() - self._told_at > TELL_S:
            metrics.blend(_shares(shop.blend.weights()))
            self._tell_scores(shop.scores())
            self._told_at = time.monotonic()

    def _tell_scores(self, scores: dict[str, Any]) -> None:
        views: tuple[tuple[str, Window], ...] = (("whole", "stream"), ("window", "recent"))
        for view, window in views:
            for learner, found in scores["ranking"].items():
                for name, value in found[view].items():
                    metric, _, k = name.partition("@")
                    self._metrics.score(learner, metric, int(k), window, value)
            for metric, value in scores["propensity"][view].items():
                self._metrics.propensity("propensity", metric, window, value)
        for detector, seen in scores["drift"].items():
            self._metrics.drift(detector, seen["score"], seen.get("threshold"))


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    """Return each member's share of the blend, from what it gives its best candidate; what takes away counts as none.

    >>> _shares({"deep": 3.0, "session_knn": 1.0, "mad": -3.0})
    {'deep': 0.75, 'session_knn': 0.25, 'mad': 0.0}
    """
    pulls = {member: max(0.0, weight) for member, weight in weights.items()}
    whole = sum(pulls.values())
    return {member: pull / whole if whole else 0.0 for member, pull in pulls.items()}
