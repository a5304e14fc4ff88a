"""Logs of earlier releases go on: their states are read, their journals folded, and nothing that they hold is lost."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headrace.errors import StateUnreadable
from headrace.log.protocol import Outgoing, Partition
from headrace.shard import journal
from headrace.shard.checks import check_folds, committed_records
from headrace.shard.journal import Entry, Pointer, key_of
from headrace.shard.loop import Loop, LoopSettings
from headrace.state import digest
from headrace.topics import EVENTS, ITEMS, MODELS
from learners.desk.family import Desk
from learners.families import Placement
from learners.family import Part
from learners.purchase.family import PurchaseFamily
from learners.shop import MakeShop, Shop
from producers.scenario import SimulationSettings
from producers.simulate import simulate
from tests.golden.logs import PLACEMENTS, Golden, digests, expected, folded, releases, unpack
from tests.shards import next_item, rounds

MORE_EVENTS = 500
PAIRS = [(release, shard) for release in releases() for shard in PLACEMENTS]


@pytest.fixture(params=PAIRS, ids=lambda pair: "-".join(pair))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Placement, Golden]]:
    release, shard = request.param
    with closing(unpack(release, tmp_path)) as golden:
        yield release, PLACEMENTS[shard], golden


def newest(golden: Golden, placement: Placement) -> tuple[Entry, Pointer]:
    entry = journal.newest(golden.log, placement.shard)
    assert entry is not None
    assert entry.snapshot is not None
    return entry, entry.snapshot


def unmigrated(renewed: Mapping[str, str]) -> dict[str, str]:
    """Return what was renewed in other ways than by migrations."""
    return {part: how for part, how in renewed.items() if not how.startswith("migrated")}


def trim(golden: Golden, placement: Placement) -> None:
    """Delete what the shard's newest snapshot covers, as retention does."""
    _, pointer = newest(golden, placement)
    golden.log.delete_before(placement.shard.journal, pointer.journal)
    golden.log.delete_before(placement.shard.judgements, pointer.judgements)
    for place in golden.log.partitions(EVENTS):
        golden.log.delete_before(place, pointer.positions[key_of(place)])


def continued(golden: Golden, placement: Placement, sections: dict[str, Any] | None = None) -> Shop:
    """Publish more events, let the shard learn them, and return its fold."""
    golden.log.create()  # as every process does
    simulate(golden.log, SimulationSettings(events=MORE_EVENTS, seed=32, items=120, shoppers=150, days=20.0))
    loop = Loop(
        golden.log, golden.blobs, placement.shard, make=MakeShop(placement.kinds, sections),
        settings=LoopSettings(commit_interval_s=0.05, snapshot_interval_s=0.1), quarantine=placement.quarantines,
    )  # fmt: skip
    with closing(loop):
        wanted = loop.fold.events + len(left(golden, placement, loop))
        loop.run(lambda: loop.fold.events >= wanted)
        return loop.fold


def left(golden: Golden, placement: Placement, loop: Loop[Any]) -> list[Partition]:
    """Return the partition of each event that the loop has not applied."""
    return [
        place
        for place in golden.log.partitions(EVENTS)
        for record in committed_records(golden.log, place)
        if record.offset >= loop._positions[place]
    ]


def test_a_log_gets_the_topic_of_items_and_its_shards_hear_it(case: tuple[str, Placement, Golden]) -> None:
    _, placement, golden = case
    assert golden.log.end(Partition(ITEMS, 0)) == 0
    appender = golden.log.appender()
    appender.append(Outgoing(ITEMS, b"boots", b'{"availability": "out_of_stock"}'))
    appender.close()
    desk = continued(golden, placement).families["desk"]
    assert isinstance(desk, Desk)
    assert not desk.available("boots")
    check_folds(golden.log, golden.blobs, placement.shard, make=MakeShop(placement.kinds))


