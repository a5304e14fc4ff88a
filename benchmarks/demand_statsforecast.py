"""Adapter of the benchmark of demand: statsforecast's methods. They run in an environment of their own:

    python -m venv statsforecast && statsforecast/bin/pip install statsforecast==2.1.1

Each method learns from all weeks before the one that it forecasts, anew for each week.

Source: https://github.com/Nixtla/statsforecast
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def forecasts(interpreter: Path, sold: Floats, weeks: int) -> Mapping[str, Floats]:
    """Return the forecasts of each of the newest weeks one week ahead, by method. Shapes: (weeks, items)

    Args:
        interpreter: Python of the environment.
        sold: pieces. Shape (all weeks, items)

    Raises:
        subprocess.CalledProcessError: the methods failed; why is on standard error.
    """
    root = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "sold.npy"), Path(folder, "found.npz")
        np.save(asked, sold)
        command = [str(interpreter), "-m", "benchmarks.demand_statsforecast", str(asked), str(weeks), str(answered)]
        subprocess.run(command, check=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
        with np.load(answered) as found:
            return {f"statsforecast {name}": found[name] for name in found.files}


def main() -> None:
    """Forecast what the arguments name: a file of pieces, the number of weeks, and the file to write."""
    import pandas
    from statsforecast import StatsForecast, models

    asked, weeks, answered = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    sold = np.load(asked)
    all_weeks, items = sold.shape
    frame = pandas.DataFrame(
        {
            "unique_id": np.repeat(np.arange(items), all_weeks),
            "ds": np.tile(np.arange(all_weeks), items),
            "y": sold.T.reshape(-1),
        }
    )
    methods = [
        models.CrostonClassic(), models.CrostonOptimized(), models.CrostonSBA(), models.TSB(0.1, 0.1),
        models.ADIDA(), models.IMAPA(), models.SimpleExponentialSmoothingOptimized(),
        models.DynamicOptimizedTheta(), models.AutoETS(),
    ]  # fmt: skip
    cpus = len(os.sched_getaffinity(0))
    found = StatsForecast(models=methods, freq=1, n_jobs=cpus).cross_validation(
        df=frame, h=1, step_size=1, n_windows=weeks, refit=True
    )
    found = found.sort_values(["ds", "unique_id"])
    names = [column for column in found.columns if column not in ("unique_id", "ds", "cutoff", "y")]
    np.savez(answered, **{name: found[name].to_numpy(np.float64).reshape(weeks, items) for name in names})
    print(json.dumps(names), file=sys.stderr)


if __name__ == "__main__":
    main()
