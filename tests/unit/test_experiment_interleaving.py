"""Team-draft interleaving: who picks what, whom clicks count for, and which ranking is preferred."""

import math

import numpy as np
import pytest

from learners.experiments.boundary import critical, planned_clock
from learners.experiments.difference import Rule
from learners.experiments.interleaving import interleave, length_max, preference, winner
from learners.experiments.moments import Moments

FIRST, SECOND = [f"a{place}" for place in range(20)], [f"b{place}" for place in range(20)]


def test_in_each_round_both_teams_pick_once_in_the_order_of_a_coin() -> None:
    rounds = set()
    for seed in range(200):
        items, teams = interleave(FIRST, SECOND, 20, f"answer {seed}")
        assert [item for item in items if item[0] == "a"] == FIRST[:10]
        assert [item for item in items if item[0] == "b"] == SECOND[:10]
        assert [item[0].upper() for item in items] == list(teams)
        pairs = [teams[place : place + 2] for place in range(0, 20, 2)]
        assert set(pairs) <= {"AB", "BA"}
        rounds.add(tuple(pairs))
    assert len(rounds) > 150, "the coins of a seed are its own"


def test_the_coins_are_fair() -> None:
    """Of 4,000 coins, three standard errors of the share of heads are 0.024."""
    heads = sum(interleave(FIRST, SECOND, 20, f"{seed}").teams[::2].count("A") for seed in range(400))
    assert abs(heads / 4_000 - 0.5) < 0.024


def test_a_seed_gives_the_same_list_again() -> None:
    assert interleave(FIRST, SECOND, 20, "answer 7") == interleave(list(FIRST), tuple(SECOND), 20, "answer 7")


def test_a_team_passes_over_what_the_other_one_picked() -> None:
    """By hand: whoever begins picks x; the other one's best that is left is y; then z and w by turns."""
    found = [interleave(["x", "y", "z"], ["x", "y", "w"], 4, f"{seed}") for seed in range(50)]
    assert {teams for _, teams in found} == {"ABAB", "ABBA", "BABA", "BAAB"}
    for items, teams in found:
        assert items[:2] == ["x", "y"]
        assert items[2:] == (["z", "w"] if teams[2] == "A" else ["w", "z"])


def test_equal_rankings_stay_as_they_are() -> None:
    items, teams = interleave(FIRST, FIRST, 10, "answer 3")
    assert items == FIRST[:10]
    assert teams.count("A") == 5


def test_when_a_team_has_nothing_left_the_rest_is_of_no_team() -> None:
    items, teams = interleave(["a0"], SECOND, 6, "answer 1")
    assert (items, teams.count("A")) == ([*items[:2], *SECOND[1:5]], 1)
    assert teams[-1] == "-"
    assert teams.strip("-").count("B") <= 2, "the second ranking is at most one pick ahead"
    assert interleave([], ["b0", "b1"], 5, "answer 2").items == ["b0", "b1"]
    assert interleave([], [], 5, "answer 2") == ([], "")
    assert interleave(FIRST, SECOND, 0, "answer 2") == ([], "")


def test_the_list_is_not_longer_than_the_coins_reach() -> None:
    long = [f"{place}" for place in range(2 * length_max)]
    items, teams = interleave(long, long[::-1], length_max, "answer 1")
    assert (len(set(items)), teams.count("A")) == (length_max, length_max // 2)
    assert teams[-40:] != "AB" * 20, "there are coins up to the end"
    with pytest.raises(ValueError, match="length: wanted at most 1024, found 1025"):
        interleave(long, long, length_max + 1, "answer 1")


def test_an_answer_is_won_by_the_team_with_more_clicks() -> None:
    assert winner("ABBA--", [0]) == 1
    assert winner("ABBA--", [1, 2, 3]) == -1
    assert winner("ABBA--", [0, 1, 4, 5]) == 0
    assert winner("ABBA--", []) == 0


def test_a_preference_by_hand() -> None:
    wins, rule = Moments(), Rule(shoppers_planned=400)
    for _ in range(100):
        for y in (2.0, -1.0, 0.0, 0.0):
            wins.add(y)
    found = preference(wins, rule)
    variance = (500 - 100 * 100 / 400) / 399
    width = float(critical(np.array(planned_clock(0.05)), 0.05)) * math.sqrt(variance / 400)
    assert (found.shoppers, found.mean) == (400, 0.25)
    assert found.first_variance == pytest.approx(variance)
    assert (found.low, found.high) == pytest.approx((0.25 - width, 0.25 + width))
    assert found.decided
    assert found.p_value < 0.05
    mirrored = Moments.from_state([(-one if place in (2, 7, 8) else one) for place, one in enumerate(wins.state())])
    opposite = preference(mirrored, rule)
    assert found.high is not None
    assert found.low is not None
    assert (opposite.mean, opposite.low, opposite.high) == (-0.25, -found.high, -found.low)


def test_a_preference_needs_enough_shoppers_with_a_win() -> None:
    assert preference(Moments(), Rule()).mean is None
    few, alike = Moments(), Moments()
    for place in range(500):
        few.add(float(place < 19))
        alike.add(1.0)
    assert preference(few, Rule()).low is None
    assert preference(alike, Rule()).low is None
    few.add(1.0)
    assert preference(few, Rule()).low is not None


def test_a_preference_keeps_its_first_variance() -> None:
    wins = Moments()
    for place in range(1_000):
        wins.add(float(place % 10 == 0) - float(place % 10 == 1))
    first = preference(wins, Rule(shoppers_planned=1_000))
    kept = preference(wins, Rule(shoppers_planned=1_000), 0.01)
    assert first.first_variance == pytest.approx(0.2, rel=1e-2)
    assert kept.first_variance == 0.01
    assert kept.high is not None
    assert first.high is not None
    assert kept.high > first.high
