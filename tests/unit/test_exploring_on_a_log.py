"""Exploration over a real log: a server answers, shards learn beside it and are killed, and all folds agree."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from headrace.events import Data, Event, Item, at, encode
from headrace.experiments import Arm, Experiment, Explore, record_of
from headrace.log.protocol import Log, Outgoing
from headrace.log.sqlite import SqliteLog
from headrace.metrics import ServingMetrics
from headrace.reading import ReadOnlyLog
from headrace.shard.blobs import Blobs
from headrace.shard.checks import check_folds
from headrace.shard.loop import Loop, LoopSettings
from headrace.topics import EVENTS
from learners.desk.family import Desk
from learners.experiments.family import ExperimentsFamily
from learners.exploration.family import ExplorationFamily
from learners.families import placed
from learners.next_item.family import NextItemFamily
from learners.next_item.questions import RecommendationQuery
from learners.parts.policies import probabilities
from learners.placements.family import PlacementsFamily
from learners.shop import MakeShop, Shop
from operators.experiments import newest_policies
from serving.answers import Answers
from serving.impressions import Impressions

START_MS = 1_750_000_000_000
KINDS = (Desk, NextItemFamily, PlacementsFamily, ExperimentsFamily, ExplorationFamily)
SHARDS = placed(KINDS, {"online": 0, "finetune": 1})
EXPLORE = Explore(rankers=("recommended", "new"), floor=0.1, agreement=0, window_minutes=1)


class Running:
    """A shop on an SQLite log whose clock a test moves: two shards, and a server in threads of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.time_ms, self.count = folder, START_MS, 0
        self.blobs = Blobs(folder / "blobs")
        self.log = self.opened()
        self.log.create()
        self.appender = self.log.appender()
        self.loops = {name: self.begun(name) for name in SHARDS}
        metrics = ServingMetrics()
        self.impressions = Impressions(self.opened(), metrics, records_max=10_000)
        self.answers = Answers(self.opened(), self.blobs, SHARDS["online"], {}, metrics, impressions=self.impressions)
        (self.route,) = [route for route in self.answers.routes if route.query is RecommendationQuery]
        self.stop = threading.Event()
        self.threads = [
            threading.Thread(target=self.answers.follow, args=(self.stop,)),
            threading.Thread(target=self.impressions.run, args=(self.stop,)),
        ]

    def opened(self) -> Log:
        return SqliteLog(str(self.folder / "log.db"), clock=lambda: self.time_ms)

    def begun(self, name: str) -> Loop[Shop]:
        """Start a shard; one that still runs is fenced."""
        shard = SHARDS[name]
        return Loop(
            self.opened(), self.blobs, shard.shard, make=MakeShop(shard.kinds), quarantine=shard.quarantines,
            settings=LoopSettings(commit_interval_s=0.01, idle_wait_s=0.01, snapshot_interval_s=0.2),
            clock=lambda: self.time_ms,
        )  # fmt: skip

    def publish(self, kind: Any, shopper: str, item: str, name: str = "") -> None:
        self.count += 1
        data = Data([Item(item, price=1.0)], recommendation_id=name)
        event = Event(f"e{self.count}", "test", kind, at(self.time_ms), data, "1.0", shopper, self.time_ms)
        self.appender.append(Outgoing(EVENTS, shopper.encode(), encode(event)))

    def learn(self) -> None:
        """Let both shards learn what was published, and then what they told each other."""
        self.appender.flush()
        for _ in range(2):
            for loop in self.loops.values():
                loop.run(lambda loop=loop: loop.fold.events >= self.count)  # type: ignore[misc]
                for _ in range(3):
                    loop.step()
                loop.run(lambda: True)

    def ask(self, shopper: str) -> dict[str, Any]:
        found = self.answers.answer(self.route, RecommendationQuery(shopper=shopper, n=3, placement="home"))
        assert found is not None
        return found

    def version(self, shopper: str) -> str:
        """Return which policy an answer follows, "" if there is none, or no answer yet."""
        found = self.answers.answer(self.route, RecommendationQuery(shopper=shopper, n=3, placement="home"))
        explored = found["explored"] if found else None
        return explored.policy if explored else ""

    def wait_until(self, what: str, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not true():
            assert time.monotonic() < deadline, f"waited for a minute until {what}"
            time.sleep(0.01)

    def close(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(20)
        for loop in self.loops.values():
            loop.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with closing(Running(tmp_path)) as found:
        yield found


def test_from_the_draw_to_the_policy_that_a_server_follows(running: Running) -> None:
    for number in range(60):
        running.publish("view_item", f"w{number % 5}", f"i{number % 30}")
    explores = Experiment((Arm("control"), Arm("new", explore=EXPLORE)), placements=("home",), state="running")
    running.appender.append(record_of("trial", explores))
    running.learn()
    for thread in running.threads:
        thread.start()
    shoppers = [f"v{n}" for n in range(200) if explores.arm_of("trial", f"v{n}") == 1]
    running.wait_until("a server follows a policy", lambda: running.version(shoppers[0]) != "")
    shown = 0
    for turn in range(6):
        answers = [running.ask(shopper) for shopper in shoppers]
        assert all(one["logged"] for one in answers)
        shown += len(answers)
        for shopper, answer in zip(shoppers, answers, strict=True):
            if answer["explored"].action == 1:  # all who see what is new click on it
                running.publish("select_item", shopper, answer["items"][0].item_id, answer["recommendation_id"])
        running.wait_until("all is logged", lambda: running.impressions.bounds()["impressions_queue"][0] == 0)
        time.sleep(0.2)  # the batch that was taken is written, too
        running.learn()
        running.time_ms += 70_000
        running.publish("view_item", "w0", "i0")
        running.learn()
        if turn % 2:  # killed: neither closed, nor its last entries committed
            running.loops["finetune"] = running.begun("finetune")
        newest = newest_policies(running.log)["trial"]["new"].version
        running.wait_until("it is heard", lambda newest=newest: running.version(shoppers[0]) == newest)  # type: ignore[misc]
    policy = newest_policies(running.log)["trial"]["new"]
    assert policy.state == "learned"
    assert policy.rewards[1] > 0.9 > 0.1 > policy.rewards[0]
    assert running.ask(shoppers[0])["explored"].probabilities[1] > 0.8
    for name, shard in SHARDS.items():
        running.loops[name].close()
        check_folds(running.log, running.blobs, shard.shard, make=MakeShop(shard.kinds))

    # What is logged is what the policy of that version states, to all digits.
    read = ReadOnlyLog(running.log, {})
    policies = {
        one.value.policy.version: one.value.policy for one in read.policies(names="trial/new") if one.value.policy
    }
    explored = [one.value.explored for one in read.impressions(placements=["home"]) if one.value.explored]
    assert len(explored) > shown
    for one in explored:
        if one.policy:
            assert one.probabilities == probabilities(policies[one.policy], one.context).tolist()
    assert len({one.policy for one in explored}) > 4
