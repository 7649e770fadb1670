"""What a study left on disk, read back for its pages: one subject at a time."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from chunkglm.errors import ChunkglmError, StudyError
from chunkglm.glm import Fit, contrast, open_fit, open_maps, open_run
from chunkglm.glm.masks import SAME_GRID
from chunkglm.glm.records import short_name
from chunkglm.glm.space import Grid, grid_of
from chunkglm.io.files import is_url
from chunkglm.reporting.provenance import without_places
from chunkglm.reporting.sources import RunMaps, Source, shape_of, weights_of
from chunkglm.study.finish import is_study
from chunkglm.study.fitting import fit_row
from chunkglm.study.hashes import has_changed
from chunkglm.study.model import StudyModel, read_model
from chunkglm.study.records import read_record, record_path, stamp_of
from chunkglm.study.table import PATHS, RunRow
from chunkglm.study.told import told_here

_EFFECT = re.compile(
    r"(?P<prefix>[^/]*_contrast-(?P<name>[A-Za-z0-9]+))_stat-effect_statmap\.nii\.gz"
)


@dataclass(frozen=True, slots=True)
class KeptStudy:
    """A study's folder."""

    folder: Path
    model: StudyModel
    subjects: Sequence[str]
    finished: bool  # whether the results were put together

    def record(self, subject: str) -> dict[str, Any] | None:
        """What was done for a subject; None where that cannot be read."""
        return read_record(self.folder, subject)


def kept_study(folder: Path) -> KeptStudy:
    """Open the folder of a study.

    Raises
    ------
    StudyError
        When it is none, or nothing was done in it yet.
    """
    if not is_study(folder):
        what = "does not exist" if not folder.exists() else "is not the folder of a study"
        msg = (
            f"{folder}: {what}; give the folder that chunkglm run wrote its results to, or "
            "FOLDER/PREFIX of maps"
        )
        raise StudyError(msg)
    records = sorted(record_path(folder, "x").parent.glob("sub-*.json"))
    if not records:
        msg = f"{folder}: no subject was done yet; run the study first"
        raise StudyError(msg)
    subjects = [path.stem.removeprefix("sub-") for path in records]
    model = read_model(folder / "model.json")
    return KeptStudy(folder, model, subjects, (folder / "runs.tsv").exists())


def source_of_subject(study: KeptStudy, subject: str, record: Mapping[str, Any]) -> Source:
    """What the page of a subject shows: its maps, and what else was kept of its runs."""
    maps = _combined(study, record)
    if not maps:
        msg = f"sub-{subject}: its record names no maps"
        raise StudyError(msg)
    first = next(iter(maps.values()))
    grid, shape = grid_of(first, f"sub-{subject}"), shape_of(first)
    missing: list[str] = []
    fits = _stored_fits(study, record, missing)
    runs = _runs_saved(study, record) or _runs_of_fits(study, fits, maps, missing)
    if not runs:
        missing.append(
            "Maps of single runs: not kept; save_runs = true or save_moments = true in the model "
            "keeps them."
        )
    if not fits:
        missing.append(
            "Autocorrelation and temporal signal to noise: the runs' moments were not kept; "
            "save_moments = true in the model keeps them."
        )
    designs = fits or _designs_made_again(study, subject, record, missing)
    background, said = (None, "") if fits else _first_volume(record, grid, shape, missing)
    return Source(
        f"sub-{subject}", maps, grid, runs, fits, designs, background, said, tuple(missing)
    )


def from_events(record: Mapping[str, Any]) -> bool:
    """Whether designs were made from events."""
    return any("events" in run.get("inputs", {}) for run in record["runs"])


