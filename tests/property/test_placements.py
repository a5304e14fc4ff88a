"""Attribution against a plain reference, whichever of an answer and the events that name it is heard first."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.events import Data, Event, Item, at
from headrace.impressions import Impression, ShownItem, record_of
from headrace.log.protocol import Record
from headrace.state import decode, digest, encode
from headrace.topics import IMPRESSIONS
from learners.family import Moment
from learners.placements.attribution import CARTS, CLICKS, held_ms, window_ms
from learners.placements.family import PlacementsFamily, PlacementsSettings

MINUTE = 60_000
START = 1_750_000_000_000
GAPS = (0, MINUTE, 9 * MINUTE, 6 * 60 * MINUTE, 24 * 60 * MINUTE, 24 * 60 * MINUTE + 1, 30 * 60 * MINUTE)


class Given(NamedTuple):
    """An answer of the test: when it was given and how much later it is heard (None: never, as it was not logged)."""

    name: str
    time_ms: int
    heard_ms: int | None
    placement: str
    items: tuple[str, ...]


class Total(NamedTuple):
    """What came of a group's answers."""

    answers: int = 0
    items: int = 0
    clicked_answers: int = 0
    clicks: int = 0
    carts: int = 0
    orders: int = 0
    units: float = 0.0
    revenue: float = 0.0


class Story(NamedTuple):
    """Answers, and events in the order of their times."""

    answers: list[Given]
    events: list[Event]


ITEMS = st.sampled_from("abcd")


@st.composite
def stories(draw: Any) -> Story:
    time_ms, answers, events = START, list[Given](), list[Event]()
    for number in range(draw(st.integers(1, 25))):
        time_ms += draw(st.sampled_from(GAPS))
        if not answers or draw(st.integers(0, 2)) == 0:
            heard_ms = draw(st.none() | st.sampled_from((0, 1, 5 * MINUTE, held_ms)))
            shown = tuple(draw(st.lists(ITEMS, unique=True, max_size=3)))
            answers.append(Given(f"r{number}", time_ms, heard_ms, draw(st.sampled_from(("home", "cart"))), shown))
            continue
        kind = draw(st.sampled_from(("select_item", "view_item", "add_to_cart", "purchase", "remove_from_cart")))
        lines = [
            Item(item, price=float(draw(st.integers(1, 9))), quantity=draw(st.integers(1, 3)))
            for item in draw(st.lists(ITEMS, min_size=1, max_size=3, unique=True))
        ]
        named = draw(st.sampled_from(("", *(one.name for one in answers))))
        shopper = draw(st.sampled_from(("ann", "bob")))
        data = Data(lines, recommendation_id=named)
        events.append(Event(f"e{number}", "test", kind, at(time_ms), data, "1.0", shopper, time_ms))
    return Story(answers, events)


class Reference:
    """The rules of `learners.placements.attribution` over a whole story, by looking back through all of it."""

    def __init__(self, story: Story) -> None:
        self._answers = {one.name: one for one in story.answers if one.heard_ms is not None}
        self._events = story.events
        self.outcomes: Counter[str] = Counter()
        self._clicked: set[tuple[str, str]] = set()
        self._carted: set[tuple[str, str]] = set()
        self._sums: dict[str, Counter[str]] = defaultdict(Counter)
        for one in self._answers.values():
            self._sums[one.placement].update(answers=1, items=len(one.items))
        for place, event in enumerate(self._events):
            self._count(place, event)
        for name in {name for name, _ in self._clicked}:
            self._sums[self._answers[name].placement]["clicked_answers"] += 1

    def totals(self) -> dict[str, Total]:
        return {
            placement: Total(*(sums.get(name, 0) for name in Total._fields)) for placement, sums in self._sums.items()
        }

    def _outcome(self, name: str, item: str, named_ms: int) -> str:
        answer = self._answers.get(name)
        if answer is None:
            return "unknown"
        if item not in answer.items:
            return "not_shown"
        return "expired" if named_ms - answer.time_ms > window_ms else "attributed"

    def _count(self, place: int, event: Event) -> None:
        named = event.data.recommendation_id
        if event.type == "purchase":
            bought: dict[str, list[Item]] = defaultdict(list)
            for line in event.data.items:
                name, named_ms = self._touch(place, event, line.item_id) or (named, event.time_ms)
                if name:
                    outcome = self._outcome(name, line.item_id, named_ms)
                    self.outcomes[outcome] += 1
                    if outcome == "attributed":
                        bought[name].append(line)
            for name, lines in bought.items():
                sums = self._sums[self._answers[name].placement]
                sums["orders"] += 1
                for line in lines:
                    sums["units"] += line.quantity  # type: ignore[assignment]  # a sum of floats
                    sums["revenue"] += line.quantity * (line.price or 0.0)  # type: ignore[assignment]  # as above
        elif named and event.type in CLICKS | CARTS:
            marked, total = (self._clicked, "clicks") if event.type in CLICKS else (self._carted, "carts")
            for line in event.data.items:
                outcome = self._outcome(named, line.item_id, event.time_ms)
                if outcome == "attributed" and (named, line.item_id) in marked:
                    outcome = "repeated"
                elif outcome == "attributed":
                    marked.add((named, line.item_id))
                    self._sums[self._answers[named].placement][total] += 1
                self.outcomes[outcome] += 1

    def _touch(self, place: int, event: Event, item: str) -> tuple[str, int] | None:
        """Return the answer that the shopper's last click or cart of an item named, if that is recent, and when."""
        for one in reversed(self._events[:place]):
            names = one.data.recommendation_id and one.type in CLICKS | CARTS
            if names and one.shopper == event.shopper and item in [line.item_id for line in one.data.items]:
                recent = event.time_ms - one.time_ms <= window_ms
                return (one.data.recommendation_id, one.time_ms) if recent else None
        return None


