"""Browsing: catalogue, contexts and the fast next-item learners as one, from events to ranked lists.

Both shards fold it: the online one for its answers, the fine-tuner for its sequences and for the fast learners
that a first candidate is compared with.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from headrace.events import Event, Item
from headrace.state import State
from learners.family import Move, Part
from learners.next_item.attributes import AttributeLookup, Attributes, ItemAttributes
from learners.next_item.candidates import Candidates, in_slots, pool
from learners.next_item.catalogue import Catalogue
from learners.next_item.choices import TAKEN_BACK_BY, Choices
from learners.next_item.contexts import CHOICE_EVENTS, STEP_EVENTS, VIEW_EVENTS, Contexts, own_clock, pushed, steps
from learners.next_item.contexts import from_version_1 as contexts_from_version_1
from learners.next_item.equal import EqualKeys
from learners.next_item.judgement import list_length
from learners.next_item.members import KINDS
from learners.next_item.recent import Recent
from learners.next_item.revisits import from_version_1 as revisits_from_version_1
from learners.next_item.traits import Traits
from learners.protocol import DEEP, Context, Listed, NextItem, Question, Scores, top

Allows: TypeAlias = Callable[[NDArray[np.int32]], NDArray[np.bool_]]
"""Returns which slots are allowed. Shape: as the slots"""


class ItemStep(NamedTuple):
    """One step of an event before it is learned: the shopper's context before the step, and its item."""

    context: Context
    item: str


FULL_BY_DESIGN: Final = ("contexts_shoppers", "choices_steps", "session_knn_sessions")
"""The bounded tables that any shop fills in time; see `headrace.surface.Surface`."""
repeats_max: Final = 10
"""Steps of a shopper to one item in one visit, beyond which they teach nothing that shoppers share."""


class AcceptsLateItems(Protocol):
    """A model that can add items after its training: `learners.deep.vocabulary.Vocabulary`."""

    admissions_seen: int

    def add_late_items(self, items: Iterable[str], attributes_of: AttributeLookup) -> int:
        """Add items; `attributes_of` returns the attributes of any items."""


class Forgets(Protocol):
    """A table by slots of the catalogue."""

    def forget(self, slots: Sequence[int], /) -> None:
        """Delete what is stored for these slots, which will be reused for other items."""


