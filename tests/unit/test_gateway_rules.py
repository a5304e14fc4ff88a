"""The gateway takes rules of a placement, and of every placement, and refuses what shards could not use."""

import json
from typing import Any

import pytest

from headrace.experiments import StatedExperiment
from headrace.experiments import decode as decode_experiment
from headrace.log.protocol import Record
from headrace.rules import EVERY, RuleSet, StatedRules, decode
from headrace.topics import EXPERIMENTS, RULES
from producers.gateway.intake import Intake, Taken
from producers.gateway.made import Request
from producers.gateway.routes import ROUTES


def taken(method: str, path: str, body: Any = None, **query: str) -> Taken:
    (route,) = [one for one in ROUTES if (one.method, one.path) == (method, path)]
    assert route.role == "operate"
    request = Request(json.dumps(body).encode(), query, 5, "acme")
    return Intake(None, []).take(route.adapter(request), 5)


def stated(found: Taken) -> Any:
    (record,) = found.records
    assert record.topic == RULES
    return decode(Record(0, 7, 0, record.key, record.value))


@pytest.mark.parametrize(
    ("path", "query", "placement"),
    [("/v1/rules", {}, EVERY), ("/v1/rules/{placement}", {"placement": "cart"}, "cart")],
)
def test_rules_are_stated_and_taken_back(path: str, query: dict[str, str], placement: str) -> None:
    rules = RuleSet(by="acme", hidden=("sku-1",))
    assert stated(taken("PUT", path, {"hidden": ["sku-1"]}, **query)) == StatedRules(placement, 7, rules)
    assert stated(taken("PUT", path, {"by": "ann", "seen": {}}, **query)).rules.by == "ann"
    assert stated(taken("DELETE", path, **query)) == StatedRules(placement, 7, None)


@pytest.mark.parametrize(
    ("placement", "body", "reason", "detail"),
    [
        ("cart", {"hiden": ["a"]}, "schema", "unknown field `hiden`"),
        ("cart", {"price": {"min": 3, "max": 1}}, "schema", "at `$.price`"),
        ("a cart", {}, "key_invalid", "wanted a placement's name"),
    ],
)
def test_what_no_shard_could_use_is_refused(placement: str, body: Any, reason: str, detail: str) -> None:
    found = taken("PUT", "/v1/rules/{placement}", body, placement=placement)
    assert (found.records, found.accepted) == ([], 0)
    assert found.refused[0].reason == reason
    assert detail in found.refused[0].detail


EXPERIMENT = {"arms": [{"name": "control"}, {"name": "new", "ranker": "trending"}]}


def test_experiments_are_stated_and_removed() -> None:
    path = "/v1/experiments/{name}"
    (record,) = taken("PUT", path, EXPERIMENT, name="home").records
    assert (record.topic, record.key) == (EXPERIMENTS, b"home")
    found = decode_experiment(Record(0, 7, 0, record.key, record.value))
    assert isinstance(found, StatedExperiment)
    assert found.experiment is not None
    assert (found.experiment.by, found.experiment.arms[1].ranker) == ("acme", "trending")
    (record,) = taken("DELETE", path, name="home").records
    assert (record.topic, record.key, record.value) == (EXPERIMENTS, b"home", None)


@pytest.mark.parametrize(
    ("name", "body", "reason", "detail"),
    [
        ("home", {"arms": []}, "schema", "length >= 2"),
        ("home", {**EXPERIMENT, "primary": "luck"}, "schema", "wanted a metric of"),
        ("a b", EXPERIMENT, "key_invalid", "wanted an experiment's name"),
    ],
)
def test_experiments_that_no_shard_could_use_are_refused(name: str, body: Any, reason: str, detail: str) -> None:
    found = taken("PUT", "/v1/experiments/{name}", body, name=name)
    assert (found.records, found.accepted) == ([], 0)
    assert found.refused[0].reason == reason
    assert detail in found.refused[0].detail
