"""The browser's snippet in a real browser: what it sends when a page is left, what it keeps, and what it stores."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.pages import DOCS
from tests.small_gateway import KEY, SmallGateway

SNIPPET = Path(__file__).parents[2] / "producers/gateway/static/headrace.js"
PURPOSES = ["analytics", "personalization"]
PRELUDE = """
<script>
window.headrace = window.headrace || function () { (headrace.q = headrace.q || []).push(arguments) }
const told = async (path) => { while (!(await fetch(path)).ok) await new Promise((go) => setTimeout(go, 20)) }
const tell = (what) => fetch("/told", { method: "POST", body: JSON.stringify(what) })
</script>
"""
LATE = '<script src="/headrace.js"></script>'


@pytest.fixture
def shop() -> Iterator[SmallGateway]:
    """Yield the server of the shop's own pages; the gateway is another origin."""
    with SmallGateway() as opened:
        opened.pages["/headrace.js"] = SNIPPET.read_bytes()
        yield opened


@pytest.fixture
def gateway() -> Iterator[SmallGateway]:
    with SmallGateway() as opened:
        yield opened


@pytest.fixture
def visit(shop: SmallGateway, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Yield a function that opens a page of the shop in a browser."""
    browser = shutil.which("chromium")
    if browser is None:  # in CI the skip fails
        pytest.skip("needs chromium: apt-get install chromium (.ci/run does)")
    options = [
        "--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}",
        *(["--no-sandbox"] if os.getuid() == 0 else []),
    ]  # fmt: skip
    running: list[subprocess.Popen[bytes]] = []

    def opened(path: str) -> None:
        with (tmp_path / "browser.txt").open("wb") as output:
            command = [browser, *options, shop.url + path]
            running.append(subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True))

    yield opened
    for process in running:
        process.terminate()
        process.wait(timeout=10)


def wait(server: SmallGateway, until: Callable[[], bool]) -> None:
    with server.changed:
        assert server.changed.wait_for(until, timeout=60), server.asked


def page(script: str) -> bytes:
    return f"<!doctype html>{PRELUDE}{script}".encode()


def init(gateway: SmallGateway, consent: list[str] | None) -> str:
    options = {"url": gateway.url, "key": KEY} | ({} if consent is None else {"consent": consent})
    return f'headrace("init", {options});'


def test_events_survive_pages_that_are_left_and_a_gateway_that_fails(
    shop: SmallGateway, gateway: SmallGateway, visit: Callable[[str], None]
) -> None:
    begin = init(gateway, PURPOSES)
    shop.pages["/first"] = page(f"""<script>
        setTimeout = () => 0  // it is left before what is queued is due, however long that takes
        {begin} addEventListener("load", () => {{  // what a page that is left earlier has queued is lost
            headrace("track", "view_item", {{ items: [{{ item_id: "sku-1" }}] }})
            location = "/second"
        }})
        </script>{LATE}""")
    shop.pages["/second"] = page(f"""{LATE}<script>
        {begin} told("/fails").then(() => {{
            headrace("track", "add_to_cart", {{ items: [{{ item_id: "sku-1" }}], value: 5 }})
            headrace("login", "ann")
            headrace("login", "ann")
            return told("/failed")
        }}).then(() => location = "/third")
        </script>""")
    shop.pages["/third"] = page(f"""{LATE}<script>{begin} headrace("login", "ann")</script>""")
    visit("/first")
    wait(gateway, lambda: len(gateway.events) == 1)
    (beacon,) = gateway.asked
    assert beacon.headers["Sec-Fetch-Mode"] == "no-cors", "a request by fetch would be cors"
    assert beacon.headers["Content-Type"] == "text/plain;charset=UTF-8"
    gateway.answers = [(503, {}), (503, {})]  # a beacon would meet the second one, and be lost
    shop.pages["/fails"] = b""
    wait(gateway, lambda: len(gateway.asked) == 2)
    shop.pages["/failed"] = b""
    wait(gateway, lambda: len(gateway.events) == 3)
    targets = {(one.target, one.key) for one in gateway.asked}
    assert targets == {("POST /v1/events", KEY)}, "no request should be preceded by a preflight"
    viewed, carted, login = gateway.events
    assert gateway.asked[1].headers["Sec-Fetch-Mode"] == "cors"
    assert [event["id"] for event in gateway.asked[1].body] == [carted["id"], login["id"]]
    assert [event["type"] for event in gateway.events] == ["view_item", "add_to_cart", "login"]
    assert viewed["subject"] == carted["subject"] != login["subject"] == "ann"
    assert len({event["data"]["session_id"] for event in gateway.events}) == 1
    assert carted["data"].items() >= {"items": [{"item_id": "sku-1"}], "value": 5, "consent": PURPOSES}.items()


def test_without_consent_nothing_is_stored_and_a_withdrawal_removes_what_was(
    shop: SmallGateway, gateway: SmallGateway, visit: Callable[[str], None]
) -> None:
    shop.pages["/first"] = page(f"""{LATE}<script>
        localStorage.cart = "the shop's own"
        {init(gateway, None)} headrace("track", "search", {{ search_term: "boots" }})
        tell(Object.keys(localStorage)).then(() => {{
            headrace("consent", ["marketing"])
            return tell("headrace" in localStorage)
        }}).then(() => {{
            headrace("track", "view_cart")
            headrace("consent", [])
            return tell(Object.keys(localStorage))
        }})
        </script>""")
    visit("/first")
    wait(gateway, lambda: len(gateway.events) == 2)
    wait(shop, lambda: len(shop.asked) == 3)
    assert [one.body for one in shop.asked] == [["cart"], True, ["cart"]]
    searched, carted = gateway.events
    assert (searched["data"]["consent"], carted["data"]["consent"]) == ([], ["marketing"])
    assert searched["subject"] == carted["subject"]


def test_half_an_hour_without_an_event_ends_a_session(
    shop: SmallGateway, gateway: SmallGateway, visit: Callable[[str], None]
) -> None:
    shop.pages["/first"] = page(f"""{LATE}<script>
        {init(gateway, PURPOSES)}
        for (const minutes of [0, 29, 31]) {{
            if (minutes) {{
                const stored = JSON.parse(localStorage.headrace)
                localStorage.headrace = JSON.stringify({{ ...stored, at: stored.at - 6e4 * minutes }})
            }}
            headrace("track", "view_cart")
        }}
        </script>""")
    visit("/first")
    wait(gateway, lambda: len(gateway.events) == 3)
    begun, continued, another = (event["data"]["session_id"] for event in gateway.events)
    assert begun == continued != another
    assert len({event["subject"] for event in gateway.events}) == 1


def test_a_browser_that_refuses_storage_is_one_shopper_for_as_long_as_the_page(
    shop: SmallGateway, gateway: SmallGateway, visit: Callable[[str], None]
) -> None:
    shop.pages["/first"] = page(f"""<script>
        Object.defineProperty(window, "localStorage", {{ get() {{ throw new Error("refused") }} }})
        </script>{LATE}<script>
        {init(gateway, PURPOSES)}
        for (const n of [1, 2]) headrace("track", "view_item", {{ items: [{{ item_id: "sku-" + n }}] }})
        </script>""")
    visit("/first")
    wait(gateway, lambda: len(gateway.events) == 2)
    first, second = gateway.events
    assert first["id"] != second["id"]
    assert (first["subject"], first["data"]["session_id"]) == (second["subject"], second["data"]["session_id"])


def test_the_documented_page_sends(shop: SmallGateway, gateway: SmallGateway, visit: Callable[[str], None]) -> None:
    text = (DOCS / "clients.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```html\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    gateway.pages["/headrace.js"] = shop.pages.pop("/headrace.js")
    shop.pages["/first"] = example.replace("https://events.shop.example", gateway.url).replace("KEY", KEY).encode()
    visit("/first")
    wait(gateway, lambda: len(gateway.events) == 1)
    (event,) = gateway.events
    assert event["data"].items() >= {"items": [{"item_id": "sku-1", "price": 12.5}], "consent": PURPOSES}.items()
