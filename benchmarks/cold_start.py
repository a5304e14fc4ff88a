"""Cold start: what shoppers of whom little is known are shown, and how soon new items are.

    python -m benchmarks.cold_start --data diginetica_periods.tar.gz --retail online_retail.csv.gz --out FILE

The log is learned in order, each step after it was predicted, as in the live system. Of a stretch at its end, those
steps are tested of whose shopper exactly 0, 1, 3 or 10 events were known, and those to a new item, one whose first
event lies after the deep model's training, of which so many events were known. An item without an event is unknown to
every learner. All items seen so far are ranked; ties count against the learner.

The deep model is trained on all steps before the stretch. The blend learns before the stretch, too: from the answers to
a sample of the steps of an equally long stretch, of which the deep model has seen none. As in the live system it learns
from no step of a shopper who is unknown, and a returning shopper's session begins with all remembered items. `fast` is
a blend without the deep model. `popularity` is the live system's; of the others one never forgets, and one has a
half-life of a day. `random` is the expectation of a random order.

In DIGINETICA a shopper is a session, a period counts as a week, and its clicks are spread evenly. In Online Retail the
items of the current invoice are left out of the answers. Neither file has categories, so the deep model adds no late
items. Of each file there are two parts: settings may be chosen by the first alone.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from benchmarks import report
from benchmarks.basket import load as load_baskets
from benchmarks.basket import without_items
from benchmarks.continual import figures
from benchmarks.periods import load
from benchmarks.prequential import DeepLearner, LoggedStep, clicks, lines
from learners.next_item.blend import Blend
from learners.next_item.judgement import list_length
from learners.next_item.members import KINDS
from learners.next_item.popularity import Popularity, day_ms
from learners.next_item.traits import Traits
from learners.parts.prequential import ranks_max
from learners.protocol import BLEND, DEEP, Context, NextItem, Scores, rank

KNOWN: Final = (0, 1, 3, 10)
"""Numbers of known events that are tested."""
BASELINES: Final[Mapping[str, Callable[[], NextItem]]] = {
    "popularity, all time": lambda: Popularity(half_life_ms=None),
    "popularity, a day": lambda: Popularity(half_life_ms=day_ms),
}
FAST: Final = "fast"
RANDOM: Final = "random"
LEARNERS: Final = (BLEND, FAST, DEEP, *KINDS, *BASELINES, RANDOM)
_deep_rows: Final = 256


class Part(NamedTuple):
    """A part of a log: where the blend begins to learn, where the test begins, and the step after the last."""

    warm: int
    start: int
    end: int


class Asked(NamedTuple):
    """A step that is tested: events known of the shopper and of the item, None if the item is not new."""

    shopper: int
    item: int | None


def asked(steps: Sequence[LoggedStep], part: Part) -> dict[int, Asked]:
    """Return the tested steps by their numbers."""
    old = {step.item for step in steps[: part.start]}
    counts: dict[int, int] = {}
    found = {}
    for at in range(part.start, part.end):
        step = steps[at]
        events = None if step.item in old else counts.get(step.item, 0)
        counts[step.item] = counts.get(step.item, 0) + 1
        if len(step.context.items) in KNOWN or events in KNOWN:
            found[at] = Asked(len(step.context.items), events)
    return found


def as_asked(context: Context) -> Context:
    """Return the context with which a server answers: between sessions all remembered items are the session."""
    return context._replace(start=0) if context.start == len(context.items) else context


class Learners:
    """All learners of one part, and the blends with and without the deep model.

    Args:
        once: whether the items of the current session are left out of the answers.
    """

    def __init__(self, *, once: bool) -> None:
        self._once = once
        self._members: dict[str, NextItem] = {name: kind() for name, kind in KINDS.items()}
        self._baselines = {name: make() for name, make in BASELINES.items()}
        self._traits = Traits()
        self._blends = {BLEND: Blend((*KINDS, DEEP)), FAST: Blend(tuple(KINDS))}
        self._seen: set[int] = set()

    def learn(self, step: LoggedStep) -> None:
        """Learn one step, except the blends."""
        for learner in (*self._members.values(), *self._baselines.values()):
            learner.learn(step.context, step.item)
        self._traits.learn(step.item, "", step.context.time_ms, step.name)
        self._seen.add(step.item)

    def _lists(self, learners: Mapping[str, NextItem], context: Context, excluded: Sequence[int]) -> dict[str, Scores]:
        return {name: without_items(learner.predict(context), excluded) for name, learner in learners.items()}

    def ranks(self, step: LoggedStep, deep: Scores) -> dict[str, float]:
        """Return each learner's rank of the true item, 0 if it is not among the first `ranks_max`."""
        excluded = step.prefix if self._once else ()
        context = as_asked(step.context)
        lists = self._lists(self._members, context, excluded) | {DEEP: without_items(deep, excluded)}
        found = {**lists, **self._lists(self._baselines, context, excluded)}
        self._traits.settle()
        describe = partial(self._traits.of, context=context)
        for name, blend in self._blends.items():
            found[name] = blend.predict(lists, len(context.items) - context.start, describe)
        return {name: rank(scores, step.item, ranks_max) for name, scores in found.items()}

    def expected(self, step: LoggedStep) -> tuple[float, float]:
        """Return the expected Recall@20 and MRR@20 of a random order."""
        others = len(self._seen) - (len(step.prefix) if self._once else 0)
        if step.item not in self._seen:
            return 0.0, 0.0
        best = np.arange(1, min(ranks_max, others) + 1)
        return len(best) / others, float((1 / best).sum()) / others

    def teach(self, step: LoggedStep, deep: Scores) -> None:
        """Let the blends learn from the answers to a step, as judges do."""
        excluded = step.prefix if self._once else ()
        lists = self._lists(self._members, step.context, excluded) | {DEEP: without_items(deep, excluded)}
        self._traits.settle()
        describe = partial(self._traits.of, context=step.context)
        for blend in self._blends.values():
            blend.learn(lists, len(step.prefix), step.item, describe)


