"""Experiments: what is tried on which shoppers, decoded and validated in one pass.

A record of the topic `experiments` states one experiment and replaces its record before. Its key is the experiment's
name, its value one JSON document; an empty value removes a draft, or one that has stopped. `decode` returns a
`StatedExperiment` or a `Rejection` and never raises, whatever the bytes are. Unlike in events, an unknown field is an
error: what is not understood would not be tried. `docs/experiments.schema.json` is generated from these types.

Who is in which arm follows from the record and the shopper's id alone (`Experiment.arm_of`), so that every server,
shard and replay agrees without asking anybody:

- The shoppers of a *layer* are dealt to `slots`, from 0 to 1, by a hash of their id and the layer's name. Experiments
  of one layer have slots of their own, so that no shopper is in two of them.
- Of these, those are in the experiment whose hash with the salt is below `ramp`. A larger ramp keeps all who were in.
- Another part of that hash deals them to the arms by their shares, which do not change once it runs.
"""

from collections.abc import Collection, Iterator
from math import isfinite
from re import fullmatch
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from headrace.announcement import BlobName
from headrace.events import EventType, Rejection, id_in_key
from headrace.log.protocol import RECORD_BYTES_MAX, Outgoing, Record
from headrace.rules import EVERY, PLACEMENT, RuleSet
from headrace.sampling import fraction, two_fractions
from headrace.segments import Among, AnyName, wrong_names
from headrace.topics import EXPERIMENTS

models_max: Final = 4
"""Most models that experiments may try at a time, beside the promoted one: each takes memory in every server."""
NAME: Final = r"^[a-z0-9][a-z0-9_.-]{0,63}$(?!\n)"
"""The names of experiments, arms, layers and metrics."""

ANSWER: Final = "answer"
"""In place of an event's type: an answer that was shown at a placement of the experiment."""
CLICK: Final = "click"
"""In place of an event's type: an answer at a placement of the experiment of which an item was clicked."""
RETURN: Final = "return"
"""In place of an event's type: the shopper came back on one of the seven days after the first."""

State = Literal["draft", "running", "stopped"]
Kind = Literal["arms", "interleaved", "holdout"]
Count = Literal["events", "shoppers", "units", "value"]
Ranker = Literal["", "popular", "trending", "new", "popularity", "transitions", "session_knn", "revisits", "deep"]
"""What chooses an arm's recommendations: the blend (""), a list for everybody, or one learner of the blend alone."""
Member = Literal["popularity", "transitions", "session_knn", "revisits", "deep"]
Choice = Literal[
    "recommended", "popular", "trending", "new", "popularity", "transitions", "session_knn", "revisits", "deep"
]
"""A ranker among which an arm may choose: the blend is `recommended`."""
RECOMMENDED: Final = "recommended"
Reward = Literal["click", "cart", "order"]

_Name = Annotated[str, Meta(pattern=NAME)]
_Placement = Annotated[str, Meta(pattern=rf"^\*$|{PLACEMENT}")]
_Share = Annotated[float, Meta(ge=0, le=1)]


class _Stated(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, repr_omit_defaults=True):
    """A part of a document; what it does not state is not written."""


