"""The description of the gateway's routes as an OpenAPI 3.1 document, made of the types by which they decode.

Source: OpenAPI Specification 3.1.1.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

import headrace
from headrace import events, experiments, items, rules
from headrace.problem import MEDIA_TYPE, TITLES, Code
from producers.gateway.answer import Answer, Explanation, ProblemDocument
from producers.gateway.fields import entries_max
from producers.gateway.gorse.forms import GorseSuccess
from producers.gateway.route import Call, Route, Unoffered
from producers.gateway.routes import CALLS, GA4_DEBUG, ROUTES, UNOFFERED

POLICY: Final = (
    "The number in a path is the version of the API. Within a version, fields and routes are added, and nothing that"
    " worked stops working. What is to go is announced in the changelog, answers with the headers Deprecation (RFC"
    " 9745) and Sunset (RFC 8594), and works for at least 12 months from then on, beside the next version."
)
OPEN: Final = (
    ("/health/live", "Whether the process runs.", "application/json"),
    ("/health/ready", "Whether events can be taken.", "application/json"),
    ("/openapi.json", "This document.", "application/json"),
    ("/headrace.js", "The snippet for pages of a shop.", "text/javascript"),
)
"""The routes without a key: what they give, and its media type."""
_KEYS: Final[list[dict[str, list[str]]]] = [
    {"bearer": []},
    {"basic": []},
    {"x_api_key": []},
    {"key": []},
    {"api_secret": []},
]
_REFS: Final = "#/components/schemas/{name}"
_ALWAYS: Final[tuple[Code, ...]] = (
    "bad-body", "too-slow", "too-large", "bad-encoding", "too-many-events", "unavailable", "internal",
)  # fmt: skip


def document() -> dict[str, Any]:
    """Return the document."""
    kept = (Answer, Explanation, ProblemDocument, GorseSuccess, *(call.answer for call in CALLS))
    answers, schemas = msgspec.json.schema_components(kept, ref_template=_REFS)
    for title, schema in (
        ("Event", events.json_schema()),
        ("ItemDocument", items.json_schema()),
        ("RuleSet", rules.json_schema()),
        ("Experiment", experiments.json_schema()),
    ):
        schemas |= _moved(schema.pop("$defs"))
        schemas.setdefault(title, {})
    # What the gateway completes may be left out; the shop's own id of the shopper is in `subject`.
    stated = schemas["Event"]
    stated["required"] = ["type", "subject"]
    stated["description"] = (
        "An event. `subject` is the shop's own id of the shopper, which becomes a pseudonym. Without an id, a"
        " repetition is not recognised; without a time, it is that of arrival."
    )
    stated["properties"]["subject"] = {"type": "string", "minLength": 1, "maxLength": 128}
    kinds = dict(zip(("answer", "explanation", "problem", "success"), answers, strict=False))
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, kinds)
    for call, answer in zip(CALLS, answers[len(kinds) :], strict=True):
        paths.setdefault(call.path, {})[call.method.lower()] = _question(call, answer, kinds)
    for refused in UNOFFERED:
        paths.setdefault(refused.path, {})[refused.method.lower()] = _unoffered(refused, kinds)
    for path, doc, media_type in OPEN:
        content = {media_type: {"schema": {"type": "object"} if media_type == "application/json" else {}}}
        answered: dict[str, Any] = {"200": {"description": "Yes." if "health" in path else "It.", "content": content}}
        if path.endswith("ready"):
            answered["503"] = {"description": "No: what waits has reached its bound.", "content": content}
        name = re.sub(r"\W+", "_", path[1:])
        paths[path] = {"get": {"summary": doc, "operationId": name, "responses": answered}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Headrace gateway", "version": headrace.__version__, "description": POLICY},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic", "description": "The key is the user."},
                "x_api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "As Gorse has it."},
                "key": {"type": "apiKey", "in": "query", "name": "key", "description": "For beacons of browsers."},
                "api_secret": {"type": "apiKey", "in": "query", "name": "api_secret", "description": "As GA4 has it."},
                "shopify": {"type": "apiKey", "in": "header", "name": "X-Shopify-Hmac-Sha256"},
            },
        },
    }


def _operation(route: Route, kinds: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": route.doc, "operationId": _name(route)}
    parameters = _in_path(route.path)
    if route.path != GA4_DEBUG:
        parameters.append(
            {
                "name": "dry_run", "in": "query", "required": False, "schema": {"enum": ["0", "1"]},
                "description": "With 1, nothing is written, and the answer says what would become of each entry.",
            }
        )  # fmt: skip
    if route.role is None:
        parameters.append(
            {"name": "X-Shopify-Topic", "in": "header", "required": True, "schema": {"type": "string"}}
        )  # fmt: skip
    operation["parameters"] = parameters
    if route.method != "DELETE":
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _body(route)}}}
    problems: Sequence[Code] = [*_ALWAYS, "bad-signature"] if route.role is None else [*_ALWAYS, "bad-key", "forbidden"]
    operation["responses"] = _refused(problems, kinds) | _good(route, kinds)
    if route.role is None:
        operation["security"] = [{"shopify": []}]
    else:
        operation["security"] = _KEYS
        operation["description"] = f"Needs a key of the role {route.role} or operate."
    return operation


def _question(call: Call, answer: Any, kinds: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a call, whose answers the server of answers gives."""
    parameters = _in_path(call.path) + [
        {"name": one, "in": "query", "required": False, "schema": {"type": "string", "maxLength": 200}}
        for one in call.query
    ]
    given = {"description": "What Gorse would answer.", "content": {"application/json": {"schema": answer}}}
    if call.answer == list[str]:
        scores = {"type": "array", "items": {"$ref": _REFS.format(name="GorseScore")}}
        given["content"] = {"application/json": {"schema": {"anyOf": [answer, scores]}}}
        version = {"name": "X-API-Version", "in": "header", "required": False, "schema": {"enum": ["2"]}}
        parameters.append(version | {"description": "With 2, items have scores."})
    body = {"type": call.body, **({"items": {"type": "object"}} if call.body == "array" else {})}
    stated = {"requestBody": {"required": True, "content": {"application/json": {"schema": body}}}} if call.body else {}
    problems = (*_ALWAYS, "bad-query", "bad-key", "forbidden", "unknown", "too-many-requests", "not-offered")
    return {
        "summary": call.doc, "operationId": _name(call), "parameters": parameters, **stated,
        "responses": _refused(problems, kinds) | {"200": given}, "security": _KEYS,
        "description": f"Needs a key of the role {call.role} or operate.",
    }  # fmt: skip


