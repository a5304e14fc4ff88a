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
from headrace.shard.kept import HOUR_MS
from learners.deep.model import DeepModel, DeepSettings
from operators.cli import app
from tests.filed_shop import FiledShop
from tests.small_shop import said

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


def learned_shop(folder: Path, hours: int = 4) -> FiledShop:
    """Return an open shop, in the places of the default settings, that has learned 50 events in each of some hours."""
    (folder / "headrace.toml").write_text(SETTINGS)
    data = folder / "headrace-data"
    data.mkdir()
    shop = FiledShop(data, later_ms=-hours * HOUR_MS)
    shop.learn(50 * hours, every_ms=HOUR_MS)
    return shop


def shop_with_models(folder: Path) -> None:
    """Make a shop with two former champions and a candidate."""
    shop = learned_shop(folder)
    models = []
    for seed in (1, 2, 3):
        model = DeepModel(DeepSettings(width=8), seed)
        model.grow(["a", "b"])
        models.append(shop.blobs.put("model", model.to_bytes()))
    with closing(shop.log), closing(shop.log.appender()) as appender:
        for number, (kind, blob) in enumerate(zip(("promoted", "promoted", "candidate"), models, strict=True), 1):
            lineage = {"data": "1a2b3c4d"} if kind == "candidate" else {}
            appender.append(said(kind, number, version=f"r{number}", blob=blob, lineage=lineage).record())


def shop_to_replay(folder: Path) -> None:
    """Make a shop whose journal is to be folded again."""
    learned_shop(folder).log.close()


PAGES: Final = {
    "replay.md": Page(
        shop_to_replay,
        [
            (0, "nothing was written"),
            (0, ": yes (live state folded from the snapshot of entry"),
            (0, "judged again, every event: next_item"),
            (0, "recall@20 of the next item"),
            (0, "the best 20 share"),
            (0, "events/0: "),
            (0, "no deep model is promoted"),
            (0, "left out: "),
            (0, "nothing was written"),
            (0, "clean: its state is that of online from entry"),
            (0, "entry"),
            (0, "with next_item.items_max=16"),
            (0, "small: "),
        ],
    ),
    "rollback.md": Page(
        shop_with_models,
        [
            (0, "snapshots are kept, "),
            (0, "champion: r2, promoted"),
            (0, "nothing was changed (--dry-run)"),
            (0, "To undo it: headrace roll-back --undo"),
            (0, "a crawler bought everything"),
            (0, "entries that are folded, in about"),
            (0, "written to the journal as entry"),
            (0, "requested: no model replaces r2"),
            (0, "requested: r2 replaces no model"),
            (0, "requested: r1 replaces r2"),
            (0, "requested: the fine-tuner withdraws r3"),
            (0, '"data": "1a2b3c4d"'),
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
