"""Turns of the thread that answers and of those that fold."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from serving import turns as module
from serving.turns import Turns, fold_s_max, hurry_s

piece_s = 0.001


class Shared:
    """A state that is torn while it is changed."""

    def __init__(self) -> None:
        self.one = self.other = 0

    def fold(self) -> None:
        self.one += 1
        time.sleep(piece_s)  # lets other threads run
        self.other += 1


class Folding:
    """A thread that folds for as long as it may."""

    def __init__(self, turns: Turns, shared: Shared) -> None:
        self._stop = threading.Event()
        self._turns, self._shared = turns, shared
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._turns:
                self._shared.fold()

    def end(self) -> None:
        self._stop.set()
        self.thread.join(10)
        assert not self.thread.is_alive()


@contextmanager
def folding(turns: Turns, shared: Shared, threads: int = 1) -> Iterator[None]:
    found = [Folding(turns, shared) for _ in range(threads)]
    try:
        yield
    finally:
        for one in found:
            one.end()


def test_without_a_loop_it_is_a_lock() -> None:
    turns, shared = Turns(), Shared()
    with folding(turns, shared):
        for _ in range(50):
            with turns.answering():
                assert shared.one == shared.other
            time.sleep(0.0005)
    assert shared.one > 0


@pytest.mark.parametrize("threads", [1, 3])
def test_with_a_loop_answers_see_whole_states_and_folding_goes_on_while_it_answers_all_the_time(threads: int) -> None:
    turns, shared, folded_before = Turns(), Shared(), list[int]()

    async def answer() -> None:
        turns.attach(asyncio.get_running_loop())
        for _ in range(200):
            await asyncio.sleep(0)  # as between two requests
            folded_before.append(shared.one)
            with turns.answering():
                assert shared.one == shared.other
                time.sleep(0.0005)
        turns.detach()

    with folding(turns, shared, threads):
        asyncio.run(answer())
        folded = shared.one
        time.sleep(0.05)
    assert shared.one > folded, "folding goes on without the loop"
    assert folded > 50, "no piece in many turns"
    assert max(after - before for before, after in pairwise(folded_before)) <= fold_s_max / piece_s, "no end of a turn"


def test_folding_gets_its_share_of_a_round_with_many_answers() -> None:
    turns, shared, rounds, answers = Turns(), Shared(), 10, 20

    async def answer() -> int:
        turns.attach(asyncio.get_running_loop())
        for _ in range(rounds):
            await asyncio.sleep(0)
            for _ in range(answers):
                with turns.answering():
                    time.sleep(0.002)
        turns.detach()
        return shared.one

    with folding(turns, shared):
        folded = asyncio.run(answer())
    assert folded > 1.2 * rounds * fold_s_max / piece_s, "no more than one turn in a round"


def test_a_fold_that_is_hardly_behind_does_not_hold_up_answers() -> None:
    behind_s, shared = [0.0], Shared()
    turns = Turns(lambda: behind_s[0])

    async def answer() -> None:
        turns.attach(asyncio.get_running_loop())
        for _ in range(20):
            await asyncio.sleep(0)
            for _ in range(5):
                with turns.answering():
                    time.sleep(0.002)
        turns.detach()

    with folding(turns, shared):
        asyncio.run(answer())
        calm = shared.one
        behind_s[0] = 2 * hurry_s
        asyncio.run(answer())
    assert 0 < calm < (shared.one - calm) / 2


def test_an_idle_loop_folds_at_once() -> None:
    turns, shared = Turns(), Shared()

    async def idle() -> int:
        turns.attach(asyncio.get_running_loop())
        await asyncio.sleep(0.3)
        turns.detach()
        return shared.one

    with folding(turns, shared):
        assert asyncio.run(idle()) > 20


def test_a_loop_that_ends_without_a_word_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "detached_s", 0.02)
    turns, shared = Turns(), Shared()

    async def end() -> None:
        turns.attach(asyncio.get_running_loop())

    asyncio.run(end())
    with folding(turns, shared):
        time.sleep(0.1)
        turns.detach()
        time.sleep(0.1)
    assert shared.one > 0


def test_a_fold_that_fails_gives_its_turn_back() -> None:
    turns, shared = Turns(), Shared()

    def fail() -> None:
        with pytest.raises(ZeroDivisionError), turns:
            raise ZeroDivisionError

    async def run() -> None:
        turns.attach(asyncio.get_running_loop())
        await asyncio.to_thread(fail)
        await asyncio.to_thread(fail)
        turns.detach()

    asyncio.run(asyncio.wait_for(run(), 10))
    with turns.answering():
        assert shared.one == 0
