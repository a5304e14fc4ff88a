"""Contextual bandits in a drifting shop: the regret of exploring arms beside River's and Vowpal Wabbit's policies.

    python -m venv vw && vw/bin/pip install vowpalwabbit==9.11.9 numpy
    python -m benchmarks.exploration --vw vw/bin/python --out FILE

A simulated shop answers 6,000 times in ten days, with one of five rankers. Whether an answer is rewarded follows from
the ranker, from the context, which has the features of `headrace.policies`, and from what shoppers want just then: the
log-odds of each ranker are linear in the context, with coefficients that drift (an Ornstein-Uhlenbeck process with a
time constant of three days), and on day 5 two rankers exchange theirs. In the second world nothing drifts. About a
tenth of the answers are rewarded. The truth is known, so the regret of an answer is the chance of a reward that was
lost by not choosing the best ranker. Stated is its mean over all answers, as a share of that of choosing at random.

- ours: `learners.exploration.course.Course`, as the shard runs it, with servers that follow its policies: rewards are
  learned when their window (1 minute) is over, policies change at most once a minute, each ranker has the floor of
  0.01, and the gate may roll back. The floor and the delay are handicaps that rivals do not have. `default`: the
  half-life of 1 day, without an apprenticeship; `apprentice`: with it; `chosen`: the best of three half-lives.
- River: epsilon-greedy (which has no default: 0.1), Thompson sampling with a Beta distribution, and LinUCB with its
  defaults, and with the best of a few settings. Of these, only LinUCB knows contexts.
- Vowpal Wabbit: `--cb_explore` and `--cb_explore_adf` with their default exploration, and with two other ones that it
  has; contexts interact with actions (`-q sa`) where the learner does not do it by itself. It runs in an environment
  of its own, whose Python is given; without it, its rows are left out.

Settings are chosen on seeds from 100 on in the drifting world, as were the constants of our learner; all results are of
seeds 0 to 19. All policies meet the same contexts, truths and luck. It takes about ten minutes on one core.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks import report
from headrace.experiments import Explore
from headrace.policies import FEATURES, of_time
from learners.exploration.course import Course, Open
from learners.exploration.family import number_of
from learners.next_item.exploring import Exploring
from learners.parts.policies import Chooser

Floats = NDArray[np.float64]

RANKERS: Final = ("recommended", "trending", "popular", "session_knn", "new")
ROUNDS: Final = 6_000
DAYS: Final = 10.0
DAY_MS: Final = 86_400_000
START_MS: Final = 1_750_032_000_000
CHOOSING: Final = 100
"""The first of the seeds on which settings are chosen."""
WORLDS: Final = ("drifting", "stable")
time_constant_days: Final = 3.0


class World(NamedTuple):
    """A shop. Shapes: times_ms (T,), contexts (T, d), chances (T, K), luck (T,)."""

    times_ms: NDArray[np.int64]
    contexts: Floats
    chances: Floats
    luck: Floats

    def regret(self, chosen: Sequence[int]) -> float:
        """Return the regret of choices, as a share of that of choosing at random."""
        best = self.chances.max(axis=1)
        lost = (best - self.chances[np.arange(len(best)), list(chosen)]).mean()
        return float(lost / (best - self.chances.mean(axis=1)).mean())


def world(seed: int, kind: str) -> World:
    """Return the shop of a seed."""
    draw = np.random.default_rng(seed)
    actions, features = len(RANKERS), len(FEATURES)
    times_ms = START_MS + (np.arange(ROUNDS) * (DAYS * DAY_MS / ROUNDS)).astype(np.int64)
    visit = draw.geometric(0.35, ROUNDS) - 1
    columns = {
        "always": np.ones(ROUNDS), "visit": np.minimum(visit, 8) / 8, "first": visit == 0,
        "returning": draw.random(ROUNDS) < 0.4, "phone": draw.random(ROUNDS) < 0.6,
        "on_item": draw.random(ROUNDS) < 0.3, "deep": np.ones(ROUNDS),
    }  # fmt: skip
    clock = np.array([of_time(int(time_ms)) for time_ms in times_ms])
    columns |= {"hour_sin": clock[:, 0], "hour_cos": clock[:, 1], "weekend": clock[:, 2]}
    contexts = np.stack([np.asarray(columns[name], np.float64) for name in FEATURES], axis=1)
    own = draw.normal(size=(actions, features)) * 0.45
    common = draw.normal(size=features) * 0.3
    kept = math.exp(-DAYS / ROUNDS / time_constant_days)
    logits = np.empty((ROUNDS, actions))
    for number in range(ROUNDS):
        logits[number] = (own + common) @ contexts[number]
        if kind == "drifting":
            own = kept * own + draw.normal(size=own.shape) * 0.45 * math.sqrt(1 - kept * kept)
            if number == ROUNDS // 2:
                first, second = np.argsort(own @ contexts.mean(axis=0))[[0, -1]]
                own[[first, second]] = own[[second, first]]
    chances = 1 / (1 + np.exp(-(logits - logits.mean() - 2.4)))
    return World(times_ms, contexts, chances, draw.random(ROUNDS))


class Policy(Protocol):
    """Chooses and learns. `number` counts the answers."""

    def choose(self, number: int, time_ms: int, context: list[float]) -> int: ...

    def learn(self, number: int, action: int, reward: float) -> None: ...


def played(policy: Policy, shop: World) -> float:
    """Return the regret of a policy in a shop."""
    chosen = []
    for number, (time_ms, context) in enumerate(zip(shop.times_ms.tolist(), shop.contexts.tolist(), strict=True)):
        action = policy.choose(number, time_ms, context)
        policy.learn(number, action, float(shop.luck[number] < shop.chances[number, action]))
        chosen.append(action)
    return shop.regret(chosen)


class Ours:
    """An exploring arm, and the servers that follow it."""

    def __init__(self, seed: int, *, half_life_days: float = 1.0, agreement: float = 0.0) -> None:
        explore = Explore(rankers=RANKERS, window_minutes=1, half_life_days=half_life_days, agreement=agreement)
        self._course, self._seed, self._explore = Course("home", "new", explore), seed, explore
        self._versions = 0
        self._chooser: Chooser | None = None
        self.rollbacks = 0

    def choose(self, number: int, time_ms: int, context: list[float]) -> int:
        """Follow the newest policy."""
        for _ in self._course.settle(time_ms):
            pass
        stated = self._course.look(time_ms, self._versions + 1)
        if stated is not None:
            self._versions += 1
            self._chooser = Chooser(stated)
        name = f"{self._seed}/{number}"
        drawn = Exploring("home", "new", self._explore, self._chooser).draw(RANKERS, context, name)
        answer = Open(
            time_ms, number, drawn.action, len(RANKERS), drawn.probabilities[drawn.action], context,
            number_of(drawn.policy),
        )  # fmt: skip
        assert self._course.show(name, answer), "an answer of its own fits the arm"
        self._time_ms = time_ms
        return drawn.action

    def learn(self, number: int, action: int, reward: float) -> None:
        """Note a reward; it is learned when the window is over."""
        if reward:
            self._course.reward(f"{self._seed}/{number}", self._time_ms)


class Rivers:
    """A policy of River. Without a context it learns which ranker is best for all."""

    def __init__(self, policy: Any, *, contextual: bool) -> None:
        self._policy, self._contextual = policy, contextual
        self._context: dict[int, float] = {}
        self._actions = list(range(len(RANKERS)))

    def choose(self, number: int, time_ms: int, context: list[float]) -> int:
        """Pull."""
        if not self._contextual:
            return int(self._policy.pull(self._actions))
        self._context = dict(enumerate(context))
        return int(self._policy.pull(self._actions, context=self._context))

    def learn(self, number: int, action: int, reward: float) -> None:
        """Update."""
        if self._contextual:
            self._policy.update(action, self._context, reward)
        else:
            self._policy.update(action, reward)


class Same:
    """Always the same ranker."""

    def choose(self, number: int, time_ms: int, context: list[float]) -> int:
        """Return the present ranking."""
        return 0

    def learn(self, number: int, action: int, reward: float) -> None:
        """Learn nothing."""


def _epsilon(seed: int, epsilon: float) -> Policy:
    from river import bandit

    return Rivers(bandit.EpsilonGreedy(epsilon=epsilon, seed=seed), contextual=False)


def _thompson(seed: int) -> Policy:
    from river import bandit, proba

    return Rivers(bandit.ThompsonSampling(reward_obj=proba.Beta(), seed=seed), contextual=False)


def _lin_ucb(seed: int, alpha: float = 1.0, beta: float = 1.0) -> Policy:
    from river import bandit

    return Rivers(bandit.LinUCBDisjoint(alpha=alpha, beta=beta, seed=seed), contextual=True)


Make = Callable[[int], Policy]
OURS: Final = "ours"
FIXED: Final[dict[str, Make]] = {
    "the present ranking": lambda seed: Same(),
    f"{OURS}, default": Ours,
    f"{OURS}, apprentice": lambda seed: Ours(seed, agreement=0.8),
    "River epsilon-greedy 0.1": lambda seed: _epsilon(seed, 0.1),
    "River Thompson, Beta": _thompson,
    "River LinUCB, default": _lin_ucb,
}
CHOSEN: Final[dict[str, dict[str, Make]]] = {
    f"{OURS}, chosen": {
        f"half-life {days:g} days": (lambda seed, days=days: Ours(seed, half_life_days=days))  # type: ignore[misc]
        for days in (0.5, 1, 2)
    },
    "River LinUCB, chosen": {
        f"alpha {alpha:g}, beta {beta:g}": (
            lambda seed, of=(alpha, beta): _lin_ucb(seed, *of)  # type: ignore[misc]
        )
        for alpha, beta in ((1.0, 1.0), (1.0, 10.0))
    },
}
VW: Final = {
    "VW --cb_explore": "--cb_explore 5",
    "VW --cb_explore_adf": "--cb_explore_adf -q sa",
    "VW --cb_explore_adf --squarecb": "--cb_explore_adf --squarecb -q sa",
    "VW --cb_explore_adf --bag 5": "--cb_explore_adf --bag 5 -q sa",
}


def vw_regrets(interpreter: Path, shops: Sequence[World], seeds: Sequence[int]) -> dict[str, list[float]]:
    """Return the regret of Vowpal Wabbit's policies in each shop.

    Raises:
        RuntimeError: the adapter failed; its standard error is shown.
    """
    root = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as name:
        paths = []
        for number, shop in enumerate(shops):
            paths.append(str(Path(name) / f"{number}.npz"))
            np.savez(paths[-1], contexts=shop.contexts, chances=shop.chances, luck=shop.luck)
        question = json.dumps({"shops": paths, "seeds": list(seeds), "policies": VW})
        done = subprocess.run(
            [str(interpreter), "-m", "benchmarks.exploration_vw"], input=question, text=True, check=False,
            stdout=subprocess.PIPE, cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{interpreter} -m benchmarks.exploration_vw: ended with code {done.returncode}")
    chosen: dict[str, list[list[int]]] = json.loads(done.stdout)
    return {name: [shop.regret(one) for shop, one in zip(shops, of, strict=True)] for name, of in chosen.items()}


def _mean(regrets: Sequence[float]) -> tuple[float, float]:
    """Return the mean, and its standard error."""
    error = float(np.std(regrets, ddof=1)) / math.sqrt(len(regrets)) if len(regrets) > 1 else 0.0
    return float(np.mean(regrets)), error


def _regret(task: tuple[str, str, str, int]) -> float:
    """Return the regret of a policy, by its name and setting, in the world of a kind and a seed."""
    name, setting, kind, seed = task
    make = CHOSEN[name][setting] if setting else FIXED[name]
    return played(make(seed), world(seed, kind))


def measure(
    vw: Path | None, seeds: int, choosing: int, jobs: int, progress: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Yield the settings that were chosen, and the regret of each policy by world and seed, after each world."""
    figures: dict[str, Any] = {"chosen": {}, "regret": {}}
    with ProcessPoolExecutor(jobs) as pool:
        for name, settings in CHOSEN.items():
            progress(f"choosing: {name}")
            means = {}
            for setting in settings:
                tasks = [(name, setting, "drifting", CHOOSING + seed) for seed in range(choosing)]
                means[setting] = float(np.mean(list(pool.map(_regret, tasks))))
            figures["chosen"][name] = min(means, key=means.__getitem__)
        for kind in WORLDS:
            regrets: dict[str, list[float]] = {}
            for name in (*FIXED, *CHOSEN):
                progress(f"{kind}: {name}")
                tasks = [(name, figures["chosen"].get(name, ""), kind, seed) for seed in range(seeds)]
                regrets[name] = list(pool.map(_regret, tasks))
            if vw:
                progress(f"{kind}: Vowpal Wabbit")
                regrets |= vw_regrets(vw, [world(seed, kind) for seed in range(seeds)], range(seeds))
            figures["regret"][kind] = regrets
            yield figures


