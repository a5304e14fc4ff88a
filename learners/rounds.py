"""Rounds of the slow learner: when to train, on what, against whom, and what became of it. A fold without torch.

The fine-tuner folds this. What torch does beside it (training a candidate, letting champion and challenger predict)
comes back as judgements: `Trained` and `Compared`. So the fine-tuner restarts, replays and is audited like every other
shard.

A round is due by volume, by event time or by a drift alarm. It trains on what shoppers did since the last round plus a
rehearsed sample of the past; shoppers of the seeded holdout are never trained on, and what they did is kept in slices,
one per round, for the retention check. The candidate then faces the champion on events that neither has trained on;
before there is a champion, the fast learner that has done best so far. A promoted model's predecessor goes on being
compared.
"""

from collections import deque
from collections.abc import Mapping, Sequence
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
from learners.gate import Gate, Verdict, retention
from learners.rehearsal import Rehearsal, Window

CHAMPION: Final = "champion"


class RoundSettings(Struct, frozen=True, kw_only=True):
    """When a round is due and what it may hold. Counts are of records of `events`, times are event time."""

    round_events: int = 20_000
    round_ms: int | None = None
    drift_events_min: int = 5_000
    gate_events_max: int = 10_000
    holdout_share: float = 0.02
    seed: int = 0
    items_max: int = 131_072
    shoppers_max: int = 100_000
    window_max: int = 50_000
    rehearsal_max: int = 50_000
    slices_max: int = 6
    slice_steps_max: int = 300


class Trained(Struct, frozen=True, tag=True):
    """What training made, or why it made nothing: `reasons` that the model is unfit.

    `retention` has, per older slice of the holdout, the reciprocal ranks of champion and candidate.
    """

    blob: str
    trigger: str
    reasons: list[str]
    retention: list[tuple[list[float], list[float]]]
    lineage: dict[str, str | int | float | list[str]]


class Compared(Struct, frozen=True, tag=True):
    """Reciprocal ranks (0: not in the first 20) on new events, one row per event.

    `rivals` are the champion's, or each fast learner's before there is one; on probation, the predecessor's.
    """

    subject: str
    ours: list[float]
    rivals: dict[str, list[float]]


_decoder = msgspec.msgpack.Decoder(Trained | Compared)
_STANDING: Final = ("champion", "candidate", "predecessor", "proposed")
_PLAIN: Final = (
    "round", "due", "_time_ms", "_round_at", "_round_ms", "_candidate_at", "_promoted_at", "_announced",
)  # fmt: skip


