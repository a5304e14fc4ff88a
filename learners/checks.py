"""What every learner must obey, as checks that ship: run them on a learner of your own.

    for check in CHECKS:
        check(next_item(MyLearner, items_max=64))

A check says nothing when all is well and fails by an `AssertionError` that says what was wanted.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from headrace import events
from headrace.events import Data, Event, Item
from headrace.state import State, decode, digest, encode
from learners.catalogue import Catalogue
from learners.learner import Context, top

_catalogue_max: Final = 64
_session_ms: Final = 60_000
_start_ms: Final = 1_600_000_000_000
_day_ms: Final = 86_400_000


class Problem(NamedTuple):
    """A learner, small bounds for it, and a stream whose right answer is known.

    `learn` and `predict` adapt the two kinds of learners: a step is what one `learn` takes. `predict` returns the
    answer as a state, so that answers can be compared to the bit. `stream(n)` are n steps with an open vocabulary; they
    may hold steps that forget slots. `hostile` steps must be refused by an `AssertionError` or do no harm.
    """

    form: str
    kind: type[Any]
    settings: dict[str, Any]
    stream: Callable[[int], list[Any]]
    lesson: Sequence[Any]
    right: Callable[[Any], bool]
    hostile: Sequence[Any]
    learn: Callable[[Any, Any], None]
    predict: Callable[[Any, Any], State]

    def make(self) -> Any:
        """Return a learner that has learned nothing."""
        return self.kind(**self.settings)


class _Forget(NamedTuple):
    slots: list[int]


class _Step(NamedTuple):
    context: Context
    item: int


def next_item(kind: type[Any], right: Callable[[Any], bool] | None = None, **settings: Any) -> Problem:
    """Return the problem for a `NextItem` learner; slots of its stream are below 64.

    Its lesson: whoever looked at item 1 looked at item 2 next, a few others aside.

    Args:
        right: whether a learner that has had the lesson answers well; by default, whether item 2 is among its two best
            after item 1.
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
        form="next_item",
        kind=kind,
        settings=settings,
        stream=_clicks,
        lesson=lesson,
        right=right or has_learned,
        hostile=[_Step(far, -1), _Step(far, 1 << 40), _Step(far._replace(time_ms=1 << 50), 5), _Step(far, 5)],
        learn=_learn_click,
        predict=_answer_click,
    )


def _clicks(count: int) -> list[Any]:
    """Return steps over an open vocabulary that a full catalogue maps to few slots, with what it forgets."""
    draw = np.random.default_rng(7)
    catalogue = Catalogue(items_max=_catalogue_max)
    steps: list[Any] = []
    trail: list[int] = []
    start = session = 0
    while len(steps) < count:
        # Half of the items are new ones, the others come back.
        name = f"item-{len(steps) if draw.random() < 0.5 else draw.integers(0, 20)}"
        gone = catalogue.evict(name)
        if gone:
            steps.append(_Forget(gone))
            start -= sum(slot in gone for slot in trail[:start])
            trail = [slot for slot in trail if slot not in gone]
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


def event(kind: type[Any], **settings: Any) -> Problem:
    """Return the problem for an `EventLearner` of purchases.

    Its lesson: who looks at things of the category `bought` buys them within a minute, the others buy nothing.
    """
    lesson = []
    for n in range(600):
        bought = n % 2 == 0
        category = "bought" if bought else "left"
        time_ms = _start_ms + n * 10 * _session_ms
        lesson.append(_event("view_item", f"shopper-{n}", f"{category}-{n % 6}", category, time_ms, 10.0))
        if bought:
            lesson.append(_event("purchase", f"shopper-{n}", f"{category}-{n % 6}", category, time_ms + 1_000, 10.0))

    def has_learned(learner: Any) -> bool:
        now = _start_ms + _day_ms * 30
        yes, no = (
            learner.predict(_event("view_item", "asks", f"{category}-0", category, now, 10.0))
            for category in ("bought", "left")
        )
        return bool(yes > 0.5 > no)

    return Problem(
        form="event",
        kind=kind,
        settings=settings,
        stream=_events,
        lesson=lesson,
        right=has_learned,
        hostile=[
            _event("view_item", "s" * 128, "i" * 128, "c" * 500, _start_ms, price)
            for price in (None, 0.0, 1e9, float("inf"), float("nan"))
        ],
        learn=lambda learner, step: learner.learn(step),
        predict=_answer_event,
    )


def _event(kind: Any, shopper: str, item: str, category: str, time_ms: int, price: float | None) -> Event:
    line = Item(item, item_category=category, price=price)
    made = Event(f"{shopper}-{item}-{time_ms}", "checks", kind, events.at(time_ms), Data([line]), "1.0", shopper)
    made.time_ms = time_ms
    return made