def _unoffered(route: Unoffered, kinds: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": f"Not offered: {route.why}.", "operationId": _name(route), "parameters": _in_path(route.path),
        "responses": _refused(["not-offered"], kinds),
    }  # fmt: skip


def _name(route: Route | Call | Unoffered) -> str:
    return re.sub(r"\W+", "_", f"{route.method}{route.path}").strip("_").lower()


def _in_path(path: str) -> list[dict[str, Any]]:
    return [
        {"name": one, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1, "maxLength": 128}}
        for one in re.findall(r"{(\w+)}", path)
    ]


def _refused(problems: Iterable[Code], kinds: dict[str, Any]) -> dict[str, Any]:
    return {
        str(status): {
            "description": title,
            "content": {MEDIA_TYPE: {"schema": kinds["problem"]}},
            **({"headers": {"Retry-After": {"schema": {"type": "integer"}}}} if status in (429, 503) else {}),
        }
        for status, title in (TITLES[code] for code in problems)
    }


def _good(route: Route, kinds: dict[str, Any]) -> dict[str, Any]:
    explained = {"application/json": {"schema": {"anyOf": [kinds["answer"], kinds["explanation"]]}}}
    said = {"description": "What became of each entry; all that was accepted is in the log.", "content": explained}
    match route.reply:
        case "ga4":
            dry = {"description": "What a dry run found.", "content": {"application/json": {}}}
            return {"204": {"description": "Taken, as far as it can be used."}, "200": dry}
        case "ga4-debug":
            return {"200": {"description": "What is wrong.", "content": {"application/json": {"schema": {
                "type": "object", "required": ["validationMessages"],
                "properties": {"validationMessages": {"type": "array", "items": {"type": "object"}}},
            }}}}}  # fmt: skip
        case "segment":
            return {"200": said}
        case "gorse":
            shown = {"anyOf": [kinds["success"], kinds["explanation"]]}
            return {"200": {"description": "It is safe.", "content": {"application/json": {"schema": shown}}}}
        case _:
            spooled = {**said, "description": "The same, and it waits on the gateway's disk until the log answers."}
            return {"200": said, "202": spooled}


def _body(route: Route) -> dict[str, Any]:
    """Return the form of a body. Those of other systems are described where these do it."""
    event, item = {"$ref": "#/components/schemas/Event"}, {"$ref": "#/components/schemas/ItemDocument"}
    match route.path:
        case "/v1/events":
            many = {"type": "array", "items": event, "maxItems": entries_max}
            wrapped = {"type": "object", "required": ["events"], "properties": {"events": many}}
            return {"anyOf": [event, many, wrapped]}
        case "/v1/items/{id}":
            return item
        case "/v1/rules" | "/v1/rules/{placement}":
            return {"$ref": "#/components/schemas/RuleSet"}
        case "/v1/experiments/{name}":
            return {"$ref": "#/components/schemas/Experiment"}
        case "/v1/items":
            many = {"type": "array", "items": {"allOf": [item, {"required": ["id"]}]}, "maxItems": entries_max}
            return {"anyOf": [many, {"type": "object", "required": ["items"], "properties": {"items": many}}]}
        case "/mp/collect" | "/debug/mp/collect":
            events_ = {"type": "array", "items": {"type": "object", "required": ["name"]}, "maxItems": entries_max}
            return {"type": "object", "required": ["events"], "properties": {"events": events_}}
        case "/v1/shopify/pixel":
            return {"anyOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}}]}
        case "/api/feedback" | "/api/users" | "/api/items":
            return {"type": "array", "items": {"type": "object"}, "maxItems": entries_max}
        case "/v1/batch" | "/v1/b" | "/v1/import":
            return {"type": "object", "required": ["batch"], "properties": {"batch": {"type": "array"}}}
        case _:
            return {"type": "object"}


def _moved(definitions: dict[str, Any]) -> dict[str, Any]:
    """Return definitions whose references are to the components of the document."""
    text = msgspec.json.encode(definitions).decode().replace('"#/$defs/', '"#/components/schemas/')
    found: dict[str, Any] = msgspec.json.decode(text)
    return found


def reference() -> str:
    """Return the content of docs/openapi.json."""
    return msgspec.json.format(msgspec.json.encode(document()), indent=2).decode() + "\n"
