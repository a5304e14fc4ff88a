"""Staleness: when an update is due, by itself and as a trigger of the live fine-tuner's rounds."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from consumers.shard import run
from headrace.announcement import Announcement, announced
from headrace.config import ShardSettings
from headrace.events import Data, Event, Item, at, encode
from headrace.log.open import open_log
from headrace.log.protocol import Log, Outgoing, Partition
from headrace.metrics import ShardMetrics
from headrace.shard.blobs import Blobs
from headrace.state import decode
from headrace.state import encode as as_bytes
from headrace.topics import EVENTS, MODELS
from learners.deep.model import DeepModel, DeepSettings
from learners.deep.train import train
from learners.rounds import staleness
from learners.rounds.judge import MODEL
from learners.rounds.settings import RoundsSettings
from learners.rounds.staleness import Staleness
from tests.shards import FINETUNE


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staleness, "baseline_predictions", 100)


def fed(one: Staleness, found: float, fresh: float, count: int) -> int:
    """Observe predictions with these hit rates; return after how many an update was due, 0 if never."""
    for at_ in range(1, count + 1):
        hits = (int(at_ * share) > int((at_ - 1) * share) for share in (found, fresh))
        if one.observe(**dict(zip(("found", "fresh"), hits, strict=True))):
            return at_
    return 0


def test_an_update_is_due_once_the_lost_hits_reach_the_price() -> None:
    one = Staleness(10)
    assert not fed(one, 0.5, 0.6, 100)  # the baseline
    assert fed(one, 0.5, 0.7, 1_000) == pytest.approx(100, abs=10)  # 0.1 more hits per prediction
    assert one.hits_lost >= 10


def test_a_drop_of_both_learners_is_no_loss() -> None:
    one = Staleness(10)
    assert not fed(one, 0.5, 0.6, 100)
    assert not fed(one, 0.5, 0.6, 2_000)
    assert not fed(one, 0.1, 0.2, 2_000)
    assert one.hits_lost < 2


def test_the_loss_shrinks_when_the_model_improves_but_not_below_0() -> None:
    one = Staleness(10)
    assert not fed(one, 0.5, 0.5, 100)
    assert not fed(one, 0.5, 0.55, 100)
    assert one.hits_lost == pytest.approx(5, abs=1)
    assert not fed(one, 0.6, 0.5, 1_000)
    assert fed(one, 0.5, 0.6, 1_000) == pytest.approx(100, abs=10)


def test_an_update_resets_the_loss_and_only_a_new_model_the_baseline() -> None:
    one = Staleness(10)
    assert not fed(one, 0.5, 0.5, 100)
    assert fed(one, 0.5, 0.6, 1_000)
    one.reset_loss()  # the candidate was refused: the model is as stale as before
    assert fed(one, 0.5, 0.6, 1_000) == pytest.approx(100, abs=10)
    one.reset_baseline()
    assert not fed(one, 0.5, 0.6, 100)  # the baseline lead is now the mean of 0 and 0.1
    assert fed(one, 0.5, 0.6, 1_000) == pytest.approx(200, abs=20)


def test_with_a_price_of_0_no_update_is_ever_due() -> None:
    one = Staleness(0)
    assert not fed(one, 0.0, 0.0, 100)
    assert not fed(one, 0.0, 1.0, 1_000)


@pytest.mark.parametrize("seen", [0, 60, 100, 250])
def test_state_survives_serialisation_and_continues(seen: int) -> None:
    one = Staleness(12)
    draws = np.random.default_rng(3).random((700, 2)) < (0.45, 0.55)
    hits_of = [{"found": bool(found), "fresh": bool(fresh)} for found, fresh in draws]
    for hits in hits_of[:seen]:
        one.observe(**hits)
    again = Staleness.from_state(decode(as_bytes(one.state())))
    due = [[each.observe(**hits) for hits in hits_of[seen:]] for each in (one, again)]
    assert due[0] == due[1]
    one.reset_baseline()
    again.reset_baseline()
    for hits in hits_of:
        assert one.observe(**hits) == again.observe(**hits)
    assert as_bytes(one.state()) == as_bytes(again.state())


def test_memory_is_bounded() -> None:
    one, sizes = Staleness(1e9), []
    for count in (100, 900, 9_000):
        fed(one, 0.4, 0.5, count)
        sizes.append(len(as_bytes(one.state())))
    assert max(sizes) <= sizes[0] + 16  # the encoded numbers get longer


# The live fine-tuner.

STEP_MS = 60_000


def visits(log: Log, begin: int, end: int, group: str) -> None:
    """Publish visits of one shopper each to six consecutive items of a group."""
    appender = log.appender()
    for number in range(begin, end):
        for step in range(6):
            time_ms, shopper = 1_750_000_000_000 + (6 * number + step) * STEP_MS, f"u{number}"
            item = Item(f"{group}{(number + step) % 12}")
            event = Event(f"e{number}-{step}", "shop", "view_item", at(time_ms), Data([item]), "1.0", shopper, time_ms)
            appender.append(Outgoing(EVENTS, shopper.encode(), encode(event)))
    appender.close()


def champion(blobs: Blobs) -> Announcement:
    """Return an operator's announcement that makes a model of one group the champion."""
    sequences = [[f"old{(number + step) % 12}" for step in range(6)] for number in range(120)]
    settings = DeepSettings(width=16, layers=1, heads=1, context=8, dropout=0.0)
    model: DeepModel = train(None, sequences, settings=settings, seed=1, passes=4, learning_rate=5e-3).model
    blob = blobs.put(MODEL, model.to_bytes())
    return Announcement(id="op/1", kind="rolled_back", round=7, at_events=0, time_ms=0, version="old", blob=blob)


