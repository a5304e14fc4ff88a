"""The catalogues: no sentence is missing in a language, none is superfluous, and all name the same values."""

import re
from pathlib import Path
from string import Formatter
from typing import get_args

import pytest

from learners.families import FAMILIES
from learners.value.leaving import TEXTS, DueCode, ReasonCode, Weekday
from operators import experiments, overview, scraping
from operators.catalogue import LANGUAGES, catalogue
from operators.console import actions, app, card, charts, pages, visit
from operators.console.visit import HERE, NAVIGATION

ENGLISH = catalogue("en").sentences
MODULES = (actions, app, card, charts, pages, visit, experiments, overview, scraping)
MADE = {
    "unit", "question", "level", "trend", "cause", "figure", "theme", "role", "change", "step", "fate", "state", "job",
    "experiment", "leaving", "write",
}  # fmt: skip
"""Sections of whose keys some are named by values at run time."""


def fields(sentence: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(sentence) if name is not None}


@pytest.mark.parametrize("language", set(LANGUAGES) - {"en"})
def test_each_language_has_each_sentence_with_its_values(language: str) -> None:
    other = catalogue(language).sentences
    assert set(other) == set(ENGLISH)
    assert {key for key in other if fields(other[key]) != fields(ENGLISH[key])} == set()
    assert not [key for key in other if not other[key]]


def test_pages_use_the_sentences_that_there_are() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (HERE / "templates").glob("*.html")]
    sources += [Path(str(module.__file__)).read_text(encoding="utf-8") for module in MODULES]
    text = "\n".join(sources)
    used = set(re.findall(r"""["']([a-z]+\.[a-z_]+)["']""", text)) & {*ENGLISH} | {
        f"act.{key}" for key in re.findall(r'action\("[a-z/]+", "([a-z_]+)"', text)
    }
    called = set(re.findall(r"""\b(?:t|says)\(["']([a-z]+\.[a-z_]+)["'][,)]""", text))
    called |= set(re.findall(r"""empty\(["']([a-z]+\.[a-z_]+)["']""", text))
    called |= set(re.findall(r"""Refusal\(\d+, ["']([a-z]+\.[a-z_]+)["']""", text))
    assert called - set(ENGLISH) == set()
    named = {f"cause.{code}" for code in re.findall(r'code="([a-z_]+)"', text)}
    named |= {f"{key}_share" for key in named} | {f"figure.{key.partition('.')[2]}" for key in named}
    unused = {key for key in ENGLISH if key not in used | named and key.partition(".")[0] not in MADE}
    assert {key for key in unused if not re.search(rf"[\"']{key.split('.')[0]}\.[\"'] ~", text)} == set()
    assert {f"nav.{key}" for _, links in NAVIGATION for _, key, _ in links} <= set(ENGLISH)


def test_what_families_declare_is_translated() -> None:
    texts = catalogue("zh").texts
    for kind in FAMILIES:
        surface = kind.surface
        if surface.scores is None:
            continue
        declared = [surface.doc, *(table.title for table in surface.tables)]
        declared += [column for table in surface.tables for column in table.columns if not re.search(r"@\d", column)]
        declared += [table.note for table in surface.tables if table.note]
        declared += [chart.title for chart in surface.charts if chart.lines]
        declared += [surface.quality.name] if surface.quality else []
        declared += [text for page in surface.pages for text in (page.title, page.lead, page.nothing) if text]
        assert [text for text in declared if text not in texts] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_why_a_shopper_leaves_and_when_to_write_is_said_in_each_language(language: str) -> None:
    says, sentences = catalogue(language), catalogue(language).sentences
    of = {section: {key.partition(".")[2] for key in sentences if key.startswith(section)} for section in MADE}
    assert of["leaving"] == set(get_args(ReasonCode)) == set(TEXTS)
    assert of["write"] - {"on_weekday"} == set(get_args(DueCode))
    assert {code: fields(sentences[f"leaving.{code}"]) for code in TEXTS} == {
        code: fields(text) for code, text in TEXTS.items()
    }
    assert language == "en" or set(get_args(Weekday)) <= set(says.texts)
    reason = {"code": "slower", "text": "as it was", "values": {"share": 0.41}}
    assert "41.0 %" in card.why_leaving(says, reason)
    assert card.why_leaving(says, {**reason, "values": {}}) == "as it was", "of a server of another release"
    best = {"why": "as it was", "code": "due", "days": 12, "weekday": "Fridays"}
    told = card.why_then(says, best)
    assert says.declared("Fridays") in told
    assert "12" in told
    assert says.declared("Fridays") not in card.why_then(says, {**best, "weekday": None})
    assert card.why_then(says, {**best, "code": None}) == "as it was"


def test_pages_of_families_have_names_of_their_own() -> None:
    names = [page.name for kind in FAMILIES for page in kind.surface.pages]
    assert names
    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch("[a-z][a-z-]*", name)] == []
    assert [kind.name for kind in FAMILIES if kind.surface.pages and kind.surface.scores is None] == []
