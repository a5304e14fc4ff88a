"""`make compose-drill`: docker-compose.yml on a real engine, from the build to an upgrade from 0.3.0."""

import json
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from zipfile import ZipFile

import headrace
from tests.containers import images
from tests.containers.drill import Drill, wait_until
from tests.containers.engine import Engine

LEFT_OUT: Final = ("grafana",)
"""No package and no index has Grafana."""
SERVING_BYTES_MAX: Final = 400e6
HEALTHY_S: Final = 600.0
OF_NO_SHOPPER: Final = {"popular", "trending", "new"}
"""Reasons for items in the answer for a shopper of whom nothing is known."""
SHOPPER: Final = f"drill-{uuid.uuid4().hex[:8]}"
FORMER_EVENTS: Final = 2000
HISTORY_EVENTS: Final = 300
WHEEL: Final = images.ROOT / "tests/golden/headrace-0.3.0-py3-none-any.whl"
SERVING, ARCHIVE, LEARNING = (f"headrace{kind}:{headrace.__version__}" for kind in ("", "-archive", "-learning"))
TESTS: Final = ("tests/contract/test_containers.py", "tests/contract/test_log.py")


class Shop:
    """The services of a compose file as one project.

    Args:
        files: the compose file, and those that change it.
    """

    def __init__(self, engine: Engine, files: Sequence[Path], env: Mapping[str, str]) -> None:
        self._engine, self.env = engine, dict(env)
        self._files = [part for file in files for part in ("--file", str(file))]
        named = json.loads(self("config", "--format", "json"))["services"]
        self.services = [name for name in named if name not in LEFT_OUT]

    def __call__(self, *arguments: str, timeout_s: float = 3600.0) -> str:
        """Run `docker compose`."""
        command = ["docker", "compose", "--project-directory", str(images.ROOT)]
        env = {**self._engine.env, **self.env}
        return self._engine.run([*command, *self._files, *arguments], env=env, timeout_s=timeout_s)

    def up(self, *services: str) -> None:
        """Start services, by default all, and wait until each is healthy."""
        wanted = list(services or self.services)
        self("up", "--detach", "--no-build", "--pull", "never", *wanted)
        self.healthy(wanted)

    def healthy(self, services: Sequence[str]) -> float:
        """Wait until services are healthy; return the seconds."""
        left: list[str] = list(services)

        def none_left() -> bool:
            left[:] = [name for name in left if self.state(name).get("Health", {}).get("Status") != "healthy"]
            return not left

        try:
            return wait_until("healthy", none_left, HEALTHY_S)
        except AssertionError as error:
            said = "\n".join(self("logs", "--no-color", "--tail", "15", name) for name in left)
            raise AssertionError(f"{', '.join(left)} {error}\n{said}") from error

    def container(self, service: str) -> str:
        """Return a service's container."""
        return self("ps", "--all", "--quiet", service).strip()

    def state(self, service: str) -> dict[str, Any]:
        """Return what the engine says of a service's container."""
        found: dict[str, Any] = json.loads(
            self._engine.docker("inspect", "--format", "{{json .State}}", self.container(service))
        )
        return found

    def run(self, service: str, *command: str) -> str:
        """Run a command in a service's container."""
        return self("exec", "--no-TTY", service, *command)

    def down(self, *, volumes: bool = False) -> None:
        """Stop and remove all containers."""
        self("--profile", "*", "down", "--timeout", "20", *(["--volumes"] if volumes else []))


