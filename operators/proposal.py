"""Proposals: submitting a model that was trained elsewhere to the gate."""

import uuid
from pathlib import Path

from headrace.announcement import Announcement
from headrace.clock import wall_ms
from headrace.errors import Misconfigured
from headrace.log.protocol import Log
from headrace.shard.blobs import Blobs, blob_name


def propose(
    log: Log, blobs: Blobs, path: Path, *, by: str = "", reason: str = "", dry_run: bool = False
) -> Announcement:
    """Store a model file as a blob, announce it on `models` as proposed, and return the announcement.

    Nothing is checked here: the fine-tuner checks the model like its own candidates, and announces the verdict on
    `models`.

    Args:
        by, reason: who proposes it and why, for the record.
        dry_run: store and announce nothing.

    Raises:
        Misconfigured: there is no such file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"{path}: wanted a model file, found {error.strerror}") from error
    blob = blob_name("model", data) if dry_run else blobs.put("model", data)
    announcement = Announcement(
        id=f"operator/{uuid.uuid4().hex}", kind="proposed", round=0, at_events=0, time_ms=wall_ms(),
        version=f"proposed-{blob.rpartition('-')[2][:8]}", blob=blob, by=by, reason=reason,
    )  # fmt: skip
    if dry_run:
        return announcement
    appender = log.appender()
    try:
        appender.append(announcement.record())
        appender.flush()
    finally:
        appender.close()
    return announcement
