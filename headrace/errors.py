"""The one exception tree for a broken world.

Headrace knows three kinds of failure. *Our mistake* is an `assert`: the process dies with nothing committed. *Bad
input* is a value (`headrace.events.Rejection`), never an exception. What is left is a *broken world*, the classes here:
each says whether trying again can help. `Misconfigured` is what a person typed wrongly; commands turn it into exit
code 2.
"""

from typing import ClassVar


class Misconfigured(Exception):
    """Something that a person wrote (an option, a setting, a path) cannot be used; the text says what was wanted."""


class BrokenWorld(Exception):
    """Something outside this process failed. `retriable` says whether the same call may succeed later."""

    retriable: ClassVar[bool] = False


class LogUnavailable(BrokenWorld):
    """The log did not answer in time (broker down, database locked)."""

    retriable = True


class Fenced(BrokenWorld):
    """Another writer has taken over this writer id; this process must end without committing."""


class PositionLost(BrokenWorld):
    """A position to read from is no longer (or not yet) in the log: records were deleted or the log was replaced."""

    def __init__(self, topic: str, partition: int, wanted: int, first: int, end: int) -> None:
        super().__init__(f"{topic}/{partition}: position {wanted} is outside what the log holds, {first} to {end}")
        self.topic, self.partition, self.wanted, self.first, self.end = topic, partition, wanted, first, end


class BlobMissing(BrokenWorld):
    """A blob that a kept journal entry or model record names is not in the blob directory."""


class BlobCorrupt(BrokenWorld):
    """A blob's bytes do not have the hash that is its name."""


class BlobUnwritable(BrokenWorld):
    """The blob directory did not take a blob (disk full, input or output error)."""

    retriable = True


class StateUnreadable(BrokenWorld):
    """A snapshot was written by versions of the code or of a library that cannot be read here; refold the journal."""


class Flooded(BrokenWorld):
    """So many of the newest records were bad that learning on would hide an incident; a person must look."""
