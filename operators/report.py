"""The demo's table and the report: one HTML file with embedded charts, which needs neither network nor scripts."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct
from rich.table import Table as RichTable

from headrace.drift import told
from headrace.surface import Table
from headrace.text import visible
from learners.family import AlarmRecord, Family
from operators.facts import Facts, RoundOutcome, Sample, results_text
from operators.picture import THEME, Drawing, chart, draw, drift, flow, quality, watched
from operators.planted import COLUMNS, NUMERIC, Line
from operators.tables import NONE, cell, colour_names, percent, rich_table, shown_name

_LIGHT: Final = " ".join(f"--{name}: {light};" for name, (light, _) in THEME.items())
_DARK: Final = " ".join(f"--{name}: {dark};" for name, (_, dark) in THEME.items())
_STYLE: Final = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55;
  font: 16px/1.55 system-ui, "Segoe UI", "Helvetica Neue", "DejaVu Sans", sans-serif; }}
main {{ max-width: 62rem; margin: 0 auto; padding: 3.2rem 1.5rem 5rem; }}
h1 {{ font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.015em; font-weight: 650; }}
h2 {{ font-size: 1.15rem; margin: 3.2rem 0 .3rem; font-weight: 650; }}
p {{ margin: .35rem 0 .9rem; max-width: 46rem; }}
.soft, figcaption {{ color: var(--soft); }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 1.6rem 1.2rem;
  margin: 2.2rem 0 0; padding: 1.3rem 0; border-block: 1px solid var(--grid); }}
.tiles b {{ display: block; font-size: 1.65rem; font-weight: 600; line-height: 1.2; letter-spacing: -.02em; }}
.tiles span {{ color: var(--soft); font-size: .84rem; line-height: 1.35; display: block; }}
figure {{ margin: 1rem 0 0; }} figure svg {{ width: 100%; height: auto; display: block; overflow: visible; }}
figcaption {{ font-size: .84rem; margin-top: .4rem; max-width: 50rem; }}
svg text {{ font-family: system-ui, "Segoe UI", "Helvetica Neue", "DejaVu Sans", sans-serif !important; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: .88rem; margin-top: .8rem; }}
th {{ text-align: left; font-weight: 550; color: var(--soft); font-size: .8rem; vertical-align: bottom; }}
th, td {{ padding: .42rem .9rem .42rem 0; border-bottom: 1px solid var(--grid); }}
td {{ vertical-align: top; font-variant-numeric: tabular-nums; }}
td.n, th.n, td:first-child {{ text-align: right; white-space: nowrap; }} td:first-child {{ text-align: left; }}
@media (max-width: 48rem) {{
  .wide svg {{ min-width: 40rem; }} td:last-child:not(.n) {{ min-width: 18rem; }}
}}
tr:last-child td {{ border-bottom: 0; }}
.dot {{ display: inline-block; width: .62em; height: .62em; border-radius: 50%; margin-right: .55em; }}
.best {{ font-weight: 650; }}
code {{ font-size: .86em; }}
footer {{ margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--grid); font-size: .84rem; }}
"""
_DIGEST: Final = re.compile(r":[0-9a-f]{12,}$")
"""The end of a loader's source: a digest of the file."""
_VERDICTS: Final = {"promoted": "▲ promoted", "refused": "✕ refused", "failed": "□ failed", "candidate": "in the gate"}


class _Scenario(Struct):
    """The settings of a simulated shop that the report names."""

    seed: int
    items: int
    shoppers: int
    days: float


class _Evidence(Struct):
    """The figures of a verdict that the report names."""

    wealth: float | None = None
    predictions: int = 0
    mean_difference: float | None = None
    interval: tuple[float, float] | None = None
    sessions: int = 0
    worth: dict[str, float] = {}


class _Lineage(Struct):
    """The figures of a training that the report names."""

    tokens: int | None = None
    seconds: float | None = None
    loss: float | None = None
    stopped: str = ""


F = TypeVar("F", bound=Struct)


def _read(figures: Mapping[str, Any], kind: type[F]) -> F | None:
    """Return the figures of a record as `kind`; None if they are anything else, as other programs may write them."""
    try:
        return msgspec.convert(figures, kind)
    except msgspec.ValidationError:
        return None


class Html(str):
    """Text that is HTML already; every other text is escaped where it is put into the page."""


def html(text: str) -> Html:
    """Return a text as HTML.

    >>> html("a < b"), html(Html("<b>a</b>"))
    ('a &lt; b', '<b>a</b>')
    """
    return text if isinstance(text, Html) else Html(escape(visible(text)))


