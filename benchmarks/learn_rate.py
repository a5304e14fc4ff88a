"""Speed of learning from Kafka: Headrace, a bare loop and a tutorial's loop, in turns.

    python -m benchmarks.learn_rate --events 200000 --out benchmarks/results/learn_rate.json

Three contestants read the same events from the same broker and learn purchases, propensity with River, in alternating
chunks, so that a slower machine affects all three:

- *headrace*: the loop with everything on: validation, de-duplication, event-time labels, prequential scores, drift
  detectors, metrics, dead letters, transactional commits with the journal, snapshots;
- *bare*: `poll`, msgspec, the same hashed features and River model, River's ADWIN, the same learner of visits, and
  nothing else;
- *tutorial*: the consumer as an iterator, `json.loads`, a OneHotEncoder on shopper and item, ADWIN. (It gets fewer
  events, because it slows down as its encoder grows.)

Then the online consumer's whole fold runs live with judging on, and its journal is folded again, to measure how much
faster a replay is. The process and the broker that it starts are bound to one core. The processor time of each
contestant, over all its threads, does not include waiting or the load of other processes.
"""

import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from kafka import KafkaConsumer, TopicPartition
from river import compose, drift, linear_model, optim, preprocessing

from benchmarks import report
from consumers.shard import judges_of
from headrace.artifacts import resolve
from headrace.events import Event
from headrace.log import broker
from headrace.log.open import open_log
from headrace.log.protocol import Log
from headrace.metrics import ShardMetrics
from headrace.process import collect_garbage_rarely
from headrace.shard.blobs import Blobs
from headrace.shard.follower import Follower
from headrace.shard.loop import Loop, LoopSettings
from headrace.shard.turn import Turn
from headrace.topics import EVENTS, TOPICS, Shard
from learners.families import default_placements
from learners.purchase.family import PurchaseFamily
from learners.purchase.propensity import Propensity
from learners.purchase.visits import Visits
from learners.shop import MakeShop
from producers.scenario import SimulationSettings
from producers.simulate import simulate

chunk_events: Final = 20_000
tutorial_events: Final = 1_000
SNAPSHOTS: Final = LoopSettings(snapshot_interval_s=10.0)


SHARDS: Final = default_placements()
PURCHASE: Final = Shard("online", 0)
"""The shard of purchases alone: it hears no side topics and writes what every shard does."""


class Headrace:
    """The loop over the family of purchases."""

    def __init__(self, log: Log, folder: Path) -> None:
        self.turns: list[Turn] = []
        self._learned = 0
        self._metrics = ShardMetrics([PurchaseFamily.surface])
        make = MakeShop((PurchaseFamily,))
        self._loop = Loop(log, Blobs(folder), PURCHASE, make=make, settings=SNAPSHOTS)
        self._loop.on_turn = self._on_turn

    def _on_turn(self, turn: Turn) -> None:
        self._metrics.observe_turn(turn)
        self._learned += turn.learned
        self.turns.append(turn)

    def take(self, count: int) -> int:
        """Commit at least `count` events durably; return how many."""
        before = self._learned
        self._loop.run(lambda: self._learned >= before + count)  # includes the wait for the last commit
        return self._learned - before

    def close(self) -> None:
        """Close the connections."""
        self._loop.close()


def consumer_of(url: str) -> KafkaConsumer:
    """Return a plain consumer at the start of all events."""
    servers, _, query = url.removeprefix("kafka:").partition("?")
    prefix = query.removeprefix("prefix=")
    consumer = KafkaConsumer(
        bootstrap_servers=servers.split(","), enable_auto_commit=False, auto_offset_reset="earliest", group_id=None
    )
    consumer.assign([TopicPartition(f"{prefix}{EVENTS}", n) for n in range(TOPICS[EVENTS].partitions)])
    return consumer


class Bare:
    """A minimal loop without durability, event-time labels or bounds."""

    def __init__(self, url: str) -> None:
        self._consumer = consumer_of(url)
        self._decoder = msgspec.json.Decoder(Event)
        self._propensity, self._visits = Propensity(), Visits()
        self._model = linear_model.LogisticRegression(optim.SGD(0.02))
        self._adwin = drift.ADWIN()

    def take(self, count: int) -> int:
        """Learn at least `count` events; return how many."""
        taken = 0
        decode, model, adwin = self._decoder.decode, self._model, self._adwin
        features_of, visits = self._propensity.features, self._visits
        while taken < count:
            for records in self._consumer.poll(timeout_ms=1_000, max_records=2_000).values():
                for record in records:
                    event, probability = decode(record.value), 0.0
                    event.time_ms = int(event.time.timestamp() * 1000)
                    if event.type == "view_item":
                        features = features_of(event)
                        bought = event.data.items[0].price is not None and event.data.items[0].price < 10
                        probability = model.predict_proba_one(features)[True]
                        model.learn_one(features, bought)
                        adwin.update((bought - probability) ** 2)
                    visits.learn(event, probability)
                taken += len(records)
        return taken

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()


class Tutorial:
    """The loop that tutorials show."""

    def __init__(self, url: str) -> None:
        self._consumer = consumer_of(url)
        self._model = compose.Pipeline(preprocessing.OneHotEncoder(), linear_model.LogisticRegression(optim.SGD(0.02)))
        self._adwin = drift.ADWIN()

    def take(self, count: int) -> int:
        """Learn `count` events; return how many."""
        taken = 0
        for record in self._consumer:
            event = json.loads(record.value)
            if event["type"] == "view_item":
                item = event["data"]["items"][0]
                features = {"shopper": event["subject"], "item": item["item_id"], "category": item.get("item_category")}
                bought = item.get("price", 0) < 10
                probability = self._model.predict_proba_one(features).get(True, 0.5)
                self._model.learn_one(features, bought)
                self._adwin.update((bought - probability) ** 2)
            taken += 1
            if taken == count:
                break
        return taken

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()


