"""A table of runs from a folder of derivatives, by the names that BIDS gives files."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from chunkglm.errors import StudyError

_ENTITY = re.compile(r"([a-zA-Z]+)-([A-Za-z0-9+]+)")
_COLUMNS = {"sub": "subject", "ses": "session", "task": "task", "run": "run", "space": "space"}

# What the files of a run are called, whatever entities stand before.
_BOLD = re.compile(r"_desc-preproc_bold\.nii(\.gz)?$|_bold\.nii(\.gz)?$|_bold\.zarr$")
_MASK = re.compile(r"_desc-brain_mask\.nii(\.gz)?$")
_CONFOUNDS = re.compile(r"_desc-confounds_(timeseries|regressors)\.tsv$")
_EVENTS = "_events.tsv"
_SIDECAR = "_bold.json"

# Entities that tell runs of one acquisition apart from those of another: not the space.
_ACQUISITION = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "run", "echo")

_Entities = dict[str, str]


def find_runs(
    derivatives: str | os.PathLike[str],
    *,
    task: str | None = None,
    space: str | None = None,
    raw: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Make a table of runs from fMRIPrep derivatives.

    Parameters
    ----------
    derivatives : path
        Folder with ``sub-X[/ses-Y]/func/…_desc-preproc_bold.nii.gz``.
    task, space : str, optional
        Only runs of this task, in this space.
    raw : path, optional
        The raw data set, which holds events and repetition times; by default the first folder
        above `derivatives` with a ``dataset_description.json``, if there is one.

    Returns
    -------
    DataFrame
        One row per run, sorted: subject, session, task, run, space, bold, mask, confounds, events,
        t_r. Empty cells where there is no such file. Repetition times come from the JSON files
        beside the images and, by BIDS' rule of inheritance, from those of the folders above.

    Raises
    ------
    StudyError
        When there is no run, naming the tasks and spaces that are there.
    """
    top = Path(derivatives)
    if not top.is_dir():
        msg = f"{top}: is not a folder; give the folder of the derivatives"
        raise StudyError(msg)
    source = _raw_folder(top) if raw is None else Path(raw)
    files = list(_files(top))
    events = list(_files(source)) if source else files
    runs = [found for path in files if _BOLD.search(path) and (found := _entities(path))]
    chosen = [
        run for run in runs
        if task in (None, run["task"]) and space in (None, run.get("space", ""))
    ]  # fmt: skip
    if not chosen:
        tasks, spaces = (sorted({run.get(k, "") for run in runs}) for k in ("task", "space"))
        msg = (
            f"{top}: no run with task {task!r} and space {space!r}; there are {len(runs)} runs, "
            f"of tasks {tasks} and spaces {spaces}"
        )
        raise StudyError(msg)
    masks, confounds = _by_name(files, _MASK, space=True), _by_name(files, _CONFOUNDS)
    told = _by_name(events, re.compile(re.escape(_EVENTS) + "$"))
    trees = [(top, files)] + ([(source, events)] if source else [])
    times = _RepetitionTimes(trees)
    rows = []
    for run in chosen:
        row: dict[str, Any] = {column: run.get(key, "") for key, column in _COLUMNS.items()}
        row |= {
            "bold": run["path"],
            "mask": _find(masks, run, space=True),
            "confounds": _find(confounds, run),
            "events": _find(told, run),
            "t_r": times.of(run),
        }
        rows.append(row)
    frame = pd.DataFrame(rows)
    return frame.sort_values([*_COLUMNS.values(), "bold"], ignore_index=True)


def _raw_folder(derivatives: Path) -> Path | None:
    for folder in derivatives.absolute().parents:
        if (folder / "dataset_description.json").exists():
            return folder
    return None


def _files(folder: Path) -> Iterable[str]:
    """All files below a folder; stores are files here, hidden folders and derivatives are not."""
    waiting = [str(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.name.endswith(".zarr") or not entry.is_dir():
                    yield entry.path
                elif entry.name not in ("derivatives", "sourcedata"):
                    waiting.append(entry.path)


def _entities(path: str) -> _Entities | None:
    name = os.path.basename(path)  # noqa: PTH119 (26,000 of them: Path costs more)
    found = dict(_ENTITY.findall(name))
    return {**found, "path": path} if {"sub", "task"} <= set(found) else None


def _key(entities: _Entities, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(entities.get(name, "") for name in names)


def _names(space: bool) -> tuple[str, ...]:
    return (*_ACQUISITION, "space", "res") if space else _ACQUISITION


def _by_name(
    files: Iterable[str], pattern: re.Pattern[str], space: bool = False
) -> dict[tuple[str, ...], str]:
    found = {}
    for path in files:
        if pattern.search(path) and (entities := _entities(path)):
            found[_key(entities, _names(space))] = path
    return found


def _find(files: dict[tuple[str, ...], str], run: _Entities, space: bool = False) -> str:
    return files.get(_key(run, _names(space)), "")


class _RepetitionTimes:
    """Sidecars by the folder they lie in and the entities they hold for."""

    def __init__(self, trees: list[tuple[Path, list[str]]]) -> None:
        self._sidecars: dict[str, list[tuple[_Entities, str]]] = defaultdict(list)
        self._read: dict[str, dict[str, Any]] = {}
        self._roots = [str(root) for root, _ in trees]
        for _, files in trees:
            for path in files:
                if path.endswith(_SIDECAR):
                    folder, name = os.path.split(path)
                    self._sidecars[folder].append((dict(_ENTITY.findall(name)), path))

    def of(self, run: _Entities) -> float | None:
        """Repetition time of a run: the nearest sidecar that names it wins."""
        for folder in self._folders(run):
            fitting = [
                (len(entities), path)
                for entities, path in self._sidecars.get(folder, ())
                if all(run.get(key) == label for key, label in entities.items())
            ]
            for _, path in sorted(fitting, reverse=True):
                value = self._json(path).get("RepetitionTime")
                if isinstance(value, (int, float)) and value > 0:
                    return float(value)
        return None

    def _folders(self, run: _Entities) -> Iterable[str]:
        """Folders from the image's up to the top: of the derivatives, then of the raw data."""
        inside = Path(run["path"]).parent.relative_to(self._roots[0]).parts
        for root in self._roots:
            for depth in range(len(inside), -1, -1):
                yield os.path.join(root, *inside[:depth])  # noqa: PTH118

    def _json(self, path: str) -> dict[str, Any]:
        if path not in self._read:
            try:
                found = json.loads(Path(path).read_bytes())
            except (OSError, ValueError) as error:
                msg = f"{path}: the sidecar cannot be read ({error})"
                raise StudyError(msg) from error
            self._read[path] = found if isinstance(found, dict) else {}
        return self._read[path]
