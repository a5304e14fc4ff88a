"""Bad models in a running fine-tuner: the right alarm arrives at a webhook, no other does, and it ends with the mend.

As `tests.e2e.test_alarms`, with one process: the shard `finetune`, whose rounds judge, train, promote and roll back.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from headrace.announcement import Announcement, announced
from headrace.events import encode
from headrace.log.open import open_log
from headrace.log.protocol import Log, Outgoing, Partition
from headrace.shard.blobs import Blobs
from headrace.topics import EVENTS, MODELS
from learners.deep.model import DeepModel, DeepSettings
from operators.child import Children, total
from tests.alarms import Alarm, Watched, free_ports, program
from tests.days import Days
from tests.pages import run

FACTOR: Final = 60
FACTORS: Final = {"NothingPromoted": 3_600}
"""A day of it takes 24 seconds, and a week three minutes."""
ROUND_EVENTS: Final = 1_500
SETTINGS: Final = f"""\
[rounds]
items_max = 1000
shoppers_max = 1000
round_events = {ROUND_EVENTS}
gate_records_max = 2000
width = 32
passes = 45

[shards.finetune]
snapshot_interval_s = 1
"""
SECONDS: Final = {"NothingPromoted": 90, "RolledBack": 30, "RoundsFail": 60}
NOTHING, ROLLED_BACK, FAIL = Alarm("NothingPromoted"), Alarm("RolledBack"), Alarm("RoundsFail")


class Shop(Watched):
    """A fine-tuner, and what is sent to it."""

    seconds = SECONDS

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        super().__init__(folder, folder / "headrace-data", stack)
        (self.data / "logs").mkdir(parents=True)
        (folder / "headrace.toml").write_text(SETTINGS)
        self.url, self.blobs = f"sqlite:{self.data / 'log.db'}", Blobs(self.data / "blobs")
        environ = {"HEADRACE_LOG": self.url, "HEADRACE_BLOBS": str(self.data / "blobs"), "HEADRACE_HOST": "127.0.0.1"}
        self.children = stack.enter_context(Children(self.data / "logs", environ, cwd=folder))
        self.log: Log = stack.enter_context(closing(open_log(self.url)))
        self.log.create()
        self.appender = stack.enter_context(closing(self.log.appender()))
        self.days, self.published, self._said = Days(), 0, list[Announcement]()
        self.models = stack.enter_context(closing(self.log.reader({Partition(MODELS, 0): 0})))
        (port,) = free_ports(1)
        self.finetune = self.children.start("finetune", "finetune", "--metrics-port", str(port))
        self.watch({"finetune": port}, FACTOR, factors=FACTORS)

    def publish(self, count: int) -> None:
        """Publish so many events, about 500 a second."""
        events = self.days.draw(count)
        for start in range(0, len(events), 25):
            for event in events[start : start + 25]:
                self.appender.append(Outgoing(EVENTS, event.shopper.encode(), encode(event)))
            self.appender.flush()
            time.sleep(0.05)
        self.published += len(events)

    def said(self, kind: str) -> list[Announcement]:
        """Return all that was said on `models` of one kind."""
        for _, records in self.models.read(1_000, 0.05):
            self._said += [one for one in map(announced, records) if one]
        return [one for one in self._said if one.kind == kind]

    def has_said(self, kind: str, count: int) -> bool:
        return len(self.said(kind)) == count

    def wait(self, what: str, holds: Callable[[], bool]) -> None:
        self.children.wait_until(what, holds, 120)

    def propose(self, model: DeepModel) -> str:
        """Put a model before the gate by the shipped command; return its version."""
        path = self.folder / "proposed.safetensors"
        path.write_bytes(model.to_bytes())
        count = len(self.said("proposed"))
        self._run(f"headrace propose {path}")
        self.wait("it is proposed", lambda: len(self.said("proposed")) > count)
        return self.said("proposed")[-1].version

    def promote(self, version: str) -> None:
        self._run(f"headrace promote {version} --why 'a try'")

    def _run(self, command: str) -> None:
        code, text = run(f"{command} --log {self.url} --blobs {self.data / 'blobs'}")
        assert code == 0, text

    def kill_training(self, number: int) -> None:
        """Publish until a round trains, the `number`th that is killed, and kill the process that does it."""
        trains = self.finetune.text.count('"event": "training"')
        while self.finetune.text.count('"event": "training"') == trains:
            self.publish(100)
        tasks = Path(f"/proc/{self.finetune.pid}/task").glob("*/children")
        for child in [pid for task in tasks for pid in task.read_text().split()]:
            os.kill(int(child), signal.SIGKILL)
        self.wait("the round has failed", lambda: self.finetune.text.count("the child process failed") == number)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Yield a fine-tuner that has learned nothing yet."""
    for name in ("prometheus", "promtool", "amtool"):
        program(name)
    with ExitStack() as stack:
        made = Shop(tmp_path_factory.mktemp("shop"), stack)
        yield made
        print(made.webhook.told())
        print(made.children.tails())


# They take three minutes, and a machine that other tests use delays processes by what counts as minutes here.
pytestmark = [pytest.mark.full, pytest.mark.slow, pytest.mark.timeout(600)]


def test_two_bad_candidates_and_no_model(shop: Shop) -> None:
    """Models that are not numbers are refused; no other one is in use. A round of its own ends it."""
    with shop.only(NOTHING):
        shop.publish(200)
        # What is counted before Prometheus looks for the first time is no increase.
        shop.wait(
            "it is watched", lambda: shop.knows('count_over_time(headrace_rounds_total{outcome="refused"}[5s]) > 2')
        )
        for seed in (1, 2):
            model = DeepModel(DeepSettings(width=32), seed=seed)
            model.grow([f"i{theme}-{item}" for theme in range(10) for item in range(8)])
            model.table[3, 1] = float("nan")
            began_s = time.monotonic()
            shop.propose(model)
            shop.wait("it is refused", partial(shop.has_said, "refused", seed))
        shop.wait_for(NOTHING, since_s=began_s)
        while not shop.said("promoted"):
            shop.publish(100)
        shop.wait("the metrics say so", lambda: total(shop.finetune.scrape(), "headrace_champion_round") == 3)
        shop.wait_until_over(NOTHING)


def test_a_bad_model_that_a_person_promotes(shop: Shop) -> None:
    """It knows the items by wrong names, so it loses to the one before."""
    good = shop.said("promoted")[-1]
    bad = DeepModel.from_bytes(shop.blobs.get(good.blob))
    bad.table = bad.table[np.random.default_rng(1).permutation(len(bad)).tolist()]
    with shop.only(ROLLED_BACK):
        shop.promote(shop.propose(bad))
        shop.wait("it is in use", lambda: total(shop.finetune.scrape(), "headrace_champion_round") == -1)
        while not shop.said("rolled_back"):
            shop.publish(100)
        shop.wait_for(ROLLED_BACK, since_s=time.monotonic())
        assert shop.said("rolled_back")[-1].version == good.version
        shop.wait("the metrics say so", lambda: total(shop.finetune.scrape(), "headrace_champion_round") == 3)
        shop.wait_until_over(ROLLED_BACK, within_s=120)


def test_rounds_whose_training_is_killed(shop: Shop) -> None:
    with shop.only(FAIL):
        shop.kill_training(1)
        shop.kill_training(2)
        shop.wait_for(FAIL, since_s=time.monotonic())
        shop.wait_until_over(FAIL, within_s=120)
