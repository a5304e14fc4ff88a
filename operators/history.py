"""The history of a log's models and states, in one order of time (`headrace history`).

Its sources are the announcements on `models`, the decisions that `alarms` tells, what operators decided about dead
letters, and the snapshots that are kept.
"""

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Literal

from msgspec import Struct
from rich.table import Table

from headrace.announcement import Announcement, announced
from headrace.letters import LetterDecision
from headrace.log.protocol import Log, decode_json
from headrace.log.scan import topic_records
from headrace.shard.blobs import Blobs
from headrace.shard.decision import Told, told_decision
from headrace.shard.kept import bytes_of, kept_snapshots
from headrace.topics import ALARMS, DEAD_LETTERS, MODELS
from operators.deployment import Deployment
from operators.manifest import time_text
from operators.terminal import Terminal

blob_characters_shown: Final = 20
LINEAGE_SHOWN: Final = ("parent", "events", "sequences", "data", "seed", "headrace")
"""What the table shows of a model's lineage; `--json` has all of it."""
EVIDENCE_SHOWN: Final = ("mean_difference", "interval", "wealth", "predictions")
"""What the table shows of a verdict's evidence."""


class Row(Struct, kw_only=True):
    """One thing that happened, at `time_ms` (ms since the epoch).

    Attributes:
        what: a `model` (an announcement), a `decision` about a shard, `letters` (dead letters), or a kept `snapshot`;
            among the changes that the console shows, also an `alarm`, stated `rules`, an `experiment`, a `silence`, or
            a `replay`.
        subject: a model's version, a shard, a detector, a placement, an experiment, or a run.
        step: what became of it: the announcement's kind, the decision's kind, `redriven` or `dropped`, `kept`,
            `raised`, `stated`, `begun`.
        text: what it says, in words.
        who, why: of what a person asked for or decided.
        details: of a model `parent`, `lineage` and `evidence`; of a decision the entry's snapshots; of a snapshot its
            blob, `number` (journal entries before it) and `bytes`.
    """

    time_ms: int
    what: Literal["model", "decision", "letters", "snapshot", "alarm", "rules", "experiment", "silence", "replay"]
    subject: str
    step: str
    text: str = ""
    who: str = ""
    why: str = ""
    details: dict[str, Any] = {}


class KeptStatus(Struct, kw_only=True):
    """The snapshots of a shard that are kept: their number, and the bytes of their blobs."""

    shard: str
    snapshots: int
    bytes: int


class History(Struct, kw_only=True):
    """All rows, the oldest first, and how much the kept snapshots take."""

    rows: list[Row]
    kept: list[KeptStatus]


def read_history(log: Log, deployment: Deployment) -> History:
    """Return the history of a log's models and states.

    Raises:
        LogUnavailable: the log does not answer.
    """
    models = [(one, record.time_ms) for record in topic_records(log, MODELS) if (one := announced(record))]
    rows = model_rows(models)
    rows += [decision_row(told) for record in topic_records(log, ALARMS) if (told := told_decision(record))]
    decided = (decode_json(record.value, LetterDecision) for record in topic_records(log, DEAD_LETTERS))
    rows += letter_rows([one for one in decided if one])
    kept = []
    folder = deployment.settings.blobs
    for name in deployment.placements if Path(folder).is_dir() else ():
        snapshots = kept_snapshots(Blobs(folder), name)
        kept.append(KeptStatus(shard=name, snapshots=len(snapshots), bytes=bytes_of(snapshots)))
        rows += [
            Row(
                time_ms=one.pointer.time_ms,
                what="snapshot",
                subject=name,
                step="kept",
                details={"blob": one.pointer.blob, "number": one.pointer.number, "bytes": one.bytes},
            )
            for one in snapshots
        ]
    return History(rows=sorted(rows, key=lambda row: row.time_ms), kept=kept)


def model_rows(models: Iterable[tuple[Announcement, int]]) -> list[Row]:
    """Return the rows of announcements, each with its append time (ms)."""
    return [_model(one, appended_ms) for one, appended_ms in models if one.kind != "schedule"]


def decision_row(told: Told) -> Row:
    """Return the row of a decision about a shard."""
    made = told.decision
    return Row(
        time_ms=made.time_ms, what="decision", subject=told.shard, step=made.kind, text=made.text, who=made.who,
        why=made.why, details={"headrace": made.headrace} if made.headrace else {},
    )  # fmt: skip


def _model(one: Announcement, appended_ms: int) -> Row:
    asked = one.kind == "requested"
    return Row(
        time_ms=appended_ms, what="model", subject=one.version or "no model",
        step=f"{one.action} requested".replace("_", " ") if asked else one.kind,
        text="" if asked else one.reason, who=one.by, why=one.reason if asked else "",
        details={
            name: value
            for name, value in (
                ("parent", one.parent), ("round", one.round), ("trigger", one.trigger), ("blob", one.blob),
                ("at_events", one.at_events), ("lineage", one.lineage), ("evidence", one.evidence),
            )
            if value
        },
    )  # fmt: skip


def letter_rows(decided: Iterable[LetterDecision]) -> list[Row]:
    """Return a row per decision about dead letters, which has a record for each of them."""
    rows = []
    for (step, who, why), group in groupby(decided, key=lambda one: (one.decision, one.by, one.why)):
        letters = list(group)
        rows.append(
            Row(
                time_ms=letters[-1].time_ms,
                what="letters",
                subject=DEAD_LETTERS,
                step=step,
                who=who,
                why=why,
                text=f"{len(letters):,} letters",
                details={"letters": len(letters)},
            )
        )
    return rows


def show(history: History, terminal: Terminal) -> None:
    """Print a history as a table."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("time", "what", "of", "step", "by", "why and what"):
        table.add_column(column, overflow="fold")
    for row in history.rows:
        said = "; ".join(part for part in (row.why, row.text, _details(row)) if part)
        table.add_row(time_text(row.time_ms)[:19], row.what, row.subject, row.step, row.who, said)
    terminal.print(table)
    for one in history.kept:
        terminal.print(f"{one.shard}: {one.snapshots:,} snapshots are kept, {one.bytes:,} bytes")


def _details(row: Row) -> str:
    details = row.details
    if row.what == "snapshot":
        return (
            f"{details['blob'][:blob_characters_shown]}..., {details['number']:,} entries, {details['bytes']:,} bytes"
        )
    parts = [f"parent {details['parent']}"] if details.get("parent") else []
    for source, names in (("lineage", LINEAGE_SHOWN), ("evidence", EVIDENCE_SHOWN)):
        found = details.get(source, {})
        parts += [f"{name} {_short(found[name])}" for name in names if name in found]
    return ", ".join(parts)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
