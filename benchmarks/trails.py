"""Sessions or trails: one session, or all items of a shopper, as training sequences of the deep model (decision 3).

There is one stable simulated shop per seed. The deep model is trained from scratch on the first events, once on
sessions and once on trails (all items of a shopper, as far as contexts remember), with equal settings and passes. It is
then tested on the steps that follow, with inputs of the same kind: the session's items, or the trail. Shop, events and
questions are the same for both, and for popularity and session-kNN, which learned the same events. No learner learns
during the test, and the item viewed last is no answer, as in the live system.

    python -m benchmarks.trails --seeds 5 --out benchmarks/results/trails.json
"""

from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Final

from rich.progress import track

from benchmarks import report
from headrace.errors import Misconfigured
from headrace.events import Event, decode
from headrace.log.protocol import Record
from headrace.topics import EVENTS
from learners.deep.model import DeepModel, threads
from learners.deep.train import train
from learners.next_item.browsing import Browsing
from learners.next_item.judgement import without_item
from learners.protocol import Listed, Question
from producers.scenario import SimulationSettings
from producers.simulate import Simulation

k: Final = 20
passes: Final = 10
learning_rate: Final = 3e-3
asked_batch: Final = 256
FAST: Final = ("popularity", "session_knn")
SEQUENCES: Final = ("sessions", "trails")


class QuestionSet:
    """The questions after a shop's first events, and the fast learners' answers.

    `sequences` holds the training sequences of the deep model, by kind; `questions` each step's question by session,
    and `trails` the same steps' whole contexts.
    """

    def __init__(self, learned: Sequence[Event], asked: Sequence[Event]) -> None:
        browsing = Browsing(items_max=100_000, shoppers_max=100_000)
        sessions: dict[int, list[str]] = {}
        trails: dict[str, list[str]] = {}
        for event in learned:
            if items := browsing.learn(event):
                context = browsing.contexts.context(event.shopper, event.time_ms, event.data.session_id)
                sessions.setdefault(context.session, []).extend(items)
                trails.setdefault(event.shopper, []).extend(items)
        self.sequences = {"sessions": list(sessions.values()), "trails": list(trails.values())}
        self.questions: list[Question] = []
        self.trails: list[list[str]] = []
        self.fast: list[dict[str, Listed]] = []
        for event in asked:
            for step in browsing.steps(event):
                if len(step.context.items) > step.context.start:  # a question needs a session that has begun
                    self.questions.append(browsing.question(step))
                    self.trails.append(browsing.ids(step.context.items))
                    self.fast.append(browsing.lists(step.context))
            # Contexts are updated, learners are not: no learner learns from the test.
            for item in (step.item for step in browsing.steps(event)):
                slot = browsing.catalogue.admit(item)
                browsing.contexts.push(event.shopper, slot, event.time_ms, event.data.session_id)


def stream(events: int, seed: int) -> list[Event]:
    """Return the events of a stable simulated shop, in event time."""
    records = Simulation(SimulationSettings(events=events, seed=seed, drifts=())).records()
    numbered = [one for one in records if one.topic == EVENTS]
    decoded = (decode(Record(0, one.number, one.time_ms, one.key, one.value)) for one in numbered)
    return [one for one in decoded if isinstance(one, Event)]


def scores(answers: Sequence[Listed], questions: Sequence[Question]) -> dict[str, float]:
    """Return Recall@20 and MRR@20, as fractions."""
    gains = []
    for (items, _), question in zip(answers, questions, strict=True):
        best = items[:k]
        gains.append(1 / (1 + best.index(question.item)) if question.item in best else 0.0)
    return {"recall@20": fmean(gain > 0 for gain in gains), "mrr@20": fmean(gains)}


def answers(model: DeepModel, prefixes: Sequence[list[str]], questions: Sequence[Question]) -> list[Listed]:
    """Return the model's answers without the item viewed last."""
    found: list[Listed] = []
    for start in range(0, len(prefixes), asked_batch):
        found += model.predict(prefixes[start : start + asked_batch], k + 1)
    return [without_item(answer, question.last) for answer, question in zip(found, questions, strict=True)]


def run(events: int, asked: int, seed: int) -> dict[str, dict[str, float]]:
    """Return each contestant's scores on one shop."""
    everything = stream(events + asked, seed)
    what = QuestionSet(everything[:events], everything[events:])
    found = {name: scores([lists[name] for lists in what.fast], what.questions) for name in FAST}
    for kind in SEQUENCES:
        prefixes = [question.prefix for question in what.questions] if kind == "sessions" else what.trails
        model = train(None, what.sequences[kind], seed=seed, passes=passes, learning_rate=learning_rate).model
        found[f"deep on {kind}"] = scores(answers(model, prefixes, what.questions), what.questions)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = report.parser("Sessions or trails as training sequences of the deep model.")
    parser.add_argument("--events", type=int, default=36_000, help="events learned from")
    parser.add_argument("--asked", type=int, default=4_000, help="events of the test")
    parser.add_argument("--seeds", type=int, default=5, help="shops, one per seed")
    options = parser.parse_args(arguments)
    if min(options.events, options.asked, options.seeds) < 1:
        raise Misconfigured("wanted --events, --asked and --seeds of at least 1")
    with threads(1):
        runs = [run(options.events, options.asked, 1 + seed) for seed in track(range(options.seeds), "shops")]
    rows, mean = [], {}
    for name in runs[0]:
        values = {metric: [one[name][metric] for one in runs] for metric in runs[0][name]}
        mean[name] = {metric: {"mean": fmean(column), "spread": pstdev(column)} for metric, column in values.items()}
        rows.append([name, *(f"{100 * of['mean']:.1f} ± {100 * of['spread']:.1f}" for of in mean[name].values())])
    report.show(f"Mean and spread of {options.seeds} shops, in %", ["", "recall@20", "MRR@20"], rows)
    about = {"events": options.events, "asked": options.asked, "passes": passes, "learning_rate": learning_rate}
    report.write(options.out, {"shops": runs, "mean": mean, "options": about})


if __name__ == "__main__":
    report.run(main)
