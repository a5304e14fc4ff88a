"""A fine-tuner whose round trains in a child process: it goes on, it stops, nothing is lost when either is killed."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from headrace.announcement import Announcement, announced
from headrace.log.protocol import Partition
from headrace.shard.checks import committed_records
from headrace.topics import MODELS
from operators.child import Child, Children, total
from tests.running import Running
from tests.shards import FINETUNE

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: /proc"),
    pytest.mark.parametrize("log_url", ["sqlite"], indirect=True),
]
ROUND_EVENTS: Final = 300
STOP_S: Final = 10.0
TRAINS, STEPS = '"event": "training"', "headrace_round_training_timestamp_seconds"
SMALL = {
    "ROUNDS__ITEMS_MAX": "1000",
    "ROUNDS__SHOPPERS_MAX": "1000",
    "ROUNDS__ROUND_EVENTS": str(ROUND_EVENTS),
    "ROUNDS__GATE_RECORDS_MAX": "100000",
    "ROUNDS__WIDTH": "8",
    "ROUNDS__FIRST_PASSES": "4000",
    "ROUNDS__TRAIN_S_MAX": "600",
    "SHARDS__FINETUNE__COMMIT_INTERVAL_S": "0.05",
    "SHARDS__FINETUNE__SNAPSHOT_INTERVAL_S": "0.5",
}


@pytest.fixture
def shard(log_url: str, tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    for name, value in SMALL.items():
        monkeypatch.setenv(f"HEADRACE_{name}", value)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path)
    made = Running(log_url, tmp_path, children, FINETUNE.shard)
    yield made
    made.close()


def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rounds end within seconds from the next start on."""
    monkeypatch.setenv("HEADRACE_ROUNDS__FIRST_PASSES", "10")


def said(shard: Running, kind: str) -> list[Announcement]:
    """Return what the fine-tuner has announced of a kind."""
    found = map(announced, committed_records(shard.log, Partition(MODELS, 0)))
    return [one for one in found if one and one.kind == kind]


def trainer_of(tuner: Child) -> int | None:
    """Return the process id of a fine-tuner's child."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == tuner.pid and b"headrace.child" in (path / "cmdline").read_bytes():
                return int(path.name)
        except (OSError, IndexError):  # it has ended
            continue
    return None


def training(shard: Running, tuner: Child) -> int:
    """Wait until a child trains; return its process id."""
    shard.children.wait_until("a child trains", lambda: trainer_of(tuner) is not None)
    found = trainer_of(tuner)
    assert found is not None
    return found


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def folders(shard: Running) -> list[Path]:
    return list((shard.folder / "tmp").glob("headrace-round-*"))


@pytest.mark.full  # a whole round in a process, which test_pipeline has, too
@pytest.mark.timeout(600)
def test_a_round_leaves_the_fine_tuner_free(shard: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """It learns and commits meanwhile, stops at once, trains again after its restart, and survives its child."""
    tuner = shard.learn("finetune")
    shard.publish(ROUND_EVENTS)
    pid = training(shard, tuner)
    shard.publish(2 * ROUND_EVENTS)
    shard.await_covered()
    assert trainer_of(tuner) == pid, "it still trains the first round"
    assert time.time() - 300 < total(tuner.scrape(), STEPS) <= time.time()
    assert total(tuner.scrape(), "headrace_bound_used", table="training_sequences") > 0
    assert not said(shard, "candidate") + said(shard, "failed")

    began = time.monotonic()
    tuner.request_stop()
    assert tuner.wait(60) == 0
    assert time.monotonic() - began < STOP_S
    assert gone(pid)
    assert not folders(shard)

    tuner = shard.learn("finetune")  # no event comes
    pid = training(shard, tuner)
    os.kill(pid, signal.SIGKILL)
    shard.children.wait_until("the round has failed", lambda: bool(said(shard, "failed")))
    (failed,) = said(shard, "failed")
    assert failed.reason == "the process of the training failed: it was killed by SIGKILL; perhaps memory ran out"
    assert tuner.code is None
    shard.children.wait_until("the gauge is 0", lambda: tuner.scrape().get((STEPS, ())) == 0)
    shard.children.wait_until("the files are removed", lambda: not folders(shard) or trainer_of(tuner) is not None)
    tuner.stop()

    quickly(monkeypatch)
    tuner = shard.learn("finetune")
    shard.publish(ROUND_EVENTS)
    shard.children.wait_until("there is a candidate", lambda: bool(said(shard, "candidate")))
    (candidate,) = said(shard, "candidate")
    assert candidate.round == 2
    assert candidate.lineage["tokens"] > 0
    shard.await_covered()
    tuner.stop()
    shard.check()


@pytest.mark.full  # test_pipeline kills a fine-tuner that trains, too
@pytest.mark.timeout(600)
def test_a_round_whose_fine_tuner_is_killed_is_trained_again(shard: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    tuner = shard.learn("finetune")
    shard.publish(ROUND_EVENTS - 50)
    shard.await_covered()
    for moment in (0.0, 1.0, 5.0):  # the child starts, imports, trains
        shard.publish(80)
        pid = training(shard, tuner)
        time.sleep(moment)
        tuner.kill()
        shard.children.wait_until("the child has died with it", lambda: gone(pid))  # noqa: B023  # called at once
        assert folders(shard)
        shard.publish(20)
        tuner = shard.learn("finetune")
        training(shard, tuner)
        assert len(folders(shard)) == 1, "the former one's is removed"
    tuner.kill()
    quickly(monkeypatch)
    tuner = shard.learn("finetune")
    shard.children.wait_until("there is a candidate", lambda: bool(said(shard, "candidate")))
    (candidate,) = said(shard, "candidate")
    assert (candidate.round, candidate.trigger) == (1, "start")
    ends = [int(end.partition(":")[2]) for end in candidate.lineage["events"]]
    assert ROUND_EVENTS <= sum(ends) < ROUND_EVENTS + 80, "it trained on what was there when the round began"
    assert not said(shard, "failed")
    shard.await_covered()
    tuner.stop()
    assert not folders(shard)
    shard.check()
