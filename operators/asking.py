"""Asks a folded state as a server would: a sample of shoppers, with the promoted model where there is one."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct

from headrace.artifacts import Artifacts
from headrace.log.protocol import Log
from headrace.sampling import fraction
from headrace.shard.blobs import Blobs
from headrace.shard.journal import key_of
from headrace.surface import Now, Refused, Route
from headrace.topics import EVENTS
from learners.shop import Shop

inspected_events: Final = 1_000
"""Number of the newest events of each partition whose shoppers are sampled."""


def sampled_shoppers(log: Log, count: int, before: Mapping[str, int] | None = None) -> list[str]:
    """Return a sample of the shoppers of the newest events.

    Args:
        before: positions of partitions, by `key_of`, whose later events are not inspected.
    """
    positions = before or {}
    found = {
        record.key.decode(errors="replace")
        for place in log.partitions(EVENTS)
        for record in log.newest(place, inspected_events, before=positions.get(key_of(place)))
        if record.key
    }
    return sorted(found, key=lambda shopper: fraction(shopper, 0, "replay"))[:count]


class Asking:
    """Asks one state for a route's answers, with the promoted model where there is one."""

    def __init__(self, route: Route, name: str, shop: Shop, blobs: Blobs) -> None:
        self._route, self._shop, self._family = route, shop, shop.families[name]
        declared = self._family.surface.artifact
        current = declared.current(self._family) if declared else None
        self._artifact: Any = None
        if declared and current:
            artifacts: Artifacts[Any] = Artifacts(blobs, declared.answering, structlog.get_logger().warning)
            self._artifact = artifacts.get(current.blob)
            if self._artifact is not None and declared.refresh:
                declared.refresh(self._family, self._artifact)

    def __call__(self, query: Mapping[str, Any]) -> Struct | None:
        """Return the answer to a query, None if it is refused."""
        route, asked = self._route, msgspec.convert(query, self._route.query)
        now = Now(self._shop.time_ms, "replay", self._artifact, segments=self._shop)
        try:
            answer: Struct = route.call(self._family, asked, now)
            return answer
        except Refused:
            return None
