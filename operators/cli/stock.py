"""The command of stock: stock plan."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from operators.cli.app import BlobsFolder, LogUrl, Set, app, merge_sets
from operators.cli.models import AsJson
from operators.terminal import say, say_json

stock_app = typer.Typer(no_args_is_help=True, help="What is on hand, and what to order.")
app.add_typer(stock_app, name="stock")


@stock_app.callback()
def stock() -> None:
    """Keep `plan` a command of its own: typer makes an only command the group itself."""


@stock_app.command()
def plan(
    budget: Annotated[float | None, typer.Option(help="Most money for all orders, in the shop's currency")] = None,
    service_level: Annotated[
        float | None, typer.Option(help="Share of demanded pieces wanted from stock, such as 0.98 (default: by cost)")
    ] = None,
    n: Annotated[int, typer.Option("-n", "--lines", help="How many orders, at most")] = 100,
    out: Annotated[Path | None, typer.Option(help="Write the orders to this file as CSV")] = None,
    as_json: AsJson = False,
    log: LogUrl = None,
    blobs: BlobsFolder = None,
    sets: Set = None,
) -> None:
    """Tell what to order now, each with its reason. Folds the live state and changes nothing."""
    from headrace.shard.blobs import Blobs
    from operators.deployment import read_deployment
    from operators.replay.plan import opened_to_read
    from operators.stock import plan_text, stock_plan, write_csv

    deployment = read_deployment(**merge_sets(sets, log=log, blobs=blobs))
    asked = {"budget": budget, "service_level": service_level, "n": n}
    with opened_to_read(deployment.settings) as log_:
        found, rows = stock_plan(log_, Blobs(deployment.settings.blobs), deployment, asked)
    if out is not None:
        write_csv(rows, out)
    if as_json:
        say_json(msgspec.to_builtins(found))
    elif out is not None:
        say(f"{out}: {len(rows) - 1:,} orders")
    else:
        say(plan_text(found))
