"""A server whose answers use the promoted model does not load torch."""

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from headrace.announcement import Announcement
from headrace.events import Data, Event, Item, at, encode
from headrace.log.open import open_log
from headrace.log.protocol import Outgoing
from headrace.shard.blobs import Blobs
from headrace.shard.loop import Loop, LoopSettings
from headrace.topics import EVENTS
from learners.deep.model import DeepModel, DeepSettings
from operators.child import Children
from tests.shards import ONLINE, next_item, online

TIME_MS = 1_750_000_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="reads which libraries a process has mapped")
def test_answers_with_the_promoted_model_need_no_torch(tmp_path: Path, children: Children) -> None:
    url, blobs = f"sqlite:{tmp_path / 'log.db'}", Blobs(tmp_path / "blobs")
    model = DeepModel(DeepSettings(width=16), 1)
    model.grow(["i0", "i1", "rare"])
    blob = blobs.put("model", model.to_bytes())
    log = open_log(url)
    log.create()
    loop = Loop(log, blobs, ONLINE.shard, make=online(), settings=LoopSettings(commit_interval_s=0.0))
    loop.step()
    appender = log.appender()
    appender.append(
        Announcement(
            id="finetune/1", kind="promoted", round=1, at_events=0, time_ms=0, blob=blob, version="r1"
        ).record()
    )
    for number, item in enumerate(("i0", "i1", "late", "i1")):
        data = Data([Item(item, item_category="hats")])
        event = Event(f"e{number}", "shop", "view_item", at(TIME_MS + number), data, "1.0", "ann")
        appender.append(Outgoing(EVENTS, b"ann", encode(event)))
    appender.close()
    loop.run(lambda: loop.fold.events >= 4 and next_item(loop.fold).champion is not None)
    loop.close()
    log.close()
    served = children.start("serve", "serve", "--log", url, "--blobs", str(tmp_path / "blobs"), "--port", "0")

    def answer() -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"{served.address}/v1/recommendations/ann?n=5", timeout=10) as response:
                found: dict[str, Any] = json.load(response)
        except OSError:  # it is not ready
            return {"model": ""}
        return found

    def items_of_the_model() -> set[str]:
        found = answer()
        return {item["item_id"] for item in found["items"]} if found["model"] == "r1" else set()

    # The announcement is folded before the views, without which nobody is known for whom the model could answer.
    children.wait_until("an item that only the model knows", lambda: "rare" in items_of_the_model(), 60)
    mapped = Path(f"/proc/{served.pid}/maps").read_text()
    assert "numpy" in mapped
    assert "torch" not in mapped
