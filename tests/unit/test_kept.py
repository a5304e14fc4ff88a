"""Snapshots with which folds must go on, as an upgrade or a refold wrote them, stay as long as folds may come by."""

from contextlib import closing
from pathlib import Path

import pytest

from headrace.errors import BlobMissing
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.follower import Follower
from headrace.shard.journal import Pointer
from headrace.shard.kept import HOUR_MS, daily_ms, kept_snapshots, renewing_kept, store_pointer, sweep
from headrace.shard.refold import refold
from headrace.topics import DAY_MS
from tests.filed_shop import MAKE, SHARD, FiledShop
from tests.shards import online


@pytest.fixture
def shop(tmp_path: Path) -> FiledShop:
    found = FiledShop(tmp_path)
    found.learn(100)
    found.later_ms += HOUR_MS  # the newest snapshot so far is the last of its hour
    return found


def newest(shop: FiledShop) -> Pointer:
    entry = journal.newest(shop.log, SHARD)
    assert entry
    assert entry.snapshot
    return entry.snapshot


def digest_from(shop: FiledShop, pointer: Pointer | None) -> str:
    """Return the digest of a fold from a snapshot, or from the newest, to the journal's end."""
    with closing(Follower(shop.log, shop.blobs, SHARD, make=MAKE, snapshot=pointer)) as follower:
        follower.catch_up()
        return follower.digest()


def kept(shop: FiledShop, pointer: Pointer) -> bool:
    return pointer.blob in {one.pointer.blob for one in kept_snapshots(shop.blobs, SHARD.name)}


def test_folds_from_before_a_refold_go_past_it_however_many_snapshots_follow(shop: FiledShop) -> None:
    before = newest(shop)
    shop.learn(50, first=100)
    refolded = refold(shop.log, shop.blobs, SHARD, make=MAKE, clock=shop.now_ms)
    shop.learn(300, first=150)
    assert refolded.blob not in newest(shop).named, "more than three snapshots have followed"
    assert kept(shop, refolded)
    wanted = digest_from(shop, None)
    assert digest_from(shop, before) == wanted
    (shop.blobs.folder / refolded.blob).unlink()
    assert digest_from(shop, before) == wanted, "the fold has the same state, as the digest in the name says"


def test_folds_from_before_an_upgrade_go_past_it_with_its_snapshot_alone(shop: FiledShop) -> None:
    before = newest(shop)
    with closing(shop.loop(make=online(items_max=32, shoppers_max=50))):
        renewed = newest(shop)
    shop.learn(300, first=100)
    assert renewed.renews
    assert kept(shop, renewed)
    assert digest_from(shop, before) == digest_from(shop, None)
    (shop.blobs.folder / renewed.blob).unlink()
    with pytest.raises(BlobMissing, match=renewed.blob):
        digest_from(shop, before)


def test_only_the_newest_of_a_month_that_renew_a_state_are_kept(tmp_path: Path) -> None:
    blobs, now_ms = Blobs(tmp_path), 100 * DAY_MS
    times = [now_ms - 2 * daily_ms, *(now_ms - 2 * HOUR_MS + number for number in range(20)), now_ms]
    pointers = [
        Pointer(blobs.put("online", bytes([number])), number, 0, 0, {}, {}, time_ms=time_ms, renews=time_ms < now_ms)
        for number, time_ms in enumerate(times)
    ]
    for pointer in pointers:
        store_pointer(blobs, "online", pointer)
    sweep(blobs, "online", (), {})
    left = {one.pointer.number for one in kept_snapshots(blobs, "online")}
    assert left == {21, *range(21 - renewing_kept, 21)}
