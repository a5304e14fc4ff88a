"""Rehearsal rules: memories of past sessions, distillation and consolidation, at equal memory and tokens.

    python -m benchmarks.rehearsal_rules --data DIR --memory 5000 --seed 0,1,2 --out FILE

All rules continue from one model, trained on period 0, by rounds like those of the live system: a few passes over the
newest period and, divided among the passes, sessions drawn from those that the rule kept (`benchmarks.exemplars`). The
number of rehearsed predictions of a round is the same for all: it corresponds to sessions of average length, as many as
there are new ones in all passes, but at most as many as the memory may hold, or as there were. `none` sees more of the
newest period instead. The live rule is `recency`. In addition to the rules:

- `recency+distillation`: the rehearsed sessions teach only the predictions of the model before the round, not the
  true items; `herding+distillation` is then close to ADER;
- `recency+ewc`: rehearsal and elastic weight consolidation (`benchmarks.baselines.Ewc`).

After learning period i a model is tested on period i + 1 and all earlier ones, as in `benchmarks.retention`, whose drop
is shown; an earlier period has been trained on by then. The mean is over the periods from 2 on: on period 1 all use the
same model. A run can be stopped and started again: figures are kept under `--work` per rule and seed.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, Final, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks import report, sources
from benchmarks.comparison import SHOWN
from benchmarks.contestants import Deep, Tuning, model_ranks
from benchmarks.continual import figures
from benchmarks.exemplars import MEMORIES
from benchmarks.periods import Periods, load
from benchmarks.rehearsers import Consolidator, Distiller, Rehearser
from benchmarks.resumable import write
from benchmarks.retention import drops
from headrace.errors import Misconfigured
from learners.deep.model import DeepModel


class Rule(NamedTuple):
    """A row of the table: the memory and the kind of training."""

    memory: str
    kind: type[Rehearser] = Rehearser


RULES: Final[Mapping[str, Rule]] = {
    **{name: Rule(name) for name in MEMORIES},
    "recency+distillation": Rule("recency", Distiller),
    "herding+distillation": Rule("herding", Distiller),
    "recency+ewc": Rule("recency", Consolidator),
}


class Trial(NamedTuple):
    """Settings that all rules of a run share: the periods, the last one to test, the sample, and the memory's size."""

    periods: Periods
    last: int
    sample: float = 1.0
    sample_seed: int = 0
    sessions_max: int = 5_000
    options: Mapping[str, Any] = {}
    """Options of the contestants, such as smaller networks."""


def first_model(trial: Trial, seed: int) -> DeepModel:
    """Return the model with which every rule begins: the result of the deep learner's first round."""
    start = Deep(Tuning(seed), **trial.options)
    start.learn(trial.periods, 0, lambda share: None)
    assert start.model is not None, "a round leaves a model"
    return start.model


def measure_rule(trial: Trial, name: str, seed: int, first: DeepModel) -> dict[str, Any]:
    """Return the figures of one rule: of each model on the next period, and of the last model on every period."""
    rule, periods = RULES[name], trial.periods
    memory = MEMORIES[rule.memory](seed, trial.sessions_max)
    contestant = rule.kind(Tuning(seed), first, memory, trial.sessions_max, **trial.options)
    tokens, seconds = [], []
    newest: list[dict[str, float]] = []
    every: list[dict[str, float]] = []
    for update in range(trial.last):
        began = time.perf_counter()
        tokens.append(contestant.learn(periods, update, lambda share: None).tokens)
        seconds.append(time.perf_counter() - began)
        assert contestant.model is not None, "a round leaves a model"
        for period in range(1 if update == trial.last - 1 else update + 1, update + 2):
            questions = periods.questions(period, trial.sample, trial.sample_seed)
            every.append(figures(model_ranks(contestant.model, questions, periods, period)))
        newest.append(every[-1])
    last = every[-trial.last :]
    return {
        "periods": {score: [of[score] for of in newest] for score in SHOWN},
        "last": {score: [of[score] for of in last] for score in SHOWN},
        "tokens": tokens[1:],
        "seconds": seconds[1:],
        "kept": len(memory.kept()),
    }


def summarise(found: Mapping[str, Any]) -> dict[str, float]:
    """Return the means of one rule's figures over the periods tested from 2 on, its drops, and its cost."""
    summary: dict[str, float] = {}
    for score in SHOWN:
        matrix = np.diag(found["periods"][score])
        matrix[-1] = found["last"][score]
        summary[score] = fmean(found["periods"][score][1:])
        summary[f"drop {score}"] = drops(matrix)[0]
    return {**summary, "tokens": sum(found["tokens"]), "seconds": sum(found["seconds"])}


