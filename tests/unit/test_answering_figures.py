"""The benchmark of the deep model's answers measures each reader."""

from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import answering, answering_stages
from headrace.events import Data, Event, Item, at
from tests.shards import online


@pytest.mark.parametrize("reader", answering.READERS)
def test_each_reader_is_measured(tmp_path: Path, reader: str) -> None:
    answering.write_model(tmp_path / "model", 60)
    found = answering.measure(answering.READERS[reader], tmp_path / "model", 60, 3)
    assert min(asdict(found).values()) > 0
    assert found.short_ms <= found.short_ms_p99
    assert found.memory_mib > 20


def test_answers_of_each_kind_are_measured_alone_and_together() -> None:
    shop = online()(None)
    for number in range(500):
        event = Event(
            f"e{number}", "test", "view_item", at(60_000 * number), Data([Item(f"i{number % 60}")]), "1.0",
            f"s{number % 8 if number > 40 else number % 20}", 60_000 * number,
        )  # fmt: skip
        if shop.prepare(event):
            shop.learn(event, 0, number)
    shop.emit()
    asking = answering_stages.Asking(shop)
    asking.items *= 2  # there are fewer than are re-ranked
    found = answering_stages.measure(asking, 4, 1)
    assert len(found) == 4
    for one in found.values():
        assert list(one) == ["1", "2", "4", "8", "again"]
        assert min(one.values()) > 0
