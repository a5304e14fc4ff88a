"""The shop: all fast learners, the blend, the drift detectors and the scores, as one fold over a shop's events.

This is what the online consumer folds and what serving follows. Torch has no part in it: the deep model's answers come
in as judgements and, when serving, as an argument.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final, NamedTuple, Self

import msgspec
import numpy as np

import headrace
from headrace.events import Event
from headrace.log import Outgoing, Record
from headrace.state import State
from headrace.topics import ALARMS, SCORES
from learners import judgement
from learners.announcement import Announcement, announced
from learners.blend import Blend
from learners.catalogue import Catalogue
from learners.contexts import STEPS, VIEWS, Contexts, steps
from learners.drift import Alarm, InputDrift, LossDrift
from learners.judgement import Pooled, listed, pool
from learners.learner import Context, NextItem, Scores, top
from learners.popularity import Popularity
from learners.prequential import Probability, Ranking
from learners.propensity import Propensity
from learners.session_knn import SessionKnn
from learners.transitions import Transitions

DEEP: Final = "deep"
BLEND: Final = "blend"
FAST: Final = ("popularity", "transitions", "session_knn")
MEMBERS: Final = (*FAST, DEEP)
RANKED: Final = (*MEMBERS, BLEND)

score_every_events: Final = 1_000
"""Events between two records of `scores`."""
skipped_max: Final = 100
"""Items of the newest context that are never recommended again, at most (what was just looked at or bought)."""


class ShopSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of a shop's tables. Part of a snapshot's versions: other bounds are another fold."""

    items_max: int = 131_072
    shoppers_max: int = 100_000


class Step(NamedTuple):
    """One step of an event before it is learned: the context it was taken in, and the item."""

    context: Context
    item: str


