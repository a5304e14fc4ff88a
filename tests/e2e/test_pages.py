"""The commands of pages in `docs/`, run in their order, each page against a small shop of its own.

A page's blocks of commands that begin with three backquotes and `sh` are run; all other blocks are only shown.
"""

import re
import shlex
import subprocess
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from typer.testing import CliRunner

from headrace.errors import BrokenWorld, Misconfigured
from headrace.log.protocol import Partition
from headrace.topics import DAY_MS, EVENTS
from operators.cli import app
from tests.filed_shop import COUNT, FiledShop, publish

DOCS: Final = Path(__file__).parents[2] / "docs"
SETTINGS: Final = """\
[next_item]
items_max = 64
shoppers_max = 50

[shards.online]
metrics_port = 0

[shards.finetune]
partition = 1
metrics_port = 0

[serve]
port = 0
"""


class Page(NamedTuple):
    """What must be there before a page's commands are run, and each one's exit code and a part of what it prints.

    Of what is printed, line ends and runs of spaces count as one space.
    """

    set_up: Callable[[Path], None]
    ends: Sequence[tuple[int, str]]


def learned_shop(folder: Path) -> FiledShop:
    """Return an open shop, in the places of the default settings, that has learned 300 events, 50 every ten days."""
    (folder / "headrace.toml").write_text(SETTINGS)
    data = folder / "headrace-data"
    data.mkdir()
    shop = FiledShop(data, later_ms=-60 * DAY_MS)
    shop.learn(every_ms=10 * DAY_MS)
    return shop


def shop_with_a_loss(folder: Path) -> None:
    """Make a shop in which events wait to be learned, and the log has lost all of a partition but its newest event."""
    shop = learned_shop(folder)
    with closing(shop.log):
        publish(shop.log, 100, COUNT)
        place = Partition(EVENTS, 0)
        shop.log.delete_before(place, shop.log.end(place) - 1)


PAGES: Final = {
    "mending.md": Page(
        shop_with_a_loss,
        [
            (1, "the process ends with PositionLost at its next start. To do: `headrace restore` from a backup, or"),
            (0, "goes on with the snapshot"),
            (0, "accepted, and written to the journal"),
            (0, "decided for online by ann"),
            (0, '"written": false, "loss": null'),
            (0, '"errors": 0'),
            (0, "finetune: whole"),
            (0, '"problems_total": 0'),
            (0, "can be skipped; nothing was changed"),
            (0, "is skipped, and becomes a dead letter"),
            (0, "is skipped by an earlier decision"),
            (0, "would delete"),
            (0, '"dry_run": false'),
            (0, "nothing was written"),
            (0, "verified by folding"),
            (0, "the backup is whole"),
            (0, "restored to sqlite:new/log.db"),
            (0, "from 24 on"),
        ],
    ),
}


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


def run(command: str) -> tuple[int, str]:
    """Run a command in this folder, ours within this process; return its exit code and its output."""
    program, *arguments = shlex.split(command, comments=True)
    if program != "headrace":
        done = subprocess.run(
            command, shell=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        return done.returncode, done.stdout
    result = CliRunner().invoke(app, arguments)
    if isinstance(result.exception, Misconfigured | BrokenWorld):
        return 2 if isinstance(result.exception, Misconfigured) else 1, str(result.exception)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_a_page_do_what_it_says(name: str, tmp_path: Path, clean_environment: None) -> None:
    commands, page = commands_of(DOCS / name), PAGES[name]
    page.set_up(tmp_path)
    for command, (wanted, part) in zip(commands, page.ends, strict=True):
        code, output = run(command)
        assert code == wanted, f"{command}\nended with exit code {code}:\n{output}"
        assert part in " ".join(output.split()), f"{command}\nprinted:\n{output}"


def test_each_page_with_commands_is_run() -> None:
    assert {path.name for path in DOCS.glob("*.md") if commands_of(path)} == set(PAGES)
