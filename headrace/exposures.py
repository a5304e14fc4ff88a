"""Exposures: what keeps the exposure of brands and sellers within a placement's rule.

A record of the topic `exposures` is about one placement, or about one arm of an experiment there, and replaces the
record before; the shard that measures exposure writes it. Its key is the placement's name, `EVERYWHERE` for answers
that name none. Its value is one JSON document. `decode` returns an `Exposure`, or a `Rejection`, and never raises.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from headrace.events import Rejection
from headrace.log.protocol import RECORD_BYTES_MAX, Outgoing, Record
from headrace.topics import EXPOSURES

EVERYWHERE: Final = "*"
"""The key of answers that name no placement: an empty key could not be told from a missing one."""
groups_max: Final = 300
"""Most brands, and sellers, of a record."""
octaves_max: Final = 10.0
"""Binary logarithm of the highest factor; the lowest is its inverse."""

_Name = Annotated[str, Meta(max_length=500)]
_Share = Annotated[float, Meta(ge=0, le=1)]


class Steered(Struct, frozen=True, gc=False, array_like=True):
    """A brand or seller as `[factor, shortfall]`.

    `factor` multiplies the score of its items. `shortfall` is which share of the exposure that it merits it lacks.
    """

    factor: Annotated[float, Meta(ge=0, le=1_024)] = 1.0
    shortfall: _Share = 0.0


_Groups = Annotated[dict[_Name, Steered], Meta(max_length=groups_max)]


class Exposure(Struct, frozen=True, omit_defaults=True):
    """The value of a record. Brands and sellers are named as rules compare them: in lower case, without outer blanks.

    `experiment` and `arm` are "" for a placement's own rules. `time_ms` is the shop's time. Of brands and sellers that
    are not named, the factor is 1 and the shortfall 0.
    """

    placement: Annotated[str, Meta(max_length=128)] = ""
    experiment: _Name = ""
    arm: _Name = ""
    time_ms: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    brands: _Groups = {}
    sellers: _Groups = {}


_decode = msgspec.json.Decoder(Exposure).decode
_encode = msgspec.json.Encoder().encode


def record_of(exposure: Exposure) -> Outgoing:
    """Return the record of an exposure."""
    return Outgoing(EXPOSURES, _key(exposure.placement), _encode(exposure))


def _key(placement: str) -> bytes:
    return (placement or EVERYWHERE).encode()


def decode(record: Record) -> Exposure | Rejection:
    """Return what a record says, or the reason why it cannot be used.

    >>> made = record_of(Exposure("home", brands={"acme": Steered(0.5)}))
    >>> decode(Record(0, 0, 0, made.key, made.value)).brands
    {'acme': Steered(factor=0.5, shortfall=0.0)}
    >>> decode(Record(0, 0, 0, b"home", b"noise")).reason
    'not_json'
    """
    value = record.value
    if not value:
        return Rejection("empty", "wanted a JSON document, found an empty value")
    if len(value) > RECORD_BYTES_MAX:
        return Rejection("too_large", f"wanted at most {RECORD_BYTES_MAX} bytes, found {len(value)}")
    try:
        found = _decode(value)
        if record.key != _key(found.placement):
            return Rejection("key_mismatch", "wanted the placement's name as the record's key, found another")
        return found
    except msgspec.ValidationError as error:
        return Rejection("schema", str(error)[:300])
    except msgspec.DecodeError as error:
        return Rejection("not_json", str(error)[:300])
    except UnicodeDecodeError as error:
        return Rejection("bad_utf8", str(error)[:300])
    except RecursionError:
        return Rejection("too_deep", "wanted a document of at most a few levels, found one nested too deeply")