def encode(judgement: Trained | Compared) -> bytes:
    """Return a judgement's wire form."""
    return msgspec.msgpack.encode(judgement)


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
        self.browsing = Browsing(items_max=self.settings.items_max, shoppers_max=self.settings.shoppers_max)
        self.rehearsal = Rehearsal(self.settings.seed, self.settings.rehearsal_max)
        self._window = Window(self.settings.window_max)
        self._open: dict[str, tuple[int, list[str]]] = {}  # of each shopper: the session's number, its items
        self._slice: list[Question] = []
        self.slices: deque[list[Question]] = deque(maxlen=self.settings.slices_max)
        self._gate: Gate | None = None
        self._probation: Gate | None = None
        self._means: dict[str, list[float]] = {}  # of each rival in the gate: sum of reciprocal ranks, count
        self._positions: dict[int, int] = {}
        self._time_ms = 0
        self._round_at = 0
        self._round_ms = 0
        self._candidate_at = 0
        self._promoted_at = 0
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
        """How many records of `events` were seen: the bad ones, which come before a good one, too."""
        return sum(self._positions.values())

    @property
    def comparing(self) -> bool:
        """Whether new events should be scored by the models."""
        return self.candidate is not None or self.predecessor is not None

    def held_out(self, shopper: str) -> bool:
        """Return whether a shopper belongs to the holdout that is never trained on."""
        return crc32(shopper.encode(), self.settings.seed) < self.settings.holdout_share * 0x1_0000_0000

    def learn(self, event: Event, partition: int, offset: int) -> None:
        """Remember what the shopper did; notice when a round is due."""
        self._positions[partition] = offset + 1
        self._time_ms = event.time_ms
        self._round_ms = self._round_ms or event.time_ms
        out = self.held_out(event.shopper)
        if out:
            room = self.settings.slice_steps_max - len(self._slice)
            taken = [step for step in self.browsing.steps(event) if step.context.items][:room]
            self._slice += [self.browsing.question(step) for step in taken]
        count = self.browsing.learn(event)
        if count and not out:
            self._follow(event, count)
        if not self.due and self.candidate is None and self._open:
            rules = self.settings
            if self.seen - self._round_at >= rules.round_events:
                self.due = "volume" if self.round else "start"
            elif rules.round_ms is not None and event.time_ms - self._round_ms >= rules.round_ms:
                self.due = "time"

    def _follow(self, event: Event, count: int) -> None:
        """Add the steps just learned to the shopper's open session; one that ended goes into the window."""
        context = self.browsing.contexts.context(event.shopper, event.time_ms, event.data.session_id)
        items = self.browsing.ids(context.items[-count:])
        session, sequence = self._open.pop(event.shopper, (-1, []))
        if session != context.session:
            self._close(sequence)
            sequence = []
        self._open[event.shopper] = context.session, sequence + items
        if len(self._open) > self.settings.shoppers_max:
            self._close(self._open.pop(next(iter(self._open)))[1])

    def _close(self, sequence: list[str]) -> None:
        if len(sequence) > 1 and (kept := self._window.learn(sequence, self._time_ms)):
            self.rehearsal.learn(kept.items, kept.time_ms)

    def observe(self, event: Event) -> tuple[Question, dict[str, float]] | None:
        """Return one step of an event as a question, and the fast learners' reciprocal ranks if they count.

        Which one of an event with many lines, a seeded hash of its id says.

        None if the event has no step with a context. Called before `learn`; changes nothing.
        """
        found = [step for step in self.browsing.steps(event) if step.context.items]
        if not found:
            return None
        step = found[crc32(event.id.encode(), self.settings.seed) % len(found)]
        context, item = step
        scores = {}
        for name, (items, _) in self.browsing.lists(context).items():
            scores[name] = 1 / (1 + items.index(item)) if item in items else 0.0
        return self.browsing.question(step), scores

    def window(self) -> list[Sequence[str]]:
        """Return the sessions that came since the last round, the open ones too: items in order."""
        running = [items for _, items in self._open.values() if len(items) > 1]
        return [*self._window.sequences(), *running]

    def log_range(self) -> list[str]:
        """Return up to where each partition of `events` was read, for a candidate's lineage."""
        return [f"{partition}:{end}" for partition, end in sorted(self._positions.items())]

    def hear(self, topic: str, record: Record) -> None:
        """Take up a drift alarm, a proposed model or an operator's rollback."""
        if topic == ALARMS:
            quiet = self.seen - self._round_at < self.settings.drift_events_min
            if not quiet and not self.due and self.candidate is None and record.key != b"flood":
                self.due = "drift"
            return
        announcement = announced(record)
        if announcement is None or announcement.id.startswith("finetune/"):
            return  # our own words
        if announcement.kind == "proposed" and self.proposed is None:
            self.proposed = announcement
        elif announcement.kind == "rolled_back":
            self.champion = announcement if announcement.blob else None
            self.predecessor, self._probation = None, None

    def absorb(self, judgement: bytes) -> None:
        """Take in what torch made or said."""
        found = _decoder.decode(judgement)
        if isinstance(found, Trained):
            self._take_candidate(found)
        elif self.candidate and found.subject == self.candidate.version:
            self._take_comparison(found)
        elif self.predecessor and self.champion and found.subject == self.champion.version:
            self._take_probation(found)

    def _take_candidate(self, trained: Trained) -> None:
        if trained.trigger == "proposed":
            self.proposed = None
        else:
            for _, sequence in self._open.values():
                self._close(sequence)
            for kept in self._window.drain():
                self.rehearsal.learn(kept.items, kept.time_ms)
            # A session that goes on begins anew with its last item, so that each step is trained on once.
            self._open = {name: (session, items[-1:]) for name, (session, items) in self._open.items()}
            self.slices.append(self._slice)
            self._slice = []
            self.due, self._round_at, self._round_ms = "", self.seen, self._time_ms
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
        self._gate, self._means = Gate(), {}
        self._candidate_at = self.seen
        self.candidate = self._announce(
            "candidate", name=name, blob=trained.blob, trigger=trained.trigger, lineage=trained.lineage,
            due=self.seen + self.settings.gate_events_max,
        )  # fmt: skip

    def _take_comparison(self, compared: Compared) -> None:
        assert self._gate is not None
        for row, ours in enumerate(compared.ours):
            rival = max(compared.rivals, key=self._mean)  # who has done best so far: known before this row
            verdict = self._gate.observe(compared.rivals[rival][row], ours)
            for name, values in compared.rivals.items():
                entry = self._means.setdefault(name, [0.0, 0.0])
                entry[0] += values[row]
                entry[1] += 1
            if verdict:
                self._decide(verdict)
                return

    def _mean(self, name: str) -> float:
        total, count = self._means.get(name, (0.0, 0.0))
        return total / count if count else 0.0

    def _decide(self, verdict: Verdict) -> None:
        candidate, self.candidate, self._gate = self.candidate, None, None
        assert candidate is not None
        evidence = {
            "wealth": verdict.evidence,
            "predictions": verdict.events,
            "mean_difference": verdict.mean_difference,
            "rivals": {name: total / max(1.0, count) for name, (total, count) in self._means.items()},
        }
        kind: Kind = "promoted" if verdict.kind == "promote" else "refused"
        announcement = self._announce(
            kind, name=candidate.version, blob=candidate.blob, trigger=candidate.trigger, reason=verdict.reason,
            parent=self.champion.version if self.champion else "", evidence=evidence, due=self._next_due(),
        )  # fmt: skip
        if kind == "promoted":
            if self.champion:
                self.former = [self.champion.blob, *self.former][:8]
                self.predecessor, self._probation = self.champion, Gate(probation=True)
            self.champion, self._promoted_at = announcement, self.seen

    def _take_probation(self, compared: Compared) -> None:
        assert self._probation is not None
        for ours, theirs in zip(compared.ours, compared.rivals[CHAMPION], strict=True):
            verdict = self._probation.observe(ours, theirs)  # the predecessor is the challenger now
            if verdict is None:
                continue
            if verdict.kind == "rollback":
                assert self.predecessor is not None
                self.champion = self._announce(
                    "rolled_back", name=self.predecessor.version, blob=self.predecessor.blob,
                    reason="its successor did worse live", due=self._pending_due(),
                    evidence={"wealth": verdict.evidence, "predictions": verdict.events},
                )  # fmt: skip
            self.predecessor, self._probation = None, None
            return

    def emit(self) -> list[Outgoing]:
        """End an entry: close what has had its time, then return and forget the announcements since the last call."""
        limit = self.settings.gate_events_max
        if self._gate and self.seen - self._candidate_at >= limit:
            self._decide(self._gate.expire())
        if self.predecessor and self.seen - self._promoted_at >= limit:
            self.predecessor, self._probation = None, None
        outbox, self._outbox = self._outbox, []
        return outbox

    def _next_due(self) -> int:
        return max(self._round_at + self.settings.round_events, self.seen + 1)

    def _pending_due(self) -> int:
        return self._candidate_at + self.settings.gate_events_max if self.candidate else self._next_due()

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
        named = (self.champion, self.candidate, self.predecessor, self.proposed)
        return {one.blob for one in named if one} | set(self.former)

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return what each bounded table holds, and its maximum."""
        return {
            **self.browsing.bounds(),
            **self.rehearsal.bounds(),
            **self._window.bounds(),
            "window_open_sessions": (len(self._open), self.settings.shoppers_max),
            "holdout_slices": (len(self.slices), self.settings.slices_max),
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
            "rehearsal": self.rehearsal.state(),
            "window": self._window.state(),
            "open": [[name, session, items] for name, (session, items) in self._open.items()],
            "slice": [list(question) for question in self._slice],
            "slices": [[list(question) for question in slice_] for slice_ in self.slices],
            "gate": self._gate.state() if self._gate else None,
            "probation": self._probation.state() if self._probation else None,
            "means": {name: list(entry) for name, entry in self._means.items()},
            "positions": [list(pair) for pair in sorted(self._positions.items())],
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
        rounds.rehearsal = Rehearsal.from_state(state["rehearsal"])
        rounds._window = Window.from_state(state["window"])
        rounds._open = {name: (session, list(items)) for name, session, items in state["open"]}
        rounds._slice = [Question(*question) for question in state["slice"]]
        rounds.slices.extend([Question(*question) for question in slice_] for slice_ in state["slices"])
        rounds._gate = Gate.from_state(state["gate"]) if state["gate"] else None
        rounds._probation = Gate.from_state(state["probation"]) if state["probation"] else None
        rounds._means = {name: list(entry) for name, entry in state["means"].items()}
        rounds._positions = dict(state["positions"])
        return rounds
