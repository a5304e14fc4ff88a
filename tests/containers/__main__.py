"""Drills on containers: python -m tests.containers compose | kubernetes.

Each installs what it needs from Debian (as root), makes the images of registries, and prints one closing table.
"""

import argparse
import sys
from pathlib import Path

from tests.containers import compose, kubernetes
from tests.containers.drill import Drill
from tests.containers.engine import Engine


def main() -> int:
    """Run a drill; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.containers", description=__doc__)
    parser.add_argument("drill", choices=["compose", "kubernetes"])
    parser.add_argument("--parts", default=",".join(compose.PARTS), help="those of the drill, by name: %(default)s")
    parser.add_argument(
        "--folder", type=Path, default=Path("/var/tmp/headrace-containers"), help="the engine's data, 30 GB; kept"
    )
    parser.add_argument("--keep", action="store_true", help="leave the shop running, on an engine that goes on")
    chosen = parser.parse_args()
    parts = chosen.parts.split(",")
    if unknown := set(parts) - set(compose.PARTS):
        parser.error(f"--parts {','.join(sorted(unknown))}: wanted some of {', '.join(compose.PARTS)}")
    chosen.folder.mkdir(parents=True, exist_ok=True)
    report = Drill(f"{chosen.drill}-drill")
    engine = Engine(chosen.folder.resolve(), report.say)
    try:
        with engine.running():
            if chosen.drill == "compose":
                compose.drill(engine, report, parts, keep=chosen.keep)
            else:
                kubernetes.drill(engine, report)
    finally:
        print(report.table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
