"""The blend: initial ranking, learning, calibration, and members that are missing or return invalid scores."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.state import decode, digest, encode
from learners.next_item.blend import Blend, _forward, _length_group, _member_features, _utility, _weight_max
from learners.next_item.traits import TRAITS
from learners.parts import portable
from learners.protocol import Scores, top


def scored(candidates: dict[int, float]) -> Scores:
    return Scores(np.array(list(candidates), np.int32), np.array(list(candidates.values()), np.float32))


def ranked(scores: Scores) -> list[int]:
    return [int(slot) for slot in top(scores, len(scores.slots)).slots]


def test_before_learning_members_have_their_initial_trust() -> None:
    blend = Blend()
    lists = {
        "session_knn": scored({1: 1.0, 2: 0.5}),
        "deep": scored({2: 1.0, 3: 0.4}),
        "popularity": scored({9: 1.0, 3: 0.9}),
    }
    assert ranked(blend.predict(lists, 1)) == [2, 1, 3, 9]


def test_learns_which_member_to_trust() -> None:
    blend = Blend(("good", "bad"))
    rng = np.random.default_rng(0)
    for _ in range(500):
        items = rng.choice(100, 10, replace=False).tolist()
        values = {item: float(rng.random()) for item in items}
        good = scored({item: 2.0**-place for place, item in enumerate(items)})
        blend.learn({"good": good, "bad": scored(values)}, 1, items[0] if rng.random() < 0.8 else items[1])
    good, bad = scored({1: 1.0, 2: 0.3, 3: 0.1}), scored({3: 1.0, 2: 0.3, 1: 0.1})
    assert ranked(blend.predict({"good": good, "bad": bad}, 1)) == [1, 2, 3]


def test_learns_per_session_length() -> None:
    blend = Blend(("a", "b"))
    lists = {"a": scored({1: 1.0, 2: 0.1}), "b": scored({2: 1.0, 1: 0.1})}
    for _ in range(300):
        blend.learn(lists, 1, 1)
        blend.learn(lists, 12, 2)
    assert ranked(blend.predict(lists, 1))[0] == 1
    assert ranked(blend.predict(lists, 12))[0] == 2


def test_probabilities_are_calibrated() -> None:
    """The true item is in the list in half of the cases, and then the first of two in three of four."""
    blend = Blend(("a",), fading=1.0)
    rng = np.random.default_rng(1)
    for _ in range(6_000):
        item = (1 if rng.random() < 0.75 else 2) if rng.random() < 0.5 else 99
        blend.learn({"a": scored({1: 1.0, 2: 0.5})}, 2, item)
    slots, probabilities = blend.predict({"a": scored({1: 1.0, 2: 0.5})}, 2)
    found = dict(zip(slots.tolist(), probabilities.tolist(), strict=True))
    assert found == pytest.approx({1: 0.375, 2: 0.125}, abs=0.03)


INVALID = {
    "nan": scored({1: math.nan, 2: 1.0}),
    "infinite": scored({1: math.inf, 2: 1.0}),
    "negative": scored({1: -1.0, 2: -5.0}),
    "zero": scored({1: 0.0, 2: 0.0}),
    "nothing": scored({}),
    "no slot": scored({-1: 1.0, 2: 0.5}),
    "lengths differ": Scores(np.array([1, 2], np.int32), np.array([1.0], np.float32)),
}


@pytest.mark.parametrize("invalid", INVALID.values(), ids=INVALID.keys())
def test_a_member_with_invalid_scores_is_ignored(invalid: Scores) -> None:
    expected, found = Blend(("a", "b")), Blend(("a", "b"))
    good = scored({5: 1.0, 6: 0.5, 7: 0.1})
    for _ in range(10):
        expected.learn({"a": good}, 3, 6)
        found.learn({"a": good, "b": invalid, "unknown": good}, 3, 6)
    assert digest(found.state()) == digest(expected.state())
    with_invalid, without = found.predict({"a": good, "b": invalid}, 3), expected.predict({"a": good}, 3)
    assert with_invalid.slots.tolist() == without.slots.tolist()
    assert with_invalid.scores.tolist() == without.scores.tolist()


def test_huge_scores_stay_finite_and_equal_scores_get_equal_probabilities() -> None:
    blend = Blend(("a", "b"))
    lists = {"a": scored({1: 3e38, 2: 1e38, 3: 1e-38}), "b": scored({3: 0.2, 2: 0.2, 1: 0.2})}
    for _ in range(1_000):
        blend.learn(lists, 1, 2)
    slots, probabilities = blend.predict({"b": lists["b"]}, 1)
    assert np.isfinite(blend.predict(lists, 1).scores).all()
    assert len(set(probabilities.tolist())) == 1
    assert slots.tolist() == [1, 2, 3]


def test_without_members_there_are_no_candidates() -> None:
    blend = Blend()
    assert not len(blend.predict({}, 0).slots)
    blend.learn({}, 0, 4)


def test_a_member_that_becomes_wrong_loses_trust() -> None:
    blend = Blend(("a", "b"))
    rng = np.random.default_rng(4)

    def judge(b_is_right: bool) -> None:
        true, *others = rng.choice(1_000, 8, replace=False).tolist()
        a = scored({item: float(rng.random() + (0.6 if item == true else 0.1)) for item in (true, *others[:3])})
        best = true if b_is_right else others[4]
        blend.learn({"a": a, "b": scored({best: 1.0, others[5]: 0.1})}, 2, true)

    question = {"a": scored({1: 1.0, 2: 0.5}), "b": scored({3: 1.0, 4: 0.1})}
    for _ in range(1_000):
        judge(True)
    assert ranked(blend.predict(question, 2))[0] == 3
    for _ in range(1_000):
        judge(False)
    assert ranked(blend.predict(question, 2))[0] == 1


def test_predictions_use_averaged_weights_and_learning_the_newest() -> None:
    blend = Blend(("a",))
    lists = {"a": scored({1: 1.0, 2: 0.5})}
    for n in range(300):
        blend.learn(lists, 1, 1 + n % 2)
    state = blend.state()
    answers = {
        name: Blend.from_state({**state, to: state[name]}).predict(lists, 1).scores.tolist()
        for name, to in (("average", "weights"), ("weights", "average"))
    }
    assert blend.predict(lists, 1).scores.tolist() == answers["average"] != answers["weights"]


def test_of_an_item_that_no_member_listed_only_that_is_learned() -> None:
    blend, asked = Blend(("a",)), list[int]()

    def traits(slots: NDArray[np.int32]) -> NDArray[np.uint8]:
        asked.extend(slots.tolist())
        return np.zeros((len(slots), len(TRAITS)), np.uint8)

    before = blend.state()
    blend.learn({"a": scored({1: 1.0, 2: 0.5})}, 0, 3, traits)
    after = blend.state()
    assert asked == []
    assert [name for name in before if not np.array_equal(before[name], after[name])] == ["hits", "tries"]
    blend.learn({"a": scored({1: 1.0, 2: 0.5})}, 0, 2, traits)
    assert asked == [1, 2]


def test_the_gradient_is_that_of_the_cross_entropy() -> None:
    blend, rng = Blend(("a", "b")), np.random.default_rng(6)
    lists = {name: scored({n: float(rng.random()) for n in rng.choice(9, 5, replace=False).tolist()}) for name in "ab"}
    traits = rng.integers(0, 256, (9, len(TRAITS))).astype(np.uint8)
    context = _length_group(3)
    for _ in range(50):  # until the hidden layer has an effect
        blend.learn(lists, 3, 4, traits.__getitem__)
    joined = blend._joined(lists)
    assert joined is not None
    slots, inputs = blend._inputs(joined, traits.__getitem__, np.log)
    true = slots.tolist().index(int(lists["b"].slots[0]))

    def loss() -> float:  # by products that are not rounded, so that small steps can be seen
        utility, _ = _utility(blend._layers, inputs, context, np.matmul)
        return math.log(np.exp(utility - utility[true]).sum())

    forward = _forward(blend._layers, inputs, context)
    assert 0 < np.count_nonzero(forward.hidden) < forward.hidden.size
    gradient = blend._gradient(forward, forward.probabilities - (np.arange(len(slots)) == true), context)
    places = rng.choice(len(gradient), 300, replace=False)
    numeric = []
    for place in places.tolist():
        here = blend._flat[place]
        blend._flat[place] = here + 1e-6
        above = loss()
        blend._flat[place] = here - 1e-6
        numeric.append((above - loss()) / 2e-6)
        blend._flat[place] = here
    np.testing.assert_allclose(gradient[places], numeric, atol=2e-7)
    assert np.abs(numeric).max() > 1e-3


def test_member_features_agree_with_their_definition() -> None:
    rng = np.random.default_rng(7)
    for _ in range(50):
        members = [rng.choice([1.0, 0.5, 0.25, 1e-9], size).tolist() for size in rng.integers(1, 6, 3).tolist()]
        expected = []
        for scores in members:
            peaks = [max(score / max(scores), 1e-4) for score in scores]
            expected += [
                (peak / sum(peaks), 1 - math.log(peak) / math.log(1e-4), 1 / sum(one >= peak for one in peaks), 1.0)
                for peak in peaks
            ]
        found = _member_features(np.concatenate(members), np.array([len(scores) for scores in members]), np.log)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("terms", [1, 2, 31, 65, 210, 1_000])
def test_matrix_products_have_the_same_bits_in_any_order(terms: int) -> None:
    rng = np.random.default_rng(terms)
    left, right = rng.random((terms, 5)), rng.normal(size=(terms, 7)) * 10.0 ** rng.integers(-9, 2, (terms, 7))
    found, order = portable.product(left.T, right), rng.permutation(terms)
    assert found.tobytes() == portable.product(left[order].T, right[order]).tobytes()
    assert np.abs(found - left.T @ right).max() < 2.0**-20 * terms * np.abs(right).max()
    assert not portable.product(np.zeros((3, terms)), right).any()


def test_the_first_step_of_adam_is_as_long_as_the_learning_rate() -> None:
    """Adam corrects the bias of its moments, which begin at 0; without that the first step is three times as long."""
    blend = Blend(("a", "b"), learning_rate=1e-3)
    before = blend.state()["weights"]
    blend.learn({"a": scored({1: 1.0, 2: 0.5}), "b": scored({2: 1.0, 3: 0.5})}, 1, 1)
    steps = np.abs(blend.state()["weights"] - before)
    moved = steps[steps > 1e-6]
    assert len(moved) > 10
    assert set(np.round(moved, 6)) == {1e-3, 2e-3}, "twice the rate for linear weights"
    assert np.array_equal(blend.state()["average"], blend.state()["weights"]), "the average of one step"


def test_weights_stay_bounded() -> None:
    blend = Blend(("a",), learning_rate=10.0)
    for _ in range(100):
        blend.learn({"a": scored({1: 1.0, 2: 1e-3})}, 1, 2)
    assert np.abs(blend.state()["weights"]).max() == _weight_max
    assert np.isfinite(blend.predict({"a": scored({1: 1.0, 2: 1e-3})}, 1).scores).all()


def test_hit_counts_decay() -> None:
    blend = Blend(("a",), fading=0.9)
    for item in [1] * 60 + [99] * 60:
        blend.learn({"a": scored({1: 1.0, 2: 0.5})}, 2, item)
    assert blend.predict({"a": scored({1: 1.0, 2: 0.5})}, 2).scores.sum() < 0.01


def test_only_the_best_candidates_of_a_member_are_used() -> None:
    blend = Blend(("a",), candidates_max=3)
    assert sorted(blend.predict({"a": scored({n: n + 1.0 for n in range(10)})}, 1).slots.tolist()) == [7, 8, 9]


def test_state_continues_exactly_and_predict_changes_nothing() -> None:
    rng = np.random.default_rng(5)
    blend = other = Blend()
    for n in range(200):
        if n == 100:
            other = Blend.from_state(decode(encode(blend.state())))
        lists = {name: scored(dict(enumerate(rng.random(5).tolist(), n % 7))) for name in blend.members}
        before = digest(blend.state())
        answers = [one.predict(lists, n % 12) for one in (blend, other)]
        assert digest(blend.state()) == before
        assert answers[0].scores.tolist() == answers[1].scores.tolist()
        for one in {id(blend): blend, id(other): other}.values():
            one.learn(lists, n % 12, n % 9)
    assert digest(other.state()) == digest(blend.state())
    assert set(blend.weights()) == set(blend.members)


def test_learns_from_traits() -> None:
    blend = Blend(("a",))
    traits = np.zeros((3, len(TRAITS)), np.uint8)
    traits[2, 0] = 255
    lists = {"a": scored({0: 1.0, 1: 0.9, 2: 0.5})}
    assert ranked(blend.predict(lists, 1, traits.__getitem__)) == [0, 1, 2]
    for _ in range(300):
        blend.learn(lists, 1, 2, traits.__getitem__)
    other = {"a": scored({0: 0.5, 1: 0.9, 2: 1.0})}
    traits[[0, 2]] = traits[[2, 0]]
    assert ranked(blend.predict(other, 1, traits.__getitem__))[0] == 0
    assert ranked(blend.predict(lists, 1)), "it works without traits"


def test_predictions_are_those_of_the_averaged_weights_after_each_step() -> None:
    blend, rng = Blend(("a", "b", "c")), np.random.default_rng(3)
    traits = rng.integers(0, 256, (30, len(TRAITS))).astype(np.uint8)
    for step in range(60):
        lists = {
            name: top(scored({n: float(rng.integers(1, 9)) for n in rng.choice(30, 12, replace=False).tolist()}), 12)
            for name in "abc"
        }
        length = step % 8
        joined = blend._joined(lists)
        assert joined is not None
        slots, inputs = blend._inputs(joined, traits.__getitem__, np.log)
        for group in (_length_group(length), _length_group(0)):
            wanted = _forward(blend._average_layers, inputs, group).probabilities
            wanted *= blend._hits[group] / blend._tries[group]
            found = blend.predict(lists, length if group else 0, traits.__getitem__)
            assert found.slots.tolist() == slots.tolist()
            np.testing.assert_allclose(found.scores, wanted, rtol=1e-5)
        blend.learn(lists, length, int(lists["a"].slots[step % 12]), traits.__getitem__)


def test_the_order_of_a_members_candidates_does_not_matter() -> None:
    """Lists that are best first are not sorted again."""
    rng = np.random.default_rng(4)
    for _ in range(50):
        sizes = rng.integers(1, 9, 3)
        members = [np.sort(rng.integers(1, 6, size))[::-1].astype(np.float64) for size in sizes.tolist()]
        orders = [rng.permutation(size) for size in sizes.tolist()]
        found = _member_features(np.concatenate(members), sizes, np.log)
        mixed = _member_features(
            np.concatenate([one[order] for one, order in zip(members, orders, strict=True)]), sizes, np.log
        )
        starts = np.cumsum(sizes) - sizes
        order = np.concatenate([start + order for start, order in zip(starts.tolist(), orders, strict=True)])
        np.testing.assert_allclose(mixed, found[order], rtol=1e-12)
