"""CSV files as they circulate: delimiter, encoding and quoting are detected; an unclosed quote costs one line.

A quoted field may contain line breaks. If a quote is not closed, or closes many lines later where the columns no longer
fit, only the line where it was opened is rejected, and the lines after it are read again.
"""

import csv
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from headrace.errors import Misconfigured
from headrace.log.protocol import RECORD_BYTES_MAX

DELIMITERS: Final = ",;\t|"
FIRST_ROWS: Final = ("0", "1")
"""What numbers the first row in a column that the header leaves out, as R's `write.table` does."""
record_lines_max: Final = 200
"""Maximum number of lines of one row: a quote that is not closed within them was not meant as one."""

csv.field_size_limit(max(csv.field_size_limit(), RECORD_BYTES_MAX))  # its default is shorter than a review may be

Lines = Iterable[tuple[int, bytes]]
Reject = Callable[[str, str, str], None]
"""Called with reason, place and detail of unusable input."""


class Columns(NamedTuple):
    """Where the wanted columns are: the delimiter, the number of columns, and each one's place by its wanted name."""

    delimiter: str
    width: int
    places: Mapping[str, int]


def decoded(line: bytes) -> str:
    """Return a line's text: UTF-8, else Windows-1252, the two encodings in which such files circulate.

    >>> decoded("5 £".encode()) == decoded("5 £".encode("cp1252"))
    True
    """
    for encoding in ("utf-8", "cp1252"):
        try:
            return line.decode(encoding)
        except UnicodeDecodeError:
            pass
    return line.decode("latin-1")


def _normalised(name: str) -> str:
    return "".join(name.lower().replace("_", " ").split())


def header_of(line: str, delimiter: str) -> list[str]:
    """Return the names in a header line; none if it is no CSV."""
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def find_columns(
    line: bytes, wanted: Mapping[str, Sequence[str]], delimiters: str = DELIMITERS
) -> tuple[Columns | None, list[str]]:
    """Return where the wanted columns are in a header line, or None, and the names that it has.

    Args:
        wanted: for each column its names, of which the first in the header counts; case, blanks and underscores do not
    matter.
    """
    best: list[str] = []
    for delimiter in delimiters:
        names = header_of(decoded(line), delimiter)
        known: dict[str, int] = {}
        for place, name in enumerate(names):
            known.setdefault(_normalised(name), place)
        places = {
            column: found[0]
            for column, aliases in wanted.items()
            if (found := [known[name] for name in map(_normalised, aliases) if name in known])
        }
        if len(places) == len(wanted):
            return Columns(delimiter, len(names), places), names
        best = max(best, names, key=len)
    return None, best


def rows(
    lines: Lines, wanted: Mapping[str, Sequence[str]], reject: Reject, *, where: str, delimiters: str = DELIMITERS
) -> Iterator[tuple[int, list[str]]]:
    """Yield each row's first line number and its values of the wanted columns, in their order.

    The header is the first line that is not blank. Where files were joined, it is repeated and skipped.

    Raises:
        Misconfigured: the header lacks a wanted column.
    """
    numbered = iter(lines)
    header = next((line for _, line in numbered if line.strip() and not line.startswith(b"sep=")), None)
    if header is None:
        return
    columns, names = find_columns(header, wanted, delimiters)
    if columns is None:
        asked = ", ".join(aliases[0] for aliases in wanted.values())
        raise Misconfigured(f"{where}: wanted the columns {asked}; found {', '.join(names)[:500]}")
    places = [columns.places[name] for name in wanted]
    for number, fields in _complete(numbered, columns, reject):
        if fields[0].strip() != names[0] or [field.strip() for field in fields] != names:
            yield number, [fields[place] for place in places]


def _complete(lines: Iterator[tuple[int, bytes]], columns: Columns, reject: Reject) -> Iterator[tuple[int, list[str]]]:
    """Yield the fields of each row that has all columns, and the number of its first line."""
    again: deque[tuple[int, str]] = deque()

    def following() -> tuple[int, str] | None:
        if again:
            return again.popleft()
        found = next(lines, None)
        return None if found is None else (found[0], decoded(found[1]))

    shift: int | None = None  # the number of columns before those of the header
    while (first := following()) is not None:
        number, text = first
        if not text.strip():
            continue
        taken = [first]
        fields, problem = _parsed([text], columns)
        if shift is None and fields is not None:
            shift = int(len(fields) == columns.width + 1 and fields[0] in FIRST_ROWS)
        while fields is None and not problem and len(taken) < record_lines_max and (more := following()) is not None:
            taken.append(more)
            if '"' in more[1]:  # only such a line can end the row
                fields, problem = _parsed([part for _, part in taken], columns)
        fields = fields[shift:] if fields is not None else None
        if fields is None or (len(taken) > 1 and len(fields) != columns.width):
            reject("quote", f"line {number}", problem or "wanted a closing quote, found none")
            again.extendleft(reversed(taken[1:]))
        elif len(fields) != columns.width:
            reject("row", f"line {number}", f"wanted {columns.width} columns, found {len(fields)}")
        else:
            yield number, fields


def _parsed(parts: Sequence[str], columns: Columns) -> tuple[list[str] | None, str]:
    """Return the fields of a row, or None and the problem, which is empty if the row may go on in the next line."""
    if len(parts) == 1 and '"' not in parts[0]:
        fields = parts[0].rstrip("\r\n").split(columns.delimiter)
    else:
        try:
            fields = next(csv.reader(parts, delimiter=columns.delimiter, strict=True), [])
        except csv.Error as error:
            return None, "" if "unexpected end" in str(error) else str(error)
    extra = fields[columns.width :]
    return (fields[: columns.width] if extra and not any(extra) else fields), ""
