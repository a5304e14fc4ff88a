"""Leave-one-out test on the last item of each shopper of Amazon Beauty, in the two cuts that papers report.

The protocol: a shopper's last item is the test, the one before it the validation. Each is ranked among all items of the
file except those that the shopper had before, as in the sources. Ties count against the learner. HR@10 equals recall@10
here.

Training data of each part:
- validation: the members learned each shopper's items except the last two. The blend answers each question, in
  random order, before it learns from it; it learns from nothing else.
- test, as published: the same members answer on the last item, with the validation item in the prefix, as in the
  sources.
- test: the members learned each shopper's items except the last, as a live system would have; the deep model by one
  more round, as in the live system. The blend is the same. The last items are never learned.

    python -m benchmarks.leave_one_out --data beauty_s3rec.txt.gz --data beauty_bert4rec.txt.gz --out FILE

The two files are different cuts (`CUTS`); their figures must not be compared.

The learners are those of the live system. A shopper's whole history is one session, and there is no clock: counts do
not decay. No shopper gets an item that they had before, so there is no `revisits`.

Settings were chosen by validation figures alone, on 6,000 to 8,000 seeded shoppers of a cut (HR@10 / NDCG@10 in %,
standard errors about 0.4 / 0.25, less between settings on the same shoppers):
- transitions, S3-Rec's cut: as live, but without half-life, 9.95 / 6.37; a reach of 10 or 50 changed nothing; a doubt
  of 20 gave 10.27 / 6.44. On other shoppers: a doubt of 20 10.75 / 6.84, of 60, with 0.25 backwards, 11.16 / 7.05.
  BERT4Rec's cut: the same two 6.83 / 4.40 and 7.04 / 4.53. More doubt gives more weight to items with many counts.
- session_knn, S3-Rec's cut: as live 10.15 / 6.24, now 10.62 / 6.42; with k 500, candidates_max 5000 10.55 / 6.33.
- deep, S3-Rec's cut: width 64 gave 10.55 / 5.87 after 12 passes, width 128 10.68 / 6.18. BERT4Rec's cut: width 64 gave
  5.53 / 3.10 after 4 of 20 passes, 6.17 / 3.59 after 8 and 6.62 / 3.76 after 14, where it was stopped, width 128 5.85 /
  3.19 after 4 of 8 and 6.25 / 3.57 after all. More passes would still help there. The round before the test has the
  live settings.

Source: the cuts: Sun et al., BERT4Rec (CIKM 2019) and Zhou et al., S3-Rec (CIKM 2020); seen items are left out as in
Klenitskiy & Vasilev, "Turning dross into gold loss: is BERT4Rec really better than SASRec?" (RecSys 2023), and S3-Rec.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from benchmarks import report
from benchmarks.basket import without_items
from benchmarks.contestants import live
from benchmarks.continual import BLEND, figures
from benchmarks.registry import DEEP
from headrace.errors import Misconfigured
from learners.next_item.blend import Blend, TraitLookup
from learners.next_item.judgement import list_length
from learners.next_item.popularity import Popularity
from learners.next_item.session_knn import SessionKnn
from learners.next_item.traits import Traits
from learners.next_item.transitions import Transitions
from learners.protocol import Context, NextItem, Scores, context_max, rank
from producers.file import decompressed, translated_damage

if TYPE_CHECKING:
    from learners.deep.model import DeepModel

FAST: Final[Mapping[str, Callable[[], NextItem]]] = {
    "popularity": lambda: Popularity(half_life_ms=None),
    "transitions": lambda: Transitions(
        reach=10, step_back=0.7, backwards=0.25, smoothing=60.0, half_life_ms=None, companions_max=1000
    ),
    "session_knn": lambda: SessionKnn(k=200, candidates_max=2000, prefix_max=50, session_items_max=50),
}
"""The fast learners with settings for whole histories: they look further back and drop less than for sessions."""
LEARNERS: Final = (*FAST, DEEP, BLEND)
CUTS: Final = ("bert4rec", "s3rec")
PUBLISHED: Final[Mapping[str, Mapping[str, tuple[float, float]]]] = {
    "bert4rec": {"SASRec, full cross-entropy (Klenitskiy & Vasilev 2023)": (0.0533, 0.0327)},
    "s3rec": {"S3-Rec (Zhou et al. 2020)": (0.065, 0.033), "co-occurrence (our aim's reference)": (0.069, 0.042)},
}
"""Published HR@10 and NDCG@10 on the test items of each cut."""
VALIDATION, AS_PUBLISHED, TEST = PARTS = ("validation", "test, as published", "test")
_CHUNK: Final = 256


class Training(NamedTuple):
    """Settings of the deep model and of its first training on a cut; all others are those of the live system."""

    width: int = 128
    dropout: float = 0.5
    first_passes: int = 12


SETTINGS: Final[Mapping[str, Training]] = {"bert4rec": Training(dropout=0.4, first_passes=8), "s3rec": Training()}
"""Chosen by validation figures alone; see above."""


class Question(NamedTuple):
    """A shopper's number, items so far (oldest first) and the true item, as slots."""

    shopper: int
    prefix: Sequence[int]
    item: int


