"""The commands of rules that answers must obey: rules show, set, clear, try."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from headrace.shard.decision import Author
from operators.cli.app import BlobsFolder, LogUrl, Set, app, merge_sets, opened_log, read_settings, user_name
from operators.cli.models import AsJson, By, DryRun, Why
from operators.terminal import say, say_json

if TYPE_CHECKING:
    from headrace.rules import RuleSet

rules_app = typer.Typer(no_args_is_help=True, help="Rules that recommendations obey whatever is learned, by placement.")
app.add_typer(rules_app, name="rules")

File = Annotated[Path, typer.Argument(help="A document of rules, in TOML or JSON (docs/rules.schema.json)")]
Placement = Annotated[str, typer.Option(help="The placement; by default every placement")]


@rules_app.command()
def show(as_json: AsJson = False, log: LogUrl = None) -> None:
    """Show the rules that hold, by placement."""
    from operators.replay.plan import opened_to_read
    from operators.rules import stated_rules

    with opened_to_read(read_settings(log=log).common) as log_:
        found = stated_rules(log_)
    if as_json:
        say_json([{**one._asdict(), "rules": msgspec.to_builtins(one.rules)} for one in found])
        return
    for one in found:
        say(f"{one.placement}: version {one.version}")
        say(msgspec.json.format(msgspec.json.encode(one.rules), indent=2).decode())
    if not found:
        say("no rules")


@rules_app.command("set")
def set_(
    file: File, placement: Placement = "*", why: Why = "", by: By = None, dry_run: DryRun = False,
    as_json: AsJson = False, log: LogUrl = None,
) -> None:  # fmt: skip
    """Replace a placement's rules by those of a file. `rules try` shows before what that would change."""
    from operators.rules import read_rules

    rules = read_rules(file)
    stated = msgspec.structs.replace(rules, by=by or rules.by or user_name(), why=why or rules.why)
    author = Author(stated.by, stated.why)
    _state(placement, stated, author, dry_run=dry_run, as_json=as_json, log=log, what=str(file))


@rules_app.command()
def clear(
    placement: Placement = "*", why: Why = "", by: By = None, dry_run: DryRun = False, as_json: AsJson = False,
    log: LogUrl = None,
) -> None:  # fmt: skip
    """Take back all rules of a placement; those of every placement hold there then."""
    from headrace.rules import RuleSet

    author = Author(by or user_name(), why)
    _state(placement, RuleSet(by=author.who, why=why), author, dry_run=dry_run, as_json=as_json, log=log)


def _state(
    placement: str, rules: "RuleSet", author: Author, *, dry_run: bool, as_json: bool, log: str | None, what: str = ""
) -> None:  # fmt: skip
    from operators.replay.plan import opened_to_read
    from operators.rules import check_placement, state_rules
    from operators.segments import check_named

    check_placement(placement)
    if rules.when:
        with opened_to_read(read_settings(log=log).common) as log_:
            check_named(log_, what, rules.wrong_segments)
    if not dry_run:
        author.check()
        with opened_log(read_settings(log=log).common, existing=True) as log_:
            state_rules(log_, placement, rules)
    if as_json:
        say_json({"placement": placement, "rules": msgspec.to_builtins(rules), "written": not dry_run})
    elif dry_run:
        say(f"{placement}: the rules are valid; nothing was changed (--dry-run)")
    else:
        say(f"{placement}: written; shards and servers obey as soon as they read it")


@rules_app.command("try")
def try_(
    file: File,
    placement: Placement = "*",
    shoppers: Annotated[int, typer.Option(min=1, help="Number of shoppers whose answers are compared")] = 200,
    n: Annotated[int, typer.Option("-n", min=1, max=1_000, help="Number of items of each answer")] = 20,
    as_json: AsJson = False,
    log: LogUrl = None,
    blobs: BlobsFolder = None,
    sets: Set = None,
) -> None:
    """Show what the rules of a file would do to a sample of answers. Folds the live state and changes nothing."""
    from headrace.shard.blobs import Blobs
    from operators.deployment import read_deployment
    from operators.replay.plan import opened_to_read
    from operators.rules import check_placement, read_rules, trial_text, try_rules
    from operators.segments import check_named

    check_placement(placement)
    rules = read_rules(file)
    deployment = read_deployment(**merge_sets(sets, log=log, blobs=blobs))
    with opened_to_read(deployment.settings) as log_:
        check_named(log_, str(file), rules.wrong_segments)
        folder = Blobs(deployment.settings.blobs)
        trial = try_rules(log_, folder, deployment, placement, rules, shoppers=shoppers, n=n)
    if as_json:
        say_json(msgspec.to_builtins(trial))
    else:
        say(trial_text(trial))


@rules_app.command()
def trade(
    file: File,
    placement: Placement = "*",
    shoppers: Annotated[int, typer.Option(min=1, help="Number of shoppers whose answers are compared")] = 200,
    n: Annotated[int, typer.Option("-n", min=1, max=1_000, help="Number of items of each answer")] = 20,
    picture: Annotated[Path | None, typer.Option(help="Also draw the front into this .svg or .png file")] = None,
    as_json: AsJson = False,
    log: LogUrl = None,
    blobs: BlobsFolder = None,
    sets: Set = None,
) -> None:
    """Show what a sample of answers would gain for how much of their relevance, by the `trade` of a file.

    Folds the live state and changes nothing.
    """
    from headrace.shard.blobs import Blobs
    from operators.deployment import read_deployment
    from operators.replay.plan import opened_to_read
    from operators.rules import check_placement, read_rules
    from operators.segments import check_named
    from operators.trading import front, front_text

    check_placement(placement)
    rules = read_rules(file)
    if picture:
        from operators.picture import draw, front_of
    deployment = read_deployment(**merge_sets(sets, log=log, blobs=blobs))
    with opened_to_read(deployment.settings) as log_:
        check_named(log_, str(file), rules.wrong_segments)
        found = front(log_, Blobs(deployment.settings.blobs), deployment, placement, rules, shoppers=shoppers, n=n)
    if picture:
        draw(front_of, found, picture)
    if as_json:
        say_json(msgspec.to_builtins(found))
    else:
        say(front_text(found))
