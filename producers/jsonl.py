"""JSONL files of the user's events: one CloudEvent per line, with the shopper's id as `subject`."""

from collections.abc import Iterator
from pathlib import Path
from typing import final

import msgspec

from headrace.events import Rejection, decode
from headrace.log.protocol import RECORD_BYTES_MAX, Record, decode_json
from headrace.shard.intake import Intake
from producers.file import FileReader, Source, first_lines
from producers.sequence import NumberedRecord

_WHITE = b" \t\r\n"


class _Subject(msgspec.Struct):
    subject: str


class _Typed(msgspec.Struct):
    specversion: object
    type: object


_subject = msgspec.json.Decoder(_Subject)


@final
class Jsonl(FileReader):
    """Reads a plain or gzipped file, one line at a time. An event is published as it is in the file."""

    source = Source("jsonl")
    description = 'a text file (plain or .gz) of one CloudEvent in JSON per line, {"specversion":"1.0","type":...}'

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return any(decode_json(line, _Typed) is not None for line in first_lines(path))

    def _begin(self) -> None:
        super()._begin()
        self._intake = Intake()

    def _records(self) -> Iterator[NumberedRecord]:
        for number, line in self._lines():
            if document := line.strip(_WHITE):
                record = self._record(number, document)
                if record is not None:
                    yield record

    def _record(self, number: int, document: bytes) -> NumberedRecord | None:
        digest = self._digest.add(document)
        try:
            key = _subject.decode(document).subject.encode()
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            key = b""
        now_ms = self._options.clock()
        event = decode(Record(0, 0, now_ms, key or b"?", document))
        if not isinstance(event, Rejection) and not key:
            event = Rejection("key_missing", "wanted the shopper's id as subject, found none")
        if not isinstance(event, Rejection) and len(key) + len(document) > RECORD_BYTES_MAX:
            event = Rejection("too_large", f"wanted at most {RECORD_BYTES_MAX} bytes")
        if isinstance(event, Rejection):
            self._reject(event.reason, f"line {number}", event.detail)
            return None
        if not self._intake.admit(event, now_ms):
            self.repeats += 1
        return NumberedRecord(number, event.own_ms, key, document, digest=digest)
