"""Hands out jobs, a bounded number at a time, and takes in what becomes of them."""

import logging
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from chunkglm.errors import StudyError
from chunkglm.glm.shown import amount
from chunkglm.lazy.progress import bar, in_notebook
from chunkglm.study.designs import SharedDesigns
from chunkglm.study.engines import Engine, WorkerLostError
from chunkglm.study.jobs import run_job, subject_job, whole_job
from chunkglm.study.model import StudyModel
from chunkglm.study.records import made_with, write_record
from chunkglm.study.results import RunResult, SubjectResult, Work
from chunkglm.study.table import RunRow

_log = logging.getLogger("chunkglm.study")

# Jobs begun for each thread: one at work, and one that waits.
JOBS_PER_THREAD = 2


# Subjects that take less, all of it, are never cut into runs. Of those of 0.5 s, handing out three
# jobs for one costs as much as a worker that waits for the other's last subject; and where they
# take a little less or more, some are cut and some not, which is worse than either.
CUT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Job:
    """What a future is of."""

    subjects: tuple[str, ...]
    n_runs: int  # that it fits
    is_last: bool  # of its subjects: it makes the maps


@dataclass(slots=True)
class _Open:
    """A subject whose runs are jobs of their own."""

    runs: list[Any]  # futures
    left: int


