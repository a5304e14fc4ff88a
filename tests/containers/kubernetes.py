"""`make kubernetes-drill`: the manifests of deploy/kubernetes on a cluster of one node."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.containers import images
from tests.containers.cluster import Cluster
from tests.containers.compose import ARCHIVE, LEARNING, OF_NO_SHOPPER, SERVING, SHOPPER, ask, event
from tests.containers.drill import Drill, wait_until
from tests.containers.engine import Engine

NAMESPACE: Final = "headrace-demo"
KAFKA: Final = str(images.COMPOSE["services"]["kafka"]["image"])
CLAIMS: Final = {
    "blobs": 10001, "archive": 10001, "console-audit": 10001, "spool-gateway-0": 10001, "spool-gateway-1": 10001,
    "data-kafka-0": 1000,
}  # fmt: skip
"""The owner of each claim's folder: volumes of a folder of the node take none over."""
SETS: Final = ("kafka", "online", "finetune", "gateway", "archive")
DEPLOYMENTS: Final = ("serve", "console")
READY_S: Final = 600
OVERLAYS: Final = images.ROOT / "deploy/kubernetes/overlays"
OTHERS: Final = {
    "client": ("drill-others", {"headrace/client": "true"}),
    "proxy": ("drill-others", {"headrace/console": "true"}),
    "stranger": ("drill-others", {}),
    "scraper": ("monitoring", {}),
}
"""The namespace and the labels of pods beside the shop's."""
TARGETS: Final = {
    "serve": "serve:8080", "gateway": "gateway:8081", "console": "console:8090", "kafka": "kafka:9092",
    "online's metrics": "online-0.shards:9101", "gateway's metrics": "gateway-0.gateways:9105",
}  # fmt: skip
MAY_REACH: Final = {
    "client": {"serve", "gateway"},
    "proxy": {"gateway", "console"},
    "stranger": {"gateway"},
    "scraper": {"serve", "gateway", "online's metrics", "gateway's metrics"},
    "gateway-0": {"serve", "kafka"},
    "online-0": {"kafka"},
}
"""What of `TARGETS`, but for its own, each of these pods reaches: no more, and no less."""
_REACH: Final = """\
import socket, sys
for at in sys.argv[1:]:
    host, port = at.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 3).close()
        print(at)
    except OSError:
        pass
"""
HEADRACE: Final = str(Path(sys.executable).parent / "headrace")


