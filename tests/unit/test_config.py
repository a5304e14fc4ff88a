"""Settings: what wins over what, and what is refused with which words."""

import os
from pathlib import Path

import pytest

from headrace.config import FILE, reference, settings
from headrace.errors import Misconfigured

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_the_document_is_what_the_settings_say() -> None:
    document = Path(__file__).parents[2] / "docs" / "settings.md"
    assert document.read_text(encoding="utf-8") == reference(), "run: python -m headrace.config > docs/settings.md"
    assert "None" not in reference()  # each setting says what it is


def test_defaults_listen_on_loopback_alone() -> None:
    found = settings()
    assert found.host == "127.0.0.1"
    assert found.log.startswith("sqlite:")


def test_options_win_over_the_environment_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / FILE).write_text('log = "sqlite:file"\nblobs = "file"\nhost = "file"\n[online]\nitems_max = 5\n')
    monkeypatch.setenv("HEADRACE_BLOBS", "environment")
    monkeypatch.setenv("HEADRACE_HOST", "environment")
    monkeypatch.setenv("HEADRACE_ONLINE__METRICS_PORT", "77")
    found = settings(host="option", log=None, online={"metrics_port": None})
    assert (found.log, found.blobs, found.host) == ("sqlite:file", "environment", "option")
    assert (found.online.items_max, found.online.metrics_port) == (5, 77)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HEADRACE_LOGS", "x", "HEADRACE_LOGS"),
        ("HEADRACE_ONLINE__ITEMS_MAXX", "5", "items_maxx"),
        ("HEADRACE_ONLINE__ITEMS_MAX", "many", "many"),
        ("HEADRACE_ONLINE__METRICS_PORT", "70000", "metrics_port"),
        ("HEADRACE_FINETUNE__DEVICE", "tpu", "device"),
        ("HEADRACE_ONLINE", "foo", "settings: wanted one variable for each.*online"),
        ("HEADRACE_HOST", "", "host"),
        ("HEADRACE_FINETUNE__WIDTH", "25", "width.*multiple of 2"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Misconfigured, match=said):
        settings(os.environ)


@pytest.mark.parametrize("text", ["log =", 'logs = "x"', "[online]\nbogus = 1\n", "[producer]\nmetrics_port = -1\n"])
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(Misconfigured):
        settings()


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(Misconfigured, match="folder"):
        settings()


def test_other_variables_of_ours_are_let_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_KAFKA", "localhost:9092")
    monkeypatch.setenv("HEADRACE_DATA", "/data")
    assert settings(os.environ) == settings({})


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(Misconfigured, match="SASL_PASSWORD") as caught:
        settings(log="kafka:shop:tiger@localhost:9092")
    assert "tiger" not in str(caught.value)
