"""Settings: what wins over what, and what is refused with which words."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from typer.testing import CliRunner

from headrace.config import DEFAULT_SHARDS, FILE, Sections, Settings, ShardSettings, own_families, settings
from headrace.errors import Misconfigured
from learners.families import FAMILIES
from learners.next_item.family import NextItemSettings
from learners.rounds.settings import RoundsSettings
from operators.cli import app

pytestmark = pytest.mark.usefixtures("clean_environment")

KINDS: dict[str, type[Struct]] = {kind.name: kind.surface.settings for kind in FAMILIES}


def read(environ: dict[str, str] | None = None, **options: Any) -> Sections:
    """Return the settings with a section for each of our families."""
    return settings(KINDS, os.environ if environ is None else environ, **options)


def next_item(found: Sections) -> NextItemSettings:
    section = found.families["next_item"]
    assert isinstance(section, NextItemSettings)
    return section


def rounds(found: Sections) -> RoundsSettings:
    section = found.families["rounds"]
    assert isinstance(section, RoundsSettings)
    return section


def test_defaults_listen_on_loopback_alone() -> None:
    found = settings().common
    assert found.host == "127.0.0.1"
    assert found.log.startswith("sqlite:")


def test_options_win_over_the_environment_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / FILE).write_text('log = "sqlite:file"\nblobs = "file"\nhost = "file"\n[next_item]\nitems_max = 5\n')
    monkeypatch.setenv("HEADRACE_BLOBS", "environment")
    monkeypatch.setenv("HEADRACE_HOST", "environment")
    monkeypatch.setenv("HEADRACE_SHARDS__ONLINE__METRICS_PORT", "77")
    found = read(host="option", log=None, shards={"online": {"metrics_port": None}})
    common = found.common
    assert (common.log, common.blobs, common.host) == ("sqlite:file", "environment", "option")
    assert (next_item(found).items_max, common.shards["online"].metrics_port) == (5, 77)


def test_settings_of_a_family_come_from_options_over_the_environment_over_the_file(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("[rounds]\npasses = 5\nround_events = 5\nwidth = 6\n")
    environ = {"HEADRACE_ROUNDS__PASSES": "7", "HEADRACE_ROUNDS__ROUND_EVENTS": "7"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        found = rounds(read(rounds={"round_events": "9"}))
    assert (found.round_events, found.passes, found.width, found.first_passes) == (9, 7, 6, 8)


def test_shards_that_are_not_named_keep_their_defaults(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('[shards.online]\nmetrics_port = 5\n[shards.mine]\npartition = 2\nfamilies = ["x"]\n')
    shards = settings().common.shards
    assert {name: (shard.partition, shard.metrics_port) for name, shard in shards.items()} == {
        "online": (0, 5), "finetune": (1, DEFAULT_SHARDS["finetune"]["metrics_port"]), "mine": (2, 0),
    }  # fmt: skip
    assert shards["mine"].families == ("x",)


def test_families_of_your_own_are_known_before_their_sections_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FILE).write_text('families = ["shop.families:Mine"]\n[mine]\nwidth = 3\n')
    assert own_families() == ("shop.families:Mine",)
    monkeypatch.setenv("HEADRACE_FAMILIES", '["shop.others:Theirs"]')
    assert own_families() == ("shop.others:Theirs",)


def test_a_family_may_not_have_the_name_of_a_setting() -> None:
    with pytest.raises(Misconfigured, match="family serve"):
        settings({"serve": NextItemSettings})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HEADRACE_LOGS", "x", "HEADRACE_LOGS"),
        ("HEADRACE_ONLINE__METRICS_PORT", "5", "HEADRACE_ONLINE__METRICS_PORT.*HEADRACE_SHARDS.*HEADRACE_NEXT_ITEM"),
        ("HEADRACE_NEXT_ITEM__ITEMS_MAXX", "5", "items_maxx"),
        ("HEADRACE_NEXT_ITEM__ITEMS_MAX", "many", "many"),
        ("HEADRACE_NEXT_ITEM__ITEMS_MAX", "0", "next_item.*items_max"),
        ("HEADRACE_SHARDS__ONLINE__METRICS_PORT", "70000", "metrics_port"),
        ("HEADRACE_SHARDS__ONLINE__METRICS_PORTS", "7000", "metrics_ports"),
        ("HEADRACE_SHARDS__MINE__METRICS_PORT", "7000", "shards.mine.partition"),
        ("HEADRACE_SHARDS__MINE__PARTITION", "8", "shards.mine.partition"),
        ("HEADRACE_ROUNDS__DEVICE", "tpu", "device"),
        ("HEADRACE_ROUNDS", "foo", "settings: wanted one variable for each.*rounds"),
        ("HEADRACE_SHARDS", "foo", "settings: wanted one variable for each.*shards"),
        ("HEADRACE_HOST", "", "host"),
        ("HEADRACE_ROUNDS__WIDTH", "25", "multiple of 2.*width"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Misconfigured, match=said):
        read()


@pytest.mark.parametrize(
    "text",
    [
        "log =",
        'logs = "x"',
        "[online]\nmetrics_port = 1\n",
        "[next_item]\nbogus = 1\n",
        "[shards.online]\nbogus = 1\n",
        "[shards]\nonline = 1\n",
        "[producer]\nmetrics_port = -1\n",
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(Misconfigured):
        read()


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(Misconfigured, match="folder"):
        settings()


def test_other_variables_of_ours_are_let_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_KAFKA", "localhost:9092")
    monkeypatch.setenv("HEADRACE_DATA", "/data")
    found, without = read(), read({})
    assert found.common.model_dump() == without.common.model_dump()
    assert found.families == without.families


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(Misconfigured, match="SASL_PASSWORD") as caught:
        settings(log="kafka:shop:tiger@localhost:9092")
    assert "tiger" not in str(caught.value)


@pytest.mark.parametrize("uncommented", [False, True])
def test_the_printed_file_has_every_setting_at_its_default(tmp_path: Path, uncommented: bool) -> None:
    text = CliRunner().invoke(app, ["settings"]).stdout
    defaults = read()
    if uncommented:
        text = re.sub(r"^#(?=\w+ = )", "", text, flags=re.MULTILINE)
    (tmp_path / FILE).write_text(text)
    found = read()
    common = set(Settings.model_fields)
    assert found.common.model_dump(include=common) == defaults.common.model_dump(include=common)
    assert found.families == defaults.families
    given = tomllib.loads(text)
    named = {**given, **{f"shards.{name}": part for name, part in given.pop("shards").items()}}
    without_default = {"round_ms"}
    for name in ("serve", "producer"):
        assert set(named[name]) == (set(type(getattr(defaults.common, name)).model_fields) if uncommented else set())
    for name in DEFAULT_SHARDS:
        assert set(named[f"shards.{name}"]) == (set(ShardSettings.model_fields) if uncommented else set())
    for name, section in defaults.families.items():
        wanted = set(section.__struct_fields__) - without_default if uncommented else set()
        assert set(named[name]) == wanted, name
    assert all(f"# {name} = (no default)\n" in text for name in without_default)
    assert "](" not in text
