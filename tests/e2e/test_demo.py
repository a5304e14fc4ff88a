"""The demo as a person meets it, but for what `test_road` shows of its processes."""

import signal
import subprocess
from pathlib import Path

from operators.child import Child


def running(folder: Path) -> list[str]:
    """Return the commands of all processes that name a folder."""
    commands = subprocess.run(["ps", "-A", "-ww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in commands.splitlines() if str(folder) in line]


def test_a_demo_that_is_told_to_end_takes_its_processes_along(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    demo = Child("producer", ["demo", "--folder", str(folder)], tmp_path)
    try:
        while demo.code is None and not list(folder.glob("producer.log")):  # the last one that it starts
            demo.check()
        assert len(running(folder)) == 5
    finally:
        demo.ask()
    assert demo.wait(60) == 128 + signal.SIGTERM
    assert running(folder) == []
