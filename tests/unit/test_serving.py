"""The server over a real log: what it answers, while an online loop learns beside it."""

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import httpx
import pytest
from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request
from structlog.testing import capture_logs

from headrace.announcement import Announcement
from headrace.config import ServeSettings
from headrace.direct import Direct
from headrace.errors import LogUnavailable
from headrace.events import Data, Event, Item, at, encode
from headrace.experiments import Arm, Experiment, record_of
from headrace.http import listen
from headrace.keys import KeyRing, Role, create
from headrace.log.memory import MemoryLog
from headrace.log.open import open_log
from headrace.log.protocol import Log, Outgoing, Partition, Record
from headrace.metrics import ServingMetrics
from headrace.pseudonyms import Pseudonyms, add_secret
from headrace.reading import ReadOnlyLog
from headrace.shard.blobs import Blobs
from headrace.shard.follower import Follower, freeze
from headrace.shard.kept import stored_pointers
from headrace.shard.loop import Loop, LoopSettings
from headrace.state import State, digest
from headrace.surface import Artifact, Route, Surface
from headrace.topics import EVENTS, ITEMS, Shard
from learners.deep.model import DeepModel, DeepSettings
from learners.families import Placement
from learners.family import Family, Merges, Moment, NoSettings
from learners.next_item.family import NextItemSettings
from learners.next_item.questions import RecommendationQuery
from learners.shop import MakeShop
from learners.shop import Shop as Fold
from serving.answers import Answers, ServedArtifact
from serving.app import make_app, run
from serving.turns import Turns
from tests.hostile import HOSTILE, wire
from tests.shards import FINETUNE, ONLINE, next_item, online

START_MS = 1_736_121_600_000
SECTIONS = {"next_item": NextItemSettings(items_max=64, shoppers_max=50, recommendations_max=10)}
MAKE = online(SECTIONS["next_item"])


class Shop:
    """A log with an online loop that a test steps by hand."""

    def __init__(self, log: Log, blobs: Blobs) -> None:
        self.log, self._count = log, 0
        settings = LoopSettings(commit_interval_s=0.0, idle_wait_s=0.0)
        self.loop = Loop(
            log,
            blobs,
            ONLINE.shard,
            make=MAKE,
            settings=settings,
        )
        self.loop.step()

    def view(self, *views: tuple[str, str]) -> None:
        """Publish views and learn them."""
        appender = self.log.appender()
        for shopper, item in views:
            event = Event(
                f"e{self._count}", "test", "view_item", at(START_MS + self._count),
                Data([Item(item, item_category=item[0])]), "1.0", shopper,
            )  # fmt: skip
            appender.append(Outgoing(EVENTS, shopper.encode(), encode(event)))
            self._count += 1
        appender.close()
        self.loop.run(lambda: self.loop.fold.events >= self._count)

    def state_item(self, item: str, value: bytes | None) -> None:
        """Publish a record of an item, and hear it."""
        appender = self.log.appender()
        appender.append(Outgoing(ITEMS, item.encode(), value))
        appender.close()
        number = self.loop.number
        self.loop.run(lambda: self.loop.number > number)


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    log = open_log(f"sqlite:{tmp_path / 'log.db'}")
    log.create()
    opened = Shop(log, Blobs(tmp_path / "blobs"))
    yield opened
    opened.loop.close()
    log.close()


@pytest.fixture
def client(shop: Shop, tmp_path: Path) -> Iterator[httpx.Client]:
    """A server in a thread, on a port of its own."""
    log, stop = open_log(f"sqlite:{tmp_path / 'log.db'}"), threading.Event()
    listener = listen("127.0.0.1", 0)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    settings = ServeSettings()
    server = threading.Thread(
        target=run, args=(lambda: nullcontext(log), Blobs(tmp_path / "blobs"), settings, ServingMetrics(), stop),
        kwargs={"placements": [ONLINE, FINETUNE], "sections": SECTIONS, "listener": listener}, daemon=True,
    )  # fmt: skip
    server.start()
    with httpx.Client(base_url=address, timeout=10) as opened:
        until(lambda: opened.get("/health/ready").status_code == 200, "the server was never ready")
        yield opened
    stop.set()
    server.join(20)
    listener.close()
    log.close()
    assert not server.is_alive()


def items(client: httpx.Client, shopper: str, n: int = 5) -> list[str]:
    body: dict[str, Any] = client.get(f"/v1/recommendations/{shopper}", params={"n": n}).json()
    return [item["item_id"] for item in body["items"]]


