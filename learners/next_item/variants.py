"""Variants: how a shopper is answered at a placement, by the arms of the experiments that the shopper is in."""

from collections.abc import Container, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from headrace.experiments import Arm
from headrace.rules import RuleSet, for_cases, merged
from headrace.surface import NoSegments, Segments
from learners.next_item.exploring import Exploring
from learners.next_item.ranking import Ask
from learners.next_item.rulebook import Rulebook
from learners.next_item.rules import Rules
from learners.parts.assignment import Assigned, Assignment
from learners.parts.policies import Policies

kept_max: Final = 1_024
"""Most combinations of a placement and arms whose rules are kept."""


class Way(NamedTuple):
    """How an arm ranks: as `headrace.experiments.Arm` states it. `blob` is the model's, "" for the promoted one's."""

    ranker: str = ""
    without: tuple[str, ...] = ()
    blob: str = ""


class Variant(NamedTuple):
    """How a shopper is answered: by these rules, and by the ranker of an arm, or of each of two that are drafted.

    `told` has the arms by experiment. `drafts` names the interleaved experiment, "" if there is none. `model` is the
    version of the model that an arm uses in place of the promoted one, "" if none does, or one of two that are drafted.
    `explores` is what is left to chance. `segments` are the shopper's, if the answer depends on them or is part of an
    experiment; `unknown` those that the rules name and that there are not.
    """

    rules: Rules
    ways: Sequence[Way] = (Way(),)
    told: Mapping[str, str] = {}
    drafts: str = ""
    model: str = ""
    explores: Exploring | None = None
    segments: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def asks(self, ask: Ask) -> list[Ask]:
        """Return a request as it is put to the rankers."""
        return [
            ask._replace(ranker=ranker, without=without, model=ask.tried[blob] if blob else ask.model)
            for ranker, without, blob in self.ways
        ]


NOBODY: Final = NoSegments()
NO_VARIANT: Final = Variant(Rules(RuleSet(), None))


def _way(arm: Arm) -> Way:
    return Way(arm.ranker, arm.without, arm.blob)


def _unknown(stated: RuleSet, segments: Segments) -> tuple[str, ...]:
    """Return the segments that rules name and that there are not, each once."""
    named = dict.fromkeys(name for one in stated.when or () for name in one.names)
    return tuple([name for name in named if not segments.has_segment(name)])


class Variants:
    """Finds variants. The rules that follow from arms are kept, as to make them ready takes long."""

    def __init__(self, rulebook: Rulebook, assignment: Assignment, policies: Policies) -> None:
        self._rulebook, self._assignment, self._policies = rulebook, assignment, policies
        self._kept: dict[tuple[Rules, str, tuple[tuple[str, int, int, tuple[int, ...]], ...]], Rules] = {}

    def of(
        self, placement: str, shopper: str, tried: Container[str] = (), segments: Segments = NOBODY
    ) -> Variant:  # fmt: skip
        """Return the variant of a shopper, "" for nobody, at a placement.

        A shopper whose arm needs a model that is not at hand is answered as without the experiment, and is not told to
        be in it. Nobody is in no segment.

        Args:
            tried: the files of the models that are at hand, beside the promoted one.
        """
        rules, known = self._rulebook.of(placement), list[tuple[str, ...]]()

        def its() -> tuple[str, ...]:
            if not known:
                known.append(tuple(segments.segments_of(shopper)) if shopper else ())
            return known[0]

        unknown: tuple[str, ...] = ()
        if rules.stated.when:
            unknown = _unknown(rules.stated, segments)
            rules = self._rulebook.among(rules, its())
        assigned = self._assignment.of(placement, shopper, its) if shopper and self._assignment.runs else ()
        if not assigned:
            return Variant(rules, segments=known[0] if known else (), unknown=unknown)
        told, drafts, model, stating, ways = dict[str, str](), "", "", list[Assigned](), [Way()]
        explores: Exploring | None = None
        for one in assigned:
            arm = one.arm
            needed = one.experiment.arms if one.experiment.kind == "interleaved" else (arm,)
            if any(each.blob and each.blob not in tried for each in needed):
                continue
            told[one.name] = arm.name
            if arm.rules is not None:
                stating.append(one)
            if one.experiment.kind == "interleaved":
                drafts, ways = one.name, [_way(each) for each in one.experiment.arms]
            elif arm.ranks:
                ways, model = [_way(arm)], arm.model
            if arm.explore:
                chooser = self._policies.of(one.name, arm.name, arm.explore)
                explores = Exploring(one.name, arm.name, arm.explore, chooser)
        for one in stating:
            assert one.arm.rules is not None
            unknown += _unknown(one.arm.rules, segments)
        rules = self._with(placement, rules, stating, its()) if stating else rules
        return Variant(rules, ways, told, drafts, model, explores, its(), unknown)

    def _with(self, placement: str, rules: Rules, stating: Sequence[Assigned], segments: Sequence[str]) -> Rules:
        versions = self._assignment.versions
        cases = [one.arm.rules.cases(segments) if one.arm.rules else () for one in stating]
        steered = next((one for one in reversed(stating) if one.arm.rules and one.arm.rules.is_steered), None)
        key = (
            rules,
            placement if steered else "",
            tuple([(one.name, versions[one.name], one.number, of) for one, of in zip(stating, cases, strict=True)]),
        )
        found = self._kept.get(key)
        if found is None:
            stated, steering = rules.stated, rules.steering
            for one, of in zip(stating, cases, strict=True):
                assert one.arm.rules is not None
                stated = for_cases(merged(msgspec.structs.replace(stated, when=None), one.arm.rules), of)
            if steered:
                steering = self._rulebook.steering(stated, placement, steered.name, steered.arm.name)
            if len(self._kept) >= kept_max:
                self._kept.clear()
            found = self._kept[key] = Rules(stated, rules.version, steering)
        return found
