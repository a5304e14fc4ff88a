"""Which topics a shard has learned from: their ids, by which a topic that was deleted and made again is noticed."""

from collections.abc import Mapping
from typing import Final

from headrace.clock import TIMER, Timer
from headrace.errors import JournalLost, LogUnavailable, TopicReplaced
from headrace.log.protocol import Log
from headrace.shard import journal
from headrace.topics import Shard

check_interval_s: Final = 15.0
"""Time between two comparisons of the ids, in a process that stays up."""


class Identities:
    """The ids of the topics that a shard reads, as its journal names them. Topics of unknown id are left out.

    Attributes:
        known: id by topic.
    """

    def __init__(self, log: Log, shard: Shard, timer: Timer = TIMER) -> None:
        self._log, self._shard, self._timer = log, shard, timer
        self.known: dict[str, str] = {}
        self._checked_at = self._timer.monotonic()

    def found(self) -> dict[str, str]:
        """Return the ids that the log tells now."""
        return {topic: found for topic in self._shard.read if (found := self._log.identity(topic))}

    def replaced(self) -> dict[str, tuple[str, str]]:
        """Return, for each topic that was replaced, the id under which the shard learned and the one of now."""
        return {
            topic: (self.known[topic], found)
            for topic, found in self.found().items()
            if topic in self.known and found != self.known[topic]
        }

    def take_over(self, named: Mapping[str, str]) -> None:
        """Take over the ids that an entry or a snapshot names, and compare them with the log's.

        Raises:
            TopicReplaced: they differ.
        """
        if named:
            self.known |= named
            self.check()

    def check(self) -> None:
        """Compare the known ids with the log's. Raises TopicReplaced if they differ."""
        self._checked_at = self._timer.monotonic()
        for topic, (wanted, found) in self.replaced().items():
            raise TopicReplaced(self._shard.name, topic, wanted, found)

    def check_regularly(self) -> None:
        """Do `check`, if the last time is long enough ago."""
        if self._timer.monotonic() - self._checked_at >= check_interval_s:
            self.check()

    def complete(self) -> bool:
        """Take over the ids of the topics of which none is known; return whether there are such."""
        before = dict(self.known)
        self.known = self.found() | before
        return self.known != before


def check_journal(log: Log, shard: Shard) -> None:
    """Check that a shard's journal did not vanish, so that its loop may begin.

    Raises:
        JournalLost: the journal has never had an entry, although the shard has committed positions.
        LogUnavailable: readers wait for the end of a transaction in the journal, which may be that of its first entry.
    """
    positions = log.committed(shard.name)  # first: a newer process may write the first entry meanwhile
    if not positions or log.first(shard.journal):
        return
    hidden = log.hidden([shard.journal])
    if journal.newest(log, shard) is None:
        if hidden:
            raise LogUnavailable(f"{journal.key_of(shard.journal)}: its first records cannot be read yet")
        raise JournalLost(shard.name, [journal.key_of(place) for place in positions])
