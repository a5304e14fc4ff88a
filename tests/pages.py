"""The commands of pages in `docs/`: those of their `sh` blocks."""

import re
import shlex
import subprocess
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
    """Return the commands of a page's `sh` blocks, without comments, each on one line.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     page = Path(folder) / "page.md"
    ...     _ = page.write_text("```sh\\n# all of it\\nls \\\\\\n  -l   # long\\n\\ncat a\\n```\\n```\\nrm a\\n```\\n")
    ...     commands_of(page)
    ['ls   -l   # long', 'cat a']
    """
    blocks = re.findall(r"^```sh\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def files_of(page: Path) -> dict[str, str]:
    """Return the content of a page's blocks that name a file, by its name."""
    found = re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return dict(found)


def run(command: str) -> tuple[int, str]:
    """Run a command in this folder, ours within this process; return its exit code and its output."""
    program, *arguments = shlex.split(command, comments=True)
    if program != "headrace":
        done = subprocess.run(
            command, shell=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        return done.returncode, done.stdout
    result = CliRunner().invoke(app, arguments)
    structlog.reset_defaults()  # a command has configured it to write to what is closed now
    if isinstance(result.exception, Misconfigured | BrokenWorld):
        return 2 if isinstance(result.exception, Misconfigured) else 1, str(result.exception)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output
