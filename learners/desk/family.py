"""The desk: what every event passes before the other families learn it. Each shard has one.

It completes and corrects events by what it remembers: a transaction is bought once, amounts are in the shop's currency,
a guest who logs in is the shopper, one shopper counts only so much, and lines have what the shop states of their items.
It keeps what the shop states of its shoppers for answers. It learns nothing else.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from msgspec import Meta, Struct

from headrace.events import LEARNED_TYPES, Event, Item, Purpose, Rejection
from headrace.items import ItemReason, ItemRecord, decode
from headrace.log.protocol import Record
from headrace.state import State
from headrace.surface import Metric, Surface
from headrace.topics import ITEMS, TRAITS
from headrace.traits import decode as decode_traits
from learners.desk.assortment import Assortment
from learners.desk.assortment import from_version_1 as assortment_from_version_1
from learners.desk.assortment import from_version_2 as assortment_from_version_2
from learners.desk.assortment import from_version_3 as assortment_from_version_3
from learners.desk.budget import Budget
from learners.desk.currency import Currency
from learners.desk.joins import Joins
from learners.desk.orders import Orders
from learners.desk.profiles import Profiles
from learners.desk.renames import Renames
from learners.family import Family, Merges, Moment, Move, Part, Preparer

STEPS = frozenset({"view_item", "select_item", "add_to_cart", "add_to_wishlist", "purchase"})


class DeskSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section `[desk]`."""

    currency: Annotated[
        str,
        Meta(
            max_length=3,
            description="The shop's currency (ISO 4217), in which prices are learned; empty for that of the first"
            " price that names one, of an event or an item.",
        ),
    ] = ""
    rates: Annotated[
        dict[str, Annotated[float, Meta(gt=0)]],
        Meta(
            description="The worth of one unit of other currencies in the shop's, such as {USD = 0.92}. Amounts in a"
            " currency without a rate are dropped."
        ),
    ] = {}
    day_steps_full: Annotated[
        int,
        Meta(ge=1, description="Steps a day up to which all of a shopper's steps teach what shoppers share."),
    ] = 200
    day_steps_max: Annotated[
        int,
        Meta(
            ge=1, description="Steps a day beyond which none of a shopper's steps does; between both they count less."
        ),
    ] = 2_000
    shoppers_max: Annotated[int, Meta(ge=1, description="Most shoppers of a day whose steps are counted.")] = 200_000
    login_sessions_max: Annotated[int, Meta(ge=1, description="Most sessions that a login can join.")] = 100_000
    renames_max: Annotated[int, Meta(ge=1, description="Most shoppers of whom a newer pseudonym is known.")] = 200_000
    profiles_max: Annotated[
        int, Meta(ge=1, description="Most shoppers of whom it is remembered what the shop states.")
    ] = 100_000
    consent: Annotated[
        Purpose | Literal[""],
        Meta(
            description="The purpose to which a shopper must have consented for an event to be learned: `analytics`,"
            " `personalization` or `marketing`. Events that state no consent are not learned then. Empty: all are."
        ),
    ] = ""
    orders_max: Annotated[int, Meta(ge=1, description="Most orders that are remembered.")] = 50_000
    items_max: Annotated[
        int,
        Meta(
            ge=1,
            description="Most items of which it is remembered what the shop states; the item goes first whose record"
            " changed, or was used by an event, least recently.",
        ),
    ] = 200_000


