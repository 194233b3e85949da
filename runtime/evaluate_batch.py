"""Several recordings side by side: one step of every network moves all of them by a window."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calib_data.events import EventSource
from calib_data.windows import Window
from runtime.batch import Batch, Slot
from runtime.evaluate_sequences import Outcome
from runtime.evaluation import Evaluation, take
from runtime.picture_outputs import Observers
from runtime.sequence import Drive, Output, Scorer, check_drive, encode_window, loaded_windows


@dataclass
class Job:
    """A recording on its way. windows: still to come, with the seconds of reading each. slots: by
    network. stack: closes what is open for it, and discards films where it is left by an error."""

    path: Path
    evaluation: Evaluation
    windows: Iterator[tuple[Window, float]]
    scorer: Scorer
    slots: Mapping[str, Slot]
    observe: Observers
    stack: ExitStack

    def take(self, window: Window, loading: float, outputs: Mapping[str, Output]) -> None:
        """Score a window and take it in."""
        take(self.evaluation, self.scorer.record(window, loading, outputs), self.observe)

    def finish(self, *, partial: bool = False) -> Evaluation:
        """The evaluation; its time is the sum of its parts, steps being shared evenly."""
        self.evaluation.partial = partial
        self.evaluation.profile.total = sum(self.evaluation.profile.parts.values())
        self.observe.finish(self.evaluation)
        self.stack.close()
        return self.evaluation


def make_job(
    file: EventSource,
    path: Path,
    plan: Drive,
    evaluation: Evaluation,
    slots: Mapping[str, Slot],
    observe: Observers,
    stack: ExitStack,
) -> Job:
    """A job whose slots are reset. Raises EvaluationError as ``runtime.sequence.drive``."""
    check_drive(file, slots, plan)
    for slot in slots.values():
        slot.reset()
    scorer = Scorer(file.resolution, plan, slots)
    return Job(path, evaluation, loaded_windows(file, plan), scorer, slots, observe, stack)


OpenJob = Callable[[Path, Mapping[str, Slot], ExitStack], Job]


def evaluate_batch(
    paths: Iterable[Path], batches: Mapping[str, Batch], open_job: OpenJob, outcome: Outcome
) -> Iterator[Path]:
    """Evaluate recordings of one resolution in the slots of networks of equal batch.

    ``open_job`` opens a recording, putting what is to be closed on the stack. Yields each recording
    once it is finished or skipped. Ctrl-C ends all of them, marked as partial, in ``outcome``.
    """
    driver = _Driver(deque(paths), batches, open_job, outcome)
    try:
        while True:
            before = len(outcome.evaluations) + len(outcome.skipped)
            more = driver.step()
            done = [*outcome.evaluations, *outcome.skipped]
            yield from done[before:] if len(done) > before else ()
            if not more:
                return
    except (KeyboardInterrupt, GeneratorExit):
        outcome.interrupted = True
        for job in driver.jobs:
            outcome.evaluations[job.path] = job.finish(partial=True)


class _Driver:
    def __init__(
        self,
        waiting: deque[Path],
        batches: Mapping[str, Batch],
        open_job: OpenJob,
        outcome: Outcome,
    ) -> None:
        self._waiting = waiting
        self._batches = batches
        self._open = open_job
        self._outcome = outcome
        sizes = {len(batch.slots) for batch in batches.values()}
        self._free = [
            {name: batch.slots[at] for name, batch in batches.items()} for at in range(max(sizes))
        ]
        self.jobs: list[Job] = []

    def step(self) -> bool:
        """One window of every recording; False once none is left."""
        ready = self._fetch()
        if not ready:
            return False
        try:
            results = {name: _run(batch, ready) for name, batch in self._batches.items()}
        except Exception as error:
            self._give_up(error)
            return False
        for at, (job, window, loading) in enumerate(ready):
            try:
                job.take(window, loading, {name: outputs[at] for name, outputs in results.items()})
            except Exception as error:
                self._drop(job, error)
        return True

    def _drop(self, job: Job, error: Exception) -> None:
        """Skip a recording that failed; its slots are free."""
        job.stack.__exit__(type(error), error, error.__traceback__)
        self._outcome.skip(job.path, error)
        self._leave(job)

    def _leave(self, job: Job) -> None:
        self.jobs.remove(job)
        self._free.append(dict(job.slots))

    def _give_up(self, error: Exception) -> None:
        """Skip all recordings that are left: the networks themselves failed."""
        for job in list(self.jobs):
            self._drop(job, error)
        while self._waiting:
            self._outcome.skip(self._waiting.popleft(), error)

    def _fetch(self) -> list[tuple[Job, Window, float]]:
        """The next window of every recording, in the order of the slots; slots without are given
        up."""
        found: dict[int, tuple[Job, Window, float]] = {}
        pending = list(self.jobs)
        while pending or (self._free and self._waiting):
            job = pending.pop() if pending else self._next_job()
            following = self._next_window(job) if job is not None else None
            if job is not None and following is not None:
                found[id(job)] = (job, *following)
        for slots in self._free:
            for name, slot in slots.items():
                self._batches[name].remove(slot)
        self._free = []
        order = next(iter(self._batches.values())).slots
        name = next(iter(self._batches))
        self.jobs.sort(key=lambda job: order.index(job.slots[name]))
        return [found[id(job)] for job in self.jobs]

    def _next_job(self) -> Job | None:
        path, slots = self._waiting.popleft(), self._free.pop()
        stack = ExitStack()
        try:
            job = self._open(path, slots, stack)
        except Exception as error:
            stack.__exit__(type(error), error, error.__traceback__)
            self._outcome.skip(path, error)
            self._free.append(slots)
            return None
        self.jobs.append(job)
        return job

    def _next_window(self, job: Job) -> tuple[Window, float] | None:
        """None where the recording has ended, or failed and was skipped."""
        try:
            following = next(job.windows, None)
            if following is not None:
                return following
            self._outcome.evaluations[job.path] = job.finish()
            self._leave(job)
        except Exception as error:
            self._drop(job, error)
        return None


def _run(batch: Batch, ready: list[tuple[Job, Window, float]]) -> list[Output]:
    """Step a network once on the windows of all slots; times of the step are shared evenly."""
    inputs, encoding = [], []
    for job, window, _ in ready:
        start = time.perf_counter()
        inputs.append(encode_window(batch.runner, window.events, job.evaluation.resolution))
        encoding.append(time.perf_counter() - start)
    start = time.perf_counter()
    flow = batch.step(inputs)
    end = time.perf_counter()
    counts = batch.spike_counts()
    counting = time.perf_counter() - end
    return [
        Output(
            flow=np.ascontiguousarray(flow[at]),
            fired={layer: int(count.fired[at]) for layer, count in counts.items()},
            neurons={layer: count.neurons for layer, count in counts.items()},
            seconds=(end - start) / len(ready),
            encoding=encoding[at],
            counting=counting / len(ready),
        )
        for at in range(len(ready))
    ]