class Shop:
    """Everything that is learned from each event, and what it knows of the deep model's standing.

    `champion` is the newest promoted model's announcement, or None.
    """

    def __init__(self, settings: ShopSettings | None = None) -> None:
        self.settings = settings or ShopSettings()
        self.champion: Announcement | None = None
        self.events = 0
        self.time_ms = 0
        self.catalogue = Catalogue(items_max=self.settings.items_max)
        self.contexts = Contexts(shoppers_max=self.settings.shoppers_max)
        self.members: dict[str, NextItem] = {
            member.name: member
            for member in (
                Popularity(items_max=self.settings.items_max),
                Transitions(items_max=self.settings.items_max),
                SessionKnn(),
            )
        }
        self.propensity = Propensity()
        self.blend = Blend()
        self.ranking = {name: Ranking() for name in RANKED}
        self.probability = Probability()
        self.input_drift = InputDrift()
        self.loss_drift = {name: LossDrift(name) for name in ("blend_miss", "propensity_loss")}
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
        self.time_ms = event.time_ms
        if event.type in STEPS:
            self._learn_steps(event, partition, offset)
        self.propensity.learn(event)
        for label in self.propensity.take_labelled():
            self.probability.observe(label.probability, label.bought)
            loss = (label.bought - label.probability) ** 2
            self._alarm(self.loss_drift["propensity_loss"].observe(loss), partition, offset)
        if self.events % score_every_events == 0:
            self._outbox.append(self._scores(partition, offset))

    def _learn_steps(self, event: Event, partition: int, offset: int) -> None:
        shopper, time_ms, name = event.shopper, event.time_ms, event.data.session_id
        if event.type in VIEWS:
            line = event.data.items[0]
            unseen = self.catalogue.slot(line.item_id) is None
            self._alarm(
                self.input_drift.observe(line.item_id, line.item_category, line.price, unseen=unseen), partition, offset
            )
        context = self.contexts.context(shopper, time_ms, name)
        for item in steps(event, self.ids(context.items[context.start :])):
            if gone := self.catalogue.evict():
                self.contexts.forget(gone)
                for member in self.members.values():
                    member.forget(gone)
                context = self.contexts.context(shopper, time_ms, name)
            slot = self.catalogue.admit(item)
            self.contexts.push(shopper, slot, time_ms, name)
            after = self.contexts.context(shopper, time_ms, name)
            # The step began its session if the context was an ended one: then only `after` knows the session's number.
            context = context._replace(session=after.session)
            for member in self.members.values():
                member.learn(context, slot)
            context = after

    def steps(self, event: Event) -> list[Step]:
        """Return the steps that `learn` would take from an event, each in its context. Changes nothing."""
        if event.type not in STEPS:
            return []
        context = self.contexts.context(event.shopper, event.time_ms, event.data.session_id)
        found = []
        for item in steps(event, self.ids(context.items[context.start :])):
            found.append(Step(context, item))
            slot = self.catalogue.slot(item)
            if slot is not None:
                context = context._replace(items=[*context.items, slot])
        return found

    def ids(self, slots: Sequence[int]) -> list[str]:
        """Return the item ids of slots in use."""
        item = self.catalogue.item
        return [item(slot) for slot in slots]

    def lists(self, context: Context) -> dict[str, tuple[list[str], Any]]:
        """Return each fast member's best candidates for a context: item ids and scores, best first."""
        found = {}
        for name, member in self.members.items():
            slots, scores = top(member.predict(context), listed)
            found[name] = (self.ids(slots.tolist()), scores)
        return found

    def recommend(
        self, shopper: str, time_ms: int, n: int, deep: tuple[list[str], Any] | None = None
    ) -> list[tuple[str, float]]:
        """Return the blend's n best items for a shopper, best first, with scores; what was just seen is left out.

        A shopper never seen gets popular items. Changes nothing.

        Args:
            deep: the deep model's items and scores for this shopper's context, if there is a model.
        """
        context = self.contexts.context(shopper, time_ms)
        if context.start == len(context.items) and context.items:  # between sessions: the last one is what we know
            context = context._replace(start=0)
        lists = self.lists(context)
        if deep is not None:
            lists[DEEP] = deep
        pooled = pool(lists)
        session = set(self.ids(context.items[context.start :][-skipped_max:]))
        best = top(self.blended(pooled, len(context.items) - context.start), len(pooled.candidates))
        named = ((pooled.candidates[slot], float(score)) for slot, score in zip(*best, strict=True))
        answer = [(item, score) for item, score in named if item not in session][:n]
        if len(answer) < n:  # long lists are filled up with popular items
            given = session | {item for item, _ in answer}
            slots, _ = top(self.members["popularity"].predict(context), n + len(given))
            answer += [(item, 0.0) for item in self.ids(slots.tolist()) if item not in given][: n - len(answer)]
        return answer

    def blended(self, pooled: Pooled, prefix: int) -> Scores:
        """Return the blend's scores over pooled candidates."""
        return self.blend.predict(pooled.lists, prefix)

    def absorb(self, data: bytes) -> None:
        """Learn the blend's weights and all ranking scores from judgements."""
        for one in judgement.decode(data):
            weight = 1 / one.inclusion
            for name, rank in one.ranks.items():
                self.ranking[name].observe(rank or None, weight)
            self._alarm(self.loss_drift["blend_miss"].observe(float(one.ranks[BLEND] == 0)), one.partition, one.offset)
            self.blend.learn(one.lists(), one.prefix, one.target())

    def hear(self, topic: str, record: Record) -> None:
        """Take up a promoted model, or go back to one."""
        announcement = announced(record)
        if announcement and announcement.kind in ("promoted", "rolled_back"):
            self.champion = announcement if announcement.blob else None

    def emit(self) -> list[Outgoing]:
        """Return and forget scores and alarms since the last call."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def _alarm(self, alarms: Sequence[Alarm], partition: int, offset: int) -> None:
        for alarm in alarms:
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
            "propensity": {
                "judged": self.probability.judged,
                "window": self.probability.scores("window"),
                "whole": self.probability.scores("whole"),
            },
            "drift": {
                **{d.name: {"score": d.score, "threshold": d.threshold} for d in self.input_drift.distances},
                **{name: {"score": drift.mean} for name, drift in self.loss_drift.items()},
            },
        }

    def _scores(self, partition: int, offset: int) -> Outgoing:
        document = {"id": f"shop/{partition}/{offset}", **self.scores()}
        return Outgoing(SCORES, b"shop", msgspec.json.encode(document), 0)

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return what each bounded table holds, and its maximum."""
        parts: list[tuple[str, Mapping[str, tuple[int, int]]]] = [
            ("catalogue", self.catalogue.bounds()),
            ("contexts", self.contexts.bounds()),
            ("propensity", self.propensity.bounds()),
            *((name, member.bounds()) for name, member in self.members.items()),
        ]
        return {f"{part}_{table}": use for part, bounds in parts for table, use in bounds.items()}

    def state(self) -> State:
        """Return all that was learned."""
        return {
            "settings": msgspec.to_builtins(self.settings),
            "champion": msgspec.to_builtins(self.champion),
            "events": self.events,
            "time_ms": self.time_ms,
            "catalogue": self.catalogue.state(),
            "contexts": self.contexts.state(),
            "members": {name: member.state() for name, member in self.members.items()},
            "propensity": self.propensity.state(),
            "blend": self.blend.state(),
            "ranking": {name: ranking.state() for name, ranking in self.ranking.items()},
            "probability": self.probability.state(),
            "input_drift": self.input_drift.state(),
            "loss_drift": {name: drift.state() for name, drift in self.loss_drift.items()},
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a shop that continues exactly where `state` was taken."""
        shop = cls(msgspec.convert(state["settings"], ShopSettings))
        shop.champion = msgspec.convert(state["champion"], Announcement | None)
        shop.events, shop.time_ms = state["events"], state["time_ms"]
        shop.catalogue = Catalogue.from_state(state["catalogue"])
        shop.contexts = Contexts.from_state(state["contexts"])
        shop.members = {
            kind.name: kind.from_state(state["members"][kind.name]) for kind in (Popularity, Transitions, SessionKnn)
        }
        shop.propensity = Propensity.from_state(state["propensity"])
        shop.blend = Blend.from_state(state["blend"])
        shop.ranking = {name: Ranking.from_state(part) for name, part in state["ranking"].items()}
        shop.probability = Probability.from_state(state["probability"])
        shop.input_drift = InputDrift.from_state(state["input_drift"])
        shop.loss_drift = {name: LossDrift.from_state(part) for name, part in state["loss_drift"].items()}
        return shop
