"""The family of fine-tuning rounds: its training data, its schedule, and the choice of the model in use. Without torch.

The judge uses torch to train a candidate and to let models predict; its results are judgements
(`learners.rounds.evidence`), so this shard restarts, replays and is audited like every other.

`schedule` decides when a round is due, `training_set` what it trains on, `contest` which model replaces which, and
`lineup` holds the role of each model. This module runs the rounds: one at a time is trained, from `Began` to `Trained`,
while events go on; there is one candidate at a time; without a verdict in time it is refused; a champion is watched for
as long after its promotion, and again while a candidate is in the gate. A request for another champion is obeyed at
once (`learners.succession`).
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, Literal, NamedTuple, get_args

import msgspec

from headrace.announcement import Announcement, Kind, announced, unusable
from headrace.events import LEARNED_TYPES, Event, Item, Rejection
from headrace.log.protocol import Outgoing, Record
from headrace.sampling import fraction
from headrace.state import State
from headrace.surface import Artifact, Metric, Surface
from headrace.topics import ALARMS, EXPERIMENTS, MODELS
from learners.family import Family, Merges, Moment, Move, Part
from learners.next_item.browsing import FULL_BY_DESIGN, PARTS, Browsing, parts_of_0_3_0
from learners.next_item.contexts import STEP_EVENTS, own_clock
from learners.next_item.session_knn import SessionKnn
from learners.parts.assignment import Assignment
from learners.parts.drift import alarm_detector
from learners.protocol import Listed, Question
from learners.rounds.contest import CHAMPION, NO_MODEL, PREDECESSOR, Trial, Watch
from learners.rounds.evidence import Began, Compared, Trained, decode
from learners.rounds.gate import Rule, Verdict
from learners.rounds.lineup import Lineup
from learners.rounds.retention import Slice, check, retention_rule_1
from learners.rounds.schedule import Schedule
from learners.rounds.session_gate import Visit, shopper_number
from learners.rounds.settings import RoundsSettings
from learners.rounds.training_set import TrainingSet, training_set_of_version_2
from learners.succession import FINE_TUNER, Succession

REFERENCE: Final = SessionKnn.name
"""The fast learner that is the always fresh reference of `learners.rounds.staleness`."""
Outcome = Literal["promoted", "refused", "failed", "rolled_back"]
Trigger = Literal["start", "time", "volume", "drift", "gain"]
ROUND_S: Final = (1, 2, 5, 10, 20, 60, 120, 300, 600, 1_800, 3_600)
"""Buckets of a round's duration, in seconds."""


class Observed(NamedTuple):
    """A step of an event: the question, the fast learners' lists for it, and its session."""

    question: Question
    lists: dict[str, Listed]
    visit: Visit


_PLAIN_FIELDS: Final = ("round", "due", "_trained_at", "_candidate_at", "_gate_events", "_watched_until", "_announced")


def _contest_of_version_2(state: State) -> State:
    """Add a round in training, the rule of the tests and the succession, which releases up to 0.3.0 did not have."""
    succession = Succession().state()
    return {**state, "training": None, "trained_at": state["candidate_at"], "rule": None, "succession": succession}


