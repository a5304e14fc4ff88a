"""The shop: the families of a shard as one fold over a shop's events. A shard runs it, and serving follows it."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
from msgspec import Struct

import headrace
from headrace.errors import StateUnreadable
from headrace.events import Event, Rejection
from headrace.log.protocol import Outgoing, Record
from headrace.shard import intake
from headrace.shard.journal import FamilyStamp, Stamp
from headrace.state import State
from headrace.surface import Watched, state_settings
from headrace.topics import SCORES
from learners.family import WHOLE, Family, Moment, Preparer
from learners.parts import portable

score_every_events: Final = 1_000
"""Events between two records of `scores` of each family."""


class ScoreRecord(Struct, frozen=True):
    """A record of `scores`: one family's scores (its `surface.scores`) and those of its drift detectors."""

    id: str
    family: str
    events: int
    time_ms: int
    scores: msgspec.Raw
    drift: dict[str, Watched]


class Shop:
    """A fold of families, the same in the live process, in serving and in replays. `MakeShop` builds it from a state.

    Args:
        kinds: the families, each after those that it reads.
        settings: the section of each family, by its name; a family without one has its defaults.

    Attributes:
        families: the families by name, in order.
        now: the position of the fold.
        renewed: the parts of the restored state that are not as they were stored, and how they came to be.
        begun: the families of which a part could not be restored, so that it begins empty.
    """

    def __init__(self, kinds: Sequence[type[Family]], settings: Mapping[str, Any] | None = None) -> None:
        self.families: dict[str, Family] = {}
        self.renewed: dict[str, str] = {}
        self.begun: set[str] = set()
        self._empty: set[str] = set()
        self._sections: dict[str, Any] = {}
        stamps = {}
        for kind in kinds:
            section = (settings or {}).get(kind.name) or kind.surface.settings()
            self._sections[kind.name] = section
            self.families[kind.name] = kind(section, self._read_by(kind))
            versions = {name: part.version for name, part in kind.declared_parts().items()}
            stamps[kind.name] = FamilyStamp(state_settings(section), versions)
        self._stamp = Stamp(headrace.__version__, stamps, portable.platform(), intake.version)
        self.now = Moment({detector: 0 for kind in kinds for detector in kind.surface.detectors})
        self._bind()

    def _read_by(self, kind: type[Family]) -> dict[str, Family]:
        """Return the families that a family reads, and those that it consults and this shop has."""
        consulted = {name: self.families[name] for name in kind.consults if name in self.families}
        return {name: self.families[name] for name in kind.reads} | consulted

    def _bind(self) -> None:
        """Look up once what is called for each event."""
        families = list(self.families.values())
        self._learn = [family.learn for family in families]
        preparers = [family for family in families if isinstance(family, Preparer)]
        self._prepare, self._renamed = [one.prepare for one in preparers], [one.renamed for one in preparers]
        self._segmenting = [one for one in families if type(one).segments_of is not Family.segments_of]
        hearing = {topic for family in families for topic in family.surface.hears}
        self._hear = {topic: [one for one in families if topic in one.surface.hears] for topic in hearing}
        self._absorb = {key: one for one in families for key in (one.name, *one.surface.former_judgement_keys)}

    @property
    def events(self) -> int:
        """Number of events learned so far."""
        return self.now.events

    @property
    def time_ms(self) -> int:
        """The shop's time at the newest event."""
        return self.now.time_ms

    @property
    def alarms(self) -> Mapping[str, int]:
        """Number of alarms so far, by detector."""
        return self.now.alarms

    @property
    def stamp(self) -> Stamp:
        """The release, the settings and the versions by which `state` is computed and written."""
        return self._stamp

    def prepare(self, event: Event) -> bool:
        """Complete and correct an event in place; return whether it is to be learned."""
        now = self.now
        wanted = True
        for prepare in self._prepare:
            wanted = prepare(event, now) and wanted
        if now.moves:
            for move in now.moves:
                for family in self.families.values():
                    family.move(move)
            now.moves.clear()
        return wanted

    def known_as(self, names: Sequence[str]) -> str:
        """Return under which of a shopper's names, the likeliest first, something is kept; the first if under none."""
        known = list(names)
        for renamed in self._renamed:
            known = [renamed(name) for name in known]
        if len(known) == 1:
            return known[0]
        return next((name for name in known if any(one.knows(name) for one in self.families.values())), known[0])

    def segments_of(self, shopper: str) -> list[str]:
        """Return the segments that a shopper is in now, as all families tell them."""
        return [name for one in self._segmenting for name in one.segments_of(shopper, self.now.time_ms)]

    def has_segment(self, name: str) -> bool:
        """Return whether a family tells who is in a segment of this name."""
        return any(one.has_segment(name) for one in self._segmenting)

    def learn(self, event: Event, partition: int, offset: int) -> None:
        """Learn from one event."""
        now = self.now
        now.events += 1
        now.partition, now.offset = partition, offset
        now.time_ms = event.time_ms
        for learn in self._learn:
            learn(event, now)
        if now.events % score_every_events == 0:
            self._write_scores()

    def hear(self, topic: str, record: Record) -> Rejection | None:
        """Pass a record of a side topic to the families that declare it; return why, if one cannot use it."""
        found = [family.hear(topic, record, self.now) for family in self._hear.get(topic, ())]
        if self.now.items:
            for item in self.now.items:
                for family in self.families.values():
                    family.hear_item(item)
            self.now.items.clear()
        return next((one for one in found if one), None)

    def absorb(self, key: str, judgement: bytes) -> None:
        """Pass a record of judgements to the family that its key names, if this shard folds it."""
        if family := self._absorb.get(key):
            family.absorb(judgement, self.now)

    def emit(self) -> list[Outgoing]:
        """End a journal entry; return the records that the families wrote since the last call."""
        for family in self.families.values():
            family.settle(self.now)
        return self.now.take()

    def score_records(self) -> list[ScoreRecord]:
        """Return a record of `scores` for each family that has scores or detectors."""
        now, found = self.now, []
        for name, family in self.families.items():
            scores, drift = family.scores(), family.watched()
            if scores is not None or drift:
                id_ = f"{name}/{now.partition}/{now.offset}"
                raw = msgspec.Raw(msgspec.json.encode(scores))
                found.append(ScoreRecord(id_, name, now.events, now.time_ms, raw, dict(drift)))
        return found

    def _write_scores(self) -> None:
        for one in self.score_records():
            self.now.write(Outgoing(SCORES, one.family.encode(), msgspec.json.encode(one), 0))

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        found: dict[str, tuple[int, int]] = {}
        for name, family in self.families.items():
            tables = family.bounds()
            assert not found.keys() & tables.keys(), f"family {name} has a table whose name another family uses"
            found |= tables
        return found

    def state(self) -> State:
        """Return the complete state."""
        return {
            "events": self.now.events,
            "time_ms": self.now.time_ms,
            "alarms": dict(self.now.alarms),
            "families": {name: family.state() for name, family in self.families.items()},
        }

    def restore(self, state: State, stamp: Stamp) -> None:
        """Restore `state`, so that the fold continues identically. Call it before the shop has learned.

        Parts of older versions are migrated; parts that are new or cannot be migrated stay empty (`renewed`, `begun`).

        Raises:
            StateUnreadable: a part is of a version that this release does not know.
        """
        self.now.events, self.now.time_ms = state["events"], state["time_ms"]
        self.now.alarms.update({name: count for name, count in state["alarms"].items() if name in self.now.alarms})
        for name, family in self.families.items():
            kept = stamp.families.get(name)
            restored = _Parts(type(family), stamp.headrace)
            if kept:
                restored.read(state["families"][name], kept.parts)
            restored.drop_dependants()
            self.renewed |= {f"{name}.{part}": how for part, how in restored.renewed.items()}
            if restored.missing:
                self.begun.add(name)
            if not restored.parts:
                self._empty.add(name)
            else:
                family.restore(restored.parts if type(family).parts else restored.parts[WHOLE])

    def hear_again(self, topic: str, record: Record) -> None:
        """Pass a record that was heard before to the families of which nothing could be restored."""
        for family in self._hear.get(topic, ()):
            if family.name in self._empty:
                family.hear(topic, record, self.now)
        self.now.items.clear()  # the other families have heard of them, or know no items yet

    def replace(self, anew: "Shop") -> None:
        """Replace families by those of another shop, which was folded from the journal's start."""
        states = {name: anew.families.get(name, family).state() for name, family in self.families.items()}
        for name, family in list(self.families.items()):  # all are made again, because they refer to one another
            self.families[name] = type(family)(self._sections[name], self._read_by(type(family)))
            self.families[name].restore(states[name])
        for part in self.renewed:
            if part.partition(".")[0] in self.begun & anew.families.keys():
                self.renewed[part] = "folded anew from the journal"
        self.begun -= anew.families.keys()
        self._empty -= anew.families.keys()
        self._bind()


