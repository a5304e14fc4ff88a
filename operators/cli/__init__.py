"""The `headrace` command: every process, and the tools of operators.

Exit codes: 0 success; 1 a failure of the log, the disk or the network, which the message describes (a supervisor may
restart the process), or of `explain-event`: an event would be rejected, or of `trace`: no such event; 2 wrong arguments
or settings; 3 of `evaluate`: the log cannot tell what the policy would have earned.
"""

import os
import sys

from headrace import watchdog
from headrace.errors import BlobCorrupt, BlobMissing, BrokenWorld, Misconfigured, PositionLost, RecordsChanged
from headrace.process import stop_s_max
from operators.cli import (
    archive,
    console,
    dead_letters,
    doctor,
    drift,
    evaluate,
    experiment,
    explain,
    gateway,
    kafka,
    look,
    mend,
    models,
    produce,
    replay,
    rules,
    segments,
    serve,
    shards,
    stock,
    store,
    trace,
    up,
)
from operators.cli.app import app
from operators.terminal import escape_what_cannot_be_encoded, say

__all__ = [
    "app",
    "archive",
    "console",
    "dead_letters",
    "doctor",
    "drift",
    "evaluate",
    "experiment",
    "explain",
    "gateway",
    "kafka",
    "look",
    "main",
    "mend",
    "models",
    "produce",
    "replay",
    "rules",
    "segments",
    "serve",
    "shards",
    "stock",
    "store",
    "trace",
    "up",
]


def _hint(error: BrokenWorld) -> str:
    """Return what helps if that which an error tells of cannot be brought back."""
    if isinstance(error, (BlobMissing, BlobCorrupt)):
        return " (if it is lost for good: see --refold of headrace learn)"
    if isinstance(error, (PositionLost, RecordsChanged)):
        return " (if it is lost for good: see headrace accept-loss)"
    return ""


def main() -> None:
    """Run the command; turn failures into one line and an exit code."""
    escape_what_cannot_be_encoded()
    try:
        app()
    except SystemExit as end:  # threads and what libraries run at exit may wait for ever, too
        watchdog.wait("the end of the process", stop_s_max, code=int(end.code or 0)).__enter__()
        raise
    except Misconfigured as error:
        say(f"headrace: {error}", error=True)
        sys.exit(2)
    except BrokenWorld as error:
        say(f"headrace: {type(error).__name__}: {error}{_hint(error)}", error=True)
        os._exit(1)  # a client's threads may hang after the failure; there is nothing left to save
    except BrokenPipeError:
        sys.exit(1)
