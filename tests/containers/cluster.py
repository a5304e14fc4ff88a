"""A Kubernetes cluster of one node: its programs built from Go modules, etcd, containerd and CNI from Debian.

For drills only: everything is an administrator, nothing outlives the drill, and what it serves is for this machine.
kube-router enforces network policies, and does nothing else of what it can.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.containers.drill import wait_until
from tests.containers.engine import Engine

KUBERNETES: Final = "34.3"
"""v1.KUBERNETES, whose libraries are v0.KUBERNETES."""
STAGED: Final = (
    "api", "apiextensions-apiserver", "apimachinery", "apiserver", "cli-runtime", "client-go", "cloud-provider",
    "cluster-bootstrap", "code-generator", "component-base", "component-helpers", "controller-manager", "cri-api",
    "cri-client", "csi-translation-lib", "dynamic-resource-allocation", "endpointslice", "externaljwt", "kms",
    "kube-aggregator", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet", "metrics",
    "mount-utils", "pod-security-admission", "sample-apiserver",
)  # fmt: skip
"""What Kubernetes' own module replaces by its folders, and publishes as modules."""
PROGRAMS: Final = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
COREDNS: Final = "v1.12.4"
ROUTER: Final = "v2.1.0"
OPERATOR: Final = "v0.85.0"
"""Of the Prometheus operator, of which the cluster has the definitions of resources."""
DEFINITIONS: Final = ("podmonitors", "prometheusrules")
NODE: Final = "node"
PODS, BRIDGE, SERVICES = "10.88.0.0/16", "10.88.0.1", "10.96.0.0/16"
API: Final = "https://127.0.0.1:16443"
PAUSE: Final = "headrace-drill/pause:1"
STOP_S: Final = 15.0
POLICY_CHAINS: Final = ("KUBE-ROUTER-", "KUBE-POD-FW-", "KUBE-NWPLCY-")
POLICY_SETS: Final = ("KUBE-SRC-", "KUBE-DST-", "KUBE-DEFAULT-", "kube-router-")

_NAMES: Final = """\
package main

import (
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
)

func main() { coremain.Run() }
"""
_PAUSE: Final = """\
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGINT, syscall.SIGTERM)
	<-ended
}
"""


