"""Next line of an invoice of Online Retail, learned line by line while it is tested.

The protocol: invoices of known customers in time order, by the rules of `producers.online_retail` (no cancellations, no
charges, no lines without a price), each item once per invoice, in the order of its lines. From an invoice's second line
on, each line is one prediction: all learners rank the items that are not yet in the basket, and only then learn the
line. Ties count against the learner. There are 367,923 predictions.

The reference figures, Recall@10 of 3.7 % by popularity and 29.9 % by a Markov chain, are stated without a protocol. On
these predictions counts over the whole past gave 3.66 % and a chain 29.85 %, where equal counts rank by first
appearance (here they rank by other rules, so figures differ slightly). So this is assumed to be their protocol.
Invoices without a customer are much longer: with them the figures were 3.4 % and 34.7 %.

    python -m benchmarks.basket --data online_retail.csv.gz --out FILE

The fast learners are those of the live system with its settings and contexts; an invoice is a session. Items have the
live system's traits (similarity of names included), as of the invoice's beginning. `counts` and `markov` are the
references and not in the blend. The blend starts untrained and learns from each prediction right after it was made.
`--sample` tests a seeded part of the predictions, and the blend then learns from that part alone; the other learners
still learn every line.

Settings of `Transitions` (`reach`, `step_back`, `doubt`, `familiar` and the half-life) were tuned on a fiftieth of
these predictions, from the whole stream, and on DIGINETICA's periods 1 to 4: its figures here are optimistic to that
extent.
"""

import argparse
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace
from rich.console import Console
from rich.progress import Progress

from benchmarks import report
from benchmarks.continual import BLEND, figures
from headrace.clock import wall_ms
from headrace.errors import Misconfigured
from headrace.events import Event
from learners.next_item.blend import Blend
from learners.next_item.contexts import Contexts
from learners.next_item.judgement import list_length
from learners.next_item.members import KINDS
from learners.next_item.popularity import Popularity
from learners.next_item.traits import Traits
from learners.next_item.transitions import Transitions
from learners.protocol import NextItem, Scores, rank, top
from producers.file import ReadOptions
from producers.load import check_sum
from producers.online_retail import OnlineRetail
from producers.sequence import NumberedRecord

REFERENCES: Final[Mapping[str, Callable[[], NextItem]]] = {
    "counts": lambda: Popularity(half_life_ms=None),
    "markov": lambda: Transitions(reach=1, backwards=0, familiar=1, half_life_ms=None),
}
LEARNERS: Final = (*REFERENCES, *KINDS, BLEND)
_ALWAYS_EXCLUDED: Final = "revisits"
"""A learner that is not reported: all of its candidates are in the basket already."""
REPORTED: Final = tuple(name for name in LEARNERS if name != _ALWAYS_EXCLUDED)


class Basket(NamedTuple):
    """One invoice: the slots of its distinct items in the order of its lines, and their names.

    Slots are numbered by first appearance.
    """

    shopper: str
    invoice: str
    time_ms: int
    items: Sequence[int]
    names: Sequence[str]


def load(path: Path) -> list[Basket]:
    """Return a file's baskets, in time order.

    Raises:
        Misconfigured: the file is missing, damaged, or not Online Retail.
    """
    if not OnlineRetail.recognises(path):
        raise Misconfigured(f"--data {path}: wanted {OnlineRetail.description}")
    check_sum(path, OnlineRetail.digest(path), None)
    return list(baskets(OnlineRetail(path, ReadOptions(clock=wall_ms)).records()))


def baskets(records: Iterable[NumberedRecord]) -> Iterator[Basket]:
    """Yield the purchases of known customers among an Online Retail reader's records."""
    slots: dict[str, int] = {}
    for record in records:
        event = msgspec.json.decode(record.value, type=Event)
        shopper = record.key.decode()
        if event.type == "purchase" and not shopper.startswith("guest-"):
            items = {slots.setdefault(item.item_id, len(slots)): item.item_name for item in event.data.items}
            yield Basket(shopper, event.data.transaction_id, record.time_ms, list(items), list(items.values()))


def without_items(scores: Scores, basket: Collection[int]) -> Scores:
    """Return the best candidates that are not in the basket.

    >>> without_items(Scores(np.array([4, 5, 6], np.int32), np.array([3, 2, 1], np.float32)), {4}).slots.tolist()
    [5, 6]
    """
    slots, values = top(scores, list_length + len(basket))
    keep = np.isin(slots, list(basket), invert=True)
    return Scores(slots[keep][:list_length], values[keep][:list_length])


