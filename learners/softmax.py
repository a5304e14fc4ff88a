"""The loss of a round: cross-entropy over a catalogue, with its gradients, a chunk of scores at a time.

On CUDA the three products are formed of bfloat16 numbers and summed in float32; scores, exponentials and gradients stay
float32. Rounding moves a product of unit vectors by at most 2**-8: a score at a temperature of 0.07 by 0.06.

Letters of shapes: T predictions, C rows of the catalogue, D width.
"""

import math
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import record_function

PRODUCTS: Final = "headrace.products"
"""What a profiler sees as the softmax's products."""
_CHUNK_NUMBERS: Final = 1 << 20
"""Scores held at once (4 MB): the loss works through a batch in chunks that stay in cache."""
_CHUNK_NUMBERS_CUDA: Final = 1 << 28
"""On CUDA (1 GB, and half of it again in bfloat16): even of a million rows a chunk has hundreds of predictions."""
ALIGNED: Final = 8
"""Rows of bfloat16 matrices begin at multiples of 16 bytes, which tensor cores want."""


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

    The correction of a row's own target is left out. Scores exist only a chunk at a time, in one reused buffer: the
    gradients are computed on the way forward, so nothing of size T times C is kept or allocated twice.

    Args:
        half: form the products of bfloat16 numbers, summed in float32; all else stays float32. By default on CUDA only.

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
            # Zeros beside and below change no product, and rows that score minus infinity no sum.
            beside, below = -width % ALIGNED, -size % ALIGNED
            sessions = functional.pad(sessions, (0, beside)).bfloat16()
            units = functional.pad(units, (0, beside, 0, below)).bfloat16()
            correction = functional.pad(correction, (0, below), value=-math.inf)
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
            # Cosines bound the scores, so that exp needs no maximum taken off first.
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
    """Return the product of two bfloat16 matrices, summed and kept in float32."""
    if a.device.type == "cpu":  # which has no such product: the same numbers, slowly, for tests
        return torch.mm(a.float(), b.float(), out=out)
    return torch.mm(a, b, out_dtype=torch.float32, out=out)
