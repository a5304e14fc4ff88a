"""A scenario: producers, shards, followers and operators act in an order that a seed decides, until all faults end."""

import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from headrace.errors import (
    BlobCorrupt,
    BlobMissing,
    BlobUnwritable,
    BrokenWorld,
    Fenced,
    LogUnavailable,
    PositionLost,
    RecordsChanged,
    StateUnreadable,
    TopicReplaced,
)
from headrace.shard.blobs import Blobs
from headrace.shard.follower import FOLDED_ANEW, Follower, freeze
from headrace.shard.journal import newest as newest_entry
from headrace.shard.loop import Loop, LoopSettings
from headrace.shard.turn import Turn
from headrace.state import digest
from tests.simulation.disk import SimulatedBlobs, StepExecutor, lose_power
from tests.simulation.faulty_log import FaultyLog, FaultyWriter
from tests.simulation.folds import FINETUNE, ONLINE
from tests.simulation.meddling import Meddling
from tests.simulation.oracle import Oracle
from tests.simulation.publishing import Publishing
from tests.simulation.shops import Kind, hashing, real
from tests.simulation.verbs import Verbs
from tests.simulation.world import Crash, Process, Violation, World

calm_rounds_max = 2_000
"""Steps of each shard within which it must have learned everything, once no fault happens any more."""
REAL_SHARE = 0.02
"""Share of the seeds in which one shard folds the real families."""
LOOP_ENDS = (LogUnavailable, Fenced, BlobUnwritable)
"""With these a loop may end."""
FENCED_ENDS = (*LOOP_ENDS, PositionLost)
"""With these a loop may end that is fenced: it reads on until its next commit, though nothing holds back retention."""
FOLLOWER_ENDS = (LogUnavailable, PositionLost, StateUnreadable, BlobMissing)
"""With these a follower may end that is slower than retention, or that has read an old pointer."""
OPERATOR_ENDS = (*LOOP_ENDS, BlobMissing, BlobCorrupt)
"""With these an operator's command may end that has read an old pointer."""
LOSS_ENDS = (PositionLost, RecordsChanged, StateUnreadable, TopicReplaced)
"""With these a process may end while a loss is not accepted."""


class Result(Struct):
    """What came of a seed. `violation` is "" if every promise was kept."""

    seed: int
    steps: int = 0
    calls: int = 0
    crashes: int = 0
    commits: int = 0
    entries: int = 0
    learned: int = 0
    snapshots: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    violation: str = ""
    trace: list[str] = field(default_factory=list)


