"""The deep model: a small causal transformer over a shopper's recent items, readable in one sitting.

A session is represented as a *weighted sum of the vectors of its items*, so it lives in the items' own space; the
transformer only decides the weights. Items and sessions are normalised to unit length and compared by cosine over a
temperature. Rounds of training are in `learners.finetune`; here is what predicts. It is not a fold: a trained model is
an artifact.

Source: Hou et al., CORE (SIGIR 2022), section 3: representation-consistent encoder; ours is causal, so that every
position of a session is a prediction, and its weights come from one attention step with learned biases for recency, not
from a query-free softmax. Gupta et al., NISER (2019): normalised vectors and a temperature against popularity bias.

Letters of shapes: B sequences, L positions, D width, H heads, V items of the vocabulary.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Self

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

from headrace.errors import StateUnreadable

items_max: Final = 2_000_000
"""Most items of one vocabulary; `grow` admits no more."""
weights_bytes_max: Final = 2_000_000_000
"""Largest model that `DeepModel.check` accepts: what a server can hold twice while it swaps."""
FORMAT: Final = 1
"""Version of the bytes that `DeepModel.to_bytes` writes."""
_SCORE_ROWS: Final = 256
"""Prefixes scored at once: bounds the (rows, V) buffer."""


class DeepSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What fixes the shape and the scale of a network; part of its artifact.

    `context` is how many of a shopper's newest items are looked at; `dropout` acts on item vectors and inside the
    blocks.
    """

    width: int = 100
    layers: int = 2
    heads: int = 2
    context: int = 50
    dropout: float = 0.2
    temperature: float = 0.07

    def __post_init__(self) -> None:
        assert self.width % self.heads == 0, "width must be a multiple of heads"
        assert min(self.width, self.layers, self.heads, self.context) >= 1, "sizes must be positive"
        assert 0 <= self.dropout < 1, "dropout must be in [0, 1)"
        assert self.temperature > 0, "temperature must be positive"


