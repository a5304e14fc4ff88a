"""Headrace's own form: events as `headrace.events` has them, and what a shop states of its shoppers."""

import uuid
from typing import Any

from headrace.events import at
from headrace.rules import EVERY
from producers.gateway.fields import entries_of, json_of, kind_of, object_of, traits_of
from producers.gateway.made import Made, MadeEvent, MadeExperiment, MadeItem, MadeRules, MadeTraits, Refused, Request


def take_events(request: Request) -> list[list[Made]]:
    """Return the events of a body: one, an array, or `{"events": [...]}`. Raises BadBody."""
    found = json_of(request.body)
    if isinstance(found, dict) and "type" not in found and "events" in found:
        found = found["events"]
    elif isinstance(found, dict):
        found = [found]
    return [[_event(request, one)] for one in entries_of(found, "an event, an array of events, or {events: [...]}")]


def _event(request: Request, document: Any) -> Made:
    """Complete an event: `id`, `source`, `time`, `specversion` and `data` may be left out.

    Without an id, a repetition is not recognised.
    """
    if not isinstance(document, dict):
        return Refused("schema", f"wanted an event as an object, found {kind_of(document)}")
    stated = {
        "specversion": "1.0", "source": request.shop, "time": at(request.received_ms), "data": {}, **document,
    }  # fmt: skip
    if "id" not in stated:
        stated["id"] = uuid.uuid4().hex
    return MadeEvent(stated)


def take_traits(request: Request) -> list[list[Made]]:
    """Return the traits of the shopper whom the path names. Raises BadBody."""
    traits = object_of(json_of(request.body), "traits as an object")
    return [[MadeTraits(request.query.get("shopper", ""), traits_of(traits))]]


def take_rules(request: Request) -> list[list[Made]]:
    """Return the rules of the placement that the path names, or of every placement. Raises BadBody."""
    document = {"by": request.shop, **object_of(json_of(request.body), "rules as an object")}
    return [[MadeRules(request.query.get("placement", EVERY), document)]]


def clear_rules(request: Request) -> list[list[Made]]:
    """Return that a placement has no rules of its own."""
    return [[MadeRules(request.query.get("placement", EVERY), None)]]


def take_experiment(request: Request) -> list[list[Made]]:
    """Return the experiment that the path names. Raises BadBody."""
    document = {"by": request.shop, **object_of(json_of(request.body), "an experiment as an object")}
    return [[MadeExperiment(request.query.get("name", ""), document)]]


def remove_experiment(request: Request) -> list[list[Made]]:
    """Return that an experiment, a draft or one that has stopped, is removed."""
    return [[MadeExperiment(request.query.get("name", ""), None)]]


def retire_item(request: Request) -> list[list[Made]]:
    """Return that the item of the path is no longer sold."""
    return [[MadeItem(request.query.get("id", ""), None)]]
