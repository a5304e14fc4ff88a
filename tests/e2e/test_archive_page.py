"""The commands and the programs of docs/archive.md, run in their order against a small shop."""

import re
from contextlib import closing
from pathlib import Path

import pytest

from headrace.archive.store import FolderStore
from headrace.log.open import open_log
from headrace.log.scan import topic_records
from headrace.topics import EVENTS
from tests.archives import once
from tests.filed_shop import FiledShop, publish
from tests.pages import DOCS, SETTINGS, commands_of, run

PAGE = DOCS / "archive.md"
DATA = Path("headrace-data")
ENDS = [
    "records in",
    "archive: whole",
    "online: whole",
    "100 events and 0 items could be published; nothing was",
    "100 events published, 0 were in the log already",
    '"waiting": 0',
]
"""What each command of the page prints, among other things."""


@pytest.fixture(autouse=True)
def _shop_folder(clean_environment: None) -> None:
    Path("headrace.toml").write_text(SETTINGS)


def test_the_commands() -> None:
    shop = FiledShop(DATA)
    shop.learn(100)
    shop.log.close()
    commands = commands_of(PAGE)
    for command, end in zip(commands, ENDS, strict=True):
        code, output = run(command)
        assert code == 0, (command, output)
        assert end in " ".join(output.split()), (command, output)
    with closing(open_log("sqlite:other.db")) as other:
        assert sum(1 for _ in topic_records(other, EVENTS)) == 100


@pytest.mark.parametrize("library", ["duckdb", "pandas"])
def test_the_program_of(library: str, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(FiledShop(DATA).log) as log:
        publish(log, 100)
        once(log, FolderStore(Path("kept")))
    (program,) = [
        text for text in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.M) if library in text
    ]
    capsys.readouterr()
    exec(compile(program, str(PAGE), "exec"), {})
    printed = capsys.readouterr().out
    assert re.search(r"\d{4}-\d\d-\d\d", printed)
    assert re.search(r"view_item\D+100\b", printed)