class Shop:
    """The demo in the cluster."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster, self._folder = cluster, folder
        self.key = ""

    def __call__(self, *arguments: str, given: str | None = None) -> str:
        """Run kubectl in the shop's namespace."""
        return self._cluster("--namespace", NAMESPACE, *arguments, given=given)

    def state(self, *arguments: str) -> Any:
        """Return what `kubectl get` says, decoded."""
        return json.loads(self("get", *arguments, "--output", "json"))

    def address(self, service: str) -> str:
        """Return a service's URL, as the node reaches it."""
        spec = self.state("service", service)["spec"]
        return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}"

    def volumes(self) -> None:
        """Make a volume on this node for each claim."""
        for claim, owner in CLAIMS.items():
            path = self._folder / claim
            path.mkdir()
            shutil.chown(path, owner, owner)
            self._cluster("apply", "--filename", "-", given=json.dumps(volume(claim, path)))

    def secrets(self) -> None:
        """Make keys, the secret of pseudonyms and a person by the commands of docs/containers.md."""
        made = self._folder / "secrets"
        made.mkdir()
        env = {
            **os.environ,
            "HEADRACE_KEYS": str(made / "keys.json"),
            "HEADRACE_PSEUDONYMS": str(made / "pseudonyms.json"),
        }
        env |= {"HEADRACE_CONSOLE__PEOPLE": str(made / "people.json")}

        def run(*arguments: str) -> str:
            return subprocess.run([HEADRACE, *arguments], env=env, text=True, capture_output=True, check=True).stdout

        self.key = json.loads(run("keys", "create", "--role", "ingest", "--json"))["key"]
        run("pseudonyms", "create")
        run("people", "add", "ann", "--role", "operate")
        for name in ("keys", "pseudonyms", "people"):
            self("create", "secret", "generic", f"headrace-{name}", f"--from-file={made / name}.json")

    def ready(self, timeout_s: int = READY_S) -> None:
        """Wait until all is rolled out."""
        for kind, names in (("statefulset", SETS), ("deployment", DEPLOYMENTS)):
            for name in names:
                self("rollout", "status", f"{kind}/{name}", f"--timeout={timeout_s}s")

    def pods(self, name: str) -> list[Any]:
        """Return the pods of a process that are not being deleted."""
        found = self.state("pods", "--selector", f"app.kubernetes.io/name={name}")["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def learned(self) -> int:
        """Return how many events the online shard's journal names."""
        said = json.loads(self("exec", "online-0", "--", "headrace", "status", "--json"))
        return sum(
            (shard["results"] or {"learned": 0})["learned"] for shard in said["shards"] if shard["name"] == "online"
        )


def volume(claim: str, path: Path) -> dict[str, Any]:
    """Return a volume that is a folder of the node, for one claim."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": claim},
        "spec": {
            "capacity": {"storage": "100Gi"},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "hostPath": {"path": str(path)},
            "claimRef": {"namespace": NAMESPACE, "name": claim},
        },
    }


def drill(engine: Engine, report: Drill) -> None:
    """Run all of it."""
    with tempfile.TemporaryDirectory(prefix="headrace-cluster-") as named:
        folder = Path(named)
        folder.chmod(0o755)
        cluster = Cluster(engine, engine.folder / "cluster", report.say)
        with report.step("the cluster's programs") as seen:
            seen.append(cluster.build())
        with cluster.running():
            with report.step("a node") as seen:
                node = json.loads(cluster("get", "nodes", "--output", "json"))["items"][0]["status"]["nodeInfo"]
                seen.append(f"{node['kubeletVersion']}, {node['containerRuntimeVersion']}")
            run(cluster, Shop(cluster, folder), report)


def run(cluster: Cluster, shop: Shop, report: Drill) -> None:
    """Apply the manifests and disturb what runs."""
    with report.step("images into the node") as seen:
        names = [KAFKA, SERVING, ARCHIVE, LEARNING]
        for name in names:
            cluster.give(name)
        seen.append(", ".join(names))
    with report.step("kubectl apply, overlay demo") as seen:
        seen.append(f"the Prometheus operator's {cluster.define()}")
        cluster("create", "namespace", NAMESPACE)
        shop.volumes()
        shop.secrets()
        shop("apply", "--kustomize", str(Path(__file__).parent / "cluster"))
        shop.ready()
        asked = "statefulsets,deployments,jobs,networkpolicies,poddisruptionbudgets,podmonitors,prometheusrules"
        kinds = shop.state(asked)["items"]
        count = {kind: sum(item["kind"] == kind for item in kinds) for kind in sorted({item["kind"] for item in kinds})}
        seen.append(", ".join(f"{number} {kind}" for kind, number in count.items()) + "; Pod Security `restricted`")
    with report.step("an event goes in, a recommendation comes out") as seen:
        wait_until("something is learned", lambda: shop.learned() > 500, 300, each_s=3)
        serve, gateway = shop.address("serve"), shop.address("gateway")
        viewed = [item["item_id"] for item in ask(f"{serve}/v1/popular?n=3")["items"]]
        events = [event(uuid.uuid4().hex, item) for item in viewed]
        answer = ask(f"{gateway}/v1/events", events, authorization=f"Bearer {shop.key}")
        assert answer["accepted"] == len(events), answer
        told: set[str] = set()  # the two servers learn of the views one after the other

        def by_the_views() -> bool:
            told.update(reasons(serve))
            return bool(told - OF_NO_SHOPPER)

        wait_until("an answer goes by the views", by_the_views, 60)
        seen.append(f"by {', '.join(sorted(told - OF_NO_SHOPPER))}")
    with report.step("who reaches what, by the network policies") as seen:
        for name, (namespace, labels) in OTHERS.items():
            made = {"apiVersion": "v1", "kind": "List", "items": pod(name, namespace, labels)}
            cluster("apply", "--filename", "-", given=json.dumps(made))
        seen += [f"{name}: {reaches(cluster, name)}" for name in MAY_REACH]
    with report.step("evictions, by the disruption budget of serve") as seen:
        results = [evict(shop, pod["metadata"]["name"]) for pod in shop.pods("serve")]
        assert results == [True, False], results
        seen.append("the first of two pods is evicted, the second is refused")
        shop.ready()
    with report.step("a rollout of serve under requests") as seen:
        counted = asked_meanwhile(f"{serve}/v1/popular?n=1", lambda: restart(shop, "deployment/serve"))
        seen.append(f"{counted[0]:,} requests, {counted[1]} failed")
        assert counted[1] == 0, f"{counted[1]} of {counted[0]} requests failed"
    with report.step("each pod deleted once") as seen:
        for name in (*SETS, *DEPLOYMENTS):
            before = shop.pods(name)
            old = before[0]["metadata"]
            shop("delete", "pod", old["name"], "--wait=false")
            back = partial(is_back, shop, name, old["uid"], len(before))
            took = wait_until(f"{name} is back", back, READY_S)
            seen.append(f"{name} {took:.0f} s")
        shop.ready()
    with report.step("what a gateway took while the log was away outlives its pod") as seen:
        shop("scale", "statefulset/kafka", "--replicas=0")
        wait_until("the log is away", lambda: not shop.pods("kafka"), 60)
        taken = event(uuid.uuid4().hex, viewed[0])
        answers: dict[str, Any] = {}

        def spooled() -> bool:
            answers.update(ask(f"{gateway}/v1/events", [taken], authorization=f"Bearer {shop.key}") or {})
            return answers.get("spooled") == 1

        wait_until("an event is spooled", spooled, 60)
        shop("delete", "pod", "gateway-0", "gateway-1")
        shop("scale", "statefulset/kafka", "--replicas=1")
        shop.ready()
        wait_until("it is learned", lambda: traced(shop, taken["id"]), 300, each_s=5)
        seen.append("acknowledged without Kafka, both pods deleted, learned once Kafka was back")
    with report.step("a replay as a Job") as seen:
        shop("apply", "--kustomize", str(Path(__file__).parent / "cluster/replay"))
        shop("wait", "job/replay-check", "--for=condition=complete", f"--timeout={READY_S}s")
        said = shop("logs", "job/replay-check")
        (digest,) = [line.strip() for line in said.splitlines() if "digest equal" in line] or [""]
        assert ": yes" in digest, said
        seen.append(digest)
    with report.step("headrace verify") as seen:
        seen += [line for line in shop("exec", "online-0", "--", "headrace", "verify").splitlines() if "whole" in line]
    with report.step("overlays shop and gpu, as far as the API takes them") as seen:
        cluster("apply", "--filename", str(OVERLAYS / "shop/namespace.yaml"))
        for name in ("shop", "gpu"):
            known = cluster("apply", "--dry-run=server", "--kustomize", str(OVERLAYS / name)).splitlines()
            seen.append(f"{name}: {len(known)} resources taken, none run")


def pod(name: str, namespace: str, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a pod that waits, and its namespace."""
    waits = {"name": "waits", "image": SERVING, "command": ["python", "-c", "import time; time.sleep(3600)"]}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": dict(labels)},
            "spec": {"containers": [waits], "terminationGracePeriodSeconds": 0},
        },
    ]


