"""Evidence: what torch made and how models did, as the fine-tuner's judgements hold it.

On the wire one record of `judgements` is one of the two in MessagePack. Made by `consumers.finetune`, folded by
`learners.rounds`.
"""

import msgspec
from msgspec import Struct


class Trained(Struct, frozen=True, tag=True):
    """What training made, or why it made nothing: `reasons` that the model is unfit.

    `retention` has, per older slice of the holdout, the reciprocal ranks of champion and candidate.
    """

    blob: str
    trigger: str
    reasons: list[str]
    retention: list[tuple[list[float], list[float]]]
    lineage: dict[str, str | int | float | list[str]]
    gate_events: int = 0


class Compared(Struct, frozen=True, tag=True):
    """How the models did on new events, one row per event.

    `worths` has, for each model (by its blob) and for `NOTHING`, what the blend is worth with it
    (`learners.contest.worth`); `alone` the reciprocal ranks of each model (by its blob) and each fast learner alone.
    """

    worths: dict[str, list[float]]
    alone: dict[str, list[float]]


_decoder: msgspec.msgpack.Decoder[Trained | Compared] = msgspec.msgpack.Decoder(Trained | Compared)


def encode(evidence: Trained | Compared) -> bytes:
    """Return the wire form."""
    return msgspec.msgpack.encode(evidence)


def decode(data: bytes) -> Trained | Compared:
    """Return what a judgement holds.

    Raises:
        msgspec.MsgspecError: the bytes are none.
    """
    return _decoder.decode(data)
