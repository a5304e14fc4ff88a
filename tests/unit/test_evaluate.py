"""`headrace evaluate`: what a policy would have earned in shops whose truth is known."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event as Flag
from typing import Any

import msgspec
import pytest

from consumers import archive
from headrace.archive.store import open_store
from headrace.config import ArchiveSettings
from headrace.errors import Misconfigured
from headrace.events import Item
from headrace.experiments import Arm, Experiment, Measure
from headrace.impressions import Explored, ShownItem, record_of
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Partition
from headrace.metrics import ArchiveMetrics
from headrace.policies import Policy
from headrace.policies import record_of as policy_record_of
from headrace.topics import EVENTS, IMPRESSIONS
from operators.evaluation.policies import Situation, policy_of
from operators.evaluation.rewards import reward_of
from tests.judged_shop import HOME, ROUND_MS, START_MS, JudgedShop
from tests.pages import run

DAY_MS = 86_400_000
BY_DEVICE = """\
otherwise = { control = 1 }

[[rules]]
when = { device = "mobile" }
choose = { rising = 1 }
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_environment: None) -> Iterator[JudgedShop]:
    monkeypatch.chdir(tmp_path)
    with closing(JudgedShop(path=str(tmp_path / "log.db"))) as made:
        made.state()
        yield made


def _empty_log() -> MemoryLog:
    log = MemoryLog()
    log.create()
    return log


def told(command: str, code: int = 0) -> Any:
    ended, said = run(f"headrace evaluate {command} --json --log sqlite:log.db")
    assert ended == code, said
    return json.loads(said.splitlines()[0])


def text(command: str, code: int = 0) -> str:
    ended, said = run(f"headrace evaluate {command} --log sqlite:log.db")
    assert ended == code, said
    return " ".join(said.split())


def covers(found: Any, truth: float) -> None:
    """Check that the truth lies in each interval, but for the direct method's, which knows nothing of its error."""
    for line in found["lines"]:
        if line["estimator"] != "dm":
            assert line["value"]["low"] <= truth <= line["value"]["high"], line


@pytest.mark.parametrize(
    ("policy", "click"),
    [("uniform", 0.35), ("always:rising", 0.4), ("always:control", 0.3), ("logged", 0.375), ("by_device.toml", 0.45)],
)
def test_arms_of_an_experiment(shop: JudgedShop, policy: str, click: float) -> None:
    Path("by_device.toml").write_text(BY_DEVICE)
    shop.by_arms(8, 150)
    found = told(f"{policy} --estimators all")
    covers(found, click)
    assert (found["kind"], found["experiment"], found["answers"], found["impressions"]) == ("arms", "home", 2400, 2400)
    assert [line["estimator"] for line in found["lines"]] == ["ips", "snips", "dm", "dr", "switch", "shrinkage"]
    assert found["overlap"] == 1
    covers(told(f"{policy} --reward conversion"), click / 2)
    covers(told(f"{policy} --reward revenue"), click * 5)


def test_choices_that_an_arm_explored(shop: JudgedShop) -> None:
    Path("by_device.toml").write_text(BY_DEVICE)
    Path("by_context.json").write_text(
        json.dumps({
            "otherwise": "logged",
            "rules": [{"when": {"context_0": {"from": 0.5}, "position": 0}, "choose": {"control": 0.5, "rising": 0.5}}],
        })
    )  # fmt: skip
    shop.by_exploring(8, 150)
    found = told("by_device.toml")
    covers(found, 0.45)
    assert found["kind"] == "explored"
    assert found["lines"][0]["difference"]["low"] > 0
    assert "more than the" in found["verdict"]
    covers(told("uniform"), 0.35)
    # On mobiles 0.35 instead of 0.8 * 0.5 + 0.2 * 0.2, on desktops as logged
    covers(told("by_context.json"), (0.35 + 0.7 * 0.4 + 0.3 * 0.3) / 2)
    assert told("uniform --position 1", 3)["refused"] == "no_answers"
    assert told("uniform --position 0")["answers"] == 2400


def test_a_policy_that_was_learned(shop: JudgedShop) -> None:
    """It prefers `rising` on mobiles, which the context tells, as far as its floor lets it."""
    learned = Policy(
        version="p7", state="learned", actions=("control", "rising"), floor=0.1, features=("phone",),
        means=((0.0,), (5.0,)), spreads=((1.0,), (1.0,)),
    )  # fmt: skip
    shop.append(policy_record_of("home", "rising", learned))
    shop.by_exploring(8, 150)
    # On mobiles 0.9 * 0.5 + 0.1 * 0.2. On desktops nothing is told between them: 0.35.
    covers(told("policy:p7 --estimators all"), (0.47 + 0.35) / 2)
    assert "wanted a version that was learned (p7), found none" in _misconfigured("policy:p8")
    shop.state("home", msgspec.structs.replace(HOME, state="stopped"))
    shop.state("arms", msgspec.structs.replace(HOME, layer="other"))
    shop.by_arms(1, 10, name="arms", layer="other")
    assert "wanted explored choices" in _misconfigured("policy:p7 --experiment arms")


