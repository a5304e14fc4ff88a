"""What a new run will do, decided before it is made: its range, what is folded otherwise, and how long it may take."""

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

import headrace
from headrace.clock import wall_ms
from headrace.errors import Misconfigured
from headrace.log.protocol import Log
from headrace.log.scan import topic_records
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.without import Without
from headrace.topics import MODELS
from learners.families import Placement
from operators.cli.app import merge_sets
from operators.deployment import Deployment
from operators.replay.judging import judging_again
from operators.replay.plan import PlaceKind, Plan, first_entry, plan, start_of
from operators.replay.run import Run, runs
from operators.requests import standing

_RANGE: Final = re.compile(r"(\d+):(\d+)")
"""A partition of `events` and the end of what a training had read of it, as a lineage has it."""


def new_run(
    log: Log, blobs: Blobs, deployment: Deployment, placement: Placement, name: str, *, begin: str | None,
    end: str | None, kind: PlaceKind, sets: Sequence[str], without: Sequence[str], who: str,
) -> tuple[Run, Plan]:  # fmt: skip
    """Return the manifest of a new run, and the plan of its range.

    Raises:
        Misconfigured: a setting belongs to no family of the shard, a rule or a place is invalid, or the range is empty.
        PositionLost: the log does not hold what the range needs.
    """
    names = [one.name for one in placement.kinds]
    for text in sets:
        if text.partition(".")[0].strip() not in names:
            raise Misconfigured(f"--set {text}: wanted a setting of {', '.join(names)}, which the shard folds")
    Without(without)
    if without and (trains := _training(placement)):
        raise Misconfigured(
            f"--without: wanted a shard that trains no model, found {placement.shard.name}: the models of"
            f" {', '.join(trains)} were trained on what is left out"
        )
    found = plan(log, blobs, placement.shard, begin, end, kind)
    model, trained = _promoted(log) if without else ("", {})
    changed = bool(sets or without)
    start = start_of(log, placement.shard)
    if changed and start and found.folded_from < start.number < found.end:
        raise Misconfigured(
            f"--from, --to: wanted a range in which no other state was put in place, found one at entry"
            f" {start.number:,}; begin there, or end before"
        )
    run = Run(
        name=name, shard=placement.shard.name, log=deployment.settings.log, begin=found.begin, end=found.end,
        base=found.base, settings=list(sets), sections=_sections(log, deployment, placement, sets),
        without=list(without),
        judged_anew=[one.name for one in judging_again(placement.kinds)] if changed else [],
        who=who, created_ms=wall_ms(), headrace=headrace.__version__, model=model, trained=trained,
        number=found.folded_from,
    )  # fmt: skip
    return run, found


def extended(log: Log, blobs: Blobs, placement: Placement, run: Run, end: str | None, kind: PlaceKind) -> Run:
    """Return a run that is given again, with its end moved if a later one is asked for.

    Raises:
        Misconfigured: the end is before the run's.
    """
    if end is None:
        return run
    to = plan(log, blobs, placement.shard, None, end, kind).end
    if to < run.end:
        raise Misconfigured(f"--to {end}: wanted the run's end, entry {run.end:,}, or a later one, found {to:,}")
    run.end = to
    return run


def check_same(
    run: Run, deployment: Deployment, shard: str, begin: int | None, sets: Sequence[str], without: Sequence[str]
) -> None:
    """Raise Misconfigured if what is asked for, as far as it is given, is not what a run of that name does."""
    wanted = (
        deployment.settings.log, shard, run.begin if begin is None else begin, [*sets] or run.settings,
        [*without] or run.without,
    )  # fmt: skip
    if wanted != (run.log, run.shard, run.begin, run.settings, run.without):
        raise Misconfigured(
            f"run {run.name}: wanted another name, or the same --from, --set and --without as before, found a run of"
            f" {run.shard} from entry {run.begin:,}, {changes_text(run)}"
        )


def changes_text(run: Run) -> str:
    """Return in what a run differs from the live shard.

    >>> changes_text(Run(name="a", shard="online", log="", begin=0, end=1, base=None, sections={},
    ...     settings=["next_item.items_max=9"], without=["item=i4"], judged_anew=[], who="", created_ms=0,
    ...     headrace="", number=0))
    'with next_item.items_max=9, without item=i4'
    """
    parts = [f"with {text}" for text in run.settings] + [f"without {text}" for text in run.without]
    return ", ".join(parts) or "as it was"


def judged_text(run: Run, placement: Placement) -> str:
    """Return whose judgements are the journal's and whose are made again."""
    kept = [kind.name for kind in placement.kinds if kind.surface.judge and kind.name not in run.judged_anew]
    parts = []
    if run.judged_anew:
        parts.append(f"judged again, every event: {', '.join(run.judged_anew)}")
    if kept:
        parts.append(f"judgements of the journal: {', '.join(kept)}")
    return "; ".join(parts) or "no family of this shard is judged"


def known_rate(blobs: Blobs, run: Run) -> float:
    """Return how many records per second former runs of this kind folded, 0 if there were none."""
    same = [one for one in runs(blobs) if one.shard == run.shard and bool(one.judged_anew) == bool(run.judged_anew)]
    return next((one.rate for one in reversed(same) if one.rate), 0.0)


def estimate_text(run: Run, records: int | None, rate: float, placement: Placement) -> str:
    """Return what a run will fold, and how long that may take."""
    base = f"from the snapshot of entry {run.base.number:,}" if run.base else "from the journal's start"
    folded = run.end - (run.base.number if run.base else 0)
    size = f"{folded:,} entries" + (f", {records:,} records" if records is not None else "")
    time_text = f", about {records / rate:,.0f} s at {rate:,.0f} records/s" if records is not None and rate else ""
    return (
        f"{run.name}: {run.shard}, entries {run.begin:,} to {run.end:,}, {changes_text(run)}; folded {base}:"
        f" {size}{time_text}; {judged_text(run, placement)}"
    )


def _sections(log: Log, deployment: Deployment, placement: Placement, sets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the settings of each family: those of `--set`, else the live shard's, else those that are configured."""
    last = journal.newest(log, placement.shard)
    first = first_entry(log, placement.shard)
    stamp = last.snapshot.stamp if last and last.snapshot else first.stamp if first else None
    given = merge_sets(sets)
    found = {}
    for kind in placement.kinds:
        configured = msgspec.to_builtins(deployment.sections[kind.name])
        live = stamp.families[kind.name].settings if stamp and kind.name in stamp.families else {}
        chosen = {name: configured[name] for name in given.get(kind.name, {})}
        found[kind.name] = configured | {name: live[name] for name in live if name in configured} | chosen
    return found


def _training(placement: Placement) -> list[str]:
    again = {kind.name for kind in judging_again(placement.kinds)}
    return [kind.name for kind in placement.kinds if kind.surface.judge and kind.name not in again]


def _promoted(log: Log) -> tuple[str, dict[int, int]]:
    """Return the champion's version, and the end of what its training had read, by partition of `events`."""
    now = standing(topic_records(log, MODELS))
    if now.champion is None:
        return "", {}
    version = now.champion.version
    origins = [one.lineage for one in now.announcements if one.version == version and "events" in one.lineage]
    ranges = origins[-1]["events"] if origins else []
    found = [match for text in ranges if isinstance(text, str) and (match := _RANGE.fullmatch(text))]
    return version, {int(match[1]): int(match[2]) for match in found}
