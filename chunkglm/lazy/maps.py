"""Maps over (x, y, z) from moments over voxels, and maps from maps, slab by slab."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from math import prod
from secrets import token_hex
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from chunkglm._types import AnyArray, IntArray
from chunkglm.kernels.voxels import numbers_of, placed
from chunkglm.lazy.blas import one_blas_thread
from chunkglm.lazy.graph import Field, arrays_of_tasks, block_keys
from chunkglm.lazy.moments import Slabs
from chunkglm.lazy.neighbours import as_solved_from, solved_from
from chunkglm.sizes import even_blocks, map_chunks, map_planes

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
    parts, blocks = solved_from(moments)
    name = f"{function.__name__}-" + tokenize(
        [p.name for p in parts], slabs.planes, arguments, function.__name__
    )
    n_maps = sum(prod(field.leading) for field in fields.values())
    work = _SlabFunction(function, n_maps)
    tasks: dict[Any, Any] = {(name, "arguments"): _Arguments(tuple(arguments))}
    for i, keys in zip(slabs.occupied, blocks, strict=True):
        tasks[name, i] = (partial(work, slabs.n_voxels[i]), (name, "arguments"), *keys)
    x, y, _ = slabs.mask.shape
    chunks, sizes = [], []
    for j, group in enumerate(map_chunks(slabs.planes, 8 * n_maps * x * y)):
        first, stop = slabs.planes[group.start].start, slabs.planes[group.stop - 1].stop
        occupied = [(name, i) for i in group if slabs.n_voxels[i]]
        if occupied:
            tasks[name, "numbers", j] = (numbers_of, slabs.mask[:, :, first:stop])
        chunks.append(_Chunk((x, y, stop - first), (name, "numbers", j), occupied))
        sizes.append(stop - first)

    def take(field: str, chunk: _Chunk) -> tuple[Any, ...]:
        fill = fills.get(field, np.nan)
        if chunk.slabs:
            return partial(_placed, field, fill), chunk.numbers, *chunk.slabs
        return (partial(_empty, fields[field], fill, chunk.shape),)

    return arrays_of_tasks(name, tasks, chunks, fields, ((x,), (y,), tuple(sizes)), parts, take)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Slabs whose maps are put together."""

    shape: tuple[int, int, int]
    numbers: Any  # key of the numbers of its voxels
    slabs: list[Any]  # keys of those that hold voxels


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
            works = [t[0] for t in tasks.values() if isinstance(t, tuple)]
            slabs = [w for w in works if isinstance(getattr(w, "func", None), _SlabFunction)]
            voxels = tuple(int(work.args[0]) for work in slabs)
            found.append(Solved(voxels, max((work.func.n_maps for work in slabs), default=0)))
    return found


class _Arguments:
    """Holds a kernel's arguments as one value of the graph, shared by all slabs."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        self.values = values


@dataclass(frozen=True, slots=True)
class _SlabFunction:
    """Applies a kernel to one slab's moments."""

    function: VoxelFunction
    n_maps: int

    def __call__(self, n_voxels: int, arguments: _Arguments, *parts: Any) -> Mapping[str, AnyArray]:
        moments, autocorrelation = as_solved_from(parts)
        with one_blas_thread():
            return self.function(moments, *arguments.values, autocorrelation)


def _placed(field: str, fill: float, numbers: IntArray, *slabs: Mapping[str, AnyArray]) -> AnyArray:
    """Put one of the maps of some slabs on the grid."""
    return placed([slab[field] for slab in slabs], numbers, fill)


def _empty(field: Field, fill: float, shape: tuple[int, ...]) -> AnyArray:
    """Make a map of slabs without voxels: one number shown everywhere; no data are read for it."""
    return np.broadcast_to(np.asarray(fill, dtype=field.dtype), (*field.leading, *shape))


def maps_of_maps(
    inputs: Sequence[da.Array | AnyArray],
    function: Callable[..., Mapping[str, AnyArray]],
    fields: Mapping[str, Field],
) -> dict[str, da.Array]:
    """Apply a kernel to maps that share a grid, slab by slab.

    Parameters
    ----------
    inputs : sequence of (..., x, y, z) arrays
        Dask's, chunked in any way, leading axes kept whole; or numpy's, never changed afterwards.
    function : callable
        ``function(*blocks)`` returns arrays (..., x, y, z) by name.
    fields : mapping
        What comes out.

    Returns
    -------
    dict of (..., x, y, z) dask arrays
        In slabs of whole planes.
    """
    slabs = _common_slabs(inputs)
    lazy = [a for a in inputs if isinstance(a, da.Array)]
    cut = iter(whole := _in_slabs(lazy, slabs))
    # Named at random: to hash the maps of two runs would take longer than to combine them.
    random = len(lazy) < len(inputs)
    name = f"maps-{token_hex(16) if random else tokenize([a.name for a in whole], function)}"
    blocks = [
        block_keys(next(cut)) if isinstance(a, da.Array) else _parts(a, slabs) for a in inputs
    ]
    keys = [(name, i) for i in range(len(slabs))]
    tasks: dict[Any, Any] = {k: (function, *(b[i] for b in blocks)) for i, k in enumerate(keys)}
    trailing = (*((n,) for n in inputs[0].shape[-3:-1]), slabs)
    return arrays_of_tasks(name, tasks, keys, fields, trailing, whole)


def _parts(held: AnyArray, slabs: Sequence[int]) -> list[AnyArray]:
    """Slabs of a map in memory, without a copy of it."""
    kept = held.view()
    kept.flags.writeable = False  # a task that changed its block would change the next one's too
    return [kept[..., first:stop] for first, stop in pairwise([0, *accumulate(slabs)])]


def slabs_of_maps(inputs: Sequence[da.Array]) -> list[da.Array]:
    """Cut maps that share a grid alike, into slabs of whole planes."""
    return _in_slabs(inputs, _common_slabs(inputs))


def _in_slabs(inputs: Sequence[da.Array], slabs: tuple[int, ...]) -> list[da.Array]:
    return [a.rechunk({**dict.fromkeys(range(a.ndim - 1), -1), a.ndim - 1: slabs}) for a in inputs]


def _common_slabs(inputs: Sequence[da.Array | AnyArray]) -> tuple[int, ...]:
    """Chunks of z that suit all inputs: those of the one cut into most slabs, cut further if large.

    A kernel holds several times what it is given; maps read from files come in one piece.
    """
    in_one = (inputs[0].shape[-1],)
    cut = (a.chunks[-1] for a in inputs if isinstance(a, da.Array))
    finest = max(cut, key=len, default=in_one)
    plane_bytes = sum(a.nbytes for a in inputs) // inputs[0].shape[-1]
    most = map_planes(plane_bytes)
    return tuple(len(part) for slab in finest for part in even_blocks(slab, most))