def deep_lists(deep: DeepLearner, steps: Sequence[LoggedStep], numbers: Sequence[int]) -> Iterator[tuple[int, Scores]]:
    """Yield the numbers of steps, each with the deep model's candidates."""
    assert deep.model is not None
    for start in range(0, len(numbers), _deep_rows):
        part = numbers[start : start + _deep_rows]
        prefixes = [steps[at].prefix or steps[at].context.items for at in part]
        n = list_length + max(map(len, prefixes))
        found = deep.model.predict([[f"{item}" for item in prefix] for prefix in prefixes], n)
        for at, (items, values) in zip(part, found, strict=True):
            yield at, Scores(np.array([int(item) for item in items], np.int32), values)


def run_part(
    steps: Sequence[LoggedStep], part: Part, *, once: bool, judged: int, seed: int, tick: Callable[[int], None]
) -> dict[str, Any]:
    """Return the figures of a part, by what is known of shoppers and of new items.

    Args:
        judged: number of steps from which the blends learn before the stretch.
        tick: called with the number of steps that were learned.
    """
    from learners.deep.model import threads

    began = time.perf_counter()
    known = [at for at in range(part.warm, part.start) if steps[at].context.items]
    chosen = np.random.default_rng(seed).choice(known, min(judged, len(known)), replace=False)
    tested = asked(steps, part)
    deep = DeepLearner(seed=seed)
    with threads(1):
        deep.begin(steps[: part.warm])
        taught = dict(deep_lists(deep, steps, np.sort(chosen).tolist()))
        deep.follow(steps[part.warm : part.start])
        deep.update()
        answers = dict(deep_lists(deep, steps, list(tested)))
    learners = Learners(once=once)
    ranks: dict[int, dict[str, float]] = {}
    expected: dict[int, tuple[float, float]] = {}
    for at, step in enumerate(steps[: part.end]):
        if at in taught:
            learners.teach(step, taught[at])
        if at in tested:
            ranks[at], expected[at] = learners.ranks(step, answers[at]), learners.expected(step)
        learners.learn(step)
        tick(at)
    groups = {
        "shopper": {count: [at for at, one in tested.items() if one.shopper == count] for count in KNOWN},
        "new item": {count: [at for at, one in tested.items() if one.item == count] for count in KNOWN},
    }
    found = {kind: {f"{n}": _figures(group, ranks, expected) for n, group in of.items()} for kind, of in groups.items()}
    return {**found, "part": part._asdict(), "seconds": time.perf_counter() - began}


