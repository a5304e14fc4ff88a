"""Settings: the only place that reads the environment and `headrace.toml`.

An option on the command line wins over the environment, that over the file, that over the default. Common settings are
`HEADRACE_LOG`, `HEADRACE_BLOBS`, `HEADRACE_HOST`; those of a process `HEADRACE_ONLINE__METRICS_PORT` and so on, in the
file a table (`[online]`). Names that nobody knows are refused. (How to reach a secured broker, and where tests find
theirs, are the `HEADRACE_KAFKA*` variables of `headrace.kafka_security` and `headrace.broker`.)

The texts below the settings are their documentation: `docs/settings.md` is written from them (`python -m
headrace.config`).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError
from pydantic_settings import TomlConfigSettingsSource as TomlSource

from headrace.errors import Misconfigured

Port = Annotated[int, Field(ge=0, le=65_535)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]

FILE = "headrace.toml"
OTHERS = ("HEADRACE_KAFKA", "HEADRACE_DATA")
"""Variables with our prefix that are read elsewhere."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class OnlineSettings(_Part):
    """The online consumer."""

    metrics_port: Port = 9101
    """Port of `/metrics`; 0 lets the system choose."""
    commit_interval_s: Seconds = 0.3
    """Longest time between two commits while events come."""
    snapshot_interval_s: Seconds = 20.0
    """Time between two snapshots."""
    items_max: Count = 131_072
    """Items known at once; those not seen for longest make room. Shapes the state."""
    shoppers_max: Count = 100_000
    """Shoppers whose running session is known; those not seen for longest make room. Shapes the state."""
    judge_seed: int = 0
    """Draws which events are judged when not all can be."""
    flood_share: Share = 0.5
    """Share of bad records among 5,000 above which the consumer stops."""
    retry_s: Seconds = 60.0
    """How long a broken world is tried again before the process dies."""


class FinetuneSettings(_Part):
    """The fine-tuner. `round_ms` and the like are event time; `train_s_max` is the wall clock's.

    With `gain_hits` above 0 a round is due, too, once the champion has lost so many hits among the first 20 by not
    being updated (`learners.gain`); it then answers for every event, not only while models face each other.
    """

    metrics_port: Port = 9102
    """Port of `/metrics`; 0 lets the system choose."""
    commit_interval_s: Seconds = 0.3
    """Longest time between two commits while events come."""
    snapshot_interval_s: Seconds = 20.0
    """Time between two snapshots."""
    items_max: Count = 131_072
    """As the online consumer's. Shapes the state."""
    shoppers_max: Count = 100_000
    """As the online consumer's. Shapes the state."""
    round_events: Count = 20_000
    """A round is due after so many events. Shapes the state."""
    round_ms: Count | None = None
    """A round is due after so much event time, in ms. Shapes the state."""
    drift_events_min: Count = 5_000
    """Least events between two rounds when a drift alarm asks for one. Shapes the state."""
    gain_hits: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """A round is due after so many lost hits; 0: never by that. Shapes the state."""
    gate_events_max: Count = 10_000
    """Events by which a candidate has its verdict. Shapes the state."""
    window_max: Count = 50_000
    """Sessions since the last round that a round can train on. Shapes the state."""
    rehearsal_max: Count = 50_000
    """Sessions of the time before that are kept to be rehearsed. Shapes the state."""
    rehearsal_share: Annotated[float, Field(ge=0, le=10)] = 0.6
    """Rehearsed sessions for each new one."""
    first_passes: Annotated[int, Field(ge=1)] = 8
    """Passes of a round that has no champion to start from."""
    passes: Count = 3
    """Passes of any other round."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 3e-3
    """AdamW's, at its highest."""
    width: Annotated[int, Field(ge=2, multiple_of=2)] = 100
    """Of the items' vectors, for a model that begins anew."""
    train_s_max: Seconds = 3_600.0
    """Time on the clock after which a round ends with what it has."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU if there is one."""
    threads: Count = 1
    """Of torch on the CPU."""
    seed: int = 0
    """Of training and of what is held out. Shapes the state."""
    flood_share: Share = 0.5
    """Share of bad records among 5,000 above which the consumer stops."""
    retry_s: Seconds = 60.0
    """How long a broken world is tried again before the process dies."""


class ServeSettings(_Part):
    """The HTTP server, which also answers scrapes."""

    port: Port = 8080
    """HTTP port; 0 lets the system choose."""
    recommendations_max: Annotated[int, Field(ge=1, le=1_000)] = 100
    """The largest `n` that may be asked for."""
    stale_s_max: Seconds = 30.0
    """`/health/ready` says no when the answers are further behind."""
    retry_s: Seconds = 60.0
    """How long a broken world is tried again before the process dies."""


