"""The client: sends a shop's events, items and traits to a gateway, in order, from a thread of its own.

What was sent and is not answered yet waits in memory, or with `spool` on the disk. Both are bounded: what does not fit
raises `SpoolFull`. Nothing is dropped without an exception, or a count and a call of `on_refused`. A request is
repeated with the same ids until the gateway answers it, so it may arrive twice, which gateway and consumers recognise.

This package, `headrace.spool` and `headrace.errors` need no more than Python's library, so that a shop can copy them.
"""

import atexit
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from ssl import SSLContext
from typing import Any, Final, Self
from urllib.parse import quote

from headrace.client.connection import Gateway
from headrace.client.delivery import Counts, Delivery, Memory, RefusedCallback, Undelivered, log_refused
from headrace.client.entries import EVENTS, ITEMS, RefusedEntry, entry
from headrace.spool import Spool, SpoolFull

__all__ = ["Client", "Counts", "RefusedCallback", "RefusedEntry", "SpoolFull", "Undelivered", "log_refused"]

waiting_bytes_max: Final = 64 * 2**20
"""Most bytes that wait by default, in memory or on disk."""


class Client:
    """Sends events, items and traits to a gateway. Its methods may be called from several threads.

    Without `spool`, what was sent lies in memory: a process that is killed loses what was not answered. With it, `send`
    and the others return once the disk has the entry, which then survives the end of the process and of the machine: it
    is sent, in order and before anything newer, when a client with this spool runs again.

    A client belongs to the process that made it: make it after a fork. It is closed at the end of the process.

    Args:
        url: that of the gateway, such as `https://events.shop.example`; a path before `/v1` is allowed.
        key: a key of the shop that may write.
        batch_events: most entries of one request, and how many end the wait for more.
        interval_s: longest wait for more entries, in seconds.
        spool: a folder for what waits, used by one process at a time.
        spool_bytes_max: most bytes that wait, in memory or on disk.
        timeout_s: how long a connection may be silent, and how long `flush` and `close` wait by default, in seconds.
        retry_s, retry_s_max: the pause after a failure, in seconds; it doubles up to the maximum, and varies by chance.
        on_refused: called with what an answer refuses, from the client's thread. An exception of it stops the client:
            later calls raise RuntimeError.
        ssl_context: how a server is verified; by default by the system's certificates.

    Raises:
        Misconfigured: the URL, the key or the spool cannot be used, or another process uses the spool.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        batch_events: int = 100,
        interval_s: float = 1.0,
        spool: Path | str | None = None,
        spool_bytes_max: int = waiting_bytes_max,
        timeout_s: float = 10.0,
        retry_s: float = 0.5,
        retry_s_max: float = 60.0,
        on_refused: RefusedCallback = log_refused,
        ssl_context: SSLContext | None = None,
    ) -> None:
        gateway = Gateway(url, key, timeout_s, ssl_context)
        self._has_spool, self._timeout_s = spool is not None, timeout_s
        self._delivery = Delivery(
            gateway,
            Memory(bytes_max=spool_bytes_max) if spool is None else Spool(Path(spool), bytes_max=spool_bytes_max),
            batch_events=batch_events,
            interval_s=interval_s,
            retry_s=retry_s,
            retry_s_max=retry_s_max,
            on_refused=on_refused,
        )
        self._closed = False
        self._process = os.getpid()
        atexit.register(self.close)

    @property
    def counts(self) -> Counts:
        """What the gateway has answered since the client was made, and what waits."""
        return self._delivery.counts

    def send(
        self,
        event_type: str,
        shopper: str,
        *,
        items: Iterable[str | Mapping[str, Any]] | None = None,
        id: str | None = None,
        time: datetime | str | None = None,
        session_id: str | None = None,
        **data: Any,
    ) -> str:
        """Send an event and return its id, by which a repetition is recognised.

        Args:
            event_type: a name of GA4's, such as `view_item` (docs/publishing.md).
            shopper: the shop's own id; the gateway makes it pseudonymous.
            items: the lines: each an item's id, or a mapping with `item_id`, `price` and so on.
            id: by default a new one. State one, such as an order's number, if the event may be sent twice.
            time: with a zone; by default now.
            data: further fields, such as `transaction_id`.

        Raises:
            SpoolFull: too much waits, or the disk is full or failed; the event was not sent.
            TypeError, ValueError: the event is no JSON, a time has no zone, or the client is closed.
            RuntimeError: the client is of another process, or has stopped by an error.
        """
        if items is not None:
            data["items"] = [{"item_id": item} if isinstance(item, str) else item for item in items]
        if session_id is not None:
            data["session_id"] = session_id
        stated = {name: value for name, value in {"id": id, "time": time}.items() if value is not None}
        return self.send_event({**stated, "type": event_type, "subject": shopper, "data": data})

    def send_event(self, document: Mapping[str, Any]) -> str:
        """Send an event, stated as a CloudEvent, and return its id.

        Raises: as `send`.
        """
        return self.send_events([document])[0]

    def send_events(self, documents: Iterable[Mapping[str, Any]]) -> list[str]:
        """Send events, all or none of them, and return their ids; with a spool, the disk is waited for once.

        Raises: as `send`.
        """
        now = datetime.now(UTC)
        events = [{"specversion": "1.0", "id": str(uuid.uuid4()), "time": now, **document} for document in documents]
        self._add([entry(EVENTS, event) for event in events])
        return [event["id"] for event in events]

    def put_item(self, id: str, **fields: Any) -> None:
        """State an item, in place of what was stated of it before; `fields` have Google Merchant's names.

        Raises: as `send`.
        """
        self._add([entry(ITEMS, {**fields, "id": id})])

    def retire_item(self, id: str) -> None:
        """State that an item is no longer sold.

        Raises: as `send`.
        """
        self._add([entry(f"DELETE /v1/items/{quote(id, safe='')}")])

    def put_traits(self, shopper: str, **traits: Any) -> None:
        """State traits of a shopper.

        Raises: as `send`.
        """
        self._add([entry(f"PUT /v1/shoppers/{quote(shopper, safe='')}/traits", traits)])

    def flush(self, timeout_s: float | None = None) -> Counts:
        """Return once all that was sent before is answered, with what the gateway has answered.

        Raises:
            Undelivered: it did not answer in time, or does not know the key or the URL. What waits is sent further on.
            RuntimeError: the client has stopped by an error.
        """
        self._delivery.await_answers(self._timeout_s if timeout_s is None else timeout_s)
        return self.counts

    def close(self, timeout_s: float | None = None) -> None:
        """Send what waits, then stop. It may be called twice.

        With a spool, what the gateway does not take stays there for the next client, without an exception.

        Raises:
            Undelivered: there is no spool, so that what waits is lost.
            RuntimeError: the client has stopped by an error.
        """
        if self._closed or os.getpid() != self._process:
            return
        self._closed = True
        atexit.unregister(self.close)
        try:
            self._delivery.close(self._timeout_s if timeout_s is None else timeout_s, unless_failing=self._has_spool)
        except Undelivered:
            if not self._has_spool:
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _add(self, entries: Sequence[bytes]) -> None:
        if os.getpid() != self._process:
            raise RuntimeError("wanted a client that this process made, found one made before a fork")
        self._delivery.add(entries)
