"""Clusters of shoppers: whether they explain later spend, and keep their names, on Online Retail.

    python -m benchmarks.segments --data online_retail.csv.gz --out benchmarks/results/segments.json

The family of segments learns the file as a shard would. From the middle of its time on, every four weeks, each known
customer is asked for the cluster. *Explained* is the share of the variance of log(1 + spend of the next 28 days) that
cluster means explain for one half of the customers (by a hash of their names) when they are means of the other half: it
can be below 0. Beside the clusters as they are:

- *frozen*: centres and scales of the first fit, with the features of now;
- *fitted anew*: k-means++ on all customers of now, numbered by size, as a nightly job without a memory would;
- *fifths of money*: five equal groups by what was paid so far.

*Kept* is the share of customers known four weeks ago that have the same name. Nothing was chosen on the second half.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import msgspec
import numpy as np

from benchmarks import report
from headrace.clock import wall_ms
from headrace.errors import Misconfigured
from headrace.events import Event
from headrace.sampling import fraction
from learners.desk.family import Desk
from learners.profiles.family import ProfilesFamily
from learners.segments.clusters import Clusters, lloyd, spread
from learners.segments.family import SegmentsFamily
from learners.segments.features import features
from learners.shop import Shop
from producers.file import ReadOptions
from producers.online_retail import OnlineRetail

STEP_MS: Final = 28 * 86_400_000


def explained(groups: Sequence[Any], spend: Sequence[float], first: Sequence[bool]) -> float:
    """Return how much of the variance of one half's spend the other half's group means explain, both ways.

    >>> explained(["a", "a", "b", "b"], [1.0, 1.0, 3.0, 3.0], [True, False, True, False])
    1.0
    """
    squares = total = 0.0
    for half in (True, False):
        known = defaultdict[Any, list[float]](list)
        for group, value, is_first in zip(groups, spend, first, strict=True):
            if is_first == half:
                known[group].append(value)
        usual = fmean(value for value, is_first in zip(spend, first, strict=True) if is_first == half)
        means = {group: fmean(values) for group, values in known.items()}
        for group, value, is_first in zip(groups, spend, first, strict=True):
            if is_first != half:
                squares += (value - means.get(group, usual)) ** 2
                total += (value - usual) ** 2
    return 1 - squares / total


def events_of(path: Path) -> list[Event]:
    """Return the events of known customers, in their order.

    Raises:
        Misconfigured: the file is not Online Retail.
    """
    if not OnlineRetail.recognises(path):
        raise Misconfigured(f"--data {path}: wanted {OnlineRetail.description}")
    found = []
    for record in OnlineRetail(path, ReadOptions(clock=wall_ms)).records():
        event, event_shopper = msgspec.json.decode(record.value, type=Event), record.key.decode()
        if not event_shopper.startswith("guest-"):
            event.shopper = event_shopper
            event.time_ms = event.own_ms = int(event.time.timestamp() * 1000)
            found.append(event)
    return found


def frozen_of(clusters: Clusters) -> Clusters:
    """Return clusters that stay as they are."""
    found = Clusters(clusters_max=clusters.clusters_max)
    found.restore(clusters.state())
    return found


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("Clusters of shoppers on Online Retail.")
    parser.add_argument("--data", type=Path, required=True, help="online_retail.csv.gz")
    options = parser.parse_args(arguments)
    events = events_of(options.data)
    spends = defaultdict[str, tuple[list[int], list[float]]](lambda: ([], [0.0]))
    for event in events:
        if event.type == "purchase":
            times, sums = spends[event.shopper]
            times.append(event.time_ms)
            sums.append(sums[-1] + sum((line.price or 0.0) * line.quantity for line in event.data.items))
    middle = (events[0].time_ms + events[-1].time_ms) // 2
    cuts = list(range(middle, events[-1].time_ms - STEP_MS, STEP_MS))
    shop = Shop([Desk, ProfilesFamily, SegmentsFamily])
    profiles, segments = shop.families["profiles"], shop.families["segments"]
    assert isinstance(profiles, ProfilesFamily)
    assert isinstance(segments, SegmentsFamily)
    frozen: Clusters | None = None
    scores = defaultdict[str, list[float]](list)
    kept = defaultdict[str, list[float]](list)
    before = dict[str, dict[str, Any]]()
    next_cut = 0
    for number, event in enumerate(events):
        while next_cut < len(cuts) and event.time_ms >= cuts[next_cut]:
            now_ms = cuts[next_cut]
            assert frozen is not None
            names = list(profiles.shoppers)
            rows = [features(seen) for name in names if (seen := profiles.seen(name, now_ms))]
            spend = []
            for name in names:
                times, sums = spends[name]
                spent = sums[bisect_right(times, now_ms + STEP_MS)] - sums[bisect_right(times, now_ms)]
                spend.append(float(np.log1p(spent)))
            money = [row[7] for row in rows]
            edges = np.quantile(money, [0.2, 0.4, 0.6, 0.8])
            groups = {
                "live": [segments.clusters.of(row) for row in rows],
                "frozen": [frozen.of(row) for row in rows],
                "fitted anew": fitted(rows, segments.clusters.clusters_max, next_cut),
                "fifths of money": np.searchsorted(edges, money).tolist(),
            }
            first = [fraction(name, 0, "halves") < 0.5 for name in names]
            for kind, found in groups.items():
                scores[kind].append(explained(found, spend, first))
                now = dict(zip(names, found, strict=True))
                if was := before.get(kind):
                    kept[kind].append(fmean(now[name] == group for name, group in was.items() if name in now))
                before[kind] = now
            next_cut += 1
        if shop.prepare(event):
            shop.learn(event, 0, number)
            shop.now.take()
        if frozen is None and segments.clusters.numbers:
            frozen = frozen_of(segments.clusters)
    figures = {
        kind: {"explained": fmean(scores[kind]), "kept": fmean(kept[kind]), "by_cut": scores[kind]} for kind in scores
    }
    report.show(
        f"{len(cuts)} times, {len(profiles.shoppers):,} customers",
        ["groups", "explained", "kept"],
        [[kind, f"{found['explained']:.4f}", f"{found['kept']:.4f}"] for kind, found in figures.items()],
    )
    counts = segments.clusters.counts
    print(", ".join(f"{name} {count}" for name, count in counts.items()))
    report.write(options.out, {"figures": figures, "clusters": counts, "customers": len(profiles.shoppers)})


def fitted(rows: Sequence[Sequence[float]], count: int, seed: int) -> list[int]:
    """Return the clusters of a new clustering, the largest one being the first."""
    points = np.array(rows)
    scale = points.std(0)
    points = np.clip((points - points.mean(0)) / np.where(scale > 0, scale, 1.0), -5, 5)
    found = lloyd(points, spread(points, count, np.random.Generator(np.random.PCG64(seed))))
    sizes = np.bincount(found.places, minlength=count)
    rank = np.argsort(np.argsort(-sizes, kind="stable"))
    return [int(rank[place]) for place in found.places]


if __name__ == "__main__":
    main(None)
