"""Sorting of more rows than fit into memory: sorted runs in temporary files, which are merged."""

import heapq
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import IO, Final, NamedTuple

import msgspec

run_bytes_max: Final = 128 * 2**20
"""Size of the contents of one run, which is sorted in memory."""
row_bytes: Final = 200
"""Approximate memory of a row beside its content."""
buffer_bytes: Final = 2**20
"""Buffer of each temporary file."""


class Keyed(NamedTuple):
    """A row with what it is sorted by: its time, the number of its group, and its own number."""

    time_ms: int
    group: int
    number: int
    content: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Keyed)


def in_order(rows: Iterable[Keyed]) -> Iterator[Keyed]:
    """Yield rows in order. Up to `run_bytes_max` they are sorted in memory, else in files of the temporary folder.

    >>> [row.number for row in in_order([Keyed(3, 0, 0, b""), Keyed(1, 2, 2, b""), Keyed(1, 1, 1, b"")])]
    [1, 2, 0]
    """
    with ExitStack() as stack:
        runs: list[IO[bytes]] = []
        run: list[Keyed] = []
        size = 0
        for row in rows:
            run.append(row)
            size += row_bytes + len(row.content)
            if size >= run_bytes_max:
                runs.append(_write(sorted(run), stack.enter_context(tempfile.TemporaryFile(buffering=buffer_bytes))))
                run, size = [], 0
        run.sort()
        yield from heapq.merge(*map(_read, runs), run)


def _write(run: list[Keyed], file: IO[bytes]) -> IO[bytes]:
    for row in run:
        data = _encoder.encode(row)
        file.write(len(data).to_bytes(4, "big") + data)
    file.seek(0)
    return file


def _read(file: IO[bytes]) -> Iterator[Keyed]:
    while head := file.read(4):
        yield _decoder.decode(file.read(int.from_bytes(head, "big")))
