"""The whole road, on each kind of log: four processes by their shipped commands, killed in turn, audited at the end."""

import json
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from headrace.announcement import Announcement, announced
from headrace.events import encode
from headrace.log.open import open_log
from headrace.log.protocol import Log, Outgoing, Partition
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.checks import check_covered, check_folds, committed_records
from headrace.shard.follower import Follower
from headrace.topics import DEAD_LETTERS, EVENTS, MODELS, TOPICS, partitions_of
from learners.deep.model import DeepModel
from learners.shop import MakeShop
from operators.child import Child, Children, total
from operators.deployment import read_deployment
from tests.coverage import Coverage
from tests.days import Days
from tests.pages import run
from tests.shards import FINETUNE, ONLINE, next_item, rounds

SPEED = "12000x"
"""200 events a second: slow enough to kill a process in mid-stream."""
SLOWLY = "4800x"
"""For the shorter days: on a busy machine a process may need seconds to be seen at work."""
ROUND_EVENTS = 1_500
SMALL = {
    "NEXT_ITEM__ITEMS_MAX": "1000",
    "NEXT_ITEM__SHOPPERS_MAX": "1000",
    "SHARDS__ONLINE__SNAPSHOT_INTERVAL_S": "1",
    "ROUNDS__ITEMS_MAX": "1000",
    "ROUNDS__SHOPPERS_MAX": "1000",
    "SHARDS__FINETUNE__SNAPSHOT_INTERVAL_S": "1",
    "ROUNDS__ROUND_EVENTS": str(ROUND_EVENTS),
    "ROUNDS__GATE_RECORDS_MAX": "2000",
    "ROUNDS__WIDTH": "32",
    "ROUNDS__PASSES": "45",
}


class Pipeline:
    """The readers, what they have committed so far, and how to speak to them."""

    def __init__(self, url: str, folder: Path, children: Children) -> None:
        self._url, self._folder, self._children = url, folder, children
        self.log: Log = open_log(url)
        self.log.create()
        self.blobs = Blobs(folder / "blobs")
        self._appender = self.log.appender()
        self._journals = self.log.reader({one.shard.journal: 0 for one in (ONLINE, FINETUNE)})
        self._models = self.log.reader({Partition(MODELS, 0): 0})
        self._said: list[Announcement] = []
        self._coverage = {shard: Coverage(self.log) for shard in ("online", "finetune")}
        self._entries: Counter[str] = Counter()
        self.published = 0
        self.served: set[str] = set()
        self.bad: dict[str, bytes] = {}
        kinds = ("online", "finetune", "serve")
        self._readers = {kind: self._children.start(kind, *self._command(kind), up=False) for kind in kinds}
        for child in self._readers.values():
            child.wait_until_up()

    def _command(self, kind: str) -> list[str]:
        port = "--port" if kind == "serve" else "--metrics-port"
        return [kind, "--log", self._url, "--blobs", str(self._folder / "blobs"), port, "0"]

    def __getitem__(self, kind: str) -> Child:
        return self._readers[kind]

    def crash(self, kind: str) -> None:
        """Kill a reader and start it again by the same command."""
        self._readers[kind].kill()
        self._readers[kind] = self._children.start(kind, *self._command(kind))

    def load(self, path: Path, speed: str = SPEED) -> Child:
        command = ["load", str(path), "--speed", speed, "--log", self._url, "--metrics-port", "0"]
        return self._children.start("producer", *command)

    def append(self, key: str, value: bytes) -> None:
        self._appender.append(Outgoing(EVENTS, key.encode(), value))
        self._appender.flush()
        self.published += 1

    def append_bad(self) -> None:
        """Publish a record that is no JSON; each is another one."""
        place = partitions_of(EVENTS)[len(self.bad) % TOPICS[EVENTS].partitions]
        value = b'{"specversion": "1.0", "id": "bad-%d", ' % len(self.bad)
        self._appender.append(Outgoing(EVENTS, b"somebody", value, place.number))
        self._appender.flush()
        last = self.log.last(place)
        while last is None or last.value != value:  # the producer goes on meanwhile
            found = [record for record in committed_records(self.log, place) if record.value == value]
            last = found[0] if found else None
        self.bad[f"{EVENTS}/{place.number}/{last.offset}"] = value
        self.published += 1

    def propose(self, path: Path, model: DeepModel) -> str:
        """Put a model before the gate by the shipped command; return the version under which it is announced."""
        path.write_bytes(model.to_bytes())
        text = self._run("propose", str(path))
        assert "its verdict is announced on the topic models" in text
        return text.split()[1].rpartition("-")[2].rstrip(";")[:8]

    def request(self, *command: str) -> None:
        """Request a champion by a shipped command."""
        assert "requested: " in self._run(*command)

    def _run(self, *command: str) -> str:
        """Run a shipped command in this process, and return what it says."""
        common = ("--log", self._url, "--blobs", str(self._folder / "blobs"))
        code, text = run(shlex.join(["headrace", *command, *common]))
        assert code == 0, text
        return text

    def answer(self, shopper: str, n: int = 10) -> dict[str, Any]:
        found = httpx.get(f"{self['serve'].address}/v1/recommendations/{shopper}?n={n}", timeout=60)
        found.raise_for_status()
        answer: dict[str, Any] = found.json()
        self.served.add(answer["model"])
        return answer

    def ready(self) -> bool:
        """Whether the server has caught up."""
        found = httpx.get(f"{self['serve'].address}/health/ready", timeout=60)
        return found.status_code == 200

    def _follow(self) -> None:
        """Read what the shards have committed since the last call."""
        for _, records in self._journals.read(10_000, 0.05):
            for entry in map(journal.decode, records):
                self._entries[entry.writer] += 1
                self._coverage[entry.writer].follow(entry)

    def committed(self, shard: str) -> int:
        """Return how many entries a shard has written."""
        self._follow()
        return self._entries[shard]

    def caught_up(self) -> bool:
        """Whether both shards have committed all that was published."""
        self._follow()
        return all(one.records == self.published for one in self._coverage.values())

    def said(self, kind: str) -> list[Announcement]:
        """Return all that was said on `models` of one kind."""
        for _, records in self._models.read(1_000, 0.05):
            self._said += [one for one in map(announced, records) if one]
        return [one for one in self._said if one.kind == kind]

    def wait(self, what: str, holds: Callable[[], bool], timeout_s: float = 240.0) -> None:
        self._children.wait_until(what, holds, timeout_s)

    def close(self) -> None:
        self._appender.close()
        for reader in (self._journals, self._models):
            reader.close()
        for one in self._coverage.values():
            one.close()
        self.log.close()


