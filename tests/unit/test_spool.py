"""The spool: what it has acknowledged stays, in order, through crashes and full disks, within its bound."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from headrace import spool as module
from headrace.errors import Misconfigured
from headrace.spool import Spool, SpoolFull


def drained(spool: Spool) -> list[bytes]:
    """Return all entries, which are removed."""
    found = list[bytes]()
    while (segment := spool.first()) is not None:
        found += segment.entries
        spool.remove(segment)
    return found


def open_spool(folder: Path, bytes_max: int = 1_000_000) -> Spool:
    return Spool(folder, bytes_max=bytes_max)


def test_entries_leave_in_the_order_in_which_they_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "segment_bytes_max", 100)
    spool, sent = open_spool(tmp_path), [b"%d" % number * 7 for number in range(60)]
    for entry in sent[:50]:
        spool.add([entry])
    segment = spool.first()
    assert segment is not None
    assert segment.entries == sent[: len(segment.entries)]
    spool.add(sent[50:])  # after the first segment was read, before it is removed
    spool.remove(segment)
    assert len(spool) > 2
    assert segment.entries + drained(spool) == sent
    assert (len(spool), spool.size, spool.first()) == (0, 0, None)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    spool.close()
    spool.close()


def test_what_was_added_is_there_after_a_restart_and_goes_before_what_follows(tmp_path: Path) -> None:
    for number in range(3):
        spool = open_spool(tmp_path)
        spool.add([b"%d" % number, b""])
        spool.close()
    spool = open_spool(tmp_path)
    assert spool.size == sum(path.stat().st_size for path in tmp_path.glob("*.spool"))
    spool.add([b"3"])
    assert drained(spool) == [b"0", b"", b"1", b"", b"2", b"", b"3"]
    spool.close()


@pytest.mark.parametrize("kept", range(12))
def test_an_entry_that_a_crash_cuts_off_ends_its_segment(tmp_path: Path, kept: int) -> None:
    spool = open_spool(tmp_path)
    spool.add([b"first"])
    whole = spool.size
    spool.add([b"last"])
    spool.close()
    (path,) = tmp_path.glob("*.spool")
    os.truncate(path, whole + kept)
    spool = open_spool(tmp_path)
    spool.add([b"next"])
    assert drained(spool) == [b"first", b"next"]
    spool.close()


def test_a_killed_process_leaves_all_that_it_has_acknowledged(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\nfrom headrace.spool import Spool\n"
        "spool = Spool(pathlib.Path(sys.argv[1]), bytes_max=10**8)\nnumber = 0\n"
        "while True:\n    spool.add([b'%d' % number])\n    print(number, flush=True)\n    number += 1\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout
        seen = [int(process.stdout.readline()) for _ in range(30)]
        with pytest.raises(Misconfigured, match="found one in use"):
            open_spool(tmp_path)
        process.kill()
        seen += [int(line) for line in process.stdout.read().split()]
    spool = open_spool(tmp_path)
    found = [int(entry) for entry in drained(spool)]
    assert found[: len(seen)] == seen == list(range(len(seen)))
    assert len(found) <= len(seen) + 1
    spool.close()


def test_a_full_spool_takes_nothing_and_gives_all(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, bytes_max=40)
    spool.add([b"x" * 20])
    with pytest.raises(SpoolFull, match="wanted at most 40 bytes"):
        spool.add([b"y" * 5, b""])
    spool.add([b"z"])
    assert spool.size == 37 <= spool.bytes_max
    assert drained(spool) == [b"x" * 20, b"z"]
    spool.add([b"y" * 5, b""])
    assert drained(spool) == [b"y" * 5, b""]
    spool.close()


def test_a_disk_that_is_full_in_the_middle_of_a_write_costs_that_write_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, write = open_spool(tmp_path), os.write
    spool.add([b"before"])

    def write_some(descriptor: int, data: memoryview) -> int:
        if len(data) > 10:
            return write(descriptor, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", write_some)
    with pytest.raises(SpoolFull, match="No space left"):
        spool.add([b"lost" * 3])
    monkeypatch.setattr(os, "write", write)
    assert spool.size == sum(path.stat().st_size for path in tmp_path.glob("*.spool"))
    spool.add([b"after"])
    assert drained(spool) == [b"before", b"after"]
    assert spool.size == 0
    spool.close()


def test_a_disk_that_takes_no_file_leaves_an_empty_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, opened = open_spool(tmp_path), os.open

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SpoolFull, match="No space left"):
        spool.add([b"a"])
    monkeypatch.setattr(os, "open", opened)
    assert (len(spool), spool.size) == (0, 0)
    spool.add([b"b"])
    assert drained(spool) == [b"b"]
    spool.close()


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.spool").touch()
    with pytest.raises(Misconfigured, match="wanted a folder of spooled entries"):
        open_spool(tmp_path)
    with pytest.raises(Misconfigured, match="wanted a folder"):
        open_spool(tmp_path / "notes.spool")
