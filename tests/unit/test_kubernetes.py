"""The manifests of deploy/kubernetes: what kustomize makes of them is valid, and fits together and to the settings."""

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema
import kubernetes_validate
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

import headrace
from deploy.kubernetes.__main__ import WRITTEN, rules
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

FOLDER: Final = Path(__file__).parents[2] / "deploy/kubernetes"
BUILT: Final = ("overlays/demo", "overlays/shop", "overlays/gpu", "jobs/replay")
VERSIONS: Final = ("1.31", "1.37")
"""Of Kubernetes: the oldest and the newest."""
WORKLOADS: Final = ("StatefulSet", "Deployment", "Job")
PORTS: Final = {
    **{name: {"metrics": int(shard["metrics_port"])} for name, shard in DEFAULT_SHARDS.items()},
    "serve": {"http": ServeSettings().port},
    "gateway": {"http": GatewaySettings().port, "metrics": GatewaySettings().metrics_port},
    "console": {"http": ConsoleSettings().port},
    "archive": {"metrics": ArchiveSettings().metrics_port},
    "simulate": {"metrics": ProducerSettings().metrics_port},
}
SECTIONS: Final = {"archive": ArchiveSettings, "console": ConsoleSettings, "gateway": GatewaySettings}

_RELABELING: Final = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "sourceLabels": {"type": "array", "items": {"type": "string", "pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"}},
        "targetLabel": {"type": "string"},
        "replacement": {"type": "string"},
        "regex": {"type": "string"},
        "action": {"enum": ["replace", "keep", "drop"]},
    },
}
_SELECTOR: Final = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"matchLabels": {"type": "object"}, "matchExpressions": {"type": "array"}},
}
CUSTOM: Final[Mapping[str, Any]] = {
    "PodMonitor": {
        "type": "object",
        "required": ["selector", "podMetricsEndpoints"],
        "additionalProperties": False,
        "properties": {
            "selector": _SELECTOR,
            "podMetricsEndpoints": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "required": ["port"],
                    "additionalProperties": False,
                    "properties": {
                        "port": {"type": "string"},
                        "interval": {"type": "string", "pattern": "^[0-9]+s$"},
                        "relabelings": {"type": "array", "items": _RELABELING},
                    },
                },
            },
        },
    },
    "PrometheusRule": {
        "type": "object",
        "required": ["groups"],
        "additionalProperties": False,
        "properties": {
            "groups": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name", "rules"],
                    "additionalProperties": False,
                    "properties": {
                        "name": {"type": "string"},
                        "interval": {"type": "string", "pattern": "^[0-9]+[smhd]$"},
                        "rules": {
                            "type": "array",
                            "minItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["expr"],
                                "oneOf": [{"required": ["alert"]}, {"required": ["record"]}],
                                "additionalProperties": False,
                                "properties": {
                                    "alert": {"type": "string"},
                                    "record": {"type": "string"},
                                    "expr": {"type": "string"},
                                    "for": {"type": "string", "pattern": "^[0-9]+[smhd]$"},
                                    "keep_firing_for": {"type": "string", "pattern": "^[0-9]+[smhd]$"},
                                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                                    "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
                                },
                            },
                        },
                    },
                },
            }
        },
    },
}
"""Of the Prometheus operator's resources (their `spec`), the part that we use, from its API's documentation."""


@cache
def built(name: str) -> list[Any]:
    """Return the resources that kustomize makes."""
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl of 1.22 or newer, which has kustomize: apt-get install kubernetes-client")
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER / name)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(YAML(typ="safe").load_all(done.stdout))


def of(name: str, *kinds: str) -> Iterator[Any]:
    """Yield the resources of some kinds."""
    return (one for one in built(name) if one["kind"] in kinds)


