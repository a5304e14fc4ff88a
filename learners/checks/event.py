"""The problem of a learner of whole events (`learners.protocol.EventLearner`)."""

from collections.abc import Callable, Sequence
from typing import Any, Final, get_args

import numpy as np

from headrace import events
from headrace.events import Data, Event, EventType, Item
from headrace.state import State
from learners.checks.problem import Problem

_session_ms: Final = 60_000
_start_ms: Final = 1_600_000_000_000
_day_ms: Final = 86_400_000


def event(
    kind: type[Any],
    right: Callable[[Any], bool] | None = None,
    lesson: Sequence[Event] | None = None,
    **settings: Any,
) -> Problem:
    """Return the problem for an `EventLearner`.

    Args:
        right: whether a learner that has learned the lesson answers correctly; by default, whether it predicts more
            than 0.5 for a view of an item that is always bought, and less for one that is never bought.
        lesson: the events to learn from; by default `purchases`.
    """
    return Problem(
        factory="learners.checks.event:event",
        kind=kind,
        settings=settings,
        make=lambda: kind(**settings),
        restore=kind.from_state,
        stream=stream,
        lesson=purchases() if lesson is None else lesson,
        right=right or _knows_what_is_bought,
        hostile=hostile(),
        learn=lambda learner, step: learner.learn(step),
        predict=_answer_event,
    )


def purchases() -> list[Event]:
    """Return a lesson: items of the category `bought` are bought a second after their view, other items never."""
    lesson = []
    for n in range(600):
        bought = n % 2 == 0
        category = "bought" if bought else "left"
        time_ms = _start_ms + n * 10 * _session_ms
        lesson.append(_event("view_item", f"shopper-{n}", f"{category}-{n % 6}", category, time_ms, 10.0))
        if bought:
            lesson.append(_event("purchase", f"shopper-{n}", f"{category}-{n % 6}", category, time_ms + 1_000, 10.0))

    return lesson


def _knows_what_is_bought(learner: Any) -> bool:
    now = _start_ms + _day_ms * 30
    yes, no = (
        learner.predict(_event("view_item", "asks", f"{category}-0", category, now, 10.0))
        for category in ("bought", "left")
    )
    return bool(yes > 0.5 > no)


def hostile(*, refused: bool = True) -> list[Event]:
    """Return events at the limits of their fields and, if `refused`, with prices that `headrace.events` refuses."""
    prices = [None, 0.0, 1e9, *((float("inf"), float("nan")) if refused else ())]
    return [_event("view_item", "s" * 128, "i" * 128, "c" * 500, _start_ms, price) for price in prices]


def _event(kind: Any, shopper: str, item: str, category: str, time_ms: int, price: float | None) -> Event:
    line = Item(item, item_category=category, price=price)
    made = Event(f"{shopper}-{item}-{time_ms}", "checks", kind, events.at(time_ms), Data([line]), "1.0", shopper)
    made.time_ms = time_ms
    return made


def one_of_each_type(time_ms: int, shopper: str, item: str) -> list[Event]:
    """Return an event of each type at this time, with an item and all that a type needs."""
    found = []
    for kind in get_args(EventType):
        made = _event(kind, shopper, item, "category-1", time_ms, 10.0)
        made.data.search_term, made.data.rating, made.data.transaction_id = "shoes", 5.0, "order-1"
        made.data.recommendation_id = "answer-1"
        made.data.session_id = "session-1"
        made.data.former_shopper = "shopper-before"
        found.append(made)
    return found


def stream(count: int) -> list[Event]:
    """Return events with an open vocabulary of shoppers, items and categories."""
    draw = np.random.default_rng(7)
    kinds = ("view_item", "view_item", "add_to_cart", "purchase", "view_item_list")
    found = [
        _event(
            kinds[draw.integers(0, len(kinds))],
            f"shopper-{n if draw.random() < 0.5 else draw.integers(0, 20)}",
            f"item-{n if draw.random() < 0.5 else draw.integers(0, 20)}",
            f"category-{n if draw.random() < 0.5 else draw.integers(0, 20)}",
            _start_ms + n * _session_ms,
            float(draw.lognormal(3.0, 1.0)),
        )
        for n in range(count)
    ]
    for n, made in enumerate(found):
        made.data.session_id = f"session-{n // 3}"
        if made.type == "purchase":
            made.data.transaction_id = f"order-{n}"
    return found


def _answer_event(learner: Any, step: Event) -> State:
    answer = learner.predict(step)
    assert answer is None or np.isfinite(answer), f"wanted a finite answer or None, found {answer}"
    return {"answer": answer}
