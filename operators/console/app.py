"""The application of the console: its routes, who may use each, and the order of the checks.

1 the host is one of ours; 2 the session of the cookie; 3 the role of the route; 4 of a form: that one of our pages sent
it; 5 the page or the action; 6 the headers of every answer.
"""

import mimetypes
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from headrace.config import ConsoleSettings
from headrace.errors import BrokenWorld, Misconfigured
from operators.console.audit import Audit
from operators.console.desk import Away, Desk
from operators.console.doors import COOKIE, Session, Sessions, Tries
from operators.console.jobs import Jobs
from operators.console.people import People, Role
from operators.console.visit import HEADERS, HERE, LANGUAGE, THEME, Refusal, Visit, local, redirect, to

kept_s: Final = 365 * 86_400
"""For how long a browser keeps what a person prefers to see, in seconds."""
STATIC: Final = HERE / "static"


class Room(NamedTuple):
    """What pages and actions have in common."""

    desk: Desk
    jobs: Jobs
    people: People
    audit: Audit


Handler = Callable[[Room, Visit], Awaitable[Response]]


class Page(NamedTuple):
    """A page or an action: its path, who may use it, and what answers."""

    path: str
    handler: Handler
    role: Role = "see"
    method: str = "GET"


class Console:
    """Answers requests. Use it in one event loop.

    Args:
        hosts: the names with their ports by which browsers may reach it.
    """

    def __init__(
        self, room: Room, settings: ConsoleSettings, hosts: Sequence[str], pages: Sequence[Page], sessions: Sessions
    ) -> None:
        self._room, self._settings, self._hosts, self._sessions = room, settings, frozenset(hosts), sessions
        self._tries = Tries()
        self._pages = pages
        self._declared = [page for kind in room.desk.deployment.kinds for page in kind.surface.pages]

    def app(self) -> Starlette:
        """Return the application."""
        routes = [Route(page.path, self._answering(page), methods=[page.method]) for page in self._pages]
        routes += [
            Route("/login", self._guarded(self._show_login)),
            Route("/login", self._guarded(self._log_in), methods=["POST"]),
            Route("/logout", self._guarded(self._log_out), methods=["POST"]),
            Route("/prefer", self._guarded(self._prefer)),
            Route("/static/{name}", self._guarded(self._static)),
            Route("/health/live", self._guarded(self._live)),
        ]

        async def lost(request: Request, error: Exception) -> Response:
            status = error.status_code if isinstance(error, HTTPException) else 500
            key = "error.no_page" if status in (404, 405) else "error.failed"
            return self._headed(self._visit(request).render("error.html", status, key=key, values={}))

        made = Starlette(routes=routes, exception_handlers={404: lost, 405: lost, Exception: lost})
        made.router.redirect_slashes = False
        return made

    def _visit(self, request: Request) -> Visit:
        return Visit(request, self._session(request), self._declared)

    def _session(self, request: Request) -> Session | None:
        text = request.cookies.get(COOKIE, "")
        polls = request.method == "GET" and "hx-request" in request.headers
        return self._sessions.find(text, touch=not polls) if text else None

    def _guarded(self, handler: Callable[[Visit], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """Return a handler that is called for requests to our hosts alone, and whose answers have our headers."""

        async def handle(request: Request) -> Response:
            visit = self._visit(request)
            if request.headers.get("host", "").lower() not in self._hosts:
                return self._headed(Response("wanted one of the console's own names as host", 421))
            try:
                if request.method == "POST":
                    await visit.read_form()
                return self._headed(await handler(visit))
            except Refusal as refusal:
                said = {"key": refusal.key, "values": refusal.values}
                return self._headed(visit.render("error.html", refusal.status, **said))
            except (BrokenWorld, Misconfigured) as error:
                structlog.get_logger().warning("log away", error=str(error))
                said = {"key": "error.log_away", "values": {"text": str(error)}}
                return self._headed(visit.render("error.html", 503, **said))
            except Away as error:
                said = {"key": "error.no_answers", "values": {"text": str(error)}}
                return self._headed(visit.render("error.html", 404 if error.unknown else 502, **said))

        return handle

    def _answering(self, page: Page) -> Callable[[Request], Awaitable[Response]]:
        async def answer(visit: Visit) -> Response:
            if visit.session is None:
                if visit.request.method == "GET" and "hx-request" in visit.request.headers:
                    return Response("", 401, {"hx-redirect": "/login"})
                return RedirectResponse(to("/login", next=visit.path if visit.request.method == "GET" else ""), 303)
            if not visit.may(page.role):
                person = visit.session.person
                self._room.audit.write(person.name, visit.address, "refused", of=page.path)
                raise Refusal(403, "error.role", role=visit.says(f"role.{page.role}"))
            return await page.handler(self._room, visit)

        return self._guarded(answer)

    async def _show_login(self, visit: Visit) -> Response:
        if visit.session:
            return redirect(visit.asked("next", "/"))
        known = bool(self._room.people.all()) or bool(self._room.people.once_key)
        return visit.render(
            "login.html", next=local(visit.asked("next", "/")), key=visit.asked("key"), failed="", known=known
        )

    async def _log_in(self, visit: Visit) -> Response:
        key, after = visit.form.get("key", "").strip()[:200], local(visit.form.get("next", "/"))
        if not self._tries.may(visit.address):
            response = visit.render("login.html", 429, next=after, key="", failed="login.too_many", known=True)
            response.headers["retry-after"] = "60"
            return response
        person = self._room.people.admit(key)
        if person is None:
            self._tries.fail(visit.address)
            self._room.audit.write("", visit.address, "log in", outcome="refused")
            return visit.render("login.html", 401, next=after, key="", failed="login.wrong", known=True)
        self._sessions.end(visit.request.cookies.get(COOKIE, ""))
        self._room.audit.write(person.name, visit.address, "log in", outcome="done")
        response = redirect(after)
        response.set_cookie(
            COOKIE, self._sessions.begin(person), httponly=True, samesite="strict", secure=self._settings.secure,
            path="/", max_age=int(self._settings.session_s),
        )  # fmt: skip
        return response

    async def _log_out(self, visit: Visit) -> Response:
        if visit.session:
            self._sessions.end(visit.request.cookies.get(COOKIE, ""))
            self._room.audit.write(visit.session.person.name, visit.address, "log out", outcome="done")
        response = redirect("/login")
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response

    async def _prefer(self, visit: Visit) -> Response:
        response = redirect(visit.asked("next", "/"))
        for cookie, name in ((LANGUAGE, "language"), (THEME, "theme")):
            if value := visit.asked(name):
                if not value.isalpha():
                    raise Refusal(400, "error.no_form")
                response.set_cookie(
                    cookie, value, samesite="strict", httponly=True, secure=self._settings.secure, max_age=kept_s
                )
        return response

    async def _static(self, visit: Visit) -> Response:
        files = static_files()
        found = files.get(visit.request.path_params["name"])
        if found is None:
            raise Refusal(404, "error.no_page")
        kind = mimetypes.guess_type(found.name)[0] or "application/octet-stream"
        return Response(found.read_bytes(), 200, {"cache-control": "public, max-age=3600"}, kind)

    async def _live(self, visit: Visit) -> Response:
        return Response('{"live":true}', media_type="application/json")

    def _headed(self, response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response


def static_files() -> dict[str, Path]:
    """Return the files that browsers load, by name: no path of a request is ever one of ours."""
    return {path.name: path for path in STATIC.rglob("*") if path.suffix in (".js", ".css", ".svg")}


def hosts_of(settings: ConsoleSettings, host: str, port: int) -> list[str]:
    """Return the names by which browsers may reach the console, with and without the port.

    >>> hosts_of(ConsoleSettings(hosts=("console.shop.example",)), "127.0.0.1", 8090)[:2]
    ['127.0.0.1:8090', 'localhost:8090']
    """
    own = [f"[{host}]" if ":" in host else host, "localhost"]
    named = [one.lower() for one in settings.hosts]
    return [*(f"{one}:{port}" for one in own), *(f"{one}:{port}" for one in named), *named]
