"""Reorder points and quantities: near the best that a search finds, and what bounds them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from learners.stock.policy import (
    Costs,
    Demand,
    Levels,
    Mixture,
    Terms,
    ceiling,
    gain,
    gamma,
    levels,
    order,
    reachable,
    within_budget,
)  # fmt: skip

Floats = NDArray[np.float64]


@dataclass
class Steady:
    """A gamma demand of so many pieces a day, with this variance over the mean."""

    rate: Floats
    dispersion: float = 2.0

    def __call__(self, days: Floats) -> Demand:
        mean = self.rate * days
        return Demand(mean, gamma(mean, mean * self.dispersion))


def terms(count: int = 1, **fields: Any) -> Terms:
    usual: dict[str, Any] = {
        "cost": 6.0, "margin": 4.0, "lead_days": 7.0, "lead_spread_days": 3.0, "pack": 1.0, "minimum": 1.0,
        "shelf_days": np.inf,
    }  # fmt: skip
    return Terms(**{name: np.full(count, value) for name, value in {**usual, **fields}.items()})


def cost_of(reorder: float, quantity: float, rate: float, days: int = 20_000) -> float:
    """Return the cost per day of (s, S) in a simulated warehouse with lost sales."""
    rng = np.random.default_rng(5)
    demand, leads = rng.negative_binomial(rate, 0.5, days), np.clip(np.rint(rng.normal(7, 3, days)), 1, 30)
    on_hand, arriving, total = reorder + quantity, np.zeros(days + 40), 0.0
    on_order = 0.0
    for day in range(days):
        on_hand += arriving[day]
        on_order -= arriving[day]
        sold = min(on_hand, demand[day])
        on_hand -= sold
        total += 4.0 * (demand[day] - sold) + 6.0 * 0.25 / 365 * on_hand
        if on_hand + on_order <= reorder:
            pieces = reorder + quantity - on_hand - on_order
            arriving[day + int(leads[day])] += pieces
            on_order += pieces
            total += 45.0
    return total / days


def test_the_levels_cost_hardly_more_than_the_best_of_a_search() -> None:
    found = levels(Steady(np.array([2.0])), terms(), Costs(order=45.0))
    reorder, quantity = float(found.reorder[0]), float((found.up_to - found.reorder)[0])
    best = min(cost_of(s, q, 2.0) for s in (12, 16, 20, 24, 28, 32, 40) for q in (100, 160, 200, 240, 300))
    assert cost_of(reorder, quantity, 2.0) <= 1.03 * best


def test_a_wanted_service_costs_stock() -> None:
    points = [
        float(levels(Steady(np.array([2.0])), terms(), Costs(order=5.0, fill_rate=rate)).reorder[0])
        for rate in (0.8, 0.9, 0.95, 0.99, 0.999)
    ]
    assert points == sorted(points)
    assert points[0] < points[-1]
    short = Mixture.of(Steady(np.array([2.0])), np.array([8.0]), np.array([3.0])).beyond(np.array(points[3:4]))
    quantity = levels(Steady(np.array([2.0])), terms(), Costs(order=5.0, fill_rate=0.99))
    assert float(short[0]) <= 0.011 * float((quantity.up_to - quantity.reorder)[0])


@pytest.mark.parametrize("name", ["lead_days", "lead_spread_days"])
def test_longer_or_less_certain_lead_times_need_more(name: str) -> None:
    points = []
    for value in (1.0, 3.0, 6.0):
        fields: dict[str, Any] = {name: value}
        points.append(float(levels(Steady(np.array([2.0])), terms(**fields), Costs(order=45.0)).reorder[0]))
    assert points == sorted(set(points))


def test_items_do_not_depend_on_one_another() -> None:
    many = levels(Steady(np.array([0.01, 2.0, 300.0])), terms(3), Costs(order=45.0))
    for place, rate in enumerate((0.01, 2.0, 300.0)):
        one = levels(Steady(np.array([rate])), terms(), Costs(order=45.0))
        assert one.reorder[0] == many.reorder[place]
        assert one.up_to[0] == many.up_to[place]


@pytest.mark.parametrize("fill_rate", [None, 0.5, 0.9, 0.999])
def test_no_reorder_point_is_above_the_bound_that_is_quick_to_compute(fill_rate: float | None) -> None:
    rng, count = np.random.default_rng(3), 2_000
    each = terms(
        count, cost=rng.gamma(0.5, 20.0, count), margin=rng.normal(4.0, 6.0, count), pack=rng.integers(1, 30, count),
        lead_days=rng.uniform(0.0, 60.0, count), lead_spread_days=rng.gamma(1.0, 5.0, count),
        shelf_days=rng.choice([3.0, 90.0, np.inf], count),
    )  # fmt: skip
    expected, costs = Steady(rng.gamma(0.3, 5.0, count)), Costs(order=45.0, fill_rate=fill_rate)
    found, bound = levels(expected, each, costs).reorder, reachable(expected, each, costs)
    assert (found <= bound).all()
    if fill_rate is None:
        assert np.median(bound / np.maximum(found, 1.0)) < 1.5, "else most items are computed for nothing"
    level = rng.uniform(0.0, 1.0, count)
    within = Mixture.of(expected, each.lead_days, each.lead_spread_days).quantile(level)
    assert (within <= ceiling(expected, each.lead_days, each.lead_spread_days, level)).all()


def test_what_is_expected_beyond_a_point_is_the_same_by_both_ways() -> None:
    rate = np.array([0.01, 2.0, 300.0])
    within = Mixture.of(Steady(rate), np.full(3, 8.0), np.full(3, 3.0))
    for level in (0.1, 0.5, 0.99):
        point, short = within.at(within.place(np.full(3, level)))
        assert short == pytest.approx(within.beyond(point), rel=1e-9, abs=1e-12)


def test_what_perishes_is_ordered_for_its_life_at_most() -> None:
    lasting = levels(Steady(np.array([2.0])), terms(), Costs(order=45.0))
    found = levels(Steady(np.array([2.0])), terms(shelf_days=10.0), Costs(order=45.0))
    assert found.perishing[0]
    assert found.up_to[0] < 2.0 * 17.0 < lasting.up_to[0]
    assert found.reorder[0] < found.up_to[0]
    assert not levels(Steady(np.array([2.0])), terms(shelf_days=3_000.0), Costs(order=45.0)).perishing[0]


@pytest.mark.parametrize("cost", [{"cost": 0.0}, {"margin": 0.0}, {"margin": -1.0}, {"cost": 0.0, "margin": 0.0}])
def test_free_or_unprofitable_items_have_finite_levels(cost: dict[str, Any]) -> None:
    found = levels(Steady(np.array([2.0])), terms(**cost), Costs(order=45.0))
    assert np.isfinite([found.reorder[0], found.up_to[0]]).all()
    assert found.up_to[0] > found.reorder[0]


def test_orders_are_packs_of_at_least_the_minimum() -> None:
    one, no = np.ones(1), np.zeros(1, np.bool_)
    found = Levels(10 * one, 24 * one, one, 8 * one, one, no)
    at = np.array([10.0])
    assert order(found, terms(pack=6.0), at).tolist() == [18.0]
    assert order(found, terms(pack=6.0, minimum=20.0), at).tolist() == [24.0]
    assert order(found, terms(), np.array([11.0])).tolist() == [0.0]
    assert order(found, terms(), np.array([-5.0])).tolist() == [29.0]


def test_the_budget_goes_to_what_gains_most_for_its_money() -> None:
    expected, each = Steady(np.array([5.0, 0.2, 5.0])), terms(3)
    pieces, position = np.array([100.0, 100.0, 100.0]), np.array([0.0, 0.0, 400.0])
    gained = gain(expected, each, Costs(order=45.0), position, pieces, 28.0)
    assert gained[0] > 0
    assert gained[0] > max(gained[1:])
    assert gained[2] < 0, "what is there lasts for 80 days"
    assert within_budget(gained, pieces * each.cost, 600.0).tolist() == [True, False, False]
    assert within_budget(gained, pieces * each.cost, 599.0).tolist() == [False, False, False]
