"""What shoppers will spend, and who will not buy again, beside what they spent and ordered before.

    python -m benchmarks.customers --data online_retail.csv.gz --out FILE

The family of value folds the purchases and returns of known customers in time order, as a shard does. On 2011-09-01 it
is asked what it expects of everybody who has bought, and this is compared with what they bought, without returns, in
the 91 days after. It learns only from what was known until then. Settings were chosen on earlier days of the file,
some by outcomes that partly reach into these 91 days (decision 46). Another file, with tabs between `user_id`,
`item_id` and `time`, is asked 91 days before its last day, with a price of 1 for each item, as it has none.

- past: ordered by what was spent before, and for a purchase by the number of orders.
- Spearman: rank correlation of expected and true spend. Top tenth: share of the revenue of the tenth of whom most was
  expected. AUC, ECE: of the probability of a purchase; ECE with ten bins of equal width.
- earlier: the same of the predictions of all Mondays whose outcomes were known on the day that is asked.
- covered: share of true spends within the 80 % interval.
- a second: events that one core folds, by its processor time; and the part of it that is not the desk's.
"""

import csv
import gzip
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks import report
from headrace.clock import wall_ms
from headrace.errors import Misconfigured
from headrace.events import Data, Event, Item, at
from headrace.topics import DAY_MS
from learners.desk.family import Desk
from learners.shop import Shop
from learners.value.family import ValueFamily
from learners.value.judged import BINS, auc, calibration_error, correlation, share_of_tenth
from learners.value.shoppers import ORDERS
from learners.value.snapshots import Horizons
from producers.file import ReadOptions
from producers.online_retail import OnlineRetail

ASKED_MS: Final = 1_314_835_200_000
"""2011-09-01."""
_entry: Final = 200
"""Events of a journal entry."""


def load(path: Path) -> tuple[list[Event], int]:
    """Return the purchases and returns of known shoppers in time order, and when to ask.

    Raises:
        Misconfigured: the file is of neither form.
    """
    if OnlineRetail.recognises(path):
        found = []
        for record in OnlineRetail(path, ReadOptions(clock=wall_ms)).records():
            if not record.key.startswith(b"guest-"):
                event = msgspec.json.decode(record.value, type=Event)
                event.shopper, event.time_ms = record.key.decode(), record.time_ms
                found.append(event)
        return found, ASKED_MS
    found = list(baskets(path))
    return found, found[-1].time_ms - Horizons().far * DAY_MS


def baskets(path: Path) -> Iterator[Event]:
    """Yield the items of each user and day as an order."""
    with gzip.open(path, "rt") as file:
        rows = csv.reader(file, delimiter="\t")
        columns = next(rows, [])
        if columns[:3] != ["user_id", "item_id", "time"]:
            other = "user_id, item_id and time between tabs"
            raise Misconfigured(f"--data {path}: wanted {OnlineRetail.description}, or {other}")
        lines = sorted((int(row[2]) * 1_000, row[0], row[1]) for row in rows)
    for n, ((time_ms, user), basket) in enumerate(groupby(lines, lambda line: line[:2])):
        items = [Item(item, price=1.0) for _, _, item in basket]
        data = Data(items, transaction_id=f"order-{n}")
        yield Event(f"order-{n}", "benchmark", "purchase", at(time_ms), data, "1.0", user, time_ms)


