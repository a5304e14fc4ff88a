"""What bounding a shopper's weight does: to the quality on real data, and to a bot's.

    python -m benchmarks.shopper_budget --data online_retail.csv.gz --out benchmarks/results/shopper_budget.json

The online shard's fold learns a file with judging on, under several budgets (`learners.desk.budget`): of a shopper's
steps beyond the first number a day a shrinking part teaches what all shoppers share, of those beyond the second none.
Then a bot views two items 6,000 times, and each budget's answer to a stranger is asked: at which places the bot's items
stand.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks import report
from benchmarks.online_fold import OnlineFold, next_item, quality
from headrace.clock import wall_ms
from headrace.events import Data, Event, Item, at, encode
from headrace.log.protocol import Record
from learners.desk.family import DeskSettings
from producers.file import ReadOptions
from producers.load import KINDS, kind_of
from producers.sequence import NumberedRecord

UNBOUNDED: Final = 10**9
BUDGETS: Final = ((UNBOUNDED, UNBOUNDED), (200, 2_000), (50, 500))
BOT_VIEWS: Final = 6_000
BOT_ITEMS: Final = ("bot-a", "bot-b")
PLACES: Final = 100
JUDGED: Final = 0.05


def bot(first: int, start_ms: int) -> Iterator[NumberedRecord]:
    """Yield a bot's views, spread over an hour."""
    for n in range(BOT_VIEWS):
        time_ms = start_ms + n * 600
        view = Data([Item(BOT_ITEMS[n % 2])])
        event = Event(f"bot-{n}", "benchmark", "view_item", at(time_ms), view, "1.0", "bot")
        yield NumberedRecord(first + n, time_ms, b"bot", encode(event))


def stored(records: Iterable[NumberedRecord]) -> Iterator[Record]:
    """Yield records as a log holds them."""
    now = wall_ms()
    for number, one in enumerate(records):
        yield Record(0, number, now, one.key, one.value)


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("What bounding a shopper's weight does.")
    parser.add_argument("--data", type=Path, required=True, help="a file that `headrace load` reads")
    parser.add_argument("--events", type=int, default=10**9, help="events of the file, from its start")
    options = parser.parse_args(arguments)
    reader = KINDS[kind_of(options.data)](options.data, ReadOptions())
    records = [one for _, one in zip(range(options.events), reader.records(), strict=False)]
    steps: dict[tuple[bytes, int], int] = {}
    for one in records:
        day = one.key, one.time_ms // 86_400_000
        steps[day] = steps.get(day, 0) + len(json.loads(one.value)["data"].get("items", ()))
    found, placed = list[dict[str, float]](), list[list[int | None]]()
    for full, most in BUDGETS:
        sections = {"desk": DeskSettings(day_steps_full=full, day_steps_max=most)}
        fold = OnlineFold(sections, judged=JUDGED).learn(stored(records))
        scores = quality(fold.shop)
        shop = fold.learn(stored(bot(len(records), records[-1].time_ms))).shop
        answer = [item for item, _ in next_item(shop).recommend("stranger", shop.time_ms, PLACES)]
        places = [answer.index(item) + 1 if item in answer else None for item in BOT_ITEMS]
        placed.append(places)
        found.append({"full": full, "most": most, **scores})
        print(found[-1], places, flush=True)
    beyond = {limit: sum(count > limit for count in steps.values()) for limit in (50, 200, 2_000)}
    lost = sum(max(0, count - 200) for count in steps.values()) / sum(steps.values())
    rows = [
        [
            "unbounded" if one["full"] == UNBOUNDED else f"{one['full']}, {one['most']:,}",
            f"{one['recall@20']:.4f}", f"{one['MRR@20']:.4f}", f"{one['judged']:,.0f}",
            ", ".join(str(place or f"> {PLACES}") for place in places),
        ]
        for one, places in zip(found, placed, strict=True)
    ]  # fmt: skip
    report.show(
        f"{len(records):,} events; days of a shopper with more than 50, 200, 2,000 steps:"
        f" {', '.join(f'{count:,}' for count in beyond.values())} of {len(steps):,};"
        f" steps beyond 200 a day: {lost:.2%}",
        ["steps a day: full, most", "recall@20", "MRR@20", "judged", "places of a bot's items"],
        rows,
    )
    report.write(
        options.out, {"events": len(records), "days": len(steps), "beyond": beyond, "budgets": found, "places": placed}
    )


if __name__ == "__main__":
    report.run(main)
