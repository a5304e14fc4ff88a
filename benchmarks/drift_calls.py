"""What the watchers of the shard `online` are told during a fold, so that changed watchers need no other fold.

The watchers of a fold are replaced by recorders. Their calls are kept in a file beside the stream's; `alarms` makes the
same calls to new watchers, in about a second for a stream of 40,000 events.
"""

import pickle
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from learners.next_item.family import MISS
from learners.next_item.judgement import Judgement
from learners.next_item.watching import Watching
from learners.parts.drift import LossDrift
from learners.purchase.family import LOSS, labels_block
from learners.purchase.watching import Watching as PurchaseWatching

Note = Callable[[str, str, tuple[Any, ...], dict[str, Any]], None]
"""Is told of a call: the watcher, its method, and the arguments."""
Call = tuple[int, str, str, tuple[Any, ...], dict[str, Any]]
"""Number of events up to a call, and what a `Note` is told."""
WATCHERS: Final[dict[str, Callable[[], Any]]] = {
    "next_item.watching": Watching,
    "next_item.miss_drift": lambda: LossDrift(MISS),
    "purchase.watching": lambda: PurchaseWatching(labels_block),
    "purchase.drift": lambda: LossDrift(LOSS, block=labels_block),
}
"""Makes each watcher, by family and attribute."""
MODULES: Final = (
    "learners.next_item.watched_items", "learners.next_item.watching", "learners.parts.adwin", "learners.parts.drift",
    "learners.parts.features", "learners.parts.monitor", "learners.parts.page_hinkley", "learners.parts.shift",
    "learners.purchase.watching",
)  # fmt: skip
"""The watchers' modules. They do not change what watchers are told."""
TOLD: Final = frozenset({"observe", "observe_judgement", "observe_labels", "forget"})
"""Methods of watchers that change them."""


class Raised(NamedTuple):
    """An alarm of the online shard: events up to it, its detector, and what it names."""

    events: int
    detector: str
    names: tuple[str, ...]


class Recorder:
    """Stands for a watcher, and notes what it is told."""

    def __init__(self, watcher: Any, name: str, note: Note) -> None:
        self._watcher, self._name, self._note = watcher, name, note

    def __getattr__(self, method: str) -> Any:
        found = getattr(self._watcher, method)
        if method not in TOLD:
            return found

        def told(*arguments: Any, **named: Any) -> Any:
            self._note(self._name, method, tuple(map(_kept, arguments)), named)
            return found(*arguments, **named)

        return told


def _kept(argument: Any) -> Any:
    if isinstance(argument, Judgement):
        return msgspec.structs.replace(argument, candidates=[], scores={}, traits=b"")  # large, and not watched
    return list(argument) if isinstance(argument, list) else argument


def path_of(stream: Path) -> Path:
    """Return where the calls during the fold of a stream are kept."""
    return stream.with_suffix(".calls")


def encode(calls: Iterable[Call]) -> bytes:
    """Return calls as bytes, which must be decoded only where they were made: they are a pickle."""
    return zlib.compress(pickle.dumps(list(calls)), 1)


def decode(data: bytes) -> list[Call]:
    """Return the calls of bytes that `encode` made."""
    calls: list[Call] = pickle.loads(zlib.decompress(data))
    return calls


def alarms(calls: Iterable[Call]) -> tuple[Raised, ...]:
    """Return the alarms of new watchers that are told the same."""
    watchers = {name: make() for name, make in WATCHERS.items()}
    found = []
    for number, name, method, arguments, named in calls:
        for one in getattr(watchers[name], method)(*arguments, **named) or ():
            found.append(Raised(number, one.detector, tuple(moved.value for moved in one.moved)))
    return tuple(sorted(found))
