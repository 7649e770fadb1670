"""Moments of one model from those of another, lazily."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
from dask.base import tokenize

from chunkglm._types import FloatArray
from chunkglm.kernels.factor import ShiftedBasis
from chunkglm.kernels.moments import Moments
from chunkglm.lazy.blas import one_blas_thread
from chunkglm.lazy.graph import arrays_of_tasks, block_keys
from chunkglm.lazy.moments import moments_fields


def moments_of_moments(
    inputs: Sequence[Mapping[str, da.Array]],
    function: Callable[..., Moments],
    arguments: Sequence[Any],
    basis: ShiftedBasis,
) -> dict[str, da.Array]:
    """Apply a kernel to moments, chunk by chunk of voxels.

    Parameters
    ----------
    inputs : sequence of mappings of dask arrays
        Each with one array for each field of `Moments`, all chunked alike.
    function : callable
        ``function([moments, ...], *arguments)`` returns `Moments`.
    arguments : sequence
    basis : ShiftedBasis
        That of the moments returned.

    Returns
    -------
    dict of dask arrays
        One for each field of `Moments`.
    """
    parts = [[fields[name] for name in Moments._fields] for fields in inputs]
    every = [array for arrays in parts for array in arrays]
    name = f"{function.__name__}-" + tokenize([a.name for a in every], arguments)
    tasks: dict[Any, Any] = {(name, "work"): _Work(function, tuple(arguments))}
    keys = []
    for i, blocks in enumerate(zip(*map(block_keys, every), strict=True)):
        keys.append((name, i))
        tasks[name, i] = (_apply, (name, "work"), *blocks)
    chunks = (every[0].chunks[-1],)
    return arrays_of_tasks(name, tasks, keys, moments_fields(basis), chunks, every)


@dataclass(frozen=True, slots=True)
class _Work:
    """A kernel with its arguments: one value of the graph, shared by all chunks."""

    function: Callable[..., Moments]
    arguments: tuple[Any, ...]


def _apply(work: _Work, *blocks: FloatArray) -> dict[str, FloatArray]:
    n = len(Moments._fields)
    inputs = [Moments(*blocks[i : i + n]) for i in range(0, len(blocks), n)]
    with one_blas_thread():
        return work.function(inputs, *work.arguments)._asdict()
