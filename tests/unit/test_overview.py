"""The four answers: what makes each of them good, to be watched, or bad."""

import pytest
from msgspec import Struct

from headrace.log.memory import MemoryLog
from headrace.log.protocol import Outgoing
from headrace.surface import FamilyScores, Quality
from headrace.topics import ALARMS
from operators.history import Row
from operators.overview import Level, Told, Waiting, changed, fresh, good, safe, speeds_of
from operators.running import ProcessStatus, State
from operators.tails import Tail

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000


class Scores(Struct):
    value: float | None


QUALITY = {"a": Quality(name="recall", of=lambda scores: scores.value, percent=True)}


def scored(*values: float | None) -> dict[str, list[FamilyScores]]:
    return {"a": [FamilyScores(1_000 * n, 0, Scores(value), {}, 1_000 * n) for n, value in enumerate(values, 1)]}


def process(state: State) -> ProcessStatus:
    return ProcessStatus(name="online", state=state, pid=1, address="", restarts=2)


@pytest.mark.parametrize(
    ("oldest_ms", "level"), [(0, "good"), (9_000, "good"), (11_000, "watch"), (31_000, "bad")]
)  # fmt: skip
def test_fresh_is_how_long_the_oldest_event_waits(oldest_ms: int, level: Level) -> None:
    waiting = [Waiting("online", 5, True, oldest_ms, True), Waiting("finetune", 0, True, 0, True)]
    answer = fresh(waiting, [process("up")], [], None)
    assert (answer.level, answer.figure.values) == (level, {"waiting_ms": oldest_ms})


def test_a_process_that_has_ended_is_the_worst_cause() -> None:
    answer = fresh([Waiting("online", 5, True, 11_000, True)], [process("waiting")], [], None)
    assert (answer.level, [one.code for one in answer.causes]) == ("bad", ["process_away", "waits"])


def test_a_shop_that_has_learned_nothing_is_neither_fresh_nor_good() -> None:
    answer = fresh([Waiting("online", 0, True, 0, False)], [], [], None)
    assert (answer.level, answer.figure.code) == ("unknown", "nothing_learned")
    answer = good(QUALITY, {}, [], NOW_MS)
    assert (answer.level, answer.figure.code) == ("unknown", "no_scores")


@pytest.mark.parametrize(("newest", "level"), [(0.5, "good"), (0.42, "good"), (0.39, "watch"), (0.29, "bad")])
def test_good_is_the_newest_quality_against_what_is_usual(newest: float, level: Level) -> None:
    answer = good(QUALITY, scored(*[0.5] * 12, newest), [], NOW_MS)
    assert (answer.level, answer.figure.values["now_share"], answer.trend_share) == (level, newest, True)


def test_a_quality_of_which_low_is_good_is_worse_when_it_rises() -> None:
    quality = {"a": Quality(name="loss", of=lambda scores: scores.value, higher_is_better=False)}
    assert good(quality, scored(*[0.5] * 12, 0.8), [], NOW_MS).level == "bad"
    assert good(quality, scored(*[0.5] * 12, 0.2), [], NOW_MS).level == "good"


def test_few_scores_say_nothing_of_what_is_usual() -> None:
    assert good(QUALITY, scored(None, 0.5, 0.1), [], NOW_MS).level == "unknown"


def test_alarms_of_losses_concern_quality_unless_they_are_silenced_or_old() -> None:
    def level(alarm: Told) -> Level:
        return good(QUALITY, scored(*[0.5] * 12), [alarm], NOW_MS).level

    assert level(Told(NOW_MS - HOUR_MS, "miss_adwin", "", False, True)) == "watch"
    assert level(Told(NOW_MS - HOUR_MS, "miss_adwin", "", True, True)) == "good"
    assert level(Told(NOW_MS - 25 * HOUR_MS, "miss_adwin", "", False, True)) == "good"


def test_safe_counts_what_needs_a_person_the_worst_first() -> None:
    alarms = [
        Told(NOW_MS - HOUR_MS, "price", "boots 1 → 2", False, False), Told(NOW_MS - 1, "flood", "", False, False),
        Told(NOW_MS - 1, "category", "", True, False),
    ]  # fmt: skip
    verdict = Row(time_ms=NOW_MS - 1, what="model", subject="r1", step="rolled_back", text="worse")
    answer = safe([], alarms, [NOW_MS], 7, [verdict], NOW_MS)
    assert [(one.level, one.code) for one in answer.causes] == [
        ("bad", "floods"), ("watch", "drifts"), ("watch", "letters"), ("watch", "rolled_back"),
    ]  # fmt: skip
    assert (answer.level, answer.figure.values, answer.trend[-1]) == ("bad", {"count": 4}, 2.0)
    assert answer.causes[1].values["moved"] == "boots 1 → 2"
    assert safe([], [], [], 0, [], NOW_MS).causes[0].code == "nothing_wrong"
    assert safe(["a topic is compacted"], [], [], 0, [], NOW_MS).level == "bad"
    assert safe([], [], [NOW_MS] * 100, 100, [], NOW_MS).level == "bad"


def test_changes_name_the_newest_one_and_how_many_persons_made() -> None:
    rows = [
        Row(time_ms=NOW_MS - 30 * HOUR_MS, what="rules", subject="*", step="stated", who="ann"),
        Row(time_ms=NOW_MS - 2, what="model", subject="r2", step="promoted"),
        Row(time_ms=NOW_MS - 3, what="model", subject="r1", step="promote requested", who="ann"),
    ]
    answer = changed(rows, NOW_MS)
    assert answer.figure.values == {"count": 2}
    assert [one.code for one in answer.causes] == ["newest_change", "changes_by_persons"]
    assert (answer.causes[0].values["subject"], answer.causes[1].values["count"]) == ("r2", 1)


def test_speeds_are_by_append_times() -> None:
    timeline = [FamilyScores(n, 0, None, {}, ms) for n, ms in ((1_000, 1_000), (2_000, 31_000), (3_000, 31_000))]
    assert speeds_of(timeline) == [2_000.0]


def test_a_tail_reads_what_has_come_and_keeps_the_newest() -> None:
    log = MemoryLog()
    log.create()
    tail = Tail(ALARMS, lambda record: (record.value or b"").decode() or None, 3)

    def append(*values: str) -> None:
        appender = log.appender()
        for value in values:
            appender.append(Outgoing(ALARMS, b"k", value.encode(), 0))
        appender.close()

    assert not tail.look(log)
    append("a", "", "b")
    assert tail.look(log)
    assert (tail.held, tail.cut) == (["a", "b"], False)
    append("c", "d", "e", "f")
    assert tail.look(log)
    assert (tail.held, tail.cut) == (["d", "e", "f"], True)
    assert not tail.look(log)
