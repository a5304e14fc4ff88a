"""A request of a person, and the page that answers it."""

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, tzinfo
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from headrace.pages import Page
from headrace.text import visible
from operators.catalogue import LANGUAGES, Catalogue, catalogue, number, percent, size
from operators.console.doors import Session
from operators.console.people import Role
from operators.tables import NONE, cell, shown_name

HERE: Final = Path(__file__).parent
LANGUAGE, THEME, ZONE = "headrace_language", "headrace_theme", "headrace_zone"
"""Cookies of what a person prefers to see; they are no secrets."""
THEMES: Final = ("auto", "light", "dark")
form_bytes_max: Final = 2**18
_ZONE_NAME: Final = re.compile(r"[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}")
HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
"""Of every page: nothing in it is loaded from elsewhere, runs or styles it from within, or is kept."""


NAVIGATION: Final[tuple[tuple[str, tuple[tuple[str, str, Role], ...]], ...]] = (
    ("", (("/", "front", "see"),)),
    (
        "live",
        (
            ("/quality", "quality", "see"), ("/drift", "drift", "see"), ("/rounds", "training", "see"),
            ("/models", "models", "see"), ("/stream", "stream", "see"),
        ),
    ),
    (
        "hands",
        (
            ("/letters", "letters", "see"), ("/rules", "rules", "see"), ("/experiments", "experiments", "see"),
            ("/replays", "replays", "see"),
        ),
    ),
    ("shop", (("/shoppers", "shoppers", "see"), ("/retention", "retention", "see"))),
    ("inspect", (("/items", "items", "see"), ("/events", "events", "see"))),
    (
        "record",
        (
            ("/changes", "changes", "see"), ("/commands", "commands", "see"), ("/settings", "settings", "see"),
            ("/audit", "audit", "administer"),
        ),
    ),
)  # fmt: skip
"""The groups of pages: the path, the key and the role of each."""
DECLARED: Final = "shop"
"""The group in which pages that families declare follow."""


class Refusal(Exception):
    """A request that is not answered with what it asks for: a status, and the key of what is said."""

    def __init__(self, status: int, key: str, **values: str) -> None:
        super().__init__(key)
        self.status, self.key, self.values = status, key, values


