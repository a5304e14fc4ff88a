"""The table of contestants of the continual benchmark: how each is made, and which modules its answers depend on."""

from collections.abc import Callable, Mapping
from typing import Final

from benchmarks.baselines import Ewc, Finetune, Joint
from benchmarks.contestants import Contestant, Deep, Fast, Tuning
from learners.next_item.popularity import Popularity
from learners.next_item.revisits import Revisits
from learners.next_item.session_knn import SessionKnn
from learners.next_item.transitions import Transitions

DEEP: Final = "deep"
FACTORIES: Final[Mapping[str, Callable[[Tuning], Contestant]]] = {
    "popularity": lambda tuning: Fast(lambda: Popularity(half_life_ms=None)),
    "transitions": lambda tuning: Fast(Transitions),
    "session_knn": lambda tuning: Fast(SessionKnn),
    "revisits": lambda tuning: Fast(Revisits),
    DEEP: Deep,
    "markov": lambda tuning: Fast(lambda: Transitions(reach=1, backwards=0.0)),
    "vsknn": lambda tuning: Fast(lambda: SessionKnn(places=False)),
    "finetune": Finetune,
    "ewc": Ewc,
    "joint": Joint,
}
"""How each contestant is made; the blend's members in its order. Popularity counts without decay, as in papers."""
BASELINES: Final = ("markov", "vsknn", "finetune", "ewc", "joint")
"""Contestants that are no members of the blend."""
NEURAL: Final = (DEEP, "finetune", "ewc", "joint")
"""Contestants whose answers depend on a seed and a rate; those of the others depend on the data alone."""
_VARIANTS: Final = {"markov": "transitions", "vsknn": "session_knn"}


def modules(name: str) -> tuple[str, ...]:
    """Return the modules that a contestant's answers depend on, apart from what they import and this table.

    >>> modules("markov")
    ('benchmarks.contestants', 'learners.next_item.transitions')
    """
    if name not in NEURAL:
        return "benchmarks.contestants", f"learners.next_item.{_VARIANTS.get(name, name)}"
    mine = "benchmarks.contestants" if name == DEEP else "benchmarks.baselines"
    return mine, "learners.deep.model", "learners.deep.train"
