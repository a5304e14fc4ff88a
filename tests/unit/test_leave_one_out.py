"""The leave-one-out benchmark on histories small enough to compute by hand, and tests that no test item leaks."""

import gzip
from pathlib import Path
from typing import Any, ClassVar

import pytest

from benchmarks import leave_one_out
from benchmarks.leave_one_out import Deep, Histories, Question, Training, load, run
from headrace.errors import Misconfigured
from learners.next_item.blend import Blend
from learners.next_item.popularity import Popularity
from learners.protocol import Context, Scores

QUICK = Training(width=8, first_passes=1)
# Learned for validation: a 2, b 2, c 1, d 1.
TINY = [["a", "b", "c", "d"], ["b", "a", "d", "c"], ["c", "d", "a"], ["e"]]


def test_questions() -> None:
    histories = Histories(TINY)
    assert histories.items == ["a", "b", "c", "d", "e"]
    assert histories.questions(1) == [Question(0, [0, 1], 2), Question(1, [1, 0], 3), Question(2, [2], 3)]
    assert histories.questions(0)[0] == Question(0, [0, 1, 2], 3)


def test_ranks_by_hand() -> None:
    result = run(Histories(TINY), ["popularity"], QUICK)
    # Learned: a 2, b 2, c 1, e 1 (a shopper with one item is not tested); d is new.
    # c after a, b: ties with e of c, d, e: 2nd. d after b, a: last of c, d, e: 3rd. d after c: last of a, b, d, e: 4th.
    assert result["validation"]["popularity"]["mrr@20"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)
    # The same counts: d after a, b, c: last of d, e. c after b, a, d: ties with e. a after c, d: ties with b.
    assert result["test, as published"]["popularity"]["mrr@20"] == pytest.approx(1 / 2)
    # With c 2 and d 2 learned: d after a, b, c: 1st of d, e. c after b, a, d: 1st. a after c, d: ties with b: 2nd.
    assert result["test"]["popularity"]["mrr@20"] == pytest.approx((1 + 1 + 1 / 2) / 3)


class Recorder(Popularity):
    """Records what each of its instances learned."""

    learned: ClassVar[list[list[int]]] = []

    def __init__(self) -> None:
        super().__init__()
        self.learned.append([])

    def learn(self, context: Context, item: int) -> None:
        self.learned[-1].append(item)
        super().learn(context, item)


def test_the_last_items_are_never_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    Recorder.learned.clear()
    monkeypatch.setattr(leave_one_out, "FAST", {"popularity": Recorder})
    histories = Histories([["a", "b", "x"], ["b", "a", "c", "y"]])
    run(histories, ["popularity", "blend"], QUICK)
    learned = ["".join(histories.items[slot] for slot in slots) for slots in Recorder.learned]
    assert learned == ["aba", "abbac"]


class RecordingBlend(Blend):
    """Records the questions that it answers (by their lengths), and those from which it learns."""

    calls: ClassVar[list[tuple[str, int]]] = []

    def predict(self, candidates: Any, context_length: int, traits: Any = None) -> Scores:
        self.calls.append(("asked", context_length))
        return super().predict(candidates, context_length, traits)

    def learn(self, candidates: Any, context_length: int, item: int, traits: Any = None) -> None:
        self.calls.append(("learned", context_length))
        super().learn(candidates, context_length, item, traits)


def test_the_blend_learns_only_validation_questions_each_after_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    RecordingBlend.calls.clear()
    monkeypatch.setattr(leave_one_out, "Blend", RecordingBlend)
    histories = Histories([[f"i{place}" for place in range(length)] for length in (3, 4, 5, 6)])
    run(histories, ["popularity", "blend"], QUICK)
    validation, test = RecordingBlend.calls[:8], RecordingBlend.calls[8:]
    assert sorted(length for _, length in validation[::2]) == [1, 2, 3, 4]
    assert validation[1::2] == [("learned", length) for _, length in validation[::2]]
    assert test == 2 * [("asked", length) for length in (2, 3, 4, 5)]


def shop(last: str) -> list[list[str]]:
    """Return histories along a ring of items, each with the same last item."""
    return [[f"i{(start + step) % 12}" for step in range(6)] + [last] for start in range(12)]


def test_other_last_items_change_no_earlier_figure() -> None:
    """The vocabulary, the deep model and every validation figure do not depend on the test items."""
    names = ["transitions", "session_knn", "deep", "blend"]
    known = [["i99"], ["i98"]]
    one = run(Histories([*known, *shop("i99")]), names, QUICK)
    other = run(Histories([*known, *shop("i98")]), names, QUICK)
    assert one["validation"] == other["validation"]


def test_figures_depend_on_the_seed() -> None:
    histories = Histories(shop("i11"))
    training = Training(width=8, first_passes=2)
    first, again, other = (run(histories, ["deep", "blend"], training, seed=seed) for seed in (1, 1, 2))
    assert first["test"] == again["test"]
    assert first["validation"] != other["validation"]


def test_the_deep_model_never_recommends_items_that_the_shopper_had() -> None:
    histories = Histories(shop("i11"))
    deep = Deep(QUICK, 0)
    deep.learn(histories, 2, lambda share: None)
    questions = histories.questions(1)
    for question, scores in zip(questions, deep.answer(questions, histories), strict=True):
        assert not set(question.prefix) & set(scores.slots.tolist())
        assert len(scores.slots)


def test_reads_both_cuts(tmp_path: Path) -> None:
    pairs, lines = tmp_path / "pairs.txt.gz", tmp_path / "lines.txt"
    pairs.write_bytes(gzip.compress(b"1 5\n1 6\n2 5\n1 7\n"))
    lines.write_text("1 5 6 7\n2 5 8\n")
    cut, histories = load(pairs)
    assert cut == "bert4rec"
    assert [[histories.items[slot] for slot in items] for items in histories.shoppers] == [["5", "6", "7"], ["5"]]
    cut, histories = load(lines)
    assert cut == "s3rec"
    assert histories.items == ["5", "6", "7", "8"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("1\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00\n")
    for name in ("one.txt", "none.txt", "bytes.txt"):
        with pytest.raises(Misconfigured, match="--data"):
            load(tmp_path / name)
