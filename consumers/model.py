"""Models that consumers ask: read by their blob, and done without where that is lost."""

import structlog

from headrace.blobs import Blobs
from headrace.errors import BlobCorrupt, BlobMissing
from learners.deep import DeepModel


def read_model(blobs: Blobs, blob: str) -> DeepModel | None:
    """Return a model, or None, with a warning, if its blob is gone or damaged: no journal can bring it back, and the
    fast learners must not stop for it.

    Raises:
        StateUnreadable: another version wrote it.
    """
    try:
        return DeepModel.from_bytes(blobs.get(blob))
    except (BlobMissing, BlobCorrupt) as error:
        structlog.get_logger().warning("model is gone", error=str(error))
        return None
