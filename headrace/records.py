"""Records of a topic as decoded values, which are read when they are iterated, or as a data frame."""

import copy
import heapq
import typing
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

import msgspec
from msgspec import Struct

from headrace.clock import read_time_ms
from headrace.errors import Misconfigured
from headrace.log.protocol import Log, Partition, Record
from headrace.log.scan import partition_records

if TYPE_CHECKING:
    import pandas

rows_max_default: Final = 100_000
"""Maximum number of rows of a frame, unless another is given."""
PLACE: Final = ("appended", "record_partition", "record_offset")
"""The columns that each frame has: the append time in UTC, and where the record is in its topic."""

T = TypeVar("T")


class Logged(Struct, Generic[T], frozen=True):
    """A value that was read, and where it is in its topic.

    `appended_ms` is its append time (ms since the epoch); 0 where the log does not tell it: in a Kafka topic that keeps
    its producers' times.
    """

    value: T
    appended_ms: int
    partition: int
    offset: int

    @property
    def appended(self) -> datetime | None:
        """The append time in UTC; None where the log does not tell it."""
        return datetime.fromtimestamp(self.appended_ms / 1000, UTC) if self.appended_ms else None


class Records(Generic[T]):
    """Records of one topic, by append time (of equal ones by partition and offset), oldest first.

    Each iteration reads the log anew, up to its present end; it raises LogUnavailable if the log does not answer. At
    most a batch of each partition is in memory (`headrace.log.scan.batch_records_max`).
    """

    def __init__(self, log: Log, topic: str, kind: Any, decode: Callable[[Record], Sequence[T]]) -> None:
        self._log, self._topic, self._kind, self._decode = log, topic, kind, decode
        self._since_ms: int | None = None
        self._until_ms: int | None = None
        self._limit: int | None = None
        self._newest_first = False

    def between(self, since: datetime | str | None = None, until: datetime | str | None = None) -> Self:
        """Return those that were appended at `since` or later, and before `until`. No other records are read.

        Args:
            since, until: a time, or one in ISO 8601; without a time zone it is in UTC. None: no bound.

        Raises:
            Misconfigured: a text is not ISO 8601.
        """
        found = copy.copy(self)
        found._since_ms = None if since is None else read_time_ms("since", since)
        found._until_ms = None if until is None else read_time_ms("until", until)
        return found

    def first(self, count: int) -> Self:
        """Return the oldest ones, `count` at most. Raises Misconfigured if `count` is below 1."""
        return self._limited(count, newest_first=False)

    def newest(self, count: int) -> Self:
        """Return the newest ones, newest first, `count` at most. Raises Misconfigured if `count` is below 1."""
        return self._limited(count, newest_first=True)

    def _limited(self, count: int, *, newest_first: bool) -> Self:
        if count < 1:
            raise Misconfigured(f"{self._topic}: wanted at least 1 record, found {count}")
        found = copy.copy(self)
        found._limit, found._newest_first = count, newest_first
        return found

    def frame(self, rows_max: int = rows_max_default) -> "pandas.DataFrame":
        """Return a data frame with a row for each, `rows_max` at most; a warning says if there are more.

        Columns are `appended`, `record_partition`, `record_offset`, and the fields of the value; those of a field with
        fields of its own are joined by points (`data.session_id`).

        Raises:
            Misconfigured: pandas is not installed.
        """
        return _frame(self, self._kind, rows_max, self._topic)

    def __iter__(self) -> Iterator[Logged[T]]:
        with ExitStack() as stack:
            places = self._log.partitions(self._topic)
            parts = [stack.enter_context(closing(self._partition(place))) for place in places]
            merged = heapq.merge(*parts, key=attrgetter("time_ms", "partition", "offset"), reverse=self._newest_first)
            yield from islice((one for record in merged for one in self._logged(record)), self._limit)

    def _partition(self, place: Partition) -> Generator[Record, None, None]:
        since, until, log = self._since_ms, self._until_ms, self._log
        return partition_records(
            log, place, newest_first=self._newest_first,
            start=None if since is None else log.position_at(place, since),
            end=None if until is None else log.position_at(place, until),
        )  # fmt: skip

    def _logged(self, record: Record) -> Iterator[Logged[T]]:
        values = self._decode(record)
        for value in reversed(values) if self._newest_first else values:
            yield Logged(value, record.time_ms, record.partition, record.offset)

    def __repr__(self) -> str:
        return f"<records of {self._topic}; iterate, or call between, first, newest or frame>"


def _frame(records: Iterable[Logged[Any]], kind: Any, rows_max: int, what: str) -> "pandas.DataFrame":
    """Return a data frame of the first `rows_max` records, and warn if there are more.

    A column is a field. A field with fields of its own (a struct, a named tuple, a dictionary) has a column for each
    of these, their names joined by points. Other values are as `msgspec.to_builtins` has them, except times (in UTC)
    and bytes.

    Args:
        kind: the type of the values, whose columns a frame without rows has, but for those of dictionaries.
        what: what the records are, for the warning.

    Raises:
        Misconfigured: pandas is not installed.
    """
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise Misconfigured("data frames need pandas: pip install 'headrace[notebook]'") from error
    if rows_max < 1:
        raise Misconfigured(f"frame of {what}: wanted rows_max of at least 1, found {rows_max}")
    rows = [
        dict(zip(PLACE, (one.appended, one.partition, one.offset), strict=True)) | dict(_cells(one.value))
        for one in islice(records, rows_max + 1)
    ]
    if len(rows) > rows_max:
        del rows[rows_max:]
        warnings.warn(
            f"the frame has only the first {rows_max:,} records of {what}: select fewer, or give a larger rows_max",
            stacklevel=3,
        )
    return pandas.DataFrame(rows) if rows else pandas.DataFrame(columns=[*PLACE, *_columns(kind)])


def _cells(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the columns of a value and what is in them."""
    for name, part in _parts(value):
        if isinstance(part, (Struct, Mapping)) or hasattr(part, "_fields"):
            yield from _cells(part, f"{prefix}{name}.")
        elif isinstance(part, datetime):
            yield prefix + name, part.astimezone(UTC)
        else:
            yield prefix + name, part if isinstance(part, bytes) else msgspec.to_builtins(part)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
        return
    if isinstance(value, Struct) and value.__struct_config__.tag:  # one of several types
        yield "type", value.__struct_config__.tag
    for name in value._fields if hasattr(value, "_fields") else value.__struct_fields__:
        yield name, getattr(value, name)


def _columns(kind: Any, prefix: str = "") -> Iterator[str]:
    """Yield the columns of a type."""
    for name, part in typing.get_type_hints(kind).items() if isinstance(kind, type) else ():
        if isinstance(part, type) and (issubclass(part, Struct) or hasattr(part, "_fields")):
            yield from _columns(part, f"{prefix}{name}.")
        elif typing.get_origin(part) is not dict:
            yield prefix + name
