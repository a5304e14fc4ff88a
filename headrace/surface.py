"""What a family of learners declares to the processes that run, serve and report it, as data.

A family declares its settings, metrics, HTTP routes, tables and charts as values of these types. The processes read the
declarations; no module outside a family contains anything that belongs to it. Functions in declarations are pure.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol, get_args

import msgspec
from msgspec import Meta, Struct

from headrace.impressions import Shown
from headrace.pages import Page
from headrace.topics import Topic

STATE_INDEPENDENT: Final[dict[str, Any]] = {"shapes_state": False}
"""`extra` of a setting's `Meta`: the fold does not depend on it, so snapshots stay valid if its value changes."""


class Setting(NamedTuple):
    """A setting, as on the reference page."""

    name: str
    default: Any
    description: str
    shapes_state: bool


def settings_of(section: type[Struct]) -> list[Setting]:
    """Return the settings of a section; each field's `Meta` has its description.

    >>> from typing import Annotated
    >>> class Section(Struct):
    ...     rounds: Annotated[int, Meta(ge=1, description="How many.")] | None = None
    >>> settings_of(Section)
    [Setting(name='rounds', default=None, description='How many.', shapes_state=True)]
    """
    found = []
    for field in msgspec.structs.fields(section):
        parts = (field.type, *get_args(field.type))  # the members of a union have annotations of their own
        metas = [one for part in parts for one in getattr(part, "__metadata__", ()) if isinstance(one, Meta)]
        description = next((one.description for one in metas if one.description), "")
        shapes = all((one.extra or {}).get("shapes_state", True) for one in metas)
        found.append(Setting(field.name, field.default, description or "", shapes))
    return found


def state_settings(settings: Struct) -> dict[str, Any]:
    """Return the values of the settings on which a fold depends."""
    names = {one.name for one in settings_of(type(settings)) if one.shapes_state}
    return {name: value for name, value in msgspec.to_builtins(settings).items() if name in names}


class Metric(Struct, frozen=True, kw_only=True):
    """A metric that the process of a family's shard exports.

    `read` returns its series from the family, as label values and a number. A counter's numbers are running totals, of
    which the increase since the process started is exported. Without `read`, the family's judge reports the metric.
    `label_values` are the series of a metric with one label that exist from the start. `read_interval_s` is the minimum
    time between two calls of `read`. `last_increase_of` names a counter: the gauge is then the time of that counter's
    last increase, in seconds since the epoch.
    """

    name: str
    help: str
    kind: Literal["gauge", "counter", "histogram"] = "gauge"
    labels: tuple[str, ...] = ()
    read: Callable[[Any], Iterable[tuple[tuple[str, ...], float]]] | None = None
    label_values: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    read_interval_s: float = 0.0
    last_increase_of: str = ""


class Artifact(Struct, frozen=True):
    """A promoted model, stored as a blob, that a family uses beside its fold.

    `current` returns the promoted one's announcement (`version`, `blob`, `round`), None if there is none. `load` names
    the function `module:name` that turns bytes into the artifact for the family's judge, `load_to_answer` the one for
    its routes ("": the same); each is imported only where it is used, because it may need torch. `refresh` updates an
    artifact in use from the fold; it is called after the artifact has answered. `tried` returns the blobs of others
    that answers may use (`Now.tried`). The shard that writes artifacts deletes those that `kept` does not return
    whenever `verdicts`, the number of verdicts, has grown; both are None in other families.
    """

    kind: str
    current: Callable[[Any], Any | None]
    load: str
    load_to_answer: str = ""
    refresh: Callable[[Any, Any], None] | None = None
    tried: Callable[[Any], Sequence[str]] | None = None
    kept: Callable[[Any], set[str]] | None = None
    verdicts: Callable[[Any], int] | None = None

    @property
    def answering(self) -> str:
        """The name of the function that loads the artifact for routes."""
        return self.load_to_answer or self.load


class Refused(Exception):
    """A query that cannot be answered; the text states what was wanted and what was found."""


class Unknown(Refused):
    """A query for something of which nothing is known."""


