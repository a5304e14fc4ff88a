"""What every test run shares: the order of the tests, their spread over processes, and no skip in CI."""

import gc
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.shared_broker import SharedBroker

# The suite runs in several processes, so more threads would exceed the cores. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# As in a shard (`headrace.process.collect_garbage_rarely`): a process of tests holds millions of objects, too.
gc.set_threshold(50_000, 20, 100)

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
    "test_alarms.py", "test_alarms_of_models.py", "test_alertmanager.py", "test_broker.py", "test_chaos.py",
    "test_cluster.py", "test_console.py", "test_determinism.py", "test_gateway_abuse.py", "test_gateway_openapi.py",
    "test_gorse.py",
    "test_kafka_hanging.py", "test_kafka_rights.py", "test_kafka_security.py", "test_serving_abuse.py",
    "test_serving_openapi.py",
)  # fmt: skip
"""Files in those folders whose tests share a broker, or processes, of the file's own: they stay together."""

FIRST = (
    "test_alarms.py", "test_console.py", "test_pipeline.py", "test_kafka_rights.py", "test_monitoring.py",
    "test_upgrade.py", "test_kafka_security.py", "test_up.py", "test_broker.py", "test_impressions.py",
    "test_kafka_hanging.py", "test_crash.py", "test_gateway_abuse.py", "test_own_family.py", "test_serving_abuse.py",
    "test_chaos.py", "test_large_events.py", "test_gateway.py",
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
    """Order the fast folders before the files in `FIRST`; mark as slow what starts a broker or a process."""
    items.sort(key=lambda item: _place(path_of(item.nodeid)))
    for item in items:
        if OUTSIDE & {*getattr(item, "fixturenames", ()), *_parameters(item)}:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Let no collection of garbage visit the tests, their modules and libraries again."""
    gc.collect()
    gc.freeze()


def _place(path: Path) -> tuple[bool, int, int]:
    """Return by what the tests of a file are sorted."""
    folder = folder_of(path)
    early = FIRST.index(path.name) if folder in SPREAD and path.name in FIRST else len(FIRST)
    return folder in SPREAD, early, FOLDERS.index(folder)


def _parameters(item: pytest.Item) -> list[str]:
    callspec = getattr(item, "callspec", None)
    return [value for value in callspec.params.values() if isinstance(value, str)] if callspec else []


class Spread(LoadScopeScheduling):  # type: ignore[misc]  # xdist is untyped
    """Gives a process the next file, or the next test of a folder in `SPREAD`, when it is about to run out of tests.

    A third of the processes begin with those of `SPREAD`: they wait for most of their time, while the others compute.
    """

    def _assign_work_unit(self, node: Any) -> None:
        if node in self.nodes[: len(self.nodes) // 3]:
            waiting = next((scope for scope in self.workqueue if folder_of(path_of(scope)) in SPREAD), None)
            if waiting:
                self.workqueue.move_to_end(waiting, last=False)
        super()._assign_work_unit(node)

    def _split_scope(self, nodeid: str) -> str:
        path = path_of(nodeid)
        return nodeid if folder_of(path) in SPREAD and path.name not in OWN_BROKER else str(path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Spread the tests in their order."""
    config.option.loadscopereorder = False
    return Spread(config, log)


_SHARED = pytest.StashKey[SharedBroker]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process where to ask for the broker that all of them share."""
    stash = node.config.stash
    if _SHARED not in stash:
        stash[_SHARED] = SharedBroker()
    node.workerinput["broker"] = str(stash[_SHARED].folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop that broker."""
    if shared := config.stash.get(_SHARED, None):
        shared.close()


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