class Explore(_Stated, frozen=True):
    """What an arm leaves to chance, with known probabilities, so that it can be learned which choice is best for whom.

    Either `rankers`: which of them ranks the list, the first of them being the present ranking. Or `slot`: which of
    the next `candidates` items of the ranking takes this place, the first of them being the present one; the two items
    change places.

    An answer's `reward` is 1 if there is such an event within `window_minutes` of it, else 0. Each choice has a
    probability of at least `floor`. An answer counts half after `half_life_days`. Until the learned policy would have
    had the share `agreement` of the present ranking's rewards, the present ranking is followed. Whether the shopper is
    in each of `segments` is part of the context, beside `headrace.policies.FEATURES`.
    """

    rankers: Annotated[tuple[Choice, ...], Meta(max_length=8)] = ()
    slot: Annotated[int, Meta(ge=0, le=100)] = 0
    candidates: Annotated[int, Meta(ge=2, le=8)] = 4
    reward: Reward = "click"
    window_minutes: Annotated[float, Meta(ge=1, le=1_440)] = 30.0
    floor: Annotated[float, Meta(ge=0.001, le=0.25)] = 0.01
    half_life_days: Annotated[float, Meta(ge=0.01, le=365)] = 1.0
    agreement: _Share = 0.8
    segments: Annotated[tuple[AnyName, ...], Meta(max_length=16)] = ()

    def __post_init__(self) -> None:
        _check_finite(self.window_minutes, self.floor, self.half_life_days, self.agreement)
        if bool(self.rankers) == bool(self.slot):
            raise ValueError(f"explore: wanted rankers or slot, found {'both' if self.slot else 'neither'}")
        if self.rankers and (len(self.rankers) < 2 or len({*self.rankers}) < len(self.rankers)):
            raise ValueError(f"explore: wanted two rankers or more, each once, found {', '.join(self.rankers)}")
        if twice := next((one for one in self.segments if self.segments.count(one) > 1), None):
            raise ValueError(f"explore: wanted each segment once, found {twice!r} twice")
        if self.floor * len(self.actions) > 0.5:
            most = 0.5 / len(self.actions)
            raise ValueError(f"explore: wanted a floor of at most {most:g} for each action, found {self.floor:g}")

    @property
    def actions(self) -> tuple[str, ...]:
        """The names of what may be chosen: rankers, or candidates by number."""
        return self.rankers or tuple(map(str, range(1, self.candidates + 1)))


class Arm(_Stated, frozen=True):
    """One of the ways to answer that are compared.

    `share` is its weight among the arms. Its `rules` hold beside those of the placement, in place of those of the same
    kind. `ranker` chooses recommendations and re-ranks; `without` names learners that the blend leaves out. `model` is
    the version of the deep model, promoted or not, that is used in place of the promoted one; `blob` is the file of
    that model, which `headrace experiment` fills in. `explore` says what it leaves to chance.
    """

    name: _Name
    share: Annotated[float, Meta(gt=0, le=1_000)] = 1.0
    rules: RuleSet | None = None
    ranker: Ranker = ""
    without: Annotated[tuple[Member, ...], Meta(max_length=5)] = ()
    model: Annotated[str, Meta(max_length=128)] = ""
    blob: BlobName = ""
    explore: Explore | None = None

    def __post_init__(self) -> None:
        _check_finite(self.share)
        if self.model and (self.ranker not in ("", "deep") or "deep" in self.without):
            raise ValueError("model: wanted the blend or the ranker deep, found what asks no model")
        if self.blob and not self.model:
            raise ValueError("blob: wanted a model, found none")
        if self.ranker and self.without:
            raise ValueError("wanted ranker or without, found both")
        if len({*self.without} - {"deep"}) > 3:
            raise ValueError("without: wanted a fast learner that is left, found none")
        if self.explore and self.explore.rankers and (self.ranker or self.without):
            raise ValueError("wanted explore.rankers, or ranker or without, found both")

    @property
    def ranks(self) -> bool:
        """Whether it ranks in another way than the shop does."""
        return bool(self.ranker or self.without or self.model or self.explore)


class Measure(_Stated, frozen=True):
    """A metric of one's own, a mean per shopper.

    `event` is an event's type, or `answer`, `click` or `return`. Of a shopper's events since the shopper entered, it
    counts `events`, whether there is one (`shoppers`), their `units`, or their `value` in the shop's currency; refunds
    take back what they refund. With `per`, it is the ratio of two such sums, such as carts per view.
    """

    name: _Name
    event: EventType | Literal["answer", "click", "return"]
    count: Count = "events"
    per: EventType | Literal["", "answer", "click"] = ""

    def __post_init__(self) -> None:
        if self.per and self.count == "shoppers":
            raise ValueError("wanted count other than shoppers where per is stated")
        if self.event in (ANSWER, CLICK, RETURN) and self.count in ("units", "value"):
            raise ValueError(f"wanted count events or shoppers for {self.event}")


