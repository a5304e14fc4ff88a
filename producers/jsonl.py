"""The user's own events: one CloudEvent in JSON per line, with the shopper's id as `subject`."""

from collections.abc import Iterator
from pathlib import Path
from typing import final

import msgspec

from headrace.events import Rejection, decode
from headrace.log import RECORD_BYTES_MAX, Record, told
from producers.file import FileReader, Source, first_line
from producers.publisher import Numbered

_WHITE = b" \t\r\n"


class _Subject(msgspec.Struct):
    subject: str


class _Typed(msgspec.Struct):
    specversion: object
    type: object


_subject = msgspec.json.Decoder(_Subject)


@final
class Jsonl(FileReader):
    """Reads lines, plain or gzipped, one at a time.

    An event keeps its own id and source. The extension attribute `headraceload` (origin and line number) is added to
    it, so that a restart can tell what is already published.
    """

    source = Source("jsonl")
    looks_like = 'a text file (plain or .gz) of one CloudEvent in JSON per line, {"specversion":"1.0","type":...}'

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return told(first_line(path), _Typed) is not None

    def records(self) -> Iterator[Numbered]:
        with self._open() as file:
            number = 0
            while line := file.readline(RECORD_BYTES_MAX + 1):
                number += 1
                if len(line) > RECORD_BYTES_MAX and not line.endswith(b"\n"):
                    while (rest := file.readline(RECORD_BYTES_MAX)) and not rest.endswith(b"\n"):
                        pass
                    self._reject("too_large", f"line {number}", f"wanted at most {RECORD_BYTES_MAX} bytes")
                elif document := line.strip(_WHITE):
                    record = self._record(number, document)
                    if record is not None:
                        yield record

    def _record(self, number: int, document: bytes) -> Numbered | None:
        try:
            key = _subject.decode(document).subject.encode()
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            key = b""
        value = document[:-1] + f',"headraceload":"{self._origin}#{number}"}}'.encode()
        event = decode(Record(0, 0, self._clock(), key or b"?", document))
        if not isinstance(event, Rejection) and not key:
            event = Rejection("key_missing", "wanted the shopper's id as subject, found none")
        if not isinstance(event, Rejection) and len(key) + len(value) > RECORD_BYTES_MAX:
            event = Rejection("too_large", f"wanted at most {RECORD_BYTES_MAX} bytes")
        if isinstance(event, Rejection):
            self._reject(event.reason, f"line {number}", event.detail)
            return None
        return Numbered(number, event.time_ms, key, value)
