"""Adapter of the drift scorecard: Alibi Detect's detectors. It runs in an environment of its own:

    python -m venv alibi && alibi/bin/pip install "alibi-detect[torch]==0.13.0"

KSDrift watches the columns of numbers, ChiSquareDrift those of categories (without any, those of errors), each with
Bonferroni's correction, and MMDDrift an embedding of them: numbers standardised by the reference, categories by seeded
random vectors. MMDDrift takes at most `rows_max` rows of each window, evenly spaced. Without torch it raises no alarm.
"""

import sys
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import drift_windows
from benchmarks.drift_windows import Values

rows_max: Final = 300
vector_size: Final = 4
_vectors: Final = np.random.default_rng(1).normal(size=(64, vector_size))


def _stacked(values: Values, names: list[str]) -> NDArray[np.float64]:
    """Return the columns side by side; the longest are cut to the shortest, as they are of the same views."""
    rows = min(len(values[name]) for name in names)
    return np.stack([values[name][-rows:] for name in names], axis=1)


def _of(kinds: Mapping[str, str], kind: str) -> list[str]:
    return [name for name, found in kinds.items() if found == kind]


def _ks(before: Values, now: Values, kinds: Mapping[str, str], threshold: float) -> bool:
    from alibi_detect.cd import KSDrift

    names = _of(kinds, "number")
    if not names:
        return False
    found = KSDrift(_stacked(before, names), p_val=threshold).predict(_stacked(now, names))
    return bool(found["data"]["is_drift"])


def _chi_square(before: Values, now: Values, kinds: Mapping[str, str], threshold: float) -> bool:
    from alibi_detect.cd import ChiSquareDrift

    names = _of(kinds, "category") or _of(kinds, "binary")
    if not names:
        return False
    pair = [_stacked(values, names).astype(int) for values in (before, now)]
    both = np.concatenate(pair)
    seen = {place: np.unique(both[:, place]).tolist() for place in range(len(names))}
    detector = ChiSquareDrift(pair[0], p_val=threshold, categories_per_feature=seen)
    return bool(detector.predict(pair[1])["data"]["is_drift"])


def _embedded(values: Values, reference: Values, kinds: Mapping[str, str]) -> NDArray[np.float32]:
    parts = []
    for name in _of(kinds, "number"):
        spread = reference[name].std() or 1.0
        parts.append(((values[name] - reference[name].mean()) / spread)[:, None])
    parts += [_vectors[values[name].astype(int) & 63] for name in _of(kinds, "category")]
    rows = min(len(part) for part in parts)
    taken = np.linspace(0, rows - 1, min(rows, rows_max)).astype(int)
    return np.concatenate([part[-rows:][taken] for part in parts], axis=1).astype(np.float32)


_p_values: dict[Any, float] = {}


def _mmd(before: Values, now: Values, kinds: Mapping[str, str], threshold: float) -> bool:
    import torch
    from alibi_detect.cd import MMDDrift

    x, y = _embedded(before, before, kinds), _embedded(now, before, kinds)
    key = x.tobytes(), y.tobytes()
    if key not in _p_values:
        _p_values.clear() if len(_p_values) > 1_000 else None
        torch.manual_seed(1)  # the permutations do not depend on what was asked before
        _p_values[key] = float(MMDDrift(x, backend="pytorch", device="cpu").predict(y)["data"]["p_val"])
    return _p_values[key] < threshold


def main() -> None:
    """Answer the question on standard input."""
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    detectors: dict[str, drift_windows.Compare] = {"KSDrift": _ks, "ChiSquareDrift": _chi_square, "MMDDrift": _mmd}
    try:
        import torch
    except ImportError:
        print("without torch, MMDDrift raises no alarm", file=sys.stderr)
        detectors["MMDDrift"] = lambda *_: False
    else:
        torch.set_num_threads(1)
    drift_windows.answer(detectors)


if __name__ == "__main__":
    main()