def table(facts: Facts) -> RichTable:
    """Return the results of a run, for a terminal: learners, drift compared with the truth, rounds."""
    whole = RichTable.grid(padding=(1, 0))
    found = {shard: entry.results for shard, entry in facts.entries.items() if entry.results}
    if found:
        read = RichTable.grid()
        for shard, results in found.items():
            read.add_row(f"{shard}: {results_text(results)}")
        whole.add_row(read)
    last = facts.last
    if last is None:
        whole.add_row("no scores yet: they are written every thousand events learned")
        return whole
    whole.add_row(f"scores after {last.events:,} events learned; every prediction came before its event was learned:")
    for kind, declared in tables_of(facts):
        if (rows := rich_table(declared, facts.newest(kind))).row_count:
            whole.add_row(rows)
    if facts.changes:
        drifts = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in ("true drift", "at event", "alarm after", "by"):
            drifts.add_column(column, justify="right" if column in ("at event", "alarm after") else "left")
        for change in facts.changes:
            delay = change.delay_events
            by = ": ".join(filter(None, _first(change.alarms)))
            drifts.add_row(
                change.kind,
                f"{change.begin:,}",
                "missed" if delay is None else f"{delay:,} events",
                by,
            )
        whole.add_row(drifts)
        whole.add_row(f"false alarms: {_false(facts)}")
    elif facts.alarms:
        whole.add_row(f"drift alarms: {len(facts.alarms)} (the true changes are unknown)")
    whole.add_row(
        "rounds: " + ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in facts.outcomes().items())
    )
    for one in facts.rollbacks:
        whole.add_row(f"rolled back to {one.version or 'no model'} at event {one.at_events:,}: {one.reason}")
    if facts.dead_letters:
        whole.add_row("dead letters: " + ", ".join(f"{n:,} {reason}" for reason, n in facts.dead_letters.items()))
    for lack in facts.lacks:
        whole.add_row(f"the source lacks {lack}")
    return whole


def tables_of(facts: Facts) -> list[tuple[type[Family], Table]]:
    """Return the tables that families with scores declare."""
    return [(kind, one) for kind in facts.kinds if facts.newest(kind) for one in kind.surface.tables]


def _false(facts: Facts) -> str:
    per_day = facts.false_per_day()
    return f"{len(facts.false_alarms)}" + (
        "" if per_day is None else f" in {facts.stable_days:.1f} stable days of event time, {per_day:.2f} a day"
    )


def picture(facts: Facts, path: str | Path) -> None:
    """Write the main chart of a run, quality over time, as .svg or .png; write no file if nothing was judged."""
    if main := _main(facts):
        draw(quality, main, Path(path))


def _drawings(facts: Facts) -> list[Drawing]:
    """Return the charts that have points."""
    charts = [Drawing(facts, kind, one) for kind in facts.kinds for one in kind.surface.charts]
    return [drawing for drawing in charts if drawing.points]


def _main(facts: Facts) -> Drawing | None:
    """Return the main chart of a run: the first one that is drawn from judgements."""
    return next((drawing for drawing in _drawings(facts) if drawing.chart.judged), None)


def write_report(
    facts: Facts, path: str | Path, *, samples: Sequence[Sample] = (), of_shoppers: Sequence[Line] = ()
) -> None:
    """Write the report.

    Args:
        samples: scrapes of `/metrics` during the run, if there are any.
        of_shoppers: what was learned of shoppers and items, beside simple rules, if that is known.
    """
    title = "Headrace: a simulated shop" if facts.scenario else "Headrace: a run"
    parts = [_head(facts, title), *_sections(facts, samples, of_shoppers)]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><main>\n" + "\n".join(parts) + "\n"
        "<footer class='soft'>Read from the topics scores, judgements, alarms, models, truth, dead-letters and journal"
        " (speed, lag and freshness from /metrics).</footer>"
        "</main></body></html>\n"
    )
    Path(path).write_text(page, encoding="utf-8")


