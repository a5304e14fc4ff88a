"""The fine-tuner's fold at the stages of a round; torch is played by its answers."""

import random

from consumers.finetune import Trainer
from headrace.events import Data, Event, Item, at
from headrace.log import Record
from learners.announcement import Announcement, announced
from learners.browsing import KINDS
from learners.contest import NOTHING
from learners.evidence import Compared, Trained
from learners.evidence import encode as as_judgement
from learners.rounds import Rounds, RoundSettings

RULES = RoundSettings(round_events=100, drift_events_min=40, gate_events_max=50, holdout_share=0.1)
START_MS = 1_736_121_600_000


def shop(fold: Rounds, count: int, gap_ms: int = 1_000, trainer: Trainer | None = None) -> None:
    """Let the fold learn views, in sessions, from where it stands; a trainer observes them."""
    for _ in range(count):
        number = fold.seen
        shopper = f"shopper-{random.Random(number // 5).randrange(40)}"
        item, time_ms = f"item-{number * 7 % 30}", START_MS + number * gap_ms
        event = Event(f"e{number}", "test", "view_item", at(time_ms), Data([Item(item)]), "1.0", shopper, time_ms)
        if trainer:
            trainer.observe(fold, event, 0, number)
        fold.learn(event, 0, number)


def trained(
    fold: Rounds,
    blob: str = "model-aaaaaaaa11",
    *,
    trigger: str = "",
    reasons: tuple[str, ...] = (),
    retention: tuple[tuple[list[float], list[float]], ...] = (),
) -> None:
    made = Trained(blob, trigger or fold.due or "volume", list(reasons), list(retention), {"tokens": 9})
    fold.absorb(as_judgement(made))


def compared(
    fold: Rounds,
    candidate: float = 0.0,
    *,
    champion: float = 0.0,
    predecessor: float = 0.0,
    nothing: float = 0.0,
    count: int = 200,
    alone: float = 0.6,
    fast: float = 0.2,
) -> None:
    """Let the fold hear what the blend was worth with each model, and each alone: the same for `count` events."""
    standing = ((fold.candidate, candidate), (fold.champion, champion), (fold.predecessor, predecessor))
    worths = {one.blob: [worth] * count for one, worth in standing if one}
    alones = {name: fast if name in KINDS else alone for name in (*KINDS, *worths)}
    given = {name: [score] * count for name, score in alones.items()}
    fold.absorb(as_judgement(Compared({NOTHING: [nothing] * count, **worths}, given)))


def decided(fold: Rounds, candidate: float, *, champion: float = 0.0, nothing: float = 0.0) -> None:
    """Let the models be compared until the candidate has its verdict, and no longer."""
    while fold.candidate:
        compared(fold, candidate, champion=champion, nothing=nothing, count=1)


def said(fold: Rounds) -> list[Announcement]:
    found = [announced(Record(0, 0, 0, one.key, one.value)) for one in fold.emit()]
    return [one for one in found if one]


def started(rules: RoundSettings = RULES) -> Rounds:
    fold = Rounds(rules)
    assert [(one.kind, one.due_events) for one in said(fold)] == [("schedule", 100)]
    return fold


def promoted(rules: RoundSettings = RULES) -> Rounds:
    """Return a fold whose first candidate was promoted, at event 110."""
    fold = started(rules)
    shop(fold, 100)
    trained(fold)
    shop(fold, 10)
    decided(fold, 0.5, nothing=0.1)
    assert said(fold)[-1].kind == "promoted"
    return fold


def alarm(key: bytes = b"price") -> Record:
    return Record(0, 0, 0, key, b'{"detector": "%s"}' % key)
