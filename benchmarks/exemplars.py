"""Which sessions of the past a bounded memory keeps: rules to compare with the live one, `learners.rehearsal`.

Each rule is shown a period's sessions once, after the round that learned them, with the models before and after it, and
keeps at most `sessions_max` of all that it was shown. What a round rehearses is `drawn` from what is kept.

Letters of shapes: N sessions, D width.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from learners.deep import DeepModel, pad
from learners.rehearsal import Rehearsal

Session = tuple[str, ...]
Measure = Callable[[DeepModel | None, DeepModel, Sequence[Session]], NDArray[np.float64]]
"""From the models before and after a round, how much each of its sessions is wanted."""
_for_ever_ms: Final = 10**18
_batch_sessions: Final = 64


class Memory(ABC):
    """What is kept of the past, by some rule."""

    @abstractmethod
    def learn(
        self, sessions: Sequence[Session], times_ms: Sequence[int], before: DeepModel | None, after: DeepModel
    ) -> None:
        """Take in the sessions of a round, in order; `before` is None for the first round."""

    @abstractmethod
    def kept(self) -> list[Session]:
        """Return the sessions that are kept, in an order that follows from what was learned alone."""


class Nothing(Memory):
    """Keeps nothing."""

    def learn(
        self, sessions: Sequence[Session], times_ms: Sequence[int], before: DeepModel | None, after: DeepModel
    ) -> None:
        """Keep nothing."""

    def kept(self) -> list[Session]:
        """Return nothing."""
        return []


class Sampled(Memory):
    """The live class: a sample that favours the recent, or a uniform one if its half-life is endless."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self.rehearsal = rehearsal

    def learn(
        self, sessions: Sequence[Session], times_ms: Sequence[int], before: DeepModel | None, after: DeepModel
    ) -> None:
        """Show the rehearsal each session."""
        for session, time_ms in zip(sessions, times_ms, strict=True):
            self.rehearsal.learn(session, time_ms)

    def kept(self) -> list[Session]:
        """Return the sample."""
        return self.rehearsal.draw(len(self.rehearsal), 0)


class Wanted(Memory):
    """Those that a measure wants most; a session is measured once, after its round.

    A measure ranks the sessions of one round, and every round keeps the same share of its own: losses after eight
    passes over the first period and after three over a later one say nothing beside each other.
    """

    def __init__(self, measure: Measure, sessions_max: int) -> None:
        self.measure, self.sessions_max = measure, sessions_max
        self._held: list[tuple[float, Session]] = []

    def learn(
        self, sessions: Sequence[Session], times_ms: Sequence[int], before: DeepModel | None, after: DeepModel
    ) -> None:
        """Measure each session, and keep the most wanted; the earlier one where two are wanted alike."""
        order = np.argsort(-self.measure(before, after, sessions), kind="stable").tolist()
        self._held += [((rank + 0.5) / len(order), sessions[place]) for rank, place in enumerate(order)]
        self._held.sort(key=lambda held: held[0])
        del self._held[self.sessions_max :]

    def kept(self) -> list[Session]:
        """Return the most wanted."""
        return [session for _, session in self._held]


class Herded(Memory):
    """For each item, sessions that end with it, such that their mean is near the mean of all of them.

    What a session is to the network before its last item stands for it. Each item gets a share of the memory as large
    as its share of the last items; both are taken over the new sessions and those kept so far.

    Source: Rebuffi et al., "iCaRL: incremental classifier and representation learning" (CVPR 2017), algorithm 4, for
    herding; Mi, Lin and Faltings, "ADER" (RecSys 2020), algorithm 1, for items as classes and shares by frequency.
    """

    def __init__(self, seed: int, sessions_max: int) -> None:
        self.chance, self.sessions_max = np.random.default_rng(seed), sessions_max
        self._held: list[Session] = []

    def learn(
        self, sessions: Sequence[Session], times_ms: Sequence[int], before: DeepModel | None, after: DeepModel
    ) -> None:
        """Choose anew among what is kept and what is new."""
        candidates = [*self._held, *sessions]
        if len(candidates) > self.sessions_max:
            vectors = states(after, candidates)
            places: dict[str, list[int]] = {}
            for place, session in enumerate(candidates):
                places.setdefault(session[-1], []).append(place)
            shares = shared([len(of) for of in places.values()], self.sessions_max, self.chance)
            chosen = [of[i] for of, n in zip(places.values(), shares, strict=True) for i in herd(vectors[of], n)]
            candidates = [candidates[place] for place in sorted(chosen)]
        self._held = candidates

    def kept(self) -> list[Session]:
        """Return the chosen ones, oldest first."""
        return list(self._held)


def hard(before: DeepModel | None, after: DeepModel, sessions: Sequence[Session]) -> NDArray[np.float64]:
    """Want what is still predicted badly after the round."""
    return losses(after, sessions, math.log(len(after)))


def easy(before: DeepModel | None, after: DeepModel, sessions: Sequence[Session]) -> NDArray[np.float64]:
    """Want what is predicted best after the round."""
    return -hard(before, after, sessions)


