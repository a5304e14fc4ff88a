"""What was kept of earlier runs is met by the code that made it, and by no other."""

from pathlib import Path

import pytest

from benchmarks import makers, sources
from benchmarks.contestants import Tuning
from benchmarks.member import folder_of
from benchmarks.periods import Periods

ROOT = Path(__file__).parents[2]


def stems(name: str) -> set[str]:
    return {str(path.relative_to(ROOT)).removesuffix(".py") for path in sources.files(*makers.modules(name))}


def test_imports_are_followed_and_late_ones_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_ROOT", tmp_path)
    texts = {
        "a": "import json\nfrom part import one\ndef late():\n    import c\n",
        "part/one": "import part.two\n",
        "part/two": "from a import late\n",
        "c": "",
    }
    (tmp_path / "part").mkdir()
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert [str(path.relative_to(tmp_path)) for path in sources.files("a")] == ["a.py", "part/one.py", "part/two.py"]
    before = sources.digest("a"), sources.digest("a", "c")
    (tmp_path / "c.py").write_text("changed = True\n")
    assert sources.digest("a") == before[0]
    assert sources.digest("a", "c") != before[1]
    (tmp_path / "part/two.py").write_text("changed = True\n")
    assert sources.digest("a") != before[0]


def test_answers_follow_from_all_that_makes_them_and_from_nothing_else() -> None:
    for name in makers.NEURAL:
        assert stems(name) >= {
            f"learners/{part}" for part in ("deep", "finetune", "kin", "network", "rehearsal", "softmax", "wares")
        }
        assert ("benchmarks/baselines" in stems(name)) == (name != makers.DEEP)
    for name, part in {"vsknn": "session_knn", "markov": "transitions", "popularity": "popularity"}.items():
        learners = {"session_knn", "transitions", "popularity", "deep"}
        assert {f"learners/{other}" for other in learners} & stems(name) == {f"learners/{part}"}
        assert {"benchmarks/contestants", "benchmarks/periods"} <= stems(name)


def test_other_makers_have_other_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    periods = Periods(["s a\ns b\n", "s a\ns b\n"])
    before = folder_of(tmp_path, "vsknn", periods, Tuning())
    changed = tmp_path / "makers.py"
    changed.write_text(Path(makers.__file__).read_text() + "# changed\n")
    monkeypatch.setattr(makers, "__file__", str(changed))
    assert folder_of(tmp_path, "vsknn", periods, Tuning()) != before