class Histories:
    """Each shopper's items as slots, oldest first; slots are numbered by first appearance. `items` has their names."""

    def __init__(self, histories: Sequence[Sequence[str]]) -> None:
        slots: dict[str, int] = {}
        self.shoppers = [[slots.setdefault(item, len(slots)) for item in history] for history in histories]
        self.items = list(slots)

    def learned(self, last: int) -> list[list[int]]:
        """Return each shopper's items except the last `last`; all items of shoppers who are not tested."""
        return [items[: len(items) - last] if len(items) > 2 else items for items in self.shoppers]

    def questions(self, last: int) -> list[Question]:
        """Return the question about the item before the last `last`, for each shopper with at least three items."""
        return [
            Question(shopper, items[: len(items) - 1 - last], items[len(items) - 1 - last])
            for shopper, items in enumerate(self.shoppers)
            if len(items) > 2
        ]


def load(path: Path) -> tuple[str, Histories]:
    """Return the name of a file's cut, and its histories.

    Lines of two columns are `user item` (BERT4Rec's cut), longer ones `user item item …` (S3-Rec's).

    Raises:
        Misconfigured: the file is missing or damaged, or a line is neither.
    """
    if not path.is_file():
        raise Misconfigured(f"--data {path}: there is no such file")
    with path.open("rb") as raw, translated_damage(path), decompressed(raw) as file:
        lines = [line.split() for line in file.read().decode(errors="replace").splitlines()]
    if not lines or min(map(len, lines)) < 2:
        raise Misconfigured(f"--data {path}: wanted lines `user item` or `user item item …`")
    histories: dict[str, list[str]] = {}
    for user, *items in lines:
        histories.setdefault(user, []).extend(items)
    return CUTS[max(map(len, lines)) > 2], Histories(list(histories.values()))


class Fast:
    """A fast learner, made again for each training; a shopper's number serves as the session's."""

    learner: NextItem

    def __init__(self, make: Callable[[], NextItem]) -> None:
        self.make = make

    def learn(self, histories: Histories, last: int, progress: Callable[[float], None]) -> None:
        """Learn each shopper's items except the last `last`, in order."""
        self.learner = self.make()
        for shopper, items in enumerate(histories.learned(last)):
            for place, item in enumerate(items):
                self.learner.learn(Context(items[max(0, place - context_max) : place], 0, shopper, 0), item)

    def answer(self, questions: Sequence[Question], histories: Histories) -> Iterator[Scores]:
        """Yield the candidates for each question, without the shopper's own items."""
        for shopper, prefix, _ in questions:
            yield without_items(self.learner.predict(Context(prefix[-context_max:], 0, shopper, 0)), prefix)