def _events(count: int) -> list[Any]:
    draw = np.random.default_rng(7)
    kinds = ("view_item", "view_item", "add_to_cart", "purchase", "view_item_list")
    return [
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


def _answer_event(learner: Any, step: Event) -> State:
    answer = learner.predict(step)
    assert answer is None or np.isfinite(answer), f"an answer is finite or None, found {answer}"
    return {"answer": answer}


def check_answers_before_it_learned(problem: Problem) -> None:
    """It answers, however little, before its first event."""
    learner = problem.make()
    for step in problem.stream(50):
        problem.predict(learner, step)


def check_predict_changes_nothing(problem: Problem) -> None:
    """Asking leaves no trace, neither in the learner nor in what it is asked."""
    learner = problem.make()
    for step in problem.stream(200):
        problem.learn(learner, step)
    before = digest(learner.state())
    for step in problem.stream(400):
        problem.predict(learner, step)
    assert digest(learner.state()) == before, "predict changed the state"


def check_inputs_stay(problem: Problem) -> None:
    """Neither learning nor asking changes what was passed in, nor a state that was given away."""
    learner = problem.make()
    steps = problem.stream(300)
    told = repr(steps)
    for step in steps[:200]:
        problem.predict(learner, step)
        problem.learn(learner, step)
    state = learner.state()
    before = digest(state)
    restored = problem.kind.from_state(state)
    for step in steps[200:]:
        problem.learn(learner, step)
        problem.learn(restored, step)
    assert digest(state) == before, "a state that was given away changed while learning went on"
    assert repr(steps) == told, "what was passed in was changed"


def check_round_trip(problem: Problem) -> None:
    """From any state, through bytes and back, it goes on exactly as if nothing had happened."""
    steps = problem.stream(600)
    for cut in (0, 1, 150, 450):
        learner = problem.make()
        for step in steps[:cut]:
            problem.learn(learner, step)
        state = learner.state()
        restored = problem.kind.from_state(decode(encode(state)))
        assert digest(restored.state()) == digest(state), f"the state restored after {cut} steps is another one"
        for step in steps[cut:]:
            same = digest(problem.predict(restored, step)) == digest(problem.predict(learner, step))
            assert same, f"restored after {cut} steps, it answers differently"
            problem.learn(learner, step)
            problem.learn(restored, step)
        assert digest(restored.state()) == digest(learner.state()), f"restored after {cut} steps, it learns differently"


def check_memory_is_bounded(problem: Problem) -> None:
    """Under an open vocabulary no table outgrows its maximum."""
    learner = problem.make()
    for n, step in enumerate(problem.stream(4_000)):
        problem.learn(learner, step)
        if n % 50 == 0:
            for table, (used, most) in learner.bounds().items():
                assert 0 <= used <= most, f"{table} holds {used}, more than its maximum {most}"


def check_hostile_input(problem: Problem) -> None:
    """What cannot be is refused or does no harm; it still answers with finite numbers and still learns."""
    learner = problem.make()
    for step in problem.hostile:
        before = digest(learner.state())
        try:
            problem.learn(learner, step)
        except AssertionError:
            assert digest(learner.state()) == before, "a step that was refused changed the state"
    for step in problem.stream(100):
        problem.learn(learner, step)
        problem.predict(learner, step)


def check_finds_the_right_answer(problem: Problem) -> None:
    """It learns what its problem was built to teach, and did not know it before."""
    learner = problem.make()
    for step in problem.lesson:
        problem.learn(learner, step)
    assert problem.right(learner), "it had the lesson, and does not know the answer"


def check_same_in_every_process(problem: Problem) -> None:
    """The same events give the same state whatever the process's seed of string hashes."""
    call = [problem.form, problem.kind.__module__, problem.kind.__qualname__, json.dumps(problem.settings)]
    script = f"from learners.checks import folded; print(folded(*{call!r}))"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    found = {process.communicate()[0].strip() for process in started}
    assert found == {folded(*call)}, f"the state depends on the process: {found}"


def folded(form: str, module: str, name: str, settings: str) -> str:
    """Return the digest of a learner's state after its problem's stream."""
    kind = getattr(importlib.import_module(module), name)
    problem = {"next_item": next_item, "event": event}[form](kind, **json.loads(settings))
    learner = problem.make()
    for step in problem.stream(500):
        problem.learn(learner, step)
    return digest(learner.state())


CHECKS: Final[tuple[Callable[[Problem], None], ...]] = (
    check_answers_before_it_learned,
    check_predict_changes_nothing,
    check_inputs_stay,
    check_round_trip,
    check_memory_is_bounded,
    check_hostile_input,
    check_finds_the_right_answer,
    check_same_in_every_process,
)
