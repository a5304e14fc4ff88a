"""The shop: all fast learners, the blend, the drift detectors and the scores, as one fold over a shop's events.

This is what the online consumer folds and what serving follows. Torch has no part in it: the deep model's answers come
in as judgements and, when serving, as an argument.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

import headrace
from headrace.events import Event
from headrace.log import Outgoing, Record
from headrace.state import State
from headrace.topics import ALARMS, SCORES
from learners import judgement
from learners.announcement import Announcement, announced
from learners.blend import Blend
from learners.browsing import KINDS, Browsing
from learners.buying import LOSS, Buying
from learners.contexts import VIEWS
from learners.drift import DISTANCES, LOSS_TESTS, Alarm, InputDrift, LossDrift
from learners.judgement import Pooled, pool
from learners.learner import Scores, top
from learners.prequential import Ranking

DEEP: Final = "deep"
BLEND: Final = "blend"
MISS: Final = "blend_miss"
DETECTORS: Final = (*DISTANCES, *(f"{loss}_{test}" for loss in (MISS, LOSS) for test in LOSS_TESTS))
RANKED: Final = (*KINDS, DEEP, BLEND)

score_every_events: Final = 1_000
"""Events between two records of `scores`."""
watched_prefix_max: Final = 3
"""Longest session so far whose next step is watched for drift. Detectors suppose that losses do not depend on each
other; one bot that reads the whole catalogue would otherwise be a hundred misses in a row, and a drift."""
skipped_max: Final = 100
"""Items of the newest context that are never recommended again, at most (what was just looked at or bought)."""


class ShopSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of a shop's tables. Part of a snapshot's versions: other bounds are another fold."""

    items_max: int = 131_072
    shoppers_max: int = 100_000


