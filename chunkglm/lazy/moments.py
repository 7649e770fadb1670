"""Moments as lazy arrays: one pass over a run on disk, or over whatever dask array one is given."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.array as da
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from chunkglm._types import AnyArray, BoolArray, FloatArray, RunSource
from chunkglm.blocks import block_volumes, chunks_held
from chunkglm.kernels.factor import ShiftedBasis
from chunkglm.kernels.moments import Moments, copy_of, no_moments
from chunkglm.kernels.summing import Provisional, add_block, finish
from chunkglm.kernels.voxels import VoxelSelection, select_voxels
from chunkglm.lazy.blas import one_blas_thread
from chunkglm.lazy.graph import Field, arrays_of_tasks
from chunkglm.lazy.passes import moments_in_one_pass
from chunkglm.sizes import even_blocks

_PREFIX = "moments-"


@dataclass(frozen=True, slots=True)
class Slabs:
    """Ranges of planes worked on together; voxels are numbered x fastest, then y, then z."""

    mask: BoolArray  # (x, y, z)
    planes: tuple[range, ...]
    n_voxels: tuple[int, ...]  # of the mask, in each range; may be 0

    @property
    def occupied(self) -> tuple[int, ...]:
        """The slabs that hold voxels: one chunk of moments each."""
        return tuple(i for i, n in enumerate(self.n_voxels) if n)

    @property
    def voxel_chunks(self) -> tuple[int, ...]:
        """Chunks of every array of moments."""
        return tuple(n for n in self.n_voxels if n)


def make_slabs(mask: BoolArray, planes: list[range]) -> Slabs:
    """Count the voxels of each slab."""
    counts = tuple(int(mask[:, :, p.start : p.stop].sum()) for p in planes)
    return Slabs(mask, tuple(planes), counts)


def moments_fields(basis: ShiftedBasis) -> dict[str, Field]:
    """Name, leading shape and dtype of each of the `Moments`."""
    n_lags, rank = basis.n_lags, basis.rank
    n_edges = basis.segments.n_segments * n_lags
    return {
        "reference": Field((), "f8"),
        "products": Field((n_lags + 1, rank), "f8"),
        "autocovariance": Field((n_lags + 1,), "f8"),
        "total": Field((), "f8"),
        "head": Field((n_edges,), "f8"),
        "tail": Field((n_edges,), "f8"),
    }


def moments_of_source(
    source: RunSource,
    slabs: Slabs,
    basis: ShiftedBasis,
    sigma: tuple[float, float, float] | None,
) -> dict[str, da.Array]:
    """Moments of an untouched run.

    A run that can only be read forwards is read once, by one task, for all slabs; any other by a
    task per slab, which reads only the planes it needs.

    Parameters
    ----------
    source : RunSource
    slabs : Slabs
    basis : ShiftedBasis
    sigma : tuple of three floats or None
        Smoothing along x, y and z in voxels.

    Returns
    -------
    dict of dask arrays
        One for each field of `Moments`, chunked over voxels.
    """
    name = _PREFIX + tokenize(source.token, slabs.mask, slabs.planes, basis, sigma)
    tasks: dict[Any, Any] = {(name, "basis"): basis}
    keys = [(name, i) for i in range(len(slabs.occupied))]
    if source.forward_only:
        selection = select_voxels(slabs.mask, range(slabs.mask.shape[2]), sigma)
        tasks[(name, "pass")] = (moments_in_one_pass, source, selection, (name, "basis"))
        first = 0
        for key, n_voxels in zip(keys, slabs.voxel_chunks, strict=True):
            tasks[key] = (_voxels_as_fields, (name, "pass"), first, first + n_voxels)
            first += n_voxels
    else:
        for key, slab in zip(keys, slabs.occupied, strict=True):
            selection = select_voxels(slabs.mask, slabs.planes[slab], sigma)
            tasks[key] = (_slab_as_fields, source, selection, (name, "basis"))
    fields = moments_fields(basis)
    return arrays_of_tasks(name, tasks, keys, fields, (slabs.voxel_chunks,), [])


def _slab_as_fields(
    source: RunSource, selection: VoxelSelection, basis: ShiftedBasis
) -> dict[str, FloatArray]:
    return moments_in_one_pass(source, selection, basis)._asdict()


def _voxels_as_fields(moments: Moments, first: int, stop: int) -> dict[str, FloatArray]:
    return moments.of_voxels(slice(first, stop))._asdict()


@dataclass(frozen=True, slots=True)
class Pass:
    """One task of a graph that reads a run."""

    source: RunSource | None  # None for a run that is any dask array
    selection: VoxelSelection
    rank: int  # of the design
    n_lags: int
    n_segments: int
    n_scans: int  # of the run, dropped ones included
    held: int = 0  # bytes of the array's chunks that a block is cut from


@dataclass(frozen=True, slots=True)
class _Part:
    """What is taken of an array for one slab."""

    selection: VoxelSelection
    held: int  # see `Pass`


def passes_in(graph: HighLevelGraph) -> list[Pass]:
    """Return the tasks that read runs; nothing is run."""
    found: list[Pass] = []
    for name, layer in graph.layers.items():
        if not name.startswith(_PREFIX):
            continue
        tasks = dict(layer)
        basis = tasks[(name, "basis")]
        segments = basis.segments
        sizes = (basis.rank, basis.n_lags, segments.n_segments, segments.n_volumes)
        for task in tasks.values():
            if isinstance(task, _Part):
                found.append(Pass(None, task.selection, *sizes, task.held))
            elif isinstance(task, tuple) and task[0] in (moments_in_one_pass, _slab_as_fields):
                found.append(Pass(task[1], task[2], *sizes))
    return found


def moments_of_array(
    run: da.Array,
    slabs: Slabs,
    basis: ShiftedBasis,
    sigma: tuple[float, float, float] | None,
) -> dict[str, da.Array]:
    """Moments of a run that is any dask array.

    Parameters
    ----------
    run : (x, y, z, time) dask array
    slabs, basis, sigma
        As for `moments_of_source`.

    Returns
    -------
    dict of dask arrays
    """
    name = _PREFIX + tokenize(run, slabs.mask, slabs.planes, basis, sigma)
    tasks: dict[Any, Any] = {(name, "basis"): basis}
    keys, dependencies, n_scans = [], [], run.shape[3]
    for i, slab in enumerate(slabs.occupied):
        selection = select_voxels(slabs.mask, slabs.planes[slab], sigma)
        part = run[:, :, selection.planes.start : selection.planes.stop]
        volume = part.nbytes // n_scans
        n_volumes = block_volumes(slabs.n_voxels[slab], n_scans, volume)
        planes = chunks_held(run.chunks[2], len(selection.planes))
        plane = volume // len(selection.planes)
        held = plane * planes * chunks_held(run.chunks[3], n_volumes)
        tasks[(name, "part", i)] = _Part(selection, held)
        times = tuple(len(b) for b in even_blocks(n_scans, n_volumes))
        part = part.rechunk({0: -1, 1: -1, 2: -1, 3: times})
        dependencies.append(part)
        before: Any = None
        first = 0
        for j, length in enumerate(part.chunks[3]):
            key = (name, "until", i, j)
            step = partial(_extend, first=first)
            block = (part.name, 0, 0, 0, j)
            tasks[key] = (step, before, block, (name, "part", i), (name, "basis"))
            before, first = key, first + length
        keys.append((name, i))
        tasks[(name, i)] = (_finished, before, (name, "basis"))
    fields = moments_fields(basis)
    return arrays_of_tasks(name, tasks, keys, fields, (slabs.voxel_chunks,), dependencies)


@dataclass(frozen=True, slots=True)
class _Begun:
    """Moments of the volumes so far."""

    moments: Moments
    provisional: Provisional | None


def _extend(
    before: _Begun | None,
    block: AnyArray,
    part: _Part,
    basis: ShiftedBasis,
    *,
    first: int,
) -> _Begun:
    # A copy: what another task made may be needed again if this one is run twice.
    mine = no_moments(part.selection.n_voxels, basis) if before is None else copy_of(before.moments)
    known = None if before is None else before.provisional
    volumes = block.T
    _, kept = basis.segments.within(first, first + len(volumes))
    with one_blas_thread():
        series = part.selection.series(volumes, kept=kept)
        return _Begun(mine, add_block(mine, series, basis, first, known))


def _finished(begun: _Begun, basis: ShiftedBasis) -> dict[str, FloatArray]:
    mine = copy_of(begun.moments)
    with one_blas_thread():
        finish(mine, basis, begun.provisional)
    return mine._asdict()
