"""Arrays over voxels with their names: moments of a fit, and maps of it."""

from collections.abc import Mapping
from math import gcd
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr

from chunkglm._types import AnyArray
from chunkglm.glm.space import Grid, voxel_indices
from chunkglm.kernels.estimate import model_maps
from chunkglm.kernels.level import OUTSIDE_MASK, signal_maps
from chunkglm.lazy.graph import Field
from chunkglm.lazy.maps import maps_of_moments
from chunkglm.lazy.moments import Slabs
from chunkglm.schema import MODEL_MAPS, MOMENTS, SIGNAL_MAPS, SPACE, VOXEL, VOXEL_STATUS

if TYPE_CHECKING:
    from chunkglm.glm.fitted import Fit

FILLS = {"voxel_status": float(OUTSIDE_MASK)}


def moments_dataset(
    arrays: Mapping[str, da.Array], slabs: Slabs, attrs: Mapping[str, Any]
) -> xr.Dataset:
    """Name the dims of moments, and say where their voxels lie."""
    volume = np.ascontiguousarray(slabs.mask.T)
    z, y, x = np.unravel_index(np.flatnonzero(volume), volume.shape)
    coords = {n: (VOXEL, v.astype(np.int32)) for n, v in zip(SPACE, (x, y, z), strict=True)}
    variables = {n: (MOMENTS[n].dims, a, MOMENTS[n].attrs()) for n, a in arrays.items()}
    return xr.Dataset(variables, coords=coords, attrs=attrs)


def maps_of_model(fit: "Fit") -> xr.Dataset:
    """Coefficients, noise and fit of every voxel; lazy."""
    specs = {**MODEL_MAPS, VOXEL_STATUS.name: VOXEL_STATUS}
    leading = {"beta": (len(fit.design.names),), "ar": (fit.noise.order,)}
    fields = {n: Field(leading.get(n, ()), spec.dtype) for n, spec in specs.items()}
    arrays = maps_of_moments(fit.solved_from, fit.slabs, model_maps, (fit.model,), fields, FILLS)
    return label_maps(arrays, specs, fit.grid)


def maps_of_signal(fit: "Fit") -> xr.Dataset:
    """Mean and tSNR of every voxel; lazy."""
    fields = {n: Field((), spec.dtype) for n, spec in SIGNAL_MAPS.items()}
    arrays = maps_of_moments(fit.moments, fit.slabs, signal_maps, (fit.factor,), fields, {})
    return label_maps(arrays, SIGNAL_MAPS, fit.grid)


def label_maps(
    arrays: Mapping[str, da.Array | AnyArray], specs: Mapping[str, Any], grid: Grid | None
) -> xr.Dataset:
    """Name the dims of maps and bring their grid along, where it is known."""
    variables = {n: (specs[n].dims, a, specs[n].attrs(), _encoding(a)) for n, a in arrays.items()}
    shape = next(iter(arrays.values())).shape[-3:]
    coords = voxel_indices(shape)
    return xr.Dataset(variables, coords=coords, attrs=grid.attrs() if grid else {})


def _encoding(array: da.Array | AnyArray) -> dict[str, Any]:
    """Chunks for `to_zarr`, which takes even ones only; slabs begin where the mask does."""
    slabs = array.chunks[-1] if isinstance(array, da.Array) and array.ndim else ()
    if len(set(slabs[:-1])) <= 1 and max(slabs, default=0) == next(iter(slabs), 0):
        return {}
    return {"chunks": (*array.shape[:-1], gcd(*slabs[:-1]))}
