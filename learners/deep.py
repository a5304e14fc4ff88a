"""The deep model: a small causal transformer over a shopper's recent items, readable in one sitting.

A session is represented as a *weighted sum of the vectors of its items*, so it lives in the items' own space; the
transformer (`learners.network`) only decides the weights. Items and sessions are normalised to unit length and compared
by cosine over a temperature. Rounds of training are in `learners.finetune`; here is what predicts. It is not a fold: a
trained model is an artifact.

Items that came after the training are guests: while the model is in use, it knows them by their kin (`learners.kin`).

Letters of shapes: B sequences, D width, V items of the vocabulary, G guests.
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
from learners.kin import Kin
from learners.network import DeepSettings as DeepSettings
from learners.network import Network
from learners.wares import Describe

items_max: Final = 2_000_000
"""Most items of one vocabulary; `grow` admits no more."""
weights_bytes_max: Final = 2_000_000_000
"""Largest model that `DeepModel.check` accepts: what a server can hold twice while it swaps."""
guests_max: Final = 10_000
"""Most items that one model takes in beside those that it was trained on."""
FORMAT: Final = 1
"""Version of the bytes that `DeepModel.to_bytes` writes."""
_SPARE_ROWS: Final = 1_024
"""Guests for whom there is room beside those that were met together."""
_SCORE_ROWS: Final = 256
"""Prefixes scored at once: bounds the (rows, V) buffer."""
_ITEMS: Final = "items"
_AHEAD: Final = "ahead."


class DeepModel:
    """A network, the vectors of the items it knows, and where it came from.

    `items` is the vocabulary in row order, `guests` the items that came later, whose rows follow; `met` up to which
    admission a catalogue told of those. Guests are no part of the artifact, and leave when the vocabulary changes.
    `lineage` is whatever JSON the fine-tuner wrote about the model's making. One thread uses a model at a time;
    `predict` does not change it.

    What answers is a mean over rounds, what training goes on from is not (docs/decisions/0013-a-mean-over-rounds.md):
    `ahead` holds, by the names of `weights`, how far beyond them the latter lies, in bfloat16; empty where it is them.
    """

    def __init__(self, settings: DeepSettings, seed: int, lineage: dict[str, Any] | None = None) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = Network(settings)
        self.settings, self.seed = settings, seed
        self.lineage: dict[str, Any] = lineage or {}
        self.items: list[str] = []
        self.guests: list[str] = []
        self.met = 0
        self.table = torch.empty(0, settings.width)
        self.ahead: dict[str, Tensor] = {}
        self._row: dict[str, int] = {}
        self._unit: Tensor | None = None
        self._room = torch.empty(0)
        self._kin: Kin | None = None
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
        self.table = self.table.to(device)
        self.touched()
        return self

    def grow(self, items: Iterable[str]) -> int:
        """Add a row for each item that is not known yet, in the order given, and return how many were added.

        The new rows follow from the model's seed and its size alone. Items beyond `items_max` are not admitted.
        """
        self.touched()
        fresh = [item for item in dict.fromkeys(items) if item not in self._row][: items_max - len(self.items)]
        if fresh:
            generator = torch.Generator().manual_seed(self.seed + len(self.items))
            rows = torch.randn(len(fresh), self.settings.width, generator=generator) / math.sqrt(self.settings.width)
            self._row.update((item, len(self.items) + i) for i, item in enumerate(fresh))
            self.items.extend(fresh)
            self.table = torch.cat([self.table, rows.to(self.device)])
            if self.ahead:
                self.ahead[_ITEMS] = functional.pad(self.ahead[_ITEMS], (0, 0, 0, len(fresh)))
        return len(fresh)

    def shrink(self, keep: Callable[[str], bool]) -> int:
        """Drop the rows of the items that `keep` refuses, and return how many were dropped; the others keep their
        order."""
        kept = [row for row, item in enumerate(self.items) if keep(item)]
        dropped = len(self.items) - len(kept)
        self.touched()
        if dropped:
            self.items = [self.items[row] for row in kept]
            self._row = {item: row for row, item in enumerate(self.items)}
            rows = torch.tensor(kept, dtype=torch.int64)
            self.table = self.table[rows]
            if self.ahead:
                self.ahead[_ITEMS] = self.ahead[_ITEMS][rows]
        return dropped

    def weights(self) -> dict[str, Tensor]:
        """Return the weights that answer, by name: views, not copies."""
        return {_ITEMS: self.table, **{f"network.{name}": t for name, t in self.network.state_dict().items()}}

    @torch.no_grad()
    def catch_up(self) -> None:
        """Take the weights that training goes on from; nothing is ahead of them. For a model on the CPU."""
        weights = self.weights()
        for name, step in self.ahead.items():
            weights[name] += step
        self.ahead = {}
        self.touched()

    @torch.no_grad()
    def fall_back(self, before: Mapping[str, Tensor], share: float) -> None:
        """Answer by a mean of these weights (`share`) and others (the rest); training goes on from these all the same.

        Args:
            before: by the names of `weights`; of the vectors of items the first ones, the others stay where they are.
        """
        for name, weight in self.weights().items():
            old = before[name]
            step = ((1 - share) * (weight[: len(old)] - old)).bfloat16()
            self.ahead[name] = torch.zeros_like(weight, dtype=torch.bfloat16)
            self.ahead[name][: len(old)] = step
            weight[: len(old)] -= step
        self.touched()

    @torch.inference_mode()
    def meet(self, items: Iterable[str], describe: Describe) -> int:
        """Take in items that came after the training as guests, and return how many.

        Each lies where its kin does (`learners.kin`); one without kin, or beyond `guests_max`, is not taken in. What
        `describe` knows of the vocabulary is asked once, with the first guest.
        """
        fresh = [item for item in dict.fromkeys(items) if item not in self._row][: guests_max - len(self.guests)]
        if not fresh or not self.items:
            return 0
        if self._kin is None:
            self._kin = Kin(self._units(), describe(self.items))
        vectors, known = self._kin.vectors(describe(fresh))
        guests = [item for item, has_kin in zip(fresh, known.tolist(), strict=True) if has_kin]
        if guests:
            units, size = self._units(), len(self._row) + len(guests)
            if len(self._room) < size:  # with some to spare: the next guest costs no copy of the whole table
                self._room = torch.cat([units, units.new_empty(len(guests) + _SPARE_ROWS, units.shape[1])])
            self._room[len(units) : size] = vectors[torch.from_numpy(known).to(self.device)]
            self._unit = self._room[:size]
            self._row.update(zip(guests, range(len(self._row), len(self._row) + len(guests)), strict=True))
            self.guests += guests
        return len(guests)

    def rows(self, sequence: Sequence[str]) -> list[int]:
        """Return the rows of the items of a sequence that are known, in order."""
        row = self._row
        return [row[item] for item in sequence if item in row]

    def trained(self, item: str) -> bool:
        """Return whether an item is of the vocabulary."""
        return self._row.get(item, len(self.items)) < len(self.items)

    def touched(self) -> None:
        """Say that the table was changed in place; training calls it. Guests leave."""
        self._unit = self._kin = None
        self._room = torch.empty(0)
        for guest in self.guests:
            del self._row[guest]
        self.guests, self.met = [], 0

    @torch.inference_mode()
    def score_all(self, prefixes: Sequence[Sequence[str]]) -> NDArray[np.float32]:
        """Return every item's probability of being next after each prefix (oldest item first).

        Meant for benchmarks: the answer has len(prefixes) times V numbers. A prefix without a known item scores 0
        everywhere.

        Shapes:
            returns (N, V + G) float32, columns in the order of `items`, then of `guests`.
        """
        scores = np.zeros((len(prefixes), len(self._row)), np.float32)
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
        n, trained = min(n, len(self._row)), len(self.items)
        for index, part in self._scored(prefixes):
            best, rows = (found.cpu().numpy() for found in part.topk(n, dim=1))
            for i, values, found in zip(index, best, rows, strict=True):
                order = np.lexsort((found, -values))
                rows_in_order = found[order].tolist()
                named = [self.items[row] if row < trained else self.guests[row - trained] for row in rows_in_order]
                answers[i] = named, values[order]
        return answers

    def _scored(self, prefixes: Sequence[Sequence[str]]) -> Iterator[tuple[list[int], Tensor]]:
        """Yield (indices of prefixes, their probabilities over all that is known), a bounded number at once."""
        context = self.settings.context
        known = [self.rows(prefix)[-context:] for prefix in prefixes]
        # Similar lengths go together, so that little of a batch is padding.
        order = sorted((i for i, rows in enumerate(known) if rows), key=lambda i: len(known[i]))
        for start in range(0, len(order), _SCORE_ROWS):
            index = order[start : start + _SCORE_ROWS]
            session = self._sessions([known[i] for i in index])
            yield index, torch.softmax(session @ self._units().T / self.settings.temperature, dim=1)

    def _units(self) -> Tensor:
        """Return (V + G, D): where all that is known lies."""
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

    @torch.inference_mode()
    def check(self) -> list[str]:
        """Return what makes this model unfit to serve, one sentence each; an empty list if nothing does."""
        reasons = []
        if not self.items:
            reasons.append("the vocabulary is empty")
        tensors = self._tensors()
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size > weights_bytes_max:
            reasons.append(f"the weights take {size} bytes, more than {weights_bytes_max}")
        ahead = {_AHEAD + name: tensors[name] + step for name, step in self.ahead.items() if name in tensors}
        checked = {**tensors, **ahead}  # what training goes on from, too
        reasons += [f"{name} holds NaN or infinity" for name, t in checked.items() if not bool(torch.isfinite(t).all())]
        if not reasons:
            # Finite weights may be too large or too small to compute with.
            first = list(range(min(len(self.items), self.settings.context)))
            lengths = self._units()[: len(self.items)].norm(dim=1)
            if bool(((lengths - 1).abs() > 1e-3).any()):
                reasons.append("an item's vector has no direction: it is zero, or beyond what float32 can square")
            elif not bool(torch.isfinite(self._sessions([first])).all()):
                reasons.append("a session's vector is not finite")
        return reasons

    def _tensors(self) -> dict[str, Tensor]:
        return {**self.weights(), **{_AHEAD + name: step for name, step in self.ahead.items()}}

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
    def from_bytes(cls, data: bytes, *, to_train: bool = True) -> Self:
        """Return the model that `to_bytes` wrote, on the CPU. Verify the blob's hash first; then call `check`.

        Args:
            to_train: also keep what training goes on from, half as much again; answers need none of it.

        Raises:
            StateUnreadable: the bytes are no model of this format, or their parts do not fit together.
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
            steps = [name for name in tensors if name.startswith(_AHEAD)]
            ahead = {name.removeprefix(_AHEAD): tensors.pop(name) for name in steps}
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
        if ahead and {name: (step.shape, step.dtype) for name, step in ahead.items()} != wanted:
            raise StateUnreadable("what training goes on from does not fit what answers")
        model.ahead = ahead if to_train else {}
        return model


# A header is anybody's: settings that no network has divide by zero, or ask for negative or endless shapes.
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
