"""One broker for all processes of a test run: each has a cost of its own even while it idles.

The process that distributes the tests starts it once another one asks for it, and stops it at the end.
"""

import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from headrace.errors import LogUnavailable, Misconfigured
from headrace.log.broker import provide_broker, start_timeout_s

_WANTED, _ADDRESS, _FAILED = "wanted", "address", "failed"
_asked_s: Final = 0.1


class SharedBroker:
    """Starts a broker once a file in its folder says that somebody wants it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="headrace-broker-"))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._provide, daemon=True)
        self._thread.start()

    def _provide(self) -> None:
        while not (self.folder / _WANTED).exists():
            if self._ended.wait(_asked_s):
                return
        try:
            with provide_broker(self.folder / "kafka") as bootstrap:
                _say(self.folder, _ADDRESS, bootstrap)
                self._ended.wait()
        except (LogUnavailable, Misconfigured) as error:
            _say(self.folder, _FAILED, str(error))

    def close(self) -> None:
        """Stop the broker, if it runs, and delete its files."""
        self._ended.set()
        self._thread.join()
        shutil.rmtree(self.folder)


def _say(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.new").write_text(text)
    (folder / f"{name}.new").rename(folder / name)


def ask_for_broker(folder: Path) -> str:
    """Return the bootstrap servers of the shared broker of a folder. Raises LogUnavailable."""
    (folder / _WANTED).touch()
    deadline = time.monotonic() + 2 * start_timeout_s  # the jars may have to be downloaded, too
    while time.monotonic() < deadline:
        if (folder / _ADDRESS).exists():
            return (folder / _ADDRESS).read_text()
        if (folder / _FAILED).exists():
            raise LogUnavailable((folder / _FAILED).read_text())
        time.sleep(_asked_s)
    raise LogUnavailable("the shared broker did not start")
