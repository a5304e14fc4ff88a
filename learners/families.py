"""The list of our families, the loading of your own, and the placement of families in shards."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, get_args

import msgspec

from headrace.artifacts import resolve
from headrace.errors import Misconfigured
from headrace.events import EventType
from headrace.surface import Metric
from headrace.topics import ALARMS, DEAD_LETTERS, SCORES, TOPICS, Shard, register
from learners.demand.family import DemandFamily
from learners.desk.family import Desk
from learners.experiments.family import ExperimentsFamily
from learners.exploration.family import ExplorationFamily
from learners.exposure.family import ExposureFamily
from learners.family import EVERY_SHARD, Family
from learners.next_item.family import NextItemFamily
from learners.placements.family import PlacementsFamily
from learners.profiles.family import ProfilesFamily
from learners.purchase.family import PurchaseFamily
from learners.rounds.family import Rounds
from learners.segments.family import SegmentsFamily
from learners.stock.family import StockFamily
from learners.value.family import ValueFamily

FAMILIES: Final[tuple[type[Family], ...]] = (
    Desk, StockFamily, NextItemFamily, PurchaseFamily, ProfilesFamily, SegmentsFamily, ValueFamily, DemandFamily,
    PlacementsFamily, ExperimentsFamily, ExplorationFamily, ExposureFamily, Rounds,
)  # fmt: skip
"""Our families, in the order in which a shard folds them."""


def families(own: Sequence[str] = ()) -> tuple[type[Family], ...]:
    """Return our families and then those of your own, each named as `module:Class`.

    Raises:
        Misconfigured: a name is not that of a family, or two families share a name, route or detector.
    """
    found = [*FAMILIES, *map(_load_own, own)]
    _check_unique("name", [kind.name for kind in found])
    _check_unique("route", [route.path for kind in found for route in kind.surface.routes])
    _check_unique("detector", [detector for kind in found for detector in kind.surface.detectors])
    metrics: dict[str, Metric] = {}
    for metric in (metric for kind in found for metric in kind.surface.metrics):
        if metrics.setdefault(metric.name, metric) != metric:
            raise Misconfigured(f"families: wanted the metric {metric.name} declared once, found another declaration")
    before: set[str] = set()
    for kind in found:
        if missing := {*kind.reads, *kind.consults} - before:
            raise Misconfigured(
                f"family {kind.name}: wanted {min(missing)!r}, which it reads or asks, earlier in the list, found none"
            )
        before.add(kind.name)
        for topic in kind.surface.topics:
            register(topic)
    return tuple(found)


def _check_unique(what: str, names: Sequence[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise Misconfigured(f"families: wanted each {what} once, found {name!r} {count} times")


def _load_own(path: str) -> type[Family]:
    kind = resolve(path)
    if not (isinstance(kind, type) and issubclass(kind, Family)):
        raise Misconfigured(f"family {path}: wanted a subclass of learners.family.Family, found {kind!r}")
    for attribute in ("name", "surface", "merges"):
        if not hasattr(kind, attribute):
            raise Misconfigured(f"family {path}: wanted the class attribute {attribute!r}, found none")
    if not kind.name.isidentifier() or kind.name != kind.name.lower():
        raise Misconfigured(f"family {path}: wanted a lower-case identifier as its name, found {kind.name!r}")
    for section in (kind.surface.settings, *(route.query for route in kind.surface.routes)):
        if not section.__struct_config__.forbid_unknown_fields:
            raise Misconfigured(f"family {path}: wanted {section.__name__} with forbid_unknown_fields=True")
    if unknown := sorted(set(kind.surface.teaches) - set(get_args(EventType))):
        raise Misconfigured(f"family {path}: wanted event types in teaches, found {unknown[0]!r}")
    for route in kind.surface.routes:
        parameters = set(re.findall(r"{(\w+)}", route.path))
        fields = {field.encode_name for field in msgspec.structs.fields(route.query)}
        if not route.path.startswith("/v1/") or not parameters <= fields:
            raise Misconfigured(
                f"family {path}: wanted a route below /v1/ whose parameters are fields of its query, found {route.path}"
            )
    return kind


class Placement(NamedTuple):
    """A shard and its families, in the order in which they are folded."""

    shard: Shard
    kinds: tuple[type[Family], ...]

    @property
    def own_kinds(self) -> tuple[type[Family], ...]:
        """The families that this shard alone folds."""
        return tuple(kind for kind in self.kinds if kind.shard != EVERY_SHARD)

    @property
    def quarantines(self) -> bool:
        """Whether this shard writes the dead letters; exactly one of the shards that read `events` does."""
        return DEAD_LETTERS in self.shard.writes


def placed(
    kinds: Sequence[type[Family]], numbers: Mapping[str, int], moved: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Placement]:
    """Return the shards that have at least one family, by name.

    Args:
        numbers: each shard's partition of `journal` and `judgements`, by its name.
        moved: for a shard's name, the families that it folds instead of their default shards.

    Raises:
        Misconfigured: a family is unknown, is placed twice, or is in another shard than a family that it reads; or two
            shards share a partition.
    """
    everywhere = tuple(kind for kind in kinds if kind.shard == EVERY_SHARD)
    kinds = [kind for kind in kinds if kind.shard != EVERY_SHARD]
    shard_of = {kind.name: kind.shard for kind in kinds}
    taken: dict[str, str] = {}
    for shard, names in (moved or {}).items():
        for name in names:
            if name not in shard_of:
                raise Misconfigured(f"shard {shard}: wanted families of {', '.join(shard_of)}, found {name!r}")
            if name in taken:
                raise Misconfigured(f"family {name}: wanted in one shard, found in {taken[name]} and {shard}")
            taken[name] = shard_of[name] = shard
    for kind in kinds:
        if shard_of[kind.name] not in numbers:
            known = ", ".join(numbers)
            raise Misconfigured(f"family {kind.name}: wanted one of the shards {known}, found {kind.shard}")
        for other in kind.reads:
            if other in shard_of and shard_of[other] != shard_of[kind.name]:
                raise Misconfigured(
                    f"family {kind.name} reads {other}: wanted both in one shard, found {shard_of[kind.name]} and"
                    f" {shard_of[other]}"
                )
    artifacts = {kind.surface.artifact.kind for kind in kinds if kind.surface.artifact}
    for name in numbers:  # it begins the names of blobs, which are deleted by their kind
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in artifacts:
            raise Misconfigured(
                f"shard {name!r}: wanted lower-case letters, digits and _, and none of {', '.join(sorted(artifacts))}"
            )
    _check_unique("partition of a shard", [str(number) for number in numbers.values()])
    by_shard = {
        shard: (*everywhere, *members)
        for shard in numbers
        if (members := [kind for kind in kinds if shard_of[kind.name] == shard])
    }
    first = min(by_shard, key=numbers.__getitem__)
    return {
        shard: Placement(_shard(shard, numbers[shard], members, quarantines=shard == first), members)
        for shard, members in by_shard.items()
    }


def _shard(name: str, number: int, kinds: Sequence[type[Family]], *, quarantines: bool) -> Shard:
    surfaces = [kind.surface for kind in kinds]
    writes = {ALARMS, *(topic for surface in surfaces for topic in surface.writes)}
    if quarantines:
        writes.add(DEAD_LETTERS)
    if any(surface.scores for surface in surfaces):
        writes.add(SCORES)
    hears = {topic for surface in surfaces for topic in surface.hears}
    if unknown := sorted((writes | hears) - set(TOPICS)):
        raise Misconfigured(f"shard {name}: wanted topics of {', '.join(TOPICS)}, found {unknown[0]!r}")
    order = list(TOPICS)
    return Shard(name, number, tuple(sorted(writes, key=order.index)), tuple(sorted(hears, key=order.index)))


def default_placements() -> dict[str, Placement]:
    """Return our families in their default shards."""
    return placed(FAMILIES, {"online": 0, "finetune": 1})