class Running(Process):
    """A running loop."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.executor = StepExecutor()
        self.loop: Loop[Any] | None = None
        self.after_loss = False  # it was started before a loss was accepted, and may meet it later


class Following(Process):
    """A running follower."""

    follower: Follower[Any] | None = None


class Member:
    """A shard of the scenario: its oracle, and the processes that run it, of which at most one can commit."""

    def __init__(self, kind: Kind, oracle: Oracle) -> None:
        self.shard, self.make, self.judge = kind
        self.oracle = oracle
        self.loops: list[Running] = []
        self.newest: Running | None = None  # the one that was started last
        self.followers: list[Following] = []


class Scenario:
    """The world of one seed. `run` returns what came of it.

    Args:
        folder: an empty folder for the blobs, removed by `run`.
        blobs_of: makes a process' blobs; mutants replace it.
    """

    def __init__(
        self, seed: int, folder: Path, blobs_of: Callable[[Path, World, Process], Blobs] = SimulatedBlobs
    ) -> None:
        self.world = World(seed)
        self.result = Result(seed)
        self._folder, self._blobs_of = folder, blobs_of
        rng = self.world.rng
        self._settings = LoopSettings(
            commit_interval_s=rng.choice((0.0, 0.0, 0.02, 0.3)), snapshot_interval_s=rng.choice((0.0, 0.0, 0.1, 2.0)),
            flood_share=1.0,
        )  # fmt: skip
        first = real() if rng.random() < REAL_SHARE else hashing(ONLINE)
        kinds = (first, hashing(FINETUNE))[: rng.choice((1, 2, 2))]
        plain = Blobs(folder)
        self.members = [Member(kind, Oracle(self.world, plain, kind.shard, kind.make)) for kind in kinds]
        self.publishing = Publishing(self.world)
        self._meddling = Meddling(self.world, folder, [one.oracle for one in self.members], self.publishing)
        self._operators: list[Process] = []
        self._ends: Counter[str] = Counter()
        self._started = 0
        self.world.interleave = self._act
        self.world.on_power_loss = self._lose_power

    def run(self, steps: int) -> Result:
        """Let so many things happen, then end all faults and check every promise."""
        result, world = self.result, self.world
        try:
            for _ in range(steps):
                self._act()
            self._calm_down()
        except Violation as error:
            result.violation = str(error)
            world.note(f"violation: {error}")
        finally:
            shutil.rmtree(self._folder)
        result.calls, result.commits, result.faults = world.calls, world.commits, dict(world.faults)
        result.entries = sum(len(one.oracle.digests) - 1 for one in self.members)
        result.learned = sum(sum(text.count("/learned/") for text in one.oracle.said) for one in self.members)
        result.snapshots = sum(len(one.oracle.pointers) for one in self.members)
        result.ends, result.trace = dict(self._ends), world.trace
        return result

    def _act(self) -> None:
        """Let one thing happen."""
        self.result.steps += 1
        rng = self.world.rng
        member = rng.choice(self.members)
        dice = rng.random()
        if dice < 0.2:
            self.publishing.publish()
        elif dice < 0.7:
            self._run_loop(member)
        elif dice < 0.85:
            self._store(member)
        elif dice < 0.9:
            self._follow(member)
        else:
            self._disturb(member)

    def _guarded(self, process: Process, action: Callable[[], object], ends: tuple[type[BrokenWorld], ...]) -> bool:
        """Run a step of a process; return whether the process lives on."""
        world = self.world
        process.running = True
        try:
            action()
        except Crash:
            self.result.crashes += 1
            world.note(f"{process} crashed")
        except ends as error:
            self._ends[type(error).__name__] += 1
            world.note(f"{process} ended: {type(error).__name__}: {error}")
        except Violation:
            raise
        except Exception as error:
            raise Violation(f"{process} failed: {type(error).__name__}: {error}") from error
        else:
            if not process.doomed:
                return True
        finally:
            process.running = False
        process.doomed = True
        return False

    def _idle(self, processes: list[Any]) -> Any:
        """Return one of the processes that are not in a step, None if there is none."""
        found = [one for one in processes if not one.running]
        return self.world.rng.choice(found) if found else None

    def _named(self, kind: str) -> str:
        self._started += 1
        return f"{kind}#{self._started}"

    def _run_loop(self, member: Member) -> None:
        if not member.loops or self.world.strikes("zombie", member.shard.name):
            self._start(member)
        elif one := self._idle(member.loops):
            if self.world.strikes("stop", one):
                self._end(member, one, closing=True)
            elif not self._guarded(one, one.loop.step, self._loop_ends(member, one)):
                self._end(member, one, closing=self.world.rng.random() < 0.5)

    def _start(self, member: Member) -> None:
        one, world = Running(self._named(member.shard.name)), self.world

        def start() -> None:
            blobs = self._blobs_of(self._folder, world, one)
            try:
                one.loop = Loop(
                    FaultyLog(world, one), blobs, member.shard, make=member.make, judge=member.judge(blobs),
                    settings=self._settings, quarantine=member.shard.number == ONLINE.number, clock=world.wall_ms,
                    timer=world.timer_of(one), executor=one.executor,
                )  # fmt: skip
            except (*FOLLOWER_ENDS, BlobCorrupt) as error:
                if member.newest is one:
                    raise
                raise Fenced(f"a newer process has changed what this one reads: {error}") from error
            one.loop.on_turn = self._check_bounds
            member.oracle.check(one.loop.number, digest(freeze(one.loop.fold, one.loop._intake)), one)

        world.note(f"{one} starts")
        member.newest, one.after_loss = one, member.shard.name in world.lost
        if self._guarded(one, start, self._ends_of(member, LOOP_ENDS)):
            member.loops.append(one)

    def _ends_of(
        self, member: Member, ends: tuple[type[BrokenWorld], ...], *, after_loss: bool = False
    ) -> tuple[type[BrokenWorld], ...]:
        return (*ends, *LOSS_ENDS) if after_loss or member.shard.name in self.world.lost else ends

    def _loop_ends(self, member: Member, one: Running) -> tuple[type[BrokenWorld], ...]:
        assert one.loop is not None
        writer = one.loop._writer
        assert isinstance(writer, FaultyWriter)
        return self._ends_of(member, FENCED_ENDS if writer.fenced else LOOP_ENDS, after_loss=one.after_loss)

    def _follower_ends(self, member: Member) -> tuple[type[BrokenWorld], ...]:
        return self._ends_of(member, FOLLOWER_ENDS, after_loss=member.shard.name in self.world.accepted)

    def _check_bounds(self, turn: Turn) -> None:
        over = {name: both for name, both in turn.bounds.items() if both[0] > both[1]}
        if over:
            raise Violation(f"tables have more entries than their maxima: {over}")

    def _end(self, member: Member, one: Running, *, closing: bool) -> None:
        """Drop a loop. A process that ends by itself still waits for its snapshots; one that is killed does not."""
        member.loops = [other for other in member.loops if other is not one]
        if closing and one.loop:
            one.doomed = False
            self._guarded(one, one.loop.close, LOOP_ENDS)
        one.doomed = True

    def _store(self, member: Member) -> None:
        one = self._idle([one for one in member.loops if one.executor.waiting])
        if one and not self._guarded(one, one.executor.run_next, LOOP_ENDS):
            self._end(member, one, closing=False)

    def _follow(self, member: Member) -> None:
        rng, world = self.world.rng, self.world
        if len(member.followers) < 2 or world.strikes("slow follower", member.shard.name):
            one = Following(self._named(f"follower of {member.shard.name}"))

            def start() -> None:
                blobs = self._blobs_of(self._folder, world, one)
                try:
                    one.follower = Follower(
                        FaultyLog(world, one), blobs, member.shard, make=member.make, timer=world.timer_of(one)
                    )
                except BlobCorrupt as error:
                    last = newest_entry(world.log, member.shard)
                    if last and last.snapshot and last.snapshot.blob in str(error):
                        raise
                    raise BlobMissing(f"an old pointer was read: {error}") from error

            if self._guarded(one, start, self._follower_ends(member)):
                member.followers = [*member.followers[-2:], one]
        elif one := self._idle(member.followers):
            follower = one.follower
            assert follower is not None
            ends = self._follower_ends(member)
            if self._guarded(one, lambda: follower.step(rng.choice((0.0, 0.05)), rng.randrange(1, 5)), ends):
                member.oracle.check(follower.number, follower.digest(), one)
            else:
                member.followers = [other for other in member.followers if other is not one]

    def _disturb(self, member: Member) -> None:
        world, shard = self.world, member.shard
        one = Process(self._named("operator"))
        verbs, lost = self._verbs_of(one), shard.name in world.lost
        self._operators.append(one)
        if world.strikes("fence", shard.name):
            log = FaultyLog(world, one)
            self._guarded(one, lambda: log.writer(shard.name, shard.written), LOOP_ENDS)
        elif world.strikes("refold", shard.name):
            ends = self._ends_of(member, (*OPERATOR_ENDS, StateUnreadable), after_loss=shard.name in world.accepted)
            self._guarded(one, lambda: verbs.refold(shard, member.make), ends)
        elif not lost and world.strikes("verify", shard.name):
            self._guarded(one, lambda: verbs.verify(shard), (LogUnavailable,))
        elif (lost and world.rng.random() < 0.5) or world.strikes("accept-loss", shard.name):
            self._guarded(one, lambda: verbs.accept_loss(shard, member.make), OPERATOR_ENDS)
        elif not world.lost and world.strikes("trim"):
            self._guarded(one, verbs.trim, LOOP_ENDS)
        elif world.quiet and not world.lost and (able := self._meddling.resilient()) and world.strikes("fall back"):
            if self._guarded(one, partial(verbs.trim, keep_ms=0), LOOP_ENDS):
                self._end_all()  # each begins with a former snapshot
                self._meddling.rot(able)
        elif world.quiet and world.strikes("loss"):
            self._end_all()
            self._meddling.lose()
        else:
            self._meddling.act()
        self._operators.remove(one)

    def _verbs_of(self, one: Process) -> Verbs:
        world = self.world
        blobs = self._blobs_of(self._folder, world, one)
        return Verbs(world, FaultyLog(world, one), blobs, world.timer_of(one), self._meddling)

    def _lose_power(self) -> None:
        """End every process at its next call, and lose what was not synced."""
        self._end_all()
        lose_power(self._folder, self.world)

    def _end_all(self) -> None:
        """End every process at its next call."""
        for operator in self._operators:
            operator.doomed = True
        for member in self.members:
            for one in [*member.loops, *member.followers]:
                one.doomed = True
            member.loops = [one for one in member.loops if one.running]
            member.followers = [one for one in member.followers if one.running]

    def _calm_down(self) -> None:
        """End all faults; check that every shard learns the rest, and that nothing is lost, doubled or open."""
        world = self.world
        world.calm()
        world.sleep(16.0)  # added partitions are looked for every 15 s
        for member in self.members:
            for one in member.loops[:-1]:
                self._end(member, one, closing=True)
            if member.shard.name in world.lost:
                operator = Process(self._named("operator"))
                self._guarded(operator, partial(self._verbs_of(operator).accept_loss, member.shard, member.make), ())
        for _ in range(calm_rounds_max):
            for member in self.members:
                self._run_loop(member)
                self._store(member)
                member.oracle.follow()
            if all(member.loops and member.oracle.covered for member in self.members):
                break
        else:
            raise Violation(f"after {calm_rounds_max} calm rounds not everything is learned")
        for member in self.members:
            self._check_end(member)
        self.publishing.check([member.oracle for member in self.members])
        if world.pending:
            raise Violation(f"commits are open at the end: {list(world.pending)}")

    def _check_end(self, member: Member) -> None:
        (one,) = member.loops
        loop = one.loop
        assert loop is not None
        if not self._guarded(one, lambda: loop.run(lambda: True), ()):
            raise Violation(f"{one} cannot end")
        member.oracle.check(loop.number, digest(freeze(loop.fold, loop._intake)), one)
        last = Process("last follower")
        log, blobs = FaultyLog(self.world, last), Blobs(self._folder)

        def follow() -> None:
            follower = Follower(log, blobs, member.shard, make=member.make, timer=self.world.timer)
            follower.catch_up()
            member.oracle.check(follower.number, follower.digest(), last)
            # An operator may have committed since; a loop that has nothing to commit is not told that it is fenced.
            newest = newest_entry(log, member.shard)
            refolded = newest is not None and newest.renewed == FOLDED_ANEW
            if follower.number != loop.number + (refolded and follower.number > loop.number):
                raise Violation(f"{last} has folded {follower.number} entries, {one} has committed {loop.number}")
            self._verbs_of(last).verify(member.shard)

        self._guarded(last, follow, ())
        member.oracle.check_strays(self._meddling.strays[member.shard.journal])
