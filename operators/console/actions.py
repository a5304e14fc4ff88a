"""What a person may do: each action is a command with the person's name and reason (`jobs`)."""

import asyncio
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from starlette.responses import Response

from headrace.errors import Misconfigured
from headrace.shard.decision import why_characters_max
from operators.console.app import Room
from operators.console.visit import Refusal, Visit, redirect, to
from operators.replay.run import RunFolder

wait_s: Final = 10.0
"""Longest time, in seconds, that a person waits for a command before its page says that it runs."""
field_characters_max: Final = 100_000


def field(visit: Visit, name: str, *, needed: bool = False) -> str:
    """Return a field of a form. Raises Refusal if it is needed and empty, or too long."""
    text = visit.form.get(name, "").strip()
    if needed and not text:
        raise Refusal(400, "act.needed", name=name)
    if len(text) > field_characters_max or "\0" in text:
        raise Refusal(400, "error.no_form")
    return text


def why_of(visit: Visit) -> str:
    """Return the reason that a form states. Raises Refusal without one."""
    why = field(visit, "why", needed=True)
    if len(why) > why_characters_max or not why.isprintable():
        raise Refusal(400, "act.why_short", most=str(why_characters_max))
    return why


async def _run(
    room: Room, visit: Visit, what: str, arguments: Sequence[str], *, of: str, dry: bool = False,
    rest: Sequence[str] = (), by: bool = True, wait: bool = True,
) -> Response:  # fmt: skip
    """Run a command, and show it. What a person typed is the value of an option, or behind `--`.

    Args:
        arguments: the command and its options.
        dry: whether it changes nothing, so that it needs no reason.
        rest: arguments that are no options.
        by: whether the command notes who asks and why.
        wait: for its end, as far as that is soon.
    """
    assert visit.session is not None
    person = visit.session.person.name
    why = "" if dry else why_of(visit)
    options = ["--dry-run"] if dry else []
    if by and not dry:
        options = [f"--why={why}", f"--by={person}"]
    command = [*arguments, *options, *(["--", *rest] if rest else [])]
    try:
        job = room.jobs.start(person, visit.address, what, command, of=of, why=why)
    except Misconfigured as error:
        raise Refusal(429, "act.not_begun", text=str(error)) from None
    if wait:
        with suppress(TimeoutError):
            await asyncio.wait_for(job.ended.wait(), wait_s)
    return redirect(to("/command", number=job.number))


async def model(room: Room, visit: Visit) -> Response:
    """Promote a model, roll back to one, or withdraw one."""
    version, what, dry = field(visit, "version", needed=True), field(visit, "do"), bool(field(visit, "dry"))
    match what:
        case "promote" | "withdraw":
            return await _run(room, visit, what, [what], of=version, rest=[version], dry=dry)
        case "roll-back":
            return await _run(room, visit, what, [what, f"--to={version}"], of=version, dry=dry)
    raise Refusal(400, "error.no_form")


async def state(room: Room, visit: Visit) -> Response:
    """Put a shard's state back to a kept snapshot, or undo that."""
    shard, dry = field(visit, "shard", needed=True), bool(field(visit, "dry"))
    _known(shard, room.desk.deployment.placements)
    back = field(visit, "state")
    chosen = f"--state={back}" if back else "--undo"
    return await _run(room, visit, "roll-back", ["roll-back", chosen, f"--shard={shard}"], of=shard, dry=dry)


async def letters(room: Room, visit: Visit) -> Response:
    """Publish dead letters again, or drop them."""
    what = field(visit, "do") or field(visit, "dry")
    if what not in ("redrive", "drop"):
        raise Refusal(400, "error.no_form")
    ids = field(visit, "ids").split()
    options = [f"--{name}={value}" for name in ("reason", "topic") if (value := field(visit, name))]
    if not ids and not options and field(visit, "all") != "1":
        raise Refusal(400, "letters.which")
    return await _run(
        room, visit, what, ["dead-letters", what, *options], of=" ".join([*ids, *options]) or "all", rest=ids,
        dry=bool(field(visit, "dry")),
    )  # fmt: skip


async def rules(room: Room, visit: Visit) -> Response:
    """Try, state or clear a placement's rules, or show what they would trade."""
    placement, what = field(visit, "placement", needed=True), field(visit, "do")
    option = f"--placement={placement}"
    if what == "clear":
        return await _run(room, visit, "rules clear", ["rules", "clear", option], of=placement)
    document = field(visit, "document", needed=True)
    path = _folder(room) / f"rules-{secrets.token_hex(8)}.json"
    path.write_text(document, encoding="utf-8", errors="replace")
    if what in ("try", "trade"):
        assert visit.session is not None
        job = _begun(room, visit, f"rules {what}", ["rules", what, option, "--", str(path)], placement)
        return redirect(to("/command", number=job))
    if what != "set":
        raise Refusal(400, "error.no_form")
    return await _run(room, visit, "rules set", ["rules", "set", option], of=placement, rest=[str(path)])


