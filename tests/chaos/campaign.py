"""A campaign: rounds of one fault each, on a new log each, until the time is over or a promise is broken."""

import random
import shutil
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack, closing
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Final

import msgspec

from headrace.errors import BrokenWorld
from tests.chaos.brokers import Brokers
from tests.chaos.faults import FAULTS, Round, small_disk
from tests.chaos.oracle import audit
from tests.chaos.results import Tally
from tests.chaos.shop import Shop
from tests.chaos.violation import Violation

trains_share: Final = 0.1
"""Share of the rounds in which the fine-tuner trains, in a child process that takes seconds to start."""
steps_max: Final = 60
"""Maximum number of steps of a round's fault."""
start_s_max: Final = 120.0


class Plan(msgspec.Struct, frozen=True):
    """What a campaign does. A round follows from `seed` and its number alone, apart from the timing."""

    seed: int
    faults: Sequence[str]
    kafka: bool = False
    brokers: int = 1
    events: int = 1_500
    rate: float = 100.0


class Failed(Exception):
    """A round has broken a promise; its folder is kept."""

    def __init__(self, number: int, fault: str, folder: Path, violation: Violation | BrokenWorld) -> None:
        super().__init__(f"round {number} ({fault}): {violation}\nits folder: {folder}")
        self.number = number


class Campaign:
    """Runs rounds.

    Args:
        context: from `tests.chaos.processes.server`.
        folder: for the rounds' folders; that of a round that passed is removed.
    """

    def __init__(self, plan: Plan, context: ForkServerContext, folder: Path) -> None:
        self.plan, self.tally = plan, Tally()
        self._context, self._folder = context, folder
        self._stack = ExitStack()
        self._brokers = self._stack.enter_context(Brokers(folder, plan.brokers)) if plan.kafka else None

    def run(self, minutes: float, first: int = 0) -> None:
        """Run rounds, from the number `first` on, until the time is over.

        Raises:
            Failed: a promise is broken.
        """
        deadline, number = time.monotonic() + 60 * minutes, first
        while time.monotonic() < deadline:
            self.round(number, deadline)
            number += 1

    def round(self, number: int, deadline: float) -> None:
        """Run one round; it ends early, with its audit, if `deadline` (monotonic) has passed."""
        plan, chance = self.plan, random.Random(f"{self.plan.seed}/{number}")
        fault = plan.faults[number % len(plan.faults)]
        folder = self._folder / f"round-{number}"
        began = time.monotonic()
        with ExitStack() as stack:
            if fault == "disk":
                stack.enter_context(small_disk(folder))
            prefix = f"r{number}-{uuid.uuid4().hex[:6]}-"
            url = f"kafka:{self._brokers.bootstrap}?prefix={prefix}" if self._brokers else f"sqlite:{folder / 'log.db'}"
            try:
                shop = Shop(
                    self._context, url, folder, count=plan.events, rate=plan.rate,
                    seed=chance.randrange(1_000_000), trains=chance.random() < trains_share,
                )  # fmt: skip
                with closing(shop):
                    now = Round(shop, chance, self._brokers)
                    self._load(now, fault, deadline)
            except (Violation, BrokenWorld) as error:
                kept = shutil.copytree(folder, self._folder / f"failed-{number}")
                raise Failed(number, fault, kept, error) from error
        shutil.rmtree(folder)
        print(
            f"round {number:>3} {fault:<9} {shop.kills:>3} kills, {shop.exits} exits, {sum(now.done.values())} faults,"
            f" {time.monotonic() - began:.0f} s; {self.tally.kills.total():,} kills so far",
            flush=True,
        )

    def _load(self, now: Round, fault: str, deadline: float) -> None:
        shop = now.shop
        shop.run(start_s_max, lambda: shop.entries() > len(shop.shards))
        for _ in range(steps_max):
            if shop.published or now.over or time.monotonic() > deadline:
                break
            FAULTS[fault](now)
        audited = None
        if not now.over:
            shop.settle()
            now.verbs.finish()
            shop.settle()
            shop.stop()
            now.verbs.archive()
            audited = audit(
                shop.url,
                shop.folder / "blobs",
                shop.deployment,
                shop.expected,
                shop.watcher,
                archive=shop.archive,
                acknowledged=shop.sender.acknowledged,
            )
        self.tally.add(fault, audited, now.done, self._log_bytes(shop), _size(shop.folder / "blobs"))
        self.tally.kills[fault] += shop.kills
        self.tally.exits[fault] += shop.exits
        self.tally.forced[fault] += shop.forced
        self.tally.recoveries_s += shop.recoveries_s
        self.tally.resident_mib |= {role: int(size) for role, size in shop.resident_mib.items()}

    def _log_bytes(self, shop: Shop) -> int:
        if not self._brokers:
            return sum(path.stat().st_size for path in shop.folder.glob("log.db*"))
        prefix = shop.url.partition("?prefix=")[2]
        files = self._folder.glob(f"broker-*/data/{prefix}*/*.log")
        return sum(path.stat().st_size for path in files) // len(self._brokers.nodes)

    def close(self) -> None:
        """Stop the brokers."""
        self._stack.close()


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
