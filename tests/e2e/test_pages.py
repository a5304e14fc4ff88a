"""The commands of pages in `docs/`, run in their order, each page against a small shop of its own.

A page's blocks of commands that begin with three backquotes and `sh` are run; all other blocks are only shown.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from headrace.experiment_reports import record_of as report_record_of
from headrace.log.protocol import Outgoing, Partition
from headrace.pseudonyms import add_secret
from headrace.shard.kept import HOUR_MS
from headrace.topics import DAY_MS, EVENTS, ITEMS
from learners.deep.model import DeepModel, DeepSettings
from learners.experiments.course import Course
from operators.experiments import read_experiment
from tests.filed_shop import COUNT, FiledShop, publish
from tests.judged_shop import JudgedShop
from tests.pages import DOCS, commands_of, files_of, run
from tests.small_shop import said

SETTINGS: Final = """\
[next_item]
items_max = 64
shoppers_max = 50

[shards.online]
metrics_port = 0

[shards.finetune]
partition = 1
metrics_port = 0

[serve]
port = 0
"""


class Page(NamedTuple):
    """What must be there before a page's commands are run, and each one's exit code and a part of what it prints.

    Of what is printed, line ends and runs of spaces count as one space.
    """

    set_up: Callable[[Path], None]
    ends: Sequence[tuple[int, str]]


def learned_shop(folder: Path, spans: int, span_ms: int, items: Sequence[Mapping[str, object]] = ()) -> FiledShop:
    """Return an open shop, in the places of the default settings, that has learned 50 events in each of some spans."""
    (folder / "headrace.toml").write_text(SETTINGS)
    data = folder / "headrace-data"
    data.mkdir()
    shop = FiledShop(data, later_ms=-spans * span_ms)
    with closing(shop.log.appender()) as appender:
        for item in items:
            appender.append(Outgoing(ITEMS, str(item["id"]).encode(), json.dumps(item).encode()))
    shop.learn(50 * spans, every_ms=span_ms)
    return shop


def shop_with_a_loss(folder: Path) -> None:
    """Make a shop in which events wait to be learned, and the log has lost all of a partition but its newest event."""
    shop = learned_shop(folder, 6, 10 * DAY_MS)
    with closing(shop.log):
        publish(shop.log, 100, COUNT)
        place = Partition(EVENTS, 0)
        shop.log.delete_before(place, shop.log.end(place) - 1)


def shop_with_models(folder: Path) -> None:
    """Make a shop with two former champions and a candidate."""
    shop = learned_shop(folder, 4, HOUR_MS)
    models = []
    for seed in (1, 2, 3):
        model = DeepModel(DeepSettings(width=8), seed)
        model.grow(["a", "b"])
        models.append(shop.blobs.put("model", model.to_bytes()))
    with closing(shop.log), closing(shop.log.appender()) as appender:
        for number, (kind, blob) in enumerate(zip(("promoted", "promoted", "candidate"), models, strict=True), 1):
            lineage = {"data": "1a2b3c4d"} if kind == "candidate" else {}
            appender.append(said(kind, number, version=f"r{number}", blob=blob, lineage=lineage).record())


def shop_to_replay(folder: Path) -> None:
    """Make a shop whose journal is to be folded again."""
    learned_shop(folder, 4, HOUR_MS).log.close()


def shop_with_rules(folder: Path) -> None:
    """Make a shop that has learned and states its items, and the files that the page shows."""
    items = [
        {"id": f"i{number}", "brand": f"b{number // 2}", "price": 20.0, "cost_of_goods_sold": 10.0 + number % 9}
        for number in range(30)
    ]
    learned_shop(folder, 4, HOUR_MS, items).log.close()
    for name, text in files_of(DOCS / "rules.md").items():
        (folder / name).write_text(text)


def shop_with_segments(folder: Path) -> None:
    """Make a shop that has learned, and the files that the page shows."""
    shop_to_replay(folder)
    for name, text in files_of(DOCS / "segments.md").items():
        (folder / name).write_text(text)


def shop_with_an_experiment(folder: Path) -> None:
    """Make a shop with the files that the page shows, and what an experiment has shown."""
    shop = learned_shop(folder, 1, HOUR_MS)
    for name, text in files_of(DOCS / "experiments.md").items():
        (folder / name).write_text(text)
    course = Course("home", read_experiment(folder / "home.toml"), 0, 1)
    for number in range(400):
        course.answer(f"s{number}", number % 2, 1, (0.0, 0.0, 0.0), {})
    with closing(shop.log.appender()) as appender:
        appender.append(report_record_of(course.look(DAY_MS)))
    shop.log.close()


def shop_with_choices(folder: Path) -> None:
    """Make a shop whose experiment has run for hours, and the files that the page shows."""
    (folder / "headrace-data").mkdir()
    for name, text in files_of(DOCS / "evaluation.md").items():
        (folder / name).write_text(text)
    with closing(JudgedShop(str(folder / "headrace-data/log.db"))) as shop:
        shop.state()
        shop.by_arms(8, 150)


def shop_with_a_gateway(folder: Path) -> None:
    """Make the secret of pseudonyms, as a gateway does at its first start."""
    add_secret(folder / "headrace-data/pseudonyms.json", 0)


PAGES: Final = {
    "profiles.md": Page(shop_to_replay, [(0, "profiles")]),
    "segments.md": Page(
        shop_with_segments,
        [
            (0, "loyal: 0 shoppers (now 0), 0 enter, 0 leave"),
            (0, "written"),
            (0, "lapsing: not segment"),
            (2, "wrong.toml:2:10: loyal: wanted a trait"),
            (0, "members.csv: "),
            (0, "loyal.csv: "),
            (0, "written"),
        ],
    ),
    "gorse.md": Page(shop_with_a_gateway, [(0, "hr_")]),
    "gateway.md": Page(
        shop_with_a_gateway,
        [
            (0, "hr_"),
            (0, "hr_"),
            (0, "for https://acme.example"),
            (0, "version 1, made 1970-01-01 00:00, in use"),
            (0, "version 2 is in use"),
            (0, "version 2, made"),
            (0, "version 1 is retired"),
        ],
    ),
    "mending.md": Page(
        shop_with_a_loss,
        [
            (1, "the process ends with PositionLost at its next start. To do: `headrace restore` from a backup, or"),
            (0, "goes on with all that it has learned"),
            (0, "accepted, and written to the journal"),
            (0, "decided for online by ann"),
            (0, '"written": false, "loss": null'),
            (0, '"errors": 0'),
            (0, "finetune: whole"),
            (0, '"problems_total": 0'),
            (0, "can be skipped; nothing was changed"),
            (0, "is skipped, and becomes a dead letter"),
            (0, "is skipped by an earlier decision"),
            (0, "would delete"),
            (0, '"dry_run": false'),
            (0, "nothing was written"),
            (0, "verified by folding"),
            (0, "the backup is whole"),
            (0, "restored to sqlite:new/log.db"),
            (0, "from 24 on"),
        ],
    ),
    "replay.md": Page(
        shop_to_replay,
        [
            (0, "nothing was written"),
            (0, ": yes (live state folded from the snapshot of entry"),
            (0, "judged again, every event: next_item"),
            (0, "recall@20 of the next item"),
            (0, "the best 20 share"),
            (0, "events/0: "),
            (0, "no deep model is promoted"),
            (0, "left out: "),
            (0, "nothing was written"),
            (0, "clean: its state is that of online from entry"),
            (0, "entry"),
            (0, "with next_item.items_max=16"),
            (0, "small: "),
        ],
    ),
    "drift.md": Page(
        lambda folder: learned_shop(folder, 2, HOUR_MS).log.close(),
        [
            (0, "no silences, and no alarms of drift"),
            (0, "every detector is silent from 2030-11-29 00:00 UTC to 2030-12-03 06:00 UTC"),
            (0, "every detector is silent from 2030-11-29 00:00 UTC to 2030-12-03 06:00 UTC: Black Friday (ann)"),
            (0, "price_change is silent from"),
            (2, "wanted * or one of blend_miss_adwin"),
            (0, "every detector is silent until"),
            (0, '{"silences": [], "alarms": []}'),
        ],
    ),
    "console.md": Page(
        lambda folder: None,
        [(0, "ann may operate; the access key, which is shown this once: hc_"), (0, "ann operate, since")],
    ),
    "rules.md": Page(
        shop_with_rules,
        [
            (0, "of 20 answers, 19 would change, 3 would be shorter, and 0 would be empty gone: i3 15 new: "),
            (0, "*: written; shards and servers obey as soon as they read it"),
            (2, "wrong.json: wanted min of at most max, found 80 and 20 - at `$.price`"),
            (0, "cart: the rules are valid; nothing was changed (--dry-run)"),
            (0, "cart: written"),
            (0, '*: version 0 { "by": "ann", "why": "the recall of i3", "bought": { "again_after_days": 30.0 }'),
            (0, "cart: written"),
            (2, "nobody.toml: wanted a cluster such as c1, or a class A, B or C, found 'loyl' - at `$.when[0].in[0]`"),
            (0, "home: the rules are valid"),
            (0, "0.95 0.981 0.961 0.2154 1.604 100.0% 13.40"),
        ],
    ),
    "experiments.md": Page(
        shop_with_an_experiment,
        [
            (0, "home: draft; slots 0 to 0.5 of the layer default, ramp 0.1"),
            (2, "wrong.toml: wanted a metric of click_through, conversion, revenue, retention, found 'luck'"),
            (0, "home: running"),
            (0, "home: running; slots 0 to 0.5 of the layer default, ramp 1"),
            (0, "home: running, arms of control, rising; layer default 0 to 0.5, ramp 1"),
            (0, "Nothing can be said yet of conversion"),
            (0, "home: stopped"),
            (0, "home: removed"),
            (0, "bandit: draft; slots 0 to 0.2 of the layer default, ramp 1"),
        ],
    ),
    "evaluation.md": Page(
        shop_with_choices,
        [
            (0, "more than the 0.3658 that were logged"),
            (0, "shrinkage"),
            (0, '"kind": "arms"'),
            (
                2,
                "wanted probabilities of 1 to 64 actions that add up to 1, found 1 that add up to 0.5",
            ),
            (3, "evaluate uniform: refused: wanted answers, found none"),
        ],
    ),
    "rollback.md": Page(
        shop_with_models,
        [
            (0, "snapshots are kept, "),
            (0, "champion: r2, promoted"),
            (0, "nothing was changed (--dry-run)"),
            (0, "To undo it: headrace roll-back --undo"),
            (0, "a crawler bought everything"),
            (0, "entries that are folded, in about"),
            (0, "written to the journal as entry"),
            (0, "requested: no model replaces r2"),
            (0, "requested: r2 replaces no model"),
            (0, "requested: r1 replaces r2"),
            (0, "requested: the fine-tuner withdraws r3"),
            (0, '"data": "1a2b3c4d"'),
        ],
    ),
}


@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_a_page_do_what_it_says(name: str, tmp_path: Path, clean_environment: None) -> None:
    commands, page = commands_of(DOCS / name), PAGES[name]
    page.set_up(tmp_path)
    for command, (wanted, part) in zip(commands, page.ends, strict=True):
        code, output = run(command)
        assert code == wanted, f"{command}\nended with exit code {code}:\n{output}"
        assert part in " ".join(output.split()), f"{command}\nprinted:\n{output}"


OTHERS: Final = {"alerts.md", "archive.md", "clients.md", "disaster.md"}
"""Pages whose commands are run by tests of their own."""


def test_each_page_with_commands_is_run() -> None:
    assert {path.name for path in DOCS.glob("*.md") if commands_of(path)} == {*PAGES, *OTHERS}
