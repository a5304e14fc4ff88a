"""Baselines of the deep learner's training, on a stream that changes its language."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from benchmarks import retention
from benchmarks.baselines import Ewc, Finetune, Joint, fisher
from benchmarks.contestants import Contestant, Deep, Tuning, model_ranks
from benchmarks.continual import run
from benchmarks.periods import Periods
from benchmarks.registry import FACTORIES
from benchmarks.resumable import folder_of, model_path
from headrace import state
from headrace.errors import Misconfigured
from learners.deep.model import DeepModel, DeepSettings
from learners.deep.train import train
from tests.streams import language

pytestmark = pytest.mark.slow

small = DeepSettings(width=32, layers=1, heads=2, context=10, dropout=0.1)
MADE: dict[str, Callable[[Tuning], Contestant]] = {
    "deep": partial(Deep, first_passes=4, settings=small),
    "finetune": partial(Finetune, first_passes=4, settings=small),
    "ewc": partial(Ewc, first_passes=4, settings=small),
    "joint": partial(Joint, passes=4, settings=small),
}


@pytest.fixture(autouse=True)
def one_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train all baselines at the live system's rate, so that they can be compared; their own rates suit DIGINETICA."""
    for way in (Finetune, Ewc, Joint):
        monkeypatch.setattr(way, "rate", None)


@pytest.fixture(scope="module")
def two_languages() -> Periods:
    """One language in periods 0 and 1, another one in later periods."""
    return Periods([language(500, seed, 1 if seed < 2 else 11, 120) for seed in range(5)])


@pytest.mark.full  # it trains models of a benchmark
def test_fisher_information_of_one_prediction_by_hand() -> None:
    """With one prediction per batch, it is the square of that prediction's gradient."""
    model = train(None, [["a", "b"], ["b", "c"], ["c", "a"]], settings=small, passes=1).model
    found = fisher(model, [["a", "b"]], seed=0)
    table = model.table.clone().requires_grad_()
    units = torch.nn.functional.normalize(table, dim=1)
    session = model.network(units[model.rows(["a"])][None])[0, 0]
    loss = torch.nn.functional.cross_entropy(session @ units.T / small.temperature, torch.tensor(model.rows(["b"])[0]))
    (wanted,) = torch.autograd.grad(loss, [table])
    torch.testing.assert_close(found["items"], wanted.square())
    assert found.keys() == {"items", *dict(model.network.named_parameters())}
    assert all(bool((square >= 0).all()) for square in found.values())


def test_consolidation_restrains_weights_and_continues_after_a_restart(two_languages: Periods) -> None:
    ways = {
        strength: Ewc(Tuning(strength=strength), settings=small, first_passes=2, passes=2) for strength in (0.0, 300.0)
    }
    plain = Finetune(Tuning(), settings=small, first_passes=2, passes=2)
    for way in (*ways.values(), plain):
        way.learn(two_languages, 0, lambda share: None)
    before = ways[0.0].model_bytes()
    assert before == ways[300.0].model_bytes() == plain.model_bytes()
    other = Ewc(Tuning(strength=300.0), settings=small, first_passes=2, passes=2)
    other.restore(state.decode(state.encode(ways[300.0].state())))
    for way in (*ways.values(), plain, other):
        way.learn(two_languages, 2, lambda share: None)
    assert ways[0.0].model_bytes() == plain.model_bytes()
    assert other.model_bytes() == ways[300.0].model_bytes() != plain.model_bytes()
    anchor = DeepModel.from_bytes(before or b"")
    far = {
        strength: float((way.model.table[: len(anchor)] - anchor.table).square().sum()) if way.model else 0.0
        for strength, way in ways.items()
    }
    assert 0 < far[300.0] < 0.8 * far[0.0]


def test_joint_training_stops_without_improvement(two_languages: Periods) -> None:
    joint = Joint(Tuning(0, 2e-3), passes=12, patience=1, settings=small)
    cost = joint.learn(two_languages, 1, lambda share: None)
    assert cost.taken == cost.passes - 1 or cost.passes == 12
    assert cost.taken >= 2
    # A tenth of the sessions is never trained on.
    every = sum(len(items) - 1 for period in (0, 1) for items in two_languages.sessions(period))
    assert 0.85 < cost.tokens / cost.passes / every < 0.95
    model, again = joint.model, Joint(Tuning(0, 2e-3), passes=cost.taken, patience=12, settings=small)
    assert model is not None
    questions = two_languages.questions(1)
    ranks = model_ranks(model, questions, two_languages, 1)
    assert np.mean(1 / ranks) > 0.2
    # Earlier training has no influence.
    once_more = Joint(Tuning(0, 2e-3), passes=12, patience=1, settings=small)
    once_more.learn(two_languages, 0, lambda share: None)
    assert once_more.learn(two_languages, 1, lambda share: None) == cost
    assert once_more.model_bytes() == joint.model_bytes() != again.model_bytes()


