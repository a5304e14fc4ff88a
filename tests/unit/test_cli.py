"""The commands as they are typed: what works prints one line, what cannot be used says what was wanted."""

import sys
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from headrace.errors import Misconfigured
from headrace.log import Outgoing, Partition, open_log
from headrace.topics import EVENTS, EVENTS_REPLAY, JOURNAL, SCORES
from operators.child import Children
from operators.cli import app
from operators.facts import Ranked, Scored


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return the URL of a log with twelve records."""
    url = f"sqlite:{tmp_path / 'log.db'}"
    log = open_log(url)
    log.create()
    appender = log.appender()
    for number in range(12):
        appender.append(Outgoing(EVENTS, b"ann", b"%d" % number))
    appender.close()
    log.close()
    return url


def said(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, Misconfigured), result.output
    return str(result.exception)


def test_republish_copies_all_or_a_range(url: str) -> None:
    common = ("republish", "--into", EVENTS_REPLAY, "--log", url)
    assert said(*common) == f"republished 12 records of {EVENTS} into {EVENTS_REPLAY}\n"
    assert "republished 0 records" in said(*common, "--to", "2020-01-01T00:00:00Z")
    assert "republished 12 records" in said(*common, "--from", "2020-01-01T00:00:00Z")


def test_status_of_a_log_that_is_not_there_makes_none(tmp_path: Path) -> None:
    assert "there is no such file" in refused("status", "--log", f"sqlite:{tmp_path / 'no' / 'log.db'}")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "command", [("republish",), ("propose", "model"), ("online", "--refold"), ("finetune", "--refold")]
)
def test_what_needs_a_log_makes_none(tmp_path: Path, command: tuple[str, ...]) -> None:
    path = tmp_path / "no" / "log.db"
    common = ("--log", f"sqlite:{path}", *(("--blobs", str(tmp_path / "b")) if command[0] != "republish" else ()))
    assert "there is no such file" in refused(*command, *common)
    assert "there is no such file" in refused("load", str(tmp_path / "nothing"), "--log", f"sqlite:{path}")
    assert not path.exists()


@pytest.mark.parametrize("kind", ["file", "folder of a file", "memory", "no database"])
def test_what_no_log_can_be_is_said(tmp_path: Path, kind: str) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"no database" * 100)
    url = {
        "file": f"sqlite:{plain / 'log.db'}", "folder of a file": f"sqlite:{plain / 'a' / 'log.db'}",
        "memory": "sqlite::memory:", "no database": f"sqlite:{plain}",
    }[kind]  # fmt: skip
    refused("simulate", "--events", "10", "--log", url, "--metrics-port", "0")


@pytest.mark.parametrize("command", [("demo", "--events", "1000"), ("kafka", "start")])
def test_a_folder_that_is_a_file_is_said(tmp_path: Path, command: tuple[str, ...]) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert "wanted a folder" in refused(*command, "--folder", str(plain))


def test_status_tells_of_a_journal_that_expired(url: str) -> None:
    log = open_log(url)
    writer = log.writer("online")
    writer.commit([Outgoing(JOURNAL, b"online", b"{}", 0)], {})
    writer.settle()
    log.delete_before(Partition(JOURNAL, 0), 1)
    writer.close()
    log.close()
    assert "online: all of its journal has expired" in said("status", "--log", url)


def test_status_of_a_log(url: str) -> None:
    assert "online: has never run on this log" in said("status", "--log", url)


def test_status_off_a_terminal_has_its_full_width(url: str) -> None:
    learner, score = "x" * 200, Ranked(judged=1_234, window={"recall@20": 0.5, "mrr@20": 0.25}, whole={})
    scored = Scored(1, 0, "", {learner: score}, Ranked(0, {}, {}), {})
    log = open_log(url)
    appender = log.appender()
    appender.append(Outgoing(SCORES, b"scores", msgspec.json.encode(scored)))
    appender.close()
    log.close()
    (row,) = [line.split() for line in said("status", "--log", url).splitlines() if "x" * 60 in line]
    assert row == [learner, "1,234", "0.5000", "0.2500"]


@pytest.mark.parametrize("address", ["localhost", "localhost:port", "localhost:0", ":9092", "localhost:9092,other"])
def test_a_kafka_address_has_host_and_port(address: str) -> None:
    assert "wanted HOST:PORT" in refused("status", "--log", f"kafka:{address}")


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: a folder where root can make no file either")
@pytest.mark.parametrize("kind", ["online", "finetune"])
def test_who_will_write_snapshots_wants_a_folder_to_write_to_before_the_log(tmp_path: Path, kind: str) -> None:
    found = refused(kind, "--log", f"sqlite:{tmp_path / 'log.db'}", "--blobs", "/proc/self", "--metrics-port", "0")
    assert found.startswith("blobs /proc/self: wanted a folder to write to")
    assert not (tmp_path / "log.db").exists()


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("online", ["online", "--blobs", "a file"]),
        ("finetune", ["finetune", "--blobs", "a file"]),
        ("producer", ["load", "a file", "--host", "192.0.2.1"]),
        ("producer", ["simulate", "--host", "192.0.2.1"]),
    ],
)
def test_a_process_says_at_once_that_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, command: list[str]
) -> None:
    """It says so even where it then finds that it cannot."""
    monkeypatch.chdir(tmp_path)
    Path("a file").touch()
    result = CliRunner().invoke(app, [*command, "--log", "sqlite:log.db"])
    assert isinstance(result.exception, Misconfigured)
    assert result.stderr == f"{kind}: starting: loading libraries, opening log sqlite:log.db\n"


def test_a_shard_that_never_ran_cannot_be_refolded(url: str, tmp_path: Path, children: Children) -> None:
    child = children.start("finetune", "finetune", "--refold", "--log", url, "--blobs", str(tmp_path), up=False)
    assert child.wait(240) == 1
    assert child.text.splitlines()[1:] == [
        "headrace: StateUnreadable: finetune: wanted a journal to fold, found no entry in journal/1"
    ]


def test_blobs_want_a_folder(url: str, tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file")
    (tmp_path / "model").write_text("no model")
    found = refused("propose", str(tmp_path / "model"), "--log", url, "--blobs", str(tmp_path / "blobs"))
    assert "wanted a folder" in found
