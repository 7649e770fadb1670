"""What workers do: the maps of one run, the fixed effects of one subject.

Jobs return what went wrong and do not raise it: a bad run is news of a run, not of a worker. Each
may be done twice, as a cluster does when a worker is lost; it writes the same bytes then.
"""

import errno
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dask
import xarray as xr

from chunkglm.errors import ChunkglmError, ContrastError
from chunkglm.glm import fixed_effects, save
from chunkglm.study.fitting import contrasts_of, each_contrast, fit_row
from chunkglm.study.hashes import Stamp, stamp_file
from chunkglm.study.model import StudyModel
from chunkglm.study.table import RunRow, entities
from chunkglm.study.told import told_here

# What fixed effects need of a run; its statistics are worked out anew where they are saved.
NEEDED = ("effect_size", "effect_variance", "stat", "dof", "voxel_status")


@dataclass(frozen=True, slots=True)
class RunResult:
    """One run, done or not."""

    row: RunRow
    seconds: float
    failure: str = ""
    details: str = ""  # a traceback, for the log
    maps: Mapping[str, xr.Dataset] = field(default_factory=dict)  # by contrast, in memory
    skipped: Mapping[str, str] = field(default_factory=dict)  # contrast, and why
    warnings: tuple[str, ...] = ()
    dof: int = 0
    n_voxels: int = 0
    inputs: Mapping[str, Stamp] = field(default_factory=dict)
    files: Mapping[str, Stamp] = field(default_factory=dict)  # written, by path below the output
    disk_full: bool = False


@dataclass(frozen=True, slots=True)
class SubjectResult:
    """One subject, done or not; its runs without their maps."""

    subject: str
    runs: tuple[RunResult, ...]
    seconds: float
    failure: str = ""
    details: str = ""
    files: Mapping[str, Stamp] = field(default_factory=dict)  # by path below the output folder
    disk_full: bool = False


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


def run_job(row: RunRow, model: StudyModel, out: str, storage: Mapping[str, Any]) -> RunResult:
    """Fit one run and take all contrasts of it."""
    began = time.monotonic()
    with told_here() as told, computing_here():
        try:
            found = _fit_and_contrasts(row, model, Path(out), storage)
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


def _fit_and_contrasts(
    row: RunRow, model: StudyModel, out: Path, storage: Mapping[str, Any]
) -> RunResult:
    inputs = {name: stamp_file(path, storage) for name, path in row.files.items()}
    fitted = fit_row(row, model, inputs)
    passes, places, skipped = contrasts_of(fitted, model)
    if model.save_moments or len(passes) > 1:
        fitted = replace(fitted, dataset=fitted.dataset.compute())
        passes, places, skipped = contrasts_of(fitted, model)
    if not model.save_runs:
        passes = [one[list(NEEDED)] for one in passes]
    maps = each_contrast(passes, places)
    files: dict[str, Stamp] = {}
    if model.save_moments:
        store = out / "moments" / f"{row.label}.zarr"
        store.parent.mkdir(parents=True, exist_ok=True)
        fitted.save(store, overwrite=True)
        files[store.relative_to(out).as_posix()] = stamp_file(str(store), {})
    if model.save_runs:
        for name, one in maps.items():
            prefix = f"{row.label}_{entities(contrast=name)}"
            files |= _saved(one, out, out / f"sub-{row.subject}" / "runs", prefix)
    return RunResult(
        row,
        seconds=0.0,
        maps={name: one[list(NEEDED)] for name, one in maps.items()},
        skipped=skipped,
        dof=fitted.dof,
        n_voxels=sum(fitted.slabs.voxel_chunks),
        inputs=inputs,
        files=files,
    )


def _saved(maps: xr.Dataset, out: Path, folder: Path, prefix: str) -> dict[str, Stamp]:
    """Save maps; return what was written, by path below the output folder."""
    files = {}
    for path in save(maps, folder, prefix=prefix):
        for each in (Path(path), Path(path.removesuffix(".nii.gz") + ".json")):
            if each.exists():
                files[each.relative_to(out).as_posix()] = stamp_file(str(each), {})
    return files


def subject_job(
    subject: str, model: StudyModel, out: str, runs: Sequence[RunResult]
) -> SubjectResult:
    """Combine the runs of one subject and write the maps; or say why not."""
    began = time.monotonic()
    failure = "; ".join(f"{r.row.label}: {r.failure}" for r in runs if r.failure)
    details, disk_full = "", any(r.disk_full for r in runs)
    files: dict[str, Stamp] = {}
    if not failure:
        try:
            with told_here(), computing_here():  # runs have told theirs
                _write_subject(subject, model, Path(out), runs, files)
        except Exception as error:
            failure, details = reason_of(error)
            disk_full = _is_disk_full(error)
    for one in runs:
        files |= one.files
    light = tuple(replace(r, maps={}, files={}) for r in runs)
    seconds = time.monotonic() - began
    return SubjectResult(subject, light, seconds, failure, details, files, disk_full)


def _write_subject(
    subject: str,
    model: StudyModel,
    out: Path,
    runs: Sequence[RunResult],
    files: dict[str, Stamp],
) -> None:
    """Write the maps of a subject and of its sessions; `files` tells which, also on failure."""
    groups: dict[str, list[RunResult]] = {"": list(runs)}
    if model.level == "session":
        for one in runs:
            groups.setdefault(one.row.session, []).append(one)
    for session, members in groups.items():
        folder = out / f"sub-{subject}" / (f"ses-{session}" if session else "")
        for name in model.contrasts:
            maps = [one.maps[name] for one in members if name in one.maps]
            if not maps and session:
                continue  # skipped in all its runs, as the model lets it be; the subject has it
            if not maps:
                reasons = "; ".join(one.skipped.get(name, "") for one in members)
                msg = f"contrast {name!r}: no run has it ({reasons})"
                raise ContrastError(msg)
            pooled = fixed_effects(maps, precision_weighted=model.precision_weighted).compute()
            files |= _saved(pooled, out, folder, prefix_of(members, session, name))


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
