"""The gate's tests of candidates, made again from judgements: for whoever wants to see how the evidence grew."""

from collections.abc import Sequence

from headrace.surface import Bets
from learners.rounds.contest import CHAMPION, NO_MODEL, Trial
from learners.rounds.evidence import Began, Compared, Trained


class _Begun:
    """A candidate's trial, as far as its comparisons have been given to it."""

    def __init__(self, trained: Trained) -> None:
        self.blob, self.trial = trained.blob, Trial(trained.rule)
        self.waiting: list[Compared] = []
        self.points: list[Bets] = []
        self.ended = False


class Trials:
    """The trials of the candidates whose training is among the judgements that were added (`headrace.surface.Trials`).

    Those under rule 1, of 0.3.0, are left out.
    """

    def __init__(self) -> None:
        self._begun: dict[str, _Begun] = {}
        self._newest: _Begun | None = None

    def add(self, judgement: Began | Trained | Compared) -> None:
        """Add a judgement, in the order of the log."""
        if isinstance(judgement, Trained):
            self._newest = _Begun(judgement) if judgement.blob and judgement.rule else None
            if self._newest:
                self._begun[judgement.blob] = self._newest
        elif isinstance(judgement, Compared) and self._newest:
            self._newest.waiting.append(judgement)

    def curve(self, blob: str, champion: str) -> Sequence[Bets]:
        """Return how a candidate's trial stood after each comparison, the oldest first; empty if it is not known."""
        begun = self._begun.get(blob)
        if begun is None:
            return []
        for compared in begun.waiting:
            if not begun.ended:
                begun.ended = _ended(begun, compared, champion)
        begun.waiting.clear()
        return begun.points


def _ended(begun: _Begun, compared: Compared, champion: str) -> bool:
    """Give a trial what was compared, and note how it stands; return whether it has a verdict."""
    for row in range(len(compared.blend_scores[NO_MODEL])):
        blend = {blob: values[row] for blob, values in compared.blend_scores.items()}
        own = {name: values[row] for name, values in compared.own_scores.items()}
        rivals = {NO_MODEL: blend[NO_MODEL]}
        if champion:
            rivals[CHAMPION] = blend.get(champion, blend[NO_MODEL])
        fast = {name: score for name, score in own.items() if name not in blend}
        score = blend.get(begun.blob, blend[NO_MODEL])
        verdict = begun.trial.observe(score, own.get(begun.blob, 0.0), rivals, fast, compared.visit(row))
        if bets := begun.trial.bets():
            begun.points.append(bets)
        if verdict:
            return True
    return False
