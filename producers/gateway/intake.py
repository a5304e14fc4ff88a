"""The intake of the gateway: what is made of a body is pseudonymised, validated and told apart from repetitions.

The same for all formats, and for a dry run, which only does not remember. What is written of an event are the fields of
`headrace.events` alone, so nothing personal gets through in others.
"""

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from headrace import events, experiments, items, rules
from headrace.events import Event, Rejection, at
from headrace.items import ignored
from headrace.log.protocol import Outgoing, Record
from headrace.pseudonyms import Pseudonyms, Secret
from headrace.topics import EVENTS, ITEMS, TRAITS
from headrace.traits import Traits, traits_max
from headrace.traits import encode as encode_traits
from producers.gateway.made import Made, MadeEvent, MadeExperiment, MadeItem, MadeRules, MadeTraits, Refused, Unused
from producers.gateway.stated import StatedItems
from producers.values import as_text

ids_max: Final = 65_536
"""Most newest ids of events that are remembered, so that a repetition is told; consumers drop later ones."""
linked_max: Final = 200_000
"""Most shoppers of whom it is remembered that their pseudonyms are linked; others are linked once more."""
trait_characters_max: Final = 200


class Refusal(Struct, frozen=True, omit_defaults=True):
    """An entry that cannot be used: its place in the body, its id if it has one, and why."""

    index: int
    reason: str
    detail: str
    id: str = ""


class Becomes(Struct, frozen=True, omit_defaults=True):
    """What a dry run says of an entry that is right: the record that it would become, or that none would.

    `key` is the record's key, a pseudonym unless that is switched off. `ignored` are fields that cannot be used.
    """

    index: int
    topic: str = ""
    key: str = ""
    document: Any = None
    repeated: bool = False
    unused: str = ""
    ignored: list[str] = []


class Taken(NamedTuple):
    """What is to be written of a body, and what is to be said of it.

    Attributes:
        records: to be written.
        ids: the ids of their events, to be remembered once the records are safe.
        links: the shoppers whom the records link.
        accepted, repeated, unused: numbers of entries. One of which several records are made counts once.
    """

    records: list[Outgoing]
    ids: list[tuple[str, str]]
    links: list[str]
    accepted: int
    repeated: int
    unused: int
    refused: list[Refusal]
    becomes: list[Becomes]