def test_a_shopper_never_seen_gets_popular_items(shop: Shop, client: httpx.Client) -> None:
    shop.view(*[(f"s{n}", "hit" if n % 2 else f"i{n % 5}") for n in range(40)])
    until(lambda: items(client, "nobody")[:1] == ["hit"], "the popular item never came first")
    answer = client.get("/v1/recommendations/nobody?n=3").json()
    assert len(answer["items"]) == 3
    assert answer["model"] == ""
    assert answer["shopper"] == "nobody"
    assert answer["fresh"]["entry"] >= 1
    assert START_MS < answer["fresh"]["newest_event_ms"] <= START_MS + 39
    assert answer["recommendation_id"] != client.get("/v1/recommendations/nobody?n=3").json()["recommendation_id"]


def test_a_published_event_changes_the_answer(shop: Shop, client: httpx.Client) -> None:
    pairs = [(f"s{n}", item) for n in range(30) for item in (("a", "b") if n % 2 else ("c", "d"))]
    shop.view(*pairs)
    until(lambda: len(items(client, "ann")) == 4, "the first events never came")

    def see(item: str, follows: str) -> None:
        shop.view(("ann", item))
        until(lambda: item not in items(client, "ann"), "the answer still has the item just seen")
        assert items(client, "ann")[0] == follows

    see("a", "b")
    see("c", "d")


def test_an_item_that_is_gone_leaves_the_answers_without_an_event(shop: Shop, client: httpx.Client) -> None:
    shop.view(*[(f"s{n}", "hit" if n % 2 else f"i{n % 5}") for n in range(40)], ("ann", "i1"))
    until(lambda: items(client, "nobody")[:1] == ["hit"], "the popular item never came first")
    shop.state_item("hit", b'{"availability": "out_of_stock"}')
    until(lambda: "hit" not in items(client, "nobody"), "it is still answered")
    assert "hit" not in items(client, "ann", 10)
    shop.state_item("hit", b'{"availability": "in_stock"}')
    until(lambda: items(client, "nobody")[:1] == ["hit"], "it never came back")
    shop.state_item("hit", None)
    shop.state_item("i1", b'{"retired": true}')
    until(lambda: not {"hit", "i1"} & {*items(client, "nobody")}, "retired items are still answered")
    visit = client.get("/v1/purchase/ann").json()
    assert (visit["shopper"], visit["items"]) == ("ann", [])


@pytest.mark.parametrize("n", ["0", "11", "-1", "x", "", "1e3", "٣", "9" * 5_000])
def test_a_bad_n_is_refused(client: httpx.Client, n: str) -> None:
    answer = client.get("/v1/recommendations/ann", params={"n": n})
    assert answer.status_code == 400
    assert "wanted 1 to 10" in answer.json()["detail"]


@pytest.mark.parametrize("shopper", ["", "x" * 129])
def test_a_shopper_that_no_event_can_have_is_refused(client: httpx.Client, shopper: str) -> None:
    answer = client.get(f"/v1/recommendations/{shopper}")
    assert (answer.status_code, "1 to 128" in answer.json()["detail"]) == (400, True)


def test_a_shopper_may_have_any_characters(client: httpx.Client) -> None:
    for shopper in ("a/b", "/", "a/", "ann?n=0", "50%", "../ann", "ä b+c", "a\n", "a\nb"):
        answer = client.get(f"/v1/recommendations/{quote(shopper, safe='')}", params={"n": 3})
        assert (answer.status_code, answer.json()["shopper"]) == (200, shopper)


def test_an_answer_repeats_a_hostile_shopper_in_its_json_alone(client: httpx.Client) -> None:
    """No header differs from those of a harmless shopper's answer, an unknown parameter's answer is JSON too."""
    paths = ("/v1/recommendations/{}", "/v1/recommendations/ann?{}=1", "/{}")
    for path, shopper in product(paths, [wire(text) for text in HOSTILE if 0 < len(text) <= 128]):
        hostile, harmless = (client.get(path.format(quote(name, safe=""))) for name in (shopper, "ann"))
        heads = [dict(answer.headers) for answer in (hostile, harmless)]
        for head in heads:
            head.pop("date")
            head.pop("content-length")
        refused = {"content-type": "application/problem+json", "cache-control": "no-store"}
        assert heads[0] == heads[1]
        assert heads[0] in ({"content-type": "application/json"}, refused)
        assert hostile.json()
        assert not any(sign < 0x20 for sign in hostile.content)


