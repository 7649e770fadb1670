"""What workers do: the maps of one run, the fixed effects of one subject, or all of some subjects.

Jobs return what went wrong and do not raise it: a bad run is news of a run, not of a worker. Each
may be done twice, as a cluster does when a worker is lost; it writes the same bytes then.
"""

import errno
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import xarray as xr

from chunkglm.alone import one_thread
from chunkglm.errors import ChunkglmError, ContrastError
from chunkglm.glm import save
from chunkglm.io.images import flushing
from chunkglm.study.fitting import contrasts_of, fit_row
from chunkglm.study.hashes import Stamp, stamp_file
from chunkglm.study.heap import keep_freed_memory
from chunkglm.study.pieces import Pieces, grid_of_pieces, write_pieces
from chunkglm.study.pooled import RunMaps, pooled_maps
from chunkglm.study.records import write_record
from chunkglm.study.results import NEEDED, RunResult, SubjectResult, Work, Written
from chunkglm.study.table import RunRow, entities
from chunkglm.study.told import told_here

_here = threading.Lock()
_depth = 0
_setting: Any = None


@contextmanager
def computing_here() -> Iterator[None]:
    """Let everything that is computed meanwhile be computed in the thread that asks for it.

    A task on a cluster would else hand its work back to the cluster and wait for it. dask's setting
    is one for the whole process: the first to enter makes it, the last to leave takes it back.
    """
    global _depth, _setting
    with _here:
        _depth += 1
        if _depth == 1:
            _setting = dask.config.set(scheduler="synchronous")
    try:
        yield
    finally:
        with _here:
            _depth -= 1
            if _depth == 0:
                _setting.__exit__(None, None, None)


def run_job(row: RunRow, work: Work) -> RunResult:
    """Fit one run and take all contrasts of it."""
    began = time.monotonic()
    keep_freed_memory()
    with told_here() as told, computing_here(), one_thread():
        try:
            found = _fit_and_contrasts(row, work)
        except Exception as error:
            found = RunResult(row, 0.0, *reason_of(error), disk_full=_is_disk_full(error))
    texts = dict.fromkeys(one.text for one in told if issubclass(one.category, UserWarning))
    return replace(found, seconds=time.monotonic() - began, warnings=tuple(texts))


def reason_of(error: BaseException) -> tuple[str, str]:
    """One line for people, and, of what is no bad input, a traceback for the log."""
    text = " ".join(str(error).split())
    if isinstance(error, ChunkglmError):
        return text, ""
    return f"{type(error).__name__}: {text}", "".join(traceback.format_exception(error))


