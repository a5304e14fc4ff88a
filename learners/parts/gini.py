"""The Gini coefficient: how unequally something is shared."""

from collections.abc import Iterable


def gini(values: Iterable[float]) -> float:
    """Return how unequal values are: 0 if all are equal, near 1 if one has all.

    >>> gini([1, 1, 1, 1]), gini([0, 0, 0, 1]), gini([])
    (0.0, 0.75, 0.0)
    """
    ordered = sorted(values)
    count, total = len(ordered), sum(ordered)
    if not total:
        return 0.0
    return sum((2 * place - count - 1) * value for place, value in enumerate(ordered, 1)) / (count * total)