@pytest.mark.slow
def test_the_live_round_is_announced_with_its_trigger(tmp_path: Path) -> None:
    log, blobs = open_log(f"sqlite:{tmp_path / 'log.db'}"), Blobs(tmp_path / "blobs")
    log.create()
    settings = RoundsSettings(
        round_events=10**9, staleness_hits=20, gate_records_max=50, items_max=100, shoppers_max=100,
        width=16, passes=1, device="cpu",
    )  # fmt: skip
    metrics = ShardMetrics([kind.surface for kind in FINETUNE.kinds])
    stop, own = threading.Event(), open_log(f"sqlite:{tmp_path / 'log.db'}")
    process = ShardSettings(partition=1, commit_interval_s=0.05)
    arguments = own, blobs, FINETUNE, process, {"rounds": settings}, metrics, stop
    tuner = threading.Thread(target=run, args=arguments)
    tuner.start()
    reader = log.reader({Partition(MODELS, 0): 0})
    value = metrics.registry.get_sample_value
    announced_so_far: list[Announcement] = []

    def trigger() -> str:
        """Return the first announced trigger, "" if there is none."""
        for _, records in reader.read(100, 0.1):
            announced_so_far.extend(one for one in map(announced, records) if one)
        return next((one.trigger for one in announced_so_far if one.trigger), "")

    def until(condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, what
            time.sleep(0.02)

    try:
        visits(log, 0, 40, "old")  # session-kNN learns the group before there is a champion
        until(lambda: value("headrace_events_total", {"result": "learned"}) == 240, "not learned")
        appender = log.appender()
        appender.append(champion(blobs).record())
        appender.close()
        until(lambda: value("headrace_champion_round") == 7, "the champion was not applied")
        visits(log, 40, 100, "old")  # both know the group: no hits are lost
        until(lambda: value("headrace_events_total", {"result": "learned"}) == 600, "not learned")
        assert trigger() == ""
        visits(log, 100, 160, "new")  # unknown to the champion, learned by session-kNN at once
        until(lambda: bool(trigger()), "no round was announced")
    finally:
        stop.set()
        tuner.join(30)
        for one in (reader, own, log):
            one.close()
    assert not tuner.is_alive()
    first = next(one for one in announced_so_far if one.trigger)
    assert (first.trigger, first.lineage["parent"]) == ("gain", "old")
    assert value("headrace_round_triggers_total", {"trigger": "gain"}) == 1
