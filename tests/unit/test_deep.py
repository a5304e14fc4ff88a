"""The deep model by itself: answers, growth, bytes, refusals."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from consumers.model import read_model
from headrace.blobs import Blobs
from headrace.errors import StateUnreadable
from learners.deep import FORMAT, DeepModel, DeepSettings

small = DeepSettings(width=16, layers=2, heads=2, context=6, dropout=0.1)
words = [f"item-{i}" for i in range(40)]


def fresh(seed: int = 1) -> DeepModel:
    model = DeepModel(small, seed)
    model.grow(words)
    return model


def test_an_answer_holds_the_most_probable_items_in_order() -> None:
    model = fresh()
    [(items, scores)] = model.predict([["item-3", "item-5"]], n=7)
    everything = model.score_all([["item-3", "item-5"]])[0]
    best = np.argsort(-everything, kind="stable")[:7]
    assert items == [model.items[row] for row in best]
    np.testing.assert_allclose(scores, everything[best], rtol=1e-6)
    assert scores.dtype == np.float32
    assert everything.sum() == pytest.approx(1, abs=1e-5)


def test_of_equally_probable_items_the_one_known_longer_comes_first() -> None:
    model = fresh()
    model.table[:] = model.table[0]
    model.touched()
    [(items, scores)] = model.predict([["item-3"]], n=len(words))
    assert len(set(scores.tolist())) == 1
    assert items == words


def test_unknown_items_are_skipped_and_an_empty_prefix_has_no_answer() -> None:
    model = fresh()
    answers = model.predict([[], ["never-seen"], ["item-1", "never-seen"], ["item-1"]], n=5)
    assert [len(items) for items, _ in answers] == [0, 0, 5, 5]
    assert answers[2][0] == answers[3][0]
    np.testing.assert_array_equal(model.score_all([[]]), np.zeros((1, 40)))


def test_neighbours_in_a_batch_do_not_change_an_answer() -> None:
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


def test_growth_keeps_old_rows_and_follows_from_seed_and_size() -> None:
    one, two = fresh(), fresh()
    kept = one.table.clone()
    assert one.grow(["item-3", "new-a", "new-b", "new-a"]) == 2
    two.grow(["new-a", "new-b"])
    assert torch.equal(one.table[:40], kept)
    assert torch.equal(one.table, two.table)
    assert one.items[40:] == ["new-a", "new-b"]
    assert len(one.predict([["new-a"]], n=42)[0][0]) == 42


def test_growth_stops_at_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learners.deep.items_max", 42)
    model = fresh()
    assert model.grow(["a", "b", "c"]) == 2
    assert model.grow(["d"]) == 0


def test_saved_and_loaded_predicts_the_same_bits() -> None:
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


def ahead() -> DeepModel:
    """A model that answers half-way between two others."""
    model, other = fresh(1), fresh(2)
    model.fall_back(other.weights(), 0.5)
    return model


def test_what_training_goes_on_from_is_kept_beside_what_answers() -> None:
    model, one, two = ahead(), fresh(1), fresh(2)
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
        one_of_them.catch_up()
        assert one_of_them.ahead == {}
        torch.testing.assert_close(one_of_them.table[1], one.table[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(again.weights(), one.weights(), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.table[3:-1], one.table[4:], atol=1e-5, rtol=0)


def test_what_training_goes_on_from_has_to_fit_and_to_be_finite() -> None:
    model = ahead()
    model.ahead["items"][3, 3] = math.nan
    assert model.check() == ["ahead.items holds NaN or infinity"]
    del model.ahead["items"]
    with pytest.raises(StateUnreadable, match="training goes on from"):
        DeepModel.from_bytes(model.to_bytes())


@pytest.mark.parametrize("damage", [lambda d: d[:50], lambda d: d[:-4], lambda d: b"", lambda d: b"\xff" * 64])
def test_bytes_that_are_no_model_are_refused(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(StateUnreadable):
        DeepModel.from_bytes(damage(fresh().to_bytes()))


@pytest.mark.parametrize(
    ("part", "value", "told"),
    [
        ("heads", 0, "not a deep model"), ("width", -4, "not a deep model"), ("seed", 2**70, "not a deep model"),
        ("temperature", 0.02, "not a deep model"), ("width", 10**13, "do not fit"), ("layers", 20_000, "do not fit"),
        ("context", 10**9, "do not fit"),
    ],
)  # fmt: skip
def test_a_header_that_asks_for_what_cannot_be_is_refused(part: str, value: int, told: str) -> None:
    data = fresh().to_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    about = json.loads(header["__metadata__"]["headrace"])
    (about if part in about else about["settings"])[part] = value
    header["__metadata__"]["headrace"] = json.dumps(about)
    changed = json.dumps(header).encode()
    with pytest.raises(StateUnreadable, match=told):
        DeepModel.from_bytes(len(changed).to_bytes(8, "little") + changed + data[8 + size :])


def test_consumers_do_without_a_model_of_another_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = Blobs(tmp_path)
    blob = blobs.put("model", fresh().to_bytes())
    assert read_model(blobs, blob) is not None
    monkeypatch.setattr("learners.deep.FORMAT", FORMAT + 1)
    assert read_model(blobs, blob) is None


def test_a_vocabulary_that_does_not_fit_is_refused() -> None:
    model = fresh()
    model.items.append("more")
    with pytest.raises(StateUnreadable, match="40 item vectors do not fit 41"):
        DeepModel.from_bytes(model.to_bytes())
    model.items[40:] = []
    model.items[3] = "item-0"
    with pytest.raises(StateUnreadable, match="do not fit 39"):
        DeepModel.from_bytes(model.to_bytes())


def test_check_names_what_is_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr("learners.deep.weights_bytes_max", 1000)
    assert "more than 1000" in fresh().check()[0]


def test_making_a_model_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    fresh()
    assert torch.equal(torch.random.get_rng_state(), before)