async def experiment(room: Room, visit: Visit) -> Response:
    """Create a draft of an experiment, start, ramp or stop one, or remove it."""
    name, what = field(visit, "name", needed=True), field(visit, "do")
    if what == "create":
        path = _folder(room) / f"experiment-{secrets.token_hex(8)}.json"
        path.write_text(field(visit, "document", needed=True), encoding="utf-8", errors="replace")
        rest = [name, str(path)]
    elif what == "ramp":
        rest = [name, field(visit, "share", needed=True)]
    elif what in ("start", "stop", "remove"):
        rest = [name]
    else:
        raise Refusal(400, "error.no_form")
    return await _run(room, visit, f"experiment {what}", ["experiment", what], of=name, rest=rest)


async def silence(room: Room, visit: Visit) -> Response:
    """Silence a detector, or end its silence."""
    detector = field(visit, "detector", needed=True)
    if field(visit, "do") == "end":
        return await _run(room, visit, "drift end", ["drift", "end", f"--detector={detector}"], of=detector)
    begin, until = field(visit, "begin"), field(visit, "until", needed=True)
    options = [f"--detector={detector}", f"--until={until}", *([f"--from={begin}"] if begin else [])]
    return await _run(
        room, visit, "drift silence", ["drift", "silence", *options], of=detector, dry=bool(field(visit, "dry"))
    )


async def replay(room: Room, visit: Visit) -> Response:
    """Begin a shadow run, or let one go on; with `dry`, estimate it."""
    name, shard = field(visit, "name", needed=True), field(visit, "shard") or "online"
    _check_run(room, name)
    _known(shard, room.desk.deployment.placements)
    options = [f"--into={name}", f"--shard={shard}"]
    options += [f"--{option}={value}" for option in ("from", "to", "rate") if (value := field(visit, option))]
    for option, source in (("set", "sets"), ("without", "without")):
        options += [f"--{option}={line.strip()}" for line in field(visit, source).split("\n") if line.strip()]
    dry = bool(field(visit, "dry"))
    return await _run(room, visit, "replay", ["replay", *options], of=name, dry=dry, by=False, wait=dry)


async def run(room: Room, visit: Visit) -> Response:
    """Compare a run, put its state in place, or delete it."""
    name, what = field(visit, "name", needed=True), field(visit, "do")
    _check_run(room, name)
    match what:
        case "diff":
            picture = pictures(room, name)
            picture.unlink(missing_ok=True)
            arguments = ["replay", "diff", f"--picture={picture}", "--", name]
            job = _begun(room, visit, "diff", arguments, name)
            return redirect(to("/command", number=job))
        case "promote":
            dry = bool(field(visit, "dry"))
            return await _run(room, visit, "replay promote", ["replay", what], of=name, rest=[name], dry=dry)
        case "delete":
            return await _run(room, visit, "replay delete", ["replay", what], of=name, rest=[name], by=False)
    raise Refusal(400, "error.no_form")


def pictures(room: Room, name: str) -> Path:
    """Return where the picture of a run's comparison is drawn. Raises Refusal if that is no name of a run."""
    _check_run(room, name)
    return _folder(room) / f"{name}.png"


def _check_run(room: Room, name: str) -> None:
    try:
        RunFolder(room.desk.blobs, name)
    except Misconfigured as error:
        raise Refusal(400, "replays.bad_name", text=str(error)) from None


def _folder(room: Room) -> Path:
    """Return a folder of this process for what commands are given and draw."""
    if room.desk.folder is None:
        room.desk.folder = tempfile.TemporaryDirectory(prefix="headrace-console-")
    return Path(room.desk.folder.name)


def _begun(room: Room, visit: Visit, what: str, command: Sequence[str], of: str) -> int:
    assert visit.session is not None
    try:
        return room.jobs.start(visit.session.person.name, visit.address, what, command, of=of).number
    except Misconfigured as error:
        raise Refusal(429, "act.not_begun", text=str(error)) from None


def _known(name: str, names: Mapping[str, object]) -> None:
    if name not in names:
        raise Refusal(400, "error.no_form")


ACTIONS: Final[dict[str, Callable[[Room, Visit], Awaitable[Response]]]] = {
    "/act/model": model, "/act/state": state, "/act/letters": letters, "/act/rules": rules,
    "/act/experiment": experiment, "/act/silence": silence,
    "/act/replay": replay, "/act/run": run,
}  # fmt: skip
