"""Summary of the runs of the continual benchmark: means and spread over seeds, and the lead over other learners."""

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any, Final

from benchmarks import report

Figures = dict[str, float]
SHOWN: Final = ("recall@20", "mrr@20")


def mean_over_periods(found: Mapping[str, Mapping[str, Figures]]) -> dict[str, Figures]:
    """Return the unweighted mean over periods, and the number of all predictions."""
    every = list(found.values())
    means = {}
    for name in every[0]:
        columns = {key: [period[name][key] for period in every] for key in every[0][name]}
        means[name] = {key: fmean(column) for key, column in columns.items()}
        means[name]["predictions"] = sum(columns["predictions"])
    return means


def compare_seeds(results: Mapping[int, Mapping[str, Any]], against: str) -> dict[str, Any]:
    """Return the mean over seeds of all figures, the spread of the means, and one learner's lead over the others.

    The spread is the population's standard deviation over seeds. A lead holds for each other learner and score the mean
    difference, and the least difference of all periods and seeds with its period. If the least is above 0, the learner
    is always better.

    Args:
        results: of `benchmarks.continual.run`, per seed.
        against: the learner with which the others are compared; without it there are no leads.
    """
    every = list(results.values())
    whole = {
        "periods": _statistic([result["periods"] for result in every]),
        "mean": _statistic([result["mean"] for result in every]),
        "spread": _statistic([result["mean"] for result in every], pstdev),
        **{part: _statistic([result[part] for result in every]) for part in ("tokens", "passes", "seconds")},
    }
    leads = {
        name: {score: _lead(every, against, name, score) for score in SHOWN}
        for name in whole["mean"]
        if name != against and against in whole["mean"]
    }
    return {**whole, "lead": leads, "seeds": {str(seed): result for seed, result in results.items()}}


def _statistic(trees: Sequence[Any], how: Any = fmean) -> Any:
    """Return the mean (or another statistic) of equally shaped trees of numbers, leaf by leaf.

    >>> _statistic([{"a": {"b": 1.0}}, {"a": {"b": 2.0}}])
    {'a': {'b': 1.5}}
    """
    if isinstance(trees[0], dict):
        return {key: _statistic([tree[key] for tree in trees], how) for key in trees[0]}
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
    """Print Recall@20 / MRR@20 in percent per period, the mean of all scores with the costs, and the leads."""
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
        rows = [
            [name, *(text for score in SHOWN for text in _lead_cells(of[score]))] for name, of in result["lead"].items()
        ]
        columns = [column for score in SHOWN for column in (score, "least", "in period")]
        report.show("Lead of the blend over each other learner, in points", ["learner", *columns], rows)


def _lead_cells(lead: Mapping[str, Any]) -> list[str]:
    return [f"{100 * lead['mean']:+.2f}", f"{100 * lead['least']:+.2f}", str(lead["period"])]
