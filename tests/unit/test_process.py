"""Processes: one place where a broken world is tried again, and how long."""

import threading
import time

import pytest

from headrace.errors import Fenced, LogUnavailable
from headrace.process import retried


def test_it_is_tried_again_until_it_works() -> None:
    calls = []

    def body() -> None:
        calls.append(1)
        if len(calls) < 3:
            raise LogUnavailable("down")

    retried(body, threading.Event(), deadline_s=5.0)
    assert len(calls) == 3


def test_what_cannot_be_helped_is_not_tried_again() -> None:
    calls = []

    def body() -> None:
        calls.append(1)
        raise Fenced("taken over")

    with pytest.raises(Fenced):
        retried(body, threading.Event(), deadline_s=5.0)
    assert len(calls) == 1


def test_the_deadline_ends_it() -> None:
    def body() -> None:
        raise LogUnavailable("down")

    began = time.monotonic()
    with pytest.raises(LogUnavailable):
        retried(body, threading.Event(), deadline_s=0.5)
    assert 0.5 <= time.monotonic() - began < 20


def test_a_body_that_ran_long_begins_a_new_row_of_failures() -> None:
    calls = []

    def body() -> None:
        calls.append(1)
        if len(calls) < 4:
            time.sleep(0.35)  # longer than an attempt: it had come back to life
            raise LogUnavailable("down again")

    retried(body, threading.Event(), deadline_s=0.3, attempt_s_max=0.3)
    assert len(calls) == 4


def test_a_body_that_waits_longer_than_the_deadline_before_it_fails_is_no_sign_of_life() -> None:
    calls = []

    def body() -> None:
        calls.append(1)
        time.sleep(0.15)
        raise LogUnavailable("no answer")

    with pytest.raises(LogUnavailable):
        retried(body, threading.Event(), deadline_s=0.1)
    assert len(calls) == 2


def test_a_stop_while_waiting_ends_it_quietly() -> None:
    stop = threading.Event()

    def body() -> None:
        stop.set()
        raise LogUnavailable("down")

    retried(body, stop, deadline_s=60.0)


def test_our_own_mistakes_are_not_retried() -> None:
    def body() -> None:
        raise AssertionError("an invariant")

    with pytest.raises(AssertionError, match="invariant"):
        retried(body, threading.Event(), deadline_s=60.0)
