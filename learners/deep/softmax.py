"""The loss of a round: softmax cross-entropy over candidate items, with its gradients, one chunk of scores at a time.

On CUDA the factors of the three products are bfloat16 and their sums float32; scores, exponentials and gradients are
float32. Rounding changes a product of unit vectors by at most 2**-8, and so a score at a temperature of 0.07 by 0.06.

Letters of shapes: T predictions, C candidate rows, D width.
"""

import math
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import record_function

PRODUCTS: Final = "headrace.products"
"""Label of the softmax's products in a profile."""
_CHUNK_NUMBERS: Final = 1 << 20
"""Scores per chunk (4 MB), so that a chunk fits into the cache."""
_CHUNK_NUMBERS_CUDA: Final = 1 << 28
"""Scores per chunk on CUDA (1 GB, plus half of it in bfloat16): hundreds of predictions even with a million rows."""
ALIGNED: Final = 8
"""Row sizes of bfloat16 matrices are multiples of this (16 bytes), the alignment that tensor cores need."""


def softmax_loss(
    sessions: Tensor,
    units: Tensor,
    correction: Tensor,
    targets: Tensor,
    temperature: float,
    *,
    half: bool | None = None,
) -> Tensor:
    """Return the mean cross-entropy of the targets under softmax(sessions @ units.T / temperature + correction).

    The target's own correction is left out. Only one chunk of scores exists at a time, in a reused buffer. The
    gradients are computed in the forward pass, so that no array of size T times C is kept.

    Args:
        half: round the products' factors to bfloat16; sums and all else are float32. The default is True on CUDA only.

    Shapes:
        sessions: (T, D), units: (C, D), correction: (C,), targets: (T,) indices into units
    """
    half = sessions.device.type == "cuda" if half is None else half
    loss: Tensor = _SoftmaxLoss.apply(sessions, units, correction, targets, temperature, half)
    return loss


class _SoftmaxLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, sessions: Tensor, units: Tensor, correction: Tensor, targets: Tensor, temperature: float, half: bool
    ) -> Tensor:
        total, (size, width) = len(sessions), units.shape
        if half:
            # Padding with zeros changes no product, and padded rows, whose score is minus infinity, change no sum.
            columns, rows = -width % ALIGNED, -size % ALIGNED
            sessions = functional.pad(sessions, (0, columns)).bfloat16()
            units = functional.pad(units, (0, columns, 0, rows)).bfloat16()
            correction = functional.pad(correction, (0, rows), value=-math.inf)
        chunk = max(1, (_CHUNK_NUMBERS_CUDA if sessions.device.type == "cuda" else _CHUNK_NUMBERS) // len(units))
        buffer = torch.empty(min(chunk, total), len(units), device=sessions.device)
        grad_sessions = torch.empty_like(sessions, dtype=torch.float32)
        grad_units = torch.zeros_like(units, dtype=torch.float32)
        loss = torch.zeros((), device=sessions.device)
        for start in range(0, total, chunk):
            part, target = sessions[start : start + chunk], targets[start : start + chunk, None]
            scores = buffer[: len(part)]
            with record_function(PRODUCTS):
                if half:
                    torch.add(correction, _mm(part, units.T, scores), alpha=1 / temperature, out=scores)
                else:
                    torch.addmm(correction, part, units.T, alpha=1 / temperature, out=scores)
            scores.scatter_add_(1, target, -correction[target])
            true = scores.gather(1, target)
            # Cosines bound the scores, so no maximum need be subtracted before exp.
            scores.sub_(true).exp_()
            summed = scores.sum(dim=1, keepdim=True)
            loss += summed.log().sum()
            scores.div_(summed).scatter_add_(1, target, torch.full_like(true, -1.0))
            with record_function(PRODUCTS):
                if half:
                    rounded = scores.bfloat16()
                    _mm(rounded, units, grad_sessions[start : start + chunk])
                    grad_units += _mm(rounded.T, part)
                else:
                    torch.mm(scores, units, out=grad_sessions[start : start + chunk])
                    grad_units.addmm_(scores.T, part)
        scale = 1 / (temperature * total)
        ctx.save_for_backward(grad_sessions[:, :width].mul_(scale), grad_units[:size, :width].mul_(scale))
        return loss / total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        grad_sessions, grad_units = ctx.saved_tensors
        return grad_sessions * gradient, grad_units * gradient, None, None, None, None


def _mm(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the product of two bfloat16 matrices, accumulated and returned in float32."""
    if a.device.type == "cpu":  # the CPU has no such product; this gives the same numbers, slowly, for tests
        return torch.mm(a.float(), b.float(), out=out)
    return torch.mm(a, b, out_dtype=torch.float32, out=out)
