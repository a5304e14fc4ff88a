"""Policies: by which probabilities an exploring arm chooses, as the shard that learns them writes them.

A record of the topic `policies` states the policy of one arm and replaces the one before. Its key is `experiment/arm`,
its value one JSON document; an empty value says that the arm no longer explores. `decode` returns a `StatedPolicy` or a
`Rejection` and never raises. What a policy's numbers mean is computed by `learners.parts.policies.probabilities`.

`FEATURES` are the numbers of an answer's context, each from -1 to 1, as the impression has them:

- `always`: 1.
- `visit`: items of the running visit, 8 or more being 1; `first`: 1 before its first item.
- `returning`: 1 if items of an earlier visit are known.
- `phone`: 1 if the request's `device` is `mobile`, `phone` or `tablet`.
- `hour_sin`, `hour_cos`: the hour of the day (UTC) as an angle; `weekend`: 1 on Saturday and Sunday. By shop time.
- `on_item`: 1 on an item's page; `deep`: 1 if there is a deep model.

Those of an arm that names segments go on with `segment/NAME`: 1 if the shopper is in it.
"""

import math
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite
from re import fullmatch
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from headrace.events import Rejection
from headrace.experiments import NAME, Explore
from headrace.log.protocol import RECORD_BYTES_MAX, Outgoing, Record
from headrace.topics import POLICIES

FEATURES: Final = (
    "always", "visit", "first", "returning", "phone", "hour_sin", "hour_cos", "weekend", "on_item", "deep",
)  # fmt: skip
"""The numbers of a context."""
PHONES: Final = frozenset({"mobile", "phone", "tablet"})
"""Values of `device` that are a phone's."""
_digits: Final = 4
"""Digits of a context's numbers: impressions are kept for long."""
actions_max: Final = 8
features_max: Final = 32

PolicyState = Literal["apprentice", "learned", "held"]
"""`apprentice`: the present ranking is followed; `learned`: what was learned is; `held`: what was learned some time ago
is, after a rollback. All but `learned` last until what was learned agrees."""

