"""Members: who is in which segment and cluster, as last checked, and how many entered and left."""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Self

from msgspec import Struct


class Member(Struct, gc=False):
    """A shopper: the segments by rule, the cluster (0: none), the shop's time of the last check, and the version of the
    segments by which it was."""

    segments: tuple[str, ...]
    cluster: int
    checked_ms: int
    version: int


class Members:
    """The members of segments. Bounded: the shopper checked longest ago is forgotten first.

    Args:
        shoppers_max: most shoppers.

    Attributes:
        sizes: shoppers by segment; of a cluster, the name is its number.
        entered, left: how often one was entered, and left.
    """

    def __init__(self, *, shoppers_max: int) -> None:
        self.shoppers_max = shoppers_max
        self._members: OrderedDict[str, Member] = OrderedDict()  # checked longest ago first
        self.sizes: Counter[str | int] = Counter()
        self.entered: Counter[str] = Counter()
        self.left: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, shopper: str) -> bool:
        return shopper in self._members

    def __iter__(self) -> Iterator[str]:
        """Yield the shoppers, the one checked longest ago first."""
        return iter(self._members)

    def of(self, shopper: str) -> Member | None:
        """Return a shopper's membership as last checked."""
        return self._members.get(shopper)

    def oldest(self) -> tuple[str, Member] | None:
        """Return the shopper who was checked longest ago."""
        return next(iter(self._members.items()), None)

    def put(
        self, shopper: str, segments: Sequence[str], cluster: int, time_ms: int, version: int
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Note a check; return the segments, and clusters as `cN`, that the shopper entered and left by it."""
        member = self._members.get(shopper)
        if member is None:
            member = self._members[shopper] = Member((), 0, time_ms, version)
            if len(self._members) > self.shoppers_max:
                self.forget(next(iter(self._members)))
        else:
            self._members.move_to_end(shopper)
        member.checked_ms, member.version = time_ms, version
        if tuple(segments) == member.segments and cluster == member.cluster:
            return (), ()
        before, now = set(_names(member)), member
        now.segments, now.cluster = tuple(segments), cluster
        after = _names(now)
        entered = tuple(name for name in after if name not in before)
        left = tuple(sorted(before.difference(after)))
        for names, by, change in ((entered, self.entered, 1), (left, self.left, -1)):
            for name in names:
                by[name] += 1
                self.sizes[name] += change
        return entered, left

    def forget(self, shopper: str) -> None:
        """Forget a shopper who is no longer known."""
        for name in _names(self._members.pop(shopper)):
            self.sizes[name] -= 1

    def rename(self, into: dict[int, int]) -> None:
        """Let the members of clusters that came to an end be in others; 0 is none."""
        for member in self._members.values():
            if member.cluster in into:
                self.sizes[f"c{member.cluster}"] -= 1
                member.cluster = into[member.cluster]
                if member.cluster:
                    self.sizes[f"c{member.cluster}"] += 1
        self._tidy()

    def drop(self, segments: set[str]) -> None:
        """Take everybody out of segments that are no longer stated."""
        for member in self._members.values():
            if not segments.isdisjoint(member.segments):
                member.segments = tuple(name for name in member.segments if name not in segments)
        for name in segments:
            del self.sizes[name]

    def _tidy(self) -> None:
        self.sizes = Counter({name: size for name, size in self.sizes.items() if size})

    def keep(self, names: set[str]) -> None:
        """Forget how often segments were entered and left that are no longer there."""
        for counts in (self.entered, self.left):
            for name in [name for name in counts if name not in names]:
                del counts[name]

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the number of shoppers and the maximum."""
        return {"members": (len(self._members), self.shoppers_max)}

    def state(self) -> dict[str, Any]:
        """Return all members, the one checked longest ago first, and the counts."""
        return {
            "members": [
                [shopper, list(one.segments), one.cluster, one.checked_ms, one.version]
                for shopper, one in self._members.items()
            ],
            "entered": dict(self.entered), "left": dict(self.left),
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any], *, shoppers_max: int) -> Self:
        """Return members that continue where `state` was taken; of more than the maximum, those checked last."""
        members = cls(shoppers_max=shoppers_max)
        for shopper, segments, cluster, checked_ms, version in state["members"][-shoppers_max:]:
            one = members._members[shopper] = Member(tuple(segments), cluster, checked_ms, version)
            members.sizes.update(_names(one))
        members.entered.update(state["entered"])
        members.left.update(state["left"])
        return members


def _names(member: Member) -> tuple[str, ...]:
    return (*member.segments, f"c{member.cluster}") if member.cluster else member.segments
