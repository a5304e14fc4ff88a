"""What should the deep model know beside the ids of a session's items? The evidence for decision 10.

One stable simulated shop per seed, into which new items come all the time. A model is trained from nothing on the first
events; then, round by round, it is asked about the next events and trained on them, with rehearsal, as the live system
does. Nothing is learned between two rounds, but the live system's catalogue admits items as they come, and the model is
told of them every `turn_events` events, after it has answered for these. Everyone gets the same events, questions,
sessions and seeds; the item just looked at is no answer. "never trained" are questions whose answer the catalogue knew
and no round held; "seldom" those whose answer was met less than `seldom_max` times; an item that comes for the first
time is a miss for everyone.

    python -m benchmarks.inputs --seeds 3 --out benchmarks/results/inputs.json
"""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Any, Final, NamedTuple

import numpy as np
from rich.progress import Progress

from benchmarks import report
from benchmarks.contestants import live
from headrace.errors import Misconfigured
from headrace.events import Event, decode
from headrace.log import Record
from headrace.topics import EVENTS
from learners.browsing import Browsing, Question
from learners.deep import DeepModel, DeepSettings, threads
from learners.finetune import train
from learners.judgement import without
from learners.material import Material
from learners.wares import Describe, Described
from producers.scenario import ShopSettings
from producers.simulate import Simulation

k: Final = 20
seldom_max: Final = 10
turn_events: Final = 100
GROUPS: Final = ("all", "never trained", "seldom", "others")


class Seen(NamedTuple):
    """What a contestant sees beside ids."""

    area: bool = False
    price: bool = False


CONTESTANTS: Final = {
    "ids": Seen(),
    "category": Seen(area=True),
    "category, price": Seen(area=True, price=True),
}


class Masked:
    """What a catalogue tells of items, less what a contestant does not see; it stands for `Browsing.known_of`."""

    def __init__(self, browsing: Browsing, seen: Seen) -> None:
        self._browsing, self._seen = browsing, seen

    def __call__(self, items: Sequence[str]) -> Described:
        """Return what is known of items."""
        areas, prices = self._browsing.known_of(items)
        return Described(
            areas if self._seen.area else np.zeros_like(areas),
            prices if self._seen.price else np.full_like(prices, np.nan),
        )


def stream(events: int, seed: int, new_items: float) -> list[Event]:
    """Return the events of a stable simulated shop with new items, in event time."""
    records = Simulation(ShopSettings(events=events, seed=seed, drifts=(), new_items=new_items)).records()
    numbered = (one for one in records if one.topic == EVENTS)
    decoded = (decode(Record(0, one.number, one.time_ms, one.key, one.value)) for one in numbered)
    return [one for one in decoded if isinstance(one, Event)]


def gains(model: DeepModel, questions: Sequence[Question]) -> list[float]:
    """Return one over the rank of what came for each question, 0 where it is not among the first `k`."""
    found = []
    for answer, question in zip(model.predict([one.prefix for one in questions], k + 1), questions, strict=True):
        best = without(answer, question.last)[0][:k]
        found.append(1 / (1 + best.index(question.item)) if question.item in best else 0.0)
    return found


