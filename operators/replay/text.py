"""What a run has done, as text and as JSON."""

from typing import Any

import msgspec

from operators.replay.begin import changes_text
from operators.replay.run import Run


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
        lines.append(
            f"  digest equal to the live state at entry {run.number:,}: {'yes' if equal(run) else 'NO'}"
            f" (live state folded from the snapshot of entry {run.live_from:,})"
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
