"""Input of the deep model: the gain from attributes in addition to the ids of a session's items (decision 10).

There is one stable simulated shop per seed, with new items at any time. A model is trained from scratch on the first
events. Then, round by round, it is tested on the next events and trained on them, with rehearsal, as in the live
system. Nothing is learned between two rounds, but the live system's catalogue admits items as they come, and they are
introduced to the model every `turn_events` events, after it has answered for these. All contestants get the same
events, questions, sessions and seeds; the item viewed last is no answer. "never trained" are questions whose answer the
catalogue knew and no round held. "seldom" are those whose answer was seen less than `seldom_max` times. An item that
comes for the first time is a miss for all.

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
from headrace.log.protocol import Record
from headrace.topics import EVENTS
from learners.deep.model import DeepModel, DeepSettings, threads
from learners.deep.train import train
from learners.next_item.attributes import AttributeLookup, ItemAttributes
from learners.next_item.browsing import Browsing
from learners.next_item.judgement import without_item
from learners.protocol import Question
from learners.rounds.training_set import TrainingSet
from producers.scenario import SimulationSettings
from producers.simulate import Simulation

k: Final = 20
seldom_max: Final = 10
turn_events: Final = 100
GROUPS: Final = ("all", "never trained", "seldom", "others")


class VisibleAttributes(NamedTuple):
    """The attributes that a contestant sees in addition to ids."""

    category: bool = False
    price: bool = False


CONTESTANTS: Final = {
    "ids": VisibleAttributes(),
    "category": VisibleAttributes(category=True),
    "category, price": VisibleAttributes(category=True, price=True),
}


class MaskedAttributes:
    """Replaces `Browsing.attributes_of`: returns attributes of items without those that a contestant must not see."""

    def __init__(self, browsing: Browsing, seen: VisibleAttributes) -> None:
        self._browsing, self._seen = browsing, seen

    def __call__(self, items: Sequence[str]) -> ItemAttributes:
        """Return the visible attributes of items."""
        areas, prices = self._browsing.attributes_of(items)
        return ItemAttributes(
            areas if self._seen.category else np.zeros_like(areas),
            prices if self._seen.price else np.full_like(prices, np.nan),
        )


def stream(events: int, seed: int, new_items: float) -> list[Event]:
    """Return the events of a stable simulated shop with new items, in event time."""
    records = Simulation(SimulationSettings(events=events, seed=seed, drifts=(), new_items=new_items)).records()
    numbered = (one for one in records if one.topic == EVENTS)
    decoded = (decode(Record(0, one.number, one.time_ms, one.key, one.value)) for one in numbered)
    return [one for one in decoded if isinstance(one, Event)]


def reciprocal_ranks(model: DeepModel, questions: Sequence[Question]) -> list[float]:
    """Return the reciprocal rank of the true item of each question, 0 if it is not among the first `k`."""
    found = []
    for answer, question in zip(model.predict([one.prefix for one in questions], k + 1), questions, strict=True):
        best = without_item(answer, question.last)[0][:k]
        found.append(1 / (1 + best.index(question.item)) if question.item in best else 0.0)
    return found


class Shop:
    """One shop: the state that the contestants' models share, and the contestants' results."""

    def __init__(self, seed: int, contestants: Sequence[str]) -> None:
        self.seed = seed
        self.browsing = Browsing(items_max=live.items_max, shoppers_max=live.shoppers_max)
        self.browsing.members = {}  # the fast learners are not used
        self.training_set = TrainingSet(
            seed=seed, holdout_share=0.0, shoppers_max=live.shoppers_max, window_max=live.window_max,
            rehearsal_max=live.rehearsal_max, slices_max=1, slice_steps_max=0,
        )  # fmt: skip
        self.describe: dict[str, AttributeLookup] = {
            name: MaskedAttributes(self.browsing, CONTESTANTS[name]) for name in contestants
        }
        self.models: dict[str, DeepModel] = {}
        self.gains: dict[str, dict[str, list[float]]] = {name: {group: [] for group in GROUPS} for name in contestants}
        self.seconds = dict.fromkeys(contestants, 0.0)
        self._met: Counter[str] = Counter()

    def learn(self, events: Sequence[Event]) -> None:
        """Add events to the catalogue and the sessions."""
        for event in events:
            if items := self.browsing.learn(event):
                context = self.browsing.contexts.context(event.shopper, event.time_ms, event.data.session_id)
                self._met.update(items)
                self.training_set.add_steps(event.shopper, context.session, items, event.time_ms)

    def train(self, number: int) -> None:
        """Run a round for each contestant; the first round is the same for all."""
        window = self.training_set.window()
        passes = live.passes if number else live.first_passes
        rehearsal = self.training_set.rehearsal.draw(
            int(live.rehearsal_share * len(window)) * passes, self.seed + number
        )
        for name, describe in self.describe.items():
            if not number and self.models:
                self.models[name] = DeepModel.from_bytes(next(iter(self.models.values())).to_bytes())
                continue
            self.models[name] = train(
                self.models.get(name), window, rehearsal=rehearsal, settings=DeepSettings(width=live.width),
                seed=self.seed + number, passes=passes, learning_rate=live.learning_rate, attributes_of=describe,
            ).model  # fmt: skip
        self.training_set.end_round()

    def ask(self, events: Sequence[Event]) -> None:
        """Test the models on events in chunks; add_late_items_to new items to the models after they answered."""
        for start in range(0, len(events), turn_events):
            part, questions, groups = events[start : start + turn_events], [], []
            for event in part:
                for step in self.browsing.steps(event):
                    if len(step.context.items) > step.context.start:
                        questions.append(self.browsing.question(step))
                        groups.append(self._group(step.item))
                self.learn([event])
            for name, model in self.models.items():
                for gain, group in zip(reciprocal_ranks(model, questions), groups, strict=True):
                    self.gains[name]["all"].append(gain)
                    if group:
                        self.gains[name][group].append(gain)
                model.add_late_items(self.browsing.catalogue.since(model.admissions_seen), self.describe[name])
                model.admissions_seen = self.browsing.catalogue.admitted

    def _group(self, item: str) -> str:
        if self.browsing.catalogue.slot(item) is None:
            return ""
        trained = next(iter(self.models.values())).trained(item)
        return "never trained" if not trained else "seldom" if self._met[item] < seldom_max else "others"

    def scores(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return Recall@20 and MRR@20 of each contestant in each group, as fractions, and the number of questions."""
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
    parser = report.parser("What the deep model gains from attributes of items.")
    parser.add_argument("--first", type=int, default=6_000, help="events of the first round")
    parser.add_argument("--events", type=int, default=2_000, help="events of each later round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, each tested on the events after it")
    parser.add_argument(
        "--new-items", type=float, default=0.3, help="items that appear later, as a share of the others"
    )
    parser.add_argument("--seeds", type=int, default=3, help="shops, one per seed")
    parser.add_argument("--seed", type=int, default=1, help="seed of the first shop")
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
    """Return the mean and spread over shops, in %."""
    columns = {metric: [100 * one[metric] for one in found] for metric in METRICS}
    return {metric: {"mean": fmean(column), "spread": pstdev(column)} for metric, column in columns.items()}


if __name__ == "__main__":
    report.run(main)
