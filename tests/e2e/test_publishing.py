"""The example publisher of docs/publishing.md, run unchanged against a real broker."""

import re
import subprocess
import sys
from pathlib import Path

from headrace.log.open import open_log
from headrace.log.protocol import Partition
from headrace.shard.blobs import Blobs
from headrace.shard.checks import committed_records
from headrace.shard.loop import Loop
from headrace.shard.turn import Turn
from headrace.topics import DEAD_LETTERS
from tests.shards import ONLINE, next_item, online

PAGE = Path(__file__).parents[2] / "docs" / "publishing.md"


def test_the_event_of_the_documented_publisher_is_learned(kafka_url: str, tmp_path: Path) -> None:
    (text,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    bootstrap, _, prefix = kafka_url.removeprefix("kafka:").partition("?prefix=")
    for documented, actual in (('"localhost:29092"', f'"{bootstrap}"'), ('"events"', f'"{prefix}events"')):
        assert text.count(documented) == 1
        text = text.replace(documented, actual)
    log = open_log(kafka_url)
    log.create()

    subprocess.run([sys.executable, "-c", text], check=True, timeout=180)

    loop = Loop(log, Blobs(tmp_path), ONLINE.shard, make=online())
    seen: list[Turn] = []
    loop.on_turn = seen.append
    loop.run(lambda: sum(turn.records for turn in seen) == 1)
    assert [sum(turn.learned for turn in seen), loop.fold.events] == [1, 1]
    assert next_item(loop.fold).recommend("somebody", loop.fold.time_ms, 1)[0][0] == "sku-1"
    assert committed_records(log, Partition(DEAD_LETTERS, 0)) == []
    loop.close()
    log.close()
