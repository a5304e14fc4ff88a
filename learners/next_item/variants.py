"""Variants: how a shopper is answered at a placement, by the arms of the experiments that the shopper is in."""

from collections.abc import Container, Mapping, Sequence
from typing import Final, NamedTuple

from headrace.experiments import Arm
from headrace.rules import RuleSet, merged
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
    `explores` is what is left to chance.
    """

    rules: Rules
    ways: Sequence[Way] = (Way(),)
    told: Mapping[str, str] = {}
    drafts: str = ""
    model: str = ""
    explores: Exploring | None = None

    def asks(self, ask: Ask) -> list[Ask]:
        """Return a request as it is put to the rankers."""
        return [
            ask._replace(ranker=ranker, without=without, model=ask.tried[blob] if blob else ask.model)
            for ranker, without, blob in self.ways
        ]


NO_VARIANT: Final = Variant(Rules(RuleSet(), None))


def _way(arm: Arm) -> Way:
    return Way(arm.ranker, arm.without, arm.blob)


class Variants:
    """Finds variants. The rules that follow from arms are kept, as to make them ready takes long."""

    def __init__(self, rulebook: Rulebook, assignment: Assignment, policies: Policies) -> None:
        self._rulebook, self._assignment, self._policies = rulebook, assignment, policies
        self._kept: dict[tuple[Rules, str, tuple[tuple[str, int, int], ...]], Rules] = {}

    def of(self, placement: str, shopper: str, tried: Container[str] = ()) -> Variant:
        """Return the variant of a shopper, "" for nobody, at a placement.

        A shopper whose arm needs a model that is not at hand is answered as without the experiment, and is not told to
        be in it.

        Args:
            tried: the files of the models that are at hand, beside the promoted one.
        """
        rules = self._rulebook.of(placement)
        assigned = self._assignment.of(placement, shopper) if shopper and self._assignment.runs else ()
        if not assigned:
            return Variant(rules)
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
                chooser = self._policies.of(one.name, arm.name, arm.explore.actions)
                explores = Exploring(one.name, arm.name, arm.explore, chooser)
        return Variant(self._with(placement, rules, stating) if stating else rules, ways, told, drafts, model, explores)

    def _with(self, placement: str, rules: Rules, stating: Sequence[Assigned]) -> Rules:
        versions = self._assignment.versions
        steered = next((one for one in reversed(stating) if one.arm.rules and one.arm.rules.is_steered), None)
        key = (
            rules,
            placement if steered else "",
            tuple([(one.name, versions[one.name], one.number) for one in stating]),
        )
        found = self._kept.get(key)
        if found is None:
            stated, steering = rules.stated, rules.steering
            for one in stating:
                assert one.arm.rules is not None
                stated = merged(stated, one.arm.rules)
            if steered:
                steering = self._rulebook.steering(stated, placement, steered.name, steered.arm.name)
            if len(self._kept) >= kept_max:
                self._kept.clear()
            found = self._kept[key] = Rules(stated, rules.version, steering)
        return found
