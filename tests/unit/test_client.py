"""The client: what it sends and in which order, what it repeats, what survives a gateway that is away, and a crash."""

import json
import logging
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from headrace.client import Client, Counts, RefusedEntry, SpoolFull, Undelivered
from headrace.errors import Misconfigured
from tests.pages import DOCS, commands_of
from tests.small_gateway import KEY, SmallGateway

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gateway() -> Iterator[SmallGateway]:
    with SmallGateway() as opened:
        yield opened


@pytest.fixture
def away() -> str:
    """Return the URL of a gateway that is away."""
    return f"http://127.0.0.1:{free_port()}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def client(url: str, key: str = KEY, **options: Any) -> Client:
    """Return a client that repeats soon."""
    return Client(url, key, **{"retry_s": 0.01, "interval_s": 0.01, "timeout_s": 2.0, **options})


def view(client: Client, number: int) -> str:
    return client.send("view_item", f"shopper-{number % 3}", items=[f"sku-{number}"])


# What is sent


def test_an_event_is_a_cloud_event_with_an_id_and_a_time(gateway: SmallGateway) -> None:
    before = datetime.now(UTC)
    with client(gateway.url) as sender:
        line = {"item_id": "sku-1", "price": Decimal("12.50")}
        event_id = sender.send("purchase", "ann", items=[line], session_id="s-1", transaction_id="o-1")
        assert sender.flush() == Counts(accepted=1)
    (event,) = gateway.events
    assert before <= datetime.fromisoformat(event.pop("time")) <= datetime.now(UTC)
    assert event == {
        "specversion": "1.0", "id": event_id, "type": "purchase", "subject": "ann",
        "data": {"items": [{"item_id": "sku-1", "price": 12.5}], "session_id": "s-1", "transaction_id": "o-1"},
    }  # fmt: skip
    assert gateway.asked[0].key == KEY


def test_an_id_and_a_time_that_are_stated_stay(gateway: SmallGateway) -> None:
    at = datetime(2026, 3, 1, 10, tzinfo=UTC)
    with client(gateway.url) as sender:
        assert sender.send("login", "ann", id="order-1", time=at) == "order-1"
    assert [(event["id"], event["time"]) for event in gateway.events] == [("order-1", at.isoformat())]


def test_batches_keep_the_order_of_events_items_and_traits(gateway: SmallGateway) -> None:
    with client(gateway.url, batch_events=2, interval_s=60) as sender:
        sender.put_item("sku/1", title="Boots")
        sender.put_item("sku-2", title="Shoes")
        sent = [view(sender, number) for number in range(3)]
        sender.put_traits("ann", plan="gold")
        sender.retire_item("sku/1")
        assert sender.flush().accepted == 7
    assert [one.target for one in gateway.asked] == [
        "PUT /v1/items", "POST /v1/events", "POST /v1/events", "PUT /v1/shoppers/ann/traits",
        "DELETE /v1/items/sku%2F1",
    ]  # fmt: skip
    assert gateway.ids() == sent
    assert [body for _, body in gateway.others] == [
        [{"title": "Boots", "id": "sku/1"}, {"title": "Shoes", "id": "sku-2"}], {"plan": "gold"}, None,
    ]  # fmt: skip


def test_a_full_batch_is_sent_at_once(gateway: SmallGateway) -> None:
    with client(gateway.url, batch_events=2, interval_s=60) as sender:
        view(sender, 0)
        view(sender, 1)
        with gateway.changed:
            assert gateway.changed.wait_for(lambda: len(gateway.events) == 2, timeout=5)


def test_a_path_before_the_api_is_kept(gateway: SmallGateway) -> None:
    with client(f"{gateway.url}/shop/") as sender:
        sender.retire_item("sku-1")
    assert gateway.asked[0].target == "DELETE /shop/v1/items/sku-1"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ({"value": float("nan")}, ValueError),
        ({"coupon": "\ud800"}, ValueError),
        ({"time": datetime(2026, 3, 1)}, ValueError),
        ({"coupon": object()}, TypeError),
    ],
)
def test_what_is_no_json_is_refused_at_once(gateway: SmallGateway, data: dict[str, Any], error: type) -> None:
    with client(gateway.url) as sender, pytest.raises(error):
        sender.send("view_item", "ann", items=["sku-1"], **data)
    assert gateway.asked == []


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("gateway:80", KEY),
        ("ftp://gateway", KEY),
        ("http://", KEY),
        ("http://gateway:x", KEY),
        ("http://gateway?key=1", KEY),
        ("http://gateway/a b", KEY),
        ("http://gateway", ""),
        ("http://gateway", "a\nb"),
    ],
)
def test_a_wrong_url_or_key_is_reported_at_once(url: str, key: str) -> None:
    with pytest.raises(Misconfigured):
        Client(url, key)


