"""Values of cells and fields of files, however programs write them: missing ones, texts, numbers."""

import math
import re
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

MISSING: Final = frozenset({"", "na", "n/a", "nan", "null", "none", "<na>", "nat", "\\n", "(not set)", "(other)"})
"""What programs write where a value is missing, in lower case; the last two are GA4's."""
_PLAIN_NUMBER: Final = re.compile(r"[+-]?\d+(\.\d*)?")

Row = dict[str, Any]


class Unusable(Exception):
    """A row gives no event: the code of the reason, and what was wanted and found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def is_missing(value: object) -> bool:
    """Return whether a value stands for none.

    >>> [is_missing(value) for value in ("NULL", " ", float("nan"), "(not set)", "0", 0)]
    [True, True, True, True, False, False]
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and value.strip().lower() in MISSING


def as_text(value: object) -> str:
    """Return a value as text; numbers that are whole are written without a fraction.

    >>> as_text(17850.0), as_text(" a "), as_text(True)
    ('17850', 'a', 'true')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value).strip()


def as_number(value: object, decimal: str = ".") -> float:
    """Return a finite number. Raises ValueError.

    A comma is the mark of thousands, unless it is `decimal`, or the only mark and not followed by three digits.

    >>> as_number("1,234.5"), as_number("2,55"), as_number("1.234,5", ","), as_number(2.5, ",")
    (1234.5, 2.55, 1234.5, 2.5)
    """
    text = as_text(value)
    if isinstance(value, str) and (decimal == "," or not _PLAIN_NUMBER.fullmatch(text)):
        text = text.replace("\u00a0", "").replace(" ", "")
        if decimal == "," or ("." not in text and text.count(",") == 1 and len(text.partition(",")[2]) != 3):
            text = text.replace(".", "").replace(",", ".")
        text = text.replace(",", "")
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(f"wanted a number, found {value}")
    return found


def lookup(row: Row, column: str) -> Any:
    """Return a row's value; in JSON, `a.b` is field b of a. None if there is none.

    >>> lookup({"user": {"id": 7}}, "user.id"), lookup({"user.id": 8}, "user.id"), lookup({}, "x")
    (7, 8, None)
    """
    if column in row:
        return row[column]
    found: Any = row
    for name in column.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(name)
    return found


def plain(value: Any) -> Any:
    """Return a value of a Parquet file as JSON has it: times in ISO 8601, decimals as text."""
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if isinstance(value, float) and not math.isfinite(value) else value