class Intake:
    """Turns what adapters make into records. Not thread-safe.

    Args:
        pseudonyms: None to pass ids on as they are given.
        traits: names of the traits that are kept.

    Attributes:
        stated: the items whose records became safe a moment ago.
    """

    def __init__(self, pseudonyms: Pseudonyms | None, traits: Sequence[str]) -> None:
        self._pseudonyms, self._traits = pseudonyms, frozenset(traits)
        self._ids: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._linked: OrderedDict[str, None] = OrderedDict()
        self.stated = StatedItems()

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        return {
            "gateway_event_ids": (len(self._ids), ids_max), "gateway_linked": (len(self._linked), linked_max),
            "gateway_stated_items": self.stated.use(),
        }  # fmt: skip

    def take(self, entries: Sequence[Sequence[Made]], received_ms: int, *, explain: bool = False) -> Taken:
        """Return what becomes of a body's entries.

        Args:
            received_ms: the time at which it came, with which times of events are compared.
            explain: fill `Taken.becomes`.
        """
        one = _Body(self, received_ms, explain)
        for index, entry in enumerate(entries):
            one.add(index, entry)
        return one.taken()

    def remember(self, taken: Taken, now_ms: int) -> None:
        """Remember what is safe now."""
        for record in taken.records:
            if record.topic == ITEMS and record.key:
                self.stated.note(record.key.decode(), record.value, now_ms)
        _remember(self._ids, taken.ids, ids_max)
        _remember(self._linked, taken.links, linked_max)

    def knows(self, id_: tuple[str, str]) -> bool:
        """Return whether an event of this source and id is safe, as far as is remembered."""
        return id_ in self._ids

    def is_linked(self, pseudonym: str) -> bool:
        """Return whether a shopper's older pseudonym is linked, as far as is remembered."""
        return pseudonym in self._linked

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The secrets of the pseudonyms, the one in use last; empty if ids are passed on as they are given."""
        return self._pseudonyms.secrets if self._pseudonyms else ()

    @property
    def trait_names(self) -> frozenset[str]:
        """The names of the traits that are kept."""
        return self._traits


class _Body:
    """The entries of one body while they are taken."""

    def __init__(self, intake: Intake, received_ms: int, explain: bool) -> None:
        self._intake, self._received_ms, self._explain = intake, received_ms, explain
        self._secrets = intake.secrets
        self._records: list[Outgoing] = []
        self._ids: dict[tuple[str, str], None] = {}
        self._links: dict[str, None] = {}
        self._counts: Counter[str] = Counter()
        self._refused: list[Refusal] = []
        self._becomes: list[Becomes] = []

    def taken(self) -> Taken:
        counts = self._counts
        return Taken(
            self._records, list(self._ids), list(self._links), counts["accepted"], counts["repeated"],
            counts["unused"], self._refused, self._becomes,
        )  # fmt: skip

    def add(self, index: int, entry: Sequence[Made]) -> None:
        """Take one entry. It counts as what its best part is: accepted, repeated, refused or unused."""
        found = {self._take(index, made) for made in entry} or {"unused"}
        self._counts[next(one for one in ("accepted", "repeated", "refused", "unused") if one in found)] += 1

    def _take(self, index: int, made: Made) -> str:
        match made:
            case MadeEvent(document):
                return self._event(index, document)
            case MadeItem(item, document):
                return self._item(index, item, document)
            case MadeRules(placement, document):
                return self._rules(index, placement, document)
            case MadeExperiment(name, document):
                return self._experiment(index, name, document)
            case MadeTraits(shopper, traits, consent, announces):
                if consent is not None and not consent:
                    return self._unused(index, "wanted traits of a shopper who consents to anything, found no consent")
                return self._shopper_traits(index, shopper, traits, announces=announces)
            case Unused(detail):
                return self._unused(index, detail)
            case Refused(reason, detail):
                return self._refuse(index, reason, detail)

    def _event(self, index: int, document: dict[str, Any]) -> str:
        id_ = document.get("id")
        shown = id_ if isinstance(id_, str) else ""
        shopper = as_text(found) if (found := document.get("subject")) is not None else ""
        if not 1 <= len(shopper) <= 128:
            wanted = "wanted the shopper's id of 1 to 128 characters as subject"
            return self._refuse(index, "key_missing", f"{wanted}, found {len(shopper) or 'none'}", shown)
        if shopper in events.PLACEHOLDERS:
            return self._unused(index, f"wanted the shopper's id as subject, found GA4's {shopper}")
        document = document | {"specversion": "1.0"} if "specversion" not in document else document
        session = _text_in(document, "session_id")
        key, former = shopper, list[str]()
        if self._secrets:
            secret = self._secrets[-1]
            key = secret.shopper(shopper)
            document = document | {"subject": key}
            if session:
                document["data"] = document["data"] | {"session_id": secret.session(session)}
            former = [older.shopper(shopper) for older in self._secrets[:-1]]
        else:
            document = document | {"subject": key}
        try:
            value = msgspec.json.encode(document)
        except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError) as error:
            return self._refuse(index, "not_json", str(error)[:200] or "nested too deeply", shown)
        event = events.decode(Record(0, 0, self._received_ms, key.encode(errors="surrogatepass"), value))
        if not isinstance(event, Rejection) and event.type == "shopper_renamed":
            event = Rejection("unknown_event", "wanted an event of a shopper, found shopper_renamed, the gateway's own")
        if isinstance(event, Rejection):
            if event.reason == "unused":
                return self._unused(index, event.detail)
            return self._refuse(index, event.reason, event.detail, shown)
        seen = event.source, event.id
        if seen in self._ids or self._intake.knows(seen):
            if self._explain:
                self._becomes.append(Becomes(index, repeated=True))
            return "repeated"
        event.data.former_shopper = ""  # an id as the shop gives it; links alone state one
        record = Outgoing(EVENTS, key.encode(), events.encode(event))
        if former and key not in self._links and not self._intake.is_linked(key):
            self._records += [_link(event, one, key) for one in former]
            self._links[key] = None
        self._ids[seen] = None
        self._write(index, record, _dropped_lines(event))
        return "accepted"

    def _item(self, index: int, item: str, document: dict[str, Any] | None) -> str:
        try:
            value = None if document is None else msgspec.json.encode(document)
        except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError) as error:
            return self._refuse(index, "not_json", str(error)[:200] or "nested too deeply", item[:128])
        key = item.encode(errors="surrogatepass")
        found = items.decode(Record(0, 0, self._received_ms, key, value))
        if isinstance(found, Rejection):
            return self._refuse(index, found.reason, found.detail, item[:128])
        kept = None
        if value:  # the fields of an item alone
            known = items.ItemDocument.__struct_fields__
            kept = msgspec.json.encode({name: one for name, one in (document or {}).items() if name in known})
        self._write(index, Outgoing(ITEMS, key, kept), ignored(kept) if kept else [])
        return "accepted"

    def _rules(self, index: int, placement: str, document: Any) -> str:
        record = self._stated(placement, document)
        found = record if isinstance(record, Rejection) else rules.decode(record)
        if isinstance(found, Rejection):
            return self._refuse(index, found.reason, found.detail, placement)
        self._write(index, rules.record_of(found.placement, found.rules), [])
        return "accepted"

    def _experiment(self, index: int, name: str, document: Any) -> str:
        record = self._stated(name, document)
        found = record if isinstance(record, Rejection) else experiments.decode(record)
        if isinstance(found, Rejection):
            return self._refuse(index, found.reason, found.detail, name)
        self._write(index, experiments.record_of(found.name, found.experiment), [])
        return "accepted"

    def _stated(self, key: str, document: Any) -> Record | Rejection:
        """Return a document as the record of a key; None is an empty value."""
        try:
            value = None if document is None else msgspec.json.encode(document)
        except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError) as error:
            return Rejection("not_json", str(error)[:200] or "nested too deeply")
        return Record(0, 0, self._received_ms, key.encode(errors="surrogatepass"), value)

    def _shopper_traits(self, index: int, shopper: str, traits: Mapping[str, Any], *, announces: bool) -> str:
        if not 1 <= len(shopper) <= 128:
            wanted = "wanted the shopper's id of 1 to 128 characters"
            return self._refuse(index, "key_missing", f"{wanted}, found {len(shopper) or 'none'}")
        kept = {
            name: value for name, value in traits.items() if name in self._intake.trait_names and _is_trait(value)
        }  # fmt: skip
        left = [f"{name[:50]}: not kept" for name in traits if name not in kept][:traits_max]
        if not kept and not announces:
            return self._unused(index, f"wanted one of the traits {', '.join(sorted(self._intake.trait_names))}")
        key = self._secrets[-1].shopper(shopper) if self._secrets else shopper
        stated = Traits(at(self._received_ms), dict(list(kept.items())[:traits_max]))
        self._write(index, Outgoing(TRAITS, key.encode(errors="replace"), encode_traits(stated)), left)
        return "accepted"

    def _write(self, index: int, record: Outgoing, left: list[str]) -> None:
        self._records.append(record)
        if self._explain:
            document = None if record.value is None else msgspec.Raw(record.value)
            self._becomes.append(Becomes(index, record.topic, (record.key or b"").decode(), document, ignored=left))

    def _unused(self, index: int, detail: str) -> str:
        if self._explain:
            self._becomes.append(Becomes(index, unused=detail))
        return "unused"

    def _refuse(self, index: int, reason: str, detail: str, id_: str = "") -> str:
        self._refused.append(Refusal(index, reason, detail[:300], id_[:128]))
        return "refused"


def _link(event: Event, former: str, key: str) -> Outgoing:
    """Return the record that links a shopper's older pseudonym to the one in use; the same one at any time."""
    link = Event(
        id=f"{former}/{key}", source="headrace/gateway", type="shopper_renamed", time=event.time,
        data=events.Data(former_shopper=former), specversion="1.0", shopper=key,
    )  # fmt: skip
    return Outgoing(EVENTS, key.encode(), events.encode(link))


def _dropped_lines(event: Event) -> list[str]:
    return [f"data.items: {event.lines_dropped} lines dropped"] if event.lines_dropped else []


def _text_in(document: Mapping[str, Any], name: str) -> str:
    data = document.get("data")
    found = data.get(name) if isinstance(data, dict) else None
    return found if isinstance(found, str) and len(found) <= 128 and found not in events.PLACEHOLDERS else ""


def _is_trait(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= trait_characters_max)


def _remember(table: OrderedDict[Any, None], found: Sequence[Any], most: int) -> None:
    for one in found:
        table[one] = None
    while len(table) > most:
        table.popitem(last=False)
