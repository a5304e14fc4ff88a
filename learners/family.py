"""The base classes of a family: learners of one kind that are folded, snapshotted, served and reported together.

A family is a pure fold over a shop's events (`Family`) and a declaration of what it needs from the processes
(`headrace.surface.Surface`). `learners.shop` folds families, `learners.families` lists ours, and a family of your own
is named in `headrace.toml`; docs/adding-a-learner.md adds one. `learners.checks` checks what each family must obey.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, Literal, NamedTuple, Protocol, Self, runtime_checkable

import msgspec
from msgspec import Struct

from headrace.artifacts import Artifacts
from headrace.drift import Moved
from headrace.events import Event, Item, Rejection
from headrace.log.protocol import Outgoing, Record
from headrace.state import State
from headrace.surface import Surface, Watched
from headrace.topics import ALARMS
from learners.parts.drift import Alarm

Merging = Literal["exactly", "approximately", "not"]


class Merges(Struct, frozen=True):
    """Whether a family can be sliced by partitions of `events`, so that each of two folds learns half of the shoppers.

    State that is kept `per_shopper` splits by itself. State that is kept per item or for the whole shop merges
    `exactly` (`merge` of two halves gives the state of the whole), `approximately` (answers differ by at most `bound`,
    whose meaning is in `why`) or `not` (then the family is never sliced). The conformance suite checks the first two.
    """

    how: Merging
    per_shopper: str
    why: str
    bound: float = 0.0


class Part(NamedTuple):
    """One part of a family's state: a key of the dictionary that `Family.state` returns, with bytes of its own.

    `version` is the version of its bytes: raise it when they change. `migrations` has, for an older version, the
    function that returns the state of the next version; it must not change its argument. A part that cannot be
    restored begins empty, and so do those that `need` it, because they refer to it.
    """

    version: int = 1
    migrations: Mapping[int, Callable[[Any], Any]] = {}
    needs: tuple[str, ...] = ()


EVERY_SHARD: Final = ""
"""The shard of a family that each shard folds for itself."""
WHOLE: Final = "state"
"""The name of the only part of a family that declares none: its whole state."""


class AlarmRecord(Struct, frozen=True, omit_defaults=True):
    """A record of `alarms`: the detector, its score and threshold, and the alarm's event count and event time.

    `moved` is what moved most; `silenced` is why a person did not want to be told.
    """

    id: str
    detector: str
    score: float
    threshold: float
    events: int
    time_ms: int
    moved: tuple[Moved, ...] = ()
    silenced: str = ""


class Move(NamedTuple):
    """A session that turned out to be another shopper's: what is kept of it for one shopper moves to the other.

    A guest logged in or, if `taken_back`, a login turned out to be another person's, and the session is the guest's.
    """

    from_shopper: str
    to_shopper: str
    session_id: str
    taken_back: bool = False


class Moment:
    """The position of the fold, and the outbox of its families. One per shop, updated before each call.

    Attributes:
        events: events learned so far, the one being learned included.
        time_ms: the shop's time.
        moves: moves of sessions that take effect before the event being prepared is learned.
        items: what the shop states anew of items, before the families are told.
        partition, offset: position of the record that is being learned.
        alarms: number of alarms so far, by detector.
    """

    __slots__ = ("_outbox", "alarms", "events", "items", "moves", "offset", "partition", "time_ms")

    def __init__(self, detectors: Mapping[str, int]) -> None:
        self.events = self.time_ms = self.partition = self.offset = 0
        self.alarms = dict(detectors)
        self.moves: list[Move] = []
        self.items: list[Item] = []
        self._outbox: list[Outgoing] = []

    def alarm(self, alarm: Alarm, partition: int | None = None, offset: int | None = None) -> None:
        """Raise a drift alarm; one that is silenced is written, but not counted.

        Its id follows from the record that caused it, so a duplicate can be recognised.

        Args:
            partition, offset: the record that caused it, unless it is the one being learned.
        """
        assert alarm.detector in self.alarms, f"detector {alarm.detector!r} is not declared by its family"
        if not alarm.silenced:
            self.alarms[alarm.detector] += 1
        place = self.partition if partition is None else partition, self.offset if offset is None else offset
        raised = AlarmRecord(
            id=f"{alarm.detector}/{place[0]}/{place[1]}", detector=alarm.detector, score=alarm.score,
            threshold=alarm.threshold, events=self.events, time_ms=self.time_ms, moved=alarm.moved,
            silenced=alarm.silenced,
        )  # fmt: skip
        self.write(Outgoing(ALARMS, alarm.detector.encode(), msgspec.json.encode(raised), 0))

    def write(self, *records: Outgoing) -> None:
        """Write records in the transaction that commits this entry; their topic must be declared."""
        self._outbox += records

    def take(self) -> list[Outgoing]:
        """Return the records written since the last call, and empty the outbox."""
        taken, self._outbox = self._outbox, []
        return taken


class NoSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The section of a family without settings."""


