"""Other drift detectors of the scorecard: River's, in this process, and those of adapters, each in its environment.

An adapter is a module of this folder that needs only its library and NumPy. It is run by the interpreter of that
library's environment, reads one JSON document from its standard input (the .npz file of each stream, the windows, the
thresholds of each detector) and writes a line of JSON for each stream: for each detector and threshold the numbers of
events up to its alarms.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.drift_streams import BINARY, CATEGORY, LOSS, NUMBER, Stream

Alarms = dict[str, dict[str, list[int]]]
"""Numbers of events up to each alarm, by detector and threshold."""

WINDOW: Final = 0.05
"""Each window that an adapter compares, as a share of the stream's events."""
REFERENCE: Final = 0.1
"""The reference, as such a share: the first events of the stream; after an alarm those from the alarm's window on."""


class Rival(NamedTuple):
    """One of River's detectors.

    Attributes:
        kinds: of the columns that it watches.
        thresholds: the default first.
        make: returns it with a threshold.
        every: it observes every so many values.
    """

    kinds: tuple[str, ...]
    thresholds: tuple[float, ...]
    make: Callable[[float], Any]
    every: int = 1


def _made(module: str, kind: str, **fixed: Any) -> Callable[[str], Callable[[float], Any]]:
    """Return a function of a parameter's name that returns a function of its value."""

    def named(parameter: str) -> Callable[[float], Any]:
        def make(value: float) -> Any:
            from river import drift
            from river.drift import binary

            return getattr({"drift": drift, "binary": binary}[module], kind)(**{parameter: value}, **fixed)

        return make

    return named


_ALL: Final = (NUMBER, CATEGORY, BINARY, LOSS)
RIVER: Final[Mapping[str, Rival]] = {
    "river ADWIN": Rival(_ALL, (0.002, 0.05, 1e-4, 1e-6, 1e-9, 1e-15), _made("drift", "ADWIN")("delta")),
    "river PageHinkley": Rival(_ALL, (50, 20, 150, 500, 2_000, 8_000), _made("drift", "PageHinkley")("threshold")),
    "river KSWIN": Rival((NUMBER, CATEGORY), (0.005, 1e-4, 1e-6), _made("drift", "KSWIN", seed=1)("alpha"), 40),
    "river HDDM_A": Rival((BINARY,), (0.001, 1e-4, 1e-6, 1e-9), _made("binary", "HDDMA")("drift_confidence")),
    "river HDDM_W": Rival((BINARY,), (0.001, 1e-4, 1e-6, 1e-9), _made("binary", "HDDMW")("drift_confidence")),
    "river DDM": Rival((BINARY,), (3.0, 2.0, 4.0, 5.0, 7.0, 10.0), _made("binary", "DDM")("drift_threshold")),
    "river EDDM": Rival((BINARY,), (0.9, 0.8, 0.7, 0.5, 0.3), _made("binary", "EDDM")("beta")),
}
"""KSWIN takes about a millisecond for a value, so it observes every fortieth."""
EVIDENTLY: Final[Mapping[str, Sequence[float]]] = {
    "evidently PSI": (0.1, 0.2, 0.3, 0.5, 1.0, 2.0),
    "evidently Jensen-Shannon": (0.1, 0.15, 0.2, 0.25, 0.3, 0.4),
    "evidently Wasserstein": (0.1, 0.05, 0.15, 0.2, 0.3, 0.5),
    "evidently KS": (0.05, 0.01, 1e-3, 1e-6, 1e-10),
    "evidently chi-square": (0.05, 1e-3, 1e-6, 1e-10, 1e-30, 1e-100),
}
ALIBI: Final[Mapping[str, Sequence[float]]] = {
    "alibi KSDrift": (0.05, 0.01, 1e-3, 1e-6, 1e-10),
    "alibi ChiSquareDrift": (0.05, 1e-3, 1e-6, 1e-10, 1e-30, 1e-100),
    "alibi MMDDrift": (0.05, 0.02, 0.01),
}
"""Thresholds of each detector, its library's default first."""
DEFAULTS: Final[dict[str, str]] = {
    **{name: f"{rival.thresholds[0]:g}" for name, rival in RIVER.items()},
    **{name: f"{of[0]:g}" for name, of in {**EVIDENTLY, **ALIBI}.items()},
}
"""The default threshold of each detector."""


def river_alarms(stream: Stream, rival: Rival, threshold: float) -> list[int]:
    """Return the numbers of events up to the alarms of a detector on any of the columns that it watches."""
    found = []
    for column in stream.columns.values():
        if column.kind in rival.kinds:
            detector = rival.make(threshold)
            binary = rival.kinds == (BINARY,)
            pairs = zip(column.events.tolist()[:: rival.every], column.values.tolist()[:: rival.every], strict=True)
            for number, value in pairs:
                detector.update(bool(value) if binary else value)
                if detector.drift_detected:
                    found.append(number)
    return sorted(found)


def adapter_alarms(
    script: str, interpreter: Path, thresholds: Mapping[str, Sequence[float]], streams: Sequence[Path]
) -> Iterator[tuple[Path, Alarms]]:
    """Yield each stream with the alarms of an adapter's detectors.

    Raises:
        RuntimeError: the adapter failed; what it wrote to its standard error is shown.
    """
    question = {
        "streams": [str(path.resolve()) for path in streams], "window": WINDOW, "reference": REFERENCE,
        "thresholds": {name.split(" ", 1)[1]: list(of) for name, of in thresholds.items()},
    }  # fmt: skip
    command = [str(interpreter), "-m", f"benchmarks.{script}"]
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    prefix = next(iter(thresholds)).split(" ", 1)[0]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root, env=environment
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(question))
        process.stdin.close()
        for path, line in zip(streams, process.stdout, strict=False):
            found = json.loads(line)
            yield path, {f"{prefix} {name}": of for name, of in found.items()}
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: ended with code {process.returncode}")
