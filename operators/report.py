"""The demo's table and the report: one HTML file with its pictures in it, that needs neither network nor scripts."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final

from rich.table import Table

from operators.facts import Facts, Round, Sample
from operators.picture import THEME, draw, drift, flow, propensity, quality, reciprocal

_LIGHT: Final = " ".join(f"--{name.replace('_', '-')}: {light};" for name, (light, _) in THEME.items())
_DARK: Final = " ".join(f"--{name.replace('_', '-')}: {dark};" for name, (_, dark) in THEME.items())
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
td.n, th.n {{ text-align: right; white-space: nowrap; }}
tr:last-child td {{ border-bottom: 0; }}
.dot {{ display: inline-block; width: .62em; height: .62em; border-radius: 50%; margin-right: .55em; }}
.best {{ font-weight: 650; }}
code {{ font-size: .86em; }}
footer {{ margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--grid); font-size: .84rem; }}
"""
NONE: Final = "\N{EN DASH}"
_VERDICTS: Final = {"promoted": "▲ promoted", "refused": "✕ refused", "failed": "□ failed", "candidate": "in the gate"}


def _name(learner: str) -> str:
    return learner.replace("_", "-")


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f} %"


def table(facts: Facts, *, events_per_s: float | None = None) -> Table:
    """Return what a run showed, for a terminal: learners, drift beside the truth, rounds.

    Args:
        events_per_s: how fast events were learned; only who ran the processes knows.
    """
    whole = Table.grid(padding=(1, 0))
    last = facts.last
    if last is None:
        whole.add_row("no scores yet: they come every thousand events")
        return whole
    speed = f", {events_per_s:,.0f} a second" if events_per_s else ""
    whole.add_row(f"{last.events:,} of {facts.published:,} events scored{speed}; the next item, before it was learned:")
    learners = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    learners.add_column("learner")
    for column in ("judged", "recall@20", "newest", "MRR@20", "newest"):
        learners.add_column(column, justify="right")
    for name, found in last.ranking.items():
        scores = [view.get(score) for score in ("recall@20", "mrr@20") for view in (found.whole, found.window)]
        style = "bold" if name == "blend" else ""
        learners.add_row(_name(name), f"{found.judged:,}", *map(_percent, scores), style=style)
    whole.add_row(learners)
    if facts.changes:
        drifts = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in ("true drift", "at event", "alarm after", "by"):
            drifts.add_column(column, justify="right" if column in ("at event", "alarm after") else "left")
        for change in facts.changes:
            delay = change.delay_events
            by = change.alarms[0].detector if change.alarms else ""
            drifts.add_row(change.kind, f"{change.begin:,}", "missed" if delay is None else f"{delay:,} events", by)
        whole.add_row(drifts)
        whole.add_row(f"false alarms: {_false(facts)}")
    elif facts.raised:
        whole.add_row(f"drift alarms: {len(facts.raised)} (what truly changed is not known here)")
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


def _false(facts: Facts) -> str:
    per_day = facts.false_per_day()
    return f"{len(facts.false_alarms)}" + (
        "" if per_day is None else f" in {facts.stable_days:.1f} stable days of event time, {per_day:.2f} a day"
    )


def picture(facts: Facts, path: str | Path) -> None:
    """Write the one picture of a run, quality over time, as .svg or .png."""
    draw(quality, facts, Path(path))


def write_report(facts: Facts, path: str | Path, *, samples: Sequence[Sample] = ()) -> None:
    """Write the report.

    Args:
        samples: scrapes of `/metrics` during the run, if somebody took them.
    """
    title = "Headrace: a simulated shop" if facts.scenario else "Headrace: a run"
    parts = [_head(facts, title), *_sections(facts, samples)]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><main>\n" + "\n".join(parts) + "\n"
        "<footer class='soft'>Read from the topics scores, judgements, alarms, models, truth, dead-letters and journal"
        " (speed, lag and freshness from /metrics). Nothing is computed beside the processes.</footer>"
        "</main></body></html>\n"
    )
    Path(path).write_text(page, encoding="utf-8")


