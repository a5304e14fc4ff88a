"""Rows to events by a mapping: the base of such kinds, and any CSV, Parquet or JSONL file with a mapping file."""

import importlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple, final

import msgspec

from headrace.errors import Misconfigured
from headrace.log.protocol import RECORD_BYTES_MAX
from producers.file import FileReader, ReadOptions, Source, first_lines
from producers.mapper import Mapper
from producers.mapping import Format, Mapping
from producers.sequence import NumberedRecord
from producers.sorting import Keyed, in_order
from producers.table import DELIMITERS, rows
from producers.times import date_order
from producers.values import Row, Unusable, plain

MAPPED: Final = "mapped"
group_rows_max: Final = 2_000
"""Maximum number of rows of one event; more become further events."""
PARQUET_MAGIC: Final = b"PAR1"
_SEPARATOR: Final = "\x1f"


class Numbered(NamedTuple):
    """A row as it is in the file: its number, and its text (CSV) or JSON."""

    number: int
    content: bytes


class RowReader(FileReader):
    """Reads rows and converts them by a mapping; several rows may be one event."""

    def __init__(self, path: Path, options: ReadOptions) -> None:
        self._mapping, self._format = self._read_as(path, options)
        self._columns = tuple(self._mapping.columns)
        super().__init__(path, options)

    @classmethod
    @abstractmethod
    def _read_as(cls, path: Path, options: ReadOptions) -> tuple[Mapping, Format]:
        """Return the mapping for a file, and its format."""

    def _enrich(self, row: Row) -> None:
        """Add to a row what lies beside the file."""

    def _seed(self) -> str:
        return f"{super()._seed()} {self._options.zone} {self._options.date_order} {self._mapping.digest}"

    def _records(self) -> Iterator[NumberedRecord]:
        mapping = self._mapping
        given = self._options.date_order or mapping.time.date_order
        undecided = given is None and mapping.time.unit is None and mapping.time.format is None
        mapper = Mapper(mapping, zone=self._options.zone, order=given or "month-first")
        if undecided:
            times = (mapper.time(self._fields(content)) for _, content in self._rows())
            order = date_order((time for time in times if isinstance(time, str)), str(self._path))
            mapper = Mapper(mapping, zone=self._options.zone, order=order)
            self._begin()
        found: Iterable[Numbered] = self._rows()
        if mapping.sort:
            found = self._sorted(found, mapper)
        kept = ((numbered, row) for numbered in found if (row := self._kept(numbered, mapper)) is not None)
        for number, group in enumerate(_groups(kept, mapper)):
            where = f"line {group[0][0].number}"
            content = b"\x1e".join(numbered.content for numbered, _ in group)
            digest = "" if mapping.sort else self._digest.add(content)
            try:
                event = mapper.event([row for _, row in group])
            except Unusable as problem:
                self._reject(problem.reason, where, problem.detail)
                continue
            if event is None:
                self.left_out["event_type"] += 1
                continue
            for place, fault in event.faults:
                self._reject(fault.reason, f"line {group[place][0].number}", fault.detail)
            if mapping.sort:
                digest = self._digest.add_sorted(content, event.time_ms)
            record = self._event(number, digest, event.type, event.time_ms, event.shopper, event.data, where)
            if record is not None:
                yield record

    def _kept(self, numbered: Numbered, mapper: Mapper) -> Row | None:
        row = self._fields(numbered.content)
        if not mapper.keeps(row):
            self.left_out["filter"] += 1
            return None
        self._enrich(row)
        return row

    def _sorted(self, found: Iterable[Numbered], mapper: Mapper) -> Iterator[Numbered]:
        """Yield rows by time, those of equal times in their order; those of one event at the time of its first."""
        return (Numbered(row.number, row.content) for row in in_order(self._keyed(found, mapper)))

    def _keyed(self, found: Iterable[Numbered], mapper: Mapper) -> Iterator[Keyed]:
        groups: dict[tuple[str, ...], tuple[int, int]] = {}
        for number, content in found:
            row = self._fields(content)
            try:
                time_ms = mapper.time_ms(row)
            except Unusable as problem:
                self._reject(problem.reason, f"line {number}", problem.detail)
                continue
            key = mapper.group(row)
            first = (time_ms, number) if key is None else groups.setdefault(key, (time_ms, number))
            self._digest.begin(content)
            yield Keyed(*first, number, content)

    # Rows of each format

    def _fields(self, content: bytes) -> Row:
        """Return the values of a row."""
        if self._format != "csv":
            row: Row = msgspec.json.decode(content)
            return row
        return dict(zip(self._columns, content.decode().split(_SEPARATOR), strict=True))

    def _rows(self) -> Iterator[Numbered]:
        return {"csv": self._csv_rows, "jsonl": self._json_rows, "parquet": self._parquet_rows}[self._format]()

    def _csv_rows(self) -> Iterator[Numbered]:
        mapping = self._mapping
        wanted = {column: (column,) for column in self._columns}
        delimiters = mapping.delimiter or DELIMITERS
        for number, row in rows(self._lines(), wanted, self._reject, where=str(self._path), delimiters=delimiters):
            fields = (field.strip().replace(_SEPARATOR, " ") for field in row)
            yield Numbered(number, _SEPARATOR.join(fields).encode())

    def _json_rows(self) -> Iterator[Numbered]:
        for number, line in self._lines():
            if not (content := line.strip()):
                continue
            try:
                row = msgspec.json.decode(content)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                self._reject("not_json", f"line {number}", str(error)[:200] or "nested too deeply")
                continue
            if isinstance(row, dict):
                yield Numbered(number, content)
            else:
                self._reject("not_json", f"line {number}", "wanted an object in braces")

    def _parquet_rows(self) -> Iterator[Numbered]:
        parquet = parquet_library()
        try:
            file = parquet.ParquetFile(self._path)
            present = file.schema_arrow.names
            tops = (column if column in present else column.split(".")[0] for column in self._columns)
            columns = list(dict.fromkeys(tops))
            if missing := [column for column in columns if column not in present]:
                raise Misconfigured(
                    f"{self._path}: wanted the columns {', '.join(missing)}; found {', '.join(present)[:500]}"
                )
            number = 0
            for batch in file.iter_batches(columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    content = msgspec.json.encode({name: plain(value) for name, value in row.items()})
                    if len(content) > RECORD_BYTES_MAX:
                        self._reject("too_large", f"line {number}", f"wanted at most {RECORD_BYTES_MAX} bytes")
                    else:
                        yield Numbered(number, content)
        except (OSError, ValueError) as error:  # pyarrow's errors are subclasses of these
            raise Misconfigured(f"{self._path}: wanted a Parquet file, found: {error}") from error


def _groups(kept: Iterator[tuple[Numbered, Row]], mapper: Mapper) -> Iterator[list[tuple[Numbered, Row]]]:
    """Yield the rows of each event."""
    for key, group in groupby(kept, lambda one: mapper.group(one[1])):
        if key is None:
            for one in group:
                yield [one]
            continue
        rows_ = list[tuple[Numbered, Row]]()
        for one in group:
            rows_.append(one)
            if len(rows_) == group_rows_max:
                yield rows_
                rows_ = []
        if rows_:
            yield rows_


def parquet_library() -> Any:
    """Return the module that reads Parquet. Raises Misconfigured if it is not installed."""
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise Misconfigured("Parquet files need pyarrow: pip install 'headrace[parquet]'") from None


def format_of(path: Path) -> Format:
    """Return the format of a file, by its content."""
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC:
                return "parquet"
    first = next(iter(first_lines(path)), b"")
    return "jsonl" if first.startswith(b"{") else "csv"


@final
class Mapped(RowReader):
    """Reads a file by a mapping file, in `ReadOptions.mapping`."""

    source = Source(MAPPED)
    description = "any CSV, JSONL or Parquet file, with a mapping file (--map)"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return False

    @classmethod
    def _read_as(cls, path: Path, options: ReadOptions) -> tuple[Mapping, Format]:
        assert options.mapping is not None, "the kind is mapped only with a mapping"
        return options.mapping, options.mapping.format or format_of(path)
