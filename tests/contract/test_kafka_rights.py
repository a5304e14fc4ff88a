"""Kafka that asks for rights (ACLs), on a real broker: those of the table suffice, and one less is told at once."""

import asyncio
import hashlib
import json
import re
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event as Stop
from threading import Timer
from typing import Any

import msgspec
import pytest
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)

from consumers.archive import run as archive
from consumers.shard import judges_of
from headrace.archive.store import FolderStore
from headrace.config import ArchiveSettings, ServeSettings
from headrace.config import settings as read_settings
from headrace.drift import Silence
from headrace.errors import Flooded, LogUnavailable, Misconfigured
from headrace.experiments import Arm, Experiment, record_of
from headrace.http import listen
from headrace.impressions import Impression
from headrace.letters import DeadLetter
from headrace.log.kafka.log import KafkaLog
from headrace.log.kafka.reader import KafkaReader
from headrace.log.kafka.security import PREFIX, KafkaSecurity, Secret
from headrace.log.protocol import Log, Outgoing, Partition
from headrace.metrics import ArchiveMetrics, ServingMetrics, ShardMetrics
from headrace.process import run_with_retries
from headrace.reading import ReadOnlyLog
from headrace.rules import RuleSet
from headrace.segments import Segment, SegmentRules
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.journal import Entry
from headrace.shard.loop import Loop, LoopSettings
from headrace.shard.verify import verify
from headrace.spool import Spool
from headrace.topics import (
    COMMANDS,
    DEAD_LETTERS,
    EVENTS,
    EVENTS_REPLAY,
    EXPERIMENT_REPORTS,
    EXPOSURES,
    ITEMS,
    MODELS,
    POLICIES,
    RULES,
    SEGMENT_MOVES,
    SHOPPER_CLASSES,
    TOPICS,
    TRAITS,
    Right,
    partitions_of,
    rights,
)
from learners.deep.model import DeepModel, DeepSettings
from learners.families import FAMILIES, default_placements, placed
from learners.shop import MakeShop
from operators.backup import _manifest
from operators.child import Children
from operators.deployment import Deployment
from operators.drift import newest_alarms, silence, silences
from operators.evaluation.reading import Wanted as Answered
from operators.evaluation.report import judge
from operators.evaluation.sums import Unevaluable
from operators.experiments import newest_policies, newest_reports, state_experiment, stated_experiments
from operators.history import read_history
from operators.proposal import propose
from operators.replay.begin import new_run
from operators.replay.compare import compare
from operators.replay.fold import fold
from operators.replay.pace import ByLiveLag
from operators.replay.run import RunFolder
from operators.requests import promote, roll_back, withdraw
from operators.rules import state_rules, stated_rules, try_rules
from operators.segments import export_segments, state_segments, stated_segments, try_segments
from operators.status import StatusReader, collect
from operators.status_text import show
from operators.stock import stock_plan
from operators.terminal import Terminal
from operators.trace import trace
from operators.wealth import Wealth
from producers.gateway.depot import Depot
from producers.load import load
from producers.redrive import Wanted, redrive
from producers.republish import republish
from producers.scenario import SimulationSettings
from producers.simulate import simulate
from serving.answers import Answers
from serving.app import run as serve
from serving.impressions import Impressions
from tests.brokers import own_broker

pytestmark = pytest.mark.usefixtures("clean_environment")


def model() -> bytes:
    """Return a model that can be used; each call returns the same bytes."""
    made = DeepModel(DeepSettings(width=8), 1)
    made.grow(["a"])
    return made.to_bytes()


PROPOSED = f"proposed-{hashlib.sha256(model()).hexdigest()[:8]}"
E0, JOURNAL, SCORES = Partition("events", 0), Partition("journal", 0), Partition("scores", 0)
SHOP = "shop-"
deadline_s = 120.0
FLOOD_RECORDS = 1_150
"""Also of items and models, about 110: when a shard is flooded, it has written the scores of 1,000 events."""
quick_s = 80.0
"""A denied right must be told in less, and not by the log's deadline; on an idle machine in seconds."""

