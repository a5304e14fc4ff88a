"""Requests about models by the word of a person or a program (`headrace promote`, `roll-back`, `withdraw`)."""

import uuid
from collections.abc import Iterable
from typing import Final, NamedTuple

import headrace
from headrace.announcement import Action, Announcement, announced
from headrace.clock import wall_ms
from headrace.errors import BlobCorrupt, BlobMissing, Misconfigured, StateUnreadable
from headrace.log.protocol import Log, Record
from headrace.log.scan import topic_records
from headrace.shard.blobs import Blobs
from headrace.topics import MODELS
from learners.succession import Succession, is_request

shown_versions_max: Final = 8
"""Most versions that an error names."""


class Request(NamedTuple):
    """A request and its position in `models`. `overruled` is the verdict that has replaced its model since."""

    announcement: Announcement
    position: int
    overruled: Announcement | None = None


class Standing(NamedTuple):
    """What `models` says: all announcements, the champion by the rule of every fold, and the newest request."""

    announcements: list[Announcement]
    champion: Announcement | None
    former: list[Announcement]
    request: Request | None


def standing(records: Iterable[Record]) -> Standing:
    """Return what the records of `models` say.

    `former` has the announcements by which a model was champion, the champion's included, oldest first.
    """
    succession, said = Succession(), list[Announcement]()
    champion: Announcement | None = None
    former: list[Announcement] = []
    request: Request | None = None
    for record in records:
        one = announced(record)
        if one is None:
            continue
        said.append(one)
        if not succession.hear(one, record.offset):
            continue
        champion = one if one.blob else None
        if champion:
            former.append(champion)
        if is_request(one):
            request = Request(one, record.offset)
        elif request and not request.overruled:
            request = request._replace(overruled=one)
    return Standing(said, champion, former, request)


def promote(log: Log, blobs: Blobs, version: str, *, by: str, reason: str = "", dry_run: bool = False) -> Announcement:
    """Request that a model which was announced becomes champion, without a test in the gate; return the request.

    Args:
        dry_run: write nothing.

    Raises:
        Misconfigured: no model of that version was announced, it is the champion, or it cannot be used.
    """
    now = standing(topic_records(log, MODELS))
    known = {one.version: one for one in now.announcements if one.version and one.blob}
    if version not in known:
        raise Misconfigured(f"{version}: wanted a version that was announced on models, found none; {_known(known)}")
    return _request(log, blobs, now, "promote", known[version], by=by, reason=reason, dry_run=dry_run)


def roll_back(
    log: Log, blobs: Blobs, version: str | None, *, by: str, reason: str = "", dry_run: bool = False
) -> Announcement:
    """Request that a former champion becomes champion again, or that there is none (None); return the request.

    Args:
        dry_run: write nothing.

    Raises:
        Misconfigured: the version was never champion, it is the champion, it cannot be used, or there is no champion.
    """
    now = standing(topic_records(log, MODELS))
    if version is None:
        if now.champion is None:
            raise Misconfigured("wanted a champion to roll back, found none; the blend works without the deep model")
        return _request(log, blobs, now, "roll_back", None, by=by, reason=reason, dry_run=dry_run)
    known = {one.version: one for one in now.former}
    if version not in known:
        raise Misconfigured(f"{version}: wanted a former champion, found none of that version; {_known(known)}")
    return _request(log, blobs, now, "roll_back", known[version], by=by, reason=reason, dry_run=dry_run)


def withdraw(log: Log, version: str, *, by: str, reason: str = "", dry_run: bool = False) -> Announcement:
    """Request that the fine-tuner takes a model out of the gate, or from before it; return the request.

    Raises:
        Misconfigured: no model of that version waits for a verdict.
    """
    waiting: dict[str, Announcement] = {}
    for one in standing(topic_records(log, MODELS)).announcements:
        if one.kind in ("proposed", "candidate"):
            # A proposed model gets another version in the gate.
            waiting = {version: model for version, model in waiting.items() if model.blob != one.blob}
            waiting[one.version] = one
        elif one.kind in ("promoted", "refused", "failed"):
            waiting.pop(one.version, None)
    if version not in waiting:
        raise Misconfigured(f"{version}: wanted a model that waits for a verdict, found none; {_known(waiting)}")
    model = waiting[version]
    return _write(log, _asked("withdraw", model, parent="", by=by, reason=reason), dry_run=dry_run)


def _known(versions: Iterable[str]) -> str:
    return f"known are {', '.join(list(versions)[-shown_versions_max:]) or 'none'}"


def _request(
    log: Log, blobs: Blobs, now: Standing, action: Action, model: Announcement | None, *, by: str, reason: str,
    dry_run: bool,
) -> Announcement:  # fmt: skip
    if model:
        if now.champion and now.champion.blob == model.blob:
            raise Misconfigured(f"{model.version}: wanted another model than the champion, found the champion")
        _check(blobs, model)
        if not dry_run:
            blobs.renew(model.blob)  # no sweep deletes it before the fine-tuner hears the request
    parent = now.champion.version if now.champion else ""
    return _write(log, _asked(action, model, parent=parent, by=by, reason=reason), dry_run=dry_run)


def _asked(action: Action, model: Announcement | None, *, parent: str, by: str, reason: str) -> Announcement:
    return Announcement(
        id=f"operator/{uuid.uuid4().hex}", kind="requested", action=action, by=by, reason=reason, parent=parent,
        round=model.round if model else 0, at_events=0, time_ms=wall_ms(), lineage={"headrace": headrace.__version__},
        version=model.version if model else "", blob=model.blob if model else "",
    )  # fmt: skip


def _write(log: Log, request: Announcement, *, dry_run: bool) -> Announcement:
    if dry_run:
        return request
    appender = log.appender()
    try:
        appender.append(request.record())
        appender.flush()
    finally:
        appender.close()
    return request


def _check(blobs: Blobs, model: Announcement) -> None:
    from learners.deep.model import load_to_judge

    try:
        reasons = load_to_judge(blobs.get(model.blob)).check()
    except (BlobMissing, BlobCorrupt, StateUnreadable) as error:
        reasons = [str(error)]
    if reasons:
        raise Misconfigured(f"{model.version}: wanted a model that can be used, found: {'; '.join(reasons)}")
