"""A real Prometheus in a test."""

import shutil
import socket
from pathlib import Path
from typing import Any

import httpx

from operators.child import Children


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Prometheus:
    """Prometheus with a configuration; its data lies in a folder."""

    def __init__(self, children: Children, config: Path, folder: Path) -> None:
        path = shutil.which("prometheus")
        assert path, "needs prometheus (Debian: prometheus)"
        listen = f"127.0.0.1:{free_port()}"
        options = ["--storage.tsdb.path", str(folder / "data"), "--web.listen-address", listen]
        self._client = httpx.Client(base_url=f"http://{listen}/api/v1", timeout=10)
        children.run("prometheus", [path, "--config.file", str(config), *options], cwd=folder)

    def ask(self, path: str, **parameters: Any) -> Any:
        """Return the data of an answer, None if there is none yet."""
        try:
            return self._client.get(path, params=parameters).json()["data"]
        except (httpx.HTTPError, KeyError, ValueError):
            return None

    def close(self) -> None:
        """End the connection to it."""
        self._client.close()
