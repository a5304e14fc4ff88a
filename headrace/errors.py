"""The exceptions for failures outside the process, and for configuration errors.

Headrace distinguishes three kinds of failure. A *bug* fails an `assert`: the process dies and commits nothing. *Bad
input* is a value (`headrace.events.Rejection`), never an exception. A *failure of the environment* raises a subclass of
`BrokenWorld`, which states whether a retry can help. `Misconfigured` reports an error in what the user configured;
commands exit with code 2.
"""

from collections.abc import Sequence
from typing import ClassVar


class Misconfigured(Exception):
    """An option, a setting or a path that the user gave cannot be used; the message states what was wanted."""


class Stopping(Exception):
    """The process was asked to stop, so what it was doing is given up; the last commit stays."""


class BrokenWorld(Exception):
    """Something outside this process failed. `retriable` states whether the same call may succeed later."""

    retriable: ClassVar[bool] = False


class LogUnavailable(BrokenWorld):
    """The log did not answer in time (broker down, database locked)."""

    retriable = True


class Fenced(BrokenWorld):
    """Another writer has taken over this writer id; this process must exit without committing."""


class CommitExpired(Fenced):
    """The log aborted a commit of this writer that was open for too long, or another writer has taken over."""


class PositionLost(BrokenWorld):
    """A position to read from is no longer (or not yet) in the log: records were deleted or the log was replaced."""

    def __init__(self, topic: str, partition: int, wanted: int, first: int, end: int) -> None:
        super().__init__(f"{topic}/{partition}: position {wanted} is outside what the log holds, {first} to {end}")
        self.topic, self.partition, self.wanted, self.first, self.end = topic, partition, wanted, first, end


class TopicReplaced(BrokenWorld):
    """A topic was deleted and made again: positions that were committed in it mean other records now."""

    def __init__(self, shard: str, topic: str, wanted: str, found: str) -> None:
        super().__init__(
            f"{shard}: the topic {topic} was deleted and made again: wanted the id {wanted}, found {found}; restore"
            f" the topic, or go on with the new one by: headrace accept-loss --shard {shard} --why REASON"
        )
        self.topic, self.wanted, self.found = topic, wanted, found


class JournalLost(BrokenWorld):
    """A shard's journal has no entry, although the shard has committed positions."""

    def __init__(self, shard: str, positions: Sequence[str]) -> None:
        super().__init__(
            f"{shard}: wanted the journal of what was learned, as positions are committed in {', '.join(positions)};"
            f" found no entry: it was deleted. Restore it, or go on by: headrace accept-loss --shard {shard} --why"
            " REASON. To learn all again, delete these positions (on Kafka the consumer group of that name)"
        )


class RecordsChanged(BrokenWorld):
    """Records that a journal entry names are no longer those that were learned."""


class BlobMissing(BrokenWorld):
    """A blob named by a retained journal entry or model record is not in the blob directory."""


class BlobCorrupt(BrokenWorld):
    """A blob's content does not match the hash in its name."""


class BlobUnwritable(BrokenWorld):
    """A blob could not be written to the blob directory (disk full, I/O error)."""

    retriable = True


class BackupDamaged(BrokenWorld):
    """A backup lacks a file, or one is not as it was written, or does not give the state that it should."""


class BackupUnwritable(BrokenWorld):
    """A backup, or what is restored from one, could not be written (disk full, I/O error)."""


class StateUnreadable(BrokenWorld):
    """A snapshot was written by versions of the code or a library that this process cannot read; refold the journal."""


class Flooded(BrokenWorld):
    """Too many of the newest records were rejected; the process stops, so that an operator investigates."""


class ArchiveUnavailable(BrokenWorld):
    """The archive cannot be read or written (disk full, network)."""

    retriable = True


class ArchiveParted(BrokenWorld):
    """The log's records are not those that were archived: the topic was made again, or the log was restored."""

    def __init__(self, topic: str, partition: int, position: int) -> None:
        super().__init__(
            f"archive: {topic}/{partition}: the log's records from {position} on are not those that were archived, as"
            " the topic was deleted and made again, or the log was restored from a backup; archive into another folder,"
            " or set the archived ones aside and go on by: headrace archive --accept-gap --why REASON"
        )


class ArchiveCorrupt(BrokenWorld):
    """A file of the archive is missing or was changed."""
