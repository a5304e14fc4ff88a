"""Fleets of wrong clocks: what the quality and the labels of the online shard lose by them.

    python -m benchmarks.clocks --events 60000 --seeds 3 --out benchmarks/results/clocks.json

A simulated shop's events arrive in their true order. Of the shoppers' devices 5 % are off by up to ten minutes, 1 % by
whole hours and 0.1 % by days, in both directions, each always by the same amount; what the shop's server sends
(purchases, refunds, reviews) has the right time. The events arrive either live, each appended as it happens, or as
history, all appended years later. Contestants: the shop's clock as it is (`headrace.shard.intake.ShopClock`), and the
rule of 0.3.0, the newest event time within a day of the one before. For each, the same stream with right clocks is the
reference.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from benchmarks import report
from benchmarks.online_fold import OnlineFold, quality
from headrace.events import at
from headrace.log.protocol import Record
from headrace.sampling import fraction
from headrace.shard.intake import ShopClock
from headrace.topics import EVENTS
from producers.scenario import SimulationSettings
from producers.simulate import Simulation

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
SERVERS: Final = frozenset({"purchase", "refund", "review"})
ENTRY_EVENTS: Final = 200
JUDGED: Final = 0.25
LATER_MS: Final = 1_000 * DAY_MS


class Arrival(NamedTuple):
    """An event's record, when it truly happened, and by how much its device's clock is off."""

    key: bytes
    value: bytes
    time_ms: int
    off_ms: int


class NewestTime:
    """The rule of 0.3.0: the newest event time, which an event may move on by a day at most."""

    def __init__(self) -> None:
        self._newest_ms = 0

    def time_ms(self, own_ms: int, appended_ms: int, shopper: str) -> int:
        """Return the newest event time for what expires, which is the event's own time if that is newer."""
        if not self._newest_ms:
            self._newest_ms = own_ms
        self._newest_ms = max(self._newest_ms, min(own_ms, self._newest_ms + DAY_MS))
        return min(own_ms, self._newest_ms)


CLOCKS: Final[dict[str, Callable[[], Any]]] = {"ours": ShopClock, "newest event time": NewestTime}


def off_ms(shopper: str) -> int:
    """Return by how much the clock of a shopper's device is off."""
    place, draw = fraction(shopper, 0, "clock"), random.Random(shopper)
    sign = draw.choice((-1, 1))
    if place < 0.001:
        return sign * draw.randint(1, 20) * DAY_MS
    if place < 0.011:
        return sign * draw.randint(1, 12) * HOUR_MS
    return sign * draw.randint(1, 10) * MINUTE_MS if place < 0.061 else 0


def arrivals(settings: SimulationSettings) -> list[Arrival]:
    """Return the events of a simulated shop, with the clocks of its shoppers."""
    found = []
    for one in Simulation(settings).records():
        if one.topic == EVENTS:
            kind = msgspec.json.decode(one.value)["type"]
            found.append(Arrival(one.key, one.value, one.time_ms, 0 if kind in SERVERS else off_ms(one.key.decode())))
    return found


def records(stream: Sequence[Arrival], *, live: bool, skewed: bool) -> Iterator[Record]:
    """Yield the records in the order of arrival."""
    for offset, one in enumerate(stream):
        value = one.value
        if skewed and one.off_ms:
            document = msgspec.json.decode(value)
            document["time"] = at(one.time_ms + one.off_ms).isoformat()
            value = msgspec.json.encode(document)
        yield Record(0, offset, one.time_ms + 300 if live else stream[-1].time_ms + LATER_MS, one.key, value)


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("What wrong clocks of shoppers' devices cost.")
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    for seed in range(1, options.seeds + 1):
        stream = arrivals(SimulationSettings(events=options.events, seed=seed))
        for arriving in ("live", "history"):
            for name, clock in CLOCKS.items():
                right, wrong = (
                    OnlineFold(clock=clock()).learn(records(stream, live=arriving == "live", skewed=skewed))
                    for skewed in (False, True)
                )
                found = quality(wrong.shop)
                ratios = {figure: found[figure] / value for figure, value in quality(right.shop).items()}
                ratios["rejected"] = wrong.rejected / len(stream)
                runs.setdefault((arriving, name), []).append(ratios)
                print(f"seed {seed}, {arriving}, {name}: {ratios}", flush=True)
    mean = {
        f"{arriving}, {name}": {figure: float(np.mean([one[figure] for one in found])) for figure in found[0]}
        for (arriving, name), found in runs.items()
    }
    columns = ["recall@20", "MRR@20", "AUC", "labels", "share bought", "rejected"]
    report.show(
        f"With wrong clocks, relative to the same stream with right ones: mean of {options.seeds} seeds",
        ["events, clock", *columns],
        [[name, *(f"{one[figure]:.4f}" for figure in columns)] for name, one in mean.items()],
    )
    report.write(
        options.out,
        {
            "events": options.events,
            "seeds": options.seeds,
            "ratios": mean,
            "runs": [{"arriving": arriving, "clock": name, "seeds": found} for (arriving, name), found in runs.items()],
        },
    )


if __name__ == "__main__":
    report.run(main)
