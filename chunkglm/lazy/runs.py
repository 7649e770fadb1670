"""A run as a lazy array: scaled as nibabel scales it, read block by block when it is looked at."""

from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from chunkglm._types import AnyArray, RunSource

_PREFIX = "chunkglm-run-"


def run_array(source: RunSource, n_volumes: int | None = None) -> da.Array:
    """Show a run as an array.

    Parameters
    ----------
    source : RunSource
    n_volumes : int, optional
        Volumes of a chunk, in place of the source's own.

    Returns
    -------
    (x, y, z, time) dask array
        In the source's chunks; its name tells the source, see `is_untouched`.
    """
    sizes = (*source.chunks[:3], n_volumes or source.chunks[3])
    chunks = tuple(_chunk_sizes(n, c) for n, c in zip(source.shape, sizes, strict=True))
    name = _name(source) if n_volumes is None else f"{_name(source)}-by-{n_volumes}"
    tasks: dict[Any, Any] = {}
    first_plane = np.cumsum((0, *chunks[2])).tolist()
    first_volume = np.cumsum((0, *chunks[3])).tolist()
    for i, n_planes in enumerate(chunks[2]):
        planes = range(first_plane[i], first_plane[i] + n_planes)
        for j, n_volumes in enumerate(chunks[3]):
            stop = first_volume[j] + n_volumes
            tasks[(name, 0, 0, i, j)] = (_read_scaled, source, planes, first_volume[j], stop)
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=[])
    return da.Array(graph, name, chunks, dtype=scaled_dtype(source))


def is_untouched(array: Any, source: RunSource) -> bool:
    """Whether an array is still what `run_array` made of this source; any operation renames it."""
    return isinstance(array, da.Array) and array.name == _name(source)


def source_of(array: Any) -> RunSource | None:
    """Return the source of an array that is still as `run_array` made it, else None."""
    if not isinstance(array, da.Array) or not array.name.startswith(_PREFIX):
        return None
    task = dict(array.dask.layers.get(array.name, {})).get((array.name, 0, 0, 0, 0))
    if isinstance(task, tuple) and task[0] is _read_scaled:
        source: RunSource = task[1]
        return source if is_untouched(array, source) else None
    return None  # computed and held in memory


def scaled_dtype(source: RunSource) -> np.dtype[Any]:
    """Return the dtype of scaled values: the file's own without scaling, else float64."""
    if (source.slope, source.intercept) == (1.0, 0.0):
        return source.dtype.newbyteorder("=")
    return np.dtype(np.float64)


def scaled(block: AnyArray, source: RunSource) -> AnyArray:
    """Scale samples as nibabel does, bit for bit: float64(raw) * slope + intercept."""
    if (source.slope, source.intercept) == (1.0, 0.0):
        return block.astype(block.dtype.newbyteorder("="), copy=False)
    return block.astype(np.float64) * source.slope + source.intercept


def _read_scaled(source: RunSource, planes: range, first: int, stop: int) -> AnyArray:
    return scaled(source.read(planes, first, stop), source).T


def _name(source: RunSource) -> str:
    token: str = tokenize(source.token)
    return _PREFIX + token


def _chunk_sizes(n: int, chunk: int) -> tuple[int, ...]:
    whole, rest = divmod(n, chunk)
    return (chunk,) * whole + ((rest,) if rest else ())
