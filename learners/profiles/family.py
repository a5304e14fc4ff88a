"""The family of profiles: what is known of each shopper, and how sure that is.

Tastes, prices, rhythm, orders and the running visit, learned from all that a shopper does, beside what the shop states.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Final

from msgspec import Meta, Struct

from headrace.events import LEARNED_TYPES, Event
from headrace.state import State
from headrace.surface import Metric, Now, Route, Surface, Table, Unknown
from learners.desk.family import Desk
from learners.family import Family, Merges, Moment, Move, Part
from learners.profiles.examples import PROFILE as EXAMPLE
from learners.profiles.shoppers import STEPS, Shoppers
from learners.profiles.traits import Running, Seen, Taste, Trait, running, tastes, traits


class ProfilesSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section `[profiles]`."""

    shoppers_max: Annotated[
        int, Meta(ge=1, description="Most shoppers of whom a profile is kept; the one seen longest ago goes first.")
    ] = 100_000
    tastes_max: Annotated[
        int, Meta(ge=1, description="Most tastes of all shoppers; above it, the shopper seen longest ago goes first.")
    ] = 1_500_000
    orders_max: Annotated[
        int, Meta(ge=1, description="Most orders of which it is remembered what was paid, for refunds.")
    ] = 50_000


class ProfileQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of a request for a profile."""

    shopper: Annotated[str, Meta(min_length=1, max_length=128, description="The shopper's id, percent-encoded.")]
    tastes: Annotated[int, Meta(ge=1, le=100, description="Most tastes of each kind.")] = 10


class Profile(Struct, frozen=True):
    """What is known of a shopper.

    `stated` is what the shop states, `traits` and `tastes` what was learned, by name and by kind; `visit` is the
    running visit, or the last one. `since_ms` and `newest_ms` are the shop's times of the first and the newest event, 0
    of a shopper of whom the shop states something and whom no event has named.
    """

    shopper: str
    since_ms: int
    newest_ms: int
    stated: dict[str, str | bool | float]
    traits: dict[str, Trait]
    tastes: dict[str, list[Taste]]
    visit: Running | None


class ProfilesScores(Struct, frozen=True):
    """How much is known: shoppers, how many of them have bought, tastes, and the money of those orders, less refunds.

    The shares are of the newest thousand shoppers that were seen.
    """

    shoppers: int
    tastes: int
    buyers_share: float
    money_per_buyer: float
    tastes_per_shopper: float
    priced_share: float


newest_scored: Final = 1_000
"""Shoppers, the newest ones, whose shares are scored."""


class ProfilesFamily(Family):
    """Keeps a profile of each shopper."""

    name: ClassVar[str] = "profiles"
    consults: ClassVar[tuple[str, ...]] = (Desk.name,)
    builds_on: ClassVar[tuple[str, ...]] = (Desk.name,)
    merges: ClassVar[Merges] = Merges(
        "not", per_shopper="all but usual prices", why="a guest who logs in may be in another slice than the shopper"
    )
    parts: ClassVar[Mapping[str, Part]] = {"shoppers": Part(), "orders": Part(needs=("shoppers",)), "prices": Part()}

    def __init__(self, settings: ProfilesSettings, reads: Mapping[str, Family]) -> None:
        self._desk = reads.get(Desk.name)
        self.shoppers = Shoppers(
            shoppers_max=settings.shoppers_max, tastes_max=settings.tastes_max, orders_max=settings.orders_max
        )

    def learn(self, event: Event, now: Moment) -> None:
        """Learn from one event."""
        self.shoppers.learn(event)

    def move(self, move: Move) -> None:
        """Move the running visit of a guest to the shopper who logged in, or back."""
        self.shoppers.move(move)

    def knows(self, shopper: str) -> bool:
        """Return whether a profile of the shopper is kept."""
        return shopper in self.shoppers

    def seen(self, shopper: str, now_ms: int) -> Seen | None:
        """Return a shopper as known at a moment; None if no event has named the shopper, or it is forgotten."""
        known = self.shoppers.of(shopper)
        return None if known is None else Seen(known, now_ms, self.shoppers.weight(now_ms))

    def stated(self, shopper: str) -> Mapping[str, str | bool | float]:
        """Return what the shop states of a shopper."""
        desk = self._desk
        return (desk.profiles.of(shopper) if isinstance(desk, Desk) else None) or {}

    def answer(self, query: ProfileQuery, now: Now) -> Profile:
        """Return a shopper's profile. Raises Unknown."""
        shopper = now.known_as(query.shopper)
        seen, stated = self.seen(shopper, now.time_ms), dict(self.stated(shopper))
        if seen is None:
            if not stated:
                raise Unknown(
                    "wanted a shopper of an event, or of whom the shop states something, found none of this id"
                )
            return Profile(query.shopper, 0, 0, stated, {}, {}, None)
        known = seen.known
        return Profile(
            query.shopper,
            known.since_ms,
            known.newest_ms,
            stated,
            traits(seen),
            tastes(seen, query.tastes),
            running(known),
        )

    def scores(self) -> ProfilesScores:
        """Return how much is known."""
        newest = self.shoppers.newest(newest_scored)
        bought = [known.purchases for known in newest if known.purchases is not None and known.purchases.orders]
        count = max(1, len(newest))
        used, kept = (self.shoppers.bounds()[table][0] for table in ("tastes", "shoppers"))
        return ProfilesScores(
            kept, used, len(bought) / count, sum(one.money for one in bought) / max(1, len(bought)),
            sum(known.size for known in newest) / count, sum(known.is_priced for known in newest) / count,
        )  # fmt: skip

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        return {f"profiles_{table}": use for table, use in self.shoppers.bounds().items()}

    def state(self) -> State:
        """Return the complete state."""
        return {
            "shoppers": self.shoppers.state(), "orders": self.shoppers.orders.state(), "prices": self.shoppers.prices(),
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        if "shoppers" in state:
            self.shoppers.restore(state["shoppers"])
        if "orders" in state:
            self.shoppers.restore_orders(state["orders"])
        if "prices" in state:
            self.shoppers.restore_prices(state["prices"])

    @classmethod
    def from_0_3_0(cls, fold: State) -> tuple[dict[str, Any], State] | None:
        """Return an empty state beside the online shard's: 0.3.0 kept no profiles."""
        return ({}, cls(ProfilesSettings(), {}).state()) if "buying" in fold else None

    # Functions that the surface names, so that the declaration below is data.

    def buyers(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Yield the share of the newest shoppers who have bought."""
        yield (), self.scores().buyers_share


def _rows(scores: ProfilesScores) -> Iterable[tuple[Any, ...]]:
    yield "shoppers", scores.shoppers
    yield "tastes", scores.tastes
    yield "tastes of a shopper seen lately", scores.tastes_per_shopper
    yield "share of them who have bought", scores.buyers_share
    yield "share of them whose price level is known", scores.priced_share
    yield "what a buyer has paid", scores.money_per_buyer


ProfilesFamily.surface = Surface(
    doc="What is known of each shopper, and how sure that is: tastes, prices, rhythm, orders, the running visit.",
    settings=ProfilesSettings,
    scores=ProfilesScores,
    full_by_design=tuple(
        f"profiles_{table}" for table in ("shoppers", "tastes", "orders", "order_lines", "items", "categories")
    ),
    metrics=(
        Metric(
            name="headrace_profiles_buyers_ratio",
            help="Share of the newest 1,000 shoppers with a profile who have bought.",
            read=ProfilesFamily.buyers, read_interval_s=10.0,
        ),
    ),
    routes=(
        Route(
            path="/v1/shoppers/{shopper}/profile",
            doc="A shopper's profile: each trait and taste with its confidence, its evidence and since when.",
            query=ProfileQuery,
            answer=Profile,
            call=ProfilesFamily.answer,
            example=("/v1/shoppers/shopper-000176/profile?tastes=2", EXAMPLE),
            notes=(
                "`confidence` is n / (n + k): n is the evidence, decayed where the trait is, and k how much of it says"
                " as much as a guess. What each trait means: [profiles](profiles.md).",
                "`stated` is what the shop states ([traits](gateway.md)); it is never mixed with what was learned.",
                "A shopper of whom nothing is known gets 404.",
            ),
        ),
    ),
    tables=(
        Table(
            title="Profiles", columns=("figure", "value"), rows=_rows, percent=False,
            note="Shares and means are of the 1,000 shoppers who were seen last.",
        ),
    ),
    teaches=dict.fromkeys(LEARNED_TYPES, "that the shopper is here: the visit, its hour, weekday, device and channel")
    | dict.fromkeys(STEPS, "the visit, and the categories, brands and prices that the shopper turns to")
    | {
        "purchase": "the order, what was paid, and the categories, brands and prices that the shopper turns to",
        "refund": "what was paid and is given back",
    },
    benchmark="benchmarks.profiles",
)  # fmt: skip
