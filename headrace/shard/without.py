"""Which records a filtered replay leaves out, and what proves that these, and no others, were left out."""

from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

from msgspec import Struct, field

from headrace import items
from headrace.clock import read_time_ms
from headrace.errors import Misconfigured
from headrace.events import Event, Rejection
from headrace.log.protocol import Partition, Record
from headrace.shard.journal import key_of
from headrace.topics import EVENTS, ITEMS


class Window(NamedTuple):
    """A span of append times (ms since the epoch), without its end."""

    begin_ms: int
    end_ms: int


class Span(Struct):
    """What was left out of one partition: how many records, the first one's offset and the last one's."""

    count: int
    first: int
    last: int


class LeftOut(Struct):
    """What was left out so far.

    `digest` is a running hash over the place, key and value of each record, in the order of the journal. `trained` is
    how many of them lie before the ends up to which the promoted deep model had read its training set.
    """

    events: int = 0
    items: int = 0
    digest: str = ""
    partitions: dict[str, Span] = field(default_factory=dict)
    trained: int = 0


class Without:
    """Selects the records that are left out.

    A record is left out if one of the rules names it: its shopper, the source of its event, an item in a line of its
    event, or a window of append times. What the shop states of an item that is named is left out, too.

    Args:
        rules: each `shopper=ID`, `source=SOURCE`, `item=ID` or `window=FROM..TO`, times in ISO 8601.
        trained: for each partition of `events`, the end of what the promoted model had read (see `LeftOut.trained`).
        found: what was left out before; it is counted further.

    Raises:
        Misconfigured: a rule has another form.
    """

    def __init__(
        self, rules: Sequence[str], trained: dict[int, int] | None = None, found: LeftOut | None = None
    ) -> None:
        names: dict[str, set[str]] = {"shopper": set(), "source": set(), "item": set()}
        self._windows: list[Window] = []
        for rule in rules:
            name, _, value = rule.partition("=")
            if name == "window":
                self._windows.append(_window(rule, value))
            elif name in names and value:
                names[name].add(value)
            else:
                raise Misconfigured(f"--without {rule}: wanted shopper=ID, source=SOURCE, item=ID or window=FROM..TO")
        self._shoppers, self._sources, self._items = names["shopper"], names["source"], names["item"]
        self._trained = trained or {}
        self.found = found or LeftOut()

    def leaves_out(self, event: Event | Rejection, record: Record) -> bool:
        """Return whether a record of `events` is left out; if so, count it."""
        if not self._in_window(record.time_ms):
            if isinstance(event, Rejection):
                return False
            if not (event.shopper in self._shoppers or event.source in self._sources or self._names_item(event)):
                return False
        self.found.events += 1
        self.found.trained += record.offset < self._trained.get(record.partition, 0)
        self._add(Partition(EVENTS, record.partition), record)
        return True

    def leaves_out_item(self, record: Record) -> bool:
        """Return whether a record of `items` is left out; if so, count it."""
        if not self._items:
            return False
        found = items.decode(record)
        if isinstance(found, Rejection) or found.id not in self._items:
            return False
        self.found.items += 1
        self._add(Partition(ITEMS, record.partition), record)
        return True

    def _in_window(self, time_ms: int) -> bool:
        return any(window.begin_ms <= time_ms < window.end_ms for window in self._windows)

    def _names_item(self, event: Event) -> bool:
        return bool(self._items) and any(line.item_id in self._items for line in event.data.items)

    def _add(self, place: Partition, record: Record) -> None:
        found = self.found
        head = f"{found.digest} {key_of(place)}/{record.offset} {len(record.key or b'')} ".encode()
        found.digest = sha256(head + (record.key or b"") + (record.value or b"")).hexdigest()
        span = found.partitions.setdefault(key_of(place), Span(0, record.offset, record.offset))
        span.count, span.last = span.count + 1, record.offset


def _window(rule: str, value: str) -> Window:
    begin, dots, end = value.partition("..")
    if not dots:
        raise Misconfigured(f"--without {rule}: wanted window=FROM..TO, each a time such as 2026-01-05T10:00:00Z")
    window = Window(read_time_ms("window", begin), read_time_ms("window", end))
    if window.begin_ms >= window.end_ms:
        raise Misconfigured(f"--without {rule}: wanted a window that begins before it ends")
    return window