def _head(facts: Facts, title: str) -> str:
    about = ", ".join(dict.fromkeys(_DIGEST.sub("", source) for source in facts.sources)) or "no events"
    if facts.scenario and (of := _read(facts.scenario, _Scenario)):
        about = (
            f"seed {of.seed}: {of.items:,} items, {of.shoppers:,} shoppers, {of.days:g} days of event time,"
            f" {facts.bots} of the visits by bots"
        )
    tiles = [(f"{facts.published:,}", "events in the log")]
    if (results := facts.results) and results.duplicates:
        tiles.append((f"{results.duplicates:,}", "of them repeats, dropped"))
    for kind in facts.kinds:
        if kind.surface.tiles and (scores := facts.newest(kind)) is not None:
            tiles += kind.surface.tiles(scores)
    main = _main(facts)
    if main and (best := [one.scores[name] for one in facts.best if (name := main.chart.truth) in one.scores]):
        tiles.append((percent(sum(best) / len(best)), f"{name.replace('_', ' ')} of the best possible answers"))
    if facts.changes:
        seen = sum(change.delay_events is not None for change in facts.changes)
        tiles.append((f"{seen} of {len(facts.changes)}", "drifts were detected"))
        if (per_day := facts.false_per_day()) is not None:
            tiles.append((f"{per_day:.2f}", "false alarms per stable day"))
    ends = facts.outcomes()
    kinds = ("promoted", "refused", "failed")
    tiles.append((" / ".join(str(ends[kind]) for kind in kinds), f"rounds {' / '.join(kinds)}"))
    if facts.rollbacks:
        tiles.append((f"{len(facts.rollbacks)}", "rolled back"))
    tiles.append((f"{sum(facts.dead_letters.values()):,}", "dead letters"))
    shown = "".join(f"<div><b>{html(value)}</b><span>{html(text)}</span></div>" for value, text in tiles)
    return f"<h1>{title}</h1><p class='soft'>{html(about)}</p><div class='tiles'>{shown}</div>"


def _sections(facts: Facts, samples: Sequence[Sample], of_shoppers: Sequence[Line]) -> list[str]:
    found = []
    main = _main(facts)
    if main:
        changes = (
            "Dashed lines and shaded spans: true changes. Dotted: the best possible score, of an answer that knows"
            " the shopper's taste and intent. "
            if facts.changes
            else ""
        )
        found += [
            "<h2>Quality over time</h2>",
            _figure(
                draw(quality, main),
                f"{main.chart.caption} {changes}Rounds: a line from candidate to verdict, ▲ promoted,"
                " ✕ refused, □ failed; ▼ rolled back. Alarms: one tick each; shaded where an alarm counts as correct."
                " All stand at the number of events that had been learned then.",
            ),
        ]
    for kind in facts.kinds:
        found += _family(facts, kind, main)
    if of_shoppers:
        found += ["<h2>What is known of shoppers</h2>", _rows(COLUMNS, of_shoppers, NUMERIC)]
    found += ["<h2>Rounds of the slow learner</h2>", _rounds(facts)]
    if any(found_ for found_ in facts.scores.values()):
        found += ["<h2>Drift</h2>", _drifts(facts)]
        seen, silent = watched(facts)
        caption = "Blue: a detector's score; dashed: its threshold (losses have none); red: its alarms."
        if silent:
            caption += f" Without input, or too few events: {', '.join(name.replace('_', ' ') for name in silent)}."
        found.append(_figure(draw(drift, facts), caption) if seen else f"<p class='soft'>{html(caption)}</p>")
    if len(samples) > 2:
        caption = (
            "Scraped from /metrics during the run. Records wait, and become older, while the producer is faster than"
            " the consumer."
        )
        found += ["<h2>Speed, lag and freshness</h2>", _figure(draw(flow, samples), caption)]
    found += ["<h2>Input</h2>", _input(facts)]
    return found


def _figure(svg: str, caption: str) -> str:
    return (
        f"<figure><div class='wide'>{svg}</div>"
        + (f"<figcaption>{html(caption)}</figcaption>" if caption else "")
        + "</figure>"
    )


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]], numeric: frozenset[int]) -> str:
    """Return a table."""

    def row(tag: str, cells: Sequence[str]) -> str:
        classes = [' class="n"' if place in numeric else "" for place in range(len(cells))]
        return (
            "<tr>"
            + "".join(f"<{tag}{c}>{html(cell)}</{tag}>" for c, cell in zip(classes, cells, strict=True))
            + "</tr>"
        )

    body = "".join(row("td", cells) for cells in rows)
    return f'<div class="wide"><table>{row("th", heads)}{body}</table></div>'


def _family(facts: Facts, kind: type[Family], main: Drawing | None) -> list[str]:
    """Return a family's tables and charts."""
    found = []
    drawings = [one for one in _drawings(facts) if one.kind is kind and one != main]
    scores = facts.newest(kind)
    if scores is not None:
        for declared in kind.surface.tables:
            found += [f"<h2>{html(declared.title)}</h2>", _scores(declared, scores)]
    for drawing in drawings:
        found.append(_figure(draw(chart, drawing), drawing.chart.caption))
    return found


def _scores(declared: Table, scores: Any) -> str:
    made = list(declared.rows(scores))
    colours = colour_names([name for name, *_ in made], declared.bold)
    rows = []
    for name, *values in made:
        dot = f'<span class="dot" style="background: var(--{colours[name]})"></span>' if declared.bold else ""
        rows.append(
            [Html(f"{dot}{html(shown_name(name))}"), *(cell(value, percent_of=declared.percent) for value in values)]
        )
    note = f"<p class='soft'>{html(declared.note)}</p>" if declared.note else ""
    return _rows(declared.columns, rows, frozenset(range(1, len(declared.columns)))) + note