class Rounds(Family):
    """Training data, schedule and contest of fine-tuning rounds.

    `due` is the trigger of the round that is due now, "" if none is. `training` is the round that is being trained,
    None if none is; what it trains on is kept until its end. At most one candidate is in the gate. `tried` has the
    experiments, of which some try former models: their blobs are kept.
    """

    name: ClassVar[str] = "rounds"
    builds_on: ClassVar[tuple[str, ...]] = ("next_item",)
    shard: ClassVar[str] = "finetune"
    merges: ClassVar[Merges] = Merges(
        "not",
        per_shopper="open sessions",
        why="a round trains one model on all shoppers, and the contest is one sequence of bets",
    )

    parts: ClassVar[Mapping[str, Part]] = {
        **PARTS,
        "training_set": Part(2, {1: training_set_of_version_2}),
        "contest": Part(2, {1: _contest_of_version_2}),
        "experiments": Part(),
    }

    def __init__(self, settings: RoundsSettings, reads: Mapping[str, Family]) -> None:
        self.settings = settings
        self.round = 0
        self.due = ""
        self.training: Began | None = None
        self.lineup = Lineup()
        self.succession = Succession()
        self.tried = Assignment()
        self.outcomes: dict[str, int] = dict.fromkeys(get_args(Outcome), 0)
        self.browsing = Browsing(items_max=settings.items_max, shoppers_max=settings.shoppers_max)
        self.schedule = Schedule(
            round_events=settings.round_events, round_ms=settings.round_ms, drift_events_min=settings.drift_events_min,
            staleness_hits=settings.staleness_hits,
        )  # fmt: skip
        self.training_set = TrainingSet(
            seed=settings.seed, holdout_share=settings.holdout_share, shoppers_max=settings.shoppers_max,
            window_max=settings.window_max, rehearsal_max=settings.rehearsal_max, slices_max=settings.slices_max,
            slice_steps_max=settings.slice_steps_max,
        )  # fmt: skip
        self._trial: Trial | None = None
        self._watch = Watch()
        self._trained_at = 0  # records seen when the newest round began
        self._candidate_at = 0
        self._gate_events = settings.gate_records_max
        self._rule: Rule | None = None  # of the newest candidate's tests
        self._watched_until = 0
        self._announced = 0
        self._outbox: list[Outgoing] = []
        self._announce("schedule", due=self.settings.round_events)

    @property
    def seen(self) -> int:
        """Number of records of `events` read so far."""
        return self.schedule.seen

    @property
    def drifted(self) -> bool:
        """Whether drift was detected since the champion was trained, so that older weights no longer help."""
        return self.schedule.drift_at > 0

    @property
    def comparing(self) -> bool:
        """Whether the models should predict for new events."""
        return (
            self.lineup.candidate is not None
            or bool(self._watch)
            or bool(self.settings.staleness_hits and self.lineup.champion)
        )

    @property
    def overdue(self) -> int:
        """Number of records since a round, or the verdict on a candidate, was due by volume; 0 while one is trained."""
        if self.training is not None:
            return 0
        if self.lineup.candidate is not None:
            return max(0, self.seen - self._candidate_at - self._gate_events)
        return self.schedule.overdue

    @property
    def _may_be_due(self) -> bool:
        """Whether a round may become due: none is due or trained, the gate is free, and there are sessions."""
        is_free = not self.due and self.training is None and self.lineup.candidate is None
        return is_free and bool(self.training_set)

    def learn(self, event: Event, now: Moment) -> None:
        """Add the event's steps to the training data or the holdout, and decide whether a round is due."""
        self.schedule.note(now.partition, now.offset, event.time_ms)
        training_set, browsing = self.training_set, self.browsing
        is_holdout = training_set.held_out(event.shopper)
        if is_holdout and event.counts:
            questions = [browsing.question(step) for step in browsing.steps(event) if step.context.items]
            training_set.add_holdout(event.shopper, questions)
        items = browsing.learn(event)
        if items and not is_holdout:
            context = browsing.contexts.context(event.shopper, event.time_ms, event.data.session_id, own_clock(event))
            training_set.add_steps(event.shopper, context.session, items, event.time_ms)
        if self._may_be_due:
            self.due = self.schedule.trigger(first=not self.round)

    def move(self, move: Move) -> None:
        """Move a session's trail, and its part of the training data, to another shopper."""
        if moved := self.browsing.move(move):
            self.training_set.move(move.from_shopper, move.to_shopper, moved[0])

    def observe(self, event: Event) -> Observed | None:
        """Return one step of an event as a question, with the fast learners' lists for it and its session.

        Of several steps, a seeded hash of the event's id selects one. Returns None if no step has a context. Called
        before `learn`; changes nothing.
        """
        found = [step for step in self.browsing.steps(event) if step.context.items] if event.counts else []
        if not found:
            return None
        step = found[int(len(found) * fraction(event.id, self.settings.seed, "step"))]
        visit = Visit(shopper_number(event.shopper), step.context.session)
        return Observed(self.browsing.question(step), self.browsing.lists(step.context), visit)

    def hear_item(self, item: Item) -> None:
        """Take over the name, category and price that the shop states of an item."""
        self.browsing.hear_item(item)

    def hear(self, topic: str, record: Record, now: Moment) -> Rejection | None:
        """Learn from a drift alarm, a proposed model, or a request for another champion or to withdraw a candidate.

        Note an experiment.
        """
        if topic == EXPERIMENTS:
            return self.tried.hear(record)
        if topic == ALARMS:
            if alarm_detector(record):
                self.schedule.note_drift()
            return None
        announcement = announced(record)
        if announcement is None:
            return unusable(record)
        counts = self.succession.hear(announcement, record.offset)
        if announcement.id.startswith(FINE_TUNER):
            return None  # of this shard, which applied it when it decided
        if announcement.kind == "proposed":
            waiting = self.lineup.proposed
            if waiting is None:
                self.lineup.proposed = announcement
            else:
                self._announce(
                    "refused", name=announcement.version, blob=announcement.blob, trigger="proposed",
                    reason=f"{waiting.version} was proposed before and waits; propose it again after its verdict",
                    due=self._pending_due(),
                )  # fmt: skip
        elif announcement.kind == "requested" and announcement.action == "withdraw":
            self._withdraw(announcement.version, f"withdrawn: {announcement.reason}")
        elif counts:  # a request
            self._obey(announcement)
        return None

    def absorb(self, judgement: bytes, now: Moment) -> None:
        """Learn from the judge's result: the begin of a round, a trained candidate, or predictions of the models."""
        found = decode(judgement)
        if isinstance(found, Began):
            self._begin_round(found)
        elif isinstance(found, Trained):
            self._add_candidate(found)
        else:
            self._compare(found)

    def _begin_round(self, began: Began) -> None:
        """Set apart what the round trains on; later sessions and records count for the next one."""
        self.training, self.due = began, ""
        self.training_set.begin_round()
        self.schedule.begin_round()
        self._trained_at = self.seen

    def _end_round(self, trigger: str) -> None:
        if self.training is None:  # a release that trained within the commit
            self._begin_round(Began(trigger))
        self.training = None
        self.training_set.end_round()
        self.schedule.staleness.reset_loss()  # what the champion lost while its successor was trained

    def _add_candidate(self, trained: Trained) -> None:
        if trained.trigger == "proposed":
            self.lineup.proposed = None
            self._trained_at = self.seen
        else:
            self._end_round(trained.trigger)
        self.round += 1
        name = f"r{self.round:04d}-{trained.blob.rpartition('-')[2][:8]}"
        reasons, lineage = list(trained.reasons), dict(trained.lineage)
        if not reasons and self.lineup.champion:
            reasons, figures = _forgotten(trained)
            lineage |= {"retention": figures} if trained.retention_rule else {}
        if reasons:
            self._announce(
                "refused" if trained.blob else "failed", name=name, blob=trained.blob, trigger=trained.trigger,
                reason="; ".join(reasons), due=self.schedule.next_due(), lineage=lineage,
            )  # fmt: skip
            return
        # Rule and duration are those in the judgement, not the current ones, so that a refold repeats all verdicts.
        self._rule = trained.rule
        self._trial = Trial(self._rule)
        self._candidate_at, self._gate_events = self.seen, trained.gate_records or self.settings.gate_records_max
        self.lineup.candidate = self._announce(
            "candidate", name=name, blob=trained.blob, trigger=trained.trigger, lineage=lineage,
            due=self.seen + self._gate_events,
        )  # fmt: skip
        if self.lineup.champion:
            self._begin_watch(NO_MODEL)

    def _begin_watch(self, rival: str) -> None:
        self._watch.add(rival, self._rule)
        self._watched_until = self.seen + self._gate_events

    def _compare(self, compared: Compared) -> None:
        """Compare candidate, champion, predecessor and no model, event by event."""
        for row in range(len(compared.blend_scores[NO_MODEL])):
            blend_scores = {blob: values[row] for blob, values in compared.blend_scores.items()}
            alone = {name: values[row] for name, values in compared.own_scores.items()}
            lineup, visit = self.lineup, compared.visit(row)
            for one in lineup.contestants():  # a model that gave no answers scores as if absent
                blend_scores.setdefault(one.blob, blend_scores[NO_MODEL])
                alone.setdefault(one.blob, 0.0)
            self._count_lost_hits(alone)
            if self._trial and lineup.candidate:
                rivals = {NO_MODEL: blend_scores[NO_MODEL]}
                if lineup.champion:
                    rivals[CHAMPION] = blend_scores[lineup.champion.blob]
                blob, fast = lineup.candidate.blob, {name: alone[name] for name in self.browsing.members}
                if verdict := self._trial.observe(blend_scores[blob], alone[blob], rivals, fast, visit):
                    self._decide(verdict)
                    continue  # a promoted model is watched from the next event on
            if self._watch and lineup.champion:
                rivals = {NO_MODEL: blend_scores[NO_MODEL]}
                if lineup.predecessor:
                    rivals[PREDECESSOR] = blend_scores[lineup.predecessor.blob]
                if found := self._watch.observe(blend_scores[lineup.champion.blob], rivals, visit):
                    self._roll_back(*found)
                elif PREDECESSOR not in self._watch:
                    lineup.predecessor = None

    def _count_lost_hits(self, alone: Mapping[str, float]) -> None:
        """Make a round due if the champion has lost enough hits to the always fresh learner."""
        champion = self.lineup.champion
        if not champion or REFERENCE not in alone:
            return
        is_due = self.schedule.staleness.observe(found=alone[champion.blob] > 0, fresh=alone[REFERENCE] > 0)
        if is_due and self._may_be_due:
            self.due = "gain"

    def _decide(self, verdict: Verdict) -> None:
        candidate, trial = self.lineup.candidate, self._trial
        assert candidate is not None
        assert trial is not None
        self.lineup.candidate, self._trial = None, None
        evidence = {**_figures(verdict), **trial.evidence()}
        kind: Kind = "promoted" if verdict.kind == "promote" else "refused"
        announcement = self._announce(
            kind, name=candidate.version, blob=candidate.blob, trigger=candidate.trigger, reason=verdict.reason,
            parent=self.lineup.champion.version if self.lineup.champion else "", evidence=evidence,
            due=self.schedule.next_due(),
        )  # fmt: skip
        if kind == "promoted":
            if self.schedule.drift_at <= self._trained_at:
                self.schedule.drift_at = 0
            self._watch.clear()
            self.lineup.promote(announcement)
            self.schedule.staleness.reset_baseline()
            if self.lineup.predecessor:
                self._begin_watch(PREDECESSOR)
            self._begin_watch(NO_MODEL)

    def _obey(self, request: Announcement) -> None:
        """Make the requested model champion. One that was promoted is watched like a champion of the gate."""
        if request.action != "promote":
            self._return_to(request)
            return
        if self.lineup.candidate and self.lineup.candidate.blob == request.blob:
            self._withdraw(self.lineup.candidate.version, "promoted by a request")
        self._watch.clear()
        self.lineup.promote(request)
        self.schedule.staleness.reset_baseline()
        if self.lineup.predecessor:
            self._begin_watch(PREDECESSOR)
        self._begin_watch(NO_MODEL)

    def _withdraw(self, version: str, reason: str) -> None:
        """Take a model out of the gate, or from before it; one that is not there any more stays as it is."""
        proposed, candidate, trial = self.lineup.proposed, self.lineup.candidate, self._trial
        if proposed and proposed.version == version:
            self.lineup.proposed = None
            self._announce(
                "refused", name=version, blob=proposed.blob, trigger="proposed", reason=reason, due=self._pending_due()
            )
        elif candidate and trial and candidate.version == version:
            self.lineup.candidate, self._trial = None, None
            self._announce(
                "refused", name=version, blob=candidate.blob, trigger=candidate.trigger, reason=reason,
                parent=self.lineup.champion.version if self.lineup.champion else "", evidence={**trial.evidence()},
                due=self.schedule.next_due(),
            )  # fmt: skip

    def _roll_back(self, rival: str, verdict: Verdict) -> None:
        """Return to the predecessor if it beat the champion, else to no model: the predecessor lost to the champion."""
        champion = self.lineup.champion
        assert champion is not None
        back = self.lineup.predecessor if rival == PREDECESSOR else None
        reason = "its successor did worse live" if back else f"the blend does better without {champion.version}"
        self._return_to(
            self._announce(
                "rolled_back", name=back.version if back else "", blob=back.blob if back else "",
                reason=reason, due=self._pending_due(),
                evidence=_figures(verdict),
            )
        )  # fmt: skip

    def _return_to(self, announcement: Announcement) -> None:
        """Make the announced model champion (none if it has no blob); it has no predecessor and is not watched."""
        self.lineup.return_to(announcement)
        self._watch.clear()
        self.schedule.staleness.reset_loss()  # the loss was that of the former champion

    def settle(self, now: Moment) -> None:
        """End an entry: end an expired trial or watch, then write the announcements since the last entry."""
        if self._trial and self.seen - self._candidate_at >= self._gate_events:
            self._decide(self._trial.expire())
        if self._watch and self.seen >= self._watched_until:
            self.lineup.predecessor = None
            self._watch.clear()
        self.browsing.traits.settle()
        now.write(*self._outbox)
        self._outbox.clear()

    def _pending_due(self) -> int:
        return self._candidate_at + self._gate_events if self.lineup.candidate else self.schedule.next_due()

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
            id=f"{FINE_TUNER}{self._announced}", kind=kind, round=self.round, at_events=self.seen, due_events=due,
            time_ms=self.schedule.time_ms, version=name, blob=blob, parent=parent, trigger=trigger, reason=reason,
            evidence=evidence or {}, lineage=dict(lineage or {}),
            heard=self.succession.heard if kind in ("promoted", "rolled_back") else None,
        )  # fmt: skip
        self._announced += 1
        if kind in self.outcomes:
            self.outcomes[kind] += 1
        self._outbox.append(announcement.record())
        return announcement

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        tried = {f"tried_{name}": use for name, use in self.tried.bounds().items()}
        return {**self.browsing.bounds(), **self.training_set.bounds(), **tried}

    def kept_blobs(self) -> set[str]:
        """Return the blobs that must not be deleted: those of the lineup, and those that experiments may try."""
        return self.lineup.kept_blobs() | {*self.tried.models(drafts=True)}

    def state(self) -> State:
        """Return the complete state."""
        return {
            **self.browsing.state(),
            "experiments": self.tried.state(),
            "training_set": self.training_set.state(),
            "contest": {
                **{name.removeprefix("_"): getattr(self, name) for name in _PLAIN_FIELDS},
                "ends": dict(self.outcomes),
                "training": msgspec.to_builtins(self.training),
                "lineup": self.lineup.state(),
                "succession": self.succession.state(),
                "schedule": self.schedule.state(),
                "trial": self._trial.state() if self._trial else None,
                "watch": self._watch.state(),
                "rule": msgspec.to_builtins(self._rule),
            },
        }

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        self._outbox = []
        self.browsing.restore(state)
        if "training_set" in state:
            self.training_set.restore(state["training_set"])
        if contest := state.get("contest"):
            for name in _PLAIN_FIELDS:
                setattr(self, name, contest[name.removeprefix("_")])
            self.outcomes = dict(contest["ends"])
            self.training = msgspec.convert(contest["training"], Began | None)
            self.lineup.restore(contest["lineup"])
            self.succession = Succession.from_state(contest["succession"])
            self.schedule.restore(contest["schedule"])
            self._trial = Trial.from_state(contest["trial"]) if contest["trial"] else None
            self._watch = Watch.from_state(contest["watch"])
            self._rule = msgspec.convert(contest["rule"], Rule | None)
        if "experiments" in state:
            self.tried = Assignment.from_state(state["experiments"])
        if self.training and not {"training_set", "contest"} <= state.keys():
            self.training = None  # what it trains on is lost

    @classmethod
    def from_0_3_0(cls, fold: State) -> tuple[dict[str, Any], State] | None:
        """Return the settings and parts in the state of 0.3.0's fine-tuning shard."""
        if "material" not in fold:
            return None
        renamed = {"gate_events_max": "gate_records_max", "gain_hits": "staleness_hits"}
        settings = {renamed.get(name, name): value for name, value in fold["settings"].items()}
        contest = {name: fold[name] for name in ("round", "due", "ends", "trial", "watch")}
        contest |= {name: fold[f"_{name}"] for name in ("candidate_at", "gate_events", "watched_until", "announced")}
        contest["lineup"] = {
            name: fold[name] for name in ("champion", "candidate", "predecessor", "proposed", "former")
        }
        contest["schedule"] = {
            "time_ms": fold["_time_ms"], "drift_at": fold["_broken_at"], "round_at": fold["_round_at"],
            "round_ms": fold["_round_ms"], **{name: fold[name] for name in ("gain", "positions", "firsts")},
        }  # fmt: skip
        return settings, {
            **parts_of_0_3_0(fold["browsing"]),
            "training_set": fold["material"],
            "contest": contest,
            "experiments": [],
        }


