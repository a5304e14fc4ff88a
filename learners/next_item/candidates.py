"""The candidates of an answer: the members' lists over one set of items, in slots, so that only answers need ids."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from learners.next_item.catalogue import Catalogue
from learners.next_item.equal import EqualKeys
from learners.protocol import Listed, Scores


class Candidates(NamedTuple):
    """The items that members list, in order of first occurrence.

    Attributes:
        slots: the items' slots, -1 for those that the catalogue does not know: a model may remember evicted items.
        lists: each member's scores; their slots are indices into `slots`.
        unknown: the ids of the items without a slot, by index.

    Shapes:
        slots: (C,)
    """

    slots: NDArray[np.int32]
    lists: dict[str, Scores]
    unknown: dict[int, str]

    def named(self, indices: NDArray[np.int32], catalogue: Catalogue) -> list[str]:
        """Return the item ids of candidates, by their indices into `slots`."""
        slots = self.slots.take(indices).tolist()
        if not self.unknown:
            return catalogue.items_at(slots)
        pairs = zip(indices.tolist(), slots, strict=True)
        return [self.unknown[index] if slot < 0 else catalogue.item(slot) for index, slot in pairs]


def in_slots(listed: Listed, catalogue: Catalogue) -> tuple[Scores, list[str]]:
    """Return a list in slots, and its items without a slot. These are numbered from `catalogue.slots_end` on."""
    items, scores = listed
    slots, unknown = catalogue.slots_of(items), list[str]()
    if -1 in slots:
        for place, item in enumerate(items):
            if slots[place] < 0:
                slots[place] = catalogue.slots_end + len(unknown)
                unknown.append(item)
    return Scores(np.array(slots, np.int32), scores), unknown


def pool(lists: Mapping[str, Scores], unknown: list[str], slots_end: int, equal: EqualKeys) -> Candidates:
    """Merge members' lists, which are in slots; items without a slot are numbered from `slots_end` on.

    >>> lists = {"a": Scores(np.int32([4, 2]), np.float32([2, 1])), "b": Scores(np.int32([9, 2]), np.float32([5, 4]))}
    >>> found = pool(lists, ["old"], 9, EqualKeys())
    >>> found.slots.tolist(), found.lists["b"].slots.tolist(), found.unknown
    ([4, 2, -1], [2, 1], {2: 'old'})
    """
    keys = np.concatenate([slots for slots, _ in lists.values()])
    count = len(keys)
    first = (count - 1) - equal.last_places(keys[::-1])[::-1]
    is_first = first == np.arange(count)
    slots = keys[is_first]
    index = (np.cumsum(is_first, dtype=np.int32) - 1).take(first)
    found, end = {}, 0
    for name, (its, scores) in lists.items():
        start, end = end, end + len(its)
        found[name] = Scores(index[start:end], scores)
    if not unknown:
        return Candidates(slots, found, {})
    places = (slots >= slots_end).nonzero()[0].tolist()
    names = {place: unknown[int(slots[place]) - slots_end] for place in places}
    slots[places] = -1
    return Candidates(slots, found, names)
