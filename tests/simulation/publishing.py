"""The producers of a scenario, and the reader that has read everything from the beginning on."""

import random
from collections import Counter
from collections.abc import Sequence

import msgspec

from headrace.announcement import Announcement, announced
from headrace.events import Data, Event, EventType, Item, Rejection, UnusedType, at, decode, encode
from headrace.log.protocol import Outgoing, Partition, Record
from headrace.shard.journal import key_of
from headrace.topics import DEAD_LETTERS, EVENTS, ITEMS, MODELS, SCORES
from tests.simulation.folds import ONLINE, LetterId
from tests.simulation.oracle import Oracle
from tests.simulation.world import START_MS, Violation, World

KINDS: tuple[EventType | UnusedType, ...] = ("view_item", "view_item", "purchase", "login_undone", "page_view")
NOISE = (b"", b"{", b"\xff\xfe", b'{"id": "x"}', b"[" * 300, b"null")


class Publishing:
    """Publishes events and side records, and checks at the end what became of them.

    Attributes:
        read: all records of the topics that are checked, in order.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._sent: list[Outgoing] = []
        self.read: dict[Partition, list[Record]] = {}

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
                known = self.read.setdefault(place, [])
                reader = log.reader({place: known[-1].offset + 1 if known else log.first(place)})
                while found := reader.read(1_000, 0.0):
                    known += found[0][1]

    def of(self, topic: str) -> list[tuple[Partition, Record]]:
        """Return all records of a topic."""
        return [(place, one) for place, records in self.read.items() if place.topic == topic for one in records]

    def check(self, oracles: Sequence[Oracle]) -> None:
        """Check that all was learned, heard and written out exactly once."""
        self.collect()
        oracles = [oracle for oracle in oracles if oracle.notes]
        said = Counter((record.value or b"").decode() for _, record in self.of(SCORES))
        compare("outputs", said, Counter(one for oracle in oracles for one in oracle.said))
        for oracle in oracles:
            name = oracle.shard.name
            found = Counter(one for one in oracle.said if "/absorbed/" not in one)
            compare(f"{name} learned and heard", found, Counter(self._expected(oracle)))
        # What the real families reject of the side topics is not known here.
        topics = EVENTS if not any(oracle.shard is ONLINE for oracle in oracles) else ""
        ids = [msgspec.json.decode(one.value or b"", type=LetterId).id for _, one in self.of(DEAD_LETTERS)]
        found, wanted = (Counter(id_ for id_ in some if id_.startswith(topics)) for some in (ids, self._bad()))
        compare("dead letters", found, wanted)

    def _expected(self, oracle: Oracle) -> set[str]:
        name, events = oracle.shard.name, [decode(record) for _, record in self.of(EVENTS)]
        learned = {one.id for one in events if isinstance(one, Event) and one.type != "login_undone"}
        heard = [
            f"{name}/heard/{key_of(place)}/{one.offset}"
            for topic in oracle.shard.hears
            for place, one in self.of(topic)
            if topic != MODELS or announced(one)
        ]
        return {f"{name}/learned/{id_}" for id_ in learned} | set(heard)

    def _bad(self) -> list[str]:
        origins = []
        for place, one in self.of(EVENTS):
            found = decode(one)
            if isinstance(found, Rejection) and found.reason != "unused":
                origins.append(f"{key_of(place)}/{one.offset}")
        bad = [f"{key_of(place)}/{one.offset}" for place, one in self.of(MODELS) if announced(one) is None]
        return origins + (bad if MODELS in ONLINE.hears else [])


def compare(what: str, found: Counter[str], wanted: Counter[str]) -> None:
    """Check that two multisets are equal.

    Raises:
        Violation: what is missing, and what is too many.
    """
    missing, excess = sorted((wanted - found).elements()), sorted((found - wanted).elements())
    if missing or excess:
        raise Violation(f"{what}: missing {len(missing)} {missing[:5]}, too many {len(excess)} {excess[:5]}")
