"""Maps that were saved as NIfTI files, opened again."""

import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import nibabel as nib
import numpy as np
import xarray as xr

from chunkglm._types import AnyArray, BoolArray
from chunkglm.design._messages import list_names, suggest
from chunkglm.errors import MapsError
from chunkglm.glm.records import RECORDS
from chunkglm.glm.sidecars import ALWAYS, COVERAGE, opened_by, read_sidecar, stem
from chunkglm.glm.space import Grid, short_header
from chunkglm.io.files import is_url
from chunkglm.io.inflate import read_gzip
from chunkglm.io.transfer import fetched
from chunkglm.kernels.estimate import statistics
from chunkglm.kernels.solve import ESTIMATED, OUTSIDE_MASK
from chunkglm.lazy.graph import Field, arrays_of_tasks
from chunkglm.schema import COLUMN, ROW, SPACE


def open_maps(
    folder: str | Path, *, prefix: str, storage_options: Mapping[str, Any] | None = None
) -> xr.Dataset:
    """Open maps that `save` wrote, for `fixed_effects`.

    Parameters
    ----------
    folder : str or Path
        Or a URL that fsspec knows.
    prefix : str
        As given to `save`.
    storage_options : mapping, optional
        Passed to fsspec with a URL.

    Returns
    -------
    xarray.Dataset
        The variables and attributes of `contrast` or `fixed_effects`; of single runs without
        ``voxel_status``, which files do not hold. Voxels whose variance is 0 are NaN. The files are
        read and checked at once; ``stat``, ``p_value`` and ``z_score`` are lazy, of the effects.

    Raises
    ------
    MapsError
        When a file is missing or does not say what it is.
    """
    with ExitStack() as stack:

        def here(names: Sequence[str]) -> dict[str, tuple[Path, str]]:
            place = Path(folder)
            if is_url(folder):
                options = storage_options or {}
                place = stack.enter_context(fetched(names, str(folder), options, MapsError))
            return {name: (place / name, _label(folder, name)) for name in names}

        if not is_url(folder):
            _check_there(Path(folder), prefix)
        (sidecar,) = here([opened_by(prefix)]).values()
        attrs, stats = read_sidecar(*sidecar)
        wanted = [ALWAYS[name][0] for name in ("effect_size", "effect_variance")]
        coverage = {name: stat for name, (stat, _) in COVERAGE.items() if stat in stats}
        files = here([f"{stem(prefix, stat)}.nii.gz" for stat in (*wanted, *coverage.values())])
        (effect, grid), (variance, _), *more = (_read_map(*file) for file in files.values())
    known = {name: data for name, (data, _) in zip(coverage, more, strict=True)}
    for (_, label), values in zip(files.values(), (effect, variance, *known.values()), strict=True):
        if values.shape[:3] != effect.shape[:3]:
            msg = f"{label}: has shape {values.shape[:3]}, but the effects {effect.shape[:3]}"
            raise MapsError(msg)
    variables = _variables(effect, variance, known, attrs)
    attrs.pop("n_runs", None)
    coords = {d: np.arange(n) for d, n in zip(SPACE, effect.shape[:3], strict=True)}
    return xr.Dataset(variables, coords=coords, attrs={**attrs, **grid.attrs()})


def _check_there(folder: Path, prefix: str) -> None:
    """Refuse a prefix under which there are no maps, naming those of the folder."""
    if (folder / opened_by(prefix)).exists():
        return
    end = opened_by("")
    there = sorted(p.name.removesuffix(end) for p in folder.glob(f"*{end}"))
    held = f"{folder} holds {list_names(there)}" if there else f"{folder} holds none at all"
    missing = folder / opened_by(prefix)
    msg = f"{missing}: no such sidecar, so no maps saved whole{suggest(prefix, there)}; {held}"
    raise MapsError(msg)


