"""The reference pages in `docs/` are what the declarations say, and every declaration is described."""

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from headrace.errors import Misconfigured
from headrace.events import EventType
from headrace.surface import settings_of
from headrace.topics import MODELS, TOPICS
from learners.families import FAMILIES
from operators.reference import PAGES, main

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the command writes, in a process where no test has registered a topic of its own."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "docs").mkdir()
    command = [sys.executable, "-m", "operators.reference"]
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_each_page_is_what_the_declarations_say(name: str, written: Path) -> None:
    text = (written / name).read_text(encoding="utf-8")
    assert page(name) == text, "run: python -m operators.reference"


def test_one_page_is_printed_and_an_unknown_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    main(["serving.md"])
    assert capsys.readouterr().out == page("serving.md")
    with pytest.raises(Misconfigured, match=r"wanted one of topics\.md, metrics\.md"):
        main(["serve.md"])


def test_without_a_folder_for_them_no_page_is_written(clean_environment: None) -> None:
    with pytest.raises(Misconfigured, match="wanted a folder docs"):
        main([])
    assert list(Path.cwd().iterdir()) == []


def test_topics_name_the_shards_that_write_and_read_them() -> None:
    lines = [line for line in page("topics.md").splitlines() if line.startswith("| `")]
    assert len(lines) == len(TOPICS)
    assert not [line for line in lines if re.search(r"\| (.*, )?shards(, .*)? \|", line)]
    (models,) = [line for line in lines if line.startswith(f"| `{MODELS}` ")]
    assert models.endswith(
        " | finetune, propose, promote, withdraw, roll-back |"
        " online, finetune, serve, replay, archive, promote, withdraw, roll-back, history, rules, segments, stock,"
        " status, console, verify, demo |"
    )


def test_every_setting_says_what_it_is() -> None:
    rows = [line for line in page("settings.md").splitlines() if line.startswith("| `")]
    assert rows
    for row in rows:
        assert "None" not in row
        assert not re.search(r"\| *(Shapes the state\. *)?\|$", row), row
    for kind in FAMILIES:
        for setting in settings_of(kind.surface.settings):
            (row,) = [one for one in rows if f"`HEADRACE_{kind.name.upper()}__{setting.name.upper()}`" in one]
            assert row.endswith("Shapes the state. |") == setting.shapes_state


def test_every_route_says_what_it_answers_and_what_it_is_asked() -> None:
    text = page("serving.md")
    for kind in FAMILIES:
        for route in kind.surface.routes:
            (section,) = re.findall(rf"## `{route.method} {re.escape(route.path)}`\n(.*?)(?=\n## |\Z)", text, re.DOTALL)
            assert route.doc in section
            for parameter in settings_of(route.query):
                assert parameter.description
                value = r"(\d+ to \d+|[a-z_]+( or [a-z_]+)+)"
                assert re.search(rf"\| `{parameter.name}` \| (path|query|body) \| {value}", section), parameter.name
            fields = all(f"| `{name}` | " in section for name in route.answer.__struct_fields__)
            assert fields != (" has the fields of that of `" in section), route.path


def test_every_family_says_how_it_merges_and_why() -> None:
    text = page("families.md")
    for kind in FAMILIES:
        (section,) = re.findall(rf"\n## {kind.name}\n(.*?)(?=\n## |\Z)", text, re.DOTALL)
        assert f"| merges | {kind.merges.how}" in section
        assert kind.merges.why in section
        for metric in kind.surface.metrics:
            assert f"| `{metric.name}` | {metric.kind} | " in section
        for detector in kind.surface.detectors:
            assert f"`{detector}`" in section


def test_every_event_type_says_what_each_family_learns_from_it() -> None:
    (section,) = re.findall(r"\n## What events teach\n(.*?)\n## ", page("families.md"), re.DOTALL)
    for name in get_args(EventType):
        (row,) = [line for line in section.splitlines() if line.startswith(f"| `{name}` |")]
        cells = row.removesuffix("|").split("|")[2:]
        assert [cell.strip() for cell in cells] == [kind.surface.teaches.get(name, "") for kind in FAMILIES]


def test_the_schema_of_events_has_no_field_that_is_not_on_the_wire() -> None:
    assert "_time_ms" not in page("event.schema.json")


@pytest.mark.parametrize("name", [name for name in PAGES if name.endswith(".md")])
def test_links_between_pages_lead_to_headings(name: str) -> None:
    for target, anchor in re.findall(r"\]\(([\w.-]*\.md)?(?:#([\w-]+))?\)", page(name)):
        if target == "adding-a-learner.md" or not anchor:
            continue
        headings = re.findall(r"^#+ (.*)$", page(target or name), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in anchors, f"{target}#{anchor}"
