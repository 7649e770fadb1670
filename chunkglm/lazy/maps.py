"""Maps over (x, y, z) from moments over voxels, and maps from maps, slab by slab."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from chunkglm._types import AnyArray, BoolArray, FloatArray
from chunkglm.kernels.voxels import scatter
from chunkglm.lazy.blas import one_blas_thread
from chunkglm.lazy.graph import Field, arrays_of_tasks, block_keys
from chunkglm.lazy.moments import Slabs
from chunkglm.lazy.neighbours import as_solved_from, solved_from
from chunkglm.sizes import even_blocks, map_planes

VoxelFunction = Callable[..., Mapping[str, AnyArray]]


def maps_of_moments(
    moments: Mapping[str, da.Array],
    slabs: Slabs,
    function: VoxelFunction,
    arguments: Sequence[Any],
    fields: Mapping[str, Field],
    fills: Mapping[str, float],
) -> dict[str, da.Array]:
    """Apply a kernel to the moments of each slab and put the results on the grid.

    Parameters
    ----------
    moments : mapping of dask arrays
        One for each field of `Moments`, chunked over voxels as the slabs are, and perhaps what
        `with_neighbours` adds.
    slabs : Slabs
    function : callable
        ``function(moments, *arguments, autocorrelation)`` returns arrays (..., V) by name.
    arguments : sequence
    fields : mapping
        What the function returns.
    fills : mapping
        Value outside the mask by name; NaN where none is given.

    Returns
    -------
    dict of (..., x, y, z) dask arrays
    """
    parts = solved_from(moments)
    name = f"{function.__name__}-" + tokenize(
        [p.name for p in parts], slabs.planes, arguments, function.__name__
    )
    blocks = dict(zip(slabs.occupied, zip(*map(block_keys, parts), strict=True), strict=True))
    tasks: dict[Any, Any] = {(name, "arguments"): _Arguments(tuple(arguments))}
    n_maps = sum(prod(field.leading) for field in fields.values())
    keys = [(name, i) for i in range(len(slabs.planes))]
    for i, planes in enumerate(slabs.planes):
        mask = slabs.mask[:, :, planes.start : planes.stop]
        if i in blocks:
            work = _SlabFunction(function, mask, dict(fills), n_maps)
            tasks[keys[i]] = (work, (name, "arguments"), *blocks[i])
        else:
            tasks[keys[i]] = (_EmptySlab(mask.shape, dict(fields), dict(fills)),)
    x, y, _ = slabs.mask.shape
    chunks = ((x,), (y,), tuple(len(p) for p in slabs.planes))
    return arrays_of_tasks(name, tasks, keys, fields, chunks, parts)


@dataclass(frozen=True, slots=True)
class Solved:
    """One set of maps of a graph: slabs of moments to which a kernel is applied."""

    n_voxels: tuple[int, ...]  # of each slab that holds any
    n_maps: int  # numbers for each voxel that come out


def solved_in(graph: HighLevelGraph) -> list[Solved]:
    """Return what makes maps of moments; nothing is run."""
    found = []
    for name, layer in graph.layers.items():
        tasks = dict(layer)
        if isinstance(tasks.get((name, "arguments")), _Arguments):
            slabs = [t[0] for t in tasks.values() if isinstance(t, tuple) and len(t) > 1]
            works = [work for work in slabs if isinstance(work, _SlabFunction)]
            voxels = tuple(int(work.mask.sum()) for work in works)
            found.append(Solved(voxels, max((work.n_maps for work in works), default=0)))
    return found


class _Arguments:
    """Holds a kernel's arguments as one value of the graph, shared by all slabs."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        self.values = values


class _SlabFunction:
    """Applies a kernel to one slab's moments."""

    def __init__(
        self, function: VoxelFunction, mask: BoolArray, fills: dict[str, float], n_maps: int
    ) -> None:
        self.function, self.mask, self.fills, self.n_maps = function, mask, fills, n_maps

    def __call__(self, arguments: _Arguments, *parts: FloatArray) -> dict[str, AnyArray]:
        moments, autocorrelation = as_solved_from(parts)
        with one_blas_thread():
            found = self.function(moments, *arguments.values, autocorrelation)
        return {
            name: scatter(values, self.mask, self.fills.get(name, np.nan))
            for name, values in found.items()
        }


class _EmptySlab:
    """Makes the maps of a slab without voxels; no data are read for it."""

    def __init__(
        self, shape: tuple[int, ...], fields: dict[str, Field], fills: dict[str, float]
    ) -> None:
        self.shape, self.fields, self.fills = shape, fields, fills

    def __call__(self) -> dict[str, AnyArray]:
        return {
            # One number shown everywhere: maps of a small mask are mostly these.
            name: np.broadcast_to(
                np.asarray(self.fills.get(name, np.nan), dtype=f.dtype), (*f.leading, *self.shape)
            )
            for name, f in self.fields.items()
        }


def maps_of_maps(
    inputs: Sequence[da.Array],
    function: Callable[..., Mapping[str, AnyArray]],
    fields: Mapping[str, Field],
) -> dict[str, da.Array]:
    """Apply a kernel to maps that share a grid, slab by slab.

    Parameters
    ----------
    inputs : sequence of (..., x, y, z) dask arrays
        Chunked in any way; leading axes are kept whole.
    function : callable
        ``function(*blocks)`` returns arrays (..., x, y, z) by name.
    fields : mapping
        What the function returns.

    Returns
    -------
    dict of (..., x, y, z) dask arrays
        In slabs of whole planes.
    """
    whole = slabs_of_maps(inputs)
    slabs = whole[0].chunks[-1]
    name = "maps-" + tokenize([a.name for a in whole], function)
    tasks: dict[Any, Any] = {}
    keys = [(name, i) for i in range(len(slabs))]
    for i, blocks in enumerate(zip(*map(block_keys, whole), strict=True)):
        tasks[keys[i]] = (function, *blocks)
    x, y, _ = inputs[0].shape[-3:]
    return arrays_of_tasks(name, tasks, keys, fields, ((x,), (y,), slabs), whole)


def slabs_of_maps(inputs: Sequence[da.Array]) -> list[da.Array]:
    """Cut maps that share a grid alike, into slabs of whole planes."""
    slabs = _common_slabs(inputs)
    return [a.rechunk({**dict.fromkeys(range(a.ndim - 1), -1), a.ndim - 1: slabs}) for a in inputs]


def _common_slabs(inputs: Sequence[da.Array]) -> tuple[int, ...]:
    """Chunks of z that suit all inputs: those of the one cut into most slabs, cut further if large.

    A kernel holds several times what it is given; maps read from files come in one piece.
    """
    finest = max((a.chunks[-1] for a in inputs), key=len)
    plane_bytes = sum(a.nbytes for a in inputs) // inputs[0].shape[-1]
    most = map_planes(plane_bytes)
    return tuple(len(part) for slab in finest for part in even_blocks(slab, most))
