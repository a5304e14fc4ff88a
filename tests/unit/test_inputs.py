"""The benchmark of inputs, on a small shop."""

from pathlib import Path

import msgspec
import pytest

from benchmarks import inputs
from headrace.errors import Misconfigured

TINY = ["--first", "1200", "--events", "600", "--rounds", "2", "--seeds", "1"]


def test_new_items_are_found_by_their_category_alone(tmp_path: Path) -> None:
    out = tmp_path / "inputs.json"
    inputs.main([*TINY, "--contestants", "ids;category", "--out", str(out)])
    figures = msgspec.json.decode(out.read_bytes())
    ids, category = (figures["shops"][0][name] for name in ("ids", "category"))
    assert ids["never trained"]["recall@20"] == 0 < category["never trained"]["recall@20"]
    for group in inputs.GROUPS:
        assert ids[group]["asked"] == category[group]["asked"] > 10
    assert ids["all"]["asked"] > sum(
        ids[group]["asked"] for group in inputs.GROUPS[1:]
    )  # items that come for the first time
    assert figures["mean"]["ids"]["all"]["recall@20"]["mean"] == pytest.approx(100 * ids["all"]["recall@20"])


@pytest.mark.parametrize("wrong", [["--rounds", "0"], ["--contestants", "ids;colour"]])
def test_wrong_options_are_refused(wrong: list[str]) -> None:
    with pytest.raises(Misconfigured):
        inputs.main([*TINY, *wrong])
