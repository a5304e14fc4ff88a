"""Kept snapshots: they thin out instead of vanishing, so that a shard can go back to a former state.

The newest are kept, then one an hour for a day, then one a day for a month, and for a month the newest of those with
which folds must go on after an upgrade or a refold: at most 70 in all. Going back to one needs its blob alone. Folding
on from one needs what the log or its archive still holds, which no old snapshot holds back.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec

from headrace.errors import BlobCorrupt, BlobMissing
from headrace.shard.blobs import Blobs
from headrace.shard.journal import Pointer, snapshots_kept
from headrace.topics import DAY_MS

HOUR_MS: Final = 3_600_000
hourly_ms: Final = DAY_MS
"""How long one snapshot an hour is kept, the last one of each hour."""
daily_ms: Final = 30 * DAY_MS
"""How long one snapshot a day is kept, the last one of each day (UTC), and one that renews a state."""
renewing_kept: Final = 10
"""Maximum number of those that renew a state: without its own, no fold from before such an entry goes past it."""


class Kept(NamedTuple):
    """A snapshot: the name of its stored pointer, the pointer, and the number of bytes of its blob."""

    name: str
    pointer: Pointer
    bytes: int


def pointers_kind(shard: str) -> str:
    """Return the kind of the blobs that hold the pointers to a shard's snapshots."""
    return f"{shard}.pointer"


def stored_pointers(blobs: Blobs, shard: str) -> Iterator[Pointer]:
    """Yield the pointers to a shard's snapshots that are stored beside them, the newest first."""
    for name in blobs.names(pointers_kind(shard)):
        with suppress(BlobMissing, BlobCorrupt, msgspec.MsgspecError):
            yield _read(blobs, name)


def store_pointer(blobs: Blobs, shard: str, pointer: Pointer) -> None:
    """Store a pointer beside its blob: for a return to it, and for when the whole journal is lost.

    Raises:
        BlobUnwritable: it cannot be written.
    """
    blobs.put(pointers_kind(shard), msgspec.json.encode(pointer))


def _read(blobs: Blobs, name: str) -> Pointer:
    pointer = msgspec.json.decode(blobs.get(name), type=Pointer)
    return pointer if pointer.time_ms else msgspec.structs.replace(pointer, time_ms=blobs.put_ms(name))


def kept_snapshots(blobs: Blobs, shard: str) -> list[Kept]:
    """Return the snapshots of a shard whose blobs are there, the newest first; one that was put back twice."""
    found: list[Kept] = []
    for name in blobs.names(pointers_kind(shard)):
        with suppress(BlobMissing, BlobCorrupt, msgspec.MsgspecError):
            pointer = _read(blobs, name)
            if size := blobs.size(pointer.blob):
                found.append(Kept(name, pointer, size))
    return sorted(found, key=lambda one: (one.pointer.time_ms, one.pointer.number), reverse=True)


def bytes_of(kept: Iterable[Kept]) -> int:
    """Return the number of bytes that the blobs of snapshots take."""
    return sum({one.pointer.blob: one.bytes for one in kept}.values())


def thinned(times_ms: Sequence[int]) -> list[int]:
    """Return the indices of the times whose snapshots are kept; ages are counted from the newest.

    >>> thinned([0, 1, 2, 3, 4]), thinned([0, HOUR_MS - 1, 10 * HOUR_MS, 11 * HOUR_MS, 11 * HOUR_MS + 1])
    ([2, 3, 4], [1, 2, 3, 4])
    """
    order = sorted(range(len(times_ms)), key=lambda index: times_ms[index], reverse=True)
    kept, seen = set(order[:snapshots_kept]), set[tuple[int, int]]()
    for index in order:
        age_ms = times_ms[order[0]] - times_ms[index]
        for step_ms, until_ms in ((HOUR_MS, hourly_ms), (DAY_MS, daily_ms)):
            bucket = step_ms, times_ms[index] // step_ms
            if age_ms <= until_ms and bucket not in seen:
                seen.add(bucket)
                kept.add(index)
    return sorted(kept)


def sweep(blobs: Blobs, shard: str, named: Collection[str], cache: dict[str, Pointer]) -> None:
    """Delete a shard's snapshots that are neither named nor kept, and their pointers. Only its writer calls this.

    Args:
        named: the blobs that its journal needs.
        cache: pointers that earlier calls have read, by name; it is brought up to date.
    """
    names = blobs.names(pointers_kind(shard))
    found = {name: cache[name] for name in names if name in cache}
    for name in names:
        if name not in found:
            with suppress(BlobMissing, BlobCorrupt, msgspec.MsgspecError):
                found[name] = _read(blobs, name)
    pointers = sorted(found, key=lambda name: found[name].time_ms, reverse=True)
    kept = {pointers[index] for index in thinned([found[name].time_ms for name in pointers])}
    since_ms = max((one.time_ms for one in found.values()), default=0) - daily_ms
    kept |= set([name for name in pointers if found[name].renews and found[name].time_ms >= since_ms][:renewing_kept])
    kept |= {name for name, pointer in found.items() if pointer.blob in named}
    blobs.sweep(shard, {*named, *(found[name].blob for name in kept)})
    blobs.sweep(pointers_kind(shard), kept)
    cache.clear()
    cache.update({name: found[name] for name in kept})
