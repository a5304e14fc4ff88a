"""Continual learning by the ADER protocol: learn period by period, test on the next one. See `benchmarks.periods`.

Nothing is learned inside a test period. Each member learns the periods before t, then answers the questions of t. Only
after all of them are answered do the members learn the clicks of t, and the blend learns its weights from the answers
that were given on t. Ranks are among all items seen, clicked ones included; ties count against the learner.

    python -m benchmarks.continual --data DIR --learners popularity,transitions,session_knn --out FILE
    python -m benchmarks.continual --data diginetica_periods.tar.gz --seeds 5 --out FILE
    python -m benchmarks.continual --data DIR --learners joint,blend --periods 1,4,8,12,16 --rate 2e-3 --out FILE

FILE.svg beside FILE is a picture of Recall@20 and MRR@20 per period. On 2 cores and the 16 DIGINETICA periods the
fast learners take about 5 minutes. `markov` is `transitions` that counts only the next item, `vsknn` is `session_knn`
that ignores the position of an item in a neighbour; `finetune`, `ewc` and `joint` are described in
`benchmarks.baselines`. These are no members of the blend, and they answer only on the periods given.

A run can be stopped and started again: under `--work` each learner keeps its models, its state and its answers per
period, in a folder named by a digest of data, seed, rate and all code that its answers depend on, so that changed
code never uses old answers. The sessions that a `--sample` tests have a seed of their own, so that learners of any seed
answer the same questions, and learners without a seed are run only once.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks import report
from benchmarks.comparison import Figures, compare_seeds, mean_over_periods, show
from benchmarks.contestants import Answers, Contestant, Tuning, week_ms
from benchmarks.periods import Periods, Question, load
from benchmarks.registry import BASELINES, DEEP, FACTORIES
from benchmarks.resumable import ResumableContestant, folder_of
from headrace.errors import Misconfigured
from learners.next_item.blend import Blend, TraitLookup
from learners.next_item.traits import Traits
from learners.parts.prequential import ranking_scores, ranks_max
from learners.protocol import Context, rank

BLEND: Final = "blend"
LEARNERS: Final = (*FACTORIES, BLEND)
REPORTED: Final = ("popularity", "markov", "transitions", "session_knn", DEEP, BLEND)
blend_judged_max: Final = 20_000
"""Most answers of one period from which the blend learns: as in the live system, a sample is enough."""

Tick = Callable[[str, float], None]
TraitLookupOf = Callable[[Sequence[int]], TraitLookup]
"""From a session's items so far to a function that returns the traits of candidates."""


def no_progress(step: str, share: float) -> None:
    """Ignore the progress."""


