"""The bytes of a deep model, read and checked without torch: by `learners.deep.model` and by `learners.deep.answering`.

The form is safetensors. Settings, seed, vocabulary and lineage are one JSON document in the header, because safetensors
does not fix the order of several header entries.

Letters of shapes: V items of the vocabulary, D width, H heads, C context.
"""

from typing import Annotated, Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from headrace.errors import StateUnreadable
from learners.deep.settings import DeepSettings

FORMAT: Final = 1
"""Version of the bytes."""
ITEMS: Final = "items"
"""Name of the item vectors."""
NETWORK: Final = "network."
"""Prefix of the names of the network's weights."""
OFFSET: Final = "ahead."
"""Prefix of the names of the training offsets."""


class Contents(NamedTuple):
    """The parts of a deep model.

    Attributes:
        row: the row of each item of the vocabulary.
        weights: the predicting weights by name, in float32.
        training_offsets: by the names of `weights`, the training weights minus the predicting weights, as the bits of
            bfloat16, a type that NumPy lacks; empty if the two are equal or training is not asked for.

    Shapes:
        weights, training_offsets: as `weight_shapes` returns
    """

    settings: DeepSettings
    seed: int
    lineage: dict[str, Any]
    vocabulary: list[str]
    row: dict[str, int]
    weights: dict[str, NDArray[np.float32]]
    training_offsets: dict[str, NDArray[np.uint16]]


class _About(msgspec.Struct):
    format: int
    settings: DeepSettings
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    lineage: dict[str, Any]
    vocabulary: list[str]


class _Header(msgspec.Struct, rename={"metadata": "__metadata__"}):
    metadata: dict[str, str]


# A header is untrusted: invalid settings can cause a division by zero, or negative or huge shapes.
_UNREADABLE = (msgspec.MsgspecError, SafetensorError, LookupError, AssertionError, ValueError, ArithmeticError)


def metadata(settings: DeepSettings, seed: int, lineage: dict[str, Any], vocabulary: list[str]) -> dict[str, str]:
    """Return the header's entry that describes a model; equal models have equal entries."""
    about = {"format": FORMAT, "settings": settings, "seed": seed, "lineage": lineage, "vocabulary": vocabulary}
    return {"headrace": msgspec.json.encode(about, order="deterministic").decode()}


def weight_shapes(settings: DeepSettings, items: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's weights by name.

    Shapes:
        items: (V, D); in the network, weights of linear layers: (to, from); recency biases: (H, C)
    """
    width, context = settings.width, settings.context

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{NETWORK}{name}.weight": (width,), f"{NETWORK}{name}.bias": (width,)}

    def linear(name: str, to: int, of: int) -> dict[str, tuple[int, ...]]:
        return {f"{NETWORK}{name}.weight": (to, of), f"{NETWORK}{name}.bias": (to,)}

    def attention(name: str, heads: int, parts: int) -> dict[str, tuple[int, ...]]:
        return {f"{NETWORK}{name}.recency": (heads, context), **linear(f"{name}.project", parts * width, width)}

    shapes: dict[str, tuple[int, ...]] = {ITEMS: (items, width)}
    for layer in range(settings.layers):
        block = f"blocks.{layer}"
        shapes |= norm(f"{block}.norm_attention") | norm(f"{block}.norm_mix")
        shapes |= attention(f"{block}.attention", settings.heads, parts=3) | linear(f"{block}.out", width, width)
        shapes |= linear(f"{block}.mix.0", 4 * width, width) | linear(f"{block}.mix.2", width, 4 * width)
    return shapes | norm("norm") | attention("pool", heads=1, parts=2)


def read(data: bytes, *, to_train: bool) -> Contents:
    """Return the parts of the model that `DeepModel.to_bytes` wrote. Verify the blob's hash before.

    Args:
        to_train: keep the training offsets, which add half the size; predictions do not need them.

    Raises:
        StateUnreadable: the bytes are not a model of this format, or their parts are inconsistent. Weights may be
            infinite or NaN (`DeepModel.check`).
    """
    try:
        header = msgspec.json.decode(data[8 : 8 + int.from_bytes(data[:8], "little")], type=_Header)
        about = msgspec.json.decode(header.metadata["headrace"], type=_About)
        tensors = dict(deserialize(data))
        vectors = tensors[ITEMS]["shape"][0]
    except _UNREADABLE as error:
        raise StateUnreadable(f"not a deep model: {error}") from error
    if about.format != FORMAT:
        raise StateUnreadable(f"a deep model of format {about.format}: wanted {FORMAT}")
    settings, vocabulary = about.settings, about.vocabulary
    row = {item: number for number, item in enumerate(vocabulary)}
    if not len(vocabulary) == len(row) == vectors:
        raise StateUnreadable(f"{vectors} item vectors do not fit {len(row)} different items")
    # The first comparison bounds the number of shapes.
    shapes = weight_shapes(settings, len(vocabulary)) if settings.layers <= len(tensors) else {}
    found = {name: (tuple(one["shape"]), one["dtype"]) for name, one in tensors.items()}
    weights = {name: kind for name, kind in found.items() if not name.startswith(OFFSET)}
    if weights != {name: (shape, "F32") for name, shape in shapes.items()}:
        raise StateUnreadable(
            f"the weights do not fit {settings.layers} layers of width {settings.width}, {settings.heads} heads and"
            f" context {settings.context}"
        )
    offsets = found.keys() - weights.keys()
    wanted = {OFFSET + name: (shape, "BF16") for name, shape in shapes.items()}
    if offsets and {name: found[name] for name in offsets} != wanted:
        raise StateUnreadable("the training offsets do not fit the weights")
    kept = shapes.items() if offsets and to_train else ()
    return Contents(
        settings, about.seed, about.lineage, vocabulary, row,
        {name: np.frombuffer(tensors[name]["data"], np.float32).reshape(shape) for name, shape in shapes.items()},
        {name: np.frombuffer(tensors[OFFSET + name]["data"], np.uint16).reshape(shape) for name, shape in kept},
    )  # fmt: skip
