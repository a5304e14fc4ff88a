"""Sample ratio: whether arms got their planned shares of shoppers, tested after every shopper.

If they did not, something assigns or loses shoppers by their arm, and no difference between arms can be trusted.

Under the planned shares, the *evidence* is a product of factors with mean 1: of each shopper, the probability of the
arm by a Dirichlet prior and the counts so far, divided by its planned share. It reaches 1 / alpha at some time with a
probability of at most alpha (Ville). The prior's mean is the plan and it counts like `prior_shoppers` shoppers, so that
the evidence bets on shares close to the plan. Only proportions among arms are tested: how many shoppers take part may
change, for example when an experiment is ramped up.

A defect that begins late is found late: its shoppers are judged together with those before.

Source: Lindon and Malek, "Anytime-valid inference for multinomial count data" (NeurIPS 2022). There every prior is
possible; here it is the plan with a fixed weight.
"""

from collections.abc import Sequence
from typing import Any, Final, Self

prior_shoppers: Final = 1_000.0
"""How much the plan weighs against the counts. Of 2 to 30,000, values from 1,000 to 3,000 find 49 % instead of 50 %
earliest; larger ones take longer for larger defects."""
_evidence_max: Final = 1e300
"""The evidence is kept within 1 / this and this. Raising it adds 1e-300 per shopper to the probability of an alarm."""


class SampleRatio:
    """The test of one experiment.

    >>> ratio = SampleRatio([0.5, 0.5])
    >>> for shopper in range(3_000):
    ...     ratio.add(shopper % 5 % 2)  # arm 1 gets 40 %
    >>> ratio.counts, ratio.p_value < 0.001
    ([1800, 1200], True)

    Args:
        shares: planned share of each arm; they sum to 1.

    Attributes:
        counts: shoppers of each arm.
        evidence: against the planned shares, as of now; it begins at 1.
        evidence_max: the highest evidence so far.

    Raises:
        ValueError: there are fewer than two arms, a share is not above 0, or they do not sum to 1.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        if len(shares) < 2 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
            raise ValueError(f"shares: wanted at least two above 0 that sum to 1, found {list(shares)}")
        self._shares = list(shares)
        self.counts = [0] * len(shares)
        self._shoppers = 0
        self.evidence = self.evidence_max = 1.0

    def add(self, arm: int) -> None:
        """Count a shopper, by the number of the arm."""
        share = self._shares[arm]
        factor = (prior_shoppers * share + self.counts[arm]) / ((prior_shoppers + self._shoppers) * share)
        self.counts[arm] += 1
        self._shoppers += 1
        self.evidence = min(_evidence_max, max(1 / _evidence_max, self.evidence * factor))
        self.evidence_max = max(self.evidence_max, self.evidence)

    @property
    def p_value(self) -> float:
        """The least alpha at which the shares would have been refuted so far."""
        return 1 / self.evidence_max

    def state(self) -> dict[str, Any]:
        """Return all data of the test."""
        return {
            "shares": list(self._shares), "counts": list(self.counts),
            "evidence": self.evidence, "evidence_max": self.evidence_max,
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Return a test that continues exactly where `state` was taken."""
        ratio = cls(state["shares"])
        ratio.counts = list(state["counts"])
        ratio._shoppers = sum(ratio.counts)
        ratio.evidence, ratio.evidence_max = state["evidence"], state["evidence_max"]
        return ratio