def over_seeds(seeds: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Return the mean and the spread (the population's standard deviation) of a rule's summary over seeds."""
    summaries = [summarise(of[name]) for of in seeds.values()]
    return {
        **{key: fmean(of[key] for of in summaries) for key in summaries[0]},
        "spread": {
            key: pstdev([of[key] for of in summaries]) for key in summaries[0] if key not in ("tokens", "seconds")
        },
    }


def folder_of(work: Path, trial: Trial, seed: int) -> Path:
    """Return the folder of one seed, named by a digest of data, options and code; make it if it is missing."""
    inputs = [trial.periods.digest, trial.last, trial.sample, trial.sample_seed, trial.sessions_max, seed]
    inputs.append(sources.digest("benchmarks.rehearsers", "learners.deep.train"))
    folder = work / hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run(trial: Trial, rules: Sequence[str], seeds: Sequence[int], work: Path) -> dict[str, Any]:
    """Measure rules with each seed and return all figures."""
    found: dict[str, dict[str, Any]] = {}
    jobs = [(seed, name) for seed in seeds for name in rules]
    for seed, name in track(jobs, description="rules", console=Console(file=sys.stderr)):
        # The first model depends neither on the memory nor on the questions.
        start = folder_of(work, trial._replace(sessions_max=0, last=0, sample=1.0, sample_seed=0), seed) / "first"
        if not start.exists():
            write(start, first_model(trial, seed).to_bytes())
        path = folder_of(work, trial, seed) / f"{name}.json"
        if not path.exists():
            write(path, json.dumps(measure_rule(trial, name, seed, DeepModel.from_bytes(start.read_bytes()))).encode())
        found.setdefault(str(seed), {})[name] = json.loads(path.read_text())
    return {
        "rules": {name: over_seeds(found, name) for name in rules},
        "seeds": found,
        "options": {
            "memory": trial.sessions_max,
            "periods": list(range(2, trial.last + 1)),
            "sample": trial.sample,
            "sample_seed": trial.sample_seed,
            "data_sha256": trial.periods.digest,
        },
    }


def show(result: Mapping[str, Any]) -> None:
    """Print a row per rule."""
    several = len(result["seeds"]) > 1
    columns = [*SHOWN, *(f"drop {score}" for score in SHOWN)]
    rows = [
        [
            name,
            *(f"{100 * of[key]:.2f}" + f" ± {100 * of['spread'][key]:.2f}" * several for key in columns),
            f"{of['tokens']:,.0f}",
            f"{of['seconds']:,.0f}",
        ]
        for name, of in result["rules"].items()
    ]
    options = result["options"]
    title = (
        f"Memory of {options['memory']:,} sessions, periods {options['periods'][0]} to {options['periods'][-1]}, in %"
    )
    report.show(title, ["rule", *columns, "tokens", "seconds"], rows)


def main(arguments: Sequence[str] | None) -> None:
    """Run from the command line."""
    options = _options(arguments)
    names = options.rules.split(",")
    if unknown := [name for name in names if name not in RULES]:
        raise Misconfigured(f"--rules: wanted some of {', '.join(RULES)}, found {unknown[0]!r}")
    if not 0 < options.sample <= 1:
        raise Misconfigured(f"--sample: wanted a share above 0, at most 1, found {options.sample}")
    if options.memory < 1:
        raise Misconfigured(f"--memory: wanted at least 1 session, found {options.memory}")
    try:
        seeds = [int(seed) for seed in options.seed.split(",")]
    except ValueError as error:
        raise Misconfigured(f"--seed: wanted numbers like 0,1,2, found {options.seed!r}") from error
    periods = load(options.data)
    if not 2 <= options.periods <= periods.last:
        raise Misconfigured(f"--periods: wanted a number from 2 to {periods.last}, found {options.periods}")
    trial = Trial(periods, options.periods, options.sample, options.sample_seed, options.memory)
    result = run(trial, names, seeds, options.work)
    show(result)
    report.write(options.out, result)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.parser("Rehearsal rules at equal memory and tokens.")
    parser.set_defaults(out=Path("build/rehearsal_rules.json"))
    report.add_data(parser)
    parser.add_argument("--rules", default=",".join(RULES), help="names, separated by commas")
    parser.add_argument("--memory", type=int, default=5_000, help="most sessions that a rule may keep")
    parser.add_argument(
        "--periods", type=int, default=4, help="the last period to test; learning ends with the one before"
    )
    parser.add_argument("--seed", default="0", help="seed of the learners; several: 0,1,2")
    parser.add_argument("--sample", type=float, default=1.0, help="share of the sessions to test")
    parser.add_argument("--sample-seed", type=int, default=0, help="seed of the sample")
    parser.add_argument(
        "--work", type=Path, default=Path("build/rehearsal_rules"), help="folder for models and figures"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    report.run(main)
