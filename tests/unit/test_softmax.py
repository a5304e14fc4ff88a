"""The chunked loss against torch's cross-entropy, in float32 and with rounded products."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from learners.deep import softmax
from learners.deep.settings import temperature_min
from learners.deep.softmax import softmax_loss


def problem(predictions: int, rows: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return sessions, units, correction, targets."""
    generator = torch.Generator().manual_seed(0)
    sessions, units = (torch.randn(n, width, generator=generator).requires_grad_() for n in (predictions, rows))
    correction = torch.rand(rows, generator=generator)
    return sessions, units, correction, torch.randint(rows, (predictions,), generator=generator)


def plain(sessions: Tensor, units: Tensor, correction: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return the loss by its definition."""
    own = functional.one_hot(targets, len(units)) * correction
    return functional.cross_entropy(sessions @ units.T / temperature + correction - own, targets)


@pytest.mark.parametrize("chunk", [10, 1 << 20])
def test_the_chunked_loss_is_cross_entropy(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "_CHUNK_NUMBERS", chunk)
    sessions, units, correction, targets = problem(13, 9, 8)
    wanted = plain(sessions, units, correction, targets, 0.5)
    wanted_gradients = torch.autograd.grad(wanted, [sessions, units])
    found = softmax_loss(sessions, units, correction, targets, 0.5)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found, [sessions, units]), wanted_gradients)


def test_at_the_lowest_temperature_the_worst_scores_stay_finite() -> None:
    """The true row is opposite to the session, all others equal it; a sample represents two million items."""
    sessions, units = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]] + [[1.0, 0.0]] * 999)
    correction = torch.full((1000,), math.log(2_000_000 / 999))
    loss = softmax_loss(sessions, units, correction, torch.tensor([0]), temperature_min)
    assert loss.item() == pytest.approx(2 / temperature_min + math.log(2_000_000), rel=1e-3)


@pytest.mark.parametrize("chunk", [500, 1 << 20])
@pytest.mark.parametrize(("rows", "width"), [(203, 20), (208, 24)])  # with and without padding to whole 16 bytes
def test_rounded_products_give_nearly_the_same_loss(
    chunk: int, rows: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(softmax, "_CHUNK_NUMBERS", chunk)
    sessions, units, correction, targets = problem(65, rows, width)
    sessions, units = (functional.normalize(vectors.detach(), dim=1).requires_grad_() for vectors in (sessions, units))
    exact, rounded = (softmax_loss(sessions, units, correction, targets, 0.07, half=half) for half in (False, True))
    assert exact.dtype == rounded.dtype == torch.float32
    assert exact.item() != rounded.item()
    assert rounded.item() == pytest.approx(exact.item(), abs=0.01)
    for wanted, found in zip(*(torch.autograd.grad(loss, [sessions, units]) for loss in (exact, rounded)), strict=True):
        assert found.shape == wanted.shape
        assert found.dtype == torch.float32
        assert (found - wanted).norm() < 0.01 * wanted.norm()


def test_the_product_on_other_devices_takes_bfloat16_and_returns_float32() -> None:
    """The meta device checks shapes and types of the call, which the CPU does not support."""
    a, b = (torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in ((4, 16), (8, 16)))
    out = torch.empty(4, 8, device="meta")
    assert softmax._mm(a, b.T, out) is out
    assert softmax._mm(a, b.T).dtype == torch.float32
    with pytest.raises(RuntimeError):
        softmax._mm(a, b.T, torch.empty(4, 8, dtype=torch.bfloat16, device="meta"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_loss_is_the_same() -> None:
    sessions, units, correction, targets = problem(300, 1203, 100)
    sessions, units = (functional.normalize(vectors.detach(), dim=1).requires_grad_() for vectors in (sessions, units))
    there = [vectors.detach().cuda().requires_grad_() for vectors in (sessions, units)]
    wanted = softmax_loss(sessions, units, correction, targets, 0.07, half=True)
    found = softmax_loss(there[0], there[1], correction.cuda(), targets.cuda(), 0.07)
    torch.testing.assert_close(found.cpu(), wanted, rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad(found, there), torch.autograd.grad(wanted, [sessions, units])
    for one, other in zip(*gradients, strict=True):
        assert (one.cpu() - other).norm() < 0.01 * other.norm()
