"""What each page shows. Each is a function of the room and the visit; `PAGES` has all of them with their roles."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from starlette.responses import Response

from headrace.clock import wall_ms
from headrace.drift import EVERY_DETECTOR
from headrace.letters import DeadLetter
from headrace.log.protocol import Partition, decode_json
from headrace.log.scan import partition_records
from headrace.pages import Calibration, Course, Drawn
from headrace.rules import EVERY
from headrace.shard.kept import kept_snapshots
from headrace.surface import Route, Table
from headrace.text import visible_lines
from headrace.topics import DEAD_LETTERS, IMPRESSIONS
from operators.catalogue import Catalogue
from operators.console import actions, card, charts
from operators.console.app import Page, Room
from operators.console.desk import Away
from operators.console.paging import page_of
from operators.console.visit import Refusal, Visit, redirect, to
from operators.drift import silences
from operators.experiments import (
    interval,
    newest_policies,
    newest_reports,
    notes,
    policy_text,
    shares_of,
    stated_experiments,
    verdict,
)
from operators.facts import results_text, rounds_of
from operators.replay.begin import changes_text
from operators.replay.run import RunFolder, runs
from operators.replay.text import run_text
from operators.rules import stated_rules
from operators.scraping import configured, running, scrape
from operators.settings_in_force import settings_in_force
from operators.trace import trace
from operators.traced import lines_of

changes_on_front: Final = 12
neighbours_shown: Final = 10
audience_shown: Final = 20
explained: Final = 20
"""Recommendations to a shopper that are explained."""
hours: Final = 24
leaving_max: Final = 1_000
"""Shoppers of the list of who is likely to leave, at most."""
value_characters_shown: Final = 4_000


async def front(room: Room, visit: Visit) -> Response:
    """Show the four answers, and the newest changes."""
    status = await room.desk.status()
    rows = await room.desk.read(lambda log, reader: reader.changes())
    calm = [row for row in rows if row.what != "snapshot"]
    return visit.render("front.html", status=status, changes=calm[:changes_on_front])


async def changes(room: Room, visit: Visit) -> Response:
    """Show what changed, page by page."""
    rows = await room.desk.read(lambda log, reader: reader.changes())
    kinds = sorted({row.what for row in rows})
    kind = visit.asked("kind")
    shown = page_of([row for row in rows if kind in ("", row.what)], visit)
    return visit.render("changes.html", page=shown, kinds=kinds, kind=kind)


async def quality(room: Room, visit: Visit) -> Response:
    """Show the tables and charts that families declare."""
    scores, alarms = await room.desk.read(lambda log, reader: (reader.scores, reader.alarms))
    families = []
    for kind in room.desk.deployment.kinds:
        found = scores.get(kind.name)
        if not found:
            continue
        tables = []
        for declared in kind.surface.tables:
            rows = list(declared.rows(found[-1].scores))
            drawn = [
                (_name_of(declared.columns, column), chart)
                for column in _charted(declared)
                if (chart := charts.of_table(declared, column, found, alarms, visit.says))
            ]
            tables.append((declared, rows, drawn))
        lines = [
            (one, chart)
            for one in kind.surface.charts
            if (call := one.lines) and (
                chart := charts.of_lines(
                    one.title, [(each.events, call(each.scores)) for each in found], visit.says, percent=one.percent,
                    floor=one.floor,
                )
            )
        ]  # fmt: skip
        families.append((kind, found[-1], tables, lines))
    return visit.render("quality.html", families=families)


def _charted(declared: Table) -> list[int]:
    """Return which columns of a table are drawn: the newest values, if its rows are alike, so that one is bold."""
    return [place for place, name in enumerate(declared.columns) if declared.bold and name == "newest"][:2]


def _name_of(columns: Sequence[str], column: int) -> str:
    return f"{columns[column - 1]}, {columns[column]}"


async def drift(room: Room, visit: Visit) -> Response:
    """Show what detectors see, what moved, and silences."""
    await room.desk.status()
    scores, alarms, silent = await room.desk.read(
        # By the clock, as a status may be older than the end of a silence.
        lambda log, reader: (reader.scores, reader.alarms, silences(log, wall_ms()))
    )
    pictures = [
        (kind.name, drawn)
        for kind in room.desk.deployment.kinds
        if (drawn := charts.watching(scores.get(kind.name, []), alarms))
    ]
    detectors = sorted({name for kind in room.desk.deployment.kinds for name in kind.surface.detectors})
    return visit.render(
        "drift.html", pictures=pictures, page=page_of(alarms[::-1], visit), silences=silent,
        detectors=[EVERY_DETECTOR, *detectors],
    )  # fmt: skip


async def rounds(room: Room, visit: Visit) -> Response:
    """Show the rounds of the slow learner; the gate's bets come afterwards, as they take longer."""
    found = rounds_of((await room.desk.read(lambda log, reader: reader.standing)).announcements)[::-1]
    wanted = visit.asked("blob") or next((one.candidate.blob for one in found if one.candidate), "")
    return visit.render("rounds.html", page=page_of(found, visit, length=20), blob=wanted)


