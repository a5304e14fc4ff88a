"""What the console and `headrace status` say, in each language: sentences by key, and how values are written.

The sentences are in `operators/strings/LANGUAGE.toml`; `{name}` in one stands for a value. How a value is written
follows from its name and type: `..._at_ms` is a time, `..._ms` a duration, `..._share` a share, `..._bytes` a size.
Texts that families and records contain are shown as they are, unless the catalogue has a translation of them; `#` in
one stands for a number.
"""

import re
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from functools import cache
from pathlib import Path
from typing import Final

from operators.overview import Cause, Value
from operators.tables import NONE

STRINGS: Final = Path(__file__).parent / "strings"
_NUMBER: Final = re.compile(r"\d+(?:[.,]\d+)*")
LANGUAGES: Final = {"en": "English", "zh": "中文"}
"""The languages, each by its own name."""


class Catalogue:
    """The sentences of a language. Raises KeyError for a key that it lacks.

    >>> late = Cause(level="bad", code="waits", values={"shard": "online", "records": 1200, "waiting_ms": 65000})
    >>> catalogue("en").cause(late)
    'online: 1,200 records wait, the oldest for 65 s'
    """

    def __init__(
        self, language: str, sentences: Mapping[str, str], texts: Mapping[str, str], zone: tzinfo = UTC
    ) -> None:  # fmt: skip
        self.language, self.sentences, self.texts, self.zone = language, sentences, texts, zone

    def within(self, zone: tzinfo) -> "Catalogue":
        """Return the same with times in another zone."""
        return Catalogue(self.language, self.sentences, self.texts, zone)

    def __call__(self, key: str, **values: Value) -> str:
        """Return a sentence."""
        sentence = self.sentences[key]
        return sentence.format(**{name: self.written(name, value) for name, value in values.items()})

    def declared(self, text: str) -> str:
        """Return a text that a family or a record has, translated if the catalogue has it.

        >>> catalogue("zh").declared("Within 28 days")
        '28 天之内'
        """
        if (found := self.texts.get(text)) is not None:
            return found
        pattern = self.texts.get(_NUMBER.sub("#", text), text)
        numbers = iter(_NUMBER.findall(text))
        return re.sub("#", lambda _: next(numbers, "#"), pattern)

    def has(self, text: str) -> bool:
        """Return whether there is a translation of a text that a family or a record has."""
        return text in self.texts or _NUMBER.sub("#", text) in self.texts

    def cause(self, cause: Cause) -> str:
        """Return the sentence of a cause."""
        named: dict[str, Value] = {}
        if cause.code == "newest_change":
            named = {"what": self(f"change.{cause.values['what']}"), "step": self.step(str(cause.values["step"]))}
        return self(f"cause.{cause.code}", **{**cause.values, **named})

    def figure(self, figure: Cause) -> tuple[str, str]:
        """Return the main number of an answer, and what it is."""
        main = next(iter(figure.values.items()), None)
        return self.written(*main) if main else NONE, self(f"figure.{figure.code}", **figure.values)

    def step(self, step: str) -> str:
        """Return what a step of a change is called."""
        return self(f"step.{step.replace(' ', '_')}")

    def trend(self, name: str) -> str:
        """Return what a trend shows."""
        return self.sentences.get(f"trend.{name}") or self.declared(name)

    def written(self, name: str, value: Value) -> str:
        """Return a value as it is written in a sentence."""
        if isinstance(value, str):
            return self.declared(value)
        if name.endswith("at_ms"):
            return self.time(value)
        if name.endswith("_ms"):
            return self.duration(value)
        if name.endswith("share"):
            return percent(value)
        if name.endswith("bytes"):
            return size(value)
        return number(value)

    def time(self, ms: float) -> str:
        """Return a time (ms since the epoch) in the zone of the reader.

        >>> catalogue("en").time(0)
        '1970-01-01 00:00:00 UTC'
        """
        return f"{datetime.fromtimestamp(ms / 1000, self.zone):%Y-%m-%d %H:%M:%S %Z}"

    def day(self, ms: float) -> str:
        """Return the day of a time (ms since the epoch) in the zone of the reader.

        >>> catalogue("en").day(86_400_000)
        '1970-01-02'
        """
        return f"{datetime.fromtimestamp(ms / 1000, self.zone):%Y-%m-%d}"

    def short(self, value: float, share: bool) -> str:
        """Return a number of a picture in a few digits.

        >>> catalogue("en").short(0.4567, True), catalogue("en").short(94937.2, False)
        ('45.7 %', '94,937')
        """
        return percent(value) if share else _three_digits(value)

    def duration(self, ms: float) -> str:
        """Return a duration in the largest unit of which there are at least two.

        >>> [catalogue("en").duration(ms) for ms in (0, 350, 9_400, 150_000, 86_400_000)]
        ['0 s', '0.35 s', '9.4 s', '2.5 min', '24 h']
        """
        for unit, size, limit in (("s", 1_000, 120_000), ("min", 60_000, 7_200_000), ("h", 3_600_000, 172_800_000)):
            if abs(ms) < limit:
                return f"{_three_digits(ms / size)} {self(f'unit.{unit}')}"
        return f"{_three_digits(ms / 86_400_000)} {self('unit.days')}"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2g}" if abs(value) < 10 else (
        f"{value:.3g}"
    )  # fmt: skip


def number(value: float) -> str:
    """Return a number.

    >>> number(1234567), number(0.123456), number(1234.5)
    ('1,234,567', '0.1235', '1,234')
    """
    if isinstance(value, int) or abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def percent(share: float) -> str:
    """Return a share in per cent.

    >>> percent(0.1234)
    '12.3 %'
    """
    return f"{100 * share:.1f} %"


def size(count: float) -> str:
    """Return a number of bytes.

    >>> size(999), size(25_000_000)
    ('999 B', '25 MB')
    """
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= one:
            return f"{count / one:.3g} {unit}"
    return f"{count:,.0f} B"


@cache
def catalogue(language: str) -> Catalogue:
    """Return the catalogue of a language."""
    found = tomllib.loads((STRINGS / f"{language}.toml").read_text(encoding="utf-8"))
    sentences = {
        f"{section}.{key}": text for section, part in found.items() if section != "texts" for key, text in part.items()
    }
    return Catalogue(language, sentences, found.get("texts", {}))