def _figures(
    group: Sequence[int], ranks: Mapping[int, Mapping[str, float]], expected: Mapping[int, tuple[float, float]]
) -> dict[str, Any]:
    if not group:
        return {"predictions": 0}
    found: dict[str, Any] = {"predictions": len(group)}
    for name in LEARNERS:
        if name == RANDOM:
            recall, mrr = np.mean([expected[at] for at in group], axis=0).tolist()
            found[name] = {"recall@20": recall, "mrr@20": mrr}
        else:
            all_ranks: NDArray[np.int32] = np.array([ranks[at][name] for at in group], np.int32)
            found[name] = {key: value for key, value in figures(all_ranks).items() if key in ("recall@20", "mrr@20")}
    return found


def main(arguments: Sequence[str] | None) -> None:
    """Run from the command line."""
    parser = report.parser("What shoppers of whom little is known are shown, and how soon new items are.")
    report.add_data(parser)
    parser.add_argument("--retail", type=Path, help="Online Retail's CSV file, plain or gzipped (default: left out)")
    parser.add_argument("--parts", default="chosen,judged", help="the parts that are tested, separated by commas")
    parser.add_argument("--judged", type=int, default=10_000, help="steps from which the blends learn")
    parser.add_argument("--seed", type=int, default=0, help="of the deep model and of the steps that are judged")
    options = parser.parse_args(arguments)
    periods = load(options.data)
    ends = np.cumsum([len(found) for found in periods.clicks]).tolist()
    logs = {"DIGINETICA": list(clicks(periods, 6))}
    parts = {"DIGINETICA": {"chosen": Part(ends[1], ends[2], ends[3]), "judged": Part(ends[4], ends[5], ends[6])}}
    if options.retail:
        retail = logs["Online Retail"] = list(lines(load_baskets(options.retail)))
        size = len(retail)
        cuts = [Part(*(int(share * size) for share in shares)) for shares in ((0.4, 0.5, 0.6), (0.8, 0.9, 1.0))]
        parts["Online Retail"] = dict(zip(("chosen", "judged"), cuts, strict=True))
    result: dict[str, Any] = {}
    with Progress(console=Console(file=sys.stderr)) as bars:
        for data, steps in logs.items():
            for name in report.names(options.parts, ("chosen", "judged")):
                part = parts[data][name]
                task = bars.add_task(f"{data}, {name}", total=part.end)
                result.setdefault(data, {})[name] = run_part(
                    steps, part, once=data != "DIGINETICA", judged=options.judged, seed=options.seed,
                    tick=lambda at, task=task: bars.update(task, completed=at),  # type: ignore[misc]
                )  # fmt: skip
    show(result)
    report.write(options.out, {**result, "options": {"judged": options.judged, "seed": options.seed}})


def show(result: Mapping[str, Any]) -> None:
    """Print Recall@20 and MRR@20 of each part."""
    for data, parts in result.items():
        for name, found in parts.items():
            for kind in ("shopper", "new item"):
                columns = [f"{n} ({one['predictions']:,})" for n, one in found[kind].items()]
                rows = [[learner, *(_cell(one, learner) for one in found[kind].values())] for learner in LEARNERS]
                report.show(
                    f"{data}, {name}: Recall@20/MRR@20 in %, by the events known of the {kind} (predictions)",
                    ["learner", *columns], rows,
                )  # fmt: skip


def _cell(found: Mapping[str, Any], learner: str) -> str:
    if learner not in found:
        return "-"
    return f"{100 * found[learner]['recall@20']:.2f}/{100 * found[learner]['mrr@20']:.2f}"


if __name__ == "__main__":
    report.run(main)
