"""The reference pages in `docs/`, generated from declarations: topics, metrics, settings, serving, families and others.

`python -m operators.reference` writes all pages into the folder `docs` below the current one, and
`python -m operators.reference settings.md` prints one. The pages describe the families that Headrace includes, in their
default shards; they do not contain families of your own.
"""

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, Final, get_args

import msgspec
from msgspec import Struct, inspect
from pydantic import BaseModel

from headrace import events, experiments, items, rules
from headrace.config import (
    DEFAULT_SHARDS,
    ArchiveSettings,
    ConsoleSettings,
    GatewaySettings,
    ProducerSettings,
    ServeSettings,
    Settings,
    ShardSettings,
    TrimSettings,
    descriptions,
)
from headrace.errors import Misconfigured
from headrace.events import EventType
from headrace.exchange import question_bytes_max
from headrace.http import bounds_text
from headrace.metrics import (
    LABELS,
    ArchiveMetrics,
    GatewayMetrics,
    MetricDescription,
    ProcessMetrics,
    ProducerMetrics,
    ServingMetrics,
    ShardMetrics,
)
from headrace.surface import Artifact, Route, settings_of
from headrace.topics import (
    ALARMS,
    COMMANDS,
    DAY_MS,
    EVENTS,
    JOURNAL,
    JUDGEMENTS,
    KEPT_FOR_EVER,
    SCORES,
    SHARDS,
    SHARDS_MAX,
    TOPICS,
    Shard,
    rights,
)
from learners.families import FAMILIES, default_placements
from learners.family import EVERY_SHARD, Family, Merges
from operators.cli.look import watch_s
from operators.doctor.examination import CHECKS, LOG, SETTINGS, deadline_s
from operators.doctor.finding import Finding, newest_entries
from operators.status import Status, newest_max
from serving.freshness import Freshness

WRITTEN: Final = "Written by `python -m operators.reference`."


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table in Markdown, as lines."""
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    return lines + [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]


def _codes(names: Iterable[str], nothing: str = "") -> str:
    """Return names as code, separated by commas.

    >>> _codes(["a", "b"])
    '`a`, `b`'
    """
    return ", ".join(f"`{name}`" for name in names) or nothing


def _prose(*sentences: str) -> list[str]:
    """Return a paragraph, as lines."""
    return wrap(" ".join(sentences), width=116, break_long_words=False, break_on_hyphens=False)


def _page(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"


def _shards() -> list[Shard]:
    return [placement.shard for placement in default_placements().values()]


# Topics


def topics() -> str:
    """Return docs/topics.md."""
    shards = _shards()
    rows = []
    for topic in TOPICS.values():
        kept = "for ever" if topic.retention_ms == KEPT_FOR_EVER else f"{topic.retention_ms // DAY_MS} days"
        writers = _expanded(topic.writers, [one for one in shards if topic.name in (*one.writes, JOURNAL, JUDGEMENTS)])
        readers = _expanded(
            topic.readers, [one for one in shards if topic.name in (EVENTS, *one.hears, JOURNAL, JUDGEMENTS)]
        )
        rows.append([f"`{topic.name}`", str(topic.partitions), kept, topic.key, topic.purpose, writers, readers])
    numbers = ", ".join(f"{shard.number}: {shard.name}" for shard in shards)
    return _page(
        [
            "# Topics",
            "",
            *_prose(
                f"{WRITTEN} Every log creates its topics from this table. A record's time is its append time, which",
                "the log sets; event time is in the event. Readers see committed records only. On Kafka, each topic",
                "has this retention; a log in a SQLite file keeps all records, and grows.",
            ),
            "",
            *_table(["topic", "partitions", "kept", "key", "holds", "written by", "read by"], rows),
            "",
            *_prose(
                f"Partitions of `journal` and `judgements` are shards ({numbers}; up to {SHARDS_MAX} shards may write",
                "to one log). `events`, `items` and `events-replay` may have any number of partitions; those that are",
                "added while processes run are read, too.",
                "Other keys choose their partition as Kafka's default partitioner does (murmur2), so",
                "that all publishers of a shopper agree. `event.schema.json` describes an event,",
                "`item.schema.json` an item, `rules.schema.json` the rules of a placement,",
                "`experiments.schema.json` an experiment.",
            ),
            "",
            *_prose("A family may declare topics of its own, of one partition each; a log creates them, too."),
            "",
            "## Rights",
            "",
            *_prose(
                "What each process must be allowed to do where brokers ask for rights (ACLs), if all topics exist.",
                "The URL's prefix precedes each name, those of groups and transactional ids too; Read and Write",
                "include Describe; `*` stands for all names that begin so. In addition, `load` and `simulate` need",
                "Read on `models` with `--pace rounds`, and `republish` needs Read on the topic that it is given and",
                "Write on `events-replay`. `doctor` needs the rights of `status` and of `verify`.",
                "A process that creates topics needs Describe and Create on them. Producers",
                "of your own need Write on `events`, and on `items` if they state items. With DescribeConfigs on the",
                "topics, processes check [their settings](operating.md#topics-that-others-make); a shard and `status`",
                "say so if they may not.",
            ),
            "",
            *_prose(
                "The rights of a shard follow from its families; these are the default shards. A shard of your own",
                "needs Write on what its families write, Read on what they hear ([families](families.md)) and on",
                "`events`, both on `journal` and `judgements`, and its name as transactional id and group.",
            ),
            "",
            *_table(
                ["process", "Write on topics", "Read on topics", "Describe on topics", "and"],
                [_rights(shard.name, shard, shards) for shard in shards]
                + [_rights(command, command, shards) for command in COMMANDS],
            ),
        ]
    )


def _expanded(names: str, shards: Sequence[Shard]) -> str:
    """Return a topic's readers or writers with the names of these shards in place of `SHARDS`."""
    found: list[str] = []
    for name in names.split(", "):
        found += [shard.name for shard in shards] if name == SHARDS else [name]
    return ", ".join(found)


