"""Rounds of the slow learner: when to train, and what became of it. A fold without torch.

The fine-tuner folds this. What torch does beside it (training a candidate, letting the models predict) comes back as
judgements (`learners.evidence`). So the fine-tuner restarts, replays and is audited like every other shard.

A round is due by volume, by event time, by a drift alarm, or by the hits that the champion has lost (`learners.gain`).
What it trains on is `learners.material`'s, who may take whose place `learners.contest`'s. Here is the course of it: one
candidate at a time; no verdict in time means refused; a champion is watched for as long after its promotion, and again
while a candidate is in the gate.
"""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Final, Self
from zlib import crc32

import msgspec
import numpy as np
from msgspec import Struct

import headrace
from headrace.events import Event
from headrace.log import Outgoing, Record
from headrace.state import State
from headrace.topics import ALARMS
from learners.announcement import Announcement, Kind, announced
from learners.browsing import Browsing, Question
from learners.contest import CHAMPION, NOTHING, PREDECESSOR, Trial, Watch
from learners.drift import alarmed
from learners.evidence import Compared, Trained, decode
from learners.gain import Gain
from learners.gate import Verdict, retention
from learners.judgement import Listed
from learners.material import Material
from learners.session_knn import SessionKnn

leading_max: Final = 5_000
"""Bad records before a partition's first event that count as seen; of more, the log has lost its beginning."""
former_max: Final = 8
"""Newest former champions whose blobs are kept."""
FRESH: Final = SessionKnn.name
"""The learner that is always fresh, beside which is seen what the champion loses by not being so."""


class RoundSettings(Struct, frozen=True, kw_only=True):
    """When a round is due and what it may hold. Counts are of records of `events`, times are event time; `gain_hits` of
    0 says that no round is due by them.
    """

    round_events: int = 20_000
    round_ms: int | None = None
    drift_events_min: int = 5_000
    gain_hits: float = 0.0
    gate_events_max: int = 10_000
    holdout_share: float = 0.02
    seed: int = 0
    items_max: int = 131_072
    shoppers_max: int = 100_000
    window_max: int = 50_000
    rehearsal_max: int = 50_000
    slices_max: int = 6
    slice_steps_max: int = 300


_STANDING: Final = ("champion", "candidate", "predecessor", "proposed")
_PLAIN: Final = (
    "round", "due", "_time_ms", "_round_at", "_round_ms", "_candidate_at", "_gate_events", "_broken_at",
    "_watched_until", "_announced",
)  # fmt: skip


