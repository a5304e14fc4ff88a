"""A small shop with drift, a bad candidate, a flood and a process that has ended, and a console that shows it."""

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from headrace.clock import wall_ms
from headrace.drift import Moved
from headrace.events import Data, Event, Item, at
from headrace.experiment_reports import record_of as report_record_of
from headrace.experiments import Arm, Experiment, Kind
from headrace.experiments import record_of as experiment_record_of
from headrace.letters import DeadLetter
from headrace.log.protocol import Log, Outgoing
from headrace.log.sqlite import SqliteLog
from headrace.rules import RuleSet, record_of
from headrace.segments import Segment, SegmentRules
from headrace.segments import record_of as segments_record_of
from headrace.shard.blobs import Blobs
from headrace.topics import ALARMS, DEAD_LETTERS, ITEMS
from learners.deep.model import DeepModel, DeepSettings
from learners.experiments.course import Course
from operators.child import Child, Children
from operators.console.people import ROLES, Role, add
from operators.running import ProcessStatus, held_folder, held_log, hold, write_down
from tests.small_shop import learn_small_shop, said

ATTACK: Final = """<img src=x onerror="window.attacked=1"><script>window.attacked=1</script>'"{{7*7}}"""
"""What a shop may call an item, a placement's rules may say, and a sender may write into an event."""
EVENTS: Final = 5_200
SHOPPERS: Final = 320
"""More than the least from which clusters are found."""
DAYS: Final = 365.0
"""So long that what shoppers were expected to do within 91 days is known for some."""
SETTINGS: Final = """\
[next_item]
items_max = 512
shoppers_max = 500

[shards.online]
metrics_port = 0

[shards.finetune]
partition = 1
metrics_port = 0

[serve]
port = 0
"""


def troubles(log: Log, blobs: Blobs) -> None:
    """Write what an on-call person may have to look at."""
    now_ms = wall_ms()
    with closing(log.appender()) as appender:
        for number, kind in ((11, "promoted"), (12, "promoted"), (13, "candidate")):
            model = DeepModel(DeepSettings(width=8), number)
            model.grow(["a", "b"])
            blob = blobs.put("model", model.to_bytes())
            lineage = {"parent": ATTACK, "tokens": 5_000, "seconds": 1.5}
            version = f"r{number:04d}-{blob[-8:]}"
            more: dict[str, Any] = {"lineage": lineage, "time_ms": now_ms, "version": version, "blob": blob}
            appender.append(said(kind, number, reason="better" if kind == "promoted" else "", **more).record())
        moved = [Moved(ATTACK, 0.1, 0.4, "%")]
        alarm = {"detector": "category", "events": 1_400, "time_ms": now_ms, "score": 0.3, "threshold": 0.2}
        data = msgspec.json.encode({**alarm, "id": "category/1400", "moved": moved})
        appender.append(Outgoing(ALARMS, b"category", data, 0))
        event = {"id": "late", "source": "shop", "type": "login", "time": "2026-01-01T00:00:00Z", "specversion": "1.0"}
        for number, value in enumerate((msgspec.json.encode({**event, "data": {}}), ATTACK.encode(), b"{"), 900):
            letter = DeadLetter(f"events/0/{number}", "schema", ATTACK, now_ms, b"ann", value, len(value))
            appender.append(Outgoing(DEAD_LETTERS, b"-", msgspec.json.encode(letter), 0))
        appender.append(record_of("home", RuleSet(by=ATTACK, why=ATTACK, hidden=("item-00003",))))
        for course in (tried("front", "arms"), tried("duel", "interleaved")):
            appender.append(experiment_record_of(course.name, course.experiment))
            for hours in (20, 40, 60):
                appender.append(report_record_of(course.look(3_600_000 * hours)))


def tried(name: str, kind: Kind) -> Course:
    """Return what an experiment of 600 shoppers could have counted in three days."""
    arms = (Arm("control"), Arm("new", ranker="trending"))
    layer, hypothesis = ("ranking", ATTACK)
    slots = (0.0, 0.5) if kind == "arms" else (0.5, 1.0)
    stated = Experiment(
        arms, kind=kind, state="running", layer=layer, slots=slots, ramp=0.5, hypothesis=hypothesis, shoppers=600
    )
    course = Course(name, stated, 0, 1)
    for number in range(600):
        shopper, day = f"s{number}", 86_400_000 * (number % 3)
        course.answer(shopper, number % 2, day, (0.0, 0.0, 0.0), {"device": "mobile", "country": ATTACK})
        if number % 7 < 3 - number % 2:
            course.click(shopper, day)
            course.learn(bought(shopper, day, number))
            course.win(shopper, "AB", [], [number % 3 % 2])
    return course


def bought(shopper: str, time_ms: int, number: int) -> Event:
    """Return an order."""
    data = Data([Item("item-00001", price=5.0 + number % 5)], transaction_id=f"T{number}")
    return Event(f"e{number}", "shop", "purchase", at(time_ms), data, "1.0", shopper, time_ms)


