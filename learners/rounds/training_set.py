"""The training set: the sequences of a round, and the holdout that no round trains on. A fold over shoppers' steps.

A round trains on the sessions since the last round, including open ones, plus a rehearsal sample of the past. The steps
of a seeded holdout of shoppers are never trained on. They are kept in slices, one per round, and show whether a
candidate has forgotten.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import NamedTuple, Self
from zlib import crc32

import numpy as np

from headrace.sampling import fraction
from headrace.state import State
from learners.protocol import Question
from learners.rounds.rehearsal import Rehearsal, StoredSequence, Window, packed, sequence_items_max, unpacked
from learners.rounds.session_gate import shopper_number


class _Open(NamedTuple):
    """A session that has not ended, and its newest event time."""

    session: int
    items: list[str]
    time_ms: int


class TrainingSet:
    """Sessions to train on, and slices of the holdout, the oldest first.

    Args:
        seed: determines the holdout and the rehearsal sample.
        holdout_share: share of the shoppers in the holdout.
        shoppers_max: most open sessions; beyond it, the one that was idle longest is closed.
        window_max, rehearsal_max: most sessions since the last round, and of the time before.
        slices_max, slice_steps_max: most slices, and predictions per slice.
    """

    def __init__(
        self, *, seed: int, holdout_share: float, shoppers_max: int, window_max: int, rehearsal_max: int,
        slices_max: int, slice_steps_max: int,
    ) -> None:  # fmt: skip
        self._seed, self._holdout_share = seed, holdout_share
        self._shoppers_max, self._slice_steps_max = shoppers_max, slice_steps_max
        self.rehearsal = Rehearsal(seed, rehearsal_max)
        self._window = Window(window_max)
        self._in_training: list[StoredSequence] | None = None  # None while no round is trained
        self._sampling = 2  # how the holdout is drawn; 1 in a state that goes on from one of 0.3.0
        # By shopper, the one idle longest first.
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._slice: list[Question] = []
        self._slice_shoppers: list[int] = []
        self.slices: deque[list[Question]] = deque(maxlen=slices_max)
        self.slices_shoppers: deque[list[int]] = deque(maxlen=slices_max)

    def __bool__(self) -> bool:
        """Return whether there are sequences to train on."""
        return bool(self._open)

    def held_out(self, shopper: str) -> bool:
        """Return whether a shopper belongs to the holdout, which is never trained on."""
        if self._sampling == 1:
            return crc32(shopper.encode(), self._seed) < self._holdout_share * 0x1_0000_0000
        return fraction(shopper, self._seed, "holdout") < self._holdout_share

    def add_holdout(self, shopper: str, questions: Sequence[Question]) -> None:
        """Add the steps of a shopper of the holdout to the current slice."""
        added = questions[: self._slice_steps_max - len(self._slice)]
        self._slice += added
        self._slice_shoppers += [shopper_number(shopper)] * len(added)

    def add_steps(self, shopper: str, session: int, items: list[str], time_ms: int) -> None:
        """Add steps to a shopper's open session; an earlier session of the shopper moves to the window."""
        before = self._open.pop(shopper, None)
        if before and before.session != session:
            self._close(before)
            before = None
        if before:
            items, time_ms = before.items + items, max(before.time_ms, time_ms)
        self._open[shopper] = _Open(session, items[-sequence_items_max:], time_ms)
        if len(self._open) > self._shoppers_max:
            self._close(self._open.popitem(last=False)[1])

    def move(self, from_shopper: str, to_shopper: str, session: int) -> None:
        """Make an open session another shopper's; if that one is in the holdout, it is not trained on."""
        one = self._open.get(from_shopper)
        if one is None or one.session != session:
            return
        del self._open[from_shopper]
        if self.held_out(to_shopper):
            return
        if before := self._open.pop(to_shopper, None):
            self._close(before)
        self._open[to_shopper] = one

    def _close(self, one: _Open) -> None:
        if len(one.items) > 1 and (kept := self._window.learn(one.items, one.time_ms)):
            self.rehearsal.learn(kept.items, kept.time_ms)

    def window(self) -> list[Sequence[str]]:
        """Return the sessions since the last round, including the open ones, each as items in order."""
        running = [one.items for one in self._open.values() if len(one.items) > 1]
        return [*self._window.sequences(), *running]

    def begin_round(self) -> None:
        """Set the window's sessions, including open ones, apart for a round; sessions from now on are the next one's.

        They are kept until `end_round`, so that a round that was interrupted can be trained again.
        """
        for one in self._open.values():
            self._close(one)
        self._in_training = self._window.drain()
        # An open session restarts with its last item, so that each step is trained on once.
        self._open = OrderedDict((name, one._replace(items=one.items[-1:])) for name, one in self._open.items())

    def in_training(self) -> list[tuple[str, ...]]:
        """Return the sessions of the round that is being trained, oldest first."""
        return [kept.items for kept in self._in_training or ()]

    def end_round(self) -> None:
        """Move the round's sessions to the rehearsal, because it has trained on them, and begin a new slice.

        A round that has not begun begins and ends here.
        """
        if self._in_training is None:
            self.begin_round()
        for kept in self._in_training or ():
            self.rehearsal.learn(kept.items, kept.time_ms)
        self._in_training = None
        self.slices.append(self._slice)
        self.slices_shoppers.append(self._slice_shoppers)
        self._slice, self._slice_shoppers = [], []

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the use and the maximum of each bounded table."""
        return {
            **self.rehearsal.bounds(),
            **self._window.bounds(),
            "training_sequences": (len(self._in_training or ()), self._window.sequences_max),
            "window_open_sessions": (len(self._open), self._shoppers_max),
            "holdout_slices": (len(self.slices), self.slices.maxlen or 0),
        }

    def state(self) -> State:
        """Return all sessions and slices."""
        return {
            "rehearsal": self.rehearsal.state(),
            "window": self._window.state(),
            "sampling": self._sampling,
            "in_training": None if self._in_training is None else packed(self._in_training),
            "open": [[name, *one] for name, one in self._open.items()],
            "slice": [list(question) for question in self._slice],
            "slices": [[list(question) for question in slice_] for slice_ in self.slices],
            "slice_shoppers": np.array(self._slice_shoppers, np.int64),
            "slices_shoppers": [np.array(shoppers, np.int64) for shoppers in self.slices_shoppers],
        }

    def restore(self, state: State) -> Self:
        """Replace all sessions and slices by those of a state, as far as the maxima admit; return self."""
        self.rehearsal = Rehearsal.from_state(
            state["rehearsal"], seed=self._seed, sequences_max=self.rehearsal.sequences_max
        )
        self._window = Window.from_state(state["window"], self._window.sequences_max)
        kept = state["in_training"]
        self._in_training = None if kept is None else unpacked(kept)[-self._window.sequences_max :]
        self._open = OrderedDict(
            (name, _Open(session, list(items), time_ms)) for name, session, items, time_ms in state["open"]
        )
        while len(self._open) > self._shoppers_max:
            self._close(self._open.popitem(last=False)[1])
        for kept in self._window.shrink():
            self.rehearsal.learn(kept.items, kept.time_ms)
        steps = self._slice_steps_max
        self._slice = [Question(*question) for question in state["slice"][:steps]]
        self.slices.extend([Question(*question) for question in slice_[:steps]] for slice_ in state["slices"])
        self._slice_shoppers = state["slice_shoppers"][:steps].tolist()
        self.slices_shoppers.extend(shoppers[:steps].tolist() for shoppers in state["slices_shoppers"])
        self._sampling = state["sampling"]
        return self


def training_set_of_version_2(state: State) -> State:
    """Add what releases up to 0.3.0 did not have: a round in training, the shoppers of the slices, and the sampling.

    The shoppers of older slices are unknown; each prediction counts as one of a shopper of its own.
    """
    return {
        **state, "sampling": 1, "in_training": None, "slice_shoppers": np.arange(len(state["slice"])),
        "slices_shoppers": [np.arange(len(one)) for one in state["slices"]],
    }  # fmt: skip
