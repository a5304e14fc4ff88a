"""Small synthetic streams that several tests learn from."""

import random

from benchmarks.prequential import LoggedStep
from learners.protocol import Context


def language(count: int, seed: int, deal: int, size: int = 60) -> str:
    """Return a period of `count` sessions, as text; each visits items of one group of five in random order.

    Args:
        deal: determines which of the `size` items form a group; another value gives another structure.
    """
    rng = random.Random(seed)
    lines = []
    for session in range(count):
        group = rng.randrange(size // 5)
        members = rng.sample([(5 * group + k) * deal % size for k in range(5)], rng.randint(2, 5))
        lines += [f"s{session} i{member}\n" for member in members]
    return "".join(lines)


def chain(begin: int, end: int, shift: int) -> list[LoggedStep]:
    """Return sessions of four steps, one a second, in which item n of 12 is followed by n + `shift`."""
    found = []
    for session in range(begin, end):
        items = [(session + shift * place) % 12 for place in range(4)]
        for place, item in enumerate(items):
            found.append(LoggedStep(Context(tuple(items[:place]), 0, session, (4 * session + place) * 1_000), item))
    return found