def run(stream: Sequence[Event], asked_ms: int) -> dict[str, Any]:
    """Run the protocol and return its figures, and those of the baselines."""
    shop = Shop([Desk, ValueFamily])
    family = shop.families[ValueFamily.name]
    assert isinstance(family, ValueFamily)
    spent: dict[str, float] = defaultdict(float)
    orders: dict[str, int] = defaultdict(int)
    later: dict[str, float] = defaultdict(float)
    asked: dict[str, Any] = {}
    whole_s = own_s = 0.0
    learned = 0
    for number, event in enumerate(stream):
        if event.time_ms >= asked_ms and not asked:
            asked = _asked(family, asked_ms)
        after = event.time_ms - asked_ms
        if event.type == "purchase":
            value = sum((line.price or 0.0) * line.quantity for line in event.data.items)
            if after < 0:
                spent[event.shopper] += value
                orders[event.shopper] += 1
            elif after < Horizons().far * DAY_MS:
                later[event.shopper] += value
        start = time.process_time()
        wanted = shop.prepare(event)
        middle = time.process_time()
        if wanted:
            shop.learn(event, 0, number)
            learned += 1
        if number % _entry == 0:
            shop.emit()
        end = time.process_time()
        whole_s, own_s = whole_s + end - start, own_s + end - middle
    names = asked["names"]
    true, past, count = (
        np.array([values.get(name, 0) for name in names], np.float64) for values in (later, spent, orders)
    )
    bought = true > 0
    expected = asked["expected"]
    place = np.minimum((expected.purchase * BINS).astype(np.int64), BINS - 1)
    weights = (np.ones(len(place)), expected.purchase, bought.astype(np.float64))
    bins = np.stack([np.asarray(np.bincount(place, each, BINS), np.float64) for each in weights])
    grains = true / 1e-4
    returns = dict(family.repairs)
    figures = {
        "shoppers": len(names), "buy": float(bought.mean()),
        "value_spearman": correlation(expected.spend, true), "value_top_decile": share_of_tenth(expected.spend, true),
        "churn_auc": auc(expected.purchase, bought), "churn_ece": calibration_error(bins),
        "earlier": asked["earlier"],
        "covered": float(np.mean((expected.spend_low <= grains) & (grains <= expected.spend_high))),
        "spend_ratio": float(grains.sum() / max(1.0, float(expected.spend.sum()))),
        "reliability": [[n, p / n, b / n] for n, p, b in bins.T.tolist() if n],
        "events": len(stream), "events_per_s": len(stream) / whole_s, "own_us_per_event": 1e6 * own_s / max(1, learned),
        "repairs": returns, "snapshot_rows": family.bounds()["value_snapshot_rows"][0],
    }  # fmt: skip
    baselines = {
        "past_spearman": correlation(past, true), "past_top_decile": share_of_tenth(past, true),
        "frequency_auc": auc(count, bought), "ideal_top_decile": share_of_tenth(true, true),
    }  # fmt: skip
    return {"figures": figures, "baselines": baselines}


def _asked(family: ValueFamily, time_ms: int) -> dict[str, Any]:
    places: NDArray[np.int64] = np.flatnonzero(family.shoppers.in_use[:, ORDERS] >= 0)
    expected = family.expected(places, time_ms)[-1]
    if expected is None:
        raise Misconfigured("--data: wanted at least 27 weeks of orders before the day that is asked, found fewer")
    known = [one for one in family.scores().horizons if one.days == Horizons().far]
    names = ("correlation", "past_correlation", "tenth", "past_tenth", "auc", "calibration_error", "covered", "rows")
    earlier = {name: getattr(one, name) for one in known for name in names}
    return {"earlier": earlier, "names": [family.shoppers.name(int(place)) for place in places], "expected": expected}


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    made = report.parser(__doc__.splitlines()[0])
    made.add_argument("--data", type=Path, required=True, help="Online Retail, or a table of user, item, time")
    options = made.parse_args(arguments)
    found = run(*load(options.data))
    figures, baselines = found["figures"], found["baselines"]
    earlier = figures["earlier"]
    rows = [
        ("Spearman of 91 days' spend", figures["value_spearman"], baselines["past_spearman"], "correlation"),
        ("top tenth's share", figures["value_top_decile"], baselines["past_top_decile"], "tenth"),
        ("AUC of a purchase", figures["churn_auc"], baselines["frequency_auc"], "auc"),
        ("ECE", figures["churn_ece"], None, "calibration_error"),
        ("covered by the 80 % interval", figures["covered"], None, "covered"),
    ]
    shown = [
        (name, *("" if one is None else f"{one:.3f}" for one in (ours, theirs, earlier.get(key))))
        for name, ours, theirs, key in rows
    ]
    if not OnlineRetail.recognises(options.data):
        print("The file has no prices: each item counts 1, so what is called spend here are items.")
    report.show(
        f"{figures['shoppers']:,} shoppers, of whom {figures['buy']:.1%} bought",
        ("", "value", "past", "value, earlier"),
        shown,
    )
    print(f"{figures['events_per_s']:,.0f} events/s a core; {figures['own_us_per_event']:.0f} us an event, desk aside")
    report.write(options.out, found)


if __name__ == "__main__":
    report.run(main)