PROPERTIES = """
listeners={ours},USERS://127.0.0.1:{{users}}
advertised.listeners={ours},USERS://127.0.0.1:{{users}}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,USERS:SASL_PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.users.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required {{names}};
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=false
""".replace("{ours}", "PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}")

PLACEMENTS = placed(FAMILIES, {"online": 0, "finetune": 1, "third": 2}, {"third": ["purchase"]})
"""The shards that every shop has, and one of a family's own, which hears nothing and writes no dead letters."""
SHARDS = {name: placement.shard for name, placement in PLACEMENTS.items()}
ONLINE = SHARDS["online"]
RIGHTS = {
    **{command: rights(command, list(SHARDS.values())) for command in COMMANDS},
    **{name: rights(shard) for name, shard in SHARDS.items()},
}
"""What each process may do."""
LESS = {
    f"{process} without {right.operation} on {right.kind} {right.name}": (process, f"{process}-{number}", right)
    for process, needed in RIGHTS.items()
    for number, right in enumerate(needed)
}
"""Who has all rights of a process but one: the process, the user, the right."""


def each_right_once() -> set[str]:
    """Return those who lack a right, one for each right, of as many processes as can be."""
    found: set[str] = set()
    for right in dict.fromkeys(right for _, _, right in LESS.values()):
        taken = Counter(LESS[less][0] for less in found)
        found.add(min((less for less in LESS if LESS[less][-1] == right), key=lambda less: taken[LESS[less][0]]))
    return found


ONCE = each_right_once()
LEAVERS = ("reader", "committer", "idler", "appender", "learner", "server")
"""Who loses a right while it works."""
READS, WRITES = Right("Read", "topic", EVENTS), Right("Write", "topic", EVENTS)


@dataclass(frozen=True)
class Guarded:
    """A broker that asks for rights; whoever comes in the clear may do all."""

    bootstrap: str
    users: str
    admin: KafkaAdminClient = field(repr=False)

    def opened(self, user: str, prefix: str = SHOP) -> KafkaLog:
        secured = KafkaSecurity("SASL_PLAINTEXT", "PLAIN", user, Secret(f"{user}-secret"))
        return KafkaLog(f"{self.users}?prefix={prefix}", security=secured, deadline_s=deadline_s)

    def free(self, prefix: str = SHOP) -> KafkaLog:
        return KafkaLog(f"{self.bootstrap}?prefix={prefix}")

    def grant(self, acls: Sequence[ACL]) -> None:
        assert not self.admin.create_acls(acls)["failed"]
        deadline = time.monotonic() + 20.0
        while not set(map(repr, acls)) <= set(map(repr, self.admin.describe_acls(EVERY)[0])):
            assert time.monotonic() < deadline, "the broker does not take the rights up"
            time.sleep(0.05)

    def take(self, user: str, right: Right) -> None:
        self.admin.delete_acls([allowed(user, right)])


EVERY = ACLFilter(
    None, None, ACLOperation.ANY, ACLPermissionType.ANY,
    ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY),
)  # fmt: skip


def allowed(user: str, right: Right, *, prefixed: bool = False) -> ACL:
    kind = ResourceType[right.kind.upper().replace(" ", "_")]
    pattern = ACLResourcePatternType.PREFIXED if prefixed or right.prefixed else ACLResourcePatternType.LITERAL
    return ACL(
        f"User:{user}", "*", ACLOperation[right.operation.upper()], ACLPermissionType.ALLOW,
        ResourcePattern(kind, SHOP + right.name, pattern),
    )  # fmt: skip


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Return a broker of this module's own, with the topics of a shop, and users with their rights."""
    folder = tmp_path_factory.mktemp("guarded")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    users = [*RIGHTS, *(user for _, user, _ in LESS.values()), *LEAVERS, "maker", "watcher", "keeper", "person"]
    names = " ".join(f'user_{user}="{user}-secret"' for user in users)
    with (
        own_broker(folder, PROPERTIES.replace("{{users}}", str(port)).replace("{{names}}", names)) as running,
        closing(KafkaAdminClient(bootstrap_servers=running.bootstrap)) as admin,
    ):
        found = Guarded(running.bootstrap, f"127.0.0.1:{port}", admin)
        with closing(found.free()) as log:
            log.create()
        granted = [allowed(process, right) for process, needed in RIGHTS.items() for right in needed]
        for process, user, less in LESS.values():
            granted += [allowed(user, right) for right in RIGHTS[process] if right != less]
        for process, user in zip(("serve", "online", "online", "load", "online", "serve"), LEAVERS, strict=True):
            granted += [allowed(user, right) for right in RIGHTS[process]]
        granted.append(allowed("person", Right("Read", "topic", MODELS)))
        granted += [
            allowed("maker", Right(operation, "topic", "new-"), prefixed=True) for operation in ("Describe", "Create")
        ]
        granted.append(allowed("watcher", Right("Describe", "topic", ""), prefixed=True))
        granted += [
            allowed("keeper", right, prefixed=True)
            for right in (Right("Read", "topic", "two-"), Right("Describe", "group", "two-"))
        ]
        found.grant(granted)
        yield found


