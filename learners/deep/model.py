"""The deep model: a small causal transformer over a shopper's recent items. This module predicts and serialises.

A session is represented as a *weighted sum of the vectors of its items*, so it lies in the items' own space; the
transformer (`learners.deep.network`) only computes the weights. Items and sessions are normalised to unit length and
compared by cosine, divided by a temperature. `learners.deep.train` trains. The model is not a fold: a trained model is
an artifact.

Late items are items that were admitted after the training. A model in use derives their vectors from trained items of
the same category and of like price (`learners.deep.neighbours`).

Letters of shapes: B sequences, D width, V items of the vocabulary, G late items.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Self

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional

from headrace.errors import StateUnreadable
from learners.deep.neighbours import AttributeNeighbours
from learners.deep.network import DeepSettings as DeepSettings
from learners.deep.network import Network
from learners.next_item.attributes import AttributeLookup

items_max: Final = 2_000_000
"""Most items of a vocabulary; `grow` adds no more."""
weights_bytes_max: Final = 2_000_000_000
"""Largest model that `DeepModel.check` accepts: a server can hold it twice while it replaces one by another."""
late_items_max: Final = 10_000
"""Most late items of one model."""
FORMAT: Final = 1
"""Version of the bytes that `DeepModel.to_bytes` writes."""
_SPARE_ROWS: Final = 1_024
"""Spare rows that are allocated whenever late items need a larger buffer."""
_SCORE_ROWS: Final = 256
"""Prefixes scored at once; bounds the (rows, V) buffer."""
_ITEMS: Final = "items"
_OFFSET: Final = "ahead."


class DeepModel:
    """A network, the vectors of its items, and its lineage. One thread uses a model at a time; `predict` is read-only.

    The weights that predict are a mean over rounds; training continues from the last round's weights
    (docs/decisions/0013-a-mean-over-rounds.md).

    Attributes:
        items: the vocabulary in row order.
        late_items: items admitted after the training; their rows follow. They are not part of the artifact and are
            dropped when the vocabulary changes.
        admissions_seen: number of the catalogue's admissions up to which late items were added.
        training_offsets: by the names of `weights`, the training weights minus the predicting weights, in bfloat16;
            empty if the two are equal.
        lineage: JSON of the fine-tuner about how the model was made.
    """

    def __init__(self, settings: DeepSettings, seed: int, lineage: dict[str, Any] | None = None) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = Network(settings)
        self.settings, self.seed = settings, seed
        self.lineage: dict[str, Any] = lineage or {}
        self.items: list[str] = []
        self.late_items: list[str] = []
        self.admissions_seen = 0
        self.table = torch.empty(0, settings.width)
        self.training_offsets: dict[str, Tensor] = {}
        self._row: dict[str, int] = {}
        self._unit: Tensor | None = None
        self._buffer = torch.empty(0)
        self._neighbours: AttributeNeighbours | None = None
        self.network.eval()

    def __len__(self) -> int:
        return len(self.items)

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
                self.training_offsets[_ITEMS] = functional.pad(self.training_offsets[_ITEMS], (0, 0, 0, len(new)))
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
                self.training_offsets[_ITEMS] = self.training_offsets[_ITEMS][rows]
        return dropped

    def weights(self) -> dict[str, Tensor]:
        """Return the predicting weights by name, as views."""
        return {_ITEMS: self.table, **{f"network.{name}": t for name, t in self.network.state_dict().items()}}

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

    @torch.inference_mode()
    def add_late_items(self, items: Iterable[str], attributes_of: AttributeLookup) -> int:
        """Add items that were admitted after the training; return the number of added items.

        An item's vector is derived from its neighbours (`learners.deep.neighbours`), that of a late item again. Items
        without neighbours and items beyond `late_items_max` are not added. The attributes of the vocabulary are looked
        up once, at the first call.
        """
        untrained = [item for item in dict.fromkeys(items) if not self.trained(item)]
        free = late_items_max - len(self.late_items)
        late = [item for item in untrained if item in self._row]
        asked = late + [item for item in untrained if item not in self._row][:free]
        if not asked or not self.items:
            return 0
        if self._neighbours is None:
            self._neighbours = AttributeNeighbours(self._units(), attributes_of(self.items))
        vectors, found = self._neighbours.vectors(attributes_of(asked))
        vectors = vectors[torch.from_numpy(found).to(self.device)]
        placed = [item for item, has_neighbours in zip(asked, found.tolist(), strict=True) if has_neighbours]
        rows = self.rows(placed)
        added = placed[len(rows) :]
        if rows:
            self._buffer[rows] = vectors[: len(rows)]
        if added:
            units, size = self._units(), len(self._row) + len(added)
            if len(self._buffer) < size:  # spare rows save a copy of the whole table for each later item
                self._buffer = torch.cat([units, units.new_empty(len(added) + _SPARE_ROWS, units.shape[1])])
            self._buffer[len(units) : size] = vectors[len(rows) :]
            self._unit = self._buffer[:size]
            self._row.update(zip(added, range(len(self._row), len(self._row) + len(added)), strict=True))
            self.late_items += added
        return len(added)

    def rows(self, sequence: Sequence[str]) -> list[int]:
        """Return the rows of the known items of a sequence, in order."""
        row = self._row
        return [row[item] for item in sequence if item in row]

    def trained(self, item: str) -> bool:
        """Return whether an item is in the vocabulary (late items are not)."""
        return self._row.get(item, len(self.items)) < len(self.items)

    def invalidate(self) -> None:
        """Invalidate the cached vectors after a change of the table, and drop the late items."""
        self._unit = self._neighbours = None
        self._buffer = torch.empty(0)
        for item in self.late_items:
            del self._row[item]
        self.late_items, self.admissions_seen = [], 0

    @torch.inference_mode()
    def score_all(self, prefixes: Sequence[Sequence[str]]) -> NDArray[np.float32]:
        """Return, for each prefix (oldest item first), the probability of each item to be the next.

        For benchmarks: the result has len(prefixes) times V + G numbers. A prefix without a known item has zeros.

        Shapes:
            returns (N, V + G) float32, columns in the order of `items`, then of `late_items`.
        """
        scores = np.zeros((len(prefixes), len(self._row)), np.float32)
        for index, part in self._scored(prefixes):
            scores[index] = part.cpu().numpy()
        return scores

    @torch.inference_mode()
    def predict(self, prefixes: Sequence[Sequence[str]], n: int = 20) -> list[tuple[list[str], NDArray[np.float32]]]:
        """Return, for each prefix (oldest item first), the n most probable next items, best first, with probabilities.

        Unknown items are skipped; a prefix without a known item has an empty answer. Items of the prefix may be
        recommended again. Of equally probable items the one with the lower row comes first.
        """
        answers: list[tuple[list[str], NDArray[np.float32]]] = [([], np.zeros(0, np.float32)) for _ in prefixes]
        n, trained = min(n, len(self._row)), len(self.items)
        for index, part in self._scored(prefixes):
            best, rows = (found.cpu().numpy() for found in part.topk(n, dim=1))
            for i, values, found in zip(index, best, rows, strict=True):
                order = np.lexsort((found, -values))
                rows_in_order = found[order].tolist()
                named = [self.items[row] if row < trained else self.late_items[row - trained] for row in rows_in_order]
                answers[i] = named, values[order]
        return answers

    def _scored(self, prefixes: Sequence[Sequence[str]]) -> Iterator[tuple[list[int], Tensor]]:
        """Yield batches: indices of prefixes, and their probabilities over all items (late ones included)."""
        context = self.settings.context
        known = [self.rows(prefix)[-context:] for prefix in prefixes]
        # Prefixes of similar lengths share a batch, so that little of it is padding.
        order = sorted((i for i, rows in enumerate(known) if rows), key=lambda i: len(known[i]))
        for start in range(0, len(order), _SCORE_ROWS):
            index = order[start : start + _SCORE_ROWS]
            session = self._sessions([known[i] for i in index])
            yield index, torch.softmax(session @ self._units().T / self.settings.temperature, dim=1)

    def _units(self) -> Tensor:
        """Return (V + G, D): the unit vectors of all items."""
        if self._unit is None:
            self._unit = functional.normalize(self.table, dim=1)
        return self._unit

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
        training = {_OFFSET + name: tensors[name] + step for name, step in offsets if name in tensors}
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
        return {**self.weights(), **{_OFFSET + name: step for name, step in self.training_offsets.items()}}

    def to_bytes(self) -> bytes:
        """Return the model in the safetensors format; equal models have equal bytes.

        Settings, seed, vocabulary and lineage are one JSON document in the header, because safetensors does not fix the
        order of several header entries.
        """
        about = {
            "format": FORMAT,
            "settings": self.settings,
            "seed": self.seed,
            "lineage": self.lineage,
            "vocabulary": self.items,
        }
        text = msgspec.json.encode(about, order="deterministic").decode()
        return save({name: t.detach().cpu().contiguous() for name, t in self._tensors().items()}, {"headrace": text})

    @classmethod
    def from_bytes(cls, data: bytes, *, to_train: bool = True) -> Self:
        """Return the model that `to_bytes` wrote, on the CPU. Verify the blob's hash before, and call `check` after.

        Args:
            to_train: keep the training weights, which add half the size; predictions do not need them.

        Raises:
            StateUnreadable: the bytes are not a model of this format, or their parts are inconsistent.
        """
        try:
            header = msgspec.json.decode(data[8 : 8 + int.from_bytes(data[:8], "little")], type=_Header)
            about = msgspec.json.decode(header.metadata["headrace"], type=_About)
            one = about.settings
            if one.layers * (one.heads * one.context + one.width**2) > len(data):  # a layer has more
                shape = f"{one.layers} layers of width {one.width}, {one.heads} heads and context {one.context}"
                raise StateUnreadable(f"{shape} do not fit into {len(data)} bytes")
            tensors = load(data)
            model = cls(about.settings, about.seed, about.lineage)
            model.items, model.table = about.vocabulary, tensors.pop(_ITEMS)
            model._row = {item: row for row, item in enumerate(model.items)}
            steps = [name for name in tensors if name.startswith(_OFFSET)]
            offsets = {name.removeprefix(_OFFSET): tensors.pop(name) for name in steps}
            model.network.load_state_dict({name.removeprefix("network."): t for name, t in tensors.items()})
        except _UNREADABLE as error:
            raise StateUnreadable(f"not a deep model: {error}") from error
        if about.format != FORMAT:
            raise StateUnreadable(f"a deep model of format {about.format}: wanted {FORMAT}")
        if not len(model.items) == len(model._row) == len(model.table):
            raise StateUnreadable(f"{len(model.table)} item vectors do not fit {len(model._row)} different items")
        if model.table.shape[1:] != (about.settings.width,) or model.table.dtype != torch.float32:
            raise StateUnreadable(f"item vectors {tuple(model.table.shape)} do not fit the settings")
        wanted = {name: (weight.shape, torch.bfloat16) for name, weight in model.weights().items()}
        if offsets and {name: (step.shape, step.dtype) for name, step in offsets.items()} != wanted:
            raise StateUnreadable("the training offsets do not fit the weights")
        model.training_offsets = offsets if to_train else {}
        return model


# A header is untrusted: invalid settings can cause a division by zero, or negative or huge shapes.
_UNREADABLE = (
    msgspec.MsgspecError, SafetensorError, LookupError, RuntimeError, AssertionError, ValueError, ArithmeticError,
)  # fmt: skip


class _About(msgspec.Struct):
    format: int
    settings: DeepSettings
    seed: int
    lineage: dict[str, Any]
    vocabulary: list[str]


class _Header(msgspec.Struct, rename={"metadata": "__metadata__"}):
    metadata: dict[str, str]


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


def load_to_serve(data: bytes) -> DeepModel:
    """Return a model that answers and is not trained on. Raises StateUnreadable as `DeepModel.from_bytes`."""
    return DeepModel.from_bytes(data, to_train=False)


def load_to_train(data: bytes) -> DeepModel:
    """Return a model that training can go on from. Raises StateUnreadable as `DeepModel.from_bytes`."""
    return DeepModel.from_bytes(data)
