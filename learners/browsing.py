"""Browsing: catalogue, contexts and the fast next-item learners as one, from events to ranked lists.

Both shards fold it: the online one for its answers, the fine-tuner for its sequences and for the rivals of a first
candidate.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from headrace.events import Event
from headrace.state import State
from learners.catalogue import Catalogue
from learners.contexts import STEPS, Contexts, pushed, steps
from learners.judgement import Listed, listed, without
from learners.learner import Context, NextItem, top
from learners.popularity import Popularity
from learners.revisits import Revisits
from learners.session_knn import SessionKnn
from learners.traits import Traits
from learners.transitions import Transitions
from learners.wares import Describe, Described, Wares

KINDS: Mapping[str, type[NextItem]] = {kind.name: kind for kind in (Popularity, Transitions, SessionKnn, Revisits)}
"""The fast next-item learners."""


class Step(NamedTuple):
    """One step of an event before it is learned: the context it was taken in, and the item."""

    context: Context
    item: str


class Question(NamedTuple):
    """What a model is asked about a step: the session's items before it (at a session's start all that is remembered),
    the one just looked at ("" at a session's start), and the item that came."""

    prefix: list[str]
    last: str
    item: str


class Newcomer(Protocol):
    """Who must be told of items that came late: `learners.deep.DeepModel`."""

    met: int

    def meet(self, items: Iterable[str], describe: Describe) -> int:
        """Take in items; what is known of any item `describe` says."""


class Browsing:
    """What shoppers turned to, and what the fast learners make of it.

    Args:
        items_max: items that the catalogue may hold.
        shoppers_max: shoppers whose contexts are remembered.
    """

    def __init__(self, *, items_max: int, shoppers_max: int) -> None:
        self.catalogue = Catalogue(items_max=items_max)
        self.contexts = Contexts(shoppers_max=shoppers_max)
        self.members: dict[str, NextItem] = {name: kind() for name, kind in KINDS.items()}
        self.traits = Traits()
        self.wares = Wares()

    def learn(self, event: Event) -> list[str]:
        """Learn the steps of an event; return their items, in order."""
        if event.type not in STEPS:
            return []
        shopper, time_ms, name = event.shopper, event.time_ms, event.data.session_id
        context = self.contexts.context(shopper, time_ms, name)
        found = steps(event, self.ids(context.items[context.start :]))
        lines = {line.item_id: line for line in event.data.items}
        for item in found:
            if gone := self.catalogue.evict(item):
                self.contexts.forget(gone)
                for member in self.members.values():
                    member.forget(gone)
                self.traits.forget(gone)
                self.wares.forget(gone)
                context = self.contexts.context(shopper, time_ms, name)
            slot = self.catalogue.admit(item)
            self.contexts.push(shopper, slot, time_ms, name)
            after = self.contexts.context(shopper, time_ms, name)
            # If the step began a session, only the context after it knows the session's number.
            context = context._replace(session=after.session)
            for member in self.members.values():
                member.learn(context, slot)
            line = lines[item]
            self.traits.learn(slot, line.item_category, time_ms, line.item_name)
            self.wares.learn(slot, line.item_category, line.price)
            context = after
        return found

    def steps(self, event: Event) -> list[Step]:
        """Return the steps that `learn` would take from an event, each in its context. Changes nothing.

        An item that is new has no slot yet, so it is missing in the contexts of the steps after it.
        """
        if event.type not in STEPS:
            return []
        context = self.contexts.context(event.shopper, event.time_ms, event.data.session_id)
        found = []
        for item in steps(event, self.ids(context.items[context.start :])):
            found.append(Step(context, item))
            slot = self.catalogue.slot(item)
            if slot is not None:
                items, start = pushed(context.items, context.start, slot)
                context = context._replace(items=items, start=start)
        return found

    def ids(self, slots: Sequence[int]) -> list[str]:
        """Return the item ids of slots in use."""
        item = self.catalogue.item
        return [item(slot) for slot in slots]

    def lists(self, context: Context) -> dict[str, Listed]:
        """Return each fast learner's best candidates for a context: item ids and scores, best first.

        The item just looked at is left out: turning to it again is no step (`learners.contexts.steps`).
        """
        last = self.last(context)
        found = {}
        for name, member in self.members.items():
            slots, scores = top(member.predict(context), listed + 1)
            found[name] = without((self.ids(slots.tolist()), scores), last)
        return found

    def describe(self, items: Sequence[str], remembered: Sequence[str], start: int, time_ms: int) -> NDArray[np.uint8]:
        """Return the traits of items as they settled, for a shopper of whom these items are remembered, those from
        `start` on of this session."""
        return self.traits.of(self._slots(items), Context(self._slots(remembered), start, 0, time_ms))

    def known_of(self, items: Sequence[str]) -> Described:
        """Return the categories and prices of items."""
        return self.wares.of(self._slots(items))

    def introduce(self, model: Newcomer) -> None:
        """Tell a model of the items that were admitted since it was last told.

        After it has answered, where what it answered is compared with what came: that an item is known gives away that
        it came.
        """
        if model.met < self.catalogue.admitted:
            model.meet(self.catalogue.since(model.met), self.known_of)
            model.met = self.catalogue.admitted

    def _slots(self, items: Sequence[str]) -> list[int]:
        """Return the slots of items, -1 for those without one."""
        return [-1 if (slot := self.catalogue.slot(item)) is None else slot for item in items]

    def question(self, step: Step) -> Question:
        """Return a step as a deep model is asked about it, in item ids."""
        return Question(self.prefix(step.context), self.last(step.context), step.item)

    def prefix(self, context: Context) -> list[str]:
        """Return the items that a sequence model looks at: the session's, or all that is remembered if it is empty."""
        return self.ids(context.items[context.start :] or context.items)

    def last(self, context: Context) -> str:
        """Return the item looked at last in this session, or ""."""
        return self.catalogue.item(context.items[-1]) if len(context.items) > context.start else ""

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return what each bounded table holds, and its maximum."""
        parts: list[tuple[str, Mapping[str, tuple[int, int]]]] = [
            ("catalogue", self.catalogue.bounds()),
            ("contexts", self.contexts.bounds()),
            *((name, member.bounds()) for name, member in self.members.items()),
        ]
        return {f"{part}_{table}": use for part, bounds in parts for table, use in bounds.items()}

    def state(self) -> State:
        """Return all that was learned."""
        return {
            "catalogue": self.catalogue.state(),
            "contexts": self.contexts.state(),
            "members": {name: member.state() for name, member in self.members.items()},
            "traits": self.traits.state(),
            "wares": self.wares.state(),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return what continues exactly where `state` was taken."""
        browsing = cls.__new__(cls)
        browsing.catalogue = Catalogue.from_state(state["catalogue"])
        browsing.contexts = Contexts.from_state(state["contexts"])
        # In the order of KINDS, not of the state's sorted keys: it decides between equal scores.
        kept = [name for name in KINDS if name in state["members"]]
        browsing.members = {name: KINDS[name].from_state(state["members"][name]) for name in kept}
        browsing.traits = Traits.from_state(state["traits"])
        browsing.wares = Wares.from_state(state["wares"])
        return browsing
