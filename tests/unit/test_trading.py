"""`rules trade` shows what answers would gain for which share of their relevance; the benchmark compares ways."""

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from benchmarks import picture, trading
from headrace.errors import Misconfigured
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Log, Outgoing
from headrace.log.scan import topic_records
from headrace.rules import AtMost, RuleSet, Trade
from headrace.shard.blobs import Blobs
from headrace.shard.loop import Loop, LoopSettings
from headrace.topics import ITEMS
from operators.deployment import Deployment, read_deployment
from operators.picture import draw, front_of
from operators.trading import SHARES, Front, front, front_text
from producers.scenario import SimulationSettings
from producers.simulate import simulate
from tests.shards import ONLINE, online

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Blobs:
    return Blobs(tmp_path_factory.mktemp("blobs"))


@pytest.fixture(scope="module")
def log(blobs: Blobs) -> Log:
    """Return a log of a shop that states its items, of every second also the cost, and has learned 800 events."""
    log = MemoryLog()
    log.create()
    simulate(log, SimulationSettings(events=800, seed=3, items=120, shoppers=60, days=3.0))
    appender = log.appender()
    for number, record in enumerate(list(topic_records(log, ITEMS))):
        if number % 2:
            stated = json.loads(record.value or b"{}")
            stated["cost_of_goods_sold"] = stated["price"] * (number % 7) / 10
            appender.append(Outgoing(ITEMS, record.key, json.dumps(stated).encode()))
    appender.close()
    loop = Loop(log, blobs, ONLINE.shard, make=online(), settings=LoopSettings(commit_interval_s=0.05), quarantine=True)
    with closing(loop):
        loop.run(lambda: loop.fold.events >= 800)
    return log


@pytest.fixture(scope="module")
def deployment() -> Deployment:
    return read_deployment(log="memory:")


@pytest.fixture(scope="module")
def found(log: Log, blobs: Blobs, deployment: Deployment) -> Front:
    rules = RuleSet(trade=Trade(0.77, margin=1, diversity=1), at_most=AtMost(category=4))
    return front(log, blobs, deployment, "*", rules, shoppers=30, n=8)


def test_a_front_has_a_point_for_each_share_that_is_tried(found: Front) -> None:
    assert [one.relevance_min for one in found.points] == [None, *sorted({*SHARES, 0.77}, reverse=True)]
    first, *others = found.points
    assert (first.kept, first.changed, found.shoppers) == (1.0, 0.0, 30)
    for one in others:
        assert one.relevance_min is not None
        assert one.kept_worst >= one.relevance_min * (1 - 1e-9)
        assert one.relevance == pytest.approx(one.kept * first.relevance, rel=0.1)
    last = others[-1]
    assert last.margin > 1.05 * first.margin
    assert last.categories >= first.categories
    assert last.changed > 0.5
    assert 0 <= last.gini < 1


def test_a_front_is_told_as_a_table_and_drawn(found: Front, tmp_path: Path) -> None:
    lines = front_text(found).splitlines()
    assert lines[0] == "30 answers of 8 items"
    assert lines[2].split()[:2] == ["no", "trade"]
    assert len(lines) == 2 + len(found.points)
    draw(front_of, found, tmp_path / "front.svg")
    assert "expected margin" in (tmp_path / "front.svg").read_text()


def test_a_document_without_objectives_is_refused(log: Log, blobs: Blobs, deployment: Deployment) -> None:
    with pytest.raises(Misconfigured, match="wanted a document that states `trade`"):
        front(log, blobs, deployment, "*", RuleSet(), shoppers=3, n=3)


def test_the_benchmark_compares_the_ways_on_the_second_half(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shop = trading.Shop(rng.uniform(0, 9, 60), rng.integers(1, 7, 60))
    asked = []
    for _ in range(80):
        probability = np.sort(rng.dirichlet(np.full(40, 0.2)))[::-1] * 0.5
        truth = int(rng.choice(40, p=probability / probability.sum()))
        slots = rng.permutation(60)[:40]
        asked.append(trading.Asked(slots, probability, truth, int(slots[truth])))
    result = trading.run(asked, shop)
    ways = result["ways"]
    assert result["predictions"] == 40
    for name in ("trade for margin", "trade for diversity", "trade for both"):
        assert all(one["kept_worst"] >= float(share) * (1 - 1e-9) for share, one in ways[name].items())
    best = ways["best"][""]
    assert ways["trade for margin"]["0.5"]["expected_margin"] > best["expected_margin"]
    assert ways["trade for diversity"]["0.5"]["categories"] > best["categories"]
    assert ways["MMR"]["0.5"]["categories"] > best["categories"]
    trading.show(result)
    picture.write(tmp_path / "trading.svg", picture.trading, result)
    assert "hit rate" in (tmp_path / "trading.svg").read_text()
