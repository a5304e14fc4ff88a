"""The continual benchmark on data small enough to compute by hand, and tests that no test information leaks."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import continual
from benchmarks.contestants import Answers, Contestant, Deep, Fast, Round, Tuning
from benchmarks.continual import run
from benchmarks.periods import Periods, Question, load
from benchmarks.registry import FACTORIES
from headrace.errors import Misconfigured
from learners.next_item.transitions import Transitions
from learners.protocol import Context

pytestmark = pytest.mark.slow

# Sessions interleave; "s1" of period 1 is another session than that of period 0.
TINY = [
    "s1 a\ns2 b\ns1 b\ns3 a\ns3 c\ns2 a\ns4 a\ns4 b\n",
    "s1 a\ns5 new\ns1 new\ns5 a\ns1 b\ns6 c\ns6 new\ns1 c\n",
    "s7 new\ns7 c\ns7 a\n",
]
FAST = {name: FACTORIES[name] for name in ("popularity", "transitions", "session_knn", "revisits")}


def test_items_never_seen_are_removed_and_short_sessions_dropped() -> None:
    periods = Periods(TINY)
    assert periods.items == ["a", "b", "c", "new"]
    # Of period 1, "s1" keeps a b c; "s5" (a) and "s6" (c) are too short without "new".
    assert periods.questions(1) == [Question([0], 1), Question([0, 1], 2)]
    # Before period 2, "new" was seen.
    assert periods.questions(2) == [Question([3], 2), Question([3, 2], 0)]


def test_ranks_by_hand(tmp_path: Path) -> None:
    result = run(Periods(TINY), ["popularity", "transitions"], [1], tmp_path, factories=FAST)
    # Counts before period 1: a 4, b 3, c 1. The true items are b (2nd) and c (3rd).
    assert result["periods"]["1"]["popularity"]["mrr@20"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    # After a came b twice and c once: b is 1st. After b came only a: c ties with b for the last of three places.
    assert result["periods"]["1"]["transitions"]["recall@20"] == 1.0
    assert result["periods"]["1"]["transitions"]["mrr@20"] == pytest.approx((1 + 1 / 3) / 2)
    assert result["periods"]["1"]["transitions"]["predictions"] == 2


def test_ties_count_against_the_learner(tmp_path: Path) -> None:
    periods = Periods(["s1 a\ns1 b\ns2 c\ns2 d\n", "s1 a\ns1 b\n"])
    result = run(periods, ["popularity"], [1], tmp_path, factories=FAST)
    assert result["mean"]["popularity"]["mrr@20"] == 1 / 4


class Recorder(Transitions):
    """Records the calls of learn and predict."""

    calls: list[tuple[str, tuple[int, ...], int]]

    def learn(self, context: Context, item: int) -> None:
        self.calls.append(("learn", tuple(context.items), item))
        super().learn(context, item)

    def predict(self, context: Context) -> Any:
        self.calls.append(("predict", tuple(context.items), -1))
        return super().predict(context)


def test_nothing_is_learned_inside_a_test_period(tmp_path: Path) -> None:
    calls: list[tuple[str, tuple[int, ...], int]] = []
    kind = type("Recording", (Recorder,), {"calls": calls})
    periods = Periods(TINY)
    run(periods, ["transitions"], [1, 2], tmp_path, factories={"transitions": lambda tuning: Fast(kind)})
    kinds = [call[0] for call in calls]
    assert kinds == ["learn"] * 8 + ["predict"] * 2 + ["learn"] * 8 + ["predict"] * 2
    # The clicks are learned in the order of the log, each after its session so far.
    assert [call[2] for call in calls[:8]] == [click.item for click in periods.clicks[0]]
    assert calls[2] == ("learn", (0,), 1)
    # A question never holds the true item or later items.
    assert [call[1] for call in calls if call[0] == "predict"] == [(0,), (0, 1), (3,), (3, 2)]


def tampered(periods: list[str], place: int) -> list[str]:
    """Return the periods with the clicks of one in the opposite order of items."""
    lines = periods[place].split("\n")[:-1]
    names = [line.split()[1] for line in lines][::-1]
    return [
        *periods[:place],
        "".join(f"{line.split()[0]} {name}\n" for line, name in zip(lines, names, strict=True)),
        *periods[place + 1 :],
    ]


def shop(seed: int, periods: int = 4) -> list[str]:
    """Return periods in which item n is mostly followed by n + 1."""
    draw = np.random.default_rng(seed)
    texts = []
    for _ in range(periods):
        lines = []
        for session in range(60):
            item = int(draw.integers(0, 30))
            for _ in range(4):
                lines.append(f"s{session} i{item}\n")
                item = (item + 1) % 30 if draw.random() < 0.7 else int(draw.integers(0, 30))
        texts.append("".join(lines))
    return texts


def test_a_period_does_not_change_earlier_answers(tmp_path: Path) -> None:
    """Other clicks in period 3 change the figures of period 3, but none of periods 1 and 2, the blend's included."""
    texts = shop(1)
    names = [*FAST, "blend"]
    honest = run(Periods(texts), names, [1, 2, 3], tmp_path / "a", factories=FAST)
    changed = run(Periods(tampered(texts, 3)), names, [1, 2, 3], tmp_path / "b", factories=FAST)
    for period in ("1", "2"):
        assert honest["periods"][period] == changed["periods"][period]
    assert honest["periods"]["3"] != changed["periods"]["3"]


