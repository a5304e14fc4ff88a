"""The queries of the dashboards, with variables replaced as Grafana does."""

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

BOARDS: Final = sorted((Path(__file__).parents[1] / "deploy/grafana/dashboards").glob("*.json"))


class Asked(NamedTuple):
    """A query of a panel or of an annotation, as Grafana sends it."""

    board: str
    title: str
    expr: str


def panels(path: Path) -> list[dict[str, Any]]:
    """Return the panels of a dashboard, without the headings of rows."""
    return [panel for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row"]


def queries(path: Path, scrape_interval_s: int = 5) -> list[Asked]:
    """Return the queries of a dashboard's panels, with *All* chosen, for a short range of time."""
    replaced = {"$__rate_interval": f"{4 * scrape_interval_s}s"}
    for variable in json.loads(path.read_text())["templating"]["list"]:
        replaced[f"${variable['name']}"] = variable.get("allValue", ".+")
    found = [(panel["title"], target["expr"]) for panel in panels(path) for target in panel["targets"]]
    return [Asked(path.stem, title, _replace(expr, replaced)) for title, expr in found]


def annotations(path: Path, scrape_interval_s: int = 5) -> list[Asked]:
    """Return the queries of a dashboard's annotations."""
    replaced = {"$__rate_interval": f"{4 * scrape_interval_s}s"}
    found = json.loads(path.read_text())["annotations"]["list"]
    return [Asked(path.stem, one["name"], _replace(one["expr"], replaced)) for one in found]


def _replace(expr: str, replaced: dict[str, str]) -> str:
    for name, value in replaced.items():
        expr = expr.replace(name, value)
    assert "$" not in expr, expr
    return expr
