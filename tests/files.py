"""What tests of file readers share: events that a file gives, without a log."""

from pathlib import Path

from headrace.events import Event, decode
from headrace.log.protocol import Record
from producers.file import DEFAULTS, FileReader, ReadOptions
from producers.load import KINDS, kind_of


def read(path: Path, options: ReadOptions = DEFAULTS, kind: str | None = None) -> tuple[list[Event], FileReader]:
    """Return a file's events, each valid, and the reader with its counts."""
    reader = KINDS[kind_of(path, kind, options)](path, options)
    events = []
    for record in reader.records():
        event = decode(Record(0, 0, options.clock(), record.key, record.value))
        assert isinstance(event, Event), event
        events.append(event)
    return events, reader