class ProducerSettings(_Part):
    """A producer."""

    metrics_port: Port = 9103
    """Port of `/metrics`; 0 lets the system choose."""


class Settings(BaseSettings):
    """All settings. `log` and `blobs` are where all processes meet."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="HEADRACE_", env_nested_delimiter="__", toml_file=FILE,
        use_attribute_docstrings=True,
    )  # fmt: skip

    log: str = "sqlite:headrace-data/log.db"
    """`sqlite:PATH` or `kafka:HOST:PORT[,HOST:PORT][?prefix=NAME]`."""
    blobs: str = "headrace-data/blobs"
    """Folder of snapshots and models, shared by all processes."""
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address to listen on, for HTTP and metrics."""
    online: OnlineSettings = OnlineSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    serve: ServeSettings = ServeSettings()
    producer: ProducerSettings = ProducerSettings()

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


def settings(environ: Mapping[str, str] = os.environ, **options: Any) -> Settings:
    """Return the settings, with the options of a command line on top (those that are None were not given).

    Raises:
        Misconfigured: an unknown name or a value that does not fit; says which, what was wanted and what was found.
    """
    for name in environ:
        if name.startswith("HEADRACE_") and not name.startswith(OTHERS):
            field = name.removeprefix("HEADRACE_").split("__")[0].lower()
            if field not in Settings.model_fields:
                known = ", ".join(f"HEADRACE_{known.upper()}" for known in Settings.model_fields)
                raise Misconfigured(f"environment variable {name}: wanted one of {known} (or HEADRACE_ONLINE__…)")
    if Path(FILE).is_dir():
        raise Misconfigured(f"{FILE}: wanted a TOML file, found a folder")
    try:
        made = Settings(**_given(options))
    except ValidationError as error:
        found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}, found {one['input']!r}" for one in error.errors()]
        raise Misconfigured(f"settings: {'; '.join(found)}") from None
    except SettingsError as error:  # a value from the environment that is no JSON where a table is wanted
        wanted = "one variable for each, as HEADRACE_ONLINE__METRICS_PORT"
        raise Misconfigured(f"settings: wanted {wanted}, found: {error}") from None
    except (OSError, ValueError) as error:  # tomllib's, for a file that is no TOML
        raise Misconfigured(f"{FILE}: {error}") from None
    if made.log.startswith("kafka:") and "@" in made.log:  # said without it, and before anything else says it
        raise Misconfigured(
            "log: wanted kafka:HOST:PORT, found an @ in it; who we are belongs into HEADRACE_KAFKA_SASL_USERNAME and "
            "HEADRACE_KAFKA_SASL_PASSWORD"
        )
    return made


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: _given(value) if isinstance(value, Mapping) else value for name, value in options.items()}
    return {name: value for name, value in given.items() if value is not None and value != {}}


def reference() -> str:
    """Return docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "Written by `python -m headrace.config`. Each is an environment variable or a line of `headrace.toml` in the",
        "folder where the process starts (the common ones above all tables, a process's in its table, as `[online]`);",
        "many are options of the commands, too. An option wins over the variable, that over the file. Names that",
        "nobody knows are refused.",
        "",
        "Where it says *shapes the state*, another value lays the shard's snapshots aside: the journal is folded anew",
        "from its beginning ([what that asks for](operating.md#when-something-happens)). Serving folds what the online",
        "consumer folds, so give it the same `[online]` values.",
        "",
        "How to reach a secured broker: [operating](operating.md#kafka-with-tls-and-passwords).",
    ]
    parts = {name: field for name, field in Settings.model_fields.items() if isinstance(field.default, _Part)}
    common = {name: field for name, field in Settings.model_fields.items() if name not in parts}
    lines += _section("Common", "", common)
    for name, field in parts.items():
        lines += _section(f"`[{name}]`", f"{name.upper()}__", type(field.default).model_fields)
    return "\n".join(lines) + "\n"


def _section(title: str, prefix: str, fields: Mapping[str, FieldInfo]) -> list[str]:
    lines = ["", f"## {title}", "", "| in the file | variable | default | what |", "| --- | --- | --- | --- |"]
    for name, field in fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        lines.append(f"| `{name}` | `HEADRACE_{prefix}{name.upper()}` | {default} | {field.description} |")
    return lines


if __name__ == "__main__":
    print(reference(), end="")
