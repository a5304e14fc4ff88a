"""One round of training of the deep model: warm start, a bounded number of passes, a new model.

Each batch trains on *its own little catalogue*: the items in its sequences and a share of all others drawn as
negatives. Only those rows of the item table are read, normalised, scored and updated, so a step costs the same whatever
the catalogue's size; below `full_softmax_max` items the little catalogue is simply all of it. Scores are corrected by
the logarithm of each row's probability of being drawn, which makes the loss an estimate of the one over the whole
catalogue.

Rounds follow one another, and each is swayed by what just came. So what a round leaves to answer is a mean of what it
trained and of what answered before it, while the next round goes on from what was trained: an exponential mean over
rounds (docs/decisions/0013-a-mean-over-rounds.md).

Source: sampled softmax with logQ correction: Bengio and Senecal, "Adaptive importance sampling to accelerate training
of a neural probabilistic language model" (IEEE TNN 2008); Yi et al., "Sampling-bias-corrected neural modeling" (RecSys
2019). We correct by the probability of inclusion, and never correct the true item, which is always there. Means of
weights along the course of training: Polyak & Juditsky (SIAM J. Control and Optimization, 1992); of a model before and
after it was fine-tuned: Wortsman et al., "Robust fine-tuning of zero-shot models" (CVPR 2022).

Letters of shapes: B pieces and T predictions of a batch, C rows of its little catalogue, D width, L + 1 rows of its
longest piece.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import record_function

from learners.deep import DeepModel, DeepSettings, autocast, pad
from learners.kin import Kin
from learners.softmax import softmax_loss
from learners.wares import Describe

full_softmax_max: Final = 3_000
"""Largest catalogue over which the softmax is complete; above it, a batch draws `negatives` rows."""
negatives: Final = 2_000
"""Rows drawn per batch beside those of its own sequences."""
batch_tokens: Final = 512
"""Predictions per step, about."""
reversed_share: Final = 0.25
"""Share of the sequences that are learned back to front: what came first becomes an answer too."""
table_factor: Final = 20.0
"""How much faster than the network the item vectors learn: they are many, and each is met seldom."""
size_floor: Final = 0.1
"""Share of the mean square of all rows' gradients that is added to a row's own where a step is divided by it."""
neighbour_steps_max: Final = 3
neighbour_weight: Final = 0.7
"""A new item is placed by the known ones up to so many steps beside it, each step counting so much less."""
kin_weight: Final = 1.0
"""How much the kin of a new item counts, beside a known neighbour's `neighbour_weight`."""
newest_share: Final = 0.65
"""How much of what a round trained is in what answers after it; the rest is what answered before."""
placed_share: Final = 0.8
"""How much of a new item's first direction comes from its neighbours and kin; the rest is random."""
LOADING: Final = "headrace.loading"
"""What a profiler sees as getting ready: the parent's bytes, cutting, padding, drawing, moving to the device."""
_tiny: Final = 1e-12
_UNREAD_MAX: Final = {"cpu": 1, "cuda": 32}
"""Steps whose loss is not read yet: reading waits for the device, which then waits for Python."""
_SHUFFLED_PER_SORT: Final = 64
"""Batches whose sequences are sorted by length together, so that little is padding and order stays random."""


Penalty = Callable[[DeepModel, Tensor, Tensor], Tensor]
"""From the model in training, the rows of a batch's little catalogue (C,) and their vectors (C, D), to what is added to
the batch's loss; its gradients reach the network and the vectors."""


class TrainResult(NamedTuple):
    """What a round made: the model, predictions trained on over all passes, mean loss (nats) of the last."""

    model: DeepModel
    tokens: int
    loss: float


class NotFinite(Exception):
    """The loss became NaN or infinite: the round is given up, its parent is unharmed."""


def never() -> bool:
    """Return False: a round without a deadline."""
    return False


def ignore(share: float) -> None:
    """Do nothing with a round's progress."""


def go_on(model: DeepModel) -> bool:
    """Return False: a round does all its passes."""
    return False