@pytest.fixture
def road(log_url: str, tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    for name, value in SMALL.items():
        monkeypatch.setenv(f"HEADRACE_{name}", value)
    monkeypatch.chdir(tmp_path)
    made = Pipeline(log_url, tmp_path, children)
    yield made
    made.close()


# On SQLite it takes as long as on Kafka, and the chaos tests walk most of it there.
@pytest.mark.parametrize("log_url", [pytest.param("sqlite", marks=pytest.mark.full), "kafka"], indirect=True)
@pytest.mark.timeout(900)  # about 100 s on two idle cores; every wait has its own bound
def test_the_whole_road(road: Pipeline, tmp_path: Path) -> None:
    sections = read_deployment().sections
    make_online, make_finetune = MakeShop(ONLINE.kinds, sections), MakeShop(FINETUNE.kinds, sections)
    days = Days()
    first, second, third = (tmp_path / f"day{number}.jsonl" for number in (1, 2, 3))

    # The producer dies in mid-stream and goes on where it was; the fine-tuner dies while it trains.
    count = days.write(first, ROUND_EVENTS + 100)
    producer = road.load(first)
    road.append_bad()
    places = partitions_of(EVENTS)
    road.wait("a third of the day is published", lambda: sum(map(road.log.end, places)) > count / 3)
    assert total(producer.scrape(), "headrace_published_events_total") > 0
    assert producer.code is None, "it was to be killed in mid-stream"
    producer.kill()
    producer = road.load(first)
    road.wait("a round is training", lambda: '"event": "training"' in road["finetune"].text)
    road["finetune"].kill()
    assert not road.said("candidate"), "the fine-tuner was to be killed while it trains"
    road.crash("finetune")
    assert producer.wait(240) == 0, producer.tail
    assert f"{count:,} events published" not in producer.text, "the second run should not have begun anew"
    road.published += count
    road.wait("all is learned", road.caught_up)

    # A published event changes that shopper's answer.
    before = road.answer("probe", 5)
    assert len(before["items"]) == 5
    shown = [one["item_id"] for one in before["items"]]
    pair = next(pair for pair, _ in days.pairs.most_common() if pair[1] not in shown)
    event = days.event("probe", pair[0])
    began = time.monotonic()
    road.append("probe", encode(event))
    road.wait("the answer knows", lambda: pair[1] in [one["item_id"] for one in road.answer("probe", 5)["items"]])
    assert time.monotonic() - began < 30, "an event should reach answers within seconds"
    assert pair[0] not in [one["item_id"] for one in road.answer("probe", 50)["items"]]

    # The online consumer dies in mid-stream; the candidate wins.
    road.wait("there is a candidate", lambda: bool(road.said("candidate")))
    count = days.write(second, 700)
    producer = road.load(second, SLOWLY)
    entries = road.committed("online")
    road.wait("online has committed some", lambda: road.committed("online") > entries + 3)
    assert producer.code is None, "online was to be killed in mid-stream"
    road.append_bad()
    road.crash("online")
    road.append_bad()
    assert producer.wait(240) == 0, producer.tail
    road.published += count
    road.wait("all is learned", road.caught_up)
    road.wait("the candidate is promoted", lambda: bool(road.said("promoted")))
    (promoted,) = road.said("promoted")
    assert promoted.version == road.said("candidate")[0].version
    assert promoted.reason == "better"

    # The promoted model is named, and is what ranks.
    road.wait("the server has the model", lambda: road.answer("probe")["model"] == promoted.version)
    with closing(Follower(road.log, road.blobs, ONLINE.shard, make=make_online)) as follower:
        follower.catch_up()
        shop, entry = follower.fold, follower.number
    road.wait("the server has followed as far", lambda: road.answer("probe")["fresh"]["entry"] >= entry)
    family = next_item(shop)
    model = DeepModel.from_bytes(road.blobs.get(promoted.blob))
    shopper = "u7"
    answered = [one["item_id"] for one in road.answer(shopper)["items"]]
    assert answered == [item for item, _ in family.recommend(shopper, shop.time_ms, 10, model)]
    assert answered != [item for item, _ in family.recommend(shopper, shop.time_ms, 10)]

    # A model with weights that are not finite is refused at once; one that is worse, by the gate. The server dies.
    broken = DeepModel.from_bytes(model.to_bytes())
    broken.table[3, 1] = float("nan")
    nan = road.propose(tmp_path / "nan.safetensors", broken)
    road.wait("the NaN is refused", lambda: len(road.said("refused")) == 1)
    assert road.said("refused")[0].version.endswith(nan)
    assert road.said("refused")[0].reason == "items holds NaN or infinity"
    worse = DeepModel.from_bytes(model.to_bytes())
    worse.table = worse.table[np.random.default_rng(1).permutation(len(worse)).tolist()]
    shuffled = road.propose(tmp_path / "shuffled.safetensors", worse)
    road.wait("it is a candidate", lambda: len(road.said("candidate")) == 2)
    assert road.said("candidate")[1].version.endswith(shuffled)
    count = days.write(third, 600)
    producer = road.load(third, SLOWLY)
    entry = road.answer("probe")["fresh"]["entry"]
    road.wait("the server follows", lambda: road.answer("probe")["fresh"]["entry"] > entry + 3)
    assert producer.code is None, "the server was to be killed in mid-stream"
    road.crash("serve")
    road.append_bad()
    assert producer.wait(240) == 0, producer.tail
    road.published += count
    road.wait("all is learned", road.caught_up)
    road.wait("the shuffled one is refused", lambda: len(road.said("refused")) == 2)
    assert road.said("refused")[1].version.endswith(shuffled)
    assert road.said("refused")[1].reason in ("worse", "weak")
    road.wait("the server is ready", road.ready)
    entry = road.answer("probe")["fresh"]["entry"]
    road.append("probe", encode(days.event("probe", pair[1])))
    road.append_bad()
    road.wait("the answer knows", lambda: road.answer("probe")["fresh"]["entry"] > entry)
    road.wait("all is learned", road.caught_up)
    road.wait("torch is loaded", lambda: road.answer("probe")["model"] == promoted.version)
    assert road.served == {"", promoted.version}, "no refused model was ever served"
    assert len(road.said("promoted")) == 1

    check_metrics(road)

    # A person rolls back and promotes while no fine-tuner runs; serving follows, and the fine-tuner when it starts.
    road["finetune"].stop()
    road.request("roll-back", "--to", "none", "--by", "ann", "--why", "a try")
    road.wait("the server uses no model", lambda: road.answer("probe")["model"] == "")
    road.request("promote", promoted.version, "--why", "it was good")
    road.wait("the server uses the model", lambda: road.answer("probe")["model"] == promoted.version)
    road.request("roll-back", "--to", "none", "--why", "again")
    road.wait("the server uses no model", lambda: road.answer("probe")["model"] == "")
    road.crash("finetune")
    end = road.log.end(Partition(MODELS, 0))
    road.wait(
        "the fine-tuner has heard the requests",
        lambda: road.log.committed("finetune").get(Partition(MODELS, 0), 0) == end,
    )
    road.wait(
        "its metrics, which are read now and then, name no model",
        lambda: total(road["finetune"].scrape(), "headrace_champion_round") == 0,
    )

    # Everything was published once, learned once, and every state is the plain fold of the journal, which is at rest.
    for kind in ("online", "finetune"):
        road[kind].stop()
    published = [record for place in places for record in committed_records(road.log, place)]
    ids = [json.loads(record.value or b"")["id"] for record in published if record.value not in road.bad.values()]
    assert sorted(ids) == sorted(days.ids)
    for placement in (ONLINE, FINETUNE):
        check_covered(road.log, placement.shard)
    shop = check_folds(road.log, road.blobs, ONLINE.shard, make=make_online).fold
    assert shop.events == len(ids)
    tuned = check_folds(road.log, road.blobs, FINETUNE.shard, make=make_finetune).fold
    assert rounds(tuned).lineup.champion is next_item(shop).champion is None
    assert rounds(tuned).outcomes == {"promoted": 1, "refused": 2, "failed": 0, "rolled_back": 0}
    letters = [
        msgspec.json.decode(record.value or b"") for record in committed_records(road.log, Partition(DEAD_LETTERS, 0))
    ]
    assert sorted(letter["id"] for letter in letters) == sorted(road.bad)
    assert {letter["reason"] for letter in letters} == {"not_json"}


def check_metrics(road: Pipeline) -> None:
    """All processes tell of what happened since they began; the lag is gone."""
    kinds = ("online", "finetune", "serve")
    scraped = {kind: road[kind].scrape() for kind in kinds}

    def settled() -> bool:
        scraped.update({kind: road[kind].scrape() for kind in kinds})
        return all(
            scraped[kind]
            and total(scraped[kind], "headrace_lag_records") == 0
            and total(scraped[kind], "headrace_champion_round") == 1
            for kind in kinds
        )

    road.wait("there is no lag, and all use the model", settled)
    for kind in kinds:
        assert total(scraped[kind], "headrace_freshness_seconds_count") > 0
        assert total(scraped[kind], "headrace_freshness_seconds_bucket", le="+Inf") > 0
        assert total(scraped[kind], "headrace_bound_max") > 0
    for kind in ("online", "finetune"):
        assert total(scraped[kind], "headrace_events_total", result="learned") > 600
        assert total(scraped[kind], "headrace_events_total", result="duplicate") == 0
        assert total(scraped[kind], "headrace_events_rejected_total", reason="not_json") >= 1
    assert total(scraped["finetune"], "headrace_rounds_total", outcome="promoted") == 1
    assert total(scraped["finetune"], "headrace_rounds_total", outcome="refused") == 2
    assert total(scraped["finetune"], "headrace_round_tokens_total") > 0
    route = "/v1/recommendations/{shopper}"
    assert total(scraped["serve"], "headrace_http_requests_total", route=route, code="200") > 0
    recalls = total(scraped["online"], "headrace_prequential_score", learner="deep", metric="recall", k="20")
    assert recalls > 0
