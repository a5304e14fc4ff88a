"""The settings of a simulated stream: the size of the shop, and its scheduled drifts."""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from headrace.errors import Misconfigured

Share = Annotated[float, Meta(ge=0, le=1)]


class Drift(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One scheduled change. `at` and `until` are shares of the run's time.

    abrupt: a share `strength` of all themes and successors is redrawn at once. gradual: the same, but the probability
    that a visit uses the new structure rises from 0 at `at` to 1 at `until`. incremental: the same, but they are
    replaced one by one from `at` to `until`. recurring: the first structure is used again from `at` to `until`. price:
    the prices of half of the categories are multiplied by `strength`.

    local: of one category, a share `strength` of the items swap their places in themes, and their successors are
    redrawn; if `strength` is above 1, its items are wanted `strength` times as often instead. surge: from `at` to
    `until`, a share `strength` of the visits begins at one item and stays with one of its themes. new_items: a number
    of items, a share `strength` of `items`, is added at once; each takes the share of an average item of its themes.
    """

    kind: Literal["abrupt", "gradual", "recurring", "price", "incremental", "local", "surge", "new_items"]
    at: Share
    until: Share
    strength: Annotated[float, Meta(gt=0, le=10)] = 0.8

    @property
    def redraws(self) -> bool:
        """Whether it adds a structure to those before."""
        return self.kind in ("abrupt", "gradual", "incremental") or (self.kind == "local" and self.strength <= 1)


DRIFTS: Final = (
    Drift("abrupt", 0.35, 0.35),
    Drift("gradual", 0.52, 0.62),
    Drift("recurring", 0.76, 0.86),
    Drift("price", 0.91, 0.91, 1.4),
)
SHARES: Final = ("abrupt", "gradual", "incremental", "surge", "new_items")
"""Drifts whose strength is a share."""
SPANS: Final = ("incremental", "surge")
"""Drifts that need some time."""
LATER: Final = ("outages", "season", "churners", "big_spenders", "returners", "stocked")
"""Settings that release 0.3.0 did not know."""
PLANTED_MAX: Final = 0.9
"""Largest share of the shoppers that may be planted: somebody must be left to come."""


class SimulationSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings that determine every byte of a simulated stream.

    `events` counts records of `events`; the first is near `start_ms` (2025-01-06, a Monday), the last near `end_ms`.
    `new_items` is a share of `items` that is added evenly over the run. `bots` is a share of visits; `sampled` is the
    share of views for which the ground truth is published. `outages` is the share of items that go out of stock once,
    for a tenth of the run; their pages are viewed on. At weekends (UTC) a fixed half of the categories is viewed more
    by about the share `season`, every week alike. `churners`, `big_spenders` and `returners` are the shares of the
    shoppers who are planted in these groups (`producers.groups`). `stocked` is the share of the items whose stock is
    limited (`producers.warehouse`): nobody buys what there is no more of. With it, items are stated with the pieces on
    hand and with their next promotion.
    """

    seed: Annotated[int, Meta(ge=0, lt=2**53)] = 1
    events: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 60_000
    items: Annotated[int, Meta(ge=100, le=200_000)] = 800
    shoppers: Annotated[int, Meta(ge=10, le=10_000_000)] = 2_500
    days: Annotated[float, Meta(gt=0, le=3_650)] = 28.0
    start_ms: Annotated[int, Meta(ge=788_918_400_000, le=4_000_000_000_000)] = 1_736_121_600_000
    new_items: Share = 0.15
    bots: Share = 0.003
    sampled: Share = 0.02
    drifts: tuple[Drift, ...] = DRIFTS
    outages: Share = 0.0
    season: Share = 0.0
    churners: Share = 0.0
    big_spenders: Share = 0.0
    returners: Share = 0.0
    stocked: Share = 0.0

    def plain(self) -> dict[str, Any]:
        """Return the settings as JSON values, without those of `LATER` that are 0, which release 0.3.0 did not know."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return {name: value for name, value in found.items() if value or name not in LATER}

    @property
    def planted(self) -> float:
        """Return the share of the shoppers who are planted in groups."""
        return self.churners + self.big_spenders + self.returners

    @property
    def end_ms(self) -> int:
        """Return the end of the scheduled time; the last event of the stream is near it."""
        return self.start_ms + round(self.days * 86_400_000)

    def time_ms(self, share: float) -> int:
        """Return the event time at this share of the run."""
        return self.start_ms + round(share * (self.end_ms - self.start_ms))


def validated(settings: SimulationSettings) -> SimulationSettings:
    """Return the settings if they are valid. Raises Misconfigured otherwise.

    >>> validated(SimulationSettings(seed=7)).seed
    7
    """
    try:
        settings = msgspec.convert(msgspec.to_builtins(settings), SimulationSettings)
    except msgspec.ValidationError as error:
        raise Misconfigured(f"simulate: {error}") from error
    if settings.planted > PLANTED_MAX:
        raise Misconfigured(
            f"simulate: wanted at most a share of {PLANTED_MAX} of the shoppers as churners, big spenders and returners"
            f" together, found {settings.planted:g}"
        )
    ends = [0.0]
    for drift in settings.drifts:
        if drift.until < drift.at or drift.at < ends[-1]:
            span = f"{drift.at} to {drift.until}"
            raise Misconfigured(f"simulate: wanted drifts in order and without overlap, found one from {span}")
        if drift.kind in SHARES and drift.strength > 1:
            raise Misconfigured(f"simulate: strength of drift {drift.kind}: wanted a share, found {drift.strength}")
        if drift.kind in SPANS and drift.until == drift.at:
            raise Misconfigured(f"simulate: drift {drift.kind}: wanted `until` after `at`, found both at {drift.at}")
        ends.append(drift.until)
    return settings
