"""The commands of the console: `headrace console`, and who may log in to it."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.errors import Misconfigured
from operators.cli.app import BlobsFolder, Host, LogUrl, Set, app, merge_sets, print_starting, read_settings
from operators.cli.models import AsJson
from operators.terminal import say, say_json

people_app = typer.Typer(help="Persons who may log in to the console, and what they may do.", no_args_is_help=True)
app.add_typer(people_app, name="people")

Name = Annotated[str, typer.Argument(help="The person's name, as the audit and the records show it")]
DAY_MS = 86_400_000


@app.command()
def console(
    log: LogUrl = None,
    blobs: BlobsFolder = None,
    host: Host = None,
    port: Annotated[int | None, typer.Option(help="HTTP port; 0 lets the system choose")] = None,
    once: Annotated[
        str | None, typer.Option(help="Print a key for one log-in of a guest with this role: see or operate")
    ] = None,
    sets: Set = None,
) -> None:
    """Show a shop's models in a browser: fresh? good? safe? what changed? And act on them."""
    import uvloop

    from headrace.http import listen
    from headrace.process import collect_garbage_rarely, log_to_stderr, stop_on_signals
    from headrace.server import raise_file_limit
    from operators.console.people import ROLES, People
    from operators.console.server import serve
    from operators.deployment import read_deployment

    guest = next((role for role in ROLES[:2] if role == once), None)
    if once and not guest:
        raise Misconfigured(f"--once {once}: wanted see or operate")
    deployment = read_deployment(**merge_sets(sets, log=log, blobs=blobs, host=host, console={"port": port}))
    settings = deployment.settings
    print_starting("console", settings)
    raise_file_limit(settings.console.connections_max)
    log_to_stderr()
    collect_garbage_rarely()
    stop = stop_on_signals()
    people = People(Path(settings.console.people), once=guest)
    with listen(settings.host, settings.console.port) as listener:
        address = f"http://{settings.host}:{listener.getsockname()[1]}"
        say(f"console: {address}/, log {settings.log}")
        if people.once_key:
            say(f"console: for one log-in: {address}/login?key={people.once_key}")
        elif not people.all():
            say("console: nobody may log in yet; add a person: headrace people add NAME --role operate")
        # In a thread of its own, which lives as long as the commands that actions run (`headrace.tied`).
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1, "http") as http:
            http.submit(uvloop.run, serve(deployment, people, listener, stop)).result()


@people_app.command("add")
def add_person(
    name: Name,
    role: Annotated[str, typer.Option(help="see (read), operate (act, too), or administer (also see the audit)")],
    days: Annotated[float | None, typer.Option(help="Days until the access key stops working")] = None,
    as_json: AsJson = False,
) -> None:
    """Add a person, or give one a new access key; print the key, which is stored nowhere."""
    from headrace.clock import wall_ms
    from operators.console.people import ROLES, add

    if role not in ROLES:
        raise Misconfigured(f"--role {role}: wanted {', '.join(ROLES[:-1])} or {ROLES[-1]}")
    now_ms = wall_ms()
    ends_ms = None if days is None else now_ms + int(days * DAY_MS)
    key = add(_file(), name, role, now_ms=now_ms, ends_ms=ends_ms)
    if as_json:
        say_json({"name": name, "role": role, "key": key})
    else:
        say(f"{name} may {role}; the access key, which is shown this once: {key}")


@people_app.command("list")
def list_people(as_json: AsJson = False) -> None:
    """Show who may log in."""
    import msgspec

    from headrace.clock import wall_ms
    from headrace.events import at
    from operators.console.people import read_people

    people, now_ms = read_people(_file()), wall_ms()
    if as_json:
        rows = [{**msgspec.structs.asdict(one), "works": one.works(now_ms)} for one in people]
        for row in rows:
            del row["digest"]
        say_json(rows)
        return
    for one in people:
        ends = "" if one.ends_ms is None else f", {'ends' if one.works(now_ms) else 'ended'} {at(one.ends_ms):%F %R}"
        say(f"{one.name}  {one.role}, since {at(one.created_ms):%F %R}{ends}")
    if not people:
        say("nobody; add a person: headrace people add NAME --role operate")


@people_app.command("remove")
def remove_person(name: Name) -> None:
    """Take a person's access back; running sessions end."""
    from operators.console.people import remove

    remove(_file(), name)
    say(f"{name} may no longer log in")


def _file() -> Path:
    return Path(read_settings().common.console.people)