class Shop:
    """Everything that is learned from each event, and what it knows of the deep model's standing.

    `champion` is the newest promoted model's announcement, or None.
    """

    def __init__(self, settings: ShopSettings | None = None) -> None:
        self.settings = settings or ShopSettings()
        self.champion: Announcement | None = None
        self.events = 0
        self.time_ms = 0
        self.browsing = Browsing(items_max=self.settings.items_max, shoppers_max=self.settings.shoppers_max)
        self.buying = Buying()
        self.blend = Blend()
        self.ranking = {name: Ranking() for name in RANKED}
        self.input_drift = InputDrift()
        self.miss_drift = LossDrift(MISS)
        self.alarms = dict.fromkeys(DETECTORS, 0)
        self._outbox: list[Outgoing] = []

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of all that shapes the state's bytes."""
        return {
            "headrace": headrace.__version__,
            "river": version("river"),
            "numpy": np.__version__,
            "settings": msgspec.json.encode(self.settings).decode(),
        }

    def learn(self, event: Event, partition: int, offset: int) -> None:
        """Learn from one event."""
        self.events += 1
        self.time_ms = max(self.time_ms, event.time_ms)  # a late event does not set the shop's clock back
        if event.type in VIEWS:
            line = event.data.items[0]
            unseen = self.browsing.catalogue.slot(line.item_id) is None
            drift = self.input_drift.observe(line.item_id, line.item_category, line.price, unseen=unseen)
            self._alarm(drift, partition, offset)
        self.browsing.learn(event)
        self._alarm(self.buying.learn(event), partition, offset)
        if self.events % score_every_events == 0:
            self._outbox.append(self._scores(partition, offset))

    def recommend(
        self, shopper: str, time_ms: int, n: int, deep: tuple[list[str], Any] | None = None
    ) -> list[tuple[str, float]]:
        """Return the blend's n best items for a shopper, best first, with scores; what was just seen is left out.

        A shopper never seen gets popular items. Changes nothing.

        Args:
            deep: the deep model's items and scores for this shopper's context, if there is a model.
        """
        context = self.browsing.contexts.context(shopper, time_ms)
        seen = set(self.browsing.ids(context.items[context.start :][-skipped_max:]))  # in this visit: others may recur
        if context.start == len(context.items) and context.items:  # between sessions: the last one is what we know
            context = context._replace(start=0)
        lists = self.browsing.lists(context)
        if deep is not None:
            lists[DEEP] = deep
        pooled = pool(lists)
        remembered = self.browsing.ids(context.items)
        traits = self.browsing.describe(pooled.candidates, remembered, context.start, time_ms)
        best = top(self.blended(pooled, len(context.items) - context.start, traits), len(pooled.candidates))
        named = ((pooled.candidates[slot], float(score)) for slot, score in zip(*best, strict=True))
        answer = [(item, score) for item, score in named if item not in seen][:n]
        if len(answer) < n:  # long lists are filled up with popular items
            given = seen | {item for item, _ in answer}
            slots, _ = top(self.browsing.members["popularity"].predict(context), n + len(given))
            more = [(item, 0.0) for item in self.browsing.ids(slots.tolist()) if item not in given]
            answer += more[: n - len(answer)]
        return answer

    def blended(self, pooled: Pooled, prefix: int, traits: NDArray[np.uint8]) -> Scores:
        """Return the blend's scores over pooled candidates, whose traits `browsing.describe` tells."""
        return self.blend.predict(pooled.lists, prefix, traits.__getitem__)

    def absorb(self, data: bytes) -> None:
        """Learn the blend's weights and all ranking scores from judgements."""
        for one in judgement.decode(data):
            weight = 1 / one.inclusion
            for name, rank in one.ranks.items():
                self.ranking[name].observe(rank or None, weight)
            if one.prefix <= watched_prefix_max:
                self._alarm(self.miss_drift.observe(float(one.ranks[BLEND] == 0)), one.partition, one.offset)
            traits = one.described()
            describe = None if traits is None else traits.__getitem__
            self.blend.learn(one.lists(), one.prefix, one.target(), describe)

    def hear(self, topic: str, record: Record) -> None:
        """Take up a promoted model, or go back to one."""
        announcement = announced(record)
        if announcement and announcement.kind in ("promoted", "rolled_back"):
            self.champion = announcement if announcement.blob else None

    def emit(self) -> list[Outgoing]:
        """End an entry: let what was learned show, then return and forget scores and alarms since the last call."""
        self.browsing.traits.settle()
        outbox, self._outbox = self._outbox, []
        return outbox

    def _alarm(self, alarms: Sequence[Alarm], partition: int, offset: int) -> None:
        for alarm in alarms:
            self.alarms[alarm.detector] += 1
            document = {
                "id": f"{alarm.detector}/{partition}/{offset}",
                "detector": alarm.detector,
                "score": alarm.score,
                "threshold": alarm.threshold,
                "events": self.events,
                "time_ms": self.time_ms,
            }
            self._outbox.append(Outgoing(ALARMS, alarm.detector.encode(), msgspec.json.encode(document), 0))

    def scores(self) -> dict[str, Any]:
        """Return all current scores, as a record of `scores` holds them."""
        return {
            "events": self.events,
            "time_ms": self.time_ms,
            "champion": self.champion.version if self.champion else "",
            "ranking": {
                name: {
                    "judged": ranking.judged,
                    "window": ranking.scores("window"),
                    "whole": ranking.scores("whole"),
                }
                for name, ranking in self.ranking.items()
            },
            "propensity": self.buying.scores(),
            "drift": {
                **{d.name: {"score": d.score, "threshold": d.threshold} for d in self.input_drift.distances},
                **{drift.name: {"score": drift.mean} for drift in (self.miss_drift, self.buying.drift)},
            },
        }

    def _scores(self, partition: int, offset: int) -> Outgoing:
        document = {"id": f"shop/{partition}/{offset}", **self.scores()}
        return Outgoing(SCORES, b"shop", msgspec.json.encode(document), 0)

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return what each bounded table holds, and its maximum."""
        return {**self.browsing.bounds(), **self.buying.bounds()}

    def state(self) -> State:
        """Return all that was learned."""
        return {
            "settings": msgspec.to_builtins(self.settings),
            "champion": msgspec.to_builtins(self.champion),
            "events": self.events,
            "time_ms": self.time_ms,
            "browsing": self.browsing.state(),
            "buying": self.buying.state(),
            "blend": self.blend.state(),
            "ranking": {name: ranking.state() for name, ranking in self.ranking.items()},
            "input_drift": self.input_drift.state(),
            "miss_drift": self.miss_drift.state(),
            "alarms": dict(self.alarms),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a shop that continues exactly where `state` was taken."""
        shop = cls(msgspec.convert(state["settings"], ShopSettings))
        shop.champion = msgspec.convert(state["champion"], Announcement | None)
        shop.events, shop.time_ms = state["events"], state["time_ms"]
        shop.browsing = Browsing.from_state(state["browsing"])
        shop.buying = Buying.from_state(state["buying"])
        shop.blend = Blend.from_state(state["blend"])
        shop.ranking = {name: Ranking.from_state(state["ranking"][name]) for name in RANKED}
        shop.input_drift = InputDrift.from_state(state["input_drift"])
        shop.miss_drift = LossDrift.from_state(state["miss_drift"])
        shop.alarms = {name: state["alarms"][name] for name in DETECTORS}
        return shop
