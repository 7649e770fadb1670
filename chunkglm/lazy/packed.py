"""Moments as they lie in a store: those of a slab in one chunk, which one task reads."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from chunkglm._types import AnyArray, FloatArray
from chunkglm.kernels.moments import Moments
from chunkglm.lazy.graph import Field, arrays_of_tasks, block_keys
from chunkglm.lazy.moments import Slabs


class Reader(Protocol):
    """Reads slabs of a stored array; it holds no data and can be sent anywhere."""

    def read(self, number: int) -> AnyArray:
        """Read the slab of that number."""


def packed(moments: Mapping[str, da.Array], slabs: Slabs) -> da.Array:
    """Put the moments of each slab into one chunk.

    Parameters
    ----------
    moments : mapping of dask arrays
        One for each field of `Moments`, chunked over voxels as the slabs are.
    slabs : Slabs

    Returns
    -------
    (slab, number, voxel) dask array
        Of the slabs that hold voxels; NaN after the last voxel of those that hold fewer than
        others.
    """
    parts = [moments[name] for name in Moments._fields]
    widest = max(slabs.voxel_chunks)
    name = "packed-" + tokenize([part.name for part in parts])
    tasks: dict[Any, Any] = {
        (name, i, 0, 0): (partial(_pack, widest=widest), *blocks)
        for i, blocks in enumerate(zip(*map(block_keys, parts), strict=True))
    }
    rows = sum(part.size // part.shape[-1] for part in parts)
    chunks = ((1,) * len(tasks), (rows,), (widest,))
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=parts)
    return da.Array(graph, name, chunks, dtype=np.dtype("f8"))


def _pack(*parts: FloatArray, widest: int) -> FloatArray:
    n_voxels = parts[0].shape[-1]
    rows = np.concatenate([part.reshape(-1, n_voxels) for part in parts])
    out = np.full((1, len(rows), widest), np.nan)
    out[0, :, :n_voxels] = rows
    return out


def unpacked(reader: Reader, slabs: Slabs, fields: Mapping[str, Field]) -> dict[str, da.Array]:
    """Show moments that `packed` made and a store holds.

    Parameters
    ----------
    reader : Reader
        Of the array.
    slabs : Slabs
    fields : mapping
        Of the moments, from `moments_fields`.

    Returns
    -------
    dict of dask arrays
        As they were packed.
    """
    name = "stored-" + tokenize(reader)
    leading = {field: spec.leading for field, spec in fields.items()}
    keys = [(name, i) for i in range(len(slabs.occupied))]
    tasks: dict[Any, Any] = {(name, "reader"): _Held(reader)}
    for i, (key, n_voxels) in enumerate(zip(keys, slabs.voxel_chunks, strict=True)):
        tasks[key] = (partial(_unpack, leading=leading), (name, "reader"), i, n_voxels)
    return arrays_of_tasks(name, tasks, keys, fields, (slabs.voxel_chunks,), [])


class _Held:
    """Holds a reader as one value of the graph, shared by all slabs."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader


def _unpack(
    held: _Held, number: int, n_voxels: int, *, leading: Mapping[str, tuple[int, ...]]
) -> dict[str, FloatArray]:
    rows = held.reader.read(number)[:, :n_voxels]
    out, first = {}, 0
    for field, shape in leading.items():
        stop = first + int(np.prod(shape, dtype=int))
        out[field] = rows[first:stop].reshape(*shape, n_voxels)
        first = stop
    if first != len(rows):
        msg = f"moments have {first} rows, but the store {len(rows)}"
        raise ValueError(msg)
    return out
