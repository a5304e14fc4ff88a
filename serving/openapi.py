"""The description of the server's routes as an OpenAPI 3.1 document, made of the types that families declare.

Source: OpenAPI Specification 3.1.1.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

import headrace
from headrace.problem import MEDIA_TYPE, TITLES, Code
from headrace.surface import Route
from learners.family import Family
from serving.freshness import Freshness

POLICY: Final = (
    "The number in a path is the version of the API. Within a version, fields and routes are added, and nothing that"
    " worked stops working. A `shopper` is the shop's own id, or as it is in the log."
)
OPEN: Final = (
    ("/health/live", "Whether the process answers.", "application/json"),
    ("/health/ready", "Whether the answers are fresh.", "application/json"),
    ("/metrics", "Metrics for Prometheus.", "text/plain"),
    ("/openapi.json", "This document.", "application/json"),
)
"""The routes without a key: what they give, and its media type."""
_REFS: Final = "#/components/schemas/{name}"
_PROBLEMS: Final[tuple[Code, ...]] = (
    "bad-query", "bad-key", "forbidden", "unknown", "too-large", "internal", "restoring",
)  # fmt: skip


class ProblemDocument(Struct):
    """Why a request was refused. `type` is `urn:headrace:problem:` and a code."""

    type: str
    title: str
    status: int
    detail: str


def document(routes: Iterable[tuple[type[Family], Route]]) -> dict[str, Any]:
    """Return the document of these routes, each with its family."""
    found = list(routes)
    types = dict.fromkeys([*(kind for _, route in found for kind in (route.query, route.answer)), Freshness])
    _, schemas = msgspec.json.schema_components((*types, ProblemDocument), ref_template=_REFS)
    queries = {route.query: schemas.pop(route.query.__name__) for _, route in found if route.query.__name__ in schemas}
    paths: dict[str, Any] = {}
    for family, route in found:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(family, route, queries[route.query])
    for path, doc, media_type in OPEN:
        content = {media_type: {"schema": {"type": "object"} if media_type == "application/json" else {}}}
        answered: dict[str, Any] = {"200": {"description": "It.", "content": content}}
        if path.endswith("ready"):
            answered["503"] = _problem("stale")
        paths[path] = {"get": {"summary": doc, "operationId": re.sub(r"\W+", "_", path[1:]), "responses": answered}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Headrace server", "version": headrace.__version__, "description": POLICY},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "Only where the shop requires keys."}
            },
        },
    }


def _operation(family: type[Family], route: Route, query: Mapping[str, Any]) -> dict[str, Any]:
    in_path = re.findall(r"{(\w+)}", route.path)
    properties, required = dict(query["properties"]), query.get("required", [])
    operation: dict[str, Any] = {
        "summary": route.doc,
        "operationId": re.sub(r"\W+", "_", f"{route.method}{route.path}").strip("_").lower(),
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": properties.pop(name)} for name in in_path
        ],
        "security": [{}, {"bearer": []}],
        "responses": {str(TITLES[code][0]): _problem(code) for code in _PROBLEMS},
    }
    if route.method == "GET":
        operation["parameters"] += [
            {"name": name, "in": "query", "required": name in required, "schema": schema}
            for name, schema in properties.items()
        ]
    else:
        needed = [name for name in required if name not in in_path]
        body = {**query, "properties": properties, "required": needed}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    added: dict[str, Any] = {"fresh": {"$ref": _REFS.format(name=Freshness.__name__)}}
    if family.surface.artifact:
        added["model"] = {"type": "string", "description": "The version of the model that was used, empty for none."}
    if route.shows:
        logged = "Whether what was shown was accepted for the topic impressions while the log was reachable."
        added["logged"] = {"type": "boolean", "description": logged}
    answer = {
        "allOf": [
            {"$ref": _REFS.format(name=route.answer.__name__)},
            {"type": "object", "properties": added, "required": list(added)},
        ]
    }
    kind = "application/jsonl" if route.streams else "text/csv" if route.csv else "application/json"
    said = "Lines, each of which is an answer." if route.streams else "A table." if route.csv else "The answer."
    content: dict[str, Any] = {kind: {"schema": answer} if kind == "application/json" else {}}
    operation["responses"]["200"] = {"description": said, "content": content}
    return operation


def _problem(code: Code) -> dict[str, Any]:
    status, title = TITLES[code]
    found: dict[str, Any] = {
        "description": title,
        "content": {MEDIA_TYPE: {"schema": {"$ref": _REFS.format(name=ProblemDocument.__name__)}}},
    }
    if status == 503:
        found["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return found
