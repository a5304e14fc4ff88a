"""One round of training of the deep model: warm start, a bounded number of passes, a new model.

The softmax is sampled: the candidates of a batch are the items of its sequences and a number of other items, drawn as
negatives. Only these rows of the item table are read, normalised, scored and updated, so the cost of a step does not
depend on the vocabulary's size. Up to `full_softmax_max` items, all items are candidates. Scores are corrected by the
logarithm of each row's probability of being a candidate, which makes the loss an estimate of the loss over the whole
vocabulary.

Each round fits the newest data too closely. So the predicting weights are an exponential mean over rounds: a mean of
the trained weights and of the previous predicting weights. The next round continues from the trained weights
(docs/decisions/0013-a-mean-over-rounds.md).

Source: sampled softmax with logQ correction: Bengio and Senecal, "Adaptive importance sampling to accelerate training
of a neural probabilistic language model" (IEEE TNN 2008); Yi et al., "Sampling-bias-corrected neural modeling" (RecSys
2019). We correct by the probability of inclusion, and never correct the true item, which is always a candidate.
Averaging of weights during training: Polyak & Juditsky (SIAM J. Control and Optimization, 1992); of a model before and
after fine-tuning: Wortsman et al., "Robust fine-tuning of zero-shot models" (CVPR 2022).

Letters of shapes: B pieces and T predictions of a batch, C its candidate rows, D width, L + 1 rows of its longest
piece.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import record_function

from learners.deep import newest_share
from learners.deep.model import DeepModel, DeepSettings, autocast, pad
from learners.deep.neighbours import AttributeNeighbours
from learners.deep.softmax import softmax_loss
from learners.next_item.attributes import AttributeLookup

full_softmax_max: Final = 3_000
"""Largest vocabulary over which the softmax is complete; above it, a batch draws `negatives` rows."""
negatives: Final = 2_000
"""Rows drawn per batch in addition to those of its sequences."""
batch_tokens: Final = 512
"""Approximate number of predictions per step."""
reversed_share: Final = 0.25
"""Share of the sequences that are trained in reverse order, so that first items become targets too."""
table_factor: Final = 20.0
"""Factor on the learning rate of the item vectors: there are many, and each is updated rarely."""
size_floor: Final = 0.1
"""Share of the mean squared gradient of all rows that is added to a row's own second moment."""
session_neighbour_steps_max: Final = 3
session_neighbour_weight: Final = 0.7
"""A new item's vector is initialised from known items up to this many steps away; each step multiplies their weight."""
attribute_neighbour_weight: Final = 1.0
"""Weight of a new item's neighbours by attributes; `session_neighbour_weight` is that of the next known item."""
placed_share: Final = 0.8
"""Weight of the neighbours in a new item's initial direction; the rest is random."""
LOADING: Final = "headrace.loading"
"""Label of the preparation in a profile: the parent's bytes, cutting, padding, drawing, moving to the device."""
_tiny: Final = 1e-12
_UNREAD_MAX: Final = {"cpu": 1, "cuda": 32}
"""Steps between two reads of the loss: reading waits for the device and leaves it idle."""
_SHUFFLED_PER_SORT: Final = 64
"""Batches whose sequences are sorted by length together: little is padding, and the order stays mostly random."""


Penalty = Callable[[DeepModel, Tensor, Tensor], Tensor]
"""Returns a term that is added to a batch's loss, given the model, the batch's candidate rows (C,) and their vectors
(C, D). Its gradients reach the network and the vectors."""


class TrainResult(NamedTuple):
    """A round's result: the model, the predictions trained on in all passes, the mean loss (nats) of the last pass.

    `stopped` states that `stop` ended it before all of these were done.
    """

    model: DeepModel
    tokens: int
    loss: float
    stopped: bool = False


class NotFinite(Exception):
    """The loss became NaN or infinite: the round is aborted, its parent is unchanged."""


def never() -> bool:
    """Return False, for a round without a deadline."""
    return False


def ignore(share: float) -> None:
    """Ignore a round's progress."""


def all_passes(model: DeepModel) -> bool:
    """Return False, for a round that runs all its passes."""
    return False


def all_items(item: str) -> bool:
    """Return True, for a vocabulary that keeps every item."""
    return True


