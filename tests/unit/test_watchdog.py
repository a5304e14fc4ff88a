"""The watchdog: which waits end a process, and what its last line says."""

from headrace.watchdog import Watchdog


def test_a_wait_that_outlasts_its_limit_ends_the_process_and_the_line_names_all_waits() -> None:
    now, ended = [0.0], list[tuple[str, int]]()
    watchdog = Watchdog(seconds=lambda: now[0], end=lambda text, code: ended.append((text, code)))

    def run_for(seconds: int) -> None:
        for _ in range(seconds):
            now[0] += 1
            watchdog.look()

    with watchdog.wait("a short one", 3):
        run_for(3)
    run_for(10)
    assert not ended, "a wait that has ended is forgotten"
    with watchdog.wait("a commit", 5, code=7):
        run_for(2)
        with watchdog.wait("a disk", 60):
            run_for(3)
            assert not ended
            run_for(1)
    assert ended == [("Hung: waited 6 s for a commit; also waiting for a disk (4 s); ending", 7)]


def test_time_in_which_the_process_is_suspended_does_not_count() -> None:
    now, ended = [0.0], list[tuple[str, int]]()
    watchdog = Watchdog(seconds=lambda: now[0], end=lambda text, code: ended.append((text, code)))
    with watchdog.wait("a commit", 5):
        now[0] += 3_600
        watchdog.look()
        assert not ended
        for _ in range(4):
            now[0] += 1
            watchdog.look()
    assert [code for _, code in ended] == [1]
