"""The output of every benchmark: a table on the screen, and one JSON file with `--out`."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from headrace.errors import Misconfigured


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser that already has `--out`."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--out", type=Path, help="write the figures to this file as JSON")
    return made


def add_data(made: argparse.ArgumentParser) -> None:
    """Add `--data` to a parser, for benchmarks on periods; see `benchmarks.periods.load`."""
    made.add_argument(
        "--data",
        type=Path,
        help="folder of period_*.txt with lines `session item`, or a tar archive of them "
        "(default: diginetica_periods.tar.gz in the folder that HEADRACE_DATA names)",
    )


def names(text: str, known: Sequence[str]) -> list[str]:
    """Return the learners that the text of `--learners` names.

    >>> names("a,b", ("a", "b", "c"))
    ['a', 'b']
    """
    found = text.split(",")
    for name in found:
        if name not in known:
            raise Misconfigured(f"--learners: wanted some of {', '.join(known)}, found {name!r}")
    return found


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is text, the others are numbers."""
    table = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # A table that is redirected into a file is not cut to the width of a terminal.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def write(out: Path | None, figures: Mapping[str, Any]) -> None:
    """Write the figures and the machine they were measured on; do nothing without a file."""
    if out is None:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    document = {**figures, "machine": machine()}
    partial = out.with_name(out.name + ".partial")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(partial, out)


def machine() -> dict[str, Any]:
    """Return what figures depend on apart from the code."""
    return {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()}


def run(main: Callable[[Sequence[str] | None], None]) -> None:
    """Run a benchmark's main function; a wrong option prints one line and ends with exit code 2."""
    try:
        main(None)
    except Misconfigured as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from error
