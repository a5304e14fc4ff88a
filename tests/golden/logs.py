"""Golden logs: a log and its blobs as the processes of a release left them, one archive for each release.

Each holds a snapshot of either shard and entries after it. Today's code must read them, go on, and give the digests in
`expected.json`, for every part of the state: by release, shard, part and version of the part and of the intake.
"""

import json
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from headrace.log.open import open_log
from headrace.log.protocol import Log
from headrace.shard.blobs import Blobs
from headrace.shard.follower import Follower
from headrace.state import digest
from learners.families import Placement, default_placements
from learners.shop import MakeShop, Shop

FOLDER: Final = Path(__file__).parent
EXPECTED: Final = FOLDER / "expected.json"
PLACEMENTS: Final = default_placements()


class Golden(NamedTuple):
    """An unpacked golden log."""

    log: Log
    blobs: Blobs

    def close(self) -> None:
        """Close the log."""
        self.log.close()


def releases() -> list[str]:
    """Return the releases that have a golden log."""
    return sorted(path.name.removesuffix(".tar.xz") for path in FOLDER.glob("*.tar.xz"))


def unpack(release: str, folder: Path) -> Golden:
    """Unpack a release's log into a folder and open it, with the topics that it lacks, as every process does."""
    with tarfile.open(FOLDER / f"{release}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    log = open_log(f"sqlite:{folder / 'log.db'}")
    log.create()
    return Golden(log, Blobs(folder / "blobs"))


def folded(golden: Golden, placement: Placement, sections: dict[str, Any] | None = None, **options: Any) -> Shop:
    """Return a shard's fold at the end of the journal."""
    make = MakeShop(placement.kinds, sections)
    with closing(Follower(golden.log, golden.blobs, placement.shard, make=make, **options)) as follower:
        follower.catch_up()
    return follower.fold


def digests(shop: Shop) -> Iterator[tuple[str, str, str]]:
    """Yield each part of a shop's state, its version with the intake's, and its digest."""
    families, intake = shop.state()["families"], shop.stamp.intake
    for name, stamp in shop.stamp.families.items():
        for part, version in stamp.parts.items():
            yield f"{name}.{part}", f"{version}, intake {intake}", digest({"part": families[name][part]})


def expected() -> dict[str, dict[str, dict[str, dict[str, str]]]]:
    """Return the recorded digests: by release, shard, part and version."""
    found: dict[str, dict[str, dict[str, dict[str, str]]]] = (
        json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
    )
    return found
