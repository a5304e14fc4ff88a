"""The checks that every learner must pass, over a problem whose correct answer is known.

A check returns None if the learner passes, and raises an `AssertionError` that states the violated rule otherwise.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from headrace.artifacts import resolve
from headrace.state import State, decode, digest, encode


class Problem(NamedTuple):
    """A learner, small bounds for it, and a stream whose correct answer is known.

    `factory` names the function (`module:name`) that made the problem, `kind` and `settings` are its arguments,
    so that another process can make it again. `make` returns a learner that has learned nothing, `restore` one from a
    state. A step is the argument of one `learn`; `predict` returns the answer as a state, so that answers can be
    compared bit by bit. `scale` shortens the long checks of a learner whose steps are slow. `stream(n)` are n steps
    with an open vocabulary, which may contain steps that evict slots. After `lesson`, `right` tests whether the learner
    answers correctly. A `hostile` step must raise an `AssertionError` or leave the learner usable.
    """

    factory: str
    kind: type[Any]
    settings: dict[str, Any]
    make: Callable[[], Any]
    restore: Callable[[State], Any]
    stream: Callable[[int], list[Any]]
    lesson: Sequence[Any]
    right: Callable[[Any], bool]
    hostile: Sequence[Any]
    learn: Callable[[Any, Any], None]
    predict: Callable[[Any, Any], State]
    scale: float = 1.0


def check_answers_before_it_learned(problem: Problem) -> None:
    """It answers before its first event."""
    learner = problem.make()
    for step in problem.stream(50):
        problem.predict(learner, step)


def check_predict_changes_nothing(problem: Problem) -> None:
    """`predict` does not change the state."""
    learner = problem.make()
    for step in problem.stream(200):
        problem.learn(learner, step)
    before = digest(learner.state())
    for step in problem.stream(400):
        problem.predict(learner, step)
    assert digest(learner.state()) == before, "predict changed the state"


def check_inputs_stay(problem: Problem) -> None:
    """Neither `learn` nor `predict` changes its arguments, nor a state that was returned before."""
    learner = problem.make()
    steps = problem.stream(300)
    steps_before = repr(steps)
    for step in steps[:200]:
        problem.predict(learner, step)
        problem.learn(learner, step)
    state = learner.state()
    before = digest(state)
    restored = problem.restore(state)
    for step in steps[200:]:
        problem.learn(learner, step)
        problem.learn(restored, step)
    assert digest(state) == before, "a returned state changed while learning continued"
    assert repr(steps) == steps_before, "an argument was changed"


def check_round_trip(problem: Problem) -> None:
    """A learner restored from an encoded state continues identically, after any number of steps."""
    steps = problem.stream(int(600 * problem.scale))
    for cut in (0, 1, len(steps) // 4, 3 * len(steps) // 4):
        learner = problem.make()
        for step in steps[:cut]:
            problem.learn(learner, step)
        state = learner.state()
        restored = problem.restore(decode(encode(state)))
        assert digest(restored.state()) == digest(state), f"the state restored after {cut} steps differs"
        for step in steps[cut:]:
            same = digest(problem.predict(restored, step)) == digest(problem.predict(learner, step))
            assert same, f"restored after {cut} steps, it answers differently"
            problem.learn(learner, step)
            problem.learn(restored, step)
        assert digest(restored.state()) == digest(learner.state()), f"restored after {cut} steps, it learns differently"


def check_memory_is_bounded(problem: Problem) -> None:
    """No table exceeds its maximum under an open vocabulary."""
    learner = problem.make()
    for n, step in enumerate(problem.stream(int(4_000 * problem.scale))):
        problem.learn(learner, step)
        if n % 50 == 0:
            for table, (used, most) in learner.bounds().items():
                assert 0 <= used <= most, f"{table} holds {used}, more than its maximum {most}"


def check_hostile_input(problem: Problem) -> None:
    """Hostile input is refused or harmless: the learner still answers with finite numbers and still learns."""
    learner = problem.make()
    for step in problem.hostile:
        before = digest(learner.state())
        try:
            problem.learn(learner, step)
        except AssertionError:
            assert digest(learner.state()) == before, "a refused step changed the state"
    for step in problem.stream(100):
        problem.learn(learner, step)
        problem.predict(learner, step)


def check_finds_the_right_answer(problem: Problem) -> None:
    """It answers correctly after the lesson of its problem."""
    learner = problem.make()
    for step in problem.lesson:
        problem.learn(learner, step)
    assert problem.right(learner), "wanted the correct answer after the lesson, found another"


def check_same_in_every_process(problem: Problem) -> None:
    """The same events give the same state in processes with different seeds of string hashes."""
    call = [problem.factory, f"{problem.kind.__module__}:{problem.kind.__qualname__}", json.dumps(problem.settings)]
    script = f"from learners.checks.problem import folded; print(folded(*{call!r}))"
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


def folded(factory: str, kind: str, settings: str) -> str:
    """Return the digest of a learner's state after its problem's stream."""
    problem: Problem = resolve(factory)(resolve(kind), **json.loads(settings))
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
