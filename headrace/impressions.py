"""Impressions: what an answer showed, with the probability of each item, decoded and validated in one pass.

A record of the topic `impressions` is one list that a server showed. Its key is the shopper as in the log; without a
shopper it has none. Its value is one compact JSON document. `decode` returns an `Impression` or a `Rejection` and never
raises, whatever the bytes are. Unknown fields are ignored, so that a newer server can write for an older shard.

`shard` and `entry` name the state that chose the items: the fold of that shard's journal up to that entry. With the
model's version, the items that were chosen, and the propensity of each, an off-policy evaluation has all that it needs.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from headrace.events import Id, Rejection
from headrace.log.protocol import RECORD_BYTES_MAX, Outgoing, Record
from headrace.topics import IMPRESSIONS

items_max: Final = 1_000
"""Most items of one impression: the most that a request may ask for."""
actions_max: Final = 64
"""Most actions among which an answer may choose by chance."""
features_max: Final = 64
"""Most numbers of the context of such a choice."""

_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Name = Annotated[str, Meta(max_length=128)]
_Probability = Annotated[float, Meta(ge=0, le=1)]


class ShownItem(Struct, frozen=True, gc=False, array_like=True):
    """An item that was shown, as `[item_id, propensity]`.

    `propensity` is the probability with which it was chosen for its position; 1 where the ranking is deterministic.
    Where the ranker of the whole list was left to chance, it is that of this list, and what others would have shown at
    this position is not known.
    """

    item_id: Id
    propensity: Annotated[float, Meta(gt=0, le=1)] = 1.0


class Explored(Struct, frozen=True, gc=False, omit_defaults=True):
    """A choice that was left to chance: what could be chosen, with which probabilities, what was, and in which context.

    `experiment` is the one of which an arm explores. `position` is what was chosen: 0 for the ranker of the whole list,
    k for the item at its k-th place. `actions` are the rankers, or the items, `probabilities` theirs, in the same
    order, and `action` the index of the chosen one. `policy` is the version of the policy that stated the
    probabilities, "" before the first one. `context` are the numbers that the policy knew, in the order that it states.
    """

    experiment: _Name
    actions: Annotated[list[Id], Meta(min_length=2, max_length=actions_max)]
    probabilities: Annotated[list[_Probability], Meta(min_length=2, max_length=actions_max)]
    action: _Count
    position: Annotated[int, Meta(ge=0, le=items_max)] = 0
    policy: _Name = ""
    context: Annotated[list[float], Meta(max_length=features_max)] = []

    def __post_init__(self) -> None:
        """Refuse what cannot be a choice.

        Raises:
            ValueError: the numbers do not belong together.
        """
        found = len(self.actions), len(self.probabilities)
        if found[0] != found[1]:
            raise ValueError(f"wanted a probability for each action, found {found[1]} for {found[0]}")
        if self.action >= found[0]:
            raise ValueError(f"wanted an action from 0 to {found[0] - 1}, found {self.action}")
        if not self.probabilities[self.action] > 0:
            raise ValueError("wanted a chosen action with a probability above 0, found 0")
        if abs(sum(self.probabilities) - 1) > 1e-6:
            raise ValueError(f"wanted probabilities that add up to 1, found {sum(self.probabilities)}")


class Shown(Struct, frozen=True, gc=False):
    """One list that an answer shows, as its family states it.

    `recommendation_id` is the id in the answer's body; an answer with several lists has an id for each. `items` are in
    the order in which they are shown. `shopper` is the id that was asked for, "" for nobody's. `model` is the version
    of the artifact that chose them, "" for the promoted one. `experiments`, `explored` and `segments` are as in
    `Impression`.
    """

    recommendation_id: str
    items: Iterable[ShownItem]
    placement: str = ""
    shopper: str = ""
    experiments: Mapping[str, str] = {}
    model: str = ""
    explored: Explored | None = None
    segments: Sequence[str] = ()


class Impression(Struct, frozen=True, gc=False, omit_defaults=True):
    """The value of a record: one list that was shown, best first, and what chose it.

    `time_ms` is when it was answered, by the server's clock, in milliseconds since the epoch. `route` is the path of
    the route as declared, `model` the version of the artifact that was used ("" for none). `shard` and `entry`
    are the journal and the number of its entries that the answer includes, `newest_event_ms` the shop's time at the
    newest event of these. `device` and `country` are the shopper's, as the request states them. `experiments` has, by
    experiment, the arm that the shopper is in; of an interleaved one, a letter for each item: A if the first arm's list
    gave it, B if the second one's, - if neither. `explored` is what was left to chance. `segments` are those of the
    shopper when answering, a cluster and a class among them, where rules, an experiment or a choice depend on them.
    """

    recommendation_id: Id
    time_ms: _Count
    route: Annotated[str, Meta(min_length=1, max_length=128)]
    items: Annotated[list[ShownItem], Meta(max_length=items_max)]
    placement: _Name = ""
    model: _Name = ""
    shopper: _Name = ""
    shard: _Name = ""
    entry: _Count = 0
    newest_event_ms: _Count = 0
    device: _Name = ""
    country: _Name = ""
    experiments: Annotated[dict[_Name, Annotated[str, Meta(max_length=items_max)]], Meta(max_length=64)] = {}
    explored: Explored | None = None
    segments: Annotated[list[_Name], Meta(max_length=64)] = []


_decode = msgspec.json.Decoder(Impression).decode
_encode = msgspec.json.Encoder().encode


def record_of(impression: Impression) -> Outgoing:
    """Return the record of an impression."""
    return Outgoing(IMPRESSIONS, impression.shopper.encode() or None, _encode(impression))


def decode(record: Record) -> Impression | Rejection:
    """Return a record's impression, or the reason why it cannot be used.

    >>> value = b'{"recommendation_id":"r1","time_ms":5,"route":"/v1/x","items":[["a",0.5]]}'
    >>> decode(Record(0, 0, 0, None, value)).items
    [ShownItem(item_id='a', propensity=0.5)]
    >>> decode(Record(0, 0, 0, None, b"noise")).reason
    'not_json'
    """
    value = record.value
    if not value:
        return Rejection("empty", "wanted a JSON document, found an empty value")
    if len(value) > RECORD_BYTES_MAX:
        return Rejection("too_large", f"wanted at most {RECORD_BYTES_MAX} bytes, found {len(value)}")
    try:
        return _decode(value)
    except msgspec.ValidationError as error:
        return Rejection("schema", str(error)[:300])
    except msgspec.DecodeError as error:
        return Rejection("not_json", str(error)[:300])
    except UnicodeDecodeError as error:
        return Rejection("bad_utf8", str(error)[:300])
    except RecursionError:
        return Rejection("too_deep", "wanted a document of at most a few levels, found one nested too deeply")
