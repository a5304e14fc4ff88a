"""Freshness: quality as a function of the delay of learning.

The evaluation is prequential, new items included (`benchmarks.prequential`), in contrast to the ADER protocol. For the
first curve the fast learners learn events late, and the blend its judged answers: late by a number of events on
DIGINETICA, whose files have no clock, and by time on Online Retail. The deep learner is then updated per period,
independent of the delay. For the second curve the deep learner is updated every so many events, or at the end of each
period, and the other learners are not late. A stretch begins with a model that was trained on all steps before it, and
with an untrained blend.

    python -m benchmarks.freshness --data diginetica_periods.tar.gz --retail online_retail.csv.gz --out FILE

FILE.svg beside FILE is a picture. The cost of an update counts if the update is inside the stretch. The first schedule
of `--every` ends after `--short` events, because it has many updates; all others have figures up to there, too, for
comparison.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from benchmarks import report
from benchmarks.basket import load as load_baskets
from benchmarks.contestants import Answers
from benchmarks.continual import BLEND, figures
from benchmarks.periods import Periods, load
from benchmarks.prequential import (
    DeepLearner,
    LoggedStep,
    Stretch,
    base_passes,
    blend_ranks,
    clicks,
    cost,
    deep_answers,
    fast_answers,
    lines,
)
from benchmarks.registry import DEEP
from headrace.errors import Misconfigured
from learners.next_item.members import KINDS

LATE_MS: Final = {"0": 0, "1 minute": 60_000, "1 hour": 3_600_000, "1 day": 86_400_000, "1 week": 7 * 86_400_000}
PER_PERIOD: Final = "period"
NEVER: Final = "never"
"""Schedules of the deep learner in addition to a number of events."""
score: Final = "recall@20"

AnswersByDelay = dict[str, dict[str, Answers]]
"""Per delay, the answers of each member."""
Parts = Mapping[str, range]
"""Ranges of rows for which figures are reported, by name."""


def figures_by_part(ranks: NDArray[np.int32], parts: Parts) -> dict[str, Any]:
    """Return the figures of each part."""
    return {name: figures(ranks[rows.start : rows.stop]) for name, rows in parts.items()}


def fast_by_delay(
    stretch: Stretch, learned: Mapping[str, NDArray[np.int64]], bars: Progress
) -> tuple[AnswersByDelay, dict[str, float]]:
    """Return per delay the answers of each fast learner, and the mean seconds per delay of each learner."""
    task = bars.add_task("fast learners", total=len(KINDS))
    answers: AnswersByDelay = {name: {} for name in learned}
    seconds = {}
    for kind, make in KINDS.items():
        found, seconds[kind] = fast_answers(make, stretch, learned)
        for name, answer in found.items():
            answers[name][kind] = answer
        bars.advance(task)
    return answers, seconds


def figures_by_delay(
    answers: AnswersByDelay, stretch: Stretch, learned: Mapping[str, NDArray[np.int64]], parts: Parts
) -> dict[str, Any]:
    """Return per delay the figures of each member and of the blend."""
    result = {}
    for name, by_member in answers.items():
        ranks = {member: answer.ranks for member, answer in by_member.items()}
        ranks[BLEND] = blend_ranks(by_member, stretch, learned[name])
        result[name] = {member: figures_by_part(found, parts) for member, found in ranks.items()}
    return result


def edges(stretch: Stretch, every: str, ends: Sequence[int]) -> list[int]:
    """Return where the parts of a stretch begin; before each part but the first the deep learner is updated.

    Args:
        ends: the first steps of periods.
    """
    last = len(stretch.steps)
    if every == NEVER:
        return [stretch.start]
    if every == PER_PERIOD:
        return [stretch.start, *(end for end in ends if stretch.start < end < last)]
    return list(range(stretch.start, last, int(every)))


def deep_by_schedule(
    base: DeepLearner, stretch: Stretch, schedules: Sequence[str], ends: Sequence[int], short: Stretch, bars: Progress
) -> dict[str, tuple[Answers, dict[str, Any]]]:
    """Return the deep learner's answers under each schedule, and the cost of the updates.

    The first schedule covers only the `short` stretch.
    """
    task = bars.add_task("deep learner", total=len(schedules))
    found = {}
    for number, every in enumerate(schedules):
        learner, part = base.fork(), stretch if number else short
        answers = deep_answers(learner, part, edges(part, every, ends), lambda begin, end, ranks: True)
        found[every] = answers, cost(learner)
        bars.advance(task)
    return found


def run_periods(
    periods: Periods, first: int, options: argparse.Namespace, base: DeepLearner, bars: Progress
) -> dict[str, Any]:
    """Compute both curves on periods, starting at the first step of a period.

    Args:
        base: an untrained deep learner.
    """
    steps = list(clicks(periods, periods.last))
    ends = np.cumsum([len(found) for found in periods.clicks]).tolist()
    start = ends[first - 1]
    steps = steps[: start + options.events]
    stretch = Stretch(steps, start, rate=options.rate, seed=options.seed)
    short = Stretch(steps[: start + options.short], start, rate=options.rate, seed=options.seed)
    # The seed gives the same first numbers for a shorter stretch, so the same steps are tested.
    assert (stretch.asked[: len(short.asked)] == short.asked).all()
    parts = {"whole": stretch.rows(start, len(steps)), "short": stretch.rows(start, start + options.short)}
    parts["second_half"] = stretch.rows((start + len(steps)) // 2, len(steps))
    key = f"{periods.digest[:16]} up to step {start}, {base_passes} passes, seed {options.seed}"
    base.begin(steps[:start], options.base, key)
    schedules = [*options.every.split(","), PER_PERIOD, NEVER]
    deep = deep_by_schedule(base, stretch, schedules, ends, short, bars)
    learned = {f"{events}": stretch.by_events(events) for events in (0, *map(int, options.late.split(",")))}
    answers, seconds = fast_by_delay(stretch, learned, bars)
    result: dict[str, Any] = {}
    for every, (answer, spent) in deep.items():
        part = short if every == schedules[0] else stretch
        held = {name: rows for name, rows in parts.items() if rows.stop <= len(answer.ranks)}
        ranks = {DEEP: answer.ranks, BLEND: blend_ranks({**answers["0"], DEEP: answer}, part, learned["0"])}
        result[every] = {**spent, **{name: figures_by_part(found, held) for name, found in ranks.items()}}
    for by_member in answers.values():
        by_member[DEEP] = deep[PER_PERIOD][0]
    return {
        "late": figures_by_delay(answers, stretch, learned, parts), "seconds": seconds, "updated": result,
        "events": len(steps) - start, "asked": len(stretch.asked),
    }  # fmt: skip


def run_retail(steps: Sequence[LoggedStep], options: argparse.Namespace, bars: Progress) -> dict[str, Any]:
    """Compute the curve of the fast learners on the last lines of baskets."""
    start = max(0, len(steps) - options.events)
    stretch = Stretch(steps, start, rate=options.rate, seed=options.seed, once=True)
    parts = {
        "whole": stretch.rows(start, len(steps)),
        "second_half": stretch.rows((start + len(steps)) // 2, len(steps)),
    }
    learned = {name: stretch.by_clock(late_ms) for name, late_ms in LATE_MS.items()}
    answers, seconds = fast_by_delay(stretch, learned, bars)
    return {
        "late": figures_by_delay(answers, stretch, learned, parts), "seconds": seconds,
        "events": len(steps) - start, "asked": len(stretch.asked),
    }  # fmt: skip


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.parser("Quality as a function of the delay of learning.")
    parser.set_defaults(out=Path("build/freshness.json"))
    report.add_data(parser)
    parser.add_argument("--retail", type=Path, help="Online Retail's CSV file, plain or gzipped (default: left out)")
    parser.add_argument("--first", type=int, default=3, help="period that the stretch begins with")
    parser.add_argument(
        "--events", type=int, default=100_000, help="length of the stretch, and number of Online Retail's last lines"
    )
    parser.add_argument("--short", type=int, default=15_000, help="length of the stretch for the most frequent updates")
    parser.add_argument("--late", default="0,100,1000,10000,100000", help="delays of the fast learners, in events")
    parser.add_argument("--every", default="1000,10000,100000", help="events after which the deep learner is updated")
    parser.add_argument("--rate", type=float, default=0.05, help="share of the steps that are tested")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample and of the deep learner")
    parser.add_argument("--base", type=Path, help="file of the model with which the stretch begins; made if missing")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None) -> None:
    """Run from the command line."""
    options = _options(arguments)
    numbers = [options.events, options.short, *options.late.split(","), *options.every.split(",")]
    if not all(f"{number}".isdigit() for number in numbers) or not 0 < options.short <= options.events:
        raise Misconfigured("--events, --short, --late, --every: wanted whole numbers, --short at most --events")
    if "0" in options.every.split(",") or not 0 < options.rate <= 1:
        raise Misconfigured("wanted --every above 0, and --rate above 0, at most 1")
    periods = load(options.data)
    if not 1 <= options.first <= periods.last:
        raise Misconfigured(f"--first: wanted a period from 1 to {periods.last}, found {options.first}")
    from learners.deep.model import threads

    with Progress(console=Console(file=sys.stderr)) as bars, threads(1):
        result = {"periods": run_periods(periods, options.first, options, DeepLearner(seed=options.seed), bars)}
        if options.retail:
            result["retail"] = run_retail(list(lines(load_baskets(options.retail))), options, bars)
    named = ("first", "events", "short", "rate", "seed")
    result["options"] = {**{name: getattr(options, name) for name in named}, "data_sha256": periods.digest}
    show(result)
    report.write(options.out, result)
    from benchmarks import picture

    picture.write(options.out.with_suffix(".svg"), picture.freshness, result)


def show(result: Mapping[str, Any]) -> None:
    """Print Recall@20 per delay and, for the deep learner, per update schedule."""
    for name in ("periods", "retail"):
        if name in result:
            found = result[name]["late"]
            members = list(next(iter(found.values())))
            rows = [
                [late, *(f"{100 * of[member]['whole'][score]:.2f}" for member in members)] for late, of in found.items()
            ]
            title = f"{score} in % on {name}, by delay of learning ({result[name]['asked']:,} predictions)"
            report.show(title, ["delay", *members], rows)
    rows = []
    for every, of in result["periods"]["updated"].items():
        scores = [
            f"{100 * of[name][part][score]:.2f}" if part in of[name] else "-"
            for name in (DEEP, BLEND)
            for part in ("whole", "short")
        ]
        rows.append([every, *scores, f"{of['updates']}", f"{of['tokens']:,}", f"{of['seconds']:.0f}"])
    columns = ["every", DEEP, "short", BLEND, "short", "updates", "tokens", "s"]
    report.show(f"{score} in %, by events between updates of the deep learner", columns, rows)


if __name__ == "__main__":
    report.run(main)
