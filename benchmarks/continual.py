"""Continual learning by the ADER protocol: learn period by period, test on the next one. See `benchmarks.periods`.

Nothing at all is learned inside a test period. Each member learns the periods before t, then answers the questions of
t; only after all of them are answered does anyone see t: the members learn its clicks, and the blend learns its weights
from the answers that were given on it. Ranks are among all items seen, clicked ones included; ties count against us.

    python -m benchmarks.continual --data DIR --learners popularity,transitions,session_knn --out FILE

On 2 cores and the 16 DIGINETICA periods the fast learners take about 5 minutes.

A run can be stopped and started again: under `--work` each learner keeps its state and its answers per period, in a
folder named by a digest of data, options and the learners' code, so that changed code never meets old answers.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks import report
from benchmarks.contestants import Answers, Contestant, Deep, Fast
from benchmarks.periods import Periods, Question, load
from headrace import state
from headrace.errors import Misconfigured
from learners.blend import Blend
from learners.learner import rank
from learners.popularity import Popularity
from learners.prequential import ranking_scores, ranks_max
from learners.revisits import Revisits
from learners.session_knn import SessionKnn
from learners.transitions import Transitions

BLEND: Final = "blend"
DEEP: Final = "deep"
MAKERS: Final[Mapping[str, Callable[[int], Contestant]]] = {
    "popularity": lambda seed: Fast(lambda: Popularity(half_life_ms=None)),
    "transitions": lambda seed: Fast(Transitions),
    "session_knn": lambda seed: Fast(SessionKnn),
    "revisits": lambda seed: Fast(Revisits),
    DEEP: Deep,
}
"""How each member is made from a seed; in the order of the blend's members. Popularity counts plainly, as papers do."""
LEARNERS: Final = (*MAKERS, BLEND)
REPORTED: Final = ("popularity", "transitions", "session_knn", DEEP, BLEND)
blend_judged_max: Final = 20_000
"""Answers of one period from which the blend learns, at most: as live, a part of them says enough."""

Figures = dict[str, float]
Tick = Callable[[str, float], None]


def silent(step: str, share: float) -> None:
    """Show no progress."""


class Member:
    """One learner's way through the periods, kept in a folder: resumable between and within periods.

    `seconds` are spent on learning and on answering, over all runs.
    """

    def __init__(self, name: str, folder: Path, contestant: Contestant) -> None:
        self.name, self.folder, self.contestant = name, folder, contestant
        self.learned = -1
        self.seconds = {"learn": 0.0, "answer": 0.0}
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state").exists():
            kept = state.decode((folder / "state").read_bytes())
            self.contestant.restore(kept["contestant"])
            self.learned, self.seconds = kept["learned"], kept["seconds"]

    def answers(
        self, questions: Sequence[Question], periods: Periods, period: int, progress: Callable[[float], None]
    ) -> Answers:
        """Return the answers to a period's questions, after learning all periods before it."""
        path = self.folder / f"period_{period}.npz"
        if not path.exists():
            assert self.learned < period, f"{self.name} has learned period {self.learned}: too late to test on {period}"
            while self.learned < period - 1:
                self._learn(periods, progress)
            began = time.perf_counter()
            parts = list(self.contestant.answer(questions, periods, period))
            self.seconds["answer"] += time.perf_counter() - began
            self._keep()
            _write(path, lambda file: np.savez(file, **_join(parts)._asdict()))
        with np.load(path, allow_pickle=False) as kept:
            return Answers(**{name: kept[name] for name in Answers._fields})

    def _learn(self, periods: Periods, progress: Callable[[float], None]) -> None:
        began = time.perf_counter()
        self.contestant.learn(periods, self.learned + 1, progress)
        self.learned += 1
        self.seconds["learn"] += time.perf_counter() - began
        self._keep()

    def _keep(self) -> None:
        kept = {"contestant": self.contestant.state(), "learned": self.learned, "seconds": self.seconds}
        _write(self.folder / "state", lambda file: file.write(state.encode(kept)))