def _forgotten(trained: Trained) -> tuple[list[str], list[str]]:
    """Return the older slices that a candidate forgot, and what was tested, by the rule that the record states."""
    pairs, rule = trained.retention, trained.retention_rule
    if rule is not None:
        slices = [Slice(*pair, shoppers) for pair, shoppers in zip(pairs, trained.retention_shoppers, strict=True)]
        return check(slices, rule)
    champion, challenger = ({f"{number}": pair[side] for number, pair in enumerate(pairs)} for side in (0, 1))
    return retention_rule_1(champion, challenger), []


def _figures(verdict: Verdict) -> dict[str, object]:
    """Return the figures of a verdict as an announcement's evidence."""
    figures: dict[str, object] = {
        "wealth": verdict.evidence,
        "predictions": verdict.predictions,
        "mean_difference": verdict.mean_difference,
    }
    if verdict.interval is not None:
        figures |= {"interval": list(verdict.interval), "sessions": verdict.sessions}
    return figures


def _outcomes(family: Rounds) -> Iterable[tuple[tuple[str, ...], float]]:
    return (((outcome,), count) for outcome, count in family.outcomes.items())


Rounds.surface = Surface(
    doc="Fine-tuning of the deep model in rounds, and the gate that decides which model goes live.",
    settings=RoundsSettings,
    writes=(MODELS,),
    hears=(ALARMS, MODELS, EXPERIMENTS),
    judge="learners.rounds.judge:RoundsJudge",
    judgements=Began | Trained | Compared,
    former_judgement_keys=("finetune",),
    trials="learners.rounds.trials:Trials",
    full_by_design=(
        *FULL_BY_DESIGN, "rehearsal_sequences", "window_sequences", "training_sequences", "window_open_sessions",
        "holdout_slices",
    ),
    artifact=Artifact(
        "model",
        current=lambda family: family.lineup.champion,
        load="learners.deep.model:load_to_train",
        kept=lambda family: family.kept_blobs(),
        verdicts=lambda family: sum(family.outcomes.values()),
    ),
    metrics=(
        Metric(
            name="headrace_rounds_total", kind="counter",
            help="Rounds of the slow learner, by verdict; rolled_back counts champions that were replaced because they"
            " did worse.",
            labels=("outcome",), label_values=get_args(Outcome), read=_outcomes,
        ),
        Metric(
            name="headrace_round_triggers_total", help="Rounds that trained a model, by what triggered them.",
            kind="counter", labels=("trigger",),
            label_values=get_args(Trigger),
        ),
        Metric(
            name="headrace_round_duration_seconds", help="Training one candidate.", kind="histogram", buckets=ROUND_S,
        ),
        Metric(
            name="headrace_round_tokens_total", help="Predictions that rounds trained on, over all passes.",
            kind="counter",
        ),
        Metric(
            name="headrace_round_training_timestamp_seconds",
            help="When the training that runs now started; 0 while no round is trained.",
        ),
        Metric(
            name="headrace_round_training_max_seconds",
            help="Time after which the training of a round is ended from outside, as failed.",
        ),
        Metric(
            name="headrace_round_overdue_records",
            help="Records of `events` since a round, or the verdict on a candidate, was due; 0 during training.",
            read=lambda family: [((), family.overdue)],
        ),
        Metric(name="headrace_round_loss_nats", help="Mean training loss of the newest round's last pass."),
        Metric(
            name="headrace_round_timestamp_seconds", help="When the newest round was decided.",
            last_increase_of="headrace_rounds_total",
        ),
        Metric(name="headrace_torch_info", help="What torch runs on.", labels=("version", "device")),
    ),
    labels={
        "device": "the device that torch uses",
        "outcome": "`learners.rounds.family.Outcome`",
        "trigger": "`learners.rounds.family.Trigger`",
    },
    headlines=(
        ("headrace_rounds_total", {"outcome": "promoted"}, "promoted"),
        ("headrace_rounds_total", {"outcome": "refused"}, "refused"),
        ("headrace_rounds_total", {"outcome": "failed"}, "failed"),
    ),
    teaches=dict.fromkeys(LEARNED_TYPES, "one more record until the next round")
    | dict.fromkeys(STEP_EVENTS, "a session to train on, or one of the holdout to test on"),
    demo={
        "simulated": {"round_events": 12_000, "gate_records_max": 8_000, "train_s_max": 40},
        "data": {"round_events": 5_000, "gate_records_max": 3_000, "train_s_max": 30},
    },
    benchmark="benchmarks.triggers",
)  # fmt: skip
