"""One `headrace up` at a time holds a log and a folder; others find what it runs."""

import errno
import json
import re
import tempfile
from io import StringIO
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from headrace.errors import Misconfigured
from headrace.log.open import open_log
from operators.cli import app
from operators.running import TARGETS, ProcessStatus, held_folder, held_log, hold, running_on, write_down
from operators.terminal import ProcessLog, Terminal
from tests.hostile import HOSTILE

PROCESSES = [
    ProcessStatus(name="kafka", state="up", pid=3, address="kafka:127.0.0.1:9092", restarts=0),
    ProcessStatus(name="online", state="up", pid=4, address="http://127.0.0.1:9101", restarts=2),
    ProcessStatus(name="serve", state="starting", pid=5, address="", restarts=0),
    ProcessStatus(name="producer", state="ended", pid=6, address="http://127.0.0.1:9103", restarts=0),
]


@pytest.mark.parametrize("kind", ["log", "folder"])
def test_what_is_held_is_refused_by_any_path_until_it_is_free(tmp_path: Path, kind: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    first, second = (
        held_log(f"sqlite:{path / 'log.db'}") if kind == "log" else held_folder(path)
        for path in (tmp_path, tmp_path / "link")
    )
    with hold(first, tmp_path):
        refused = rf"{kind} .*: wanted one that no headrace up runs on, found process \d+, folder {tmp_path}; stop"
        with pytest.raises(Misconfigured, match=refused), hold(second, tmp_path):
            pass
    with hold(second, tmp_path):
        pass


def test_a_lock_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder for all users, somebody else may have made it, to a file of ours."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "precious").write_text("kept")
    held_folder(tmp_path).path.symlink_to(tmp_path / "precious")
    with pytest.raises(Misconfigured, match=r"lock .*: wanted a file"), hold(held_folder(tmp_path), tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_log_that_no_path_can_name_is_held_by_nobody() -> None:
    assert running_on("sqlite:a\0b") == running_on("sqlite:\ud800") == []


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]"])
def test_what_runs_is_known_while_the_log_is_held(tmp_path: Path, content: bytes | None) -> None:
    url = f"sqlite:{tmp_path / 'log.db'}"
    assert running_on(url) == []
    with hold(held_log(url), tmp_path):
        write_down(tmp_path, PROCESSES)
        assert running_on(url) == PROCESSES
        if content is not None:
            (tmp_path / "processes.json").write_bytes(content)
            assert running_on(url) == []
    assert running_on(url) == []


def test_status_shows_the_processes(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'log.db'}"
    log = open_log(url)
    log.create()
    log.close()
    with hold(held_log(url), tmp_path):
        write_down(tmp_path, PROCESSES)
        text = CliRunner().invoke(app, ["status", "--log", url]).stdout
        found = json.loads(CliRunner().invoke(app, ["status", "--log", url, "--json"]).stdout)
    assert re.search(r"^online +up +http://127\.0\.0\.1:9101 +4 +2 *$", text, re.MULTILINE)
    assert found["processes"] == msgspec.to_builtins(PROCESSES)
    assert "headrace up" not in CliRunner().invoke(app, ["status", "--log", url]).stdout


def test_targets_are_the_processes_that_are_to_answer(tmp_path: Path) -> None:
    write_down(tmp_path, PROCESSES)
    assert json.loads((tmp_path / TARGETS).read_text()) == [
        {"targets": ["127.0.0.1:9101"], "labels": {"job": "online"}}
    ]


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        (["--folder", "file"], "--folder file: wanted a folder that can be created"),
        (["--kafka", "--log", "sqlite:x"], "--kafka --log sqlite:x: wanted one of them"),
        (["report"], "producer report: wanted load or simulate"),
        (["--set", "x=1"], "--set x=1: wanted TABLE.NAME=VALUE"),
    ],
)
@pytest.mark.usefixtures("clean_environment")
def test_up_says_what_is_wrong_before_it_starts_a_process(command: list[str], wanted: str) -> None:
    Path("file").touch()
    result = CliRunner().invoke(app, ["up", *command])
    assert isinstance(result.exception, Misconfigured), result.output
    assert str(result.exception).startswith(wanted)
    assert [path.name for path in Path.cwd().iterdir()] == ["file"]


@pytest.mark.usefixtures("clean_environment")
def test_a_shard_has_the_name_of_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_SHARDS__KAFKA__FAMILIES", '["purchase"]')
    monkeypatch.setenv("HEADRACE_SHARDS__KAFKA__PARTITION", "2")
    result = CliRunner().invoke(app, ["up"])
    assert str(result.exception) == "shard kafka: wanted a name that no other process of headrace up has"


@pytest.mark.parametrize("colours", [False, True])
def test_each_line_of_the_log_has_its_process(colours: bool) -> None:
    output = StringIO()
    log = ProcessLog(Terminal(file=output, force_terminal=colours, width=20), 8)
    lines = [
        ("online", '{"event": "folding", "level": "info", "timestamp": "x", "shard": "online"}'),
        ("serve", "x" * 100),
        ("online", '{"event": '),
        *(("finetune", text) for text in HOSTILE),
    ]
    for name, line in lines:
        log(name, line)
    shown = output.getvalue().removesuffix("\n").split("\n")
    assert ("\x1b[" in shown[0]) == colours
    assert len({line[:5] for line in shown}) == 1 + 2 * colours
    plain = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in shown] if colours else shown
    assert len(plain) == len(lines)
    assert all(re.match(r"\d\d:\d\d:\d\d (online  |serve   |finetune) \| ", line) for line in plain)
    assert all(line.isprintable() for line in plain)
    assert "\x1b" not in shown[1].partition("|")[2].removeprefix(" \x1b[0m")
    assert plain[0].endswith("| folding shard=online")
    assert plain[1].endswith("| " + "x" * 100)


class Closed(StringIO):
    """A terminal that was closed."""

    def write(self, text: str) -> int:
        """Fail."""
        raise OSError(errno.EIO, "Input/output error")


def test_a_log_that_nobody_reads_any_more_stops_no_process() -> None:
    log = ProcessLog(Terminal(file=Closed()), 8)
    log("online", "a line")
    log("online", "another")