class _Parts:
    """The parts of one family's state while they are read: those restored, and how others were renewed."""

    def __init__(self, kind: type[Family], headrace_version: str) -> None:
        self._kind, self._declared, self._written_by = kind, kind.declared_parts(), headrace_version
        self.parts: State = {}
        self.renewed: dict[str, str] = dict.fromkeys(self._declared, "begun empty: it is new")

    @property
    def missing(self) -> bool:
        """Whether a part stays empty."""
        return len(self.parts) < len(self._declared)

    def read(self, state: State, versions: Mapping[str, int]) -> None:
        """Read what is stored, and migrate what is older."""
        stored = state if self._kind.parts else {WHOLE: state}
        for part, declared in self._declared.items():
            if part not in versions:
                continue
            version, found = versions[part], stored[part]
            if version > declared.version:
                raise StateUnreadable(
                    f"{self._kind.name}.{part}: wanted version {declared.version} or older, which headrace"
                    f" {headrace.__version__} reads, found {version}, which headrace {self._written_by} wrote"
                )
            while version in declared.migrations and version < declared.version:
                found, version = declared.migrations[version](found), version + 1
            if version < declared.version:
                self.renewed[part] = f"begun empty: version {versions[part]} cannot be migrated to {declared.version}"
                continue
            self.parts[part] = found
            del self.renewed[part]
            if version != versions[part]:
                self.renewed[part] = f"migrated from version {versions[part]} to {version}"

    def drop_dependants(self) -> None:
        """Drop the parts that refer to one that is missing."""
        dropped = True
        while dropped:
            dropped = False
            for part, declared in self._declared.items():
                lost = [one for one in declared.needs if one not in self.parts]
                if part in self.parts and lost:
                    del self.parts[part]
                    self.renewed[part] = f"begun empty: it refers to {lost[0]}"
                    dropped = True


