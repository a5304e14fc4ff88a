"""What producers publish: a sequence of numbered records, and digests of the input from which it is made."""

import hashlib
from collections import Counter
from typing import NamedTuple

from headrace.topics import EVENTS


class NumberedRecord(NamedTuple):
    """One record of a producer's sequence: its number from 0, event time, key, value and topic.

    Numbers increase within a topic but need not be consecutive. `digest` (`InputDigest`) is different for each record
    of an input: by it a later run recognises the record.
    """

    number: int
    time_ms: int
    key: bytes
    value: bytes
    topic: str = EVENTS
    digest: str = ""


class InputDigest:
    """Digests of the parts of an input, by which later runs recognise what they have published.

    A digest has 32 hexadecimal digits: 16 of the input's beginning, which all its digests share, and 16 of the part. It
    is that of the content, not of a file: neither its name nor, for text, its packing or line ends matter.

    >>> one, other = InputDigest("jsonl"), InputDigest("jsonl")
    >>> one.add(b"a") == other.add(b"a"), one.beginning == other.beginning
    (True, True)
    >>> one.add(b"b") == other.add(b"c"), one.beginning == other.beginning
    (False, True)
    """

    def __init__(self, seed: str) -> None:
        self._seed = seed.encode()
        self._hash = hashlib.sha256(self._seed)
        self._time_ms: int | None = None
        self._equal: Counter[bytes] = Counter()
        self.beginning = ""
        """Digest of how the input begins, 16 hexadecimal digits; empty before it."""

    def begin(self, content: bytes) -> None:
        """Set the beginning of an input whose parts are added in another order than it has them, unless it is set."""
        self.beginning = self.beginning or self._alone(content)

    def add(self, content: bytes) -> str:
        """Add a part and return the digest of all so far; if there is no beginning, it is the beginning."""
        self._hash.update(len(content).to_bytes(8, "big"))
        self._hash.update(content)
        own = self._hash.hexdigest()[:16]
        self.beginning = self.beginning or own
        return self.beginning + own

    def add_sorted(self, content: bytes, time_ms: int) -> str:
        """Add a part at its place in event time; return the digest of itself and its number among equal ones.

        A part that is inserted before or after it does not change its digest.

        >>> one, other = InputDigest("jsonl"), InputDigest("jsonl")
        >>> for digest in (one, other):
        ...     digest.begin(b"a")
        >>> first, _ = one.add_sorted(b"a", 1), one.add_sorted(b"b", 2)
        >>> [part == first for part in (other.add_sorted(b"x", 0), *(other.add_sorted(b"a", 1) for _ in range(2)))]
        [False, True, False]
        """
        if time_ms != self._time_ms:
            self._time_ms, self._equal = time_ms, Counter()
        self._equal[content] += 1
        return self.beginning + self._alone(b"%d %s" % (self._equal[content], content))

    def _alone(self, content: bytes) -> str:
        return hashlib.sha256(self._seed + content).hexdigest()[:16]
