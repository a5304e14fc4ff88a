"""From what a server showed to revenue by placement, on each kind of log, while the shard that counts it is killed."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.experiment_reports import Report
from headrace.experiments import Arm, Experiment
from headrace.log.open import open_log
from headrace.log.protocol import Log
from headrace.reading import ReadOnlyLog
from headrace.shard.blobs import Blobs
from headrace.shard.checks import check_folds
from headrace.shard.follower import Follower
from learners.families import FAMILIES, placed
from learners.placements.family import PlacementsFamily
from learners.shop import MakeShop
from operators.child import Child, Children, total
from operators.experiments import newest_reports
from producers.load import load
from tests.pages import run

OWN_SHARD = """
[shards.shown]
families = ["placements", "experiments", "exploration"]
partition = 2
"""
OWN = ("placements", "experiments", "exploration")
PLACEMENT = placed(FAMILIES, {"online": 0, "finetune": 1, "shown": 2}, {"shown": OWN})["shown"]
ROUTE = "/v1/recommendations/{shopper}"


class Shop:
    """A folder with a log, a server, and the shard of placements alone."""

    def __init__(self, url: str, folder: Path, children: Children) -> None:
        self.url, self.folder, self._children, self._count = url, folder, children, 0
        (folder / "headrace.toml").write_text(OWN_SHARD)
        with closing(open_log(url)) as log:
            log.create()
        self._common = ["--log", url, "--blobs", str(folder / "blobs")]
        self.online = children.start("online", "online", *self._common, "--metrics-port", "0", up=False)
        self.serve = children.start("serve", "serve", *self._common, "--port", "0", up=False)
        self.shown = self.start_shard()
        for child in (self.online, self.serve):
            child.wait_until_up()

    def start_shard(self) -> Child:
        options = [*self._common, "--metrics-port", "0", "--snapshot-interval-s", "0.2"]
        return self._children.start("shown", "learn", *OWN, *options)

    def event(self, kind: str, shopper: str, items: list[str], answer: str = "") -> dict[str, Any]:
        self._count += 1
        lines = [{"item_id": item, "price": 12.5, "quantity": 2} for item in items]
        return {
            "id": f"e{self._count}", "source": "shop", "type": kind, "time": datetime.now(UTC).isoformat(),
            "specversion": "1.0", "subject": shopper, "data": {"items": lines, "recommendation_id": answer},
        }  # fmt: skip

    def load(self, *events: dict[str, Any]) -> None:
        """Publish events as `headrace load` does."""
        path = self.folder / f"{events[0]['id']}.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in events))
        with closing(open_log(self.url)) as log:
            assert load(log, path).published == len(events)

    def load_by(self, count: int, events: list[dict[str, Any]]) -> None:
        """Publish so many events at a time."""
        for first in range(0, len(events), count):
            self.load(*events[first : first + count])

    def status(self) -> str:
        """Return what the command says."""
        code, text = run(f"headrace status --log {self.url}")
        assert code == 0, text
        return text

    def learned(self) -> float:
        """Return how many events the shard's process has learned."""
        return total(self.shown.scrape(), "headrace_events_total", result="learned")

    def ask(self, shopper: str, placement: str) -> dict[str, Any]:
        answer = httpx.get(
            f"{self.serve.address}/v1/recommendations/{shopper}", params={"n": 3, "placement": placement}, timeout=20
        )
        found: dict[str, Any] = answer.json()
        return found

    def metric(self, name: str, placement: str) -> float:
        """Return a series of the shard's process, of answers without a model."""
        labels = {("route", ROUTE), ("placement", placement), ("model", "")}
        for (found, values), value in self.shown.scrape().items():
            if found == f"headrace_placement_{name}" and set(values) == labels:
                return value
        return 0.0

    def wait(self, what: str, name: str, placement: str, value: float) -> None:
        self._children.wait_until(what, lambda: self.metric(name, placement) == value, 60)


@pytest.fixture
def folder_children(tmp_path: Path) -> Iterator[Children]:
    """Start processes in the test's folder, from which they read `headrace.toml`."""
    with Children(tmp_path, cwd=tmp_path) as started:
        yield started
        print(started.tails())


