"""The deep model: predictions, growth, serialisation, and refused input."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.artifacts import Artifacts
from headrace.errors import StateUnreadable
from headrace.shard.blobs import Blobs
from learners.deep.answering import AnsweringModel
from learners.deep.artifact import FORMAT
from learners.deep.model import DeepModel, DeepSettings
from tests.shards import JUDGED

small = DeepSettings(width=16, layers=2, heads=2, context=6, dropout=0.1)
words = [f"item-{i}" for i in range(40)]


def fresh(seed: int = 1) -> DeepModel:
    model = DeepModel(small, seed)
    model.grow(words)
    return model


def test_predict_returns_the_most_probable_items_in_order() -> None:
    model = fresh()
    [(items, scores)] = model.predict([["item-3", "item-5"]], n=7)
    everything = model.score_all([["item-3", "item-5"]])[0]
    best = np.argsort(-everything, kind="stable")[:7]
    assert items == [model.items[row] for row in best]
    np.testing.assert_allclose(scores, everything[best], rtol=1e-6)
    assert scores.dtype == np.float32
    assert everything.sum() == pytest.approx(1, abs=1e-5)


def test_ties_are_broken_by_row() -> None:
    model = fresh()
    model.table[:] = model.table[0]
    model.invalidate()
    [(items, scores)] = model.predict([["item-3"]], n=len(words))
    assert len(set(scores.tolist())) == 1
    assert items == words


def test_unknown_items_are_skipped_and_an_empty_prefix_has_an_empty_answer() -> None:
    model = fresh()
    answers = model.predict([[], ["never-seen"], ["item-1", "never-seen"], ["item-1"]], n=5)
    assert [len(items) for items, _ in answers] == [0, 0, 5, 5]
    assert answers[2][0] == answers[3][0]
    np.testing.assert_array_equal(model.score_all([[]]), np.zeros((1, 40)))


def test_other_prefixes_of_a_batch_do_not_change_an_answer() -> None:
    model = fresh()
    prefixes = [words[i : i + 1 + i % 9] for i in range(30)]
    together = model.score_all(prefixes)
    for prefix, scores in zip(prefixes, together, strict=True):
        np.testing.assert_allclose(model.score_all([prefix])[0], scores, rtol=1e-4)


def test_only_the_newest_items_of_a_prefix_count() -> None:
    model = fresh()
    long = words[:20]
    np.testing.assert_allclose(model.score_all([long]), model.score_all([long[-6:]]), rtol=1e-5)


def test_the_network_is_causal() -> None:
    model = fresh()
    vectors = torch.nn.functional.normalize(torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    changed = vectors.clone()
    changed[:, 4:] = vectors[:, :2]
    before, after = model.network(vectors), model.network(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_growth_keeps_old_rows_and_depends_on_seed_and_size_alone() -> None:
    one, two = fresh(), fresh()
    kept = one.table.clone()
    assert one.grow(["item-3", "new-a", "new-b", "new-a"]) == 2
    two.grow(["new-a", "new-b"])
    assert torch.equal(one.table[:40], kept)
    assert torch.equal(one.table, two.table)
    assert one.items[40:] == ["new-a", "new-b"]
    assert len(one.predict([["new-a"]], n=42)[0][0]) == 42


def test_growth_stops_at_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learners.deep.model.items_max", 42)
    model = fresh()
    assert model.grow(["a", "b", "c"]) == 2
    assert model.grow(["d"]) == 0


def test_a_loaded_model_predicts_the_same_bits() -> None:
    model = fresh()
    model.lineage = {"parent": None, "ranges": [["events", 0, 10, 20]], "seed": 7}
    data = model.to_bytes()
    again = DeepModel.from_bytes(data)
    prefixes = [["item-1"], ["item-2", "item-9", "item-2"]]
    np.testing.assert_array_equal(model.score_all(prefixes), again.score_all(prefixes))
    assert again.lineage == model.lineage
    assert again.to_bytes() == data
    assert fresh().to_bytes() == fresh().to_bytes()
    assert fresh(1).to_bytes() != fresh(2).to_bytes()


def averaged() -> DeepModel:
    """Return a model whose predicting weights are the mean of two others'."""
    model, other = fresh(1), fresh(2)
    model.average_with(other.weights(), 0.5)
    return model


