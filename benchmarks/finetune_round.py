"""Training speed of a round of the deep model, and where its time goes.

    python -m benchmarks.finetune_round --items 30000,1000000 --tokens 20000 --out FILE

A parent that knows `--items` items is read from a file and trained on seeded sessions: items by Zipf's law, lengths as
in a shop. Per size of the catalogue:

- *tokens/s*: predictions trained on per second of the whole round, reading the parent included, without a profiler;
- *loading*: the share of a second, profiled round that was spent on the parent's bytes, cutting and padding, drawing
  the sampled candidates and moving to the device. On CUDA it is the host's time, during which the device may be busy;
- *products*: the rate of the softmax's matrix products while they ran, as a share of the device's bf16 rate, which is
  that of a large square product in the same process. On a CPU they are float32, whose own rate is shown, too;
- *with all else*: the same products over the time of the whole round;
- *complete*: the products of one loss over the whole catalogue instead of sampled candidates, and that loss with all
  else.

On CUDA, seconds are wall-clock time. On a CPU, they are processor time over all cores: rates are those of one core,
independent of other load on the machine.

A round uses sampled candidates, so its products stay small for any number of items; the complete loss shows the rate of
larger ones. On CUDA, products are counted without the zeros that pad their rows.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks import report
from headrace.errors import Misconfigured
from learners.deep.model import DeepModel, DeepSettings
from learners.deep.softmax import ALIGNED, PRODUCTS, softmax_loss
from learners.deep.train import LOADING, train

length_mean: Final = 5.0
"""Mean number of items in a session."""
repeats: Final = 5
"""Repetitions of the square product; the fastest counts."""
CLOCK: Final = {"cpu": time.process_time, "cuda": time.perf_counter}
SQUARE: Final = {"cpu": 2_048, "cuda": 8_192}
"""Rows of the square product that measures a device's rate."""
COMPLETE_TOKENS: Final = {"cpu": 16, "cuda": 4_096}
"""Predictions of the complete loss."""


class Profile(NamedTuple):
    """A profiled call: seconds in total, of loading and of the products, and the operations of the products."""

    seconds: float
    loading_s: float
    products_s: float
    flop: int


def sessions_of(items: int, tokens: int, seed: int) -> list[list[str]]:
    """Return sessions with at least `tokens` predictions: items by Zipf's law, lengths geometric from 2 on."""
    rng = np.random.default_rng(seed)
    lengths = 1 + rng.geometric(1 / (length_mean - 1), tokens)
    enough = 1 + int(np.searchsorted(np.cumsum(lengths - 1), tokens))
    ends = [0, *np.cumsum(lengths[:enough]).tolist()]
    shares = np.cumsum(1 / np.arange(1, items + 1))
    drawn = rng.permutation(items)[np.searchsorted(shares, rng.random(ends[-1]) * shares[-1])]
    return [[f"i{item}" for item in drawn[begin:end].tolist()] for begin, end in pairwise(ends)]


def product_rate(device: str, kind: torch.dtype) -> float:
    """Return the operations per second of a large square product."""
    size = SQUARE[device]
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: torch.mm(a, b), device) for _ in range(repeats))


def timed(call: Callable[[], object], device: str) -> float:
    """Return the seconds until a call's work is done, including that of the device."""
    began = CLOCK[device]()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return CLOCK[device]() - began


