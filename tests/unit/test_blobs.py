"""Blobs: content-addressed, durable, and verified before use."""

import hashlib
import os
import sys
import time
from pathlib import Path

import pytest

from headrace.errors import BlobCorrupt, BlobMissing, Misconfigured
from headrace.shard.blobs import Blobs


def test_a_blob_is_named_by_its_content(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "deep" / "blobs")
    name = blobs.put("model", b"weights")
    assert name == f"model-{hashlib.sha256(b'weights').hexdigest()}"
    assert blobs.get(name) == b"weights"
    assert blobs.put("model", b"weights") == name
    assert [path.name for path in (tmp_path / "deep" / "blobs").iterdir()] == [name]


def test_another_process_reads_a_blob(tmp_path: Path) -> None:
    name = Blobs(tmp_path).put("online", b"")
    assert Blobs(tmp_path).get(name) == b""


def test_a_missing_blob_raises_blob_missing(tmp_path: Path) -> None:
    with pytest.raises(BlobMissing, match="share that folder"):
        Blobs(tmp_path).get("model-00")


def test_a_damaged_blob_raises_blob_corrupt_and_can_be_replaced(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    name = blobs.put("model", b"weights")
    (tmp_path / name).write_bytes(b"weightz")
    with pytest.raises(BlobCorrupt):
        blobs.get(name)
    assert blobs.put("model", b"weights") == name
    assert blobs.get(name) == b"weights"


def test_sweep_keeps_other_kinds_and_the_listed_blobs(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    old = blobs.put("online", b"1")
    (tmp_path / f"{old}.99.part").write_bytes(b"")  # left by a killed process
    new, model = blobs.put("online", b"2"), blobs.put("model", b"3")
    assert blobs.sweep("online", {new}) == [old, f"{old}.99.part"]
    assert {path.name for path in tmp_path.iterdir()} == {new, model}


def test_sweep_keeps_the_blobs_of_a_successor(tmp_path: Path) -> None:
    fenced, successor = Blobs(tmp_path), Blobs(tmp_path)
    old, kept = fenced.put("online", b"1"), fenced.put("online", b"2")
    time.sleep(0.02)
    newer = successor.put("online", b"3")
    assert fenced.sweep("online", {kept}) == [old]
    assert successor.sweep("online", {newer}) == [kept]
    assert Blobs(tmp_path).sweep("online", set()) == []


def test_sweep_keeps_blobs_that_another_process_has_not_announced_yet(tmp_path: Path) -> None:
    blobs, operator = Blobs(tmp_path), Blobs(tmp_path)
    old = blobs.put("model", b"1")
    time.sleep(0.02)
    verdict_ns = time.time_ns()
    time.sleep(0.02)
    proposed = operator.put("model", b"2")
    time.sleep(0.02)
    candidate = blobs.put("model", b"3")
    assert blobs.sweep("model", {candidate}, before_ns=verdict_ns) == [old]
    assert blobs.sweep("model", {candidate}, before_ns=time.time_ns()) == [proposed]


def test_an_unreadable_blob_raises_blob_missing(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    name = blobs.put("online", b"1")
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(BlobMissing, match="cannot be read"):
        blobs.get(name)


def test_the_check_of_a_folder_leaves_no_file(tmp_path: Path) -> None:
    Blobs(tmp_path).check_writable()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: a folder where even root cannot create a file")
def test_a_folder_that_is_not_writable_is_misconfigured() -> None:
    with pytest.raises(Misconfigured, match="blobs /proc/self: wanted a folder to write to, found"):
        Blobs("/proc/self").check_writable()


def test_a_renewed_blob_is_not_swept(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    old, child = blobs.put("model", b"1"), Blobs(tmp_path).put("model", b"2")
    put_ns = (tmp_path / old).stat().st_mtime_ns
    os.utime(tmp_path / child, ns=(put_ns - 1, put_ns - 1))
    before_ns = time.time_ns()
    time.sleep(0.02)  # longer than the granularity of a file's time
    blobs.renew(child)
    assert blobs.sweep("model", (), before_ns=before_ns) == [old]


@pytest.mark.parametrize("name", ["model-1", "", ".", "../other", "model-\x00", "m" * 5_000])
def test_a_name_without_a_blob_is_a_missing_one(tmp_path: Path, name: str) -> None:
    blobs = Blobs(tmp_path / "blobs")
    with pytest.raises(BlobMissing):
        blobs.get(name)
