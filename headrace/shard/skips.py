"""The records that a shard goes around, as a person has decided."""

from collections.abc import Callable, Mapping

from headrace.events import Event, Rejection, decode
from headrace.log.protocol import Partition, Record
from headrace.shard.journal import key_of, place_of_key

skips_max = 1_000
"""Maximum number of records that a shard has yet to go around."""


class Skips:
    """Decided skips, each with the reason that was given.

    >>> skips = Skips({"events/0/7": "ends the process"})
    >>> skips.of(Partition("events", 0)), skips.of(Partition("events", 1))
    ({7: 'ends the process'}, {})
    >>> skips.pending({Partition("events", 0): 7}), skips.pending({Partition("events", 0): 8})
    ({'events/0/7': 'ends the process'}, {})
    """

    def __init__(self, skipped: Mapping[str, str]) -> None:
        self._whys: dict[Partition, dict[int, str]] = {}
        self.add(skipped)

    def add(self, skipped: Mapping[str, str]) -> None:
        """Add decisions: topic/partition/offset, and why."""
        for key, why in skipped.items():
            partition, _, offset = key.rpartition("/")
            self._whys.setdefault(place_of_key(partition), {})[int(offset)] = why

    def decoder(self, place: Partition) -> Callable[[Record], Event | Rejection]:
        """Return what decodes the records of a partition: a record to skip is a rejection."""
        skipped = self.of(place)

        def decode_others(record: Record) -> Event | Rejection:
            return Rejection("skipped", skipped[record.offset]) if record.offset in skipped else decode(record)

        return decode_others if skipped else decode

    def of(self, place: Partition) -> Mapping[int, str]:
        """Return the offsets to skip in a partition, and why; those that were passed may be among them."""
        return self._whys.get(place, {})

    def pending(self, positions: Mapping[Partition, int]) -> dict[str, str]:
        """Return those that are at or after these positions: what a snapshot has to carry on. Forget the others."""
        kept = {
            f"{key_of(place)}/{offset}": why
            for place, whys in self._whys.items()
            for offset, why in whys.items()
            if offset >= positions.get(place, 0)
        }
        self._whys = {}
        self.add(kept)
        return kept
