"""A family registers in one place: nothing outside its folder imports it or writes its names."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, get_args

import msgspec
import pytest
from msgspec import Meta, Struct

from headrace.archive.manifest import ARCHIVED
from headrace.config import settings
from headrace.errors import Misconfigured
from headrace.events import EventType
from headrace.metrics import ShardMetrics
from headrace.surface import Metric, Route, Surface, settings_of
from headrace.topics import TOPICS
from learners.desk.family import Desk
from learners.families import FAMILIES, families, placed
from learners.family import Family, Merges, Moment, NoSettings
from learners.next_item.watching import DETECTORS
from learners.purchase.family import PurchaseFamily
from learners.shop import Shop

ROOT = Path(__file__).parents[2]
ROOTS = ("headrace", "producers", "learners", "consumers", "serving", "operators")
THE_LIST = Path("learners/families.py")
EVALUATION = Path("operators/evaluation")
"""It credits answers by the rules of `desk` and `placements`: a second set of them would differ."""


def folder(kind: type[Family]) -> Path:
    return Path(*kind.__module__.split(".")[:-1])


class Module(NamedTuple):
    """A module of ours: what it imports, and its string constants."""

    path: Path
    imports: set[str]
    strings: list[str]


@cache
def modules() -> list[Module]:
    """Return our modules, but the list of families."""
    paths = [path for root in ROOTS for path in sorted((ROOT / root).rglob("*.py"))]
    trees = {path.relative_to(ROOT): ast.parse(path.read_text()) for path in paths}
    return [Module(path, imports(tree), list(strings(tree))) for path, tree in trees.items() if path != THE_LIST]


def outside(kind: type[Family]) -> Iterator[Module]:
    """Yield the modules of ours that are not in a family's folder, but those of families that build on it."""
    allowed = {*shared_with(kind), folder(kind)}
    return (module for module in modules() if not allowed & set(module.path.parents))


def imports(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def strings(tree: ast.Module) -> Iterator[str]:
    """Yield the string constants of a module, docstrings aside."""
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    notes = {
        id(one.value)
        for body in bodies
        for one in body
        if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in notes:
            yield node.value


def shared_with(kind: type[Family]) -> set[Path]:
    """Return the folders that may import a family's modules: those of families that build on it, the deep library."""
    builders = {folder(one) for one in FAMILIES if kind.name in one.builds_on}
    builders |= {EVALUATION} if kind.name in ("desk", "placements") else set()
    return builders | {Path("learners/deep"), Path("learners/checks")}


@pytest.mark.parametrize("kind", FAMILIES, ids=lambda kind: kind.name)
def test_no_module_outside_imports_a_family(kind: type[Family]) -> None:
    package = ".".join(folder(kind).parts)
    found = {
        str(module.path)
        for module in outside(kind)
        if any(name == package or name.startswith(f"{package}.") for name in module.imports)
    }
    assert found == set()


@pytest.mark.parametrize("kind", FAMILIES, ids=lambda kind: kind.name)
def test_what_a_family_learns_from_is_archived(kind: type[Family]) -> None:
    assert set(kind.surface.hears) <= set(ARCHIVED)


@pytest.mark.parametrize("kind", FAMILIES, ids=lambda kind: kind.name)
def test_no_module_outside_writes_a_familys_names(kind: type[Family]) -> None:
    surface = kind.surface
    settings_ = {setting.name for setting in settings_of(surface.settings)} - COMMON
    words = {word for word in {*surface.detectors, *settings_} - {*DETECTORS} if "_" in word}
    words |= {metric.name for metric in surface.metrics} | {route.path for route in surface.routes} - WRITTEN_TO
    parts = re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in sorted(words)))
    named = {*get_args(EventType), *TOPICS, *Desk.parts}  # what is none of these may have a family's name
    name = None if kind.name in named else kind.name
    found = {
        f"{module.path}: {text!r}"
        for module in outside(kind)
        for text in module.strings
        if parts.search(text) or (text == name and not str(module.path).endswith(OTHERS.get(name, ("/",))))
    }
    assert found <= EXAMPLES