def _variables(
    effect: AnyArray, variance: AnyArray, known: Mapping[str, AnyArray], attrs: Mapping[str, Any]
) -> dict[str, tuple[tuple[str, ...], Any]]:
    """Variables of maps from effects, variances, and what is known voxel by voxel."""
    joint, shape = attrs["stat_type"] == "F", effect.shape[:3]
    q = int(attrs.get("rank", 1)) if joint else 1
    e = np.moveaxis(effect.reshape(*shape, q), -1, 0).copy()
    v = np.moveaxis(variance.reshape(*shape, q, q), (-2, -1), (0, 1)).copy()
    lost = ~(np.einsum("qq...->q...", v) > 0).all(axis=0)
    e[:, lost], v[:, :, lost] = np.nan, np.nan
    coverage = _coverage(lost, known, attrs)
    found: dict[str, tuple[tuple[str, ...], Any]] = {
        "effect_size": ((ROW, *SPACE), e) if joint else (SPACE, e[0]),
        "effect_variance": ((ROW, COLUMN, *SPACE), v) if joint else (SPACE, v[0, 0]),
    }
    # Made of these when asked for: who combines maps does not ask.
    work = _Statistics(e, v, coverage["dof"], str(attrs["stat_type"]))
    over_space = {**_lazy_statistics(work, shape), **coverage}
    return found | {name: (SPACE, values) for name, values in over_space.items()}


@dataclass(frozen=True, slots=True, eq=False)
class _Statistics:
    """Statistic, p and z of maps, as a task."""

    effect: AnyArray  # (q, x, y, z)
    covariance: AnyArray  # (q, q, x, y, z)
    dof: AnyArray  # (x, y, z)
    stat_type: str

    def __call__(self) -> dict[str, AnyArray]:
        q, *shape = self.effect.shape
        found = statistics(
            self.effect.reshape(q, -1),
            self.covariance.reshape(q, q, -1),
            self.dof.reshape(-1),
            self.stat_type,
        )
        names = ("stat", "p_value", "z_score")
        return {name: a.reshape(shape) for name, a in zip(names, found, strict=True)}


def _lazy_statistics(work: _Statistics, shape: tuple[int, ...]) -> dict[str, da.Array]:
    name = f"statistics-{secrets.token_hex(16)}"
    fields = {field: Field((), "f8") for field in ("stat", "p_value", "z_score")}
    chunks = tuple((n,) for n in shape)
    return arrays_of_tasks(name, {(name, 0): (work,)}, [(name, 0)], fields, chunks, [])


def _coverage(
    lost: BoolArray, known: Mapping[str, AnyArray], attrs: Mapping[str, Any]
) -> dict[str, AnyArray]:
    """Return what holds in each voxel: of the maps, or the one number where there is no map."""

    def one(name: str, elsewhere: float) -> AnyArray:
        if name in known:
            return np.where(lost, elsewhere, known[name].reshape(lost.shape))
        return np.where(lost, elsewhere, float(attrs[name]))

    found = {"dof": one("dof", np.nan)}
    if RECORDS not in attrs:
        return found
    status = np.where(lost, OUTSIDE_MASK, ESTIMATED)
    if "voxel_status" in known:
        status = known["voxel_status"].reshape(lost.shape)
    return {**found, "n_runs": one("n_runs", 0.0), "voxel_status": status.astype(np.int8)}


def _label(folder: str | Path, name: str) -> str:
    return f"{str(folder).rstrip('/')}/{name}" if is_url(folder) else str(Path(folder) / name)


def _read_map(path: Path, label: str) -> tuple[AnyArray, Grid]:
    try:
        image = _image_of(path)
        data = np.asarray(image.dataobj, dtype=np.float64)
    except Exception as error:
        cause = re.sub(r"\s+", " ", str(error)).replace(str(path), label)
        msg = f"{label}: the map cannot be read ({cause})"
        raise MapsError(msg) from error
    header = short_header(image.header.binaryblock)
    affine = tuple(tuple(float(v) for v in row) for row in image.affine)
    return data, Grid(affine, header)


def _image_of(path: Path) -> Any:
    """Read a map whole; decompressed once, its checksum compared (nibabel stops before it)."""
    raw = read_gzip(path)
    nifti2 = (540).to_bytes(4, "little"), (540).to_bytes(4, "big")
    return (nib.Nifti2Image if raw[:4] in nifti2 else nib.Nifti1Image).from_bytes(raw)