async def gate(room: Room, visit: Visit) -> Response:
    """Show the gate's bets on a candidate, and what a verdict needs."""
    blob = visit.asked("blob")
    said = await room.desk.read(lambda log, reader: reader.standing)
    found = next((one for one in rounds_of(said.announcements) if one.candidate and one.candidate.blob == blob), None)
    if found is None:
        raise Refusal(404, "rounds.unknown")
    curve = await room.desk.wealth(blob, said.announcements)
    return visit.render(
        "gate.html", candidate=found.candidate, waiting=found.verdict is None, bets=curve[-1] if curve else None,
        drawing=charts.of_wealth(curve, visit.says),
    )  # fmt: skip


async def models(room: Room, visit: Visit) -> Response:
    """Show models with their lineage, and what can be asked for."""
    said = await room.desk.read(lambda log, reader: reader.standing)
    versions: dict[str, list[Any]] = {}
    for one in said.announcements:
        if one.version and one.kind != "schedule":
            versions.setdefault(one.version, []).append(one)
    rows = []
    former = {one.version for one in said.former}
    champion = said.champion.version if said.champion else ""
    ended = ("promoted", "refused", "failed")
    for version, found in reversed(versions.items()):
        own = [one for one in found if one.kind != "requested"] or found
        waits = any(one.kind in ("candidate", "proposed") for one in own) and not any(
            one.kind in ended for one in own
        )  # fmt: skip
        lineage: dict[str, Any] = next((one.lineage for one in own if one.lineage), {})
        evidence: dict[str, Any] = next((one.evidence for one in reversed(own) if one.evidence), {})
        rows.append(
            {
                "version": version, "newest": found[-1], "kind": own[-1].kind, "parent": own[-1].parent,
                "lineage": lineage, "evidence": evidence, "waits": waits, "champion": version == champion,
                "former": version in former and version != champion, "blob": own[-1].blob,
            }
        )  # fmt: skip
    shards = [
        (name, kept_snapshots(room.desk.blobs, name)) for name in room.desk.deployment.placements
    ] if room.desk.blobs.folder.is_dir() else []  # fmt: skip
    status = await room.desk.status()
    return visit.render(
        "models.html", page=page_of(rows, visit, length=20), champion=said.champion, request=status.models.request,
        shards=shards,
    )  # fmt: skip


async def stream(room: Room, visit: Visit) -> Response:
    """Show processes, partitions and lag, topics, and bounded tables."""
    status = await room.desk.status()
    deployment = room.desk.deployment

    def bounds(*_: Any) -> list[tuple[str, str, float, float, bool]]:
        found = []
        for name, address in {**configured(deployment), **running(deployment)}.items():
            samples = scrape(address)
            for (metric, labels), used in samples.items():
                most = samples.get(("headrace_bound_max", labels))
                if metric == "headrace_bound_used" and most:
                    named = dict(labels)
                    found.append((name, named["table"], used, most, named["full"] == "expected"))
        return sorted(found, key=lambda one: (one[4], -one[2] / one[3]))

    tables = await room.desk.read(bounds)
    results = {one.name: results_text(one.results) for one in status.shards if one.results}
    return visit.render("stream.html", status=status, bounds=tables, results=results)


