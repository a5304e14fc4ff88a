"""The gateway's application in a test's process, with a log in memory and small limits."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from headrace.config import GatewaySettings
from headrace.errors import LogUnavailable
from headrace.events import Event, decode
from headrace.keys import KeyRing, Role, create, look_every_s
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Log, Record
from headrace.metrics import GatewayMetrics
from headrace.pseudonyms import Pseudonyms, add_secret
from headrace.spool import Spool
from headrace.topics import EVENTS
from producers.gateway.app import Gateway, make_app
from producers.gateway.depot import Depot
from producers.gateway.doors import Doors
from producers.gateway.intake import Intake

NOW_MS: Final = 1_772_359_210_000
"""2026-03-01T10:00:10Z."""
SECRET: Final = b"shopify's"
PAGE: Final = "https://acme.example"
VIEW: Final[dict[str, Any]] = {
    "id": "e1", "type": "view_item", "subject": "ann", "time": "2026-03-01T10:00:00Z",
    "data": {"items": [{"item_id": "boots"}], "session_id": "s1"},
}  # fmt: skip
SETTINGS: Final = GatewaySettings(
    body_bytes_max=500_000, body_s_max=1, key_events_per_s=2_000, requests_max=4, key_requests_max=2,
    spool_bytes_max=2_000,
)  # fmt: skip


class Shop:
    """A gateway, its log, and its keys."""

    def __init__(self, folder: Path, settings: GatewaySettings) -> None:
        self.folder, self.log, self.away, self.s = folder, MemoryLog(clock=lambda: NOW_MS), False, 0.0
        self.log.create()
        self.keys = folder / "keys"
        self.secrets = folder / "pseudonyms"
        self.secret = add_secret(self.secrets, NOW_MS)
        self.doors = Doors(
            KeyRing(self.keys, clock=lambda: NOW_MS, seconds=lambda: self.s),
            requests_max=settings.requests_max, key_requests_max=settings.key_requests_max,
            key_events_per_s=settings.key_events_per_s, seconds=lambda: self.s,
        )  # fmt: skip
        names = Pseudonyms(self.secrets, seconds=lambda: self.s) if settings.pseudonymise else None
        self.depot = Depot(
            self._open, Spool(folder / "spool", bytes_max=settings.spool_bytes_max), patience_s=0.1, retry_s=0.01
        )
        metrics = GatewayMetrics()
        gateway = Gateway(
            self.doors, Intake(names, settings.traits), self.depot, metrics, settings, shopify_secret=SECRET,
            clock=lambda: NOW_MS,
        )  # fmt: skip
        self.app = make_app(gateway, metrics)
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://shop"
        )  # fmt: skip
        self.texts = {role: self.key(role) for role in ("ingest", "read", "operate")}

    def _open(self) -> Log:
        if self.away:
            raise LogUnavailable("the log is away")
        return self.log

    def key(self, role: str, **options: Any) -> str:
        kind: Role = msgspec.convert(role, Role)
        _, text = create(self.keys, "acme", kind, now_ms=NOW_MS, **options)
        self.s += look_every_s
        return text

    async def ask(self, method: str, path: str, body: Any = b"", role: str = "operate", **headers: str) -> Any:
        """Return the answer to a request with the key of a role; `headers` have underscores for hyphens."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        shown = {name.replace("_", "-"): value for name, value in headers.items()}
        if role:
            shown.setdefault("authorization", f"Bearer {self.texts[role]}")
        return await self.client.request(method, path, content=content, headers=shown)

    async def send(self, *documents: Any, **headers: str) -> Any:
        return await self.ask("POST", "/v1/events", list(documents), "ingest", **headers)

    def records(self, topic: str) -> list[Record]:
        return [record for place in self.log.partitions(topic) for record in self.log.newest(place, 10_000)]

    def events(self) -> list[Event]:
        """Return the events in the log, in the order of their appends to each partition."""
        found = [decode(record) for record in self.records(EVENTS)]
        assert all(isinstance(one, Event) for one in found)
        return [one for one in found if isinstance(one, Event)]


def run(folder: Path, test: Callable[[Shop], Awaitable[None]], settings: GatewaySettings = SETTINGS) -> Shop:
    """Run a test beside a gateway's depot, which has written all when this returns."""
    shop = Shop(folder, settings)

    async def both() -> None:
        writing = asyncio.create_task(shop.depot.run())
        try:
            async with shop.client:
                await test(shop)
        finally:
            shop.away = False
            shop.depot.stop()
            await writing

    asyncio.run(both())
    return shop


def refused(response: Any, status: int, code: str) -> dict[str, Any]:
    """Return the problem document of an answer, which must be one."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = response.json()
    assert found["type"] == f"urn:headrace:problem:{code}"
    assert found["status"] == status
    assert found["title"]
    assert found["detail"]
    return found


def taken(response: Any) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found
