"""Kernels that combine estimates, applied to the maps of runs slab by slab."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from chunkglm._types import AnyArray, BoolArray, IntArray
from chunkglm.glm.labelled import label_maps
from chunkglm.glm.space import Grid
from chunkglm.kernels.estimate import statistics
from chunkglm.kernels.level import ESTIMATED
from chunkglm.kernels.pages import own_pages, side_by_side
from chunkglm.kernels.pooling import NO_RUN, Estimate
from chunkglm.kernels.voxels import numbers_of
from chunkglm.lazy.graph import Field
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
    """Apply a kernel to the maps of runs, which were found to belong together.

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
        Lazy, where any of the maps are; they share their tasks: computed together, nothing runs
        twice. One Dataset of maps in memory is made at once: of a small volume, dask's part would
        be twice that of all else.
    """
    first = runs[0]
    joint = first.attrs["stat_type"] == "F"
    parts = tuple(_Part.of(one) for one in runs)
    inputs = [array for one, part in zip(runs, parts, strict=True) for array in part.arrays(one)]
    specs, fields = _results(first, joint)
    wanted = {_key(name, i): fields[name] for i in range(n_out) for name in specs}
    held = n_out == 1 and not any(isinstance(a, da.Array) for a in inputs)
    room = side_by_side if held else _apart
    combine = _Combine(kernel, parts, joint, bool(precision_weighted), wanted, room)
    arrays = combine(*inputs) if held else maps_of_maps(inputs, combine, wanted)
    found = []
    for out in range(n_out):
        here = {name: arrays[_key(name, out)] for name in specs}
        maps = label_maps(here, specs, grid)
        for name in ("effect_size", "effect_variance", "stat"):
            if name in first:
                maps.variables[name].attrs = dict(first.variables[name].attrs)
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

    def arrays(self, maps: xr.Dataset) -> list[da.Array | AnyArray]:
        """Return its arrays, in the order in which `estimate` takes them."""
        wanted = {
            "effect_size": True,
            "effect_variance": True,
            "dof": self.dof is None,
            "n_runs": self.n_runs is None,
            "voxel_status": self.has_status,
        }
        return [_array(maps.variables[name]) for name, there in wanted.items() if there]

    def estimate(self, blocks: Iterator[AnyArray], joint: bool) -> Estimate:
        """Take its blocks, and put their voxels in one row."""
        effect, covariance = next(blocks), next(blocks)
        q = effect.shape[0] if joint else 1
        shape = effect.shape[1:] if joint else effect.shape
        rows = effect.reshape(q, -1)

        def over_voxels(value: float | None) -> AnyArray:
            if value is None:
                return np.broadcast_to(next(blocks), shape).reshape(-1)
            return np.broadcast_to(np.asarray(value), rows.shape[1:])

        dof, n_runs = over_voxels(self.dof), over_voxels(self.n_runs)
        status = over_voxels(None) if self.has_status else _status_of(rows)
        return Estimate(rows, covariance.reshape(q, q, -1), n_runs, dof, status)


def _status_of(rows: AnyArray) -> AnyArray:
    """Status of maps that do not tell it."""
    return np.where(np.isfinite(rows).all(axis=0), np.int8(ESTIMATED), np.int8(NO_RUN))


def _array(found: xr.Variable) -> da.Array | AnyArray:
    """Rows, then contrasts, then space."""
    dims = (*(d for d in (ROW, COLUMN, CONTRAST) if d in found.dims), *SPACE)
    data = (found if found.dims == dims else found.transpose(*dims)).data
    return data if isinstance(data, da.Array) else np.asarray(data)


@dataclass(frozen=True, slots=True)
class _Combine:
    """Combines maps, or slabs of them."""

    kernel: Kernel
    parts: tuple[_Part, ...]
    joint: bool
    precision_weighted: bool
    fields: Mapping[str, Field]  # what comes out
    room: Callable[[Mapping[str, tuple[tuple[int, ...], Any]]], dict[str, AnyArray]]  # for it

    def __call__(self, *blocks: AnyArray) -> Mapping[str, AnyArray]:
        # Maps that were read from files lie as there, x fastest; so do those made of them.
        turned = all(_turned(block).flags.c_contiguous for block in blocks)
        if turned:
            blocks = tuple(map(_turned, blocks))
        rest = iter(blocks)
        every = [part.estimate(rest, self.joint) for part in self.parts]
        q, n_cells = every[0].effect.shape
        space = blocks[0].shape[-3:]
        maps = self.room({n: ((*f.leading, *space), f.dtype) for n, f in self.fields.items()})
        empty = _empty_cells(every)
        elsewhere = self._maps_of(every, np.flatnonzero(empty)[:1])
        step = max(1, _CELLS_AT_ONCE // q**2)
        for first in range(0, n_cells, step):
            cells = slice(first, first + step)
            some = [_part_of(one, cells) for one in every]
            inside = ~empty[cells]
            numbers = numbers_of(inside)
            for name, values in self._maps_of(some, np.flatnonzero(inside)).items():
                out = maps[name].reshape(*values.shape[:-1], -1)[..., cells]
                there = np.concatenate([values, elsewhere[name]], axis=-1)
                for row in np.ndindex(*values.shape[:-1]):
                    np.take(there[row], numbers, out=out[row], mode="clip")
        return {name: _turned(a) for name, a in maps.items()} if turned else maps

    def _maps_of(self, every: Sequence[Estimate], cells: IntArray) -> dict[str, AnyArray]:
        """Combine some cells of the grid; all that comes out of them, by its key."""
        estimates = [_of_voxels(one, cells) for one in every]
        found = self.kernel(estimates, precision_weighted=self.precision_weighted)
        each = [self._maps(one) for one in found]
        return {_key(name, i): a for i, maps in enumerate(each) for name, a in maps.items()}

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


# Arrays that the C library takes from the system and gives back each time cost more to touch than
# most of what is done in them: with all of 64 x 64 x 30 at once a run is dropped in 10 ms; so in 7.
_CELLS_AT_ONCE = 32768


def _apart(arrays: Mapping[str, tuple[tuple[int, ...], Any]]) -> dict[str, AnyArray]:
    """Room for slabs of maps: who keeps one of them on a cluster must not keep all eight."""
    return {name: own_pages(shape, dtype) for name, (shape, dtype) in arrays.items()}


def _key(name: str, i: int) -> str:
    """Name of one of the maps, of what comes out as number `i`."""
    return f"{name}-{i}" if i else name


def _turned(values: AnyArray) -> AnyArray:
    """(..., x, y, z) as (..., z, y, x), and back; a view."""
    return values.swapaxes(-1, -3)


def _part_of(one: Estimate, cells: slice) -> Estimate:
    def part(values: Any) -> Any:
        return values[..., cells]

    return Estimate(*map(part, one))


def _of_voxels(one: Estimate, voxels: IntArray) -> Estimate:
    def take(values: Any) -> Any:
        # In any other mode each number is looked at twice.
        return values.take(voxels, axis=-1, mode="clip")

    return Estimate(*map(take, one))


def _empty_cells(estimates: Sequence[Estimate]) -> BoolArray:
    """Cells of the grid that no run has, and of which all of them say the same.

    Two thirds of most volumes are outside of the mask. Of cells that no run has, what comes out
    depends on what the runs say of them: most are as the first one is.
    """
    empty = _without_effect(estimates[0])
    for one in estimates[1:]:
        empty &= _without_effect(one)
    first = int(empty.argmax())
    for one in estimates if empty[first] else ():
        empty &= one.status == one.status[first]
    return empty


def _without_effect(one: Estimate) -> BoolArray:
    return np.asarray(np.isnan(one.effect).all(axis=0))
