"""The commands of the gateway: `headrace gateway`, and its keys and pseudonyms."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.errors import Misconfigured
from headrace.keys import GRANTS, Role
from operators.cli.app import Host, LogUrl, MetricsPort, Set, app, merge_sets, print_starting, read_settings
from operators.terminal import say

keys = typer.Typer(help="API keys: who may send events, ask for answers, and operate, over HTTP.", no_args_is_help=True)
pseudonyms = typer.Typer(help="The secrets by which ids of shoppers become pseudonyms.", no_args_is_help=True)
app.add_typer(keys, name="keys")
app.add_typer(pseudonyms, name="pseudonyms")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]
KeyId = Annotated[str, typer.Argument(help="The key's id, as `headrace keys list` shows it")]
DAY_MS = 86_400_000


@app.command()
def gateway(
    log: LogUrl = None,
    host: Host = None,
    port: Annotated[int | None, typer.Option(help="HTTP port; 0 lets the system choose")] = None,
    metrics_port: MetricsPort = None,
    sets: Set = None,
) -> None:
    """Take events, items and traits over HTTP, and write them to the log; answer the clients of Gorse."""
    options = merge_sets(sets, log=log, host=host, gateway={"port": port, "metrics_port": metrics_port})
    settings = read_settings(**options).common
    print_starting("gateway", settings)
    import asyncio
    from concurrent.futures import ThreadPoolExecutor
    from contextlib import ExitStack, closing, nullcontext

    import uvloop

    from headrace.clock import wall_ms
    from headrace.http import listen
    from headrace.keys import KeyRing
    from headrace.log.open import open_log
    from headrace.log.protocol import Log
    from headrace.metrics import GatewayMetrics, MetricsServer
    from headrace.process import collect_garbage_rarely, log_to_stderr, stop_on_signals
    from headrace.pseudonyms import Pseudonyms, ensure_secret
    from headrace.server import raise_file_limit
    from headrace.spool import Spool
    from producers.gateway.app import Gateway, make_app
    from producers.gateway.asking import Asking
    from producers.gateway.depot import Depot
    from producers.gateway.doors import Doors
    from producers.gateway.intake import Intake
    from producers.gateway.server import read_secret, serve, tls_context

    own = settings.gateway
    log_to_stderr()
    collect_garbage_rarely()
    stop = stop_on_signals()
    raise_file_limit(own.connections_max)
    secret, tls = read_secret(own.shopify_secret_file), tls_context(own)
    names = None
    if own.pseudonymise:
        path = Path(settings.pseudonyms)
        if ensure_secret(path, wall_ms()):
            say(f"gateway: made the secret of pseudonyms {path}; keep a copy where only you can read it")
        names = Pseudonyms(path)

    def opened() -> Log:
        with ExitStack() as stack:
            found = stack.enter_context(closing(open_log(settings.log)))
            found.create()
            stack.pop_all()
        return found

    metrics = GatewayMetrics()
    doors = Doors(
        KeyRing(Path(settings.keys)), requests_max=own.requests_max, key_requests_max=own.key_requests_max,
        key_events_per_s=own.key_events_per_s,
    )  # fmt: skip
    intake = Intake(names, own.traits)

    asking = Asking(own.answers) if own.answers else None

    async def run() -> None:
        depot = Depot(opened, Spool(Path(own.spool), bytes_max=own.spool_bytes_max))
        made = make_app(Gateway(doors, intake, depot, metrics, own, shopify_secret=secret, asking=asking), metrics)
        with closing(asking) if asking else nullcontext():
            await serve(made, listener, depot, doors, intake, metrics, own, stop)

    with (
        listen(settings.host, own.port) as listener,
        MetricsServer(metrics, host=settings.host, port=own.metrics_port) as scraped,
    ):
        address = f"{'https' if tls else 'http'}://{settings.host}:{listener.getsockname()[1]}"
        scraping = f"metrics on http://{scraped.host}:{scraped.port}/metrics"
        say(f"gateway: takes {address}/v1/events, {scraping}, log {settings.log}")
        # In a thread, because uvloop takes all signals in the main one. With TLS not by uvloop: it reads from a new
        # connection before TLS is begun on it.
        with ThreadPoolExecutor(1, "http") as http:
            http.submit(asyncio.run if tls else uvloop.run, run()).result()


@keys.command("create")
def create_key(
    role: Annotated[str, typer.Option(help="ingest (send events), read (ask for answers), or operate (all of it)")],
    shop: Annotated[str, typer.Option(help="The shop's name, which begins the source of its events")] = "shop",
    origin: Annotated[
        list[str] | None, typer.Option(help="A web page that may use it, e.g. https://shop.example; repeat for more")
    ] = None,
    days: Annotated[float | None, typer.Option(help="Days until it stops working; without, it never does")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key, and print it: it is stored nowhere."""
    from headrace.clock import wall_ms
    from headrace.keys import create

    settings = read_settings().common
    now_ms = wall_ms()
    ends_ms = None if days is None else now_ms + int(days * DAY_MS)
    key, text = create(Path(settings.keys), shop, _role(role), origins=origin or (), ends_ms=ends_ms, now_ms=now_ms)
    _print_key(key.id, text, as_json)