class Attention(nn.Module):
    """Causal attention whose logits get a learned bias for how many steps back a position lies."""

    def __init__(self, settings: DeepSettings, heads: int, values: bool) -> None:
        super().__init__()
        self.heads, self.values = heads, values
        self.project = nn.Linear(settings.width, (3 if values else 2) * settings.width)
        self.recency = nn.Parameter(torch.zeros(heads, settings.context))

    def weights(self, query: Tensor, key: Tensor) -> Tensor:
        """Return how much each position looks at each position before it and at itself.

        Shapes:
            query, key: (B, H, L, D / H); returns (B, H, L, L), rows sum to 1.
        """
        length = query.shape[2]
        step = torch.arange(length, device=query.device)
        back = step[:, None] - step[None, :]
        bias = self.recency[:, back.clamp(min=0)].masked_fill(back < 0, -math.inf)
        logits: Tensor = query @ key.transpose(2, 3) / math.sqrt(query.shape[3]) + bias
        return torch.softmax(logits, dim=-1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the weights (B, H, L, L) and, where this attention has values, what they gather (B, L, D)."""
        batch, length, width = x.shape
        parts = self.project(x).view(batch, length, -1, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = self.weights(parts[0], parts[1])
        if not self.values:
            return weights, None
        gathered: Tensor = (weights @ parts[2]).transpose(1, 2).reshape(batch, length, width)
        return weights, gathered


class Block(nn.Module):
    """One transformer layer, normalised before each part."""

    def __init__(self, settings: DeepSettings) -> None:
        super().__init__()
        width = settings.width
        self.norm_attention, self.norm_mix = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(settings, settings.heads, values=True)
        self.out = nn.Linear(width, width)
        self.mix = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, D) to (B, L, D); position l sees positions up to l."""
        x = x + self.dropout(self.out(self.attention(self.norm_attention(x))[1]))
        x = x + self.dropout(self.mix(self.norm_mix(x)))
        return x  # noqa: RET504 - returned as it is, a module's answer would be Any


class Network(nn.Module):
    """From the vectors of a session's items to the session's vector after each of them.

    Sequences are packed to the left and padded on the right: a causal network never looks at what is to the right, so
    padding needs no mask, and positions are known only by how far back they lie.
    """

    def __init__(self, settings: DeepSettings) -> None:
        super().__init__()
        self.settings = settings
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(settings.width)
        self.pool = Attention(settings, 1, values=False)

    def forward(self, items: Tensor) -> Tensor:
        """Return the session after each item.

        Shapes:
            items: (B, L, D) unit vectors; returns (B, L, D) unit vectors, each a weighted sum of the items up to there.
        """
        items = self.dropout(items)
        # A unit vector has entries of about 1 / sqrt(D); the blocks want about 1.
        x = items * math.sqrt(items.shape[2])
        for block in self.blocks:
            x = block(x)
        # Nothing else is added to the sum: a free term of the transformer's own, however small, learned the training
        # sessions by heart and lost 5 points of Recall@20 on the following week (DIGINETICA).
        weights = self.pool(self.norm(x))[0].squeeze(1)
        return functional.normalize(weights @ items, dim=-1)


class DeepModel:
    """A network, the vectors of the items it knows, and where it came from.

    `items` is the vocabulary in row order, `lineage` whatever JSON the fine-tuner wrote about its making. One thread
    uses a model at a time; `predict` does not change it.
    """

    def __init__(self, settings: DeepSettings, seed: int, lineage: dict[str, Any] | None = None) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = Network(settings)
        self.settings, self.seed = settings, seed
        self.lineage: dict[str, Any] = lineage or {}
        self.items: list[str] = []
        self.table = torch.empty(0, settings.width)
        self._row: dict[str, int] = {}
        self._unit: Tensor | None = None
        self.network.eval()

    def __len__(self) -> int:
        return len(self.items)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.table.device

    def to(self, device: str) -> Self:
        """Move the weights to a device."""
        self.network.to(device)
        self.table, self._unit = self.table.to(device), None
        return self

    def grow(self, items: Iterable[str]) -> int:
        """Add a row for each item that is not known yet, in the order given, and return how many were added.

        The new rows follow from the model's seed and its size alone. Items beyond `items_max` are not admitted.
        """
        fresh = [item for item in dict.fromkeys(items) if item not in self._row][: items_max - len(self.items)]
        if fresh:
            generator = torch.Generator().manual_seed(self.seed + len(self.items))
            rows = torch.randn(len(fresh), self.settings.width, generator=generator) / math.sqrt(self.settings.width)
            self._row.update((item, len(self.items) + i) for i, item in enumerate(fresh))
            self.items.extend(fresh)
            self.table, self._unit = torch.cat([self.table, rows.to(self.device)]), None
        return len(fresh)

    def shrink(self, keep: Callable[[str], bool]) -> int:
        """Drop the rows of the items that `keep` refuses, and return how many were dropped; the others keep their
        order."""
        kept = [row for row, item in enumerate(self.items) if keep(item)]
        dropped = len(self.items) - len(kept)
        if dropped:
            self.items = [self.items[row] for row in kept]
            self._row = {item: row for row, item in enumerate(self.items)}
            self.table, self._unit = self.table[torch.tensor(kept, dtype=torch.int64)], None
        return dropped

    def rows(self, sequence: Sequence[str]) -> list[int]:
        """Return the rows of the items of a sequence that are known, in order."""
        row = self._row
        return [row[item] for item in sequence if item in row]

    def touched(self) -> None:
        """Say that the table was changed in place; training calls it."""
        self._unit = None

    @torch.inference_mode()
    def score_all(self, prefixes: Sequence[Sequence[str]]) -> NDArray[np.float32]:
        """Return every item's probability of being next after each prefix (oldest item first).

        Meant for benchmarks: the answer has len(prefixes) times V numbers. A prefix without a known item scores 0
        everywhere.

        Shapes:
            returns (N, V) float32, columns in the order of `items`.
        """
        scores = np.zeros((len(prefixes), len(self.items)), np.float32)
        for index, part in self._scored(prefixes):
            scores[index] = part.cpu().numpy()
        return scores

    @torch.inference_mode()
    def predict(self, prefixes: Sequence[Sequence[str]], n: int = 20) -> list[tuple[list[str], NDArray[np.float32]]]:
        """Return for each prefix (oldest item first) the n most probable next items, best first, with probabilities.

        Items that the model does not know are skipped; a prefix without a known item gets an empty answer. Items of the
        prefix may be recommended again. Ties go to the lower row.
        """
        answers: list[tuple[list[str], NDArray[np.float32]]] = [([], np.zeros(0, np.float32)) for _ in prefixes]
        n = min(n, len(self.items))
        for index, part in self._scored(prefixes):
            best, rows = (found.cpu().numpy() for found in part.topk(n, dim=1))
            for i, values, found in zip(index, best, rows, strict=True):
                order = np.lexsort((found, -values))
                answers[i] = [self.items[row] for row in found[order]], values[order]
        return answers

    def _scored(self, prefixes: Sequence[Sequence[str]]) -> Iterator[tuple[list[int], Tensor]]:
        """Yield (indices of prefixes, their probabilities over the vocabulary), a bounded number at once."""
        context = self.settings.context
        known = [self.rows(prefix)[-context:] for prefix in prefixes]
        # Similar lengths go together, so that little of a batch is padding.
        order = sorted((i for i, rows in enumerate(known) if rows), key=lambda i: len(known[i]))
        for start in range(0, len(order), _SCORE_ROWS):
            index = order[start : start + _SCORE_ROWS]
            session = self._sessions([known[i] for i in index])
            yield index, torch.softmax(session @ self._units().T / self.settings.temperature, dim=1)

    def _units(self) -> Tensor:
        if self._unit is None:
            self._unit = functional.normalize(self.table, dim=1)
        return self._unit

    def _sessions(self, sequences: list[list[int]]) -> Tensor:
        """Return (B, D): the session after the last item of each sequence of rows."""
        rows, lengths = pad(sequences)
        vectors = self._units()[rows.to(self.device)]
        with autocast(self.device):
            sessions: Tensor = self.network(vectors)
        return sessions[torch.arange(len(sequences)), lengths - 1].float()

    def check(self) -> list[str]:
        """Return what makes this model unfit to serve, one sentence each; an empty list if nothing does."""
        reasons = []
        if not self.items:
            reasons.append("the vocabulary is empty")
        tensors = self._tensors()
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size > weights_bytes_max:
            reasons.append(f"the weights take {size} bytes, more than {weights_bytes_max}")
        reasons += [f"{name} holds NaN or infinity" for name, t in tensors.items() if not bool(torch.isfinite(t).all())]
        if not reasons and bool((self.table.abs().amax(dim=1) == 0).any()):
            reasons.append("an item's vector is zero")
        return reasons

    def _tensors(self) -> dict[str, Tensor]:
        weights = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        return {"items": self.table, **weights}

    def to_bytes(self) -> bytes:
        """Return the model in the safetensors format; equal models have equal bytes.

        Settings, seed, vocabulary and lineage are one JSON document in the header (one, for the order of several is not
        fixed).
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
    def from_bytes(cls, data: bytes) -> Self:
        """Return the model that `to_bytes` wrote, on the CPU. Verify the blob's hash first; then call `check`.

        Raises:
            StateUnreadable: the bytes are no model of this format, or their parts do not fit together.
        """
        try:
            header = msgspec.json.decode(data[8 : 8 + int.from_bytes(data[:8], "little")], type=_Header)
            about = msgspec.json.decode(header.metadata["headrace"], type=_About)
            tensors = load(data)
            model = cls(about.settings, about.seed, about.lineage)
            model.items, model.table = about.vocabulary, tensors.pop("items")
            model._row = {item: row for row, item in enumerate(model.items)}
            model.network.load_state_dict({name.removeprefix("network."): t for name, t in tensors.items()})
        except _UNREADABLE as error:
            raise StateUnreadable(f"not a deep model: {error}") from error
        if about.format != FORMAT:
            raise StateUnreadable(f"a deep model of format {about.format}: wanted {FORMAT}")
        if not len(model.items) == len(model._row) == len(model.table):
            raise StateUnreadable(f"{len(model.table)} item vectors do not fit {len(model._row)} different items")
        if model.table.shape[1:] != (about.settings.width,) or model.table.dtype != torch.float32:
            raise StateUnreadable(f"item vectors {tuple(model.table.shape)} do not fit the settings")
        return model


_UNREADABLE = (msgspec.MsgspecError, SafetensorError, KeyError, RuntimeError, AssertionError, UnicodeDecodeError)


class _About(msgspec.Struct):
    format: int
    settings: DeepSettings
    seed: int
    lineage: dict[str, Any]
    vocabulary: list[str]


class _Header(msgspec.Struct, rename={"metadata": "__metadata__"}):
    metadata: dict[str, str]


def pad(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return sequences packed to the left of one matrix, the rest 0, and their lengths.

    >>> [part.tolist() for part in pad([[3, 4], [5]])]
    [[[3, 4], [5, 0]], [2, 1]]
    """
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    rows = torch.zeros(len(sequences), int(lengths.max()), dtype=torch.int64)
    flat = torch.tensor([row for sequence in sequences for row in sequence])
    rows[torch.arange(rows.shape[1]) < lengths[:, None]] = flat
    return rows, lengths


def autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Compute in bfloat16 on CUDA, where it pays; leave other devices as they are."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch use `count` threads for the block (None: leave it as it is). The setting is the process's own."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