class Guard(_Stated, frozen=True):
    """A metric that must not become worse: once it is proved that an arm lowers it by more than `harm_max`, as a share
    of the control's, the experiment stops by itself."""

    metric: _Name
    harm_max: Annotated[float, Meta(ge=0, lt=1)] = 0.0


CLICK_THROUGH: Final = Measure("click_through", CLICK, per=ANSWER)
CONVERSION: Final = Measure("conversion", "purchase", "shoppers")
REVENUE: Final = Measure("revenue", "purchase", "value")
RETENTION: Final = Measure("retention", RETURN, "shoppers")
STANDARD: Final = (CLICK_THROUGH, CONVERSION, REVENUE, RETENTION)
"""The metrics of every experiment: answers with a click per answer, shoppers with an order, revenue per shopper, and
shoppers who came back within a week."""


class Experiment(_Stated, frozen=True):
    """The value of a record: what is tried where and on whom, by what it is judged, and its state.

    The first arm is the control. `kind` is `arms`, or `interleaved`: each shopper gets the two arms' lists drafted into
    one, and clicks tell which is preferred; or `holdout`: shoppers of the first arm are in no other experiment.
    `alpha` is the probability of a false verdict on the primary metric, whenever somebody looks. `effect` is the
    relative change that one hopes for, and `shoppers` the number at which the sequences are the tightest.
    `bots` is whether shoppers over the daily budget of steps are left out. With `segments`, it is for these shoppers
    alone: an answer is part of it if its shopper is in them then.
    """

    arms: Annotated[tuple[Arm, ...], Meta(min_length=2, max_length=8)]
    placements: Annotated[tuple[_Placement, ...], Meta(min_length=1, max_length=16)] = (EVERY,)
    kind: Kind = "arms"
    state: State = "draft"
    layer: _Name = "default"
    slots: tuple[_Share, _Share] = (0.0, 1.0)
    ramp: _Share = 1.0
    salt: Annotated[str, Meta(max_length=64)] = ""
    metrics: Annotated[tuple[Measure, ...], Meta(max_length=8)] = ()
    primary: _Name = CONVERSION.name
    guards: Annotated[tuple[Guard, ...], Meta(max_length=8)] = ()
    alpha: Annotated[float, Meta(gt=0, le=0.5)] = 0.05
    effect: Annotated[float, Meta(gt=0, le=10)] = 0.05
    shoppers: Annotated[int, Meta(ge=100, le=1_000_000_000)] = 20_000
    bots: bool = True
    segments: Among | None = None
    hypothesis: Annotated[str, Meta(max_length=1_000)] = ""
    by: Annotated[str, Meta(max_length=200)] = ""
    why: Annotated[str, Meta(max_length=500)] = ""

    def __post_init__(self) -> None:
        _check_finite(self.alpha, self.effect, self.ramp, *self.slots)
        for what, names in (
            ("arm", [one.name for one in self.arms]),
            ("metric", [one.name for one in self.measures]),
            ("placement", list(self.placements)),
        ):
            if twice := next((one for one in names if names.count(one) > 1), None):
                raise ValueError(f"wanted each {what} once, found {twice!r} twice")
        if not self.slots[0] < self.slots[1]:
            raise ValueError(f"slots: wanted a range such as [0, 0.5], found {list(self.slots)}")
        known = [one.name for one in self.measures]
        for name in (self.primary, *(one.metric for one in self.guards)):
            if name not in known:
                raise ValueError(f"wanted a metric of {', '.join(known)}, found {name!r}")
        if self.kind == "interleaved" and (len(self.arms) != 2 or any(one.rules for one in self.arms)):
            raise ValueError("interleaved: wanted two arms without rules of their own")
        if self.kind == "holdout" and self.placements != (EVERY,):
            raise ValueError("holdout: wanted every placement")
        if any(one.explore for one in (self.arms if self.kind != "arms" else self.arms[:1])):
            raise ValueError("explore: wanted in an arm behind the control of an experiment of the kind arms")

    @property
    def measures(self) -> tuple[Measure, ...]:
        """All metrics, the standard ones first; one of the same name replaces a standard one."""
        own = {one.name for one in self.metrics}
        return (*(one for one in STANDARD if one.name not in own), *self.metrics)

    @property
    def blobs(self) -> list[str]:
        """The files of the models that its arms use."""
        return [one.blob for one in self.arms if one.blob]

    def wrong_segments(self, known: Collection[str]) -> Iterator[str]:
        """Yield what is wrong with each name that is none of the segments by rule `known`, and where."""
        if self.segments:
            yield from self.segments.wrong(known, "$.segments")
        for number, arm in enumerate(self.arms):
            if arm.rules:
                yield from arm.rules.wrong_segments(known, f"$.arms[{number}].rules")
            if arm.explore and arm.explore.segments:
                yield from wrong_names(arm.explore.segments, known, f"$.arms[{number}].explore.segments")

    def covers(self, placement: str) -> bool:
        """Return whether answers at a placement are part of it."""
        return placement in self.placements or EVERY in self.placements

    def arm_of(self, name: str, shopper: str, place: float | None = None) -> int | None:
        """Return the number of a shopper's arm, None if the shopper is not in the experiment.

        Args:
            name: the experiment's.
            place: the shopper's in the layer (`place_in`), if it is known.

        >>> tried = Experiment((Arm("control"), Arm("new", ranker="trending")), slots=(0, 0.5))
        >>> arms = [tried.arm_of("home", f"shopper-{number}") for number in range(1_000)]
        >>> [arms.count(one) for one in (None, 0, 1)]
        [506, 254, 240]
        """
        low, high = self.slots
        if not low <= (place_in(self.layer, shopper) if place is None else place) < high:
            return None
        ramp, left = two_fractions(f"{self.salt or name}\0{shopper}", 0, "experiment")
        if ramp >= self.ramp:
            return None
        left *= sum([one.share for one in self.arms])
        for number, one in enumerate(self.arms):
            left -= one.share
            if left < 0:
                return number
        return len(self.arms) - 1


