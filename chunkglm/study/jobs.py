"""What workers do: the maps of one run, the fixed effects of one subject.

Jobs return what went wrong and do not raise it: a bad run is news of a run, not of a worker. Each
may be done twice, as a cluster does when a worker is lost; it writes the same bytes then.
"""

import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dask
import xarray as xr

from chunkglm.design import design_from_events
from chunkglm.errors import ChunkglmError, ContrastError
from chunkglm.glm import Fit, contrast, fit, fixed_effects, open_run, save
from chunkglm.study.hashes import Stamp, stamp_file
from chunkglm.study.model import StudyModel
from chunkglm.study.table import RunRow, entities

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


@dataclass(frozen=True, slots=True)
class SubjectResult:
    """One subject, done or not; its runs without their maps."""

    subject: str
    runs: tuple[RunResult, ...]
    seconds: float
    failure: str = ""
    details: str = ""
    files: Mapping[str, Stamp] = field(default_factory=dict)  # by path below the output folder


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
    with warnings.catch_warnings(record=True) as caught, computing_here():
        warnings.simplefilter("always")
        try:
            found = _fit_and_contrasts(row, model, Path(out), storage)
        except Exception as error:
            found = RunResult(row, 0.0, *reason_of(error))
    told = dict.fromkeys(" ".join(str(w.message).split()) for w in caught if _matters(w))
    return replace(found, seconds=time.monotonic() - began, warnings=tuple(told))


def _matters(warning: warnings.WarningMessage) -> bool:
    return issubclass(warning.category, UserWarning)


def reason_of(error: BaseException) -> tuple[str, str]:
    """One line for people, and, of what is no bad input, a traceback for the log."""
    text = " ".join(str(error).split())
    if isinstance(error, ChunkglmError):
        return text, ""
    return f"{type(error).__name__}: {text}", "".join(traceback.format_exception(error))


def _fit_and_contrasts(
    row: RunRow, model: StudyModel, out: Path, storage: Mapping[str, Any]
) -> RunResult:
    inputs = {name: stamp_file(path, storage) for name, path in row.files.items()}
    fitted = fit_row(row, model)
    if model.save_moments or len(model.contrasts) > 1:
        fitted = replace(fitted, dataset=fitted.dataset.compute())
    if model.save_moments:
        folder = out / "moments"
        folder.mkdir(parents=True, exist_ok=True)
        fitted.save(folder / f"{row.label}.zarr", overwrite=True)
    lazy, skipped = {}, {}
    for name, definition in model.contrasts.items():
        try:
            lazy[name] = contrast(fitted, definition)
        except ContrastError as error:
            if model.missing == "error":
                raise
            skipped[name] = " ".join(str(error).split())
    wanted = [maps if model.save_runs else maps[list(NEEDED)] for maps in lazy.values()]
    maps = dict(zip(lazy, dask.compute(*wanted), strict=True))
    if model.save_runs:
        for name, one in maps.items():
            prefix = f"{row.label}_{entities(contrast=name)}"
            save(one, out / f"sub-{row.subject}" / "runs", prefix=prefix)
    return RunResult(
        row,
        seconds=0.0,
        maps={name: one[list(NEEDED)] for name, one in maps.items()},
        skipped=skipped,
        dof=fitted.dof,
        n_voxels=sum(fitted.slabs.voxel_chunks),
        inputs=inputs,
    )


def fit_row(row: RunRow, model: StudyModel) -> Fit:
    """Fit a row of a table as a model says; lazy."""
    run = open_run(row.bold, t_r=row.t_r)
    design: Any = row.design
    if row.events:
        t_r = run.attrs.get("repetition_time")
        confounds: Any = row.confounds or None
        if confounds and model.confounds is not None:
            from chunkglm.design import load_confounds

            confounds = load_confounds(confounds, model.confounds)
        design = design_from_events(
            row.events,
            n_scans=run.sizes["time"],
            t_r=0.0 if t_r is None else t_r,  # refused by name
            confounds=confounds,
            **model.design_options(),
        )
    fitted: Fit = fit(run, design, mask=row.mask or None, t_r=row.t_r, **model.fit_options())
    return fitted


def subject_job(
    subject: str, model: StudyModel, out: str, runs: Sequence[RunResult]
) -> SubjectResult:
    """Combine the runs of one subject and write the maps; or say why not."""
    began = time.monotonic()
    failure = "; ".join(f"{r.row.label}: {r.failure}" for r in runs if r.failure)
    details = ""
    files: dict[str, Stamp] = {}
    if not failure:
        try:
            with warnings.catch_warnings(), computing_here():
                warnings.simplefilter("ignore")  # runs have told theirs
                files = _write_subject(subject, model, Path(out), runs)
        except Exception as error:
            failure, details = reason_of(error)
    light = tuple(replace(r, maps={}) for r in runs)
    return SubjectResult(subject, light, time.monotonic() - began, failure, details, files)


def _write_subject(
    subject: str, model: StudyModel, out: Path, runs: Sequence[RunResult]
) -> dict[str, Stamp]:
    groups: dict[str, list[RunResult]] = {"": list(runs)}
    if model.level == "session":
        for one in runs:
            groups.setdefault(one.row.session, []).append(one)
    files: dict[str, Stamp] = {}
    for session, members in groups.items():
        folder = out / f"sub-{subject}" / (f"ses-{session}" if session else "")
        for name in model.contrasts:
            maps = [one.maps[name] for one in members if name in one.maps]
            if not maps:
                reasons = "; ".join(one.skipped.get(name, "") for one in members)
                msg = f"contrast {name!r}: no run has it ({reasons})"
                raise ContrastError(msg)
            pooled = fixed_effects(maps, precision_weighted=model.precision_weighted).compute()
            for path in save(pooled, folder, prefix=prefix_of(members, session, name)):
                sidecar = Path(path.removesuffix(".nii.gz") + ".json")
                for each in (Path(path), sidecar):
                    if each.exists():
                        files[each.relative_to(out).as_posix()] = stamp_file(str(each), {})
    return files


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
