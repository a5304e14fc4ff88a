"""What `headrace accept-loss` and `headrace skip` print."""

from headrace.shard.loss import Loss
from headrace.shard.skip import Skip

AGAIN = "what the log still holds of it is learned again; dead letters and other outputs of that are written again"


def accepted_text(shard: str, loss: Loss | None, *, dry_run: bool) -> str:
    """Return what was lost, with what the shard goes on, and what is next, in lines."""
    if loss is None:
        return f"{shard}: nothing is lost: the log holds all that it needs; nothing was changed"
    lines = [f"{shard}: {loss.reason}"] if loss.reason else []
    lines += [
        f"{shard}: the topic {topic} was replaced: wanted the id {wanted}, found {found}"
        for topic, (wanted, found) in loss.replaced.items()
    ]
    lines += [
        f"{shard}: {gap.partition}: wanted {gap.wanted:,}, the log holds {gap.first:,} to {gap.end:,};"
        f" goes on at {loss.positions.get(gap.partition, 0):,}"
        for gap in loss.gaps
    ]
    lines.append(f"{shard}: {_state_text(loss)}")
    if dry_run:
        lines.append(f"{shard}: nothing was changed (--dry-run)")
    else:
        lines.append(f"{shard}: accepted, and written to the journal; start the shard's process if it does not run")
    return "\n".join(lines)


def _state_text(loss: Loss) -> str:
    if loss.state == "journal":
        return "goes on with all that it has learned"
    if loss.state == "snapshot":
        return (
            f"goes on with the snapshot {loss.snapshot}; what the {loss.entries:,} journal entries after it taught is"
            f" given up, and {AGAIN}"
        )
    return f"NO SNAPSHOT IS WHOLE: BEGINS ANEW, all that it has learned is given up, and {AGAIN}"


def skipped_text(found: Skip, *, dry_run: bool) -> str:
    """Return what is skipped, in lines."""
    if found.before:
        return f"{found.shard}: {found.record} is skipped by an earlier decision; nothing was changed"
    what = f"{found.shard}: {found.record}, {found.bytes:,} bytes: {found.value}"
    if dry_run:
        return f"{what}\n{found.shard}: can be skipped; nothing was changed (--dry-run)"
    return f"{what}\n{found.shard}: is skipped, and becomes a dead letter; start the shard's process if it does not run"