def _head(facts: Facts, title: str) -> str:
    about = ", ".join(escape(source) for source in facts.sources) or "no events"
    if facts.scenario:
        of = facts.scenario
        about = (
            f"seed {of['seed']}: {of['items']:,} items, {of['shoppers']:,} shoppers, {of['days']:g} days of event time,"
            f" {facts.bots} of the visits by bots"
        )
    tiles = [(f"{facts.published:,}", "events published")]
    if facts.last:
        ranking = facts.last.ranking
        if (blend := ranking.get("blend")) and blend.judged:
            tiles.append((_percent(blend.whole.get("recall@20")), "recall@20 of the blend, whole stream"))
        if facts.best:
            best = sum(one.recall_at_20 for one in facts.best) / len(facts.best)
            tiles.append((_percent(best), "recall@20 of the best possible ranking"))
    if facts.changes:
        seen = sum(change.delay_events is not None for change in facts.changes)
        tiles.append((f"{seen} of {len(facts.changes)}", "drifts were noticed"))
        if (per_day := facts.false_per_day()) is not None:
            tiles.append((f"{per_day:.2f}", "false alarms per stable day"))
    ends = facts.outcomes()
    tiles.append((f"{ends['promoted']} / {ends['refused'] + ends['failed']}", "rounds promoted / refused"))
    tiles.append((f"{sum(facts.dead_letters.values()):,}", "dead letters"))
    shown = "".join(f"<div><b>{value}</b><span>{text}</span></div>" for value, text in tiles)
    return f"<h1>{title}</h1><p class='soft'>{about}</p><div class='tiles'>{shown}</div>"


def _sections(facts: Facts, samples: Sequence[Sample]) -> list[str]:
    found = []
    if facts.slices:
        changes = (
            "Dashed lines and shaded spans: what truly changed. Dotted: what a ranking could reach that knows the"
            " shopper's taste and why they came. "
            if facts.changes
            else ""
        )
        found += [
            "<h2>Quality over time</h2>",
            _figure(
                draw(quality, facts),
                f"{changes}Rounds: a line from candidate to verdict, ▲ promoted, ✕ refused. Alarms: one tick each;"
                " shaded where an alarm counts as right.",
            ),
            _figure(draw(reciprocal, facts), ""),
        ]
    if facts.last:
        found += ["<h2>Learners</h2>", _learners(facts)]
    found += ["<h2>Rounds of the slow learner</h2>", _rounds(facts)]
    if facts.scores:
        found += ["<h2>Drift</h2>", _drifts(facts)]
        caption = "Blue: what a detector sees; dashed: its threshold (losses have none); red: its alarms."
        found.append(_figure(draw(drift, facts), caption))
        score = facts.last.propensity.whole if facts.last else {}
        if "auc" in score:  # until both labels were seen there is none, and nothing to look at
            caption = (
                f"Bold: the newest 10,000 views; thin: whole stream, AUC {score['auc']:.3f}, calibration error"
                f" {score['calibration_error']:.4f}, {_percent(score['base_rate'])} of views bought, log-loss"
                f" {score['log_loss']:.3f}."
            )
            found += ["<h2>Purchase propensity</h2>", _figure(draw(propensity, facts), caption)]
    if len(samples) > 2:
        caption = (
            "Scraped from /metrics while it ran. A producer that outruns the consumer makes records wait, and so makes"
            " them older."
        )
        found += ["<h2>Speed, lag and freshness</h2>", _figure(draw(flow, samples), caption)]
    found += ["<h2>Input</h2>", _input(facts)]
    return found


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}" + (f"<figcaption>{caption}</figcaption>" if caption else "") + "</figure>"


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]], numeric: frozenset[int]) -> str:
    """Return a table; cells are HTML already."""

    def row(tag: str, cells: Sequence[str]) -> str:
        classes = [' class="n"' if place in numeric else "" for place in range(len(cells))]
        return "<tr>" + "".join(f"<{tag}{c}>{cell}</{tag}>" for c, cell in zip(classes, cells, strict=True)) + "</tr>"

    body = "".join(row("td", cells) for cells in rows)
    return f'<div class="wide"><table>{row("th", heads)}{body}</table></div>'


