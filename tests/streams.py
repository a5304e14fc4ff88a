"""Small made-up streams that more than one test learns from."""

import random

from benchmarks.prequential import Step
from learners.learner import Context


def language(count: int, seed: int, deal: int, size: int = 60) -> str:
    """Return a period of `count` sessions, as text, that visit items of one family of five in random order.

    Args:
        deal: decides which of the `size` items make a family: another deal is another language.
    """
    chance = random.Random(seed)
    lines = []
    for session in range(count):
        family = chance.randrange(size // 5)
        members = chance.sample([(5 * family + k) * deal % size for k in range(5)], chance.randint(2, 5))
        lines += [f"s{session} i{member}\n" for member in members]
    return "".join(lines)


def chain(begin: int, end: int, shift: int) -> list[Step]:
    """Return sessions of four steps, one a second, in which item n of 12 is followed by n + `shift`."""
    found = []
    for session in range(begin, end):
        items = [(session + shift * place) % 12 for place in range(4)]
        for place, item in enumerate(items):
            found.append(Step(Context(tuple(items[:place]), 0, session, (4 * session + place) * 1_000), item))
    return found
