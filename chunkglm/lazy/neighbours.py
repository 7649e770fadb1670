"""Autocorrelations of a run's noise averaged over neighbouring voxels, between moments and maps."""

from collections.abc import Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from chunkglm._types import BoolArray, FloatArray
from chunkglm.kernels.moments import Moments
from chunkglm.kernels.smoothing import smooth_within
from chunkglm.kernels.solve import Model, own_autocorrelation
from chunkglm.kernels.voxels import scatter
from chunkglm.lazy.blas import one_blas_thread
from chunkglm.lazy.graph import Field, Key, arrays_of_tasks, block_keys, tasks_behind
from chunkglm.lazy.moments import Slabs

# Beside the moments, where the noise model has coefficients smoothed: what voxels are solved with.
AUTOCORRELATION = "autocorrelation"

_NAME = "neighbours-"


def solved_from(moments: Mapping[str, da.Array]) -> tuple[list[da.Array], list[list[Key]]]:
    """Arrays that voxels are solved from, and the keys of each of their blocks.

    Tasks are given what these keys hold, and take it apart by `as_solved_from`.
    """
    own = {name: moments[name] for name in Moments._fields}
    more = [moments[AUTOCORRELATION]] if AUTOCORRELATION in moments else []
    together = tasks_behind(own)
    firsts = [together] if together is not None else [block_keys(part) for part in own.values()]
    keys = zip(*firsts, *map(block_keys, more), strict=True)
    return [*own.values(), *more], [list(block) for block in keys]


def as_solved_from(parts: Sequence[Any]) -> tuple[Moments, FloatArray | None]:
    """Moments of a slab, and its smoothed autocorrelations if there are any."""
    n = 1 if isinstance(parts[0], Mapping) else len(Moments._fields)
    moments = Moments(**parts[0]) if isinstance(parts[0], Mapping) else Moments(*parts[:n])
    return moments, (parts[n] if len(parts) > n else None)


def with_neighbours(
    moments: Mapping[str, da.Array],
    slabs: Slabs,
    model: Model,
    sigma: tuple[float, float, float],
) -> dict[str, da.Array]:
    """Moments, and beside them autocorrelations of the residuals averaged over neighbours.

    Every slab's own are made from its moments; one task smooths those of all slabs, a few numbers a
    voxel, and every slab takes its part of them.

    Parameters
    ----------
    moments : mapping of dask arrays
        One for each field of `Moments`, chunked over voxels as the slabs are.
    slabs : Slabs
    model : Model
    sigma : tuple of three floats
        Standard deviation of the kernel along x, y and z in voxels.

    Returns
    -------
    dict of dask arrays
        `AUTOCORRELATION` with them, (p + 1, V).
    """
    parts = [moments[field] for field in Moments._fields]
    name = _NAME + tokenize([p.name for p in parts], slabs.mask, model, sigma)
    tasks: dict[Any, Any] = {(name, "model"): model, (name, "mask"): slabs.mask}
    own, keys, first = [], [], 0
    for i, blocks in enumerate(zip(*map(block_keys, parts), strict=True)):
        tasks[name, "own", i] = (_own, (name, "model"), *blocks)
        own.append((name, "own", i))
    tasks[name, "all"] = (_smoothed, own, (name, "mask"), sigma)
    for i, n_voxels in enumerate(slabs.voxel_chunks):
        tasks[name, i] = (_part, (name, "all"), first, first + n_voxels)
        keys.append((name, i))
        first += n_voxels
    fields = {AUTOCORRELATION: Field((model.noise.order + 1,), "f8")}
    return {**moments, **arrays_of_tasks(name, tasks, keys, fields, (slabs.voxel_chunks,), parts)}


def waits_in(graph: HighLevelGraph) -> bool:
    """Whether slabs of a graph wait for all others before they are solved."""
    return any(name.startswith(_NAME) for name in graph.layers)


def _own(model: Model, *parts: FloatArray) -> FloatArray:
    with one_blas_thread():
        return own_autocorrelation(Moments(*parts), model)


def _smoothed(
    own: Sequence[FloatArray], mask: BoolArray, sigma: tuple[float, float, float]
) -> FloatArray:
    """Smooth the autocorrelations of all voxels of the mask, (p + 1, V)."""
    found = np.concatenate(own, axis=1)
    counts = scatter(np.isfinite(found[0]).astype(np.float64), mask, 0.0) > 0
    # Lag 0 is 1 in every voxel that counts, and so in every average.
    maps = smooth_within(scatter(found[1:], mask), counts, sigma)
    averages = maps.transpose(0, 3, 2, 1)[:, mask.T]
    return np.vstack([np.ones(found.shape[1]), averages])


def _part(averages: FloatArray, first: int, stop: int) -> dict[str, FloatArray]:
    return {AUTOCORRELATION: averages[:, first:stop]}
