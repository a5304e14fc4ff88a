"""The server over a real log: what it answers, while an online loop learns beside it."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from consumers.online import MakeShop
from headrace.blobs import Blobs
from headrace.config import OnlineSettings, ServeSettings
from headrace.events import Data, Event, Item, at, encode
from headrace.follower import Follower
from headrace.log import Log, Outgoing, open_log
from headrace.loop import Loop, LoopSettings
from headrace.metrics import ServingMetrics
from headrace.topics import EVENTS, MODELS, partitions_of
from learners.announcement import Announcement
from learners.deep import DeepModel, DeepSettings
from serving.answers import Answers
from serving.app import listen, make_app, run

START_MS = 1_736_121_600_000
MAKE = MakeShop(OnlineSettings(items_max=64, shoppers_max=50))


class Shop:
    """A log with an online loop that a test steps by hand."""

    def __init__(self, log: Log, blobs: Blobs) -> None:
        self.log, self._count = log, 0
        settings = LoopSettings(commit_interval_s=0.0, idle_wait_s=0.0)
        self.loop = Loop(
            log,
            blobs,
            "online",
            make=MAKE,
            sources=partitions_of(EVENTS),
            sides=partitions_of(MODELS),
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
    settings = ServeSettings(recommendations_max=10)
    server = threading.Thread(
        target=run, args=(log, Blobs(tmp_path / "blobs"), settings, ServingMetrics(), stop),
        kwargs={"make": MAKE, "listener": listener}, daemon=True,
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


@pytest.mark.parametrize("n", ["0", "11", "-1", "x", "", "1e3", "٣", "9" * 5_000])
def test_a_bad_n_is_refused(client: httpx.Client, n: str) -> None:
    answer = client.get("/v1/recommendations/ann", params={"n": n})
    assert answer.status_code == 400
    assert "wanted 1 to 10" in answer.json()["error"]


@pytest.mark.parametrize("shopper", ["", "x" * 129])
def test_a_shopper_that_no_event_can_have_is_refused(client: httpx.Client, shopper: str) -> None:
    answer = client.get(f"/v1/recommendations/{shopper}")
    assert (answer.status_code, "1 to 128" in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize("shopper", ["a/b", "/", "a/", "ann?n=0", "50%", "../ann", "ä b+c", "a\n", "a\nb"])
def test_a_shopper_may_have_any_characters(client: httpx.Client, shopper: str) -> None:
    answer = client.get(f"/v1/recommendations/{quote(shopper, safe='')}", params={"n": 3})
    assert (answer.status_code, answer.json()["shopper"]) == (200, shopper)


@pytest.mark.parametrize("path", ["/", "/v1/recommendation/ann", "/nothing"])
def test_other_paths_say_what_there_is(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "/v1/recommendations/{shopper}" in answer.json()["error"]


def test_it_never_writes(client: httpx.Client) -> None:
    answer = client.post("/v1/recommendations/ann")
    assert answer.status_code == 405
    assert "error" in answer.json()


def test_health(client: httpx.Client) -> None:
    assert client.get("/health/live").json() == {"live": True}
    assert client.get("/health/ready").json()["ready"] is True


def test_metrics_can_be_parsed_and_tell_of_requests(shop: Shop, client: httpx.Client) -> None:
    shop.view(("ann", "a"), ("bob", "b"))
    until(lambda: len(items(client, "eve")) == 2, "the events never came")
    client.get("/v1/recommendations/ann?n=0")
    found = {
        (sample.name, sample.labels.get("route"), sample.labels.get("code")): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }
    assert found["headrace_http_requests_total", "/v1/recommendations/{shopper}", "400"] == 1
    assert found["headrace_http_requests_total", "/v1/recommendations/{shopper}", "200"] >= 1
    assert found["headrace_freshness_seconds_count", None, None] >= 1
    assert not any(route and "ann" in route for _, route, _ in found)


def test_a_model_is_told_of_items_as_soon_as_they_are_folded(shop: Shop, tmp_path: Path) -> None:
    model = DeepModel(DeepSettings(width=16), 1)
    model.grow(["a1", "a2", "b1"])
    blobs = Blobs(tmp_path / "blobs")
    blob = blobs.put("model", model.to_bytes())
    promoted = Announcement(id="x", kind="promoted", round=1, at_events=0, time_ms=0, blob=blob, version="r1")
    appender = shop.log.appender()
    appender.append(promoted.record())
    appender.close()
    shop.view(("ann", "a1"), ("ann", "b1"), ("ann", "a-before"))
    log, stop = open_log(f"sqlite:{tmp_path / 'log.db'}"), threading.Event()
    answers = Answers(log, blobs, make=MAKE, metrics=ServingMetrics())
    thread = threading.Thread(target=answers.follow, args=(stop,), daemon=True)
    thread.start()

    def guests() -> list[str]:
        return answers._loaded.model.guests if answers._loaded else []

    def recommended(shopper: str) -> list[str]:
        answer = answers.recommend(shopper, 5)
        return [one.item_id for one in answer.items] if answer else []

    until(lambda: guests() == ["a-before"], "the model was not told when it was loaded")
    shop.view(("bob", "a-new"), ("bob", "c-new"))
    until(lambda: guests() == ["a-before", "a-new"], "the model was not told of the item that came")
    shop.view(("eve", "a-new"))
    until(lambda: "a-before" in recommended("eve"), "no answer")
    stop.set()
    thread.join(20)
    assert not thread.is_alive()
    log.close()


def test_a_model_that_cannot_be_had_is_done_without(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = DeepModel(DeepSettings(width=16), 1)
    model.grow(["a1", "b1"])
    blobs = Blobs(tmp_path / "blobs")
    good, lost = blobs.put("model", model.to_bytes()), f"model-{'0' * 64}"
    log = open_log(f"sqlite:{tmp_path / 'log.db'}")
    answers, fold = Answers(log, blobs, make=MAKE, metrics=ServingMetrics()), shop.loop.fold

    def served(kind: Any, version: str, blob: str) -> str:
        fold.champion = Announcement(id=version, kind=kind, round=1, at_events=0, time_ms=0, blob=blob, version=version)
        answers._take_model(fold)
        return answers._loaded.version if answers._loaded else ""

    assert served("promoted", "r1", good) == "r1"
    with capture_logs() as told:
        assert served("rolled_back", "r0", lost) == served("rolled_back", "r0", lost) == "", "not the one before"
    assert [one["event"] for one in told] == ["model is gone"], "looked for once"
    assert served("promoted", "r1", good) == "r1"
    assert served("rolled_back", "r0", lost) == "", "not the one that came between"
    assert served("promoted", "r1", good) == "r1"
    monkeypatch.setattr("learners.deep.FORMAT", 99)
    answers._loaded = None
    assert served("promoted", "r2", good) == "", "another version's format"
    log.close()


def test_whoever_gets_an_entry_at_each_step_is_not_behind(shop: Shop, tmp_path: Path) -> None:
    log, stop = open_log(f"sqlite:{tmp_path / 'log.db'}"), threading.Event()
    answers = Answers(log, Blobs(tmp_path / "blobs"), make=MAKE, metrics=ServingMetrics())
    thread = threading.Thread(target=answers.follow, args=(stop,), daemon=True)
    step = Follower.step
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Follower, "step", lambda *given: max(1, step(*given)))
        thread.start()
        until(lambda: answers.behind_s() < 5, "it thinks that it is behind")
        stop.set()
        thread.join(20)
    log.close()


def test_this_visit_is_known_though_who_asks_names_no_session(shop: Shop) -> None:
    fold = shop.loop.fold
    for n, (visit, item) in enumerate([("v1", "a"), ("v1", "b"), ("v2", "c"), ("v2", "d"), ("v2", "a")]):
        data = Data([Item(item)], session_id=visit)
        fold.learn(Event(f"n{n}", "t", "view_item", at(START_MS + n), data, "1.0", "ann", START_MS + n), 0, n)
    context = fold.browsing.contexts.context("ann", START_MS + 9)
    assert fold.browsing.prefix(context) == ["c", "d", "a"]
    assert [item for item, _ in fold.recommend("ann", START_MS + 9, 5)] == ["b"], "the others were seen in this visit"


def test_our_own_mistakes_end_it_and_are_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log(f"sqlite:{tmp_path / 'log.db'}")
    log.create()

    def mistaken(answers: Answers, stop: threading.Event) -> None:
        raise KeyError("a mistake")

    monkeypatch.setattr(Answers, "follow", mistaken)
    with listen("127.0.0.1", 0) as listener, pytest.raises(KeyError, match="a mistake"):
        run(log, Blobs(tmp_path), ServeSettings(), ServingMetrics(), threading.Event(), make=MAKE, listener=listener)
    log.close()


def test_before_anything_is_restored_it_says_so(tmp_path: Path) -> None:
    log = open_log(f"sqlite:{tmp_path / 'log.db'}")
    log.create()
    metrics = ServingMetrics()
    app = make_app(Answers(log, Blobs(tmp_path), make=MAKE, metrics=metrics), metrics, ServeSettings())

    async def codes() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            paths = ("/v1/recommendations/ann", "/health/ready", "/health/live")
            return [(await client.get(path)).status_code for path in paths]

    assert asyncio.run(codes()) == [503, 503, 200]
    log.close()