def show(figures: Mapping[str, Any]) -> None:
    """Print a table: mean regret of each policy, in how many seeds ours is below it."""
    names = list(figures["regret"][WORLDS[0]])
    ours = figures["regret"][WORLDS[0]][f"{OURS}, default"]
    rows, worlds = [], [kind for kind in WORLDS if kind in figures["regret"]]
    for name in sorted(names, key=lambda one: np.mean(figures["regret"][WORLDS[0]][one])):
        cells = ["{:.3f} ± {:.3f}".format(*_mean(figures["regret"][kind][name])) for kind in worlds]
        below = sum(one < other for one, other in zip(ours, figures["regret"][WORLDS[0]][name], strict=True))
        setting = figures["chosen"].get(name, "")
        rows.append([f"{name} {setting}".strip(), *cells, "" if name.startswith(OURS) else f"{below} of {len(ours)}"])
    columns = ("policy", *worlds, "seeds in which our default is below it (drifting)")
    report.show("Regret as a share of that of choosing at random", columns, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser: argparse.ArgumentParser = report.parser(__doc__ or "")
    parser.add_argument("--vw", type=Path, help="Python of the environment of Vowpal Wabbit")
    parser.add_argument("--seeds", type=int, default=20, help="number of seeds that are judged")
    parser.add_argument("--choosing", type=int, default=4, help="number of seeds on which settings are chosen")
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    args = parser.parse_args(arguments)
    progress = partial(print, file=sys.stderr, flush=True)
    for figures in measure(args.vw, args.seeds, args.choosing, args.jobs, progress):
        show(figures)
        report.write(args.out, figures)


if __name__ == "__main__":
    main()
