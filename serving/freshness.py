"""How fresh answers are."""

from msgspec import Struct


class Freshness(Struct, frozen=True):
    """How fresh an answer is: how many journal entries it includes, the shop's time at the newest event (ms since the
    epoch), and how long ago it included all commits."""

    entry: int
    newest_event_ms: int
    behind_s: float
