"""Fields of foreign bodies, read alike by all adapters: what is clear is converted, what is missing is absent.

What can be read in a foreign body may have any JSON type anywhere. A field that an entry can do without is absent if
its value cannot be used; one that an entry needs makes the entry `Unusable`.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC
from itertools import islice
from typing import Any, Final

import msgspec

from headrace.events import at, items_max
from producers.gateway.made import BadBody, Made, MadeEvent, Refused, Request
from producers.times import number_ms, text_ms
from producers.values import Unusable, as_number, as_text, is_missing

entries_max: Final = 1_000
"""Most entries of one body."""
traits_max: Final = 100
"""Most traits of one entry that are kept, the first by name."""
names_max: Final = 1_000
"""Most names of an object that are looked at, where a body chooses them: it may hold hundreds of thousands."""
consents_max: Final = 100
"""Most consents of an entry that are looked at."""
trait_chars_max: Final = 200
"""Longest text of a trait."""
_TIME_CHARS_MAX: Final = 64
_ID_MISSING: Final = frozenset({"undefined", "[object object]"})
"""What JavaScript writes where an id is missing, beside the words of `producers.values`; in lower case."""
_PERSONAL: Final = re.compile(
    r"(e?mail|phone|mobile|address|street|postal|postcode|zip|birth|password|passport|useragent|avatar)"
    r"|^((customer|contact|billing|shipping)_)?((first|last|full|middle|given|family|user|nick|display|sur)_?)?name$"
    r"|^([fl]name|ip|tel|fax|dob|ssn)$"
)
"""Names of traits that identify a person, in lower case."""


def json_of(body: bytes) -> Any:
    """Return the JSON value of a body. Raises BadBody."""
    if not body.strip():
        raise BadBody("empty", "wanted a JSON document, found an empty body")
    try:
        return msgspec.json.decode(body)
    except UnicodeDecodeError as error:
        raise BadBody("bad_utf8", str(error)[:300]) from None
    except msgspec.DecodeError as error:
        raise BadBody("not_json", str(error)[:300]) from None
    except RecursionError:
        raise BadBody("too_deep", "wanted a document of at most a few levels, found one nested too deeply") from None


def object_of(found: Any, wanted: str) -> dict[str, Any]:
    """Return a body that must be an object. Raises BadBody."""
    if not isinstance(found, dict):
        raise BadBody("schema", f"wanted {wanted}, found {kind_of(found)}")
    return found


def entries_of(found: Any, wanted: str) -> list[Any]:
    """Return the entries of a body, which must be an array of at most `entries_max`. Raises BadBody."""
    if not isinstance(found, list):
        raise BadBody("schema", f"wanted {wanted}, found {kind_of(found)}")
    if len(found) > entries_max:
        raise BadBody("too_many", f"wanted at most {entries_max} entries, found {len(found)}")
    return found


def kind_of(value: Any) -> str:
    """Return what a JSON value is, in words, without its content.

    >>> kind_of([]), kind_of(None), kind_of(1.5)
    ('an array', 'null', 'a number')
    """
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, str):
        return "a text"
    return "null" if value is None else "a truth value" if isinstance(value, bool) else "a number"


def made_of(entries: Iterable[Any], make: Callable[[int, dict[str, Any]], list[Made]]) -> list[list[Made]]:
    """Return what `make` makes of each entry; one that is no object, or `Unusable`, is refused."""
    return [_made_of(index, entry, make) for index, entry in enumerate(entries)]


def _made_of(index: int, entry: Any, make: Callable[[int, dict[str, Any]], list[Made]]) -> list[Made]:
    if not isinstance(entry, dict):
        return [Refused("schema", f"wanted an object, found {kind_of(entry)}")]
    try:
        return make(index, entry)
    except Unusable as fault:
        return [Refused(fault.reason, fault.detail)]


def mapping(value: Any) -> dict[str, Any]:
    """Return an object, or an empty one in place of any other value."""
    return value if isinstance(value, dict) else {}


def objects(value: Any) -> list[dict[str, Any]]:
    """Return the objects of an array; an empty one in place of each other element, so that it counts as unusable."""
    return [mapping(one) for one in value[:items_max]] if isinstance(value, list) else []


def id_of(*values: Any) -> str:
    """Return the first of some ids that is stated, as text; empty if none is.

    >>> id_of(None, "undefined", 17.0), id_of({}, True)
    ('17', '')
    """
    for value in values:
        if isinstance(value, (str, int, float)) and not isinstance(value, bool) and not is_missing(value):
            text = as_text(value)
            if text.lower() not in _ID_MISSING:
                return text
    return ""


def words_of(value: Any, longest: int = 500) -> str:
    """Return a name or a word as text of at most `longest` characters; empty if there is none."""
    return as_text(value)[:longest] if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""


def written_by_shopper(value: Any, longest: int = 500) -> str:
    """Return what a shopper typed, without words that may be an e-mail address.

    >>> written_by_shopper("shoes for ann@example.com")
    'shoes for'
    """
    text = words_of(value, longest)
    return text if "@" not in text else " ".join(word for word in text.split() if "@" not in word)


def number_of(value: Any) -> float | None:
    """Return a number, also one that is written as text; None if there is none or it cannot be read."""
    if not isinstance(value, (str, int, float)) or isinstance(value, bool) or is_missing(value):
        return None
    try:
        return as_number(value)
    except ValueError:
        return None


def amount_of(*values: Any) -> float | None:
    """Return the first of some amounts of an event that can be used; None if none can."""
    numbers = (number_of(value) for value in values)
    return next((number for number in numbers if number is not None and abs(number) <= 1e9), None)


def currency_of(*values: Any) -> str:
    """Return the first of some currencies that is a code of ISO 4217, in capitals; empty if none is.

    >>> currency_of(None, "euro", "eur")
    'EUR'
    """
    texts = (words_of(value) for value in values)
    return next((text.upper() for text in texts if len(text) == 3 and text.isascii() and text.isalpha()), "")


def time_ms_of(value: Any, field: str) -> int | None:
    """Return a time in milliseconds since 1970; None if none is stated.

    Numbers since 1970 may have any usual unit, texts are ISO 8601 and UTC where they state no zone.

    Raises:
        Unusable: it is stated and cannot be read; `field` names it.
    """
    if is_missing(value):
        return None
    try:
        if isinstance(value, str) and len(value) <= _TIME_CHARS_MAX:
            return text_ms(value, "month-first", UTC) if ":" in value or "-" in value else number_ms(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return number_ms(value)
    except (ValueError, OverflowError):
        pass
    raise Unusable("schema", f"wanted {field} as a time, found {words_of(value, _TIME_CHARS_MAX) or kind_of(value)}")


def rfc3339(time_ms: int) -> str:
    """Return a time as RFC 3339 writes it, in UTC. Raises Unusable.

    >>> rfc3339(1_772_359_200_500)
    '2026-03-01T10:00:00.500Z'
    """
    try:
        return at(time_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        raise Unusable("time_absurd", "wanted a time of the years 1995 to 9999, found another") from None


def digest_of(body: bytes) -> str:
    """Return a digest of a body, from which the ids of entries without one are made."""
    return hashlib.sha256(body).hexdigest()[:32]


def event(
    request: Request, feed: str, type_: str, *, id_: str, shopper: str, time_ms: int, data: Mapping[str, Any]
) -> MadeEvent:
    """Return an event of a feed of the request's shop; fields of `data` that are None or empty texts are absent.

    Raises:
        Unusable: no shopper is stated, or the time is absurd.
    """
    if not shopper:
        raise Unusable("key_missing", "wanted the id of a shopper or a guest, found none")
    return MadeEvent(
        {
            "specversion": "1.0",
            "id": id_,
            "source": f"{request.shop}/{feed}",
            "type": type_,
            "subject": shopper,
            "time": rfc3339(time_ms),
            "data": {name: value for name, value in data.items() if value is not None and value != ""},
        }
    )


def line(
    item_id: str,
    *,
    name: Any = None,
    brand: Any = None,
    category: Any = None,
    price: Any = None,
    quantity: Any = None,
    index: Any = None,
    list_id: Any = None,
    propensity: Any = None,
) -> dict[str, Any]:
    """Return a line of `items`: numbers may be texts, and a quantity of 0 or an index below 0 is absent.

    A line with a number that cannot be read is empty: decoding drops it, and counts it.
    """
    numbers: dict[str, float | int | None] = {}
    for field, value in (("price", price), ("quantity", quantity), ("index", index), ("propensity", propensity)):
        numbers[field] = number = number_of(value)
        if number is None and not is_missing(value):
            return {}
    place = numbers["index"]
    numbers["index"] = int(place) if place is not None and place >= 0 else None
    numbers["quantity"] = numbers["quantity"] or None
    stated = {
        "item_id": item_id,
        "item_name": words_of(name),
        "item_brand": words_of(brand),
        "item_category": words_of(category),
        "item_list_id": words_of(list_id),
        **numbers,
    }
    return {field: value for field, value in stated.items() if value is not None and value != ""}


def traits_of(found: Any) -> dict[str, Any]:
    """Return the traits of a shopper that are short texts, numbers or truth values, and identify no person.

    Names, addresses, telephone numbers and the like are dropped by the trait's name, e-mail addresses also by the
    value.

    >>> traits_of({"plan": "gold", "age": 41, "email": "a@b.c", "contact": "a@b.c", "address": {"city": "Oslo"}})
    {'age': 41, 'plan': 'gold'}
    """
    kept = {name: value for name, value in islice(mapping(found).items(), names_max) if _is_trait(name, value)}
    return {name: kept[name] for name in sorted(kept)[:traits_max]}


def _is_trait(name: str, value: Any) -> bool:
    if not 1 <= len(name) <= trait_chars_max or _PERSONAL.search(re.sub(r"[\s-]", "_", name.lower())):
        return False
    if isinstance(value, str):
        return 0 < len(value) <= trait_chars_max and "@" not in value
    return isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 2**63)


def granted(stated: Mapping[str, Any], purposes: Mapping[str, str]) -> list[str] | None:
    """Return the purposes to which a shopper consents, sorted; None if the body states none.

    Args:
        stated: the consents of the body: truth values, or GA4's `GRANTED` and `DENIED`, by the system's own names.
        purposes: for those names, in lower case, `analytics`, `personalization` or `marketing`.

    >>> granted({"Ads": True, "Stats": "denied"}, {"ads": "marketing", "stats": "analytics"}), granted({}, {})
    (['marketing'], None)
    """
    if not stated:
        return None
    looked_at = islice(stated.items(), consents_max)
    yes = (name.lower() for name, value in looked_at if value is True or words_of(value).lower() == "granted")
    return sorted({purposes[name] for name in yes if name in purposes})
