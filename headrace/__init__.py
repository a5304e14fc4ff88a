"""The shared language of Headrace: events, topics, the log, the loop. It imports nothing else of ours."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace.reading import ReadOnlyLog

__version__ = "0.4.0.dev0"


def open(url: str, *, families: Sequence[str] | None = None, archive: str | None = None) -> "ReadOnlyLog":
    """Open a log to read what it holds: `with headrace.open("sqlite:headrace-data/log.db") as log: ...`.

    Nothing is written, and no running process is disturbed.

    Args:
        url: `sqlite:PATH` or `kafka:HOST:PORT[,HOST:PORT][?prefix=NAME]`.
        families: families of your own whose scores and judgements are read beside ours, each as `module:Class`; by
            default those that the environment or `headrace.toml` names.
        archive: folder or URL of the log's archive, from which is read what the log no longer holds; by default that
            which the environment or `headrace.toml` names beside this log, "" for none.

    Raises:
        Misconfigured: the URL has an unknown form, or names a file that is missing or no log; a family is unknown.
        ArchiveCorrupt, ArchiveUnavailable: the archive cannot be read.
        LogUnavailable: the log does not answer.
    """
    from headrace.reading import open_read_only

    return open_read_only(url, families, archive)
