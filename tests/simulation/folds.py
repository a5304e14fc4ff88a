"""What the simulated shards learn: a fold that hashes all that it is given, in order, and a judge that looks at it."""

from collections import deque
from collections.abc import Collection, Sequence
from hashlib import sha256

import msgspec

from headrace.announcement import Announcement, announced, unusable
from headrace.events import Event, Rejection
from headrace.log.protocol import Outgoing, Record
from headrace.shard.journal import FamilyStamp, Stamp
from headrace.shard.loop import JudgementRecord
from headrace.state import State
from headrace.topics import ITEMS, MODELS, SCORES, Shard

recent_max = 16
ONLINE = Shard("online", 0, writes=("dead-letters", "scores", "alarms"), hears=(ITEMS, MODELS))
FINETUNE = Shard("finetune", 1, writes=("models", "scores", "alarms"), hears=(MODELS,))


class HashingFold:
    """A fold whose state is a hash over all that it learned, heard and absorbed. Writes a record out for each.

    `said` has what this object wrote to `scores` since it was made; it is no part of the state.
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self.stamp = Stamp("test", {"hashing": FamilyStamp({}, {"hash": 1})})
        self.renewed: dict[str, str] = {}
        self.begun: set[str] = set()
        self.hash = ""
        self.count = 0
        self._recent: deque[str] = deque(maxlen=recent_max)
        self._outbox: list[Outgoing] = []
        self.said: list[str] = []

    def _take(self, text: str) -> None:
        self.hash = sha256(f"{self.hash} {text}".encode()).hexdigest()
        self.count += 1
        self._recent.append(text)

    def _say(self, what: str) -> None:
        id_ = f"{self._shard.name}/{what}"
        self.said.append(id_)
        self._outbox.append(Outgoing(SCORES, self._shard.name.encode(), id_.encode(), 0))

    def prepare(self, event: Event) -> bool:
        return event.type != "login_undone"

    def learn(self, event: Event, partition: int, offset: int) -> None:
        self._take(f"learned {event.id} {event.time_ms} {partition} {offset}")
        self._say(f"learned/{event.id}")
        if MODELS in self._shard.writes and self.hash[0] == "0":
            model = Announcement(
                id=f"finetune/{event.id}", kind="candidate", round=self.count, at_events=self.count, time_ms=0,
                version=event.id,
            )  # fmt: skip
            self._outbox.append(model.record())

    def hear(self, topic: str, record: Record) -> Rejection | None:
        self._take(f"heard {topic} {record.partition} {record.offset} {record.time_ms}")
        if topic == MODELS and announced(record) is None:
            return unusable(record)
        self._say(f"heard/{topic}/{record.partition}/{record.offset}")
        return None

    def hear_again(self, topic: str, record: Record) -> None:
        raise AssertionError("nothing of a hashing fold is ever begun empty")

    def absorb(self, key: str, judgement: bytes) -> None:
        self._take(f"absorbed {key} {judgement.decode()}")
        self._say(f"absorbed/{judgement.decode()}")

    def emit(self) -> list[Outgoing]:
        outbox, self._outbox = self._outbox, []
        return outbox

    def bounds(self) -> dict[str, tuple[int, int]]:
        return {"recent": (len(self._recent), recent_max)}

    def state(self) -> State:
        return {"hash": self.hash, "count": self.count, "recent": list(self._recent)}

    def restore(self, state: State) -> None:
        self.hash, self.count = state["hash"], state["count"]
        self._recent.extend(state["recent"])


class MakeHashing:
    """Makes the fold of a simulated shard."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    def __call__(self, state: State | None = None, stamp: Stamp | None = None) -> HashingFold:
        fold = HashingFold(self._shard)
        if state:
            fold.restore(state)
        return fold

    def adopt(self, fold: HashingFold) -> HashingFold:
        return fold

    def only(self, families: Collection[str]) -> "MakeHashing":
        return self

    def replace(self, fold: HashingFold, anew: HashingFold) -> None:
        raise AssertionError("nothing of a hashing fold is ever folded anew")


class HashingJudge:
    """Judges a third of the events, by the hash that the fold had before it learned them."""

    def __init__(self) -> None:
        self._seen: list[str] = []

    def observe(self, fold: HashingFold, event: Event, partition: int, offset: int) -> None:
        if sha256(event.id.encode()).digest()[0] < 85:
            self._seen.append(f"{event.id} {fold.hash[:8]}")

    def judge(self, fold: HashingFold, lag: int) -> Sequence[JudgementRecord]:
        seen, self._seen = self._seen, []
        return [JudgementRecord("hashing", one.encode()) for one in seen]


class RecordId(msgspec.Struct):
    """The id of a dead letter, or of scores."""

    id: str