class Desk(Preparer):
    """Prepares events for the other families.

    `rejected` counts the records of `items` that this process could not use, by reason.
    """

    name: ClassVar[str] = "desk"
    merges: ClassVar[Merges] = Merges(
        "not", per_shopper="orders, steps of the day", why="a session may be of a guest and a shopper in two slices"
    )
    parts: ClassVar[Mapping[str, Part]] = {
        **dict.fromkeys(("orders", "joins", "budget", "currency", "renames"), Part()),
        "assortment": Part(
            4, {1: assortment_from_version_1, 2: assortment_from_version_2, 3: assortment_from_version_3}
        ),
        "profiles": Part(),
    }

    def __init__(self, settings: DeskSettings, reads: Mapping[str, Family]) -> None:
        self._settings, self._consent = settings, settings.consent
        self.orders = Orders(orders_max=settings.orders_max)
        self.joins = Joins(sessions_max=settings.login_sessions_max)
        self.budget = Budget(
            full=settings.day_steps_full, most=settings.day_steps_max, shoppers_max=settings.shoppers_max
        )
        self.currency = Currency(settings.currency, settings.rates)
        self.assortment = Assortment(items_max=settings.items_max)
        self.renames = Renames(shoppers_max=settings.renames_max)
        self.profiles = Profiles(shoppers_max=settings.profiles_max)
        self.rejected: Counter[str] = Counter()

    def prepare(self, event: Event, now: Moment) -> bool:
        """Complete and correct an event in place; return False if nothing of it is new."""
        kind = event.type
        if kind == "shopper_renamed":
            self.renames.note(event.data.former_shopper, event.shopper)
            self.profiles.rename(event.shopper, self.renames.name(event.shopper))
            return False
        if self.renames:
            self.renames.follow(event)
        if self._consent and self._consent not in (event.data.consent or ()):
            return False
        if move := self.joins.follow(event):
            now.moves.append(move)
        if kind in STEPS:
            event.counts = self.budget.take(event)
        if event.data.currency:
            self.currency.convert(event)
        wanted = self.orders.buy(event) if kind == "purchase" else kind != "refund" or self.orders.refund(event)
        if wanted and self.assortment:
            self.assortment.complete(event, self.currency)
        return wanted

    def learn(self, event: Event, now: Moment) -> None:
        """Do nothing: all was noted when the event was prepared."""

    def hear(self, topic: str, record: Record, now: Moment) -> Rejection | None:
        """Note what the shop states of a shopper, or of an item, and tell the other families if an item is new."""
        if topic == TRAITS:
            said = decode_traits(record)
            if said is None:
                return Rejection("schema", "wanted traits by name, with a time, under the shopper's id; found another")
            self.profiles.note(self.renames.name(said.shopper), said.traits)
            return None
        stated = decode(record)
        if isinstance(stated, Rejection):
            self.rejected[stated.reason] += 1
            return stated
        self.currency.adopt(stated.prices)
        if self.assortment.note(stated, now.time_ms):
            price = self.currency.price(stated.prices)
            now.items.append(Item(stated.id, stated.title, stated.brand, stated.category, price))
        return None

    def knows(self, shopper: str) -> bool:
        """Return whether the shop states something of a shopper."""
        return shopper in self.profiles

    def available(self, item: str) -> bool:
        """Return whether an item can be bought, as far as is stated: it is neither out of stock nor retired."""
        return self.assortment.available(item)

    def stated(self, item: str) -> ItemRecord | None:
        """Return what the shop states of an item, None if it states nothing."""
        return self.assortment.stated(item)

    def price(self, stated: ItemRecord) -> float | None:
        """Return the price of an item in the shop's currency, None if that is not known."""
        return self.currency.price(stated.prices)

    def cost(self, stated: ItemRecord) -> float | None:
        """Return what the shop pays for an item in the shop's currency, None if that is not known."""
        return self.currency.price(stated.costs)

    def move(self, move: Move) -> None:
        """Do nothing: an order stays that of the shopper who placed it."""

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        tables = self.orders.bounds() | self.joins.bounds() | self.budget.bounds() | self.assortment.bounds()
        tables |= self.renames.bounds() | self.profiles.bounds()
        return {f"desk_{table}": use for table, use in tables.items()}

    def state(self) -> State:
        """Return the complete state."""
        return {
            "orders": self.orders.state(), "joins": self.joins.state(), "budget": self.budget.state(),
            "currency": self.currency.state(), "assortment": self.assortment.state(), "renames": self.renames.state(),
            "profiles": self.profiles.state(),
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue where `state` was taken."""
        settings = self._settings
        if "orders" in state:
            self.orders = Orders.from_state(state["orders"], orders_max=settings.orders_max)
        if "joins" in state:
            self.joins = Joins.from_state(state["joins"], sessions_max=settings.login_sessions_max)
        if "budget" in state:
            self.budget.restore(state["budget"])
        if "currency" in state:
            self.currency = Currency.from_state(state["currency"], shop=settings.currency, rates=settings.rates)
        if "assortment" in state:
            self.assortment = Assortment.from_state(state["assortment"], items_max=settings.items_max)
        if "renames" in state:
            self.renames = Renames.from_state(state["renames"], shoppers_max=settings.renames_max)
        if "profiles" in state:
            self.profiles = Profiles.from_state(state["profiles"], shoppers_max=settings.profiles_max)

    def renamed(self, shopper: str) -> str:
        """Return the name under which a shopper is known."""
        return self.renames.name(shopper)

    @classmethod
    def from_0_3_0(cls, fold: State) -> tuple[dict[str, Any], State] | None:
        """Return an empty desk, in the versions 1 of its parts: shards of 0.3.0 had none."""
        return {}, {**cls(DeskSettings(), {}).state(), "assortment": []}

    def dropped(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Yield the number of events whose amounts were dropped."""
        yield (), self.currency.dropped

    def rejections(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Yield the number of records of `items` that could not be used, by reason."""
        for reason, count in self.rejected.items():
            yield (reason,), count


Desk.surface = Surface(
    doc="What every event passes first: orders, currency, logins, how much one shopper counts, and what the shop states"
    " of its items and shoppers.",
    settings=DeskSettings,
    hears=(ITEMS, TRAITS),
    full_by_design=("desk_orders", "desk_order_lines", "desk_sessions", "desk_profiles"),
    teaches=dict.fromkeys(LEARNED_TYPES, "whose the session is")
    | dict.fromkeys(STEPS, "whose the session is, and the shopper's steps of the day")
    | {
        "login": "that the session, which a guest may have begun, is the shopper's",
        "sign_up": "that the session, which a guest may have begun, is the shopper's",
        "login_undone": "that the session is its guest's again",
        "purchase": "the lines of the order, once, and the shopper's steps of the day",
        "refund": "which lines of the order were returned",
        "shopper_renamed": "under which name the shopper is known",
    },
    metrics=(
        Metric(
            name="headrace_amounts_dropped_total",
            help="Events whose amounts were dropped, because their currency has no rate.",
            kind="counter",
            read=Desk.dropped,
        ),
        Metric(
            name="headrace_item_records_rejected_total",
            help="Records of items that could not be used.",
            kind="counter",
            labels=("reason",),
            label_values=get_args(ItemReason),
            read=Desk.rejections,
        ),
    ),
)
