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
items. Of each file there are two parts, and settings may be chosen by the first alone. A part is learned in a process
of its own; of each group of steps a seeded sample is tested.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

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
    """Return the steps that can be tested by their numbers."""
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
    return replace(context, start=0) if context.start == len(context.items) else context


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


def grouped(found: Mapping[int, Asked], most: int, seed: int) -> dict[str, dict[int, list[int]]]:
    """Return the tested steps of each group: a sample of at most `most`, in order."""
    rng = np.random.default_rng(seed)

    def sample(group: list[int]) -> list[int]:
        return np.sort(rng.choice(group, min(most, len(group)), replace=False)).tolist() if group else []

    return {
        "shopper": {count: sample([at for at, one in found.items() if one.shopper == count]) for count in KNOWN},
        "new item": {count: sample([at for at, one in found.items() if one.item == count]) for count in KNOWN},
    }


def run_part(
    steps: Sequence[LoggedStep], part: Part, *, once: bool, judged: int, most: int, seed: int
) -> dict[str, Any]:
    """Return the figures of a part, by what is known of shoppers and of new items.

    Args:
        judged: number of steps from which the blends learn before the stretch.
        most: most tested steps of each group.
    """
    from learners.deep.model import threads

    began = time.process_time()
    known = [at for at in range(part.warm, part.start) if steps[at].context.items]
    chosen = np.random.default_rng(seed).choice(known, min(judged, len(known)), replace=False)
    groups = grouped(asked(steps, part), most, seed)
    tested = sorted({at for of in groups.values() for group in of.values() for at in group})
    deep = DeepLearner(seed=seed)
    with threads(1):
        deep.begin(steps[: part.warm])
        taught = dict(deep_lists(deep, steps, np.sort(chosen).tolist()))
        deep.follow(steps[part.warm : part.start])
        deep.update()
        answers = dict(deep_lists(deep, steps, tested))
    learners = Learners(once=once)
    ranks: dict[int, dict[str, float]] = {}
    expected: dict[int, tuple[float, float]] = {}
    for at, step in enumerate(steps[: part.end]):
        if at in taught:
            learners.teach(step, taught[at])
        if at in answers:
            ranks[at], expected[at] = learners.ranks(step, answers[at]), learners.expected(step)
        learners.learn(step)
    found = {kind: {f"{n}": _figures(group, ranks, expected) for n, group in of.items()} for kind, of in groups.items()}
    return {**found, "part": part._asdict(), "processor_s": time.process_time() - began}


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


def run_diginetica(data: Path | None, name: str, options: Mapping[str, int]) -> dict[str, Any]:
    """Return the figures of a part of DIGINETICA: period 3 or 6."""
    periods = load(data)
    last = {"chosen": 3, "judged": 6}[name]
    ends = np.cumsum([len(found) for found in periods.clicks]).tolist()
    return run_part(list(clicks(periods, last)), Part(*ends[last - 2 : last + 1]), once=False, **options)


def run_retail(data: Path, name: str, options: Mapping[str, int]) -> dict[str, Any]:
    """Return the figures of a part of Online Retail: the sixth or the last tenth of its lines."""
    steps = list(lines(load_baskets(data)))
    last = {"chosen": 6, "judged": 10}[name]
    return run_part(
        steps, Part(*(tenth * len(steps) // 10 for tenth in (last - 2, last - 1, last))), once=True, **options
    )


def main(arguments: Sequence[str] | None) -> None:
    """Run from the command line."""
    parser = report.parser("What shoppers of whom little is known are shown, and how soon new items are.")
    report.add_data(parser)
    parser.add_argument("--retail", type=Path, help="Online Retail's CSV file, plain or gzipped (default: left out)")
    parser.add_argument("--parts", default="chosen,judged", help="the parts that are tested, separated by commas")
    parser.add_argument("--judged", type=int, default=6_000, help="steps from which the blends learn")
    parser.add_argument("--most", type=int, default=1_500, help="most tested steps of each group")
    parser.add_argument("--seed", type=int, default=0, help="of the deep model and of the samples")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    options = parser.parse_args(arguments)
    names = report.names(options.parts, ("chosen", "judged"))
    chosen = {name: getattr(options, name) for name in ("judged", "most", "seed")}
    runs = {"DIGINETICA": partial(run_diginetica, options.data)}
    if options.retail:
        runs["Online Retail"] = partial(run_retail, options.retail)
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        begun = {(data, name): pool.apply_async(run, (name, chosen)) for data, run in runs.items() for name in names}
        found = {key: one.get() for key, one in begun.items()}
    result = {data: {name: found[data, name] for name in names} for data in runs}
    show(result)
    report.write(options.out, {**result, "options": chosen})


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
