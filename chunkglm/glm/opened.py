"""Maps that were saved as NIfTI files, opened again."""

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import xarray as xr

from chunkglm._types import AnyArray, BoolArray
from chunkglm.errors import MapsError
from chunkglm.glm.records import RECORDS
from chunkglm.glm.sidecars import ALWAYS, COVERAGE, opened_by, read_sidecar, stem
from chunkglm.glm.space import Grid, short_header
from chunkglm.io.files import is_url
from chunkglm.io.inflate import check_gzip
from chunkglm.io.transfer import fetched
from chunkglm.kernels.estimate import statistics
from chunkglm.kernels.solve import ESTIMATED, OUTSIDE_MASK
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
        ``voxel_status``, which files do not hold. Voxels whose variance is 0 are NaN.

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


def _variables(
    effect: AnyArray, variance: AnyArray, known: Mapping[str, AnyArray], attrs: Mapping[str, Any]
) -> dict[str, tuple[tuple[str, ...], AnyArray]]:
    """Variables of maps from effects, variances, and what is known voxel by voxel."""
    joint, shape = attrs["stat_type"] == "F", effect.shape[:3]
    q = int(attrs.get("rank", 1)) if joint else 1
    e, v = effect.reshape(-1, q).T.copy(), variance.reshape(-1, q * q).T.reshape(q, q, -1).copy()
    lost = ~(np.einsum("qqv->qv", v) > 0).all(axis=0)
    e[:, lost], v[:, :, lost] = np.nan, np.nan
    found: dict[str, tuple[tuple[str, ...], AnyArray]] = {
        "effect_size": ((ROW, *SPACE), e) if joint else (SPACE, e[0]),
        "effect_variance": ((ROW, COLUMN, *SPACE), v) if joint else (SPACE, v[0, 0]),
    }
    coverage = _coverage(lost, known, attrs)
    stat, p, z = statistics(e, v, coverage["dof"], str(attrs["stat_type"]))
    over_space = {"stat": stat, "p_value": p, "z_score": z, **coverage}
    found |= {name: (SPACE, values) for name, values in over_space.items()}
    return {n: (d, a.reshape(*a.shape[:-1], *shape)) for n, (d, a) in found.items()}


def _coverage(
    lost: BoolArray, known: Mapping[str, AnyArray], attrs: Mapping[str, Any]
) -> dict[str, AnyArray]:
    """Return what holds in each voxel: of the maps, or the one number where there is no map."""

    def one(name: str, elsewhere: float) -> AnyArray:
        if name in known:
            return np.where(lost, elsewhere, known[name].reshape(-1))
        return np.where(lost, elsewhere, float(attrs[name]))

    found = {"dof": one("dof", np.nan)}
    if RECORDS not in attrs:
        return found
    status = np.where(lost, OUTSIDE_MASK, ESTIMATED)
    if "voxel_status" in known:
        status = known["voxel_status"].reshape(-1)
    return {**found, "n_runs": one("n_runs", 0.0), "voxel_status": status.astype(np.int8)}


def _label(folder: str | Path, name: str) -> str:
    return f"{str(folder).rstrip('/')}/{name}" if is_url(folder) else str(Path(folder) / name)


def _read_map(path: Path, label: str) -> tuple[AnyArray, Grid]:
    try:
        image = nib.load(path)
        check_gzip(path)
        data = np.asarray(image.dataobj, dtype=np.float64)
    except Exception as error:
        cause = re.sub(r"\s+", " ", str(error)).replace(str(path), label)
        msg = f"{label}: the map cannot be read ({cause})"
        raise MapsError(msg) from error
    header = short_header(image.header.binaryblock)
    affine = tuple(tuple(float(v) for v in row) for row in image.affine)
    return data, Grid(affine, header)
