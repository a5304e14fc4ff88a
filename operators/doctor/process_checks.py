"""Checks of the processes that answer on this machine. None has to run here."""

import urllib.request
from collections.abc import Iterator
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

import headrace
from operators.doctor.finding import Finding, World, error, warning
from operators.running import running_on

answer_s_max: Final = 2.0
"""Time for an answer to a scrape."""


def processes(world: World) -> Iterator[Finding]:
    """Find processes that do not answer, run another release, or had another state than their shard."""
    running = {one.name: one.address for one in running_on(world.deployment.settings.log) if one.state == "up"}
    for name, address in {**_configured(world), **running}.items():
        samples = _scrape(address)
        if not samples and name in running:
            yield error(
                name, wanted=f"an answer at {address}/metrics", found="none", follows="it may hang",
                mends="look at its log; end the process, and `headrace up` starts it again",
            )  # fmt: skip
        release = next((dict(labels)["version"] for metric, labels in samples if metric == "headrace_build_info"), "")
        if release and release != headrace.__version__:
            yield warning(
                name, wanted=f"the installed headrace {headrace.__version__}", found=f"headrace {release}",
                follows="it does not have this release's corrections", mends="restart the process",
            )  # fmt: skip
        if differed := samples.get(("headrace_follower_differs_total", ()), 0.0):
            yield warning(
                name, wanted="the state of its shard", found=f"another one, {differed:.0f} times since its start",
                follows="it restored the shard's state; its answers before were wrong",
                mends="`headrace verify`; if it comes again, keep log and blobs, and report it",
            )  # fmt: skip


def _configured(world: World) -> dict[str, str]:
    """Return the addresses that the settings name, by process."""
    settings = world.deployment.settings
    ports = {name: settings.shards[name].metrics_port for name in world.deployment.placements}
    ports["serve"] = settings.serve.port
    return {name: f"http://{settings.host}:{port}" for name, port in ports.items() if port}


def _scrape(address: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return the metrics of a process of ours; empty if none answers."""
    try:
        with urllib.request.urlopen(f"{address}/metrics", timeout=answer_s_max) as response:
            text = response.read().decode()
        families = list(text_string_to_metric_families(text))
    except (OSError, ValueError):  # another program may answer on the port
        return {}
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}
