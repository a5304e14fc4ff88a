"""Artifacts in use (promoted models): each is loaded once from its blob; one whose blob is lost is not used."""

from collections.abc import Callable, Collection
from importlib import import_module
from typing import Any, Generic, TypeVar

from headrace.errors import BlobCorrupt, BlobMissing, Misconfigured, StateUnreadable
from headrace.shard.blobs import Blobs

A = TypeVar("A")


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
        load: turns a blob's bytes into an artifact; raises StateUnreadable for another version's format.
        warn: logs a warning, given an event's name and its fields, when an artifact cannot be loaded.
    """

    def __init__(self, blobs: Blobs, load: Callable[[bytes], A], warn: Callable[..., None]) -> None:
        self.blobs, self._warn = blobs, warn
        self._load = load
        self._loaded: dict[str, A | None] = {}

    def get(self, blob: str) -> A | None:
        """Return an artifact; None, with a warning at the first time, if its blob is gone, damaged or unreadable.

        A refold cannot restore it, and the fast learners must go on without it.
        """
        if blob not in self._loaded:
            try:
                self._loaded[blob] = self._load(self.blobs.get(blob))
            except (BlobMissing, BlobCorrupt, StateUnreadable) as error:
                self._warn("artifact is missing", blob=blob, error=str(error))
                self._loaded[blob] = None
        return self._loaded[blob]

    def add(self, blob: str, artifact: A) -> None:
        """Keep an artifact that was just made or loaded, under its blob's name."""
        self._loaded[blob] = artifact

    def retain(self, blobs: Collection[str]) -> None:
        """Drop all artifacts except these."""
        self._loaded = {blob: artifact for blob, artifact in self._loaded.items() if blob in blobs}

    def loaded(self) -> list[A]:
        """Return the artifacts in use."""
        return [artifact for artifact in self._loaded.values() if artifact is not None]
