"""The pictures of the console in its documentation, of a demo's shop, and of one that has been simulated for a year.

    python -m benchmarks.console_pictures --folder demo-20261201-120000 --into docs/console
    python -m benchmarks.console_pictures --folder year --of shoppers
    python -m benchmarks.console_pictures --folder year --of stock

Each is made by a real browser, which has logged in with a key for one log-in. Before the last ones, a sender has
flooded the shop with what is no event: the shard `online` learns it, and ends.
"""

import io
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By

from benchmarks import report
from benchmarks.console_cost import browser
from headrace.errors import Misconfigured
from headrace.log.open import open_log
from headrace.log.protocol import Outgoing
from headrace.topics import EVENTS
from operators.child import Child, headrace

colours_max: Final = 256
"""Colours of a picture, so that its file is small."""


class Picture(NamedTuple):
    """A picture: its name, page, size in pixels, scheme, language, and the link on the page that is followed first."""

    name: str
    path: str
    width: int = 1280
    height: int = 860
    scheme: str = "light"
    language: str = "en"
    link: str = ""


_FIRST: Final = "main tbody a"
PICTURES: Final = (
    Picture("front", "/"),
    Picture("front-dark", "/", scheme="dark"),
    Picture("front-phone-zh", "/", 390, 844, language="zh"),
    Picture("drift", "/drift"),
    Picture("quality", "/quality", height=1000),
    Picture("rounds", "/rounds", height=980),
    Picture("models", "/models"),
    Picture("item", "/items", height=1100, link=_FIRST),
)
SHOPPERS: Final = (
    Picture("shopper", "/shoppers", height=1500, link=_FIRST),
    Picture("retention", "/retention", height=860),
    Picture("segments", "/pages/segments", height=1480),
    Picture("value", "/pages/value", height=1420),
)
"""Those of what is known of shoppers: they need outcomes of 91 days."""
STOCK: Final = (
    Picture("demand", "/pages/demand", height=1720),
    Picture("stock", "/pages/stock", height=1220),
)
"""Those of what items sell, and of what is left: they need a shop simulated with `--stocked` while `online` learned."""
_OTHERS: Final = {"shoppers": SHOPPERS, "stock": STOCK}
FLOODED: Final = (Picture("flood", "/"), Picture("letters", "/letters?reason=not_json"))
"""Those of the shop that was flooded."""
bad_records: Final = 6_000


def flood(folder: Path, common: Sequence[str]) -> None:
    """Write what is no event into a log, and let the shard `online` learn it, until it ends."""
    with closing(open_log(f"sqlite:{folder / 'demo' / 'log.db'}")) as log, closing(log.appender()) as appender:
        for number in range(bad_records):
            appender.append(Outgoing(EVENTS, b"tracker-7", b'{"id": "%d", "type": "view_item", ' % number))
    online = Child("online", headrace("online", *common, "--metrics-port", "0"), folder, cwd=folder)
    try:
        online.wait(120)
        assert "Flooded" in online.text, online.tail
    finally:
        online.stop()


def until_ready(address: str) -> None:
    """Wait until a server has read what the log holds."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{address}/health/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise Misconfigured(f"{address}: wanted a server that is ready within two minutes, found none")


def take(driver: webdriver.Chrome, address: str, one: Picture, into: Path) -> None:
    """Make a picture."""
    metrics = {"width": one.width, "height": one.height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": one.scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.get(f"{address}/prefer?language={one.language}&next=/")
    driver.get(address + one.path)
    time.sleep(4)
    if one.link:
        driver.find_element(By.CSS_SELECTOR, one.link).click()
        time.sleep(4)
    image = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    path = into / f"{one.name}.png"
    image.quantize(colours_max, method=Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
    print(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the pictures."""
    parser = report.parser(__doc__ or "")
    parser.add_argument("--folder", type=Path, required=True, help="folder of a demo, or with log.db and blobs")
    parser.add_argument("--of", choices=("shop", *_OTHERS), default="shop", help="which pictures")
    parser.add_argument("--into", type=Path, default=Path("docs/console"), help="folder of the pictures")
    options = parser.parse_args(arguments)
    if not (options.folder / "log.db").is_file():
        raise Misconfigured(f"--folder {options.folder}: wanted the folder of a demo, with log.db")
    options.into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shutil.copytree(options.folder, folder / "demo")
        common = ("--log", "sqlite:demo/log.db", "--blobs", "demo/blobs")
        serve = Child("serve", headrace("serve", *common, "--port", "0"), folder, cwd=folder)
        try:
            serve.wait_until_up()
            until_ready(serve.address)
            answers = f"--set=console.answers={serve.address}"
            command = headrace("console", *common, "--port", "0", answers, "--once", "operate")
            console = Child("console", command, folder, cwd=folder)
            try:
                console.wait_until_up()
                while "log-in: " not in console.text:
                    time.sleep(0.05)
                driver = browser(folder)
                try:
                    driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "UTC"})
                    driver.get(console.text.partition("log-in: ")[2].split()[0])
                    driver.find_element(By.CSS_SELECTOR, ".login button").click()
                    for one in _OTHERS.get(options.of, PICTURES):
                        take(driver, console.address, one, options.into)
                    if options.of in _OTHERS:
                        return
                    flood(folder, common)
                    time.sleep(10)  # until the console has asked anew
                    for one in FLOODED:
                        take(driver, console.address, one, options.into)
                finally:
                    driver.quit()
            finally:
                console.stop()
        finally:
            serve.stop()


if __name__ == "__main__":
    report.run(main)