def _rights(name: str, process: str | Shard, shards: Sequence[Shard]) -> list[str]:
    needed = rights(process, shards)
    topics_ = [
        _codes(right.name for right in needed if (right.operation, right.kind) == (operation, "topic"))
        for operation in ("Write", "Read", "Describe")
    ]
    others = ", ".join(
        f"{right.operation} on {right.kind} `{right.name}{'*' if right.prefixed else ''}`"
        for right in needed
        if right.kind != "topic"
    )
    return [name, *topics_, others]


# Metrics


def processes() -> dict[str, ProcessMetrics]:
    """Return the metrics of each kind of process: the default shards, the server, and a producer."""
    shards = {
        name: ShardMetrics([kind.surface for kind in placement.kinds])
        for name, placement in default_placements().items()
    }
    serve = ServingMetrics([kind.surface for kind in FAMILIES])
    others = {"serve": serve, "gateway": GatewayMetrics(), "archive": ArchiveMetrics()}
    return {"producer": ProducerMetrics(), **shards, **others}


def metrics() -> str:
    """Return docs/metrics.md."""
    exporters: dict[MetricDescription, list[str]] = {}
    for process, exported in processes().items():
        for metric in exported.descriptions:
            exporters.setdefault(metric, []).append(process)
    labels = {**LABELS, **{label: bound for kind in FAMILIES for label, bound in kind.surface.labels.items()}}
    return _page(
        [
            "# Metrics",
            "",
            *_prose(
                f"{WRITTEN} Each process also exports `process_*` (memory, CPU, open files). Which family declares",
                "which metric: [families](families.md).",
            ),
            "",
            *_table(
                ["metric", "type", "labels", "what", "exported by"],
                (
                    [f"`{one.name}`", one.kind, _codes(one.labels), one.text, ", ".join(exporters[one])]
                    for one in sorted(exporters)
                ),
            ),
            "",
            "## Labels",
            "",
            *_table(["label", "bounded by"], ([f"`{label}`", labels[label]] for label in sorted(labels))),
        ]
    )


# Settings

_SETTINGS: Final = ("in the file", "variable", "default", "what")


