"""Assignment: which experiments are stated, and in which arms of those that run a shopper is.

Whoever answers and whoever counts hold one each and hear the same records, so that they agree. A statement that must
not take effect (`headrace.experiments.objection`) is rejected by all.
"""

from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple, Self

import msgspec

from headrace.events import Rejection
from headrace.experiments import Arm, Experiment, decode, objection, place_in
from headrace.log.protocol import Record

experiments_max: Final = 64
"""Most experiments that are remembered, drafts and stopped ones included. The one that stopped first is forgotten."""


class Assigned(NamedTuple):
    """The arm of a shopper in an experiment: the experiment's name, what it states, and the arm's number."""

    name: str
    experiment: Experiment
    number: int

    @property
    def arm(self) -> Arm:
        """The arm."""
        return self.experiment.arms[self.number]


class Assignment:
    """The stated experiments by name.

    >>> from headrace.experiments import record_of
    >>> assignment, arms = Assignment(), (Arm("control"), Arm("new", ranker="trending"))
    >>> record = record_of("home", Experiment(arms, state="running"))
    >>> assignment.hear(Record(0, 7, 0, record.key, record.value))
    >>> [(one.name, one.arm.name) for one in assignment.of("", "ann")]
    [('home', 'control')]

    Attributes:
        stated: the experiments, those stated first first.
        versions: the offset of the newest record of each.
        runs: whether one runs.
    """

    def __init__(self) -> None:
        self.stated: dict[str, Experiment] = {}
        self.versions: dict[str, int] = {}
        self.runs = False
        self._running: dict[str, list[tuple[str, list[tuple[str, Experiment]]]]] = {}  # by placement, then by layer

    def hear(self, record: Record) -> Rejection | None:
        """Take over what a record states; return why, if it cannot be used."""
        found = decode(record)
        if isinstance(found, Rejection):
            return found
        name, version, experiment = found
        if text := objection(name, experiment, self.stated):
            return Rejection("schema", f"experiment {name}: {text}"[:300])
        if experiment is None:
            self.stated.pop(name, None)
            self.versions.pop(name, None)
        else:
            if name not in self.stated and len(self.stated) >= experiments_max:
                stopped = next((one for one, other in self.stated.items() if other.state == "stopped"), None)
                if stopped is None:
                    return Rejection("schema", f"wanted at most {experiments_max} experiments, found one more")
                del self.stated[stopped], self.versions[stopped]
            if self.stated.get(name, experiment).state != experiment.state:
                del self.stated[name]  # so that of the stopped ones, the one that stopped first is first
            self.stated[name], self.versions[name] = experiment, version
        self._look()
        return None

    def _look(self) -> None:
        self._running = {}
        self.runs = any(one.state == "running" for one in self.stated.values())

    def of(
        self, placement: str, shopper: str, segments: Callable[[], Collection[str]] = tuple
    ) -> list[Assigned]:  # fmt: skip
        """Return the arms that a shopper is in at a placement, at most one in each layer.

        Who is held out is in no other experiment. An experiment for other segments than the shopper's has no part in
        the answer.

        Args:
            segments: returns those that the shopper is in; called where an experiment is for some.
        """
        running = self._running.get(placement)
        if running is None:
            running = self._running_at(placement)
        found: list[Assigned] = []
        for layer, experiments in running:
            place = place_in(layer, shopper)
            for name, experiment in experiments:
                number = experiment.arm_of(name, shopper, place)
                if number is not None:
                    if experiment.segments and not experiment.segments.admits(segments()):
                        break
                    found.append(Assigned(name, experiment, number))
                    if experiment.kind == "holdout" and number == 0:
                        return found
                    break  # slots of a layer do not overlap
        return found

    def _running_at(self, placement: str) -> "list[tuple[str, list[tuple[str, Experiment]]]]":
        """Return what runs at a placement, by layer, that of a holdout first."""
        layers: dict[str, list[tuple[str, Experiment]]] = {}
        for name, one in sorted(self.stated.items(), key=lambda one: one[1].kind != "holdout"):
            if one.state == "running" and one.covers(placement):
                layers.setdefault(one.layer, []).append((name, one))
        if len(self._running) >= experiments_max:
            self._running.clear()
        found = self._running[placement] = list(layers.items())
        return found

    def models(self, *, drafts: bool = False) -> list[str]:
        """Return the files of the models that running experiments try; with `drafts`, of those that may run, too."""
        states = ("running", "draft") if drafts else ("running",)
        return list(dict.fromkeys(blob for one in self.stated.values() if one.state in states for blob in one.blobs))

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the number of experiments and the maximum."""
        return {"experiments_stated": (len(self.stated), experiments_max)}

    def state(self) -> list[Any]:
        """Return all experiments: name, version and what is stated."""
        return [[name, self.versions[name], msgspec.to_builtins(one)] for name, one in self.stated.items()]

    @classmethod
    def from_state(cls, state: list[Any]) -> Self:
        """Return an assignment that continues where `state` was taken."""
        found = cls()
        found.stated = {name: msgspec.convert(one, Experiment) for name, _, one in state}
        found.versions = {name: version for name, version, _ in state}
        found._look()
        return found
