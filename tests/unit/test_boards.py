"""The dashboards are what their generator makes, answer a question each, and agree with the alerts."""

import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from deploy.grafana.boards.__main__ import BOARDS, FOLDER
from deploy.grafana.boards.panels import Board, Limit, as_json

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/rules/headrace.yml"
LIMITS = [
    panel.limit
    for board in BOARDS
    for row in board.rows
    for panel in row.panels
    if panel.limit is not None and panel.limit.alert
]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_what_is_committed_is_what_the_generator_makes(board: Board) -> None:
    wanted = "run python -m deploy.grafana.boards"
    assert (FOLDER / f"{board.name}.json").read_text(encoding="utf-8") == as_json(board), wanted


def test_there_is_no_other_dashboard() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {board.name for board in BOARDS}


@pytest.mark.parametrize("limit", sorted(set(LIMITS)), ids=lambda limit: limit.alert)
def test_a_line_is_at_the_threshold_of_its_alert(limit: Limit) -> None:
    groups = YAML(typ="safe").load(RULES)["groups"]
    expressions = [rule["expr"] for group in groups for rule in group["rules"] if rule.get("alert") == limit.alert]
    assert expressions
    for expression in expressions:
        assert limit.value in {float(found) for found in re.findall(r"> ([\d.]+)", expression)}


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_every_panel_says_what_it_shows_and_what_is_normal(board: Board) -> None:
    assert board.question.endswith("?")
    titles = [panel.title for row in board.rows for panel in row.panels]
    for row in board.rows:
        assert len({panel.title for panel in row.panels}) == len(row.panels), row.title
        for panel in row.panels:
            assert panel.description.endswith((".", "?")), panel.title
            assert panel.unit, panel.title
            assert panel.queries, panel.title
    assert len(titles) <= 24, "too many for one look"


def test_the_docs_list_the_dashboards() -> None:
    text = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \| (.+\?) \|$", text, re.MULTILINE) == [
        (board.name, board.question) for board in BOARDS
    ]


def test_dashboards_link_to_each_other() -> None:
    made = [json.loads(as_json(board)) for board in BOARDS]
    assert len({one["uid"] for one in made}) == len(made)
    for one in made:
        (link,) = one["links"]
        assert link["type"] == "dashboards"
        assert all(set(link["tags"]) <= set(other["tags"]) for other in made)
