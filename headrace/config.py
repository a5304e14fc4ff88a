"""Settings: the only place that reads the environment and `headrace.toml`.

An option on the command line overrides the environment, which overrides the file, which overrides the default. Common
settings are `HEADRACE_LOG`, `HEADRACE_BLOBS`, `HEADRACE_HOST`. Those of a process are `HEADRACE_SERVE__PORT` and so on,
in the file a table (`[serve]`); those of a shard `HEADRACE_SHARDS__ONLINE__METRICS_PORT` (`[shards.online]`). Each
family has a section of its own, whose type it declares. Unknown names are rejected. (The `HEADRACE_KAFKA*` variables of
`headrace.log.kafka.security` and `headrace.log.broker` configure a secured broker and the brokers of tests.)

`docs/settings.md` is generated from the docstrings of the settings.
"""

import ast
import os
import tomllib
from collections.abc import Mapping
from functools import cache
from inspect import cleandoc, getsource
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError
from pydantic_settings import TomlConfigSettingsSource as TomlSource

from headrace.errors import Misconfigured
from headrace.topics import SHARDS_MAX

Port = Annotated[int, Field(ge=0, le=65_535)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
FeedbackEvent = Literal[
    "view_item", "select_item", "add_to_cart", "add_to_wishlist", "purchase", "view_item_list", ""
]  # fmt: skip
"""What a type of Gorse's feedback may mean; "" for nothing that is used."""

DEFAULT_LOG = "sqlite:headrace-data/log.db"
FILE = "headrace.toml"
OTHER_PREFIXES = ("HEADRACE_KAFKA", "HEADRACE_DATA")
"""Prefixes of `HEADRACE_` variables that other modules read."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardSettings(_Section):
    """A shard: a process that learns, with a journal of its own."""

    families: tuple[str, ...] = ()
    """Families that this shard folds instead of their default shards, by name."""
    partition: Annotated[int, Field(ge=0, lt=SHARDS_MAX)]
    """The shard's partition of `journal` and `judgements`: unique to each shard, never changed."""
    metrics_port: Port = 0
    """Port of `/metrics`; with 0 the system chooses a free one."""
    commit_interval_s: Seconds = 0.3
    """Longest time, in seconds, between two commits while there are events."""
    snapshot_interval_s: Seconds = 20.0
    """Least time, in seconds, between two snapshots; they are rarer where they would take over 5 % of the time."""
    flood_share: Share = 0.5
    """Share of bad records among 5,000 above which the process stops."""
    retry_s: Seconds = 60.0
    """Time, in seconds, for which failed operations of the log or the disk are retried before the process exits."""


DEFAULT_SHARDS: dict[str, dict[str, Any]] = {
    "online": {"partition": 0, "metrics_port": 9101},
    "finetune": {"partition": 1, "metrics_port": 9102},
}


class ServeSettings(_Section):
    """The HTTP server, which also answers scrapes."""

    port: Port = 8080
    """HTTP port; with 0 the system chooses a free one."""
    require_key: bool = False
    """Whether questions need an API key of the role `read` or `operate`."""
    stale_s_max: Seconds = 30.0
    """Age, in seconds, of the oldest event that is not in the answers yet, above which `/health/ready` returns 503."""
    compare_s: Seconds = 600.0
    """Least time, in seconds, between two comparisons of this server's state with a snapshot of its shard."""
    connections_max: Annotated[int, Field(gt=0)] = 1_000
    """Most open connections; a new one takes the place of the one that is idle longest."""
    request_s_max: Seconds = 10.0
    """Longest time, in seconds, for which a request may take to arrive."""
    retry_s: Seconds = 60.0
    """Time, in seconds, for which failed operations of the log or the disk are retried before the process exits."""
    impressions: bool = True
    """Whether what answers show is written to the topic `impressions` ([how](serving.md#impressions))."""
    impressions_queue_max: Annotated[int, Field(gt=0)] = 10_000
    """Most impressions that wait to be written; further ones are dropped."""


class GatewaySettings(_Section):
    """The gateway, which takes events, items and traits over HTTP ([how](gateway.md))."""

    port: Port = 8081
    """Port of the public routes; with 0 the system chooses a free one."""
    metrics_port: Port = 9105
    """Port of `/metrics`; with 0 the system chooses a free one."""
    pseudonymise: bool = True
    """Whether ids of shoppers and sessions become pseudonyms; if not, they are written as they are given."""
    traits: tuple[str, ...] = ("country", "region", "language", "plan", "tier", "newsletter", "birth_year", "segment")
    """Names of the traits of shoppers that are kept; all others are dropped."""
    origins: tuple[str, ...] = ()
    """Web pages that may send with any key, such as `https://shop.example`, beside those that keys name."""
    answers: str = ""
    """URL of `headrace serve`, such as `http://localhost:8080`, for the questions of Gorse's clients ([how](gorse.md));
    without it they are refused."""
    gorse_feedback: dict[str, FeedbackEvent] = {}
    """Types of Gorse's feedback beside the [usual ones](gorse.md#feedback), and the event that each is, such as
    `{share = "select_item"}`; an empty text for feedback that is not used."""
    shopify_secret_file: str = ""
    """File with the secret by which Shopify signs its webhooks; without it they are refused."""
    certificate: str = ""
    """File of a TLS certificate with its chain, in PEM; with it the public port speaks HTTPS only."""
    certificate_key: str = ""
    """File of the certificate's private key, in PEM."""
    body_bytes_max: Annotated[int, Field(gt=0)] = 2 * 2**20
    """Most bytes of a request's body, before and after decompression."""
    body_s_max: Seconds = 10.0
    """Longest time, in seconds, for which a request's head and body may take to arrive."""
    connections_max: Annotated[int, Field(gt=0)] = 1_000
    """Most open connections; further ones are closed at once."""
    requests_max: Annotated[int, Field(gt=0)] = 64
    """Most requests at a time."""
    key_requests_max: Annotated[int, Field(gt=0)] = 32
    """Most requests at a time with one key."""
    key_events_per_s: Annotated[float, Field(gt=0)] = 5_000.0
    """Events a second with one key; twice as many may come at once. A kilobyte of a body counts as one at least."""
    spool: str = "headrace-data/spool"
    """Folder of this gateway alone, in which events wait on disk while the log does not answer."""
    spool_bytes_max: Annotated[int, Field(gt=0)] = 256 * 2**20
    """Most bytes in it."""


class ConsoleSettings(_Section):
    """The console, where persons see and operate a shop in a browser ([how](console.md))."""

    port: Port = 8090
    """Port; with 0 the system chooses a free one."""
    people: str = "headrace-data/people.json"
    """File of the persons who may log in ([`headrace people`](console.md#people))."""
    audit: str = "headrace-data/console-audit.jsonl"
    """File to which each log-in and each action is appended: who, what, why and when."""
    hosts: tuple[str, ...] = ()
    """Names by which browsers reach the console, beside the address it listens on, such as `console.shop.example`."""
    secure: bool = False
    """Whether browsers reach it by HTTPS only, as behind a proxy that ends TLS; then cookies are sent by HTTPS only."""
    idle_s: Seconds = 1_800.0
    """Time, in seconds, without a request after which a session ends."""
    session_s: Seconds = 43_200.0
    """Longest time, in seconds, that a session lasts."""
    answers: str = ""
    """URL of `headrace serve`, such as `http://localhost:8080`, which is asked about items and shoppers; by default
    the one that runs on this machine."""
    key_file: str = ""
    """File with an API key of the role `read`, where the server wants one."""
    connections_max: Annotated[int, Field(gt=0)] = 200
    """Most open connections; a new one takes the place of the one that is idle longest."""
    request_s_max: Seconds = 10.0
    """Longest time, in seconds, for which a request may take to arrive."""


class ProducerSettings(_Section):
    """A producer."""

    metrics_port: Port = 9103
    """Port of `/metrics`; with 0 the system chooses a free one."""
    retry_s: Seconds = 60.0
    """Time, in seconds, for which failed operations of the log are retried before the process exits."""


class ArchiveSettings(_Section):
    """The archive: Parquet files of what the log holds, which go on where its retention ends."""

    url: str = ""
    """Folder or URL (of fsspec, such as `s3://bucket/shop`) of the archive. Where it is set, every process reads from
    it what the log no longer holds."""
    metrics_port: Port = 9104
    """Port of `/metrics` of the archiver; with 0 the system chooses a free one."""
    flush_interval_s: Seconds = 60.0
    """Longest time, in seconds, for which the archiver holds records before it writes them."""
    flush_bytes: Annotated[int, Field(gt=0)] = 64 * 2**20
    """Bytes of keys and values that the archiver holds at most."""
    retry_s: Seconds = 60.0
    """Time, in seconds, for which failed operations of log and archive are retried before the process exits."""


class TrimSettings(_Section):
    """Trimming of a log in a file, by the shard that writes the dead letters ([how](operating.md#retention))."""

    keep_days: Annotated[float, Field(ge=0)] = 30.0
    """How long, in days, records of `events`, `journal` and `judgements` are kept at least; with 0, for ever."""


class _Reading(BaseSettings):
    """The settings that `headrace.open` uses; all others are ignored."""

    model_config = SettingsConfigDict(extra="ignore", env_prefix="HEADRACE_", env_nested_delimiter="__", toml_file=FILE)

    log: str = DEFAULT_LOG
    families: tuple[str, ...] = ()
    archive: ArchiveSettings = ArchiveSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment, then the file."""
        return env_settings, TomlSource(settings_cls)


class Settings(BaseSettings):
    """The settings that belong to no family. All processes share `log` and `blobs`."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="HEADRACE_", env_nested_delimiter="__", toml_file=FILE
    )

    log: str = DEFAULT_LOG
    """`sqlite:PATH` or `kafka:HOST:PORT[,HOST:PORT][?prefix=NAME]`."""
    blobs: str = "headrace-data/blobs"
    """Folder of snapshots and models, shared by all processes."""
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address to listen on, for HTTP and metrics."""
    families: tuple[str, ...] = ()
    """Families of your own, each as `module:Class` ([how](adding-a-learner.md))."""
    shards: dict[str, ShardSettings] = Field(default=DEFAULT_SHARDS, validate_default=True)
    """The shards by name; a shard that is not named keeps its defaults."""
    keys: str = "headrace-data/keys.json"
    """File of API keys ([`headrace keys`](gateway.md#keys))."""
    pseudonyms: str = "headrace-data/pseudonyms.json"
    """File of the secrets of pseudonyms; gateway and server share it, and nobody else may read it."""
    serve: ServeSettings = ServeSettings()
    gateway: GatewaySettings = GatewaySettings()
    console: ConsoleSettings = ConsoleSettings()
    producer: ProducerSettings = ProducerSettings()
    archive: ArchiveSettings = ArchiveSettings()
    trim: TrimSettings = TrimSettings()

    @field_validator("shards", mode="before")
    @classmethod
    def _with_defaults(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        names = dict.fromkeys([*DEFAULT_SHARDS, *given])
        return {
            name: {**DEFAULT_SHARDS.get(name, {}), **part} if isinstance(part := given.get(name, {}), Mapping) else part
            for name in names
        }

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read options, then the environment, then the file."""
        return init_settings, env_settings, TomlSource(settings_cls)


def descriptions(section: type[BaseModel]) -> dict[str, str]:
    """Return what each setting is, by its name: the docstrings below the fields, of which only pages have use.

    >>> descriptions(TrimSettings)["keep_days"]
    'How long, in days, records of `events`, `journal` and `judgements` are kept at least; with 0, for ever.'
    """
    (defined,) = ast.parse(getsource(section)).body
    assert isinstance(defined, ast.ClassDef)
    return {
        field.target.id: cleandoc(text.value.value)
        for field, text in pairwise(defined.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


class Sections(NamedTuple):
    """All settings, and the section of each family."""

    common: Settings
    families: dict[str, Struct]


def own_families(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the setting `families`, which is read before the other settings. Raises Misconfigured."""
    return _read(_Reading, environ, {}).families


def archive_of(log: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return the setting `archive.url` if the setting `log` is this URL, else "". Raises Misconfigured."""
    found = _read(_Reading, environ, {})
    return found.archive.url if found.log == log else ""


def settings(
    families: Mapping[str, type[Struct]] | None = None, environ: Mapping[str, str] = os.environ, **options: Any
) -> Sections:
    """Return the settings, overridden by the options of a command line (None: not given).

    Args:
        families: the type of each family's section, by the family's name.

    Raises:
        Misconfigured: an unknown name or an invalid value; the text names it, what was wanted and what was found.
    """
    kinds = families or {}
    if taken := sorted(set(kinds) & set(Settings.model_fields)):
        raise Misconfigured(f"family {taken[0]}: wanted a name that differs from those of the settings, found the same")
    made = _read(_with_sections(tuple(kinds)), environ, options)
    if made.log.startswith("kafka:") and "@" in made.log:  # checked first; the error must not repeat a password
        raise Misconfigured(
            "log: wanted kafka:HOST:PORT, found an @ in it; user and password belong in "
            "HEADRACE_KAFKA_SASL_USERNAME and HEADRACE_KAFKA_SASL_PASSWORD"
        )
    return Sections(made, {name: _section(name, getattr(made, name), kind) for name, kind in kinds.items()})


def origins(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return where each setting that is not a default has its value from, by its name as in `TABLE.NAME`.

    An option of a command line is not told: it is that process' own.
    """
    found: dict[str, str] = {}
    try:
        _add_leaves(tomllib.loads(Path(FILE).read_text(encoding="utf-8")), "", found)
    except (OSError, ValueError):  # there is none, or it is refused where the settings are read
        found = {}
    for name in environ:
        if name.startswith("HEADRACE_") and not name.startswith(OTHER_PREFIXES):
            found[name.removeprefix("HEADRACE_").lower().replace("__", ".")] = name
    return found


def _add_leaves(table: Mapping[str, Any], before: str, found: dict[str, str]) -> None:
    for name, value in table.items():
        if isinstance(value, Mapping):
            _add_leaves(value, f"{before}{name}.", found)
        else:
            found[f"{before}{name}"] = FILE


@cache
def _with_sections(names: tuple[str, ...]) -> type[Settings]:
    """Return the settings with a table of any content for each of these names."""
    fields: dict[str, Any] = {name: (dict[str, Any], {}) for name in names}
    return create_model("Settings", __base__=Settings, **fields)


def _section(name: str, given: Mapping[str, Any], kind: type[Struct]) -> Struct:
    try:
        return msgspec.convert(dict(given), kind, strict=False)
    except (msgspec.ValidationError, UnicodeError) as error:  # the latter for a lone surrogate
        known = ", ".join(field.name for field in msgspec.structs.fields(kind)) or "none"
        raise Misconfigured(f"settings: {name}: {error}; found {dict(given)!r}, known are {known}") from None


_Made = TypeVar("_Made", bound=BaseSettings)


def _read(model: type[_Made], environ: Mapping[str, str], options: Mapping[str, Any]) -> _Made:
    if model is not _Reading:
        _check_names(model, environ)
    if Path(FILE).is_dir():
        raise Misconfigured(f"{FILE}: wanted a TOML file, found a folder")
    try:
        return model(**_without_none(options))
    except ValidationError as error:
        found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}, found {one['input']!r}" for one in error.errors()]
        raise Misconfigured(f"settings: {'; '.join(found)}") from None
    except SettingsError as error:  # a variable that should be JSON, as its setting is a table, and is not
        wanted = "one variable for each, as HEADRACE_SHARDS__ONLINE__METRICS_PORT"
        raise Misconfigured(f"settings: wanted {wanted}, found: {error}") from None
    except (OSError, ValueError) as error:  # raised by tomllib for a file that is not TOML
        raise Misconfigured(f"{FILE}: {error}") from None


def _check_names(model: type[BaseSettings], environ: Mapping[str, str]) -> None:
    for name in environ:
        if name.startswith("HEADRACE_") and not name.startswith(OTHER_PREFIXES):
            field = name.removeprefix("HEADRACE_").split("__")[0].lower()
            if field not in model.model_fields:
                known = ", ".join(f"HEADRACE_{known.upper()}" for known in model.model_fields)
                raise Misconfigured(f"environment variable {name}: wanted one of {known} (or HEADRACE_SERVE__…)")


def _without_none(options: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: _without_none(value) if isinstance(value, Mapping) else value for name, value in options.items()}
    return {name: value for name, value in given.items() if value is not None and value != {}}