def loaded(log: Log, folder: Path) -> None:
    path = folder / f"events-{time.time_ns()}.jsonl"  # several load at once
    event = {
        "id": str(time.time_ns()),
        "source": "file",
        "type": "login",
        "time": "2026-01-01T00:00:00Z",
        "specversion": "1.0",
    }
    path.write_text(json.dumps({**event, "subject": "somebody", "data": {}}) + "\n")
    assert load(log, path).published == 1
    feed = folder / f"items-{time.time_ns()}.jsonl"
    feed.write_text(json.dumps({"id": "sku-1", "title": "Boots"}) + "\n")
    assert load(log, feed).published == 1


def simulated(log: Log, folder: Path, events: int = 10) -> None:
    settings = SimulationSettings(seed=time.time_ns() % 2**50, events=events, items=100, shoppers=10)
    assert simulate(log, settings).published == events


def proposed(log: Log, folder: Path) -> None:
    path = folder / f"model-{time.time_ns()}"
    path.write_bytes(model())
    assert propose(log, Blobs(folder), path).blob


def promoted(log: Log, folder: Path) -> None:
    """Promote what was proposed."""
    assert promote(log, Blobs(folder), PROPOSED, by="ann").blob


def rolled_back(log: Log, folder: Path, version: str | None = None) -> None:
    assert roll_back(log, Blobs(folder), version, by="ann").action == "roll_back"


def withdrawn(log: Log, folder: Path) -> None:
    """Withdraw what was proposed."""
    assert withdraw(log, PROPOSED, by="ann").action == "withdraw"


def history_read(log: Log, folder: Path) -> None:
    assert read_history(log, Deployment(read_settings().common, {}, FAMILIES, PLACEMENTS)).rows


def letters(log: Log) -> None:
    """Write dead letters of a usable event and a usable item, as if what was wrong were mended."""
    event = {"id": "late", "source": "shop", "type": "login", "time": "2026-01-01T00:00:00Z", "specversion": "1.0"}
    bad = {EVENTS: (b"ann", {**event, "data": {}}), ITEMS: (b"sku-2", {"title": "Hat"})}
    with closing(log.appender()) as appender:
        for topic, (key, document) in bad.items():
            value = json.dumps(document).encode()
            letter = DeadLetter(f"{topic}/0/{time.time_ns()}", "schema", "", 1, key, value, len(value))
            appender.append(Outgoing(DEAD_LETTERS, b"-", msgspec.json.encode(letter), 0))


def redriven(log: Log, folder: Path) -> None:
    assert redrive(log, Wanted(reasons=["schema"]), by="ann", why="mended").settled == 2


def archived(log: Log, folder: Path) -> None:
    store = FolderStore(folder / f"archive-{time.time_ns()}")
    assert archive(log, store, ArchiveSettings(), ArchiveMetrics(), Stop(), once=True).records > 1_000


