"""The commands as a user types them: a success prints one line, an error states what was wanted."""

import json
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from headrace.errors import Misconfigured, StateUnreadable
from headrace.letters import DeadLetter
from headrace.log.open import open_log
from headrace.log.protocol import Outgoing, Partition
from headrace.log.scan import partition_records
from headrace.pseudonyms import read_secrets
from headrace.surface import Watched
from headrace.topics import DEAD_LETTERS, EVENTS, EVENTS_REPLAY, JOURNAL, SCORES, partitions_of
from learners.next_item.family import NextItemScores, Ranked
from learners.shop import ScoreRecord
from operators.cli import app
from operators.cli.app import merge_sets
from operators.tables import NONE


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return the URL of a log with twelve records."""
    url = f"sqlite:{tmp_path / 'log.db'}"
    log = open_log(url)
    log.create()
    appender = log.appender()
    for number in range(12):
        appender.append(Outgoing(EVENTS, b"ann", b"%d" % number))
    appender.close()
    log.close()
    return url


ONLINE = "stock, next_item, purchase, profiles, segments, shopper_value, demand"
"""The families of the shard, as messages name them."""


def output_of(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def error_of(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, Misconfigured), result.output
    return str(result.exception)


def test_republish_copies_everything_or_a_range(url: str) -> None:
    common = ("republish", "--into", EVENTS_REPLAY, "--log", url)
    assert output_of(*common) == f"republished 12 records of {EVENTS} into {EVENTS_REPLAY}\n"
    assert "republished 0 records" in output_of(*common, "--to", "2020-01-01T00:00:00Z")
    assert "republished 12 records" in output_of(*common, "--from", "2020-01-01T00:00:00Z")
    assert output_of(*common, "--dry-run") == f"would republish 12 records of {EVENTS} into {EVENTS_REPLAY}\n"
    assert json.loads(output_of(*common, "--dry-run", "--json"))["records"] == 12


def test_a_proposal_and_an_archive_can_be_tried_without_a_change(url: str, tmp_path: Path) -> None:
    model, blobs = tmp_path / "model", tmp_path / "blobs"
    model.write_bytes(b"numbers")
    common = ("propose", str(model), "--log", url, "--blobs", str(blobs), "--why", "better", "--by", "ann", "--json")
    tried = json.loads(output_of(*common, "--dry-run"))
    assert (tried["written"], [*blobs.iterdir()]) == (False, [])
    done = json.loads(output_of(*common))["proposal"]
    assert (done["by"], done["reason"], done["blob"]) == ("ann", "better", tried["proposal"]["blob"])
    assert [path.name for path in blobs.iterdir()] == [done["blob"]]

    folder = tmp_path / "archive"
    archive = ("archive", "--log", url, "--archive", str(folder))
    assert json.loads(output_of(*archive, "--dry-run", "--json")) == {"waiting": 13}
    assert "13 records wait" in output_of(*archive, "--dry-run")
    assert not any(folder.glob("**/*.parquet"))
    output_of(*archive, "--once")
    assert json.loads(output_of(*archive, "--dry-run", "--json")) == {"waiting": 0}


def test_dead_letters_are_listed_shown_redriven_and_dropped(url: str, tmp_path: Path) -> None:
    value = b'{"who": "ann", "what": "boots", "at": "2026-01-05T10:00:00Z"}'
    log = open_log(url)
    appender = log.appender()
    for topic, key, data in ((EVENTS, b"ann", value), (EVENTS, b"\x00\xff", b"\xff\x1b[31m")):
        letter = DeadLetter(f"{topic}/0/{len(data)}", "schema", "a \x1b[31mfault", 1_000, key, data, len(data))
        appender.append(Outgoing(DEAD_LETTERS, b"-", msgspec.json.encode(letter), 0))
    appender.close()
    log.close()
    mapping = tmp_path / "fix.toml"
    mapping.write_text('[event]\nshopper = "who"\ntype = "view_item"\ntime = "at"\n[item]\nitem_id = "what"\n')
    common = ("--log", url)
    assert json.loads(output_of("dead-letters", "list", "--json", *common))[0]["open"] == 2
    assert "schema" in output_of("dead-letters", "list", *common)
    assert "boots" in output_of("dead-letters", "show", *common)
    assert "\x1b" not in output_of("dead-letters", "show", *common), "nothing controls the terminal"
    assert "redriven: 0; still open: 2" in output_of("dead-letters", "redrive", *common)
    redrive = ("dead-letters", "redrive", "--map", str(mapping), "--why", "the old app", *common)
    assert "would be redriven: 1; still open: 1" in output_of(*redrive, "--dry-run")
    assert json.loads(output_of(*redrive, "--json"))["settled"] == 1
    assert "dropped: 1; still open: 0" in output_of("dead-letters", "drop", "--reason", "schema", *common)
    assert json.loads(output_of("dead-letters", "list", "--json", *common))[0]["open"] == 0
    assert "wanted an origin such as events/0/17" in error_of("dead-letters", "show", "events/17", *common)
    assert "wanted one of empty, too_large" in error_of("dead-letters", "list", "--reason", "ugly", *common)


def test_status_does_not_create_a_missing_log(tmp_path: Path) -> None:
    assert "there is no such file" in error_of("status", "--log", f"sqlite:{tmp_path / 'no' / 'log.db'}")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("republish",),
        ("propose", "model"),
        ("promote", "r1", "--why", "a try"),
        ("withdraw", "r1", "--why", "a try"),
        ("roll-back", "--to", "none", "--why", "a try"),
        ("roll-back", "--undo", "--why", "a try"),
        ("history",),
        ("online", "--refold"),
        ("finetune", "--refold"),
        ("learn", "placements", "experiments", "exploration", "exposure", "rounds", "--refold"),
    ],
)
def test_commands_that_need_an_existing_log_do_not_create_one(tmp_path: Path, command: tuple[str, ...]) -> None:
    path = tmp_path / "no" / "log.db"
    blobs = () if command[0] in ("republish", "withdraw") else ("--blobs", str(tmp_path / "b"))
    common = ("--log", f"sqlite:{path}", *blobs)
    assert "there is no such file" in error_of(*command, *common)
    assert "there is no such file" in error_of("load", str(tmp_path / "nothing"), "--log", f"sqlite:{path}")
    assert not path.exists()


@pytest.mark.parametrize("kind", ["file", "folder of a file", "memory", "no database"])
def test_an_unusable_path_of_a_log_is_misconfigured(tmp_path: Path, kind: str) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"no database" * 100)
    url = {
        "file": f"sqlite:{plain / 'log.db'}", "folder of a file": f"sqlite:{plain / 'a' / 'log.db'}",
        "memory": "sqlite::memory:", "no database": f"sqlite:{plain}",
    }[kind]  # fmt: skip
    error_of("simulate", "--events", "10", "--log", url, "--metrics-port", "0")


@pytest.mark.parametrize("command", [("demo", "--events", "1000"), ("kafka", "start")])
def test_a_folder_that_is_a_file_is_misconfigured(tmp_path: Path, command: tuple[str, ...]) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert "wanted a folder" in error_of(*command, "--folder", str(plain))


def test_status_reports_a_journal_that_expired(url: str) -> None:
    log = open_log(url)
    writer = log.writer("online")
    writer.commit([Outgoing(JOURNAL, b"online", b"{}", 0)], {})
    writer.settle()
    log.delete_before(Partition(JOURNAL, 0), 1)
    writer.close()
    log.close()
    assert (
        "online (stock, next_item, purchase, profiles, segments, shopper_value, demand): all of its journal has expired"
        in output_of("status", "--log", url)
    )


def test_status_of_a_log(url: str) -> None:
    text = output_of("status", "--log", url)
    assert f"online ({ONLINE}): has never run on this log" in text
    assert "finetune (placements, experiments, exploration, exposure, rounds): has never run on this log" in text


def test_status_without_a_terminal_is_not_truncated(url: str) -> None:
    learner, score = "x" * 200, Ranked(judged=1_234, window={"recall@20": 0.5, "mrr@20": 0.25}, whole={})
    scores = msgspec.Raw(msgspec.json.encode(NextItemScores("", {learner: score})))
    scored = ScoreRecord("next_item/0/0", "next_item", 1, 0, scores, {"popularity": Watched(0.1)})
    log = open_log(url)
    appender = log.appender()
    appender.append(Outgoing(SCORES, b"next_item", msgspec.json.encode(scored)))
    appender.close()
    log.close()
    (row,) = [line.split() for line in output_of("status", "--log", url).splitlines() if "x" * 60 in line]
    assert row == [learner, "1,234", NONE, "50.0", "%", NONE, "25.0", "%", NONE, NONE]


@pytest.mark.parametrize("address", ["localhost", "localhost:port", "localhost:0", ":9092", "localhost:9092,other"])
def test_a_kafka_address_needs_host_and_port(address: str) -> None:
    assert "wanted HOST:PORT" in error_of("status", "--log", f"kafka:{address}")


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: a folder where root can make no file either")
@pytest.mark.parametrize(
    "command", [("online",), ("finetune",), ("learn", "placements", "experiments", "exploration", "exposure", "rounds")]
)
def test_a_shard_wants_a_folder_for_snapshots_before_the_log(tmp_path: Path, command: tuple[str, ...]) -> None:
    found = error_of(*command, "--log", f"sqlite:{tmp_path / 'log.db'}", "--blobs", "/proc/self", "--metrics-port", "0")
    assert found.startswith("blobs /proc/self: wanted a folder to write to")
    assert not (tmp_path / "log.db").exists()


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("online", ["online", "--blobs", "a file"]),
        ("finetune", ["finetune", "--blobs", "a file"]),
        (
            "online",
            [
                "learn",
                "stock",
                "purchase",
                "profiles",
                "segments",
                "shopper_value",
                "demand",
                "next_item",
                "--blobs",
                "a file",
            ],
        ),
        ("producer", ["load", "a file", "--host", "192.0.2.1"]),
        ("producer", ["simulate", "--host", "192.0.2.1"]),
    ],
)
def test_a_process_reports_first_that_it_is_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, command: list[str]
) -> None:
    """It does so even if it then finds that it cannot start."""
    monkeypatch.chdir(tmp_path)
    Path("a file").touch()
    result = CliRunner().invoke(app, [*command, "--log", "sqlite:log.db"])
    assert isinstance(result.exception, Misconfigured)
    assert result.stderr == f"{kind}: starting: loading libraries, opening log sqlite:log.db\n"


def test_a_shard_that_never_ran_cannot_be_refolded(url: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["finetune", "--refold", "--log", url, "--blobs", str(tmp_path)])
    assert isinstance(result.exception, StateUnreadable)
    assert str(result.exception) == "finetune: wanted a journal to fold, found no entry in journal/1"


def test_blobs_need_a_folder(url: str, tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file")
    (tmp_path / "model").write_text("no model")
    found = error_of("propose", str(tmp_path / "model"), "--log", url, "--blobs", str(tmp_path / "blobs"))
    assert "wanted a folder" in found


@pytest.mark.parametrize(
    ("families", "wanted"),
    [
        (
            ["nothing"],
            f"family nothing: wanted one of {ONLINE}, placements, experiments, exploration, exposure, rounds",
        ),
        (
            ["next_item"],
            f"learn next_item: wanted all families of the shard online ({ONLINE})",
        ),
        (
            ["stock", "next_item", "purchase", "profiles", "segments", "shopper_value", "demand", "rounds"],
            f"wanted all families of the shard online ({ONLINE})",
        ),
    ],
)
def test_a_shard_learns_all_its_families(families: list[str], wanted: str, tmp_path: Path) -> None:
    assert wanted in error_of("learn", *families, "--log", f"sqlite:{tmp_path / 'log.db'}")
    assert not (tmp_path / "log.db").exists()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("round_events=5", "--set round_events=5: wanted TABLE.NAME=VALUE"),
        ("rounds.round_events", "wanted TABLE.NAME=VALUE"),
        ("rounds.=5", "wanted TABLE.NAME=VALUE"),
        ("rounds.round_event=5", "rounds: Object contains unknown field `round_event`"),
        ("rounds.round_events=0", "round_events"),
        ("shards.finetune.metrics_port=70000", "shards.finetune.metrics_port"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused(text: str, wanted: str, tmp_path: Path) -> None:
    assert wanted in error_of("finetune", "--log", f"sqlite:{tmp_path / 'log.db'}", "--set", text)
    assert not (tmp_path / "log.db").exists()


def test_a_shard_s_setting_on_the_command_line_keeps_its_other_options() -> None:
    """`--metrics-port` is in the same table as a setting given by `--set`; each stays."""
    found = merge_sets(["shards.finetune.retry_s=5", "rounds.passes=2"], shards={"finetune": {"metrics_port": 7}})
    assert found == {"shards": {"finetune": {"metrics_port": 7, "retry_s": "5"}}, "rounds": {"passes": "2"}}


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    """Return a file of two orders and a torn line, with a mapping file beside it."""
    (tmp_path / "shop.toml").write_text(
        '[event]\ntype = "purchase"\ntime = "at"\nshopper = "who"\n[item]\nitem_id = "what"\n'
    )
    path = tmp_path / "orders.csv"
    path.write_text("at,who,what\n2026-03-01 08:00,ann,i1\n2026-03-01 09:00,bob,i2\n2026-03\n")
    return path


def test_load_prints_one_json_object(orders: Path, tmp_path: Path) -> None:
    command = ["load", str(orders), "--map", str(tmp_path / "shop.toml"), "--zone", "Europe/Berlin", "--json"]
    common = [*command, "--log", f"sqlite:{tmp_path / 'log.db'}", "--metrics-port", "0"]
    results = [CliRunner().invoke(app, common) for _ in range(2)]
    first, again = (msgspec.json.decode(result.stdout) for result in results)
    assert first.pop("origin").startswith("load:mapped:orders.csv:")
    assert first == {
        "published": 2, "already_published": 0, "rejected": {"row": 1}, "left_out": {}, "repeats": 0,
        "examples": ["line 4: row: wanted 3 columns, found 1"],
        "first_time": "2026-03-01T07:00:00+00:00", "last_time": "2026-03-01T08:00:00+00:00",
    }  # fmt: skip
    assert (again["published"], again["already_published"], again["first_time"]) == (0, 2, None)
    assert output_of(*command[:-1], *common[-4:]).splitlines()[2:4] == [
        "producer: 0 events published, 2 were in the log already",
        "producer: 1 left out: row",
    ]


def test_load_writes_ids_as_the_gateway_does(orders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_PSEUDONYMS", str(tmp_path / "pseudonyms.json"))
    url = f"sqlite:{tmp_path / 'log.db'}"
    command = ["load", str(orders), "--map", str(tmp_path / "shop.toml"), "--pseudonymise", "--metrics-port", "0"]
    assert f"made the secret of pseudonyms {tmp_path / 'pseudonyms.json'}" in output_of(*command, "--log", url)
    (secret,) = read_secrets(tmp_path / "pseudonyms.json")
    with closing(open_log(url)) as log:
        keys = {record.key for place in partitions_of("events") for record in partition_records(log, place)}
    assert keys == {secret.shopper("ann").encode(), secret.shopper("bob").encode()}


def test_a_dry_run_needs_no_log(orders: Path, tmp_path: Path) -> None:
    command = ["load", str(orders), "--map", str(tmp_path / "shop.toml"), "--dry-run"]
    common = [*command, "--log", f"sqlite:{tmp_path / 'no' / 'log.db'}"]
    first, second, count, times, *unused = output_of(*common).splitlines()
    assert [msgspec.json.decode(line)["subject"] for line in (first, second)] == ["ann", "bob"]
    assert count == "producer: 2 events could be published (2 purchase); nothing was"
    assert times == "producer: from 2026-03-01T08:00:00+00:00 to 2026-03-01T09:00:00+00:00"
    assert unused == ["producer: 1 left out: row", "producer:   line 4: row: wanted 3 columns, found 1"]
    found = msgspec.json.decode(output_of(*common, "--json"))
    assert (found["events"], found["published"], len(found["shown"]), found["rejected"]) == (2, 0, 2, {"row": 1})
    assert not (tmp_path / "no").exists()


def test_load_says_what_is_wrong_before_a_log_is_created(orders: Path, tmp_path: Path) -> None:
    common = ("--log", f"sqlite:{tmp_path / 'no' / 'log.db'}")
    assert "zone 'Mars': wanted a name such as" in error_of("load", str(orders), "--zone", "Mars", *common)
    assert "wanted a TOML file" in error_of("load", str(orders), "--map", str(tmp_path / "none"), *common)
    assert "no supported kind" in error_of("load", str(orders), *common)
    assert not (tmp_path / "no").exists()
