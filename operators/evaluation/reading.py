"""Reads what was left to chance from a log, and what came of it, as chunks for the estimators.

Three kinds of answers can be judged:

- *explored*: an arm of an experiment explores, and the impression says what could be chosen (`Impression.explored`);
- *arms*: a shopper's arm of an experiment was dealt by known shares, so the arms are the actions;
- *lists*: items were chosen by chance, each with a propensity below 1.

Impressions and events are read once, in the order in which they were appended. Choices go to a temporary file, so that
memory grows by one number for each answer.
"""

import heapq
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, Final, Generic, Literal, NamedTuple, Protocol, TypeVar, get_args

import msgspec
import numpy as np
from msgspec import Struct

from headrace.errors import Misconfigured
from headrace.events import Event, Rejection
from headrace.experiments import Experiment, decode
from headrace.impressions import Impression
from headrace.log.protocol import Log
from headrace.log.scan import topic_records
from headrace.reading import ReadOnlyLog
from headrace.records import Logged
from headrace.sampling import fraction
from headrace.topics import EVENTS, EXPERIMENTS, IMPRESSIONS, ITEMS
from learners.placements.attribution import held_ms, window_ms
from operators.evaluation.policies import Policy, Situation
from operators.evaluation.rewards import Reward, Rewards, late_ms
from operators.evaluation.single import Choices
from operators.evaluation.slates import Lists

