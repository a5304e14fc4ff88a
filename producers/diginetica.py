"""DIGINETICA in weekly periods (`period_0.txt` …, lines `session item` in global order), as `view_item` events.

The data has no timestamps. Period n becomes week n after `start_ms`, and the clicks of a period are spread evenly over
its week, which keeps their order; each event is marked `made_up: ["time"]`. There are no purchases, and each session is
a separate shopper.

Source: Mi, Lin & Faltings (2020), ADER, RecSys 2020, from the CIKM Cup 2016 (DIGINETICA).
"""

import hashlib
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, TypeVar, final

from headrace.errors import Misconfigured
from headrace.events import Data, Item
from producers.file import FileReader, ReadOptions, Source, translated_damage
from producers.sequence import NumberedRecord

start_ms: Final = 1_451_606_400_000
"""2016-01-01, the start of the synthetic time."""
week_ms: Final = 7 * 86_400_000
period_bytes_max: Final = 200_000_000
"""Maximum size of a period, which is read into memory; the published ones have 1 MB."""
period_max: Final = 9_999
"""Maximum number of a period: the end of the synthetic time."""
_NAME: Final = re.compile(r"(?:.*/)?period_(\d+)\.txt")


@final
class Diginetica(FileReader):
    """Reads periods from a folder or a tar file (plain or gzipped), one period at a time."""

    source = Source("diginetica", frozenset({"clock", "purchases"}))
    description = "a folder or a tar file of period_0.txt, period_1.txt, … with lines `session item`"

    def __init__(self, path: Path, options: ReadOptions) -> None:
        super().__init__(path, options)
        self._share = 0.0

    @classmethod
    def recognises(cls, path: Path) -> bool:
        if path.is_dir():
            return any(_NAME.fullmatch(file.name) for file in path.iterdir())
        try:
            with tarfile.open(path) as archive:
                return any(_NAME.fullmatch(member.name) for member in archive)
        except (tarfile.TarError, OSError, EOFError):
            return False

    @classmethod
    def digest(cls, path: Path) -> str:
        if not path.is_dir():
            return super().digest(path)
        whole = hashlib.sha256()
        for number, file in _files(path):
            if not file.is_file():
                continue  # rejected where the periods are read
            whole.update(f"{number} {super().digest(file)}\n".encode())
        return whole.hexdigest()

    @classmethod
    def check(cls, path: Path) -> None:
        if path.is_dir():
            return
        super().check(path)
        with translated_damage(path), tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and (file := archive.extractfile(member)):
                    while file.read(1 << 20):
                        pass

    def share(self) -> float:
        return self._share

    def _records(self) -> Iterator[NumberedRecord]:
        number = 0
        for done, count, period, content in self._periods():
            lines = content.splitlines()
            for i, line in enumerate(lines):
                fields = line.split()
                if len(fields) != 2 or max(map(len, fields)) > 100 or not line.isascii():
                    self._reject("row", f"period {period}, line {i + 1}", "wanted two fields: session item")
                    continue
                session, item = fields[0].decode(), fields[1].decode()
                time_ms = start_ms + period * week_ms + i * week_ms // len(lines)
                shopper = f"session-{session}"
                data = Data(items=[Item(item)], session_id=session, made_up=["time"])
                digest = self._digest.add(b"%d %s" % (period, line))
                where = f"period {period}, line {i + 1}"
                record = self._event(number, digest, "view_item", time_ms, shopper, data, where)
                if record is not None:
                    yield record
                number += 1
                self._share = (done + i / len(lines)) / count

    def _periods(self) -> Iterator[tuple[int, int, int, bytes]]:
        if self._path.is_dir():
            files = _files(self._path)
            for i, (period, path) in enumerate(files):
                if self._fits(period, path.name, path.stat().st_size if path.is_file() else None):
                    yield i, len(files), period, path.read_bytes()
            return
        with translated_damage(self._path), tarfile.open(self._path) as archive:
            members = _in_order(archive, lambda member: member.name)
            for i, (period, member) in enumerate(members):
                if self._fits(period, member.name, member.size if member.isfile() else None):
                    file = archive.extractfile(member)
                    assert file is not None, "a regular file has content"
                    yield i, len(members), period, file.read()

    def _fits(self, period: int, name: str, size: int | None) -> bool:
        if size is None or size > period_bytes_max or period > period_max:
            wanted = f"wanted a file of at most {period_bytes_max} bytes, and a number of at most {period_max}"
            self._reject("period", name, wanted)
            return False
        return True


def _files(folder: Path) -> list[tuple[int, Path]]:
    return _in_order(folder.iterdir(), lambda file: file.name)


F = TypeVar("F")


def _in_order(found: Iterable[F], name: Callable[[F], str]) -> list[tuple[int, F]]:
    """Return the periods among `found`, sorted by number. Raises Misconfigured if a number occurs twice."""
    periods: dict[int, F] = {}
    for one in found:
        if match := _NAME.fullmatch(name(one)):
            other = periods.setdefault(int(match[1]), one)
            if other is not one:
                raise Misconfigured(f"wanted each period once, found {name(other)} and {name(one)}")
    return sorted(periods.items(), key=lambda period: period[0])