@keys.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """Show the keys of the file, without their texts."""
    import msgspec

    from headrace.clock import wall_ms
    from headrace.events import at
    from headrace.keys import read_keys

    found = read_keys(Path(read_settings().common.keys))
    now_ms = wall_ms()
    if as_json:
        rows = [{**msgspec.structs.asdict(key), "works": key.works(now_ms)} for key in found]
        for row in rows:
            del row["digest"]
        say(msgspec.json.encode(rows).decode())
        return
    for key in found:
        ends = "" if key.ends_ms is None else f", {'ends' if key.works(now_ms) else 'ended'} {at(key.ends_ms):%F %R}"
        pages = f", for {', '.join(key.origins)}" if key.origins else ""
        say(f"{key.id}  {key.role:8}{key.shop}, made {at(key.created_ms):%F %R}{ends}{pages}")
    if not found:
        say("no keys; make one: headrace keys create --role ingest")


@keys.command("revoke")
def revoke_key(id_: KeyId) -> None:
    """Remove a key; servers refuse it within a second."""
    from headrace.keys import revoke

    key = revoke(Path(read_settings().common.keys), id_)
    say(f"revoked: {key.id} ({key.role}, {key.shop})")


@keys.command("rotate")
def rotate_key(
    id_: KeyId,
    grace_hours: Annotated[float, typer.Option(help="For how long the old key still works")] = 24.0,
    as_json: AsJson = False,
) -> None:
    """Make a key like another one, which stops working after a while; print the new one."""
    from headrace.clock import wall_ms
    from headrace.keys import rotate

    if grace_hours < 0:
        raise Misconfigured(f"--grace-hours {grace_hours}: wanted 0 or more")
    path = Path(read_settings().common.keys)
    key, text = rotate(path, id_, grace_ms=int(grace_hours * 3_600_000), now_ms=wall_ms())
    _print_key(key.id, text, as_json)


@pseudonyms.command("create")
def create_pseudonyms() -> None:
    """Make the first secret, for gateways that share a file which they cannot write, such as a secret of Kubernetes."""
    from headrace.clock import wall_ms
    from headrace.pseudonyms import ensure_secret

    path = Path(read_settings().common.pseudonyms)
    if not ensure_secret(path, wall_ms()):
        raise Misconfigured(
            f"pseudonyms {path}: wanted no secret, found one; `headrace pseudonyms rotate` adds another"
        )
    say(f"made {path}; keep a copy where only you can read it")


@pseudonyms.command("list")
def list_pseudonyms() -> None:
    """Show the versions of the secrets."""
    from headrace.events import at
    from headrace.pseudonyms import read_secrets

    found = read_secrets(Path(read_settings().common.pseudonyms))
    for secret in found:
        say(f"version {secret.version}, made {at(secret.created_ms):%F %R}{', in use' if secret is found[-1] else ''}")
    if not found:
        say("no secrets; the gateway makes the first one when it starts")


@pseudonyms.command("rotate")
def rotate_pseudonyms() -> None:
    """Begin a new version: gateways use it within a second, and link each shopper's new pseudonym to the former one."""
    from headrace.clock import wall_ms
    from headrace.pseudonyms import add_secret, read_secrets

    path = Path(read_settings().common.pseudonyms)
    if not read_secrets(path):
        raise Misconfigured(
            f"pseudonyms {path}: wanted a secret to rotate, found none; the gateway makes the first one"
        )
    version = add_secret(path, wall_ms()).version
    say(f"version {version} is in use; retire the one before when its shoppers have returned")


@pseudonyms.command("retire")
def retire_pseudonyms(version: Annotated[int, typer.Argument(help="An older version")]) -> None:
    """Remove an older version: shoppers that were not seen since the rotation begin anew when they return."""
    from headrace.pseudonyms import retire_secret

    retire_secret(Path(read_settings().common.pseudonyms), version)
    say(f"version {version} is retired")


def _role(text: str) -> Role:
    for role in GRANTS:
        if text == role:
            return role
    raise Misconfigured(f"--role {text}: wanted {', '.join(GRANTS)}")


def _print_key(id_: str, text: str, as_json: bool) -> None:
    if as_json:
        import msgspec

        say(msgspec.json.encode({"id": id_, "key": text}).decode())
    else:
        say(f"key {id_}; its text is shown this once:", error=True)
        say(text)