@pytest.mark.parametrize("spooled", [False, True])
def test_more_than_a_segment_is_sent_in_order(gateway: SmallGateway, tmp_path: Path, spooled: bool) -> None:
    with client(gateway.url, interval_s=60, batch_events=60, spool=tmp_path if spooled else None) as sender:
        sent = [sender.send("view_item", "ann", items=[str(n)], padding="x" * 900_000) for n in range(6)]
        assert sender.flush() == Counts(accepted=6)
    assert gateway.ids() == sent
    assert len(gateway.asked) == 6, "no request should have two of them"


# What is sent again


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_failed_request_is_repeated_with_the_same_ids(gateway: SmallGateway, status: int) -> None:
    gateway.answers = [(status, {}), (status, {})]
    with client(gateway.url, interval_s=60) as sender:
        sent = sender.send_events([{"type": "login", "subject": "ann", "data": {}}] * 2)
        assert sender.flush().accepted == 2
    assert [[event["id"] for event in one.body] for one in gateway.asked] == [sent] * 3
    assert gateway.ids() == sent


def test_the_pause_that_the_gateway_asks_for_is_kept(gateway: SmallGateway) -> None:
    gateway.answers = [(503, {"Retry-After": "0.3"})]
    with client(gateway.url) as sender:
        view(sender, 0)
        sender.flush()
    first, second = (one.at_s for one in gateway.asked)
    assert second - first >= 0.3


def test_pauses_double_up_to_their_bound(gateway: SmallGateway) -> None:
    gateway.answers = [(503, {})] * 9
    with client(gateway.url, retry_s=0.02, retry_s_max=0.08) as sender:
        view(sender, 0)
        sender.flush(timeout_s=60)
    times = [one.at_s for one in gateway.asked]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert all(pause >= least for pause, least in zip(pauses, [0.01, 0.02] + [0.04] * 7, strict=True))
    assert sum(pauses) < 4, "without the bound it is over 5"


def test_what_waits_is_sent_when_the_gateway_is_there(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    with client(f"http://127.0.0.1:{port}") as sender:
        sent = [view(sender, number) for number in range(5)]
        with pytest.raises(Undelivered, match=r"bytes wait: ConnectionRefusedError"):
            sender.flush(timeout_s=0.1)
        assert sender.counts.waiting_bytes > 0
        with SmallGateway(port) as gateway:
            assert sender.flush() == Counts(accepted=5)
            assert gateway.ids() == sent
    assert [record.message.split(": ")[0] for record in caplog.records] == [
        f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port} answers again",
    ]  # fmt: skip


def test_a_connection_that_was_closed_meanwhile_is_opened_again(gateway: SmallGateway) -> None:
    gateway.hangs_up_when_idle = True
    with client(gateway.url, retry_s=60) as sender:
        for number in range(3):
            view(sender, number)
            sender.flush()
    assert len(gateway.ids()) == 3


def test_a_server_that_closes_the_connection_of_a_large_body_gets_smaller_ones(gateway: SmallGateway) -> None:
    gateway.body_bytes_max, gateway.hangs_up_on_large = 1_000, True
    with client(gateway.url, interval_s=60) as sender:
        sent = [view(sender, number) for number in range(20)]
        assert sender.flush() == Counts(accepted=20)
    assert gateway.ids() == sent


def test_a_wrong_key_is_reported_without_a_wait_and_nothing_is_dropped(gateway: SmallGateway) -> None:
    gateway.answers = [(401, {})]
    with client(gateway.url, interval_s=60) as sender:
        sent = view(sender, 0)
        with pytest.raises(Undelivered, match="http_401: by a test"):
            sender.flush(timeout_s=60)
    assert gateway.ids() == [sent]


def test_an_answer_that_is_no_gateways_counts_as_none() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    sender = client(f"http://127.0.0.1:{listener.getsockname()[1]}", retry_s=60)
    view(sender, 0)
    connection, _ = listener.accept()
    with listener, connection:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n<html/>")
        with pytest.raises(Undelivered, match="wanted a gateway's answer, found b'<html/>'"):
            sender.flush(timeout_s=0.2)
        with pytest.raises(Undelivered):
            sender.close(timeout_s=0)


