"""Proposals: submitting a model that was trained elsewhere to the gate."""

import uuid
from pathlib import Path

from headrace.announcement import Announcement
from headrace.clock import wall_ms
from headrace.errors import Misconfigured
from headrace.log.protocol import Log
from headrace.shard.blobs import Blobs


def propose(log: Log, blobs: Blobs, path: Path) -> str:
    """Store a model file as a blob, announce it on `models` as proposed, and return the blob's name.

    Nothing is checked here: the fine-tuner checks the model like its own candidates, and announces the verdict on
    `models`.

    Raises:
        Misconfigured: there is no such file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"{path}: wanted a model file, found {error.strerror}") from error
    blob = blobs.put("model", data)
    announcement = Announcement(
        id=f"operator/{uuid.uuid4().hex}", kind="proposed", round=0, at_events=0, time_ms=wall_ms(),
        version=f"proposed-{blob.rpartition('-')[2][:8]}", blob=blob,
    )  # fmt: skip
    appender = log.appender()
    try:
        appender.append(announcement.record())
        appender.flush()
    finally:
        appender.close()
    return blob