class Browsing:
    """Catalogue, contexts, fast learners, traits and attributes, updated together.

    `dependants` are other tables by the catalogue's slots.

    Args:
        items_max: items that the catalogue may hold.
        shoppers_max: shoppers whose contexts are remembered.
    """

    def __init__(self, *, items_max: int, shoppers_max: int) -> None:
        self._items_max = items_max
        self.catalogue = Catalogue(items_max=items_max)
        self.contexts = Contexts(shoppers_max=shoppers_max)
        self.members: dict[str, NextItem] = {name: kind() for name, kind in KINDS.items()}
        self.recent = Recent()
        self.choices = Choices()
        self.traits = Traits()
        self.attributes = Attributes()
        self.dependants: list[Forgets] = []
        # What a member returned last, and its best: popularity returns the same object until it changes.
        self._ranked: dict[str, tuple[Scores, Scores]] = {}
        self._equal = EqualKeys()

    def learn(self, event: Event) -> list[str]:
        """Learn the steps of an event; return the items of those that all shoppers' learners learned, in order."""
        kind = event.type
        if kind not in STEP_EVENTS:
            if kind in TAKEN_BACK_BY:
                self._take_back(event)
            self._touch(event)
            return []
        shopper, time_ms, name, own_ms = event.shopper, event.time_ms, event.data.session_id, own_clock(event)
        context = self.contexts.context(shopper, time_ms, name, own_ms)
        found = self._steps(event, context)
        # Somebody who sees one item again and again in a visit is no crowd.
        counts = event.counts
        if counts:
            for slot in self.catalogue.slots_of(found):
                if self.recent.count(shopper, slot) >= repeats_max:
                    counts = False
        if counts:
            lines, first = {line.item_id: line for line in event.data.items}, True
            for item in found:
                evicted = self.catalogue.evict(item)
                if evicted:
                    self._forget(evicted)
                if evicted or not first:
                    context = self.contexts.context(shopper, time_ms, name, own_ms)
                slot, first = self.catalogue.admit(item), False
                session = self.contexts.push(shopper, slot, time_ms, name, own_ms)
                if session != context.session:  # the step began a session, so only now it has a number
                    context = Context(context.items, context.start, session, context.time_ms)
                for member in self.members.values():
                    member.learn(context, slot)
                line = lines[item]
                self.traits.learn(slot, line.item_category, time_ms, line.item_name)
                self.attributes.learn(slot, line.item_category, line.price)
                if kind in CHOICE_EVENTS:
                    self.choices.note(shopper, slot, time_ms, ordered=False)
        else:  # only what is known is added to the shopper's own context
            for slot in self.catalogue.slots_of(found):
                if slot >= 0:
                    self.contexts.push(shopper, slot, time_ms, name, own_ms)
        for slot in self.catalogue.slots_of([line.item_id for line in event.data.items]):
            if slot >= 0:
                self.recent.note(shopper, slot, time_ms, own_ms)
                if kind == "purchase":
                    self.choices.order(shopper, slot)
        return found if counts else []

    def _touch(self, event: Event) -> None:
        """Note that a shopper does something in a visit, though not with an item."""
        own_ms = own_clock(event)
        self.contexts.touch(event.shopper, event.time_ms, event.data.session_id, own_ms)
        self.recent.touch(event.shopper, event.time_ms, own_ms)

    def _take_back(self, event: Event) -> None:
        """Take back the steps of a cart or an order of which an event removes or returns items."""
        for line in event.data.items:
            slot = self.catalogue.slot(line.item_id)
            time_ms = None if slot is None else self.choices.take(event.shopper, slot, ordered=event.type == "refund")
            if slot is not None and time_ms is not None:
                for member in self.members.values():
                    member.take_back(slot, time_ms)
                self.traits.take_back(slot, time_ms)

    def move(self, move: Move) -> tuple[int, list[int]] | None:
        """Move a session's trail to another shopper; return its number and its slots, None if there is none."""
        moved = self.contexts.move(move)
        if moved is None:
            return None
        _, slots = moved
        self.recent.move(move.from_shopper, move.to_shopper, slots if move.taken_back else None)
        self.choices.move(move.from_shopper, move.to_shopper, slots)
        return moved

    def hear_item(self, item: Item) -> None:
        """Replace the name, category and price of an item of the catalogue by what the shop states now."""
        slot = self.catalogue.slot(item.item_id)
        if slot is None:
            return
        before = self.attributes.of([slot]).categories[0]
        self.traits.restate(slot, item.item_category, item.item_name)
        self.attributes.learn(slot, item.item_category, item.price)
        if self.attributes.of([slot]).categories[0] != before:
            self.catalogue.renew(item.item_id)

    def _forget(self, evicted: Sequence[int]) -> None:
        """Delete what is stored for slots that the catalogue has evicted."""
        if evicted:
            tables: list[Forgets] = [self.contexts, self.recent, self.choices, *self.dependants]
            for table in tables:
                table.forget(evicted)
            for member in self.members.values():
                member.forget(evicted)
            self.traits.forget(evicted)
            self.attributes.forget(evicted)

    def steps(self, event: Event) -> list[ItemStep]:
        """Return the steps that `learn` would learn from an event, each with its context. Changes nothing.

        A new item has no slot yet, so it is missing from the contexts of later steps.
        """
        if event.type not in STEP_EVENTS:
            return []
        name, own_ms = event.data.session_id, own_clock(event)
        context = self.contexts.context(event.shopper, event.time_ms, name, own_ms)
        found = []
        for item in self._steps(event, context):
            found.append(ItemStep(context, item))
            slot = self.catalogue.slot(item)
            if slot is not None:
                items, start = pushed(context.items, context.start, slot)
                context = replace(context, items=items, start=start)
        return found

    def _steps(self, event: Event, context: Context) -> list[str]:
        """Return the items that an event adds to the session of a context."""
        session = context.items[context.start :]
        return steps(event, self.ids(session[-1:] if event.type in VIEW_EVENTS else session))

    def ids(self, slots: Sequence[int]) -> list[str]:
        """Return the item ids of slots in use."""
        return self.catalogue.items_at(slots)

    def lists(self, context: Context) -> dict[str, Listed]:
        """Return `best` in item ids."""
        return {name: (self.ids(slots.tolist()), scores) for name, (slots, scores) in self.best(context).items()}

    def predictions(self, context: Context) -> dict[str, Scores]:
        """Return each fast learner's candidates for a context."""
        return {name: member.predict(context) for name, member in self.members.items()}

    def predictions_of(self, contexts: Sequence[Context]) -> list[dict[str, Scores]]:
        """Return `predictions` for each of several contexts, one learner after the other."""
        found = [dict[str, Scores]() for _ in contexts]
        for name, member in self.members.items():
            for context, into in zip(contexts, found, strict=True):
                into[name] = member.predict(context)
        return found

    def best(
        self, context: Context, allows: Allows | None = None, predictions: Mapping[str, Scores] | None = None
    ) -> dict[str, Scores]:
        """Return each fast learner's best candidates for a context, best first.

        The item viewed last is left out, because a repeated view of it is not a step
        (`learners.next_item.contexts.steps`).

        Args:
            allows: returns which slots may be candidates; None: all may.
            predictions: what `predictions` returns for the context, if it is known.
        """
        last = context.items[-1] if len(context.items) > context.start else -1
        found = {}
        for name, scores in (self.predictions(context) if predictions is None else predictions).items():
            if allows is not None:
                kept = allows(scores.slots)
                found[name] = _without(top(Scores(scores.slots[kept], scores.scores[kept]), list_length + 1), last)
                continue
            ranked = self._ranked.get(name)
            if ranked is None or ranked[0] is not scores:
                ranked = self._ranked[name] = scores, top(scores, list_length + 1)
            found[name] = _without(ranked[1], last)
        return found

    def candidates(
        self, context: Context, deep: "Listed | None", allows: Allows | None = None,
        predictions: Mapping[str, Scores] | None = None,
    ) -> Candidates:  # fmt: skip
        """Return the candidates for a context: those of the fast learners (`best`), and of the deep model's answer."""
        lists, unknown = self.best(context, allows, predictions), list[str]()
        if deep is not None:
            lists[DEEP], unknown = in_slots(deep, self.catalogue)
        return pool(lists, unknown, self.catalogue.slots_end, self._equal)

    def traits_of(self, items: Sequence[str], remembered: Sequence[str], start: int, time_ms: int) -> NDArray[np.uint8]:
        """Return the settled traits of items for a shopper.

        Args:
            remembered: the shopper's remembered items, oldest first; those from `start` on are of this session.
        """
        slots_of = self.catalogue.slots_of
        return self.traits.of(slots_of(items), Context(slots_of(remembered), start, 0, time_ms))

    def attributes_of(self, items: Sequence[str]) -> ItemAttributes:
        """Return the categories and prices of items."""
        return self.attributes.of(self.catalogue.slots_of(items))

    def add_late_items_to(self, model: AcceptsLateItems) -> None:
        """Add to a model the items that the catalogue admitted since the last call, and move those of a new category.

        Call after scoring: a known item would reveal that it was just viewed.
        """
        if model.admissions_seen < self.catalogue.admitted:
            model.add_late_items(self.catalogue.since(model.admissions_seen), self.attributes_of)
            model.admissions_seen = self.catalogue.admitted

    def question(self, step: ItemStep) -> Question:
        """Return a step as the question that a deep model is asked, in item ids."""
        return Question(self.prefix(step.context), self.last(step.context), step.item)

    def prefix(self, context: Context) -> list[str]:
        """Return a sequence model's input: the session's items, or all remembered items if there are none."""
        return self.ids(context.items[context.start :] or context.items)

    def last(self, context: Context) -> str:
        """Return the item viewed last in this session, or ""."""
        return self.catalogue.item(context.items[-1]) if len(context.items) > context.start else ""

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        parts: list[tuple[str, Mapping[str, tuple[int, int]]]] = [
            ("catalogue", self.catalogue.bounds()),
            ("contexts", self.contexts.bounds()),
            ("recent", self.recent.bounds()),
            ("choices", self.choices.bounds()),
            *((name, member.bounds()) for name, member in self.members.items()),
        ]
        return {f"{part}_{table}": use for part, bounds in parts for table, use in bounds.items()}

    def state(self) -> State:
        """Return the complete state, by part."""
        return {
            "catalogue": self.catalogue.state(),
            "contexts": {
                "trails": self.contexts.state(),
                "recent": self.recent.state(),
                "choices": self.choices.state(),
            },
            **{name: member.state() for name, member in self.members.items()},
            "traits": self.traits.state(),
            "attributes": self.attributes.state(),
        }

    def restore(self, state: State) -> None:
        """Restore the parts that a state has. Parts beyond the present bounds evict what was seen least recently."""
        if "catalogue" in state:
            self.catalogue = Catalogue.from_state(state["catalogue"])
        if "contexts" in state:
            found = state["contexts"]
            self.contexts = Contexts.from_state(found["trails"], shoppers_max=self.contexts.shoppers_max)
            self.recent, self.choices = Recent.from_state(found["recent"]), Choices.from_state(found["choices"])
        # In the order of KINDS, which decides between equal scores.
        self.members = {
            name: KINDS[name].from_state(state[name]) if name in state else member
            for name, member in self.members.items()
        }
        if "traits" in state:
            self.traits = Traits.from_state(state["traits"])
        if "attributes" in state:
            self.attributes = Attributes.from_state(state["attributes"])
        self._forget(self.catalogue.resize(self._items_max))