# On SQLite it takes half as long as on Kafka, and differs in nothing but the log, whose contract has tests of its own.
@pytest.mark.parametrize("log_url", [pytest.param("sqlite", marks=pytest.mark.full), "kafka"], indirect=True)
@pytest.mark.timeout(240)
def test_from_the_answer_to_the_revenue(
    log_url: str, tmp_path: Path, folder_children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shop = Shop(log_url, tmp_path, folder_children)
    shop.load(*(shop.event("view_item", f"s{n % 7}", [f"i{n % 5}"]) for n in range(60)))
    folder_children.wait_until("there are answers", lambda: len(shop.ask("ann", "first").get("items", ())) == 3, 60)
    arms = arms_of_an_experiment(shop, folder_children)
    answers = [shop.ask(f"v{n}", "home" if n < 6 else "cart") for n in range(8)]
    assert [one["experiments"] for one in answers] == [{"trial-2": arms[f"v{n}"]} if n < 6 else {} for n in range(8)]
    assert all(one["logged"] for one in answers)
    names = [one["recommendation_id"] for one in answers]
    shown = [[item["item_id"] for item in one["items"]] for one in answers]
    shop.load(
        shop.event("select_item", "v0", shown[0][:1], names[0]),
        shop.event("view_item", "v0", shown[0][:1], names[0]),
        shop.event("select_item", "v1", ["never shown"], names[1]),
        shop.event("add_to_cart", "v7", shown[7][1:2], names[7]),
    )
    shop.wait("the answers and the click are counted", "clicks_total", "home", 1)
    shop.wait("the cart is counted", "carts_total", "cart", 1)
    assert [shop.metric("answers_total", one) for one in ("home", "cart")] == [6, 2]
    assert shop.metric("items_total", "home") == 18
    assert shop.metric("click_through_ratio", "home") == pytest.approx(1 / 6, rel=0.01)

    # It is killed; what happens meanwhile is counted after its restart, with what it remembers of before.
    shop.shown.kill()
    shop.load(
        shop.event("purchase", "v0", [*shown[0][:1], "something else"]),
        shop.event("purchase", "v2", shown[2][:2], names[2]),
        shop.event("purchase", "v7", shown[7][1:2]),
    )
    shop.shown = shop.start_shard()
    shop.wait("the orders are counted", "orders_total", "home", 2)
    shop.wait("the other placement's, too", "orders_total", "cart", 1)
    assert [shop.metric("revenue_total", one) for one in ("home", "cart")] == [75, 25]

    # And again in the middle of many clicks: each counts once.
    more = [shop.ask(f"t{n}", "mail") for n in range(60)]
    assert all(one["logged"] for one in more)
    clicks = [
        shop.event("select_item", f"t{n}", [item["item_id"]], one["recommendation_id"])
        for n, one in enumerate(more) for item in one["items"]
    ]  # fmt: skip
    for half in (clicks[:90], clicks[90:]):
        learned = shop.learned()
        loading = threading.Thread(target=shop.load_by, args=(30, half))
        loading.start()
        folder_children.wait_until("it has learned some", partial(more_learned, shop, learned), 60)
        shop.shown.kill()
        shop.shown = shop.start_shard()
        loading.join()
    with closing(open_log(log_url)) as log:
        folder_children.wait_until("all is counted", lambda: told(log, tmp_path).get("mail") == (60, 180, 0), 60)
        found = told(log, tmp_path)
        assert [found[one] for one in ("home", "cart", "mail")] == [(6, 1, 2), (2, 0, 1), (60, 180, 0)]
        check_folds(log, Blobs(tmp_path / "blobs"), PLACEMENT.shard, make=MakeShop(PLACEMENT.kinds))
        records = [one.value for one in ReadOnlyLog(log, {}).impressions(placements=["home", "cart"])]
    assert {one.recommendation_id: [item.item_id for item in one.items] for one in records} == dict(
        zip(names, shown, strict=True)
    )
    assert {(one.shopper, one.route, one.shard) for one in records} == {(f"v{n}", ROUTE, "online") for n in range(8)}
    assert {item.propensity for one in records for item in one.items} == {1.0}

    # Who was in which arm, and what they bought, as the experiment's report has it once it has stopped.
    report = stopped(shop, folder_children)
    in_arm = {arm: [one for one, of in arms.items() if of == arm] for arm in ("control", "new")}
    spent, clicked = {"v0": 50.0, "v2": 50.0}, {"v0"}
    assert [(one.name, one.shoppers, one.answers) for one in report.arms] == [
        (arm, len(shoppers), len(shoppers)) for arm, shoppers in in_arm.items()
    ]
    found_by = {one.metric: (one.control_value, one.arm_value) for one in report.compared}
    assert found_by["revenue"] == tuple(
        sum(spent.get(one, 0.0) for one in shoppers) / len(shoppers) for shoppers in in_arm.values()
    )
    assert found_by["click_through"] == tuple(
        len(clicked & {*shoppers}) / len(shoppers) for shoppers in in_arm.values()
    )

    # The scores, which come every thousand events, are in the status.
    if not log_url.startswith("kafka:"):
        shop.load(*(shop.event("view_item", f"s{n % 7}", [f"i{n % 5}"]) for n in range(1_000)))
        folder_children.wait_until("status has them", lambda: "home, no model" in shop.status(), 60)


def arms_of_an_experiment(shop: Shop, children: Children) -> dict[str, str]:
    """Start an experiment by commands; return the arms of some shoppers once the server answers by them."""
    (shop.folder / "trial.json").write_text(
        '{"arms": [{"name": "control"}, {"name": "new", "ranker": "trending"}], "placements": ["home"]}'
    )
    (shop.folder / "probe.json").write_text(
        '{"arms": [{"name": "a"}, {"name": "b"}], "placements": ["probe"], "layer": "probe", "state": "running"}'
    )
    for words in ("create trial-2 trial.json", "start trial-2", "create probe probe.json"):
        code, text = run(f"headrace experiment {words} --why tried --by ann --log {shop.url}")
        assert code == 0, text
    children.wait_until("the server has both", lambda: bool(shop.ask("w0", "probe").get("experiments")), 60)
    experiment = Experiment((Arm("control"), Arm("new")), placements=("home",))
    return {f"v{n}": experiment.arms[experiment.arm_of("trial-2", f"v{n}") or 0].name for n in range(6)}


def stopped(shop: Shop, children: Children) -> Report:
    """Stop the experiment, and return its last report."""
    code, text = run(f"headrace experiment stop trial-2 --why done --by ann --log {shop.url}")
    assert code == 0, text
    with closing(open_log(shop.url)) as log:
        children.wait_until("the report says so", lambda: newest_reports(log)["trial-2"].state == "stopped", 60)
        return newest_reports(log)["trial-2"]


def more_learned(shop: Shop, before: float) -> bool:
    return shop.learned() > before


def told(log: Log, folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return answers, clicks and orders by placement, as a follower of the shard has them."""
    make = MakeShop(PLACEMENT.kinds)
    with closing(Follower(log, Blobs(folder / "blobs"), PLACEMENT.shard, make=make)) as follower:
        follower.catch_up()
        family = follower.fold.families["placements"]
    assert isinstance(family, PlacementsFamily)
    return {one.placement: (one.answers, one.clicks, one.orders) for one in family.scores().groups}