def place_in(layer: str, shopper: str) -> float:
    """Return the place of a shopper in a layer, from 0 (inclusive) to 1."""
    return fraction(f"{layer}\0{shopper}", 0, "layer")


class StatedExperiment(NamedTuple):
    """A decoded record: the experiment's name, the version (the record's offset), and what is stated; None: removed."""

    name: str
    version: int
    experiment: Experiment | None


_decode = msgspec.json.Decoder(Experiment).decode


def decode(record: Record) -> StatedExperiment | Rejection:
    """Return what a record states of an experiment, or the reason why it cannot be used."""
    value, key = record.value, record.key
    if not key:
        return Rejection("key_missing", "wanted the experiment's name as the record's key, found none")
    try:
        name = id_in_key(key.decode())
        if isinstance(name, Rejection):
            return name
        if not fullmatch(NAME, name):
            return Rejection("key_invalid", f"wanted an experiment's name as {NAME} as the key")
        if not value:
            return StatedExperiment(name, record.offset, None)
        if len(value) > RECORD_BYTES_MAX:
            return Rejection("too_large", f"wanted at most {RECORD_BYTES_MAX} bytes, found {len(value)}")
        return StatedExperiment(name, record.offset, _decode(value))
    except msgspec.ValidationError as error:
        return Rejection("schema", str(error)[:300])
    except msgspec.DecodeError as error:
        return Rejection("not_json", str(error)[:300])
    except UnicodeDecodeError as error:
        return Rejection("bad_utf8", str(error)[:300])
    except RecursionError:
        return Rejection("too_deep", "wanted a document of at most a few levels, found one nested too deeply")


