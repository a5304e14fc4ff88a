"""The items of a deep model: those of its training, and late ones.

Late items are items that were admitted after the training. A model in use derives their vectors from trained items of
the same category and of like price (`learners.deep.neighbours`).

Letters of shapes: D width, V items of the vocabulary, G late items.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from learners.deep.neighbours import AttributeNeighbours
from learners.next_item.attributes import AttributeLookup

late_items_max: Final = 10_000
"""Most late items of one model."""
SPARE_ROWS: Final = 1_024
"""Spare rows that are allocated whenever late items need a larger buffer; they save a copy of the whole table for each
later item."""


class Vocabulary(ABC):
    """The items of a model in row order; a subclass holds their vectors.

    Attributes:
        items: the items of the training.
        late_items: items admitted after the training; their rows follow. They are not part of the artifact.
        admissions_seen: number of the catalogue's admissions up to which late items were added.
    """

    def __init__(self, items: list[str], row: dict[str, int]) -> None:
        self.items, self._row = items, row
        self.late_items: list[str] = []
        self.admissions_seen = 0
        self._neighbours: AttributeNeighbours | None = None

    def __len__(self) -> int:
        return len(self.items)

    def rows(self, sequence: Sequence[str]) -> list[int]:
        """Return the rows of the known items of a sequence, in order."""
        row = self._row
        return [row[item] for item in sequence if item in row]

    def named(self, rows: Iterable[int]) -> list[str]:
        """Return the items of rows, late ones included."""
        trained = len(self.items)
        return [self.items[row] if row < trained else self.late_items[row - trained] for row in rows]

    def trained(self, item: str) -> bool:
        """Return whether an item is in the vocabulary (late items are not)."""
        return self._row.get(item, len(self.items)) < len(self.items)

    def add_late_items(self, items: Iterable[str], attributes_of: AttributeLookup) -> int:
        """Add items that were admitted after the training; return the number of added items.

        An item's vector is derived from its neighbours (`learners.deep.neighbours`), that of a late item again. Items
        without neighbours and items beyond `late_items_max` are not added. The attributes of the vocabulary are looked
        up once, at the first call.
        """
        untrained = [item for item in dict.fromkeys(items) if not self.trained(item)]
        free = late_items_max - len(self.late_items)
        late = [item for item in untrained if item in self._row]
        asked = late + [item for item in untrained if item not in self._row][:free]
        if not asked or not self.items:
            return 0
        if self._neighbours is None:
            self._neighbours = AttributeNeighbours(self._unit_vectors(), attributes_of(self.items))
        vectors, found = self._neighbours.vectors(attributes_of(asked))
        placed = [item for item, has_neighbours in zip(asked, found.tolist(), strict=True) if has_neighbours]
        rows = self.rows(placed)
        added = {item: len(self._row) + number for number, item in enumerate(placed[len(rows) :])}
        if placed:
            self._place(rows + list(added.values()), vectors[found])
        self.late_items += added
        self._row |= added
        return len(added)

    def drop_late_items(self) -> None:
        """Drop the late items."""
        self._neighbours = None
        for item in self.late_items:
            del self._row[item]
        self.late_items, self.admissions_seen = [], 0

    @abstractmethod
    def _unit_vectors(self) -> NDArray[np.float32]:
        """Return (V, D): the unit vectors of the trained items."""

    @abstractmethod
    def _place(self, rows: list[int], vectors: NDArray[np.float32]) -> None:
        """Set the vectors of late items; rows that follow the existing ones are added."""