def _without(ranked: Scores, slot: int) -> Scores:
    """Return the first `list_length` candidates of a ranked list without one slot (-1 removes nothing)."""
    kept = (ranked.slots != slot).nonzero()[0][:list_length]
    return Scores(ranked.slots.take(kept), ranked.scores.take(kept))


def _contexts_2(state: State) -> State:
    """Return contexts of version 2 from those of version 1; what is remembered of a visit is what was just seen."""
    trails = contexts_from_version_1(state)
    recent, items, end = Recent(), trails["items"].tolist(), 0
    columns = (trails[name].tolist() for name in ("lengths", "starts", "shop_ms"))
    for shopper, length, start, time_ms in zip(trails["shoppers"], *columns, strict=True):
        for slot in items[end + start : end + length]:
            recent.note(shopper, slot, time_ms)
        end += length
    return {"trails": trails, "recent": recent.state(), "choices": Choices().state()}


_EXACT: Final = Part(2, {1: lambda state: state}, needs=("catalogue",))
"""A part of the form of version 1 whose arithmetic no longer depends on the processor."""
_NO_STEPS: Final = np.zeros((0, 2), np.int64)
PARTS: Final[Mapping[str, Part]] = {
    "catalogue": Part(),
    "contexts": Part(2, {1: _contexts_2}, needs=("catalogue",)),
    **dict.fromkeys((*KINDS, "attributes"), Part(needs=("catalogue",))),
    **dict.fromkeys(("popularity", "transitions"), _EXACT),
    "revisits": Part(2, {1: revisits_from_version_1}, needs=("catalogue",)),
    "traits": Part(3, {1: lambda state: state, 2: lambda state: {**state, "taken": _NO_STEPS}}, needs=("catalogue",)),
}
"""The parts of the state: all but the catalogue refer to its slots."""


def parts_of_0_3_0(state: State) -> State:
    """Return the parts in the state that Headrace 0.3.0 kept of the same."""
    return {
        "catalogue": state["catalogue"], "contexts": state["contexts"], **state["members"],
        "traits": state["traits"], "attributes": state["wares"],
    }  # fmt: skip
