"""Adapter of the exploration benchmark: Vowpal Wabbit's contextual bandits, in an environment of its own.

It reads a question (shops, seeds, policies by name) as JSON from standard input, and writes for each policy the choices
in each shop. Its own probabilities are sampled with the seed.
"""

import json
import sys
from typing import Any

import numpy as np


def chosen(arguments: str, shop: Any, seed: int) -> list[int]:
    """Return the choices of a policy in a shop."""
    import vowpalwabbit

    contexts, chances, luck = shop["contexts"], shop["chances"], shop["luck"]
    actions, is_adf = chances.shape[1], "adf" in arguments
    draws = np.random.default_rng(seed).random(len(luck))
    found = []
    with vowpalwabbit.Workspace(f"{arguments} --quiet --random_seed {seed + 1}") as policy:
        for number, context in enumerate(contexts.tolist()):
            values = " ".join(f"f{place}:{value}" for place, value in enumerate(context) if value)
            shared, menu = f"shared |s {values}", [f"|a a{action}" for action in range(actions)]
            likely = np.array(policy.predict([shared, *menu] if is_adf else f"|s {values}"))
            action = min(actions - 1, int((np.cumsum(likely / likely.sum()) <= draws[number]).sum()))
            found.append(action)
            label = f"{-float(luck[number] < chances[number, action])}:{likely[action]}"
            if is_adf:
                menu[action] = f"0:{label} {menu[action]}"
                policy.learn([shared, *menu])
            else:
                policy.learn(f"{action + 1}:{label} |s {values}")
    return found


def main() -> None:
    """Answer the question on standard input."""
    question = json.load(sys.stdin)
    shops = [dict(np.load(path)) for path in question["shops"]]
    found = {
        name: [chosen(arguments, shop, seed) for shop, seed in zip(shops, question["seeds"], strict=True)]
        for name, arguments in question["policies"].items()
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
