"""What a dashboard is made of, as data, and the JSON that Grafana reads, by its foundation SDK."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard

SOURCE: Final = "prometheus"
"""The uid of the data source, as in `../provisioning/datasources`."""
TAG: Final = "headrace"
"""The tag of all dashboards, by which they link to each other."""
COLUMNS: Final = 24
"""Columns of Grafana's grid."""
number_height: Final = 4
lines_height: Final = 8
gap_ms: Final = 60_000
"""Longest gap between two points that a line bridges."""
OURS: Final = "and on (job, instance) headrace_build_info"
"""Leaves the series of our processes, where others are scraped, too."""


class Query(NamedTuple):
    """A query in PromQL. `legend` names its series; `__auto` shows the labels by which they differ."""

    expr: str
    legend: str = "__auto"


class Limit(NamedTuple):
    """The value up to which all is well; over it, an alert fires, if one is named."""

    value: float
    alert: str = ""


class Panel(NamedTuple):
    """A panel: one number, or lines over time.

    `description` states what is normal and what to do otherwise. `width` is in columns. `limit` is drawn as a line, and
    colours a number. `top` is the largest possible value, if there is one. `shows_legend` has a number show the legend
    of its series instead of the value.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Literal["lines", "number"] = "lines"
    width: int = 8
    limit: Limit | None = None
    top: float | None = None
    stacked: bool = False
    stepped: bool = False
    shows_legend: bool = False


class Row(NamedTuple):
    """Panels below a heading, from left to right and then in the next line."""

    title: str
    panels: tuple[Panel, ...]


class Variable(NamedTuple):
    """A choice of label values, all of them by default; a query has it as `label=~"$name"`.

    `every` replaces the choice of all; if empty, Grafana lists the values.
    """

    name: str
    label: str
    query: str
    every: str = ""


class Board(NamedTuple):
    """A dashboard. `question` is what it answers."""

    name: str
    title: str
    question: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()
    since: str = "now-30m"


def number(title: str, unit: str, expr: str, description: str, *, width: int = 4, limit: Limit | None = None) -> Panel:
    """Return a panel of one number."""
    return Panel(title, description, unit, (Query(expr, title),), "number", width, limit)


# Parts of queries


def quantile(share: float, histogram: str, by: str, window: str = "$__rate_interval", matching: str = "") -> str:
    """Return the quantile of a histogram, by labels.

    >>> quantile(0.5, "x_seconds", "job")
    'histogram_quantile(0.5, sum by (job, le) (rate(x_seconds_bucket[$__rate_interval])))'
    """
    return f"histogram_quantile({share}, sum by ({by}, le) (rate({histogram}_bucket{matching}[{window}])))"


def per_second(metric: str, by: str = "", window: str = "$__rate_interval") -> str:
    """Return the sum of a counter's rates, by labels if any are given.

    >>> per_second("x_total", "job")
    'sum by (job) (rate(x_total[$__rate_interval]))'
    """
    return f"sum{f' by ({by})' if by else ''} (rate({metric}[{window}]))"


def zero(expr: str, label: str = "", text: str = "none") -> str:
    """Return a query that yields 0 where `expr` has no series; the label of that series has the text.

    >>> zero("x")
    'x or on () vector(0)'
    >>> zero("x", "reason")
    'x or on () label_replace(vector(0), "reason", "none", "", "")'
    """
    none = f'label_replace(vector(0), "{label}", "{text}", "", "")' if label else "vector(0)"
    return f"{expr} or on () {none}"


def share(part: str, whole: str, window: str = "$__rate_interval") -> str:
    """Return the share of a counter in another; 0 while nothing is counted.

    >>> share("bad_total", "all_total", "5m")
    '(sum (rate(bad_total[5m])) or vector(0)) / clamp_min(sum (rate(all_total[5m])) or vector(0), 1e-9)'
    """
    above, below = (f"{per_second(one, window=window)} or vector(0)" for one in (part, whole))
    return f"({above}) / clamp_min({below}, 1e-9)"


# Annotations: what changed, on every dashboard


class _Annotation(dashboard.AnnotationQuery, Builder[dashboard.AnnotationQuery]):
    """An annotation query with the fields that the data source for Prometheus reads, which the SDK lacks."""

    def __init__(self, name: str, colour: str, expr: str, text: str) -> None:
        super().__init__(name=name, datasource=_source(), enable=True, hide=None, icon_color=colour, expr=expr)
        self._text = text
        self.built_in = None

    def build(self) -> dashboard.AnnotationQuery:
        return self

    def to_json(self) -> dict[str, object]:
        return {**super().to_json(), "titleFormat": self._text, "step": "10s"}


def _source() -> dashboard.DataSourceRef:
    return dashboard.DataSourceRef(type_val="prometheus", uid=SOURCE)


def _annotations() -> list[_Annotation]:
    return [
        _Annotation(
            "Drift alarms", "red", "sum by (detector) (changes(headrace_drift_alarms_total[$__rate_interval])) > 0",
            "drift: {{detector}}",
        ),
        _Annotation(
            "Promotions", "green", 'changes(headrace_rounds_total{outcome="promoted"}[$__rate_interval]) > 0',
            "a model was promoted",
        ),
        _Annotation(
            "Rollbacks", "orange", 'changes(headrace_rounds_total{outcome="rolled_back"}[$__rate_interval]) > 0',
            "a model was rolled back",
        ),
        _Annotation(
            "Restarts", "blue", f"sum by (job) (changes(process_start_time_seconds[$__rate_interval]) > 0 {OURS})",
            "{{job}} was restarted",
        ),
        _Annotation(
            "Alerts", "purple",
            'sum by (alertname) (ALERTS{alertstate="firing",severity!="info"})', "alert: {{alertname}}",
        ),
    ]  # fmt: skip


# JSON


def as_json(board: Board) -> str:
    """Return a dashboard as Grafana reads it."""
    made = (
        builders.Dashboard(board.title)
        .uid(f"headrace-{board.name}")
        .description(board.question)
        .tags([TAG])
        .readonly()
        .refresh("10s")
        .time(board.since, "now")
        .timezone("browser")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .link(
            builders.DashboardLink("Headrace")
            .type(dashboard.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .keep_time(True)
        )
    )  # fmt: skip
    for annotation in _annotations():
        made.annotation(annotation)
    made.variables([*map(_variable, board.variables)])
    # Ids and places are set here: a link to a panel needs its id, and panels side by side get the same height.
    ids, y = itertools.count(1), 0
    for row in board.rows:
        made.with_row(builders.Row(row.title).id(next(ids)).grid_pos(dashboard.GridPos(h=1, w=COLUMNS, x=0, y=y)))
        y += 1
        for line in _lines_of(row.panels):
            height = max(number_height if panel.kind == "number" else lines_height for panel in line)
            for panel, end in zip(line, itertools.accumulate(panel.width for panel in line), strict=True):
                place = dashboard.GridPos(h=height, w=panel.width, x=end - panel.width, y=y)
                made.with_panel(_panel(panel).id(next(ids)).grid_pos(place))
            y += height
    return JSONEncoder(indent=2).encode(made.build()) + "\n"


def _lines_of(panels: Iterable[Panel]) -> list[list[Panel]]:
    """Return the panels that are side by side."""
    found: list[list[Panel]] = [[]]
    for panel in panels:
        if sum(one.width for one in found[-1]) + panel.width > COLUMNS:
            found.append([])
        found[-1].append(panel)
    return found


def _variable(variable: Variable) -> builders.QueryVariable:
    made = (
        builders.QueryVariable(variable.name)
        .label(variable.label)
        .datasource(_source())
        .query(variable.query)
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(dashboard.VariableOption(text="All", value="$__all"))
    )
    return made.all_value(variable.every) if variable.every else made


def _panel(panel: Panel) -> stat.Panel | timeseries.Panel:
    made = _number(panel) if panel.kind == "number" else _lines(panel)
    made.title(panel.title).description(panel.description).unit(panel.unit).datasource(_source())
    made.thresholds(_thresholds(panel.limit)).targets([*_targets(panel.queries)])
    return made


def _targets(queries: Iterable[Query]) -> Iterator[prometheus.Dataquery]:
    for letter, query in zip("ABCDEFGH", queries, strict=False):
        made = prometheus.Dataquery().ref_id(letter).expr(query.expr).legend_format(query.legend).range()
        yield made.datasource(_source())


def _thresholds(limit: Limit | None) -> builders.ThresholdsConfig:
    steps = [dashboard.Threshold(value=None, color="green" if limit else "text")]
    if limit:
        steps.append(dashboard.Threshold(value=limit.value, color="red"))
    return builders.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps)


def _number(panel: Panel) -> stat.Panel:
    text = common.BigValueTextMode.NAME if panel.shows_legend else common.BigValueTextMode.VALUE
    graph = common.BigValueGraphMode.NONE if panel.shows_legend else common.BigValueGraphMode.AREA
    return (
        stat.Panel()
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
        .text_mode(text)
        .graph_mode(graph)
        .color_mode(common.BigValueColorMode.BACKGROUND if panel.limit else common.BigValueColorMode.NONE)
    )


def _lines(panel: Panel) -> timeseries.Panel:
    made = (
        timeseries.Panel()
        .line_width(2)
        .fill_opacity(30 if panel.stacked else 0)
        .show_points(common.VisibilityMode.NEVER)
        .span_nulls(gap_ms)
        .min(0)
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(
            common_builders.VizTooltipOptions()
            .mode(common.TooltipDisplayMode.MULTI)
            .sort(common.SortOrder.DESCENDING)
        )
    )  # fmt: skip
    if panel.top is not None:
        made.max(panel.top)
    if panel.stacked:
        made.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
    if panel.stepped:
        made.line_interpolation(common.LineInterpolation.STEP_AFTER)
    if panel.limit:
        style = common_builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        made.thresholds_style(style)
    return made
