"""Cost of impressions: what an answer pays to be logged, and what the family `placements` pays for each record.

    python -m benchmarks.impressions --out benchmarks/results/impressions.json

Each figure is the median of several turns, in microseconds of processor time. The baseline of an answer is making what
it shows into an impression, which any logging needs; that of an event is a call of the family's method by an event of
which no family learns.
"""

import statistics
import time
from collections.abc import Callable, Sequence

from benchmarks import report
from headrace.events import Data, Event, EventType, Item, at
from headrace.impressions import Impression, ShownItem, record_of
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Record
from headrace.metrics import ServingMetrics
from headrace.state import encode
from headrace.topics import IMPRESSIONS
from learners.family import Moment
from learners.placements.family import PlacementsFamily, PlacementsSettings
from serving.impressions import Impressions

START_MS = 1_750_000_000_000
turns = 5


def shown(number: int, items: int) -> Impression:
    """Return what an answer shows."""
    chosen = [ShownItem(f"item-{(number * 7 + place) % 5_000:05d}") for place in range(items)]
    path = "/v1/recommendations/{shopper}"
    return Impression(
        f"{number:032x}", START_MS + number, path, chosen, "home", "r0005-fefda4b4", f"{number:032x}", "online", number
    )


def event(kind: EventType, name: str = "") -> Event:
    """Return an event of one line that names an answer."""
    return Event("e", "shop", kind, at(START_MS), Data([Item("x")], recommendation_id=name), "1.0", "ann", START_MS)


def median_us(act: Callable[[int], object], count: int, start: int = 0) -> float:
    """Return the processor time of one of `count` calls in microseconds, the median of several turns."""
    found = []
    for turn in range(turns):
        began = time.process_time_ns()
        for number in range(start + turn * count, start + (turn + 1) * count):
            act(number)
        found.append((time.process_time_ns() - began) / count / 1_000)
    return statistics.median(found)


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("Cost of logging what answers show, and of counting what came of it.")
    parser.add_argument("--answers", type=int, default=40_000, help="answers of each turn")
    parser.add_argument("--items", type=int, default=10, help="items of an answer")
    options = parser.parse_args(arguments)
    count, items = options.answers, options.items
    log = MemoryLog()
    log.create()
    queue = Impressions(log, ServingMetrics(), records_max=turns * count)
    made = [shown(number, items) for number in range(turns * count)]
    records = [Record(0, number, one.time_ms, None, record_of(one).value) for number, one in enumerate(made)]
    family, now = PlacementsFamily(PlacementsSettings(), {}), Moment({})
    now.time_ms = START_MS
    others, clicks, orders = event("search"), event("view_item"), event("purchase")
    figures = {
        "make an impression": median_us(lambda number: shown(number, items), count),
        "offer it to the queue": median_us(lambda number: queue.offer([made[number]]), count),
        "encode it, in the writing thread": median_us(lambda number: record_of(made[number]), count),
        "hear an impression": median_us(lambda number: family.hear(IMPRESSIONS, records[number], now), count),
        "an event of no interest": median_us(lambda number: family.learn(others, now), count),
        "a view that names no answer": median_us(lambda number: family.learn(clicks, now), count),
        "a purchase that names no answer": median_us(lambda number: family.learn(orders, now), count),
        "a click that names an answer": median_us(
            lambda number: family.learn(event("select_item", made[number].recommendation_id), now), count
        ),
    }
    size = len(encode(family.state()))
    report.show(f"Impressions of {items} items", ["", "us"], [[name, f"{us:.2f}"] for name, us in figures.items()])
    report.write(
        options.out,
        {"items": items, "answers": turns * count, "us": figures, "state_bytes_per_answer": size / (turns * count)},
    )


if __name__ == "__main__":
    report.run(main)
