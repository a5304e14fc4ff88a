"""The gate's bets on each candidate, made again from its judgements: what the evidence was after each comparison."""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from headrace.announcement import Announcement
from headrace.log.protocol import Log
from headrace.reading import ReadOnlyLog
from learners.rounds.contest import CHAMPION, NO_MODEL, Bets, Trial
from learners.rounds.evidence import Compared, Trained
from learners.rounds.family import Rounds

judgements_max: Final = 20_000
"""Most judgements that are read, the newest ones."""
points_max: Final = 400
"""Most points of a curve."""


class Curve(Struct):
    """A candidate's trial: how it stood after its comparisons, the oldest first.

    `blob` names the candidate.
    """

    blob: str
    points: list[Bets]

    @property
    def newest(self) -> Bets | None:
        """How it stands, or stood at its end."""
        return self.points[-1] if self.points else None


def wealth_curves(log: Log, announcements: Sequence[Announcement]) -> dict[str, Curve]:
    """Return the curve of each candidate whose training is among the newest judgements, by its blob.

    The champion during a trial is the one when the candidate was announced; where a person replaced it meanwhile, the
    curve differs from the gate's.
    """
    champions = _champions(announcements)
    judged = ReadOnlyLog(log, {Rounds.name: Rounds.surface}).judgements(Rounds.name).newest(judgements_max)
    found: dict[str, Curve] = {}
    trial: Trial | None = None
    curve, champion = Curve("", []), ""
    for one in reversed(list(judged)):
        judgement = one.value
        if isinstance(judgement, Trained):
            trial = None
            if judgement.blob and judgement.rule and judgement.blob in champions:
                trial, champion = Trial(judgement.rule), champions[judgement.blob]
                curve = found[judgement.blob] = Curve(judgement.blob, [])
        elif isinstance(judgement, Compared) and trial and _ended(trial, judgement, curve, champion):
            trial = None
    for each in found.values():
        each.points = each.points[:: 1 + len(each.points) // points_max] + each.points[-1:]
    return found


def _champions(announcements: Sequence[Announcement]) -> dict[str, str]:
    """Return the blob of the champion at each candidate's announcement, by the candidate's blob; "" if none."""
    champion, found = "", dict[str, str]()
    for one in announcements:
        if one.kind == "candidate":
            found[one.blob] = champion
        elif one.kind in ("promoted", "rolled_back") or (
            one.kind == "requested" and one.action in ("promote", "roll_back")
        ):
            champion = one.blob
    return found


def _ended(trial: Trial, compared: Compared, curve: Curve, champion: str) -> bool:
    """Give a trial what was compared, and add how it stands to its curve; return whether it has a verdict."""
    for row in range(len(compared.blend_scores[NO_MODEL])):
        blend = {blob: values[row] for blob, values in compared.blend_scores.items()}
        own = {name: values[row] for name, values in compared.own_scores.items()}
        rivals = {NO_MODEL: blend[NO_MODEL]}
        if champion:
            rivals[CHAMPION] = blend.get(champion, blend[NO_MODEL])
        fast = {name: score for name, score in own.items() if name not in blend}
        score = blend.get(curve.blob, blend[NO_MODEL])
        verdict = trial.observe(score, own.get(curve.blob, 0.0), rivals, fast, compared.visit(row))
        if bets := trial.bets():
            curve.points.append(bets)
        if verdict:
            return True
    return False
