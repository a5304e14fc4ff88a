"""Kept results of earlier runs are used only by the code that made them."""

from pathlib import Path

import pytest

from benchmarks import registry, sources
from benchmarks.contestants import Tuning
from benchmarks.periods import Periods
from benchmarks.resumable import folder_of

ROOT = Path(__file__).parents[2]


def stems(name: str) -> set[str]:
    return {str(path.relative_to(ROOT)).removesuffix(".py") for path in sources.files(*registry.modules(name))}


def test_top_level_imports_are_followed_and_others_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_module_that_does_not_exist_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"learners\.nowhere"):
        sources.files("learners.nowhere")


def test_answers_depend_on_the_modules_that_make_them_and_on_no_others() -> None:
    for name in registry.NEURAL:
        assert stems(name) >= {
            "learners/next_item/attributes",
            "learners/rounds/rehearsal",
            *(f"learners/deep/{part}" for part in ("model", "neighbours", "network", "softmax", "train")),
        }
        assert ("benchmarks/baselines" in stems(name)) == (name != registry.DEEP)
    for name, part in {"vsknn": "session_knn", "markov": "transitions", "popularity": "popularity"}.items():
        learners = {f"learners/next_item/{other}" for other in ("session_knn", "transitions", "popularity")}
        assert {*learners, "learners/deep/model"} & stems(name) == {f"learners/next_item/{part}"}
        assert {"benchmarks/contestants", "benchmarks/periods"} <= stems(name)


def test_a_changed_registry_gives_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    periods = Periods(["s a\ns b\n", "s a\ns b\n"])
    before = folder_of(tmp_path, "vsknn", periods, Tuning())
    changed = tmp_path / "registry.py"
    changed.write_text(Path(registry.__file__).read_text() + "# changed\n")
    monkeypatch.setattr(registry, "__file__", str(changed))
    assert folder_of(tmp_path, "vsknn", periods, Tuning()) != before
