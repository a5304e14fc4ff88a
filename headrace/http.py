"""Shared parts of our HTTP servers: JSON answers, errors, query parsing, request metrics, and listening."""

import asyncio
import csv
import io
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import msgspec
from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import compile_path

from headrace.direct import DirectRoute, Prepare
from headrace.errors import Misconfigured
from headrace.exchange import question_bytes_max
from headrace.problem import Code, Problem
from headrace.surface import Refused
from headrace.text import cell

quoted_characters_max = 20
"""Maximum number of characters of a refused value that an error repeats."""


class _RestOfPath(Convertor[str]):
    """The rest of a path. (Starlette's own `path` ends at a line feed, and an id may contain any character.)"""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("whole", _RestOfPath())
_TOO_LARGE: Final = Problem(
    "too-large", f"wanted a body of at most {question_bytes_max} bytes, found more", closes=True
)


class RequestCounter(Protocol):
    """Counts requests."""

    def count_request(self, route: str, code: int, duration_s: float) -> None:
        """Count an answer. `route` is the route as declared, never the requested path."""


def json(body: object, status: int = 200) -> Response:
    """Return a JSON answer."""
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def json_lines(bodies: Iterable[object]) -> Response:
    """Return an answer of JSON lines, each of which is made when the client has taken those before."""

    async def lines() -> AsyncIterator[bytes]:
        for body in bodies:
            yield msgspec.json.encode(body) + b"\n"
            await asyncio.sleep(0)

    return StreamingResponse(lines(), media_type="application/jsonl")


def csv_table(rows: Iterable[Sequence[Any]]) -> Response:
    """Return an answer of CSV (RFC 4180). A text that a spreadsheet would take for a formula begins with an apostrophe.

    >>> csv_table([("shopper", "why"), ("ann", "slower, gone"), ("=1+2", -3.5)]).body.decode().split("\\r\\n")
    ['shopper,why', 'ann,"slower, gone"', "'=1+2,-3.5", '']

    Source: OWASP, "CSV Injection".
    """
    text = io.StringIO(newline="")
    csv.writer(text).writerows(map(cell, row) for row in rows)
    return Response(text.getvalue(), media_type="text/csv; header=present")


def counted_route(
    requests: RequestCounter, path: str, handler: Callable[[Request, bytes], Response], *, method: str = "GET",
    question: Callable[[Request, bytes], Any] | None = None, prepare: Prepare | None = None,
) -> DirectRoute:  # fmt: skip
    """Return a route whose answers are counted and timed; a parameter of `path` takes slashes, too.

    The handler is given the request and its body. It is called in the server's loop, so it must not wait. `question`
    and `prepare` are those of `DirectRoute`.
    """

    def handle(request: Request, body: bytes | None) -> Response:
        began, status = time.perf_counter(), 500
        try:
            response = _TOO_LARGE.response() if body is None else handler(request, body)
            status = response.status_code
        finally:  # an exception counts too
            requests.count_request(path, status, time.perf_counter() - began)
        return response

    # The requested path is already decoded, %2F too, so an id may contain slashes.
    return DirectRoute(method, compile_path(path.replace("}", ":whole}"))[0], handle, question, prepare)


