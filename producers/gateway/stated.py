"""The items that were stated a moment ago, which the server of answers may not know yet."""

from collections import OrderedDict
from typing import Final, NamedTuple

items_max: Final = 10_000
"""Most items, the newest."""
kept_ms: Final = 30_000
"""How long an item is kept: longer than it takes until answers know it."""


class StatedItem(NamedTuple):
    """The value of an item's newest record, None if the item is no longer sold."""

    value: bytes | None


class StatedItems:
    """The newest records of items that this gateway has written.

    >>> stated = StatedItems()
    >>> stated.note("boots", b"{}", 0)
    >>> stated.of("boots", kept_ms), stated.of("boots", kept_ms + 1), stated.of("hat", 0)
    (StatedItem(value=b'{}'), None, None)
    """

    def __init__(self) -> None:
        self._items: OrderedDict[str, tuple[bytes | None, int]] = OrderedDict()

    def note(self, item: str, value: bytes | None, now_ms: int) -> None:
        """Note a record that is safe."""
        self._items[item] = value, now_ms
        self._items.move_to_end(item)
        while len(self._items) > items_max:
            self._items.popitem(last=False)

    def of(self, item: str, now_ms: int) -> StatedItem | None:
        """Return what was stated of an item a moment ago; None if nothing was."""
        value, stated_ms = self._items.get(item, (None, now_ms - kept_ms - 1))
        return StatedItem(value) if now_ms - stated_ms <= kept_ms else None

    def use(self) -> tuple[int, int]:
        """Return the number of items and the maximum."""
        return len(self._items), items_max
