"""Leave one out: the last item of each shopper of Amazon Beauty, in the two cuts that papers report.

The protocol: a shopper's last item is the test, the one before it the validation; each is ranked among all items of the
file but those that the shopper had before, as the sources do. Ties count against us. HR@10 is here recall@10.

What learns from what:
- Validation: the members learn each shopper's items but the last two, then answer the validation questions.
- The blend learns from these answers. Settings (`SETTINGS`) may follow from validation figures
  alone; these are first guesses.
- Test: the fast learners also learn the validation items. The deep model stays as it is; it sees the validation item in
  the prefix, as is usual. The last items are learned by nobody.

    python -m benchmarks.leave_one_out --data beauty_s3rec.txt.gz --out FILE

The two files are different cuts (`CUTS`); their figures must never stand in one column.

Source: the cuts: Sun et al., BERT4Rec (CIKM 2019) and Zhou et al., S3-Rec (CIKM 2020); seen items left out as by
Klenitskiy & Vasilev, "Turning dross into gold loss: is BERT4Rec really better than SASRec?" (RecSys 2023), and S3-Rec.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from benchmarks import report
from benchmarks.basket import beside
from benchmarks.continual import BLEND, DEEP, figures
from headrace.errors import Misconfigured
from learners.blend import Blend
from learners.judgement import listed
from learners.learner import Context, NextItem, Scores, context_max, rank
from learners.popularity import Popularity
from learners.session_knn import SessionKnn
from learners.transitions import Transitions
from producers.file import damage_told, unpacked

if TYPE_CHECKING:
    from learners.deep import DeepModel

FAST: Final[Mapping[str, Callable[[], NextItem]]] = {
    "popularity": lambda: Popularity(half_life_ms=None),
    "transitions": Transitions,
    "session_knn": SessionKnn,
}
"""The fast learners with the live system's settings; a shopper's whole history is a session."""
LEARNERS: Final = (*FAST, DEEP, BLEND)
CUTS: Final = ("bert4rec", "s3rec")
_CHUNK: Final = 256


class Training(NamedTuple):
    """How the deep model is trained on a cut: a first guess, to be improved by validation figures and by no others."""

    width: int = 64
    dropout: float = 0.3
    passes: int = 8
    learning_rate: float = 2e-3


SETTINGS: Final[Mapping[str, Training]] = {"bert4rec": Training(), "s3rec": Training()}


class Question(NamedTuple):
    """A shopper's number, items so far (oldest first) and the item that came, as slots."""

    shopper: int
    prefix: Sequence[int]
    item: int


class Histories:
    """Each shopper's items as slots, oldest first; slots by first appearance. `items` has each slot's name."""

    def __init__(self, histories: Sequence[Sequence[str]]) -> None:
        slots: dict[str, int] = {}
        self.shoppers = [[slots.setdefault(item, len(slots)) for item in history] for history in histories]
        self.items = list(slots)

    def questions(self, last: int) -> list[Question]:
        """Return the question for the last item but `last` of each shopper with at least three."""
        return [
            Question(shopper, items[: len(items) - 1 - last], items[len(items) - 1 - last])
            for shopper, items in enumerate(self.shoppers)
            if len(items) > 2
        ]


def load(path: Path) -> tuple[str, Histories]:
    """Return which cut a file is, and its histories.

    Lines of two columns are `user item` (BERT4Rec's cut), longer ones `user item item …` (S3-Rec's).

    Raises:
        Misconfigured: the file is missing or damaged, or a line is neither.
    """
    if not path.is_file():
        raise Misconfigured(f"--data {path}: there is no such file")
    with path.open("rb") as raw, damage_told(path), unpacked(raw) as file:
        lines = [line.split() for line in file.read().decode().splitlines()]
    if not lines or min(map(len, lines)) < 2:
        raise Misconfigured(f"--data {path}: wanted lines `user item` or `user item item …`")
    histories: dict[str, list[str]] = {}
    for user, *items in lines:
        histories.setdefault(user, []).extend(items)
    return CUTS[max(map(len, lines)) > 2], Histories(list(histories.values()))


class Fast:
    """A fast learner; a shopper's number is the session's."""

    def __init__(self, make: Callable[[], NextItem]) -> None:
        self.learner = make()

    def learn(self, question: Question) -> None:
        """Learn the item of a question."""
        self.learner.learn(Context(question.prefix[-context_max:], 0, question.shopper, 0), question.item)

    def learn_history(self, shopper: int, items: Sequence[int]) -> None:
        """Learn items in order."""
        for place, item in enumerate(items):
            self.learn(Question(shopper, items[:place], item))

    def answer(self, questions: Sequence[Question]) -> Iterator[Scores]:
        """Yield the candidates for each question, less the shopper's own items."""
        for shopper, prefix, _ in questions:
            scores = self.learner.predict(Context(prefix[-context_max:], 0, shopper, 0))
            yield beside(scores, prefix)


def deep_answers(model: "DeepModel", histories: Histories, questions: Sequence[Question]) -> Iterator[Scores]:
    """Yield the deep model's best candidates for each question, less the shopper's own items."""
    slot_of = {item: slot for slot, item in enumerate(histories.items)}
    slots = np.array([slot_of[item] for item in model.items], np.int32)
    for start in range(0, len(questions), _CHUNK):
        part = questions[start : start + _CHUNK]
        scores = model.score_all([[histories.items[item] for item in question.prefix] for question in part])
        for row, question in zip(scores, part, strict=True):
            row[np.isin(slots, question.prefix)] = 0
            best = np.argpartition(-row, min(listed, len(row) - 1))[:listed]
            best = best[row[best] > 0]
            yield Scores(slots[best], row[best])


