"""A shop's program that sends events to the gateway while faults happen, and remembers which were acknowledged."""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import httpx

from headrace.keys import create
from headrace.pseudonyms import add_secret
from headrace.spool import Spool
from tests.chaos.violation import Violation

SOURCE: Final = "chaos/gateway"
"""The source of its events."""
batch: Final = 5
pause_s: Final = 0.1
retry_s: Final = 0.3


def prepare(folder: Path) -> str:
    """Make the files that a gateway reads and writes in a folder, while its disk has room; return a key."""
    data = folder / "headrace-data"
    _, key = create(data / "keys.json", "chaos", "ingest", now_ms=0)
    add_secret(data / "pseudonyms.json", 0)
    Spool(data / "spool", bytes_max=1).close()
    return key


def address_in(text: str) -> str:
    """Return where a gateway takes events, by the last line of its output that says so; empty if none does.

    >>> address_in("gateway: takes http://127.0.0.1:1/v1/events, metrics on http://127.0.0.1:2/metrics, log x")
    'http://127.0.0.1:1'
    """
    found = re.findall(r"^gateway: takes (http://[^/]+)/", text, re.MULTILINE)
    return found[-1] if found else ""


class Sender:
    """Sends batches, each again and again with the same ids until it is acknowledged. A thread; used by one campaign.

    Args:
        address: returns where the gateway is now, empty while nobody knows.

    Attributes:
        acknowledged: ids of the events that the gateway has acknowledged.
        fault: what was wrong with an answer; empty if nothing was.
    """

    def __init__(self, key: str, address: Callable[[], str]) -> None:
        self._key, self._address = key, address
        self.acknowledged: set[str] = set()
        self.fault = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, name="sender", daemon=True)
        self._thread.start()

    def _send(self) -> None:
        number = 0
        while not self._stop.is_set() and not self.fault:
            ids = [f"g{number + one}" for one in range(batch)]
            number += batch
            data = {"items": [{"item_id": f"i{number % 30}"}]}
            body = [
                {"id": id_, "source": SOURCE, "type": "view_item", "subject": f"s{number % 50}", "data": data}
                for id_ in ids
            ]
            while not self._taken(body):
                if self._stop.wait(retry_s):
                    return
            self.acknowledged.update(ids)
            self._stop.wait(pause_s)

    def _taken(self, body: Sequence[Mapping[str, object]]) -> bool:
        address = self._address()
        if not address:
            return False
        try:
            answer = httpx.post(
                f"{address}/v1/events", json=body, headers={"authorization": f"Bearer {self._key}"}, timeout=15
            )
        except httpx.HTTPError:
            return False
        if answer.status_code in (429, 503):
            return False
        found = answer.json()
        if answer.status_code not in (200, 202) or found["accepted"] + found["repeated"] != len(body):
            self.fault = f"wanted 200 or 202 for all events, found {answer.status_code} {found}"
        return not self.fault

    def stop(self) -> None:
        """Send no more; wait for the answer that is under way.

        Raises:
            Violation: an answer was wrong.
        """
        self._stop.set()
        self._thread.join(30)
        if self.fault:
            raise Violation(f"gateway: {self.fault}")
