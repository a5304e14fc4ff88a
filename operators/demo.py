"""The demo: the whole pipeline in a few minutes, by the commands that a person would type.

Producer, online consumer, fine-tuner and server are processes of their own. The results are read from topics and from
`/metrics`, and answers of the server are compared with the simulated shop's truth; the demo itself learns nothing.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

from headrace.errors import Misconfigured
from headrace.log import broker
from headrace.log.open import open_log
from headrace.log.protocol import Log
from headrace.topics import EVENTS
from learners.family import Family
from operators.child import Child, Scraped, headrace, total
from operators.deployment import read_deployment
from operators.facts import Facts, Sample
from operators.planted import lines, shown
from operators.report import table, write_report
from operators.supervisor import Spec, Stage, Supervisor
from operators.terminal import Terminal, progress_bar
from operators.up import console, gateway, shop

simulated_events: Final = 60_000
settle_s_max: Final = 40.0
"""Maximum time for the readers to catch up after the last event."""
sample_s: Final = 1.0
PLANTED: Final = {"churners": 0.1, "big-spenders": 0.08, "returners": 0.08}
"""Shares of the shoppers of whom it is known what they will do."""
STOCKED: Final = 0.3
"""Share of the items whose stock is limited: some will be sold out."""
SIMULATED_SPEED: Final = "40000x"
"""Four weeks in a minute, plus the waits for verdicts: about 1,000 events/s, which learning keeps up with."""


class Demo:
    """One run. `minutes` bounds how long a real file is read; a simulated shop is read to its end."""

    def __init__(
        self,
        terminal: Terminal,
        *,
        data: Path | None,
        kafka: bool,
        keep: bool,
        events: int | None,
        seed: int,
        minutes: float,
        folder: Path | None,
    ) -> None:
        if data is not None and not os.path.exists(data):  # a path that no file can have included
            raise Misconfigured(f"--data {data}: there is no such file or folder")
        self._terminal, self._data, self._kafka, self._keep = terminal, data, kafka, keep
        self._events, self._seed, self._minutes = events or simulated_events, seed, minutes
        self.folder = folder or Path(f"demo-{datetime.now():%Y%m%d-%H%M%S}")
        self._deployment = read_deployment()
        self._samples: list[Sample] = []
        self._began = time.monotonic()

    def run(self) -> None:
        """Run all processes, then show the results. The processes stop when this ends, by a signal too.

        Raises:
            BrokenWorld: a process died; its log has the reason.
        """
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Misconfigured(f"--folder {self.folder}: wanted a folder, found {error}") from error
        with ExitStack() as stack:
            url = stack.enter_context(self._log_url())
            supervisor = stack.enter_context(Supervisor(self.folder, lambda name, line: None, restart=False))
            self._terminal.print("starting these processes:")
            blobs = str(self.folder / "blobs")
            specs = shop(self._deployment, url, blobs, free_ports=not self._keep, sets=self._demo_settings())
            readers = [self._start(supervisor, spec) for spec in specs]
            supervisor.wait_until_up()
            command = headrace(*self._source(), "--log", url, "--metrics-port", "0")
            producer = self._start(supervisor, Spec("producer", command, Stage.PRODUCER, once=True))
            supervisor.wait_until_up()
            began = time.monotonic()
            share = self._watch(supervisor, producer, readers)
            seconds = time.monotonic() - began
            log = open_log(url)
            stack.callback(log.close)
            self._show(log, readers, seconds, share)
            if self._keep:
                self._keep_running(supervisor, readers, url, _last_shopper(log))

    @contextmanager
    def _log_url(self) -> Iterator[str]:
        if not self._kafka:
            yield f"sqlite:{self.folder / 'log.db'}"
            return
        self._terminal.print("starting a Kafka broker (the first start downloads its jars, which takes a minute)")
        with broker.provide_broker(self.folder / "kafka") as bootstrap:
            yield f"kafka:{bootstrap}?prefix={self.folder.name}-"

    def _source(self) -> list[str]:
        if self._data:
            return ["load", str(self._data), "--pace", "rounds"]
        shop = ["simulate", "--events", str(self._events), "--seed", str(self._seed)]
        shop += ["--stocked", str(STOCKED)]
        shop += [word for group, share in PLANTED.items() for word in (f"--{group}", str(share))]
        return [*shop, "--speed", SIMULATED_SPEED, "--pace", "rounds"]

    def _demo_settings(self) -> list[str]:
        """Return the settings that the families declare for a demo."""
        source = "data" if self._data else "simulated"
        return [
            f"{kind.name}.{name}={value}"
            for kind in self._deployment.kinds
            for name, value in kind.surface.demo.get(source, {}).items()
        ]

    def _start(self, supervisor: Supervisor, spec: Spec) -> Child:
        child = supervisor.start(spec)
        self._terminal.print(f"  {child}", soft_wrap=True)
        return child

    def _watch(self, supervisor: Supervisor, producer: Child, readers: list[Child]) -> float | None:
        """Show progress until all events are published and read; return the published share of the source."""
        share, published, ended_at = None, 0.0, 0.0
        deadline = time.monotonic() + self._minutes * 60 if self._data else float("inf")
        with progress_bar(self._terminal, width=8) as progress:
            task = progress.add_task("events", total=1.0, text="")
            self._terminal.print("--pace rounds: the producer waits while a verdict of the fine-tuner is due")
            while True:
                supervisor.tend()
                found = producer.scrape() if producer.code is None else {}
                if found:
                    published = total(found, "headrace_published_events_total")
                    share = total(found, "headrace_published_ratio")
                lag, text = self._sample(readers, published)
                progress.update(task, completed=share or 0.0, text=text)
                if producer.code is not None and not ended_at:
                    ended_at = time.monotonic()
                    share = share if self._data and time.monotonic() > deadline else 1.0
                    progress.update(task, completed=share, text=text)
                elif producer.code is None and time.monotonic() > deadline:
                    producer.stop()
                    ended_at = time.monotonic()
                if ended_at and (lag == 0 or time.monotonic() - ended_at > settle_s_max):
                    return share
                time.sleep(sample_s)

    def _sample(self, readers: list[Child], published: float) -> tuple[float, str]:
        *shards, serve = (child.scrape() for child in readers)
        first = shards[0]
        learned = total(first, "headrace_events_total", result="learned")
        lag = sum(total(one, "headrace_lag_records") for one in shards)
        if not all(shards):
            lag = float("inf")  # a process that does not answer has not caught up
        self._samples.append(
            Sample(
                seconds=time.monotonic() - self._began,
                learned=learned,
                lag=total(first, "headrace_lag_records"),
                freshness=_buckets(first, "headrace_freshness_seconds_bucket"),
                serving_freshness=_buckets(serve, "headrace_freshness_seconds_bucket"),
            )
        )
        parts = [f"{learned:,.0f} learned"]
        for scraped, placement in zip(shards, self._deployment.placements.values(), strict=True):
            parts += [text for kind in placement.kinds if (text := _headline(kind, scraped))]
        return lag, ", ".join(parts)

    def _show(self, log: Log, readers: list[Child], seconds: float, share: float | None) -> None:
        facts = Facts.read(log, self._deployment)
        online = readers[0].scrape()
        learning_s = sum(
            total(online, f"headrace_{part}_duration_seconds_sum") for part in ("learn", "judge", "commit")
        )
        learned = total(online, "headrace_events_total", result="learned")
        self._terminal.print(table(facts))
        newest = {kind.name: facts.newest(kind) for kind in facts.kinds}
        of_shoppers = lines(facts.planted, newest, readers[-1].address)
        if of_shoppers:
            self._terminal.print("what was learned of shoppers and items, beside a simple rule; groups are planted:")
            self._terminal.print(shown(of_shoppers))
        self._terminal.print(
            f"{learned:,.0f} events in {seconds:.0f} s; the online consumer was busy {learning_s:.0f} s of them, "
            f"so it handled {learned / max(1e-9, learning_s):,.0f} events/s with judging, commits and snapshots"
        )
        if self._data:
            self._terminal.print(f"{(share or 0):.0%} of {self._data} was published in {self._minutes:g} minutes")
        path = self.folder / "report.html"
        write_report(facts, path, samples=self._samples, of_shoppers=of_shoppers)
        self._terminal.print(f"report: {path.resolve()}", soft_wrap=True)

    def _keep_running(self, supervisor: Supervisor, readers: list[Child], url: str, shopper: str) -> None:
        serve = readers[-1]
        spool = self.folder / "spool"
        spec = gateway(self._deployment, url, spool, free_ports=False, sets=self._demo_settings())
        self._start(supervisor, spec)
        gate = supervisor.children[-1]
        blobs = str(self.folder / "blobs")
        kept = {"people": self.folder / "people.json", "audit": self.folder / "console-audit.jsonl"}
        sets = [*self._demo_settings(), *(f"console.{name}={path}" for name, path in kept.items())]
        self._start(
            supervisor, console(self._deployment, url, blobs, free_ports=False, sets=sets, once="operate")
        )  # fmt: skip
        supervisor.wait_until_up()
        shown = supervisor.children[-1]
        routes = [
            (kind.name, route.path)
            for kind in self._deployment.kinds
            for route in kind.surface.routes
            if route.path.endswith("{shopper}")
        ]
        for text in (
            *(f"{name}: {serve.address}{path.format(shopper=quote(shopper, safe=''))}" for name, path in routes),
            *(line for line in gate.text.splitlines() if line.startswith("gateway: takes ")),
            f"health: {serve.address}/health/ready",
            f"metrics: {' '.join(f'{child.address}/metrics' for child in readers)}",
            f"status: headrace status --log {url}",
            *(line for line in shown.text.splitlines() if line.startswith("console: for one log-in: ")),
            "all processes keep running; Ctrl-C stops them",
        ):
            self._terminal.print(text, soft_wrap=True)
        try:
            while True:
                supervisor.tend()
                time.sleep(1)
        except KeyboardInterrupt:
            self._terminal.print("stopping")


def _headline(kind: type[Family], scraped: Scraped) -> str:
    """Return a family's part of the progress line, from its current metrics."""
    shown = []
    for metric, labels, text in kind.surface.headlines:
        value = total(scraped, metric, **labels)
        if value:
            shown.append(f"{text} {value:.0%}" if metric.endswith("_score") else f"{value:.0f} {text}")
    return ", ".join(shown)


def _last_shopper(log: Log) -> str:
    """Return the shopper of the newest event."""
    last = [record for place in log.partitions(EVENTS) if (record := log.last(place)) and record.key]
    return (max(last, key=lambda record: record.time_ms).key or b"").decode(errors="replace") if last else "SHOPPER"


def _buckets(scraped: Scraped, name: str) -> dict[float, float]:
    return {float(dict(labels)["le"]): value for (found, labels), value in scraped.items() if found == name}
