"""A contestant's run over the periods of the continual benchmark, kept in a folder so that it can be resumed."""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import registry, sources
from benchmarks.contestants import Answers, Contestant, Tuning, model_answers, training
from benchmarks.periods import Periods, Question
from headrace import state
from learners.next_item.judgement import list_length

Ask = Callable[[Sequence[Question], Periods, int], Iterator[Answers]]


def folder_of(work: Path, name: str, periods: Periods, tuning: Tuning) -> Path:
    """Return a contestant's folder: its name and a digest of all that its models depend on, code included."""
    inputs: list[Any] = [periods.digest, sources.digest(*registry.modules(name)), Path(registry.__file__).read_text()]
    if name in registry.NEURAL:
        inputs += [training, tuning.seed, tuning.rate, *([tuning.strength] if name == "ewc" else [])]
    return work / f"{name}-{sha256(json.dumps(inputs).encode()).hexdigest()[:16]}"


def model_path(folder: Path, update: int) -> Path:
    """Return the path of a contestant's deep model as it is after learning period `update`."""
    return folder / f"model_{update}.safetensors"


class ResumableContestant:
    """A contestant that can be stopped and started again, between and within periods.

    Attributes:
        rounds: per period learned, what it cost, and its seconds.
        seconds: spent on computing the answers returned here, when they were first computed.
    """

    def __init__(self, name: str, folder: Path, make: Callable[[], Contestant]) -> None:
        self.name, self.folder, self.make = name, folder, make
        self.seconds = 0.0
        self.rounds: dict[str, dict[str, float]]
        self._begin()
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state").exists():
            kept = state.decode((folder / "state").read_bytes())
            self.contestant.restore(kept["contestant"])
            self.learned, self.rounds = kept["learned"], kept["rounds"]

    def _begin(self) -> None:
        self.contestant = self.make()
        self.learned = -1
        self.rounds = {}

    def answers(
        self,
        questions: Sequence[Question],
        asked: str,
        periods: Periods,
        period: int,
        progress: Callable[[float], None],
    ) -> Answers:
        """Return the answers to a period's questions, after learning all periods before it and no other.

        Args:
            asked: the name of the sample that the questions are.
        """
        path = self.folder / f"period_{period}{asked}.npz"
        if not path.exists():
            ask = self._learned(periods, period - 1, progress)
            began = time.perf_counter()
            parts = list(ask(questions, periods, period))
            seconds = time.perf_counter() - began
            file = BytesIO()
            np.savez(file, allow_pickle=False, seconds=np.array(seconds), **_join(parts)._asdict())
            write(path, file.getvalue())
        with np.load(path, allow_pickle=False) as kept:
            self.seconds += float(kept["seconds"])
            return Answers(**{name: kept[name] for name in Answers._fields})

    def _learned(self, periods: Periods, last: int, progress: Callable[[float], None]) -> Ask:
        """Return the function that answers as a contestant that has learned up to period `last`."""
        kept = model_path(self.folder, last)
        if self.learned != last and kept.exists():
            from learners.deep.model import DeepModel

            return partial(model_answers, DeepModel.from_bytes(kept.read_bytes()))
        if self.learned > last and not self.contestant.from_scratch:
            self._begin()
        if self.learned != last:
            for period in range(last if self.contestant.from_scratch else self.learned + 1, last + 1):
                self._learn(periods, period, progress)
        return self.contestant.answer

    def _learn(self, periods: Periods, period: int, progress: Callable[[float], None]) -> None:
        began = time.perf_counter()
        cost = self.contestant.learn(periods, period, progress)
        self.rounds[str(period)] = {**cost._asdict(), "seconds": time.perf_counter() - began}
        self.learned = period
        model = self.contestant.model_bytes()
        if model is not None:
            write(model_path(self.folder, period), model)
        kept = {"contestant": self.contestant.state(), "learned": self.learned, "rounds": self.rounds}
        write(self.folder / "state", state.encode(kept))

    def rounds_for(self, tested: Sequence[int]) -> dict[str, dict[str, float]]:
        """Return the rounds that the answers on the periods tested needed."""
        wanted = {period - 1 for period in tested} if self.contestant.from_scratch else set(range(max(tested)))
        return {period: cost for period, cost in self.rounds.items() if int(period) in wanted}


def _join(parts: Iterable[Answers]) -> Answers:
    none = Answers(np.empty(0, np.int32), np.empty((0, list_length), np.int32), np.empty((0, list_length), np.float32))
    return Answers(*(np.concatenate(column) for column in zip(none, *parts, strict=True)))


def write(path: Path, data: bytes) -> None:
    """Write a file atomically; several runs may share a folder."""
    partial_path = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial_path.write_bytes(data)
    os.replace(partial_path, path)
