"""Requests for a champion: what the commands check, write and print, and what `headrace status` says of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace.announcement import Announcement
from headrace.errors import Misconfigured
from headrace.log.open import open_log
from headrace.log.protocol import Log, Partition
from headrace.log.scan import topic_records
from headrace.shard.blobs import Blobs
from headrace.topics import MODELS
from learners.deep.model import DeepModel, DeepSettings
from operators.cli import app
from operators.requests import promote, roll_back, standing, withdraw

pytestmark = pytest.mark.usefixtures("clean_environment")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'log.db'}"


@pytest.fixture
def log(url: str) -> Iterator[Log]:
    opened = open_log(url)
    opened.create()
    yield opened
    opened.close()


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


def announce(log: Log, kind: Any, version: str, blob: str, **more: Any) -> None:
    one = Announcement(
        id="finetune/1", kind=kind, round=3, at_events=9, time_ms=0, version=version, blob=blob, **more
    )  # fmt: skip
    appender = log.appender()
    appender.append(one.record())
    appender.close()


def model(blobs: Blobs, seed: int, *, broken: bool = False) -> str:
    made = DeepModel(DeepSettings(width=8), seed)
    made.grow(["a", "b"])
    if broken:
        made.table[0, 0] = float("nan")
    return blobs.put("model", made.to_bytes())


@pytest.fixture
def promoted(log: Log, blobs: Blobs) -> list[str]:
    """Announce two champions, one after the other; return their blobs."""
    found = [model(blobs, seed) for seed in (1, 2)]
    for number, blob in enumerate(found, 1):
        announce(log, "promoted", f"r{number}", blob, heard=0)
    return found


def run(url: str, blobs: Blobs, *command: str) -> str:
    result = CliRunner().invoke(app, [*command, "--log", url, "--blobs", str(blobs.folder)])
    assert result.exit_code == 0, result.output
    return result.output


def champion(log: Log) -> str:
    now = standing(topic_records(log, MODELS)).champion
    return now.blob if now else ""


def test_a_former_champion_is_champion_again(log: Log, url: str, blobs: Blobs, promoted: list[str]) -> None:
    said = run(url, blobs, "roll-back", "--to", "r1", "--by", "ann", "--why", "returns fell")
    assert said.startswith("requested: r1 replaces r2 as soon as the shards and serving read the request")
    assert champion(log) == promoted[0]
    request = standing(topic_records(log, MODELS)).request
    assert request
    one = request.announcement
    assert (one.kind, one.action, one.version, one.blob) == ("requested", "roll_back", "r1", promoted[0])
    assert (one.by, one.reason, one.round, one.parent) == ("ann", "returns fell", 3, "r2")
    assert request.position == 2
    status = CliRunner().invoke(app, ["status", "--log", url]).output
    assert "champion: r1, requested by ann (roll back)" in status
    assert "newest request: r1, " in status
    assert ": pending at online, finetune" in status
    assert "  r1 requested by ann (roll back): returns fell" in status


def test_a_roll_back_without_a_version_is_to_no_model(log: Log, url: str, blobs: Blobs, promoted: list[str]) -> None:
    assert "no model replaces r2" in run(url, blobs, "roll-back", "--to", "none", "--why", "a try")
    assert champion(log) == ""
    status = CliRunner().invoke(app, ["status", "--log", url]).output
    assert "champion: none; the blend works without the deep model" in status
    assert "newest request: no model, " in status
    with pytest.raises(Misconfigured, match="wanted a champion to roll back, found none"):
        roll_back(log, blobs, None, by="ann")
    assert "r2 replaces no model" in run(url, blobs, "promote", "r2", "--why", "a try")
    assert champion(log) == promoted[1]


def test_any_announced_model_may_be_promoted(log: Log, blobs: Blobs, promoted: list[str]) -> None:
    announce(log, "refused", "r3", model(blobs, 3))
    assert promote(log, blobs, "r3", by="ann").round == 3
    assert champion(log) == model(blobs, 3)


def test_what_cannot_be_used_is_not_requested(log: Log, blobs: Blobs, promoted: list[str]) -> None:
    end = log.end(Partition(MODELS, 0))
    announce(log, "refused", "nan", model(blobs, 3, broken=True))
    announce(log, "refused", "lost", f"model-{'0' * 64}")
    announce(log, "refused", "text", blobs.put("model", b"no model"))
    for act, version, wanted in (
        (promote, "r9", "r9: wanted a version that was announced on models, found none; known are r1, r2, nan, lost"),
        (promote, "r2", "r2: wanted another model than the champion, found the champion"),
        (promote, "nan", "nan: wanted a model that can be used, found: items holds NaN or infinity"),
        (promote, "lost", "lost: wanted a model that can be used, found: blob model-0000"),
        (promote, "text", "text: wanted a model that can be used, found: "),
        (roll_back, "nan", "nan: wanted a former champion, found none of that version; known are r1, r2"),
    ):
        with pytest.raises(Misconfigured) as found:
            act(log, blobs, version, by="ann")
        assert str(found.value).startswith(wanted)
    assert log.end(Partition(MODELS, 0)) == end + 3


def test_only_a_model_that_waits_for_a_verdict_is_withdrawn(log: Log, blobs: Blobs, promoted: list[str]) -> None:
    announce(log, "proposed", "proposed-1", model(blobs, 3))
    announce(log, "candidate", "r3", model(blobs, 3))
    end = log.end(Partition(MODELS, 0))
    for version in ("r1", "r9", "proposed-1"):
        with pytest.raises(Misconfigured, match=f"{version}: wanted a model that waits for a verdict, .* known are r3"):
            withdraw(log, version, by="ann")
    assert withdraw(log, "r3", by="ann", dry_run=True).action == "withdraw"
    assert log.end(Partition(MODELS, 0)) == end
    assert withdraw(log, "r3", by="ann", reason="too old").blob == model(blobs, 3)
    assert champion(log) == promoted[1], "it changes no champion"


def test_status_names_who_has_obeyed_and_what_came_after(log: Log, url: str, blobs: Blobs, promoted: list[str]) -> None:
    request = roll_back(log, blobs, "r1", by="ann")
    writer = log.writer("finetune")
    writer.commit([], {Partition(MODELS, 0): 3})
    writer.settle()
    writer.close()
    status = CliRunner().invoke(app, ["status", "--log", url]).output
    assert "obeyed by finetune; pending at online" in status
    announce(log, "promoted", "late", promoted[1], heard=2)
    assert champion(log) == request.blob, "decided without knowledge of the request"
    announce(log, "promoted", "r4", promoted[1], heard=3)
    assert champion(log) == promoted[1]
    status = CliRunner().invoke(app, ["status", "--log", url]).output
    assert "since then r4 was promoted after 9 records" in status


def test_a_requested_model_is_swept_by_no_one_who_has_not_heard(log: Log, blobs: Blobs, promoted: list[str]) -> None:
    tuner = Blobs(blobs.folder)
    before_ns = max((blobs.folder / blob).stat().st_mtime_ns for blob in promoted)
    roll_back(log, blobs, "r1", by="ann")
    tuner.renew(promoted[1])
    assert tuner.sweep("model", (), before_ns=before_ns) == []