def run(
    stream: Sequence[Basket],
    learners: Sequence[str] = LEARNERS,
    *,
    sample: float = 1.0,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Run the protocol and return its figures.

    Args:
        learners: names; the blend has the named learners that are members of the live system's blend.
        sample: share of the predictions that are tested.
        progress: called after each basket with the number of baskets done.
    """
    members = {name: (REFERENCES.get(name) or KINDS[name])() for name in learners if name != BLEND}
    blended = [name for name in members if name in KINDS]
    blend = Blend(blended) if BLEND in learners else None
    contexts, traits = Contexts(), Traits()
    chosen = np.random.default_rng(seed)
    ranks: dict[str, list[int]] = {name: [] for name in learners}
    seconds = dict.fromkeys(learners, 0.0)
    known: set[int] = set()
    for number, (shopper, invoice, time_ms, items, names) in enumerate(stream, 1):
        traits.settle()
        for place, item in enumerate(items):
            context = contexts.context(shopper, time_ms, invoice)
            if place and chosen.random() < sample:
                lists, others = {}, len(known) - place
                for name, member in members.items():
                    began = time.perf_counter()
                    lists[name] = without_items(member.predict(context), items[:place])
                    seconds[name] += time.perf_counter() - began
                    ranks[name].append(rank(lists[name], item, others))
                if blend is not None:
                    began = time.perf_counter()
                    member_lists = {name: lists[name] for name in blended}
                    describe = partial(traits.of, context=context)
                    ranks[BLEND].append(rank(blend.predict(member_lists, place, describe), item, others))
                    blend.learn(member_lists, place, item, describe)
                    seconds[BLEND] += time.perf_counter() - began
            # If the line began an invoice, only now it has a number.
            context = replace(context, session=contexts.push(shopper, item, time_ms, invoice))
            for name, member in members.items():
                began = time.perf_counter()
                member.learn(context, item)
                seconds[name] += time.perf_counter() - began
            traits.learn(item, "", time_ms, names[place])
            known.add(item)
        progress(number)
    return {
        "whole": {name: figures(np.array(found)) for name, found in ranks.items()},
        "second_half": {name: figures(np.array(found[len(found) // 2 :])) for name, found in ranks.items()},
        "seconds": seconds,
        "lines": sum(len(basket.items) for basket in stream),
        "items": len(known),
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.parser("The next line of an invoice, learned while it is tested.")
    parser.add_argument("--data", type=Path, required=True, help="Online Retail's CSV file, plain or gzipped")
    parser.add_argument("--learners", default=",".join(REPORTED), help="names, separated by commas")
    parser.add_argument("--sample", type=float, default=1.0, help="share of the predictions to test")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None) -> None:
    """Run from the command line."""
    options = _options(arguments)
    if not 0 < options.sample <= 1:
        raise Misconfigured(f"--sample: wanted a share above 0, at most 1, found {options.sample}")
    names = options.learners.split(",")
    for name in names:
        if name not in LEARNERS:
            raise Misconfigured(f"--learners: wanted some of {', '.join(LEARNERS)}, found {name!r}")
    stream = load(options.data)
    with Progress(console=Console(stderr=True)) as shown:
        task = shown.add_task("baskets", total=len(stream))
        result = run(
            stream,
            names,
            sample=options.sample,
            seed=options.seed,
            progress=lambda done: shown.update(task, completed=done),
        )
    result["options"] = {"sample": options.sample, "seed": options.seed, "learners": names}
    show(result, names)
    report.write(options.out, result)


def show(result: Mapping[str, Any], names: Sequence[str]) -> None:
    """Print the scores at 10, over the whole stream and over its second half."""
    parts = ("whole", "second_half")
    scores = ("recall@10", "mrr@10", "ndcg@10")
    report.show(
        f"The next line of an invoice, in % ({result['lines']:,} lines, {result['items']:,} items)",
        ["learner", *scores, *(f"{score}, 2nd half" for score in scores), "predictions", "s"],
        [
            [
                name,
                *(f"{100 * result[part][name][score]:.2f}" for part in parts for score in scores),
                f"{result['whole'][name]['predictions']:,}",
                f"{result['seconds'][name]:.0f}",
            ]
            for name in names
        ],
    )


if __name__ == "__main__":
    report.run(main)
