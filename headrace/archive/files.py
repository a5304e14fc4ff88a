"""Records as Parquet: offset, append time, key and value as they were, so that they are read back byte for byte.

DuckDB and pandas read the files as they are; a value of `events` is a JSON document in UTF-8.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from headrace.archive.manifest import ArchivedFile, checked
from headrace.archive.store import Store
from headrace.errors import Misconfigured
from headrace.log.protocol import Partition, Record

group_records: Final = 10_000
"""Records of a row group: what a reader decodes at once."""
UNKNOWN_DAY: Final = "unknown"
"""The day of records whose append time the log does not tell."""


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise Misconfigured("archive: wanted the packages of headrace[parquet], found them missing") from None
    return pyarrow.parquet


def day_of(time_ms: int) -> str:
    """Return the day of an append time, in UTC.

    >>> day_of(86_400_000), day_of(0)
    ('1970-01-02', 'unknown')
    """
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d") if time_ms else UNKNOWN_DAY


def digest_of(record: Record) -> str:
    """Return a digest of a record, its offset and append time included; 16 hexadecimal digits."""
    parts = (record.offset, record.time_ms, record.key, record.value)
    return hashlib.sha256(msgspec.msgpack.encode(parts)).hexdigest()[:16]


def write_file(
    store: Store, place: Partition, day: str, start: int, end: int, records: Sequence[Record]
) -> ArchivedFile:
    """Write records of one partition and day durably; return what the manifest has to say of the file."""
    parquet = _parquet()
    import pyarrow

    table = pyarrow.table(
        {
            "offset": pyarrow.array([record.offset for record in records], pyarrow.int64()),
            "appended": pyarrow.array(
                [record.time_ms or None for record in records], pyarrow.timestamp("ms", tz="UTC")
            ),
            "key": pyarrow.array([record.key for record in records], pyarrow.binary()),
            "value": pyarrow.array([record.value for record in records], pyarrow.binary()),
        }
    )
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd", row_group_size=group_records)
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    # The name depends on the content: a file that a killed process left is replaced by itself, or is swept.
    name = f"{place.topic}/day={day}/{place.number}-{start:012}-{end:012}-{digest[:8]}.parquet"
    store.write(name, data)
    times = [record.time_ms for record in records]
    return ArchivedFile(
        name, place.topic, place.number, day, start, end, len(records), len(data), digest, min(times), max(times),
        digest_of(records[-1]),
    )  # fmt: skip


def read_file(store: Store, file: ArchivedFile, position: int = 0) -> Iterator[list[Record]]:
    """Yield the records of a file from a position on, in pieces.

    Raises:
        ArchiveCorrupt: the file is missing, or its bytes were changed.
    """
    opened = _parquet().ParquetFile(io.BytesIO(checked(store, file)))
    offset_column = opened.schema_arrow.get_field_index("offset")
    for group in range(opened.num_row_groups):
        if opened.metadata.row_group(group).column(offset_column).statistics.max < position:
            continue
        columns = opened.read_row_group(group)
        times = columns["appended"].cast("int64").to_pylist()
        rows = zip(
            columns["offset"].to_pylist(), times, columns["key"].to_pylist(), columns["value"].to_pylist(), strict=True
        )
        records = [Record(file.partition, offset, time or 0, key, value) for offset, time, key, value in rows]
        yield records if records[0].offset >= position else [one for one in records if one.offset >= position]
