"""Who takes part in the continual benchmark, how each is made, and which code its answers follow from."""

from collections.abc import Callable, Mapping
from typing import Final

from benchmarks.baselines import Ewc, Finetune, Joint
from benchmarks.contestants import Contestant, Deep, Fast, Tuning
from learners.popularity import Popularity
from learners.revisits import Revisits
from learners.session_knn import SessionKnn
from learners.transitions import Transitions

DEEP: Final = "deep"
MAKERS: Final[Mapping[str, Callable[[Tuning], Contestant]]] = {
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
"""How each is made; members in the order of the blend's. Popularity counts plainly, as papers do."""
BASELINES: Final = ("markov", "vsknn", "finetune", "ewc", "joint")
"""Who is no member of the blend."""
NEURAL: Final = (DEEP, "finetune", "ewc", "joint")
"""Whose answers follow from a seed and a rate; those of the others from the data alone."""
_VARIANTS: Final = {"markov": "transitions", "vsknn": "session_knn"}


def modules(name: str) -> tuple[str, ...]:
    """Return the modules that a contestant's answers follow from, beside what they import and this table.

    >>> modules("markov")
    ('benchmarks.contestants', 'learners.transitions')
    """
    if name not in NEURAL:
        return "benchmarks.contestants", f"learners.{_VARIANTS.get(name, name)}"
    mine = "benchmarks.contestants" if name == DEEP else "benchmarks.baselines"
    return mine, "learners.deep", "learners.finetune"