def looped(log: Log, folder: Path, name: str) -> Loop[Any]:
    """Return a shard's loop as its process makes it; one bad event is a flood."""
    placement, blobs = PLACEMENTS[name], Blobs(folder)
    judges = judges_of(placement.kinds, {}, blobs, ShardMetrics([kind.surface for kind in placement.kinds]))
    return Loop(
        log, blobs, placement.shard, make=MakeShop(placement.kinds), judge=judges,
        settings=LoopSettings(snapshot_interval_s=0.0, flood_records=FLOOD_RECORDS, flood_share=0.0),
        quarantine=placement.quarantines,
    )  # fmt: skip


def learned(log: Log, folder: Path, name: str) -> None:
    """Learn all there is, as the shard does, and end with an alarm, for one of the events is bad."""
    with closing(looped(log, folder, name)) as loop, pytest.raises(Flooded):
        loop.run(lambda: False)


def served(log: Log, folder: Path) -> None:
    """Follow each shard that answers, and log what an answer shows."""
    stop, impressions = Stop(), Impressions(log, ServingMetrics(), records_max=1)
    assert impressions.offer([Impression("r1", 0, "/v1/x", [])])
    stop.set()  # once it has caught up
    impressions.run(stop)
    for placement in PLACEMENTS.values():
        if any(kind.surface.routes for kind in placement.kinds):
            Answers(log, Blobs(folder), placement, {}, ServingMetrics()).follow(stop)


def replayed(log: Log, folder: Path) -> None:
    """Fold a run at the pace that live shards allow, and compare it with the live shard."""
    blobs, placement = Blobs(folder), PLACEMENTS["online"]
    pace, run = ByLiveLag(log, list(SHARDS.values())), RunFolder(blobs, f"run-{time.time_ns()}")
    sections = {kind.name: kind.surface.settings() for kind in placement.kinds}
    shop = Deployment(read_settings().common, sections, FAMILIES, PLACEMENTS)
    with run.alone():
        made, _ = new_run(
            log, blobs, shop, placement, run.name, begin=None, end=None, kind="", sets=(), without=(), who="ann"
        )
        run.write(made)
        assert fold(log, blobs, placement, run, pace=pace).done
    assert compare(log, blobs, placement, run, None, 1).equal


def ruled(log: Log, folder: Path) -> None:
    """State rules, and try others."""
    deployment = Deployment(read_settings().common, {}, FAMILIES, PLACEMENTS)
    state_rules(log, "cart", RuleSet(by="ann", why="recalled", hidden=("sku-1",)))
    assert [one.placement for one in stated_rules(log)] == ["cart"]
    assert try_rules(log, Blobs(folder), deployment, "cart", RuleSet(hidden=("sku-1",)), shoppers=3, n=5).shoppers


def segmented(log: Log, folder: Path) -> None:
    """State segments, try others, and write who is in them."""
    deployment = Deployment(read_settings().common, {}, FAMILIES, PLACEMENTS)
    rules = SegmentRules("ann", "a campaign", {"all": Segment("visits >= 0")})
    state_segments(log, rules)
    assert stated_segments(log) is not None
    assert try_segments(log, Blobs(folder), deployment, rules)[0].after
    assert export_segments(log, Blobs(folder), deployment, folder / "members.csv", [])


def planned(log: Log, folder: Path) -> None:
    """Plan what to order."""
    deployment = Deployment(read_settings().common, {}, FAMILIES, PLACEMENTS)
    assert stock_plan(log, Blobs(folder), deployment, {})[1]


def tried(log: Log, folder: Path) -> None:
    """State an experiment, whose segments are compared with those that are stated, and look for reports."""
    stated_segments(log)
    state_experiment(log, "home", Experiment((Arm("control"), Arm("new"))))
    assert "home" in stated_experiments(log).stated
    newest_reports(log)
    newest_policies(log)


def evaluated(log: Log, folder: Path) -> None:
    """Judge by the answers of an experiment, of which there are none, what a policy would have earned."""
    newest_policies(log)
    wanted = Answered(("home", stated_experiments(log).stated["home"]), None, None, None, None)
    with pytest.raises(Unevaluable, match=r"^wanted .*, found none"):
        judge(
            log, "uniform", wanted, reward="click_through", estimators="", level=0.95, sections={},
            report=lambda *_: None,
        )  # fmt: skip


