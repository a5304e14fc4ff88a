"""The demo as a user runs it; `test_pipeline` covers its processes."""

import signal
import subprocess
import time
from pathlib import Path

from operators.child import Child, headrace


def running(folder: Path) -> list[str]:
    """Return the commands of all processes that name a folder."""
    commands = subprocess.run(["ps", "-A", "-ww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in commands.splitlines() if str(folder) in line]


def test_a_demo_that_is_terminated_stops_its_processes(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    demo = Child("producer", headrace("demo", "--folder", str(folder)), tmp_path)
    try:
        while demo.code is None and not list(folder.glob("producer.log")):  # the last process that it starts
            demo.check()
            time.sleep(0.1)
        assert len(running(folder)) == 5
    finally:
        demo.request_stop()
    assert demo.wait(60) == 128 + signal.SIGTERM
    assert running(folder) == []
