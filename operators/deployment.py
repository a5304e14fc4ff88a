"""The deployment that the settings describe: its families, the shards in which they run, and their sections."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from headrace.config import Settings, own_families
from headrace.config import settings as read_settings
from headrace.errors import Misconfigured
from headrace.topics import Shard
from learners.families import Placement, families, placed
from learners.family import Family


class Deployment(NamedTuple):
    """All settings, the families, and the shards in which these run."""

    settings: Settings
    sections: Mapping[str, Any]
    kinds: tuple[type[Family], ...]
    placements: Mapping[str, Placement]

    @property
    def shards(self) -> list[Shard]:
        """The shards that have a family."""
        return [placement.shard for placement in self.placements.values()]

    def placement_of(self, names: list[str]) -> Placement:
        """Return the shard in which these families run.

        Raises:
            Misconfigured: one is unknown, or they are not all the families of one shard.
        """
        known = {kind.name: placement for placement in self.placements.values() for kind in placement.own_kinds}
        for name in names:
            if name not in known:
                raise Misconfigured(f"family {name}: wanted one of {', '.join(known)}")
        placement = known[names[0]]
        together = [kind.name for kind in placement.own_kinds]
        if set(names) != set(together):
            raise Misconfigured(
                f"learn {' '.join(names)}: wanted all families of the shard {placement.shard.name}"
                f" ({', '.join(together)}); a shard of its own is a setting, see docs/operating.md"
            )
        return placement

    def placement(self, name: str) -> Placement:
        """Return a shard by its name. Raises Misconfigured if no family runs in it."""
        if name not in self.placements:
            raise Misconfigured(f"shard {name}: wanted one of {', '.join(self.placements)}")
        return self.placements[name]


def read_deployment(**options: Any) -> Deployment:
    """Return the deployment that the environment, `headrace.toml` and these options describe.

    Raises:
        Misconfigured: see `headrace.config.settings` and `learners.families`.
    """
    kinds = families(own_families())
    read = read_settings({kind.name: kind.surface.settings for kind in kinds}, **options)
    shards = read.common.shards
    placements = placed(
        kinds,
        {name: shard.partition for name, shard in shards.items()},
        {name: shard.families for name, shard in shards.items()},
    )
    return Deployment(read.common, read.families, kinds, placements)