def silenced(log: Log, folder: Path) -> None:
    """Silence the detectors, and look what they said."""
    silence(log, Silence("*", 0, 1 << 50, "a fair", "ann"))
    assert [one.why for one in silences(log, 0)] == ["a fair"]
    newest_alarms(log)


def traced(log: Log, folder: Path) -> None:
    """Follow the first record of each of two partitions."""
    for number in (0, 1):
        first = log.first(Partition(EVENTS, number))
        assert trace(log, PLACEMENTS, f"{number}/{first}")[0].place == f"events/{number}/{first}"


def status(log: Log, folder: Path) -> None:
    shop = Deployment(read_settings().common, {}, FAMILIES, PLACEMENTS)
    show(collect(log, shop), Terminal(), FAMILIES)


def verified(log: Log, folder: Path) -> None:
    for shard in SHARDS.values():
        assert verify(log, Blobs(folder), shard).whole


def backed_up(log: Log, folder: Path) -> None:
    found = _manifest(log, Deployment(read_settings().common, {}, FAMILIES, PLACEMENTS), 0)
    assert set(found.shards) == set(SHARDS)


def taken_in(log: Log, folder: Path) -> None:
    """Store a record of each topic as the gateway does; raise what keeps it from the log."""

    async def store() -> str:
        runs = record_of("key", Experiment((Arm("control"), Arm("new")), state="running"))
        depot = Depot(lambda: log, Spool(Path(tempfile.mkdtemp(dir=folder)), bytes_max=10_000), patience_s=quick_s)
        running = asyncio.create_task(depot.run())
        await depot.store([*(Outgoing(topic, b"key", b"{}") for topic in (EVENTS, ITEMS, TRAITS, RULES)), runs])
        depot.stop()
        await running
        return depot.fault

    if fault := asyncio.run(store()):
        raise Misconfigured(fault)


def watched(log: Log, folder: Path) -> None:
    """Read what the pages of the console show."""
    shop = Deployment(read_settings(blobs=str(folder)).common, {}, FAMILIES, PLACEMENTS)
    reader = StatusReader(log, shop)
    reader.read()
    reader.changes()
    Wealth(FAMILIES).look(log)
    stated_rules(log)
    stated_experiments(log)
    newest_reports(log)
    newest_policies(log)
    silences(log, 0)
    trace(log, PLACEMENTS, "0/0")


ROADS: dict[str, Callable[[Log, Path], None]] = {
    "gateway": taken_in,
    "simulate": simulated,
    "load": loaded,
    **{name: partial(learned, name=name) for name in SHARDS},
    "serve": served,
    "republish": lambda log, folder: print(republish(log, EVENTS, EVENTS_REPLAY)),
    "archive": archived,
    "dead-letters": redriven,
    "propose": proposed,
    "promote": promoted,
    "roll-back": rolled_back,
    "withdraw": withdrawn,
    "history": history_read,
    "replay": replayed,
    "rules": ruled,
    "segments": segmented,
    "stock": planned,
    "experiment": tried,
    "evaluate": evaluated,
    "drift": silenced,
    "trace": traced,
    "status": status,
    "console": watched,
    "verify": verified,
    "backup": backed_up,
}
"""What each process does, in an order in which each finds what it wants."""
READERS = ("history", "replay", "evaluate", "trace", "status", "console", "verify", "backup")
"""Those that only read what the others have written, and mostly wait: all at once."""


def begun(log: Log, folder: Path, name: str) -> None:
    """Do what each shard does first: fence its former process, fold its journal, and note where it stands."""
    with closing(looped(log, folder, name)) as loop:
        loop.run(lambda: True)


