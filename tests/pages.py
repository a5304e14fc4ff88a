"""The commands of pages in `docs/`: those of their `sh` blocks."""

import re
import shlex
from pathlib import Path
from typing import Final

import structlog
from typer.testing import CliRunner

from headrace.errors import BrokenWorld, Misconfigured
from operators.cli import app

DOCS: Final = Path(__file__).parents[1] / "docs"
SETTINGS: Final = """\
[archive]
url = "kept"

[next_item]
items_max = 64
shoppers_max = 50

[producer]
metrics_port = 0
"""
"""The settings of a shop as `tests.filed_shop.FiledShop` learns it, with an archive."""


def commands_of(page: Path) -> list[str]:
    """Return the commands of a page's `sh` blocks, without comments, each on one line."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [line for line in "".join(blocks).splitlines() if line.strip() and not line.startswith("#")]


def run(command: str) -> tuple[int, str]:
    """Run a command of ours within this process, in this folder; return its exit code and its output."""
    program, *arguments = shlex.split(command, comments=True)
    assert program == "headrace", command
    result = CliRunner().invoke(app, arguments)
    structlog.reset_defaults()  # a command has configured it to write to what is closed now
    if isinstance(result.exception, (BrokenWorld, Misconfigured)):
        return 1, str(result.exception)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output
