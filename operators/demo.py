"""The demo: the whole road in a few minutes, by the commands that a person would type.

Producer, online consumer, fine-tuner and server are processes of their own. What is shown at the end is read from
topics and from `/metrics`; nothing is computed beside them.
"""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from headrace import broker
from headrace.errors import Misconfigured
from headrace.log import Log, open_log
from headrace.topics import EVENTS, partitions_of
from operators.child import Child, Scraped, total
from operators.facts import Facts, Sample
from operators.report import table, write_report

simulated_events: Final = 60_000
settle_s_max: Final = 40.0
"""After the last event: how long the readers may take to catch up."""
sample_s: Final = 1.0
SIMULATED_SPEED: Final = "40000x"
"""Four weeks in a minute, and the waits for verdicts on top: about 1,000 events/s, so that learning keeps up."""
SIMULATED_ROUNDS: Final = ("--round-events", "12000", "--gate-events-max", "8000", "--train-s-max", "40")
DATA_ROUNDS: Final = ("--round-events", "5000", "--gate-events-max", "3000", "--train-s-max", "30")


class Demo:
    """One run. `minutes` bounds how long a real file is read; a simulated shop runs to its end."""

    def __init__(
        self,
        console: Console,
        *,
        data: Path | None,
        kafka: bool,
        keep: bool,
        events: int | None,
        seed: int,
        minutes: float,
        folder: Path | None,
    ) -> None:
        if data is not None and not data.exists():
            raise Misconfigured(f"--data {data}: there is no such file or folder")
        self._console, self._data, self._kafka, self._keep = console, data, kafka, keep
        self._events, self._seed, self._minutes = events or simulated_events, seed, minutes
        self.folder = folder or Path(f"demo-{datetime.now():%Y%m%d-%H%M%S}")
        self._samples: list[Sample] = []
        self._began = time.monotonic()

    def run(self) -> None:
        """Run all processes, then show what they did. However it ends, by a signal too, they end with it.

        Raises:
            BrokenWorld: a process died; its log says why.
        """
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Misconfigured(f"--folder {self.folder}: wanted a folder, found {error}") from error
        with ExitStack() as stack:
            url = stack.enter_context(self._log_url())
            common = ["--log", url]
            state = ["--blobs", str(self.folder / "blobs"), "--metrics-port", "0"]
            rounds = DATA_ROUNDS if self._data else SIMULATED_ROUNDS
            self._console.print("running, as you would by hand:")
            readers = [
                self._start(stack, "online", ["online", *common, *state]),
                self._start(stack, "finetune", ["finetune", *common, *state, *rounds]),
                self._start(stack, "serve", ["serve", *common, *state[:2], "--port", "0"]),
            ]
            for child in readers:
                child.await_up()
            producer = self._start(stack, "producer", [*self._source(), *common, "--metrics-port", "0"])
            producer.await_up()
            began = time.monotonic()
            share = self._watch(producer, readers)
            seconds = time.monotonic() - began
            log = open_log(url)
            stack.callback(log.close)
            self._show(log, readers, seconds, share)
            if self._keep:
                self._stay(readers, url, _last_shopper(log))

    @contextmanager
    def _log_url(self) -> Iterator[str]:
        if not self._kafka:
            yield f"sqlite:{self.folder / 'log.db'}"
            return
        self._console.print("starting a Kafka broker (the first time its jars are fetched, which takes a minute)")
        with broker.provided(self.folder / "kafka") as bootstrap:
            yield f"kafka:{bootstrap}?prefix={self.folder.name}-"

    def _source(self) -> list[str]:
        if self._data:
            return ["load", str(self._data), "--pace", "rounds"]
        shop = ["simulate", "--events", str(self._events), "--seed", str(self._seed)]
        return [*shop, "--speed", SIMULATED_SPEED, "--pace", "rounds"]

    def _start(self, stack: ExitStack, name: str, arguments: list[str]) -> Child:
        child = Child(name, arguments, self.folder)
        stack.callback(child.stop)
        self._console.print(f"  {child}", soft_wrap=True, highlight=False)
        return child

    def _watch(self, producer: Child, readers: list[Child]) -> float | None:
        """Show progress until everything was published and read; return the share of the source that was."""
        share, published, ended_at = None, 0.0, 0.0
        deadline = time.monotonic() + self._minutes * 60 if self._data else float("inf")
        texts = TextColumn("{task.description}"), TextColumn("{task.fields[said]}")
        columns = texts[0], BarColumn(8), texts[1], TimeElapsedColumn()
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task("events", total=1.0, said="")
            self._console.print("--pace rounds: the producer waits whenever the fine-tuner owes a verdict")
            while True:
                for child in (producer, *readers):
                    child.check()
                found = producer.scrape() if producer.code is None else {}
                if found:
                    published = total(found, "headrace_published_events_total")
                    share = total(found, "headrace_published_ratio")
                lag, said = self._sample(readers, published)
                progress.update(task, completed=share or 0.0, said=said)
                if producer.code is not None and not ended_at:
                    ended_at = time.monotonic()
                    share = share if self._data and time.monotonic() > deadline else 1.0
                    progress.update(task, completed=share, said=said)
                elif producer.code is None and time.monotonic() > deadline:
                    producer.stop()
                    ended_at = time.monotonic()
                if ended_at and (lag == 0 or time.monotonic() - ended_at > settle_s_max):
                    return share
                time.sleep(sample_s)

    def _sample(self, readers: list[Child], published: float) -> tuple[float, str]:
        online, finetune, serve = (child.scrape() for child in readers)
        learned = total(online, "headrace_events_total", result="learned")
        lag = total(online, "headrace_lag_records") + total(finetune, "headrace_lag_records")
        promoted = total(finetune, "headrace_rounds_total", outcome="promoted")
        refused = total(finetune, "headrace_rounds_total", outcome="refused")
        recall = total(online, "headrace_prequential_score", learner="blend", metric="recall", k="20", window="recent")
        if not online or not finetune:
            lag = float("inf")  # a process that does not answer has not caught up
        self._samples.append(
            Sample(
                seconds=time.monotonic() - self._began,
                learned=learned,
                lag=total(online, "headrace_lag_records"),
                freshness=_buckets(online, "headrace_freshness_seconds_bucket"),
                serving_freshness=_buckets(serve, "headrace_freshness_seconds_bucket"),
            )
        )
        said = f"{learned:,.0f} learned, {promoted:.0f} promoted, {refused:.0f} refused"
        return lag, said + (f", recall@20 now {recall:.0%}" if recall else "")

    def _show(self, log: Log, readers: list[Child], seconds: float, share: float | None) -> None:
        facts = Facts.read(log)
        online = readers[0].scrape()
        learning_s = sum(
            total(online, f"headrace_{part}_duration_seconds_sum") for part in ("learn", "judge", "commit")
        )
        learned = total(online, "headrace_events_total", result="learned")
        self._console.print(table(facts))
        self._console.print(
            f"{learned:,.0f} events in {seconds:.0f} s; the online consumer was busy {learning_s:.0f} s of them, "
            f"so it handled {learned / max(1e-9, learning_s):,.0f} events/s with judging, commits and snapshots"
        )
        if self._data:
            self._console.print(f"{(share or 0):.0%} of {self._data} fitted into {self._minutes:g} minutes")
        path = self.folder / "report.html"
        write_report(facts, path, samples=self._samples)
        self._console.print(f"report: {path.resolve()}", soft_wrap=True)

    def _stay(self, readers: list[Child], url: str, shopper: str) -> None:
        online, finetune, serve = readers
        for text in (
            f"recommendations: {serve.address}/v1/recommendations/{quote(shopper, safe='')}?n=10",
            f"health: {serve.address}/health/ready",
            f"metrics: {online.address}/metrics {finetune.address}/metrics {serve.address}/metrics",
            f"status: headrace status --log {url}",
            "everything stays up; Ctrl-C ends it",
        ):
            self._console.print(text, soft_wrap=True)
        try:
            while True:
                for child in readers:
                    child.check()
                time.sleep(1)
        except KeyboardInterrupt:
            self._console.print("ending")


def _last_shopper(log: Log) -> str:
    """Return one of the shoppers who came last."""
    last = [record for place in partitions_of(EVENTS) if (record := log.last(place)) and record.key]
    return (max(last, key=lambda record: record.time_ms).key or b"").decode(errors="replace") if last else "SHOPPER"


def _buckets(scraped: Scraped, name: str) -> dict[float, float]:
    return {float(dict(labels)["le"]): value for (found, labels), value in scraped.items() if found == name}