def timeline(story: Story) -> Iterator[Given | Event]:
    """Yield answers when they are heard, and events at their times; answers that are heard at once come first."""
    heard = [(one.time_ms + one.heard_ms, bool(one.heard_ms), one) for one in story.answers if one.heard_ms is not None]
    happened = [(one.time_ms, True, one) for one in story.events]
    merged: list[tuple[int, bool, Given | Event]] = [*happened, *heard]
    for _, _, one in sorted(merged, key=lambda entry: entry[:2]):
        yield one


def hear(family: PlacementsFamily, one: Given, now: Moment) -> None:
    shown = Impression(one.name, 0, "/v1/x", [ShownItem(item) for item in one.items], one.placement)
    assert family.hear(IMPRESSIONS, Record(0, 0, one.time_ms, None, record_of(shown).value), now) is None


def step(family: PlacementsFamily, one: Given | Event, now: Moment) -> None:
    if isinstance(one, Event):
        now.time_ms = one.time_ms
        family.learn(one, now)
    else:
        hear(family, one, now)


def told(family: PlacementsFamily) -> dict[str, Total]:
    """Return the totals by placement."""
    return {
        one.group.placement: Total(*(getattr(one, name) for name in Total._fields))
        for one in family.attribution.tallies
    }


@given(stories())
@settings(max_examples=80, deadline=None)
def test_totals_are_those_of_the_reference_whichever_is_heard_first(story: Story) -> None:
    family, now, reference = PlacementsFamily(PlacementsSettings(), {}), Moment({}), Reference(story)
    for one in timeline(story):
        step(family, one, now)
    assert told(family) == reference.totals()
    found = family.attribution.outcomes + Counter(unknown=family.attribution.bounds()["held_uses"][0])
    assert found == reference.outcomes


@given(stories(), st.integers(0, 25))
@settings(max_examples=50, deadline=None)
def test_a_restored_family_goes_on_as_if_nothing_had_happened(story: Story, cut: int) -> None:
    steps: Sequence[Given | Event] = list(timeline(story))
    whole, now = PlacementsFamily(PlacementsSettings(), {}), Moment({})
    again = whole
    for number, one in enumerate(steps):
        if number == cut:
            again = PlacementsFamily(PlacementsSettings(), {})
            again.restore(decode(encode(whole.state())))
        step(whole, one, now)
        if again is not whole:
            step(again, one, now)
    assert digest(again.state()) == digest(whole.state())


@given(stories(), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2))
@settings(max_examples=50, deadline=None)
def test_small_tables_stay_within_their_bounds_and_count_what_they_evict(
    story: Story, answers_max: int, touches_max: int, held_max: int, groups_max: int
) -> None:
    bounds = PlacementsSettings(
        answers_max=answers_max, touches_max=touches_max, held_max=held_max, groups_max=groups_max
    )
    family, now = PlacementsFamily(bounds, {}), Moment({})
    for one in timeline(story):
        step(family, one, now)
        assert all(used <= most for used, most in family.bounds().values())
    heard = sum(one.heard_ms is not None for one in story.answers)
    assert family.attribution.evictions()["answers"] == max(0, heard - answers_max)
    if not any(family.attribution.evictions().values()):
        assert told(family) == Reference(story).totals()