Kind = Literal["explored", "arms", "lists"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""What is judged if a log has several: the first."""
T = TypeVar("T")
names_shown: Final = 20
chunk_numbers: Final = 4_000_000
"""About how many probabilities and numbers a chunk holds."""
chunk_rows_max: Final = 50_000
values_max: Final = 6
"""Values of device and country that the reward model tells apart, as segments of experiments do."""
report_every: Final = 10_000
"""Impressions between two reports of progress."""


class Report(Protocol):
    """Shows the progress."""

    def __call__(self, task: str, done: int, total: int) -> None:
        """Show how much of a task is done."""


class Wanted(NamedTuple):
    """What is read.

    Attributes:
        experiment: its name and what it states; None: lists.
        placement, position: only answers of this placement, only choices of this place; None: all.
        begin_ms, end_ms: the append times of the answers, without the end; None: no bound.
    """

    experiment: tuple[str, Experiment] | None
    placement: str | None
    position: int | None
    begin_ms: int | None
    end_ms: int | None


class _Row(Struct, array_like=True, gc=False):
    """A choice: where its value is, whose, and what the policy and the log said of each action, by its number."""

    value: int
    shopper: int
    kind: Kind
    actions: list[int]
    logged: list[float]
    target: list[float]
    action: int
    context: list[float]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Row).decode
_length_bytes: Final = 4


class Judged:
    """What was read, and its chunks. A context manager, as its file is deleted at the end.

    Attributes:
        kind: what the answers are.
        impressions: how many were read.
        used: of how many the choices were in the chunks, when these were last iterated.
        repeated, strays, bots: answers that were left out: seen before; whose arm is not their shopper's; of shoppers
            over the daily budget of steps.
        unripe: answers that may still be credited, as a day is not over at the newest record.
        unreadable: impressions that this release cannot read.
        lost: topics whose oldest records of the range are neither in the log nor in its archive.
    """

    def __init__(self, wanted: Wanted, policy: Policy, reward: Reward, sections: Mapping[str, Any]) -> None:
        self._wanted, self._policy = wanted, policy
        self._rewards = Rewards(reward, sections)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._actions: dict[Kind, dict[str, int]] = {kind: {} for kind in KINDS}
        self._counts: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self._widths: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self._known: dict[str, list[str]] = {"device": [], "country": []}
        self._young: deque[int] = deque()  # append times of the answers of the last day
        self.kind: Kind = "lists"
        self.impressions = self.used = self.repeated = self.strays = self.bots = self.unripe = self.unreadable = 0
        self.lost: list[str] = []

    def __enter__(self) -> "Judged":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def actions(self) -> list[str]:
        """The names of the actions, or of the items of lists."""
        return list(self._actions[self.kind])

    @property
    def evicted(self) -> int:
        """Answers that were made final before their time."""
        return self._rewards.evicted

    def read(self, log: Log, report: Report) -> None:
        """Read the log, once.

        Raises:
            Misconfigured: the policy names what never could be chosen, or cannot judge such answers.
        """
        wanted, rewards = self._wanted, self._rewards
        for record in topic_records(log, ITEMS):
            rewards.hear_item(record)
        self._note_lost(log)
        begin_ms, end_ms = wanted.begin_ms, wanted.end_ms
        reader = ReadOnlyLog(log, {})
        placements = None if wanted.placement is None else [wanted.placement]
        since, until = _utc(begin_ms, -window_ms), _utc(end_ms, late_ms)
        shown = reader.impressions(placements=placements).between(_utc(begin_ms), _utc(end_ms))
        events = reader.events().between(since, until)
        # An answer is heard before the events that name it, although they may have been appended a moment earlier.
        merged: Iterator[tuple[int, Logged[Impression] | Logged[Event]]] = heapq.merge(
            ((one.appended_ms - held_ms, one) for one in shown),
            ((one.appended_ms, one) for one in events),
            key=itemgetter(0),
        )
        newest_ms = 0
        for _, one in merged:
            newest_ms = max(newest_ms, one.appended_ms)
            if isinstance(one.value, Event):
                rewards.learn(one.value, one.appended_ms)
                continue
            self._show(one.value, one.appended_ms)
            if self.impressions % report_every == 0:
                report("impressions read", self.impressions, self.impressions)
        if until:
            for late in reader.events(types="refund").between(until):
                rewards.learn(late.value, late.appended_ms)
        self.unreadable = reader.unreadable[IMPRESSIONS]
        self.unripe = sum(time_ms > newest_ms - window_ms for time_ms in self._young)
        self.kind = next((kind for kind in KINDS if self._counts[kind]), "lists")
        names = self._actions[self.kind]
        if names and (unknown := sorted(self._policy.names - names.keys())):
            some = ", ".join(list(names)[:names_shown])
            raise Misconfigured(f"policy: wanted actions of {some}, found {unknown[0]!r}, which could never be chosen")

    def _note_lost(self, log: Log) -> None:
        begin_ms = self._wanted.begin_ms
        for topic in (IMPRESSIONS, EVENTS):
            for place in log.partitions(topic):
                first = log.first(place)
                if first and (begin_ms is None or log.position_at(place, begin_ms) <= first):
                    self.lost.append(topic)
                    break

    def _show(self, shown: Impression, appended_ms: int) -> None:
        """Note an answer, if something of it was left to chance."""
        self.impressions += 1
        while self._young and self._young[0] <= appended_ms - window_ms:
            self._young.popleft()
        if not shown.shopper:
            return
        found = self._list(shown) if self._wanted.experiment is None else self._choice(shown)
        if found is None:
            return
        kind, situations, action = found
        value = self._rewards.show(shown, appended_ms, by_place=kind == "lists")
        if value is None:
            self.repeated += 1
            return
        numbers = self._actions[kind]
        names = [numbers.setdefault(name, len(numbers)) for one in situations for name in one.actions]
        logged = [number for one in situations for number in one.logged]
        target = [number for one in situations for number in self._policy.probabilities(one)]
        context = list(situations[0].context)
        self._widths[kind] = max(self._widths[kind], len(names) if kind == "lists" else len(context))
        self._counts[kind] += 1
        self._young.append(appended_ms)
        shopper = _number(self._rewards.shopper(shown.shopper))
        data = _encode(_Row(value, shopper, kind, names, logged, target, action, context))
        self._file.write(len(data).to_bytes(_length_bytes, "little") + data)

    def _list(self, shown: Impression) -> "_Found | None":
        """Return the places of a list, if its items were chosen by chance."""
        if all(one.propensity >= 1 for one in shown.items) or shown.explored:
            return None
        values, items = _values(shown), list(enumerate(shown.items, 1))
        return "lists", [Situation([one.item_id], [one.propensity], values | {"position": at}) for at, one in items], 0

    def _choice(self, shown: Impression) -> "_Found | None":
        """Return the choice that an answer made in the experiment."""
        assert self._wanted.experiment
        name, experiment = self._wanted.experiment
        values, explored, position = _values(shown), shown.explored, self._wanted.position
        if explored and explored.experiment == name:
            if position not in (None, explored.position):
                return None
            values["position"] = explored.position
            values |= {f"context_{number}": value for number, value in enumerate(explored.context)}
            situation = Situation(explored.actions, explored.probabilities, values, explored.context)
            return "explored", [situation], explored.action
        arm = shown.experiments.get(name)
        if arm is None or experiment.kind != "arms" or position is not None:
            return None
        number = experiment.arm_of(name, self._rewards.shopper(shown.shopper))
        if number is None or experiment.arms[number].name != arm:
            self.strays += 1
            return None
        total = sum(one.share for one in experiment.arms)
        names, shares = [one.name for one in experiment.arms], [one.share / total for one in experiment.arms]
        context = [*self._one_hot("device", shown.device), *self._one_hot("country", shown.country)]
        return "arms", [Situation(names, shares, values, context)], number

    def _one_hot(self, name: str, value: str) -> list[float]:
        known = self._known[name]
        if value and value not in known and len(known) < values_max:
            known.append(value)
        return [float(number < len(known) and known[number] == value) for number in range(values_max)]

    # What was read

    def choices(self) -> "Chunks[Choices]":
        """Return the single choices."""
        return Chunks(lambda: map(self._choices, self._batches(len(self.actions) + self._widths[self.kind])))

    def lists(self) -> "Chunks[Lists]":
        """Return the lists."""
        return Chunks(lambda: map(self._lists, self._batches(self._widths["lists"])))

    def _batches(self, width: int) -> Iterator[list[_Row]]:
        rows = max(1, min(chunk_rows_max, chunk_numbers // max(1, width)))
        bots = {_number(shopper) for shopper in self._rewards.bots}
        self.used = self.bots = 0
        self._file.seek(0)
        batch: list[_Row] = []
        while head := self._file.read(_length_bytes):
            row = _decode(self._file.read(int.from_bytes(head, "little")))
            if row.kind != self.kind:
                continue
            if row.shopper in bots:
                self.bots += 1
                continue
            self.used += 1
            batch.append(row)
            if len(batch) >= rows:
                yield batch
                batch = []
        if batch:
            yield batch

    def _choices(self, rows: list[_Row]) -> Choices:
        shape = len(rows), len(self.actions)
        at = np.repeat(np.arange(len(rows)), [len(row.actions) for row in rows])
        action = np.array([number for row in rows for number in row.actions], np.int64)
        logged, target, context = np.zeros(shape), np.zeros(shape), np.zeros((len(rows), self._widths[self.kind]))
        logged[at, action] = [number for row in rows for number in row.logged]
        target[at, action] = [number for row in rows for number in row.target]
        for place, row in enumerate(rows):
            context[place, : len(row.context)] = row.context
        return Choices(
            np.array([row.shopper for row in rows], np.int64),
            np.array([row.actions[row.action] for row in rows], np.int64),
            np.array([self._rewards.value(row.value) for row in rows]), logged, target, context,
        )  # fmt: skip

    def _lists(self, rows: list[_Row]) -> Lists:
        shape = len(rows), self._widths["lists"]
        reward, logged, target = np.zeros(shape), np.ones(shape), np.ones(shape)
        for place, row in enumerate(rows):
            count = len(row.actions)
            reward[place, :count] = [self._rewards.value(row.value + number) for number in range(count)]
            logged[place, :count], target[place, :count] = row.logged, row.target
        length = np.array([len(row.actions) for row in rows], np.int64)
        return Lists(np.array([row.shopper for row in rows], np.int64), reward, logged, target, length)


_Found = tuple[Kind, list[Situation], int]
"""The kind, the choices (of a list, one for each place), and the number of the chosen action."""


class Chunks(Generic[T]):
    """What can be iterated several times."""

    def __init__(self, make: Callable[[], Iterator[T]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[T]:
        return self._make()


def experiment_of(log: Log, name: str | None) -> tuple[str, Experiment] | None:
    """Return an experiment and its name; one that was removed, too. Without a name, the only one of arms that was ever
    stated, None if there is none.

    Raises:
        Misconfigured: there is none of this name, it cannot be judged, or there are several.
    """
    found: dict[str, Experiment] = {}
    for record in topic_records(log, EXPERIMENTS):
        stated = decode(record)
        if not isinstance(stated, Rejection) and stated.experiment and stated.experiment.state != "draft":
            found[stated.name] = stated.experiment
    arms = [known for known, one in found.items() if one.kind == "arms"]
    if name is None and len(arms) > 1:
        raise Misconfigured(f"evaluate: wanted one of the experiments {', '.join(arms)} by --experiment, found none")
    if name is None:
        return (arms[0], found[arms[0]]) if arms else None
    if name not in arms:
        what = f"one of the kind {found[name].kind}" if name in found else "none of this name that has run"
        raise Misconfigured(
            f"experiment {name}: wanted one of arms ({', '.join(arms) or 'there is none'}), found {what}"
        )
    return name, found[name]


def _values(shown: Impression) -> dict[str, str | float]:
    at = datetime.fromtimestamp(shown.time_ms / 1000, UTC)
    return {
        "device": shown.device, "country": shown.country, "placement": shown.placement, "route": shown.route,
        "model": shown.model, "hour": at.hour, "weekday": at.weekday(),
    }  # fmt: skip


def _number(shopper: str) -> int:
    return int(fraction(shopper, 0, "evaluation") * 2**48)


def _utc(time_ms: int | None, later_ms: int = 0) -> datetime | None:
    return None if time_ms is None else datetime.fromtimestamp((time_ms + later_ms) / 1000, UTC)
