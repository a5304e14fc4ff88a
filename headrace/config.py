"""Settings: the only place that reads the environment and `headrace.toml`.

An option on the command line wins over the environment, that over the file, that over the default. Common settings are
`HEADRACE_LOG`, `HEADRACE_BLOBS`, `HEADRACE_HOST`; those of a process `HEADRACE_ONLINE__METRICS_PORT` and so on, in the
file a table (`[online]`). Names that nobody knows are refused. (How to reach a secured broker, and where tests find
theirs, are the `HEADRACE_KAFKA*` variables of `headrace.kafka_security` and `headrace.broker`.)
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError
from pydantic_settings import TomlConfigSettingsSource as TomlSource

from headrace.errors import Misconfigured

Port = Annotated[int, Field(ge=0, le=65_535, description="0 lets the system choose")]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]

FILE = "headrace.toml"
OTHERS = ("HEADRACE_KAFKA", "HEADRACE_DATA")
"""Variables with our prefix that are read elsewhere."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OnlineSettings(_Part):
    """The online consumer."""

    metrics_port: Port = 9101
    commit_interval_s: Seconds = 0.3
    snapshot_interval_s: Seconds = 20.0
    items_max: Count = 131_072
    shoppers_max: Count = 100_000
    judge_seed: int = 0
    flood_share: Share = 0.5
    retry_s: Seconds = 60.0


class FinetuneSettings(_Part):
    """The fine-tuner. `round_ms` and the like are event time; `train_s_max` is the wall clock's.

    With `gain_hits` above 0 a round is due, too, once the champion has lost so many hits among the first 20 by not
    being updated (`learners.gain`); it then answers for every event, not only while models face each other.
    """

    metrics_port: Port = 9102
    commit_interval_s: Seconds = 0.3
    snapshot_interval_s: Seconds = 20.0
    items_max: Count = 131_072
    shoppers_max: Count = 100_000
    round_events: Count = 20_000
    round_ms: Count | None = None
    drift_events_min: Count = 5_000
    gain_hits: Annotated[float, Field(ge=0, allow_inf_nan=False, description="hits lost that a round is worth")] = 0.0
    gate_events_max: Count = 10_000
    window_max: Count = 50_000
    rehearsal_max: Count = 50_000
    rehearsal_share: Annotated[float, Field(ge=0, le=10, description="rehearsed sequences per new one")] = 0.6
    first_passes: Annotated[int, Field(ge=1, description="passes of a round that has no champion to start from")] = 8
    passes: Count = 3
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 3e-3
    width: Annotated[int, Field(ge=2, multiple_of=2)] = 100
    train_s_max: Seconds = 3_600.0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Count = 1
    seed: int = 0
    flood_share: Share = 0.5
    retry_s: Seconds = 60.0


class ServeSettings(_Part):
    """The HTTP server, which also answers scrapes."""

    port: Port = 8080
    recommendations_max: Annotated[int, Field(ge=1, le=1_000)] = 100
    stale_s_max: Seconds = 30.0
    retry_s: Seconds = 60.0


class ProducerSettings(_Part):
    """A producer."""

    metrics_port: Port = 9103


class Settings(BaseSettings):
    """All settings. `log` and `blobs` are where all processes meet."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="HEADRACE_", env_nested_delimiter="__", toml_file=FILE
    )

    log: str = "sqlite:headrace-data/log.db"
    blobs: str = "headrace-data/blobs"
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
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
