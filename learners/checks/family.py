"""The problem of a family (`learners.family.Family`), and the checks that apply only to families."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Final
from zlib import crc32

import msgspec

from headrace.events import Event
from headrace.log.protocol import Record
from headrace.shard.journal import FamilyStamp, Stamp
from headrace.state import State, digest
from headrace.surface import Now, Refused, settings_of
from headrace.topics import DAY_MS
from learners.checks.event import hostile, one_of_each_type, purchases, stream
from learners.checks.problem import Problem
from learners.family import Family, Mergeable, Preparer
from learners.shop import Shop

entry_events: Final = 40
"""Events of one journal entry of a problem's stream."""


class FamilyFold:
    """A family and those that it reads, folded in the way of a shard."""

    def __init__(self, kind: type[Family], kinds: Sequence[type[Family]], settings: Any, state: State | None) -> None:
        self.kinds, self.settings = kinds, settings
        self.shop = Shop(kinds, {kind.name: settings})
        if state is not None:
            self.shop.restore(state, self.shop.stamp)
        self.family = self.shop.families[kind.name]
        self.offset = self.shop.events

    def learn(self, event: Event) -> None:
        """Prepare an event and learn from it; end an entry after every `entry_events`."""
        event = deepcopy(event)
        if self.shop.prepare(event):
            self.shop.learn(event, 0, self.offset)
        self.offset += 1
        if self.offset % entry_events == 0:
            self.shop.emit()

    def bounds(self) -> dict[str, tuple[int, int]]:
        """As `Family.bounds`."""
        return self.family.bounds()

    def state(self) -> State:
        """End the entry, as before a snapshot, and return the shop's state."""
        self.shop.emit()
        return self.shop.state()


def family(
    kind: type[Family],
    right: Callable[[FamilyFold], bool],
    lesson: Sequence[Event] | None = None,
    reads: Sequence[type[Family]] = (),
    **settings: Any,
) -> Problem:
    """Return the problem for a family.

    Args:
        right: whether a fold that has learned the lesson answers correctly.
        lesson: the events to learn from; by default `learners.checks.event.purchases`.
        reads: the families that it reads.
        settings: small bounds for its tables.
    """
    section = msgspec.convert(settings, kind.surface.settings)
    kinds = (*reads, kind)
    return Problem(
        factory="learners.checks.family:for_other_process",
        kind=kind,
        settings={**settings, "reads": [f"{one.__module__}:{one.__qualname__}" for one in reads]},
        make=lambda: FamilyFold(kind, kinds, section, None),
        restore=lambda state: FamilyFold(kind, kinds, section, state),
        stream=stream,
        lesson=purchases() if lesson is None else lesson,
        right=right,
        hostile=hostile(refused=False),
        learn=lambda fold, step: fold.learn(step),
        predict=lambda fold, step: _answers(fold, step),
        scale=0.25,
    )


def for_other_process(kind: type[Family], reads: Sequence[str], **settings: Any) -> Problem:
    """Return the problem in another process, from the names of its parts."""
    from headrace.artifacts import resolve

    return family(kind, lambda fold: True, None, [resolve(name) for name in reads], **settings)


def _answers(fold: FamilyFold, step: Event) -> State:
    """Return the answer of each route for the event's shopper, and the scores."""
    found: State = {"scores": _plain(fold.family.scores()), "watched": _plain(dict(fold.family.watched()))}
    for route in fold.family.surface.routes:
        try:
            query = msgspec.convert({"shopper": step.shopper}, route.query)
            found[route.path] = _plain(route.call(fold.family, query, Now(fold.shop.time_ms, "id")))
        except (msgspec.ValidationError, Refused):
            continue  # the route has another parameter than a shopper
    return found


