"""Replay: a shadow run follows the live shard, differs as asked, can be killed, compared and put in place."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from shutil import copytree
from threading import Event
from typing import Final

import pytest
from typer.testing import CliRunner

from consumers.archive import run as archive
from consumers.shard import Judges
from headrace.archive.log import ArchivedLog
from headrace.archive.store import FolderStore
from headrace.config import ArchiveSettings
from headrace.errors import Fenced, Misconfigured, PositionLost
from headrace.events import Rejection, at, decode
from headrace.log.open import open_log
from headrace.log.protocol import Partition
from headrace.log.scan import topic_records
from headrace.metrics import ArchiveMetrics
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.decision import Author
from headrace.shard.entries import EntryRecords
from headrace.shard.follower import Follower, freeze
from headrace.shard.intake import Intake
from headrace.shard.kept import kept_snapshots
from headrace.shard.loop import Loop
from headrace.shard.refold import refold
from headrace.shard.restate import restate
from headrace.shard.shadow import Anew, Shadow
from headrace.shard.without import Without
from headrace.state import digest
from headrace.topics import EVENTS, SCORES
from operators.cli import app
from operators.cli.app import merge_sets
from operators.deployment import read_deployment
from operators.replay import pace
from operators.replay.begin import new_run
from operators.replay.compare import compare
from operators.replay.fold import fold
from operators.replay.plan import covered_text, plan
from operators.replay.promote import promote
from operators.replay.run import Run, RunFolder, runs
from tests.filed_shop import MAKE, QUICK, SHARD, FiledShop, publish, step
from tests.shards import ONLINE, next_item_judge
from tests.small_shop import said

EVENTS_LEARNED: Final = 150


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = FiledShop(tmp_path_factory.mktemp("learned"))
    made.learn(EVENTS_LEARNED)
    made.log.close()
    return made.path.parent


@pytest.fixture
def shop(learned: Path, tmp_path: Path, clean_environment: None) -> Iterator[FiledShop]:
    made = FiledShop(copytree(learned, tmp_path, dirs_exist_ok=True))
    yield made
    made.log.close()


def replayed(
    shop: FiledShop, name: str, *, begin: str | None = None, end: str | None = None, sets: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
) -> Run:  # fmt: skip
    """Fold a new run to its end."""
    folder, deployment = RunFolder(shop.blobs, name), read_deployment(**merge_sets(sets, log=f"sqlite:{shop.path}"))
    with folder.alone():
        run, _ = new_run(
            shop.log, shop.blobs, deployment, ONLINE, name, begin=begin, end=end, kind="", sets=sets, without=without,
            who="eve",
        )  # fmt: skip
        folder.write(run)
        return fold(shop.log, shop.blobs, ONLINE, folder)


def live_digest(shop: FiledShop) -> str:
    with closing(Follower(shop.log, shop.blobs, SHARD, make=MAKE)) as follower:
        follower.catch_up()
        return follower.digest()


def command(shop: FiledShop, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["replay", *arguments, "--blobs", str(shop.blobs.folder)])
    if isinstance(result.exception, Misconfigured):
        return str(result.exception)
    assert result.exit_code == 0, result.output
    return result.stdout


def on_log(shop: FiledShop, *arguments: str) -> str:
    return command(shop, *arguments, "--log", f"sqlite:{shop.path}")


def test_a_replay_gives_the_state_of_the_live_shard_and_of_a_refold(shop: FiledShop) -> None:
    run = replayed(shop, "whole")
    assert run.digest == run.live == live_digest(shop)
    assert run.records == EVENTS_LEARNED
    assert refold(shop.log, shop.blobs, SHARD, make=MAKE).blob == f"online-{run.digest}"

    folder = RunFolder(shop.blobs, "whole")
    with folder.log() as own:
        kept = own.newest(SHARD.journal, 1_000)
    entries = [journal.decode(record) for record in kept]
    live = [journal.decode(record) for record in shop.log.newest(SHARD.journal, 1_000)]
    assert [(one.number, one.runs, one.digest) for one in entries] == [
        (one.number, one.runs, one.digest) for one in live[:-1]
    ], "the run's journal is the live one before the refold"


def test_a_replay_begins_with_a_kept_snapshot_and_goes_on_to_a_later_end(shop: FiledShop) -> None:
    newest = journal.newest(shop.log, SHARD)
    assert newest is not None
    assert newest.snapshot is not None
    run = replayed(shop, "part", begin=newest.snapshot.blob[:20])
    assert run.base is not None
    assert run.digest == run.live == live_digest(shop)
    shop.learn(50, EVENTS_LEARNED)
    on_log(shop, "--into", "part", "--to", str(len(shop.log.newest(SHARD.journal, 1_000))))
    assert RunFolder(shop.blobs, "part").read().digest == live_digest(shop)


def test_other_settings_give_another_state_and_the_same_ones_judged_again_the_same(shop: FiledShop) -> None:
    other = replayed(shop, "small", sets=("next_item.items_max=8",))
    assert other.judged_anew == ["next_item"]
    assert other.digest != live_digest(shop)
    assert replayed(shop, "same", sets=("next_item.judge_seed=3",)).digest == live_digest(shop)


def test_a_filtered_replay_is_the_fold_of_the_other_events(shop: FiledShop) -> None:
    """A shop that never saw the events would have other offsets; the state of `online` does not depend on them."""
    rules = ("shopper=s3", "item=i4")
    entries = [journal.decode(record) for record in shop.log.newest(SHARD.journal, 1_000)]
    firsts = dict.fromkeys(SHARD.inputs(shop.log), 0)
    plain, intake, left, offsets = MAKE(), Intake(), list[int](), Counter[int]()
    with closing(EntryRecords(shop.log, SHARD, firsts, 0)) as records:
        for entry in entries:
            for run, piece, _ in records.runs(entry):
                for record in piece if run.topic == EVENTS else ():
                    event = decode(record)
                    assert not isinstance(event, Rejection)
                    if event.shopper == "s3" or any(line.item_id == "i4" for line in event.data.items):
                        left.append(record.offset)
                    elif intake.admit(event, record.time_ms) and plain.prepare(event):
                        plain.learn(event, record.partition, offsets[record.partition])
                        offsets[record.partition] += 1
            records.judgements(entry)
            plain.emit()

    without, nobody = Without(rules), Anew(Judges({}), {"next_item"})
    with closing(Shadow(shop.log, shop.blobs, SHARD, make=MAKE, anew=nobody, without=without)) as shadow:
        shadow.catch_up()
        assert shadow.digest() == digest(freeze(plain, intake))
    assert without.found.events == len(left) > 0
    assert sum(span.count for span in without.found.partitions.values()) == len(left)


def test_what_was_left_out_is_proved(shop: FiledShop) -> None:
    record = shop.log.newest(Partition(EVENTS, 0), 1)[0]
    window = f"window={at(record.time_ms - 1).isoformat()}..{at(record.time_ms + 1).isoformat()}"
    run = replayed(shop, "filtered", without=("shopper=s3", "source=nowhere", window))
    found = run.left_out
    assert found.events > 1
    assert found.partitions["events/0"].last >= record.offset
    text = command(shop, "show", "filtered")
    assert f"left out: {found.events} events, digest {found.digest[:16]}" in text
    assert "no deep model is promoted" in text
    assert replayed(shop, "again", without=("shopper=s3", "source=nowhere", window)).left_out == found
    assert replayed(shop, "none", without=("shopper=nobody",)).digest == live_digest(shop), "all are judged alike"


def test_what_the_promoted_model_holds_of_what_is_left_out_is_counted(shop: FiledShop) -> None:
    lineage = {"events": ["0:5", "1:1000", "2:0", "3:0"]}
    with closing(shop.log.appender()) as appender:
        appender.append(said("candidate", 1, lineage=lineage).record())
        appender.append(said("promoted", 1, reason="better").record())
    run = replayed(shop, "held", without=("source=shop/web",))
    assert run.model == "r0001"
    assert run.left_out.events == EVENTS_LEARNED
    assert run.left_out.trained == shop.log.end(Partition(EVENTS, 1)) + min(5, shop.log.end(Partition(EVENTS, 0)))
    assert f"had read {run.left_out.trained} of them when it was trained: retrain" in command(shop, "show", "held")


KILLED = """
import sys
from pathlib import Path
from headrace.shard.blobs import Blobs
from headrace.log.open import open_log
from operators.replay import fold as module
from operators.replay.run import RunFolder
from tests.shards import ONLINE
module.snapshot_interval_s, module.commit_entries, module.step_entries = 0.0, 1, 1
log, blobs = open_log("sqlite:" + sys.argv[1], existing=True, read_only=True), Blobs(sys.argv[2])
folder = RunFolder(blobs, "killed")
print("begins", flush=True)
with folder.alone():
    module.fold(log, blobs, ONLINE, folder)
