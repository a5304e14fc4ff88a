"""The audit: one line of JSON for each log-in, each refusal and each action: who, what, why, and when."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from headrace.clock import wall_ms
from headrace.errors import Misconfigured

read_bytes_max: Final = 4 * 2**20
"""Bytes of the file's end that are read to show its newest lines."""


class Line(Struct, kw_only=True):
    """A line: when (ms since the epoch), who, from which address, what, of what, why, and how it ended."""

    time_ms: int
    who: str
    address: str
    what: str
    of: str = ""
    why: str = ""
    outcome: str = ""


class Audit:
    """Appends to the file, and reads its newest lines.

    Raises:
        Misconfigured: it cannot be written, so that no action would be on record.
    """

    def __init__(self, path: Path, clock: Callable[[], int] = wall_ms) -> None:
        self._path, self._clock = path, clock
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise Misconfigured(f"console.audit {path}: wanted a file that can be written, found {error}") from error

    def write(self, who: str, address: str, what: str, *, of: str = "", why: str = "", outcome: str = "") -> None:
        """Append a line durably. Raises OSError: then what it tells must not be done."""
        line = Line(
            time_ms=self._clock(), who=who, address=address, what=what, of=of, why=why, outcome=outcome
        )  # fmt: skip
        os.write(self._file, msgspec.json.encode(line) + b"\n")
        os.fsync(self._file)
        structlog.get_logger().info("console", what=what, outcome=outcome)  # the audit has the rest

    def newest(self) -> list[Line]:
        """Return the newest lines, the newest first."""
        with self._path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - read_bytes_max))
            found = list[Line]()
            for data in file:
                with suppress(msgspec.MsgspecError):
                    found.append(msgspec.json.decode(data, type=Line))
        return found[::-1]

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