def timed(take: Callable[[int], int], count: int) -> tuple[int, float, float]:
    """Return how many events were learned, in how many seconds, and the seconds of processor time."""
    began, cpu = time.perf_counter(), time.process_time()
    taken = take(count)
    return taken, time.perf_counter() - began, time.process_time() - cpu


def race(log: Log, url: str, folder: Path, count: int) -> dict[str, float]:
    """Run the three in turns; return events per second of each, the ratio, and where Headrace's time went."""
    rivals: dict[str, Headrace | Bare | Tutorial] = {
        "headrace": Headrace(log, folder), "bare": Bare(url), "tutorial": Tutorial(url),
    }  # fmt: skip
    sums = {name: [0.0, 0.0, 0.0] for name in rivals}
    turns = list(rivals.items())
    try:
        # Warm up connections and caches first. A turn may learn more events than requested, so the race ends early.
        warm = max(rival.take(tutorial_events) for rival in rivals.values())
        while warm + max(taken for taken, *_ in sums.values()) + 2 * chunk_events <= count:
            for name, rival in turns:
                parts = timed(rival.take, tutorial_events if name == "tutorial" else chunk_events)
                sums[name] = [old + new for old, new in zip(sums[name], parts, strict=True)]
            turns.reverse()
        headrace = rivals["headrace"]
        assert isinstance(headrace, Headrace)
        spent = {
            "learn_s": sum(turn.learn_s for turn in headrace.turns),
            "commit_s": sum(turn.commit_s for turn in headrace.turns),
            "commits": float(len(headrace.turns)),
        }
    finally:
        for rival in rivals.values():
            rival.close()
    rates = {name: taken / seconds for name, (taken, seconds, _) in sums.items()}
    cpu = {f"{name}_cpu_us": 1e6 * cpu_s / taken for name, (taken, _, cpu_s) in sums.items()}
    return {**rates, "ratio": rates["headrace"] / rates["bare"], **cpu, "seconds": sums["headrace"][1], **spent}


def live_and_replay(log: Log, folder: Path, count: int) -> dict[str, float]:
    """Run the whole online shard with judging on, then fold its journal again; return both speeds."""
    blobs, turns = Blobs(folder), list[Turn]()
    shard, kinds = SHARDS["online"]
    make, judge = MakeShop(kinds), judges_of(kinds, {}, blobs, ShardMetrics([kind.surface for kind in kinds]))
    loop = Loop(log, blobs, shard, make=make, judge=judge, settings=SNAPSHOTS)
    loop.on_turn = turns.append
    began = time.perf_counter()
    loop.run(lambda: sum(turn.records for turn in turns) >= count)
    live_s = time.perf_counter() - began
    loop.close()
    began = time.perf_counter()
    follower = Follower(log, blobs, shard, make=make, from_start=True)
    follower.catch_up()
    replay_s = time.perf_counter() - began
    follower.close()
    learned = sum(turn.learned for turn in turns)
    return {
        "live": learned / live_s,
        "judged_share": judge.judged / max(1, learned),
        "judge_share_of_time": sum(turn.judge_s for turn in turns) / live_s,
        "replay": learned / replay_s,
        "replay_over_live": live_s / replay_s,
    }


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("Events learned per second, from Kafka, on one core.")
    parser.add_argument("--events", type=int, default=200_000, help="events published and learned")
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for kind in SHARDS["online"].kinds:  # as the online process does; importing torch makes all of Python's work faster
        if kind.surface.judge:
            resolve(kind.surface.judge)
    collect_garbage_rarely()  # as every Headrace process does; the others benefit, too
    with tempfile.TemporaryDirectory() as name, broker.provide_broker(Path(name) / "kafka") as bootstrap:
        figures: dict[str, Any] = {}
        for part in ("race", "whole"):
            url = f"kafka:{bootstrap}?prefix={part}-{uuid.uuid4().hex[:8]}-"
            log = open_log(url)
            log.create()
            count = options.events if part == "race" else options.events // 4
            print(f"publishing {count:,} events of a simulated shop", flush=True)
            simulate(log, SimulationSettings(events=count, shoppers=max(4_000, count // 15)))
            folder = Path(name) / part
            print("running", flush=True)
            figures |= race(log, url, folder, count) if part == "race" else live_and_replay(log, folder, count)
            log.close()
    report.show(
        f"Events learned per second from Kafka, one core, {options.events:,} events",
        ["", "events/s", "relative to bare", "processor time per event (us)"],
        [
            [
                name,
                f"{figures[name]:,.0f}",
                f"{figures[name] / figures['bare']:.2f}",
                f"{figures[f'{name}_cpu_us']:.1f}",
            ]
            for name in ("headrace", "bare", "tutorial")
        ],
    )
    print(
        f"headrace's {figures['seconds']:.1f} s: decoding and learning {figures['learn_s']:.1f}, "
        f"{figures['commits']:.0f} commits {figures['commit_s']:.1f}, the rest is reading and waiting"
    )
    report.show(
        "The whole online shard",
        ["", ""],
        [
            ["live, all fast learners, judging on (events/s)", f"{figures['live']:,.0f}"],
            ["predictions judged per event", f"{figures['judged_share']:.3f}"],
            ["share of the time spent on judging", f"{figures['judge_share_of_time']:.2f}"],
            ["replay (events/s)", f"{figures['replay']:,.0f}"],
            ["replay over live", f"{figures['replay_over_live']:.2f}"],
        ],
    )
    report.write(options.out, figures)


if __name__ == "__main__":
    report.run(main)
