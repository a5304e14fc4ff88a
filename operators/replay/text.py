"""What a run has done, as text and as JSON."""

from typing import Any

import msgspec
from rich.table import Table

from operators.replay.begin import changes_text
from operators.replay.compare import Comparison, top
from operators.replay.run import Run
from operators.tables import NONE


def equal(run: Run) -> bool | None:
    """Return whether a run's state is the live one at its end; None if it is not to be, or that is not known."""
    return run.digest == run.live if run.done and run.live else None


def run_json(run: Run) -> dict[str, Any]:
    """Return a run's manifest, and whether its state is the live one, for JSON."""
    return {
        **msgspec.to_builtins(run, str_keys=True), "done": run.done, "records_per_s": round(run.rate),
        "equal": equal(run), "changes": changes_text(run),
    }  # fmt: skip


def run_text(run: Run) -> str:
    """Return what a run has done, in lines."""
    lines = [
        f"{run.name}: {run.shard}, entries {run.begin:,} to {run.end:,}, {changes_text(run)}",
        f"  folded to entry {run.number:,}: {run.records:,} records in {run.seconds:,.1f} s"
        f" ({run.rate:,.0f} records/s), digest {run.digest[:16] or 'none'}",
    ]
    if not run.done:
        lines.append("  not at its end; run headrace replay again to go on")
    elif run.live:
        beginning = f"the snapshot of entry {run.live_from:,}" if run.live_from else "the journal's first entry"
        lines.append(
            f"  digest equal to the live state at entry {run.number:,}: {'yes' if equal(run) else 'NO'}"
            f" (live state folded from {beginning})"
        )
    elif not run.adopts:
        lines.append(f"  the live state at entry {run.number:,} is no longer kept, so it cannot be compared")
    if run.judged_anew:
        lines.append(f"  judged again, every event: {', '.join(run.judged_anew)}")
    return "\n".join([*lines, *left_out_lines(run)])


def left_out_lines(run: Run) -> list[str]:
    """Return what proves which records a run left out, and what the promoted model holds of them."""
    if not run.without:
        return []
    found = run.left_out
    stated = f" and {found.items:,} statements of items" if found.items else ""
    lines = [f"  left out: {found.events:,} events{stated}, digest {found.digest[:16] or 'none'}"]
    lines += [
        f"    {place}: {span.count:,} from offset {span.first:,} to {span.last:,}"
        for place, span in sorted(found.partitions.items())
    ]
    if run.model:
        verdict = "retrain" if found.trained else "it holds none of them"
        lines.append(
            f"  the promoted model {run.model} had read {found.trained:,} of them when it was trained: {verdict}"
        )
    else:
        lines.append("  no deep model is promoted")
    return lines


def comparison_json(found: Comparison) -> dict[str, Any]:
    """Return a comparison for JSON, without the points of its charts."""
    made: dict[str, Any] = msgspec.to_builtins(found)
    for side in made["sides"]:
        del side["timeline"]
        for charts in side["quality"].values():
            for chart in charts:
                del chart["points"], chart["bold"]
    return made


def comparison_table(found: Comparison) -> Table:
    """Return a comparison side by side, for a terminal."""
    first, second = found.sides
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column, justify in (("", "left"), (first.name, "right"), (second.name, "right"), ("difference", "right")):
        made.add_column(column, justify=justify)  # type: ignore[arg-type]  # a literal

    def add(name: str, one: object, other: object) -> None:
        texts = [f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in (one, other)]
        numbers = isinstance(one, (int, float)) and isinstance(other, (int, float))
        made.add_row(name, *texts, f"{other - one:+.4g}" if numbers else "")  # type: ignore[operator]  # numbers

    add("digest", first.digest[:16], second.digest[:16])
    add("entries", first.number, second.number)
    add("events learned", first.events, second.events)
    for family in first.quality:
        for one, other in zip(first.quality[family], second.quality[family], strict=True):
            for line in sorted({*one.means, *other.means}):
                add(f"{one.title}: {line}", one.means.get(line, NONE), other.means.get(line, NONE))
    for family in sorted({*first.scores, *second.scores}):
        if not first.quality.get(family):
            cells, others = first.scores.get(family, {}), second.scores.get(family, {})
            for name in dict.fromkeys([*cells, *others]):
                add(f"{family}: {name}", cells.get(name, NONE), others.get(name, NONE))
    for detector in first.alarms:
        if first.alarms[detector] or second.alarms.get(detector):
            add(f"alarms of {detector}", first.alarms[detector], second.alarms.get(detector, 0))
    for family, (version, verdicts) in first.models.items():
        other_version, other_verdicts = second.models.get(family, ("", 0))
        add(f"{family}: model", version or "none", other_version or "none")
        if verdicts or other_verdicts:
            add(f"{family}: verdicts on models", verdicts, other_verdicts)
    return made


def answers_lines(found: Comparison) -> list[str]:
    """Return how alike the answers are."""
    return [
        f"{one.route}: the best {top} share {one.mean:.1%} of their items over {one.shoppers:,} shoppers;"
        f" {one.equal:.1%} of the answers are equal"
        for one in found.answers
    ] or ["no answers to compare"]