def all_items(item: str) -> bool:
    """Return True: a vocabulary that keeps every item."""
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
    passed: Callable[[DeepModel], bool] = go_on,
    describe: Describe | None = None,
    lineage: dict[str, Any] | None = None,
) -> TrainResult:
    """Train a copy of `parent` (or a new model) to tell the next item at every position of the sequences.

    Called by the fine-tuner in its own process and by benchmarks. On a CPU, with the same torch, processor family and
    number of threads, equal arguments give a model of equal bytes; a GPU does not promise that.

    Args:
        parent: the model to start from; never changed. Its settings win over `settings`.
        sequences: items in order, oldest first; those shorter than 2 teach nothing. Longer than `settings.context` + 1
            are cut into pieces. All their items are admitted to the vocabulary.
        rehearsal: sequences of the past, dealt out evenly to the passes and mixed with the new ones: each is trained on
            once. The same ones in every pass would be learned by heart (docs/decisions/0006-what-a-round-trains-on.md).
        seed: decides the first weights of a new model, the order, dropout and the negatives.
        share: of what is trained here in the model that is returned, where there is a parent; the rest is the parent.
        keep: asked of each item; those that it refuses leave the vocabulary, and are passed over in the sequences.
        stop: asked before each batch; once it says True the round ends with what it has learned.
        progress: told the share done, in [0, 1], after each batch.
        penalty: returns what is added to a batch's loss.
        passed: asked after each pass with the model as it then is, ready to predict; once it says True the round ends.
        describe: tells category and price of items: a new one begins beside its kin, too (`learners.kin`).

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
        _place(model, known, [model.rows(sequence) for sequence in chain(sequences, rehearsal)], describe)
        parts = [[*sequences, *rehearsal[turn::passes]] for turn in range(passes)]
        turns = [[piece for sequence in part for piece in _pieces(model, sequence)] for part in parts]
        if not any(turns):
            return TrainResult(model, 0, math.nan)
        model.catch_up()
        model.to(device)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        result = _passes(model, turns, seed, learning_rate, weight_decay, stop, progress, penalty, passed)
    model.network.eval()
    model.to("cpu")
    if parent is not None and share < 1:
        model.fall_back(before, share)
    return TrainResult(model, *result)


def _pieces(model: DeepModel, sequence: Sequence[str]) -> Iterator[list[int]]:
    """Cut a sequence into pieces of at most context + 1 rows that share one row, so that each step is learned once."""
    rows, context = model.rows(sequence), model.settings.context
    for start in range(0, len(rows) - 1, context):
        yield rows[start : start + context + 1]


@torch.no_grad()
def _place(model: DeepModel, known: int, sequences: Sequence[list[int]], describe: Describe | None) -> None:
    """Move each new item (a row from `known` on) to where the known items around it in the sequences and its kin lie.

    The session lives in the items' space, so the neighbours' mean is a good first guess of an item that nobody has
    trained on; a part of the random vector stays, so that items with the same neighbours can part.
    """
    if not 0 < known < len(model):
        return
    rows = torch.tensor([row for sequence in sequences for row in sequence])
    owner = torch.repeat_interleave(torch.tensor([len(sequence) for sequence in sequences]))
    units = functional.normalize(model.table[:known], dim=1)
    sums = torch.zeros(len(model) - known, model.settings.width)
    for steps in range(1, neighbour_steps_max + 1):
        same = owner[steps:] == owner[:-steps]
        for item, beside in ((rows[steps:], rows[:-steps]), (rows[:-steps], rows[steps:])):
            pair = same & (item >= known) & (beside < known)
            sums.index_add_(0, item[pair] - known, neighbour_weight**steps * units[beside[pair]])
    if describe is not None:
        kin, _ = Kin(units, describe(model.items[:known])).vectors(describe(model.items[known:]))
        sums += kin_weight * kin
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
    passed: Callable[[DeepModel], bool],
) -> tuple[int, float]:
    """Run a pass over the pieces of each turn; return how many predictions were trained on, and the last pass's mean
    loss."""
    generator = torch.Generator().manual_seed(seed)
    rows = _RowAdam(model.table)
    optimizer = torch.optim.AdamW(model.network.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)
    total = sum(len(piece) - 1 for pieces in turns for piece in pieces)
    tokens, loss = 0, math.nan
    for pieces in filter(None, turns):
        with record_function(LOADING):
            catalogue = _Catalogue(model, pieces, generator)
            batches = _batches(pieces, generator)
        model.network.train()
        losses = _Losses(_UNREAD_MAX[model.device.type], loss)
        for batch in batches:
            if stop():
                return tokens, losses.mean()
            rate = learning_rate * _schedule(tokens / total)
            optimizer.param_groups[0]["lr"], rows.rate = rate, table_factor * rate
            count = sum(len(piece) - 1 for piece in batch)
            losses.add(_step(model, catalogue, _turned(batch, generator), rows, optimizer, penalty), count)
            tokens += count
            progress(tokens / total)
        loss = losses.mean()
        model.network.eval()
        model.touched()
        if passed(model):
            break
    return tokens, loss


class _Losses:
    """The mean loss of a pass's predictions; each loss is read from the device up to `unread_max` steps late.

    Raises:
        NotFinite: a loss that was read is NaN or infinite. Steps taken since are lost with the round.
    """

    def __init__(self, unread_max: int, before: float) -> None:
        self._unread_max, self._before = unread_max, before
        self._unread: list[tuple[Tensor, int]] = []
        self._sum, self._count = 0.0, 0

    def add(self, loss: Tensor, count: int) -> None:
        """Take the mean loss of a step's `count` predictions."""
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
    """Rise over the first twentieth, then fall linearly to a tenth."""
    return min(1.0, (share + 0.002) / 0.05) * (1 - 0.9 * share)


