"""A former model is put back while a shard learns and a server answers: how long until it answers."""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from headrace.log.open import open_log
from headrace.metrics import ServingMetrics
from headrace.shard.blobs import Blobs
from headrace.shard.loop import Loop
from learners.deep.model import DeepModel, DeepSettings
from learners.next_item.questions import RecommendationQuery
from operators.requests import roll_back
from serving.answers import Answers
from tests.filed_shop import MAKE, SHARD, publish
from tests.shards import ONLINE
from tests.small_shop import said

wait_s_max = 60.0


def test_the_first_answers_from_a_former_model_come_soon_after_the_request(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    blobs, url = Blobs(tmp_path / "blobs"), f"sqlite:{tmp_path / 'log.db'}"
    log = open_log(url)
    log.create()
    publish(log, 100)
    with closing(log.appender()) as appender:
        for seed in (1, 2):
            model = DeepModel(DeepSettings(width=16), seed)
            model.grow(["i1", "i2"])
            blob = blobs.put("model", model.to_bytes())
            appender.append(said("promoted", seed, version=f"r{seed}", blob=blob).record())
    answers = Answers(open_log(url), blobs, ONLINE, {}, ServingMetrics())
    (route,) = [route for route in answers.routes if route.query is RecommendationQuery]
    stop, seconds = threading.Event(), dict[str, float]()

    def learn() -> None:
        with closing(Loop(open_log(url), blobs, SHARD, make=MAKE)) as loop:
            loop.run(stop.is_set)

    def wait_for(model: str) -> None:
        began = time.monotonic()
        while (answers.answer(route, RecommendationQuery(shopper="s1", n=5)) or {}).get("model") != model:
            assert time.monotonic() - began < wait_s_max, f"no answer from {model!r}"
            time.sleep(0.005)
        seconds[model or "none"] = round(time.monotonic() - began, 3)

    threads = [threading.Thread(target=learn), threading.Thread(target=answers.follow, args=(stop,))]
    for thread in threads:
        thread.start()
    try:
        wait_for("r2")
        for version in ("r1", "r2", None):
            roll_back(log, blobs, version, by="ann", reason="returns fell")
            publish(log, 100, first=len(seconds) * 1_000)
            wait_for(version or "")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    record_property("seconds", seconds)