BEGINNINGS: dict[str, Callable[[Log, Path], None]] = {
    **ROADS,
    "roll-back": lambda log, folder: rolled_back(log, folder, PROPOSED),
    **{name: partial(begun, name=name) for name in SHARDS},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the shop's blobs."""
    return tmp_path_factory.mktemp("blobs")


@pytest.fixture(scope="module")
def walked(guarded: Guarded, folder: Path) -> Guarded:
    """Return the broker after each process has done its work with the rights of the table and no more."""
    with closing(guarded.free()) as log, closing(log.appender()) as appender:
        simulated(log, folder, FLOOD_RECORDS)
        # Not the first event: one that is learned in a small commit before so many others is no flood.
        appender.append(Outgoing(EVENTS, b"key", b"no event", 0))
        letters(log)

    def walk(process: str) -> None:
        with closing(guarded.opened(process)) as log:
            log.create()
            ROADS[process](log, folder)

    for process in ROADS:
        if process not in READERS:
            walk(process)
    with ThreadPoolExecutor(len(READERS)) as readers:
        list(readers.map(walk, READERS))
    with closing(guarded.free()) as log:
        letters(log)  # for those who lack a right
    return guarded


def test_with_the_rights_of_the_table_each_process_does_its_work(walked: Guarded) -> None:
    assert set(ROADS) == set(RIGHTS)
    with closing(walked.free()) as log:
        # A shard ends with its flood before it has heard of an experiment, a bound or a segment, and before 91 days are
        # over; that it may write is checked as it begins.
        late = (EXPERIMENT_REPORTS, EXPOSURES, POLICIES, SEGMENT_MOVES, SHOPPER_CLASSES)
        topics = [topic for topic in TOPICS if topic not in late]
        for place in (*(Partition(topic, 0) for topic in topics), *(shard.journal for shard in SHARDS.values())):
            assert log.last(place), f"nothing was written to {place}"
        for name in SHARDS:
            assert E0 in log.committed(name)


def begin_denied(walked: Guarded, folder: Path, less: str) -> tuple[str, float]:
    """Begin the work of who lacks a right; return what was denied, and the seconds that it took."""
    process, user, _ = LESS[less]
    with closing(walked.opened(user)) as log:
        log.create()
        began = time.monotonic()
        try:
            BEGINNINGS[process](log, folder)
        except Misconfigured as error:
            return str(error), time.monotonic() - began
    return "", 0.0


@pytest.fixture(scope="module")
def denied(walked: Guarded, folder: Path, request: pytest.FixtureRequest) -> dict[str, tuple[str, float]]:
    """Return what each that is tested is told. They mostly wait: several work at once, one of each writer."""
    specs = [getattr(item, "callspec", None) for item in request.session.items]
    tested = {spec.params["less"] for spec in specs if spec and "less" in spec.params}
    with ThreadPoolExecutor(3) as others, ExitStack() as stack:
        alone = {name: stack.enter_context(ThreadPoolExecutor(1)) for name in (*SHARDS, "archive")}
        begun = {
            less: alone.get(process, others).submit(begin_denied, walked, folder, less)
            for less, (process, _, _) in LESS.items()
            if less in tested
        }
        return {less: one.result() for less, one in begun.items()}


@pytest.mark.parametrize(
    "less", [less if less in ONCE else pytest.param(less, marks=pytest.mark.full) for less in LESS]
)
def test_one_right_less_is_told_at_once(denied: dict[str, tuple[str, float]], less: str) -> None:
    right = LESS[less][-1]
    told, seconds = denied[less]
    asked = "(Read|Describe)" if right.kind == "group" else right.operation  # Read includes Describe
    said = rf"^Kafka denies [^(;]*\b{asked}\b[^(;]* on {right.kind} {SHOP}{right.name}\b.*$"
    assert re.search(said, told), told or "no right was denied"
    assert seconds < quick_s


def test_who_may_not_read_the_topics_settings_is_told_which(walked: Guarded) -> None:
    with closing(walked.opened("online")) as log:
        findings, unread = log.check_settings()
        assert not findings
        assert set(unread) == {right.name for right in rights(ONLINE) if right.kind == "topic"}
        assert log.hidden([E0]) == {}
        walked.grant([allowed("online", Right("Describe_Configs", "topic", EVENTS))])
        assert EVENTS not in log.check_settings()[1]


def test_topics_that_are_missing_are_made_by_who_may(guarded: Guarded) -> None:
    with closing(guarded.opened("maker", f"{SHOP}new-")) as log:
        log.create()
        assert [log.end(place) for place in partitions_of(EVENTS)] == [0] * 4
        log.create()


def test_who_may_not_make_topics_needs_them_to_be_there(guarded: Guarded) -> None:
    with closing(guarded.opened("watcher")) as log:
        log.create()
        assert log.first(E0) == 0
    began = time.monotonic()
    with closing(guarded.opened("watcher", f"{SHOP}old-")) as log:
        names = ", ".join(f"{SHOP}old-{topic}" for topic in TOPICS)
        with pytest.raises(Misconfigured, match=f"^Kafka denies Create on topics that are missing .{names}.;"):
            log.create()
    assert time.monotonic() - began < quick_s


def test_who_may_not_add_partitions_does_with_those_that_an_older_version_made(
    guarded: Guarded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(guarded.free(f"{SHOP}two-")) as log:
        with pytest.MonkeyPatch.context() as patched:
            for name in ("journal", "judgements"):
                patched.setitem(TOPICS, name, TOPICS[name]._replace(partitions=2))
            log.create()
        with closing(log.writer(ONLINE.name, ONLINE.written)) as writer:
            entry = journal.encode(Entry(ONLINE.name, 0, [], 0, None))
            writer.commit([Outgoing("journal", b"online", entry, 0)], {E0: 0})
            writer.settle()
    usual = default_placements()
    began = time.monotonic()
    with closing(guarded.opened("keeper", f"{SHOP}two-")) as log:
        log.create()
        assert log.last(JOURNAL)
        show(collect(log, Deployment(read_settings().common, {}, FAMILIES, usual)), Terminal(), FAMILIES)
    assert time.monotonic() - began < quick_s
    said = " ".join(capsys.readouterr().out.split())  # lines end at 80 columns
    assert "online (stock, next_item, purchase, profiles, segments, shopper_value, demand): 1 journal entries" in said


def said_when_denied(act: Callable[[], object]) -> str:
    """Do something again and again until a right is denied."""
    deadline = time.monotonic() + quick_s
    while time.monotonic() < deadline:
        try:
            act()
        except Misconfigured as error:
            return str(error)
        time.sleep(0.05)
    pytest.fail("no right was denied")


def test_a_reader_that_loses_its_right_says_so(guarded: Guarded) -> None:
    with closing(guarded.opened("reader")) as log, closing(log.reader({E0: 0})) as reader:
        reader.read(1, 0.1)
        guarded.take("reader", READS)
        said = said_when_denied(lambda: reader.read(1_000, 0.1))
        assert re.search(rf"denies Read .*{SHOP}events", said)
        with pytest.raises(Misconfigured):
            log.reader({E0: 0})
        # Whichever question comes first after the loss: none says that the topic is missing.
        for ask in (
            lambda: log.partitions(EVENTS),
            lambda: log.identity(EVENTS),
            lambda: log.first(E0),
            lambda: log.end(E0),
            lambda: log.position_at(E0, 0),
        ):
            with pytest.raises(Misconfigured, match=f"denies .*{SHOP}events"):
                ask()


def test_an_appender_that_loses_its_right_says_so(guarded: Guarded) -> None:
    with closing(guarded.opened("appender")) as log, closing(log.appender()) as appender:
        record = Outgoing(EVENTS, b"key", b"no event", 0)

        def append() -> None:
            appender.append(record)
            appender.flush()

        append()
        guarded.take("appender", WRITES)
        assert f"denies Write on topic {SHOP}events" in said_when_denied(append)
        with suppress(Misconfigured):  # it says so again
            appender.close()


def test_a_writer_that_loses_a_right_says_so_at_the_next_commit(guarded: Guarded) -> None:
    with closing(guarded.opened("committer")) as log, closing(log.writer(ONLINE.name, ONLINE.written)) as writer:
        record = Outgoing("scores", b"key", b"{}", 0)

        def commit() -> None:
            writer.commit([record], {})
            writer.settle()

        commit()
        guarded.take("committer", Right("Write", "topic", "scores"))
        assert re.search(rf"denies Write .*{SHOP}scores", said_when_denied(commit))
        with pytest.raises(Misconfigured):
            commit()


def test_a_writer_that_idles_keeps_what_it_was_denied(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.log.kafka.writer.maintenance_interval_s", 0.2)
    with closing(guarded.opened("idler")) as log, closing(log.writer(ONLINE.name, ONLINE.written)) as writer:
        guarded.take("idler", Right("Read", "topic", "scores"))
        assert re.search(rf"denies Read .*{SHOP}scores", said_when_denied(writer.settle))


def test_a_reader_without_a_topic_is_no_crash(guarded: Guarded) -> None:
    _, user, _ = LESS["serve without Read on topic journal"]
    with (
        closing(guarded.opened(user)) as log,
        closing(KafkaReader(log._client, {E0: 0, JOURNAL: 0})) as reader,
        pytest.raises(LogUnavailable, match=r"did not return the end of .*journal"),
    ):
        reader.end(E0)


def environment(guarded: Guarded, user: str) -> dict[str, str]:
    return {
        "HEADRACE_LOG": f"kafka:{guarded.users}?prefix={SHOP}",
        f"{PREFIX}SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        f"{PREFIX}SASL_MECHANISM": "PLAIN",
        f"{PREFIX}SASL_USERNAME": user,
        f"{PREFIX}SASL_PASSWORD": f"{user}-secret",
    }


def test_serving_that_loses_a_right_ends(walked: Guarded, folder: Path) -> None:
    stop = Stop()
    metrics = ServingMetrics()
    with closing(walked.opened("server")) as log, listen("127.0.0.1", 0) as listener:
        loss = Timer(1.0, walked.take, ("server", READS))
        loss.start()
        with pytest.raises(Misconfigured, match="denies Read"):
            serve(
                lambda: nullcontext(log), Blobs(folder), ServeSettings(), metrics, stop,
                placements=list(PLACEMENTS.values()), sections={}, listener=listener,
            )  # fmt: skip
        loss.join()


def test_learning_that_loses_a_right_is_not_tried_again(walked: Guarded, folder: Path) -> None:
    def learn() -> None:
        with closing(walked.opened("learner")) as log:
            learned(log, folder, "online")

    loss = Timer(3.0, walked.take, ("learner", READS))
    loss.start()
    with pytest.raises(Misconfigured, match="denies Read"):
        run_with_retries(learn, Stop(), deadline_s=60.0)
    loss.join()


@pytest.mark.parametrize(
    ("less", "said"),
    [
        ("status without Read on topic models", f"Read, Write and Describe on topic {SHOP}models"),
        ("simulate without Write on topic truth", f"Write on topic {SHOP}truth"),
    ],
)
def test_a_command_that_is_denied_a_right_ends_with_2_and_a_line(
    guarded: Guarded, children: Children, monkeypatch: pytest.MonkeyPatch, less: str, said: str
) -> None:
    process, user, _ = LESS[less]
    monkeypatch.setenv("HEADRACE_LOG", f"kafka:{guarded.users}?prefix={SHOP}")
    monkeypatch.setenv("HEADRACE_PRODUCER__METRICS_PORT", "0")
    for name, text in (
        ("SECURITY_PROTOCOL", "SASL_PLAINTEXT"),
        ("SASL_MECHANISM", "PLAIN"),
        ("SASL_USERNAME", user),
        ("SASL_PASSWORD", f"{user}-secret"),
    ):
        monkeypatch.setenv(PREFIX + name, text)
    child = children.start(process, process, up=False)
    assert child.wait(60.0) == 2, child.text
    assert child.text.splitlines()[-1].startswith(f"headrace: Kafka denies {said}"), child.text
    assert "Traceback" not in child.text


def test_whoever_may_read_a_topic_can_look_at_it_and_at_no_other(guarded: Guarded) -> None:
    with closing(guarded.opened("person")) as log:
        reader = ReadOnlyLog(log, {})
        list(reader.models())
        with pytest.raises(Misconfigured, match=f"Describe on topic {SHOP}{EVENTS};"):
            list(reader.events())
