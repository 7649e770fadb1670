"""Hands out jobs, a bounded number at a time, and takes in what becomes of them."""

import logging
import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from chunkglm.errors import StudyError
from chunkglm.glm.shown import amount
from chunkglm.lazy.progress import bar, in_notebook
from chunkglm.study.engines import Engine, WorkerLostError
from chunkglm.study.jobs import RunResult, SubjectResult, run_job, subject_job
from chunkglm.study.model import StudyModel
from chunkglm.study.records import write_record
from chunkglm.study.table import RunRow

_log = logging.getLogger("chunkglm.study")

# Runs begun for each thread at work: one, and one that waits.
RUNS_PER_THREAD = 2


@dataclass(slots=True)
class _Open:
    """A subject whose runs are at work."""

    rows: list[RunRow]
    runs: list[Any]  # futures
    left: set[Any]


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
    _open: dict[str, _Open] = field(default_factory=dict)
    _running: dict[Any, str] = field(default_factory=dict)  # subject by future of a run
    _combining: dict[Any, tuple[str, list[RunRow]]] = field(default_factory=dict)
    _suspects: dict[str, list[RunRow]] = field(default_factory=dict)
    _bars: Any = None

    def go(self, subjects: Mapping[str, list[RunRow]], *, show: bool) -> None:
        """Do all subjects; those with whose jobs workers died are tried again, each alone."""
        n_runs = sum(map(len, subjects.values()))
        with progress_bars(n_runs, len(subjects), show) as self._bars:
            self._all(deque(subjects.items()))
            for subject, rows in self._suspects.items():
                self._alone(subject, rows)

    def _all(self, waiting: deque[tuple[str, list[RunRow]]]) -> None:
        while waiting or self._running or self._combining:
            limit = RUNS_PER_THREAD * self.engine.n_threads
            while waiting and len(self._running) < limit:
                self._begin(*waiting.popleft())
            for future in self.engine.wait([*self._running, *self._combining], seconds=1.0):
                if future in self._running:
                    self._end_run(future)
                else:
                    self._end_subject(future)

    def _begin(self, subject: str, rows: list[RunRow]) -> None:
        runs = [self._submit_run(row) for row in rows]
        self._open[subject] = _Open(rows, runs, set(runs))
        self._running.update(dict.fromkeys(runs, subject))

    def _submit_run(self, row: RunRow) -> Any:
        return self.engine.submit(
            f"run-{row.label}", run_job, row, self.model, str(self.out), self.storage
        )

    def _submit_subject(self, subject: str, runs: list[Any]) -> Any:
        # Before runs that wait: it frees the maps of runs.
        return self.engine.submit(
            f"subject-{subject}", subject_job, subject, self.model, str(self.out), runs, priority=1
        )

    def _end_run(self, future: Any) -> None:
        subject = self._running.pop(future)
        one = self._open[subject]
        one.left.discard(future)
        self._bars.runs.update()
        if one.left:
            return
        del self._open[subject]
        try:
            runs = [self.engine.argument(run) for run in one.runs]
        except WorkerLostError:
            self._suspects[subject] = one.rows
            return
        self._combining[self._submit_subject(subject, runs)] = (subject, one.rows)

    def _end_subject(self, future: Any) -> None:
        subject, rows = self._combining.pop(future)
        try:
            result = self.engine.result(future)
        except WorkerLostError:
            self._suspects[subject] = rows
            return
        self._take(result, rows)

    def _alone(self, subject: str, rows: list[RunRow]) -> None:
        """Do one run after the other, so that who kills a worker is known by name."""
        _log.warning("sub-%s: a worker died with it; trying each of its runs alone", subject)
        runs, found = [], []
        for row in rows:
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
            self._take(SubjectResult(subject, tuple(found), 0.0, reason), rows)
            return
        combined = self._until_done(self._submit_subject(subject, runs))
        try:
            self._take(self.engine.result(combined), rows)
        except WorkerLostError:
            reason = "combining its runs killed the worker whenever it was tried"
            self._take(SubjectResult(subject, (), 0.0, reason), rows)

    def _until_done(self, future: Any) -> Any:
        while not self.engine.wait([future], seconds=1.0):
            pass
        return future

    def _take(self, result: SubjectResult, rows: list[RunRow]) -> None:
        """Record what became of a subject."""
        self.n_runs += len(result.runs)
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
        write_record(self.out, result, rows, self.model)
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
