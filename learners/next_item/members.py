"""The list of fast next-item learners, which the fold, the blend and the gate read."""

from collections.abc import Mapping
from typing import Final

from learners.next_item.popularity import Popularity
from learners.next_item.revisits import Revisits
from learners.next_item.session_knn import SessionKnn
from learners.next_item.transitions import Transitions
from learners.protocol import DEEP, NextItem

KINDS: Final[Mapping[str, type[NextItem]]] = {
    kind.name: kind for kind in (Popularity, Transitions, SessionKnn, Revisits)
}
"""The fast learners by name. Their order decides between equal scores."""

TRUST: Final[Mapping[str, float]] = {**{name: kind.trust for name, kind in KINDS.items()}, DEEP: 1.0}
"""Weight of each member in the blend before the blend has learned."""