def test_lists_with_propensities(shop: JudgedShop) -> None:
    Path("list.toml").write_text(
        "otherwise = { a = 0.25, b = 0.75 }\n[[rules]]\nwhen = { position = 2 }\nchoose = { a = 1 }\n"
    )
    shop.by_lists(8, 150)
    found = told("list.toml --lists --estimators all")
    assert found["kind"] == "lists"
    # The first place: 0.25 a and 0.75 b. The second is always a; it is clicked only if the first one is b.
    truth = 0.25 * 0.1 + 0.75 * 0.4 + 0.75 * 0.1
    for line in found["lines"]:
        if line["estimator"] != "independent":  # the item above matters
            assert line["value"]["low"] <= truth <= line["value"]["high"]
    assert text("list.toml --lists").startswith("list.toml: ")
    assert told("logged --lists")["lines"][0]["difference"]["high"] == pytest.approx(0)
    assert "wanted choices of which all actions are logged, found lists of items" in _misconfigured("uniform --lists")
    assert "shrinkage" in _misconfigured("list.toml --lists --estimators shrinkage")


def _misconfigured(command: str) -> str:
    code, said = run(f"headrace evaluate {command} --log sqlite:log.db")
    assert code == 2, said
    return said


def test_only_what_is_asked_for_is_judged(shop: JudgedShop) -> None:
    shop.by_arms(8, 100)
    assert told("uniform --placement cart", 3)["refused"] == "no_answers"
    half = told("uniform --from 2026-01-01T00:00 --to 2026-01-01T04:00")
    assert half["answers"] == 800
    assert told("uniform --from 2026-01-01T04:00")["answers"] == 800


def test_what_comes_late_counts_and_what_is_refunded_does_not(shop: JudgedShop) -> None:
    shop.by_arms(4, 100)
    before = told("logged --reward revenue --to 2026-01-01T04:00")
    bought = [one for one in shop.sold if one[0].startswith("s0-")]
    shop.now_ms = START_MS + 40 * DAY_MS
    shop.append(*[
        shop.event("refund", shopper, [], transaction_id=transaction, currency="") for shopper, transaction in bought
    ])  # fmt: skip
    after = told("logged --reward revenue --to 2026-01-01T04:00")
    assert before["logged"]["value"] * 800 == pytest.approx(10 * len(shop.sold))
    assert after["logged"]["value"] * 800 == pytest.approx(10 * (len(shop.sold) - len(bought)))
    converted = told("logged --reward conversion --to 2026-01-01T04:00")
    assert converted["logged"]["value"] * 800 == pytest.approx(len(shop.sold) - len(bought))


def test_clicks_and_orders_are_attributed_as_placements_do(shop: JudgedShop) -> None:
    """A second click, one of what was not shown, an order in time, and one that follows a late click."""
    shop.by_arms(2, 100)
    before = told("logged")["logged"]["value"] * 400
    revenue = told("logged --reward revenue")["logged"]["value"] * 400
    shown = shop.answer("late", [ShownItem("a")], experiments=shop.arm_of("late"))
    shop.append(record_of(shown), record_of(shown))
    name = shown.recommendation_id
    shop.append(shop.event("select_item", "late", [Item("z")], recommendation_id=name))
    shop.now_ms += DAY_MS - 1
    shop.append(*[shop.event("view_item", "late", [Item("a")], recommendation_id=name) for _ in range(2)])
    shop.now_ms += DAY_MS - 1
    shop.append(shop.event("purchase", "late", [Item("a", price=7.0, quantity=2)], transaction_id="in time"))
    shop.now_ms += 2
    shop.append(shop.event("view_item", "late", [Item("a")], recommendation_id=name))
    shop.append(shop.event("purchase", "late", [Item("a", price=100.0)], transaction_id="late"))
    found = told("logged")
    assert found["left_out"] == {"repeated": 1}
    assert found["logged"]["value"] * 401 == pytest.approx(before + 1)
    late = told("logged --reward revenue")["logged"]["value"] * 401
    assert late == pytest.approx(revenue + 14)