class Segments(Protocol):
    """Which segments there are, and who is in which: segments by rule, clusters, and classes."""

    def segments_of(self, shopper: str) -> Sequence[str]:
        """Return the segments that a shopper is in, by the name under which the fold knows the shopper."""

    def has_segment(self, name: str) -> bool:
        """Return whether there is a segment of this name."""


class NoSegments:
    """What there is where nobody knows segments."""

    def segments_of(self, shopper: str) -> Sequence[str]:
        """Return none."""
        return ()

    def has_segment(self, name: str) -> bool:
        """Return false."""
        return False


def _as_it_is(shopper: str) -> str:
    return shopper


class Now(NamedTuple):
    """The moment of a request.

    Attributes:
        time_ms: the fold's newest event time.
        id: unique to the request.
        artifact: the family's artifact in use, None if there is none.
        clock_s: a clock that never goes back, for what may be reused for a moment; 0 where nothing may.
        turn: it is another one when anything may have been folded since.
        known_as: returns the name under which the fold knows a shopper, given the id that was asked for.
        tried: other artifacts that answers may use, by blob, those that are loaded.
        segments: those of the shard's families, whose answers depend on the fold alone.
    """

    time_ms: int
    id: str = ""
    artifact: Any = None
    known_as: Callable[[str], str] = _as_it_is
    clock_s: float = 0.0
    turn: int = 0
    tried: Mapping[str, Any] = {}
    segments: Segments = NoSegments()


class Route(Struct, frozen=True, kw_only=True):
    """An HTTP route: `method path`.

    `query` has a field for each parameter; its types state the bounds. Those of the path are in the path, the others in
    the query string of a GET, and in the JSON object that is the body of a POST. `answer` is the type of the body.
    `call(family, query, now)` is pure, and asks the artifact by itself; it raises `Refused` for what the types cannot
    express. One that streams returns an iterator of answers, which are sent as JSON lines while they are made. With
    `csv`, which returns the names of columns and then rows from the body, the answer is sent as CSV.
    `shows(answer)` returns the lists that an answer shows, each with an id, for the topic `impressions`; it states the
    propensity of each item. `prepare(family, asked)` computes together what several requests need, given as pairs of
    query and `Now`, so that their answers are quicker; it changes none of them. Routes with the same `prepare` share a
    call. `example` is a request and its answer in JSON: the path, and behind a blank the body of a
    POST. `notes` are sentences for the docs page.
    """

    path: str
    method: Literal["GET", "POST"] = "GET"
    doc: str
    query: type[Struct]
    answer: type[Struct]
    call: Callable[[Any, Any, Now], Any]
    streams: bool = False
    csv: Callable[[Mapping[str, Any]], Iterable[Sequence[Any]]] | None = None
    shows: Callable[[Any], Iterable[Shown]] | None = None
    prepare: Callable[[Any, Sequence[tuple[Any, Now]]], None] | None = None
    example: tuple[str, str] = ("", "")
    notes: tuple[str, ...] = ()


class Watched(Struct, frozen=True, omit_defaults=True):
    """The current score of a drift detector; a detector of a loss has no threshold."""

    score: float
    threshold: float | None = None


class FamilyScores(Struct):
    """A decoded record of `scores`: a family's scores (its `surface.scores`) and its detectors' values.

    `events` is the number of events learned, `time_ms` the shop's time, `appended_ms` the append time (0: not known).
    """

    events: int
    time_ms: int
    scores: Any
    drift: dict[str, Watched]
    appended_ms: int = 0


class Table(Struct, frozen=True, kw_only=True):
    """A table of the newest scores, in `headrace status`, in the demo's summary and in the report.

    `rows` computes the rows from the scores: the first cell is a name, the others are numbers (None: no value). With
    `percent`, numbers are shown as per cent. The row named `bold` is printed in bold.
    """

    title: str
    columns: tuple[str, ...]
    rows: Callable[[Any], Iterable[tuple[Any, ...]]]
    note: str = ""
    bold: str = ""
    percent: bool = True