@pytest.mark.parametrize("path", ["/metrics/", "/health/live/"])
def test_no_header_repeats_a_path(client: httpx.Client, path: str) -> None:
    answer = client.get(path, headers={"host": "elsewhere"})
    assert (answer.status_code, answer.headers.get("location")) == (404, None)


@pytest.mark.parametrize("path", ["/", "/v1/recommendation/ann", "/nothing"])
def test_other_paths_say_what_there_is(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "/v1/recommendations/{shopper}" in answer.json()["detail"]


def test_a_shopper_is_asked_for_by_the_shop_s_own_id(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "pseudonyms.json"
    first = add_secret(path, 0)
    shop.view((first.shopper("ann"), "a"), ("bob", "b"), ("bob", "a"), (first.shopper("ann"), "b"))
    blobs, names = Blobs(tmp_path / "blobs"), Pseudonyms(path)
    answers = Answers(shop.log, blobs, ONLINE, SECTIONS, ServingMetrics([]), pseudonyms=names)
    (route,) = (one for one in answers.routes if one.query is RecommendationQuery)
    stop = threading.Event()
    following = threading.Thread(target=answers.follow, args=(stop,))
    following.start()

    def asked(shopper: str) -> dict[str, Any]:
        found = answers.answer(route, RecommendationQuery(shopper=shopper, n=2))
        return found or {}

    until(lambda: bool(asked("ann")), "it answers")
    known = [one.item_id for one in asked(first.shopper("ann"))["items"]]
    assert asked("ann")["shopper"] == "ann"
    assert [one.item_id for one in asked("ann")["items"]] == known
    assert asked("bob")["shopper"] == "bob", "other producers pass on the ids that they are given"
    stop.set()
    following.join()


def status(app: Direct, path: str, **headers: str) -> int:
    """Return the status of an application's answer."""
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": raw}
    return app(Request(scope), b"").status_code


def test_questions_need_a_key_if_the_shop_says_so(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    roles: tuple[Role, Role] = ("read", "ingest")
    (_, reads), (_, sends) = (create(path, "shop", role, now_ms=0) for role in roles)
    answers = Answers(MemoryLog(), Blobs(tmp_path / "blobs"), ONLINE, SECTIONS, ServingMetrics([]))
    app = make_app([answers], ServingMetrics([]), ServeSettings(), KeyRing(path))

    assert status(app, "/health/live") == 200
    asked: list[dict[str, str]] = [{}, *({"authorization": f"Bearer {key}"} for key in ("nobody", sends, reads))]
    found = [status(app, "/v1/recommendations/ann", **headers) for headers in asked]
    assert found == [401, 401, 403, 503], "with the right key, it says that nothing is restored yet"


@contextmanager
def served(
    log: Log | Callable[[], AbstractContextManager[Log]], folder: Path, **settings: Any
) -> Iterator[httpx.Client]:
    """Run a server with these settings in a thread."""
    opened = log if callable(log) else lambda: nullcontext(log)
    stop, listener = threading.Event(), listen("127.0.0.1", 0)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    options: dict[str, Any] = {"placements": [ONLINE], "sections": SECTIONS, "listener": listener}
    blobs, made = Blobs(folder / "blobs"), ServeSettings(**settings)
    serving = threading.Thread(target=partial(run, opened, blobs, made, ServingMetrics([]), stop, **options))
    serving.start()
    try:
        with httpx.Client(base_url=address, timeout=20) as client:
            until(lambda: client.get("/v1/recommendations/ann?n=5").status_code == 200, "it answers")
            yield client
    finally:
        stop.set()
        serving.join(20)
    assert not serving.is_alive()


def test_it_is_not_ready_while_an_event_waits_for_a_shard_that_is_dead(shop: Shop, tmp_path: Path) -> None:
    shop.view(("ann", "a"))
    with closing(open_log(f"sqlite:{tmp_path / 'log.db'}")) as log, served(log, tmp_path, stale_s_max=0.5) as client:
        until(lambda: client.get("/health/ready").status_code == 200, "it is ready")
        appender = shop.log.appender()
        event = Event("waits", "test", "view_item", at(START_MS), Data([Item("b")]), "1.0", "ann")
        appender.append(Outgoing(EVENTS, b"ann", encode(event)))
        appender.close()
        until(lambda: client.get("/health/ready").status_code == 503, "the event grows old")
        assert "found one of" in client.get("/health/ready").json()["detail"]
        assert client.get("/v1/recommendations/ann?n=5").json()["fresh"]["behind_s"] < 5, "it has all that is committed"
        shop.loop.run(lambda: shop.loop.fold.events >= 2)
        until(lambda: client.get("/health/ready").status_code == 200, "the event is in the answers")
        assert client.get("/health/ready").json()["waiting_s"] == 0


class _Away:
    """A log whose readers fail while it is away."""

    def __init__(self, log: Log) -> None:
        self._log, self.away = log, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def reader(self, positions: Mapping[Partition, int]) -> Any:
        found = self._log.reader(positions)

        def reading(*arguments: Any, **options: Any) -> Any:
            if self.away:
                raise LogUnavailable("the broker is away")
            return type(found).read(found, *arguments, **options)

        found.read = reading  # type: ignore[method-assign]  # this reader alone fails
        return found

    def appender(self) -> Any:
        if self.away:
            raise LogUnavailable("the broker is away")
        return _AwayAppender(self, self._log.appender())


class _AwayAppender:
    """An appender that fails while its log is away."""

    def __init__(self, log: _Away, appender: Any) -> None:
        self._log, self._appender = log, appender

    def __getattr__(self, name: str) -> Any:
        return getattr(self._appender, name)

    def flush(self) -> None:
        if self._log.away:
            raise LogUnavailable("the broker is away")
        self._appender.flush()


def test_answers_go_on_while_the_log_is_away(shop: Shop, tmp_path: Path) -> None:
    shop.view(("ann", "a"), ("bob", "b"))
    with closing(open_log(f"sqlite:{tmp_path / 'log.db'}")) as log:
        away: Any = _Away(log)
        with served(away, tmp_path, retry_s=0.2) as client, capture_logs() as lines:
            away.away = True
            until(lambda: any(line["event"] == "log away, answers go on" for line in lines), "the deadline has passed")
            assert {one["item_id"] for one in client.get("/v1/recommendations/eve?n=5").json()["items"]} == {"a", "b"}
            away.away = False
            shop.view(("ann", "c"))
            until(
                lambda: "c" in {one["item_id"] for one in client.get("/v1/recommendations/eve?n=5").json()["items"]},
                "it goes on with the log",
            )


def test_what_answers_show_is_logged_unless_the_log_is_away(shop: Shop, tmp_path: Path) -> None:
    shop.view(("ann", "a"), ("bob", "b"))
    path = "/v1/recommendations/eve?n=5&placement=home"
    with closing(open_log(f"sqlite:{tmp_path / 'log.db'}")) as log:
        away: Any = _Away(log)
        with served(away, tmp_path) as client:
            until(lambda: client.get("/health/ready").status_code == 200, "it is ready")
            first = client.get(path).json()
            assert first["logged"]
            away.away = True
            until(lambda: not client.get(path).json()["logged"], "the failed write is noticed")
            dropped = client.get(path).json()["recommendation_id"]
            away.away = False
            until(lambda: client.get(path).json()["logged"], "it goes on with the log")
            text = client.get("/metrics").text
        found = {one.value.recommendation_id: one.value for one in ReadOnlyLog(log, {}).impressions(placements="home")}
    assert re.search(r'headrace_impressions_dropped_total{reason="log_away"} [1-9]', text)
    assert dropped not in found
    logged = found[first["recommendation_id"]]
    assert [item.item_id for item in logged.items] == [item["item_id"] for item in first["items"]]
    assert (logged.shopper, logged.shard, logged.model) == ("eve", "online", first["model"])
    assert (logged.entry, logged.newest_event_ms) == (first["fresh"]["entry"], first["fresh"]["newest_event_ms"])


def test_nothing_is_logged_if_the_shop_says_so(shop: Shop, tmp_path: Path) -> None:
    shop.view(("ann", "a"))
    with closing(open_log(f"sqlite:{tmp_path / 'log.db'}")) as log:
        with served(log, tmp_path, impressions=False) as client:
            assert client.get("/v1/recommendations/eve?n=5").json()["logged"] is False
        assert list(ReadOnlyLog(log, {}).impressions()) == []


def test_it_never_writes_what_it_is_sent(client: httpx.Client) -> None:
    answer = client.post("/v1/recommendations/ann")
    assert answer.status_code == 405
    assert "detail" in answer.json()


def test_it_begins_from_a_snapshot_while_the_log_is_away(shop: Shop, tmp_path: Path) -> None:
    shop.loop._snapshots.interval_s = 0.0
    blobs = Blobs(tmp_path / "blobs")

    def kept() -> bool:
        shop.view(("ann", "a"), ("eve", "b"))
        return bool(list(stored_pointers(blobs, ONLINE.shard.name)))

    until(kept, "a snapshot is kept")
    there = threading.Event()

    @contextmanager
    def opened() -> Iterator[Log]:
        if not there.is_set():
            raise LogUnavailable("the broker is away")
        with closing(open_log(f"sqlite:{tmp_path / 'log.db'}")) as log:
            yield log

    with served(opened, tmp_path) as client:
        found = client.get("/v1/recommendations/bob?n=5").json()
        assert {item["item_id"] for item in found["items"]} & {"a", "b"}
        assert found["logged"] is False
        assert client.get("/health/ready").status_code == 503
        there.set()
        until(lambda: client.get("/health/ready").status_code == 200, "it follows the log")
        shop.view(("ann", "c"))
        until(lambda: '"c"' in client.get("/v1/recommendations/bob?n=5").text, "it learns again")
        assert client.get("/v1/recommendations/bob?n=5").json()["logged"] is True


def test_without_a_log_and_without_a_snapshot_it_ends(tmp_path: Path) -> None:
    def opened() -> AbstractContextManager[Log]:
        raise LogUnavailable("the broker is away")

    with listen("127.0.0.1", 0) as listener, pytest.raises(LogUnavailable, match="the broker is away"):
        run(
            opened, Blobs(tmp_path), ServeSettings(retry_s=0.1), ServingMetrics(), threading.Event(),
            placements=[ONLINE], sections=SECTIONS, listener=listener,
        )  # fmt: skip


def test_health(client: httpx.Client) -> None:
    assert client.get("/health/live").json() == {"live": True}
    assert client.get("/health/ready").json()["ready"] is True


def test_metrics_can_be_parsed_and_tell_of_requests(shop: Shop, client: httpx.Client) -> None:
    shop.view(("ann", "a"), ("bob", "b"))
    until(lambda: len(items(client, "eve")) == 2, "the events never came")
    shop.state_item("b", None)  # an entry without an event
    until(
        lambda: client.get("/v1/recommendations/eve?n=2").json()["fresh"]["entry"] == shop.loop.number, "no entry came"
    )
    client.get("/v1/recommendations/ann?n=0")
    found = {
        (sample.name, sample.labels.get("route"), sample.labels.get("code")): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }
    assert found["headrace_http_requests_total", "/v1/recommendations/{shopper}", "400"] == 1
    assert found["headrace_http_requests_total", "/v1/recommendations/{shopper}", "200"] >= 1
    assert found["headrace_freshness_seconds_count", None, None] == 2
    assert not any(route and "ann" in route for _, route, _ in found)


def test_a_model_is_told_of_items_as_soon_as_they_are_folded(shop: Shop, tmp_path: Path) -> None:
    model = DeepModel(DeepSettings(width=16), 1)
    model.grow(["a1", "a2", "b1"])
    blobs = Blobs(tmp_path / "blobs")
    blob = blobs.put("model", model.to_bytes())
    promoted = Announcement(id="finetune/1", kind="promoted", round=1, at_events=0, time_ms=0, blob=blob, version="r1")
    appender = shop.log.appender()
    appender.append(promoted.record())
    appender.close()
    shop.view(("ann", "a1"), ("ann", "b1"), ("ann", "a-before"))
    log, stop = open_log(f"sqlite:{tmp_path / 'log.db'}"), threading.Event()
    answers = Answers(log, blobs, ONLINE, SECTIONS, ServingMetrics())
    (route,) = [route for route in answers.routes if route.query is RecommendationQuery]
    thread = threading.Thread(target=answers.follow, args=(stop,), daemon=True)
    thread.start()

    def late_items() -> list[str]:
        served = answers._served.get("next_item")
        return list(served.in_use.artifact.late_items) if served and served.in_use else []

    def recommended(shopper: str) -> list[str]:
        answer = answers.answer(route, RecommendationQuery(shopper=shopper, n=5))
        return [one.item_id for one in answer["items"]] if answer else []

    until(lambda: late_items() == ["a-before"], "the model was not told when it was loaded")
    shop.view(("bob", "a-new"), ("bob", "c-new"))
    until(lambda: late_items() == ["a-before", "a-new"], "the model was not told of the item that came")
    shop.view(("eve", "a-new"))
    until(lambda: "a-before" in recommended("eve"), "no answer")
    stop.set()
    thread.join(20)
    assert not thread.is_alive()
    log.close()


def test_while_a_model_is_loaded_the_former_one_is_in_use_and_told_of_items(shop: Shop, tmp_path: Path) -> None:
    blobs, fold = Blobs(tmp_path / "blobs"), shop.loop.fold
    served = ServedArtifact("next_item", fold, blobs, Turns())
    shop.view(("ann", "a1"), ("ann", "b1"))

    def stored(seed: int) -> str:
        model = DeepModel(DeepSettings(width=16), seed)
        model.grow(["a1", "b1"])
        return blobs.put("model", model.to_bytes())

    def promote(version: str, blob: str) -> None:
        next_item(fold).champion = Announcement(
            id=version, kind="promoted", round=1, at_events=0, time_ms=0, blob=blob, version=version
        )

    def uses(version: str) -> bool:
        served.update(fold)
        return served.in_use is not None and served.in_use.version == version

    former, slow = stored(1), stored(2)
    path = tmp_path / "blobs" / slow
    data = path.read_bytes()
    path.unlink()
    os.mkfifo(path)  # a read of it waits until its bytes are written
    promote("r1", former)
    until(lambda: uses("r1"), "the first model is not in use")
    promote("r2", slow)
    shop.view(("bob", "a-new"))
    assert uses("r1")
    assert served.waits
    assert served.in_use
    assert served.in_use.artifact.late_items == ["a-new"]
    path.write_bytes(data)
    until(lambda: uses("r2"), "the second model is not in use")
    assert not served.waits
    assert served.in_use.artifact.late_items == ["a-new"]


def test_models_that_experiments_try_are_loaded_beside_the_promoted_one(shop: Shop, tmp_path: Path) -> None:
    blobs, fold = Blobs(tmp_path / "blobs"), shop.loop.fold
    model = DeepModel(DeepSettings(width=16), 1)
    model.grow(["a1", "b1"])
    blob, lost = blobs.put("model", model.to_bytes()), f"model-{'0' * 64}"
    served = ServedArtifact("next_item", fold, blobs, Turns())
    shop.view(("ann", "a1"), ("ann", "b1"))

    def state(name: str, **changes: Any) -> None:
        arms = (Arm("control"), Arm("former", model="r1", blob=blob), Arm("gone", model="r0", blob=lost))
        made = record_of(name, Experiment(arms, **changes))
        assert next_item(fold).assignment.hear(Record(0, 1, 0, made.key, made.value)) is None

    def tried() -> list[str]:
        served.update(fold)
        return [*served.tried]

    state("home")
    assert tried() == [], "a draft tries nothing"
    state("home", state="running")
    until(lambda: tried() == [blob], "the model is not tried")
    shop.view(("bob", "a-new"))
    assert tried() == [blob]
    assert served.tried[blob].late_items == ["a-new"]
    assert (served.in_use, served.missing) == (None, False), "none is promoted"
    state("home", state="stopped")
    assert tried() == []


def test_a_model_that_cannot_be_had_is_done_without(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = DeepModel(DeepSettings(width=16), 1)
    model.grow(["a1", "b1"])
    blobs = Blobs(tmp_path / "blobs")
    good, lost = blobs.put("model", model.to_bytes()), f"model-{'0' * 64}"
    log = open_log(f"sqlite:{tmp_path / 'log.db'}")
    fold = shop.loop.fold
    served_model = ServedArtifact("next_item", fold, blobs, Turns())

    def served(kind: Any, version: str, blob: str) -> str:
        next_item(fold).champion = Announcement(
            id=version, kind=kind, round=1, at_events=0, time_ms=0, blob=blob, version=version
        )
        served_model.update(fold)
        assert served_model.missing == (served_model.in_use is None)
        return served_model.in_use.version if served_model.in_use else ""

    assert served("promoted", "r1", good) == "r1"
    with capture_logs() as told:
        assert served("rolled_back", "r0", lost) == served("rolled_back", "r0", lost) == "", "not the one before"
    assert [one["event"] for one in told] == ["artifact is missing, trying again"], "told once"
    assert served("promoted", "r1", good) == "r1"
    assert served("rolled_back", "r0", lost) == "", "not the one that came between"
    assert served("promoted", "r1", good) == "r1"
    monkeypatch.setattr("learners.deep.artifact.FORMAT", 99)
    served_model._artifacts.retain(())
    assert served("promoted", "r2", good) == "", "another version's format"
    log.close()


def test_whoever_gets_an_entry_at_each_step_is_not_behind(shop: Shop, tmp_path: Path) -> None:
    log, stop = open_log(f"sqlite:{tmp_path / 'log.db'}"), threading.Event()
    answers = Answers(log, Blobs(tmp_path / "blobs"), ONLINE, SECTIONS, ServingMetrics())
    thread = threading.Thread(target=answers.follow, args=(stop,), daemon=True)
    step = Follower.step
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Follower, "step", lambda *given: max(1, step(*given)))
        thread.start()
        until(lambda: answers.behind_s() < 5, "it thinks that it is behind")
        stop.set()
        thread.join(20)
    log.close()


def test_a_state_that_differs_from_its_shards_is_restored(shop: Shop, tmp_path: Path) -> None:
    shop.loop._snapshots.interval_s = 0.0
    metrics, stop = ServingMetrics([kind.surface for kind in ONLINE.kinds]), threading.Event()
    log = open_log(f"sqlite:{tmp_path / 'log.db'}")
    answers = Answers(log, Blobs(tmp_path / "blobs"), ONLINE, SECTIONS, metrics, compare_s=0.0)
    (route,) = [route for route in answers.routes if route.query is RecommendationQuery]
    thread = threading.Thread(target=answers.follow, args=(stop,), daemon=True)

    def follower() -> Follower[Fold]:
        assert isinstance(answers._follower, Follower)
        return answers._follower

    def counted(what: str) -> float:
        return metrics.registry.get_sample_value(f"headrace_follower_{what}_total") or 0.0

    def learn_until(condition: Callable[[], bool], what: str) -> None:
        def met() -> bool:
            shop.view(("ann", f"i{shop.loop.number % 5}"))
            assert answers.answer(route, RecommendationQuery(shopper="ann", n=5))
            return condition()

        until(met, what)

    with capture_logs() as lines, closing(log):
        thread.start()
        until(lambda: answers._follower is not None, "it never followed")
        learn_until(lambda: counted("compared") >= 3, "it was never compared")
        assert counted("differs") == 0, "equal folds are equal, whatever they answered"
        damaged, compared = follower(), counted("compared")
        next_item(damaged.fold).blend._flat[0] += 0.001
        learn_until(lambda: answers._follower is not damaged, "it was never restored")
        learn_until(lambda: counted("compared") >= compared + 3, "it was never compared again")
        until(lambda: follower().number == shop.loop.number, "it never caught up")
        assert follower().digest() == digest(freeze(shop.loop.fold, shop.loop._intake))
        assert counted("differs") == 1
        stop.set()
        thread.join(20)
    assert [line["log_level"] for line in lines if line["event"].startswith("state differs")] == ["error"]


def test_this_visit_is_known_though_who_asks_names_no_session(shop: Shop) -> None:
    fold = shop.loop.fold
    for n, (visit, item) in enumerate([("v1", "a"), ("v1", "b"), ("v2", "c"), ("v2", "d"), ("v2", "a")]):
        data = Data([Item(item)], session_id=visit)
        fold.learn(Event(f"n{n}", "t", "view_item", at(START_MS + n), data, "1.0", "ann", START_MS + n), 0, n)
    family = next_item(fold)
    assert family.browsing.prefix(family.browsing.contexts.newest("ann", START_MS + 9)) == ["c", "d", "a"]
    assert family.recommend("ann", START_MS + 9, 5) == [], "all were seen just now, whatever the session is named"
    assert [item for item, _ in family.recommend("bob", START_MS + 9, 5)][:1] == ["a"]


def test_our_own_mistakes_end_it_and_are_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log(f"sqlite:{tmp_path / 'log.db'}")
    log.create()

    def mistaken(answers: Answers, stop: threading.Event) -> None:
        raise KeyError("a mistake")

    monkeypatch.setattr(Answers, "follow", mistaken)
    with listen("127.0.0.1", 0) as listener, pytest.raises(KeyError, match="a mistake"):
        run(
            lambda: nullcontext(log), Blobs(tmp_path), ServeSettings(), ServingMetrics(), threading.Event(),
            placements=[ONLINE], sections=SECTIONS, listener=listener,
        )  # fmt: skip
    log.close()


def test_a_table_is_csv(client: httpx.Client) -> None:
    found = client.get("/v1/retention.csv?n=5")
    assert (found.status_code, found.headers["content-type"].partition(";")[0]) == (200, "text/csv")
    assert found.text.startswith("shopper,value_class,days,purchase,")
    assert len(found.text.splitlines()) == 1, "nobody has bought anything"
    assert client.get("/v1/retention.csv?n=0").status_code == 400


def test_before_anything_is_restored_it_says_so(tmp_path: Path) -> None:
    log = open_log(f"sqlite:{tmp_path / 'log.db'}")
    log.create()
    metrics = ServingMetrics()
    answers = Answers(log, Blobs(tmp_path), ONLINE, SECTIONS, metrics)
    app = make_app([answers], metrics, ServeSettings())
    paths = ("/v1/recommendations/ann", "/health/ready", "/health/live")
    assert [status(app, path) for path in paths] == [503, 503, 200]
    log.close()


def test_a_mistake_of_ours_is_answered_as_json_and_counted(
    shop: Shop, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("an invariant is broken for shopper-1")

    monkeypatch.setattr("learners.next_item.answering.Answering._list", fail)
    found = client.get("/v1/recommendations/shopper-1?n=3")
    assert (found.status_code, found.headers["content-type"]) == (500, "application/problem+json")
    assert found.json()["detail"] == "the server's log has the cause"
    counted = {
        (sample.labels["route"], sample.labels["code"]): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == "headrace_http_requests_total"
    }
    assert counted["/v1/recommendations/{shopper}", "500"] == 1


SLOW_BLOB = f"model-{hashlib.sha256(b'slow').hexdigest()}"


class Slow(Family):
    """Learns slowly in two steps; an answer between them would show half an event, and its artifact likewise."""

    name: ClassVar[str] = "slow"
    merges: ClassVar[Merges] = Merges("not", per_shopper="nothing", why="a test")

    def __init__(self, settings: NoSettings, reads: Mapping[str, Family]) -> None:
        self.begun = self.done = 0
        self.torn = False

    def learn(self, event: Event, now: Moment) -> None:
        self.begun += 1
        time.sleep(0.001)
        self.done += 1

    def state(self) -> State:
        return {"done": self.done}

    def restore(self, state: State) -> None:
        self.begun = self.done = state["done"]


class SlowArtifact:
    """An artifact that is changed and asked in two steps."""

    def __init__(self, data: bytes) -> None:
        self.refreshing = False

    def refresh(self) -> None:
        self.refreshing = True
        time.sleep(0.003)
        self.refreshing = False

    def ask(self) -> bool:
        found = self.refreshing
        time.sleep(0.001)
        return found or self.refreshing


class SlowAnswer(Struct, frozen=True):
    torn: bool
    artifact_torn: bool


Slow.surface = Surface(
    doc="Slow.",
    settings=NoSettings,
    artifact=Artifact(
        "model", current=lambda family: Announcement(id="x", kind="promoted", round=1, at_events=0, time_ms=0,
                                                     blob=SLOW_BLOB, version="r1"),
        load="tests.unit.test_serving:SlowArtifact", refresh=lambda family, artifact: artifact.refresh(),
    ),
    routes=(
        Route(
            path="/v1/slow", doc="Slow.", query=NoSettings, answer=SlowAnswer,
            call=lambda family, query, now: SlowAnswer(
                family.begun != family.done, now.artifact is not None and now.artifact.ask()
            ),
        ),
    ),
)  # fmt: skip


def test_an_answer_never_sees_half_an_event_or_half_an_artifact(tmp_path: Path) -> None:
    log, blobs, stop = MemoryLog(), Blobs(tmp_path), threading.Event()
    log.create()
    assert blobs.put("model", b"slow") == SLOW_BLOB
    placement = Placement(Shard("slow", 0), (Slow,))
    answers = Answers(log, blobs, placement, {}, ServingMetrics())
    loop = Loop(log, blobs, placement.shard, make=MakeShop((Slow,)), settings=LoopSettings(commit_interval_s=0.02))
    follower = threading.Thread(target=answers.follow, args=(stop,), daemon=True)
    follower.start()
    appender, (route,) = log.appender(), answers.routes
    for number in range(400):
        time_ms = START_MS + 1_000 * number
        event = Event(f"e{number}", "test", "view_item", at(time_ms), Data([Item("a")]), "1.0", "ann", time_ms)
        appender.append(Outgoing(EVENTS, b"ann", encode(event)))
    appender.close()
    deadline = time.monotonic() + 60
    learner = threading.Thread(
        target=loop.run, args=(lambda: loop.fold.events >= 400 or time.monotonic() > deadline,), daemon=True
    )
    learner.start()
    found: list[dict[str, Any]] = []
    while learner.is_alive():
        if answer := answers.answer(route, NoSettings()):
            found.append(answer)
    stop.set()
    follower.join(20)
    loop.close()
    assert loop.fold.events == 400
    assert len(found) > 20
    assert not any(answer["torn"] or answer["artifact_torn"] for answer in found)