def train(histories: Histories, settings: Training, seed: int, progress: Callable[[float], None]) -> "DeepModel":
    """Train the deep model on each shopper's items but the last two."""
    from learners import finetune
    from learners.deep import DeepSettings, threads

    with threads(1):  # what the bits of a model depend on
        return finetune.train(
            None,
            [[histories.items[item] for item in items[:-2]] for items in histories.shoppers],
            settings=DeepSettings(width=settings.width, dropout=settings.dropout),
            seed=seed,
            passes=settings.passes,
            learning_rate=settings.learning_rate,
            progress=progress,
        ).model


def run(
    histories: Histories,
    learners: Sequence[str],
    settings: Training,
    *,
    seed: int = 0,
    progress: Callable[[str, float], None] = lambda step, share: None,
) -> dict[str, Any]:
    """Run the protocol and return the figures of both parts.

    Args:
        learners: names; the blend has the others that are named.
        seed: of the deep model and the blend.
    """
    members = [name for name in learners if name != BLEND]
    fast = {name: Fast(FAST[name]) for name in members if name in FAST}
    seconds = dict.fromkeys(members, 0.0)
    for name, member in fast.items():
        began = time.perf_counter()
        for shopper, items in enumerate(histories.shoppers):
            member.learn_history(shopper, items[:-2] if len(items) > 2 else items)
        seconds[name] += time.perf_counter() - began
    if DEEP in members:
        began = time.perf_counter()
        model = train(histories, settings, seed, lambda share: progress("training", share))
        seconds[DEEP] += time.perf_counter() - began

    blend = Blend(members, seed=seed)
    found: dict[str, dict[str, Any]] = {}
    for part, last in (("validation", 1), ("test", 0)):
        questions = histories.questions(last)
        answers: dict[str, list[Scores]] = {}
        for name in members:
            progress(f"{part}: {name}", 0.0)
            began = time.perf_counter()
            given = deep_answers(model, histories, questions) if name == DEEP else fast[name].answer(questions)
            answers[name] = list(given)
            seconds[name] += time.perf_counter() - began
        ranks = {name: _ranks(answers[name], histories, questions) for name in members}
        rows = [{name: answers[name][row] for name in members} for row in range(len(questions))]
        if BLEND in learners:
            # On the validation part this is the blend before it learned: it must not be asked what it was told.
            blended = [blend.predict(row, len(question.prefix)) for row, question in zip(rows, questions, strict=True)]
            ranks[BLEND] = _ranks(blended, histories, questions)
        found[part] = {name: figures(np.array(of)) for name, of in ranks.items()}
        if part == "validation":
            order = np.random.default_rng(seed).permutation(len(questions)).tolist()
            for row in order:
                blend.learn(rows[row], len(questions[row].prefix), questions[row].item)
                for member in fast.values():
                    member.learn(questions[row])
    return {**found, "seconds": seconds, "shoppers": len(histories.shoppers), "items": len(histories.items)}


def _ranks(answers: Sequence[Scores], histories: Histories, questions: Sequence[Question]) -> list[int]:
    """Return the rank of each true item among all items that the shopper did not have."""
    return [
        rank(scores, question.item, len(histories.items) - len(set(question.prefix)) - 1)
        for scores, question in zip(answers, questions, strict=True)
    ]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.parser("The last item of each shopper of Amazon Beauty")
    parser.add_argument("--data", type=Path, required=True, action="append", help="a cut's file; may be given twice")
    parser.add_argument("--learners", default=",".join(LEARNERS), help="names, separated by commas")
    parser.add_argument("--seed", type=int, default=0, help="of the deep model and the blend")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None) -> None:
    """Run from the command line."""
    from rich.console import Console
    from rich.progress import Progress

    options = _options(arguments)
    names = report.names(options.learners, LEARNERS)
    results: dict[str, Any] = {}
    for path in options.data:
        cut, histories = load(path)
        with Progress(console=Console(stderr=True)) as shown:
            task = shown.add_task(cut, total=1.0)

            def tick(step: str, share: float, shown: Progress = shown, task: Any = task, cut: str = cut) -> None:
                shown.update(task, completed=share, description=f"{cut}, {step}")

            results[cut] = run(histories, names, SETTINGS[cut], seed=options.seed, progress=tick)
        results[cut]["settings"] = SETTINGS[cut]._asdict()
        show(cut, results[cut], names)
    report.write(options.out, {"cuts": results, "options": {"learners": names, "seed": options.seed}})


def show(cut: str, result: Mapping[str, Any], names: Sequence[str]) -> None:
    """Print the scores at 10 on both parts."""
    columns = [(part, score) for part in ("test", "validation") for score in ("recall@10", "ndcg@10", "mrr@10")]
    report.show(
        f"Amazon Beauty, {cut}'s cut, in % ({result['shoppers']:,} shoppers, {result['items']:,} items)",
        ["learner", *(f"{part} {score.replace('recall', 'HR').upper()}" for part, score in columns), "s"],
        [
            [
                name,
                *(f"{100 * result[part][name][score]:.2f}" for part, score in columns),
                f"{result['seconds'].get(name, 0.0):.0f}",
            ]
            for name in names
        ],
    )


if __name__ == "__main__":
    report.run(main)
