"""The `headrace` command: every process, and the tools of operators.

Exit codes: 0 success; 1 a failure of the log, the disk or the network, which the message describes (a supervisor may
restart the process), or of `explain-event`: an event would be rejected; 2 wrong arguments or settings.
"""

import os
import sys

from headrace.errors import BlobCorrupt, BlobMissing, BrokenWorld, Misconfigured
from operators.cli import explain, kafka, look, models, produce, serve, shards, store, up
from operators.cli.app import app
from operators.terminal import escape_what_cannot_be_encoded, say

__all__ = ["app", "explain", "kafka", "look", "main", "models", "produce", "serve", "shards", "store", "up"]


def main() -> None:
    """Run the command; turn failures into one line and an exit code."""
    escape_what_cannot_be_encoded()
    try:
        app()
    except Misconfigured as error:
        say(f"headrace: {error}", error=True)
        sys.exit(2)
    except BrokenWorld as error:
        lost = isinstance(error, (BlobMissing, BlobCorrupt))
        hint = " (if it is lost for good: see --refold of headrace learn)" if lost else ""
        say(f"headrace: {type(error).__name__}: {error}{hint}", error=True)
        os._exit(1)  # a client's threads may hang after the failure; there is nothing left to save
    except BrokenPipeError:
        sys.exit(1)
