"""What the console knows: the log, read by one thread and only as far as it has grown, and the server of answers."""

import asyncio
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from headrace.announcement import Announcement
from headrace.errors import BrokenWorld, Misconfigured
from headrace.log.protocol import Log
from headrace.reading import decode_scores
from headrace.shard.blobs import Blobs
from headrace.surface import Bets, FamilyScores, Route
from headrace.topics import SCORES
from operators.deployment import Deployment
from operators.replay.plan import opened_to_read
from operators.scraping import configured, running
from operators.status import Status, StatusReader
from operators.tails import Thinned
from operators.wealth import Wealth

status_s: Final = 2.0
"""For how long a state of the log is shown before it is read again, in seconds."""
records_max: Final = 20_000
"""Most records of each topic that are looked at, the newest ones."""
counted_max: Final = 200
"""Up to how many records that wait in a partition are counted, as that reads them; of more, a bound is shown."""
answer_s_max: Final = 3.0
answer_bytes_max: Final = 8 * 2**20

course_max: Final = 200
"""Most records of a family's scores that a page draws; of a longer time, some are left out evenly."""

T = TypeVar("T")


class Away(Exception):
    """There is no answer of the server; the text says why.

    Attributes:
        unknown: whether the server answers, but knows nothing of what was asked for.
    """

    def __init__(self, text: str, *, unknown: bool = False) -> None:
        super().__init__(text)
        self.unknown = unknown


