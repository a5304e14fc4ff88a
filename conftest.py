"""What every test run shares: the order of the tests, their spread over processes, and no skip in CI."""

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

# The suite runs in several processes, so more threads would exceed the cores. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Hypothesis' limit of 200 ms per example fails where other work holds the cores; pytest's timeout stays.
hypothesis.settings.register_profile("headrace", deadline=None)
hypothesis.settings.load_profile("headrace")

ALLOWED_SKIPS = ("needs HEADRACE_DATA", "needs a GPU", "needs a container engine")
"""Reasons for a skip that `.ci/run` cannot remedy. In CI, a skip whose reason starts with none of these fails."""
FOLDERS = ("unit", "conformance", "property", "simulation", "golden", "contract", "fault", "e2e")
"""The folders of `tests` in the order in which they run: a mistake shows in the fast tests first."""
SPREAD = ("simulation", "golden", "contract", "fault", "e2e")
"""Folders whose tests take seconds to minutes each, and so are spread over the processes one by one."""
OWN_BROKER = (
    "test_alarms.py", "test_alertmanager.py", "test_broker.py", "test_chaos.py", "test_cluster.py", "test_console.py",
    "test_determinism.py", "test_gateway_abuse.py", "test_gateway_openapi.py", "test_gorse.py",
    "test_kafka_hanging.py", "test_kafka_rights.py", "test_kafka_security.py", "test_serving_abuse.py",
    "test_serving_openapi.py",
)  # fmt: skip
"""Files in those folders whose tests share a broker, or processes, of the file's own: they stay together."""

FIRST = (
    "test_alarms.py", "test_pipeline.py", "test_kafka_rights.py", "test_upgrade.py", "test_kafka_security.py",
    "test_up.py", "test_broker.py", "test_impressions.py", "test_kafka_hanging.py", "test_crash.py",
    "test_gateway_abuse.py", "test_own_family.py", "test_serving_abuse.py", "test_monitoring.py", "test_chaos.py",
    "test_large_events.py",
    *OWN_BROKER,
)  # fmt: skip
"""Files that run before all others of `SPREAD`: the longest, so that at the end no process waits for another; those
that mostly wait for a broker beside those that compute.
"""
OUTSIDE = {"children", "kafka", "kafka_bootstrap", "kafka_options", "kafka_url"}
"""Fixtures, and a value of the parameters of logs, that start processes or a broker."""


def path_of(nodeid: str) -> Path:
    """Return the file of a test, below the project's folder."""
    return Path(nodeid.partition("::")[0])


def folder_of(path: Path) -> str:
    """Return the folder of `tests` that a file is in; `unit` for the modules, whose examples are tests."""
    return next((folder for folder in FOLDERS if folder in path.parts), FOLDERS[0])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the fast folders first, then the files in `FIRST`; mark as slow what starts a broker or a process."""
    items.sort(key=lambda item: _place(path_of(item.nodeid)))
    for item in items:
        if OUTSIDE & {*getattr(item, "fixturenames", ()), *_parameters(item)}:
            item.add_marker(pytest.mark.slow)


def _place(path: Path) -> tuple[bool, int, int]:
    """Return by what the tests of a file are sorted."""
    folder = folder_of(path)
    early = FIRST.index(path.name) if folder in SPREAD and path.name in FIRST else len(FIRST)
    return folder in SPREAD, early, FOLDERS.index(folder)


def _parameters(item: pytest.Item) -> list[str]:
    callspec = getattr(item, "callspec", None)
    return [value for value in callspec.params.values() if isinstance(value, str)] if callspec else []


class Spread(LoadScopeScheduling):  # type: ignore[misc]  # xdist is untyped
    """Gives a process the next file, or the next test of a folder in `SPREAD`, when it is about to run out of tests."""

    def _split_scope(self, nodeid: str) -> str:
        path = path_of(nodeid)
        return nodeid if folder_of(path) in SPREAD and path.name not in OWN_BROKER else str(path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Spread the tests in their order."""
    config.option.loadscopereorder = False
    return Spread(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure if `CI=true`, where `.ci/run` has to install what the test needs."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        where: Any = report.longrepr
        reason = str(where[2]).removeprefix("Skipped: ")
        if not reason.startswith(ALLOWED_SKIPS):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI, where no test may be skipped: {reason}"
    return report