def _rounds(facts: Facts) -> str:
    if not facts.rounds:
        return "<p class='soft'>There were none.</p>"
    rows = [(one.newest.at_events, _round(one)) for one in facts.rounds]
    for back in facts.rollbacks:
        said = f"▼ rolled back to {back.version or 'no model'}"
        rows.append((back.at_events, ["", said, "", f"{back.at_events:,}", "", "", "", back.reason]))
    rows.sort(key=lambda row: row[0])
    heads = ["round", "verdict", "trigger", "at event", "tokens", "seconds", "loss", "reason and evidence"]
    return _rows(heads, [row for _, row in rows], frozenset({3, 4, 5, 6})) + (
        "<p class='soft'>Tokens: predictions trained on, over all passes. Loss: mean of the last pass, in nats."
        " Wealth: what the gate's bets on the verdict (undecided: on the likelier one) have become, from 1; the larger,"
        " the stronger the evidence. The difference is that of the candidate's mean score to its rival's, with an"
        " interval that holds whenever the test ends.</p>"
    )


def _round(one: RoundOutcome) -> list[str]:
    newest, texts = one.newest, []
    evidence, lineage = _read(newest.evidence, _Evidence) or _Evidence(), _read(one.lineage, _Lineage) or _Lineage()
    if evidence.wealth is not None:
        mean = evidence.mean_difference
        score = "NDCG" if evidence.interval else "reciprocal rank"  # rule 2 of the gate, or rule 1
        difference = "" if mean is None else f", {mean:+.4f} {score}"
        if evidence.interval:
            low, high = evidence.interval
            difference += f" ({low:+.4f} to {high:+.4f}), {evidence.sessions:,} sessions"
        texts.append(f"wealth {evidence.wealth:.1f} after {evidence.predictions:,} predictions{difference}")
    if evidence.worth:
        texts.append(", ".join(f"blend with {name} {score:.4f}" for name, score in sorted(evidence.worth.items())))
    if lineage.stopped:
        texts.append(f"training stopped {lineage.stopped}")
    text = html(newest.reason or NONE) + (f"<br><span class='soft'>{html(', '.join(texts))}</span>" if texts else "")
    trained = (one.candidate or newest).at_events
    return [
        newest.version or f"r{newest.round:04d}",
        _VERDICTS[newest.kind],
        newest.trigger,
        f"{trained:,}",
        NONE if lineage.tokens is None else f"{lineage.tokens:,}",
        NONE if lineage.seconds is None else f"{lineage.seconds:.1f}",
        NONE if lineage.loss is None else f"{lineage.loss:.3f}",
        Html(text),
    ]


def _first(alarms: Sequence[AlarmRecord]) -> tuple[str, str]:
    """Return the detector of the first alarm, and what the first one that names something says has moved most."""
    if not alarms:
        return "", ""
    return alarms[0].detector, next((str(alarm.moved[0]) for alarm in alarms if alarm.moved), "")


def _drifts(facts: Facts) -> str:
    if not facts.changes:
        return f"<p>{len(facts.alarms)} alarms. The true changes are unknown.</p>"
    rows = []
    for change in facts.changes:
        delay = change.delay_events
        others = dict.fromkeys(alarm.detector.replace("_", " ") for alarm in change.alarms)
        moved = next((told(alarm.moved) for alarm in change.alarms if alarm.moved), NONE)
        shown = "missed" if delay is None else f"{delay:,}"
        rows.append([change.kind, f"{change.begin:,}", shown, ", ".join(others) or NONE, moved])
    return (
        _rows(
            ["true change", "at event", "detected after events", "by, in order", "what moved"], rows, frozenset({1, 2})
        )
        + f"<p class='soft'>False alarms: {_false(facts)}. An alarm is correct from a change's begin until 5,000"
        " events after the change is complete, but before the next one; every other alarm is false.</p>"
    )


def _input(facts: Facts) -> str:
    types = [[name, f"{count:,}"] for name, count in facts.types.items()]
    lacks = "".join(f"<p>The source lacks {html(lack)}.</p>" for lack in facts.lacks)
    if not facts.dead_letters:
        letters = "<p class='soft'>No dead letters: every record was valid.</p>"
    else:
        rows = [[reason, f"{count:,}"] for reason, count in facts.dead_letters.items()]
        letters = _rows(["dead letters, by reason", "records"], rows, frozenset({1}))
    return lacks + letters + _rows(["event (the first of each partition)", "records"], types, frozenset({1}))
