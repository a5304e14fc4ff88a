"""The pictures of the console in its documentation, of a demo's shop.

    python -m benchmarks.console_pictures --folder demo-20261201-120000 --into docs/console

Each is made by a real browser, which has logged in with a key for one log-in.
"""

import io
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from PIL import Image
from selenium.webdriver.common.by import By

from benchmarks import report
from benchmarks.console_cost import browser
from headrace.errors import Misconfigured
from operators.child import Child, headrace

colours_max: Final = 256
"""Colours of a picture, so that its file is small."""


class Picture(NamedTuple):
    """A picture: its name, the page, its size in pixels, the scheme, and the language."""

    name: str
    path: str
    width: int = 1280
    height: int = 860
    scheme: str = "light"
    language: str = "en"


PICTURES: Final = (
    Picture("front", "/"),
    Picture("front-dark", "/", scheme="dark"),
    Picture("front-phone-zh", "/", 390, 844, language="zh"),
    Picture("drift", "/drift"),
    Picture("quality", "/quality", height=1000),
    Picture("rounds", "/rounds", height=980),
    Picture("models", "/models"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the pictures."""
    parser = report.parser(__doc__ or "")
    parser.add_argument("--folder", type=Path, required=True, help="folder of a demo")
    parser.add_argument("--into", type=Path, default=Path("docs/console"), help="folder of the pictures")
    options = parser.parse_args(arguments)
    if not (options.folder / "log.db").is_file():
        raise Misconfigured(f"--folder {options.folder}: wanted the folder of a demo, with log.db")
    options.into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shutil.copytree(options.folder, folder / "demo")
        command = headrace("console", "--log", "sqlite:demo/log.db", "--blobs", "demo/blobs", "--port", "0")
        console = Child("console", [*command, "--once", "operate"], folder, cwd=folder)
        try:
            console.wait_until_up()
            while "log-in: " not in console.text:
                time.sleep(0.05)
            driver = browser(folder)
            try:
                driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "UTC"})
                driver.get(console.text.partition("log-in: ")[2].split()[0])
                driver.find_element(By.CSS_SELECTOR, ".login button").click()
                for one in PICTURES:
                    metrics = {"width": one.width, "height": one.height, "deviceScaleFactor": 1, "mobile": False}
                    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
                    features = [{"name": "prefers-color-scheme", "value": one.scheme}]
                    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
                    driver.get(f"{console.address}/prefer?language={one.language}&next=/")
                    driver.get(console.address + one.path)
                    time.sleep(4)
                    image = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
                    image.quantize(colours_max, method=Image.Quantize.MAXCOVERAGE).save(
                        options.into / f"{one.name}.png", optimize=True
                    )
                    print(options.into / f"{one.name}.png")
            finally:
                driver.quit()
        finally:
            console.stop()


if __name__ == "__main__":
    report.run(main)
