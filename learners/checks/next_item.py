"""The problem of a next-item learner (`learners.protocol.NextItem`)."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from msgspec.structs import replace

from headrace.state import State
from learners.checks.problem import Problem
from learners.next_item.catalogue import Catalogue
from learners.protocol import Context, top

_catalogue_max: Final = 64
_session_ms: Final = 60_000
_start_ms: Final = 1_600_000_000_000


class _Forget(NamedTuple):
    slots: list[int]


class _Step(NamedTuple):
    context: Context
    item: int


def next_item(kind: type[Any], right: Callable[[Any], bool] | None = None, **settings: Any) -> Problem:
    """Return the problem for a `NextItem` learner; slots of its stream are below 64.

    Its lesson: item 2 follows item 1, with a few sessions of other items.

    Args:
        right: whether a learner that has learned the lesson answers correctly; by default, whether item 2 is among its
            two best candidates after item 1.
    """
    lesson = []
    for session in range(40):
        first, second = (1, 2) if session % 4 else (3 + session % 5, 9 + session % 7)
        time_ms = _start_ms + session * _session_ms
        lesson.append(_Step(Context([], 0, session, time_ms), first))
        lesson.append(_Step(Context([first], 0, session, time_ms + 1), second))

    def has_learned(learner: Any) -> bool:
        best = top(learner.predict(Context([1], 0, 1_000, _start_ms + 41 * _session_ms)), 2)
        return 2 in best.slots.tolist()

    far = Context([1, 2], 0, 3, _start_ms)
    return Problem(
        factory="learners.checks.next_item:next_item",
        kind=kind,
        settings=settings,
        make=lambda: kind(**settings),
        restore=kind.from_state,
        stream=_clicks,
        lesson=lesson,
        right=right or has_learned,
        hostile=[_Step(far, -1), _Step(far, 1 << 40), _Step(replace(far, time_ms=1 << 50), 5), _Step(far, 5)],
        learn=_learn_click,
        predict=_answer_click,
    )


def _clicks(count: int) -> list[Any]:
    """Return steps over an open vocabulary that a full catalogue maps to few slots, and its evictions."""
    draw = np.random.default_rng(7)
    catalogue = Catalogue(items_max=_catalogue_max)
    steps: list[Any] = []
    trail: list[int] = []
    start = session = 0
    while len(steps) < count:
        # Half of the items are new, the others occur again.
        name = f"item-{len(steps) if draw.random() < 0.5 else draw.integers(0, 20)}"
        evicted = catalogue.evict(name)
        if evicted:
            steps.append(_Forget(evicted))
            start -= sum(slot in evicted for slot in trail[:start])
            trail = [slot for slot in trail if slot not in evicted]
        if draw.random() < 0.3:
            session, start = session + 1, len(trail)
        slot = catalogue.admit(name)
        steps.append(_Step(Context(list(trail), start, session, _start_ms + len(steps) * _session_ms), slot))
        trail = [*trail[-9:], slot]
        start = min(start, len(trail) - 1)
    return steps


def _learn_click(learner: Any, step: Any) -> None:
    if isinstance(step, _Forget):
        learner.forget(step.slots)
    else:
        learner.learn(*step)


def _answer_click(learner: Any, step: Any) -> State:
    if isinstance(step, _Forget):
        return {}
    slots, scores = learner.predict(step.context)
    assert slots.dtype == np.int32, "slots are int32"
    assert scores.dtype == np.float32, "scores are float32"
    assert len(slots) == len(scores) == len(set(slots.tolist())), "slots are distinct, each with a score"
    assert np.isfinite(scores).all(), "scores are finite"
    assert (scores > 0).all(), "scores are above 0"
    return {"slots": slots, "scores": scores}
