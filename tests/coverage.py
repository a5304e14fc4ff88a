"""How many records of `events` the entries of a journal cover. On Kafka, their positions count markers, too."""

from bisect import bisect_left

from headrace.log.protocol import Log, Partition
from headrace.shard.journal import Entry
from headrace.topics import EVENTS


class Coverage:
    """Follows `events`, and one journal by its entries."""

    def __init__(self, log: Log) -> None:
        places = log.partitions(EVENTS)
        self._reader = log.reader(dict.fromkeys(places, 0))
        self._offsets: dict[Partition, list[int]] = {place: [] for place in places}
        self._ends = dict.fromkeys(places, 0)

    def follow(self, entry: Entry) -> None:
        """Note the next entry."""
        for run in entry.runs:
            if run.topic == EVENTS:
                self._ends[Partition(run.topic, run.partition)] = run.end

    @property
    def records(self) -> int:
        """The number of records that the entries cover."""
        while any(end > (self._offsets[place] or [-1])[-1] + 1 for place, end in self._ends.items()):
            for place, records in self._reader.read(10_000, 0.05):
                self._offsets[place] += [record.offset for record in records]
        return sum(bisect_left(self._offsets[place], end) for place, end in self._ends.items())

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()
