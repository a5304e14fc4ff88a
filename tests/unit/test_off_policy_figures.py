"""Off-policy estimates where the truth is known: in the benchmark's simulated shop, and on a real data set."""

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.off_policy import World, logged, truths
from benchmarks.open_bandit import FILES, compare
from operators.evaluation.single import DEFAULT, Choices, evaluate


@pytest.mark.slow
@pytest.mark.parametrize(("logger", "target", "reward"), [("soft", "best", "click"), ("uniform", "best", "revenue")])
def test_intervals_cover_the_truth_in_200_shops(logger: str, target: str, reward: str) -> None:
    world = World()
    truth, covered = truths(world, 200_000)[target, reward], 0
    for seed in range(200):
        log = logged(world, logger, 1_000, np.random.default_rng([7, seed]))
        wanted = world.target(target, log.context)
        found = evaluate([Choices(log.shopper, log.action, log.rewards[reward], log.logged, wanted, log.context)])
        covered += found.estimates[DEFAULT].low <= truth <= found.estimates[DEFAULT].high
    assert covered >= 0.93 * 200


def test_policies_of_open_bandit_agree_with_each_other() -> None:
    folder = Path(os.environ.get("HEADRACE_DATA", ""))
    if not all((folder / name).exists() for name in FILES.values()):
        pytest.skip(f"needs HEADRACE_DATA: a folder that holds {', '.join(FILES.values())}")
    for of in compare(folder).values():
        for name in ("ips", "snips", "dr", "switch", "shrinkage"):
            assert of["estimates"][name]["low"] <= of["own_mean"] <= of["estimates"][name]["high"]
        assert of["warnings"] == ["few"]
    random = compare(folder)["random"]
    # zcat FILE | awk -F, "NR>1 && $5==1 {s+=1/34/$6} END {print s/10000}" of the log of Thompson sampling
    assert random["own_mean"] == 0.0046
    assert random["estimates"]["ips"]["value"] == pytest.approx(0.0030086263, abs=1e-9)