class Quality(Struct, frozen=True, kw_only=True):
    """The number by which a family is good or not: `of` reads it from its scores, None before there is one.

    With `percent`, it is a share. It is that of the newest predictions, so that a change is visible soon.
    """

    name: str
    of: Callable[[Any], float | None]
    higher_is_better: bool = True
    percent: bool = False


class Chart(Struct, frozen=True, kw_only=True):
    """A chart of lines over the stream, in the report. Either `lines` reads their values from each record of scores, or
    `judged` from each of the family's judgements: its event time (ms), its weight and a value by line. Means over
    slices are drawn. `truth` names a field of the simulated shop's truth `best`, drawn as the best possible score.
    """

    title: str
    lines: Callable[[Any], Mapping[str, float]] | None = None
    judged: Callable[[Any], tuple[int, float, Mapping[str, float]]] | None = None
    caption: str = ""
    percent: bool = False
    bold: str = ""
    floor: float = 0.0
    truth: str = ""


class Bets(NamedTuple):
    """How a trial stands: predictions so far and at most, and each test's wealth beside the wealth for a verdict.

    `better` and `worse` are the wealth of the bets that the blend with the candidate is better, or no better, than with
    its rival; `own` and `own_worse` those of the candidate's own score. A promotion needs `better` and `own` to reach
    `needed`; a refusal `worse` or `own_worse` to reach `worse_needed`.
    """

    predictions: int
    predictions_max: int
    better: float
    worse: float
    own: float
    own_worse: float
    needed: float
    worse_needed: float


class Trials(Protocol):
    """Makes the tests of candidates again from judgements."""

    def add(self, judgement: Any) -> None:
        """Add a judgement, in the order of the log."""

    def curve(self, blob: str, champion: str) -> Sequence[Bets]:
        """Return how a candidate's test stood after each comparison, the oldest first; empty if it is not known.

        Args:
            blob: that of the candidate.
            champion: that of the champion meanwhile, "" if there was none.
        """


class Surface(Struct, frozen=True, kw_only=True):
    """Everything that a family declares.

    `settings` is its section of `headrace.toml` and the environment; `demo` has the values that the demo sets, by kind
    of source (`simulated`, `data`). `topics` are topics of its own, of one partition each; `writes` are the topics that
    it writes besides `scores` and `alarms`, `hears` the side topics whose records it is given. `judge` names the class
    `module:name` that judges beside the fold, `judgements` is the type of one record of its judgements, in MessagePack
    (`list[...]` if a record has several); `former_judgement_keys` are the keys of its judgements in older versions.
    `trials` names the class `module:name` that makes its tests of candidates again from them (`Trials`).
    `full_by_design` names the bounded tables that any shop fills in time, because they keep the newest entries or a
    sample; of the others, a full one loses something. `pages` are pages of the console about it. `headlines` are series
    that a progress line shows: metric, labels, name. `quality` is what the answer to "good?" watches. `tiles` computes
    the report's headline numbers from the newest scores: value and text. `teaches` states, by event type, what the
    family learns from an event; no event of another type changes its state. `inputs` states, by event type, what is
    missing in a source without such events. `doc` is one line of documentation, `benchmark` a command that measures it.
    """

    doc: str
    settings: type[Struct]
    scores: type[Struct] | None = None
    topics: tuple[Topic, ...] = ()
    writes: tuple[str, ...] = ()
    hears: tuple[str, ...] = ()
    judge: str = ""
    judgements: Any = None
    former_judgement_keys: tuple[str, ...] = ()
    trials: str = ""
    artifact: Artifact | None = None
    metrics: tuple[Metric, ...] = ()
    labels: Mapping[str, str] = {}
    detectors: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    pages: tuple[Page, ...] = ()
    quality: Quality | None = None
    tiles: Callable[[Any], Iterable[tuple[str, str]]] | None = None
    full_by_design: tuple[str, ...] = ()
    teaches: Mapping[str, str] = {}
    inputs: Mapping[str, str] = {}
    headlines: tuple[tuple[str, Mapping[str, str], str], ...] = ()
    demo: Mapping[str, Mapping[str, Any]] = {}
    benchmark: str = ""
