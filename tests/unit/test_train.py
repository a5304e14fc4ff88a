"""Rounds of training on small synthetic sequences with known structure."""

import hashlib
import math
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from learners.deep import train as training
from learners.deep.model import DeepModel, DeepSettings
from learners.deep.train import NotFinite, train

small = DeepSettings(width=32, layers=1, heads=2, context=10, dropout=0.1)


def language(count: int, seed: int, size: int = 60, deal: int = 1) -> list[list[str]]:
    """Return sequences that visit the items of one group of five in random order; one item in ten is random.

    `deal`, which must be coprime to `size`, determines the groups.
    """
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        group = rng.randrange(size // 5)
        members = rng.sample([(5 * group + k) * deal % size for k in range(5)], rng.randint(2, 5))
        made.append([f"i{member if rng.random() < 0.9 else rng.randrange(size)}" for member in members])
    return made


def mrr(model: DeepModel, sequences: list[list[str]]) -> float:
    prefixes = [s[:k] for s in sequences for k in range(1, len(s))]
    truth = [s[k] for s in sequences for k in range(1, len(s))]
    scores = model.score_all(prefixes)
    own = scores[np.arange(len(truth)), model.rows(truth)]
    return float(np.mean(1 / (scores >= own[:, None]).sum(axis=1)))


def test_a_round_learns_the_structure_and_the_next_one_its_change() -> None:
    first = train(None, language(1500, 1), settings=small, seed=3, passes=4)
    here, there = language(200, 2), language(200, 3, deal=11)
    # All items are equally popular, so popularity reaches at most sum(1 / r) / 60 = 0.08. Knowing the groups but not
    # the order gives about 0.25, because items already visited rank first.
    assert mrr(first.model, here) > 0.22
    assert mrr(first.model, there) < 0.12
    second = train(first.model, language(1500, 4, deal=11), settings=small, seed=4, passes=4)
    assert mrr(second.model, there) > 0.22
    assert second.tokens == 4 * sum(len(s) - 1 for s in language(1500, 4, deal=11))


def test_rehearsal_keeps_what_plain_training_forgets() -> None:
    old, new = language(1000, 1), language(1000, 5, deal=11)
    first = train(None, old, settings=small, seed=3, passes=5).model
    plain = train(first, new, settings=small, seed=3, passes=5, share=1.0).model
    rehearsed = train(first, new, rehearsal=5 * old, settings=small, seed=3, passes=5, share=1.0).model
    truth = language(200, 9)
    assert mrr(first, truth) > mrr(rehearsed, truth) > mrr(plain, truth) + 0.03
    assert mrr(rehearsed, language(200, 9, deal=11)) > 0.15


def test_predicting_weights_are_a_mean_over_rounds_and_training_weights_are_not() -> None:
    rounds = [language(300, 1), language(300, 4, size=90, deal=11), language(300, 5, size=90, deal=11)]
    raw = train(None, rounds[0], settings=small, seed=1, passes=2).model
    assert raw.training_offsets == {}  # without a parent, both weights are equal
    meant = raw
    for number, new in enumerate(rounds[1:]):
        known, before = len(meant), {name: weight.clone() for name, weight in meant.weights().items()}
        raw = train(raw, new, seed=number, passes=2, share=1.0).model
        meant = train(meant, new, seed=number, passes=2, share=0.6).model
        for name, weight in meant.weights().items():
            trained, old = raw.weights()[name], before[name]
            torch.testing.assert_close(weight[: len(old)], 0.6 * trained[: len(old)] + 0.4 * old, atol=2e-3, rtol=0)
            assert not torch.equal(weight, trained)
        # New items have no earlier weights to average with.
        torch.testing.assert_close(meant.table[known:], raw.table[known:], atol=2e-3, rtol=0)
    meant.use_training_weights()
    torch.testing.assert_close(meant.weights(), raw.weights(), atol=2e-3, rtol=0)


def test_a_mean_over_rounds_forgets_less() -> None:
    old, new = language(1000, 1), language(1000, 5, deal=11)
    first = train(None, old, settings=small, seed=3, passes=5).model
    alone, mean = (train(first, new, seed=3, passes=5, share=share).model for share in (1.0, 0.65))
    assert mrr(mean, language(200, 9)) > mrr(alone, language(200, 9)) + 0.01


def test_new_items_are_added_and_learned() -> None:
    first = train(None, language(500, 1), settings=small, seed=3, passes=2).model
    new = [[f"n{i[1:]}" for i in s] for s in language(1000, 2)]
    second = train(first, new, settings=small, seed=3, passes=5).model
    assert second.items[:60] == first.items
    assert len(first) == 60
    assert len(second) == 120
    assert mrr(second, new[:200]) > 0.22


def test_items_that_keep_rejects_are_dropped_from_the_vocabulary() -> None:
    first = train(None, language(500, 1), settings=small, seed=3, passes=2).model
    gone = {f"i{n}" for n in range(0, 60, 2)}
    rehearsal = language(50, 5)
    second = train(
        first, language(50, 4), rehearsal=rehearsal, seed=3, passes=1, keep=lambda item: item not in gone
    ).model
    assert second.items == [item for item in first.items if item not in gone]
    assert len(second.table) == 30
    assert not gone & set(second.predict([["i1", "i2", "i3"]], 60)[0][0])
    assert len(first) == 60


def test_a_new_item_is_initialised_near_its_neighbours() -> None:
    first = train(None, language(1000, 1), settings=small, seed=3, passes=5).model
    # "fresh" occurs once, between two items of one group; a round at a tiny learning rate shows its initial vector.
    placed = train(first, [["i0", "fresh", "i1"]], seed=3, passes=1, learning_rate=1e-9).model
    units = torch.nn.functional.normalize(placed.table, dim=1)
    near = units[placed.rows(["fresh"])[0]] @ units[placed.rows(["i0", "i1"])].T
    assert float(near.min()) > 0.3
    assert float(near.mean()) > float((units[placed.rows(["fresh"])[0]] @ units[:60].T).mean()) + 0.2
    assert placed.table[:60].numpy() == pytest.approx(first.table.numpy(), abs=1e-5)


@pytest.mark.parametrize("full", [0, 1000])
def test_equal_arguments_give_equal_bytes(full: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "full_softmax_max", full)
    before = torch.random.get_rng_state()
    one, two, other = (train(None, language(300, 1), settings=small, seed=s, passes=2) for s in (5, 5, 6))
    assert one.model.to_bytes() == two.model.to_bytes() != other.model.to_bytes()
    assert one.tokens == two.tokens == 2 * sum(len(s) - 1 for s in language(300, 1))
    assert torch.equal(torch.random.get_rng_state(), before)


DIGESTS = ("49aeddb4bde3474f372993ed85659dbd7d4b9fec216e808e64dac9fba39cf5a5",
           "0549ec4c3511d9ee28d5ecea214450df8a446625f197ea800b329fa897b938ac")  # fmt: skip


def test_training_on_ids_alone_is_unchanged_by_other_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digests are older than the other inputs; other processors and torch versions may round differently."""
    first = train(None, language(300, 1), settings=small, seed=5, passes=2)
    monkeypatch.setattr(training, "full_softmax_max", 0)
    there = language(200, 4, size=90, deal=11)
    second = train(first.model, there, rehearsal=language(200, 1), seed=6, passes=2, share=1.0)
    assert (first.loss, second.loss) == pytest.approx((9.67627654624633, 7.405127430593731), rel=1e-3)
    assert float(second.model.table.abs().sum()) == pytest.approx(412.78122, rel=1e-3)
    made_on = torch.__version__.startswith("2.15.0"), torch.backends.cpu.get_cpu_capability()
    if made_on == (True, "AVX512") and "Intel" in Path("/proc/cpuinfo").read_text():
        data = (first.model.to_bytes(), second.model.to_bytes())
        assert tuple(hashlib.sha256(one).hexdigest() for one in data) == DIGESTS


def test_the_parent_is_not_changed() -> None:
    parent = train(None, language(200, 1), settings=small, seed=1, passes=1).model
    data = parent.to_bytes()
    train(parent, language(200, 2), seed=2, passes=1)
    assert parent.to_bytes() == data


def test_sampled_softmax_learns_as_well_as_the_full_one(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = partial(train, None, language(2000, 1, size=300), settings=small, seed=3, passes=4)
    full = trained().model
    monkeypatch.setattr(training, "full_softmax_max", 0)
    monkeypatch.setattr(training, "negatives", 100)
    sampled = trained().model
    truth = language(200, 2, size=300)
    assert mrr(sampled, truth) > 0.9 * mrr(full, truth) > 0.15


def test_the_candidates_represent_the_whole_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weighted by inverse probability of inclusion, the candidates sum to the number of all rows."""
    monkeypatch.setattr(training, "full_softmax_max", 0)
    monkeypatch.setattr(training, "negatives", 300)
    model = DeepModel(small, 1)
    model.grow(f"i{n}" for n in range(2_000))
    rng = np.random.default_rng(2)
    pieces = (rng.zipf(1.3, (training.batch_tokens // 4 * 100, 5)) % 2_000).tolist()  # few are frequent
    generator = torch.Generator().manual_seed(3)
    sampler = training._CandidateSampler(model, pieces, generator)
    weights = [sampler.draw(batch)[1].exp() for batch in training._batches(pieces, generator)]
    assert len(weights) == 100
    assert float(torch.stack([one.sum() for one in weights]).mean()) == pytest.approx(2_000, rel=0.01)
    assert min(float(one.min()) for one in weights) >= 1 - 1e-6


def test_without_predictions_the_parent_is_returned() -> None:
    parent = train(None, language(50, 1), settings=small, seed=1, passes=1).model
    result = train(parent, [["lonely"], []], seed=2)
    assert result.tokens == 0
    assert math.isnan(result.loss)
    assert result.model.items == [*parent.items, "lonely"]


def test_long_sequences_are_learned_completely() -> None:
    walk = [f"i{i}" for i in range(35)]
    assert train(None, [walk], settings=small, passes=1).tokens == 34


def test_a_loss_that_is_not_finite_ends_the_round() -> None:
    parent = train(None, language(50, 1), settings=small, seed=1, passes=1).model
    parent.table[0, 0] = math.nan
    with pytest.raises(NotFinite):
        train(parent, language(50, 1), seed=1)


def test_reading_losses_late_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = train(None, language(400, 1), settings=small, seed=5, passes=2)
    monkeypatch.setattr(training, "_UNREAD_MAX", {"cpu": 7})
    late = train(None, language(400, 1), settings=small, seed=5, passes=2)
    assert (late.tokens, late.loss) == (at_once.tokens, at_once.loss)
    assert late.model.to_bytes() == at_once.model.to_bytes()
    shares: list[float] = []
    stopped = train(None, language(400, 1), settings=small, passes=2, stop=lambda: bool(shares), progress=shares.append)
    assert math.isfinite(stopped.loss)
    parent = late.model
    parent.table[0, 0] = math.nan
    with pytest.raises(NotFinite):  # by the end of the pass
        train(parent, language(400, 1), passes=1)


def test_stop_ends_the_round_early_and_progress_is_reported() -> None:
    shares: list[float] = []
    result = train(
        None, language(500, 1), settings=small, passes=2, stop=lambda: len(shares) >= 3, progress=shares.append
    )
    assert len(shares) == 3
    assert shares == sorted(shares)
    assert result.tokens == pytest.approx(shares[-1] * 2 * sum(len(s) - 1 for s in language(500, 1)))
    assert result.model.check() == []


def test_a_penalty_limits_changes_and_a_round_can_end_after_a_pass() -> None:
    sessions = [[f"i{n}" for n in range(start, start + 4)] for start in range(0, 40, 4)]
    parent = train(None, sessions, settings=small, passes=1).model
    seen: list[bool] = []

    def penalty(model: DeepModel, rows: Tensor, table: Tensor) -> Tensor:
        seen.append(model.network.training and torch.equal(model.table[rows], table))
        return 1e6 * (table - parent.table[rows]).square().sum()

    def after_two(model: DeepModel) -> bool:
        seen.append(not model.network.training)
        return seen.count(True) == 4  # two passes of one batch each

    free = train(parent, sessions, seed=1, passes=5).model
    penalised = train(parent, sessions, seed=1, passes=5, penalty=penalty, stop_after_pass=after_two)
    assert seen == [True] * 4
    assert penalised.tokens == 2 * 30
    moved, limited = ((model.table - parent.table).square().sum() for model in (free, penalised.model))
    assert moved > 0
    assert not torch.equal(penalised.model.network.norm.weight, parent.network.norm.weight)
    again = train(parent, sessions, seed=1, passes=5, stop_after_pass=after_two).model
    assert limited < (again.table - parent.table).square().sum()


def test_items_that_are_not_in_a_round_hardly_move() -> None:
    """Items that are only negatives have small gradients; steps as long as those of true items would scatter them."""
    first = train(None, language(1500, 1, size=120), settings=small, seed=3, passes=4).model
    half = {f"i{number}" for number in range(60)}
    here = [kept for s in language(1500, 4, size=120) if len(kept := [item for item in s if item in half]) > 1]
    second = train(first, here, settings=small, seed=4, passes=4).model
    absent = [item for item in first.items if item not in half]
    before, after = (model.table[model.rows(absent)] for model in (first, second))
    assert torch.cosine_similarity(before, after).mean() > 0.93  # 0.85 without `size_floor`


def test_a_share_of_the_sequences_is_reversed(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [[number, 1_000, 2_000] for number in range(1_000)]
    reversed_ = training._some_reversed(pieces, torch.Generator().manual_seed(0))
    assert 200 < sum(piece[0] == 2_000 for piece in reversed_) < 300
    assert [piece if piece[0] != 2_000 else piece[::-1] for piece in reversed_] == pieces
    monkeypatch.setattr(training, "reversed_share", 0.0)
    assert training._some_reversed(pieces, torch.Generator().manual_seed(0)) == pieces