class Family(ABC):
    """One family's fold. Subclasses set `name` and `surface` and implement `learn`, `state` and `restore`.

    A family is pure: no broker, web, clock, environment or global random state; time is event time. All that it keeps
    is bounded and part of its state. It learns events in the order of the journal, hears side topics, and absorbs the
    judgements of its judge.

    Args:
        settings: its section of the settings, an instance of `surface.settings`.
        reads: the families that it reads or consults, by name. They learn each event before it does. It must not change
            them.

    Class attributes:
        name: in paths, scores, settings and metric labels.
        version: version of the state's bytes, for a family without `parts`. Raise it when they change.
        migrations: for an older version, the function that returns the state of the next one.
        parts: the parts of the state, if they have versions of their own.
        reads: names of families that it reads. They live in the same shard.
        consults: names of families that its answers ask, where its shard folds them. Its state does not depend on them.
        builds_on: names of families whose modules it imports.
        shard: the shard that folds it unless a setting names another one; EVERY_SHARD if each has one of its own.
        merges: whether it may be sliced.
    """

    name: ClassVar[str]
    surface: ClassVar[Surface]
    merges: ClassVar[Merges]
    version: ClassVar[int] = 1
    migrations: ClassVar[Mapping[int, Callable[[Any], Any]]] = {}
    parts: ClassVar[Mapping[str, Part]] = {}
    reads: ClassVar[tuple[str, ...]] = ()
    consults: ClassVar[tuple[str, ...]] = ()
    builds_on: ClassVar[tuple[str, ...]] = ()
    shard: ClassVar[str] = "online"

    @abstractmethod
    def __init__(self, settings: Any, reads: Mapping[str, "Family"]) -> None: ...

    @abstractmethod
    def learn(self, event: Event, now: Moment) -> None:
        """Learn from one event."""

    @abstractmethod
    def state(self) -> State:
        """Return the complete state; it shares no object that will change. Called after an entry was settled."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Restore `state`, so that the fold continues identically. Called once, before the family has learned.

        The state may be of other settings: then keep what the bounds of the present ones admit, and evict the rest as
        learning would. Of a family with `parts`, parts that could not be restored are missing and stay empty.
        """

    def move(self, move: Move) -> None:
        """Move what is kept of a session for one shopper to another: a guest logged in, or a login was taken back."""

    def hear_item(self, item: Item) -> None:
        """Learn what the shop states of an item, as a line of an event; the price is in the shop's currency."""

    def hear(self, topic: str, record: Record, now: Moment) -> Rejection | None:
        """Learn from a record of a side topic that the surface declares; return why, if it cannot be used.

        Whoever may write to the topic has written it: whatever it holds, it must not raise.
        """

    def absorb(self, judgement: bytes, now: Moment) -> None:
        """Learn from one record of judgements that this family's judge wrote."""

    def settle(self, now: Moment) -> None:
        """End a journal entry."""

    def knows(self, shopper: str) -> bool:
        """Return whether anything is kept for one shopper of this name."""
        return False

    def segments_of(self, shopper: str, now_ms: int) -> Sequence[str]:
        """Return the segments of a shopper at a moment, as far as this family tells some. Others' answers use them."""
        return ()

    def has_segment(self, name: str) -> bool:
        """Return whether this family tells who is in a segment of this name."""
        return False

    def scores(self) -> Struct | None:
        """Return the current scores, an instance of `surface.scores`."""
        return None

    def watched(self) -> Mapping[str, Watched]:
        """Return the current scores of the drift detectors, by detector."""
        return {}

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        return {}

    @classmethod
    def declared_parts(cls) -> Mapping[str, Part]:
        """Return the parts of the state; `WHOLE` is the whole of it."""
        return cls.parts or {WHOLE: Part(cls.version, cls.migrations)}

    @classmethod
    def from_0_3_0(cls, fold: State) -> tuple[dict[str, Any], State] | None:
        """Return this family's settings and the parts of its state, of version 1, in a state of Headrace 0.3.0.

        There a fold had no families. None if the fold does not hold this one's.
        """
        return None


class Preparer(Family):
    """A family that every event passes before the others see it. Each shard has one of its own."""

    shard: ClassVar[str] = EVERY_SHARD

    @abstractmethod
    def prepare(self, event: Event, now: Moment) -> bool:
        """Complete and correct an event in place; return whether it is to be learned."""

    def renamed(self, shopper: str) -> str:
        """Return the name that `prepare` gives the events of a shopper."""
        return shopper


class Mergeable(Family):
    """A family that may be sliced, because its folds merge exactly or approximately."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Merge the state of a fold of the same family that learned from other shoppers."""

    def difference(self, other: Self) -> float:
        """Return how much another fold's answers differ from these, in the unit of `merges.bound`."""
        return 0.0


class Judging(Struct, frozen=True):
    """The arguments of a family's judge. A judge runs outside the fold, only in the live process, and may use torch.

    Attributes:
        settings: the family's section of the settings.
        artifacts: loads and keeps the family's artifacts, by their blobs.
        seconds: a monotonic clock.
        report: sets a metric; called with its name, a value and the values of its labels.
        log: writes a log line; called with its event and fields.
    """

    settings: Any
    artifacts: Artifacts[Any]
    seconds: Callable[[], float]
    report: Callable[..., None]
    log: Callable[..., None]


class Judge(Protocol):
    """A family's judge. Made once per process as `Judge(judging)`.

    `judged` is the number of predictions judged so far, `inclusion` the probability with which an event is judged now.
    """

    judged: int

    @property
    def inclusion(self) -> float: ...

    def observe(self, family: Any, event: Event, partition: int, offset: int) -> None:
        """Observe an event before the family learns it. Must not change the family."""

    def judge(self, family: Any, lag: int) -> Sequence[bytes]:
        """Return the judgements of the events observed since the last call. Called once before each commit.

        Args:
            lag: number of records that wait to be read; a judge can do less when the loop is behind.
        """


@runtime_checkable
class BackgroundJudge(Protocol):
    """What a judge has in addition if it works beside the commits, for example in a child process."""

    def ready(self, family: Any) -> bool:
        """Return whether `judge` has something to do although no event came. Called often, so it must be quick."""

    def close(self) -> None:
        """End its work. Called when the process ends, or restarts after a failure."""