class Visit:
    """A request, with what of it and of its session pages need.

    Args:
        declared: the pages that families declare.

    Attributes:
        session: None before the log-in.
        says: the catalogue of the person's language, with times in the person's zone.
        form: the fields of a form that was sent.
    """

    def __init__(self, request: Request, session: Session | None, declared: Sequence[Page] = ()) -> None:
        self.request, self.session, self._declared = request, session, declared
        cookies = request.cookies
        wanted = cookies.get(LANGUAGE, "")
        language = wanted if wanted in LANGUAGES else accepted(request.headers.get("accept-language", ""))
        self.says: Catalogue = catalogue(language).within(zone_of(cookies.get(ZONE, "")))
        theme = cookies.get(THEME, "auto")
        self.theme = theme if theme in THEMES else "auto"
        self.form: dict[str, str] = {}

    @property
    def address(self) -> str:
        """The address from which the request comes."""
        return self.request.client.host if self.request.client else ""

    @property
    def path(self) -> str:
        """The path with its query."""
        query = self.request.url.query
        return self.request.url.path + (f"?{query}" if query else "")

    def navigation(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Return the links to pages that the person may see, by group: paths and names."""
        found = []
        for group, links in NAVIGATION:
            named = [(path, self.says(f"nav.{key}")) for path, key, role in links if self.may(role)]
            if group == DECLARED:
                named += [(declared_path(one.name), self.says.declared(one.title)) for one in self._declared]
            found.append((group, named))
        return found

    def page_of(self, question: str) -> str:
        """Return the page that tells more about one of the four answers."""
        return {"fresh": "/stream", "good": "/quality", "safe": "/drift", "changed": "/changes"}[question]

    def asked(self, name: str, otherwise: str = "") -> str:
        """Return a parameter of the query string, cut to a sensible length."""
        return self.request.query_params.get(name, otherwise)[:1_000]

    def may(self, role: Role) -> bool:
        """Return whether the person may do what a role may."""
        return self.session is not None and self.session.person.may(role)

    async def read_form(self) -> None:
        """Read the form that was sent. Raises Refusal if it is none of ours."""
        if self.request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise Refusal(403, "error.foreign")
        origin = self.request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != self.request.headers.get("host", ""):
            raise Refusal(403, "error.foreign")
        body = bytearray()
        async for piece in self.request.stream():
            body += piece
            if len(body) > form_bytes_max:
                raise Refusal(413, "error.too_long")
        try:
            fields = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=200)
        except (ValueError, UnicodeDecodeError):
            raise Refusal(400, "error.no_form") from None
        self.form = {name: value.replace("\r\n", "\n") for name, value in fields}
        if self.session and not secrets.compare_digest(
            self.form.get("token", "").encode(), self.session.token.encode()
        ):
            raise Refusal(403, "error.foreign")

    def render(self, template: str, code: int = 200, **context: Any) -> Response:
        """Return a page."""
        says, session = self.says, self.session
        made = templates().get_template(template).render(
            visit=self, t=says, person=session.person if session else None, token=session.token if session else "",
            here=self.request.url.path, languages=LANGUAGES, themes=THEMES, time=self._time, day=self._day,
            **context,
        )  # fmt: skip
        return HTMLResponse(made, code)

    def _time(self, ms: float | None) -> str:
        """Return a time as an element that says it in UTC for programs."""
        return self._element(ms, self.says.time)

    def _day(self, ms: float | None) -> str:
        """Return the day of a time as such an element."""
        return self._element(ms, self.says.day)

    def _element(self, ms: float | None, written: Callable[[float], str]) -> str:
        if not ms:
            return NONE
        utc = catalogue("en").time(ms)[:19].replace(" ", "T")
        return Markup('<time datetime="{}Z">{}</time>').format(utc, written(ms))


def accepted(header: str) -> str:
    """Return the first language of a browser that the console has.

    >>> accepted("fr,zh-CN;q=0.8,en;q=0.5"), accepted("")
    ('zh', 'en')
    """
    for part in header.split(","):
        name = part.split(";")[0].strip().split("-")[0].lower()
        if name in LANGUAGES:
            return name
    return "en"


@cache
def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


def zone_of(name: str) -> tzinfo:
    """Return the zone of a name, UTC if there is none.

    >>> zone_of("../etc/passwd"), zone_of("")
    (datetime.timezone.utc, datetime.timezone.utc)
    """
    return _zone(name) if _ZONE_NAME.fullmatch(name) else UTC


def local(path: str) -> str:
    """Return a path to which a person may be sent: one of this server, or the front page.

    >>> local("/models?page=2"), local("//evil.example"), local("https://evil.example"), local("/" + chr(92) + "evil")
    ('/models?page=2', '/', '/', '/')
    """
    if not path.startswith("/") or path.startswith("//") or not path.isprintable() or "\\" in path:
        return "/"
    return path


def to(path: str, **query: Any) -> str:
    """Return a path with a query string, in which any text may be.

    >>> to("/item", id='a/b"&<')
    '/item?id=a%2Fb%22%26%3C'
    """
    stated = {name: value for name, value in query.items() if value not in ("", None)}
    return f"{path}?{urlencode(stated, errors='replace')}" if stated else path


def declared_path(name: str) -> str:
    """Return the path of a page that a family declares."""
    return f"/pages/{name}"


def redirect(path: str, status: int = 303) -> Response:
    """Return a redirection to a path of this server."""
    return RedirectResponse(local(path), status)


def shown(text: object) -> str:
    """Return a text from outside as it is shown: every character visible, and no line's end before a per cent sign."""
    return visible(str(text), 200).replace(" %", "\N{NO-BREAK SPACE}%")


def told(value: Any) -> str:
    """Return a value of a record in words.

    >>> told([1, 0.25]), told("a"), told(1234)
    ('1, 0.25', 'a', '1,234')
    """
    if isinstance(value, list):
        return ", ".join(map(told, value))
    return number(value) if isinstance(value, int | float) else str(value)


def plain(text: str) -> str:
    """Return a text of the reference without its links.

    >>> plain("Whether ([how](a.md#b)) it `is`.")
    'Whether (how) it is.'
    """
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "")


def line(values: Sequence[float], width: float = 120.0, height: float = 30.0) -> str:
    """Return the points of a line over a picture of this size, from 0 or the least value up.

    >>> line([0, 1])
    '0.0,29.0 120.0,1.0'
    """
    low, high = min(0.0, *values), max(values)
    step, rise = width / max(1, len(values) - 1), (height - 2) / ((high - low) or 1)
    return " ".join(f"{n * step:.1f},{height - 1 - (value - low) * rise:.1f}" for n, value in enumerate(values))


def area(values: Sequence[float], width: float = 120.0, height: float = 30.0) -> str:
    """Return the points of what is below `line`."""
    return f"0,{height} {line(values, width, height)} {width},{height}"


def bars(values: Sequence[float], width: float = 120.0, height: float = 30.0) -> list[tuple[str, ...]]:
    """Return place and size of a bar for each value; one of 0 is a thin line.

    >>> bars([0, 2])
    [('0.0', '29.5', '54.0', '0.5'), ('60.0', '0.0', '54.0', '30.0')]
    """
    step, high = width / max(1, len(values)), max(values) or 1
    tall = [max(0.5, value / high * height) for value in values]
    return [
        (f"{n * step:.1f}", f"{height - one:.1f}", f"{0.9 * step:.1f}", f"{one:.1f}") for n, one in enumerate(tall)
    ]  # fmt: skip


@cache
def templates() -> Environment:
    """Return the templates. Every value is escaped in them."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, auto_reload=False,
    )  # fmt: skip
    filters: Mapping[str, Callable[..., Any]] = {
        "number": number, "percent": percent, "size": size, "shown": shown,
        "line": line, "area": area, "bars": bars, "json": lambda data: msgspec.json.encode(data).decode(),
        "name": shown_name, "plain": plain, "told": told,
        "cell": lambda value, percent_of: cell(value, percent_of=percent_of),
    }  # fmt: skip
    made.filters.update(filters)
    made.globals.update(to=to, NONE=NONE)
    return made
