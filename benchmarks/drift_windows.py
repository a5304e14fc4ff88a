"""Detectors that compare windows of a stream with a reference: what the adapters of the drift scorecard share.

Adapters run it in environments without this project, so it imports nothing but NumPy.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = Mapping[str, NDArray[np.float64]]
"""The values of a window, by column."""
Compare = Callable[[Values, Values, Mapping[str, str], float], bool]
"""Whether a window differs from the reference; given the kinds of the columns and the threshold."""
few: int = 30
"""Columns with fewer values in a window are left out."""


class Windows:
    """A stream's columns, cut by numbers of events."""

    def __init__(self, path: str) -> None:
        with np.load(path, allow_pickle=False) as kept:
            self.kinds: dict[str, str] = json.loads(str(kept["rest"]))["columns"]
            self.events = len(kept["times_ms"])
            self._columns = {name: (kept[f"{name}/events"], kept[f"{name}/values"]) for name in self.kinds}

    def values(self, begin: int, end: int) -> dict[str, NDArray[np.float64]]:
        """Return the values after event `begin` up to event `end`, of columns that have enough."""
        found = {}
        for name, (events, values) in self._columns.items():
            first, last = np.searchsorted(events, [begin, end], side="right")
            if last - first >= few:
                found[name] = values[first:last]
        return found


def alarms(events: int, window: int, reference: int, differs: Callable[[int, int, int, int], bool]) -> list[int]:
    """Return the numbers of events up to the alarms: ends of windows that differ from the reference.

    After an alarm the reference begins with the alarm's window; no window is compared until it is complete.

    Args:
        differs: is given where the reference begins and ends and where the window does.

    >>> alarms(100, 10, 20, lambda begin, end, first, last: begin < 50 <= first)
    [60]
    """
    found, begin = [], 0
    place = reference
    while place + window <= events:
        if differs(begin, begin + reference, place, place + window):
            found.append(place + window)
            begin = place
            place = begin + reference
        else:
            place += window
    return found


def _differs(windows: Windows, compare: Compare, threshold: float, *cuts: int) -> bool:
    """Return whether a window differs from the reference, in columns of which both have enough values."""
    before, now = windows.values(*cuts[:2]), windows.values(*cuts[2:])
    kinds = {column: kind for column, kind in windows.kinds.items() if column in before and column in now}
    return bool(kinds) and compare(before, now, kinds, threshold)


def answer(detectors: Mapping[str, Compare]) -> None:
    """Read the question from standard input; write a line for each stream."""
    question: dict[str, Any] = json.load(sys.stdin)
    out, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    for path in question["streams"]:
        windows = Windows(path)
        window, reference = (round(question[name] * windows.events) for name in ("window", "reference"))
        found: dict[str, dict[str, Sequence[int]]] = {}
        for name, thresholds in question["thresholds"].items():
            found[name] = {
                f"{threshold:g}": alarms(
                    windows.events, window, reference, partial(_differs, windows, detectors[name], threshold)
                )
                for threshold in thresholds
            }
        print(json.dumps(found), file=out, flush=True)