def _is_disk_full(error: BaseException | None) -> bool:
    """Whether that is behind an error: it is no fault of the subject."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def _fit_and_contrasts(row: RunRow, work: Work) -> RunResult:
    model, out = work.model, Path(work.out)
    inputs = {name: stamp_file(path, work.storage) for name, path in row.files.items()}
    fitted = fit_row(row, model, inputs, work.designs)
    passes, places, skipped = contrasts_of(fitted, model)
    if model.save_moments or len(passes) > 1:
        fitted = replace(fitted, dataset=fitted.dataset.compute())
        passes, places, skipped = contrasts_of(fitted, model)
    if not model.save_runs:
        passes = [one[list(NEEDED)] for one in passes]
    maps = RunMaps(dask.compute(*passes), places)
    files: dict[str, Stamp] = {}
    if model.save_moments:
        store = out / "moments" / f"{row.label}.zarr"
        store.parent.mkdir(parents=True, exist_ok=True)
        fitted.save(store, overwrite=True)
        files[store.relative_to(out).as_posix()] = stamp_file(str(store), {})
    if model.save_runs:
        for name in places:
            prefix = f"{row.label}_{entities(contrast=name)}"
            files |= saved(maps.alone(name), out, out / f"sub-{row.subject}" / "runs", prefix)
    return RunResult(
        row,
        seconds=0.0,
        maps=RunMaps(tuple(one[list(NEEDED)] for one in maps.passes), places),
        skipped=skipped,
        dof=fitted.dof,
        n_voxels=sum(fitted.slabs.voxel_chunks),
        inputs=inputs,
        files=files,
    )


def saved(maps: xr.Dataset, out: Path, folder: Path, prefix: str) -> dict[str, Stamp]:
    """Save maps; return what was written, by path below the output folder."""
    files = {}
    for path in save(maps, folder, prefix=prefix):
        for each in (Path(path), Path(path.removesuffix(".nii.gz") + ".json")):
            if each.exists():
                files[each.relative_to(out).as_posix()] = stamp_file(str(each), {})
    return files


def subject_job(subject: str, work: Work, runs: Sequence[RunResult]) -> SubjectResult:
    """Combine the runs of one subject, write the maps, or say why not, and write the record.

    The record is written here, not by the one driver of many workers, and of what it holds nothing
    goes through the scheduler.
    """
    began = time.monotonic()
    failure = "; ".join(f"{r.row.label}: {r.failure}" for r in runs if r.failure)
    details, disk_full = "", any(r.disk_full for r in runs)
    written = Written()
    if not failure:
        try:
            with told_here(), computing_here(), one_thread():  # runs have told theirs
                _write_subject(subject, work, runs, written)
        except Exception as error:
            failure, details = reason_of(error)
            disk_full = _is_disk_full(error)
    files = dict(written.files)
    for one in runs:
        files |= one.files
    seconds = time.monotonic() - began
    result = SubjectResult(
        subject, tuple(runs), seconds, failure, details, files, written.pieces, disk_full
    )
    return _recorded(result, work)


def _recorded(result: SubjectResult, work: Work) -> SubjectResult:
    """Write the record, but where the disk is full; return what the driver goes by."""
    rows = [one.row for one in result.runs]
    runs = tuple(replace(one, maps=None, inputs={}, files={}) for one in result.runs)
    told = replace(result, runs=runs, files={}, pieces=None)
    if result.disk_full:
        return told
    try:
        write_record(Path(work.out), result, rows, work.made)
    except Exception as error:
        failure, details = reason_of(error)
        return replace(told, failure=failure, details=details, disk_full=_is_disk_full(error))
    return told


def whole_job(
    subjects: Sequence[tuple[str, Sequence[RunRow]]], work: Work
) -> tuple[SubjectResult, ...]:
    """Do all of some subjects, one run after the other; a full disk ends it."""
    found: list[SubjectResult] = []
    for subject, rows in subjects:
        found.append(subject_job(subject, work, [run_job(row, work) for row in rows]))
        if found[-1].disk_full:
            break
    return tuple(found)


def _write_subject(subject: str, work: Work, runs: Sequence[RunResult], written: Written) -> None:
    """Write the maps of a subject and of its sessions."""
    model, out = work.model, Path(work.out)
    groups: dict[str, list[RunResult]] = {"": list(runs)}
    if model.level == "session":
        for one in runs:
            groups.setdefault(one.row.session, []).append(one)
    for session, members in groups.items():
        folder = out / f"sub-{subject}" / (f"ses-{session}" if session else "")
        maps = [one.maps for one in members if one.maps is not None]
        missing = [name for name in model.contrasts if not any(name in m.places for m in maps)]
        if missing and not session:  # a session may lack what the subject has
            reasons = "; ".join(one.skipped.get(missing[0], "") for one in members)
            msg = f"contrast {missing[0]!r}: no run has it ({reasons})"
            raise ContrastError(msg)
        pooled = pooled_maps(maps, model.contrasts, precision_weighted=model.precision_weighted)
        with flushing() as flush:
            for name, found in pooled:
                written.files |= saved(found, out, folder, prefix_of(members, session, name))
                if model.save_group and not session:
                    _add_pieces(found, out, subject, name, written, flush)


def _add_pieces(
    maps: xr.Dataset,
    out: Path,
    subject: str,
    name: str,
    written: Written,
    flush: Callable[[Path], None],
) -> None:
    files = write_pieces(maps, out, subject, name)
    for path, _, _ in files.values():
        flush(out / path)
    shape, affine = grid_of_pieces(maps, subject)
    before = {} if written.pieces is None else written.pieces.files
    written.pieces = Pieces(shape, affine, {**before, name: files})
    written.files |= {path: stamp_file(str(out / path), {}) for path, _, _ in files.values()}


def prefix_of(members: Sequence[RunResult], session: str, name: str) -> str:
    """How the maps of some runs of a subject begin: the entities that all of them share."""
    shared = {
        key: labels.pop() if len(labels := {getattr(m.row, key) for m in members}) == 1 else ""
        for key in ("subject", "task", "space")
    }
    return entities(
        sub=shared["subject"], ses=session, task=shared["task"], space=shared["space"],
        contrast=name,
    )  # fmt: skip
