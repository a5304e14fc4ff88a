"""What a demo says of shoppers: a real server's answers about a shop with planted groups, beside the truth."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.log.sqlite import SqliteLog
from headrace.shard.blobs import Blobs
from headrace.shard.loop import Loop, LoopSettings
from learners.demand.family import DemandSettings
from learners.shop import MakeShop
from learners.value.family import ValueSettings
from operators.child import Children
from operators.deployment import read_deployment
from operators.facts import Facts
from operators.planted import lines
from operators.report import write_report
from producers.scenario import SimulationSettings
from producers.simulate import simulate
from tests.shards import ONLINE

SHOP = SimulationSettings(
    events=26_000, items=200, shoppers=1_500, days=18.0, drifts=(), churners=0.15, big_spenders=0.15, returners=0.15
)

Told = tuple[Facts, dict[str, Any], str, Path]


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    url, blobs = f"sqlite:{tmp_path / 'log.db'}", Blobs(tmp_path / "blobs")
    with closing(SqliteLog(str(tmp_path / "log.db"))) as log, Children(tmp_path, cwd=tmp_path) as children:
        log.create()
        simulate(log, SHOP)
        settings = {"shopper_value": ValueSettings(near_days=3, far_days=6), "demand": DemandSettings(period_days=1)}
        make = MakeShop(ONLINE.kinds, settings)
        loop = Loop(log, blobs, ONLINE.shard, make=make, settings=LoopSettings(commit_interval_s=0.5, idle_wait_s=0.0))
        with closing(loop):
            loop.run(lambda: loop.fold.events >= SHOP.events)
            scores = {name: family.scores() for name, family in loop.fold.families.items()}
        serve = children.start("serve", "serve", "--log", url, "--blobs", str(tmp_path / "blobs"), "--port", "0")
        ready = f"{serve.address}/health/ready"
        children.wait_until("the server is ready", lambda: httpx.get(ready).status_code == 200)
        yield Facts.read(log, read_deployment()), scores, serve.address, tmp_path


def number(text: str) -> float:
    return float(text.removesuffix(" %").replace(",", ""))


def test_each_family_has_a_line_beside_a_simple_rule(told: Told) -> None:
    facts, scores, address, folder = told
    found = lines(facts.planted, scores, address)
    by_text = {one.what: one for one in found}
    assert {one.family for one in found} == {"value", "churn", "intent", "profiles", "segments", "demand"}
    assert all(number(one.learned) >= 0 <= number(one.simple) and one.rule for one in found)
    buyers = next(one for what, one in by_text.items() if what.startswith("returners, of "))
    assert number(buyers.learned) > 1.5 * number(buyers.simple)
    big = next(one for what, one in by_text.items() if what.startswith("big spenders, of "))
    assert number(big.learned) > 2 * number(buyers.simple), "of which there are about as many"
    brand = by_text["the strongest brand is liked"]
    assert number(brand.learned) > number(brand.simple)
    report = folder / "report.html"
    write_report(facts, report, of_shoppers=found)
    text = report.read_text()
    assert "What is known of shoppers" in text
    assert all(one.learned in text for one in found)
    of_scores = lines([], scores, address)
    assert {one.family for one in of_scores} == {"value", "churn", "intent", "demand"}
    assert lines(facts.planted, scores, "http://127.0.0.1:9") == of_scores, "what is not answered has no line"
    assert lines([], {}, address) == []
