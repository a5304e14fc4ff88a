"""The producers of a scenario, and the reader that has read everything from the beginning on."""

import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from operator import attrgetter

import msgspec

from headrace.announcement import Announcement, announced
from headrace.events import Data, Event, EventType, Item, Rejection, UnusedType, at, decode, encode
from headrace.log.protocol import Outgoing, Partition, Record
from headrace.shard.journal import key_of
from headrace.topics import DEAD_LETTERS, EVENTS, ITEMS, MODELS, SCORES
from tests.simulation.folds import ONLINE, RecordId
from tests.simulation.oracle import Oracle, era_of
from tests.simulation.world import START_MS, Violation, World

KINDS: tuple[EventType | UnusedType, ...] = ("view_item", "view_item", "purchase", "login_undone", "page_view")
NOISE = (b"", b"{", b"\xff\xfe", b'{"id": "x"}', b"[" * 300, b"null")


class Publishing:
    """Publishes events and side records, and checks at the end what became of them.

    Attributes:
        read: all records of the topics that are checked, in order, by partition and era.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._sent: list[Outgoing] = []
        self.read: dict[tuple[Partition, int], list[Record]] = {}

    def publish(self) -> None:
        """Append a few records."""
        world, rng = self._world, self._world.rng
        for _ in range(rng.randrange(1, 7)):
            self._append(self._event(rng))
            if world.strikes("event twice"):
                self._append(rng.choice(self._sent[-20:]))
            if world.strikes("side record"):
                self._append(self._side_record(rng))

    def _event(self, rng: random.Random) -> Outgoing:
        number = len(self._sent)
        shopper = f"s{rng.randrange(8)}"
        if self._world.strikes("garbage"):
            return Outgoing(EVENTS, shopper.encode(), rng.choice(NOISE))
        late_ms = rng.choice((0, 0, 50, 5_000, 3_600_000))
        time = at(START_MS + self._world.now_us // 1_000 - late_ms)
        kind = rng.choice(KINDS)
        data = Data(items=[Item(f"i{rng.randrange(9)}")]) if kind in ("view_item", "purchase") else Data()
        return Outgoing(EVENTS, shopper.encode(), encode(Event(f"e{number}", "sim", kind, time, data, "1.0", shopper)))

    def _side_record(self, rng: random.Random) -> Outgoing:
        if rng.random() < 0.3:
            return Outgoing(rng.choice((MODELS, ITEMS)), b"noise", rng.choice(NOISE), 0)
        if rng.random() < 0.5:
            return Outgoing(ITEMS, b"i1", b'{"item_id": "i1"}', 0)
        return Announcement(id=f"ann/{len(self._sent)}", kind="requested", round=0, at_events=0, time_ms=0).record()

    def _append(self, record: Outgoing) -> None:
        self._sent.append(record)
        log, world = self._world.log, self._world
        ends = {place: log.end(place) for place in log.partitions(record.topic)}
        appender = log.appender()
        appender.append(record)
        for place, end in ends.items():
            if log.end(place) > end and world.strikes("hide", place.topic):
                world.hide(place, end)

    def collect(self) -> None:
        """Read what is new. Called before anything is deleted."""
        log = self._world.log
        for topic in (EVENTS, ITEMS, MODELS, SCORES, DEAD_LETTERS):
            for place in log.partitions(topic):
                known = self.read.setdefault((place, era_of(topic, self._world.era)), [])
                reader = log.reader({place: max(known[-1].offset + 1 if known else 0, log.first(place))})
                while found := reader.read(1_000, 0.0):
                    known += found[0][1]

    def of(self, topic: str) -> list[tuple[Partition, Record]]:
        """Return all records of a topic."""
        return [(place, one) for (place, _), records in self.read.items() if place.topic == topic for one in records]

    def check(self, oracles: Sequence[Oracle]) -> None:
        """Check that all was learned, heard and written out exactly once, or as often as accepted losses have it."""
        self.collect()
        (quarantine,) = (oracle for oracle in oracles if oracle.shard.number == ONLINE.number)
        noted = [oracle for oracle in oracles if oracle.notes]
        texts = [(record.value or b"").decode() for _, record in self.of(SCORES)]
        # The real families write scores each thousand events, which only a few seeds reach.
        scores = Counter(msgspec.json.decode(text, type=RecordId).id for text in texts if text.startswith("{"))
        compare("scores", scores, Counter(set(scores)))
        said = Counter(text for text in texts if not text.startswith("{"))
        compare("outputs", said, Counter(one for oracle in noted for one in oracle.said))
        for oracle in noted:
            found = Counter(one for one in oracle.said if "/absorbed/" not in one)
            compare(f"{oracle.shard.name} learned and heard", found, self._expected(oracle, found))
        # What the real families reject of the side topics is not known here.
        topics = "" if quarantine.shard is ONLINE else EVENTS
        ids = [msgspec.json.decode(one.value or b"", type=RecordId).id for _, one in self.of(DEAD_LETTERS)]
        wanted = Counter({id_: count for id_, count in self._bad(quarantine).items() if id_.startswith(topics)})
        compare("dead letters", Counter(id_ for id_ in ids if id_.startswith(topics)), wanted)

    def _applied(self, oracle: Oracle, topic: str) -> Iterator[tuple[Partition, Record, int]]:
        """Yield each record of a topic, and how often it must have been applied: once, where no loss was accepted."""
        counts: Counter[tuple[Partition, int, int]] = Counter()
        for place, era, start, end in oracle.applied if oracle.jumps else ():
            records = self.read.get((place, era), [])
            first, last = (bisect_left(records, at, key=attrgetter("offset")) for at in (start, end))
            counts.update((place, era, record.offset) for record in records[first:last])
        for (place, era), records in self.read.items():
            for record in records if place.topic == topic else ():
                left_out = oracle.left_out(place, era, record.offset)
                yield place, record, max(counts[place, era, record.offset], not left_out)

    def _expected(self, oracle: Oracle, found: Counter[str]) -> Counter[str]:
        """Return how often the fold must have learned and heard each. An event that is read again may be a repeat."""
        name, wanted, learned = oracle.shard.name, Counter[str](), Counter[str]()
        for topic in oracle.shard.hears:
            for place, record, times in self._applied(oracle, topic):
                if topic != MODELS or announced(record):
                    wanted[f"{name}/heard/{key_of(place)}/{record.offset}"] = times
        for _, record, times in self._applied(oracle, EVENTS):
            event = decode(record)
            if isinstance(event, Event) and event.type != "login_undone" and times:
                learned[f"{name}/learned/{event.id}"] += times
        for one, times in learned.items():
            wanted[one] = min(max(1, found[one]), times) if oracle.jumps else 1
        return wanted

    def _bad(self, oracle: Oracle) -> Counter[str]:
        wanted = Counter[str]()
        for place, record, times in self._applied(oracle, EVENTS):
            found = decode(record)
            if isinstance(found, Rejection) and found.reason != "unused":
                wanted[f"{key_of(place)}/{record.offset}"] += times
        for place, record, times in self._applied(oracle, MODELS):
            if announced(record) is None:
                wanted[f"{key_of(place)}/{record.offset}"] += times
        return wanted


def compare(what: str, found: Counter[str], wanted: Counter[str]) -> None:
    """Check that two multisets are equal.

    Raises:
        Violation: what is missing, and what is too many.
    """
    missing, excess = sorted((wanted - found).elements()), sorted((found - wanted).elements())
    if missing or excess:
        raise Violation(f"{what}: missing {len(missing)} {missing[:5]}, too many {len(excess)} {excess[:5]}")
