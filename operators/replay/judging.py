"""The judges of a shadow run that has other settings or lacks events: they judge again, each event."""

from collections.abc import Iterable, Mapping
from typing import Any

import structlog

from consumers.shard import Judges
from headrace.artifacts import Artifacts, resolve
from headrace.log.protocol import Log, Partition
from headrace.shard.blobs import Blobs
from headrace.shard.shadow import Anew
from headrace.topics import MODELS
from learners.family import BackgroundJudge, Family, Judging


def judging_again(kinds: Iterable[type[Family]]) -> list[type[Family]]:
    """Return the families whose judges can judge again: those of judges that do not work beside the commits.

    What a judge trains beside the commits (the rounds' models) stays as it was.
    """
    return [
        kind for kind in kinds if kind.surface.judge and not issubclass(resolve(kind.surface.judge), BackgroundJudge)
    ]


def anew(kinds: Iterable[type[Family]], sections: Mapping[str, Any], blobs: Blobs, log: Log) -> Anew | None:
    """Return the judges of these families, which judge every event; None if no family has one."""
    judges, keys = {}, set[str]()
    for kind in kinds:
        surface = kind.surface
        load = surface.artifact.load if surface.artifact else "builtins:bytes"
        if log.last(Partition(MODELS, 0)):
            resolve(load)  # a judge does not judge before its library is imported
        judging = Judging(
            settings=sections.get(kind.name) or surface.settings(),
            artifacts=Artifacts(blobs, load, structlog.get_logger().warning),
            seconds=lambda: 0.0,  # no time passes, so that the share of judged events stays 1
            report=_silent,
            log=_silent,
        )
        judges[kind.name] = resolve(surface.judge)(judging)
        keys |= {kind.name, *surface.former_judgement_keys}
    return Anew(Judges(judges), keys) if judges else None


def _silent(*_: Any, **__: Any) -> None:
    """Report nothing."""