class ConsoleShop:
    """The shop's folder, its processes, and the access keys of a person of each role."""

    def __init__(self, folder: Path, children: Children) -> None:
        self.folder, self.children = folder, children
        (folder / "headrace.toml").write_text(SETTINGS)
        data = folder / "headrace-data"
        data.mkdir()
        self.url, self.blobs = f"sqlite:{data / 'log.db'}", Blobs(data / "blobs")
        self.log = SqliteLog(str(data / "log.db"))
        self.log.create()
        with closing(self.log.appender()) as appender:
            item = {"title": ATTACK, "brand": ATTACK, "category": ATTACK, "price": {"EUR": 5}}
            appender.append(Outgoing(ITEMS, b"</td><b>", msgspec.json.encode(item), 0))
        with closing(self.log.appender()) as appender:
            wheres = {"loyal": "orders >= 2", "again": "segment('loyal') and seen_days < 60"}
            rules = SegmentRules("ann", ATTACK, {name: Segment(one, ATTACK) for name, one in wheres.items()})
            appender.append(segments_record_of(rules))
        learn_small_shop(self.log, self.blobs, EVENTS, shoppers=SHOPPERS, days=DAYS)
        troubles(self.log, self.blobs)
        self.people = data / "people.json"
        self.keys: dict[Role, str] = {role: add(self.people, f"{role}r", role, now_ms=0) for role in ROLES}
        self.serve: Child = children.start("serve", "serve")
        self.console: Child = children.start("console", "console", "--port", "0", "--set", self._answers)
        self.address = self.console.address

    @property
    def _answers(self) -> str:
        return f"console.answers={self.serve.address}"

    @contextmanager
    def client(self, role: Role | None = None) -> Iterator[httpx.Client]:
        """Yield a client that has logged in, if a role is named."""
        with httpx.Client(base_url=self.address, timeout=60) as client:
            if role:
                answer = client.post("/login", data={"key": self.keys[role]})
                assert (answer.status_code, answer.headers["location"]) == (303, "/"), answer.text
            yield client


@contextmanager
def console_shop(folder: Path) -> Iterator[ConsoleShop]:
    """Yield the shop; one of its processes has ended and is started again, says `headrace up`."""
    with Children(folder, cwd=folder) as children:
        shop = ConsoleShop(folder, children)
        up = folder / "up"
        up.mkdir()
        with hold(held_folder(up), up), hold(held_log(shop.url), up), closing(shop.log):
            processes = [
                ProcessStatus(name="online", state="up", pid=1, address="", restarts=0),
                ProcessStatus(name="finetune", state="waiting", pid=2, address="", restarts=3),
                ProcessStatus(name="serve", state="up", pid=3, address=shop.serve.address, restarts=0),
            ]
            write_down(up, processes)
            yield shop


class Browser:
    """A real browser, in which pages of a console are opened."""

    def __init__(self, address: str, folder: Path) -> None:
        programs = shutil.which("chromium"), shutil.which("chromedriver")
        if not all(programs):  # in CI the skip fails
            pytest.skip("needs chromium: apt-get install chromium chromium-driver (.ci/run does)")
        options = webdriver.ChromeOptions()
        options.binary_location = str(programs[0])
        for argument in (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--no-first-run", "--disable-background-networking", f"--user-data-dir={folder / 'profile'}",
        ):  # fmt: skip
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(programs[1])))
        self.address = address
        self.size(1360, 900)

    def close(self) -> None:
        """End it."""
        self.driver.quit()

    def size(self, width: int, height: int) -> None:
        """Set the size of the window, in pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def colours(self, scheme: str) -> None:
        """Prefer `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, path: str) -> None:
        """Open a page."""
        self.driver.get(self.address + path)

    def log_in(self, key: str) -> None:
        """Log in as a person would."""
        self.open("/login")
        self.find("#key").send_keys(key)
        self.click(".login button")
        self.until(lambda: "/login" not in self.driver.current_url)

    def find(self, selector: str) -> WebElement:
        """Return the first element of a selector."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all elements of a selector."""
        return [one.text for one in self.driver.find_elements(By.CSS_SELECTOR, selector)]

    def click(self, selector: str) -> None:
        """Click on an element, once it can be seen."""
        element = self.find(selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def fill(self, selector: str, text: str) -> None:
        """Type a text into a field."""
        element = self.find(selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.clear()
        element.send_keys(text)

    def run(self, script: str) -> Any:
        """Return what a script returns."""
        return self.driver.execute_script(script)

    def until(self, condition: Any, timeout_s: float = 60) -> None:
        """Wait until a condition is true."""
        WebDriverWait(self.driver, timeout_s, poll_frequency=0.1).until(lambda _: condition())

    def complaints(self) -> list[str]:
        """Return what the browser has complained of since the last call, such as what the content policy refused."""
        log: list[dict[str, str]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]  # selenium leaves it untyped
        return [one["message"] for one in log if one["level"] in ("WARNING", "SEVERE")]
