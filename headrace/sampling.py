"""Seeded sampling by identifiers: the same share of shoppers, or of events, in every process and on every machine."""

import hashlib
from functools import lru_cache
from typing import Final


def fraction(name: str, seed: int, purpose: str) -> float:
    """Return a number from 0 (inclusive) to 1 that looks random, but is always the same for these arguments.

    Samples of different seeds or purposes are independent. (A checksum such as `crc32(name, seed)` is no such hash:
    two of its seeds shift all numbers by the same XOR, so that two halves of the shoppers are nearly equal or nearly
    complementary.)

    Args:
        purpose: at most 16 bytes, such as "holdout".

    >>> sum(fraction(f"shopper-{n}", 0, "holdout") < 0.05 for n in range(10_000))
    457
    >>> fraction("ann", 0, "holdout") == fraction("ann", 1, "holdout")
    False

    Source: BLAKE2b with a key and a personalisation (RFC 7693, and "BLAKE2: simpler, smaller, fast as MD5", 2013).
    """
    hashed = _begun(seed, purpose).copy()
    hashed.update(name.encode())
    return (int.from_bytes(hashed.digest(), "little") >> 11) * 2.0**-53


def two_fractions(name: str, seed: int, purpose: str) -> tuple[float, float]:
    """Return two such numbers, which are independent of each other, in the time of one.

    >>> both = [two_fractions(f"shopper-{n}", 0, "arm") for n in range(10_000)]
    >>> sum(one < 0.5 and other < 0.5 for one, other in both)
    2518
    """
    hashed = _begun(seed, purpose, 16).copy()
    hashed.update(name.encode())
    both = int.from_bytes(hashed.digest(), "little")
    return ((both & _LOW) >> 11) * 2.0**-53, (both >> 75) * 2.0**-53


_LOW: Final = 2**64 - 1


@lru_cache(maxsize=64)
def _begun(seed: int, purpose: str, digest_bytes: int = 8) -> "hashlib.blake2b":
    # Making it takes longer than hashing an id.
    return hashlib.blake2b(
        digest_size=digest_bytes, key=seed.to_bytes(16, "little", signed=True), person=purpose.encode()
    )
