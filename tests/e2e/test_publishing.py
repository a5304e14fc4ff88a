"""The publisher of docs/publishing.md, as it is printed there, against a real broker."""

import re
import subprocess
import sys
from pathlib import Path

from consumers.online import MakeShop
from headrace.blobs import Blobs
from headrace.checks import records_of
from headrace.config import OnlineSettings
from headrace.log import Partition, open_log
from headrace.loop import Loop, Turn
from headrace.topics import DEAD_LETTERS, EVENTS, MODELS, partitions_of

PAGE = Path(__file__).parents[2] / "docs" / "publishing.md"


def test_the_publisher_of_the_documentation_is_learned_from(kafka_url: str, tmp_path: Path) -> None:
    (text,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    bootstrap, _, prefix = kafka_url.removeprefix("kafka:").partition("?prefix=")
    for ours, theirs in (('"localhost:29092"', f'"{bootstrap}"'), ('"events"', f'"{prefix}events"')):
        assert text.count(ours) == 1
        text = text.replace(ours, theirs)
    log = open_log(kafka_url)
    log.create()

    subprocess.run([sys.executable, "-c", text], check=True, timeout=180)

    loop = Loop(
        log, Blobs(tmp_path), "online", make=MakeShop(OnlineSettings()),
        sources=partitions_of(EVENTS), sides=partitions_of(MODELS),
    )  # fmt: skip
    seen: list[Turn] = []
    loop.on_turn = seen.append
    loop.run(lambda: sum(turn.records for turn in seen) == 1)
    assert [sum(turn.learned for turn in seen), loop.fold.events] == [1, 1]
    assert loop.fold.recommend("somebody", loop.fold.time_ms, 1)[0][0] == "sku-1"
    assert records_of(log, Partition(DEAD_LETTERS, 0)) == []
    loop.close()
    log.close()
