"""The settings that define a deep model's network. They are part of its artifact."""

from typing import Final

import msgspec

temperature_min: Final = 0.03
"""Lowest temperature. Scores then differ by up to 67, a sum over two million items adds 15; float32 ends at e^88."""


class DeepSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings that define the shape and the scale of a network.

    `context` is the number of a shopper's newest items that are used; `dropout` applies to item vectors and inside the
    blocks.
    """

    width: int = 100
    layers: int = 2
    heads: int = 2
    context: int = 50
    dropout: float = 0.2
    temperature: float = 0.07

    def __post_init__(self) -> None:
        assert min(self.width, self.layers, self.heads, self.context) >= 1, "sizes must be positive"
        assert self.width % self.heads == 0, "width must be a multiple of heads"
        assert 0 <= self.dropout < 1, "dropout must be in [0, 1)"
        # At lower temperatures the exponential of a difference of scores may overflow (`learners.deep.softmax`).
        assert self.temperature >= temperature_min, f"temperature must be at least {temperature_min}"