COMMON = {"items_max", "shoppers_max", "learning_rate"}
"""Names of settings that are names of other things, too: bounds of tables, a parameter of every gradient descent."""
WRITTEN_TO = {"/v1/items", "/v1/items/{item}", "/v1/shoppers", "/v1/shoppers/{shopper}"}
"""Paths under which the gateway takes what the server tells by a GET."""
OTHERS = {
    "rounds": ("produce.py", "demo.py", "picture.py"),
    "stock": ("cli/stock.py", "cli/__init__.py", "demand/family.py", "headrace/topics.py"),
}
"""Where `rounds` is not the family: the pace of a producer, and the rail of a picture that shows verdicts. Where
`stock` is not: the command, and what demand keeps of items out of stock."""
EXAMPLES = {
    "operators/cli/app.py: 'A setting as in headrace.toml, e.g. rounds.round_events=5000'",
    "operators/cli/app.py: ': wanted TABLE.NAME=VALUE, e.g. rounds.round_events=5000'",
    "operators/planted.py: '/v1/retention?n='",
    "operators/planted.py: 'demand'",
    "operators/planted.py: 'shopper_value'",
    "operators/planted.py: 'stock'",
}
"""Texts that show by an example how a setting is written; what is asked about what a simulated shop has planted, as a
shop's own program would ask it."""


def test_the_list_is_the_only_place_that_adds_a_family() -> None:
    assert families() == FAMILIES
    assert [kind.name for kind in FAMILIES] == [
        "desk",
        "stock",
        "next_item",
        "purchase",
        "profiles",
        "segments",
        "shopper_value",
        "demand",
        "placements",
        "experiments",
        "exploration",
        "exposure",
        "rounds",
    ]


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    size: Annotated[int, Meta(ge=1, description="How many.")] = 3