class MakeShop:
    """Makes an empty shop, or one from a state. Loops, followers and refolds are given it."""

    def __init__(self, kinds: Sequence[type[Family]], settings: Mapping[str, Any] | None = None) -> None:
        self._kinds, self._settings = kinds, settings or {}

    def __call__(self, state: State | None = None, stamp: Stamp | None = None) -> Shop:
        """Return a shop of this state, with the settings of its stamp; see `headrace.shard.follower.MakeFold`."""
        if state is not None and stamp is None:
            state, stamp = self._from_0_3_0(state)
        shop = Shop(self._kinds, self._sections(stamp))
        if state is not None and stamp is not None:
            shop.restore(state, stamp)
        return shop

    def _sections(self, stamp: Stamp | None) -> dict[str, Any]:
        """Return the configured section of each family, with the settings that a stamp names."""
        sections = {kind.name: self._settings.get(kind.name) or kind.surface.settings() for kind in self._kinds}
        for name, kept in (stamp.families if stamp else {}).items():
            if name in sections:
                known = state_settings(sections[name])
                values = {setting: value for setting, value in kept.settings.items() if setting in known}
                with suppress(msgspec.ValidationError):  # a value that is no longer admitted: the configured one holds
                    sections[name] = msgspec.convert(msgspec.to_builtins(sections[name]) | values, type(sections[name]))
        return sections

    def adopt(self, shop: Shop) -> Shop:
        """Return a shop of the same state with the settings that are configured now."""
        configured = Shop(self._kinds, self._settings)
        before, now = shop.stamp.families, configured.stamp.families
        changed = {
            f"{name}.{setting}": f"set from {before[name].settings[setting]} to {value}"
            for name in now for setting, value in now[name].settings.items()
            if value != before[name].settings[setting]
        }  # fmt: skip
        if not changed:
            return shop
        configured.restore(shop.state(), shop.stamp)
        configured.renewed, configured.begun = {**shop.renewed, **changed}, shop.begun
        return configured

    def only(self, families: Collection[str]) -> "MakeShop":
        """Return what makes a shop of these families, of those that read them, all that these read, and preparers."""
        wanted = {*families, *(kind.name for kind in self._kinds if issubclass(kind, Preparer))}
        for kind in self._kinds:
            if wanted.intersection(kind.reads):
                wanted.add(kind.name)
        for kind in reversed(self._kinds):
            if kind.name in wanted:
                wanted.update(kind.reads)
        return MakeShop([kind for kind in self._kinds if kind.name in wanted], self._settings)

    def replace(self, fold: Shop, anew: Shop) -> None:
        """Replace the families of `fold` by those that were folded anew."""
        fold.replace(anew)

    def _from_0_3_0(self, fold: State) -> tuple[State, Stamp]:
        """Return a state of Headrace 0.3.0, whose fold had no families, as one of today, and its stamp."""
        found = {kind.name: one for kind in self._kinds if (one := kind.from_0_3_0(fold))}
        if all(issubclass(kind, Preparer) for kind in self._kinds if kind.name in found):  # these are new
            raise StateUnreadable(f"snapshot: wanted a stamp, or a state of headrace 0.3.0, found {', '.join(fold)}")
        places = [sum(at for _, at in fold.get(name, ())) for name in ("positions", "firsts")]
        state = {
            # Its fine-tuner counted positions instead of events.
            "events": fold.get("events", places[0] - places[1]), "time_ms": fold.get("time_ms", fold.get("_time_ms")),
            "alarms": fold.get("alarms", {}), "families": {name: parts for name, (_, parts) in found.items()},
        }  # fmt: skip
        families = {name: FamilyStamp(settings, dict.fromkeys(parts, 1)) for name, (settings, parts) in found.items()}
        return state, Stamp("0.3.0", families)