async def letters(room: Room, visit: Visit) -> Response:
    """Show dead letters, filtered, page by page."""
    all_letters, decided = await room.desk.read(lambda log, reader: (list(reader.letters.values()), reader.decided))
    reason, topic, fate = visit.asked("reason"), visit.asked("topic"), visit.asked("fate", "open")

    def fate_of(letter: Any) -> str:
        return decided[letter.id].decision if letter.id in decided else "open"

    rows = [
        (one, fate_of(one))
        for one in reversed(all_letters)
        if reason in ("", one.reason) and topic in ("", one.id.partition("/")[0]) and fate in ("all", fate_of(one))
    ]
    reasons = sorted({one.reason for one in all_letters})
    topics = sorted({one.id.partition("/")[0] for one in all_letters})
    return visit.render(
        "letters.html", page=page_of(rows, visit), reasons=reasons, topics=topics, reason=reason, topic=topic,
        fate=fate, some=bool(all_letters),
    )  # fmt: skip


async def letter(room: Room, visit: Visit) -> Response:
    """Show one dead letter whole."""
    id_ = visit.asked("id")

    def whole(log: Any, reader: Any) -> tuple[DeadLetter, Any] | None:
        kept = reader.letters.get(id_)
        if kept is None:
            return None
        place = Partition(DEAD_LETTERS, 0)
        for record in partition_records(log, place, start=kept.offset, end=kept.offset + 1):
            if found := decode_json(record.value, DeadLetter):
                return found, reader.decided.get(id_)
        return None

    found = await room.desk.read(whole)
    if found is None:
        raise Refusal(404, "letters.unknown", id=id_)
    one, decision = found
    return visit.render(
        "letter.html", letter=one, decision=decision, key=_readable(one.key), value=_readable(one.value)
    )


def _readable(data: bytes) -> str:
    text = data.decode(errors="backslashreplace")
    return visible_lines(text[:value_characters_shown])


async def rules(room: Room, visit: Visit) -> Response:
    """Show the rules that hold, and a form for others."""
    found = await room.desk.read(lambda log, reader: stated_rules(log))
    shown = [
        (one, msgspec.json.format(msgspec.json.encode(one.rules), indent=2).decode()) for one in found if one.rules
    ]
    placement = visit.asked("placement", EVERY)
    document = next((text for one, text in shown if one.placement == placement), '{\n  "hidden": []\n}')
    return visit.render("rules.html", rules=shown, placement=placement, document=document)


async def experiments(room: Room, visit: Visit) -> Response:
    """Show the experiments that are stated, with their verdicts, and a form for a draft."""
    stated, reports = await room.desk.read(lambda log, reader: (stated_experiments(log).stated, newest_reports(log)))
    found = [(name, one, verdict(reports[name], visit.says) if name in reports else "") for name, one in stated.items()]
    return visit.render("experiments.html", experiments=found[::-1])


async def experiment(room: Room, visit: Visit) -> Response:
    """Show what an experiment has shown so far, and what can be done with it."""
    name, says = visit.asked("name"), visit.says
    stated, reports, policies = await room.desk.read(
        lambda log, reader: (stated_experiments(log).stated, newest_reports(log), newest_policies(log).get(name, {}))
    )
    one, report = stated.get(name), reports.get(name)
    if one is None and report is None:
        raise Refusal(404, "experiment.unknown")
    if visit.asked("as") == "json":
        return Response(msgspec.json.encode(report), media_type="application/json")
    document = msgspec.json.format(msgspec.json.encode(one), indent=2).decode() if one else ""
    explored = [(arm, policy_text(policy, says), shares_of(policy)) for arm, policy in policies.items()]
    if report is None:
        return visit.render("experiment.html", name=name, one=one, report=None, document=document, explored=explored)
    pictures = [
        (says("experiment.over_time", metric=each.metric, arm=each.arm), drawn)
        for each in report.compared
        if (drawn := charts.of_sequence(report, each.points, says, share=False))
    ]
    if report.preferred and (drawn := charts.of_sequence(report, report.preferred.points, says, share=False)):
        first, second = (arm.name for arm in report.arms[:2])
        pictures.append((says("experiment.preference", first=first, second=second), drawn))
    if drawn := charts.of_days(report, says):
        pictures.append((says("experiment.days", metric=report.primary), drawn))
    compared = [(each, interval(each, report, says)) for each in report.compared]
    segments = [
        (each, interval(each.compared, report, says)) for each in report.segments if each.compared.low is not None
    ]
    return visit.render(
        "experiment.html", name=name, one=one, report=report, document=document, verdict=verdict(report, says),
        notes=notes(report, says), pictures=pictures, compared=compared, segments=segments, explored=explored,
    )  # fmt: skip


