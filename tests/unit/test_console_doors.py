"""Who is let in to the console, for how long, and what is on record before anything is done."""

import asyncio
from pathlib import Path

import pytest

from headrace.errors import Misconfigured
from operators.console.audit import Audit
from operators.console.doors import Sessions, Tries, all_tries_max, tries_max
from operators.console.jobs import Job, Jobs
from operators.console.people import People, add, read_people, remove


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "people.json"


def test_a_person_is_admitted_by_the_key_alone_whose_digest_is_kept(path: Path) -> None:
    key = add(path, "ann", "operate", now_ms=5)
    people = People(path)
    person = people.admit(key)
    assert person is not None
    assert (person.name, person.may("see"), person.may("operate"), person.may("administer")) == (
        "ann",
        True,
        True,
        False,
    )
    assert key not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0, "nobody else may read it"
    assert [people.admit(text) for text in ("", "hc_", key[:-1], key + "a", person.digest)] == [None] * 5


def test_a_person_who_is_added_again_has_another_key(path: Path) -> None:
    first, second = (add(path, "ann", role, now_ms=5) for role in ("operate", "see"))
    people = People(path)
    assert people.admit(first) is None
    found = people.admit(second)
    assert found is not None
    assert (found.role, len(read_people(path))) == ("see", 1)


def test_a_key_ends(path: Path) -> None:
    key = add(path, "ann", "see", now_ms=5, ends_ms=100)
    now = [99]
    people = People(path, clock=lambda: now[0])
    person = people.admit(key)
    assert person is not None
    now[0] = 100
    assert people.admit(key) is None
    assert people.still(person) is None


@pytest.mark.parametrize("name", ["", " ann", "a\nb", "x" * 65, "guest"])
def test_names_are_such_that_a_record_can_show_them(path: Path, name: str) -> None:
    with pytest.raises(Misconfigured, match="wanted a name"):
        add(path, name, "see", now_ms=0)


def test_a_damaged_file_lets_nobody_in(path: Path) -> None:
    key = add(path, "ann", "see", now_ms=5)
    path.write_text("{")
    people = People(path)
    assert people.admit(key) is None
    assert "wanted a file of persons" in people.fault
    with pytest.raises(Misconfigured, match="wanted a file of persons"):
        add(path, "bob", "see", now_ms=5)
    with pytest.raises(Misconfigured, match="wanted one of none"):
        remove(path.with_name("other.json"), "ann")


def test_a_one_time_key_opens_one_session(path: Path) -> None:
    people = People(path, once="operate")
    guest = people.admit(people.once_key)
    assert guest is not None
    assert (guest.name, people.admit(people.once_key), people.still(guest)) == ("guest", None, guest)


def test_sessions_end_when_idle_and_after_their_time(path: Path) -> None:
    add(path, "ann", "see", now_ms=5)
    people, clock = People(path), Clock()
    person = people.all()[0]
    sessions = Sessions(people, idle_s=60, session_s=200, seconds=clock)
    text = sessions.begin(person)
    for _ in range(3):
        clock.now_s += 59
        assert sessions.find(text) is not None
    clock.now_s += 59
    assert sessions.find(text) is None, "after 236 s"
    text = sessions.begin(person)
    clock.now_s += 40
    assert sessions.find(text, touch=False) is not None
    clock.now_s += 40
    assert sessions.find(text) is None, "what a page asks by itself does not count"
    text = sessions.begin(person)
    assert text != sessions.begin(person)
    sessions.end(text)
    assert sessions.find(text) is None
    assert sessions.find("") is None


def test_tries_come_back_with_time_and_are_bounded_over_all_addresses() -> None:
    clock = Clock()
    tries = Tries(seconds=clock)
    for _ in range(tries_max):
        assert tries.may("a")
        tries.fail("a")
    assert not tries.may("a")
    assert tries.may("b")
    clock.now_s += 60 / tries_max
    assert tries.may("a")
    for number in range(all_tries_max):
        tries.fail(f"c{number}")
    assert not tries.may("d"), "from many addresses"


def test_nothing_is_done_that_is_not_on_record(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    jobs = Jobs(audit)
    audit.close()
    with pytest.raises(Misconfigured, match="so nothing is done"):
        jobs.start("ann", "", "version", ["version"])
    assert jobs.all() == []
    with pytest.raises(Misconfigured, match="wanted a file that can be written"):
        Audit(tmp_path)


def test_a_command_ends_with_its_output_and_its_line(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")

    async def run() -> list[Job]:
        jobs = Jobs(audit)
        started = [
            jobs.start("ann", "here", "version", ["version"], of="it", why="why not"),
            jobs.start("ann", "here", "version", ["--no-such-option"]),
        ]
        for job in started:
            await asyncio.wait_for(job.ended.wait(), 60)
        return started

    good, bad = asyncio.run(run())
    assert (good.state, len(good.lines), good.shown) == ("done", 1, "headrace version")
    assert (bad.state, any("No such option" in line for line in bad.lines)) == ("refused", True)
    lines = [(one.who, one.what, one.of, one.why, one.outcome) for one in audit.newest()]
    assert ("ann", "version", "it", "why not", "begun") in lines
    assert ("ann", "version", "it", "why not", "done") in lines
    audit.close()
