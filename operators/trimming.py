"""`headrace trim`: trimming a log in a file by hand or by cron, and what is said of it."""

from collections.abc import Callable

from msgspec import Struct

from headrace.clock import Clock, wall_ms
from headrace.errors import Misconfigured
from headrace.log.protocol import Log
from headrace.shard.trim import Cut, file_of, plan, trim
from operators.deployment import Deployment
from operators.running import running_on


class Trimmed(Struct, kw_only=True):
    """What was deleted, or with `dry_run` would be: `cuts` by partition, and the size of the log's file."""

    dry_run: bool
    keep_days: float
    cuts: list[Cut]
    deleted: int
    bytes_before: int
    bytes_after: int

    def text(self) -> str:
        """Return this as lines.

        >>> cut = Cut("events/0", 0, 900, 2_000, "finetune")
        >>> found = Trimmed(
        ...     dry_run=True, keep_days=30, cuts=[cut], deleted=900, bytes_before=9_000_000, bytes_after=9_000_000
        ... )
        >>> print(found.text())
        events/0: 900 records before 900 of 2,000; finetune needs those that follow to restart
        would delete 900 records (kept: 30 days); the file has 9 MB
        """
        lines = []
        for cut in self.cuts:
            held = f"; {cut.held_by} needs those that follow to restart" if cut.held_by else ""
            lines.append(f"{cut.partition}: {cut.records:,} records before {cut.until:,} of {cut.end:,}{held}")
        done = "would delete" if self.dry_run else "deleted"
        kept = f"kept: {self.keep_days:g} days" if self.keep_days else "trim.keep_days is 0: all are kept"
        before = "" if self.dry_run else f" (before: {self.bytes_before / 1e6:,.0f} MB)"
        size = f"the file has {self.bytes_after / 1e6:,.0f} MB{before}"
        return "\n".join([*lines, f"{done} {self.deleted:,} records ({kept}); {size}"])


def trim_file(
    log: Log,
    deployment: Deployment,
    report: Callable[[int, int], None],
    *,
    dry_run: bool,
    vacuum: bool,
    clock: Clock = wall_ms,
) -> Trimmed:
    """Trim a log in a file; see `headrace.shard.trim`.

    Args:
        report: takes the number of records deleted and the total.
        dry_run: delete nothing, only return what would be deleted.
        vacuum: write the file anew afterwards.

    Raises:
        Misconfigured: the log is no file, or is to be written anew while `headrace up` runs on it.
        LogUnavailable: the log does not answer.
    """
    url = deployment.settings.log
    file = file_of(log)
    if file is None:
        raise Misconfigured(f"trim: wanted a log sqlite:PATH, found {url}; Kafka deletes by each topic's retention.ms")
    if vacuum and not dry_run and running_on(url):
        raise Misconfigured(f"trim --vacuum: wanted a log that nothing uses, found headrace up running on {url}")
    before, keep_days = file.size(), deployment.settings.trim.keep_days
    cuts = plan(log, deployment.shards, keep_days, clock()) if keep_days else []
    if not dry_run:
        trim(file, cuts, report)
        if vacuum:
            file.vacuum()
    return Trimmed(
        dry_run=dry_run, keep_days=keep_days, cuts=cuts, deleted=sum(cut.records for cut in cuts),
        bytes_before=before, bytes_after=file.size(),
    )  # fmt: skip