def settings() -> str:
    """Return docs/settings.md."""
    parts: dict[str, type[BaseModel]] = {
        "serve": ServeSettings, "gateway": GatewaySettings, "console": ConsoleSettings,
        "producer": ProducerSettings, "archive": ArchiveSettings, "trim": TrimSettings,
    }  # fmt: skip
    lines = [
        "# Settings",
        "",
        *_prose(
            f"{WRITTEN} Each is an environment variable or a line of `headrace.toml` in the folder where the process",
            "starts: the common ones above all tables, the others in a table, such as `[serve]`. Many are options of",
            "the commands, too, and `--set TABLE.NAME=VALUE` sets any of those in a table. An option overrides the",
            "variable, which overrides the file. Unknown names are rejected.",
            "`headrace settings > headrace.toml` writes a file that has all of them, commented out, with their",
            "defaults.",
        ),
        "",
        *_prose(
            "*Shapes the state* means: the fold depends on the value. A new one applies from the next start of the",
            "shard on, which keeps what the new bounds admit",
            "([how](operating.md#upgrades-and-other-settings)). Serving uses the values of the shard.",
        ),
        "",
        *_prose("How to reach a secured broker: [operating](operating.md#kafka-with-tls-and-passwords)."),
        "",
        "## Common",
        "",
        *_table(_SETTINGS, _fields("", Settings, leave_out=(*parts, "shards"))),
        "",
        "## `[shards.NAME]`",
        "",
        "A shard is a process that learns, with a journal of its own. There are"
        f" {_codes(DEFAULT_SHARDS)}; another name adds one.",
        "",
        *_table(_SETTINGS, _fields("SHARDS__NAME__", ShardSettings, _shard_defaults())),
    ]
    for name, part in parts.items():
        lines += ["", f"## `[{name}]`", "", *_table(_SETTINGS, _fields(f"{name.upper()}__", part))]
    for kind in FAMILIES:
        lines += ["", f"## `[{kind.name}]`", "", f"The family [`{kind.name}`](families.md#{kind.name}).", ""]
        lines += _section(kind)
    return _page(lines)


def _shard_defaults() -> dict[str, str]:
    """Return, for the settings in which the default shards differ, the default of each."""
    names = {name for part in DEFAULT_SHARDS.values() for name in part}
    return {
        name: ", ".join(f"{shard}: `{part[name]}`" for shard, part in DEFAULT_SHARDS.items() if name in part)
        for name in names
    }


def _fields(
    prefix: str, section: type[BaseModel], defaults: Mapping[str, str] | None = None, leave_out: Collection[str] = ()
) -> Iterable[list[str]]:
    described = descriptions(section)
    for name, field in section.model_fields.items():
        if name in leave_out:
            continue
        default = (defaults or {}).get(name, "")
        if not default and not isinstance(field.default, BaseModel):
            default = _default(None if field.is_required() else field.default)
        yield [f"`{name}`", f"`HEADRACE_{prefix}{name.upper()}`", default, described.get(name, "")]


def _section(kind: type[Family]) -> list[str]:
    """Return the settings of a family."""
    found = settings_of(kind.surface.settings)
    if not found:
        return ["It has no settings."]
    return _table(
        _SETTINGS,
        (
            [
                f"`{one.name}`",
                f"`HEADRACE_{kind.name.upper()}__{one.name.upper()}`",
                _default(one.default),
                f"{one.description}{' Shapes the state.' if one.shapes_state else ''}",
            ]
            for one in found
        ),
    )


def _default(value: Any) -> str:
    """Return a default as a cell, which is empty if there is no default or an empty one."""
    return "" if value is None or value is msgspec.NODEFAULT or value in ("", ()) else f"`{value}`"


# Serving