def record_of(name: str, experiment: Experiment | None) -> Outgoing:
    """Return the record that states an experiment; None removes it."""
    return Outgoing(EXPERIMENTS, name.encode(), None if experiment is None else msgspec.json.encode(experiment))


_MAY_CHANGE: Final = frozenset({"state", "ramp", "guards", "by", "why", "hypothesis", "effect"})


def objection(name: str, new: Experiment | None, stated: "dict[str, Experiment]") -> str:
    """Return why a statement must not take effect beside those that hold, "" if it may. All folds ask this one.

    What decides who gets what does not change while an experiment runs, or its shoppers would change their arms.
    """
    old = stated.get(name)
    if old and old.state == "running":
        if new is None:
            return "wanted state stopped before it is removed, found it running"
        if new.state == "draft":
            return "wanted state running or stopped, found draft: it runs already"
        if new.state == "running" and new.ramp < old.ramp:
            return f"wanted a ramp of at least {old.ramp:g}, found {new.ramp:g}: shoppers would leave their arms"
        for field in Experiment.__struct_fields__:
            if field not in _MAY_CHANGE and getattr(new, field) != getattr(old, field):
                return f"wanted {field} as it was when the experiment began to run, found another"
    if old and old.state == "stopped" and new is not None and _without_words(new) != _without_words(old):
        return "wanted a new name, found that of an experiment that has stopped"
    if new is None or new.state == "stopped":
        return ""
    if new.state == "running":
        lost = next((one.model for one in new.arms if one.model and not one.blob), "")
        if lost:
            return f"wanted blob, the file of the model {lost}, found none"
        found = {blob for one in (new, *stated.values()) if one.state == "running" for blob in one.blobs}
        if len(found) > models_max:
            return f"wanted at most {models_max} models that experiments try at a time, found {len(found)}"
    for other_name, other in stated.items():
        if other_name == name or other.state == "stopped" or new.state == "draft":
            continue
        if other.layer == new.layer and other.slots[0] < new.slots[1] and new.slots[0] < other.slots[1]:
            return f"wanted slots that are free in the layer {new.layer}, found those of {other_name}"
        rank = all(one.kind != "holdout" and any(arm.ranks for arm in one.arms) for one in (new, other))
        if rank and other.state == "running" and other.layer != new.layer and _meet(new, other):
            return f"wanted the layer {other.layer} of {other_name}, which ranks at the same placement"
        if other.kind == new.kind == "holdout" and other.state == "running":
            return f"wanted one holdout at a time, found {other_name} running"
    return ""


def free_slots(layer: str, share: float, stated: "dict[str, Experiment]") -> tuple[float, float] | None:
    """Return slots of a layer for a share of its shoppers that no experiment has, None if there are none."""
    taken = sorted(one.slots for one in stated.values() if one.layer == layer and one.state != "stopped")
    begin = 0.0
    for low, high in [*taken, (1.0, 1.0)]:
        if low - begin >= share - 1e-9:
            return begin, min(1.0, begin + share)
        begin = max(begin, high)
    return None


def _meet(one: Experiment, other: Experiment) -> bool:
    return EVERY in (*one.placements, *other.placements) or bool({*one.placements} & {*other.placements})


def _without_words(one: Experiment) -> Experiment:
    return msgspec.structs.replace(one, by="", why="", hypothesis="")


def _check_finite(*numbers: float) -> None:
    if not all(map(isfinite, numbers)):
        raise ValueError("wanted a finite number")  # TOML has others


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of an experiment."""
    schema = msgspec.json.schema(Experiment)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Headrace experiment", **schema}


def reference() -> str:
    """Return the content of docs/experiments.schema.json."""
    return msgspec.json.format(msgspec.json.encode(json_schema()), indent=2).decode() + "\n"