# What is refused


def test_refused_entries_are_reported_and_not_repeated(gateway: SmallGateway) -> None:
    found: list[Sequence[RefusedEntry]] = []
    with client(gateway.url, interval_s=60, on_refused=found.append) as sender:
        good = view(sender, 0)
        bad = [sender.send("view_item", "ann"), sender.send("lift_off", "ann")]
        assert sender.flush() == Counts(accepted=1, refused=2)
        assert sender.flush(timeout_s=0).refused == 2
    assert gateway.ids() == [good]
    (refused,) = found
    assert [(one.target, one.document["id"], one.reason) for one in refused] == [
        ("POST /v1/events", bad[0], "items_missing"), ("POST /v1/events", bad[1], "unknown_event"),
    ]  # fmt: skip
    assert len(gateway.asked) == 1


def test_a_batch_of_which_all_is_refused_is_not_split(gateway: SmallGateway) -> None:
    with client(gateway.url, interval_s=60) as sender:
        for _ in range(3):
            sender.send("lift_off", "ann")
        assert sender.flush() == Counts(refused=3)
    assert len(gateway.asked) == 1


def test_refusals_are_logged_by_default(gateway: SmallGateway, caplog: pytest.LogCaptureFixture) -> None:
    with client(gateway.url) as sender:
        sender.send("lift_off", "ann")
        sender.flush()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("headrace.client", logging.WARNING)
    assert record.message.startswith("1 refused, first: POST /v1/events: unknown_event: ")


def test_a_body_that_is_too_large_is_split_and_only_a_too_large_event_refused(gateway: SmallGateway) -> None:
    gateway.body_bytes_max = 1_000
    found: list[Sequence[RefusedEntry]] = []
    with client(gateway.url, interval_s=60, on_refused=found.append) as sender:
        sent = [view(sender, number) for number in range(20)]
        huge = sender.send("view_item", "ann", items=["x" * 2_000])
        sent += [view(sender, number) for number in range(20, 30)]
        assert sender.flush() == Counts(accepted=30, refused=1)
    assert gateway.ids() == sent
    assert [(one.document["id"], one.reason, one.detail) for one in found[0]] == [(huge, "http_413", "by a test")]
    assert len(gateway.asked) < 30


def test_an_error_of_the_callback_stops_the_client_and_says_so(gateway: SmallGateway) -> None:
    def fail(refused: Sequence[RefusedEntry]) -> None:
        raise OSError("the pager is broken")

    sender = client(gateway.url, on_refused=fail)
    sender.send("lift_off", "ann")
    for call in (sender.flush, lambda: view(sender, 0), sender.close):
        with pytest.raises(RuntimeError, match="stopped because of an error") as stopped:
            call()
        assert str(stopped.value.__cause__) == "the pager is broken"


# Bounds and ends


@pytest.mark.parametrize("spooled", [False, True])
def test_what_does_not_fit_is_an_error_and_what_fitted_is_kept(away: str, tmp_path: Path, spooled: bool) -> None:
    spool = tmp_path / "spool" if spooled else None
    sender = client(away, spool=spool, spool_bytes_max=1_000)
    sent = []
    with pytest.raises(SpoolFull):  # noqa: PT012 - which one is the first that does not fit is not known
        for number in range(10):
            sent.append(view(sender, number))
    assert 2 < len(sent) < 10
    assert 500 < sender.counts.waiting_bytes <= 1_000
    if spooled:
        sender.close()
        with SmallGateway() as gateway, client(gateway.url, spool=spool) as later:
            later.flush()
            assert gateway.ids() == sent
    else:
        with pytest.raises(Undelivered):
            sender.close(timeout_s=0)


def test_some_events_are_added_all_or_none(away: str) -> None:
    sender = client(away, spool_bytes_max=1_000)
    with pytest.raises(SpoolFull):
        sender.send_events([{"type": "login", "subject": "ann", "data": {}}] * 20)
    assert sender.counts.waiting_bytes == 0
    sender.close()


def test_closing_sends_what_waits_and_takes_no_more(gateway: SmallGateway) -> None:
    sender = client(gateway.url, interval_s=60)
    sent = view(sender, 0)
    sender.close()
    sender.close()
    assert gateway.ids() == [sent]
    with pytest.raises(ValueError, match="found a closed one"):
        view(sender, 1)


def test_a_program_that_ends_without_closing_sends_what_waits(gateway: SmallGateway) -> None:
    program = f"from headrace.client import Client; Client({gateway.url!r}, {KEY!r}).send('login', 'ann')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=20, check=False)
    assert done.returncode == 0
    assert len(gateway.ids()) == 1


