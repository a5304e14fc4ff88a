"""The read API: what each method returns, by which filters, as values and as data frames; and that it only reads."""

import doctest
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot
import msgspec
import nbformat
import pytest
from nbclient import NotebookClient

import headrace
from headrace.errors import LogUnavailable, Misconfigured
from headrace.log.memory import MemoryLog
from headrace.log.open import open_log
from headrace.log.protocol import Log, Outgoing
from headrace.reading import ReadOnlyLog
from headrace.records import PLACE, Records
from headrace.shard.blobs import Blobs
from headrace.surface import Surface
from headrace.topics import TOPICS
from learners.families import FAMILIES
from learners.family import NoSettings
from learners.next_item.family import NextItemScores
from learners.next_item.judgement import Judgement
from learners.purchase.family import PurchaseScores
from tests.golden.logs import unpack
from tests.small_shop import ROUNDS, learn_small_shop

SURFACES = {kind.name: kind.surface for kind in FAMILIES}
EVENTS = 2_000
ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs/notebooks/look-at-the-data.ipynb"


@pytest.fixture(scope="module")
def shop_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which a small shop has left its log, where it is by default."""
    folder = tmp_path_factory.mktemp("shop")
    with closing(open_log(f"sqlite:{folder / 'headrace-data/log.db'}")) as log:
        log.create()
        learn_small_shop(log, Blobs(folder / "headrace-data/blobs"), EVENTS)
    return folder


@pytest.fixture(scope="module")
def shop(shop_folder: Path) -> Iterator[ReadOnlyLog]:
    """Return that log, open to be read."""
    with headrace.open(f"sqlite:{shop_folder / 'headrace-data/log.db'}") as reader:
        yield reader


class Clock:
    """A clock that a test moves."""

    now_ms = 0

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> Log:
    log = MemoryLog(clock=clock)
    log.create()
    return log


DAY = datetime(2026, 3, 1, tzinfo=UTC)


def write(log: Log, clock: Clock, *records: Outgoing) -> None:
    """Append records, one an hour, from `DAY` on."""
    with closing(log.appender()) as appender:
        for hour, record in enumerate(records):
            clock.now_ms = int((DAY + timedelta(hours=hour)).timestamp() * 1000)
            appender.append(record)


def event(shopper: str, number: int, type_: str = "view_item", **fields: Any) -> Outgoing:
    document = {
        "id": str(number), "source": "test", "type": type_, "time": "2026-02-01T00:00:00+02:00", "specversion": "1.0",
        "data": {"items": [{"item_id": f"item-{number}"}]}, **fields,
    }  # fmt: skip
    return Outgoing("events", shopper.encode(), msgspec.json.encode(document))


def ids(records: Records[Any]) -> list[str]:
    return [one.value.id for one in records]


# What is returned


def test_events_of_all_partitions_come_by_append_time_with_their_place(log: Log, clock: Clock) -> None:
    shoppers = ("ann", "bob", "cia", "dan", "eve", "fay")
    write(log, clock, *(event(shopper, number) for number, shopper in enumerate(shoppers)))
    found = list(ReadOnlyLog(log, {}).events())
    assert [one.value.shopper for one in found] == list(shoppers)
    assert [one.appended for one in found] == [DAY + timedelta(hours=hour) for hour in range(6)]
    assert len({one.partition for one in found}) > 1
    for one in found:
        (record,) = log.reader({log.partitions("events")[one.partition]: one.offset}).read(1, 0.0)[0][1]
        assert record.key == one.value.shopper.encode()


def test_events_are_selected_by_shopper_type_time_and_number(log: Log, clock: Clock) -> None:
    types = ("view_item", "add_to_cart", "purchase", "view_item", "add_to_cart", "purchase")
    write(log, clock, *(event("ann" if number % 2 else "bob", number, one) for number, one in enumerate(types)))
    events = ReadOnlyLog(log, {}).events
    assert ids(events(shoppers="ann")) == ["1", "3", "5"]
    assert ids(events(shoppers=["ann", "bob"], types="purchase")) == ["2", "5"]
    assert ids(events(shoppers=[])) == ids(events(types=())) == []
    assert ids(events().between("2026-03-01T01:00", "2026-03-01T03:00")) == ["1", "2"]
    assert ids(events().between(DAY.astimezone(timezone(timedelta(hours=5))) + timedelta(hours=4))) == ["4", "5"]
    assert ids(events().between(until="2026-03-01T00:00")) == []
    assert ids(events().first(2)) == ["0", "1"]
    assert ids(events().newest(2)) == ["5", "4"]
    assert ids(events(types="add_to_cart").between(until="2026-03-01T04:00").newest(9)) == ["1"]
    assert ids(events().newest(2).first(3)) == ["0", "1", "2"]


def test_an_iteration_is_repeated_up_to_the_present_end(log: Log, clock: Clock) -> None:
    records = ReadOnlyLog(log, {}).events()
    assert ids(records) == []
    write(log, clock, event("ann", 1))
    assert ids(records) == ids(records) == ["1"]


def test_what_is_no_event_is_apart(log: Log, clock: Clock) -> None:
    bad, unused = Outgoing("events", b"ann", b"{"), event("bob", 2, "page_view", data={})
    write(log, clock, event("ann", 1), bad, unused)
    reader = ReadOnlyLog(log, {})
    assert ids(reader.events()) == ["1"]
    assert [one.value.reason for one in reader.rejected()] == ["not_json", "unused"]
    assert [one.value.reason for one in reader.rejected(reasons="unused")] == ["unused"]
    assert [one.value.reason for one in reader.rejected(shoppers="ann")] == ["not_json"]
    assert reader.unreadable == {}


def test_events_are_read_where_the_log_does_not_tell_their_append_time(log: Log, clock: Clock) -> None:
    with closing(log.appender()) as appender:
        appender.append(event("ann", 1))  # appended at 0, as where a topic keeps its producers' times
    (one,) = ReadOnlyLog(log, {}).events()
    assert (one.value.id, one.appended_ms, one.appended) == ("1", 0, None)


def test_items_are_what_the_shop_stated(log: Log, clock: Clock) -> None:
    boots = b'{"title": "Boots", "price": "12.50 EUR"}'
    write(log, clock, Outgoing("items", b"a", boots), Outgoing("items", b"b", b"{"), Outgoing("items", b"a", b""))
    reader = ReadOnlyLog(log, {})
    stated, retired = (one.value for one in reader.items(ids="a"))
    assert (stated.title, stated.prices, stated.available, retired.retired) == ("Boots", {"EUR": 12.5}, True, True)
    assert [one.value.id for one in reader.items()] == ["a", "a"]
    assert reader.unreadable == {"items": 1}


def test_models_alarms_and_dead_letters_of_a_shop(shop: ReadOnlyLog) -> None:
    assert [one.value for one in shop.models()] == ROUNDS
    assert [one.value.version for one in shop.models(kinds=["promoted", "refused"])] == ["r0001", "r0002"]
    price, flood = (one.value for one in shop.alarms())
    assert (price.score, price.events, price.detail) == (0.3, 3_800, "")
    assert (flood.score, flood.events, flood.detail) == (None, None, "bad")
    assert [one.value.detector for one in shop.alarms(detectors="price")] == ["price"]
    assert Counter(one.value.reason for one in shop.dead_letters()) == {"not_json": 3}
    assert {one.value.value for one in shop.dead_letters(reasons="not_json")} == {b"{"}
    assert list(shop.dead_letters(reasons="schema")) == []


def test_the_journal_of_a_shop_holds_every_event_once(shop: ReadOnlyLog) -> None:
    entries = [one.value for one in shop.journal(shards="online")]
    assert [entry.number for entry in entries] == [*range(len(entries))]
    places = [
        (run.partition, offset)
        for entry in entries
        for run in entry.runs
        if run.topic == "events"
        for offset in range(run.start, run.end)
    ]
    assert sorted(places) == sorted((one.partition, one.offset) for one in shop.events())
    assert list(shop.journal(shards="finetune")) == []


def test_scores_and_judgements_are_of_the_types_that_families_declare(shop: ReadOnlyLog) -> None:
    for family, kind in (("next_item", NextItemScores), ("purchase", PurchaseScores)):
        scores = [one.value for one in shop.scores(family)]
        assert [one.events for one in scores] == [1_000, 2_000]
        assert all(isinstance(one.scores, kind) for one in scores)
    judgements = [one.value for one in shop.judgements("next_item")]
    assert {type(one) for one in judgements} == {Judgement}
    assert [one.value for one in shop.judgements("next_item").newest(len(judgements))] == judgements[::-1]
    judged = {(one.partition, one.offset): one.item for one in judgements}
    items = {(one.partition, one.offset): {line.item_id for line in one.value.data.items} for one in shop.events()}
    assert all(item in items[place] for place, item in judged.items())
    assert shop.unreadable == {}


def test_a_log_of_an_older_release_is_read_as_far_as_this_one_can(tmp_path: Path) -> None:
    """Its topics lack some of today's, and its scores have another form."""
    unpack("0.3.0", tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "log.db")) as db, db:  # as the release has left it
        db.execute("DELETE FROM partitions WHERE topic IN ('items', 'published')")
        db.execute("DELETE FROM partitions WHERE topic IN ('journal', 'judgements') AND number > 1")
    with headrace.open(f"sqlite:{tmp_path / 'log.db'}") as reader:
        assert sum(1 for _ in reader.events()) == 4_600
        assert {one.value.writer for one in reader.journal()} == {"online", "finetune"}
        assert {type(one.value).__name__ for one in reader.judgements("rounds")} == {"Trained", "Compared"}
        assert len({one.value.item for one in reader.judgements("next_item")}) > 50
        assert [one.value.kind for one in reader.models(kinds=["refused", "rolled_back"])] == [
            "refused",
            "rolled_back",
            "refused",
        ]
        assert [*reader.items(), *reader.scores("next_item")] == []
        assert reader.unreadable == {"scores": 4}


