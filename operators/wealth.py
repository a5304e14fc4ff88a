"""A gate's bets on each candidate, made again from judgements by the family that declares how (`Surface.trials`)."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from headrace.announcement import Announcement
from headrace.artifacts import resolve
from headrace.log.protocol import Log, Record
from headrace.shard.journal import judging_family
from headrace.surface import Bets, Trials
from headrace.topics import JUDGEMENTS
from learners.family import Family
from operators.tails import Tail

judgements_max: Final = 2_000
"""Most judgements of each shard that are read, the newest ones; one has the comparisons of many events."""
points_max: Final = 400
"""Most points of a curve that are returned."""


class Wealth:
    """The curves of the candidates whose training is among the newest judgements. A look reads what has come since."""

    def __init__(self, kinds: Sequence[type[Family]]) -> None:
        kind = next((one for one in kinds if one.surface.trials), None)
        self._trials: Trials | None = resolve(kind.surface.trials)() if kind else None
        names = {kind.name, *kind.surface.former_judgement_keys} if kind else set()
        decoder = msgspec.msgpack.Decoder(kind.surface.judgements if kind else Any)

        def decode(record: Record) -> Any | None:
            with suppress(msgspec.MsgspecError):
                return decoder.decode(record.value or b"") if judging_family(record.key) in names else None
            return None

        self._tail = Tail(JUDGEMENTS, decode, judgements_max)

    def look(self, log: Log) -> None:
        """Read the judgements that have come to a log, which is the same at each look. Raises LogUnavailable."""
        self._tail.look(log)
        for one in self._tail.held:
            if self._trials:
                self._trials.add(one)
        self._tail.held.clear()

    def curve(self, blob: str, announcements: Sequence[Announcement]) -> list[Bets]:
        """Return how a candidate's trial stood after its comparisons, the oldest first; empty if it is not known.

        The champion during the trial is the one when the candidate was announced; where a person replaced it meanwhile,
        the curve differs from the gate's.
        """
        if self._trials is None:
            return []
        points = self._trials.curve(blob, champion_at(blob, announcements))
        return [*points[:: 1 + len(points) // points_max], *points[-1:]]


def champion_at(blob: str, announcements: Sequence[Announcement]) -> str:
    """Return the blob of the champion when a candidate was announced, "" if there was none."""
    champion = ""
    for one in announcements:
        if one.kind == "candidate" and one.blob == blob:
            return champion
        asked = one.kind == "requested" and one.action in ("promote", "roll_back")
        if asked or one.kind in ("promoted", "rolled_back"):
            champion = one.blob
    return champion