_FRAME: Final = f"""\
# Serving

{WRITTEN} `headrace serve` answers the HTTP routes that families declare.

The parameter of a path is percent-encoded; it may contain slashes.

| status | when |
| --- | --- |
| 200 | an answer |
| 400 | a parameter is missing, unknown or out of bounds; the `detail` says which: `n: wanted 1 to 100, found 101` |
| 400 | the body is no JSON object of the parameters |
| 401, 403 | with [`require_key`](settings.md#serve): no key that works, or one that does not allow this |
| 404, 405 | another path or method; the text names those that exist |
| 404 | `unknown`: nothing is known of the item or shopper that a path names |
| 413 | the body has over {question_bytes_max >> 20} MiB |
| 503 | the newest snapshot is being restored |

Errors are problem documents (RFC 9457): `type`, `title`, `status`, `detail`. A `shopper` is the shop's own id, or as it
is in the log ([how](gateway.md#pseudonyms)).

`/health/live` is 200 while the process answers. `/health/ready` is 200 with `behind_s` and `waiting_s`, or 503 while an
event that was appended more than {ServeSettings().stale_s_max:g} s ago is not in the answers
([`stale_s_max`](settings.md#serve)), be it because this server, a shard or the log is slow or away; such a server still
answers from what it has folded, for as long as its process lives. `/metrics` is for Prometheus. Several servers may run
beside each other: they write nothing but impressions. Connections, requests and the time that they take to arrive are
[bounded](settings.md#serve).

## Impressions

What an answer shows goes to the topic [`impressions`](topics.md), one record for each list: its `recommendation_id`,
the items in order with the propensity of each (the probability with which it was chosen for its position; 1, as the
rankings are deterministic), route, placement, model, shopper (as in the log), and which state chose them (`shard`,
`entry`, `newest_event_ms`). Servers write them [without making an answer wait](settings.md#serve): up to
`serve.impressions_queue_max` wait in a queue, from which one thread writes every 0.1 s.

`logged` in an answer is true if what it shows was accepted into the queue while the last write to the log had
succeeded. It is false while the log is away (which a failed write tells, on Kafka after up to 30 s), if the queue is
full, or with `serve.impressions = false`. Such impressions are dropped, and counted by reason in
[`headrace_impressions_dropped_total`](metrics.md). Logging goes on by itself when the log is back. Of what was
accepted, a server that is stopped writes all that it can in three seconds. What waits when it is killed (`kill -9`), or
when the log stays away until the stop, is lost. A record may be written twice; its `recommendation_id` tells.

Events that name a `recommendation_id` (`data.recommendation_id`) become clicks, carts, orders and revenue of its
placement and model: family [`placements`](families.md#placements)
([why so](decisions/0034-impressions-and-what-came-of-them.md)).

## In each answer

Every answer also has these fields:
"""


def serving() -> str:
    """Return docs/serving.md."""
    fresh = {name: f"fresh.{name}" for name in Freshness.__struct_fields__}
    added = [
        ["`model`", "string", "The version of the promoted artifact that was used, empty if there is none. Only in the"
         f" answers of families with an artifact: {_codes(kind.name for kind in _asked() if kind.surface.artifact)}."],
        ["`logged`", "boolean", "Whether what the answer shows was accepted [to be logged](#impressions). Only in the"
         " answers of routes that show items:"
         f" {_codes(route.path for kind in _asked() for route in kind.surface.routes if route.shows)}."],
        [f"`{fresh['entry']}`", "integer", "How many entries of the shard's journal the answer includes."],
        [f"`{fresh['newest_event_ms']}`", "integer", "The shop's time at the newest event that the answer includes,"
         " in milliseconds since the epoch."],
        [f"`{fresh['behind_s']}`", "number", "Seconds since the answers last included everything that was committed."],
    ]  # fmt: skip
    lines = [_FRAME, *_table(["field", "type", "what"], added)]
    documented: dict[type[Struct], str] = {}
    for kind in _asked():
        for route in kind.surface.routes:
            title = f"`{route.method} {route.path}`"
            lines += ["", f"## {title}", "", *_route(kind, route, documented.setdefault(route.answer, title))]
    return _page(lines)


def _asked() -> list[type[Family]]:
    return [kind for kind in FAMILIES if kind.surface.routes]