def _learners(facts: Facts) -> str:
    assert facts.last is not None
    rows = []
    for name, found in facts.last.ranking.items():
        colour = name.replace("_", "-") if name in THEME else "other"
        dot = f'<span class="dot" style="background: var(--{colour})"></span>{_name(name)}'
        cells = [
            view.get(score) for score in ("recall@20", "mrr@20", "ndcg@20") for view in (found.whole, found.window)
        ]
        rows.append([dot, f"{found.judged:,}", *map(_percent, cells)])
    heads = ["learner", "judged", "recall@20", "newest", "MRR@20", "newest", "NDCG@20", "newest"]
    return _rows(heads, rows, frozenset(range(1, 8))) + (
        "<p class='soft'>Prequential, weighted by inverse probability of being judged. Newest: the last 2,000"
        " judgements. The deep model is judged from its first promotion on.</p>"
    )


def _rounds(facts: Facts) -> str:
    if not facts.rounds:
        return "<p class='soft'>There was none.</p>"
    rows = [_round(one) for one in facts.rounds]
    for back in facts.rollbacks:
        rows.append(["", f"▼ rolled back to {escape(back.version) or 'none'}", "", f"{back.at_events:,}", "", "", "",
                     escape(back.reason)])  # fmt: skip
    heads = ["round", "verdict", "trigger", "at event", "tokens", "seconds", "loss", "reason and evidence"]
    return _rows(heads, rows, frozenset({3, 4, 5, 6}))


def _round(one: Round) -> list[str]:
    newest, lineage, said = one.newest, one.lineage, []
    evidence = newest.evidence
    if "wealth" in evidence:
        difference = f", {evidence['mean_difference']:+.4f} reciprocal rank" if "mean_difference" in evidence else ""
        said.append(f"wealth {evidence['wealth']:.1f} after {evidence['predictions']:,} predictions{difference}")
    if worth := evidence.get("worth"):
        said.append(", ".join(f"blend with {name} {score:.4f}" for name, score in sorted(worth.items())))
    text = escape(newest.reason or NONE) + (f"<br><span class='soft'>{escape(', '.join(said))}</span>" if said else "")
    trained = (one.candidate or newest).at_events
    return [
        escape(newest.version) or f"r{newest.round:04d}",
        _VERDICTS[newest.kind],
        escape(newest.trigger),
        f"{trained:,}",
        f"{lineage['tokens']:,}" if "tokens" in lineage else NONE,
        f"{lineage['seconds']:.1f}" if "seconds" in lineage else NONE,
        f"{lineage['loss']:.3f}" if "loss" in lineage else NONE,
        text,
    ]


def _drifts(facts: Facts) -> str:
    if not facts.changes:
        return f"<p>{len(facts.raised)} alarms. What truly changed is not known here.</p>"
    rows = []
    for change in facts.changes:
        delay = change.delay_events
        others = dict.fromkeys(alarm.detector.replace("_", " ") for alarm in change.alarms)
        shown = "missed" if delay is None else f"{delay:,}"
        rows.append([escape(change.kind), f"{change.begin:,}", shown, escape(", ".join(others)) or NONE])
    return (
        _rows(
            ["what truly changed", "at event", "noticed after events", "by, first one first"], rows, frozenset({1, 2})
        )
        + f"<p class='soft'>False alarms: {_false(facts)}. An alarm is right if it comes from a change's begin to 5,000"
        " events after the change is complete, but before the next one; every other alarm is false.</p>"
    )


def _input(facts: Facts) -> str:
    types = [[escape(name), f"{count:,}"] for name, count in facts.types.items()]
    lacks = "".join(f"<p>The source lacks {escape(lack)}.</p>" for lack in facts.lacks)
    if not facts.dead_letters:
        letters = "<p class='soft'>No dead letters: every record could be used.</p>"
    else:
        rows = [[escape(reason), f"{count:,}"] for reason, count in facts.dead_letters.items()]
        letters = _rows(["dead letters, by reason", "records"], rows, frozenset({1}))
    return lacks + letters + _rows(["event (the first of each partition)", "records"], types, frozenset({1}))
