"""Adapter of the drift scorecard: Evidently's column drift. It runs in an environment of its own:

    python -m venv evidently && evidently/bin/pip install evidently==0.7.23 "pandas<3"

(0.7.23 imports what pandas 3 no longer has.) A column drifts if its score passes the threshold; one column is enough.
"""

from collections.abc import Mapping
from typing import Any, Final

from benchmarks import drift_windows
from benchmarks.drift_windows import Compare, Values

SUITED: Final = {
    "PSI": ("psi", ("number", "category", "binary")),
    "Jensen-Shannon": ("jensenshannon", ("number", "category", "binary")),
    "Wasserstein": ("wasserstein", ("number",)),
    "KS": ("ks", ("number",)),
    "chi-square": ("chisquare", ("category", "binary")),
}
"""Evidently's name of each test, and the kinds of columns that it is for."""


def _compare(name: str, tests: Mapping[str, Any], types: Any, frame: Any) -> Compare:
    test, suited = SUITED[name]

    def compare(before: Values, now: Values, kinds: Mapping[str, str], threshold: float) -> bool:
        for column, kind in kinds.items():
            if kind in suited:
                number = kind == "number"
                pair = (frame(values[column].astype(float if number else int)) for values in (before, now))
                if tests[test](*pair, types.Numerical if number else types.Categorical, threshold).drifted:
                    return True
        return False

    return compare


def main() -> None:
    """Answer the question on standard input."""
    import warnings

    import pandas
    from evidently.legacy.calculations import stattests
    from evidently.legacy.core import ColumnType

    warnings.filterwarnings("ignore")
    tests = {
        test: getattr(stattests, f"{attribute}_stat_test")
        for test, attribute in (
            ("psi", "psi"), ("jensenshannon", "jensenshannon"), ("wasserstein", "wasserstein"), ("ks", "ks"),
            ("chisquare", "chi"),
        )
    }  # fmt: skip
    drift_windows.answer({name: _compare(name, tests, ColumnType, pandas.Series) for name in SUITED})


if __name__ == "__main__":
    main()