class Own(Family):
    """A family of one's own that reads another."""

    name: ClassVar[str] = "own"
    merges: ClassVar[Merges] = Merges("not", per_shopper="nothing", why="a test")
    reads: ClassVar[tuple[str, ...]] = ("purchase",)
    surface: ClassVar[Surface] = Surface(doc="A test.", settings=Settings)

    def __init__(self, settings: Settings, reads: Any) -> None:
        self.size, self.other, self.seen = settings.size, reads["purchase"], 0

    def learn(self, event: Any, now: Moment) -> None:
        self.seen += 1

    def state(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def restore(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


class Alien:
    """No family."""


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the path of a family in a module that can be imported by its name."""
    import sys
    import types

    module = types.ModuleType("a_shop")
    module.Own, module.Alien = Own, Alien  # type: ignore[attr-defined]  # a module made here
    monkeypatch.setitem(sys.modules, "a_shop", module)
    return "a_shop:Own"


def test_a_family_of_ones_own_is_folded_after_those_that_it_reads(own: str) -> None:
    kinds = families([own])
    assert kinds[-1] is Own
    shop = Shop([PurchaseFamily, Own], {"own": Settings(size=9)})
    found = shop.families["own"]
    assert isinstance(found, Own)
    assert (found.size, found.other) == (9, shop.families["purchase"])


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nothing", "wanted module:name"),
        ("no_such_module:Own", "No module named"),
        ("a_shop:Missing", "has no attribute"),
        ("a_shop:Alien", "wanted a subclass"),
    ],
)
def test_what_is_no_family_is_refused(own: str, path: str, said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        families([path])


def test_two_families_of_one_name_route_or_detector_are_refused(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Misconfigured, match="wanted each name once, found 'own' 2 times"):
        families([own, own])
    monkeypatch.setattr(Own, "surface", msgspec.structs.replace(Own.surface, routes=PurchaseFamily.surface.routes))
    with pytest.raises(Misconfigured, match="wanted each route once"):
        families([own])
    monkeypatch.setattr(Own, "surface", msgspec.structs.replace(Own.surface, routes=(), detectors=("price",)))
    with pytest.raises(Misconfigured, match="wanted each detector once, found 'price'"):
        families([own])
    monkeypatch.setattr(Own, "reads", ("nobody",))
    monkeypatch.setattr(Own, "surface", Surface(doc="A test.", settings=Settings))
    with pytest.raises(Misconfigured, match="wanted 'nobody', which it reads"):
        families([own])


class Open(Struct, frozen=True):
    """A section or a query that takes unknown names."""


class Query(Struct, frozen=True, forbid_unknown_fields=True):
    name: str = ""


def route(path: str, query: type[Struct] = Query) -> Route:
    return Route(path=path, doc="A test.", query=query, answer=Open, call=lambda family, query, now: Open())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"teaches": {"view_itm": "views"}}, "wanted event types in teaches, found 'view_itm'"),
        ({"settings": Open}, "wanted Open with forbid_unknown_fields"),
        ({"routes": (route("/v1/x", Open),)}, "wanted Open with forbid_unknown_fields"),
        ({"routes": (route("/metrics"),)}, "wanted a route below /v1/"),
        ({"routes": (route("/v1/{shopper}"),)}, "whose parameters are fields of its query"),
        ({"metrics": (msgspec.structs.replace(FAMILIES[0].surface.metrics[0], help="x"),)}, "another declaration"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused(
    own: str, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(Own, "surface", msgspec.structs.replace(Own.surface, **changed))
    with pytest.raises(Misconfigured, match=said):
        families([own])


def test_a_metric_with_a_name_of_ours_is_refused() -> None:
    taken = Surface(doc="A test.", settings=Settings, metrics=(Metric(name="headrace_lag_records", help="Mine."),))
    with pytest.raises(Misconfigured, match="metric headrace_lag_records: wanted a name of its own"):
        ShardMetrics([taken])


def test_a_family_may_move_to_a_shard_of_its_own(own: str) -> None:
    numbers = {"online": 0, "finetune": 1, "third": 5}
    here = placed(FAMILIES, numbers, {"third": ["purchase"]})
    assert {name: [kind.name for kind in one.kinds] for name, one in here.items()} == {
        "online": ["desk", "stock", "next_item", "profiles", "segments", "shopper_value", "demand"],
        "finetune": ["desk", "placements", "experiments", "exploration", "exposure", "rounds"],
        "third": ["desk", "purchase"],
    }  # fmt: skip
    assert [kind.name for kind in here["third"].own_kinds] == ["purchase"]
    third = here["third"].shard
    assert (third.number, third.hears, third.writes) == (5, ("items", "traits", "silences"), ("scores", "alarms"))
    assert [one.quarantines for one in here.values()] == [True, False, False]
    assert set(placed(FAMILIES, numbers)) == {"online", "finetune"}, "a shard without families has no process"


@pytest.mark.parametrize(
    ("moved", "numbers", "said"),
    [
        ({"third": ["purchase"]}, {}, "wanted both in one shard, found online and third"),
        ({"third": ["nobody"]}, {}, "found 'nobody'"),
        ({"third": ["rounds"], "online": ["rounds"]}, {}, "wanted in one shard, found in third and online"),
        ({}, {"third": 0}, "wanted each partition of a shard once"),
        ({}, {"online-2": 3}, "shard 'online-2': wanted lower-case letters"),
        ({}, {"model": 3}, "shard 'model': wanted .* none of model"),
    ],
)
def test_placements_that_cannot_be_are_refused(
    own: str, moved: dict[str, list[str]], numbers: dict[str, int], said: str
) -> None:
    with pytest.raises(Misconfigured, match=said):
        placed(families([own]), {"online": 0, "finetune": 1, "third": 2} | numbers, moved)


def test_a_topic_of_ones_own_joins_the_table(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.topics.TOPICS", dict(TOPICS))
    mine = TOPICS["scores"]._replace(name="offers")
    monkeypatch.setattr(Own, "surface", Surface(doc="A test.", settings=Settings, topics=(mine,), writes=("offers",)))
    kinds = families([own])
    assert families([own]) == kinds, "registering it again changes nothing"
    monkeypatch.setattr(Own, "surface", Surface(doc="A test.", settings=Settings, topics=(mine._replace(key="x"),)))
    with pytest.raises(Misconfigured, match="topic offers: wanted a name of its own"):
        families([own])


def test_a_section_refuses_what_it_does_not_know() -> None:
    sections: dict[str, type[Struct]] = {"own": Settings, "none": NoSettings}
    assert settings(sections, {}, own={"size": "7"}).families == {"own": Settings(7), "none": NoSettings()}
    for bad, said in (({"size": 0}, ">= 1"), ({"sise": 3}, "sise"), ({"size": "many"}, "Expected `int`")):
        with pytest.raises(Misconfigured, match=said):
            settings(sections, {}, own=bad)
    with pytest.raises(Misconfigured, match="wanted a name that differs from those of the settings"):
        settings(dict[str, type[Struct]](serve=Settings), {})
