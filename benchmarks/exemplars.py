"""Rules for the sessions that a bounded memory keeps, to compare with the live one, `learners.rounds.rehearsal`.

Each rule gets a period's sessions once, after the round that learned them, with the models before and after that round.
It keeps at most `sessions_max` of all sessions so far. `draw_sessions` selects what a round rehearses.

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

from learners.deep.model import DeepModel, pad
from learners.rounds.rehearsal import Rehearsal

Session = tuple[str, ...]
Measure = Callable[[DeepModel | None, DeepModel, Sequence[Session]], NDArray[np.float64]]
"""From the models before and after a round to a score of each of its sessions: high scores are kept."""
_endless_ms: Final = 10**18
_batch_sessions: Final = 64


class Memory(ABC):
    """A bounded memory of past sessions with a rule for what it keeps."""

    @abstractmethod
    def learn(
        self, sessions: Sequence[Session], times_ms: Sequence[int], before: DeepModel | None, after: DeepModel
    ) -> None:
        """Add the sessions of a round, in order; `before` is None for the first round."""

    @abstractmethod
    def kept(self) -> list[Session]:
        """Return the kept sessions, in an order that depends only on what was learned."""


class Nothing(Memory):
    """A memory that keeps nothing."""

    def learn(
        self, sessions: Sequence[Session], times_ms: Sequence[int], before: DeepModel | None, after: DeepModel
    ) -> None:
        """Keep nothing."""

    def kept(self) -> list[Session]:
        """Return nothing."""
        return []


class Sampled(Memory):
    """The live rehearsal: a sample that favours the recent, or a uniform one if its half-life is infinite."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self.rehearsal = rehearsal

    def learn(
        self, sessions: Sequence[Session], times_ms: Sequence[int], before: DeepModel | None, after: DeepModel
    ) -> None:
        """Add each session to the rehearsal."""
        for session, time_ms in zip(sessions, times_ms, strict=True):
            self.rehearsal.learn(session, time_ms)

    def kept(self) -> list[Session]:
        """Return the sample."""
        return self.rehearsal.draw(len(self.rehearsal), 0)


class HighestScored(Memory):
    """Keeps the sessions with the highest scores of a measure; a session is measured once, after its round.

    A measure ranks the sessions within one round, and every round keeps the same share of its own sessions, because
    losses after eight passes over the first period and after three over a later one are not comparable.
    """

    def __init__(self, measure: Measure, sessions_max: int) -> None:
        self.measure, self.sessions_max = measure, sessions_max
        self._held: list[tuple[float, Session]] = []

    def learn(
        self, sessions: Sequence[Session], times_ms: Sequence[int], before: DeepModel | None, after: DeepModel
    ) -> None:
        """Measure each session and keep the highest ranks; the earlier session wins a tie."""
        order = np.argsort(-self.measure(before, after, sessions), kind="stable").tolist()
        self._held += [((rank + 0.5) / len(order), sessions[place]) for rank, place in enumerate(order)]
        self._held.sort(key=lambda held: held[0])
        del self._held[self.sessions_max :]

    def kept(self) -> list[Session]:
        """Return the sessions with the highest ranks."""
        return [session for _, session in self._held]


class Herding(Memory):
    """Keeps for each item sessions that end with it, such that their mean is near the mean of all such sessions.

    A session is represented by the network's vector before its last item. The share of the memory that an item gets
    equals its share of the last items; both are computed over the new sessions and those kept so far.

    Source: Rebuffi et al., "iCaRL: incremental classifier and representation learning" (CVPR 2017), algorithm 4, for
    herding; Mi, Lin and Faltings, "ADER" (RecSys 2020), algorithm 1, for items as classes and shares by frequency.
    """

    def __init__(self, seed: int, sessions_max: int) -> None:
        self.chance, self.sessions_max = np.random.default_rng(seed), sessions_max
        self._held: list[Session] = []

    def learn(
        self, sessions: Sequence[Session], times_ms: Sequence[int], before: DeepModel | None, after: DeepModel
    ) -> None:
        """Choose again from the kept sessions and the new ones."""
        candidates = [*self._held, *sessions]
        if len(candidates) > self.sessions_max:
            vectors = session_vectors(after, candidates)
            places: dict[str, list[int]] = {}
            for place, session in enumerate(candidates):
                places.setdefault(session[-1], []).append(place)
            shares = proportional_shares([len(of) for of in places.values()], self.sessions_max, self.chance)
            chosen = [of[i] for of, n in zip(places.values(), shares, strict=True) for i in herd(vectors[of], n)]
            candidates = [candidates[place] for place in sorted(chosen)]
        self._held = candidates

    def kept(self) -> list[Session]:
        """Return the chosen sessions, oldest first."""
        return list(self._held)


