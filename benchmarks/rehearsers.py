"""Rounds of training with three kinds of rehearsal from a memory; see `benchmarks.rehearsal_rules`."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.baselines import Ewc, Finetune
from benchmarks.contestants import Round, Tuning, live, week_ms
from benchmarks.exemplars import Memory, Session, draw_sessions
from learners.deep.model import DeepModel, pad
from learners.deep.train import batch_tokens

base_weight: Final = 0.8
"""Weight of distillation, before it is adapted to a round.

Source: Mi, Lin and Faltings, "ADER" (RecSys 2020), section 4.1."""


class Rehearser(Finetune):
    """Rounds of training that rehearse sessions of a memory, at the live system's learning rate.

    Args:
        first: a model trained on period 0; learning that period uses it instead of training.
        sessions_max: most sessions that the memory may keep.
    """

    rate: float | None = None

    def __init__(self, tuning: Tuning, first: DeepModel, memory: Memory, sessions_max: int, **options: Any) -> None:
        super().__init__(tuning, **{"passes": live.passes, **options})
        self.first, self.memory, self.sessions_max = first, memory, sessions_max
        self.seen, self.seen_predictions = 0, 0

    def _round(
        self, parent: DeepModel | None, sessions: Sequence[Sequence[str]], period: int, passes: int, **options: Any
    ) -> Round:
        """Train with rehearsal, then let the memory learn the sessions."""
        if parent is None:
            self.model, cost = self.first, Round()
        else:
            size = min(passes * len(sessions), self.sessions_max, self.seen)
            wanted = round(size * self.seen_predictions / self.seen)
            shown = draw_sessions(
                self.memory.kept() or [tuple(of) for of in sessions], wanted, self.tuning.seed + period
            )
            cost = self._train(parent, sessions, shown, period, passes, **options)
        assert self.model is not None, "a round leaves a model"
        times_ms = [period * week_ms + place * week_ms // len(sessions) for place in range(len(sessions))]
        self.memory.learn([tuple(of) for of in sessions], times_ms, parent, self.model)
        self.seen += len(sessions)
        self.seen_predictions += predictions(sessions)
        return cost

    def _train(
        self,
        parent: DeepModel,
        sessions: Sequence[Sequence[str]],
        shown: Sequence[Session],
        period: int,
        passes: int,
        **options: Any,
    ) -> Round:
        return super()._round(parent, sessions, period, passes, rehearsal=shown, **options)


class Consolidator(Rehearser, Ewc):
    """Rehearsal with elastic weight consolidation."""


class Distiller(Rehearser):
    """Rehearsal by distillation: the targets are the predictions of the model before the round."""

    def _train(
        self,
        parent: DeepModel,
        sessions: Sequence[Sequence[str]],
        shown: Sequence[Session],
        period: int,
        passes: int,
        **options: Any,
    ) -> Round:
        new = predictions(sessions)
        items = len(set(parent.items).union(*sessions))
        kept = predictions(self.memory.kept())
        weight = base_weight * math.sqrt(len(parent) / items * kept / new)
        distillation = Distillation(parent, shown, weight, steps=max(1, passes * new // batch_tokens))
        cost = Finetune._round(self, parent, sessions, period, passes, penalty=distillation, **options)
        return cost._replace(tokens=cost.tokens + distillation.tokens)


class Distillation:
    """A penalty for the distance of the model from a teacher: at each step on some sessions, on all within `steps`.

    It is the cross-entropy of the teacher's probabilities and the model's, over all items that the teacher knows, times
    `weight`. Its gradients reach the network and only the item vectors of the batch's sampled candidates: the others
    do not change in this step.

    Source: Mi, Lin and Faltings, "ADER" (RecSys 2020), equations 3 and 4; Hinton et al., "Distilling the knowledge in a
    neural network" (2015), here without a temperature of its own.
    """

    def __init__(self, teacher: DeepModel, sessions: Sequence[Session], weight: float, steps: int) -> None:
        self.teacher, self.weight, self.tokens = teacher, weight, 0
        with torch.no_grad():
            self._units = functional.normalize(teacher.table, dim=1)
        self._parts = self._dealt(sessions, steps)

    def _dealt(self, sessions: Sequence[Session], steps: int) -> Iterator[list[list[int]]]:
        context, total = self.teacher.settings.context, predictions(sessions)
        part: list[list[int]] = []
        dealt, turn = 0, 1
        for session in sessions:
            part.append(self.teacher.rows(session[-context - 1 :]))
            dealt += len(session) - 1
            if dealt * steps >= total * turn:
                yield part
                part, turn = [], dealt * steps // total + 1

    def __call__(self, model: DeepModel, rows: Tensor, table: Tensor) -> Tensor:
        """Return the penalty of the next part; 0 once all sessions were used."""
        part = next(self._parts, None)
        if part is None:
            return table.new_zeros(())
        sequences, lengths = pad(part)
        real = torch.arange(sequences.shape[1] - 1) < lengths[:, None] - 1
        temperature = self.teacher.settings.temperature
        with torch.no_grad():
            found = self.teacher.network(self._units[sequences[:, :-1]])[real]
            wanted = torch.softmax(found @ self._units.T / temperature, dim=1)
        known = rows < len(self.teacher)
        vectors = model.table[: len(self.teacher)].index_copy(0, rows[known], table[known])
        units = functional.normalize(vectors, dim=1)
        logits = model.network(functional.embedding(sequences[:, :-1], units))[real] @ units.T / temperature
        self.tokens += len(logits)
        return self.weight * functional.cross_entropy(logits, wanted)


def predictions(sessions: Sequence[Sequence[str]]) -> int:
    """Return the number of predictions in sessions.

    >>> predictions([["a", "b", "c"], ["a", "b"]])
    3
    """
    return sum(len(session) - 1 for session in sessions)