@pytest.mark.full  # it trains models of a benchmark
def test_baselines_answer_only_on_tested_periods(tmp_path: Path) -> None:
    periods = Periods([language(80, seed, 1, 120) for seed in range(4)])
    factories = {**{name: FACTORIES[name] for name in ("popularity", "transitions", "session_knn", "revisits")}, **MADE}
    names = ["finetune", "joint", "blend"]
    some = run(periods, names, [1, 3], tmp_path / "a", factories=factories)
    folder = folder_of(tmp_path / "a", "joint", periods, Tuning())
    assert {path.name for path in folder.glob("period_*")} == {"period_1.npz", "period_3.npz"}
    assert some["rounds"]["joint"].keys() == {"0", "2"}
    assert some["rounds"]["finetune"].keys() == {"0", "1", "2"}
    # The blend is that of the fast learners, with or without baselines.
    alone = run(periods, ["blend"], [1, 3], tmp_path / "a", factories=factories)
    assert [of["blend"] for of in some["periods"].values()] == [of["blend"] for of in alone["periods"].values()]
    # A period that was left out is answered by the model kept before it, or by a new one.
    more = run(periods, names, [1, 2, 3], tmp_path / "a", factories=factories)
    straight = run(periods, names, [1, 2, 3], tmp_path / "b", factories=factories)
    assert more["periods"] == straight["periods"]
    assert more["tokens"] == straight["tokens"]
    assert more["passes"]["joint"] >= 3


def test_each_seed_and_rate_has_its_own_folder(tmp_path: Path, two_languages: Periods) -> None:
    ways = [Tuning(), Tuning(1), Tuning(0, 1e-3), Tuning(0, None, 3.0)]
    folders = {
        name: {folder_of(tmp_path, name, two_languages, way) for way in ways} for name in ("deep", "ewc", "revisits")
    }
    assert {name: len(found) for name, found in folders.items()} == {"deep": 3, "ewc": 4, "revisits": 1}
    found = [Deep(way, first_passes=1, settings=small) for way in (Tuning(), Tuning(0, 1e-3))]
    for deep in found:
        deep.learn(two_languages, 0, lambda share: None)
    assert found[0].model_bytes() != found[1].model_bytes()


def test_rehearsal_forgets_less_than_plain_training(
    tmp_path: Path, two_languages: Periods, capsys: pytest.CaptureFixture[str]
) -> None:
    work, out, data = tmp_path / "work", tmp_path / "retention.json", tmp_path / "data"
    data.mkdir()
    for number in range(5):
        (data / f"period_{number}.txt").write_text(language(500, number, 1 if number < 2 else 11, 120))
    options = ["--data", str(data), "--work", str(work), "--out", str(out), "--sample", "1"]
    options += ["--learners", "deep,finetune"]
    command = f"python -m benchmarks.continual --data {data} --work {work} --learners deep"
    with pytest.raises(Misconfigured, match=re.escape(command)):
        retention.main(options)
    expected = run(two_languages, ["deep", "finetune"], [1, 2, 3, 4], work, factories=MADE)
    retention.main(options)
    result = json.loads(out.read_text())["learners"]
    assert result["finetune"]["drop"]["mrr@20"] > result["deep"]["drop"]["mrr@20"] + 0.01
    assert result["finetune"]["drop_from_best"]["mrr@20"] > result["deep"]["drop_from_best"]["mrr@20"] + 0.01
    assert expected["tokens"]["finetune"] == pytest.approx(expected["tokens"]["deep"], rel=0.1)
    # The score on the period after a model's last one equals that of benchmarks.continual.
    for name, of in result.items():
        first = [of["mrr@20"][period - 1][period - 1] for period in range(1, 5)]
        assert first == [expected["periods"][str(period)][name]["mrr@20"] for period in range(1, 5)]
    assert "Mean drop" in capsys.readouterr().out
    text = out.with_suffix(".svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert text.count(": mean drop") == 2
    # Scores are kept and not computed a second time.
    for update in range(4):
        model_path(folder_of(work, "deep", two_languages, Tuning()), update).write_bytes(b"no model")
    retention.main(options)
    assert json.loads(out.read_text())["learners"] == result
