"""The terminal: the only module that prints what a command has to say.

Nearly every line contains text that others chose: paths, ids, names, errors. Such text is data: nothing in it is markup
for rich, and `headrace.text.visible` shows what would otherwise control the terminal.
"""

import io
import json
import sys
from collections.abc import Iterable
from typing import Any

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