async def replays(room: Room, visit: Visit) -> Response:
    """Show shadow runs, and a form for another one."""
    found = runs(room.desk.blobs)[::-1] if room.desk.blobs.folder.is_dir() else []
    rows = [(run, changes_text(run), RunFolder(room.desk.blobs, run.name).size()) for run in found]
    return visit.render(
        "replays.html", page=page_of(rows, visit, length=20), shards=list(room.desk.deployment.placements)
    )


async def replay(room: Room, visit: Visit) -> Response:
    """Show a run: what it folds otherwise, how far it is, and how it differs."""
    name = visit.asked("name")
    found = next((run for run in runs(room.desk.blobs) if run.name == name), None)
    if found is None:
        raise Refusal(404, "replays.unknown", name=name)
    job = next((one for one in room.jobs.all() if one.of == name and one.state == "running"), None)
    diff = next((one for one in room.jobs.all() if one.of == name and one.what == "diff" and one.state == "done"), None)
    picture = actions.pictures(room, name)
    return visit.render(
        "replay.html", run=found, text=run_text(found), changes=changes_text(found), job=job, diff=diff,
        picture=to("/replay/picture", name=name, at=diff.number) if diff and picture.is_file() else "",
    )  # fmt: skip


async def replay_picture(room: Room, visit: Visit) -> Response:
    """Show the picture of a comparison."""
    name = visit.asked("name")
    known = [run.name for run in runs(room.desk.blobs)]
    path = actions.pictures(room, name) if name in known else None
    if path is None or not path.is_file():
        raise Refusal(404, "replays.unknown", name=name)
    return Response(path.read_bytes(), media_type="image/png")


async def items(room: Room, visit: Visit) -> Response:
    """Show the items that the server knows, page by page."""
    words, after = visit.asked("words"), visit.asked("after")
    try:
        found = await room.desk.answer(("v1", "items"), {"n": 50, "words": words, "after": after})
    except Away as away:
        return visit.render("items.html", items=[], after="", words=words, away=str(away))
    following = to("/items", words=words, after=found["next"]) if found["next"] else ""
    return visit.render("items.html", items=found["items"], after=following, words=words, away="")


async def item(room: Room, visit: Visit) -> Response:
    """Show what is known of an item, its neighbours, who turns to it, and the rules that touch it."""
    id_ = visit.asked("id")
    known = await room.desk.answer(("v1", "items", id_))
    near = await room.desk.answer(("v1", "neighbours", id_), {"n": neighbours_shown})
    audience = await room.desk.answer(("v1", "audience", id_), {"n": audience_shown})
    stated = await room.desk.read(lambda log, reader: stated_rules(log))
    touching = [
        (one.placement, name) for one in stated if one.rules for name in _touching(one.rules, known)
    ]  # fmt: skip
    scores = await room.desk.read(lambda log, reader: reader.scores)
    placements = [
        (kind, declared, list(declared.rows(found_[-1].scores)))
        for kind in room.desk.deployment.kinds
        if IMPRESSIONS in kind.surface.hears and (found_ := scores.get(kind.name))
        for declared in kind.surface.tables
    ]
    return visit.render(
        "item.html", item=known, learners=near["learners"], audience=audience, touching=touching, placements=placements
    )


def _touching(stated: Any, known: Mapping[str, Any]) -> list[str]:
    """Return the names of the rules of a placement that name an item, its brand or its category."""
    found = []
    plain = msgspec.to_builtins(stated)
    named = {known["item_id"], known["brand"], known["category"]} - {""}
    for rule, value in plain.items():
        if rule not in ("by", "why") and named & set(_texts(value)):
            found.append(rule)
    price, limits = known.get("price"), plain.get("price") or {}
    outside = price is not None and (
        price < (limits.get("min") or 0) or (limits.get("max") is not None and price > limits["max"])
    )
    return [*found, "price"] if outside and "price" not in found else found


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for one in value.values() for text in _texts(one)]
    return [text for one in value for text in _texts(one)] if isinstance(value, list) else []


async def shoppers(room: Room, visit: Visit) -> Response:
    """Show the shoppers that the server knows, page by page."""
    after = visit.asked("after")
    try:
        found = await room.desk.answer(("v1", "shoppers"), {"n": 50, "after": after})
    except Away as away:
        return visit.render("shoppers.html", shoppers=[], after="", away=str(away))
    following = to("/shoppers", after=found["next"]) if found["next"] else ""
    return visit.render("shoppers.html", shoppers=found["shoppers"], after=following, away="")