class Deep:
    """The deep model: its first round trains from scratch, the others continue from the last model, as when live."""

    def __init__(self, settings: Training, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.model: DeepModel | None = None

    def learn(self, histories: Histories, last: int, progress: Callable[[float], None]) -> None:
        """Run a round over each shopper's items except the last `last`."""
        from learners.deep import train as finetune
        from learners.deep.model import DeepSettings, threads

        with threads(1):  # the bits of a model depend on the number of threads
            self.model = finetune.train(
                self.model,
                [[histories.items[item] for item in items] for items in histories.learned(last)],
                settings=DeepSettings(width=self.settings.width, dropout=self.settings.dropout),
                seed=self.seed,
                passes=live.passes if self.model else self.settings.first_passes,
                learning_rate=live.learning_rate,
                progress=progress,
            ).model

    def answer(self, questions: Sequence[Question], histories: Histories) -> Iterator[Scores]:
        """Yield the best candidates for each question, without the shopper's own items."""
        assert self.model is not None, "the model is trained before the first question"
        slot_of = {item: slot for slot, item in enumerate(histories.items)}
        slots = np.array([slot_of[item] for item in self.model.items], np.int32)
        for start in range(0, len(questions), _CHUNK):
            part = questions[start : start + _CHUNK]
            scores = self.model.score_all([[histories.items[item] for item in question.prefix] for question in part])
            for row, question in zip(scores, part, strict=True):
                row[np.isin(slots, question.prefix)] = 0
                best = np.argpartition(-row, min(list_length, len(row) - 1))[:list_length]
                best = best[row[best] > 0]
                yield Scores(slots[best], row[best])


def learn_traits(histories: Histories, last: int) -> TraitLookup:
    """Return the traits of items after each shopper's items except the last `last` were learned.

    No shopper had an item twice, and a shopper's items are not recommended, so traits that depend on
    the shopper carry no information.
    """
    traits = Traits()
    for items in histories.learned(last):
        for item in items:
            traits.learn(item, "", 0)
    traits.settle()
    return partial(traits.of, context=Context((), 0, 0, 0))


def blend_answers(
    blend: Blend,
    rows: Sequence[Mapping[str, Scores]],
    questions: Sequence[Question],
    describe: TraitLookup,
    learning: np.random.Generator | None,
) -> list[Scores]:
    """Return the blend's answers to questions, from its members' answers.

    Args:
        learning: draws the order in which the blend answers and then learns each question; if None, it learns
            nothing.
    """
    order = range(len(rows)) if learning is None else learning.permutation(len(rows)).tolist()
    found = {}
    for row in order:
        length = len(questions[row].prefix)
        found[row] = blend.predict(rows[row], length, describe)
        if learning is not None:
            blend.learn(rows[row], length, questions[row].item, describe)
    return [found[row] for row in range(len(rows))]


def run(
    histories: Histories,
    learners: Sequence[str],
    settings: Training,
    *,
    seed: int = 0,
    progress: Callable[[str, float], None] = lambda step, share: None,
) -> dict[str, Any]:
    """Run the protocol and return the figures of each part.

    Args:
        learners: names; the members of the blend are all others that are named.
        seed: of the deep model and the blend.
    """
    members = {name: Deep(settings, seed) if name == DEEP else Fast(FAST[name]) for name in learners if name != BLEND}
    blend = Blend(list(members), seed=seed)
    found: dict[str, dict[str, Any]] = {}
    validation, test = histories.questions(1), histories.questions(0)
    for last, asked in ((2, {VALIDATION: validation, AS_PUBLISHED: test}), (1, {TEST: test})):
        given: dict[str, dict[str, list[Scores]]] = {}
        for name, member in members.items():
            step = f"{name}, all but {last}"
            progress(step, 0.0)
            member.learn(histories, last, partial(progress, step))
            given[name] = {part: list(member.answer(questions, histories)) for part, questions in asked.items()}
        describe = learn_traits(histories, last)
        for part, questions in asked.items():
            ranks = {name: _ranks(given[name][part], histories, questions) for name in members}
            if BLEND in learners:
                rows = [{name: given[name][part][row] for name in members} for row in range(len(questions))]
                learning = np.random.default_rng(seed) if part == VALIDATION else None
                ranks[BLEND] = _ranks(blend_answers(blend, rows, questions, describe, learning), histories, questions)
            found[part] = {name: figures(np.array(of)) for name, of in ranks.items()}
    return {**found, "shoppers": len(histories.shoppers), "items": len(histories.items)}


def _ranks(answers: Sequence[Scores], histories: Histories, questions: Sequence[Question]) -> list[int]:
    """Return the rank of each true item among all items that the shopper did not have."""
    return [
        rank(scores, question.item, len(histories.items) - len(set(question.prefix)) - 1)
        for scores, question in zip(answers, questions, strict=True)
    ]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.parser("The last item of each shopper of Amazon Beauty.")
    parser.add_argument("--data", type=Path, required=True, action="append", help="a cut's file; may be given twice")
    parser.add_argument("--learners", default=",".join(LEARNERS), help="names, separated by commas")
    parser.add_argument("--seed", type=int, default=0, help="seed of the deep model and the blend")
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
    """Print the scores at 10 on each part, and the published ones."""
    columns = [(part, score) for part in reversed(PARTS) for score in ("recall@10", "ndcg@10")]
    published = [
        [name, "", "", f"{100 * hr:.2f}", f"{100 * ndcg:.2f}", "", ""] for name, (hr, ndcg) in PUBLISHED[cut].items()
    ]
    report.show(
        f"Amazon Beauty, {cut}'s cut, in % ({result['shoppers']:,} shoppers, {result['items']:,} items)",
        ["learner", *(f"{part} {score.replace('recall', 'HR').upper()}" for part, score in columns)],
        [[name, *(f"{100 * result[part][name][score]:.2f}" for part, score in columns)] for name in names] + published,
    )


if __name__ == "__main__":
    report.run(main)