def learn_traits(traits: Traits, periods: Periods, period: int) -> TraitLookupOf:
    """Learn the traits of one more period, the one before `period`; return the traits as they are known in `period`.

    The files have no clock and no categories; see `week_ms`.
    """
    clicks = periods.clicks[period - 1]
    for place, (_, item) in enumerate(clicks):
        traits.learn(item, "", (period - 1) * week_ms + place * week_ms // len(clicks))
    traits.settle()
    return lambda prefix: partial(traits.of, context=Context(prefix, 0, 0, period * week_ms))


def blend_ranks(
    blend: Blend, answers: Mapping[str, Answers], questions: Sequence[Question], describer: TraitLookupOf, others: int
) -> NDArray[np.int32]:
    """Return the ranks of the true items in the blend of the members' lists.

    Items on no list tie for the last place, with `others`.
    """
    ranks = np.empty(len(questions), np.int32)
    for row, (prefix, item) in enumerate(questions):
        lists = {name: answer.list(row) for name, answer in answers.items()}
        ranks[row] = rank(blend.predict(lists, len(prefix), describer(prefix)), item, others)
    return ranks


def teach_blend(
    blend: Blend,
    answers: Mapping[str, Answers],
    questions: Sequence[Question],
    describer: TraitLookupOf,
    seed: Sequence[int],
) -> None:
    """Let the blend learn from a seeded sample of a period's answers, in order, after all of them were given."""
    size = min(len(questions), blend_judged_max)
    for row in np.sort(np.random.default_rng(seed).choice(len(questions), size, replace=False)).tolist():
        prefix, item = questions[row]
        lists = {name: answer.list(row) for name, answer in answers.items()}
        blend.learn(lists, len(prefix), item, describer(prefix))


def figures(ranks: NDArray[np.int32]) -> Figures:
    """Return Recall, MRR and NDCG at 10 and 20, as fractions, and the number of predictions.

    Raises:
        Misconfigured: there are no predictions.
    """
    if not len(ranks):
        raise Misconfigured("wanted data that holds predictions to make, found no two items in a row to ask about")
    weights = np.bincount(np.where(ranks > ranks_max, 0, ranks), minlength=ranks_max + 1).astype(np.float64)
    return {**ranking_scores(weights), "predictions": len(ranks)}


def run(
    periods: Periods,
    learners: Sequence[str],
    tested: Sequence[int],
    work: Path,
    *,
    sample: float = 1.0,
    sample_seed: int = 0,
    tuning: Tuning = Tuning(),  # noqa: B008 - it cannot be changed
    factories: Mapping[str, Callable[[Tuning], Contestant]] = FACTORIES,
    tick: Tick = no_progress,
) -> dict[str, Any]:
    """Run the protocol with one seed and return its figures.

    Args:
        learners: names of members, and "blend": it has all members, but the deep one only if that is named too.
        tested: periods to report; those without predictions are learned but not reported. Members answer on all
            periods up to the last of them, because the blend learns from each.
        work: folder for models, states and answers.
        tick: called with each step and the share of it that is done, from 0 when it begins.

    Raises:
        Misconfigured: none of these periods has predictions.
    """
    named = _required_members(learners, factories)
    members = [
        ResumableContestant(name, folder_of(work, name, periods, tuning), partial(factories[name], tuning))
        for name in named
    ]
    blended_ones = [name for name in named if name not in BASELINES]
    blend, traits = Blend(blended_ones), Traits()
    seconds = {BLEND: {"learn": 0.0, "answer": 0.0}}
    asked = "" if sample == 1 else f"_{sample}_{sample_seed}"
    found: dict[str, dict[str, Figures]] = {}
    for period in range(1, max(tested) + 1):
        questions = periods.questions(period, sample, sample_seed)
        answers: dict[str, Answers] = {}
        for member in members:
            if period not in tested and (member.name in BASELINES or BLEND not in learners):
                continue
            step = partial(tick, f"seed {tuning.seed}, period {period}: {member.name}")
            step(0.0)
            answers[member.name] = member.answers(questions, asked, periods, period, step)
        ranks = {name: answer.ranks for name, answer in answers.items()}
        if BLEND in learners:
            tick(f"seed {tuning.seed}, period {period}: {BLEND}", 0.0)
            lists = {name: answers[name] for name in blended_ones}
            began = time.perf_counter()
            describer = learn_traits(traits, periods, period)
            ranks[BLEND] = blend_ranks(blend, lists, questions, describer, periods.seen[period] - 1)
            answered = time.perf_counter()
            teach_blend(blend, lists, questions, describer, [tuning.seed, period])
            seconds[BLEND]["answer"] += answered - began
            seconds[BLEND]["learn"] += time.perf_counter() - answered
        if period in tested and questions:
            found[str(period)] = {name: figures(ranks[name]) for name in ranks if name in learners}
    if not found:
        raise Misconfigured(f"wanted periods that hold predictions to make, found none in any of {tested}")
    rounds = {member.name: member.rounds_for(tested) for member in members}
    for member in members:
        learn = sum(cost["seconds"] for cost in rounds[member.name].values())
        seconds[member.name] = {"learn": learn, "answer": member.seconds}
    return {
        "periods": found,
        "mean": mean_over_periods(found),
        "tokens": {name: sum(int(cost["tokens"]) for cost in of.values()) for name, of in rounds.items()},
        "passes": {name: sum(int(cost["passes"]) for cost in of.values()) for name, of in rounds.items()},
        "seconds": {name: spent for name, spent in seconds.items() if name in learners},
        "rounds": {name: of for name, of in rounds.items() if any(cost["tokens"] for cost in of.values())},
    }


def _required_members(learners: Sequence[str], factories: Iterable[str] = FACTORIES) -> list[str]:
    """Return the learners whose answers the named learners need.

    >>> _required_members(["popularity"]), _required_members(["transitions", "blend"])
    (['popularity'], ['popularity', 'transitions', 'session_knn', 'revisits'])
    """
    wanted = {*learners, *(name for name in FACTORIES if name not in (DEEP, *BASELINES) and BLEND in learners)}
    return [name for name in factories if name in wanted]


def _parse_periods(text: str, last: int) -> list[int]:
    """Return the periods in a text like "1-4,8".

    >>> _parse_periods("1-3,8", 16)
    [1, 2, 3, 8]
    """
    try:
        ends = [[int(end) for end in part.split("-")] for part in text.split(",")]
        chosen = sorted({period for part in ends for period in range(part[0], part[-1] + 1)})
    except ValueError:
        chosen = []
    if not chosen or chosen[0] < 1 or chosen[-1] > last:
        raise Misconfigured(f"--periods: wanted numbers from 1 to {last} like 1-4,8, found {text!r}")
    return chosen


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.parser("Continual learning by the ADER protocol.")
    parser.set_defaults(out=Path("build/continual.json"))
    report.add_data(parser)
    parser.add_argument("--learners", default=",".join(REPORTED), help="names, separated by commas")
    parser.add_argument("--periods", help="periods to report, like 1-4,8 (default: all)")
    parser.add_argument("--sample", type=float, default=1.0, help="share of the sessions to test")
    parser.add_argument(
        "--sample-seed", type=int, default=0, help="seed of the sample, independent of the learners' seed"
    )
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", default="0", help="seed of the learners; several: 0,1,2")
    seeds.add_argument("--seeds", type=int, help="number of seeds, from 0")
    parser.add_argument("--rate", type=float, help="learning rate of the networks (default: that of each learner)")
    parser.add_argument("--strength", type=float, help="weight of the penalty of ewc (default: its own)")
    parser.add_argument(
        "--work", type=Path, default=Path("build/continual"), help="folder for models, states and answers"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None) -> None:
    """Run from the command line."""
    options = _options(arguments)
    if not 0 < options.sample <= 1:
        raise Misconfigured(f"--sample: wanted a share above 0, at most 1, found {options.sample}")
    if options.rate is not None and not 0 < options.rate < 1:
        raise Misconfigured(f"--rate: wanted a learning rate between 0 and 1, found {options.rate}")
    names, seeds = report.names(options.learners, LEARNERS), _seeds(options)
    periods = load(options.data)
    tested = _parse_periods(options.periods or f"1-{periods.last}", periods.last)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:
        begun = 0
        task = progress.add_task("", total=len(seeds) * _step_count(names, tested))

        def tick(step: str, share: float) -> None:
            nonlocal begun
            begun += share == 0.0
            progress.update(task, completed=begun - 1 + share, description=step)

        results = {
            seed: run(
                periods,
                names,
                tested,
                options.work,
                sample=options.sample,
                sample_seed=options.sample_seed,
                tuning=Tuning(seed, options.rate, options.strength),
                tick=tick,
            )
            for seed in seeds
        }
    result = compare_seeds(results, BLEND)
    recorded = ("sample", "sample_seed", "rate", "strength")
    result["options"] = {**{name: getattr(options, name) for name in recorded}, "data_sha256": periods.digest}
    show(result, names)
    report.write(options.out, result)
    from benchmarks import picture

    picture.write(options.out.with_suffix(".svg"), picture.periods, result)


def _seeds(options: argparse.Namespace) -> list[int]:
    try:
        seeds = list(range(options.seeds)) if options.seeds is not None else [int(x) for x in options.seed.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise Misconfigured("--seed, --seeds: wanted different numbers like 0,1,2, or how many")
    return seeds


def _step_count(names: Sequence[str], tested: Sequence[int]) -> int:
    """Return the number of steps of a run with one seed."""
    named, every = _required_members(names), max(tested) if BLEND in names else len(tested)
    baselines = sum(name in BASELINES for name in named)
    return baselines * len(tested) + (len(named) - baselines + (BLEND in names)) * every


if __name__ == "__main__":
    report.run(main)