class Rounds:
    """The fine-tuner's memory and its rules.

    `due` names the trigger of a round that should be trained now, "" if none; `proposed` is a model from elsewhere that
    waits to be checked. Only one candidate is in the gate at a time.
    """

    def __init__(self, settings: RoundSettings | None = None) -> None:
        self.settings = settings or RoundSettings()
        self.round = 0
        self.due = ""
        self.champion: Announcement | None = None
        self.candidate: Announcement | None = None
        self.predecessor: Announcement | None = None
        self.proposed: Announcement | None = None
        self.former: list[str] = []  # blobs of earlier champions, newest first
        self.ends = {"promoted": 0, "refused": 0, "failed": 0, "rolled_back": 0}
        rules = self.settings
        self.browsing = Browsing(items_max=rules.items_max, shoppers_max=rules.shoppers_max)
        self.material = Material(
            seed=rules.seed, holdout_share=rules.holdout_share, shoppers_max=rules.shoppers_max,
            window_max=rules.window_max, rehearsal_max=rules.rehearsal_max, slices_max=rules.slices_max,
            slice_steps_max=rules.slice_steps_max,
        )  # fmt: skip
        self._trial: Trial | None = None
        self._watch = Watch()
        self._gain = Gain(rules.gain_hits)
        self._positions: dict[int, int] = {}
        self._firsts: dict[int, int] = {}
        self._time_ms = 0
        self._round_at = 0
        self._round_ms = 0
        self._candidate_at = 0
        self._gate_events = rules.gate_events_max
        self._broken_at = 0
        self._watched_until = 0
        self._announced = 0
        self._outbox: list[Outgoing] = []
        self._announce("schedule", due=self.settings.round_events)

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of all that shapes the state's bytes."""
        return {
            "headrace": headrace.__version__,
            "numpy": np.__version__,
            "river": version("river"),
            "settings": msgspec.json.encode(self.settings).decode(),
        }

    @property
    def seen(self) -> int:
        """How many records of `events` were seen: the bad ones, which come before a good one, too, but not those that
        the log lost before the first one."""
        return sum(self._positions.values()) - sum(self._firsts.values())

    @property
    def broken(self) -> bool:
        """Whether drift was noticed since the champion was trained: what answered before is then of no use."""
        return self._broken_at > 0

    @property
    def comparing(self) -> bool:
        """Whether new events should be scored by the models."""
        return self.candidate is not None or bool(self._watch) or bool(self.settings.gain_hits and self.champion)

    def learn(self, event: Event, partition: int, offset: int) -> None:
        """Remember what the shopper did; notice when a round is due."""
        if partition not in self._firsts:  # bad ones at the log's beginning count
            self._firsts[partition] = offset if offset > leading_max else 0
        self._positions[partition] = offset + 1
        self._time_ms = max(self._time_ms, event.time_ms)
        self._round_ms = self._round_ms or event.time_ms
        material, browsing = self.material, self.browsing
        out = material.held_out(event.shopper)
        if out:
            material.hold([browsing.question(step) for step in browsing.steps(event) if step.context.items])
        items = browsing.learn(event)
        if items and not out:
            context = browsing.contexts.context(event.shopper, event.time_ms, event.data.session_id)
            material.follow(event.shopper, context.session, items, event.time_ms)
        if not self.due and self.candidate is None and material:
            self.due = self._trigger()

    def _trigger(self) -> str:
        """Return what asks for a round now, "" if nothing does.

        Drift that was noticed too soon after a round, or while a candidate was in the gate, asks as soon as it may.
        """
        rules, events = self.settings, self.seen - self._round_at
        if events >= rules.round_events:
            return "volume" if self.round else "start"
        if rules.round_ms is not None and self._time_ms - self._round_ms >= rules.round_ms:
            return "time"
        return "drift" if self._broken_at > self._round_at and events >= rules.drift_events_min else ""

    def observe(self, event: Event) -> tuple[Question, dict[str, Listed]] | None:
        """Return one step of an event as a question, and the fast learners' lists for it.

        Which one of an event with many lines, a seeded hash of its id says.

        None if the event has no step with a context. Called before `learn`; changes nothing.
        """
        found = [step for step in self.browsing.steps(event) if step.context.items]
        if not found:
            return None
        step = found[crc32(event.id.encode(), self.settings.seed) % len(found)]
        return self.browsing.question(step), self.browsing.lists(step.context)

    def log_range(self) -> list[str]:
        """Return up to where each partition of `events` was read, for a candidate's lineage."""
        return [f"{partition}:{end}" for partition, end in sorted(self._positions.items())]

    def hear(self, topic: str, record: Record) -> None:
        """Take up a drift alarm, a proposed model or an operator's rollback."""
        if topic == ALARMS:
            if alarmed(record):
                self._broken_at = self.seen
            return
        announcement = announced(record)
        if announcement is None or announcement.id.startswith("finetune/"):
            return  # our own words
        if announcement.kind == "proposed":
            if self.proposed is None:
                self.proposed = announcement
            else:
                self._announce(
                    "refused", name=announcement.version, blob=announcement.blob, trigger="proposed",
                    reason=f"{self.proposed.version} was proposed before and waits; propose it again after its verdict",
                    due=self._pending_due(),
                )  # fmt: skip
        elif announcement.kind == "rolled_back":
            self._return_to(announcement)

    def absorb(self, judgement: bytes) -> None:
        """Take in what torch made or said."""
        found = decode(judgement)
        if isinstance(found, Trained):
            self._take_candidate(found)
        else:
            self._compare(found)

    def _take_candidate(self, trained: Trained) -> None:
        if trained.trigger == "proposed":
            self.proposed = None
        else:
            self.material.turn()
            self.due, self._round_at, self._round_ms = "", self.seen, self._time_ms
            self._gain.pay()
        self.round += 1
        name = f"r{self.round:04d}-{trained.blob.rpartition('-')[2][:8]}"
        reasons = list(trained.reasons)
        if not reasons and self.champion:
            names = [f"{number}" for number in range(len(trained.retention))]
            champion, challenger = zip(*trained.retention, strict=True) if trained.retention else ((), ())
            reasons = retention(dict(zip(names, champion, strict=True)), dict(zip(names, challenger, strict=True)))
        if reasons:
            self._announce(
                "refused" if trained.blob else "failed", name=name, blob=trained.blob, trigger=trained.trigger,
                reason="; ".join(reasons), due=self._next_due(), lineage=trained.lineage,
            )  # fmt: skip
            return
        self._trial = Trial()
        # The judge says how long, not today's settings: folded anew under others, verdicts stay those that were given.
        self._candidate_at, self._gate_events = self.seen, trained.gate_events or self.settings.gate_events_max
        self.candidate = self._announce(
            "candidate", name=name, blob=trained.blob, trigger=trained.trigger, lineage=trained.lineage,
            due=self.seen + self._gate_events,
        )  # fmt: skip
        if self.champion:
            self._begin_watch(NOTHING)

    def _begin_watch(self, rival: str) -> None:
        self._watch.add(rival)
        self._watched_until = self.seen + self._gate_events

    def _compare(self, compared: Compared) -> None:
        """Let candidate, champion and those who stand by face each other, event by event."""
        for row in range(len(compared.worths[NOTHING])):
            worths = {blob: values[row] for blob, values in compared.worths.items()}
            alone = {name: values[row] for name, values in compared.alone.items()}
            for one in (self.candidate, self.champion, self.predecessor):
                if one:  # whoever was not asked, as whoever is lost, adds nothing to the blend and finds nothing alone
                    worths.setdefault(one.blob, worths[NOTHING])
                    alone.setdefault(one.blob, 0.0)
            self._count_lost(alone)
            if self._trial and self.candidate:
                rivals = {NOTHING: worths[NOTHING]}
                if self.champion:
                    rivals[CHAMPION] = worths[self.champion.blob]
                blob, fast = self.candidate.blob, {name: alone[name] for name in self.browsing.members}
                if verdict := self._trial.observe(worths[blob], alone[blob], rivals, fast):
                    self._decide(verdict)
                    continue  # a promoted one is watched from the next event on
            if self._watch and self.champion:
                rivals = {NOTHING: worths[NOTHING]}
                if self.predecessor:
                    rivals[PREDECESSOR] = worths[self.predecessor.blob]
                if found := self._watch.observe(worths[self.champion.blob], rivals):
                    self._roll_back(*found)
                elif PREDECESSOR not in self._watch:
                    self.predecessor = None

    def _count_lost(self, alone: Mapping[str, float]) -> None:
        """Notice when a round is due because the champion has fallen behind the learner that is always fresh."""
        if not self.champion or FRESH not in alone:
            return
        is_worth_it = self._gain.observe(found=alone[self.champion.blob] > 0, fresh=alone[FRESH] > 0)
        if is_worth_it and not self.due and self.candidate is None and self.material:
            self.due = "gain"

    def _decide(self, verdict: Verdict) -> None:
        candidate, trial = self.candidate, self._trial
        assert candidate is not None
        assert trial is not None
        self.candidate, self._trial = None, None
        evidence = {
            "wealth": verdict.evidence,
            "predictions": verdict.events,
            "mean_difference": verdict.mean_difference,
            **trial.evidence(),
        }
        kind: Kind = "promoted" if verdict.kind == "promote" else "refused"
        announcement = self._announce(
            kind, name=candidate.version, blob=candidate.blob, trigger=candidate.trigger, reason=verdict.reason,
            parent=self.champion.version if self.champion else "", evidence=evidence, due=self._next_due(),
        )  # fmt: skip
        if kind == "promoted":
            if self._broken_at <= self._candidate_at:
                self._broken_at = 0
            self._watch.clear()
            self.predecessor, self.champion = self.champion, announcement
            self._gain.renew()
            if self.predecessor:
                self._remember(self.predecessor)
                self._begin_watch(PREDECESSOR)
            self._begin_watch(NOTHING)

    def _roll_back(self, rival: str, verdict: Verdict) -> None:
        """Go back to the predecessor, or to no deep model: the champion has beaten that one, too."""
        assert self.champion is not None
        back = self.predecessor if rival == PREDECESSOR else None
        reason = "its successor did worse live" if back else f"the blend does better without {self.champion.version}"
        self._return_to(
            self._announce(
                "rolled_back", name=back.version if back else "", blob=back.blob if back else "",
                reason=reason, due=self._pending_due(),
                evidence={
                    "wealth": verdict.evidence,
                    "predictions": verdict.events,
                    "mean_difference": verdict.mean_difference,
                },
            )
        )  # fmt: skip

    def _return_to(self, announcement: Announcement) -> None:
        """Take what was rolled back to as champion; nobody stands by until the next candidate comes."""
        if self.champion:
            self._remember(self.champion)
        self.champion = announcement if announcement.blob else None
        self.predecessor = None
        self._watch.clear()
        self._gain.pay()  # it was another's loss

    def _remember(self, champion: Announcement) -> None:
        self.former = [champion.blob, *(blob for blob in self.former if blob != champion.blob)][:former_max]

    def emit(self) -> list[Outgoing]:
        """End an entry: close what has had its time, then return and forget the announcements since the last call."""
        if self._trial and self.seen - self._candidate_at >= self._gate_events:
            self._decide(self._trial.expire())
        if self._watch and self.seen >= self._watched_until:
            self.predecessor = None
            self._watch.clear()
        self.browsing.traits.settle()
        outbox, self._outbox = self._outbox, []
        return outbox

    def _next_due(self) -> int:
        return max(self._round_at + self.settings.round_events, self.seen + 1)

    def _pending_due(self) -> int:
        return self._candidate_at + self._gate_events if self.candidate else self._next_due()

    def _announce(
        self,
        kind: Kind,
        *,
        due: int,
        name: str = "",
        blob: str = "",
        trigger: str = "",
        reason: str = "",
        parent: str = "",
        evidence: dict[str, object] | None = None,
        lineage: Mapping[str, object] | None = None,
    ) -> Announcement:
        announcement = Announcement(
            id=f"finetune/{self._announced}", kind=kind, round=self.round, at_events=self.seen, due_events=due,
            time_ms=self._time_ms, version=name, blob=blob, parent=parent, trigger=trigger, reason=reason,
            evidence=evidence or {}, lineage=dict(lineage or {}),
        )  # fmt: skip
        self._announced += 1
        if kind in self.ends:
            self.ends[kind] += 1
        self._outbox.append(announcement.record())
        return announcement

    def kept_blobs(self) -> set[str]:
        """Return the models that must stay: in use, in the gate, and the newest former champions."""
        return self.standing_blobs() | set(self.former)

    def standing_blobs(self) -> set[str]:
        """Return the models that may be asked: the champion, who is in the gate, who stands by and who waits."""
        named = (self.champion, self.candidate, self.predecessor, self.proposed)
        return {one.blob for one in named if one}

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return what each bounded table holds, and its maximum."""
        return {
            **self.browsing.bounds(),
            **self.material.bounds(),
        }

    def state(self) -> State:
        """Return all that was learned."""
        return {
            "settings": msgspec.to_builtins(self.settings),
            **{name: getattr(self, name) for name in _PLAIN},
            **{name: msgspec.to_builtins(getattr(self, name)) for name in _STANDING},
            "former": list(self.former),
            "ends": dict(self.ends),
            "browsing": self.browsing.state(),
            "material": self.material.state(),
            "trial": self._trial.state() if self._trial else None,
            "watch": self._watch.state(),
            "gain": self._gain.state(),
            "positions": [list(pair) for pair in sorted(self._positions.items())],
            "firsts": [list(pair) for pair in sorted(self._firsts.items())],
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return rounds that continue exactly where `state` was taken."""
        rounds = cls(msgspec.convert(state["settings"], RoundSettings))
        rounds._outbox = []
        for name in _PLAIN:
            setattr(rounds, name, state[name])
        for name in _STANDING:
            setattr(rounds, name, msgspec.convert(state[name], Announcement | None))
        rounds.former, rounds.ends = list(state["former"]), dict(state["ends"])
        rounds.browsing = Browsing.from_state(state["browsing"])
        rounds.material.restore(state["material"])
        rounds._trial = Trial.from_state(state["trial"]) if state["trial"] else None
        rounds._watch = Watch.from_state(state["watch"])
        rounds._gain = Gain.from_state(state["gain"])
        rounds._positions, rounds._firsts = dict(state["positions"]), dict(state["firsts"])
        return rounds
