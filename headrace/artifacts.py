"""Artifacts in use (promoted models): each is loaded once from its blob; one whose blob is lost is not used."""

import sys
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, Generic, TypeVar

from headrace.clock import TIMER, Timer
from headrace.errors import BlobCorrupt, BlobMissing, Misconfigured, StateUnreadable
from headrace.shard.blobs import Blobs

A = TypeVar("A")

retry_s: Final = 1.0
"""Time, in seconds, until a blob that could not be read is read again; it doubles with each try."""
retry_s_max: Final = 60.0
"""Longest time, in seconds, between two tries."""


def resolve(name: str) -> Any:
    """Return what `module:name` names.

    Raises:
        Misconfigured: there is no such module, or it has no such name.

    >>> resolve("headrace.artifacts:resolve").__name__
    'resolve'
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise Misconfigured(f"{name}: wanted module:name, found {error}") from error


class Artifacts(Generic[A]):
    """The one place that loads and keeps artifacts. Not for use by two threads at once.

    Args:
        load: names the function `module:name` that turns a blob's bytes into an artifact; it raises StateUnreadable for
            another version's format. It is imported at the first need, as its library may take seconds to import.
        warn: logs a warning, given an event's name and its fields, when an artifact cannot be loaded.
    """

    def __init__(self, blobs: Blobs, load: str, warn: Callable[..., None], timer: Timer = TIMER) -> None:
        self.blobs, self._warn = blobs, warn
        self._load = load
        self._importing: threading.Thread | None = None
        self._timer = timer
        self._loading: _Loading[A] | None = None
        self._loaded: dict[str, A | None] = {}
        self._tries: dict[str, tuple[int, float]] = {}  # how often a blob could not be read, and when to try again

    @property
    def prepared(self) -> bool:
        """Whether `get` will not have to wait for an import."""
        thread = self._importing
        return not thread.is_alive() if thread else self._load.partition(":")[0] in sys.modules

    def prepare(self) -> bool:
        """Return `prepared`; if it is false, have the library imported by a thread, beside what this one does."""
        if self._importing is None and not self.prepared:
            self._importing = threading.Thread(target=self._import, name=f"import of {self._load}", daemon=True)
            self._importing.start()
        return self.prepared

    def _import(self) -> None:
        with suppress(Misconfigured):  # `get` raises it
            resolve(self._load)

    def get(self, blob: str) -> A | None:
        """Return an artifact; None, with a warning at the first time, if its blob is gone, damaged or unreadable.

        A refold cannot restore it, and the fast learners must go on without it. One that cannot be read now may be
        readable later (a full table of open files, a folder that is mounted again): it is tried again, at growing
        intervals. What its bytes say does not change.
        """
        if blob in self._loaded or self._waits(blob):
            return self._loaded.get(blob)
        try:
            self._loaded[blob] = self._read(blob)
            self._tries.pop(blob, None)
        except BlobMissing as error:
            tries, _ = self._tries.get(blob, (0, 0.0))
            if not tries:
                self._warn("artifact is missing, trying again", blob=blob, error=str(error))
            pause_s = min(retry_s_max, retry_s * 2**tries)
            self._tries[blob] = min(tries + 1, 30), self._timer.monotonic() + pause_s
        return self._loaded.get(blob)

    def retries(self, blob: str) -> bool:
        """Return whether an artifact that `get` does not return may be readable later."""
        return blob in self._tries

    def _waits(self, blob: str) -> bool:
        """Return whether a blob could not be read, and is not to be tried again yet."""
        tries, next_s = self._tries.get(blob, (0, 0.0))
        return bool(tries) and self._timer.monotonic() < next_s

    def load(self, blob: str, wait_s: float) -> bool:
        """Have an artifact loaded by a thread, beside what this one does; return whether `get` will not have to wait.

        One is loaded at a time: another is begun by the first call after that.

        Args:
            wait_s: longest wait for it in this call.
        """
        if blob in self._loaded or self._waits(blob):
            return True
        if self._loading is None:
            self._loading = _Loading(self._read, blob)
        begun = self._loading
        if not begun.finished(wait_s):
            return False
        self._loading = None
        self._loaded |= begun.found
        return begun.blob == blob  # one that failed is not found: `get` raises the error

    def _read(self, blob: str) -> A | None:
        """Return an artifact; None, with a warning, if its bytes are unusable. Raises BlobMissing."""
        try:
            artifact: A = resolve(self._load)(self.blobs.get(blob))
        except (BlobCorrupt, StateUnreadable) as error:
            self._warn("artifact is unusable", blob=blob, error=str(error))
            return None
        return artifact

    def add(self, blob: str, artifact: A) -> None:
        """Keep an artifact that was just made or loaded, under its blob's name."""
        self._loaded[blob] = artifact

    def retain(self, blobs: Collection[str]) -> None:
        """Drop all artifacts except these."""
        self._loaded = {blob: artifact for blob, artifact in self._loaded.items() if blob in blobs}
        self._tries = {blob: tries for blob, tries in self._tries.items() if blob in blobs}

    def loaded(self) -> list[A]:
        """Return the artifacts in use."""
        return [artifact for artifact in self._loaded.values() if artifact is not None]


class _Loading(Generic[A]):
    """An artifact that a thread loads.

    Attributes:
        found: the artifact by its blob's name, once it is loaded.
    """

    def __init__(self, read: Callable[[str], A | None], blob: str) -> None:
        self.blob, self._read = blob, read
        self.found: dict[str, A | None] = {}
        self._thread = threading.Thread(target=self._run, name=f"load of {blob}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(Misconfigured, BlobMissing):  # `Artifacts.get` meets them, too
            self.found[self.blob] = self._read(self.blob)

    def finished(self, wait_s: float) -> bool:
        """Return whether the thread has ended, after a wait of at most `wait_s`."""
        self._thread.join(wait_s)
        return not self._thread.is_alive()