def test_shoppers_who_are_bots_and_answers_in_wrong_arms_are_left_out(shop: JudgedShop) -> None:
    shop.by_arms(4, 100)
    arms = shop.arm_of("bot")
    wrong = {"home": "control" if arms["home"] == "rising" else "rising"}
    shop.append(
        record_of(shop.answer("bot", [ShownItem("a")], experiments=arms)),
        record_of(shop.answer("bot", [ShownItem("a")], experiments=wrong)),
        record_of(shop.answer("", [ShownItem("a")], experiments=arms)),
        record_of(shop.answer("else", [ShownItem("a")])),
    )
    shop.append(*[shop.event("view_item", "bot", [Item("a")]) for _ in range(250)])
    found = told("uniform")
    assert found["left_out"] == {"strays": 1, "bots": 1}
    assert (found["answers"], found["impressions"]) == (800, 804)
    assert "left out: 1 answers (of shoppers over the daily budget of steps" in text("uniform")


def test_a_metric_of_the_experiment_is_a_reward(shop: JudgedShop) -> None:
    carts = Measure("carts", "add_to_cart", per="answer")
    shop.state("tried", msgspec.structs.replace(HOME, layer="other", metrics=(carts, Measure("views", "search"))))
    shop.state("home", msgspec.structs.replace(HOME, state="stopped"))
    shop.by_arms(1, 200, name="tried", layer="other")
    shown = shop.shown[:60]
    shop.append(*[
        shop.event("add_to_cart", one.shopper, [Item(one.items[0].item_id)], recommendation_id=one.recommendation_id)
        for one in shown
    ])  # fmt: skip
    found = told("logged --experiment tried --reward carts")
    assert found["logged"]["value"] * 400 == pytest.approx(60)
    assert "wanted clicks, carts or orders" in _misconfigured("logged --experiment tried --reward views")
    assert "wanted clicks, carts or orders" in _misconfigured("logged --experiment tried --reward retention")
    assert "wanted one of click, " in _misconfigured("logged --experiment tried --reward luck")
    assert "wanted one of the experiments home, tried by --experiment" in _misconfigured("logged")


def test_what_the_log_cannot_tell_is_refused(shop: JudgedShop) -> None:
    assert told("uniform", 3) == {
        "policy": "uniform", "refused": "no_answers", "why": "wanted answers, found none",
    }  # fmt: skip
    shop.by_arms(1, 4)
    assert told("uniform", 3)["refused"] in ("too_few", "no_rewards")
    assert "refused: wanted" in text("uniform", 3)


def test_a_policy_of_what_was_never_possible_is_refused(shop: JudgedShop) -> None:
    """`c` could be chosen in one answer of many, so that the rest of a policy that always shows it is as logged."""
    shop.by_exploring(4, 100)
    names, once = ["control", "rising"], Explored("home", ["control", "c"], [0.5, 0.5], 0)
    assert "wanted actions of control, rising, found 'c'" in _misconfigured("always:c")
    shop.append(record_of(shop.answer("s9-1", [ShownItem("a")], explored=once)))
    assert told("always:c")["answers"] == 801
    never = Explored("home", names, [1.0, 0.0], 0)
    shop.append(*[record_of(shop.answer(f"n{one}", [ShownItem("a")], explored=never)) for one in range(400)])
    found = told("always:rising")
    assert found["overlap"] == 1  # where it could not be chosen, the policy does as was logged