def profiled(call: Callable[[], object], device: str) -> Profile:
    """Return the profile of a call by its labels; the seconds include the profiler's own cost."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities, record_shapes=True) as found:
        began = time.perf_counter()
        seconds = timed(call, device)
        # A profiler measures wall-clock time only.
        scale = seconds / (time.perf_counter() - began) / 1e6
    labels = [event for event in found.events() or () if event.device_type.name == "CPU"]
    loading = sum(event.cpu_time_total for event in labels if event.name == LOADING)
    products = [child for event in labels if event.name == PRODUCTS for child in products_of(event)]
    took = sum(event.device_time_total if device == "cuda" else event.cpu_time_total for event in products)
    return Profile(seconds, loading * scale, took * scale, sum(flop_of(event) for event in products))


def products_of(event: Any) -> Iterator[Any]:
    """Yield the products directly under a label."""
    return (child for child in event.cpu_children if child.name.startswith(("aten::mm", "aten::addmm")))


def flop_of(event: Any) -> int:
    """Return the number of operations of a product, from the shapes of its factors."""
    place = 0 if event.name.startswith("aten::mm") else 1
    (rows, inner), (_, columns) = event.input_shapes[place : place + 2]
    return int(2 * rows * inner * columns)


def measure(items: int, tokens: int, settings: DeepSettings, device: str, seed: int, folder: Path) -> dict[str, float]:
    """Return the figures of a round over a catalogue of `items` items, without the device's rates."""
    sessions = sessions_of(items, tokens, seed)
    parent = DeepModel(settings, seed)
    parent.grow(f"i{item}" for item in range(items))
    path = folder / "parent"
    path.write_bytes(parent.to_bytes())
    units = functional.normalize(parent.table, dim=1).to(device)
    complete = complete_loss(units, settings.temperature, device, seed)
    complete()
    of_complete = profiled(complete, device)
    del parent, units, complete

    trained = 0

    def run() -> None:
        nonlocal trained
        with record_function(LOADING):
            model = DeepModel.from_bytes(path.read_bytes())
        trained = train(model, sessions, seed=seed, passes=1, device=device).tokens

    train(None, sessions[:50], settings=settings, passes=1, device=device)  # one-time work of the device is not timed
    seconds, seen = timed(run, device), profiled(run, device)
    # Rows of bfloat16 are padded with zeros; that work does not count.
    filled = -(-settings.width // ALIGNED) * ALIGNED if device == "cuda" else settings.width
    asked = settings.width / filled
    return {
        "items": items,
        "tokens": trained,
        "seconds": seconds,
        "tokens_per_s": trained / seconds,
        "profiled_s": seen.seconds,
        "loading_share": seen.loading_s / seen.seconds,
        "products_share": seen.products_s / seen.seconds,
        "products_flop_per_s": asked * seen.flop / seen.products_s,
        "round_flop_per_s": asked * seen.flop / seconds,
        "complete_products_flop_per_s": asked * of_complete.flop / of_complete.products_s,
        "complete_flop_per_s": asked * of_complete.flop / of_complete.seconds,
    }


def complete_loss(units: torch.Tensor, temperature: float, device: str, seed: int) -> Callable[[], object]:
    """Return a call that computes one loss over the whole catalogue, with its gradients."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(len(units), (COMPLETE_TOKENS[device],), generator=generator).to(device)
    sessions, correction = units.roll(1, 0)[targets], torch.zeros(len(units), device=device)
    return lambda: softmax_loss(sessions, units, correction, targets, temperature)


def main(arguments: Sequence[str] | None) -> None:
    """Run from the command line."""
    options = _options(arguments)
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise Misconfigured("--device: torch finds no CUDA device")
    settings = DeepSettings(width=options.width)
    torch.manual_seed(options.seed)
    rates = {name: product_rate(device, kind) for name, kind in (("bf16", torch.bfloat16), ("float32", torch.float32))}
    with tempfile.TemporaryDirectory() as folder:
        rounds = [
            measure(items, options.tokens, settings, device, options.seed, Path(folder)) for items in options.items
        ]
    figures = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "width": options.width,
        "seed": options.seed,
        "rate_flop_per_s": rates,
        "rounds": rounds,
    }
    show(figures)
    report.write(options.out, figures)


def show(figures: dict[str, Any]) -> None:
    """Print a row per size of the catalogue."""
    rates = figures["rate_flop_per_s"]
    kinds = ("products", "round", "complete_products", "complete")
    rows = [
        [
            f"{of['items']:,}",
            f"{of['tokens_per_s']:,.0f}",
            f"{of['loading_share']:.1%}",
            f"{of['products_share']:.1%}",
            *(f"{of[f'{kind}_flop_per_s'] / rates['bf16']:.2%}" for kind in kinds),
            f"{of['products_flop_per_s'] / rates['float32']:.1%}",
        ]
        for of in figures["rounds"]
    ]
    shown_rates = ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in rates.items())
    columns = ["items", "tokens/s", "loading", "products' time", "products", "with all else", "complete products",
               "complete loss", "products relative to float32"]  # fmt: skip
    report.show(f"{figures['device']} ({shown_rates}): rates as shares of that of bf16", columns, rows)


def _options(arguments: Sequence[str] | None) -> Any:
    parser = report.parser("Training speed of a round of the deep model, and where its time goes.")
    parser.add_argument(
        "--items", type=_counts, default="30000,1000000", help="sizes of catalogues, separated by commas"
    )
    parser.add_argument("--tokens", type=int, default=20_000, help="approximate number of predictions of a round")
    parser.add_argument("--width", type=int, default=DeepSettings().width, help="width of the model")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def _counts(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


if __name__ == "__main__":
    report.run(main)
