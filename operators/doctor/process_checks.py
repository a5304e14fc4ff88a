"""Checks of the processes that answer on this machine. None has to run here."""

from collections.abc import Iterator

import headrace
from operators.doctor.finding import Finding, World, error, warning
from operators.scraping import configured, running, scrape, times_differed


def processes(world: World) -> Iterator[Finding]:
    """Find processes that do not answer, run another release, or had another state than their shard."""
    started = running(world.deployment)
    for name, address in {**configured(world.deployment), **started}.items():
        samples = scrape(address)
        if not samples and name in started:
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
        if differed := times_differed(samples):
            yield warning(
                name, wanted="the state of its shard", found=f"another one, {differed:,} times since its start",
                follows="it restored the shard's state; its answers before were wrong",
                mends="`headrace verify`; if it comes again, keep log and blobs, and report it",
            )  # fmt: skip