def test_experiments_that_cannot_be_judged_are_told(shop: JudgedShop) -> None:
    pair = Experiment((Arm("one"), Arm("two", ranker="new")), kind="interleaved", layer="x", state="running")
    shop.state("pair", msgspec.structs.replace(pair, placements=("cart",)))
    assert "found one of the kind interleaved" in _misconfigured("uniform --experiment pair")
    assert "found none of this name" in _misconfigured("uniform --experiment nothing")
    assert "found --experiment or --position beside it" in _misconfigured("uniform --lists --position 1")
    assert "wanted a range" in _misconfigured("uniform --from 2026-01-02 --to 2026-01-01")
    shop.by_arms(1, 10)
    assert "found 'luck'" in _misconfigured("uniform --estimators luck")


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.toml", "otherwise = { a = 0.5 }", "otherwise: wanted probabilities of 1 to 64 actions that add up to 1"),
        ("a.toml", "otherwise = 'best'", "Invalid enum value 'best'"),
        ("a.toml", "other = 'logged'", "unknown field `other`"),
        ("a.toml", "[[rules]]\nchoose = 'uniform'", "missing required field `otherwise`"),
        (
            "a.toml", "otherwise='logged'\n[[rules]]\nchoose='uniform'\nwhen={colour='red'}",
            "when: wanted one of device, country, placement, route, model, hour, weekday, position, context_0, …, found"
            " 'colour' - at `$.rules[0]`",
        ),
        ("a.toml", "otherwise='logged'\n[[rules]]\nchoose='uniform'\nwhen={hour='noon'}", "wanted a number"),
        ("a.toml", "otherwise='logged'\n[[rules]]\nchoose='uniform'\nwhen={device=1}", "wanted a text"),
        ("a.json", "{", "truncated"),
        ("a.toml", "=", "Invalid"),
        ("a.toml", "\udcff", "can't decode byte"),
        ("missing.toml", None, "wanted a file, found No such file"),
        ("random", None, "wanted logged, uniform, always:ACTION, policy:VERSION or a file .toml or .json, found none"),
        ("always:", None, "wanted an action's name"),
        ("policy:7", None, "policy 7: wanted a version that was learned (there is none), found none"),
    ],
)  # fmt: skip
def test_policies_that_cannot_be_are_told(tmp_path: Path, name: str, content: str | None, wanted: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(Misconfigured) as error:
        policy_of(_empty_log(), str(path) if "." in name else name)
    assert wanted in str(error.value)


def test_rules_of_a_policy(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(
        "otherwise = 'uniform'\n[[rules]]\nwhen = { hour = { from = 8, to = 12 }, country = 'DE' }\n"
        "choose = { a = 0.3, b = 0.6, c = 0.1 }\n[[rules]]\nwhen = { weekday = 6 }\nchoose = 'logged'\n"
    )
    policy = policy_of(_empty_log(), str(path))
    situation = Situation(["a", "b", "d"], [0.25, 0.5, 0.25], {"hour": 8, "country": "DE", "weekday": 6})
    assert policy.names == {"a", "b", "c"}
    assert list(policy.probabilities(situation)) == pytest.approx([1 / 3, 2 / 3, 0])
    assert policy.probabilities(situation._replace(logged=[0.0, 0.0, 1.0])) == [0, 0, 1]  # neither could be chosen
    later = situation._replace(values={"hour": 12, "country": "DE", "weekday": 6})
    assert policy.probabilities(later) == [0.25, 0.5, 0.25]
    elsewhere = situation._replace(values={"hour": 9, "country": "FR"}, logged=[0.5, 0.5, 0.0])
    assert list(policy.probabilities(elsewhere)) == [0.5, 0.5, 0]


def test_rewards_by_name() -> None:
    assert reward_of("conversion").what == "any"
    assert reward_of("units", {"units": Measure("units", "purchase", "units")}).what == "units"
    with pytest.raises(Misconfigured, match="per view_item"):
        reward_of("rate", {"rate": Measure("rate", "add_to_cart", per="view_item")})


def test_what_the_log_no_longer_holds_is_read_from_the_archive(shop: JudgedShop, tmp_path: Path) -> None:
    shop.by_arms(8, 100)
    whole = told("uniform --reward revenue")
    store = open_store(str(tmp_path / "kept"))
    archive.run(shop.log, store, ArchiveSettings(), ArchiveMetrics(), Flag(), once=True)
    for topic in (EVENTS, IMPRESSIONS):
        for place in shop.log.partitions(topic):
            shop.log.delete_before(place, shop.log.end(place) - 5)
    lost = told("uniform --reward revenue", 3)
    assert lost["refused"] in ("too_few", "no_rewards")
    Path("headrace.toml").write_text('[archive]\nurl = "kept"\n')
    assert told("uniform --reward revenue") == whole


def test_what_is_lost_is_told(shop: JudgedShop) -> None:
    shop.by_arms(8, 200)
    place = Partition(IMPRESSIONS, 0)
    shop.log.delete_before(place, shop.log.position_at(place, START_MS + ROUND_MS))
    assert "the oldest records of impressions in this range are neither in the log nor in its archive" in text(
        "uniform"
    )
    assert "the oldest records of impressions" not in text("uniform --from 2026-01-01T02:00")


def test_young_answers_are_told(shop: JudgedShop) -> None:
    shop.by_arms(2, 200)
    assert "800 answers of the last day may still be clicked" in text("uniform")
    shop.now_ms += 3 * DAY_MS
    shop.append(shop.event("view_item", "ann", [Item("a")]))
    assert "of the last day" not in text("uniform")


def test_the_text(shop: JudgedShop) -> None:
    shop.by_arms(8, 150)
    said = text("always:control --estimators ips,dr")
    assert said.startswith("always:control: 0.")
    assert "less than the 0.3" in said
    assert "arms of home: 2,400 answers of" in said
    assert "ips" in said
    assert "difference -0." in said
    assert "as what was logged" in text("logged")