def _plain(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def check_declares_what_it_shows(problem: Problem) -> None:
    """Scores, series, tables, charts and detectors match the surface, before and after learning."""
    kind: type[Family] = problem.kind
    surface = kind.surface
    assert surface.doc.endswith("."), "wanted a line of documentation that ends with a period"
    assert all(setting.description for setting in settings_of(surface.settings)), "wanted a description of each setting"
    fold = problem.make()
    for step in (None, *problem.stream(300)):
        if step is not None:
            problem.learn(fold, step)
            if fold.offset % 100:
                continue
        one: Family = fold.family
        unknown = set(surface.full_by_design) - one.bounds().keys()
        assert not unknown, f"full_by_design: wanted bounded tables, found {', '.join(sorted(unknown))}"
        scores = one.scores()
        assert (scores is None) == (surface.scores is None), "wanted scores if and only if the surface declares them"
        for metric in surface.metrics:
            for labels, value in metric.read(one) if metric.read else ():
                assert len(labels) == len(metric.labels), f"{metric.name}: wanted values for {metric.labels}"
                assert value == value, f"{metric.name}: wanted a number, found NaN"
        for detector in one.watched():
            assert any(declared.startswith(detector) for declared in surface.detectors), f"{detector} is not declared"
        if scores is not None:
            assert surface.scores is not None
            scores = msgspec.json.decode(msgspec.json.encode(scores), type=surface.scores)
            for table in surface.tables:
                for row in table.rows(scores):
                    assert len(row) == len(table.columns), f"{table.title}: wanted {len(table.columns)} cells"
            for chart in surface.charts:
                assert (chart.lines is None) != (chart.judged is None), f"{chart.title}: wanted one source of its lines"
                assert chart.judged is None or surface.judgements, f"{chart.title}: wanted the type of judgements"
                if chart.lines:
                    assert all(isinstance(value, float) for value in chart.lines(scores).values()), chart.title


def check_ignores_what_it_cannot_read(problem: Problem) -> None:
    """Unknown or empty records of side topics, none of which has a key, change nothing."""
    fold = problem.make()
    for step in problem.stream(50):
        problem.learn(fold, step)
    before = digest(fold.state())
    for topic in problem.kind.surface.hears:
        for value in (None, b"", b"noise", b"{}", b"[" * 5_000):
            fold.shop.hear(topic, Record(0, 0, 0, None, value))
    assert digest(fold.state()) == before, "an undecodable record of a side topic changed the state"


def check_merges_as_it_says(problem: Problem) -> None:
    """Folds of two halves of the shoppers merge as the family declares: exactly or within the bound."""
    kind: type[Family] = problem.kind
    assert kind.merges.how in ("exactly", "approximately", "not")
    assert kind.merges.why, "wanted the reason why it merges or does not"
    if kind.merges.how == "not":
        return
    assert issubclass(kind, Mergeable), f"{kind.name} declares that it merges {kind.merges.how}, but is not Mergeable"
    whole, halves = problem.make(), (problem.make(), problem.make())
    for step in problem.stream(600):
        problem.learn(whole, step)
        problem.learn(halves[crc32(step.shopper.encode()) % 2], step)
    merged = halves[0].family
    merged.merge(halves[1].family)
    if kind.merges.how == "exactly":
        same = digest(merged.state()) == digest(whole.family.state())
        assert same, "the merged state of two halves differs from the state of the whole"
    else:
        difference = merged.difference(whole.family)
        assert difference <= kind.merges.bound, (
            f"the merged fold differs from the whole by {difference}, more than {kind.merges.bound}"
        )


def check_bounds_change_in_place(problem: Problem) -> None:
    """A state restored under higher bounds keeps everything, under lower ones it obeys them; learning goes on."""
    kind: type[Family] = problem.kind
    fold = problem.make()
    for step in problem.stream(300):
        problem.learn(fold, step)
    state, used = fold.state(), {table: count for table, (count, _) in fold.bounds().items()}
    for setting in settings_of(kind.surface.settings):
        value = getattr(fold.settings, setting.name)
        if not setting.shapes_state or type(value) is not int:
            continue
        for other in (value // 2, value * 2):
            values = {**msgspec.to_builtins(fold.settings), setting.name: other}
            try:
                changed = msgspec.convert(values, kind.surface.settings)
            except msgspec.ValidationError:
                continue  # outside the setting's own bounds
            again = FamilyFold(kind, fold.kinds, changed, state)
            found = again.bounds()
            for table, (count, maximum) in found.items():
                assert count <= maximum, f"{setting.name}={other}: {table} holds {count}, more than {maximum}"
                if other > value:
                    assert count == used[table], f"{setting.name}={other}: wanted {used[table]} of {table} kept"
            for step in problem.stream(50):
                problem.learn(again, step)


def check_continues_without_a_part(problem: Problem) -> None:
    """A part that cannot be restored begins empty, with those that need it; the others stay as they were."""
    kind: type[Family] = problem.kind
    fold = problem.make()
    for step in problem.stream(200):
        problem.learn(fold, step)
    state, stamp = fold.state(), fold.shop.stamp
    declared, own = kind.declared_parts(), stamp.families[kind.name]
    for lost in declared:
        needing = {part for part, one in declared.items() if lost in one.needs}
        versions = {part: version for part, version in own.parts.items() if part != lost}
        families = {**stamp.families, kind.name: FamilyStamp(own.settings, versions)}
        again = FamilyFold(kind, fold.kinds, fold.settings, None)
        again.shop.restore(state, Stamp(stamp.headrace, families))
        assert set(again.shop.renewed) == {f"{kind.name}.{part}" for part in {lost, *needing}}
        if kind.parts:
            kept = again.family.state()
            for part in set(declared) - {lost, *needing}:
                assert digest({"part": kept[part]}) == digest({"part": state["families"][kind.name][part]}), (
                    f"without {lost}, {part} was not restored as it was"
                )
        for step in problem.stream(50):
            problem.learn(again, step)


def check_learns_as_it_says(problem: Problem) -> None:
    """Events of the declared types change the state, of others they do not.

    An event comes from a shopper who just viewed its item, put it into the cart or does not know it, at once or a day
    later.
    """
    kind: type[Family] = problem.kind
    fold = problem.make()
    for step in problem.stream(300):
        problem.learn(fold, step)
    last = problem.stream(300)[-1]
    carted = one_of_each_type(last.time_ms, last.shopper, "carted")
    problem.learn(fold, next(event for event in carted if event.type == "add_to_cart"))
    fold.shop.emit()
    state = fold.state()
    unchanged = problem.restore(state)
    unchanged.shop.emit()
    before = digest(unchanged.family.state())
    known = last.data.items[0].item_id
    changing = set()
    for delay_ms in (0, DAY_MS):
        for item in (known, "carted", "new"):
            for event in one_of_each_type(last.time_ms + delay_ms, last.shopper, item):
                if event.type == "shopper_renamed" and not issubclass(kind, Preparer):
                    continue  # no other family is given one
                again = problem.restore(state)
                problem.learn(again, event)
                again.shop.emit()
                if digest(again.family.state()) != before:
                    changing.add(event.type)
    declared = set(kind.surface.teaches)
    assert changing <= declared, f"teaches does not say what is learned from {', '.join(sorted(changing - declared))}"
    assert declared <= changing, (
        f"teaches names {', '.join(sorted(declared - changing))}, from which nothing is learned"
    )


FAMILY_CHECKS: Final[tuple[Callable[[Problem], None], ...]] = (
    check_declares_what_it_shows,
    check_ignores_what_it_cannot_read,
    check_merges_as_it_says,
    check_learns_as_it_says,
    check_bounds_change_in_place,
    check_continues_without_a_part,
)
