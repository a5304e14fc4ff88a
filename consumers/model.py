"""Models that consumers ask: read by their blob, and done without where that is lost."""

import structlog

from headrace.blobs import Blobs
from headrace.errors import BlobCorrupt, BlobMissing, StateUnreadable
from learners.deep import DeepModel


def read_model(blobs: Blobs, blob: str, *, to_train: bool = False) -> DeepModel | None:
    """Return a model, or None, with a warning, if its blob is gone, damaged or of another version's format: no journal
    can bring it back, and the fast learners must not stop for it.

    Args:
        to_train: as of `DeepModel.from_bytes`.
    """
    try:
        return DeepModel.from_bytes(blobs.get(blob), to_train=to_train)
    except (BlobMissing, BlobCorrupt, StateUnreadable) as error:
        structlog.get_logger().warning("model is gone", error=str(error))
        return None