def test_the_rest_of_the_journal_gives_the_digests_that_it_gave(case: tuple[str, Placement, Golden]) -> None:
    """Where it fails, a part's bytes have changed: raise its version, migrate, and `python -m tests.golden.record`."""
    release, placement, golden = case
    shop = folded(golden, placement)
    assert not shop.begun
    assert shop.events == sum(len(committed_records(golden.log, place)) for place in golden.log.partitions(EVENTS))
    known = expected()[release][placement.shard.name]
    found = {(part, version): digest for part, version, digest in digests(shop)}
    assert found == {(part, version): known.get(part, {}).get(version) for part, version in found}


_CPU = Path("/proc/cpuinfo")
WIDEST = "SkylakeX" if _CPU.exists() and "avx512f" in _CPU.read_text() else "Sandybridge"
"""A third kernel that this processor can run."""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64 processor")
@pytest.mark.parametrize(
    "kernels",
    [
        {"OPENBLAS_CORETYPE": "Haswell"},
        {"OPENBLAS_CORETYPE": "Prescott", "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"},
        {"OPENBLAS_CORETYPE": WIDEST, "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR"},
    ],
    ids=lambda kernels: "-".join(kernels.values()).replace(" ", "-"),
)
@pytest.mark.parametrize("release", releases())
def test_digests_do_not_depend_on_the_kernels_of_blas_and_numpy(
    release: str, kernels: dict[str, str], tmp_path: Path
) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.golden.digests", release, str(tmp_path)], cwd=root, check=True, text=True,
        env={**os.environ, **kernels, "PYTHONPATH": str(root)}, stdout=subprocess.PIPE, timeout=300,
    )  # fmt: skip
    for shard, found in json.loads(done.stdout).items():
        known = expected()[release][shard]
        assert {part: digest for part, _, digest in found} == {part: known[part][str(v)] for part, v, _ in found}


def test_the_whole_journal_gives_the_same_verdicts(case: tuple[str, Placement, Golden]) -> None:
    _, placement, golden = case
    restored, whole = (
        folded(golden, placement),
        folded(golden, placement, sections_of(golden, placement), from_start=True),
    )
    assert whole.events == restored.events
    if placement.shard.name == "finetune":
        assert rounds(whole).outcomes == rounds(restored).outcomes
        assert msgspec.to_builtins(rounds(whole).lineup.champion) == msgspec.to_builtins(
            rounds(restored).lineup.champion
        )
    else:
        assert next_item(whole).champion == next_item(restored).champion is not None


def sections_of(golden: Golden, placement: Placement) -> dict[str, Any]:
    """Return the settings with which a golden log was made."""
    return {
        name: family.settings
        for name, family in folded(golden, placement).families.items()
        if hasattr(family, "settings")
    }


def test_a_log_whose_journal_was_trimmed_goes_on_with_all_its_events(
    case: tuple[str, Placement, Golden], tmp_path_factory: pytest.TempPathFactory
) -> None:
    release, placement, golden = case
    before = folded(golden, placement)
    entries = newest(golden, placement)[0].number
    trim(golden, placement)
    with closing(unpack(release, tmp_path_factory.mktemp("whole"))) as whole:
        sections = sections_of(whole, placement)
        shop, other = continued(golden, placement, sections), continued(whole, placement, sections)
    assert shop.events == before.events + MORE_EVENTS
    # Traits take effect at the end of an entry, and the two runs commit at other events.
    assert [one for one in digests(shop) if "traits" not in one[0]] == [
        one for one in digests(other) if "traits" not in one[0]
    ]
    opening = [
        entry for record in committed_records(golden.log, placement.shard.journal)
        if (entry := journal.decode(record)).stamp
    ]  # fmt: skip
    assert [(entry.number, entry.stamp) for entry in opening] == [(entries + 1, shop.stamp)]
    assert digest(folded(golden, placement).state()) == digest(shop.state())