async def shopper(room: Room, visit: Visit) -> Response:
    """Show a shopper's card and trail, and what would be recommended, why, and what rules took out."""
    id_, placement = visit.asked("id"), visit.asked("placement")
    known = await room.desk.answer(("v1", "shoppers", id_), {"n": 20})
    cards = [("v1", "shoppers", id_, name) for name in ("profile", "value", "intent", "segments")]
    drawn = [room.desk.route(path) for path in cards]
    others = [route for route in _of_shoppers(room) if route not in drawn]
    explained_ = _told(room, ("v1", "explanations", id_), {"n": explained, "placement": placement})
    profile, worth, intent, segments, found, *told = await asyncio.gather(
        _told(room, cards[0], {"tastes": hours}), *(_told(room, path) for path in cards[1:]), explained_,
        *(_told(room, [id_ if part == "{shopper}" else part for part in route.path.split("/")[1:]])
          for route in others),
    )  # fmt: skip
    tables = [
        ("" if number else route.doc, columns_of(rows), rows)
        for route, one in zip(others, told, strict=True)
        for number, rows in enumerate(tables_of(one.answer or {}))
    ]
    return visit.render(
        "shopper.html", shopper=known, found=found, others=tables, placement=placement, profile=profile, worth=worth,
        intent=intent, segments=segments, traits=card.trait_rows(profile.answer) if profile.answer else [],
        tastes=[(kind, profile.answer["tastes"].get(kind, [])[:card.tastes_shown]) for kind in card.PICTURED]
        if profile.answer else [],
        hours=card.shares(profile.answer, "hour", [str(hour) for hour in range(hours)]) if profile.answer else [],
        weekdays=list(zip(card.WEEKDAYS, card.shares(profile.answer, "weekday", card.WEEKDAYS), strict=True))
        if profile.answer else [],
        reasons=card.reason_rows(intent.answer) if intent.answer else [], sure_of=card.sure_of,
    )  # fmt: skip


async def _told(room: Room, path: Sequence[str], parameters: Mapping[str, Any] | None = None) -> card.Told:
    """Return what the server says, or why it says nothing."""
    try:
        return card.Told(answer=await room.desk.answer(path, parameters))
    except Away as away:
        return card.Told(why=str(away), unknown=away.unknown)


