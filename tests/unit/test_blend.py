"""The blend: sensible before learning, better after, safe when members are missing or mad, calibrated."""

import math

import numpy as np
import pytest

from headrace.state import decode, digest, encode
from learners.blend import Blend, _context, _say, _think, _weight_max
from learners.learner import Scores, top
from learners.traits import TRAITS


def said(candidates: dict[int, float]) -> Scores:
    return Scores(np.array(list(candidates), np.int32), np.array(list(candidates.values()), np.float32))


def ranked(scores: Scores) -> list[int]:
    return [int(slot) for slot in top(scores, len(scores.slots)).slots]


def test_before_learning_members_are_believed_as_the_table_says() -> None:
    blend = Blend()
    both = {"session_knn": said({1: 1.0, 2: 0.5}), "deep": said({2: 1.0, 3: 0.4}), "popularity": said({9: 1.0, 3: 0.9})}
    assert ranked(blend.predict(both, 1)) == [2, 1, 3, 9]


def test_learns_whom_to_believe() -> None:
    blend = Blend(("good", "bad"))
    draw = np.random.default_rng(0)
    for _ in range(500):
        items = draw.choice(100, 10, replace=False).tolist()
        values = {item: float(draw.random()) for item in items}
        good = said({item: 2.0**-place for place, item in enumerate(items)})
        blend.learn({"good": good, "bad": said(values)}, 1, items[0] if draw.random() < 0.8 else items[1])
    good, bad = said({1: 1.0, 2: 0.3, 3: 0.1}), said({3: 1.0, 2: 0.3, 1: 0.1})
    assert ranked(blend.predict({"good": good, "bad": bad}, 1)) == [1, 2, 3]


def test_learns_per_session_length() -> None:
    blend = Blend(("a", "b"))
    lists = {"a": said({1: 1.0, 2: 0.1}), "b": said({2: 1.0, 1: 0.1})}
    for _ in range(300):
        blend.learn(lists, 1, 1)
        blend.learn(lists, 12, 2)
    assert ranked(blend.predict(lists, 1))[0] == 1
    assert ranked(blend.predict(lists, 12))[0] == 2


def test_probabilities_are_calibrated() -> None:
    """The true item is listed in half of the cases, and then the first of two in three of four."""
    blend = Blend(("a",), fading=1.0)
    draw = np.random.default_rng(1)
    for _ in range(6_000):
        item = (1 if draw.random() < 0.75 else 2) if draw.random() < 0.5 else 99
        blend.learn({"a": said({1: 1.0, 2: 0.5})}, 2, item)
    slots, chances = blend.predict({"a": said({1: 1.0, 2: 0.5})}, 2)
    found = dict(zip(slots.tolist(), chances.tolist(), strict=True))
    assert found == pytest.approx({1: 0.375, 2: 0.125}, abs=0.03)


MAD = {
    "nan": said({1: math.nan, 2: 1.0}),
    "infinite": said({1: math.inf, 2: 1.0}),
    "negative": said({1: -1.0, 2: -5.0}),
    "zero": said({1: 0.0, 2: 0.0}),
    "nothing": said({}),
    "no slot": said({-1: 1.0, 2: 0.5}),
    "lengths differ": Scores(np.array([1, 2], np.int32), np.array([1.0], np.float32)),
}


@pytest.mark.parametrize("mad", MAD.values(), ids=MAD.keys())
def test_a_mad_member_is_as_good_as_missing(mad: Scores) -> None:
    sane, lone = Blend(("a", "b")), Blend(("a", "b"))
    good = said({5: 1.0, 6: 0.5, 7: 0.1})
    for _ in range(10):
        sane.learn({"a": good}, 3, 6)
        lone.learn({"a": good, "b": mad, "unknown": good}, 3, 6)
    assert digest(lone.state()) == digest(sane.state())
    with_mad, without = lone.predict({"a": good, "b": mad}, 3), sane.predict({"a": good}, 3)
    assert with_mad.slots.tolist() == without.slots.tolist()
    assert with_mad.scores.tolist() == without.scores.tolist()


def test_huge_and_equal_scores_stay_finite_and_equal_ones_order_nothing() -> None:
    blend = Blend(("a", "b"))
    lists = {"a": said({1: 3e38, 2: 1e38, 3: 1e-38}), "b": said({3: 0.2, 2: 0.2, 1: 0.2})}
    for _ in range(1_000):
        blend.learn(lists, 1, 2)
    slots, chances = blend.predict({"b": lists["b"]}, 1)
    assert np.isfinite(blend.predict(lists, 1).scores).all()
    assert len(set(chances.tolist())) == 1
    assert slots.tolist() == [1, 2, 3]


def test_no_members_at_all_give_no_answer() -> None:
    blend = Blend()
    assert not len(blend.predict({}, 0).slots)
    blend.learn({}, 0, 4)


def test_a_member_that_goes_mad_in_time_is_no_longer_believed() -> None:
    blend = Blend(("a", "b"))
    draw = np.random.default_rng(4)

    def judge(b_is_right: bool) -> None:
        true, *others = draw.choice(1_000, 8, replace=False).tolist()
        a = said({item: float(draw.random() + (0.6 if item == true else 0.1)) for item in (true, *others[:3])})
        best = true if b_is_right else others[4]
        blend.learn({"a": a, "b": said({best: 1.0, others[5]: 0.1})}, 2, true)

    question = {"a": said({1: 1.0, 2: 0.5}), "b": said({3: 1.0, 4: 0.1})}
    for _ in range(1_000):
        judge(True)
    assert ranked(blend.predict(question, 2))[0] == 3
    for _ in range(1_000):
        judge(False)
    assert ranked(blend.predict(question, 2))[0] == 1


