"""Periods of clicks, and the test predictions of the ADER protocol on them.

The protocol: before period t, learn from all earlier periods, then test on all of period t. Items that were never seen
before t are removed from its sessions, and sessions that are then shorter than 2 are dropped. Every prefix of the
others is one prediction of the item after it.

Source: Mi, Lin and Faltings, "ADER: adaptively distilled exemplar replay towards continual learning for session-based
recommendation", RecSys 2020.
"""

import hashlib
import os
import re
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from headrace.errors import Misconfigured

archive: Final = "diginetica_periods.tar.gz"
"""Name of the data set in the folder `HEADRACE_DATA`."""
texts_bytes_max: Final = 2_000_000_000
"""Most unpacked bytes of all periods of an archive: they are read into memory."""
_file_name: Final = re.compile(r"period_(\d+)\.txt")


class Click(NamedTuple):
    """A click: the running number of its session, and its item's slot."""

    session: int
    item: int


class Question(NamedTuple):
    """One prediction: the session so far, and the true item."""

    prefix: Sequence[int]
    item: int


class Periods:
    """All clicks of a data set in order, period by period; period 0 is only learned.

    Items get slots and sessions get numbers, both in the order of first appearance. So the items seen before period t
    are exactly the slots below `seen[t]`. A session belongs to its period: the same name in another period is another
    session.

    Attributes:
        items: the item's name at each slot.
        clicks: per period, its clicks in order.
        seen: per period, the number of items seen before it.
        started: per period, the number of sessions that began before it.
        digest: SHA-256 of all texts, in hex.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        slots: dict[str, int] = {}
        self.clicks: list[list[Click]] = []
        self.seen: list[int] = []
        self.started: list[int] = []
        started = 0
        for number, text in enumerate(texts):
            self.seen.append(len(slots))
            self.started.append(started)
            sessions: dict[str, int] = {}
            clicks = []
            for row, line in enumerate(text.splitlines(), 1):
                parts = line.split()
                if len(parts) != 2:
                    raise Misconfigured(f"period_{number}.txt, line {row}: wanted `session item`, found {line[:80]!r}")
                session = sessions.setdefault(parts[0], started + len(sessions))
                clicks.append(Click(session, slots.setdefault(parts[1], len(slots))))
            started += len(sessions)
            self.clicks.append(clicks)
        self.items = list(slots)
        self.digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()

    @property
    def last(self) -> int:
        """The number of the last period."""
        return len(self.clicks) - 1

    def sessions(self, period: int) -> list[list[int]]:
        """Return a period's sessions in the order of their first click, each with its items in order."""
        found: dict[int, list[int]] = {}
        for session, item in self.clicks[period]:
            found.setdefault(session, []).append(item)
        return list(found.values())

    def questions(self, period: int, sample: float = 1.0, seed: int = 0) -> list[Question]:
        """Return a period's predictions, session by session, for a seeded `sample` of the sessions."""
        known = ([item for item in items if item < self.seen[period]] for items in self.sessions(period))
        tested = [items for items in known if len(items) > 1]
        chosen = np.random.default_rng([seed, period]).random(len(tested)) < sample
        return [
            Question(items[:place], items[place])
            for items, is_chosen in zip(tested, chosen, strict=True)
            if is_chosen
            for place in range(1, len(items))
        ]


def load(data: Path | None = None) -> Periods:
    """Return the periods in the files `period_0.txt`, `period_1.txt`, … of a folder or of a tar archive.

    An archive is not unpacked to the disk, and other files in it are ignored. Without `data` the archive is that of
    DIGINETICA in the folder that the environment variable `HEADRACE_DATA` names.

    Raises:
        Misconfigured: there are no files, one is missing, or a line is not `session item`.
    """
    data = data or _provided()
    try:
        texts = _from_folder(data) if data.is_dir() else _from_archive(data)
    except (OSError, EOFError, tarfile.TarError, zlib.error, UnicodeDecodeError) as error:
        raise Misconfigured(f"{data}: wanted a folder or a tar archive of period_*.txt: {error}") from error
    if len(texts) < 2 or sorted(texts) != list(range(len(texts))):
        found = sorted(texts)
        raise Misconfigured(f"{data}: wanted period_0.txt, period_1.txt and so on without a gap, found {found}")
    return Periods([texts[number] for number in range(len(texts))])


def _provided() -> Path:
    folder = os.environ.get("HEADRACE_DATA")
    if not folder:
        raise Misconfigured(
            "--data: wanted a folder of period_*.txt with lines `session item`, or a tar archive of them; "
            f"or set HEADRACE_DATA to a folder that holds {archive}"
        )
    return Path(folder) / archive


def _from_folder(folder: Path) -> Mapping[int, str]:
    named = ((_file_name.fullmatch(path.name), path) for path in folder.iterdir())
    return {int(match[1]): path.read_text() for match, path in named if match}


def _from_archive(path: Path) -> Mapping[int, str]:
    texts: dict[int, str] = {}
    size = 0
    with tarfile.open(path) as opened:
        for member in opened:
            match = _file_name.fullmatch(member.name.rpartition("/")[2])
            if not match or not member.isfile():
                continue
            size += member.size
            if int(match[1]) in texts or size > texts_bytes_max:
                raise Misconfigured(f"{path}: wanted each period once, at most {texts_bytes_max} bytes in all")
            file = opened.extractfile(member)
            assert file is not None, "a plain file can be read"
            texts[int(match[1])] = file.read().decode()
    return texts