def test_training_weights_are_kept_with_predicting_weights() -> None:
    model, one, two = averaged(), fresh(1), fresh(2)
    for name, weight in model.weights().items():
        torch.testing.assert_close(weight, (one.weights()[name] + two.weights()[name]) / 2, atol=1e-2, rtol=0)
    data = model.to_bytes()
    again, answers = DeepModel.from_bytes(data), DeepModel.from_bytes(data, to_train=False)
    assert again.to_bytes() == data
    assert len(answers.to_bytes()) < 0.75 * len(data)
    np.testing.assert_array_equal(model.score_all([["item-1"]]), answers.score_all([["item-1"]]))
    model.grow(["later"])
    model.shrink(lambda item: item != "item-3")
    DeepModel.from_bytes(model.to_bytes())
    for one_of_them in (model, again):
        one_of_them.use_training_weights()
        assert one_of_them.training_offsets == {}
        torch.testing.assert_close(one_of_them.table[1], one.table[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(again.weights(), one.weights(), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.table[3:-1], one.table[4:], atol=1e-5, rtol=0)


def test_training_offsets_must_fit_and_be_finite() -> None:
    model = averaged()
    model.training_offsets["items"][3, 3] = math.nan
    assert model.check() == ["ahead.items holds NaN or infinity"]
    del model.training_offsets["items"]
    with pytest.raises(StateUnreadable, match="training offsets do not fit"):
        DeepModel.from_bytes(model.to_bytes())


readers = pytest.mark.parametrize("read", [DeepModel.from_bytes, AnsweringModel.from_bytes])


@readers
@pytest.mark.parametrize("damage", [lambda d: d[:50], lambda d: d[:-4], lambda d: b"", lambda d: b"\xff" * 64])
def test_invalid_bytes_are_refused(damage: Callable[[bytes], bytes], read: Callable[[bytes], object]) -> None:
    with pytest.raises(StateUnreadable):
        read(damage(fresh().to_bytes()))


@readers
@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("heads", 0, "not a deep model"), ("width", -4, "not a deep model"), ("seed", 2**70, "not a deep model"),
        ("temperature", 0.02, "not a deep model"), ("width", 10**13, "do not fit"), ("layers", 20_000, "do not fit"),
        ("layers", 10**15, "do not fit"),
        ("context", 10**9, "do not fit"),
    ],
)  # fmt: skip
def test_a_header_with_impossible_settings_is_refused(
    part: str, value: int, message: str, read: Callable[[bytes], object]
) -> None:
    data = fresh().to_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    about = json.loads(header["__metadata__"]["headrace"])
    (about if part in about else about["settings"])[part] = value
    header["__metadata__"]["headrace"] = json.dumps(about)
    changed = json.dumps(header).encode()
    with pytest.raises(StateUnreadable, match=message):
        read(len(changed).to_bytes(8, "little") + changed + data[8 + size :])


def test_consumers_ignore_a_model_of_another_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = Blobs(tmp_path)
    blob = blobs.put("model", fresh().to_bytes())
    warned: list[str] = []

    def warn(event: str, **fields: str) -> None:
        warned.append(event)

    loaded: Artifacts[DeepModel] = Artifacts(blobs, JUDGED, warn)
    assert loaded.get(blob) is not None
    monkeypatch.setattr("learners.deep.artifact.FORMAT", FORMAT + 1)
    artifacts: Artifacts[DeepModel] = Artifacts(blobs, JUDGED, warn)
    assert [artifacts.get(blob) for _ in range(2)] == [None, None]
    assert warned == ["artifact is unusable"], "told once"


@readers
def test_a_vocabulary_that_does_not_fit_is_refused(read: Callable[[bytes], object]) -> None:
    model = fresh()
    model.items.append("more")
    with pytest.raises(StateUnreadable, match="40 item vectors do not fit 41"):
        read(model.to_bytes())
    model.items[40:] = []
    model.items[3] = "item-0"
    with pytest.raises(StateUnreadable, match="do not fit 39"):
        read(model.to_bytes())


def test_check_returns_the_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fresh().check() == []
    assert DeepModel(small, 1).check() == ["the vocabulary is empty"]
    model = fresh()
    model.table[3, 3] = math.nan
    assert model.check() == ["items holds NaN or infinity"]
    model = fresh()
    model.table[3] = 0
    (reason,) = model.check()
    assert "has no direction: it is zero" in reason
    model = fresh()
    model.table[3] = 1e38  # a length whose square is beyond float32
    assert model.check() == [reason]
    model = fresh()
    with torch.no_grad():
        model.network.pool.project.weight.fill_(1e38)
    assert model.check() == ["a session's vector is not finite"]
    model = fresh()
    with torch.no_grad():
        model.network.pool.recency[0, 0] = math.inf
    assert model.check() == ["network.pool.recency holds NaN or infinity"]
    monkeypatch.setattr("learners.deep.model.weights_bytes_max", 1000)
    assert "more than 1000" in fresh().check()[0]


def test_creating_a_model_does_not_change_the_global_random_state() -> None:
    before = torch.random.get_rng_state()
    fresh()
    assert torch.equal(torch.random.get_rng_state(), before)
