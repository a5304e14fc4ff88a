"""Blobs: content-addressed, durable, verified before they are used."""

import hashlib
import sys
import time
from pathlib import Path

import pytest

from headrace.blobs import Blobs
from headrace.errors import BlobCorrupt, BlobMissing, Misconfigured


def test_a_blob_is_named_by_its_content(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "deep" / "blobs")
    name = blobs.put("model", b"weights")
    assert name == f"model-{hashlib.sha256(b'weights').hexdigest()}"
    assert blobs.get(name) == b"weights"
    assert blobs.put("model", b"weights") == name
    assert [path.name for path in (tmp_path / "deep" / "blobs").iterdir()] == [name]


def test_another_process_finds_it(tmp_path: Path) -> None:
    name = Blobs(tmp_path).put("online", b"")
    assert Blobs(tmp_path).get(name) == b""


def test_a_missing_blob(tmp_path: Path) -> None:
    with pytest.raises(BlobMissing, match="share that folder"):
        Blobs(tmp_path).get("model-00")


def test_a_damaged_blob(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    name = blobs.put("model", b"weights")
    (tmp_path / name).write_bytes(b"weightz")
    with pytest.raises(BlobCorrupt):
        blobs.get(name)
    assert blobs.put("model", b"weights") == name
    assert blobs.get(name) == b"weights"


def test_sweep_keeps_other_kinds_and_what_it_is_told(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    old = blobs.put("online", b"1")
    (tmp_path / f"{old}.99.part").write_bytes(b"")  # what a killed process left
    new, model = blobs.put("online", b"2"), blobs.put("model", b"3")
    assert blobs.sweep("online", {new}) == [old, f"{old}.99.part"]
    assert {path.name for path in tmp_path.iterdir()} == {new, model}


def test_sweep_leaves_what_a_successor_has_put(tmp_path: Path) -> None:
    fenced, successor = Blobs(tmp_path), Blobs(tmp_path)
    old, kept = fenced.put("online", b"1"), fenced.put("online", b"2")
    time.sleep(0.02)
    newer = successor.put("online", b"3")
    assert fenced.sweep("online", {kept}) == [old]
    assert successor.sweep("online", {newer}) == [kept]
    assert Blobs(tmp_path).sweep("online", set()) == []


def test_sweep_leaves_what_somebody_put_and_has_not_told_of(tmp_path: Path) -> None:
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


def test_a_blob_that_cannot_be_read_is_missing(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    name = blobs.put("online", b"1")
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(BlobMissing, match="cannot be read"):
        blobs.get(name)


def test_a_folder_is_checked_without_leaving_anything(tmp_path: Path) -> None:
    Blobs(tmp_path).check_writable()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: a folder where root can make no file either")
def test_a_folder_that_cannot_be_written_to() -> None:
    with pytest.raises(Misconfigured, match="blobs /proc/self: wanted a folder to write to, found"):
        Blobs("/proc/self").check_writable()
