"""Promoting a run: its state becomes the live one, at a position of the shard's journal."""

from typing import Final

import msgspec

from headrace.errors import Misconfigured
from headrace.log.protocol import Log
from headrace.shard.blobs import Blobs
from headrace.shard.decision import Author
from headrace.shard.journal import Entry, Pointer
from headrace.shard.restate import restate
from learners.families import Placement
from learners.shop import MakeShop
from operators.replay.begin import changes_text
from operators.replay.fold import Report, fold, unreported
from operators.replay.run import RunFolder

KIND: Final = "replayed"
"""Kind of the blob by which a run's state is handed over; it is deleted afterwards."""


def promote(
    log: Log,
    blobs: Blobs,
    placement: Placement,
    folder: RunFolder,
    author: Author,
    *,
    report: Report = unreported,
) -> Entry:
    """Have a run catch up with the journal, fence the shard, and put the run's state in place; return the entry.

    The shard's process goes on with it when it is started again. `headrace.shard.restate` says how it is undone. If
    this is killed, either nothing is changed or all is; it can be called again.

    Raises:
        Misconfigured: the run is not folded to its end, is being changed, or the reason is missing.
        BrokenWorld: see `headrace.errors`.
    """
    author.check()
    with folder.alone():
        run = folder.read()
        if not run.done:
            raise Misconfigured(f"run {run.name}: wanted one at its end, found {run.number:,} of {run.end:,} entries")

        def caught_up(number: int) -> Pointer:
            """Fold the run up to an entry of the journal; return a pointer to its state in the shop's blobs."""
            run = folder.read()
            if number > run.end:
                run.end = number
                folder.write(run)
            run = fold(log, blobs, placement, folder, report=report)
            assert run.state is not None
            if run.number != number:
                raise Misconfigured(f"run {run.name}: wanted entry {number:,} of the journal, found {run.number:,}")
            return msgspec.structs.replace(run.state, blob=blobs.put(KIND, folder.blobs().get(run.state.blob)))

        try:
            return restate(
                log, blobs, placement.shard, make=MakeShop(placement.kinds), state=caught_up(run.end),
                author=author, text=f"the state of the replay {run.name} is in place ({changes_text(run)})",
                caught_up=caught_up,
            )  # fmt: skip
        finally:
            blobs.sweep(KIND, ())
