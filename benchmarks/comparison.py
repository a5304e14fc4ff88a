"""What the runs of the continual benchmark say together: means and spread over seeds, and who is above whom."""

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any, Final

from benchmarks import report

Figures = dict[str, float]
SHOWN: Final = ("recall@20", "mrr@20")


def mean(found: Mapping[str, Mapping[str, Figures]]) -> dict[str, Figures]:
    """Return the plain mean over periods, and all predictions."""
    every = list(found.values())
    means = {}
    for name in every[0]:
        columns = {key: [period[name][key] for period in every] for key in every[0][name]}
        means[name] = {key: fmean(column) for key, column in columns.items()}
        means[name]["predictions"] = sum(columns["predictions"])
    return means


def compared(results: Mapping[int, Mapping[str, Any]], against: str) -> dict[str, Any]:
    """Return the mean over seeds of all figures, the spread of the means, and what one learner is above the others.

    Args:
        results: of `benchmarks.continual.run`, per seed.
        against: the learner that the others are compared with; where it took no part nothing is.

    The spread is the population's standard deviation over seeds. A lead says for each other learner and score the mean
    difference, and the least one of all periods and seeds with the period where it is: above 0 means above it always.
    """
    every = list(results.values())
    whole = {
        "periods": _over([result["periods"] for result in every]),
        "mean": _over([result["mean"] for result in every]),
        "spread": _over([result["mean"] for result in every], pstdev),
        **{part: _over([result[part] for result in every]) for part in ("tokens", "passes", "seconds")},
    }
    leads = {
        name: {score: _lead(every, against, name, score) for score in SHOWN}
        for name in whole["mean"]
        if name != against and against in whole["mean"]
    }
    return {**whole, "lead": leads, "seeds": {str(seed): result for seed, result in results.items()}}


def _over(trees: Sequence[Any], how: Any = fmean) -> Any:
    """Return the mean (or another statistic) of equal trees of numbers, leaf by leaf.

    >>> _over([{"a": {"b": 1.0}}, {"a": {"b": 2.0}}])
    {'a': {'b': 1.5}}
    """
    if isinstance(trees[0], dict):
        return {key: _over([tree[key] for tree in trees], how) for key in trees[0]}
    return how(trees)


def _lead(results: Sequence[Mapping[str, Any]], ours: str, other: str, score: str) -> dict[str, Any]:
    found = [
        (of[ours][score] - of[other][score], int(period))
        for result in results
        for period, of in result["periods"].items()
    ]
    least, period = min(found)
    return {"mean": fmean(difference for difference, _ in found), "least": least, "period": period}


def show(result: Mapping[str, Any], names: Sequence[str]) -> None:
    """Print Recall@20 / MRR@20 in percent per period, the mean of all scores with what they cost, and the leads."""
    rows = [
        [period, *(" / ".join(f"{100 * of[name][score]:.2f}" for score in SHOWN) for name in names)]
        for period, of in (*result["periods"].items(), ("mean", result["mean"]))
    ]
    report.show("Recall@20 / MRR@20 in % per period", ["period", *names], rows)
    several = len(result["seeds"]) > 1
    scores = [score for score in result["mean"][names[0]] if score != "predictions"]
    rows = []
    for name in names:
        of, spread, seconds = result["mean"][name], result["spread"][name], result["seconds"][name]
        shown = [f"{100 * of[key]:.2f}" + f" ± {100 * spread[key]:.2f}" * several for key in scores]
        costs = [seconds["learn"], seconds["answer"], result["passes"].get(name, 0), result["tokens"].get(name, 0)]
        rows.append([name, *shown, f"{of['predictions']:,.0f}", *(f"{cost:,.0f}" for cost in costs)])
    spread_of = f" and spread of {len(result['seeds'])} seeds" if several else ""
    columns = ["learner", *scores, "predictions", "learn s", "answer s", "passes", "tokens"]
    report.show(f"Mean over periods, in %{spread_of}", columns, rows)
    if result["lead"]:
        rows = [[name, *(text for score in SHOWN for text in _told(of[score]))] for name, of in result["lead"].items()]
        columns = [column for score in SHOWN for column in (score, "least", "in period")]
        report.show("What the blend is above each other one, in points", ["learner", *columns], rows)


def _told(lead: Mapping[str, Any]) -> list[str]:
    return [f"{100 * lead['mean']:+.2f}", f"{100 * lead['least']:+.2f}", str(lead["period"])]
