"""Tasks that make several arrays at once, shown as dask arrays that share them."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import dask.array as da
import numpy as np
from dask._task_spec import Task, TaskRef
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from chunkglm._types import AnyArray

Key = Hashable

# Every array's graph lists all layers beneath it. Two hundred runs, each left out in turn, are
# 1,600 arrays over 2,400 layers, which takes 174 MB and 2.4 s; over one, 12 MB and 0.9 s.
MANY_FIELDS = 20


@dataclass(frozen=True, slots=True)
class Field:
    """One of the arrays that a task returns."""

    leading: tuple[int, ...]  # axes before the chunked one(s), whole
    dtype: str


@dataclass(frozen=True, slots=True)
class Take:
    """Takes one array from what a task returned."""

    field: str

    def __call__(self, found: Mapping[str, AnyArray]) -> AnyArray:
        """Take it."""
        return found[self.field]


class _Apart(Task):  # type: ignore[misc]
    """A task that dask does not join with the one after it.

    What takes an array from a task's results, and what copies it for the user, would be joined into
    a graph within the graph, which dask sorts anew each time: of eight maps 1.4 of 7.5 ms.
    """

    __slots__ = ()

    @property
    def block_fusion(self) -> bool:
        return True


def array_of_held(data: AnyArray, chunks: tuple[int, ...]) -> da.Array:
    """Show an array in memory as one that is chunked along its last axis, without a copy of it.

    ``dask.array.from_array`` copies, lest the array be changed later: 12 MB of moments of a small
    run, each time they are asked for.

    Parameters
    ----------
    data : (..., n) array
        Never changed afterwards.
    chunks : tuple of int
        Along the last axis.

    Returns
    -------
    (..., n) dask array
    """
    name = f"held-{tokenize(data, chunks)}"
    before = (0,) * (data.ndim - 1)
    edges = [0, *accumulate(chunks)]
    kept = data.view()
    kept.flags.writeable = False  # a task that changed its block would change the next one's too
    blocks = {
        (name, *before, i): kept[..., first:stop] for i, (first, stop) in enumerate(pairwise(edges))
    }
    sizes = (*((n,) for n in data.shape[:-1]), chunks)
    return da.Array(blocks, name, chunks=sizes, dtype=data.dtype)


def arrays_of_tasks(
    name: str,
    tasks: Mapping[Key, Any],
    keys: Sequence[Any],
    fields: Mapping[str, Field],
    trailing_chunks: tuple[tuple[int, ...], ...],
    dependencies: Sequence[da.Array],
    take: Callable[[str, Any], tuple[Any, ...]] | None = None,
) -> dict[str, da.Array]:
    """Show the results of tasks as arrays; computed together, each task runs once.

    Parameters
    ----------
    name : str
        Unique name of the tasks.
    tasks : mapping
        The graph.
    keys : sequence
        The task of each chunk along the last axis; it returns a mapping of field to block.
    fields : mapping
        Name, leading shape and dtype of each array.
    trailing_chunks : tuple of tuples of int
        Chunks of the axes after the leading ones; only the last may have several.
    dependencies : sequence of dask arrays
        Whose keys the tasks use.
    take : callable, optional
        ``take(field, key)`` is a function, and the keys of what it is given, that makes a block,
        where it does more than take the field from what the task of that key returned; keys are
        then whatever it understands.

    Returns
    -------
    dict of dask arrays
    """
    base = HighLevelGraph.from_collections(name, dict(tasks), dependencies=list(dependencies))
    if take is None:
        take = _take
    if len(fields) > MANY_FIELDS:
        base = HighLevelGraph({name: base.to_dict()}, {name: set()})
    out = {}
    for field, spec in fields.items():
        layer_name = f"{field}-{name}"
        zeros = (0,) * (len(spec.leading) + len(trailing_chunks) - 1)
        blocks = [((layer_name, *zeros, i), take(field, key)) for i, key in enumerate(keys)]
        layer = {key: _Apart(key, made, *map(TaskRef, of)) for key, (made, *of) in blocks}
        graph = HighLevelGraph(
            {**base.layers, layer_name: layer},
            {**base.dependencies, layer_name: {name}},
        )
        chunks = (*((n,) for n in spec.leading), *trailing_chunks)
        out[field] = da.Array(graph, layer_name, chunks, dtype=np.dtype(spec.dtype))
    return out


def _take(field: str, key: Key) -> tuple[Any, ...]:
    return Take(field), key


def tasks_behind(parts: Mapping[str, da.Array]) -> list[Key] | None:
    """Tasks of which arrays of `arrays_of_tasks` are the fields, one a block.

    Who needs all fields takes them from there: seven tasks fewer for each slab of moments.

    Parameters
    ----------
    parts : mapping of dask arrays
        By field, chunked along the last axis only, and alike.

    Returns
    -------
    list of keys, or None
        None when something was done with them since.
    """
    found: list[list[Key]] = []
    for field, part in parts.items():
        graph = part.__dask_graph__()
        layer = graph.layers.get(part.name) if isinstance(graph, HighLevelGraph) else None
        tasks = [] if layer is None else [layer.get(key) for key in block_keys(part)]
        taken = [t.args[0].key for t in tasks if isinstance(t, _Apart) and t.func == Take(field)]
        if len(taken) != part.numblocks[-1]:
            return None
        found.append(taken)
    return found[0] if all(keys == found[0] for keys in found) else None


def values_of_tasks(
    name: str,
    tasks: Mapping[Key, Any],
    keys: Mapping[str, tuple[Key, str]],
    dependencies: Sequence[da.Array],
) -> dict[str, da.Array]:
    """Show tasks that return one number as arrays without axes; see `arrays_of_tasks`.

    Parameters
    ----------
    name, tasks, dependencies
        As given to `arrays_of_tasks`, with which the tasks are shared.
    keys : mapping
        The task and dtype of each number, by name.

    Returns
    -------
    dict of () dask arrays
    """
    base = HighLevelGraph.from_collections(name, dict(tasks), dependencies=list(dependencies))
    out = {}
    for field, (key, dtype) in keys.items():
        layer_name = f"{field}-{name}"
        graph = HighLevelGraph(
            {**base.layers, layer_name: {(layer_name,): (np.asarray, key, dtype)}},
            {**base.dependencies, layer_name: {name}},
        )
        out[field] = da.Array(graph, layer_name, (), dtype=np.dtype(dtype))
    return out


def joined(arrays: Sequence[da.Array]) -> Delayed:
    """Arrays that are chunked along their last axis only, as a list of numpy's; lazy.

    dask copies every block into the whole, or a single block, lest it be changed in the graph's
    memory. Here blocks that lie side by side already, as those of one pass over a run do, are the
    whole.

    Parameters
    ----------
    arrays : sequence of (..., n) dask arrays

    Returns
    -------
    Delayed
        Of a list of arrays.
    """
    name = "joined-" + tokenize([a.name for a in arrays])
    task = (_all_joined, [block_keys(a) for a in arrays])
    graph = HighLevelGraph.from_collections(name, {name: task}, dependencies=list(arrays))
    return Delayed(name, graph)


def _all_joined(arrays: Sequence[Sequence[AnyArray]]) -> list[AnyArray]:
    return [_joined(blocks) for blocks in arrays]


def _joined(blocks: Sequence[AnyArray]) -> AnyArray:
    """Blocks in a row, as one array; the one that they are views of, if they are all of it."""
    whole = blocks[0].base
    if isinstance(whole, np.ndarray) and _are_all_of(whole, blocks):
        return whole
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=-1)


def _are_all_of(whole: AnyArray, blocks: Sequence[AnyArray]) -> bool:
    leading = (*whole.shape[:-1], whole.strides)
    if any((*b.shape[:-1], b.strides) != leading or b.base is not whole for b in blocks):
        return False
    starts = accumulate((b.shape[-1] * b.itemsize for b in blocks), initial=whole.ctypes.data)
    each = zip(blocks, starts, strict=False)
    return whole.shape[-1] == sum(b.shape[-1] for b in blocks) and all(
        block.ctypes.data == start for block, start in each
    )


def block_keys(array: da.Array) -> list[Key]:
    """Keys of an array that is chunked along its last axis only."""
    zeros = (0,) * (array.ndim - 1)
    return [(array.name, *zeros, i) for i in range(array.numblocks[-1])]