def blended(
    blend: Blend, answers: Mapping[str, Answers], questions: Sequence[Question], others: int
) -> np.ndarray[Any, Any]:
    """Return the ranks of the true items in the blend of the members' lists; items on no list tie for last."""
    ranks = np.empty(len(questions), np.int32)
    for row, (prefix, item) in enumerate(questions):
        scores = blend.predict({name: answer.list(row) for name, answer in answers.items()}, len(prefix))
        ranks[row] = rank(scores, item, others)
    return ranks


def teach(blend: Blend, answers: Mapping[str, Answers], questions: Sequence[Question], seed: Sequence[int]) -> None:
    """Let the blend learn from a seeded part of a period's answers, in their order, once all of them were given."""
    size = min(len(questions), blend_judged_max)
    for row in np.sort(np.random.default_rng(seed).choice(len(questions), size, replace=False)).tolist():
        prefix, item = questions[row]
        blend.learn({name: answer.list(row) for name, answer in answers.items()}, len(prefix), item)


def figures(ranks: np.ndarray[Any, Any]) -> Figures:
    """Return Recall, MRR and NDCG at 10 and 20, as fractions, and the number of predictions."""
    weights = np.bincount(np.where(ranks > ranks_max, 0, ranks), minlength=ranks_max + 1).astype(np.float64)
    return {**ranking_scores(weights), "predictions": len(ranks)}


def run(
    periods: Periods,
    learners: Sequence[str],
    tested: Sequence[int],
    work: Path,
    *,
    sample: float = 1.0,
    seed: int = 0,
    makers: Mapping[str, Callable[[int], Contestant]] = MAKERS,
    tick: Tick = silent,
) -> dict[str, Any]:
    """Run the protocol and return its figures.

    Args:
        learners: names of members, and "blend": it has all members, but the deep one only if that is named too.
        tested: periods to report. All up to the last of them are answered, for the blend learns from each.
        work: folder for states and answers.
        tick: told each step, and the share done of it, from 0 when it begins.
    """
    named = _members(learners, makers)
    members = [Member(name, work / _fingerprint(periods, sample, seed, name), makers[name](seed)) for name in named]
    blend = Blend(named)
    seconds = {BLEND: {"learn": 0.0, "answer": 0.0}}
    found: dict[str, dict[str, Figures]] = {}
    for period in range(1, max(tested) + 1):
        questions = periods.questions(period, sample, seed)
        answers: dict[str, Answers] = {}
        for member in members:
            step = partial(tick, f"period {period}: {member.name}")
            step(0.0)
            answers[member.name] = member.answers(questions, periods, period, step)
        ranks = {name: answer.ranks for name, answer in answers.items()}
        if BLEND in learners:
            tick(f"period {period}: {BLEND}", 0.0)
            began = time.perf_counter()
            ranks[BLEND] = blended(blend, answers, questions, periods.seen[period] - 1)
            answered = time.perf_counter()
            teach(blend, answers, questions, [seed, period])
            seconds[BLEND]["answer"] += answered - began
            seconds[BLEND]["learn"] += time.perf_counter() - answered
        if period in tested:
            found[str(period)] = {name: figures(ranks[name]) for name in ranks if name in learners}
    seconds.update({member.name: member.seconds for member in members})
    return {
        "periods": found,
        "mean": _mean(found),
        "tokens": {member.name: member.contestant.tokens for member in members if member.contestant.tokens},
        "seconds": {name: spent for name, spent in seconds.items() if name in learners},
    }


def _members(learners: Sequence[str], makers: Iterable[str] = MAKERS) -> list[str]:
    """Return whose answers are needed for the learners named.

    >>> _members(["popularity"]), _members(["transitions", "blend"])
    (['popularity'], ['popularity', 'transitions', 'session_knn', 'revisits'])
    """
    blended = BLEND in learners
    return [name for name in makers if name in learners or (blended and name != DEEP)]


