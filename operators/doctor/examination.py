"""The examination: every check in order, each under a deadline, whatever the others find."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct
from rich.table import Table

from headrace.errors import BrokenWorld, Misconfigured
from headrace.log.open import open_log
from headrace.shard.follower import no_report
from operators.deployment import read_deployment
from operators.doctor import log_checks, process_checks, shop_checks, storage_checks
from operators.doctor.finding import Check, Finding, World, error

deadline_s: Final = 15.0
"""Time for each check. A log that does not answer has longer deadlines of its own, which nobody would wait for."""
SETTINGS: Final = "settings"
LOG: Final = "log"
CHECKS: Final = (
    Check("topics", "all topics exist", log_checks.topics),
    Check("topic settings", "topics are set up so that no record is lost", log_checks.topic_settings),
    Check("transactions", "no transaction stays open and hides records", log_checks.transactions),
    Check("retention", "what a restart reads is still there, and will be", log_checks.retention),
    Check("strays", "only shards write to journals and judgements", log_checks.strays),
    Check("clocks", "append times are not ahead of this machine's clock", log_checks.clocks),
    Check("digests", "what the newest entries name (`--full`: all entries) is as it was learned", log_checks.digests),
    Check("rights", "the log's file and the folder of blobs can be written to", storage_checks.rights,
          reads_log=False),
    Check("disk", "there is space for snapshots, and for a week of an SQLite log", storage_checks.disk),
    Check("snapshots", "the kept snapshots are whole, of this log and not old", storage_checks.snapshots),
    Check("artifacts", "the model in use is whole", storage_checks.artifacts),
    Check("shards", "every shard has run, and learns what waits", shop_checks.shards),
    Check("versions", "the installed release wrote, or can read, the states", shop_checks.versions),
    Check("dead letters", "few of the newest records are bad", shop_checks.dead_letters),
    Check("keys", "a shopper's records are in one partition", shop_checks.keys),
    Check("senders", "senders' clocks are right", shop_checks.senders),
    Check("processes", "processes that run on this machine answer, run this release and follow their shards",
          process_checks.processes, reads_log=False),
)  # fmt: skip
"""The checks, in the order in which they are made. Where the first finds topics missing, none that reads the log
follows."""

T = TypeVar("T")


class Examination(Struct, kw_only=True):
    """What was found, by check, in the order of the checks; `unchecked` are those that could not be made."""

    findings: list[Finding]
    unchecked: list[str]

    def count(self, level: str) -> int:
        """Return the number of findings of a level."""
        return sum(one.level == level for one in self.findings)


def examine(
    options: dict[str, Any], *, full: bool = False, report: Callable[[int, int], None] = no_report
) -> Examination:
    """Make all checks; never raises what a check meets, and makes no topic, file or folder.

    Args:
        options: as for `operators.deployment.read_deployment`.
        full: compare all that the journals name, which takes as long as `headrace verify`.
        report: takes how many entries of a journal are compared, and their total.
    """
    try:
        deployment = read_deployment(**options)
    except Misconfigured as refused:
        broken = _broken(SETTINGS, "settings that can be used", refused, "correct the setting (docs/settings.md)")
        return Examination(findings=[broken], unchecked=[LOG, *(check.name for check in CHECKS)])
    url = deployment.settings.log
    log, answer = None, _fine(LOG, "the log answers")
    try:
        log = bounded(lambda: open_log(url, existing=True, read_only=True))
    except (BrokenWorld, Misconfigured, TimeoutError) as failure:
        answer = _broken(LOG, f"an answer of {url}", failure, _mends_log(failure))
    found = run_checks(World(deployment, log, full=full, report=report), CHECKS)
    if log:
        with suppress(TimeoutError):  # a check that hangs may hold the log's lock
            bounded(log.close)
    first = [_fine(SETTINGS, "all settings are known and valid"), answer]
    return msgspec.structs.replace(found, findings=[*first, *found.findings])


def run_checks(world: World, checks: Sequence[Check]) -> Examination:
    """Make these checks; of a log that does not answer, or lacks topics, only those that do not read it."""
    findings: list[Finding] = []
    unchecked: list[str] = []
    readable = world.opened is not None
    for check in checks:
        if check.reads_log and not readable:
            unchecked.append(check.name)
            continue
        found = _made(world, check)
        readable = readable and (check is not CHECKS[0] or found[0].level == "ok")
        findings += found
    return Examination(findings=findings, unchecked=unchecked)


def _made(world: World, check: Check) -> list[Finding]:
    """Return what a check finds; one that fails or does not end is a finding, too."""
    seconds = None if world.full and check.run in (log_checks.digests, log_checks.strays) else deadline_s
    try:
        found = bounded(lambda: list(check.run(world)), seconds)
    except Exception as failure:  # of any kind, as the log may hold anything: the other checks must be made
        mends = "see what the other checks find; run `headrace doctor` again"
        return [_broken(check.name, f"a check that ends ({check.wants})", failure, mends)]
    return [msgspec.structs.replace(one, check=check.name) for one in found] or [_fine(check.name, check.wants)]


def bounded(call: Callable[[], T], seconds: float | None = deadline_s) -> T:
    """Return what a call returns; it runs in a thread, which is left behind if it does not end in time.

    Raises:
        TimeoutError: it did not end in time. What the call raises is raised, too.
    """
    returned: list[T] = []
    raised: list[Exception] = []

    def run() -> None:
        try:
            returned.append(call())
        except Exception as failure:  # raised again below
            raised.append(failure)

    thread = threading.Thread(target=run, name="check", daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if not returned:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return returned[0]


def _mends_log(failure: Exception) -> str:
    if "malformed" in str(failure) or "not a database" in str(failure):
        return "the file is damaged: stop all processes, keep it, and `headrace restore` from a backup"
    if "readonly" in str(failure):
        return "chown or chmod the file and its folder, or mount them read-write; or run this as the processes' user"
    return "start the broker, or correct `--log` (HEADRACE_LOG); the first process makes the file of an SQLite log"


def _broken(name: str, wanted: str, failure: Exception, mends: str) -> Finding:
    found = (
        f"{failure}"
        if isinstance(failure, (BrokenWorld, Misconfigured, TimeoutError))
        else f"{type(failure).__name__}: {failure}"
    )
    one = error(name, wanted=wanted, found=found, follows="what depends on it is not checked", mends=mends)
    return msgspec.structs.replace(one, check=name)


def _fine(name: str, wants: str) -> Finding:
    return Finding(check=name, level="ok", subject="", wanted=wants, found="")


def table(found: Examination) -> Table:
    """Return the findings, for a terminal."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("", "check", "what"):
        made.add_column(column)
    for one in found.findings:
        text = one.wanted
        if one.level != "ok":
            text = f"{one.subject}: wanted {one.wanted}, found {one.found}: {one.follows}. To do: {one.mends}"
        made.add_row(one.level, one.check, text)
    return made