def test_a_period_without_predictions_is_learned_and_not_reported(tmp_path: Path) -> None:
    """The shop was closed in one period, and each shopper clicked once in another."""
    texts = shop(1)
    texts[1:1] = ["", "s1 i1\ns2 i2\n"]
    result = run(Periods(texts), ["transitions", "blend"], [1, 2, 3, 4], tmp_path, factories=FAST)
    assert result["periods"].keys() == {"3", "4"}
    assert result["mean"]["blend"]["recall@20"] == np.mean(
        [of["blend"]["recall@20"] for of in result["periods"].values()]
    )


def test_the_blend_learns_from_earlier_periods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without learning it answers differently from period 2 on; on period 1 it has learned nothing yet."""
    names = ["blend"]
    learned = run(Periods(shop(1)), names, [1, 2, 3], tmp_path / "a", factories=FAST)
    monkeypatch.setattr(continual, "blend_judged_max", 0)
    untaught = run(Periods(shop(1)), names, [1, 2, 3], tmp_path / "b", factories=FAST)
    assert learned["periods"]["1"] == untaught["periods"]["1"]
    assert learned["periods"]["3"] != untaught["periods"]["3"]


def test_reporting_some_periods_gives_the_same_figures(tmp_path: Path) -> None:
    names = ["session_knn", "blend"]
    every = run(Periods(shop(1)), names, [1, 2, 3], tmp_path / "a", factories=FAST)
    last = run(Periods(shop(1)), names, [3], tmp_path / "b", factories=FAST)
    assert last["periods"] == {"3": every["periods"]["3"]}
    assert last["mean"] == last["periods"]["3"]


class Interrupted:
    """A contestant that stops with an exception on one period."""

    def __init__(self, inner: Contestant, fails_at: int) -> None:
        self.inner, self.fails_at, self.from_scratch = inner, fails_at, inner.from_scratch
        self.learned: list[int] = []

    def learn(self, periods: Periods, period: int, progress: Callable[[float], None]) -> Round:
        self.learned.append(period)
        return self.inner.learn(periods, period, progress)

    def answer(self, questions: Sequence[Question], periods: Periods, period: int) -> Iterator[Answers]:
        if period == self.fails_at:
            raise KeyboardInterrupt
        return self.inner.answer(questions, periods, period)

    def model_bytes(self) -> bytes | None:
        return self.inner.model_bytes()

    def state(self) -> dict[str, Any]:
        return self.inner.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.inner.restore(state)


def test_a_stopped_run_continues(tmp_path: Path) -> None:
    periods = Periods(shop(2))
    made: list[Interrupted] = []

    def maker(fails_at: int) -> Callable[[Tuning], Contestant]:
        def make(tuning: Tuning) -> Contestant:
            made.append(Interrupted(FAST["session_knn"](tuning), fails_at))
            return made[-1]

        return make

    with pytest.raises(KeyboardInterrupt):
        run(periods, ["session_knn"], [1, 2, 3], tmp_path / "a", factories={"session_knn": maker(2)})
    resumed = run(periods, ["session_knn"], [1, 2, 3], tmp_path / "a", factories={"session_knn": maker(-1)})
    straight = run(periods, ["session_knn"], [1, 2, 3], tmp_path / "b", factories={"session_knn": maker(-1)})
    assert [one.learned for one in made] == [[0, 1], [2], [0, 1, 2]]
    assert resumed["periods"] == straight["periods"]


def test_a_sample_is_a_seeded_share_of_the_sessions() -> None:
    periods = Periods(shop(3))
    every = periods.questions(2)
    some, same, other = (periods.questions(2, 0.3, seed) for seed in (1, 1, 2))
    assert some == same != other
    assert 0.1 < len(some) / len(every) < 0.5
    assert all(question in every for question in some)


def test_the_command_writes_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number, text in enumerate(shop(4)):
        (data / f"period_{number}.txt").write_text(text)
    out, work = tmp_path / "figures.json", tmp_path / "work"
    options = ["--data", str(data), "--out", str(out), "--work", str(work), "--periods", "1-2"]
    continual.main([*options, "--learners", "transitions,blend", "--seeds", "2"])
    figures = json.loads(out.read_text())
    # Each member is run once: the two seeds differ only in the training of the blend.
    assert len(list(work.iterdir())) == 4
    assert figures["seeds"].keys() == {"0", "1"}
    assert figures["spread"]["transitions"]["recall@20"] == 0.0
    lead, (one, other) = figures["lead"]["transitions"]["mrr@20"], figures["seeds"].values()
    above = {
        period: [
            of["periods"][period]["blend"]["mrr@20"] - of["periods"][period]["transitions"]["mrr@20"]
            for of in (one, other)
        ]
        for period in ("1", "2")
    }
    assert lead["least"] == min(min(found) for found in above.values())
    assert lead["least"] in above[str(lead["period"])]
    assert lead["mean"] == pytest.approx(np.mean(list(above.values())))
    picture = ElementTree.parse(tmp_path / "figures.svg").getroot()
    assert picture.tag.endswith("svg")
    text = (tmp_path / "figures.svg").read_text()
    assert "prefers-color-scheme: dark" in text
    assert ">Recall@20 in %" in text
    assert ">blend<" in text
    assert figures["periods"].keys() == {"1", "2"}
    assert figures["mean"].keys() == {"transitions", "blend"}
    assert 0.3 < figures["mean"]["transitions"]["recall@20"] <= 1
    assert figures["mean"]["blend"].keys() >= {"recall@10", "recall@20", "mrr@10", "mrr@20", "predictions"}
    assert "Recall@20" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "options", "wanted"),
    [
        ({}, [], "period_0.txt"),
        ({0: "s a\n", 2: "s a\n"}, [], "without a gap"),
        ({0: "s a\n", 1: "s\n"}, [], "line 1"),
        ({0: "s a\n", 1: "s a\n"}, ["--learners", "popularity"], r"predictions to make, found none in any of \[1\]"),
        ({0: "s a\n", 1: "s a\n"}, ["--periods", "1-9"], "--periods"),
        ({0: "s a\n", 1: "s a\n"}, ["--periods", "x"], "--periods"),
        ({0: "s a\n", 1: "s a\n"}, ["--learners", "oracle"], "--learners"),
        ({0: "s a\n", 1: "s a\n"}, ["--sample", "0"], "--sample"),
        ({0: "s a\n", 1: "s a\n"}, ["--rate", "0"], "--rate"),
        ({0: "s a\n", 1: "s a\n"}, ["--seed", "1,1"], "--seed"),
        ({0: "s a\n", 1: "s a\n"}, ["--seeds", "0"], "--seeds"),
    ],
)
def test_wrong_options_and_files_are_reported(
    tmp_path: Path, files: dict[int, str], options: list[str], wanted: str
) -> None:
    for number, text in files.items():
        (tmp_path / f"period_{number}.txt").write_text(text)
    with pytest.raises(Misconfigured, match=wanted):
        continual.main(["--data", str(tmp_path), "--work", str(tmp_path / "work"), *options])


def test_load_reads_periods_in_order(tmp_path: Path) -> None:
    for number in range(11):
        (tmp_path / f"period_{number}.txt").write_text(f"s i{number}\n")
    assert load(tmp_path).items == [f"i{number}" for number in range(11)]


def archive(path: Path, texts: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as opened:
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            opened.addfile(member, io.BytesIO(text.encode()))
    return path


def test_an_archive_gives_the_same_periods_as_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {f"in/period_{number}.txt": text for number, text in enumerate(TINY)}
    others = {"../../away/period_x.txt": "s a\n", "README": "hello"}
    path = archive(tmp_path / "diginetica_periods.tar.gz", {**others, **texts})
    assert load(path).digest == Periods(TINY).digest
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    assert load().digest == Periods(TINY).digest


def test_a_wrong_archive_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = archive(tmp_path / "twice.tar.gz", {"a/period_0.txt": "s a\n", "b/period_0.txt": "s a\n"})
    with pytest.raises(Misconfigured, match="once"):
        load(twice)
    with pytest.raises(Misconfigured, match="without a gap"):
        load(archive(tmp_path / "one.tar.gz", {"period_0.txt": "s a\n"}))
    whole = archive(tmp_path / "whole.tar.gz", {f"period_{n}.txt": f"s {n * 7919 % 1000}\n" * 99 for n in range(20)})
    (tmp_path / "torn.tar.gz").write_bytes(whole.read_bytes()[:200])
    (tmp_path / "text.txt").write_text("hello")
    for name in ("torn.tar.gz", "text.txt", "nowhere"):
        with pytest.raises(Misconfigured, match=name):
            load(tmp_path / name)
    monkeypatch.delenv("HEADRACE_DATA", raising=False)
    with pytest.raises(Misconfigured, match=r"--data.*HEADRACE_DATA"):
        load()


def test_a_contestant_that_has_learned_too_much_starts_again(tmp_path: Path) -> None:
    """A learner that has learned a period must not answer new questions on it."""
    periods = Periods(shop(1))
    names = ["session_knn"]
    run(periods, names, [1, 2, 3], tmp_path / "a", factories=FAST)
    found = run(periods, names, [1, 2, 3], tmp_path / "a", factories=FAST, sample=0.5)
    straight = run(periods, names, [1, 2, 3], tmp_path / "b", factories=FAST, sample=0.5)
    assert found["periods"] == straight["periods"]


def test_the_deep_learner_takes_part_and_resumes(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    periods = Periods(shop(5, periods=3))
    factories: dict[str, Callable[[Tuning], Contestant]] = {**FAST, "deep": partial(Deep, first_passes=4, passes=2)}
    first = run(periods, ["deep", "blend"], [1], tmp_path / "a", factories=factories)
    resumed = run(periods, ["deep", "blend"], [1, 2], tmp_path / "a", factories=factories)
    straight = run(periods, ["deep", "blend"], [1, 2], tmp_path / "b", factories=factories)
    assert resumed["periods"] == straight["periods"]
    assert resumed["tokens"] == straight["tokens"]
    assert straight["tokens"]["deep"] > first["tokens"]["deep"] > 0
    # Chance is 20 of 30 for Recall@20 and 0.12 for MRR@20.
    assert straight["mean"]["deep"]["mrr@20"] > 0.13


def test_deep_ranks_are_among_all_items_seen() -> None:
    """An item that the model does not know ranks last of all items seen."""
    pytest.importorskip("torch")
    periods = Periods(["s1 a\ns1 b\ns1 c\ns2 alone\n", "s3 a\ns3 b\ns4 a\ns4 alone\n"])
    deep = Deep(Tuning(), first_passes=1)
    shares: list[float] = []
    deep.learn(periods, 0, shares.append)
    assert shares[-1] == 1.0
    (answers,) = deep.answer(periods.questions(1), periods, 1)
    assert answers.ranks[0] in (1, 2, 3)
    assert answers.ranks[1] == 4
    assert sorted(answers.list(0).slots.tolist()) == [0, 1, 2]
