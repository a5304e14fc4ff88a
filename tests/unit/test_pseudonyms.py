"""Pseudonyms: the same for the same id, of versions, and never with the secret beside them."""

import json
import stat
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headrace.errors import Misconfigured
from headrace.keys import look_every_s
from headrace.pseudonyms import Pseudonyms, Secret, add_secret, ensure_secret, read_secrets, retire_secret
from operators.cli import app

NOW_MS = 1_772_359_200_000


def test_a_pseudonym_depends_on_id_kind_and_secret_alone() -> None:
    one, other = Secret(1, b"0" * 32, NOW_MS), Secret(2, b"1" * 32, NOW_MS)
    assert one.shopper("ann") == Secret(1, b"0" * 32, 0).shopper("ann") == "p1.wNonaZXl8QQJvnQrud-qLg"
    names = [one.shopper("ann"), one.session("ann"), one.shopper("Ann"), one.shopper("ann "), other.shopper("ann")]
    assert len(set(names)) == 5
    assert {len(name) for name in names} == {25}
    assert other.shopper("ann").startswith("p2.")
    assert one.shopper("\ud800") != one.shopper("\udfff")


def test_the_secret_is_in_its_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "pseudonyms.json"
    secret = add_secret(path, NOW_MS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (stored,) = json.loads(path.read_bytes())
    assert f"{secret!r} {secret} {[secret]}" == "Secret(version=1) Secret(version=1) [Secret(version=1)]"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(Misconfigured) as caught:
        read_secrets(path)
    assert stored["secret"] not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_rotation_is_followed_and_older_names_stay_until_retired(tmp_path: Path) -> None:
    path, seconds = tmp_path / "pseudonyms.json", [0.0]
    first = add_secret(path, NOW_MS)
    names = Pseudonyms(path, seconds=lambda: seconds[0])
    second = add_secret(path, NOW_MS + 1)
    assert list(names.secrets) == [first]
    seconds[0] += look_every_s
    assert list(names.secrets) == [first, second]
    assert names.names_of("ann") == [second.shopper("ann"), first.shopper("ann"), "ann"]
    for version in (2, 3):
        with pytest.raises(Misconfigured, match=rf"wanted an older version \(1\), found {version}"):
            retire_secret(path, version)
    retire_secret(path, 1)
    seconds[0] += look_every_s
    assert names.names_of("ann") == [second.shopper("ann"), "ann"]
    assert add_secret(path, NOW_MS).version == 3


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"[" * 10_000, b'[{"version": 1}]', None])
def test_secrets_in_use_stay_where_the_file_is_damaged(tmp_path: Path, content: bytes | None) -> None:
    path, seconds = tmp_path / "pseudonyms.json", [0.0]
    secret = add_secret(path, NOW_MS)
    names = Pseudonyms(path, seconds=lambda: seconds[0])
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    seconds[0] += look_every_s
    assert names.secrets == (secret,)


@pytest.mark.parametrize(
    ("versions", "length"), [((1, 1), 32), ((2, 1), 32), ((0,), 32), ((1,), 31)],
)  # fmt: skip
def test_a_file_of_other_secrets_is_refused(tmp_path: Path, versions: tuple[int, ...], length: int) -> None:
    path = tmp_path / "pseudonyms.json"
    stored = [{"version": one, "secret": "A" * (length * 8 // 6 + 1), "created_ms": 0} for one in versions]
    path.write_text(json.dumps(stored))
    with pytest.raises(Misconfigured, match="pseudonyms"):
        Pseudonyms(path)


def test_gateways_that_start_at_once_make_one_secret(tmp_path: Path) -> None:
    path, made = tmp_path / "pseudonyms.json", list[bool]()
    threads = [threading.Thread(target=lambda: made.append(ensure_secret(path, NOW_MS))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False] * 7 + [True]
    assert [one.version for one in read_secrets(path)] == [1]


def test_a_file_that_has_a_secret_is_not_written(tmp_path: Path) -> None:
    """Gateways may share one that they cannot write, such as a secret of Kubernetes."""
    path = tmp_path / "made" / "pseudonyms.json"
    path.parent.mkdir()
    shared = tmp_path / "shared" / "pseudonyms.json"
    shared.parent.mkdir()
    add_secret(path, NOW_MS)
    shared.write_bytes(path.read_bytes())
    assert not ensure_secret(shared, NOW_MS)
    assert [one.name for one in shared.parent.iterdir()] == [shared.name]


def test_the_command_makes_the_first_secret_and_no_second_one(tmp_path: Path) -> None:
    env = {"HEADRACE_PSEUDONYMS": str(tmp_path / "pseudonyms.json")}
    assert CliRunner().invoke(app, ["pseudonyms", "create"], env=env).exit_code == 0
    assert [one.version for one in read_secrets(tmp_path / "pseudonyms.json")] == [1]
    again = CliRunner().invoke(app, ["pseudonyms", "create"], env=env)
    assert isinstance(again.exception, Misconfigured)
    assert "wanted no secret, found one" in str(again.exception)
