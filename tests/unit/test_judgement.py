"""Judgements: wire form and ranks; and the judge, whose rate depends on the load."""

from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from headrace.events import Data, Event, Item, at
from headrace.log.protocol import RECORD_BYTES_MAX
from headrace.shard.blobs import Blobs
from learners.next_item import judgement
from learners.next_item.family import NextItemFamily
from learners.next_item.judge import NextItemJudge, halvings_max, lag_min, share_max
from learners.next_item.judgement import Judgement, pool, rank_of, record_bytes_max
from learners.next_item.traits import TRAITS
from learners.protocol import BLEND, Listed
from tests.shards import next_item, next_item_judge, online


def listed(*items: str) -> Listed:
    return list(items), np.arange(len(items), 0, -1).astype(np.float32)


def test_lists_survive_serialisation() -> None:
    pooled = pool({"a": listed("x", "y", "z"), "b": listed("z", "w"), "c": listed()})
    one = Judgement(
        0, 5, 0, 7, 2, 0.5, "r1", "z", pooled.candidates, pooled.packed(), {"a": 3, "b": 1, "c": 0}, bytes(range(44))
    )
    (data,) = judgement.encode([one])
    (again,) = judgement.decode(data)
    assert again == one
    assert again.target() == pooled.candidates.index("z")
    traits = again.trait_matrix()
    assert traits is not None
    assert traits[1].tolist() == list(range(11, 22))
    assert structs.replace(one, traits=bytes(12)).trait_matrix() is None, "traits of another version"
    for name, scores in again.lists().items():
        found = sorted(zip(scores.slots.tolist(), scores.scores.tolist(), strict=True))
        assert found == sorted(zip(*(part.tolist() for part in pooled.lists[name]), strict=True))


def test_no_record_is_larger_than_the_log_accepts() -> None:
    names = [f"{n:0128}" for n in range(250)]
    lists = {name: listed(*names[50 * n : 50 * n + 50]) for n, name in enumerate("abcde")}
    pooled = pool(lists)
    made = [
        Judgement(
            0, n, 0, 7, 2, 0.5, "r1", names[n % 250], pooled.candidates, pooled.packed(), {}, bytes(250 * len(TRAITS))
        )
        for n in range(200)
    ]
    records = judgement.encode(made)
    assert [one for data in records for one in judgement.decode(data)] == made
    assert record_bytes_max < max(map(len, records)) < RECORD_BYTES_MAX
    assert len(records) == len(made), "a judgement that is larger has a record of its own"
    small = [structs.replace(one, candidates=[], scores={}, traits=b"") for one in made * 10]
    records = judgement.encode(small)
    assert [one for data in records for one in judgement.decode(data)] == small
    assert record_bytes_max / 2 < max(map(len, records)) <= record_bytes_max
    assert len(judgement.encode(made[:1])) == 1


def test_an_item_on_no_list_has_no_target() -> None:
    pooled = pool({"a": listed("x")})
    one = Judgement(0, 0, 0, 0, 1, 1.0, "", "q", pooled.candidates, pooled.packed(), {})
    assert one.target() == -1
    assert one.trait_matrix() is None


def test_ranks_count_ties_against_the_item() -> None:
    pooled = pool({"a": (["x", "y", "z"], np.array([2, 2, 1], np.float32)), "b": listed("w")})
    assert [pooled.rank("a", item) for item in "xyzwq"] == [2, 2, 3, 0, 0]
    assert rank_of(pooled.lists["b"], pooled.candidates, "w") == 1


def view(number: int, item: str) -> Event:
    time_ms = 1_736_121_600_000 + number
    return Event(f"e{number}", "test", "view_item", at(time_ms), Data([Item(item)]), "1.0", f"s{number % 5}", time_ms)


class Load:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def turn(judge: NextItemJudge, load: Load, family: NextItemFamily, spent_s: float, lag: int = 0) -> float:
    """Let one second pass of which judging takes `spent_s`; return the rate after it."""
    load.now += 1.0
    judge._judging_s += spent_s
    judge.judge(family, lag)
    return judge.inclusion


def test_the_rate_halves_over_budget_and_comes_back(tmp_path: Path) -> None:
    load, shop = Load(), next_item(online(items_max=64, shoppers_max=10)(None))
    judge = next_item_judge(Blobs(tmp_path), seconds=load)
    assert judge.inclusion == 1
    assert [turn(judge, load, shop, share_max + 0.1) for _ in range(3)] == [0.5, 0.25, 0.125]
    assert turn(judge, load, shop, share_max * 0.7) == 0.125  # within the budget, but doubling would exceed it
    assert [turn(judge, load, shop, 0.0) for _ in range(4)] == [0.25, 0.5, 1.0, 1.0]
    for _ in range(20):
        turn(judge, load, shop, 0.9)
    assert judge.inclusion == 0.5**halvings_max


def test_the_rate_halves_while_lag_grows(tmp_path: Path) -> None:
    load, shop = Load(), next_item(online(items_max=64, shoppers_max=10)(None))
    judge = next_item_judge(Blobs(tmp_path), seconds=load)
    lags = [lag_min // 2, lag_min + 1, lag_min + 2, lag_min + 2, lag_min]
    assert [turn(judge, load, shop, 0.0, lag) for lag in lags] == [1.0, 0.5, 0.25, 0.5, 1.0]


def test_which_events_are_picked_depends_only_on_the_event(tmp_path: Path) -> None:
    def picked(seed: int, rate: float) -> set[tuple[int, int]]:
        shop = online(items_max=64, shoppers_max=10)(None)
        family, judge = next_item(shop), next_item_judge(Blobs(tmp_path), seed=seed, fixed=rate)
        found = set()
        for n in range(600):
            event = view(n, f"i{n % 9}")
            judge.observe(family, event, 0, n)
            shop.learn(event, 0, n)
            for data in judge.judge(family, 0):
                found |= {(one.offset, one.step) for one in judgement.decode(data)}
                assert all(one.inclusion == rate for one in judgement.decode(data))
        return found

    half, quarter, everything = picked(0, 0.5), picked(0, 0.25), picked(0, 1.0)
    assert quarter < half < everything
    assert len(half) / len(everything) == pytest.approx(0.5, abs=0.07)
    assert picked(0, 0.5) == half != picked(1, 0.5)


def test_judging_changes_nothing_in_the_fold_and_splits_long_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.state import digest

    monkeypatch.setattr("learners.next_item.judgement.record_bytes_max", 10_000)

    shop, judge = online(items_max=64, shoppers_max=10)(None), next_item_judge(Blobs(tmp_path), fixed=1.0)
    family = next_item(shop)
    for n in range(30):
        shop.learn(view(n, f"i{n % 9}"), 0, n)
    shop.emit()
    before = digest(shop.state())
    for n in range(30, 235):
        judge.observe(family, view(n, f"j{n % 9}"), 0, n)
    records = judge.judge(family, 0)
    assert digest(shop.state()) == before
    assert sum(len(judgement.decode(data)) for data in records) == 205
    assert len(records) > 1
    assert all(len(data) <= 10_000 for data in records)
    assert judge.judge(family, 0) == []
    assert judge.judged == 205
    for data in records:
        shop.absorb(family.name, data)
    assert family.ranking[BLEND].judged == judge.judged