def run_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the table of runs, but for what maps tell."""
    return [
        {
            "label": run["label"],
            "failed": run["status"] != "done",
            "status": run["status"],
            "reason": scrubbed(run["reason"], record),
            "design": short_name(run["bold"]),
            "warnings": [scrubbed(text, record) for text in run["warnings"]]
            + [f"{name}: {scrubbed(why, record)}" for name, why in run["skipped"].items()],
            "dof": run["dof"] or None,
            "voxels": run["voxels"] or None,
            "seconds": run["seconds"],
            "tsnr": None,
            "ar": None,
        }
        for run in record["runs"]
    ]


def scrubbed(text: str, record: Mapping[str, Any]) -> str:
    """A text of a record without the places of files on the machine."""
    known = [run["bold"] for run in record["runs"]]
    known += [one["path"] for run in record["runs"] for one in run["inputs"].values()]
    return without_places(text, known)


def _combined(study: KeptStudy, record: Mapping[str, Any]) -> dict[str, xr.Dataset]:
    """Maps by contrast, in the model's order; those of sessions after all of the subject's."""
    found: dict[tuple[str, int], tuple[str, xr.Dataset]] = {}
    order = {name: i for i, name in enumerate(study.model.contrasts)}
    for file in record["files"]:
        path = Path(file)
        matched = _EFFECT.fullmatch(path.name)
        if matched is None or "runs" in path.parts:
            continue
        session = path.parent.name.removeprefix("ses-") if len(path.parts) > 2 else ""
        name = matched["name"] + (f", session {session}" if session else "")
        maps = open_maps(study.folder / path.parent, prefix=matched["prefix"])
        found[(session, order.get(matched["name"], len(order)))] = (name, maps)
    return dict(found[key] for key in sorted(found))


def _stored_fits(study: KeptStudy, record: Mapping[str, Any], missing: list[str]) -> dict[str, Fit]:
    found = {}
    for run in record["runs"]:
        store = study.folder / "moments" / f"{run['label']}.zarr"
        if not any(name.startswith(f"moments/{run['label']}.zarr") for name in record["files"]):
            continue
        try:
            found[run["label"]] = open_fit(store)
        except ChunkglmError as error:
            missing.append(f"Moments of {run['label']}: {scrubbed(str(error), record)}")
    return found


def _runs_saved(study: KeptStudy, record: Mapping[str, Any]) -> dict[str, list[RunMaps]]:
    found: dict[str, list[RunMaps]] = {}
    for run in record["runs"]:
        for name in study.model.contrasts:
            prefix = f"{run['label']}_contrast-{name}"
            file = f"sub-{record['subject']}/runs/{prefix}_stat-effect_statmap.nii.gz"
            if file in record["files"]:
                maps = open_maps((study.folder / file).parent, prefix=prefix)
                found.setdefault(name, []).append(RunMaps(run["label"], maps))
    return found


def _runs_of_fits(
    study: KeptStudy,
    fits: Mapping[str, Fit],
    maps: Mapping[str, xr.Dataset],
    missing: list[str],
) -> dict[str, list[RunMaps]]:
    found: dict[str, list[RunMaps]] = {}
    for name in study.model.contrasts:
        if name not in maps:
            continue
        for label, fit in fits.items():
            try:
                kind = maps[name].attrs["stat_type"]
                one = contrast(fit, weights_of(maps[name], fit), stat_type=kind)
            except ChunkglmError as error:
                missing.append(f"Maps of {label} for {name}: {error}")
                continue
            found.setdefault(name, []).append(RunMaps(label, one))
    return found


def _row_of(subject: str, run: Mapping[str, Any]) -> RunRow | None:
    """The row of the table a run came from; None where that cannot be told, or is far away."""
    paths = {name: one["path"] for name, one in run["inputs"].items() if name in PATHS}
    if "bold" not in paths or "t_r" not in run or any(map(is_url, paths.values())):
        return None
    labels = {k: run[k] for k in ("session", "task", "run", "space")}
    return RunRow(row=run["row"], subject=subject, t_r=run["t_r"], **labels, **paths)


def _designs_made_again(
    study: KeptStudy, subject: str, record: Mapping[str, Any], missing: list[str]
) -> dict[str, Fit]:
    """Designs as the study made them, from inputs that are as they were; no run is read."""
    found: dict[str, Fit] = {}
    for run in record["runs"]:
        row = _row_of(subject, run)
        if row is None:
            missing.append(f"Design of {run['label']}: its inputs are not on this machine.")
            continue
        changed = _changed(run)
        if changed:
            missing.append(f"Design of {run['label']}: {changed} is not what was read.")
            continue
        stamps = {name: stamp_of(one) for name, one in run["inputs"].items()}
        try:
            with told_here():  # the study has told what there is to tell
                found[run["label"]] = fit_row(row, study.model, stamps)
        except (ChunkglmError, OSError) as error:
            missing.append(f"Design of {run['label']}: {scrubbed(str(error), record)}")
    return found


def _changed(run: Mapping[str, Any]) -> str:
    """The first input that is not as it was."""
    for one in run["inputs"].values():
        if has_changed(one["path"], stamp_of(one), {}):
            return short_name(one["path"])
    return ""


def _first_volume(
    record: Mapping[str, Any], grid: Grid, shape: tuple[int, ...], missing: list[str]
) -> tuple[Any, str]:
    """One volume to draw maps on, of the first run that is still there."""
    for run in record["runs"]:
        one = run["inputs"].get("bold")
        if one is None or is_url(one["path"]):
            continue
        try:
            if has_changed(one["path"], stamp_of(one), {}):
                continue
            volume = open_run(one["path"]).isel(time=0)
            if volume.shape != shape:
                continue
            if np.abs(grid_of(volume, "run").matrix() - grid.matrix()).max() > SAME_GRID:
                continue
            return volume.drop_vars("time").compute(), f"the first volume of {run['label']}"
        except (ChunkglmError, OSError):
            continue
    missing.append("An image below the maps: no run is where it was; the mask is shown.")
    return None, ""