def _batches(pieces: list[list[int]], generator: torch.Generator) -> list[list[list[int]]]:
    """Return all pieces once, in random order, about `batch_tokens` predictions at a time, similar lengths together."""
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


def _turned(batch: list[list[int]], generator: torch.Generator) -> list[list[int]]:
    """Return the batch with a random `reversed_share` of its pieces back to front."""
    back = torch.rand(len(batch), generator=generator) < reversed_share
    return [piece[::-1] if turned else piece for piece, turned in zip(batch, back.tolist(), strict=True)]


class _Catalogue:
    """Draws the little catalogue of a batch and knows each row's probability of being in one."""

    def __init__(self, model: DeepModel, pieces: list[list[int]], generator: torch.Generator) -> None:
        self.size, self.generator, self.device = len(model), generator, model.device
        self.full = self.size <= full_softmax_max
        batches = sum(len(piece) - 1 for piece in pieces) / batch_tokens
        holding = torch.bincount(torch.tensor([row for piece in pieces for row in set(piece)]), minlength=self.size)
        expected = holding / batches + negatives / self.size
        # A row that is expected in x pieces and draws is there with a probability of about 1 - exp(-x).
        self.log_inclusion = torch.log(-torch.expm1(-expected)).to(self.device)

    def draw(self, batch: list[list[int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the rows of the little catalogue, the correction of each, and the batch in terms of it.

        Shapes:
            rows, correction: (C,); sequences: (B, L + 1), packed to the left; places: (T,) of what is no padding in the
            flattened (B, L)
        """
        sequences, lengths = pad(batch)
        # Found here, not on the device: how many there are is asked for at once.
        places = (torch.arange(sequences.shape[1] - 1) < lengths[:, None] - 1).flatten().nonzero().squeeze(1)
        places = places.to(self.device)
        if self.full:
            rows = torch.arange(self.size, device=self.device)
            return rows, torch.zeros(self.size, device=self.device), sequences.to(self.device), places
        drawn = torch.randint(self.size, (negatives,), generator=self.generator)
        held = torch.tensor([row for piece in batch for row in piece])
        rows = torch.unique(torch.cat([held, drawn]))
        sequences = torch.searchsorted(rows, sequences)  # padding is any row: nobody looks at it
        rows = rows.to(self.device)
        return rows, -self.log_inclusion[rows], sequences.to(self.device), places


def _step(
    model: DeepModel,
    catalogue: _Catalogue,
    batch: list[list[int]],
    rows: "_RowAdam",
    optimizer: torch.optim.Optimizer,
    penalty: Penalty | None,
) -> Tensor:
    """Take one step on one batch; return the mean loss of its predictions."""
    with record_function(LOADING):
        chosen, correction, sequences, places = catalogue.draw(batch)
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
    """Adam over the item table that touches only the rows of a batch; each row counts its own steps.

    Dense Adam reads and writes the whole table and both moments at every step, which on a CPU costs more than the
    products.

    Adam divides a gradient by its own usual size, so that an item that only ever is a negative, with a gradient ten
    thousand times smaller than that of a true one, would move as far: the items that a round does not hold would be
    shuffled (docs/decisions/0006-what-a-round-trains-on.md). So a share of the mean square over all rows is added to
    each row's own.
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