def test_answers_come_from_the_average_of_the_weights_and_learning_from_the_newest() -> None:
    blend = Blend(("a",))
    lists = {"a": said({1: 1.0, 2: 0.5})}
    for n in range(300):
        blend.learn(lists, 1, 1 + n % 2)
    state = blend.state()
    answers = {
        name: Blend.from_state({**state, to: state[name]}).predict(lists, 1).scores.tolist()
        for name, to in (("average", "weights"), ("weights", "average"))
    }
    assert blend.predict(lists, 1).scores.tolist() == answers["average"] != answers["weights"]


def test_the_gradient_is_that_of_the_cross_entropy() -> None:
    blend, draw = Blend(("a", "b")), np.random.default_rng(6)
    lists = {name: said({n: float(draw.random()) for n in draw.choice(9, 5, replace=False).tolist()}) for name in "ab"}
    traits = draw.integers(0, 256, (9, len(TRAITS))).astype(np.uint8)
    context = _context(3)
    for _ in range(50):  # until the hidden layer has a say
        blend.learn(lists, 3, 4, traits.__getitem__)
    slots, inputs = blend._describe(lists, traits.__getitem__)
    true = slots.tolist().index(int(lists["b"].slots[0]))

    def loss() -> float:
        return -math.log(_think(blend._layers, inputs, context).chances[true])

    thought = _think(blend._layers, inputs, context)
    assert 0 < np.count_nonzero(thought.hidden) < thought.hidden.size
    gradient = blend._gradient(thought, thought.chances - (np.arange(len(slots)) == true), context)
    places = draw.choice(len(gradient), 300, replace=False)
    numeric = []
    for place in places.tolist():
        here = blend._flat[place]
        blend._flat[place] = here + 1e-6
        above = loss()
        blend._flat[place] = here - 1e-6
        numeric.append((above - loss()) / 2e-6)
        blend._flat[place] = here
    np.testing.assert_allclose(gradient[places], numeric, atol=1e-7)
    assert np.abs(numeric).max() > 1e-3


def test_what_is_said_of_candidates_agrees_with_its_definition() -> None:
    draw = np.random.default_rng(7)
    for _ in range(50):
        members = [draw.choice([1.0, 0.5, 0.25, 1e-9], size).tolist() for size in draw.integers(1, 6, 3).tolist()]
        expected = []
        for scores in members:
            peaks = [max(score / max(scores), 1e-4) for score in scores]
            expected += [
                (peak / sum(peaks), 1 - math.log(peak) / math.log(1e-4), 1 / sum(one >= peak for one in peaks), 1.0)
                for peak in peaks
            ]
        found = _say(np.concatenate(members), np.array([len(scores) for scores in members]))
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_weights_stay_bounded_whatever_is_learned() -> None:
    blend = Blend(("a",), learning_rate=10.0)
    for _ in range(100):
        blend.learn({"a": said({1: 1.0, 2: 1e-3})}, 1, 2)
    assert np.abs(blend.state()["weights"]).max() == _weight_max
    assert np.isfinite(blend.predict({"a": said({1: 1.0, 2: 1e-3})}, 1).scores).all()


def test_how_often_lists_hold_the_item_is_forgotten_in_time() -> None:
    blend = Blend(("a",), fading=0.9)
    for item in [1] * 60 + [99] * 60:
        blend.learn({"a": said({1: 1.0, 2: 0.5})}, 2, item)
    assert blend.predict({"a": said({1: 1.0, 2: 0.5})}, 2).scores.sum() < 0.01


def test_only_the_best_candidates_of_a_member_are_taken() -> None:
    blend = Blend(("a",), candidates_max=3)
    assert sorted(blend.predict({"a": said({n: n + 1.0 for n in range(10)})}, 1).slots.tolist()) == [7, 8, 9]


def test_goes_on_from_its_state_and_changes_nothing_by_predicting() -> None:
    draw = np.random.default_rng(5)
    blend = other = Blend()
    for n in range(200):
        if n == 100:
            other = Blend.from_state(decode(encode(blend.state())))
        lists = {name: said(dict(enumerate(draw.random(5).tolist(), n % 7))) for name in blend.members}
        before = digest(blend.state())
        answers = [one.predict(lists, n % 12) for one in (blend, other)]
        assert digest(blend.state()) == before
        assert answers[0].scores.tolist() == answers[1].scores.tolist()
        for one in {id(blend): blend, id(other): other}.values():
            one.learn(lists, n % 12, n % 9)
    assert digest(other.state()) == digest(blend.state())
    assert set(blend.weights()) == set(blend.members)


def test_learns_from_the_items_own_traits() -> None:
    blend = Blend(("a",))
    traits = np.zeros((3, len(TRAITS)), np.uint8)
    traits[2, 0] = 255
    lists = {"a": said({0: 1.0, 1: 0.9, 2: 0.5})}
    assert ranked(blend.predict(lists, 1, traits.__getitem__)) == [0, 1, 2]
    for _ in range(300):
        blend.learn(lists, 1, 2, traits.__getitem__)
    other = {"a": said({0: 0.5, 1: 0.9, 2: 1.0})}
    traits[[0, 2]] = traits[[2, 0]]
    assert ranked(blend.predict(other, 1, traits.__getitem__))[0] == 0
    assert ranked(blend.predict(lists, 1)), "it goes without"
