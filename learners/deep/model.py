"""The deep model in torch: a small causal transformer over a shopper's recent items. It predicts and serialises.

A session is represented as a *weighted sum of the vectors of its items*, so it lies in the items' own space; the
transformer (`learners.deep.network`) only computes the weights. Items and sessions are normalised to unit length and
compared by cosine, divided by a temperature. `learners.deep.train` trains, `learners.deep.answering` answers without
torch. The model is not a fold: a trained model is an artifact.

Letters of shapes: B sequences, D width, V items of the vocabulary, G late items.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from learners.deep import artifact
from learners.deep.artifact import ITEMS, NETWORK, OFFSET
from learners.deep.network import Network
from learners.deep.settings import DeepSettings as DeepSettings
from learners.deep.vocabulary import SPARE_ROWS, Vocabulary
from learners.protocol import Listed

items_max: Final = 2_000_000
"""Most items of a vocabulary; `grow` adds no more."""
weights_bytes_max: Final = 2_000_000_000
"""Largest model that `DeepModel.check` accepts: a server can hold it twice while it replaces one by another."""
_SCORE_ROWS: Final = 256
"""Prefixes scored at once; bounds the (rows, V) buffer."""


class DeepModel(Vocabulary):
    """A network, the vectors of its items, and its lineage. One thread uses a model at a time; `predict` is read-only.

    The weights that predict are a mean over rounds; training continues from the last round's weights
    (docs/decisions/0013-a-mean-over-rounds.md).

    Late items are dropped when the vocabulary changes.

    Attributes:
        training_offsets: by the names of `weights`, the training weights minus the predicting weights, in bfloat16;
            empty if the two are equal.
        lineage: JSON of the fine-tuner about how the model was made.
    """

    def __init__(self, settings: DeepSettings, seed: int, lineage: dict[str, Any] | None = None) -> None:
        super().__init__([], {})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = Network(settings)
        self.settings, self.seed = settings, seed
        self.lineage: dict[str, Any] = lineage or {}
        self.table = torch.empty(0, settings.width)
        self.training_offsets: dict[str, Tensor] = {}
        self._unit: Tensor | None = None
        self._buffer = torch.empty(0)
        self.network.eval()

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.table.device

    def to(self, device: str) -> Self:
        """Move the weights to a device."""
        self.network.to(device)
        self.table = self.table.to(device)
        self.invalidate()
        return self

    def grow(self, items: Iterable[str]) -> int:
        """Add a row for each unknown item, in the order given; return the number of added rows.

        The new rows depend only on the model's seed and size. Items beyond `items_max` are not added.
        """
        self.invalidate()
        new = [item for item in dict.fromkeys(items) if item not in self._row][: items_max - len(self.items)]
        if new:
            generator = torch.Generator().manual_seed(self.seed + len(self.items))
            rows = torch.randn(len(new), self.settings.width, generator=generator) / math.sqrt(self.settings.width)
            self._row.update((item, len(self.items) + i) for i, item in enumerate(new))
            self.items.extend(new)
            self.table = torch.cat([self.table, rows.to(self.device)])
            if self.training_offsets:
                self.training_offsets[ITEMS] = functional.pad(self.training_offsets[ITEMS], (0, 0, 0, len(new)))
        return len(new)

    def shrink(self, keep: Callable[[str], bool]) -> int:
        """Drop the rows of the items for which `keep` is false; return the number of dropped rows.

        The other rows keep their order.
        """
        kept = [row for row, item in enumerate(self.items) if keep(item)]
        dropped = len(self.items) - len(kept)
        self.invalidate()
        if dropped:
            self.items = [self.items[row] for row in kept]
            self._row = {item: row for row, item in enumerate(self.items)}
            rows = torch.tensor(kept, dtype=torch.int64)
            self.table = self.table[rows]
            if self.training_offsets:
                self.training_offsets[ITEMS] = self.training_offsets[ITEMS][rows]
        return dropped

    def weights(self) -> dict[str, Tensor]:
        """Return the predicting weights by name, as views."""
        return {ITEMS: self.table, **{NETWORK + name: t for name, t in self.network.state_dict().items()}}

    @torch.no_grad()
    def use_training_weights(self) -> None:
        """Replace the predicting weights by the training weights. The model must be on the CPU."""
        weights = self.weights()
        for name, step in self.training_offsets.items():
            weights[name] += step
        self.training_offsets = {}
        self.invalidate()

    @torch.no_grad()
    def average_with(self, before: Mapping[str, Tensor], share: float) -> None:
        """Predict with a mean of the current weights (weight `share`) and others; training continues from the current.

        Args:
            before: the others, by the names of `weights`. Item vectors beyond its rows stay as they are.
            share: weight of the current weights in the mean.
        """
        for name, weight in self.weights().items():
            old = before[name]
            step = ((1 - share) * (weight[: len(old)] - old)).bfloat16()
            self.training_offsets[name] = torch.zeros_like(weight, dtype=torch.bfloat16)
            self.training_offsets[name][: len(old)] = step
            weight[: len(old)] -= step
        self.invalidate()

    def invalidate(self) -> None:
        """Invalidate the cached vectors after a change of the table, and drop the late items."""
        self._unit, self._buffer = None, torch.empty(0)
        self.drop_late_items()

    @torch.inference_mode()
    def score_all(self, prefixes: Sequence[Sequence[str]]) -> NDArray[np.float32]:
        """Return, for each prefix (oldest item first), the probability of each item to be the next.

        For benchmarks: the result has len(prefixes) times V + G numbers. A prefix without a known item has zeros.

        Shapes:
            returns (N, V + G) float32, columns in the order of `items`, then of `late_items`.
        """
        scores = np.zeros((len(prefixes), len(self._row)), np.float32)
        for index, _, part in self._scored(prefixes):
            scores[index] = part.cpu().numpy()
        return scores

    def predict(self, prefixes: Sequence[Sequence[str]], n: int = 20) -> list[Listed]:
        """Return, for each prefix (oldest item first), the n most probable next items, best first, with probabilities.

        Unknown items are skipped; a prefix without a known item has an empty answer. Items of the prefix may be
        recommended again. Of equally probable items the one with the lower row comes first.
        """
        return self.predict_and_embed(prefixes, n)[0]

    @torch.inference_mode()
    def predict_and_embed(
        self, prefixes: Sequence[Sequence[str]], n: int = 20
    ) -> tuple[list[Listed], NDArray[np.float32]]:
        """Return what `predict` does, and the sessions' unit vectors, zeros for prefixes without a known item.

        Shapes:
            returns vectors (N, D)
        """
        answers: list[Listed] = [([], np.zeros(0, np.float32)) for _ in prefixes]
        vectors = np.zeros((len(prefixes), self.table.shape[1]), np.float32)
        n = min(n, len(self._row))
        for index, sessions, part in self._scored(prefixes):
            best, rows = (found.cpu().numpy() for found in part.topk(n, dim=1))
            vectors[index] = sessions.cpu().numpy()
            for i, values, found in zip(index, best, rows, strict=True):
                order = np.lexsort((found, -values))
                answers[i] = self.named(found[order].tolist()), values[order]
        return answers, vectors

    def _scored(self, prefixes: Sequence[Sequence[str]]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Yield batches: indices of prefixes, their vectors, and their probabilities over all items, late ones too."""
        context = self.settings.context
        known = [self.rows(prefix)[-context:] for prefix in prefixes]
        # Prefixes of similar lengths share a batch, so that little of it is padding.
        order = sorted((i for i, rows in enumerate(known) if rows), key=lambda i: len(known[i]))
        for start in range(0, len(order), _SCORE_ROWS):
            index = order[start : start + _SCORE_ROWS]
            session = self._sessions([known[i] for i in index])
            yield index, session, torch.softmax(session @ self._units().T / self.settings.temperature, dim=1)

    def _units(self) -> Tensor:
        """Return (V + G, D): the unit vectors of all items."""
        if self._unit is None:
            self._unit = functional.normalize(self.table, dim=1)
        return self._unit

    @torch.inference_mode()
    def _unit_vectors(self) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self._units().cpu().numpy()
        return vectors

    @torch.inference_mode()
    def _place(self, rows: list[int], vectors: NDArray[np.float32]) -> None:
        units, size = self._units(), max(len(self._row), rows[-1] + 1)
        if len(self._buffer) < size:
            self._buffer = torch.cat([units, units.new_empty(size - len(units) + SPARE_ROWS, units.shape[1])])
        self._buffer[rows] = torch.from_numpy(vectors).to(self.device)
        self._unit = self._buffer[:size]

    def _sessions(self, sequences: list[list[int]]) -> Tensor:
        """Return (B, D): the session's vector after the last item of each sequence of rows."""
        rows, lengths = pad(sequences)
        vectors = self._units()[rows.to(self.device)]
        with autocast(self.device):
            sessions: Tensor = self.network(vectors)
        return sessions[torch.arange(len(sequences)), lengths - 1].float()

    @torch.inference_mode()
    def check(self) -> list[str]:
        """Return the reasons why this model cannot serve, one sentence each; an empty list if there are none."""
        reasons = []
        if not self.items:
            reasons.append("the vocabulary is empty")
        tensors = self._tensors()
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size > weights_bytes_max:
            reasons.append(f"the weights take {size} bytes, more than {weights_bytes_max}")
        offsets = self.training_offsets.items()
        training = {OFFSET + name: tensors[name] + step for name, step in offsets if name in tensors}
        checked = {**tensors, **training}  # the training weights too
        reasons += [f"{name} holds NaN or infinity" for name, t in checked.items() if not bool(torch.isfinite(t).all())]
        if not reasons:
            # Computing with finite weights may still overflow or underflow.
            first = list(range(min(len(self.items), self.settings.context)))
            lengths = self._units()[: len(self.items)].norm(dim=1)
            if bool(((lengths - 1).abs() > 1e-3).any()):
                reasons.append("an item's vector has no direction: it is zero, or its square overflows float32")
            elif not bool(torch.isfinite(self._sessions([first])).all()):
                reasons.append("a session's vector is not finite")
        return reasons

    def _tensors(self) -> dict[str, Tensor]:
        return {**self.weights(), **{OFFSET + name: step for name, step in self.training_offsets.items()}}

    def to_bytes(self) -> bytes:
        """Return the model in the safetensors format (`learners.deep.artifact`); equal models have equal bytes."""
        about = artifact.metadata(self.settings, self.seed, self.lineage, self.items)
        return save({name: t.detach().cpu().contiguous() for name, t in self._tensors().items()}, about)

    @classmethod
    def from_bytes(cls, data: bytes, *, to_train: bool = True) -> Self:
        """Return the model that `to_bytes` wrote, on the CPU. Verify the blob's hash before, and call `check` after.

        Args:
            to_train: keep the training weights, which add half the size; judging does not need them.

        Raises:
            StateUnreadable: the bytes are not a model of this format, or their parts are inconsistent.
        """
        read = artifact.read(data, to_train=to_train)
        weights = {name: torch.from_numpy(weight) for name, weight in read.weights.items()}
        model = cls(read.settings, read.seed, read.lineage)
        model.items, model._row, model.table = read.vocabulary, read.row, weights.pop(ITEMS)
        model.network.load_state_dict({name.removeprefix(NETWORK): weight for name, weight in weights.items()})
        offsets = read.training_offsets.items()
        model.training_offsets = {name: torch.from_numpy(bits).view(torch.bfloat16) for name, bits in offsets}
        return model


def pad(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return sequences as one matrix, padded with 0 on the right, and their lengths.

    >>> [part.tolist() for part in pad([[3, 4], [5]])]
    [[[3, 4], [5, 0]], [2, 1]]
    """
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    rows = torch.zeros(len(sequences), int(lengths.max()), dtype=torch.int64)
    flat = torch.tensor([row for sequence in sequences for row in sequence])
    rows[torch.arange(rows.shape[1]) < lengths[:, None]] = flat
    return rows, lengths


def autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return a context that computes in bfloat16 on CUDA, where it is faster, and does nothing on other devices."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch use `count` threads within the block (None: no change). The setting applies to the whole process."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load_to_judge(data: bytes) -> DeepModel:
    """Return a model that predicts and is not trained on. Raises StateUnreadable as `DeepModel.from_bytes`."""
    return DeepModel.from_bytes(data, to_train=False)


def load_to_train(data: bytes) -> DeepModel:
    """Return a model that training can go on from. Raises StateUnreadable as `DeepModel.from_bytes`."""
    return DeepModel.from_bytes(data)
