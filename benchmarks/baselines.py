"""Baselines: the usual ways to train the deep learner's network. None is a member of the blend.

`Finetune` and `Ewc` see only the newest period and answer by the newest round's weights. They run more passes, so that
their tokens equal those of the deep learner. `Joint` trains from scratch on all data so far.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.contestants import Neural, Progress, Round, Tuning, live, model_ranks, named_sessions
from benchmarks.periods import Periods, Question
from headrace.state import State

if TYPE_CHECKING:
    from torch import Tensor

    from learners.deep.model import DeepModel

equal_passes: Final = round((1 + live.rehearsal_share) * live.passes)
"""Passes over a period that train on as many predictions as a round of the deep learner with its rehearsal."""
fisher_batches: Final = 200
"""Most batches from which the Fisher information of a round is estimated."""
fisher_tokens: Final = 32
"""Approximate number of predictions in such a batch."""
heldout: Final = 0.1
"""Share of the sessions on which joint training is validated instead of trained."""
heldout_predictions_max: Final = 4_000


class Finetune(Neural):
    """Plain fine-tuning: each round continues from the last model, on the newest period alone."""

    rate: float | None = 1e-3
    """The best of 1e-3, 2e-3 and 4e-3 on a fifth of the sessions of DIGINETICA's periods 1 to 4."""

    def __init__(self, tuning: Tuning, *, passes: int = equal_passes, **options: Any) -> None:
        super().__init__(tuning, passes=passes, **options)

    def learn(self, periods: Periods, period: int, progress: Progress) -> Round:
        """Run one round."""
        passes = self.passes if period else self.first_passes
        return self._round(self.model, named_sessions(periods, period), period, passes, share=1.0, progress=progress)


class Ewc(Finetune):
    """Plain fine-tuning with online elastic weight consolidation: weights that mattered in the past are restrained.

    The loss of a round gets the penalty `strength` / 2 times the sum over weights of F (w - w')², where w' are the
    weights after the previous round and F is a running diagonal of the Fisher information: F = `decay` F + that of the
    newest round. The sum is over the network's weights and the item vectors that the batch reads, because only they can
    change in its step. Items that were admitted since have F = 0.

    Approximations: the Fisher information is the empirical one (of the true items, not of items drawn from the
    model), of a seeded sample of a period's sessions, cut to the network's context, without dropout, over the whole
    vocabulary. It is the mean over small batches of the squared gradient of a batch's mean loss, times the batch's
    number of predictions. That is the mean of squared gradients of single predictions if these do not correlate.

    Source: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks" (PNAS 2017), for the penalty;
    Schwarz et al., "Progress & compress" (ICML 2018), section 3.2, for one running diagonal and one anchor.

    Args:
        decay: share of the running diagonal that a round keeps.
    """

    rate: float | None = 2e-3
    """The best of the same three rates."""
    strength: float = 30.0
    """Weight of the penalty: 30 was the best of 0, 1, 30 and 1000 on the first 12,000 clicks of each of DIGINETICA's
    periods 2 to 4. At 1 a prediction of the past has about the weight of one in the batch."""

    def __init__(self, tuning: Tuning, *, decay: float = 0.9, **options: Any) -> None:
        super().__init__(tuning, **options)
        self.decay = decay
        self.fisher: dict[str, Tensor] = {}

    def learn(self, periods: Periods, period: int, progress: Progress) -> Round:
        """Run one round, then estimate the Fisher information of what it learned."""
        sessions = named_sessions(periods, period)
        passes = self.passes if period else self.first_passes
        penalty = self._penalty(self.model) if self.model else None
        cost = self._round(self.model, sessions, period, passes, share=1.0, penalty=penalty, progress=progress)
        assert self.model is not None, "a round leaves a model"
        for name, found in fisher(self.model, sessions, self.tuning.seed + period).items():
            before = self.fisher.get(name)
            if before is not None:
                found[: len(before)] += self.decay * before
            self.fisher[name] = found
        return cost

    def _penalty(self, anchor: "DeepModel") -> "Callable[[DeepModel, Tensor, Tensor], Tensor]":
        weights = {name: weight.detach().clone() for name, weight in anchor.network.named_parameters()}
        vectors, held = anchor.table, self.fisher
        half = (self.strength if self.tuning.strength is None else self.tuning.strength) / 2

        def penalty(model: "DeepModel", rows: "Tensor", table: "Tensor") -> "Tensor":
            known = rows < len(vectors)
            old = rows[known]
            total = (held[_ITEMS][old] * (table[known] - vectors[old]).square()).sum()
            for name, weight in model.network.named_parameters():
                total = total + (held[name] * (weight - weights[name]).square()).sum()
            return half * total

        return penalty

    def state(self) -> State:
        """Return the model's bytes and the running diagonal."""
        return {**super().state(), "fisher": {name: found.numpy() for name, found in self.fisher.items()}}

    def restore(self, state: State) -> None:
        """Restore the model and the diagonal."""
        import torch

        super().restore(state)
        self.fisher = {name: torch.from_numpy(found) for name, found in state["fisher"].items()}