def ask(url: str, body: Any = None, **headers: str) -> Any:
    """Return the JSON answer of a URL, None while there is none."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)
    except (OSError, urllib.error.HTTPError):
        return None


def total(url: str, metric: str, **labels: str) -> float:
    """Return the sum of a metric's samples with these labels."""
    with urllib.request.urlopen(url, timeout=10) as response:
        lines = response.read().decode().splitlines()
    wanted = [f'{name}="{value}"' for name, value in labels.items()]
    found = [line for line in lines if line.startswith(metric) and all(one in line for one in wanted)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


def learned() -> float:
    """Return how many events the online shard has learned since its start."""
    return total("http://127.0.0.1:9101/metrics", "headrace_events_total{", result="learned")


def drill(engine: Engine, report: Drill, parts: Sequence[str], *, keep: bool) -> None:
    """Run the parts of the drill that are named, in their order; `keep` leaves the shop running."""
    with tempfile.TemporaryDirectory(prefix="headrace-drill-") as named:
        folder = Path(named)
        marker = uuid.uuid4().hex
        packages = folder / "packages.env"
        packages.write_text(f"HEADRACE_DRILL_MARKER={marker}\n" + machine_settings())
        certificates = os.environ.get("PIP_CERT") or "/etc/ssl/certs/ca-certificates.crt"
        env = {"COMPOSE_PROFILES": "demo", "IMAGE_PACKAGES": str(packages)}
        env |= {"IMAGE_CERTIFICATES": certificates} if Path(certificates).exists() else {}
        shop = Shop(engine, [images.ROOT / "docker-compose.yml"], env)
        with report.step("base images") as seen:
            made = images.make(engine, report.say)
            seen.append(f"{len(made)} made, {len(images.stand_ins()) - len(made)} were there; {engine.version()}")
        try:
            for part in parts:
                PARTS[part](engine, shop, report, folder, marker)
        finally:
            if not keep:
                shop.down(volumes=True)


def machine_settings() -> str:
    """Return this machine's settings of pip and uv, as far as variables have them."""
    wanted = (
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
        "UV_DEFAULT_INDEX",
        "UV_INDEX_URL",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
    )
    return "".join(f"{name}={os.environ[name]}\n" for name in wanted if name in os.environ)


def build(engine: Engine, shop: Shop, report: Drill, folder: Path, marker: str) -> None:
    """Build the images as a user would, and look into them."""
    with report.step("docker compose up --build, as far as to the start") as seen:
        shop("up", "--build", "--no-start", *shop.services)
        sizes = {
            name: int(engine.docker("image", "inspect", "--format", "{{.Size}}", name))
            for name in (SERVING, ARCHIVE, LEARNING)
        }
        seen += [f"{name.partition(':')[0]} {size / 1e6:,.0f} MB" for name, size in sizes.items()]
        assert sizes[SERVING] <= SERVING_BYTES_MAX, (
            f"{SERVING}: wanted at most {SERVING_BYTES_MAX:,.0f}, found {sizes[SERVING]:,}"
        )
    with report.step("what is in serving's image") as seen:
        code = "import importlib.util as i; print([n for n in ('torch', 'pip', 'uv', 'hatchling') if i.find_spec(n)])"
        found = engine.docker("run", "--rm", "--entrypoint", "python", SERVING, "-c", code).strip()
        assert found == "[]", f"wanted neither torch nor tools, found {found}"
        seen.append("no torch, no tools")
        saved = subprocess.Popen(["docker", "save", SERVING], env=engine.env, stdout=subprocess.PIPE)
        leaked = subprocess.run(
            ["grep", "--count", "--text", marker], stdin=saved.stdout, capture_output=True, text=True
        )
        assert saved.wait() == 0
        assert leaked.stdout.strip() == "0", "a layer has a secret of the build"
        seen.append("no layer has a secret of the build")


def up(engine: Engine, shop: Shop, report: Drill, folder: Path, marker: str) -> None:
    """Start all; a shopper's event goes in, and what it teaches comes out."""
    with report.step("docker compose up, profile demo") as seen:
        shop.up()
        seen.append(f"{len(shop.services)} services healthy: {', '.join(shop.services)}")
    with report.step("user and root file system") as seen:
        for service in shop.services:
            config = json.loads(engine.docker("inspect", shop.container(service)))[0]
            user = config["Config"]["User"]
            assert user not in ("", "root", "0"), f"{service} runs as root"
            if service != "kafka":
                assert config["HostConfig"]["ReadonlyRootfs"], f"{service} may write its root"
                assert config["HostConfig"]["CapDrop"] == ["ALL"], f"{service} has capabilities"
        seen.append("none runs as root; but for Kafka, roots are read-only and without capabilities")
    with report.step("an event goes in, a recommendation comes out") as seen:
        made = shop.run("gateway", "headrace", "keys", "create", "--role", "ingest", "--json")
        key = json.loads(made)["key"]
        wait_until("something is learned", lambda: learned() > 500, 300)
        assert reasons() <= OF_NO_SHOPPER, "wanted nothing known of a shopper without events"
        viewed = [item["item_id"] for item in ask("http://127.0.0.1:8080/v1/popular?n=3")["items"]]
        ids = [uuid.uuid4().hex for _ in viewed]
        events = [event(one, item) for one, item in zip(ids, viewed, strict=True)]
        answer = ask("http://127.0.0.1:8081/v1/events", events, authorization=f"Bearer {key}")
        assert answer["accepted"] == len(events), answer
        seen.append(f"{len(events)} views accepted by the gateway")

        def includes() -> bool:
            try:
                return '"state":"learned"' in shop.run("console", "headrace", "trace", ids[-1], "--json").replace(
                    " ", ""
                )
            except RuntimeError:  # the log has no such event yet
                return False

        took = wait_until("the event is learned", includes, 60)
        wait_until("an answer goes by the views", lambda: reasons() - OF_NO_SHOPPER, 60)
        seen.append(f"traced as learned after {took:.0f} s; recommendations by {', '.join(sorted(reasons()))}")


def reasons() -> set[str]:
    """Return the reasons of the drill's shopper's recommendations."""
    answer = ask(f"http://127.0.0.1:8080/v1/recommendations/{SHOPPER}?n=10")
    return {item["reason"]["code"] for item in answer["items"]} if answer else set()


def event(id_: str, item: str) -> dict[str, Any]:
    """Return a view of an item by the drill's shopper, now."""
    return {
        "specversion": "1.0", "id": id_, "source": "drill/web", "type": "view_item", "subject": SHOPPER,
        "time": datetime.now(UTC).isoformat(), "data": {"items": [{"item_id": item}]},
    }  # fmt: skip


def watch(engine: Engine, shop: Shop, report: Drill, folder: Path, marker: str) -> None:
    """All is scraped; an alarm fires and resolves."""
    with report.step("Prometheus' targets") as seen:
        states: dict[str, str] = {}

        def all_up() -> bool:
            found = ask("http://127.0.0.1:9090/api/v1/targets?state=active")
            states.update(
                {one["labels"]["job"]: one["health"] for one in found["data"]["activeTargets"]} if found else {}
            )
            return bool(states) and set(states.values()) == {"up"}

        wait_until("all targets are up", all_up, 120)
        seen.append(f"up: {', '.join(sorted(states))}")
    with report.step("an alarm fires and resolves") as seen:

        def told() -> list[str]:
            found = ask("http://127.0.0.1:9093/api/v2/alerts?active=true") or []
            return [f"{one['labels']['alertname']} {one['labels'].get('job', '')}" for one in found]

        shop("stop", "gateway")
        fired = wait_until("Alertmanager has ProcessDown", lambda: "ProcessDown gateway" in told(), 300, each_s=3)
        shop("start", "gateway")
        over = wait_until("ProcessDown is over", lambda: "ProcessDown gateway" not in told(), 300, each_s=3)
        seen.append(f"ProcessDown {fired:.0f} s after the gateway stopped, over {over:.0f} s after it started")
        shop.healthy(["gateway"])


def kill(engine: Engine, shop: Shop, report: Drill, folder: Path, marker: str) -> None:
    """Kill each process once, as the kernel would for want of memory; the engine starts it again."""
    with report.step("kill -9 of each process once") as seen:
        for service in shop.services:
            before = shop.state(service)["Pid"]
            command = ["run", "--rm", "--pid", "host", "--user", "0", "--entrypoint", "python", SERVING, "-c"]
            engine.docker(*command, f"import os, signal; os.kill({before}, signal.SIGKILL)")

            def another(name: str = service, pid: int = before) -> bool:
                state = shop.state(name)
                return state["Running"] and state["Pid"] not in (0, pid)

            wait_until(f"{service} runs again", another, 120)
            took = shop.healthy([service])
            seen.append(f"{service} {took:.0f} s")
    with report.step("learning goes on") as seen:
        before = learned()
        wait_until("more is learned", lambda: learned() > before + 50, 120)
        seen.append(f"from {before:,.0f} to {learned():,.0f} events")


def keep(engine: Engine, shop: Shop, report: Drill, folder: Path, marker: str) -> None:
    """Volumes survive `down`; a backup survives the volumes."""
    with report.step("down, and up again on the same volumes") as seen:
        shop("stop", "simulate")
        wait_until("all is learned", lambda: learned_all(shop), 120)
        before = learned_of(shop)
        shop.down()
        shop.up(*(name for name in shop.services if name != "simulate"))
        after = learned_of(shop)
        assert after >= before > 0, f"wanted {before} events, found {after}"
        seen.append(f"{after:,} events learned before and after")
    script = images.ROOT / "deploy/compose/volumes.sh"
    backup = folder / "backup"
    env = {**engine.env, "COMPOSE_PROFILES": "demo"}
    with report.step("backup, loss of all volumes, restore") as seen:
        engine.run(["sh", str(script), "save", str(backup)], env=env)
        size = sum(path.stat().st_size for path in backup.iterdir())
        shop.down(volumes=True)
        engine.run(["sh", str(script), "restore", str(backup)], env=env)
        shop.up(*(name for name in shop.services if name != "simulate"))
        after = learned_of(shop)
        assert after == before, f"wanted {before} events, found {after}"
        seen.append(f"{len(list(backup.iterdir()))} volumes, {size / 1e6:,.0f} MB; {after:,} events")
        verified = shop.run("online", "headrace", "verify").strip().splitlines()
        seen += [line.strip() for line in verified if "whole" in line][:2]
    shop.down(volumes=True)


def online(shop: Shop) -> dict[str, Any]:
    """Return what `headrace status` says of the online shard."""
    shards = json.loads(shop.run("online", "headrace", "status", "--json"))["shards"]
    (found,) = [shard for shard in shards if shard["name"] == "online"]
    return dict(found)


def learned_of(shop: Shop) -> int:
    """Return how many events the journal of the online shard names."""
    return int((online(shop)["results"] or {"learned": 0})["learned"])


def learned_all(shop: Shop) -> bool:
    """Return whether no record waits to be learned."""
    return all(position["lag"] == 0 for position in online(shop)["positions"])


def upgrade(engine: Engine, shop: Shop, report: Drill, folder: Path, marker: str) -> None:
    """Run the steps of docs/containers.md on the volumes of a shop of 0.3.0."""
    with report.step("a shop of 0.3.0, by its own compose file") as seen:
        code = folder / "former"
        with ZipFile(WHEEL) as wheel:
            wheel.extractall(code)
        code.chmod(0o755)
        (folder / "Dockerfile").write_text(
            f"FROM {LEARNING}\nCOPY former /former\nENV PYTHONPATH=/former\nUSER root\n"
            "RUN python -m compileall -q /former\nUSER headrace\n"
            'ENTRYPOINT ["python", "-c", "from operators.cli import main; main()"]\n'
        )
        engine.docker("build", "--tag", "headrace:0.3.0", str(folder))
        # 0.3.0 takes snapshots only while events come: 28 days in a minute.
        simulated = f"simulate --log kafka:kafka:9092 --events {FORMER_EVENTS} --speed 40000x"
        (folder / "events.yml").write_text(f"services: {{simulate: {{command: {simulated}}}}}\n")
        former = Shop(engine, [Path(__file__).parent / "former/docker-compose.yml", folder / "events.yml"], {})
        former.up("kafka", "online", "finetune")  # its server needs a library that today's image lacks
        former("up", "--detach", "--no-build", "--pull", "never", "simulate")
        wait_until("0.3.0 has learned", lambda: learned() >= FORMER_EVENTS, 300)
        snapshot = "headrace_snapshot_size_bytes"
        wait_until("0.3.0 has a snapshot", lambda: total("http://127.0.0.1:9101/metrics", snapshot) > 0, 120)
        seen.append(f"{learned():,.0f} events learned")
    with report.step("docker compose down, then up of today's file") as seen:
        former.down()
        shop.up(*(name for name in shop.services if name != "simulate"))
        # The journal of 0.3.0 has no counts of results: they begin with the first event that comes now.
        read = sum(one["position"] for one in online(shop)["positions"] if one["partition"].startswith("events/"))
        assert read == FORMER_EVENTS, f"wanted the position after {FORMER_EVENTS} events, found {read}"
        assert learned_all(shop), "wanted nothing to be read again"
        popular = "http://127.0.0.1:8080/v1/popular?n=3"
        wait_until("answers go by what 0.3.0 has learned", lambda: (ask(popular) or {}).get("items"), 120)
        parts = {
            how: total("http://127.0.0.1:9101/metrics", "headrace_renewed_parts{", how=how)
            for how in ("begun", "folded")
        }
        assert not any(parts.values()), f"parts of the state were not migrated: {parts}"
        seen.append(f"{read:,} events read before and none again, no part of the state begun anew, answers by it")
        shop.up("simulate")
        wait_until("today's learns", lambda: learned() > 500, 200)
        verified = shop.run("online", "headrace", "verify").strip().splitlines()
        seen += [line.strip() for line in verified if "whole" in line][:2]
        shop.down(volumes=True)


def shop_of_ones_own(engine: Engine, shop: Shop, report: Drill, folder: Path, marker: str) -> None:
    """Start the profile `shop`, with a history to load."""
    shop.down(volumes=True)
    with report.step("profile shop: a history is loaded once") as seen:
        history = folder / "events"
        history.mkdir(mode=0o755)
        lines = [json.dumps(event(f"{number}", f"item-{number % 7}")) for number in range(HISTORY_EVENTS)]
        (history / "history.jsonl").write_text("\n".join(lines) + "\n")
        loaded = {"COMPOSE_PROFILES": "shop", "LOAD_FOLDER": str(history), "LOAD": "/events/history.jsonl"}
        own = Shop(engine, [images.ROOT / "docker-compose.yml"], {**shop.env, **loaded})
        own.up(*(name for name in own.services if name != "load"))
        own("up", "--detach", "--no-build", "--pull", "never", "load")
        wait_until("all is learned", lambda: learned_of(own) == HISTORY_EVENTS, 120, each_s=3)
        wait_until("load has ended", lambda: own.state("load")["Status"] == "exited", 60)
        assert own.state("load")["ExitCode"] == 0
        traced = own.run("console", "headrace", "trace", "0", "--json")
        assert '"learned"' in traced, traced
        assert SHOPPER not in traced, f"wanted pseudonyms as at the gateway, found {SHOPPER}"
        seen.append(f"{HISTORY_EVENTS} events, with pseudonyms; no simulator: {', '.join(own.services)}")
    with report.step("profile gpu, as far as to its configuration") as seen:
        found = Shop(engine, [images.ROOT / "docker-compose.yml"], {**shop.env, "COMPOSE_PROFILES": "gpu"})
        assert "finetune-gpu" in found.services
        assert "finetune" not in found.services
        seen.append("one fine-tuner, with a GPU; not started, there is none")
    own.down(volumes=True)


def tests(engine: Engine, shop: Shop, report: Drill, folder: Path, marker: str) -> None:
    """Run the tests that want a container on this engine and these images."""
    with report.step("tests with a broker by testcontainers") as seen:
        env = {**engine.env, "TESTCONTAINERS_RYUK_DISABLED": "true"}  # its image cannot be had
        command = [sys.executable, "-m", "pytest", "--quiet", "-k", "kafka or container", *TESTS]
        said = engine.run(command, cwd=images.ROOT, env=env)
        seen.append(f"{', '.join(Path(one).name for one in TESTS)}: {said.strip().splitlines()[-1].strip('= ')}")


PARTS: Final = {
    "build": build, "up": up, "watch": watch, "kill": kill, "keep": keep, "upgrade": upgrade,
    "shop": shop_of_ones_own, "tests": tests,
}  # fmt: skip
