"""A gateway whose log does not answer: what it has acknowledged survives its death, and the log has it in the end."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.gateway_process import Answer, GatewayProcess, running, view

SPOOL_BYTES_MAX = 20_000


@contextmanager
def locked(gateway: GatewayProcess) -> Iterator[None]:
    """Let no process write to the log during the block."""
    with closing(sqlite3.connect(gateway.url.removeprefix("sqlite:"), isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            db.execute("ROLLBACK")


def send(gateway: GatewayProcess, id_: str) -> Answer:
    return gateway.ask("POST", "/v1/events", view(id_))


def wait_for(gateway: GatewayProcess, ids: list[str]) -> list[str]:
    """Return the ids in the log when all of these are there."""
    deadline = time.monotonic() + 60
    while not set(ids) <= set(found := gateway.event_ids()):
        assert time.monotonic() < deadline, gateway.child.text
        time.sleep(0.05)
    return found


def test_what_was_acknowledged_without_a_log_survives_a_kill(tmp_path: Path) -> None:
    acknowledged, answers = list[str](), list[Answer]()
    with running(tmp_path, spool_bytes_max=str(SPOOL_BYTES_MAX)) as gateway:
        assert send(gateway, "before").status == 200
        with locked(gateway):
            while not answers or answers[-1].status == 202:
                answers.append(send(gateway, f"e{len(answers)}"))
            acknowledged += [f"e{number}" for number in range(len(answers) - 1)]
            assert len(acknowledged) > 10
            assert (answers[-1].status, answers[-1].problem) == (503, "unavailable")
            assert int(answers[-1].headers["retry-after"]) > 0
            assert gateway.ask("GET", "/health/ready").status == 503
            assert sum(file.stat().st_size for file in (tmp_path / "spool").iterdir()) <= SPOOL_BYTES_MAX
            gateway.child.kill()
        assert gateway.event_ids() == ["before"]
    with running(tmp_path) as gateway:
        found = wait_for(gateway, acknowledged)
        assert list(dict.fromkeys(found)) == ["before", *acknowledged]
        while list((tmp_path / "spool").glob("*.spool")):
            gateway.child.check()
            time.sleep(0.01)
        answer = send(gateway, "after")
        assert answer.status in (200, 202), "on a busy machine, the log may seem away once more"
        assert json.loads(answer.body)["accepted"] == 1
        gateway.child.stop()
        assert gateway.child.code == 0
        assert gateway.event_ids()[-1] == "after"
