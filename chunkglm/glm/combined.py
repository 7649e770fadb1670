"""Kernels that combine estimates, applied to the maps of runs slab by slab."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from chunkglm._types import AnyArray, IntArray
from chunkglm.glm.fitted import label_maps
from chunkglm.glm.space import Grid
from chunkglm.kernels.estimate import statistics
from chunkglm.kernels.pooling import NO_RUN, Estimate
from chunkglm.kernels.solve import ESTIMATED
from chunkglm.kernels.voxels import placed
from chunkglm.lazy.graph import Field, array_of_held
from chunkglm.lazy.maps import maps_of_maps
from chunkglm.schema import COLUMN, CONTRAST, F_MAPS, POOLED, ROW, SPACE, T_MAPS, VarSpec

Kernel = Callable[..., Sequence[Estimate]]


def combined(
    kernel: Kernel,
    runs: Sequence[xr.Dataset],
    grid: Grid,
    *,
    precision_weighted: bool,
    n_out: int = 1,
) -> list[xr.Dataset]:
    """Apply a kernel to the maps of runs, which were found to belong together; lazy.

    Parameters
    ----------
    kernel : callable
        ``kernel(estimates, precision_weighted=...)`` returns `n_out` estimates.
    runs : sequence of Datasets
    grid : Grid
    precision_weighted : bool
    n_out : int

    Returns
    -------
    list of `n_out` Datasets
        Which share their tasks: computed together, nothing runs twice.
    """
    first = runs[0]
    joint = first.attrs["stat_type"] == "F"
    parts = tuple(_Part.of(one) for one in runs)
    inputs = [array for one, part in zip(runs, parts, strict=True) for array in part.arrays(one)]
    specs, fields = _results(first, joint)
    names = [(f"{name}-{i}" if i else name, name, i) for i in range(n_out) for name in specs]
    arrays = maps_of_maps(
        inputs,
        _Combine(kernel, parts, joint, bool(precision_weighted)),
        {key: fields[name] for key, name, _ in names},
    )
    found = []
    for out in range(n_out):
        here = {name: arrays[key] for key, name, i in names if i == out}
        maps = label_maps(here, specs, grid)
        for name in ("effect_size", "effect_variance", "stat"):
            maps[name].attrs = dict(first[name].attrs)
        if CONTRAST in first.dims:
            maps = maps.transpose(CONTRAST, ...)
        if CONTRAST in first.coords:
            maps = maps.assign_coords({CONTRAST: first[CONTRAST]})
        found.append(maps)
    return found


def _results(first: xr.Dataset, joint: bool) -> tuple[dict[str, VarSpec], dict[str, Field]]:
    """What comes out: names and dims, shapes and types; rows before contrasts before space."""
    sizes = {**first.sizes, COLUMN: first.sizes.get(ROW, 1)}
    contrasts = (CONTRAST,) if CONTRAST in first.dims else ()
    specs, fields = {}, {}
    for name, spec in {**(F_MAPS if joint else T_MAPS), **POOLED}.items():
        leading = (*(d for d in spec.dims if d not in SPACE), *contrasts)
        specs[name] = replace(spec, dims=(*leading, *SPACE))
        fields[name] = Field(tuple(sizes[d] for d in leading), spec.dtype)
    return specs, fields


@dataclass(frozen=True, slots=True)
class _Part:
    """What the maps of one run bring to a task; a number holds where there is no map."""

    dof: float | None
    n_runs: float | None
    has_status: bool

    @classmethod
    def of(cls, maps: xr.Dataset) -> "_Part":
        return cls(
            None if "dof" in maps else float(maps.attrs["dof"]),
            None if "n_runs" in maps else 1.0,
            "voxel_status" in maps,
        )

    def arrays(self, maps: xr.Dataset) -> list[da.Array]:
        """Return its arrays, in the order in which `estimate` takes them."""
        wanted = {
            "effect_size": True,
            "effect_variance": True,
            "dof": self.dof is None,
            "n_runs": self.n_runs is None,
            "voxel_status": self.has_status,
        }
        return [_array(maps[name]) for name, there in wanted.items() if there]

    def estimate(self, blocks: Iterator[AnyArray], joint: bool) -> Estimate:
        """Take its blocks, and put their voxels in one row."""
        effect, covariance = next(blocks), next(blocks)
        shape = effect.shape[1:] if joint else effect.shape
        q = effect.shape[0] if joint else 1

        def over_voxels(value: float | None) -> AnyArray:
            found = next(blocks) if value is None else np.asarray(value)
            return np.broadcast_to(found, shape).reshape(-1)

        dof, n_runs = over_voxels(self.dof), over_voxels(self.n_runs)
        rows = effect.reshape(q, -1)
        known = np.where(np.isfinite(rows).all(axis=0), ESTIMATED, NO_RUN)
        status = over_voxels(None) if self.has_status else known
        return Estimate(rows, covariance.reshape(q, q, -1), n_runs, dof, status)


def _array(found: xr.DataArray) -> da.Array:
    """Rows, then contrasts, then space."""
    leading = [d for d in (ROW, COLUMN, CONTRAST) if d in found.dims]
    data = found.transpose(*leading, *SPACE).data
    if isinstance(data, da.Array):
        return data
    # Named at random: to hash the maps of two runs would take longer than to combine them.
    return array_of_held(np.asarray(data), data.shape[-1:], secrets.token_hex(16))


@dataclass(frozen=True, slots=True)
class _Combine:
    """Combines one slab."""

    kernel: Kernel
    parts: tuple[_Part, ...]
    joint: bool
    precision_weighted: bool

    def __call__(self, *blocks: AnyArray) -> Mapping[str, AnyArray]:
        shape = blocks[0].shape[1:] if self.joint else blocks[0].shape
        rest = iter(blocks)
        every = [part.estimate(rest, self.joint) for part in self.parts]
        # Two thirds of most volumes are outside of the mask.
        inside = np.flatnonzero(_something_known(every))
        numbers = np.full(every[0].status.size, inside.size)
        numbers[inside] = np.arange(inside.size)
        estimates = [_of_voxels(one, inside) for one in every]
        found = {}
        for i, one in enumerate(self.kernel(estimates, precision_weighted=self.precision_weighted)):
            for name, values in self._maps(one).items():
                whole = placed([values], numbers, _NOTHING.get(name, np.nan))
                if name == "voxel_status":
                    whole = np.where(numbers < inside.size, whole, every[0].status)
                found[f"{name}-{i}" if i else name] = whole.reshape(*whole.shape[:-1], *shape)
        return found

    def _maps(self, one: Estimate) -> dict[str, Any]:
        kind = "F" if self.joint else "t"
        stat, p, z = statistics(one.effect, one.covariance, one.dof, kind)
        return {
            "effect_size": one.effect if self.joint else one.effect[0],
            "effect_variance": one.covariance if self.joint else one.covariance[0, 0],
            "stat": stat,
            "p_value": p,
            "z_score": z,
            "n_runs": one.n_runs,
            "dof": one.dof,
            "voxel_status": one.status,
        }


# What stands in voxels of which nothing is known; NaN in all other maps.
_NOTHING = {"n_runs": 0.0, "voxel_status": float(NO_RUN)}


def _of_voxels(one: Estimate, voxels: IntArray) -> Estimate:
    effect, covariance = (a.take(voxels, axis=-1) for a in (one.effect, one.covariance))
    return Estimate(effect, covariance, one.n_runs[voxels], one.dof[voxels], one.status[voxels])


def _something_known(estimates: Sequence[Estimate]) -> AnyArray:
    """Voxels but those that no run has, all for the same reason: there is nothing to combine."""
    first = estimates[0].status
    known: AnyArray = first == ESTIMATED
    for one in estimates:
        known |= (one.status != first) | ~np.isnan(one.effect).all(axis=0)
    return known