@pytest.mark.parametrize("value", [None, b"", b"noise", b"\xff", b"[1]", b"{}", b"[" * 5_000])
def test_noise_is_left_out_and_counted(value: bytes | None, log: Log, clock: Clock) -> None:
    topics = ("models", "alarms", "dead-letters", "journal", "judgements", "scores")
    write(log, clock, *(Outgoing(topic, b"next_item", value, 0) for topic in topics))
    reader = ReadOnlyLog(log, SURFACES)
    readers = (reader.models, reader.alarms, reader.dead_letters, reader.journal)
    assert [list(read()) for read in readers] == [[]] * 4
    assert [*reader.judgements("next_item"), *reader.scores("next_item")] == []
    assert reader.unreadable == dict.fromkeys(topics, 1)


# Errors


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda log: log.events(types="viev_item"), "event type viev_item: wanted one of view_item_list,"),
        (lambda log: log.rejected(reasons=["no"]), "reason no: wanted one of empty,"),
        (lambda log: log.dead_letters(reasons=["no"]), "reason no: wanted one of empty,"),
        (lambda log: log.models(kinds="champion"), "kind champion: wanted one of schedule,"),
        (
            lambda log: log.scores("nobody"),
            "family nobody: wanted one of desk, stock, next_item, purchase, profiles, segments, shopper_value, demand,",
        ),
        (lambda log: log.scores("rounds"), "family rounds: wanted one that has scores"),
        (
            lambda log: log.judgements("desk"),
            "family desk: wanted one that declares the type of its judgements",
        ),
        (lambda log: log.events().first(0), "events: wanted at least 1 record, found 0"),
        (lambda log: log.events().newest(-1), "events: wanted at least 1 record, found -1"),
        (lambda log: log.events().between("yesterday"), "since yesterday: wanted a time such as"),
        (lambda log: log.events().frame(0), "events: wanted rows_max of at least 1, found 0"),
    ],
)
def test_what_cannot_be_selected_is_refused_at_once(log: Log, call: Any, said: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        call(ReadOnlyLog(log, SURFACES))
    assert said in str(refused.value)


def test_what_is_no_log_is_refused_and_nothing_is_created(tmp_path: Path) -> None:
    missing, text, other = tmp_path / "no" / "log.db", tmp_path / "text", tmp_path / "other.db"
    text.write_text("no database " * 1_000)
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE records (x)")
    before = {path: path.read_bytes() for path in (text, other)}
    for path, said in (
        (missing, "there is no such file"),
        (tmp_path, "wanted a file, found a folder"),
        (text, "file is not a database"),
        (other, "wanted a log of Headrace, found another SQLite database"),
    ):
        with pytest.raises(Misconfigured, match=said):
            headrace.open(f"sqlite:{path}")
    with pytest.raises(Misconfigured, match="wanted sqlite:PATH or kafka:HOST:PORT"):
        headrace.open(str(missing))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_nothing_can_be_written_to_a_log_that_is_open_to_be_read(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'log.db'}"
    with closing(open_log(url)) as log:
        log.create()
    before = (tmp_path / "log.db").read_bytes()
    with closing(open_log(url, read_only=True)) as log:
        with pytest.raises(LogUnavailable, match="readonly"):
            log.writer("online")
        appender = log.appender()
        appender.append(event("ann", 1))
        with pytest.raises(LogUnavailable, match="readonly"):
            appender.flush()
        with pytest.raises(LogUnavailable, match="readonly"):
            log.create()
    assert (tmp_path / "log.db").read_bytes() == before


def test_families_are_loaded_when_a_log_is_opened_and_not_before() -> None:
    code = "import headrace, headrace.reading, sys; print(any(name.startswith('learners') for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


class OwnScores(msgspec.Struct):
    """The scores of a family of one's own."""

    good: float


def test_a_family_of_ones_own_is_read_by_what_it_declares(log: Log, clock: Clock) -> None:
    surface = Surface(doc="Own.", settings=NoSettings, scores=OwnScores, judgements=OwnScores)
    record = {"family": "own", "events": 5, "time_ms": 6, "scores": {"good": 0.5}, "drift": {"x": {"score": 0.1}}}
    write(
        log, clock, Outgoing("scores", b"own", msgspec.json.encode(record)),
        Outgoing("judgements", b"own", msgspec.msgpack.encode(OwnScores(0.25)), 7),
    )  # fmt: skip
    reader = ReadOnlyLog(log, {"own": surface})
    assert [one.value.scores for one in reader.scores("own")] == [OwnScores(0.5)]
    assert [(one.value, one.partition) for one in reader.judgements("own")] == [(OwnScores(0.25), 7)]
    with pytest.raises(Misconfigured, match=r"no\.such:Family"):
        headrace.open("sqlite:log.db", families=["no.such:Family"])


# Data frames


def test_a_frame_has_a_column_for_each_field(log: Log, clock: Clock) -> None:
    write(log, clock, event("ann", 1), event("bob", 2))
    frame = ReadOnlyLog(log, {}).events().frame()
    assert list(frame["shopper"]) == ["ann", "bob"]
    assert [list(map(dict, lines)) for lines in frame["data.items"]] == [[{"item_id": f"item-{n}"}] for n in (1, 2)]
    assert frame["time"].dt.tz is not None
    assert list(frame["time"]) == [datetime(2026, 1, 31, 22, tzinfo=UTC)] * 2
    assert list(frame["appended"]) == [DAY, DAY + timedelta(hours=1)]


def test_frames_of_nested_values(shop: ReadOnlyLog) -> None:
    scores = shop.scores("next_item").frame()
    assert scores["scores.ranking.blend.window.recall@20"].between(0.05, 1).all()
    judgements = shop.judgements("next_item").frame()
    assert (judgements["ranks.blend"] >= 0).all()
    assert isinstance(judgements["scores.popularity"].iloc[0], bytes)
    models = shop.models().frame()
    assert models["evidence.wealth"].dropna().tolist() == [21.5]
    assert list(shop.models().newest(2).frame()["round"]) == [4, 3]


def test_an_empty_frame_has_the_columns_of_a_full_one(shop: ReadOnlyLog, log: Log) -> None:
    empty = ReadOnlyLog(log, SURFACES)
    for name in ("events", "models", "alarms", "dead_letters"):
        columns = list(getattr(empty, name)().frame())
        full = list(getattr(shop, name)().frame())
        assert columns == [column for column in full if not column.startswith(("evidence.", "lineage."))]
    assert {*PLACE, "reason", "detail"} == {*empty.rejected().frame()}
    assert {*PLACE, "partition", "offset", "item", "traits"} < {*empty.judgements("next_item").frame()}
    assert list(empty.judgements("rounds").frame()) == [*PLACE]  # of several types


def test_a_frame_that_is_cut_says_so(shop: ReadOnlyLog) -> None:
    with pytest.warns(UserWarning, match="the frame has only the first 10 records of events") as warned:
        frame = shop.events().frame(10)
    assert len(frame) == 10
    assert warned[0].filename == __file__
    assert len(shop.events().first(10).frame(10)) == 10


def test_without_pandas_an_error_names_the_extra(shop: ReadOnlyLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(Misconfigured, match=r"pip install 'headrace\[notebook\]'"):
        shop.events().frame()


def test_every_topic_that_a_person_looks_at_can_be_read() -> None:
    """`truth`, `published` and `events-replay` are for programs."""
    methods = {name.replace("_", "-") for name in vars(ReadOnlyLog)}
    assert set(TOPICS) - {"truth", "published", "events-replay"} <= methods


# The notebook and the page


@pytest.mark.slow
def test_the_notebook_runs_in_a_kernel(shop_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    client = NotebookClient(nbformat.read(NOTEBOOK, as_version=4), resources={"metadata": {"path": shop_folder}})
    outputs = [one for cell in client.execute().cells for one in cell.get("outputs", ())]
    (text,) = (one["text"] for one in outputs if one["output_type"] == "stream")
    assert text.startswith(f"{EVENTS:,} events of ")
    shown = [one["data"] for one in outputs if one["output_type"] != "stream"]
    assert sum("image/png" in one for one in shown) == 2
    text = "\n".join(one["text/plain"] + one.get("text/html", "") for one in shown)
    for words in ("view_item", "of the step before", "blend", "ranks.popularity", "promoted", "not_json"):
        assert words in text


def test_the_notebook_runs_before_anything_is_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(open_log("sqlite:headrace-data/log.db")) as log, closing(log.appender()) as appender:
        log.create()
        appender.append(event("ann", 1))
    names: dict[str, Any] = {}
    matplotlib.use("agg")
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
    assert (len(names["events"]), len(names["quality"]), len(names["models"])) == (1, 0, 0)
    matplotlib.pyplot.close("all")


def test_the_notebook_is_committed_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in cells] == [([], None)] * len(cells)
    assert {key for cell in notebook.cells for key in cell.metadata} == set()


def test_the_examples_of_the_page(shop_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop_folder)
    page = (ROOT / "docs/reading.md").read_text()
    failed, tried = doctest.testfile(
        str(ROOT / "docs/reading.md"), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert (failed, tried) == (0, page.count("\n>>> "))


def test_the_page_has_a_row_for_each_method() -> None:
    rows = re.findall(r"^\| `(\w+)\(", (ROOT / "docs/reading.md").read_text(), re.MULTILINE)
    assert rows == [name for name in vars(ReadOnlyLog) if not name.startswith("_") and name != "close"]
