"""What the processes that answer on this machine say of themselves. None has to run here."""

import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from operators.deployment import Deployment
from operators.overview import Cause
from operators.running import running_on

answer_s_max: Final = 2.0
"""Time for an answer to a scrape."""

Samples: TypeAlias = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]
"""Values by a metric's name and labels."""


def configured(deployment: Deployment) -> dict[str, str]:
    """Return the addresses that the settings name, by process."""
    settings = deployment.settings
    ports = {name: settings.shards[name].metrics_port for name in deployment.placements if name in settings.shards}
    ports["serve"] = settings.serve.port
    return {name: f"http://{settings.host}:{port}" for name, port in ports.items() if port}


def running(deployment: Deployment) -> dict[str, str]:
    """Return the addresses of what `headrace up` runs on the log, by process."""
    return {one.name: one.address for one in running_on(deployment.settings.log) if one.state == "up"}


def scrape(address: str) -> Samples:
    """Return the metrics of a process of ours; empty if none answers."""
    try:
        with urllib.request.urlopen(f"{address}/metrics", timeout=answer_s_max) as response:
            text = response.read().decode()
        families = list(text_string_to_metric_families(text))
    except (OSError, ValueError):  # another program may answer on the port
        return {}
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def times_differed(samples: Samples) -> int:
    """Return how often a server had another state than its shard, since its start."""
    return int(samples.get(("headrace_follower_differs_total", ()), 0.0))


def differing(deployment: Deployment) -> list[str]:
    """Return a sentence for each process that had another state than its shard."""
    addresses = {**configured(deployment), **running(deployment)}
    return [
        f"{name}: its state differed from its shard's, {count:,} times since its start; it restored the shard's."
        " See headrace doctor"
        for name, address in addresses.items()
        if (count := times_differed(scrape(address)))
    ]


class _Ready(Struct):
    """What `/health/ready` says."""

    behind_s: float = 0.0
    waiting_s: float = 0.0


def serve_cause(deployment: Deployment) -> Cause | None:
    """Return what the server on this machine says of its answers; None if none is known to run."""
    runs = running(deployment).get("serve")
    address = runs or configured(deployment).get("serve")
    if address is None:
        return None
    try:
        with urllib.request.urlopen(f"{address}/health/ready", timeout=answer_s_max) as response:
            ready = msgspec.json.decode(response.read(), type=_Ready)
    except urllib.error.HTTPError:
        return Cause(level="bad", code="answers_stale")
    except (OSError, ValueError, msgspec.MsgspecError):  # another program may answer on the port
        return Cause(level="bad", code="answers_away") if runs else None
    return Cause(level="good", code="answers_fresh", values={"behind_ms": round(1000 * ready.behind_s)})
