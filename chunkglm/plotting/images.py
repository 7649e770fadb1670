"""Lazy maps as images that other libraries take; here is where they are computed."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import xarray as xr

from chunkglm.errors import MapsError
from chunkglm.glm.sidecars import ALWAYS, COVERAGE
from chunkglm.glm.space import Grid, grid_of
from chunkglm.glm.together import of_one_contrast
from chunkglm.io.images import make_header
from chunkglm.schema import COLUMN, CONTRAST, ROW, SPACE, TIME

# What is shown of a Dataset when nothing else is asked for, in this order.
_SHOWN = ("thresholded", "z_score")

# What stands where nothing was estimated, as in the files that `save` writes.
_FILLS = {name: fill for name, (_, fill) in {**ALWAYS, **COVERAGE}.items()}


def image_of(maps: xr.Dataset | xr.DataArray, variable: str | None = None) -> nib.Nifti1Image:
    """Compute one map and make an image of it.

    Parameters
    ----------
    maps : Dataset or DataArray
        From `contrast`, `fixed_effects`, `threshold`, `fdr` or a `Fit`; any array over (x, y, z)
        whose attributes hold an ``affine``.
    variable : str, optional
        Of a Dataset; by default what is shown, ``thresholded`` or ``z_score``.

    Returns
    -------
    nibabel.Nifti1Image
        Where nothing was estimated it holds what `save` writes there, 0 (1 for p and status).
        Rows of an F contrast are volumes.

    Raises
    ------
    MapsError
        When there is no such map, or it has other dims, or no affine.
    """
    values, grid = map_of(maps, variable)
    return nifti_of(values, grid)


def images_of(maps: xr.Dataset) -> dict[str, nib.Nifti1Image]:
    """Compute all maps of a Dataset, together and once, and make an image of each.

    Parameters
    ----------
    maps : Dataset
        Of one contrast.

    Returns
    -------
    dict
        By variable; of those that lie over (x, y, z).

    Raises
    ------
    MapsError
        When there are no maps in it, or of several contrasts.
    """
    names = names_of(maps)
    if not names:
        msg = f"none of {sorted(map(str, maps.data_vars))} lies over {SPACE}: there are no maps"
        raise MapsError(msg)
    grids = [map_of(maps, name)[1] for name in names]  # refused before anything is computed
    computed = maps[names].compute()
    return {name: nifti_of(computed[name], g) for name, g in zip(names, grids, strict=True)}


def names_of(maps: xr.Dataset) -> list[str]:
    """Name the variables that are maps."""
    return [str(n) for n, v in maps.data_vars.items() if set(SPACE) <= set(v.dims)]


def map_of(
    maps: xr.Dataset | xr.DataArray, variable: str | None = None, *, rows: bool = True
) -> tuple[xr.DataArray, Grid]:
    """Choose a map, still lazy, and tell its grid.

    Parameters
    ----------
    maps, variable
        As in `image_of`.
    rows : bool
        Whether rows of F contrasts will do, or a single volume is needed.
    """
    values, label = _chosen(maps, variable)
    allowed = {*SPACE, ROW, COLUMN} if rows else set(SPACE)
    extra = [str(d) for d in values.dims if d not in allowed]
    if extra or not set(SPACE) <= set(values.dims):
        msg = f"{label}: must lie over {SPACE}, but lies over {values.dims}"
        if extra:
            how = f'.sel({extra[0]}="...")' if extra[0] == CONTRAST else f".isel({extra[0]}=0)"
            msg += f"; take one, such as maps{how}"
        raise MapsError(msg)
    return values, grid_of(maps, label)


def _chosen(maps: Any, variable: str | None) -> tuple[xr.DataArray, str]:
    if isinstance(maps, xr.DataArray):
        if variable not in (None, maps.name):
            msg = f"variable={variable!r} is for a Dataset, and this is {maps.name!r} alone"
            raise MapsError(msg)
        return maps, str(maps.name or "map")
    if not isinstance(maps, xr.Dataset):
        msg = f"maps must be a Dataset or DataArray, but got {type(maps).__name__}"
        raise MapsError(msg)
    name = variable or shown(maps)
    if name not in maps:
        msg = f"there is no {name!r} among the maps: {', '.join(map(str, maps.data_vars))}"
        raise MapsError(msg)
    return maps[name], name


def shown(maps: xr.Dataset) -> str:
    """Name the variable that is shown when nothing else is asked for."""
    there = names_of(maps)
    name: str
    for name in (*_SHOWN, *(there if len(there) == 1 else ())):
        if name in there:
            return name
    msg = f'which of {there or "no maps"} is meant? Name one, as in variable="effect_size"'
    raise MapsError(msg)


def nifti_of(values: xr.DataArray, grid: Grid, fill: float | None = None) -> nib.Nifti1Image:
    """Compute a map and make an image of it, with `fill` where it is NaN."""
    leading = [d for d in values.dims if d not in SPACE]
    data = values.transpose(*SPACE, *leading).to_numpy()
    data = data.reshape(*data.shape[:3], -1) if leading else data
    if data.dtype.kind == "f":
        there = _FILLS.get(str(values.name), 0.0) if fill is None else fill
        data = np.nan_to_num(data, nan=there, posinf=np.inf, neginf=-np.inf)
    dtype = _on_disk(data.dtype)
    header = make_header(data.shape, dtype, grid.matrix(), header=grid.nifti_header())
    return nib.Nifti1Image(data.astype(dtype, copy=False), header.get_best_affine(), header)


def _on_disk(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a type that other programs read: no booleans, no integers of 64 bits."""
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind in "iu" and dtype.itemsize == 8:
        return np.dtype(np.int32)
    return np.dtype(np.float64) if dtype.kind == "f" else dtype


def background_of(background: Any) -> Any:
    """Return a background as nilearn takes it: arrays computed, paths and images as they are."""
    if isinstance(background, xr.DataArray) and TIME in background.dims:
        msg = 'a background is one volume, but this is a run; give its mean, run.mean("time")'
        raise MapsError(msg)
    if isinstance(background, (xr.DataArray, xr.Dataset)):
        return image_of(background)
    return str(background) if isinstance(background, Path) else background


def attrs_of(maps: xr.Dataset | xr.DataArray) -> dict[str, Any]:
    """Return what maps say of themselves; of those taken from several contrasts, of this one."""
    told = of_one_contrast(maps) if isinstance(maps, xr.Dataset) else maps
    return {str(k): v for k, v in told.attrs.items()}
