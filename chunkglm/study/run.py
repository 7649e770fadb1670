"""The job of a whole data set: a table of runs in, fixed-effects maps of every subject out."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chunkglm.build import version
from chunkglm.errors import StudyError
from chunkglm.glm.shown import as_html
from chunkglm.io.images import atomic_writer
from chunkglm.io.lock import only_writer
from chunkglm.lazy.progress import tell_dashboard
from chunkglm.study.driver import Driver
from chunkglm.study.engines import engine_of
from chunkglm.study.finish import finalise, partition_path
from chunkglm.study.model import StudyModel, read_model
from chunkglm.study.needs import check_needs
from chunkglm.study.records import made_with, why_again
from chunkglm.study.table import RunRow, by_subject, read_runs

_log = logging.getLogger("chunkglm.study")

_ASKED = "all of it was asked for again"


@dataclass(frozen=True, slots=True, repr=False)
class StudyReport:
    """What became of every subject."""

    out: str
    done: Mapping[str, str]  # subject, and why it was done now
    kept: tuple[str, ...]  # done before, and still true
    failed: Mapping[str, str]  # subject, and why
    n_runs: int  # done now
    seconds: float

    def __repr__(self) -> str:
        """Show the counts, and every failure."""
        lines = [
            f"<chunkglm.StudyReport of {self.out}: {len(self.done)} subjects done "
            f"({self.n_runs} runs, {self.seconds:.1f} s), {len(self.kept)} kept, "
            f"{len(self.failed)} failed>"
        ]
        lines += [f"  sub-{subject}: {reason}" for subject, reason in self.failed.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = {
            "done": f"{len(self.done)} ({self.n_runs} runs, {self.seconds:.1f} s)",
            "done before": str(len(self.kept)),
            "failed": str(len(self.failed)),
        }
        rows |= {f"sub-{subject}": reason for subject, reason in self.failed.items()}
        return as_html(f"StudyReport, subjects in {self.out}", rows)


def run_study(
    table: Any,
    model: Any,
    out: str | Path,
    *,
    client: Any = None,
    resume: bool = True,
    on_error: str = "report",
    partition: tuple[int, int] | None = None,
    threads: int | None = None,
    memory_limit: str | int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> StudyReport:
    """Fit every run of a table and combine the runs of each subject.

    Parameters
    ----------
    table : DataFrame or path
        One row per run; see `read_runs`.
    model : StudyModel, mapping or path
        What is done with each; see `read_model`.
    out : str or Path
        Folder of the results, made if it does not exist: maps in ``sub-X`` folders, ``runs.tsv``,
        ``dataset_description.json``, ``group.zarr`` with all subjects where their grids agree,
        ``records`` with the hashes of all that was read and written, ``logs``.
    client : distributed.Client, optional
        A cluster to work on; threads of this process by default.
    resume : bool
        Keep what was done before with the same inputs, design, model and version. False does
        everything again.
    on_error : {"report", "raise"}
        A bad run sets its subject aside; ``"raise"`` stops at the first.
    partition : (i, n), optional
        Do only the i-th (from 0) of n parts of the subjects, for job arrays; `finalise` completes
        the results when all parts are done.
    threads : int, optional
        Runs at work at once, without a client; by default one for each core.
    memory_limit : str or int, optional
        Of this process, or of each worker, such as ``"2GB"``; by default what a client's workers
        were given. A run that cannot fit is refused before anything starts.
    storage_options : mapping, optional
        Passed to fsspec with URLs.
    progress : bool
        Show runs, subjects, rate, time left and failures on standard error, or in the output of a
        notebook's cell; of a cluster also where its dashboard is.

    Returns
    -------
    StudyReport

    Raises
    ------
    StudyError
        When the table or the model cannot be used; nothing was started then.
    ClusterError
        When scheduler or workers are gone; what is done is kept.
    MemoryLimitError
        When a worker cannot hold a run; nothing was started then.
    """
    if on_error not in ("report", "raise"):
        msg = f'on_error must be "report" or "raise", but is {on_error!r}'
        raise StudyError(msg)
    began = time.monotonic()
    rows, model = read_runs(table), read_model(model)
    model.check_rows("table" if hasattr(table, "columns") else str(table), rows)
    storage = storage_options or {}
    folder = make_folder(Path(out))
    mine, made = part_of(by_subject(rows), partition), made_with(model)
    tag = "" if partition is None else "-{}-of-{}".format(*partition)
    with only_writer(folder / f"study{tag}"), logging_to(folder, tag):
        reasons = {
            subject: why_again(folder, subject, runs, made, storage) if resume else _ASKED
            for subject, runs in mine.items()
        }
        wanted = {subject: mine[subject] for subject, why in reasons.items() if why}
        _log_plan(reasons)
        _describe(folder, model)
        if client is not None and progress:
            tell_dashboard(client)
        with engine_of(client, threads, memory_limit) as engine:
            check_needs(wanted, model, folder, engine)
            driver = Driver(engine, model, folder, storage, stop=on_error == "raise")
            driver.go(wanted, show=progress)
        report = _report(folder, reasons, driver, time.monotonic() - began)
        if partition is None:
            finalise(rows, model, folder)
        else:
            _write_json(partition_path(folder, *partition), {"subjects": list(mine)})
    return report


def _log_plan(reasons: Mapping[str, str]) -> None:
    n_kept = sum(not why for why in reasons.values())
    _log.info("%d subjects to do, %d kept", len(reasons) - n_kept, n_kept)
    for subject, why in reasons.items():
        if why:
            _log.info("sub-%s: %s", subject, why)


def _report(out: Path, reasons: Mapping[str, str], driver: Driver, seconds: float) -> StudyReport:
    report = StudyReport(
        out=str(out),
        done={s: why for s, why in reasons.items() if why and s not in driver.failed},
        kept=tuple(s for s, why in reasons.items() if not why),
        failed=driver.failed,
        n_runs=driver.n_runs,
        seconds=seconds,
    )
    _log.info("%r", report)
    return report


def part_of(
    subjects: dict[str, list[RunRow]], partition: tuple[int, int] | None
) -> dict[str, list[RunRow]]:
    """Every n-th subject, beginning with the i-th."""
    if partition is None:
        return subjects
    i, n = partition
    if not 0 <= i < n:
        msg = f"partition must be I/N with I from 0 to N - 1, but is {i}/{n}"
        raise StudyError(msg)
    return dict(list(subjects.items())[i::n])


def make_folder(out: Path) -> Path:
    """Make the output folder; a file in its place is refused."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{out}: the output folder cannot be made ({error.strerror}); choose another"
        raise StudyError(msg) from error
    return out


@contextmanager
def logging_to(out: Path, tag: str) -> Iterator[None]:
    """Write what happens into a file of its own below ``logs``."""
    folder = make_folder(out / "logs")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    handler = logging.FileHandler(folder / f"study{tag}-{stamp}.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = _log.level
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    try:
        yield
    finally:
        _log.setLevel(level)
        _log.removeHandler(handler)
        handler.close()


def _describe(out: Path, model: StudyModel) -> None:
    made_by = {"Name": "chunkglm", "Version": version()}
    description = {
        "Name": "chunkglm: fixed effects of task fMRI runs",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [made_by],
    }
    _write_json(out / "dataset_description.json", description)
    _write_json(out / "model.json", model.as_dict())


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_writer(path) as file:
        file.write((json.dumps(values, indent=2) + "\n").encode())