def _route(kind: type[Family], route: Route, documented: str) -> list[str]:
    """Return the documentation of a route: its parameters with their bounds, and the fields of its answer.

    Args:
        documented: the title of the first route with an answer of this type, which has the fields.
    """
    parameters = []
    fields = {field.name: field for field in msgspec.structs.fields(route.query)}
    for one in settings_of(route.query):
        field = fields[one.name]
        name, others = field.encode_name, "query" if route.method == "GET" else "body"
        place = "path" if f"{{{field.encode_name}}}" in route.path else others
        parameters.append([f"`{name}`", place, bounds_text(field.type), _default(one.default), one.description])
    (path, _, body), shown = route.example[0].partition(" "), route.example[1]
    call = f"curl 'localhost:8080{path}'" + (f" -d '{body}'" if body else "")
    answer = inspect.type_info(route.answer)
    assert isinstance(answer, inspect.StructType)
    described = list(dict.fromkeys(_documented(answer)))
    each = "Each line" if route.streams else "The answer, which is CSV," if route.csv else "The answer"
    fields_of_answer = [
        *(f"- {text}" for text in described), "",
        *_table(["field", "type"], ([f"`{field}`", type_] for field, type_ in _answered(answer))),
    ]  # fmt: skip
    if documented != f"`{route.method} {route.path}`":
        fields_of_answer = [f"{each} has the fields of that of {documented}."]
    return [
        f"{route.doc} Of the family [`{kind.name}`](families.md#{kind.name}).",
        "",
        *([f"    {call}", ""] if path else []),
        *(["```json", shown, "```", ""] if shown else []),
        *(f"- {note}" for note in route.notes),
        *([""] if route.notes else []),
        *_table(["parameter", "in", "value", "default", "what"], parameters),
        "",
        *fields_of_answer,
    ]


def _documented(struct: inspect.StructType) -> Iterable[str]:
    """Yield the documentation of a type of answers and of the types in it."""
    yield " ".join((struct.cls.__doc__ or "").split())
    for field in struct.fields:
        if inner := _struct_in(field.type):
            yield from _documented(inner)


def _answered(struct: inspect.StructType, prefix: str = "") -> Iterable[tuple[str, str]]:
    """Yield the path and the type of each field of an answer, those of the types in it too."""
    for field in struct.fields:
        path = f"{prefix}{field.encode_name}"
        yield path, json_type(field.type)
        if inner := _struct_in(field.type):
            many = {inspect.ListType: "[]", inspect.DictType: ".*"}.get(type(field.type), "")
            yield from _answered(inner, f"{path}{many}.")


def _struct_in(kind: inspect.Type) -> inspect.StructType | None:
    """Return the struct type of a field, of a list's items or of an object's values; None if there is none."""
    if isinstance(kind, inspect.ListType):
        kind = kind.item_type
    elif isinstance(kind, inspect.DictType):
        kind = kind.value_type
    elif isinstance(kind, inspect.UnionType):
        kind = next((one for one in kind.types if isinstance(one, inspect.StructType)), kind)
    return kind if isinstance(kind, inspect.StructType) else None


_TYPES: Final[dict[type[inspect.Type], str]] = {
    inspect.IntType: "integer", inspect.FloatType: "number", inspect.StrType: "string", inspect.BoolType: "boolean",
    inspect.NoneType: "null", inspect.StructType: "object",
}  # fmt: skip


def json_type(kind: inspect.Type) -> str:
    """Return the type of a JSON value as text.

    >>> json_type(inspect.type_info(list[int] | None))
    'list of integer, or null'
    >>> json_type(inspect.type_info(dict[str, float]))
    'object with values of number'
    """
    if isinstance(kind, inspect.Metadata):
        return json_type(kind.type)
    if isinstance(kind, inspect.ListType):
        return f"list of {json_type(kind.item_type)}"
    if isinstance(kind, inspect.DictType):
        return f"object with values of {json_type(kind.value_type)}"
    if isinstance(kind, inspect.UnionType):
        return ", or ".join(json_type(one) for one in kind.types)
    if isinstance(kind, inspect.LiteralType):
        return " or ".join(f"`{value}`" for value in kind.values)
    return _TYPES.get(type(kind), "any value")


# Status