def train(
    parent: DeepModel | None,
    sequences: Sequence[Sequence[str]],
    *,
    rehearsal: Sequence[Sequence[str]] = (),
    settings: DeepSettings | None = None,
    seed: int = 0,
    device: str = "cpu",
    passes: int = 3,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.01,
    share: float = newest_share,
    keep: Callable[[str], bool] = all_items,
    stop: Callable[[], bool] = never,
    progress: Callable[[float], None] = ignore,
    penalty: Penalty | None = None,
    stop_after_pass: Callable[[DeepModel], bool] = all_passes,
    attributes_of: AttributeLookup | None = None,
    lineage: dict[str, Any] | None = None,
) -> TrainResult:
    """Train a copy of `parent` (or a new model) to predict the next item at every position of the sequences.

    Called by the fine-tuner in its own process and by benchmarks. On a CPU, with the same torch, processor family and
    number of threads, equal arguments give a model with equal bytes; on a GPU this is not guaranteed.

    Args:
        parent: the model to start from; it is not changed. Its settings override `settings`.
        sequences: items in order, oldest first. Sequences shorter than 2 are ignored; those longer than
            `settings.context` + 1 are cut into pieces. All their items are added to the vocabulary.
        rehearsal: past sequences, distributed evenly over the passes and mixed with the new ones, so that each is
            trained on once; repeating them in every pass overfits (docs/decisions/0006-what-a-round-trains-on.md).
        seed: determines the initial weights of a new model, the order, dropout and the negatives.
        share: weight of the trained weights in the predicting weights, if there is a parent; the rest is the parent's.
        keep: called with each item; items for which it is false are dropped from the vocabulary and the sequences.
        stop: called before each batch; if it returns True, the round ends with the model trained so far.
        progress: called after each batch with the completed share, in [0, 1].
        penalty: returns a term that is added to a batch's loss.
        stop_after_pass: called after each pass with the model, which can predict; if it returns True, the round ends.
        attributes_of: looks up attributes; if given, a new item's vector is also initialised from its neighbours by
            attributes (`learners.deep.neighbours`).

    Raises:
        NotFinite: the loss was NaN or infinite.
    """
    with record_function(LOADING):
        if parent is None:
            model = DeepModel(settings or DeepSettings(), seed)
        else:
            model = DeepModel.from_bytes(parent.to_bytes())
        model.lineage = lineage or {}
        model.shrink(keep)
        known, before = len(model), {name: weight.clone() for name, weight in model.weights().items()}
        model.grow(filter(keep, chain.from_iterable(chain(sequences, rehearsal))))
        _place(model, known, [model.rows(sequence) for sequence in chain(sequences, rehearsal)], attributes_of)
        parts = [[*sequences, *rehearsal[turn::passes]] for turn in range(passes)]
        turns = [[piece for sequence in part for piece in _pieces(model, sequence)] for part in parts]
        if not any(turns):
            return TrainResult(model, 0, math.nan)
        model.use_training_weights()
        model.to(device)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        result = _passes(model, turns, seed, learning_rate, weight_decay, stop, progress, penalty, stop_after_pass)
    model.network.eval()
    model.to("cpu")
    if parent is not None and share < 1:
        model.average_with(before, share)
    return TrainResult(model, *result)


def _pieces(model: DeepModel, sequence: Sequence[str]) -> Iterator[list[int]]:
    """Cut a sequence into pieces of at most context + 1 rows; adjacent ones share a row, so each step is used once."""
    rows, context = model.rows(sequence), model.settings.context
    for start in range(0, len(rows) - 1, context):
        yield rows[start : start + context + 1]


@torch.no_grad()
def _place(model: DeepModel, known: int, sequences: Sequence[list[int]], attributes_of: AttributeLookup | None) -> None:
    """Initialise each new item (a row from `known` on) near its neighbours in the sequences and by attributes.

    Sessions lie in the items' space, so the neighbours' mean is a good initial vector of an untrained item. Part of the
    random vector remains, so that items with the same neighbours can diverge.
    """
    if not 0 < known < len(model):
        return
    rows = torch.tensor([row for sequence in sequences for row in sequence])
    owner = torch.repeat_interleave(torch.tensor([len(sequence) for sequence in sequences]))
    units = functional.normalize(model.table[:known], dim=1)
    sums = torch.zeros(len(model) - known, model.settings.width)
    for steps in range(1, session_neighbour_steps_max + 1):
        same = owner[steps:] == owner[:-steps]
        for item, beside in ((rows[steps:], rows[:-steps]), (rows[:-steps], rows[steps:])):
            pair = same & (item >= known) & (beside < known)
            sums.index_add_(0, item[pair] - known, session_neighbour_weight**steps * units[beside[pair]])
    if attributes_of is not None:
        neighbours = AttributeNeighbours(units.numpy(), attributes_of(model.items[:known]))
        placed, _ = neighbours.vectors(attributes_of(model.items[known:]))
        sums += attribute_neighbour_weight * torch.from_numpy(placed)
    drawn = model.table[known:]
    mixed = functional.normalize(
        placed_share * functional.normalize(sums, dim=1) + (1 - placed_share) * functional.normalize(drawn, dim=1),
        dim=1,
    )
    model.table[known:] = torch.where(sums.any(dim=1, keepdim=True), mixed * drawn.norm(dim=1, keepdim=True), drawn)