"""


@pytest.mark.full
@pytest.mark.parametrize("without", [(), ("shopper=s3",)], ids=["as it was", "filtered"])
def test_a_replay_that_is_killed_goes_on(shop: FiledShop, without: tuple[str, ...]) -> None:
    folder, deployment = RunFolder(shop.blobs, "killed"), read_deployment(log=f"sqlite:{shop.path}")
    with folder.alone():
        run, _ = new_run(
            shop.log, shop.blobs, deployment, ONLINE, "killed", begin=None, end=None, kind="", sets=(),
            without=without, who="eve",
        )  # fmt: skip
        folder.write(run)
    chance = random.Random(len(without))
    arguments = [sys.executable, "-c", KILLED, str(shop.path), str(shop.blobs.folder)]
    for _ in range(2):
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as child:
            assert child.stdout is not None
            child.stdout.readline()
            wanted = folder.read().number + chance.randrange(1, 4)
            while child.poll() is None and folder.read().number < wanted:
                time.sleep(0.001)
            child.kill()
    assert folder.read().number > 0, "it had begun"
    with folder.alone():
        run = fold(shop.log, shop.blobs, ONLINE, folder)
    assert run.digest == replayed(shop, "whole", without=without).digest
    assert run.left_out == RunFolder(shop.blobs, "whole").read().left_out
    with folder.log() as own:
        numbers = [journal.decode(record).number for record in own.newest(SHARD.journal, 1_000)]
        scores = [record.value for record in topic_records(own, SCORES)]
    assert numbers == list(range(run.end)), "each entry once"
    with RunFolder(shop.blobs, "whole").log() as own:
        assert scores == [record.value for record in topic_records(own, SCORES)]


def test_one_operator_at_a_time_changes_a_run(shop: FiledShop) -> None:
    folder = RunFolder(shop.blobs, "mine")
    with folder.alone():
        assert "wanted it idle" in on_log(shop, "--into", "mine")
    assert not folder.path.exists(), "what never had a manifest is no run"
    on_log(shop, "--into", "mine")
    with folder.alone():
        for arguments in (("delete", "mine"), ("promote", "mine", "--why", "x", "--log", f"sqlite:{shop.path}")):
            assert "found another process that changes it" in command(shop, *arguments)
    assert folder.exists


def test_bad_input_is_told(shop: FiledShop) -> None:
    entries = len(shop.log.newest(SHARD.journal, 1_000))
    for arguments, wanted in {
        ("--into", "a/b"): "wanted a name of letters",
        ("--into", "x", "--from", "9", "--to", "3"): "wanted a range with entries",
        ("--into", "x", "--from", str(entries + 1)): f"wanted a number of entries from 0 to {entries}",
        ("--into", "x", "--from", "1999-01-01"): "wanted a time from the journal's begin on",
        ("--into", "x", "--from", "noon"): "wanted a time such as",
        ("--into", "x", "--snapshot", "--to", "online-zz"): "wanted one of the kept snapshots",
        ("--into", "x", "--time", "--offset"): "at most one of --time",
        ("--into", "x", "--set", "next_item.x=1"): "unknown field `x`",
        ("--into", "x", "--set", "shards.online.commit_interval_s=1"): "wanted a setting of desk, stock, next_item",
        ("--into", "x", "--without", "colour=red"): "wanted shopper=ID",
        ("--into", "x", "--without", "window=2026-01-02..2026-01-01"): "begins before it ends",
        ("--into", "x", "--shard", "finetune"): "wanted a journal to replay",
        ("--into", "x", "--shard", "other"): "wanted one of online, finetune",
        ("--into", "x", "--rate", "fast"): "wanted records per second",
        (): "wanted the name of a run",
    }.items():
        assert wanted in on_log(shop, *arguments), arguments
    assert "run x: wanted one of none" in command(shop, "show", "x")
    assert runs(shop.blobs) == []
    on_log(shop, "--into", "x")
    assert "found a run of online from entry 0, as it was" in on_log(shop, "--into", "x", "--without", "shopper=s3")
    assert "wanted the run's end" in on_log(shop, "--into", "x", "--to", "3")


def test_what_retention_has_deleted_is_told_or_read_from_the_archive(shop: FiledShop, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "archive")
    archive(shop.log, store, ArchiveSettings(), ArchiveMetrics(), Event(), once=True)
    for place in shop.log.partitions(EVENTS):
        shop.log.delete_before(place, shop.log.end(place) // 2)
    shop.log.delete_before(SHARD.journal, 2)
    with pytest.raises(Misconfigured, match="wanted a state that is kept of entry 0"):
        plan(shop.log, shop.blobs, SHARD, "0", None)
    base = plan(shop.log, shop.blobs, SHARD, None, None).base
    assert base is not None, "by default it begins with the oldest snapshot that the log covers"
    for place in shop.log.partitions(EVENTS):
        shop.log.delete_before(place, shop.log.end(place))
    with pytest.raises(PositionLost):
        plan(shop.log, shop.blobs, SHARD, str(base.number), None)
    whole = ArchivedLog(shop.log, store)
    assert plan(whole, shop.blobs, SHARD, None, None).begin == 0
    assert "the archive covers" in covered_text(whole)


def test_without_a_kept_snapshot_the_live_state_is_folded_from_the_journal(shop: FiledShop) -> None:
    for one in kept_snapshots(shop.blobs, SHARD.name):
        if one.pointer.number < 4:
            (shop.blobs.folder / one.pointer.blob).unlink(missing_ok=True)
    run = replayed(shop, "early", end="3")
    assert (run.number, run.live, run.live_from) == (3, run.digest, 0)
    assert "(live state folded from the journal's first entry)" in command(shop, "show", "early")
    live = compare(shop.log, shop.blobs, ONLINE, RunFolder(shop.blobs, "early"), None, 10)
    assert live.sides[0].digest == live.sides[1].digest


def test_a_promoted_run_is_the_live_state_and_can_be_undone(shop: FiledShop) -> None:
    before = live_digest(shop)
    run = replayed(shop, "filtered", without=("shopper=s3",))
    publish(shop.log, 30, EVENTS_LEARNED)
    with closing(shop.loop()) as live:
        step(live, EVENTS_LEARNED + 30)
        with pytest.raises(Misconfigured, match="why: wanted"):
            promote(shop.log, shop.blobs, ONLINE, RunFolder(shop.blobs, "filtered"), Author("eve", ""))
        entry = promote(shop.log, shop.blobs, ONLINE, RunFolder(shop.blobs, "filtered"), Author("eve", "a bot"))
        publish(shop.log, 1, EVENTS_LEARNED + 30)
        with pytest.raises(Fenced):
            step(live, EVENTS_LEARNED + 31)
    caught_up = RunFolder(shop.blobs, "filtered").read()
    assert caught_up.number == entry.number > run.number, "the run has learned what came meanwhile"
    assert live_digest(shop) == caught_up.digest != before
    assert entry.decision is not None
    assert (entry.decision.why, entry.decision.who) == ("a bot", "eve")
    assert shop.verified().whole
    assert shop.blobs.names("replayed") == []

    assert entry.snapshot is not None
    assert entry.snapshot.restated is not None
    undone = next(one.pointer for one in kept_snapshots(shop.blobs, SHARD.name)
                  if one.pointer.blob == entry.snapshot.restated.before)  # fmt: skip
    restate(shop.log, shop.blobs, SHARD, make=MAKE, state=undone, author=Author("eve", "no"), text="undone")
    assert live_digest(shop) == undone.blob.rpartition("-")[2]
    assert replayed(shop, "after").digest == live_digest(shop)


def test_two_runs_are_compared_side_by_side(shop: FiledShop, tmp_path: Path) -> None:
    replayed(shop, "same")
    replayed(shop, "small", sets=("next_item.items_max=8",))
    live = compare(shop.log, shop.blobs, ONLINE, RunFolder(shop.blobs, "same"), None, 10)
    assert live.equal
    assert [(one.mean, one.equal) for one in live.answers] == [(1.0, 1.0)]
    assert live.sides[0].quality == live.sides[1].quality != {}

    picture = tmp_path / "runs.svg"
    found = json.loads(on_log(shop, "diff", "small", "same", "--picture", str(picture), "--json"))
    assert not found["equal"]
    recall = [one["quality"]["next_item"][0] for one in found["sides"]]
    assert recall[0]["judged"] > 100
    assert recall[0]["means"]["blend"] != recall[1]["means"]["blend"]
    assert found["answers"][0]["mean"] < 1
    assert "small" in picture.read_text()
    table = on_log(shop, "diff", "small")
    assert "digest" in table
    assert "share" in table
    assert "wanted two runs" in on_log(shop, "diff", "same", "same")


def test_runs_are_estimated_listed_shown_and_deleted(shop: FiledShop) -> None:
    assert "150 records, about" in on_log(shop, "--into", "a", "--dry-run")
    assert runs(shop.blobs) == []
    assert "digest equal to the live state at entry" in on_log(shop, "--into", "a", "--rate", "live")
    assert json.loads(on_log(shop, "--into", "a", "--json"))["equal"] is True
    listed = json.loads(command(shop, "list", "--json"))
    assert [(one["name"], one["done"], one["changes"]) for one in listed] == [("a", True, "as it was")]
    assert "as it was" in command(shop, "list")
    assert json.loads(command(shop, "delete", "a", "--dry-run", "--json"))["deleted"] is False
    assert "nothing was written" in on_log(shop, "promote", "a", "--dry-run")
    assert "deleted" in command(shop, "delete", "a")
    assert "no runs" in command(shop, "list")


def test_a_replay_pauses_while_the_live_shard_falls_behind(shop: FiledShop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "lag_max", 10)
    monkeypatch.setattr(pace, "look_interval_s", 0.0)
    monkeypatch.setattr(pace, "pause_s_max", 0.2)
    paced = pace.ByLiveLag(shop.log, [SHARD])
    began = time.monotonic()
    publish(shop.log, 50, EVENTS_LEARNED)
    paced(0)
    assert time.monotonic() - began >= 0.2, "the lag stays, until the pause has lasted long enough"
    limited = pace.pace_of("100", shop.log, [])
    began = time.monotonic()
    limited(30)
    assert time.monotonic() - began >= 0.25


def test_a_replay_on_kafka_gives_the_live_state(kafka_url: str, tmp_path: Path, clean_environment: None) -> None:
    blobs = Blobs(tmp_path / "blobs")
    with closing(open_log(kafka_url)) as log:
        log.create()
        publish(log, 60)
        judge = Judges({"next_item": next_item_judge(blobs, fixed=1.0)})
        with closing(Loop(log, blobs, SHARD, make=MAKE, settings=QUICK, judge=judge)) as loop:
            while loop.fold.events < 60:
                loop.step()
            loop.run(lambda: True)
    result = CliRunner().invoke(
        app, ["replay", "--into", "k", "--log", kafka_url, "--blobs", str(blobs.folder), "--json"]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["equal"] is True
    assert found["records"] >= 60