@dataclass(slots=True)
class Driver:
    """Does subjects; what became of them is in `failed` and in the records."""

    engine: Engine
    model: StudyModel
    out: Path
    storage: Mapping[str, Any]
    stop: bool  # at the first failure
    failed: dict[str, str] = field(default_factory=dict)
    n_runs: int = 0
    _rows: Mapping[str, list[RunRow]] = field(default_factory=dict)
    _designs: Any = None
    _made: Mapping[str, str] = field(default_factory=dict)
    _at_work: dict[Any, _Job] = field(default_factory=dict)  # by future
    _open: dict[str, _Open] = field(default_factory=dict)
    _suspects: list[str] = field(default_factory=list)
    _bars: Any = None
    _seconds: float = 0.0  # that subjects took, all of them
    _n_taken: int = 0

    def go(self, subjects: Mapping[str, list[RunRow]], *, show: bool) -> None:
        """Do all subjects; those with whose jobs workers died are tried again, each alone."""
        rows = [row for each in subjects.values() for row in each]
        self._rows, self._made = subjects, made_with(self.model)
        self._designs = SharedDesigns(self.model, rows, self.storage)
        with progress_bars(len(rows), len(subjects), show) as self._bars:
            self._all(deque(subjects))
            for subject in self._suspects:
                self._alone(subject)

    def _all(self, waiting: deque[str]) -> None:
        while waiting or self._at_work:
            limit = JOBS_PER_THREAD * self.engine.n_threads
            while waiting and len(self._at_work) < limit:
                if self._cut(len(waiting), limit):
                    self._begin_runs(waiting.popleft())
                else:
                    n = self._together(len(waiting), limit)
                    self._begin([waiting.popleft() for _ in range(n)])
            for future in self.engine.wait(self._at_work, seconds=1.0):
                self._end(future, self._at_work.pop(future))

    def _cut(self, n_waiting: int, limit: int) -> bool:
        """Whether runs are jobs: towards the end, so that no worker is left with the last alone."""
        if self.engine.n_threads == 1:
            return False
        takes_long = not self._n_taken or self._seconds / self._n_taken >= CUT_SECONDS
        return n_waiting < limit and takes_long

    def _together(self, n_waiting: int, limit: int) -> int:
        """How many subjects are one job.

        Each job costs the one driver of many workers some 6 ms. So it is of as many subjects as
        take a worker long enough, but of few towards the end, and of one while that is not known.
        """
        if not self._n_taken:
            return 1
        mean = max(self._seconds / self._n_taken, 1e-3)
        return max(1, min(int(self.engine.job_seconds / mean), n_waiting // limit))

    def _begin(self, subjects: list[str]) -> None:
        """All of some subjects as one job."""
        rows = [row for subject in subjects for row in self._rows[subject]]
        label = subjects[0] if len(subjects) == 1 else f"{subjects[0]}-to-{subjects[-1]}"
        each = [(subject, self._rows[subject]) for subject in subjects]
        future = self._submit("subjects", label, whole_job, each, self._work(rows))
        self._at_work[future] = _Job(tuple(subjects), len(rows), is_last=True)

    def _begin_runs(self, subject: str) -> None:
        """The runs of a subject as jobs; one run is all of a subject."""
        rows = self._rows[subject]
        if len(rows) == 1:
            self._begin([subject])
            return
        runs = {self._submit_run(row): _Job((subject,), 1, is_last=False) for row in rows}
        self._open[subject] = _Open(list(runs), len(runs))
        self._at_work.update(runs)

    def _work(self, rows: Sequence[RunRow] = ()) -> Work:
        designs = self._designs.of(rows)
        return Work(self.model, str(self.out), self.storage, designs, self._made)

    def _submit(self, kind: str, label: str, job: Any, *args: Any, priority: int = 0) -> Any:
        return self.engine.submit(kind, label, job, *args, priority=priority)

    def _submit_run(self, row: RunRow) -> Any:
        return self._submit("run", row.label, run_job, row, self._work([row]))

    def _submit_subject(self, subject: str, runs: list[Any]) -> Any:
        # Before runs that wait: it frees the maps of runs.
        args = subject, self._work(), runs
        return self._submit("combine", subject, subject_job, *args, priority=1)

    def _end(self, future: Any, job: _Job) -> None:
        self._bars.runs.update(job.n_runs)
        if not job.is_last:
            self._end_run(*job.subjects)
            return
        try:
            result = self.engine.result(future)
        except WorkerLostError:
            self._suspects.extend(job.subjects)
            return
        for one in result if isinstance(result, tuple) else (result,):
            self._take(one)

    def _end_run(self, subject: str) -> None:
        one = self._open[subject]
        one.left -= 1
        if one.left:
            return
        del self._open[subject]
        try:
            runs = [self.engine.argument(run) for run in one.runs]
        except WorkerLostError:
            self._suspects.append(subject)
            return
        self._at_work[self._submit_subject(subject, runs)] = _Job((subject,), 0, is_last=True)

    def _alone(self, subject: str) -> None:
        """Do one run after the other, so that who kills a worker is known by name."""
        _log.warning("sub-%s: a worker died with it; trying each of its runs alone", subject)
        runs, found = [], []
        for row in self._rows[subject]:
            runs.append(self._until_done(self._submit_run(row)))
            try:
                self.engine.argument(runs[-1])
            except WorkerLostError:
                reason = (
                    "its worker was killed whenever it was tried, alone too (out of memory, or a "
                    "library that crashes on its files)"
                )
                found = [RunResult(row, 0.0, failure=reason)]
                break
        if found:
            reason = f"{found[0].row.label}: {found[0].failure}"
            self._take_own(SubjectResult(subject, tuple(found), 0.0, reason))
            return
        combined = self._until_done(self._submit_subject(subject, runs))
        try:
            self._take(self.engine.result(combined))
        except WorkerLostError:
            reason = "combining its runs killed the worker whenever it was tried"
            self._take_own(SubjectResult(subject, (), 0.0, reason))

    def _until_done(self, future: Any) -> Any:
        while not self.engine.wait([future], seconds=1.0):
            pass
        return future

    def _take_own(self, result: SubjectResult) -> None:
        """What became of a subject that workers can tell nothing of."""
        write_record(self.out, result, self._rows[result.subject], self._made)
        self._take(result)

    def _take(self, result: SubjectResult) -> None:
        """Take in what became of a subject; its record is written."""
        self.n_runs += len(result.runs)
        self._n_taken += 1
        self._seconds += result.seconds + sum(one.seconds for one in result.runs)
        for one in result.runs:
            _log.info("%s: %s, %.2f s", one.row.label, one.failure or "done", one.seconds)
            for text in one.warnings:
                _log.warning("%s: %s", one.row.label, text)
        for details in (result.details, *(one.details for one in result.runs)):
            if details:
                _log.error("sub-%s\n%s", result.subject, details)
        if result.disk_full or any(one.disk_full for one in result.runs):
            free = amount(shutil.disk_usage(self.out).free)
            msg = (
                f"{self.out}: stopped, as a disk is full ({free} free there now): sub-"
                f"{result.subject}: {result.failure}; make room and run again: what is done is kept"
            )
            raise StudyError(msg)
        self._bars.subjects.update()
        if result.failure:
            self.failed[result.subject] = result.failure
            self._bars.failed(len(self.failed))
            if self.stop:
                msg = f"sub-{result.subject}: {result.failure}"
                raise StudyError(msg, (msg,))


class _Bars(NamedTuple):
    runs: Any
    subjects: Any

    def failed(self, count: int) -> None:
        """Show how many failed, on the line that is there."""
        (self.runs if self.subjects.disable else self.subjects).set_postfix(failed=count)


@contextmanager
def progress_bars(n_runs: int, n_subjects: int, show: bool) -> Iterator[_Bars]:
    """One line for runs and one for subjects, with rate and time left; notebooks have one line."""
    both = show and not in_notebook()
    with (
        bar(n_runs, "runs", unit="run", position=0, show=show) as runs,
        bar(n_subjects, "subjects", unit="subject", position=1, show=both) as subjects,
    ):
        yield _Bars(runs, subjects)
