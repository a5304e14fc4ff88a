"""`headrace settings`: a `headrace.toml` that has every setting, commented out, with its default and what it is."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Any, Final

import msgspec
from pydantic import BaseModel

from headrace.config import DEFAULT_SHARDS, FILE, Settings, ShardSettings, descriptions
from headrace.surface import settings_of
from learners.family import Family

_HEAD: Final = f"""\
# {FILE}: the settings of all processes that start in this folder. Written by `headrace settings`.
#
# Each line that begins with # and a name is a setting at its default: remove the # to change it. An environment
# variable (HEADRACE_LOG, HEADRACE_SERVE__PORT) overrides a line, an option of a command both.
"""
_width: Final = 116


def settings_file(kinds: Sequence[type[Family]]) -> str:
    """Return the file, with a table for each of these families."""
    lines = [_HEAD]
    parts: dict[str, type[BaseModel]] = {}
    described = descriptions(Settings)
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, BaseModel):
            parts[name] = type(field.default)
        elif name != "shards":
            lines += _setting(name, field.default, described.get(name, ""))
    for name, defaults in DEFAULT_SHARDS.items():
        lines += [*_table(f"shards.{name}", ShardSettings), *_fields(ShardSettings, defaults)]
    for name, part in parts.items():
        lines += [*_table(name, part), *_fields(part)]
    for kind in kinds:
        lines += [f"\n[{kind.name}]", *_comment(f"The family {kind.name}: {kind.surface.doc}"), ""]
        for one, field_ in zip(
            settings_of(kind.surface.settings), msgspec.structs.fields(kind.surface.settings), strict=True
        ):
            made = field_.default_factory
            default = one.default if made is msgspec.NODEFAULT else made()
            shapes = " Shapes the state." if one.shapes_state else ""
            lines += _setting(one.name, default, one.description + shapes)
    return "\n".join(lines) + "\n"


def _table(name: str, part: type[BaseModel]) -> Iterator[str]:
    yield f"\n[{name}]"
    yield from _comment(part.__doc__ or "")
    yield ""


def _fields(part: type[BaseModel], defaults: Mapping[str, Any] | None = None) -> Iterator[str]:
    described = descriptions(part)
    for name, field in part.model_fields.items():
        yield from _setting(name, {name: field.default, **(defaults or {})}[name], described.get(name, ""))


def _setting(name: str, default: Any, text: str) -> Iterator[str]:
    yield from _comment(text)
    if default is None or default is msgspec.NODEFAULT:
        yield f"# {name} = (no default)"
    else:
        yield f"#{name} = {toml_value(default)}"


def _comment(text: str) -> list[str]:
    """Return a description as comments; a link to a page of the documentation becomes the page's path."""
    plain = re.sub(r"\[[^\]]*\]\(([^)#]*)[^)]*\)", r"docs/\1", " ".join(text.split()))
    return [f"# {line}" for line in wrap(plain, _width, break_long_words=False, break_on_hyphens=False)]


def toml_value(value: Any) -> str:
    """Return a value as TOML.

    >>> toml_value((1, 0.5, "a")), toml_value({"USD": 0.92}), toml_value(True)
    ('[1, 0.5, "a"]', '{ USD = 0.92 }', 'true')
    """
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {toml_value(one)}' for key, one in value.items())} }}" if value else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    return json.dumps(value)