def hard(before: DeepModel | None, after: DeepModel, sessions: Sequence[Session]) -> NDArray[np.float64]:
    """Prefer sessions with a high loss after the round."""
    return losses(after, sessions, math.log(len(after)))


def easy(before: DeepModel | None, after: DeepModel, sessions: Sequence[Session]) -> NDArray[np.float64]:
    """Prefer sessions with a low loss after the round."""
    return -hard(before, after, sessions)


def surprising(before: DeepModel | None, after: DeepModel, sessions: Sequence[Session]) -> NDArray[np.float64]:
    """Prefer sessions whose loss fell most in the round. Without a model the loss before is that of chance."""
    chance = math.log(len(after))
    ahead = losses(before, sessions, chance) if before else np.full(len(sessions), chance)
    return ahead - losses(after, sessions, chance)


MEMORIES: Final[Mapping[str, Callable[[int, int], Memory]]] = {
    "none": lambda seed, sessions_max: Nothing(),
    "uniform": lambda seed, sessions_max: Sampled(Rehearsal(seed, sessions_max, _endless_ms)),
    "recency": lambda seed, sessions_max: Sampled(Rehearsal(seed, sessions_max)),
    "herding": Herding,
    "hard": lambda seed, sessions_max: HighestScored(hard, sessions_max),
    "easy": lambda seed, sessions_max: HighestScored(easy, sessions_max),
    "surprise": lambda seed, sessions_max: HighestScored(surprising, sessions_max),
}
"""Makes each rule from a seed and the maximum of sessions; `recency` is the live system's."""


def draw_sessions(kept: Sequence[Session], predictions: int, seed: int) -> list[Session]:
    """Return sessions in random order until they hold `predictions` predictions; repeat all if there are too few.

    >>> len(draw_sessions([("a", "b", "c"), ("a", "b", "d")], 6, seed=0))
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


def proportional_shares(counts: Sequence[int], total: int, chance: np.random.Generator) -> list[int]:
    """Return integer shares of `total` in proportion to counts, by largest remainder; ties are broken at random.

    >>> proportional_shares([6, 3, 2], 5, np.random.default_rng(0))
    [3, 1, 1]
    """
    exact = np.array(counts) * total / sum(counts)
    shares = np.floor(exact).astype(np.int64)
    order = np.lexsort((chance.random(len(counts)), -np.round(exact - shares, 9)))
    shares[order[: total - int(shares.sum())]] += 1
    found: list[int] = shares.tolist()
    return found


def herd(vectors: NDArray[np.float32], count: int) -> list[int]:
    """Return `count` rows, chosen one by one so that their mean is nearest to the mean of all rows.

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

    A prediction of an unknown item, or from no known item, costs `chance`. Only the end of a long session counts.

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
def session_vectors(model: DeepModel, sessions: Sequence[Session]) -> NDArray[np.float32]:
    """Return the network's vector of each session before its last item; 0 for sessions without known items.

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
    """Yield in batches: places of sessions, their rows, a mask of the predictions, and the vectors at each step."""
    rows = [model.rows(session[-model.settings.context - 1 :]) for session in sessions]
    order = sorted((i for i, known in enumerate(rows) if len(known) > 1), key=lambda i: len(rows[i]))
    for start in range(0, len(order), _batch_sessions):
        index = order[start : start + _batch_sessions]
        sequences, lengths = pad([rows[i] for i in index])
        real = torch.arange(sequences.shape[1] - 1) < lengths[:, None] - 1
        yield index, sequences, real, model.network(units[sequences[:, :-1]])
