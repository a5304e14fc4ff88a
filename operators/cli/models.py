"""The commands for models: propose, promote, roll-back."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.announcement import Announcement
from headrace.shard.blobs import Blobs
from operators.cli.app import BlobsFolder, LogUrl, app, opened_log, read_settings, user_name
from operators.terminal import say

By = Annotated[str | None, typer.Option(help="Who asks; by default the user of this process")]
Reason = Annotated[str, typer.Option(help="Why, for the record")]


@app.command()
def propose(
    path: Annotated[Path, typer.Argument(help="A model file in the fine-tuner's format")],
    log: LogUrl = None,
    blobs: BlobsFolder = None,
) -> None:
    """Submit a model from elsewhere to the gate, which tests it against the champion like any other candidate."""
    from operators.proposal import propose as submit

    settings = read_settings(log=log, blobs=blobs).common
    with opened_log(settings, existing=True) as log_:
        say(f"proposed {submit(log_, Blobs(settings.blobs), path)}; its verdict is announced on the topic models")


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="A version that was announced on models, e.g. r0004-1a2b3c4d")],
    by: By = None,
    reason: Reason = "",
    log: LogUrl = None,
    blobs: BlobsFolder = None,
) -> None:
    """Request that a model becomes champion without a test in the gate. Works while no fine-tuner runs."""
    from operators.requests import promote as request

    settings = read_settings(log=log, blobs=blobs).common
    with opened_log(settings, existing=True) as log_:
        _print(request(log_, Blobs(settings.blobs), version, by=by or user_name(), reason=reason))


@app.command("roll-back")
def roll_back(
    version: Annotated[
        str | None, typer.Argument(help="A former champion; without it, the blend uses no model")
    ] = None,
    by: By = None,
    reason: Reason = "",
    log: LogUrl = None,
    blobs: BlobsFolder = None,
) -> None:
    """Request that a former champion becomes champion again, or none. Works while no fine-tuner runs."""
    from operators.requests import roll_back as request

    settings = read_settings(log=log, blobs=blobs).common
    with opened_log(settings, existing=True) as log_:
        _print(request(log_, Blobs(settings.blobs), version, by=by or user_name(), reason=reason))


def _print(request: Announcement) -> None:
    before, after = request.parent or "no model", request.version or "no model"
    say(
        f"requested: {after} replaces {before} as soon as the shards and serving read the request; the gate does not"
        " test it, and the fine-tuner watches a model beside its next candidate. headrace status shows who has obeyed"
    )