_ITEMS: Final = "items"
"""Name of the item vectors among the names of the network's weights."""


def fisher(model: "DeepModel", sessions: Sequence[Sequence[str]], seed: int) -> "dict[str, Tensor]":
    """Return the diagonal of the Fisher information per prediction, by weight; `Ewc` states the approximations."""
    import torch
    from torch.nn import functional

    from learners.deep.model import pad
    from learners.deep.softmax import softmax_loss

    table = model.table.detach().clone().requires_grad_()
    weights = {**dict(model.network.named_parameters()), _ITEMS: table}
    found = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    uncorrected, batches = torch.zeros(len(table)), 0
    for batch in _small_batches(model, sessions, seed):
        sequences, lengths = pad(batch)
        units = functional.normalize(table, dim=1)
        inputs, targets = sequences[:, :-1], sequences[:, 1:]
        real = torch.arange(inputs.shape[1]) < lengths[:, None] - 1
        states = model.network(functional.embedding(inputs, units))
        loss = softmax_loss(states[real], units, uncorrected, targets[real], model.settings.temperature)
        for square, gradient in zip(found.values(), torch.autograd.grad(loss, list(weights.values())), strict=True):
            square.addcmul_(gradient, gradient, value=int(real.sum()))
        batches += 1
    return {name: square / max(1, batches) for name, square in found.items()}


def _small_batches(model: "DeepModel", sessions: Sequence[Sequence[str]], seed: int) -> Iterator[list[list[int]]]:
    """Yield batches of sessions in random order, as rows of the model, with about `fisher_tokens` predictions each."""
    batch: list[list[int]] = []
    count, made = 0, 0
    for place in np.random.default_rng(seed).permutation(len(sessions)).tolist():
        rows = model.rows(sessions[place])[-model.settings.context - 1 :]
        batch.append(rows)
        count += len(rows) - 1
        if count >= fisher_tokens:
            yield batch
            batch, count, made = [], 0, made + 1
            if made == fisher_batches:
                return
    if batch:
        yield batch


class Joint(Neural):
    """Joint retraining: a new model on all periods so far, with early stopping on held-out sessions.

    After each pass the MRR@20 on the held-out sessions is measured. Training ends when `patience` passes did not beat
    the best one, or after `passes`. The model after the best pass is used. All passes count as tokens.
    """

    from_scratch = True
    rate = 4e-3
    """The best of 1e-3, 2e-3, 4e-3 and 8e-3 on a fifth of the sessions of DIGINETICA's period 1."""

    def __init__(self, tuning: Tuning, *, passes: int = 10, patience: int = 2, **options: Any) -> None:
        super().__init__(tuning, passes=passes, **options)
        self.patience = patience

    def learn(self, periods: Periods, period: int, progress: Progress) -> Round:
        """Train on periods 0 to `period`."""
        sessions = [items for one in range(period + 1) for items in periods.sessions(one) if len(items) > 1]
        order = np.random.default_rng([self.tuning.seed, period]).permutation(len(sessions)).tolist()
        size = max(1, int(heldout * len(sessions)))
        judged = [
            Question(sessions[place][:end], sessions[place][end])
            for place in order[:size]
            for end in range(1, len(sessions[place]))
        ][:heldout_predictions_max]
        trained = [[periods.items[item] for item in sessions[place]] for place in sorted(order[size:])]
        best = _Best(lambda model: _mrr(model_ranks(model, judged, periods, period + 1)), self.patience)
        cost = self._round(None, trained, period, self.passes, stop_after_pass=best, progress=progress)
        self.model = best.model()
        return Round(cost.tokens, best.passes, best.taken)


class _Best:
    """Early stopping: called after each pass, it keeps the best model and ends a round without further improvement."""

    def __init__(self, score: "Callable[[DeepModel], float]", patience: int) -> None:
        self.score, self.patience = score, patience
        self.passes, self.taken, self.best, self.data = 0, 0, -1.0, b""

    def __call__(self, model: "DeepModel") -> bool:
        score = self.score(model)
        self.passes += 1
        if score > self.best:
            self.best, self.taken, self.data = score, self.passes, model.to_bytes()
        return self.passes - self.taken >= self.patience

    def model(self) -> "DeepModel":
        from learners.deep.model import DeepModel

        return DeepModel.from_bytes(self.data)


def _mrr(ranks: "np.ndarray[Any, Any]") -> float:
    """Return the mean reciprocal rank, where ranks above 20 count as 0.

    >>> _mrr(np.array([1, 2, 21]))
    0.5
    """
    return float(np.where(ranks <= 20, 1 / ranks, 0.0).mean())
