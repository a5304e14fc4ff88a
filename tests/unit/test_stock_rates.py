"""The rates of demand: what stock-outs hide, what sales add, and how quickly they follow."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.state import decode, digest, encode
from learners.stock.rates import Rates

Floats = NDArray[np.float64]
ITEMS = 40


def learned(rates: Rates, days: int, demand: float, *, seed: int = 1, away: float = 0.0, uplift: float = 1.0) -> Rates:
    rng = np.random.default_rng(seed)
    for _ in range(days):
        pieces = rng.poisson(demand * (1 - away) * uplift, len(rates)).astype(np.float64)
        rates.day(pieces, pieces, np.full(len(rates), away), np.full(len(rates), uplift > 1))
    return rates


def test_a_steady_demand_is_found() -> None:
    rates = learned(Rates(ITEMS), 140, 3.0)
    assert rates.rate.mean() == pytest.approx(3.0, rel=0.04)
    assert np.abs(rates.rate - 3.0).max() < 1.0
    assert rates.dispersion.mean() == pytest.approx(1.0, abs=0.35), "a Poisson's, of lines of one piece"


def test_time_without_stock_does_not_count_as_no_demand() -> None:
    rates = learned(learned(Rates(ITEMS), 100, 3.0), 60, 3.0, away=0.7, seed=2)
    assert rates.rate.mean() == pytest.approx(3.0, rel=0.06)
    gone = learned(learned(Rates(ITEMS), 100, 3.0), 60, 3.0, away=1.0, seed=2)
    assert gone.rate.mean() == pytest.approx(3.0, rel=0.06)


def test_a_sale_multiplies_what_is_expected_and_leaves_the_rate() -> None:
    rates = Rates(ITEMS)
    for part in range(6):
        learned(rates, 40, 3.0, seed=part)
        learned(rates, 7, 3.0, seed=90 + part, uplift=3.0)
    assert rates.rate.mean() == pytest.approx(3.0, rel=0.08)
    assert rates.uplift.mean() == pytest.approx(3.0, rel=0.12)
    none, some = np.full(ITEMS, np.inf), np.full(ITEMS, 5.0)
    ordinary = rates.expected(0.0, none, none)(np.full(ITEMS, 10.0)).mean
    on_sale = rates.expected(0.0, some, some + 3)(np.full(ITEMS, 10.0)).mean
    assert ordinary == pytest.approx(10 * rates.rate)
    assert on_sale == pytest.approx(rates.rate * (7 + 3 * rates.uplift))
    assert rates.expected(9.0, some, some + 3)(np.full(ITEMS, 10.0)).mean == pytest.approx(ordinary), "it is over"
    running = rates.expected(7.0, some, some + 3)(np.full(ITEMS, 10.0)).mean
    assert running == pytest.approx(rates.rate * (9 + rates.uplift))


def test_it_follows_a_jump_sooner_than_its_longest_half_life_would() -> None:
    rates = learned(learned(Rates(ITEMS), 364, 2.0), 28, 6.0, seed=2)
    assert 4.5 < rates.rate.mean() < 6.2


@pytest.mark.parametrize("slots", [[3], [7, 0], []])
def test_some_slots_are_expected_as_they_are_among_all(slots: list[int]) -> None:
    rates = learned(Rates(ITEMS), 50, 2.0)
    none, chosen = np.full(ITEMS, np.inf), np.array(slots, np.int64)
    everything, few = rates.expected(0.0, none, none), rates.some(chosen)
    found = few.expected(0.0, none[chosen], none[chosen])(np.full(len(slots), 8.0))
    whole = everything(np.full(ITEMS, 8.0))
    assert found.mean.tolist() == whole.mean[chosen].tolist()
    assert found.quantiles.tolist() == whole.quantiles[:, chosen].tolist()
    assert few.exposed.tolist() == rates.exposed[chosen].tolist()


def test_what_some_slots_learn_is_theirs_alone() -> None:
    rates = learned(Rates(ITEMS), 50, 2.0)
    before = digest(rates.state())
    few = learned(rates.some(np.array([3, 1])), 20, 9.0)
    assert (few.days, len(few)) == (70, 2)
    assert few.rate.min() > 3.0
    assert digest(rates.state()) == before


@pytest.mark.parametrize("begins", [-3.0, 0.0, 4.0, 40.0, np.inf])
@pytest.mark.parametrize("length", [5.0, np.inf])
def test_pieces_last_until_as_many_are_expected(begins: float, length: float) -> None:
    rates = learned(learned(Rates(ITEMS), 40, 3.0), 20, 3.0, seed=2, uplift=3.0)
    now, pieces = 100.0, np.linspace(0.0, 300.0, ITEMS)
    sale_from = np.full(ITEMS, now + begins)
    days = rates.lasts(pieces, now, sale_from, sale_from + length, 1_000.0)
    assert days.max() < 1_000.0
    mean = rates.expected(now, sale_from, sale_from + length)(days).mean
    assert mean == pytest.approx(pieces, abs=1e-6)
    assert rates.lasts(pieces, now, sale_from, sale_from + length, 7.0).max() == 7.0


def test_a_state_continues_identically_and_a_forgotten_slot_is_new() -> None:
    rates = learned(Rates(ITEMS), 33, 2.0)
    again: Any = Rates.from_state(decode(encode(rates.state())))
    for one in (rates, again):
        learned(one, 20, 4.0, seed=3)
        one.grow(ITEMS + 5)
        one.forget(4)
    assert digest(rates.state()) == digest(again.state())
    assert rates.rate[4] == rates.rate[ITEMS]
