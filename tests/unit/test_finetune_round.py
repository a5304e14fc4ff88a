"""The benchmark of a round, on catalogues small enough for seconds."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from benchmarks import finetune_round
from benchmarks.finetune_round import COMPLETE_TOKENS, complete_loss, profiled, sessions_of
from headrace.errors import Misconfigured
from learners.deep.train import train


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune_round, "SQUARE", {"cpu": 64})
    monkeypatch.setattr(finetune_round, "repeats", 1)


def test_sessions_are_seeded_and_like_those_of_a_shop() -> None:
    one, two, other = (sessions_of(1_000, 5_000, seed) for seed in (1, 1, 2))
    assert one == two != other
    assert min(map(len, one)) == 2
    assert sum(map(len, one)) / len(one) == pytest.approx(5, rel=0.1)
    assert 5_000 <= sum(len(session) - 1 for session in one) < 5_050
    counts = Counter(item for session in one for item in session).most_common()
    # By Zipf's law over a thousand items the first has 1 / H(1000) = 13 % and twice what the second has.
    assert counts[0][1] / sum(map(len, one)) == pytest.approx(0.134, abs=0.02)
    assert counts[0][1] / counts[1][1] == pytest.approx(2, rel=0.3)


def test_a_profile_counts_the_products_and_the_loading() -> None:
    units = torch.nn.functional.normalize(torch.randn(300, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    seen = profiled(complete_loss(units, 0.07, "cpu", seed=0), "cpu")
    assert seen.flop == 3 * 2 * COMPLETE_TOKENS["cpu"] * 300 * 16
    assert 0 < seen.products_s < seen.seconds
    assert seen.loading_s == 0
    seen = profiled(lambda: train(None, sessions_of(50, 600, 0), passes=1), "cpu")
    assert 0 < seen.loading_s < seen.seconds - seen.products_s < seen.seconds


def test_the_figures_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "round.json"
    finetune_round.main(["--items", "40,5000", "--tokens", "600", "--width", "8", "--device", "cpu", "--out", str(out)])
    figures = json.loads(out.read_text())
    assert [of["items"] for of in figures["rounds"]] == [40, 5000]
    for of in figures["rounds"]:
        assert of["tokens"] == pytest.approx(600, rel=0.05)
        assert of["tokens_per_s"] == of["tokens"] / of["seconds"]
        assert 0 < of["loading_share"] + of["products_share"] < 1
        assert of["round_flop_per_s"] < of["products_flop_per_s"]
    assert "5,000" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_device_is_reported() -> None:
    with pytest.raises(Misconfigured, match="--device"):
        finetune_round.main(["--device", "cuda"])
