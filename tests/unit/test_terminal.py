"""What the commands print: text of others is shown as it is, and what it might do to a terminal is visible."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from operators.cli import main
from tests.hostile import HOSTILE

ROOT = Path(__file__).parents[2]
ROOTS = ("headrace", "producers", "learners", "consumers", "serving", "operators")
PRINTS = {"operators/terminal.py", "headrace/events.py"}
"""The module that prints, and one whose only output is a schema of ours."""
INTERPRETS = {"rich", "rich.console", "rich.markup", "rich.pretty", "rich.prompt", "rich.text"}
"""Modules of rich that print, or make of text what is printed."""


STARTS = (
    "headrace: ",
    "producer: starting: ",
    "online: starting: ",
    "Usage: ",
    "Try ",
    "Error: ",
    "  ",
)
"""How lines of ours begin; all that belongs to an error is indented."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    for root in ROOTS:
        for path in sorted((ROOT / root).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def test_one_module_prints() -> None:
    found = set()
    for module, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found.add(module)
            if isinstance(node, ast.ImportFrom) and node.module in INTERPRETS:
                found.add(module)
            if isinstance(node, ast.Import) and INTERPRETS & {alias.name for alias in node.names}:
                found.add(module)
            if isinstance(node, ast.Attribute) and node.attr in ("echo", "secho"):
                found.add(module)
    assert found == PRINTS


COMMANDS = (
    ("{}",),
    ("status", "{}"),
    ("status", "--log", "sqlite:{}"),
    ("status", "--log", "{}"),
    ("status", "--log", "kafka:{}"),
    ("report", "--log", "sqlite:no/{}"),
    ("republish", "--from", "{}", "--log", "sqlite:events.db"),
    ("load", "{}", "--metrics-port", "0"),
    ("load", "events.jsonl", "--kind", "{}", "--metrics-port", "0"),
    ("simulate", "--events", "{}"),
    ("promote", "{}", "--log", "sqlite:events.db", "--blobs", "blobs"),
    ("propose", "{}", "--log", "sqlite:events.db", "--blobs", "blobs"),
    ("learn", "{}"),
    ("online", "--set", "{}"),
    ("online", "--set", "rounds.{}=1"),
    ("online", "--set", "rounds.passes={}"),
    ("demo", "--data", "no/{}"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_error_shows_text_as_text(
    command: tuple[str, ...],
    clean_environment: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("events.jsonl").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["headrace", "simulate", "--events", "1000", "--log", "sqlite:events.db"])
    # A third of the texts for each command; no argument of a process can hold a NUL.
    for text in [text for text in HOSTILE if text.strip() and "\x00" not in text][COMMANDS.index(command) % 3 :: 3]:
        monkeypatch.setattr(sys, "argv", ["headrace", *(word.replace("{}", text) for word in command)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2, text
        said = capsys.readouterr().err
        assert said.replace("\n", "").isprintable(), repr(said)
        assert all(line.startswith(STARTS) for line in said.splitlines() if line), repr(said)


def test_a_path_with_brackets_has_a_status(clean_environment: None, capsys: pytest.CaptureFixture[str],
                                           monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """rich would take [/prod] for the end of a style, and fail."""
    from headrace.log.open import open_log

    log = open_log("sqlite:[/prod] [bold]log.db")
    log.create()
    log.close()
    monkeypatch.setattr(sys, "argv", ["headrace", "status", "--log", "sqlite:[/prod] [bold]log.db"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert capsys.readouterr().out.startswith("log sqlite:[/prod] [bold]log.db\n")


def test_an_encoding_without_a_character_gets_its_escape(tmp_path: Path) -> None:
    folder = tmp_path / "café"
    done = subprocess.run(
        [sys.executable, "-c", "from operators.cli import main; main()", "kafka", "status", "--folder", str(folder)],
        capture_output=True, check=False, timeout=120, cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.stderr == b""
    assert done.stdout.endswith(b"caf\\xe9\n")
