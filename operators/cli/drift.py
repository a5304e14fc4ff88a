"""The commands of drift: drift show, silence."""

from typing import Annotated

import msgspec
import typer

from headrace.clock import wall_ms
from headrace.drift import EVERY_DETECTOR, Silence
from headrace.shard.decision import Author
from operators.cli.app import LogUrl, app, opened_log, read_settings, user_name
from operators.cli.models import AsJson, By, DryRun, Why
from operators.terminal import say, say_json

drift_app = typer.Typer(no_args_is_help=True, help="Drift: what alarms said, and times at which nobody is to be told.")
app.add_typer(drift_app, name="drift")

_TIME = "in ISO 8601, UTC unless it states a zone"


@drift_app.command()
def show(as_json: AsJson = False, log: LogUrl = None) -> None:
    """Show the silences that are not over, and what the newest alarms of drift say has moved."""
    from operators.drift import newest_alarms, silences, utc
    from operators.replay.plan import opened_to_read

    with opened_to_read(read_settings(log=log).common) as log_:
        stated, alarms = silences(log_, wall_ms()), newest_alarms(log_)
    if as_json:
        say_json({"silences": msgspec.to_builtins(stated), "alarms": msgspec.to_builtins(alarms)})
        return
    for one in stated:
        name = "every detector" if one.detector == EVERY_DETECTOR else one.detector
        say(f"{name} is silent from {utc(one.from_ms)} to {utc(one.until_ms)}: {one.why} ({one.by})")
    for alarm in alarms:
        say(f"{utc(alarm.time_ms)}  {alarm.detector}  {alarm.text}".rstrip())
    if not stated and not alarms:
        say("no silences, and no alarms of drift")


@drift_app.command("silence")
def silence_(
    until: Annotated[str, typer.Option(help=f"When it ends, {_TIME}")],
    why: Why = "",
    begin: Annotated[str, typer.Option("--from", help=f"When it begins, {_TIME}; by default now")] = "",
    detector: Annotated[str, typer.Option(help="The detector; by default all")] = EVERY_DETECTOR,
    by: By = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    log: LogUrl = None,
) -> None:
    """State a time that is known to be unusual, such as a sale: no drift is told, and none of it becomes usual.

    It replaces the detector's silence before.
    """
    from operators.drift import time_ms_of

    from_ms = time_ms_of(begin) if begin else wall_ms()
    stated = Silence(detector, from_ms, time_ms_of(until), why, by or user_name())
    _state(stated, dry_run=dry_run, as_json=as_json, log=log)


@drift_app.command()
def end(
    why: Why = "",
    detector: Annotated[str, typer.Option(help="The detector; by default all")] = EVERY_DETECTOR,
    by: By = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    log: LogUrl = None,
) -> None:
    """End a detector's silence now, or take back one that has not begun."""
    stated = Silence(detector, 0, wall_ms(), why, by or user_name())
    _state(stated, dry_run=dry_run, as_json=as_json, log=log)


def _state(stated: Silence, *, dry_run: bool, as_json: bool, log: str | None) -> None:
    from operators.deployment import read_deployment
    from operators.drift import checked, silence, utc

    deployment = read_deployment(log=log)
    checked(stated, {name for kind in deployment.kinds for name in kind.surface.detectors})
    if not dry_run:
        Author(stated.by, stated.why).check()
        with opened_log(deployment.settings, existing=True) as log_:
            silence(log_, stated)
    if as_json:
        say_json({"silence": msgspec.to_builtins(stated), "written": not dry_run})
        return
    name = "every detector" if stated.detector == EVERY_DETECTOR else stated.detector
    span = f"from {utc(stated.from_ms)} to" if stated.from_ms else "until"
    say(f"{name} is silent {span} {utc(stated.until_ms)}{'; nothing was changed (--dry-run)' if dry_run else ''}")
