"""Rules by the word of a person: what holds, what is to hold, and what a change would do to a sample of answers."""

import tomllib
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from headrace.errors import Misconfigured
from headrace.events import Rejection
from headrace.log.protocol import Log, Partition, Record
from headrace.log.scan import topic_records
from headrace.rules import EVERY, PLACEMENT, RuleSet, StatedRules, decode, is_placement, record_of
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.surface import Route
from headrace.topics import RULES
from learners.families import Placement
from learners.family import Family
from operators.asking import Asking, sampled_shoppers
from operators.deployment import Deployment
from operators.replay.fold import live_fold

shown_max: Final = 10
"""Most items that are shown as gone, and as new."""


class Trial(Struct):
    """What other rules would do to the answers of a sample of shoppers.

    `changed` is the number of answers that would differ, `shorter` of those with fewer items, `empty` of those without
    any. `gone` and `new` have, by item, the number of answers that would no longer have it, and would have it.
    `left_out` has the number of candidates that each rule would leave out, over all answers.
    """

    placement: str
    shoppers: int
    changed: int
    shorter: int
    empty: int
    gone: dict[str, int]
    new: dict[str, int]
    left_out: dict[str, int]


def check_placement(name: str) -> None:
    """Raise Misconfigured if no rules can be stated for a placement of this name."""
    if not is_placement(name):
        raise Misconfigured(f"placement: wanted {PLACEMENT}, or {EVERY} for every placement, found {name!r}")


def read_rules(path: Path) -> RuleSet:
    """Return the rules of a file: TOML if its name ends so, else JSON.

    Raises:
        Misconfigured: the file cannot be read, or is not a document of rules; the text names the field.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".toml":
            return msgspec.convert(tomllib.loads(data.decode()), RuleSet)
        return msgspec.json.decode(data, type=RuleSet)
    except OSError as error:
        raise Misconfigured(f"{path}: wanted a file, found {error.strerror}") from None
    except (msgspec.MsgspecError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Misconfigured(f"{path}: {error}") from None


def stated_rules(log: Log) -> list[StatedRules]:
    """Return the newest rules of each placement that has some, by placement."""
    found: dict[str, StatedRules] = {}
    for record in topic_records(log, RULES):
        one = decode(record)
        if not isinstance(one, Rejection):
            found[one.placement] = one
    return sorted(one for one in found.values() if one.rules and not one.rules.states_nothing)


def state_rules(log: Log, placement: str, rules: RuleSet) -> None:
    """Write a placement's rules. Shards and servers obey as soon as they read them."""
    with closing(log.appender()) as appender:
        appender.append(record_of(placement, rules))


def try_rules(
    log: Log, blobs: Blobs, deployment: Deployment, placement: str, rules: RuleSet, *, shoppers: int, n: int
) -> Trial:
    """Fold the live state, read-only, and answer a sample of shoppers by the rules that hold, and by others.

    Args:
        n: number of items of each answer.

    Raises:
        Misconfigured: no shard folds recommendations, or the log does not hold what a fold of its state needs.
    """
    sample = Sample(log, blobs, deployment, placement, shoppers=shoppers, n=n, what="rules try")
    before = sample.answers()
    sample.state(rules)
    trial = Trial(placement, len(before), 0, 0, 0, {}, {}, {})
    gone, new, left_out = Counter[str](), Counter[str](), Counter[str]()
    for one, other in zip(before, sample.answers(), strict=True):
        was, is_ = ([item.item_id for item in answer.items] for answer in (one, other))
        trial.changed += was != is_
        trial.shorter += len(is_) < len(was)
        trial.empty += not is_
        gone.update({*was} - {*is_})
        new.update({*is_} - {*was})
        left_out.update(other.rules.left_out)
    trial.gone, trial.new = (_most_common(counts) for counts in (gone, new))
    trial.left_out = dict(sorted(left_out.items()))
    return trial


class Sample:
    """Answers to a sample of shoppers, from a fold of the live state that nobody else sees.

    Args:
        placement: where they ask.
        n: number of items of each answer.
        what: the command that asks, for messages.

    Raises:
        Misconfigured: no shard folds recommendations, or the log does not hold what a fold of its state needs.
    """

    def __init__(
        self, log: Log, blobs: Blobs, deployment: Deployment, placement: str, *, shoppers: int, n: int, what: str
    ) -> None:  # fmt: skip
        place, kind, route = _asked(deployment, what)
        last = journal.newest(log, place.shard)
        folded = live_fold(log, blobs, place, last.number + 1) if last else None
        if folded is None:
            raise Misconfigured(f"{what}: wanted a log and blobs from which the live state can be folded, found none")
        self._shop = folded[0].fold
        self._ask = Asking(route, kind.name, self._shop, blobs)
        self._placement, self._what, self._n = placement, what, n
        self._shoppers = sampled_shoppers(log, shoppers)
        self._offset = log.end(Partition(RULES, 0))

    @property
    def time_ms(self) -> int:
        """The shop's time."""
        return self._shop.time_ms

    def state(self, rules: RuleSet) -> None:
        """Let the placement have these rules.

        Raises:
            Misconfigured: they cannot be stated.
        """
        record = record_of(self._placement, rules)
        if rejected := self._shop.hear(RULES, Record(0, self._offset, 0, record.key, record.value)):
            raise Misconfigured(f"{self._what}: {rejected.detail}")
        self._offset += 1

    def answers(self) -> list[Any]:
        """Return the answers by the rules that hold now; none to those who are refused."""
        at = "" if self._placement == EVERY else self._placement
        found = [
            self._ask({"shopper": self._shop.known_as([shopper]), "n": self._n, "placement": at})
            for shopper in self._shoppers
        ]
        return [one for one in found if one is not None]


def _asked(deployment: Deployment, what: str) -> tuple[Placement, type[Family], Route]:
    """Return a shard, its family that hears rules, and the family's route whose answers obey them."""
    for place in deployment.placements.values():
        for kind in place.kinds:
            for route in kind.surface.routes if RULES in kind.surface.hears else ():
                if "placement" in route.query.__struct_fields__:
                    return place, kind, route
    raise Misconfigured(f"{what}: wanted a shard of a family that hears rules, found none")


def _most_common(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0])))


def trial_text(trial: Trial) -> str:
    """Return what a trial found, as text."""
    lines = [
        f"of {trial.shoppers} answers, {trial.changed} would change, {trial.shorter} would be shorter, and"
        f" {trial.empty} would be empty"
    ]
    for title, counts in (("gone", trial.gone), ("new", trial.new), ("left out, by rule", trial.left_out)):
        shown = [f"{name} {count:,}" for name, count in list(counts.items())[:shown_max]]
        more = f", and {len(counts) - shown_max} more" if len(counts) > shown_max else ""
        lines.append(f"{title}: {', '.join(shown) or 'nothing'}{more}")
    return "\n".join(lines)
