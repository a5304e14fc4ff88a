"""The fine-tuner's fold at the stages of a round; the judgements that torch would make are given."""

import random

from headrace.announcement import Announcement, announced
from headrace.events import Data, Event, Item, at
from headrace.log.protocol import Record
from learners.next_item.members import KINDS
from learners.rounds.contest import NO_MODEL
from learners.rounds.evidence import Compared, Trained
from learners.rounds.evidence import encode as as_judgement
from learners.rounds.judge import RoundsJudge
from learners.rounds.settings import RoundsSettings
from tests.shards import RoundsFold

RULES = RoundsSettings(round_events=100, drift_events_min=40, gate_records_max=50, holdout_share=0.1)
START_MS = 1_736_121_600_000


def learn_views(fold: RoundsFold, count: int, gap_ms: int = 1_000, trainer: RoundsJudge | None = None) -> None:
    """Let the fold learn views, in sessions, from where it stands; a trainer observes them."""
    for _ in range(count):
        number = fold.seen
        shopper = f"shopper-{random.Random(number // 5).randrange(40)}"
        item, time_ms = f"item-{number * 7 % 30}", START_MS + number * gap_ms
        event = Event(f"e{number}", "test", "view_item", at(time_ms), Data([Item(item)]), "1.0", shopper, time_ms)
        if trainer:
            trainer.observe(fold.family, event, 0, number)
        fold.learn(event, 0, number)


def trained(
    fold: RoundsFold,
    blob: str = "model-aaaaaaaa11",
    *,
    trigger: str = "",
    reasons: tuple[str, ...] = (),
    retention: tuple[tuple[list[float], list[float]], ...] = (),
) -> None:
    made = Trained(blob, trigger or fold.due or "volume", list(reasons), list(retention), {"tokens": 9})
    fold.absorb(as_judgement(made))


def compared(
    fold: RoundsFold,
    candidate: float = 0.0,
    *,
    champion: float = 0.0,
    predecessor: float = 0.0,
    nothing: float = 0.0,
    count: int = 200,
    alone: float = 0.6,
    fast: float = 0.2,
) -> None:
    """Give the fold the same blend scores and own scores for `count` events.

    Args:
        candidate, champion, predecessor, nothing: the blend's score with each model, and with none.
        alone, fast: the own score of every model, and of every fast learner.
    """
    standing = ((fold.candidate, candidate), (fold.champion, champion), (fold.predecessor, predecessor))
    blend_scores = {one.blob: [score] * count for one, score in standing if one}
    own_scores = {name: [fast if name in KINDS else alone] * count for name in (*KINDS, *blend_scores)}
    fold.absorb(as_judgement(Compared({NO_MODEL: [nothing] * count, **blend_scores}, own_scores)))


def decided(fold: RoundsFold, candidate: float, *, champion: float = 0.0, nothing: float = 0.0) -> None:
    """Let the models be compared until the candidate has its verdict, and no longer."""
    while fold.candidate:
        compared(fold, candidate, champion=champion, nothing=nothing, count=1)


def announcements(fold: RoundsFold) -> list[Announcement]:
    found = [announced(Record(0, 0, 0, one.key, one.value)) for one in fold.emit()]
    return [one for one in found if one]


def started(rules: RoundsSettings = RULES) -> RoundsFold:
    fold = RoundsFold(rules)
    assert [(one.kind, one.due_events) for one in announcements(fold)] == [("schedule", 100)]
    return fold


def promoted(rules: RoundsSettings = RULES) -> RoundsFold:
    """Return a fold whose first candidate was promoted, at event 110."""
    fold = started(rules)
    learn_views(fold, 100)
    trained(fold)
    learn_views(fold, 10)
    decided(fold, 0.5, nothing=0.1)
    assert announcements(fold)[-1].kind == "promoted"
    return fold


def alarm(key: bytes = b"price") -> Record:
    return Record(0, 0, 0, key, b'{"detector": "%s"}' % key)