def test_other_bounds_are_adopted_in_place(case: tuple[str, Placement, Golden]) -> None:
    _, placement, golden = case
    trim(golden, placement)
    before = folded(golden, placement)
    name = "next_item" if placement.shard.name == "online" else "rounds"
    family: Any = before.families[name]
    settings = msgspec.structs.replace(family.settings, items_max=50, shoppers_max=5_000)
    shop = continued(golden, placement, {name: settings})
    assert shop.events == before.events + MORE_EVENTS
    assert shop.bounds()["catalogue_items"][0] <= shop.bounds()["catalogue_items"][1] == 50
    assert shop.bounds()["contexts_shoppers"][1] == 5_000
    entries = [journal.decode(one) for one in committed_records(golden.log, placement.shard.journal)]
    renewed = [entry.renewed for entry in entries if entry.renewed]
    assert [unmigrated(one) for one in renewed] == [
        {f"{name}.items_max": "set from 400 to 50", f"{name}.shoppers_max": "set from 300 to 5000"}
    ]
    assert digest(folded(golden, placement).state()) == digest(shop.state()), "a follower has the shard's settings"


@pytest.mark.parametrize("trimmed", [False, True])
@pytest.mark.parametrize("case", [pair for pair in PAIRS if pair[1] == "online"], indirect=True)
def test_a_part_that_cannot_be_migrated_is_folded_anew_or_begins_empty_alone(
    case: tuple[str, Placement, Golden], trimmed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, placement, golden = case
    before = folded(golden, placement)
    sections = sections_of(golden, placement)
    if trimmed:
        trim(golden, placement)
    changed = {**PurchaseFamily.parts, "propensity": Part(2)}
    monkeypatch.setattr(PurchaseFamily, "parts", changed)
    with closing(Loop(golden.log, golden.blobs, placement.shard, make=MakeShop(placement.kinds, sections))) as loop:
        shop = loop.fold
    how = "begun empty: version 1 cannot be migrated to 2" if trimmed else "folded anew from the journal"
    migrated = {} if trimmed else {f"purchase.{part}": how for part in ("drift", "probability")}  # as a whole
    assert unmigrated(shop.renewed) == {"purchase.propensity": how, **migrated}
    found, wanted = ({part: digest for part, _, digest in digests(one)} for one in (shop, before))
    if trimmed:  # what follows the snapshot is learned, without what was open before it
        changed_parts = {f"purchase.{part}" for part in changed}
    else:  # by today's rules, with the desk through which the family's events pass, and what reads that desk
        changed_parts = {
            part for part in found if part.startswith(("purchase.", "desk.", "shopper_value.", "demand.", "stock."))
        }
        whole = {part: digest for part, _, digest in digests(folded(golden, placement, sections, from_start=True))}
        assert {part: found[part] for part in changed_parts} == {part: whole[part] for part in changed_parts}
    assert {part for part in found if found[part] != wanted[part]} <= changed_parts
    assert shop.events == before.events
    assert digest(folded(golden, placement).state()) == digest(shop.state())


def test_a_log_that_goes_on_is_still_one_fold(case: tuple[str, Placement, Golden]) -> None:
    _, placement, golden = case
    shop = continued(golden, placement, sections_of(golden, placement))
    make = MakeShop(placement.kinds, sections_of(golden, placement))
    assert newest(golden, placement)[1].stamp == shop.stamp
    checked = check_folds(golden.log, golden.blobs, placement.shard, make=make)
    assert digest(checked.fold.state()) == digest(shop.state())
    assert committed_records(golden.log, Partition(MODELS, 0))
    assert sum(len(committed_records(golden.log, Partition(EVENTS, number))) for number in range(4)) == shop.events


def test_a_state_that_is_no_state_is_refused() -> None:
    with pytest.raises(StateUnreadable, match=r"wanted a stamp, or a state of headrace 0.3.0, found lines"):
        MakeShop(PLACEMENTS["online"].kinds)({"lines": []})