def _passes(
    model: DeepModel,
    turns: list[list[list[int]]],
    seed: int,
    learning_rate: float,
    weight_decay: float,
    stop: Callable[[], bool],
    progress: Callable[[float], None],
    penalty: Penalty | None,
    stop_after_pass: Callable[[DeepModel], bool],
) -> tuple[int, float, bool]:
    """Run a pass over each list of pieces.

    Returns the number of predictions, the mean loss of the last pass, and whether `stop` ended it.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = _RowAdam(model.table)
    optimizer = torch.optim.AdamW(model.network.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)
    total = sum(len(piece) - 1 for pieces in turns for piece in pieces)
    tokens, loss = 0, math.nan
    for pieces in filter(None, turns):
        with record_function(LOADING):
            sampler = _CandidateSampler(model, pieces, generator)
            batches = _batches(pieces, generator)
        model.network.train()
        losses = _Losses(_UNREAD_MAX[model.device.type], loss)
        for batch in batches:
            if stop():
                return tokens, losses.mean(), True
            rate = learning_rate * _schedule(tokens / total)
            optimizer.param_groups[0]["lr"], rows.rate = rate, table_factor * rate
            count = sum(len(piece) - 1 for piece in batch)
            losses.add(_step(model, sampler, _some_reversed(batch, generator), rows, optimizer, penalty), count)
            tokens += count
            progress(tokens / total)
        loss = losses.mean()
        model.network.eval()
        model.invalidate()
        if stop_after_pass(model):
            break
    return tokens, loss, False


class _Losses:
    """The mean loss of a pass's predictions. Losses are read from the device in groups of `unread_max` steps.

    Raises:
        NotFinite: a loss that was read is NaN or infinite.
    """

    def __init__(self, unread_max: int, before: float) -> None:
        self._unread_max, self._before = unread_max, before
        self._unread: list[tuple[Tensor, int]] = []
        self._sum, self._count = 0.0, 0

    def add(self, loss: Tensor, count: int) -> None:
        """Add the mean loss of a step's `count` predictions."""
        self._unread.append((loss, count))
        if len(self._unread) >= self._unread_max:
            self._read()

    def mean(self) -> float:
        """Return the mean so far, or `before` if there was no step."""
        self._read()
        return self._sum / self._count if self._count else self._before

    def _read(self) -> None:
        values = torch.stack([loss for loss, _ in self._unread]).tolist() if self._unread else []
        for value, (_, count) in zip(values, self._unread, strict=True):
            if not math.isfinite(value):
                raise NotFinite(f"the loss became {value}")
            self._sum, self._count = self._sum + value * count, self._count + count
        self._unread.clear()


def _schedule(share: float) -> float:
    """Return the learning rate's factor: it rises over the first twentieth, then falls linearly to a tenth."""
    return min(1.0, (share + 0.002) / 0.05) * (1 - 0.9 * share)


def _batches(pieces: list[list[int]], generator: torch.Generator) -> list[list[list[int]]]:
    """Return all pieces in batches of about `batch_tokens` predictions and similar lengths, in random order."""
    order = torch.randperm(len(pieces), generator=generator).tolist()
    size = sum(len(piece) - 1 for piece in pieces) / len(pieces)
    together = max(1, int(_SHUFFLED_PER_SORT * batch_tokens / size))
    batches: list[list[list[int]]] = []
    for start in range(0, len(order), together):
        batch: list[list[int]] = []
        count = 0
        for i in sorted(order[start : start + together], key=lambda i: len(pieces[i])):
            batch.append(pieces[i])
            count += len(pieces[i]) - 1
            if count >= batch_tokens:
                batches.append(batch)
                batch, count = [], 0
        if batch:
            batches.append(batch)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def _some_reversed(batch: list[list[int]], generator: torch.Generator) -> list[list[int]]:
    """Return the batch with a random `reversed_share` of its pieces reversed."""
    chosen = torch.rand(len(batch), generator=generator) < reversed_share
    return [piece[::-1] if back else piece for piece, back in zip(batch, chosen.tolist(), strict=True)]