class Desk:
    """Reads what pages show.

    Args:
        key: the API key by which the server is asked, "" for none.

    Attributes:
        folder: of what commands are given and draw, once there is something.
    """

    def __init__(self, deployment: Deployment, *, answers: str = "", key: str = "") -> None:
        self.deployment, self.blobs = deployment, Blobs(deployment.settings.blobs)
        self._answers, self._key = answers.rstrip("/"), key
        self._reading = ThreadPoolExecutor(1, "reading")
        self._searching = ThreadPoolExecutor(1, "searching")
        self._asking = ThreadPoolExecutor(4, "asking")
        self.folder: tempfile.TemporaryDirectory[str] | None = None
        self._open = ExitStack()
        self._log: Log | None = None
        self._reader: StatusReader | None = None
        self._status: Status | None = None
        self._wealth: Wealth | None = None
        self._course: Thinned[FamilyScores] | None = None
        self._status_at = float("-inf")

    async def status(self) -> Status:
        """Return the state of the log, at most `status_s` old. Raises BrokenWorld and Misconfigured."""
        return await self.read(lambda log, reader: self._newest(reader))

    async def read(self, function: Callable[[Log, StatusReader], T]) -> T:
        """Return what a function reads; it runs in the thread of the log, with what `StatusReader` has read so far.

        Raises:
            BrokenWorld, Misconfigured: the log cannot be read. Another call opens it again.
        """
        return await asyncio.get_running_loop().run_in_executor(self._reading, self._read, function)

    async def course(self, family: str) -> list[FamilyScores]:
        """Return a family's scores over the time that the log holds, oldest first, at most about `course_max`.

        Raises:
            BrokenWorld, Misconfigured: the log cannot be read.
        """

        def look(log: Log, reader: StatusReader) -> list[FamilyScores]:
            if self._course is None:
                types = {kind.name: kind.surface.scores for kind in self.deployment.kinds if kind.surface.pages}
                self._course = Thinned(
                    SCORES, lambda record: decode_scores(record, types), kept_max=course_max, records_max=records_max
                )
            self._course.look(log)
            return self._course.of(family)

        return await self.read(look)

    async def search(self, function: Callable[[Log], T]) -> T:
        """Return what a function finds that may read much; it runs in a thread of its own, one at a time."""

        def opened() -> T:
            with opened_to_read(self.deployment.settings) as log:
                return function(log)

        return await asyncio.get_running_loop().run_in_executor(self._searching, opened)

    async def wealth(self, blob: str, announcements: Sequence[Announcement]) -> list[Bets]:
        """Return how the trial of a candidate stood after its comparisons; the first time, that takes longer."""

        def curve() -> list[Bets]:
            with opened_to_read(self.deployment.settings) as log:
                if self._wealth is None:
                    self._wealth = Wealth(self.deployment.kinds)
                self._wealth.look(log)
                return self._wealth.curve(blob, announcements)

        return await asyncio.get_running_loop().run_in_executor(self._searching, curve)

    async def answer(self, path: Sequence[str], parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return what the server answers to a question, with every field that the route declares.

        Raises:
            Away: there is no server, it does not answer, it refuses the question, or its answer is not of the declared
                form, because it is of another release.
        """
        return await asyncio.get_running_loop().run_in_executor(self._asking, self._ask, path, parameters or {})

    def close(self) -> None:
        """Close the log, once nobody reads it."""
        for executor in (self._reading, self._searching, self._asking):
            executor.shutdown(wait=True, cancel_futures=True)
        self._open.close()
        if self.folder:
            self.folder.cleanup()

    def _read(self, function: Callable[[Log, StatusReader], T]) -> T:
        try:
            if self._log is None or self._reader is None:
                self._log = self._open.enter_context(opened_to_read(self.deployment.settings))
                self._reader = StatusReader(
                    self._log, self.deployment, records_max=records_max, counted_max=counted_max
                )
                self._status = None
            self._newest(self._reader)
            return function(self._log, self._reader)
        except BrokenWorld:
            self._log = self._reader = self._course = None
            self._open.close()
            self._open = ExitStack()
            raise

    def _newest(self, reader: StatusReader) -> Status:
        if self._status is None or time.monotonic() - self._status_at >= status_s:
            self._status, self._status_at = reader.read(), time.monotonic()
        return self._status

    def route(self, path: Sequence[str]) -> Route | None:
        """Return the declared route that answers a path; None if no family of the deployment has one."""
        found = [
            route
            for kind in self.deployment.kinds
            for route in kind.surface.routes
            if route.method == "GET" and _is_of(route.path.split("/")[1:], path)
        ]
        return min(found, key=lambda route: route.path.count("{"), default=None)

    def _ask(self, path: Sequence[str], parameters: Mapping[str, Any]) -> dict[str, Any]:
        route = self.route(path)
        if route is None:
            raise Away(f"no family of this shop answers /{'/'.join(path[:2])}", unknown=True)
        address = (
            self._answers
            or running(self.deployment).get("serve", "")
            or configured(self.deployment).get("serve", "")
        )  # fmt: skip
        if not address:
            raise Away("no server of answers is known: see the setting console.answers")
        target = "/".join((address, *(quote(part, safe="", errors="replace") for part in path)))
        stated = urlencode({name: value for name, value in parameters.items() if value != ""}, doseq=True)
        asked = urllib.request.Request(f"{target}?{stated}" if stated else target)
        if self._key:
            asked.add_header("Authorization", f"Bearer {self._key}")
        try:
            with urllib.request.urlopen(asked, timeout=answer_s_max) as response:
                found = msgspec.json.decode(response.read(answer_bytes_max), type=dict[str, Any])
                return {**found, **_whole(msgspec.convert(found, route.answer))}
        except urllib.error.HTTPError as error:
            with error:
                text = _detail(error.read(10_000)) or f"status {error.code}"
                raise Away(text, unknown=error.code == 404) from None
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise Away(f"{address}: {error}") from None


def _is_of(declared: Sequence[str], path: Sequence[str]) -> bool:
    """Return whether a path is one of those that a route declares, both in parts.

    >>> _is_of(["v1", "items", "{item}"], ["v1", "items", "a/b"]), _is_of(["v1", "items"], ["v1", "new"])
    (True, False)
    """
    return len(declared) == len(path) and all(
        part[:1] == "{" or part == own for part, own in zip(declared, path, strict=True)
    )


def _whole(value: Any) -> Any:
    """Return an answer as plain values with all its fields: those of JSON lack the ones that have their default."""
    if isinstance(value, msgspec.Struct):
        names = zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
        return {encoded: _whole(getattr(value, name)) for name, encoded in names}
    if isinstance(value, dict):
        return {name: _whole(one) for name, one in value.items()}
    return [_whole(one) for one in value] if isinstance(value, list | tuple) else value


def _detail(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body, type=dict[str, Any]).get("detail", ""))
    except msgspec.MsgspecError:
        return ""


def key_in(path: str) -> str:
    """Return the API key in a file, "" if no file is named. Raises Misconfigured."""
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"console.key_file {path}: wanted a file with a key, found: {error}") from error