class Cluster:
    """The cluster. Its folder keeps programs and images between drills, and nothing else."""

    def __init__(self, engine: Engine, folder: Path, say: Callable[[str], None]) -> None:
        self._engine, self._say = engine, say
        self._programs, self._state = folder / "programs", folder / "state"
        self._root, self._images = folder / "root", folder / "images"
        self.config = self._state / "config.json"
        self._token = secrets.token_hex(16)

    def build(self) -> str:
        """Build the programs that are missing, by the Go toolchain; return what was built."""
        self._programs.mkdir(parents=True, exist_ok=True)
        self._engine.install("golang-go", of="go")
        replaced = "".join(f"replace k8s.io/{name} => k8s.io/{name} v0.{KUBERNETES}\n" for name in STAGED)
        required = f"require k8s.io/kubernetes v1.{KUBERNETES}\n{replaced}"
        sources = {name: (required, f"k8s.io/kubernetes/cmd/{name}", "") for name in PROGRAMS}
        router = "github.com/cloudnativelabs/kube-router/v2"
        sources["kube-router"] = (f"require {router} {ROUTER}\n", f"{router}/cmd/kube-router", "")
        sources["coredns"] = (f"require github.com/coredns/coredns {COREDNS}\n", ".", _NAMES)
        sources["pause"] = ("", ".", _PAUSE)
        missing = [name for name in sources if not (self._programs / name).exists()]
        for name in missing:
            self._say(f"go build {name}")
            self._go(name, *sources[name])
        return f"{len(missing)} programs built, {len(sources) - len(missing)} were there"

    def _go(self, name: str, requires: str, package: str, code: str) -> None:
        folder = self._programs / "source" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "go.mod").write_text(f"module drill\n\ngo 1.24.0\n\n{requires}")
        imported = f'//go:build tools\n\npackage main\n\nimport _ "{package}"\n'
        (folder / "main.go").write_text(code or imported)
        env = {**os.environ, "GOFLAGS": "-mod=mod", "CGO_ENABLED": "0"}
        version = f"-X k8s.io/component-base/version.gitVersion=v1.{KUBERNETES}"
        self._engine.run(["go", "mod", "tidy"], cwd=folder, env=env)
        build = ["go", "build", "-trimpath", "-ldflags", f"-s -w {version}", "-o", str(self._programs / name), package]
        self._engine.run(build, cwd=folder, env=env, timeout_s=3600)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the cluster during the block."""
        self._engine.install("containerd", of="containerd")
        self._engine.install("ipset", of="ipset")
        if not (self._root / "usr/bin/etcd").exists():
            self._engine.unpack("etcd-server", "containernetworking-plugins", into=self._root)
        shutil.rmtree(self._state, ignore_errors=True)
        self._state.mkdir(parents=True)
        self._write()
        with ExitStack() as stack:
            stack.callback(self._clean)
            self._bridge()
            for name, command in self._commands().items():
                self._start(stack, name, command)
                if name == "kube-apiserver":
                    wait_until("the API is ready", lambda: self("get", "--raw", "/readyz", check=False) == "ok", 120)
                if name == "containerd":
                    self._import_pause()
            wait_until("the node is ready", self._node_is_ready, 120)
            self._start(stack, "kube-router", self._command("kube-router", self._policies()))  # wants a node
            stack.callback(self._delete_pods)
            yield

    def define(self) -> str:
        """Make the Prometheus operator's resources known, from its Go module; return what."""
        module = f"github.com/prometheus-operator/prometheus-operator@{OPERATOR}"
        found = json.loads(self._engine.run(["go", "mod", "download", "-json", module], cwd=self._programs))
        for name in DEFINITIONS:
            path = Path(found["Dir"]) / f"example/prometheus-operator-crd/monitoring.coreos.com_{name}.yaml"
            self("create", "--filename", str(path))
            self("wait", "--for=condition=established", f"crd/{name}.monitoring.coreos.com", "--timeout=60s")
        return f"{', '.join(DEFINITIONS)} of {OPERATOR}"

    def __call__(self, *arguments: str, check: bool = True, given: str | None = None) -> str:
        """Run kubectl; return what it printed, "" where it fails and need not `check`."""
        command = ["kubectl", "--kubeconfig", str(self.config), *arguments]
        done = subprocess.run(command, text=True, capture_output=True, input=given, timeout=600)
        if done.returncode and check:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr[-2000:]}")
        return done.stdout.strip() if not done.returncode else ""

    def give(self, image: str) -> None:
        """Copy an image of the engine's into the cluster, unless it is there."""
        known = self._engine.docker("image", "inspect", "--format", "{{.Id}}", image).strip()
        lines = self._engine.run([*self._ctr, "images", "list"]).splitlines()[1:]
        listed = {name: digest for name, _, digest, *_ in map(str.split, lines)}
        if known in listed:
            return
        # A name that is imported again keeps the former image's id beside it.
        former = {digest for name, digest in listed.items() if name.endswith(f"/{image}")}
        for name in (name for name, digest in listed.items() if digest in former):
            self._engine.run([*self._ctr, "images", "remove", name])
        with subprocess.Popen(["docker", "save", image], env=self._engine.env, stdout=subprocess.PIPE) as saved:
            subprocess.run([*self._ctr, "images", "import", "-"], stdin=saved.stdout, check=True, capture_output=True)

    @property
    def _ctr(self) -> list[str]:
        return ["ctr", "--address", str(self._state / "containerd.sock"), "--namespace", "k8s.io"]

    def _import_pause(self) -> None:
        if not self._engine.has(PAUSE):
            context = self._programs / "source/image"
            context.mkdir(parents=True, exist_ok=True)
            shutil.copy(self._programs / "pause", context)
            (context / "Dockerfile").write_text('FROM scratch\nCOPY pause /pause\nUSER 65535\nENTRYPOINT ["/pause"]\n')
            self._engine.docker("build", "--tag", PAUSE, str(context))
        wait_until(
            "containerd answers",
            lambda: not subprocess.run([*self._ctr, "version"], capture_output=True).returncode,
            30,
        )
        self.give(PAUSE)

    def _node_is_ready(self) -> bool:
        said = self("get", "nodes", "--output", "json", check=False)
        items = json.loads(said)["items"] if said else []
        kinds = {one["type"]: one["status"] for item in items for one in item["status"].get("conditions", [])}
        return kinds.get("Ready") == "True"

    def _write(self) -> None:
        """Write keys and settings."""
        state = self._state
        key = ["openssl", "genrsa", "-out", str(state / "service.key"), "2048"]
        ca = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=drill"]
        ca += ["-keyout", str(state / "ca.key"), "-out", str(state / "ca.pem")]
        client = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/O=system:masters/CN=drill"]
        client += ["-keyout", str(state / "client.key"), "-out", str(state / "client.csr")]
        sign = ["openssl", "x509", "-req", "-days", "2", "-CAcreateserial", "-in", str(state / "client.csr")]
        sign += ["-CA", str(state / "ca.pem"), "-CAkey", str(state / "ca.key"), "-out", str(state / "client.pem")]
        for command in (key, ca, client, sign):
            self._engine.run(command)
        (state / "tokens.csv").write_text(f'{self._token},drill,drill,"system:masters"\n')
        cluster = {"server": API, "insecure-skip-tls-verify": True}
        self.config.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "drill", "cluster": cluster}],
                    "users": [{"name": "drill", "user": {"token": self._token}}],
                    "contexts": [{"name": "drill", "context": {"cluster": "drill", "user": "drill"}}],
                    "current-context": "drill",
                }
            )
        )
        for path in (state / "tokens.csv", self.config):
            path.chmod(0o600)
        network = {
            "cniVersion": "1.0.0",
            "name": "drill",
            "plugins": [
                {
                    "type": "bridge", "bridge": "drill0", "isGateway": True, "ipMasq": True, "hairpinMode": True,
                    "ipam": {
                        "type": "host-local", "dataDir": str(state / "addresses"),
                        "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
            ],
        }  # fmt: skip
        (state / "cni").mkdir()
        (state / "cni/drill.conflist").write_text(json.dumps(network))
        (state / "containerd.toml").write_text(
            f'version = 2\nroot = "{self._images}"\nstate = "{state}/run"\n'
            f'[grpc]\naddress = "{state}/containerd.sock"\n'
            f'[plugins."io.containerd.grpc.v1.cri"]\nsandbox_image = "docker.io/{PAUSE}"\n'
            "restrict_oom_score_adj = true\n"
            f'[plugins."io.containerd.grpc.v1.cri".cni]\n'
            f'bin_dir = "{self._root}/usr/lib/cni"\nconf_dir = "{state}/cni"\n'
        )
        kubelet = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False}, "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(state / "ca.pem")},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [BRIDGE],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": f"unix://{state}/containerd.sock",
            "podLogsDir": str(state / "logs"),
            # A drill may take what disk there is.
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
        }  # fmt: skip
        (state / "kubelet.json").write_text(json.dumps(kubelet))
        proxy = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "iptables",
            "clusterCIDR": PODS, "clientConnection": {"kubeconfig": str(self.config)},
            "conntrack": {"maxPerCore": 0}, "hostnameOverride": NODE,
            "healthzBindAddress": "127.0.0.1:10256", "metricsBindAddress": "127.0.0.1:10249",
        }  # fmt: skip
        (state / "proxy.json").write_text(json.dumps(proxy))
        (state / "Corefile").write_text(
            f".:53 {{\n  bind {BRIDGE}\n  errors\n"
            f"  kubernetes cluster.local {{\n    kubeconfig {self.config} drill\n  }}\n}}\n"
        )

    def _commands(self) -> Mapping[str, list[str]]:
        state, config = self._state, str(self.config)
        peer, client = "http://127.0.0.1:12380", "http://127.0.0.1:12379"
        peers = ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        clients = ["--listen-client-urls", client, "--advertise-client-urls", client]
        etcd = [
            *peers,
            *clients,
            "--initial-cluster",
            f"default={peer}",
            "--data-dir",
            str(state / "etcd"),
        ]
        api = {
            "etcd-servers": client, "secure-port": "16443", "bind-address": "127.0.0.1",
            "advertise-address": BRIDGE, "cert-dir": str(state / "api"), "token-auth-file": str(state / "tokens.csv"),
            "service-cluster-ip-range": SERVICES, "service-account-issuer": API,
            "service-account-key-file": str(state / "service.key"), "authorization-mode": "RBAC",
            "service-account-signing-key-file": str(state / "service.key"),
            "kubelet-client-certificate": str(state / "client.pem"), "kubelet-client-key": str(state / "client.key"),
            "endpoint-reconciler-type": "none", "kubelet-preferred-address-types": "InternalIP",
        }  # fmt: skip
        manager = {
            "kubeconfig": config, "service-account-private-key-file": str(state / "service.key"),
            "bind-address": "127.0.0.1", "allocate-node-cidrs": "true", "cluster-cidr": PODS,
            "node-cidr-mask-size": "16",
            "leader-elect": "false", "cert-dir": str(state / "manager"),
        }  # fmt: skip
        scheduler = {
            "kubeconfig": config, "bind-address": "127.0.0.1", "leader-elect": "false",
            "cert-dir": str(state / "scheduler"),
        }  # fmt: skip
        kubelet = {
            "kubeconfig": config, "config": str(state / "kubelet.json"), "hostname-override": NODE,
            "root-dir": str(state / "kubelet"), "cert-dir": str(state / "kubelet-pki"),
        }  # fmt: skip
        return {
            "etcd": [str(self._root / "usr/bin/etcd"), *etcd],
            "kube-apiserver": self._command("kube-apiserver", api),
            "kube-controller-manager": self._command("kube-controller-manager", manager),
            "kube-scheduler": self._command("kube-scheduler", scheduler),
            "containerd": ["containerd", "--config", str(state / "containerd.toml")],
            "kubelet": self._command("kubelet", kubelet),
            "kube-proxy": self._command("kube-proxy", {"config": str(state / "proxy.json")}),
            "coredns": [str(self._programs / "coredns"), "-conf", str(state / "Corefile")],
        }

    def _policies(self) -> Mapping[str, str]:
        """Return kube-router's options: policies, and neither routes nor services."""
        return {
            "kubeconfig": str(self.config), "hostname-override": NODE, "service-cluster-ip-range": SERVICES,
            "run-firewall": "true", "run-router": "false", "run-service-proxy": "false", "health-port": "0",
        }  # fmt: skip

    def _command(self, name: str, options: Mapping[str, str]) -> list[str]:
        return [str(self._programs / name), *(f"--{option}={value}" for option, value in options.items())]

    def _start(self, stack: ExitStack, name: str, command: list[str]) -> None:
        self._say(f"starting {name}")
        env = {**os.environ, "NODE_NAME": NODE}
        with (self._state / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        stack.callback(_stop, process)
        time.sleep(0.5)
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended: {(self._state / f'{name}.log').read_text()[-1500:]}")

    def _bridge(self) -> None:
        """Make the pods' network, on which names are served before the first pod runs."""
        for command in (
            ["ip", "link", "add", "drill0", "type", "bridge"],
            ["ip", "address", "add", f"{BRIDGE}/16", "dev", "drill0"],
            ["ip", "link", "set", "drill0", "up"],
            # An engine beside it forwards only its own by default.
            ["iptables", "-A", "FORWARD", "-i", "drill0", "-j", "ACCEPT"],
            ["iptables", "-A", "FORWARD", "-o", "drill0", "-j", "ACCEPT"],
        ):
            self._engine.run(command)

    def _delete_pods(self) -> None:
        """Delete all pods, whose processes would outlive containerd."""
        self("delete", "namespaces", "--all", "--wait=false", check=False)
        self("delete", "jobs,statefulsets,deployments", "--all", "--all-namespaces", "--wait=false", check=False)
        self("delete", "pods", "--all", "--all-namespaces", "--grace-period=5", "--timeout=60s", check=False)

    def _clean(self) -> None:
        """Remove the network's rules, what the kubelet mounted, and what is large."""
        # What the kubelet leaves, and kube-proxy's rules.
        for chain in ("INPUT", "OUTPUT"):
            subprocess.run(["iptables", "-D", chain, "-j", "KUBE-FIREWALL"], capture_output=True)
        for table in ("filter", "nat", "mangle"):
            for chain in ("KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT"):
                for how in ("-F", "-X"):
                    subprocess.run(["iptables", "-t", table, how, chain], capture_output=True)
        subprocess.run([str(self._programs / "kube-proxy"), "--cleanup"], capture_output=True)
        self._clean_policies()
        for way in ("-i", "-o"):
            subprocess.run(["iptables", "-D", "FORWARD", way, "drill0", "-j", "ACCEPT"], capture_output=True)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((one for one in mounts if one.startswith(f"{self._state}/")), reverse=True):
            subprocess.run(["umount", mount], capture_output=True)
        subprocess.run(["ip", "link", "delete", "drill0"], capture_output=True)
        for name in ("run", "etcd", "kubelet"):  # logs are kept until the next drill
            shutil.rmtree(self._state / name, ignore_errors=True)

    def _clean_policies(self) -> None:
        """Remove kube-router's rules and sets."""
        rules = subprocess.run(["iptables-save", "--table", "filter"], capture_output=True, text=True).stdout
        left = [line for line in rules.splitlines() if not any(name in line for name in POLICY_CHAINS)]
        subprocess.run(["iptables-restore", "--table", "filter"], input="\n".join([*left, ""]), text=True, check=False)
        sets = subprocess.run(["ipset", "list", "--name"], capture_output=True, text=True).stdout.split()
        for name in sets:
            if name.startswith(POLICY_SETS):
                subprocess.run(["ipset", "destroy", name], capture_output=True)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