def reaches(cluster: Cluster, name: str) -> str:
    """Wait until a pod reaches what it may, and nothing else; return what."""
    namespace = OTHERS[name][0] if name in OTHERS else NAMESPACE
    cluster("--namespace", namespace, "wait", f"pod/{name}", "--for=condition=ready", "--timeout=120s")
    found: set[str] = set()

    def as_wanted() -> bool:
        found.clear()
        found.update(reached(cluster, namespace, name))
        return found == MAY_REACH[name]

    try:
        wait_until("policies hold", as_wanted, 60)
    except AssertionError as error:
        raise AssertionError(f"{name} reaches {sorted(found)}, wanted {sorted(MAY_REACH[name])}") from error
    return ", ".join(sorted(found))


def reached(cluster: Cluster, namespace: str, name: str) -> set[str]:
    """Return the targets, but for its own, that take a connection of a pod."""
    own = name.partition("-")[0]
    asked = {
        f"{host}.{NAMESPACE}.svc.cluster.local:{port}": target
        for target, at in TARGETS.items()
        for host, port in [at.split(":")]
        if own not in target
    }
    said = cluster("--namespace", namespace, "exec", name, "--", "python", "-c", _REACH, *asked)
    return {asked[at] for at in said.split()}


def reasons(serve: str) -> set[str]:
    """Return the reasons of the drill's shopper's recommendations."""
    answer = ask(f"{serve}/v1/recommendations/{SHOPPER}?n=10")
    return {item["reason"]["code"] for item in answer["items"]} if answer else set()


def evict(shop: Shop, pod: str) -> bool:
    """Return whether a pod may be evicted, and evict it."""
    wanted = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE}}
    try:
        shop(
            "create",
            "--raw",
            f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction",
            "-f",
            "-",
            given=json.dumps(wanted),
        )
    except RuntimeError as error:
        if "disruption budget" not in str(error):
            raise
        return False
    return True


def restart(shop: Shop, what: str) -> None:
    """Roll a workload out anew."""
    shop("rollout", "restart", what)
    shop("rollout", "status", what, f"--timeout={READY_S}s")


def asked_meanwhile(url: str, work: Any) -> tuple[int, int]:
    """Ask a URL all the time while something is done; return the numbers of requests and of failed ones."""
    done = threading.Event()
    counts = [0, 0]

    def ask_on() -> None:
        while not done.wait(0.05):
            counts[0] += 1
            try:
                with urllib.request.urlopen(url, timeout=10) as response:
                    response.read()
            except (OSError, urllib.error.HTTPError):
                counts[1] += 1

    asker = threading.Thread(target=ask_on)
    asker.start()
    try:
        work()
    finally:
        done.set()
        asker.join()
    return counts[0], counts[1]


def is_back(shop: Shop, name: str, old: str, number: int) -> bool:
    """Return whether another pod than the old one runs, and as many of the process' pods are ready as before."""
    pods = shop.pods(name)
    ready = [{one["type"]: one["status"] for one in pod["status"].get("conditions", [])}.get("Ready") for pod in pods]
    return ready == ["True"] * number and all(pod["metadata"]["uid"] != old for pod in pods)


def traced(shop: Shop, id_: str) -> bool:
    """Return whether an event was learned."""
    try:
        return '"state":"learned"' in shop("exec", "online-0", "--", "headrace", "trace", id_, "--json").replace(
            " ", ""
        )
    except RuntimeError:  # the log has no such event yet
        return False
