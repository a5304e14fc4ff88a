"""Backup of a shop whose log is on Kafka: blobs and pointers, and what is said of the rest."""

from contextlib import closing
from pathlib import Path

import pytest

from headrace.errors import Misconfigured
from headrace.log.open import open_log
from headrace.shard.blobs import Blobs
from headrace.shard.loop import Loop
from learners.shop import MakeShop
from operators.backup import back_up, restore
from operators.deployment import read_deployment
from operators.trimming import trim_file
from tests.filed_shop import QUICK, SHARD, publish, step


def silent(task: str, done: int, total: int) -> None:
    pass


def test_blobs_and_pointers_are_restored_beside_the_log_that_stayed(kafka_url: str, tmp_path: Path) -> None:
    deployment = read_deployment(log=kafka_url, blobs=str(tmp_path / "blobs"))
    make = MakeShop(deployment.placement("online").kinds, deployment.sections)
    with closing(open_log(kafka_url)) as log:
        log.create()
        with closing(Loop(log, Blobs(tmp_path / "blobs"), SHARD, make=make, settings=QUICK)) as loop:
            for first in (0, 50):
                publish(log, 50, first)
                step(loop, first + 50)
            loop.run(lambda: True)
            entries, position = loop.number, loop._positions
        found = back_up(deployment, tmp_path / "backup", silent, verified=False, dry_run=False)
        assert not found.has_log
        assert found.shards["online"].entry == entries - 1
        assert (
            "Kafka must keep these topics by its own means: events, impressions, items, traits, rules" in found.text()
        )
        with pytest.raises(Misconfigured, match="--verify: wanted a log in a file, found kafka"):
            back_up(deployment, tmp_path / "verified", silent, verified=True, dry_run=False)

        there = read_deployment(log=kafka_url, blobs=str(tmp_path / "there"))
        restore(there, tmp_path / "backup", silent, verified=False, dry_run=False)
        with closing(Loop(log, Blobs(tmp_path / "there"), SHARD, make=make, settings=QUICK)) as loop:
            assert (loop.number, loop._positions) == (entries, position)
        elsewhere = read_deployment(log=f"sqlite:{tmp_path / 'log.db'}", blobs=str(tmp_path / "elsewhere"))
        with pytest.raises(Misconfigured, match="wanted the log on Kafka that it belongs to"):
            restore(elsewhere, tmp_path / "backup", silent, verified=False, dry_run=False)
        with pytest.raises(Misconfigured, match="trim: wanted a log sqlite:PATH, found kafka"):
            trim_file(log, deployment, lambda done, total: None, dry_run=True, vacuum=False)
