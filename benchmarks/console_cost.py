"""What the console costs: how soon a page is painted, and how much of a core it takes while a page is open.

    python -m benchmarks.console_cost --folder demo-20261201-120000 --out benchmarks/results/console_cost.json

The log is a copy of a demo's, with 10,000 alarms more, and 100,000 items more, each stated by the shop and viewed once;
a shard learns these, and a server answers the console's questions. A real browser opens each page several times; the
first contentful paint counts from the start of the navigation, and the medians are reported. Then the front page, which
asks for its answers anew every 5 seconds, stays open, and the processor time of the console's process is counted.
"""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
from selenium import webdriver
from selenium.webdriver.common.by import By

from benchmarks import report
from headrace.clock import wall_ms
from headrace.errors import Misconfigured
from headrace.events import Data, Event, Item, at, encode
from headrace.log.protocol import Outgoing
from headrace.log.sqlite import SqliteLog
from headrace.topics import ALARMS, EVENTS, ITEMS
from operators.child import Child, headrace

alarms: Final = 10_000
items: Final = 100_000
views_each: Final = 20
"""Items that one visitor views."""
PAGES: Final = (
    "/", "/quality", "/drift", "/rounds", "/models", "/stream", "/letters", "/changes", "/settings", "/items",
    "/items?words=42", f"/item?id=item-{items - 1:06d}", "/shoppers", "/shopper?id=visitor-4999",
)  # fmt: skip


def copied(demo: Path, folder: Path) -> str:
    """Copy a demo's log and blobs, add alarms, items and views of them, and return the log's URL."""
    if not (demo / "log.db").is_file():
        raise Misconfigured(f"--folder {demo}: wanted the folder of a demo, with log.db")
    log = SqliteLog(str(demo / "log.db"), existing=True)
    with closing(log):
        log.copy_to(folder / "log.db", lambda done, total: None)
    shutil.copytree(demo / "blobs", folder / "blobs")
    log = SqliteLog(str(folder / "log.db"), existing=True)
    with closing(log), closing(log.appender()) as appender:
        for number in range(items):
            appender.append(_stated(number))
            appender.append(_viewed(number))
        for number in range(alarms):
            alarm = {"id": f"price/{number}", "detector": "price", "score": 0.3, "threshold": 0.2, "events": number}
            data = msgspec.json.encode({**alarm, "time_ms": wall_ms()})
            appender.append(Outgoing(ALARMS, b"price", data, 0))
    return f"sqlite:{folder / 'log.db'}"


def _stated(number: int) -> Outgoing:
    stated = {"title": f"Item {number}", "category": f"category-{number % 40}", "price": {"EUR": 5}}
    return Outgoing(ITEMS, b"item-%06d" % number, msgspec.json.encode(stated), 0)


def _viewed(number: int) -> Outgoing:
    shopper, item = f"visitor-{number // views_each}", Item(f"item-{number:06d}", item_category="c", price=5.0)
    event = Event(
        id=f"console-cost-{number}", source="benchmark", type="view_item", specversion="1.0", shopper=shopper,
        time=at(wall_ms()), data=Data(items=[item]),
    )  # fmt: skip
    return Outgoing(EVENTS, shopper.encode(), encode(event))


def await_item(address: str, item: str) -> None:
    """Wait until a server knows an item.

    Raises:
        TimeoutError: it does not in ten minutes.
    """
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        if httpx.get(f"{address}/v1/audience/{item}", timeout=60).json().get("shoppers"):
            return
        time.sleep(1)
    raise TimeoutError(item)


def browser(folder: Path) -> webdriver.Chrome:
    """Return a browser."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={folder / 'profile'}")
    driver = shutil.which("chromedriver")
    if not driver or not options.binary_location:
        raise Misconfigured("wanted chromium and chromedriver: apt-get install chromium chromium-driver")
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def painted_ms(driver: webdriver.Chrome, url: str) -> float:
    """Open a page; return when its first content was painted, in ms from the navigation's start."""
    driver.get(url)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = driver.execute_script(
            "return performance.getEntriesByName('first-contentful-paint').map((one) => one.startTime)"
        )
        if found:
            return float(found[0])
        time.sleep(0.02)
    raise TimeoutError(url)


def processor_s(pid: int) -> float:
    """Return the processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = report.parser(__doc__ or "")
    parser.add_argument("--folder", type=Path, required=True, help="folder of a demo")
    parser.add_argument("--opens", type=int, default=9, help="how often each page is opened")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the front page stays open")
    options = parser.parse_args(arguments)
    figures: dict[str, Any] = {
        "alarms": alarms,
        "items": items,
        "opens": options.opens,
        "seconds": options.seconds,
        "pages": {},
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        url = copied(options.folder, folder)
        sets = [f"--set=console.{name}={folder / name}.json" for name in ("people", "audit")]
        common = ("--log", url, "--blobs", str(folder / "blobs"))
        children = [Child("serve", headrace("serve", *common, "--port", "0"), folder)]
        try:
            children.append(Child("online", headrace("online", *common, "--metrics-port", "0"), folder))
            serve = children[0]
            serve.wait_until_up()
            await_item(serve.address, f"item-{items - 1:06d}")
            children.pop().stop()
            sets.append(f"--set=console.answers={serve.address}")
            console = Child("console", [*headrace("console", *common, "--port", "0", *sets), "--once", "see"], folder)
            children.append(console)
            console.wait_until_up()
            while "log-in: " not in console.text:
                time.sleep(0.05)
            driver = browser(folder)
            try:
                driver.get(console.text.partition("log-in: ")[2].split()[0])
                driver.find_element(By.CSS_SELECTOR, ".login button").click()
                for path in PAGES:
                    times = [painted_ms(driver, console.address + path) for _ in range(options.opens)]
                    figures["pages"][path] = {"median_ms": statistics.median(times), "most_ms": max(times)}
                driver.get(console.address + "/")
                time.sleep(3)
                began_s, before = time.monotonic(), processor_s(console.pid)
                time.sleep(options.seconds)
                share = (processor_s(console.pid) - before) / (time.monotonic() - began_s)
            finally:
                driver.quit()
        finally:
            for child in children:
                child.stop()
    figures["core_share"] = share
    report.show(
        f"first contentful paint, {options.opens} opens of each page; {alarms:,} alarms, {items:,} items",
        ("page", "median (ms)", "most (ms)"),
        [[path, f"{one['median_ms']:.0f}", f"{one['most_ms']:.0f}"] for path, one in figures["pages"].items()],
    )
    report.show("with the front page open", ("", "share of a core"), [["console", f"{100 * share:.2f} %"]])
    report.write(options.out, figures)


if __name__ == "__main__":
    report.run(main)
