"""Conformance checks, part of the package: run them on a learner or a family of your own.

for check in CHECKS:
    check(next_item(MyLearner, items_max=64))

for check in (*CHECKS, *FAMILY_CHECKS):
    check(family(MyFamily, right=...))
"""

from learners.checks.event import event
from learners.checks.family import FAMILY_CHECKS, family
from learners.checks.next_item import next_item
from learners.checks.problem import CHECKS, Problem

__all__ = ["CHECKS", "FAMILY_CHECKS", "Problem", "event", "family", "next_item"]
