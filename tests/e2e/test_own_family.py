"""docs/adding-a-learner.md works as it stands: a family in a package of one's own, from the fold to the report."""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from headrace.log.open import open_log
from operators.child import Child, Children, total
from operators.console.people import add
from producers.scenario import SimulationSettings
from producers.simulate import simulate

PAGE: Final = Path(__file__).parents[2] / "docs/adding-a-learner.md"
EVENTS: Final = 2_100
"""Number of events; scores come with each thousandth, and a chart has two of them."""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return a folder with the page's files in it."""
    blocks = re.findall(r"```\w+ file=(\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert {name for name, _ in blocks} == {"my_shop/interest.py", "test_interest.py", "headrace.toml"}
    for name, text in blocks:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def environment(package: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(package)}


def run(package: Path, *arguments: str) -> str:
    """Run a command of ours in the package's folder; return what it printed."""
    command = [str(Path(sys.executable).with_name("headrace")), *arguments]
    done = subprocess.run(
        command, cwd=package, env=environment(package), text=True, capture_output=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fill(url: str) -> None:
    """Publish events."""
    with closing(open_log(url)) as log:
        log.create()
        simulate(log, SimulationSettings(events=EVENTS, seed=5))


def answer(served: Child, path: str) -> dict[str, Any]:
    """Return an answer, with the status in place of its fields where it is no success."""
    try:
        with urllib.request.urlopen(served.address + path, timeout=10) as response:
            found: dict[str, Any] = json.load(response)
    except urllib.error.HTTPError as error:
        return {"status": error.code, "views": 0, "items": None}
    return found


def test_the_page_is_short() -> None:
    assert len(PAGE.read_text().splitlines()) <= 150


def test_the_family_passes_the_checks_that_ship(package: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_interest.py"],
        cwd=package, env=environment(package), text=True, capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_it_is_folded_snapshotted_served_and_reported(package: Path) -> None:
    common = ["--log", f"sqlite:{package / 'log.db'}"]
    blobs = ["--blobs", str(package / "blobs")]
    fill(common[1])
    often = {"HEADRACE_SHARDS__ONLINE__COMMIT_INTERVAL_S": "0.02"}  # so that a commit follows the first snapshot
    with Children(package, {"PYTHONPATH": str(package), **often}, cwd=package) as processes:
        learn = ["online", "--metrics-port", "0", "--snapshot-interval-s", "0.1", *common, *blobs]
        online = processes.start("online", *learn)
        served = processes.start("serve", "serve", "--port", "0", *common, *blobs)
        processes.wait_until("all is learned", lambda: total(online.scrape(), "headrace_events_total") >= EVENTS)
        processes.wait_until("it is snapshotted", lambda: total(online.scrape(), "headrace_snapshot_size_bytes") > 0)
        # Gauges are read from the learners now and then, later than events are counted.
        processes.wait_until(
            "gauges tell of all", lambda: total(online.scrape(), "headrace_bound_used", table="event_ids") == EVENTS
            and 0 < total(online.scrape(), "shop_interest_largest_ratio") < 1,
        )  # fmt: skip
        path = "/v1/interest/category-1"
        processes.wait_until(
            "serving has caught up", lambda: "headrace_lag_records" in str(served.scrape())
            and total(served.scrape(), "headrace_lag_records") == 0 and answer(served, path)["views"] > 0,
        )  # fmt: skip
        before = answer(served, path)
        assert EVENTS / 4 < before["views"] < EVENTS
        assert {"category", "share", "views", "fresh"} == before.keys()
        (people := package / "headrace-data/people.json").parent.mkdir(exist_ok=True)
        key = add(people, "ann", "see", now_ms=0)
        answers = ["--set", f"console.answers={served.address}"]
        console = processes.start("console", "console", "--port", "0", *answers, *common, *blobs)
        with httpx.Client(base_url=console.address, timeout=60) as browser:
            assert browser.post("/login", data={"key": key}).status_code == 303
            shown = browser.get("/pages/interest")
            assert shown.status_code == 200
            assert "How many views there were." in shown.text
            assert "views so far" in shown.text
            assert '/pages/interest"' in browser.get("/").text, "the navigation names it"
            assert browser.get("/pages/nothing").status_code == 404
        online.kill()
        again = processes.start("online", *learn)
        processes.wait_until("its gauge is back", lambda: "shop_interest_largest_ratio" in str(again.scrape()))
        assert answer(served, path)["views"] == before["views"]
    status = run(package, "status", *common)
    assert "online (stock, next_item, purchase, profiles, segments, shopper_value, demand, interest)" in " ".join(
        status.split()
    )
    assert re.search(r"all\s+[\d,]+\s+\d", status), status
    run(package, "report", "report.html", *common)
    page = (package / "report.html").read_text()
    assert "<h2>Interest</h2>" in page
    assert "share of the largest category" in page


def test_it_can_have_a_process_of_its_own(package: Path) -> None:
    with (package / "headrace.toml").open("a") as file:
        file.write('\n[shards.interest]\nfamilies = ["interest"]\npartition = 2\n')
    common = ["--log", f"sqlite:{package / 'log.db'}"]
    blobs = ["--blobs", str(package / "blobs")]
    fill(common[1])
    with Children(package, {"PYTHONPATH": str(package)}, cwd=package) as processes:
        own = processes.start("interest", "learn", "interest", "--metrics-port", "0", *common, *blobs)
        served = processes.start("serve", "serve", "--port", "0", *common, *blobs)
        processes.wait_until("all is learned", lambda: total(own.scrape(), "headrace_events_total") >= EVENTS)
        processes.wait_until("it answers", lambda: answer(served, "/v1/interest/category-1")["views"] > EVENTS / 4)
        processes.wait_until("the others do", lambda: answer(served, "/v1/recommendations/nobody")["items"] == [])
    status = run(package, "status", *common)
    assert (
        "online (stock, next_item, purchase, profiles, segments, shopper_value, demand): has never run on this log"
        in " ".join(status.split())
    )
    assert "interest (interest)" in status
