"""Each setting with its value, where that is from, and what shapes the running states."""

from typing import Any

import msgspec
from msgspec import Struct
from pydantic import BaseModel

from headrace.config import origins
from headrace.log.protocol import Log
from headrace.shard import journal
from headrace.surface import settings_of
from operators.deployment import Deployment
from operators.settings_file import toml_value
from operators.tables import NONE


class InForce(Struct):
    """A setting: its name as in `--set`, its value, whence it is, what it is, and the running state's value.

    `origin` is `default`, `option`, the settings' file, or an environment variable. `running` is the value with which
    the shard's state is folded, "" if that is the same or not known.
    """

    name: str
    value: str
    origin: str
    about: str
    running: str = ""


def settings_in_force(log: Log, deployment: Deployment) -> dict[str, list[InForce]]:
    """Return the settings by their table; "" has those of none."""
    known = origins()
    found: dict[str, list[InForce]] = {"": []}
    for name, field in type(deployment.settings).model_fields.items():
        value = getattr(deployment.settings, name, None)
        if isinstance(value, BaseModel):
            found[name] = _section(name, value, type(value)().model_dump() if name != "shards" else {}, known)
        elif name == "shards":
            for shard, part in deployment.settings.shards.items():
                found[f"shards.{shard}"] = _section(f"shards.{shard}", part, None, known)
        elif name not in deployment.sections:
            found[""].append(_one(name, value, field.default, field.description or "", known))
    running = _running(log, deployment)
    for kind in deployment.kinds:
        section, rows = msgspec.to_builtins(deployment.sections[kind.name]), []
        for one in settings_of(kind.surface.settings):
            row = _one(f"{kind.name}.{one.name}", section[one.name], one.default, one.description, known)
            live = running.get(kind.name, {})
            if one.name in live and live[one.name] != section[one.name]:
                row.running = toml_value(live[one.name])
            rows.append(row)
        if rows:
            found[kind.name] = rows
    return found


def _section(table: str, part: BaseModel, defaults: Any, known: dict[str, str]) -> list[InForce]:
    return [
        _one(
            f"{table}.{name}", getattr(part, name), defaults[name] if defaults else field.default,
            field.description or "", known,
        )
        for name, field in type(part).model_fields.items()
    ]  # fmt: skip


def _one(name: str, value: Any, default: Any, about: str, known: dict[str, str]) -> InForce:
    plain = list(value) if isinstance(value, tuple) else value
    usual = list(default) if isinstance(default, tuple) else default
    origin = known.get(name, "")
    if not origin:
        origin = "default" if plain == usual or default is msgspec.NODEFAULT or name.startswith("shards.") else "option"
    shown = NONE if plain is None else without_secrets(toml_value(plain))
    return InForce(name, shown, origin, " ".join(about.split()))


def without_secrets(text: str) -> str:
    """Return a text in which URLs have no user and password.

    >>> without_secrets('"s3://key:secret@host/bucket"')
    '"s3://…@host/bucket"'
    """
    before, at, after = text.rpartition("@")
    scheme, slashes, _ = before.partition("://")
    return f"{scheme}{slashes}…@{after}" if at and slashes else text


def _running(log: Log, deployment: Deployment) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for shard in deployment.shards:
        entry = journal.newest(log, shard)
        if entry and entry.snapshot and entry.snapshot.stamp:
            for name, one in entry.snapshot.stamp.families.items():
                found.setdefault(name, one.settings)
    return found
