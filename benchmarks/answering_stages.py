"""Processor time of an answer by kind of request, and of requests that wait together.

    python -m benchmarks.answering_stages --data online_retail.csv.gz --out benchmarks/results/answering_stages.json

A shop learns the first 20,000 orders of Online Retail in this process, and has a new deep model of its items, whose
weights change no time. Queries are answered as a server answers them, from the decoded query to the answer's JSON,
without HTTP, impressions and other threads. Each kind is asked for contexts that nobody has asked about, one request at
a time and several together, in alternation; and again. The figure is the thread's processor time per request: for each
group of requests the least of the rounds, and of these the mean.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec

from benchmarks import report
from benchmarks.serve_load import events_of, learned_events
from headrace.errors import Misconfigured
from headrace.events import Event, decode
from headrace.log.protocol import Record
from headrace.process import collect_garbage_rarely
from headrace.surface import Now, Route
from learners.deep.answering import AnsweringModel
from learners.families import default_placements
from learners.next_item.family import NextItemFamily
from learners.next_item.questions import RecommendationQuery, RerankQuery
from learners.next_item.routes import ROUTES
from learners.shop import MakeShop, Shop

TOGETHER: Final = 1, 2, 4, 8
ranked: Final = 100
short_max: Final = 8
"""Most items of a short visit."""
appended_ms: Final = 2_000_000_000_000
"""Append time of all events; their own times are before it."""
RECOMMEND, RERANK = (
    next(route for route in ROUTES if route.path == path) for path in ("/v1/recommendations/{shopper}", "/v1/rerank")
)


def learned(data: Path, keep: Path | None, count: int) -> Shop:
    """Return a shop that has learned so many events. What was loaded is kept in a folder, if there is one."""
    shop = MakeShop(default_placements()["online"].kinds)()
    with TemporaryDirectory() as folder:
        for number, record in enumerate(events_of(data, keep or Path(folder))[:count]):
            event = decode(Record(0, number, appended_ms, record.key, record.value))
            if isinstance(event, Event) and shop.prepare(event):
                shop.learn(event, 0, number)
            if number % 100 == 99:
                shop.emit()
    shop.emit()
    return shop


class Asking:
    """Asks a shop.

    Attributes:
        items: those that the shop knows.
    """

    def __init__(self, shop: Shop) -> None:
        from learners.deep.model import DeepModel, DeepSettings

        self._shop = shop
        family = shop.families["next_item"]
        assert isinstance(family, NextItemFamily)
        self._family = family
        self._browsing = self._family.answering._learned.browsing
        self.items: list[str] = list(self._browsing.catalogue.items())
        model = DeepModel(DeepSettings(), seed=0)
        model.grow(self.items)
        self._model = model.to_bytes()
        self.forget()

    def forget(self) -> None:
        """Keep nothing of former answers."""
        self._family.answering.forget(())
        self._answering = AnsweringModel.from_bytes(self._model)

    def shoppers(self, fits: Callable[[int], bool]) -> list[str]:
        """Return the shoppers of whom a fitting number of items is remembered."""
        contexts, time_ms = self._browsing.contexts, self._shop.time_ms
        return [one for one in contexts._trails if fits(len(contexts.newest(one, time_ms).items))]

    def spent_s(self, asked: Sequence[tuple[Route, Any]]) -> float:
        """Return the processor time that answers to requests took, which are prepared if there are several."""
        now = Now(self._shop.time_ms, "id", self._answering, clock_s=1.0, turn=1)
        began_s = time.thread_time()
        if len(asked) > 1 and (prepare := asked[0][0].prepare):
            prepare(self._family, [(query, now) for _, query in asked])
        for route, query in asked:
            msgspec.json.encode(route.call(self._family, query, now))
        return time.thread_time() - began_s


def kinds(asking: Asking, count: int) -> dict[str, list[tuple[Route, Any]]]:
    """Return requests of each kind, each for another shopper."""
    chance = Random(0)

    def drawn(fits: Callable[[int], bool]) -> list[str]:
        known = asking.shoppers(fits)
        return chance.sample(known, min(count, len(known)))

    def recommend(shoppers: Iterable[str]) -> list[tuple[Route, Any]]:
        return [(RECOMMEND, RecommendationQuery(shopper=one, n=10)) for one in shoppers]

    def rerank(shoppers: Iterable[str]) -> list[tuple[Route, Any]]:
        return [
            (RERANK, RerankQuery(shopper=one, items=chance.sample(asking.items, ranked), n=10)) for one in shoppers
        ]  # fmt: skip

    short, long = drawn(lambda items: 1 <= items <= short_max), drawn(lambda items: items == 50)
    return {
        f"recommend 10, visits of up to {short_max} items": recommend(short),
        "recommend 10, visits of 50 items": recommend(long),
        f"re-rank {ranked}, visits of up to {short_max} items": rerank(short),
        f"re-rank {ranked}, visits of 50 items": rerank(long),
    }


def measure(asking: Asking, count: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return the microseconds of each kind: by the number of requests together, and asked for again."""
    found: dict[str, dict[str, float]] = {}
    for kind, asked in kinds(asking, count).items():
        if not asked:
            raise Misconfigured(f"{kind}: wanted shoppers with such visits, found none among those learned")
        least: dict[str, list[float]] = {}
        for _ in range(rounds):
            for together in TOGETHER:
                asking.forget()
                spent = [asking.spent_s(asked[at : at + together]) for at in range(0, len(asked), together)]
                _keep_least(least, str(together), spent)
            _keep_least(least, "again", [asking.spent_s([one]) for one in asked])
        found[kind] = {name: 1e6 * sum(spent) / len(asked) for name, spent in least.items()}
    return found


def _keep_least(least: dict[str, list[float]], name: str, spent: list[float]) -> None:
    least[name] = [min(pair) for pair in zip(least.get(name, spent), spent, strict=True)]


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("Processor time of an answer by kind of request, and of requests that wait together.")
    parser.add_argument("--data", type=Path, required=True, help="online_retail.csv.gz")
    parser.add_argument("--keep", type=Path, help="folder of `serve_load --keep`, so that nothing is loaded again")
    parser.add_argument("--events", type=int, default=learned_events, help="that the shop has learned")
    parser.add_argument("--questions", type=int, default=240, help="number of requests of each kind")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the least time counts")
    options = parser.parse_args(arguments)
    asking = Asking(learned(options.data, options.keep, options.events))
    collect_garbage_rarely()
    found = measure(asking, options.questions, options.rounds)
    report.show(
        "Processor time per request in microseconds, each context for the first time, so many requests together",
        ["request", *map(str, TOGETHER), "again"],
        [[kind, *(f"{one[name]:,.0f}" for name in (*map(str, TOGETHER), "again"))] for kind, one in found.items()],
    )
    options_of = {"events": options.events, "questions": options.questions, "rounds": options.rounds}
    report.write(options.out, {"us": found, "options": options_of})


if __name__ == "__main__":
    report.run(main)
