"""API keys: who is let in, for how long, and what is written down."""

import stat
import threading
from pathlib import Path

import pytest

from headrace import keys
from headrace.errors import Misconfigured
from headrace.keys import Key, KeyRing, create, look_every_s, read_keys, revoke, rotate

NOW_MS = 1_772_359_200_000
HOUR_MS = 3_600_000


class Hand:
    """Two clocks that a test sets: seconds that pass, and the date."""

    def __init__(self) -> None:
        self.s, self.ms = 0.0, NOW_MS

    def ring(self, path: Path) -> KeyRing:
        return KeyRing(path, clock=lambda: self.ms, seconds=lambda: self.s)


def test_a_key_is_found_by_its_text_alone_which_is_stored_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keys.json"
    key, text = create(path, "acme", "ingest", origins=["https://acme.example:8443"], now_ms=NOW_MS)
    ring = Hand().ring(path)
    assert ring.find(text) == key == Key(
        key.id, "acme", "ingest", keys.digest_of(text), NOW_MS, ("https://acme.example:8443",)
    )  # fmt: skip
    assert ring.find(text[:-1]) is ring.find(text.upper()) is ring.find("") is ring.find("\ud800") is None
    assert text.startswith(f"hr_{key.id}_")
    assert len(text) > 50
    secret = text.rpartition("_")[2]
    assert not any(secret.encode() in file.read_bytes() for file in path.parent.iterdir())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(("role", "may"), [("ingest", "ingest"), ("read", "read"), ("operate", "ingest read operate")])
def test_a_role_grants_what_it_is_for(tmp_path: Path, role: keys.Role, may: str) -> None:
    key, _ = create(tmp_path / "keys", "acme", role, now_ms=NOW_MS)
    assert [one for one in ("ingest", "read", "operate") if key.may(one)] == may.split()


def test_a_revoked_key_works_for_half_a_second_at_most(tmp_path: Path) -> None:
    path, hand = tmp_path / "keys", Hand()
    (key, text), (other, kept) = (create(path, "acme", "read", now_ms=NOW_MS) for _ in range(2))
    ring = hand.ring(path)
    assert ring.find(text) == key
    assert revoke(path, key.id) == key
    hand.s += look_every_s
    assert ring.find(text) is None
    assert ring.find(kept) == other
    with pytest.raises(Misconfigured, match=f"wanted one of {other.id}, found {key.id}"):
        revoke(path, key.id)


def test_a_rotated_key_works_beside_the_new_one_until_its_grace_is_over(tmp_path: Path) -> None:
    path, hand = tmp_path / "keys", Hand()
    old, old_text = create(path, "acme", "ingest", origins=["https://acme.example"], now_ms=NOW_MS)
    new, new_text = rotate(path, old.id, grace_ms=HOUR_MS, now_ms=NOW_MS)
    ring = hand.ring(path)
    assert (new.shop, new.role, new.origins, new.ends_ms) == ("acme", "ingest", ("https://acme.example",), None)
    assert ring.find(old_text) is not None
    assert ring.find(new_text) == new
    hand.ms += HOUR_MS
    assert ring.find(old_text) is None
    assert ring.find(new_text) == new
    with pytest.raises(Misconfigured, match="which has ended"):
        rotate(path, old.id, grace_ms=HOUR_MS, now_ms=hand.ms)


def test_rotating_a_key_does_not_make_it_last_longer(tmp_path: Path) -> None:
    path, end_ms = tmp_path / "keys", NOW_MS + HOUR_MS // 2
    old, _ = create(path, "acme", "ingest", ends_ms=end_ms, now_ms=NOW_MS)
    new, _ = rotate(path, old.id, grace_ms=HOUR_MS, now_ms=NOW_MS)
    assert [key.ends_ms for key in read_keys(path)] == [end_ms, end_ms]
    assert new.ends_ms == end_ms


def test_a_full_file_takes_no_key_and_a_rotation_leaves_the_old_one_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "keys_max", 2)
    path = tmp_path / "keys"
    first, _ = create(path, "acme", "read", now_ms=NOW_MS)
    create(path, "acme", "read", now_ms=NOW_MS)
    before = path.read_bytes()
    with pytest.raises(Misconfigured, match="wanted at most 2 keys"):
        create(path, "acme", "read", now_ms=NOW_MS)
    with pytest.raises(Misconfigured, match="wanted at most 2 keys"):
        rotate(path, first.id, grace_ms=0, now_ms=NOW_MS)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{}", b'[{"id": 1}]', b"[" * 10_000, b"\xff", b'[{"role": "all"}]'])
def test_a_damaged_file_lets_nobody_in_until_it_is_repaired(tmp_path: Path, content: bytes) -> None:
    path, hand = tmp_path / "keys", Hand()
    key, text = create(path, "acme", "operate", now_ms=NOW_MS)
    ring, good = hand.ring(path), path.read_bytes()
    assert ring.find(text) == key
    path.write_bytes(content)
    hand.s += look_every_s
    assert ring.find(text) is None
    assert f"keys {path}" in ring.fault
    with pytest.raises(Misconfigured, match="wanted a file of keys"):
        create(path, "acme", "operate", now_ms=NOW_MS)
    assert path.read_bytes() == content
    path.write_bytes(good)
    hand.s += look_every_s
    assert ring.find(text) == key
    assert not ring.fault
    path.unlink()
    hand.s += look_every_s
    assert ring.find(text) is None
    assert ring.origins() == set()


def test_origins_are_those_of_keys_that_work(tmp_path: Path) -> None:
    path, hand = tmp_path / "keys", Hand()
    create(path, "acme", "ingest", origins=["https://a.example", "http://localhost:3000"], now_ms=NOW_MS)
    create(path, "acme", "ingest", origins=["https://b.example"], ends_ms=NOW_MS + 1, now_ms=NOW_MS)
    ring = hand.ring(path)
    assert ring.origins() == {"https://a.example", "http://localhost:3000", "https://b.example"}
    hand.ms += 1
    assert ring.origins() == {"https://a.example", "http://localhost:3000"}


@pytest.mark.parametrize(
    "origin",
    ["https://", "https://a.example/", "a.example", "null", "*", "https://A.example", "https://u@a.example", "ftp://a"],
)
def test_an_origin_that_no_browser_sends_is_refused(tmp_path: Path, origin: str) -> None:
    with pytest.raises(Misconfigured, match="as browsers send it"):
        create(tmp_path / "keys", "acme", "ingest", origins=[origin], now_ms=NOW_MS)


@pytest.mark.parametrize("shop", ["", "a b", "a\n", "x" * 65, "\ud800"])
def test_a_shop_is_a_short_word(tmp_path: Path, shop: str) -> None:
    with pytest.raises(Misconfigured, match="1 to 64 characters"):
        create(tmp_path / "keys", shop, "ingest", now_ms=NOW_MS)


def test_no_key_is_lost_where_many_are_made_at_once(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    threads = [
        threading.Thread(target=create, args=(path, "acme", "read"), kwargs={"now_ms": NOW_MS}) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({key.id for key in read_keys(path)}) == 12


def test_a_folder_that_cannot_be_written_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match="wanted a file that can be written"):
        create(tmp_path / "file" / "keys", "acme", "read", now_ms=NOW_MS)