def test_a_client_from_before_a_fork_says_so(gateway: SmallGateway) -> None:
    program = f"""
import os
from headrace.client import Client
client = Client({gateway.url!r}, {KEY!r})
if os.fork() == 0:
    try:
        client.send("login", "ann")
    except RuntimeError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, cwd=ROOT, timeout=20, check=True, text=True, capture_output=True)
    assert done.stdout == "wanted a client that this process made, found one made before a fork\n"


# The spool


def test_a_spool_outlives_its_process_and_is_sent_in_order(away: str, tmp_path: Path) -> None:
    """The process is killed after each of its events was acknowledged, while the gateway is away."""
    program = f"""
import time
from headrace.client import Client
client = Client({away!r}, {KEY!r}, spool={str(tmp_path / "spool")!r}, interval_s=0.01)
for number in range(5):
    print(client.send("view_item", "ann", items=[str(number)]), flush=True)
    time.sleep(0.02)  # so that some are taken by the client's thread, others not
print("sent", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    sent = [line.strip() for line in iter(process.stdout.readline, "sent\n")]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with SmallGateway() as gateway, client(gateway.url, spool=tmp_path / "spool") as later:
        sent.append(view(later, 9))
        later.flush()
        assert gateway.ids() == sent
        assert later.counts.waiting_bytes == 0
    with SmallGateway() as gateway, client(gateway.url, spool=tmp_path / "spool") as after:
        after.flush()
    assert gateway.asked == []


def test_a_spool_belongs_to_one_process(gateway: SmallGateway, tmp_path: Path) -> None:
    with client(gateway.url, spool=tmp_path):
        program = f"from headrace.client import Client; Client({gateway.url!r}, {KEY!r}, spool={str(tmp_path)!r})"
        other = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, timeout=20, check=False, text=True, capture_output=True
        )
        assert "Misconfigured: " in other.stderr
        assert other.returncode == 1
    with client(gateway.url, spool=tmp_path) as later:
        view(later, 0)
    assert len(gateway.ids()) == 1


def test_closing_with_a_spool_does_not_wait_for_a_gateway_that_is_away(away: str, tmp_path: Path) -> None:
    sender = client(away, spool=tmp_path, retry_s=60)
    view(sender, 0)
    began_s = monotonic()
    sender.close(timeout_s=20)
    assert monotonic() - began_s < 10
    assert sender.counts.waiting_bytes > 0


# The examples of docs/clients.md

PAGE = (DOCS / "clients.md").read_text(encoding="utf-8")


def with_gateway(text: str, gateway: SmallGateway) -> str:
    """Return an example that sends to this gateway."""
    assert "https://events.shop.example" in text
    assert "KEY" in text
    return text.replace("https://events.shop.example", gateway.url).replace("KEY", KEY)


def test_the_documented_program_sends(gateway: SmallGateway, tmp_path: Path) -> None:
    """It runs with a copy of the modules that the page names, and with no other package."""
    shutil.copytree(ROOT / "headrace/client", tmp_path / "headrace/client")
    for module in ("spool.py", "errors.py"):
        shutil.copy(ROOT / "headrace" / module, tmp_path / "headrace")
    (example,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    command = [sys.executable, "-S", "-c", with_gateway(example, gateway)]
    done = subprocess.run(command, cwd=tmp_path, env={}, timeout=20, check=True, text=True, capture_output=True)
    assert done.stdout.startswith("Counts(accepted=4, repeated=0, unused=0, spooled=0, refused=0, waiting_bytes=0)")
    assert [event["type"] for event in gateway.events] == ["view_item", "purchase"]
    assert [target for target, _ in gateway.others] == ["PUT /v1/items", "PUT /v1/shoppers/shopper-1/traits"]


def test_the_documented_commands_send(gateway: SmallGateway) -> None:
    answers = [
        subprocess.run(
            with_gateway(command, gateway), shell=True, timeout=20, check=True, text=True, capture_output=True
        )
        for command in commands_of(DOCS / "clients.md")
    ]
    stated = re.findall(r"`(\{\"accepted\".*?\})`", PAGE)
    assert [json.loads(answers[0].stdout)] == [json.loads(answer) for answer in stated]
    assert gateway.ids() == ["view-1"]
    assert [target for target, _ in gateway.others] == ["PUT /v1/items/sku-1", "DELETE /v1/items/sku-1"]
