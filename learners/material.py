"""Material: what a round trains on, and what no round ever does. A fold over shoppers' steps.

A round trains on the sessions that came since the last one, the open ones too, plus a rehearsed sample of the past.
What the shoppers of a seeded holdout did is never trained on: it is kept in slices, one per round, and says whether a
candidate has forgotten.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import NamedTuple, Self
from zlib import crc32

from headrace.state import State
from learners.browsing import Question
from learners.rehearsal import Rehearsal, Window, sequence_items_max


class _Open(NamedTuple):
    """A session that may go on, and the newest event time in it."""

    session: int
    items: list[str]
    time_ms: int


class Material:
    """Sessions to train on, and slices of the holdout, the oldest first.

    Args:
        seed: picks the holdout, and decides what is rehearsed.
        holdout_share: of the shoppers.
        shoppers_max: open sessions; of more, the one that was idle longest is closed.
        window_max, rehearsal_max: sessions since the last round, and of the time before.
        slices_max, slice_steps_max: slices, and predictions of one.
    """

    def __init__(
        self, *, seed: int, holdout_share: float, shoppers_max: int, window_max: int, rehearsal_max: int,
        slices_max: int, slice_steps_max: int,
    ) -> None:  # fmt: skip
        self._seed, self._holdout_share = seed, holdout_share
        self._shoppers_max, self._slice_steps_max = shoppers_max, slice_steps_max
        self.rehearsal = Rehearsal(seed, rehearsal_max)
        self._window = Window(window_max)
        # Of each shopper, idle longest first.
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._slice: list[Question] = []
        self.slices: deque[list[Question]] = deque(maxlen=slices_max)

    def __bool__(self) -> bool:
        """Whether there is anything to train on."""
        return bool(self._open)

    def held_out(self, shopper: str) -> bool:
        """Return whether a shopper belongs to the holdout that is never trained on."""
        return crc32(shopper.encode(), self._seed) < self._holdout_share * 0x1_0000_0000

    def hold(self, questions: Sequence[Question]) -> None:
        """Keep what a shopper of the holdout did next."""
        self._slice += questions[: self._slice_steps_max - len(self._slice)]

    def follow(self, shopper: str, session: int, items: list[str], time_ms: int) -> None:
        """Add steps to a shopper's open session; one that ended goes into the window."""
        before = self._open.pop(shopper, None)
        if before and before.session != session:
            self._close(before)
            before = None
        if before:
            items, time_ms = before.items + items, max(before.time_ms, time_ms)
        self._open[shopper] = _Open(session, items[-sequence_items_max:], time_ms)
        if len(self._open) > self._shoppers_max:
            self._close(self._open.popitem(last=False)[1])

    def _close(self, one: _Open) -> None:
        if len(one.items) > 1 and (kept := self._window.learn(one.items, one.time_ms)):
            self.rehearsal.learn(kept.items, kept.time_ms)

    def window(self) -> list[Sequence[str]]:
        """Return the sessions that came since the last round, the open ones too: items in order."""
        running = [one.items for one in self._open.values() if len(one.items) > 1]
        return [*self._window.sequences(), *running]

    def turn(self) -> None:
        """A round has trained on the window: it is the past now, and a new slice begins."""
        for one in self._open.values():
            self._close(one)
        for kept in self._window.drain():
            self.rehearsal.learn(kept.items, kept.time_ms)
        # A session that goes on begins anew with its last item, so that each step is trained on once.
        self._open = OrderedDict((name, one._replace(items=one.items[-1:])) for name, one in self._open.items())
        self.slices.append(self._slice)
        self._slice = []

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return what each bounded table holds, and its maximum."""
        return {
            **self.rehearsal.bounds(),
            **self._window.bounds(),
            "window_open_sessions": (len(self._open), self._shoppers_max),
            "holdout_slices": (len(self.slices), self.slices.maxlen or 0),
        }

    def state(self) -> State:
        """Return all that is kept."""
        return {
            "rehearsal": self.rehearsal.state(),
            "window": self._window.state(),
            "open": [[name, *one] for name, one in self._open.items()],
            "slice": [list(question) for question in self._slice],
            "slices": [[list(question) for question in slice_] for slice_ in self.slices],
        }

    def restore(self, state: State) -> Self:
        """Take up a state; return itself."""
        self.rehearsal = Rehearsal.from_state(state["rehearsal"])
        self._window = Window.from_state(state["window"])
        self._open = OrderedDict(
            (name, _Open(session, list(items), time_ms)) for name, session, items, time_ms in state["open"]
        )
        self._slice = [Question(*question) for question in state["slice"]]
        self.slices.extend([Question(*question) for question in slice_] for slice_ in state["slices"])
        return self
