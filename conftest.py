"""What every test run shares: in CI nothing is skipped."""

import os
from collections.abc import Generator
from typing import Any

import pytest

# The suite runs in two processes: more threads than cores only wait for each other. Before anyone imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

NOT_TO_BE_INSTALLED = ("needs HEADRACE_DATA", "needs a GPU", "needs a container engine")
"""What a test may wait for that `.ci/run` cannot install; a skip's reason begins with one of these, or fails in CI."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where `CI=true`: there, `.ci/run` has to install what the test needs."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        where: Any = report.longrepr
        reason = str(where[2]).removeprefix("Skipped: ")
        if not reason.startswith(NOT_TO_BE_INSTALLED):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI, where nothing is: {reason}"
    return report
