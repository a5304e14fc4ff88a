"""The commands of experiments: experiment show, create, start, ramp, stop, remove, report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from headrace.errors import Misconfigured
from headrace.shard.decision import Author
from operators.cli.app import BlobsFolder, LogUrl, app, opened_log, read_settings, user_name
from operators.cli.models import AsJson, By, DryRun, Why
from operators.terminal import say, say_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from headrace.experiments import Experiment

experiment_app = typer.Typer(no_args_is_help=True, help="Experiments: what is tried on which shoppers, and its result.")
app.add_typer(experiment_app, name="experiment")

Name = Annotated[str, typer.Argument(help="The experiment's name")]
File = Annotated[Path, typer.Argument(help="An experiment, in TOML or JSON (docs/experiments.schema.json)")]


@experiment_app.command()
def show(as_json: AsJson = False, log: LogUrl = None) -> None:
    """Show the experiments that are stated, and the policies of arms that explore."""
    from operators.catalogue import catalogue
    from operators.experiments import newest_policies, policy_text, stated_experiments
    from operators.replay.plan import opened_to_read

    with opened_to_read(read_settings(log=log).common) as log_:
        found, policies = stated_experiments(log_), newest_policies(log_)
    if as_json:
        say_json([
            {
                "name": name, "version": found.versions[name], "experiment": msgspec.to_builtins(one),
                "policies": msgspec.to_builtins(policies.get(name, {})),
            }
            for name, one in found.stated.items()
        ])  # fmt: skip
        return
    for name, one in found.stated.items():
        low, high = one.slots
        arms = ", ".join(arm.name for arm in one.arms)
        say(f"{name}: {one.state}, {one.kind} of {arms}; layer {one.layer} {low:g} to {high:g}, ramp {one.ramp:g}")
        for arm, policy in policies.get(name, {}).items():
            say(f"  {arm}: {policy_text(policy, catalogue('en'))}")
    if not found.stated:
        say("no experiments")


@experiment_app.command()
def create(
    name: Name, file: File,
    traffic: Annotated[
        float | None,
        typer.Option(min=0.0001, max=1, help="Share of the layer's shoppers; free slots are found for it"),
    ] = None,
    why: Why = "", by: By = None, dry_run: DryRun = False, as_json: AsJson = False, log: LogUrl = None,
) -> None:  # fmt: skip
    """State an experiment, or a draft of one anew, as a file says."""
    from headrace.experiments import free_slots
    from operators.experiments import read_experiment, stated_experiments

    read = read_experiment(file)

    def made(stated: "Experiment | None") -> "Experiment":
        one = msgspec.structs.replace(read, by=by or read.by or user_name(), why=why or read.why)
        if traffic is None:
            return one
        others = {other: it for other, it in found.stated.items() if other != name}
        slots = free_slots(one.layer, traffic, others)
        if slots is None:
            raise Misconfigured(f"experiment {name}: wanted {traffic:g} of the layer {one.layer} free, found less")
        return msgspec.structs.replace(one, slots=slots)

    with opened_log(read_settings(log=log).common, existing=True) as log_:
        found = stated_experiments(log_)
    _state(name, made, Author(by or read.by or user_name(), why or read.why), dry_run=dry_run, as_json=as_json, log=log)


@experiment_app.command()
def start(
    name: Name, why: Why = "", by: By = None, dry_run: DryRun = False, as_json: AsJson = False, log: LogUrl = None
) -> None:
    """Let an experiment run: from now on, shoppers are answered by their arms."""
    _change(name, "running", None, why, by, dry_run=dry_run, as_json=as_json, log=log)


@experiment_app.command()
def ramp(
    name: Name,
    share: Annotated[float, typer.Argument(min=0, max=1, help="Share of its shoppers who take part; it only grows")],
    why: Why = "", by: By = None, dry_run: DryRun = False, as_json: AsJson = False, log: LogUrl = None,
) -> None:  # fmt: skip
    """Let more shoppers take part; all who do stay in their arms."""
    _change(name, None, share, why, by, dry_run=dry_run, as_json=as_json, log=log)


@experiment_app.command()
def stop(
    name: Name, why: Why = "", by: By = None, dry_run: DryRun = False, as_json: AsJson = False, log: LogUrl = None
) -> None:
    """Stop an experiment for good: everybody is answered alike again. Refunds still repair its report."""
    _change(name, "stopped", None, why, by, dry_run=dry_run, as_json=as_json, log=log)


@experiment_app.command()
def remove(
    name: Name, why: Why = "", by: By = None, dry_run: DryRun = False, as_json: AsJson = False, log: LogUrl = None
) -> None:
    """Remove a draft, or an experiment that has stopped; its reports stay in the log."""
    _state(name, lambda stated: None, Author(by or user_name(), why), dry_run=dry_run, as_json=as_json, log=log)


@experiment_app.command()
def report(
    name: Name,
    run: Annotated[str | None, typer.Option(help="The report of a replay's run of this name")] = None,
    as_json: AsJson = False,
    log: LogUrl = None,
    blobs: BlobsFolder = None,
) -> None:
    """Show what an experiment has shown so far: a verdict, who was in it, each metric with its interval."""
    from headrace.shard.blobs import Blobs
    from operators.deployment import read_deployment
    from operators.experiments import known, newest_policies, newest_reports, report_text
    from operators.replay.plan import opened_to_read
    from operators.replay.run import RunFolder

    if run is None:
        with opened_to_read(read_settings(log=log).common) as log_:
            known(log_, name)
            found, policies = newest_reports(log_), newest_policies(log_)
    else:
        folder = RunFolder(Blobs(read_deployment(log=log, blobs=blobs).settings.blobs), run)
        folder.read()
        with folder.log() as own:
            found, policies = newest_reports(own), newest_policies(own)
    if name not in found:
        raise Misconfigured(f"experiment {name}: wanted a report, found none yet: it has not run")
    if as_json:
        say_json({**msgspec.to_builtins(found[name]), "policies": msgspec.to_builtins(policies.get(name, {}))})
    else:
        say(report_text(found[name], policies.get(name, {})))


def _change(
    name: str, state: str | None, share: float | None, why: str, by: str | None, *, dry_run: bool, as_json: bool,
    log: str | None,
) -> None:  # fmt: skip
    author = Author(by or user_name(), why)

    def changed(stated: "Experiment | None") -> "Experiment":
        if stated is None:
            raise Misconfigured(f"experiment {name}: wanted one that is stated, found none; see experiment create")
        return msgspec.structs.replace(
            stated, state=state or stated.state, ramp=stated.ramp if share is None else share, by=author.who, why=why
        )

    _state(name, changed, author, dry_run=dry_run, as_json=as_json, log=log)


def _state(
    name: str, change: "Callable[[Experiment | None], Experiment | None]", author: Author, *, dry_run: bool,
    as_json: bool, log: str | None,
) -> None:  # fmt: skip
    from operators.experiments import state_experiment, stated_experiments
    from operators.segments import check_named

    if not dry_run:
        author.check()
    with opened_log(read_settings(log=log).common, existing=True) as log_:
        made = change(stated_experiments(log_).stated.get(name))
        if made is not None and made.state != "stopped":
            check_named(log_, f"experiment {name}", made.wrong_segments)
        state_experiment(log_, name, made, dry_run=dry_run)
    if as_json:
        say_json({"name": name, "experiment": msgspec.to_builtins(made), "written": not dry_run})
    elif dry_run:
        say(f"{name}: this would be valid; nothing was changed (--dry-run)")
    elif made is None:
        say(f"{name}: removed")
    else:
        low, high = made.slots
        say(f"{name}: {made.state}; slots {low:g} to {high:g} of the layer {made.layer}, ramp {made.ramp:g}")
