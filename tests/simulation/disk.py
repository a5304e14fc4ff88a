"""The simulated disk: the real `Blobs` over a folder whose writes may be torn, refused or lost with the power."""

import errno
import os
from collections.abc import Callable, Collection
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from headrace.shard.blobs import Blobs
from tests.simulation.world import Crash, Process, World


class SimulatedBlobs(Blobs):
    """Blobs as one process sees them. Names and bytes are durable once they are synced."""

    def __init__(self, folder: Path, world: World, process: Process) -> None:
        super().__init__(folder)
        self._world, self._process = world, process

    def _write(self, path: Path, data: bytes) -> None:
        world = self._world
        world.call(self._process, "write")
        if world.strikes("disk full", self._process):
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "the simulated disk is full")
        if world.strikes("torn write", self._process):
            path.write_bytes(data[: world.rng.randrange(len(data))])
            self._process.doomed = True
            raise Crash
        path.write_bytes(data)
        os.utime(path, ns=(0, world.now_us * 1_000))
        world.unsynced[final_name(path)] = "bytes"
        self._fsync(path)

    def _fsync(self, path: Path) -> None:
        self._world.unsynced[final_name(path)] = "name"

    def _sync_folder(self) -> None:
        self._world.call(self._process, "sync")
        for name in [name for name, what in self._world.unsynced.items() if what == "name"]:
            del self._world.unsynced[name]

    def get(self, name: str) -> bytes:
        self._world.call(self._process, "get")
        return super().get(name)

    def sweep(self, kind: str, keep: Collection[str], before_ns: int | None = None) -> list[str]:
        self._world.call(self._process, "sweep")
        return super().sweep(kind, keep, before_ns)


def final_name(path: Path) -> str:
    """Return the name of a blob, of which this may be the unfinished file."""
    return path.name.partition(".")[0]


def lose_power(folder: Path, world: World) -> None:
    """Lose what was not synced: names at random, bytes by cutting or replacing them."""
    for name, what in sorted(world.unsynced.items()):
        path = folder / name
        if not path.exists() or world.rng.random() < 0.3:
            continue
        if what == "name":
            path.unlink()
        else:
            data = path.read_bytes()
            path.write_bytes(world.rng.choice((data[: len(data) // 2], bytes(len(data)), b"")))
    world.unsynced.clear()


class StepExecutor(Executor):
    """Runs one job at a time, when the scenario says so, in the scenario's thread."""

    def __init__(self) -> None:
        self._jobs: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._jobs.append((future, lambda: fn(*args, **kwargs)))
        return future

    @property
    def waiting(self) -> bool:
        """Whether there is a job to run."""
        return bool(self._jobs)

    def run_next(self) -> None:
        """Run the oldest job; Crash passes through, any other failure is the job's result."""
        future, job = self._jobs.pop(0)
        try:
            result = job()
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        while self._jobs:
            self.run_next()