_Numbers = Annotated[tuple[float, ...], Meta(min_length=1, max_length=features_max)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Shares = Annotated[tuple[_Share, ...], Meta(max_length=actions_max)]


class Policy(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The value of a record. K actions, d features.

    The reward that an action is expected to have in a context x is normally distributed: with the mean `means` x, and
    the standard deviation that is the length of S x, where `spreads` has the lower triangle of S, row by row. Without
    them, nothing is known.

    Attributes:
        version: unique in the log; impressions name it.
        floor: least probability of each action.
        means, spreads: of each action, d and d (d + 1) / 2 numbers.
        time_ms: the shop's time.
        answers: those whose reward is settled, all of them.
        shares, rewards: of each action, its share of these answers and their mean reward; those that are one
            half-life old count half.
        agreement: what the learned policy would have had of the rewards of the policy in use, as a share (None: too
            few to tell); from `agreement_min` on, it takes over.
        reference: the version that this one must not be worse than; "" is the present ranking.
        evidence: the wealth of the bet that this policy is worse than the reference; at `evidence_max`, it is rolled
            back.
        instead_of, why: the version that this one replaces because it was worse, and in which way.
    """

    version: Annotated[str, Meta(min_length=1, max_length=64)]
    state: PolicyState
    actions: Annotated[tuple[str, ...], Meta(min_length=2, max_length=actions_max)]
    floor: Annotated[float, Meta(gt=0, le=0.5)]
    features: Annotated[tuple[str, ...], Meta(min_length=1, max_length=features_max)] = FEATURES
    means: Annotated[tuple[_Numbers, ...], Meta(max_length=actions_max)] = ()
    spreads: Annotated[tuple[tuple[float, ...], ...], Meta(max_length=actions_max)] = ()
    time_ms: int = 0
    answers: int = 0
    shares: _Shares = ()
    rewards: _Shares = ()
    agreement: float | None = None
    agreement_min: float = 0.0
    reference: str = ""
    evidence: float = 1.0
    evidence_max: float = 0.0
    instead_of: str = ""
    why: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot state probabilities.

        Raises:
            ValueError: the numbers do not belong together.
        """
        actions, features = len(self.actions), len(self.features)
        if self.floor * actions > 1:
            raise ValueError(f"wanted a floor of at most {1 / actions:g}, found {self.floor:g}")
        if self.state != "apprentice" and not self.means:
            raise ValueError(f"wanted means of a policy that is {self.state}, found none")
        if not self.means and not self.spreads:
            return
        wanted = [features] * actions, [features * (features + 1) // 2] * actions
        if ([len(one) for one in self.means], [len(one) for one in self.spreads]) != wanted:
            raise ValueError(f"wanted means and spreads of {actions} actions and {features} features, found others")
        if not all(isfinite(number) for rows in (self.means, self.spreads) for row in rows for number in row):
            raise ValueError("wanted finite numbers")


def features_of(explore: Explore) -> tuple[str, ...]:
    """Return the names of the numbers of an arm's contexts.

    >>> features_of(Explore(slot=2, segments=("loyal", "A")))[len(FEATURES) :]
    ('segment/loyal', 'segment/A')
    """
    return (*FEATURES, *[f"segment/{name}" for name in explore.segments])


def of_time(time_ms: int) -> tuple[float, float, float]:
    """Return the features `hour_sin`, `hour_cos` and `weekend` of a shop time.

    >>> of_time(0)  # a Thursday, at midnight
    (0.0, 1.0, 0.0)
    """
    return _of_minute(time_ms // 60_000)


@lru_cache(maxsize=16)
def _of_minute(minute: int) -> tuple[float, float, float]:
    when = datetime.fromtimestamp(60 * minute, UTC)
    angle = (when.hour + when.minute / 60) * (math.tau / 24)
    return round(math.sin(angle), _digits), round(math.cos(angle), _digits), float(when.weekday() > 4)


class StatedPolicy(NamedTuple):
    """A decoded record: the experiment and the arm, and its policy; None: it no longer explores."""

    experiment: str
    arm: str
    policy: Policy | None


_decode = msgspec.json.Decoder(Policy).decode
_encode = msgspec.json.Encoder().encode


def record_of(experiment: str, arm: str, policy: Policy | None) -> Outgoing:
    """Return the record of an arm's policy; None says that it no longer explores."""
    return Outgoing(POLICIES, f"{experiment}/{arm}".encode(), None if policy is None else _encode(policy))


def decode(record: Record) -> StatedPolicy | Rejection:
    """Return the policy of a record, or the reason why it cannot be used.

    >>> made = record_of("home", "new", Policy(version="p1", state="apprentice", actions=("a", "b"), floor=0.02))
    >>> decode(Record(0, 0, 0, made.key, made.value)).policy.version
    'p1'
    """
    value, key = record.value, record.key
    try:
        experiment, _, arm = key.decode().partition("/") if key else ("", "", "")
        if not (fullmatch(NAME, experiment) and fullmatch(NAME, arm)):
            return Rejection("key_invalid", "wanted experiment/arm as the record's key, found another or none")
        if not value:
            return StatedPolicy(experiment, arm, None)
        if len(value) > RECORD_BYTES_MAX:
            return Rejection("too_large", f"wanted at most {RECORD_BYTES_MAX} bytes, found {len(value)}")
        return StatedPolicy(experiment, arm, _decode(value))
    except msgspec.ValidationError as error:
        return Rejection("schema", str(error)[:300])
    except msgspec.DecodeError as error:
        return Rejection("not_json", str(error)[:300])
    except UnicodeDecodeError as error:
        return Rejection("bad_utf8", str(error)[:300])
    except RecursionError:
        return Rejection("too_deep", "wanted a document of at most a few levels, found one nested too deeply")
