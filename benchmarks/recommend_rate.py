"""Speed of answers: recommendations per second on one core, of each learner and of whole answers.

    python -m benchmarks.recommend_rate --data diginetica_periods.tar.gz --out FILE

Each learner learns all periods but the last few, click by click, then answers seeded questions about the next period,
one at a time, as the server does. Learners take turns in rounds, and the processor time of each is measured, so that
other work on the machine affects all equally; only its effect on the cache remains. The blend joins the answers that
the others gave before. A whole answer is what the server computes, without HTTP: contexts, members, traits, blend and
rules, and with a new deep model its answer as well (the weights do not change the speed). The files have no names of
items, so the similarity of names is not measured.
"""

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from benchmarks import report
from benchmarks.contestants import Fast, Tuning
from benchmarks.continual import learn_traits
from benchmarks.periods import load
from benchmarks.registry import FACTORIES
from learners.deep.answering import AnsweringModel
from learners.next_item.blend import Blend
from learners.next_item.family import NextItemFamily, NextItemSettings
from learners.next_item.judgement import list_length
from learners.next_item.traits import Traits
from learners.protocol import Context, Scores, context_max, top

FAST: Final = ("popularity", "transitions", "session_knn", "revisits")
WHOLE: Final = {"whole answer": False, "whole answer, deep model": True}
"""Whole answers, and whether they are asked of a deep model, too."""
turns: Final = 10
answered: Final = 20
"""Items of a whole answer."""


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("Recommendations per second on one core.")
    report.add_data(parser)
    parser.add_argument("--periods", type=int, default=8, help="periods to learn before the questions")
    parser.add_argument("--questions", type=int, default=5_000, help="number of questions to each learner")
    parser.add_argument("--deep-items", type=int, default=5_000, help="items of the deep model, at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    periods = load(options.data)
    asked = periods.questions(options.periods)
    chosen = np.random.default_rng(options.seed).choice(len(asked), min(options.questions, len(asked)), replace=False)
    questions = [asked[row] for row in chosen.tolist()]
    learners, traits = {name: _fast(name) for name in FAST}, Traits()
    for period in range(options.periods):
        describer = learn_traits(traits, periods, period + 1)
        for learner in learners.values():
            learner.learn(periods, period, lambda share: None)
    session, time_ms = periods.started[options.periods], options.periods * 7 * 86_400_000

    def asks(name: str) -> Callable[[int], Scores]:
        predict = learners[name].learner.predict
        return lambda row: top(predict(Context(questions[row].prefix[-context_max:], 0, session, time_ms)), list_length)

    members = {name: asks(name) for name in FAST}
    member_lists = [{name: answer(row) for name, answer in members.items()} for row in range(len(questions))]
    blend = Blend(FAST)

    def blended(row: int) -> Scores:
        prefix = questions[row].prefix
        return blend.predict(member_lists[row], len(prefix), describer(prefix))

    family = _family(periods.items, learners, traits, [question.prefix for question in questions], time_ms)
    items = periods.items[: min(options.deep_items, periods.seen[options.periods])]
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # torch would take memory and cache in this process
        model = AnsweringModel.from_bytes(pool.apply(_new_model, (items,)))

    def wholly(row: int, *, deeply: bool) -> None:
        family.recommend(str(row), time_ms, answered, model if deeply else None)

    answers: dict[str, Callable[[int], object]] = {
        **members,
        "blend": blended,
        **{name: partial(wholly, deeply=deeply) for name, deeply in WHOLE.items()},
    }
    seconds = dict.fromkeys(answers, 0.0)
    for turn in range(turns):
        for name, answer in answers.items():
            seconds[name] += _timed(answer, range(turn, len(questions), turns))
    rates = {name: len(questions) / spent for name, spent in seconds.items()}
    rates["all fast and blend"] = len(questions) / sum(seconds[name] for name in (*FAST, "blend"))
    figures: dict[str, Any] = {
        "recommendations_per_s": rates,
        "options": {"periods": options.periods, "questions": len(questions), "data_sha256": periods.digest},
    }
    rows = [[name, f"{rate:,.0f}", f"{1e6 / rate:,.0f}"] for name, rate in rates.items()]
    report.show(
        f"{len(questions):,} questions after {options.periods} periods, {periods.seen[options.periods]:,} items",
        ("learner", "recommendations/s", "µs"),
        rows,
    )
    report.write(options.out, figures)


def _fast(name: str) -> Fast:
    made = FACTORIES[name](Tuning())
    assert isinstance(made, Fast)
    return made


def _family(
    items: Sequence[str], learners: Mapping[str, Fast], traits: Traits, prefixes: Sequence[Sequence[int]], time_ms: int
) -> NextItemFamily:
    """Return the family with these learners, and a shopper for each prefix, named by its number."""
    family = NextItemFamily(NextItemSettings(items_max=1 << 20), {})
    for item in items:
        family.browsing.catalogue.admit(item)
    family.browsing.members = {name: learner.learner for name, learner in learners.items()}
    family.browsing.traits = traits
    for row, prefix in enumerate(prefixes):
        for slot in prefix:
            family.browsing.contexts.push(str(row), slot, time_ms)
            family.browsing.recent.note(str(row), slot, time_ms)
    return family


def _new_model(items: Sequence[str]) -> bytes:
    from learners.deep.model import DeepModel, DeepSettings

    model = DeepModel(DeepSettings(), seed=0)
    model.grow(items)
    return model.to_bytes()


def _timed(answer: Callable[[int], object], rows: Sequence[int]) -> float:
    began = time.process_time()
    for row in rows:
        answer(row)
    return time.process_time() - began


if __name__ == "__main__":
    report.run(main)