def tables_of(answer: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """Return the parts of an answer that are tables: lists of objects, and objects or such lists by name.

    >>> tables_of({"id": "a", "rows": [{"x": 1}], "by_name": {"b": {"x": 1}, "c": [{"y": 2}], "d": 3}})
    [[{'x': 1}], [{'name': 'b', 'x': 1}, {'name': 'c', 'y': 2}]]
    """
    return [rows for name, value in answer.items() if name != "fresh" and (rows := _rows(value))]


def _rows(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return [one for one in value if isinstance(one, dict)]
    if not isinstance(value, dict):
        return []
    found = [(name, one) for name, many in value.items() for one in (many if isinstance(many, list) else [many])]
    return [{"name": name, **one} for name, one in found if isinstance(one, dict)]


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns of a table, each of which some row has.

    >>> columns_of([{"x": 1}, {"y": 2, "x": 1}])
    ['x', 'y']
    """
    return list(dict.fromkeys(name for row in rows for name in row))


def _of_shoppers(room: Room) -> list[Route]:
    """Return the routes that tell something of a shopper alone, without showing anything to anybody."""
    return [
        route
        for kind in room.desk.deployment.kinds
        for route in kind.surface.routes
        if "{shopper}" in route.path and not route.shows and "n" not in route.query.__struct_fields__
    ]


async def retention(room: Room, visit: Visit) -> Response:
    """Show who is likely to leave and worth keeping, page by page."""
    told = await _told(room, ("v1", "retention"), {"n": leaving_max})
    found = told.answer or {"currency": "", "days": 0, "shoppers": []}
    return visit.render(
        "retention.html", told=told, currency=found["currency"], days=found["days"],
        page=page_of(found["shoppers"], visit),
        most=max((one["at_risk"] for one in found["shoppers"]), default=0.0) or 1.0, why=card.why_leaving,
        due=card.why_then,
        at_risk=sum(one["at_risk"] for one in found["shoppers"]), cut=len(found["shoppers"]) == leaving_max,
    )  # fmt: skip


async def declared(room: Room, visit: Visit) -> Response:
    """Show a page that a family declares."""
    name = visit.request.path_params["name"]
    found = next(
        ((kind, page) for kind in room.desk.deployment.kinds for page in kind.surface.pages if page.name == name), None
    )
    if found is None:
        raise Refusal(404, "error.no_page")
    kind, page = found
    scores = await room.desk.course(kind.name)
    sections = [
        (one, [(type(each).__name__, each, _picture(each, visit.says)) for each in one.drawn])
        for one in (page.sections(scores) if scores else [])
    ]
    return visit.render("declared.html", page=page, sections=sections, newest=scores[-1] if scores else None)


def _picture(drawn: Drawn, says: Catalogue) -> Any:
    """Return what is drawn of a part of a page that is a picture."""
    if isinstance(drawn, Calibration):
        return charts.of_calibration(drawn)
    return charts.of_course(drawn, says) if isinstance(drawn, Course) else None


async def events(room: Room, visit: Visit) -> Response:
    """Follow an event."""
    wanted, since = visit.asked("id").strip(), visit.asked("since")
    found, looked = [], bool(wanted)
    if wanted:
        from headrace.clock import read_time_ms
        from headrace.errors import Misconfigured

        try:
            since_ms = read_time_ms("since", since) if since else None
        except Misconfigured:
            raise Refusal(400, "events.bad_time", text=since) from None
        placements = room.desk.deployment.placements
        traces = await room.desk.search(lambda log: trace(log, placements, wanted, since_ms=since_ms))
        found = [(one, [_split(text) for text in lines_of(one)[1:]]) for one in traces]
    return visit.render("events.html", found=found, looked=looked, wanted=wanted, since=since)


def _split(line: str) -> tuple[str, str]:
    """Return the time and the text of a line of a trace."""
    if line[:4].isdigit():
        time, _, text = line.partition("  ")
        return time[:19], text
    return "", line.strip()


async def find(room: Room, visit: Visit) -> Response:
    """Go to what a person looks for."""
    what, kind = visit.asked("what").strip(), visit.asked("kind")
    paths = {"item": ("/items", "words"), "shopper": ("/shopper", "id"), "event": ("/events", "id")}
    path, name = paths.get(kind, paths["item"])
    return redirect(to(path, **{name: what}) if what else "/items")


async def commands(room: Room, visit: Visit) -> Response:
    """Show the commands that actions have run."""
    return visit.render("commands.html", page=page_of(room.jobs.all(), visit))


async def command(room: Room, visit: Visit) -> Response:
    """Show a command: what it says, and whether it has ended."""
    number = visit.asked("number")
    job = room.jobs.find(int(number)) if number.isdecimal() and len(number) < 10 else None
    if job is None:
        raise Refusal(404, "commands.unknown")
    return visit.render("command.html", job=job, output=[visible_lines(text) for text in job.lines])


async def settings(room: Room, visit: Visit) -> Response:
    """Show the settings in force, and where each is from."""
    tables = await room.desk.read(lambda log, reader: settings_in_force(log, room.desk.deployment))
    only = visit.asked("only")
    if only == "changed":
        tables = {
            name: [one for one in rows if one.origin != "default" or one.running] for name, rows in tables.items()
        }
    return visit.render("settings.html", tables={name: rows for name, rows in tables.items() if rows}, only=only)


async def audit(room: Room, visit: Visit) -> Response:
    """Show who did what, and who may log in."""
    return visit.render("audit.html", page=page_of(room.audit.newest(), visit), people=room.people.all())


PAGES: Final = (
    Page("/", front),
    Page("/changes", changes),
    Page("/quality", quality),
    Page("/drift", drift),
    Page("/rounds", rounds),
    Page("/gate", gate),
    Page("/models", models),
    Page("/stream", stream),
    Page("/letters", letters),
    Page("/letter", letter),
    Page("/rules", rules),
    Page("/experiments", experiments),
    Page("/experiment", experiment),
    Page("/replays", replays),
    Page("/replay", replay),
    Page("/replay/picture", replay_picture),
    Page("/items", items),
    Page("/item", item),
    Page("/shoppers", shoppers),
    Page("/shopper", shopper),
    Page("/retention", retention),
    Page("/pages/{name}", declared),
    Page("/events", events),
    Page("/find", find),
    Page("/commands", commands),
    Page("/command", command),
    Page("/settings", settings),
    Page("/audit", audit, "administer"),
    *(Page(path, handler, "operate", "POST") for path, handler in actions.ACTIONS.items()),
)
