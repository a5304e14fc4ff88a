"""The deep model's network: from the vectors of a session's items to the session's vector after each of them.

Source: Hou et al., CORE (SIGIR 2022), section 3: representation-consistent encoder. Unlike there, ours is causal, so
that every position of a session is a prediction, and its weights come from one attention step with learned recency
biases, not from a query-free softmax. Gupta et al., NISER (2019): normalised vectors and a temperature against
popularity bias.

Letters of shapes: B sequences, L positions, D width, H heads.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from learners.deep.settings import DeepSettings


class Attention(nn.Module):
    """Causal attention whose logits have a learned bias for each distance in steps."""

    def __init__(self, settings: DeepSettings, heads: int, values: bool) -> None:
        super().__init__()
        self.heads, self.values = heads, values
        self.project = nn.Linear(settings.width, (3 if values else 2) * settings.width)
        self.recency = nn.Parameter(torch.zeros(heads, settings.context))

    def weights(self, query: Tensor, key: Tensor) -> Tensor:
        """Return the attention weights of each position over the positions up to itself.

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
        """Return the weights (B, H, L, L) and, if this attention has values, the weighted values (B, L, D)."""
        batch, length, width = x.shape
        parts = self.project(x).view(batch, length, -1, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = self.weights(parts[0], parts[1])
        if not self.values:
            return weights, None
        gathered: Tensor = (weights @ parts[2]).transpose(1, 2).reshape(batch, length, width)
        return weights, gathered


class Block(nn.Module):
    """One transformer layer with pre-normalisation."""

    def __init__(self, settings: DeepSettings) -> None:
        super().__init__()
        width = settings.width
        self.norm_attention, self.norm_mix = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(settings, settings.heads, values=True)
        self.out = nn.Linear(width, width)
        self.mix = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, D) to (B, L, D); position l depends on the positions up to l."""
        x = x + self.dropout(self.out(self.attention(self.norm_attention(x))[1]))
        mixed: Tensor = x + self.dropout(self.mix(self.norm_mix(x)))
        return mixed


class Network(nn.Module):
    """Maps the vectors of a session's items to the session's vector after each item.

    Sequences are padded on the right. A causal network does not use positions to the right, so padding needs no mask.
    Positions enter only as distances.
    """

    def __init__(self, settings: DeepSettings) -> None:
        super().__init__()
        self.settings = settings
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(settings.width)
        self.pool = Attention(settings, 1, values=False)

    def forward(self, items: Tensor) -> Tensor:
        """Return the session's vector after each item.

        Shapes:
            items: (B, L, D) unit vectors; returns (B, L, D) unit vectors, each a weighted sum of the items up to there.
        """
        items = self.dropout(items)
        # The entries of a unit vector are about 1 / sqrt(D); the blocks expect about 1.
        x = items * math.sqrt(items.shape[2])
        for block in self.blocks:
            x = block(x)
        # The sum has no further term: any free term of the transformer, however small, overfitted the training sessions
        # and lost 5 points of Recall@20 on the following week (DIGINETICA).
        weights = self.pool(self.norm(x))[0].squeeze(1)
        return functional.normalize(weights @ items, dim=-1)
