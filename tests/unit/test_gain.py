"""Gain: when a model has lost enough to be updated, alone and as a trigger of the live fine-tuner's rounds."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from consumers.finetune import MODEL, run
from headrace.blobs import Blobs
from headrace.config import FinetuneSettings
from headrace.events import Data, Event, Item, at, encode
from headrace.log import Log, Outgoing, Partition, open_log
from headrace.metrics import FinetuneMetrics
from headrace.state import decode
from headrace.state import encode as as_bytes
from headrace.topics import EVENTS, MODELS
from learners import gain
from learners.announcement import Announcement, announced
from learners.deep import DeepModel, DeepSettings
from learners.finetune import train
from learners.gain import Gain


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gain, "settle", 100)


def fed(one: Gain, found: float, fresh: float, count: int) -> int:
    """Let it see the model find so much, the fresh learner so much; return after how many it was due, 0 if never."""
    for at_ in range(1, count + 1):
        hits = (int(at_ * share) > int((at_ - 1) * share) for share in (found, fresh))
        if one.observe(**dict(zip(("found", "fresh"), hits, strict=True))):
            return at_
    return 0


def test_it_is_due_once_the_model_has_fallen_behind_by_the_price() -> None:
    one = Gain(10)
    assert not fed(one, 0.5, 0.6, 100)  # as usual
    assert fed(one, 0.5, 0.7, 1_000) == pytest.approx(100, abs=10)  # a tenth more, of a hundred
    assert one.lost >= 10


def test_what_makes_it_hard_for_both_is_no_loss() -> None:
    one = Gain(10)
    assert not fed(one, 0.5, 0.6, 100)
    assert not fed(one, 0.5, 0.6, 2_000)
    assert not fed(one, 0.1, 0.2, 2_000)
    assert one.lost < 2


def test_a_model_that_catches_up_pays_back_but_gathers_no_credit() -> None:
    one = Gain(10)
    assert not fed(one, 0.5, 0.5, 100)
    assert not fed(one, 0.5, 0.55, 100)
    assert one.lost == pytest.approx(5, abs=1)
    assert not fed(one, 0.6, 0.5, 1_000)
    assert fed(one, 0.5, 0.6, 1_000) == pytest.approx(100, abs=10)


def test_after_an_update_it_sums_anew_and_learns_what_is_usual_only_of_a_new_model() -> None:
    one = Gain(10)
    assert not fed(one, 0.5, 0.5, 100)
    assert fed(one, 0.5, 0.6, 1_000)
    one.pay()  # its candidate was refused: the model is as far behind as before
    assert fed(one, 0.5, 0.6, 1_000) == pytest.approx(100, abs=10)
    one.renew()
    assert not fed(one, 0.5, 0.6, 100)  # now half of that is usual: two means, 0 and 0.1
    assert fed(one, 0.5, 0.6, 1_000) == pytest.approx(200, abs=20)


def test_without_a_price_it_is_never_due() -> None:
    one = Gain(0)
    assert not fed(one, 0.0, 0.0, 100)
    assert not fed(one, 0.0, 1.0, 1_000)


@pytest.mark.parametrize("seen", [0, 60, 100, 250])
def test_state_survives_the_wire_and_continues(seen: int) -> None:
    one = Gain(12)
    draws = np.random.default_rng(3).random((700, 2)) < (0.45, 0.55)
    told = [{"found": bool(found), "fresh": bool(fresh)} for found, fresh in draws]
    for hits in told[:seen]:
        one.observe(**hits)
    again = Gain.from_state(decode(as_bytes(one.state())))
    due = [[each.observe(**hits) for hits in told[seen:]] for each in (one, again)]
    assert due[0] == due[1]
    one.renew()
    again.renew()
    for hits in told:
        assert one.observe(**hits) == again.observe(**hits)
    assert as_bytes(one.state()) == as_bytes(again.state())


def test_memory_is_bounded() -> None:
    one, sizes = Gain(1e9), []
    for count in (100, 900, 9_000):
        fed(one, 0.4, 0.5, count)
        sizes.append(len(as_bytes(one.state())))
    assert max(sizes) <= sizes[0] + 16  # the digits of its numbers


# The live fine-tuner.

STEP_MS = 60_000


def visits(log: Log, begin: int, end: int, family: str) -> None:
    """Publish visits to six items of a family in a row, one shopper each."""
    appender = log.appender()
    for number in range(begin, end):
        for step in range(6):
            time_ms, shopper = 1_750_000_000_000 + (6 * number + step) * STEP_MS, f"u{number}"
            item = Item(f"{family}{(number + step) % 12}")
            event = Event(f"e{number}-{step}", "shop", "view_item", at(time_ms), Data([item]), "1.0", shopper, time_ms)
            appender.append(Outgoing(EVENTS, shopper.encode(), encode(event)))
    appender.close()


def champion(blobs: Blobs) -> Announcement:
    """Return an operator's word that a model that knows one family is champion."""
    sequences = [[f"old{(number + step) % 12}" for step in range(6)] for number in range(120)]
    settings = DeepSettings(width=16, layers=1, heads=1, context=8, dropout=0.0)
    model: DeepModel = train(None, sequences, settings=settings, seed=1, passes=4, learning_rate=5e-3).model
    blob = blobs.put(MODEL, model.to_bytes())
    return Announcement(id="op/1", kind="rolled_back", round=7, at_events=0, time_ms=0, version="old", blob=blob)


def test_the_live_round_is_announced_with_its_trigger(tmp_path: Path) -> None:
    log, blobs = open_log(f"sqlite:{tmp_path / 'log.db'}"), Blobs(tmp_path / "blobs")
    log.create()
    settings = FinetuneSettings(
        round_events=10**9, gain_hits=20, commit_interval_s=0.05, gate_events_max=50, items_max=100, shoppers_max=100,
        width=16, passes=1, device="cpu",
    )  # fmt: skip
    metrics, stop, own = FinetuneMetrics(), threading.Event(), open_log(f"sqlite:{tmp_path / 'log.db'}")
    tuner = threading.Thread(target=run, args=(own, blobs, settings, metrics, stop))
    tuner.start()
    reader = log.reader({Partition(MODELS, 0): 0})
    value = metrics.registry.get_sample_value
    said: list[Announcement] = []

    def told() -> str:
        """Return the first trigger that was announced."""
        for _, records in reader.read(100, 0.1):
            said.extend(one for one in map(announced, records) if one)
        return next((one.trigger for one in said if one.trigger), "")

    def until(condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, what
            time.sleep(0.02)

    try:
        visits(log, 0, 40, "old")  # session-kNN is to know its way before there is a champion
        until(lambda: value("headrace_events_total", {"result": "learned"}) == 240, "not learned")
        appender = log.appender()
        appender.append(champion(blobs).record())
        appender.close()
        until(lambda: value("headrace_champion_round") == 7, "the champion was not heard of")
        visits(log, 40, 100, "old")  # both know their way: nothing is lost
        until(lambda: value("headrace_events_total", {"result": "learned"}) == 600, "not learned")
        assert told() == ""
        visits(log, 100, 160, "new")  # the champion knows none of these, session-kNN learns them at once
        until(lambda: bool(told()), "no round was announced")
    finally:
        stop.set()
        tuner.join(30)
        for one in (reader, own, log):
            one.close()
    assert not tuner.is_alive()
    first = next(one for one in said if one.trigger)
    assert (first.trigger, first.lineage["parent"]) == ("gain", "old")
    assert value("headrace_round_triggers_total", {"trigger": "gain"}) == 1