class _CandidateSampler:
    """Draws the candidate rows of each batch, and keeps each row's probability of being a candidate."""

    def __init__(self, model: DeepModel, pieces: list[list[int]], generator: torch.Generator) -> None:
        self.size, self.generator, self.device = len(model), generator, model.device
        self.full = self.size <= full_softmax_max
        batches = sum(len(piece) - 1 for piece in pieces) / batch_tokens
        holding = torch.bincount(torch.tensor([row for piece in pieces for row in set(piece)]), minlength=self.size)
        expected = holding / batches + negatives / self.size
        # A row with x expected occurrences in pieces and draws is a candidate with a probability of about 1 - exp(-x).
        self.log_inclusion = torch.log(-torch.expm1(-expected)).to(self.device)

    def draw(self, batch: list[list[int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the candidate rows, their corrections, and the batch with rows replaced by indices of candidates.

        Shapes:
            rows, correction: (C,); sequences: (B, L + 1), padded on the right; places: (T,), the indices in the
            flattened (B, L) that are not padding
        """
        sequences, lengths = pad(batch)
        # Computed on the CPU, because their number is needed at once.
        places = (torch.arange(sequences.shape[1] - 1) < lengths[:, None] - 1).flatten().nonzero().squeeze(1)
        places = places.to(self.device)
        if self.full:
            rows = torch.arange(self.size, device=self.device)
            return rows, torch.zeros(self.size, device=self.device), sequences.to(self.device), places
        drawn = torch.randint(self.size, (negatives,), generator=self.generator)
        held = torch.tensor([row for piece in batch for row in piece])
        rows = torch.unique(torch.cat([held, drawn]))
        sequences = torch.searchsorted(rows, sequences)  # padding becomes an arbitrary row, which is not used
        rows = rows.to(self.device)
        return rows, -self.log_inclusion[rows], sequences.to(self.device), places


def _step(
    model: DeepModel,
    sampler: _CandidateSampler,
    batch: list[list[int]],
    rows: "_RowAdam",
    optimizer: torch.optim.Optimizer,
    penalty: Penalty | None,
) -> Tensor:
    """Take one gradient step on one batch; return the mean loss of its predictions."""
    with record_function(LOADING):
        chosen, correction, sequences, places = sampler.draw(batch)
    table = model.table[chosen].requires_grad_()
    units = functional.normalize(table, dim=1)
    inputs, targets = sequences[:, :-1], sequences[:, 1:].flatten().index_select(0, places)
    with autocast(model.device):
        sessions = model.network(functional.embedding(inputs, units)).flatten(0, 1).index_select(0, places)
    loss = softmax_loss(sessions.float(), units, correction, targets, model.settings.temperature)
    if penalty is not None:
        loss = loss + penalty(model, chosen, table)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.network.parameters(), 1.0)
    optimizer.step()
    assert table.grad is not None
    rows.step(chosen, table.grad)
    return loss.detach()


class _RowAdam:
    """Sparse Adam for the item table: it updates only the rows of a batch, and each row counts its own steps.

    Dense Adam reads and writes the whole table and both moments at every step, which on a CPU costs more than the
    products.

    Adam divides a gradient by its own typical size. An item that occurs only as a negative, with a gradient ten
    thousand times smaller than that of a true item, would move as far, so that training would scatter the items that do
    not occur in a round (docs/decisions/0006-what-a-round-trains-on.md). So a share of the mean square over all rows is
    added to each row's own.
    """

    def __init__(self, table: Tensor, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.table, self.rate, self.betas = table, 0.0, betas
        self.first, self.second = torch.zeros_like(table), torch.zeros_like(table)
        self.steps = torch.zeros(len(table), 1, device=table.device)
        self.mean, self.batches = torch.zeros((), device=table.device), 0

    @torch.no_grad()
    def step(self, rows: Tensor, gradient: Tensor) -> None:
        """Update `rows` (C,) of the table by their gradient (C, D)."""
        one, two = self.betas
        steps = self.steps[rows] + 1
        first = torch.lerp(gradient, self.first[rows], one)
        second = torch.lerp(gradient.square(), self.second[rows], two)
        self.mean.lerp_(gradient.square().mean(), 1 - two)
        self.batches += 1
        mean = self.mean / (1 - two**self.batches)
        size = (second / (1 - two**steps)).add_(size_floor * mean).sqrt_().add_(_tiny)
        self.table[rows] -= self.rate * first / (1 - one**steps) / size
        self.steps[rows], self.first[rows], self.second[rows] = steps, first, second
