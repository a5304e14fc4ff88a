"""The newest answers: what each showed, so that an event that names one can be attributed to it."""

from collections import OrderedDict
from collections.abc import Sequence
from struct import pack
from typing import Any, Final, Self
from zlib import crc32

from msgspec import Struct

from learners.placements.tallies import Group

_code_bytes: Final = 4


class Answer(Struct, gc=False):
    """An answer: its group, its append time in milliseconds, and what was shown.

    `codes` has the CRC-32 of each item's id, in order: a tenth of the ids' memory. An item that was not shown in an
    answer of n items passes for one that was with a probability of n / 2**32. `clicked` and `carted` have a bit for
    each item, that of the first one lowest.
    """

    group: Group
    time_ms: int
    codes: bytes
    clicked: int = 0
    carted: int = 0

    def bit(self, item: str) -> int:
        """Return the bit of an item; 0 if it was not shown.

        >>> answer = Answer(Group("/v1/x", "", ""), 0, codes_of(["a", "b"]))
        >>> [answer.bit(item) for item in "abc"]
        [1, 2, 0]
        """
        code, codes = crc32(item.encode()).to_bytes(_code_bytes, "little"), self.codes
        for place in range(0, len(codes), _code_bytes):
            if codes[place : place + _code_bytes] == code:
                return 1 << place // _code_bytes
        return 0


def codes_of(items: Sequence[str]) -> bytes:
    """Return the codes of items."""
    return pack(f"<{len(items)}I", *[crc32(item.encode()) for item in items])


class Answers:
    """The newest answers by their ids, oldest first.

    Attributes:
        evicted: answers that were evicted.
    """

    def __init__(self, answers_max: int) -> None:
        self.answers_max, self.evicted = answers_max, 0
        self._answers: OrderedDict[str, Answer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def __contains__(self, name: str) -> bool:
        return name in self._answers

    def get(self, name: str) -> Answer | None:
        """Return the answer of an id; None if it is not remembered."""
        return self._answers.get(name)

    def add(self, name: str, answer: Answer) -> None:
        """Remember an answer; above the maximum, evict the oldest one."""
        if len(self._answers) >= self.answers_max:
            self._answers.popitem(last=False)
            self.evicted += 1
        self._answers[name] = answer

    def state(self) -> dict[str, Any]:
        """Return all answers as columns, oldest first; of the marks, those that are set."""
        answers = list(self._answers.values())
        groups = list(dict.fromkeys([one.group for one in answers]))
        places = {group: place for place, group in enumerate(groups)}
        marked = [(place, one) for place, one in enumerate(answers) if one.clicked or one.carted]
        return {
            "evicted": self.evicted, "ids": list(self._answers), "groups": [list(group) for group in groups],
            "group": [places[one.group] for one in answers], "time_ms": [one.time_ms for one in answers],
            "codes": [one.codes for one in answers],
            "marks": [[place, _bytes(one.clicked), _bytes(one.carted)] for place, one in marked],
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any], answers_max: int) -> Self:
        """Return answers that continue where `state` was taken; of more than the maximum, the newest."""
        found, groups = cls(answers_max), [Group(*names) for names in state["groups"]]
        answers = [
            Answer(groups[group], time_ms, codes)
            for group, time_ms, codes in zip(state["group"], state["time_ms"], state["codes"], strict=True)
        ]
        for place, clicked, carted in state["marks"]:
            answers[place].clicked, answers[place].carted = _int(clicked), _int(carted)
        found.evicted = state["evicted"] + max(0, len(answers) - answers_max)
        found._answers = OrderedDict(list(zip(state["ids"], answers, strict=True))[-answers_max:])
        return found


def _bytes(marks: int) -> bytes:
    return marks.to_bytes((marks.bit_length() + 7) // 8, "little")


def _int(marks: bytes) -> int:
    return int.from_bytes(marks, "little")
