"""Traits: counts, ages, categories and names of items, and that steps take effect at `settle`."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headrace.state import decode, digest, encode
from learners.next_item.traits import TRAITS, Traits, day_ms
from learners.protocol import Context

hour_ms = 3_600_000


def taught(*steps: tuple[int, str, int]) -> Traits:
    traits = Traits()
    for slot, category, time_ms in steps:
        traits.learn(slot, category, time_ms)
    traits.settle()
    return traits


def of(traits: Traits, slots: Sequence[int], session: Sequence[int], time_ms: int) -> NDArray[np.uint8]:
    return traits.of(slots, Context(session, 0, 0, time_ms))


def test_counts_grow_with_steps_and_decay() -> None:
    traits = taught(*[(1, "", 0)] * 5, (2, "", 0), (4_000, "", 0))
    often, once, far, never = of(traits, [1, 2, 4_000, 3], [], 0)[:, TRAITS.index("count")].tolist()
    assert often > once == far > never == 0
    assert of(traits, [1], [], 360 * day_ms)[0, 0] < once


def test_age_begins_with_the_first_step_and_saturates() -> None:
    traits = taught((0, "", 10 * hour_ms), (0, "", 12 * hour_ms), (1, "", 12 * hour_ms))
    traits.learn(0, "", 13 * hour_ms)
    traits.settle()
    age = TRAITS.index("age")
    assert of(traits, [0], [], 12 * hour_ms)[0, age] == int(255 * np.log1p(2) / np.log1p(24_000))
    assert of(traits, [1], [], 12 * hour_ms)[0, age] == 0
    assert of(traits, [0], [], 5 * hour_ms)[0, age] == 0, "a late event"
    assert of(traits, [0], [], 10_000 * day_ms)[0, age] == 255


def test_same_category_compares_with_the_last_item() -> None:
    traits = taught((0, "shoes", 0), (1, "shoes", 0), (2, "hats", 0), (3, "", 0), (4, "", 0))
    same = TRAITS.index("same_category")
    assert of(traits, [1, 2, 3, 99, -1], [0], 0)[:, same].tolist() == [255, 0, 0, 0, 0]
    assert not of(traits, [4], [3], 0)[:, same].any(), "two unknown categories are not the same one"
    assert not of(traits, [1], [], 0)[:, same].any()
    assert not of(traits, [1], [5_000], 0)[:, same].any()


def test_recent_counts_decay_faster() -> None:
    traits = taught(*[(1, "", 0)] * 5, (2, "", 0))
    traits.learn(2, "", 30 * day_ms)
    traits.settle()
    count, recent = TRAITS.index("count"), TRAITS.index("recent_count")
    old, new = of(traits, [1, 2], [], 30 * day_ms)
    assert old[count] > new[count]
    assert old[recent] < new[recent]
    for far in (-100_000, 100_000):
        assert set(of(traits, [1, 2], [], far * day_ms)[:, recent].tolist()) <= {0, 255}, "extreme times saturate"


def test_items_next_to_the_last_item_are_marked() -> None:
    traits = taught(*((slot, "", 0) for slot in range(6)))
    is_last, after_last, before_last = (TRAITS.index(name) for name in ("is_last", "after_last", "before_last"))
    found = of(traits, [0, 1, 2, 3, 5], [1, 0, 2, 3, 0], 0) > 0
    assert found[:, is_last].tolist() == [True, False, False, False, False]
    assert found[:, after_last].tolist() == [False, False, True, False, False]
    assert found[:, before_last].tolist() == [False, True, False, True, False]
    assert not of(traits, [0, 1], [], 0)[:, is_last:].any()
    assert of(traits, [0], [0, 0], 0)[0, is_last : is_last + 4].tolist() == [255, 255, 255, 0]
    assert not of(traits, [-1], [-1, -1], 0).any(), "two items without a slot are not the same one"
    assert of(traits, [70_000], [70_000], 0)[0, is_last] == 255, "the last item, even if it was not counted yet"


def test_items_of_earlier_sessions_are_familiar() -> None:
    traits = Traits()
    is_last, familiar = TRAITS.index("is_last"), TRAITS.index("familiar")
    # 1 and 2 of an earlier session, then 3 and 1 of this one.
    found = traits.of([1, 2, 3, 4], Context([1, 2, 3, 1], 2, 0, 0))[:, is_last : familiar + 1] > 0
    assert found.tolist() == [
        [True, False, False, True],
        [False, True, False, True],
        [False, False, True, False],
        [False] * 4,
    ]
    between = traits.of([1, 2], Context([1, 2], 2, 0, 0))[:, is_last : familiar + 1] > 0
    assert between.tolist() == [[False, False, False, True]] * 2, "there is no last item yet"
    assert familiar == is_last + 3


def test_learned_steps_take_effect_at_settle() -> None:
    traits = taught((0, "shoes", 0))
    before = of(traits, [0, 1], [0], hour_ms)
    traits.learn(0, "hats", hour_ms)
    traits.learn(1, "shoes", hour_ms)
    assert (of(traits, [0, 1], [0], hour_ms) == before).all()
    traits = Traits.from_state(decode(encode(traits.state())))
    assert (of(traits, [0, 1], [0], hour_ms) == before).all()
    traits.settle()
    assert (of(traits, [0, 1], [0], hour_ms) != before).any()


def test_a_reused_slot_keeps_nothing_of_its_former_item() -> None:
    traits = taught((0, "shoes", 0), (1, "shoes", 0))
    assert of(traits, [0], [1], day_ms)[0, TRAITS.index("same_category")]
    traits.learn(0, "hats", 5)
    traits.learn(1, "shoes", 5)
    before = of(traits, [1], [2], day_ms).tolist()
    traits.forget([0, 70_000])
    assert of(traits, [0, 1], [2], day_ms).tolist() == [[0] * len(TRAITS), *before]
    assert not of(traits, [0], [1], day_ms)[0, TRAITS.index("same_category")]
    traits.learn(0, "hats", day_ms)
    traits.settle()
    assert of(traits, [0], [1], day_ms)[0, TRAITS.index("age")] == 0


def test_state_round_trips_and_continues_identically() -> None:
    traits = taught(*((n * 7 % 3_000, f"category{n % 5}", n * hour_ms) for n in range(3_000)))
    again = Traits.from_state(decode(encode(traits.state())))
    assert digest(again.state()) == digest(traits.state())
    for one in (traits, again):
        one.learn(2_999, "category1", 4_000 * hour_ms)
        one.settle()
    assert digest(again.state()) == digest(traits.state())
    assert (
        of(again, range(3_000), [5, 6, 5], 5_000 * hour_ms) == of(traits, range(3_000), [5, 6, 5], 5_000 * hour_ms)
    ).all()


def test_names_are_compared_with_the_last_item_and_the_session() -> None:
    traits = Traits()
    for slot, name in enumerate(("red cup", "red plate", "blue lamp", "blue plate", "")):
        traits.learn(slot, "", 0, name)
    name_last, name_mean, name_max = (TRAITS.index(name) for name in ("name_last", "name_mean", "name_max"))
    context = Context([3, 0, 2], 1, 0, 0)  # 3 is of an earlier session
    assert not traits.of(range(5), context)[:, name_last:].any(), "not settled yet"
    traits.settle()
    found = traits.of(range(5), context)
    assert (found[:, name_last] > 0).tolist() == [False, False, True, True, False]
    assert (found[:, name_max] > 0).tolist() == [True, True, True, True, False]
    assert (found[:4, name_mean] < found[:4, name_max]).all()
    assert not traits.of(range(5), Context([3], 1, 0, 0))[:, name_last:].any(), "there is no last item"
    again = Traits.from_state(traits.state())
    np.testing.assert_array_equal(again.of(range(5), context), found)
    again.forget([2])
    assert not again.of(range(5), context)[:, name_last].any()
