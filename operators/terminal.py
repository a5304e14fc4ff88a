"""The terminal: the only module that prints what a command has to say.

Nearly every line contains text that others chose: paths, ids, names, errors. Such text is data: nothing in it is markup
for rich, and `headrace.text.visible` shows what would otherwise control the terminal.
"""

import io
import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from rich.console import Console, JustifyMethod, OverflowMethod
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TimeElapsedColumn
from rich.style import Style
from rich.text import Text

from headrace.text import visible


class Terminal(Console):
    """A console of rich that shows each string as it is, the cells of tables too, with what is invisible escaped."""

    def render_str(
        self,
        text: str,
        *,
        style: str | Style = "",
        justify: JustifyMethod | None = None,
        overflow: OverflowMethod | None = None,
        **markup: Any,
    ) -> Text:
        """Return a string as it is shown. rich calls this for every string; its options of `markup` are not used."""
        return Text(visible(text), style=style, justify=justify, overflow=overflow)


class _Words(ProgressColumn):
    """The text of a task: its description, or its field `text`."""

    def __init__(self, *, description: bool) -> None:
        super().__init__()
        self._description = description

    def render(self, task: Task) -> Text:
        return Text(visible(task.description if self._description else task.fields["text"]))


class ProcessLog:
    """The output of several processes as one log: the time of day, the process' name, the line.

    A line of JSON that a process logs is shown as its text and values. On a terminal, each name has a colour. When
    nobody reads it any more (a closed terminal or pipe), lines are left out. Safe to call from any thread.

    Args:
        width: characters of the longest name.
    """

    def __init__(self, terminal: Terminal, width: int) -> None:
        self._terminal, self._width = terminal, width
        self._styles: dict[str, str] = {}

    def __call__(self, name: str, line: str) -> None:
        """Print a line."""
        style = self._styles.setdefault(name, _COLOURS[len(self._styles) % len(_COLOURS)])
        head = f"{datetime.now():%H:%M:%S} {name:<{self._width}} | "
        with suppress(OSError, SystemExit):  # rich ends the thread where a pipe is closed
            self._terminal.print(Text.assemble((head, style), visible(_readable(line))), soft_wrap=True)


_COLOURS: Final = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_green", "bright_magenta")


def _readable(line: str) -> str:
    """Return a line of JSON as structlog writes it as text; any other line as it is.

    >>> _readable('{"entry": 3, "event": "stopped", "level": "info", "timestamp": "2026-01-01T00:00:00Z"}')
    'stopped entry=3'
    >>> _readable('{"event": "retrying", "level": "warning"}'), _readable("[1]")
    ('warning: retrying', '[1]')
    """
    if not line.startswith("{"):
        return line
    try:
        found = json.loads(line)
    except ValueError:
        return line
    if "event" not in found:
        return line
    level, event = found.pop("level", "info"), found.pop("event")
    found.pop("timestamp", None)
    head = event if level == "info" else f"{level}: {event}"
    return " ".join([str(head), *(f"{name}={value}" for name, value in found.items())])


def progress_bar(terminal: Terminal, width: int | None = 40) -> Progress:
    """Return a bar of progress, whose tasks have a field `text`.

    Args:
        width: characters of the bar.
    """
    words, text = _Words(description=True), _Words(description=False)
    return Progress(words, BarColumn(width), text, TimeElapsedColumn(), console=terminal)


def say(text: str, *, error: bool = False) -> None:
    """Print a text at once. If it has several lines, all but the first are indented.

    Args:
        error: to standard error instead of standard output.
    """
    say_lines(text.split("\n"), error=error)


def say_lines(lines: Iterable[str], *, error: bool = False) -> None:
    """Print lines at once, all but the first indented. A line break in one of them is shown as an escape."""
    print("\n  ".join(map(visible, lines)), file=sys.stderr if error else sys.stdout, flush=True)


def say_json(value: Any) -> None:
    """Print a value as one line of JSON in ASCII, which is complete and controls no terminal."""
    print(json.dumps(value), flush=True)


def say_file(text: str) -> None:
    """Print the content of a file of ours: its lines as they are, with what is invisible escaped."""
    print("\n".join(map(visible, text.removesuffix("\n").split("\n"))), flush=True)


def escape_what_cannot_be_encoded() -> None:
    """Print escapes of characters that the encoding of standard output lacks, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