def containers(name: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield each workload's name, its pods' spec, and our container in it."""
    for one in of(name, *WORKLOADS):
        spec = one["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        yield one["metadata"]["name"], spec, container


@pytest.mark.parametrize("name", BUILT)
def test_each_resource_is_valid(name: str) -> None:
    for one in built(name):
        if one["kind"] in CUSTOM:
            assert one["apiVersion"] == "monitoring.coreos.com/v1"
            jsonschema.validate(one["spec"], CUSTOM[one["kind"]])
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(one, version, strict=True)


def test_the_schemas_of_custom_resources_refuse_what_is_wrong() -> None:
    (monitor,) = of("overlays/shop", "PodMonitor")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**monitor["spec"], "podMetricsEndpoints": [{"interval": "15s"}]}, CUSTOM["PodMonitor"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"groups": [{"name": "x", "rules": [{"expr": "up"}]}]}, CUSTOM["PrometheusRule"])


def test_rules_are_those_of_prometheus() -> None:
    assert WRITTEN.read_text() == rules(), "python -m deploy.kubernetes"
    (rule,) = of("overlays/shop", "PrometheusRule")
    source = YAML(typ="safe").load(FOLDER.parent / "prometheus/rules/headrace.yml")
    assert rule["spec"] == source


@pytest.mark.parametrize("name", BUILT)
def test_every_container_has_no_rights_and_says_what_it_needs(name: str) -> None:
    for workload, spec, container in containers(name):
        assert not spec["automountServiceAccountToken"], workload
        pod, own = spec["securityContext"], container["securityContext"]
        assert pod["runAsNonRoot"], workload
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, workload
        assert not own["allowPrivilegeEscalation"], workload
        assert own["capabilities"] == {"drop": ["ALL"]}, workload
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), workload
        assert "memory" in container["resources"]["limits"], workload
        if container["name"] == "headrace":
            assert own["readOnlyRootFilesystem"], workload
            assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"], workload


@pytest.mark.parametrize("name", BUILT)
def test_images_are_of_this_release(name: str) -> None:
    for workload, _, container in containers(name):
        image, _, tag = container["image"].rpartition(":")
        if workload == "kafka":
            assert container["image"] == broker.container_image
        else:
            assert tag == headrace.__version__, workload
            assert image.removeprefix("registry.example/") in ("headrace", "headrace-archive", "headrace-learning")


@pytest.mark.parametrize("name", BUILT)
def test_commands_settings_and_ports_exist(name: str) -> None:
    for workload, _, container in containers(name):
        if workload == "kafka":
            continue
        told = CliRunner().invoke(app, [container["args"][0], "--help"])
        assert told.exit_code == 0, told.output
        variables = {one["name"]: one["value"] for one in container.get("env", [])}
        for config in of(name, "ConfigMap"):
            variables |= config["data"]
        for variable, value in variables.items():
            section, _, field = variable.removeprefix("HEADRACE_").lower().partition("__")
            assert section in Settings.model_fields, variable
            if field:
                assert getattr(SECTIONS[section](**{field: value}), field) == value
        if workload in PORTS:
            assert {one["name"]: one["containerPort"] for one in container["ports"]} == PORTS[workload]


def test_every_lasting_process_is_probed_at_a_port_it_has() -> None:
    for one in of("overlays/shop", "StatefulSet", "Deployment"):
        (container,) = one["spec"]["template"]["spec"]["containers"]
        ports = {port["name"] for port in container["ports"]}
        assert {"startupProbe", "livenessProbe"} <= container.keys(), one["metadata"]["name"]
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            if kind in container:
                assert container[kind]["httpGet"]["port"] in ports


@pytest.mark.parametrize("name", ["overlays/demo", "overlays/shop"])
def test_what_selects_finds_something(name: str) -> None:
    pods = [(one["metadata"]["name"], one["spec"]["template"]["metadata"]["labels"]) for one in of(name, *WORKLOADS)]
    for one in of(name, "Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor"):
        spec = one["spec"]
        selector = spec.get("podSelector") or spec["selector"]
        labels = selector if one["kind"] == "Service" else selector.get("matchLabels", {})
        found = [workload for workload, has in pods if labels.items() <= has.items()]
        for expression in [] if one["kind"] == "Service" else selector.get("matchExpressions", []):
            is_in = expression["operator"] == "In"
            found = [
                workload
                for workload, has in pods
                if workload in found and (has.get(expression["key"]) in expression["values"]) is is_in
            ]
        assert found, (one["kind"], one["metadata"]["name"])
        for port in spec.get("ports", []) if one["kind"] == "Service" else []:
            if found != ["kafka"]:
                assert port["port"] == PORTS[found[0]][port["targetPort"]]


def test_one_pod_per_shard_and_claims_and_secrets_by_reference() -> None:
    claims = {one["metadata"]["name"] for one in of("overlays/shop", "PersistentVolumeClaim")}
    for workload, spec, _ in containers("overlays/shop"):
        for volume in spec["volumes"]:
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims, workload
    assert not list(of("overlays/shop", "Secret")), "secrets are made by the shop, and only named here"
    shards = {one["metadata"]["name"]: one["spec"]["replicas"] for one in of("overlays/shop", "StatefulSet")}
    assert {name: shards[name] for name in (*DEFAULT_SHARDS, "archive")} == {"online": 1, "finetune": 1, "archive": 1}


def test_only_the_fine_tuner_gets_a_gpu() -> None:
    with_gpu = [name for name, _, one in containers("overlays/gpu") if "nvidia.com/gpu" in one["resources"]["limits"]]
    assert with_gpu == ["finetune"]


def test_every_process_with_metrics_is_scraped() -> None:
    """By the labels and names of ports that the PodMonitor selects."""
    (monitor,) = of("overlays/shop", "PodMonitor")
    (excluded,) = monitor["spec"]["selector"]["matchExpressions"]
    assert excluded["operator"] == "NotIn"
    scraped = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
    for workload, ports in PORTS.items():
        if workload == "console":
            assert workload in excluded["values"]
        else:
            assert workload not in excluded["values"]
            assert ports.keys() & scraped, workload
