"""Evidence: the results of training and of comparing models, as the fine-tuner's judgements store them.

On the wire, a record of `judgements` is one of the structs in MessagePack. Made by `consumers.finetune`, folded by
`learners.rounds.family`. The names of fields on the wire are those of version 0.3.0.
"""

import msgspec
from msgspec import Struct, field

from learners.rounds.gate import Rule
from learners.rounds.retention import RetentionRule
from learners.rounds.session_gate import Visit


class Began(Struct, frozen=True, tag=True):
    """A round begins: it trains on all sessions up to here. Its `Trained` follows at a later entry.

    Records of releases that trained within the commit have no `Began`; there `Trained` alone begins and ends a round.
    `parent` is the version of the model from which the round starts and `parent_blob` its blob (both empty if there is
    none), `events` the end of the records read from each partition of `events`, `share` the weight of the trained
    weights in the predicting weights.
    """

    trigger: str
    parent: str = ""
    parent_blob: str = ""
    events: list[str] = field(default_factory=list)
    seed: int = 0
    share: float = 1.0


class Trained(Struct, frozen=True, tag=True):
    """The result of training or of checking a proposed model; `reasons` are why the model is unfit.

    `retention` has, per older slice of the holdout, the reciprocal ranks of champion and candidate, and
    `retention_shoppers` a number for the shopper of each. `gate_records` is the number of records of `events` by which
    the candidate must have its verdict. `rule` and `retention_rule` are what the verdicts follow from; without them,
    that is rule 1, of 0.3.0.
    """

    blob: str
    trigger: str
    reasons: list[str]
    retention: list[tuple[list[float], list[float]]]
    lineage: dict[str, str | int | float | list[str]]
    gate_records: int = field(default=0, name="gate_events")
    rule: Rule | None = None
    retention_rule: RetentionRule | None = None
    retention_shoppers: list[list[int]] = []


class Compared(Struct, frozen=True, tag=True):
    """The scores of the models on new events, one row per event.

    `blend_scores` has, for each model (by its blob) and for `NO_MODEL`, the blend's score with it
    (`learners.rounds.contest.blend_score`); `own_scores` has the reciprocal ranks of each model (by its blob) and of
    each fast learner. `shoppers` and `sessions` have the session of each row (`learners.rounds.session_gate.Visit`);
    records of 0.3.0 have neither.
    """

    blend_scores: dict[str, list[float]] = field(name="worths")
    own_scores: dict[str, list[float]] = field(name="alone")
    shoppers: list[int] = []
    sessions: list[int] = []

    def visit(self, row: int) -> Visit | None:
        """Return the session of a row, None if the record does not state it."""
        return Visit(self.shoppers[row], self.sessions[row]) if self.sessions else None


_decoder: msgspec.msgpack.Decoder[Began | Trained | Compared] = msgspec.msgpack.Decoder(Began | Trained | Compared)


def encode(evidence: Began | Trained | Compared) -> bytes:
    """Return the wire form."""
    return msgspec.msgpack.encode(evidence)


def decode(data: bytes) -> Began | Trained | Compared:
    """Return the content of a judgement.

    Raises:
        msgspec.MsgspecError: the bytes are not evidence.
    """
    return _decoder.decode(data)