def surprising(before: DeepModel | None, after: DeepModel, sessions: Sequence[Session]) -> NDArray[np.float64]:
    """Want what the round taught most: the loss before it less that after. Without a model all is chance."""
    chance = math.log(len(after))
    ahead = losses(before, sessions, chance) if before else np.full(len(sessions), chance)
    return ahead - losses(after, sessions, chance)


MEMORIES: Final[Mapping[str, Callable[[int, int], Memory]]] = {
    "none": lambda seed, sessions_max: Nothing(),
    "uniform": lambda seed, sessions_max: Sampled(Rehearsal(seed, sessions_max, _for_ever_ms)),
    "recency": lambda seed, sessions_max: Sampled(Rehearsal(seed, sessions_max)),
    "herding": Herded,
    "hard": lambda seed, sessions_max: Wanted(hard, sessions_max),
    "easy": lambda seed, sessions_max: Wanted(easy, sessions_max),
    "surprise": lambda seed, sessions_max: Wanted(surprising, sessions_max),
}
"""Each rule, from a seed and the most sessions that it may keep; `recency` is the live system's."""


def drawn(kept: Sequence[Session], predictions: int, seed: int) -> list[Session]:
    """Return sessions in random order until they hold so many predictions, all over again where there are too few.

    >>> len(drawn([("a", "b", "c"), ("a", "b", "d")], 6, seed=0))
    3
    """
    chance = np.random.default_rng(seed)
    chosen: list[Session] = []
    while kept and predictions > 0:
        for place in chance.permutation(len(kept)).tolist():
            chosen.append(kept[place])
            predictions -= len(kept[place]) - 1
            if predictions <= 0:
                break
    return chosen


def shared(counts: Sequence[int], total: int, chance: np.random.Generator) -> list[int]:
    """Return shares of `total` in proportion to counts, what rounding leaves going to the largest rests; ties by lot.

    >>> shared([6, 3, 2], 5, np.random.default_rng(0))
    [3, 1, 1]
    """
    exact = np.array(counts) * total / sum(counts)
    shares = np.floor(exact).astype(np.int64)
    order = np.lexsort((chance.random(len(counts)), -np.round(exact - shares, 9)))
    shares[order[: total - int(shares.sum())]] += 1
    found: list[int] = shares.tolist()
    return found


def herd(vectors: NDArray[np.float32], count: int) -> list[int]:
    """Return `count` rows, picked one by one so that their mean comes nearest to the mean of all.

    Shapes:
        vectors: (N, D)

    >>> herd(np.array([[0.0], [2.0], [3.0], [10.0]], np.float32), 2)
    [2, 1]
    """
    mean, summed = vectors.mean(axis=0), np.zeros(vectors.shape[1], np.float32)
    free = np.ones(len(vectors), bool)
    chosen = []
    for size in range(1, count + 1):
        distances = np.square(mean - (summed + vectors) / size).sum(axis=1)
        best = int(np.where(free, distances, np.inf).argmin())
        free[best] = False
        summed = summed + vectors[best]
        chosen.append(best)
    return chosen


@torch.inference_mode()
def losses(model: DeepModel, sessions: Sequence[Session], chance: float) -> NDArray[np.float64]:
    """Return each session's mean loss per prediction, in nats, over the whole vocabulary.

    A prediction of an unknown item, or from none that is known, costs `chance`. Of a long session only the end counts.

    Shapes:
        returns (N,)
    """
    units = functional.normalize(model.table, dim=1)
    counts = np.array([min(len(session) - 1, model.settings.context) for session in sessions], np.float64)
    summed = counts * chance
    for index, sequences, real, found in _network(model, units, sessions):
        logits = found[real] @ units.T / model.settings.temperature
        each = functional.cross_entropy(logits, sequences[:, 1:][real], reduction="none")
        owner = torch.arange(len(index))[:, None].expand_as(real)[real]
        own = torch.zeros(len(index), dtype=torch.float64).index_add_(0, owner, each.double())
        summed[index] += own.numpy() - chance * real.sum(dim=1).numpy()
    return summed / counts


@torch.inference_mode()
def states(model: DeepModel, sessions: Sequence[Session]) -> NDArray[np.float32]:
    """Return what each session is to the network before its last item; 0 where nothing is known.

    Shapes:
        returns (N, D)
    """
    units = functional.normalize(model.table, dim=1)
    vectors = np.zeros((len(sessions), model.settings.width), np.float32)
    for index, _, real, found in _network(model, units, sessions):
        vectors[index] = found[torch.arange(len(index)), real.sum(dim=1) - 1].numpy()
    return vectors


def _network(
    model: DeepModel, units: Tensor, sessions: Sequence[Session]
) -> Iterator[tuple[list[int], Tensor, Tensor, Tensor]]:
    """Yield places of sessions, their rows, where a prediction is, and the session's vector there; some at a time."""
    rows = [model.rows(session[-model.settings.context - 1 :]) for session in sessions]
    order = sorted((i for i, known in enumerate(rows) if len(known) > 1), key=lambda i: len(rows[i]))
    for start in range(0, len(order), _batch_sessions):
        index = order[start : start + _batch_sessions]
        sequences, lengths = pad([rows[i] for i in index])
        real = torch.arange(sequences.shape[1] - 1) < lengths[:, None] - 1
        yield index, sequences, real, model.network(units[sequences[:, :-1]])