def error_handler(requests: RequestCounter, routes: list[tuple[str, str]]) -> Callable[[Request, Exception], Response]:
    """Return the handler of unknown paths and methods; its answer lists the known methods and paths."""
    known = [f"{method} {path}" for method, path in routes]
    wanted = f"wanted {', '.join(known[:-1])} or {known[-1]}"

    def handle(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        requests.count_request("other", status, 0.0)
        code: Code = "method-not-allowed" if status == 405 else "not-found"
        return Problem(code, wanted, closes="content-length" in request.headers).response()

    return handle


def scrape(registry: CollectorRegistry) -> Response:
    """Return the metrics in the format that Prometheus scrapes."""
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


Q = TypeVar("Q", bound=Struct)


def parse_query(query: type[Q], parameters: Iterable[tuple[str, str]]) -> Q:
    """Return the parameters of a path and of a query string as a typed query.

    Of a parameter that is given several times, a list has all values, and other types have the last one.

    Raises:
        Refused: one is missing, unknown, or outside its bounds.

    >>> from typing import Annotated
    >>> class Some(Struct, forbid_unknown_fields=True):
    ...     n: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20
    ...     tags: list[str] = []
    >>> parse_query(Some, [("n", "7"), ("tags", "a"), ("tags", "b")])
    Some(n=7, tags=['a', 'b'])
    >>> parse_query(Some, [("n", "x")])
    Traceback (most recent call last):
    headrace.surface.Refused: n: wanted 1 to 100, found 'x'
    """
    fields = _parameters_of(query)
    given: dict[str, list[str]] = {}
    for name, text in parameters:
        given.setdefault(name, []).append(text)
    if unknown := sorted(set(given) - set(fields)):
        raise Refused(f"wanted the parameters {', '.join(fields)}, found {unknown[0][:quoted_characters_max]!r}")
    found: dict[str, Any] = {}
    for name, parameter in fields.items():
        if name not in given:
            if parameter.required:
                raise Refused(f"{name}: wanted {parameter.wanted}, found none")
            continue
        values, text = given[name], given[name][-1]
        try:
            found[name] = msgspec.convert(values if parameter.is_list else text, parameter.kind, strict=False)
        except msgspec.ValidationError:
            shown = f"{len(text)}" if "characters" in parameter.wanted else repr(text[:quoted_characters_max])
            if parameter.is_list and len(values) > 1:
                shown = f"{len(values)} values"
            raise Refused(f"{name}: wanted {parameter.wanted}, found {shown}") from None
    return query(**found)


class _Parameter(NamedTuple):
    """What is known of a parameter by its type, and its bounds in words."""

    kind: Any
    required: bool
    is_list: bool
    wanted: str


@cache
def _parameters_of(query: type[Struct]) -> dict[str, _Parameter]:
    """Return the parameters of a query by name. To look at types takes longer than an answer."""
    return {
        field.encode_name: _Parameter(
            field.type, field.required, isinstance(_plain(field.type), msgspec.inspect.ListType),
            bounds_text(field.type),
        )
        for field in msgspec.structs.fields(query)
    }  # fmt: skip


def parse_body(query: type[Q], body: bytes, parameters: Mapping[str, str]) -> Q:
    """Return the JSON object of a body, and the parameters of the path, as a typed query.

    Raises:
        Refused: it is no such object.

    >>> class Some(Struct, forbid_unknown_fields=True):
    ...     item: str
    ...     n: int = 20
    >>> parse_body(Some, b'{"n": 7}', {"item": "boots"})
    Some(item='boots', n=7)
    """
    try:
        if not parameters:
            return msgspec.json.decode(body, type=query)
        found = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        found |= {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in parameters.items()}
        return msgspec.json.decode(msgspec.json.encode(found), type=query)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        wanted = ", ".join(field.encode_name for field in msgspec.structs.fields(query))
        raise Refused(f"wanted a JSON object of {wanted}, found: {str(error)[:200]}") from None


def _plain(kind: Any) -> msgspec.inspect.Type:
    info = msgspec.inspect.type_info(kind)
    if isinstance(info, msgspec.inspect.UnionType):  # of a type and None
        info = next(one for one in info.types if not isinstance(one, msgspec.inspect.NoneType))
    return info.type if isinstance(info, msgspec.inspect.Metadata) else info


def bounds_text(kind: Any) -> str:
    """Return the bounds of a parameter as text.

    >>> from typing import Annotated
    >>> bounds_text(Annotated[str, msgspec.Meta(min_length=1, max_length=9)])
    '1 to 9 characters'
    >>> bounds_text(Annotated[float, msgspec.Meta(ge=0, le=9.5)] | None)
    '0 to 9.5'
    """
    info = _plain(kind)
    if isinstance(info, msgspec.inspect.IntType | msgspec.inspect.FloatType):
        low = info.ge if info.ge is not None else info.gt
        high = info.le if info.le is not None else info.lt
        if low is not None and high is not None:
            return f"{low} to {high}"
        return "a number" if low is None else f"a number from {low}"
    if isinstance(info, msgspec.inspect.StrType) and info.max_length is not None:
        return f"{info.min_length or 0} to {info.max_length} characters"
    if isinstance(info, msgspec.inspect.ListType) and info.max_length is not None:
        return f"{info.min_length or 0} to {info.max_length} values"
    if isinstance(info, msgspec.inspect.LiteralType):
        return " or ".join(str(value) or "empty" for value in info.values)
    return "another value"


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, so that the port is known before the server runs.

    Raises:
        Misconfigured: it cannot listen on that address.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=256)
        # Connections inherit it. Otherwise an answer's second packet waits 40 ms for an acknowledgement: asyncio sets
        # it only on sockets whose protocol is stated.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, UnicodeError) as error:
        raise Misconfigured(f"serve on {host}:{port}: wanted an address to listen on, found {error}") from error