class Shop:
    """One shop, what the contestants' models have in common, and how they did."""

    def __init__(self, seed: int, contestants: Sequence[str]) -> None:
        self.seed = seed
        self.browsing = Browsing(items_max=live.items_max, shoppers_max=live.shoppers_max)
        self.browsing.members = {}  # nobody asks the fast learners
        self.material = Material(
            seed=seed, holdout_share=0.0, shoppers_max=live.shoppers_max, window_max=live.window_max,
            rehearsal_max=live.rehearsal_max, slices_max=1, slice_steps_max=0,
        )  # fmt: skip
        self.describe: dict[str, Describe] = {name: Masked(self.browsing, CONTESTANTS[name]) for name in contestants}
        self.models: dict[str, DeepModel] = {}
        self.gains: dict[str, dict[str, list[float]]] = {name: {group: [] for group in GROUPS} for name in contestants}
        self.seconds = dict.fromkeys(contestants, 0.0)
        self._met: Counter[str] = Counter()

    def learn(self, events: Sequence[Event]) -> None:
        """Let the catalogue and the sessions grow."""
        for event in events:
            if items := self.browsing.learn(event):
                context = self.browsing.contexts.context(event.shopper, event.time_ms, event.data.session_id)
                self._met.update(items)
                self.material.follow(event.shopper, context.session, items, event.time_ms)

    def train(self, number: int) -> None:
        """Run a round for each; the first one is the same for all."""
        window, passes = self.material.window(), live.passes if number else live.first_passes
        rehearsal = self.material.rehearsal.draw(int(live.rehearsal_share * len(window)) * passes, self.seed + number)
        for name, describe in self.describe.items():
            if not number and self.models:
                self.models[name] = DeepModel.from_bytes(next(iter(self.models.values())).to_bytes())
                continue
            self.models[name] = train(
                self.models.get(name), window, rehearsal=rehearsal, settings=DeepSettings(width=live.width),
                seed=self.seed + number, passes=passes, learning_rate=live.learning_rate, describe=describe,
            ).model  # fmt: skip
        self.material.turn()

    def ask(self, events: Sequence[Event]) -> None:
        """Ask about events, some at a time; tell the models of new items after they answered."""
        for start in range(0, len(events), turn_events):
            part, questions, groups = events[start : start + turn_events], [], []
            for event in part:
                for step in self.browsing.steps(event):
                    if len(step.context.items) > step.context.start:
                        questions.append(self.browsing.question(step))
                        groups.append(self._group(step.item))
                self.learn([event])
            for name, model in self.models.items():
                for gain, group in zip(gains(model, questions), groups, strict=True):
                    self.gains[name]["all"].append(gain)
                    if group:
                        self.gains[name][group].append(gain)
                model.meet(self.browsing.catalogue.since(model.met), self.describe[name])
                model.met = self.browsing.catalogue.admitted

    def _group(self, item: str) -> str:
        if self.browsing.catalogue.slot(item) is None:
            return ""
        trained = next(iter(self.models.values())).trained(item)
        return "never trained" if not trained else "seldom" if self._met[item] < seldom_max else "others"

    def scores(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return Recall@20 and MRR@20 of each contestant in each group, as fractions, and the questions."""
        return {
            name: {
                group: {"recall@20": fmean(gain > 0 for gain in found), "mrr@20": fmean(found), "asked": len(found)}
                for group, found in groups.items()
            }
            for name, groups in self.gains.items()
        }


def run(
    seed: int, *, first: int, events: int, rounds: int, new_items: float, contestants: Sequence[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """Return each contestant's scores on one shop."""
    everything = stream(first + rounds * events, seed, new_items)
    shop = Shop(seed, contestants)
    shop.learn(everything[:first])
    for number in range(rounds):
        shop.train(number)
        shop.ask(everything[first + number * events : first + (number + 1) * events])
    return shop.scores()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = report.parser("What should the deep model know beside item ids?")
    parser.add_argument("--first", type=int, default=6_000, help="events of the first round")
    parser.add_argument("--events", type=int, default=2_000, help="events of each later round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, each asked about the events after it")
    parser.add_argument("--new-items", type=float, default=0.3, help="items that come later, as a share of the others")
    parser.add_argument("--seeds", type=int, default=3, help="shops, one per seed")
    parser.add_argument("--seed", type=int, default=1, help="of the first shop")
    parser.add_argument("--contestants", default=";".join(CONTESTANTS), help="names, separated by semicolons")
    options = parser.parse_args(arguments)
    if min(options.first, options.events, options.rounds, options.seeds) < 1:
        raise Misconfigured("wanted --first, --events, --rounds and --seeds of at least 1")
    if unknown := [name for name in options.contestants.split(";") if name not in CONTESTANTS]:
        raise Misconfigured(f"--contestants: wanted some of {'; '.join(CONTESTANTS)}, found {unknown[0]!r}")
    about = {name: getattr(options, name) for name in ("first", "events", "rounds", "new_items")}
    names = options.contestants.split(";")
    runs = []
    with threads(1), Progress() as progress:
        for seed in progress.track(range(options.seeds), description="shops"):
            runs.append(run(options.seed + seed, contestants=names, **about))
    mean = {name: {group: _mean([one[name][group] for one in runs]) for group in GROUPS} for name in names}
    rows = [
        [name, *(f"{found[metric]['mean']:.1f}" for found in groups.values() for metric in METRICS)]
        for name, groups in mean.items()
    ]
    columns = [f"{group} {metric}" for group in GROUPS for metric in ("R", "MRR")]
    report.show(f"Recall@20 and MRR@20 in %, mean of {options.seeds} shops", ["", *columns], rows)
    report.write(options.out, {"shops": runs, "mean": mean, "options": about | {"seed": options.seed}})


METRICS: Final = ("recall@20", "mrr@20")


def _mean(found: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return mean and spread over shops, in %."""
    columns = {metric: [100 * one[metric] for one in found] for metric in METRICS}
    return {metric: {"mean": fmean(column), "spread": pstdev(column)} for metric, column in columns.items()}


if __name__ == "__main__":
    report.run(main)