def status() -> str:
    """Return docs/status.md."""
    described = inspect.type_info(Status)
    assert isinstance(described, inspect.StructType)
    return _page(
        [
            "# Status",
            "",
            *_prose(
                f"{WRITTEN} `headrace status` shows the state of a log. With `--json` it prints one JSON object on one",
                f"line, which has the same numbers; with `--watch` it does so every {watch_s:g} seconds until Ctrl-C.",
                f"The newest {newest_max} alarms and announcements are shown; with `--models`, all announcements.",
            ),
            "",
            *(f"- {text}" for text in dict.fromkeys(_documented(described))),
            "",
            *_table(["field", "type"], ([f"`{field}`", type_] for field, type_ in _answered(described))),
            "",
            *_prose("`scores[].scores` has the fields that the family declares for its records of `scores`."),
        ]
    )


# Families


def families() -> str:
    """Return docs/families.md."""
    places = {
        kind.name: placement.shard.name for placement in default_placements().values() for kind in placement.own_kinds
    } | {kind.name: "each" for kind in FAMILIES if kind.shard == EVERY_SHARD}
    lines = [
        "# Families",
        "",
        *_prose(
            f"{WRITTEN} A family is learners of one kind that are folded, snapshotted, served and reported together.",
            "Each declares everything that the processes need to know of it. A family of your own is named in",
            "`headrace.toml` ([how](adding-a-learner.md)).",
        ),
        "",
        *_prose(
            "*Merges* states how a fold of half of the shoppers combines with a fold of the other half. *Exactly*:",
            "together they give the fold of all shoppers. *Approximately*: answers differ by at most the stated bound.",
            "*Not*: such a family is never sliced by shoppers.",
        ),
        "",
        *_table(
            ["family", "what it learns", "shard", "merges"],
            (
                [f"[`{kind.name}`](#{kind.name})", kind.surface.doc, places[kind.name], kind.merges.how]
                for kind in FAMILIES
            ),
        ),
    ]
    lines += ["", "## What events teach", "", *_teaching()]
    for kind in FAMILIES:
        lines += ["", f"## {kind.name}", "", kind.surface.doc, "", *_facts(kind, places[kind.name]), *_parts(kind)]
    return _page(lines)


def _teaching() -> list[str]:
    """Return what each family learns from each type of events, as a table."""
    rows = [[f"`{name}`", *(kind.surface.teaches.get(name, "") for kind in FAMILIES)] for name in get_args(EventType)]
    return [
        *_prose(
            "What a family learns from an accepted event of each type; an empty cell: nothing. The command",
            "`explain-event` says it of an event of yours ([how](publishing.md#what-becomes-of-an-event)).",
        ),
        "",
        *_table(["event type", *(f"[`{kind.name}`](#{kind.name})" for kind in FAMILIES)], rows),
    ]


def _facts(kind: type[Family], shard: str) -> list[str]:
    """Return the properties of a family, as a table."""
    surface = kind.surface
    judge = f"`{surface.judge}`; the key of its judgements is `{kind.name}`" if surface.judge else "none"
    artifact = surface.artifact
    writes = [*surface.writes, *([SCORES] if surface.scores else []), *([ALARMS] if surface.detectors else [])]
    facts = {
        "class": f"`{kind.__module__}.{kind.__qualname__}`, version {kind.version} of its state",
        "shard": f"`{shard}` by default; a [setting](settings.md#shardsname) changes it",
        "reads families": _codes(kind.reads, "none"),
        "its answers ask": _codes(kind.consults, "none"),
        "learns": "`events`",
        "hears": _codes(surface.hears, "none"),
        "writes": _codes(writes, "none"),
        "topics of its own": _codes((topic.name for topic in surface.topics), "none"),
        "merges": _merging(kind.merges),
        "judge": judge,
        "artifact": _artifact(artifact) if artifact else "none",
        "detectors": _codes(surface.detectors, "none"),
        "tables full by design": _codes(surface.full_by_design, "none"),
        "tables": "; ".join(one.title for one in surface.tables) or "none",
        "charts": "; ".join(one.title for one in surface.charts) or "none",
        "pages": "; ".join(one.title for one in surface.pages) or "none",
        "benchmark": f"`python -m {surface.benchmark}`" if surface.benchmark else "none",
    }
    for name, lack in surface.inputs.items():
        facts[f"without `{name}` events"] = lack
    return _table(["", ""], ([what, text] for what, text in facts.items()))


