"""Every learner obeys the checks that ship, and the checks find what they look for."""

from typing import Any

import numpy as np
import pytest

from learners.checks import (
    CHECKS,
    Problem,
    check_finds_the_right_answer,
    check_inputs_stay,
    check_memory_is_bounded,
    check_predict_changes_nothing,
    check_round_trip,
    check_same_in_every_process,
    event,
    next_item,
)
from learners.learner import Context
from learners.popularity import Popularity
from learners.propensity import Propensity
from learners.revisits import Revisits
from learners.session_knn import SessionKnn
from learners.transitions import Transitions


def rarely_goes_back(learner: Revisits) -> bool:
    """In the lesson nobody ever goes back to the item just seen."""
    _, (chance,) = learner.predict(Context([1], 0, 1, 0))
    return bool(chance < 0.05)


PROBLEMS = {
    "popularity": next_item(Popularity, items_max=64, leaders_max=8),
    "popularity_plain": next_item(Popularity, items_max=64, half_life_ms=None),
    "popularity_fast_decay": next_item(Popularity, items_max=64, half_life_ms=60_000),
    "transitions": next_item(Transitions, items_max=16, companions_max=4),
    "transitions_of_first_order": next_item(Transitions, items_max=16, companions_max=4, reach=1, backwards=0),
    "transitions_decayed": next_item(Transitions, items_max=16, companions_max=4, half_life_ms=120_000),
    "session_knn": next_item(SessionKnn, items_max=64, sessions_max=32, session_items_max=5, candidates_max=10, k=5),
    "session_knn_roomy": next_item(SessionKnn, sessions_max=2_048),
    "revisits": next_item(Revisits, rarely_goes_back, steps_max=5),
    "propensity": event(Propensity),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_learner(problem: Problem, check: Any) -> None:
    check(problem)


class Curious(Popularity):
    """Learns from being asked."""

    def predict(self, context: Context) -> Any:
        self.learn(context, 3)
        return super().predict(context)


class Greedy(Popularity):
    """Says that it has a maximum and does not keep it."""

    def bounds(self) -> dict[str, tuple[int, int]]:
        return {"items": (super().bounds()["items"][0], 30)}


class Sharing(Popularity):
    """Gives away its own counts."""

    def state(self) -> dict[str, Any]:
        state = super().state()
        return {**state, "counts": self._counts[: len(state["counts"])]}


class Forgetful(Popularity):
    """Loses its leaders' floor in a restart."""

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Forgetful":
        return super().from_state({**state, "floor": 0.0})


class Deaf(Popularity):
    """Learns nothing."""

    def learn(self, context: Context, item: int) -> None:
        pass


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (Curious, check_predict_changes_nothing),
        (Greedy, check_memory_is_bounded),
        (Sharing, check_inputs_stay),
        (Forgetful, check_round_trip),
        (Deaf, check_finds_the_right_answer),
    ],
)
def test_checks_find_the_broken(kind: type[Popularity], check: Any) -> None:
    with pytest.raises(AssertionError):
        check(next_item(kind, items_max=64, leaders_max=4))


def test_check_finds_hashing(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hashing_learner.py").write_text(
        "from learners.popularity import Popularity\n"
        "class Hashing(Popularity):\n"
        "    def learn(self, context, item):\n"
        "        super().learn(context, hash(str(item)) % 64)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from hashing_learner import Hashing  # type: ignore[import-not-found]  # written by this test

    with pytest.raises(AssertionError, match="depends on the process"):
        check_same_in_every_process(next_item(Hashing, items_max=64))


def test_scores_that_are_not_finite_are_found() -> None:
    class Mad(Popularity):
        def predict(self, context: Context) -> Any:
            slots, scores = super().predict(context)
            return slots, np.full_like(scores, np.nan)

    with pytest.raises(AssertionError, match="finite"):
        check_round_trip(next_item(Mad, items_max=64))