def _mean(found: Mapping[str, Mapping[str, Figures]]) -> dict[str, Figures]:
    """Return the plain mean over periods, and all predictions."""
    every = list(found.values())
    means = {}
    for name in every[0]:
        columns = {key: [period[name][key] for period in every] for key in every[0][name]}
        means[name] = {key: sum(column) / len(column) for key, column in columns.items()}
        means[name]["predictions"] = sum(columns["predictions"])
    return means


def _fingerprint(periods: Periods, sample: float, seed: int, name: str) -> str:
    """Return a member's folder: its name and a digest of all that its answers follow from."""
    root = Path(__file__).parent.parent
    code = ["benchmarks/contestants", "benchmarks/periods", "learners/learner", f"learners/{name}"]
    code += ["learners/finetune", "learners/rehearsal"] if name == DEEP else ["learners/decay"]
    texts = [(root / f"{module}.py").read_bytes() for module in code if (root / f"{module}.py").exists()]
    told = json.dumps([periods.digest, sample, seed, [hashlib.sha256(text).hexdigest() for text in texts]])
    return f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def _join(parts: Iterable[Answers]) -> Answers:
    return Answers(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _write(path: Path, write: Callable[[Any], object]) -> None:
    beside = path.with_name(path.name + ".partial")
    with beside.open("wb") as file:
        write(file)
    os.replace(beside, path)


def _chosen(text: str, last: int) -> list[int]:
    """Return the periods that a text like "1-4,8" names.

    >>> _chosen("1-3,8", 16)
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


def _named(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in LEARNERS:
            raise Misconfigured(f"--learners: wanted some of {', '.join(LEARNERS)}, found {name!r}")
    return names


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.parser("Continual learning by the ADER protocol")
    parser.add_argument("--data", type=Path, required=True, help="folder of period_*.txt with lines `session item`")
    parser.add_argument("--learners", default=",".join(REPORTED), help="names, separated by commas")
    parser.add_argument("--periods", help="periods to report, like 1-4,8 (default: all)")
    parser.add_argument("--sample", type=float, default=1.0, help="share of the sessions to test")
    parser.add_argument("--seed", type=int, default=0, help="of the sample and of the learners")
    parser.add_argument("--work", type=Path, default=Path("build/continual"), help="folder for what a run keeps")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None) -> None:
    """Run from the command line."""
    options = _options(arguments)
    if not 0 < options.sample <= 1:
        raise Misconfigured(f"--sample: wanted a share above 0, at most 1, found {options.sample}")
    names = _named(options.learners)
    periods = load(options.data)
    tested = _chosen(options.periods or f"1-{periods.last}", periods.last)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:
        begun: list[str] = []
        task = progress.add_task("", total=max(tested) * (len(_members(names)) + (BLEND in names)))

        def tick(step: str, share: float) -> None:
            if share == 0.0:
                begun.append(step)
            progress.update(task, completed=len(begun) - 1 + share, description=step)

        result = run(periods, names, tested, options.work, sample=options.sample, seed=options.seed, tick=tick)
    result["options"] = {"sample": options.sample, "seed": options.seed, "data_sha256": periods.digest}
    show(result, names)
    report.write(options.out, result)


def show(result: Mapping[str, Any], names: Sequence[str]) -> None:
    """Print Recall@20 / MRR@20 in percent per period, and the mean of all scores."""
    rows = [
        [period, *(f"{100 * of[name]['recall@20']:.2f} / {100 * of[name]['mrr@20']:.2f}" for name in names)]
        for period, of in (*result["periods"].items(), ("mean", result["mean"]))
    ]
    report.show("Recall@20 / MRR@20 in % per period", ["period", *names], rows)
    scores = [score for score in result["mean"][names[0]] if score != "predictions"]
    report.show(
        "Mean over periods, in %",
        ["learner", *scores, "predictions", "learn s", "answer s", "tokens"],
        [
            [
                name,
                *(f"{100 * result['mean'][name][score]:.2f}" for score in scores),
                f"{result['mean'][name]['predictions']:,}",
                *(f"{result['seconds'][name][part]:.1f}" for part in ("learn", "answer")),
                f"{result['tokens'].get(name, 0):,}",
            ]
            for name in names
        ],
    )


if __name__ == "__main__":
    report.run(main)