def _artifact(artifact: Artifact) -> str:
    answers = f", for routes by `{artifact.load_to_answer}`" if artifact.load_to_answer else ""
    return f"`{artifact.kind}`, loaded by `{artifact.load}`{answers}"


def _merging(merges: Merges) -> str:
    bound = f" (bound {merges.bound:g})" if merges.bound else ""
    return f"{merges.how}{bound}: {merges.why}. Split by shoppers: {merges.per_shopper}"


def _parts(kind: type[Family]) -> list[str]:
    """Return a family's settings, routes and metrics."""
    surface = kind.surface
    lines = ["", f"Settings: [`[{kind.name}]`](settings.md#{kind.name})", "", *_section(kind)]
    if surface.routes:
        lines += ["", "Routes ([serving](serving.md)):", ""]
        lines += [f"- `{route.method} {route.path}`: {route.doc}" for route in surface.routes]
    if surface.metrics:
        lines += ["", "Metrics:", ""]
        lines += _table(
            ["metric", "type", "labels", "what"],
            ([f"`{one.name}`", one.kind, _codes(one.labels), one.help] for one in surface.metrics),
        )
    return lines


# Doctor


def doctor() -> str:
    """Return docs/doctor.md."""
    rows = [[f"`{SETTINGS}`", "all settings are known and valid"], [f"`{LOG}`", "the log answers"]]
    rows += [[f"`{check.name}`", check.wants] for check in CHECKS]
    return _page(
        [
            "# Doctor",
            "",
            *_prose(
                f"{WRITTEN} `headrace doctor --log URL --blobs FOLDER` checks a log, its blobs, the disks, the clocks,",
                "and the processes that run on this machine. It writes nothing, makes no topic, file or folder, and",
                "may run beside everything else. Of each finding it says what was wanted, what was found, what",
                "follows, and what mends it. Each check has",
                f"{deadline_s:g} seconds; one that fails or does not end is a finding itself, and the others go on.",
            ),
            "",
            *_prose(
                "An `error` loses something or stops something, now or at the next restart; a `warning` needs",
                "attention within days. The exit code is 1 if there is an error (with `--strict` for a warning, too),",
                "else 0.",
                "`--full` compares all that the journals name, as `headrace verify` does, instead of the newest",
                f"{newest_entries} entries of each.",
            ),
            "",
            "```",
            "17 * * * *  headrace doctor --json > /var/log/headrace-doctor.json || mail -s headrace ops@example.com "
            "< /var/log/headrace-doctor.json",
            "```",
            "",
            *_table(["check", "what is wanted"], rows),
            "",
            "## JSON",
            "",
            *_prose(
                "`--json` prints one object: `findings`, in the order of the checks, each with",
                f"{_codes(Finding.__struct_fields__)}; `unchecked`, the checks that could not be made, as the log does",
                "not answer or lacks topics; and the numbers of `errors` and `warnings`.",
            ),
        ]
    )


# Pages

PAGES: Final[dict[str, Callable[[], str]]] = {
    "topics.md": topics,
    "metrics.md": metrics,
    "settings.md": settings,
    "serving.md": serving,
    "status.md": status,
    "families.md": families,
    "doctor.md": doctor,
    "event.schema.json": events.reference,
    "item.schema.json": items.reference,
    "rules.schema.json": rules.reference,
    "experiments.schema.json": experiments.reference,
}
"""The pages by their names in `docs/`."""


def main(arguments: Sequence[str]) -> None:
    """Print the named page, or write all pages into `docs`.

    Raises:
        Misconfigured: there is no such page, or no folder `docs`.
    """
    if arguments:
        if len(arguments) > 1 or arguments[0] not in PAGES:
            raise Misconfigured(f"reference: wanted one of {', '.join(PAGES)}, found {' '.join(arguments)}")
        sys.stdout.write(PAGES[arguments[0]]())
        return
    folder = Path("docs")
    if not folder.is_dir():
        raise Misconfigured(f"reference: wanted a folder docs in {Path.cwd()}, found none")
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Misconfigured as error:
        sys.exit(f"{error}")
