"""Thresholds of whole maps, slab by slab: what must be known of all slabs is a small reduction."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from chunkglm._types import AnyArray, BoolArray, FloatArray, IntArray
from chunkglm.kernels.clusters import (
    SlabClusters,
    describe_slab,
    join_slabs,
    label_slab,
    merge_rows,
    summarize_slab,
)
from chunkglm.kernels.multiple import (
    Height,
    Survey,
    height_of,
    merge,
    p_of_z,
    q_values,
    survey,
)
from chunkglm.lazy.graph import Field, arrays_of_tasks, block_keys, values_of_tasks
from chunkglm.lazy.maps import slabs_of_maps


class _Slabs(NamedTuple):
    """A map cut into slabs of whole planes."""

    z: da.Array
    keys: list[Any]
    starts: list[int]
    masks: list[BoolArray | None]

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        return self.z.chunks  # type: ignore[no-any-return]


def _cut(z: da.Array, mask: BoolArray | None) -> _Slabs:
    (whole,) = slabs_of_maps([z])
    planes = whole.chunks[-1]
    starts = [0, *np.cumsum(planes).tolist()][:-1]
    masks = [
        None if mask is None else mask[:, :, start : start + n]
        for start, n in zip(starts, planes, strict=True)
    ]
    return _Slabs(whole, block_keys(whole), starts, masks)


def threshold_map(
    z: da.Array, mask: BoolArray | None, height: Height, cluster_threshold: float
) -> dict[str, da.Array]:
    """Threshold a map by height and by the extent of clusters.

    Parameters
    ----------
    z : (x, y, z) dask array
        Chunked in any way; there is a test wherever it is finite.
    mask : (x, y, z) bool array, optional
        Tests elsewhere do not count.
    height : Height
    cluster_threshold : float
        Clusters of fewer voxels are dropped.

    Returns
    -------
    dict of dask arrays
        ``thresholded`` and ``cluster`` (x, y, z); ``threshold`` and ``n_tests`` without axes.

    Notes
    -----
    The labels of all slabs are held until they are joined, 4 bytes a voxel; the largest thing that
    one task gathers are the candidates of a false discovery rate (see `survey`) and two planes of
    labels a slab.
    """
    slabs = _cut(z, mask)
    name = "threshold-" + tokenize(slabs.z.name, mask, height, cluster_threshold)
    tasks: dict[Any, Any] = {}
    steps = ("survey", "labels", "description", "numbers", "final")
    keys = {step: [(f"{name}-{step}", i) for i in range(len(slabs.keys))] for step in steps}
    found, the_height, joined = (f"{name}-found", 0), (f"{name}-height", 0), (f"{name}-joined", 0)
    for i, (block, tested) in enumerate(zip(slabs.keys, slabs.masks, strict=True)):
        work = _Slab(height, tested, slabs.starts[i], z.shape[2])
        tasks[keys["survey"][i]] = (work.survey, block)
        tasks[keys["labels"][i]] = (work.labels, block, the_height)
        tasks[keys["description"][i]] = (work.describe, block, the_height, keys["labels"][i])
        tasks[keys["numbers"][i]] = (_item, joined, i)
        parts = block, the_height, keys["labels"][i], keys["numbers"][i]
        tasks[keys["final"][i]] = (work.finish, *parts)
    tasks[found] = (merge, keys["survey"])
    tasks[the_height] = (height_of, found, height)
    tasks[joined] = (join_slabs, keys["description"], cluster_threshold)
    tasks[name, "n_tests"] = (_n_tests, found)
    values = {"threshold": (the_height, "f8"), "n_tests": ((name, "n_tests"), "i8")}
    fields = {"thresholded": Field((), z.dtype.str), "cluster": Field((), "i4")}
    return {
        **arrays_of_tasks(name, tasks, keys["final"], fields, slabs.chunks, [slabs.z]),
        **values_of_tasks(name, tasks, values, [slabs.z]),
    }


class _Slab:
    """The steps of one slab."""

    def __init__(
        self, height: Height, mask: BoolArray | None, first_plane: int, n_planes: int
    ) -> None:
        self.height, self.mask = height, mask
        self.first_plane, self.n_planes = first_plane, n_planes

    def _tested(self, block: FloatArray) -> BoolArray:
        return _tested(block, self.mask)

    def _kept(self, block: FloatArray, height: float) -> FloatArray:
        survives = self.height.survives(block, height) & self._tested(block)
        return np.where(survives, block, np.zeros((), dtype=block.dtype))

    def survey(self, block: FloatArray) -> Survey:
        return survey(block, self._tested(block), self.height)

    def labels(self, block: FloatArray, height: float) -> IntArray:
        return label_slab(self._kept(block, height))

    def describe(self, block: FloatArray, height: float, labels: IntArray) -> SlabClusters:
        return describe_slab(labels, self._kept(block, height), self.first_plane, self.n_planes)

    def finish(
        self, block: FloatArray, height: float, labels: IntArray, numbers: IntArray
    ) -> Mapping[str, AnyArray]:
        cluster = numbers[labels]
        lost = np.where(self._tested(block), 0.0, np.nan).astype(block.dtype)
        return {"thresholded": np.where(cluster > 0, block, lost), "cluster": cluster}


def _tested(block: FloatArray, mask: BoolArray | None) -> BoolArray:
    finite = np.isfinite(block)
    return finite if mask is None else finite & mask


def _item(values: Sequence[Any], i: int) -> Any:
    return values[i]


def _n_tests(found: Survey) -> int:
    return found.n_tests


def q_map(z: da.Array, mask: BoolArray | None, two_sided: bool) -> da.Array:
    """Return the q value of every voxel.

    Parameters
    ----------
    z : (x, y, z) dask array
        Chunked in any way.
    mask : (x, y, z) bool array, optional
    two_sided : bool

    Returns
    -------
    (x, y, z) dask array
        NaN where there is no test.

    Notes
    -----
    Every q depends on the ranks of all p: one task gathers the p values in the mask, 8 MB for a
    million voxels.
    """
    slabs = _cut(z, mask)
    name = "q-value-" + tokenize(slabs.z.name, mask, two_sided)
    n = len(slabs.keys)
    p_keys, keys = ([(f"{name}-{step}", i) for i in range(n)] for step in ("p", "final"))
    whole = (f"{name}-all", 0)
    tasks: dict[Any, Any] = {whole: (_q_of_parts, p_keys)}
    for i, (block, tested) in enumerate(zip(slabs.keys, slabs.masks, strict=True)):
        tasks[p_keys[i]] = (_p_of_block, block, tested, two_sided)
        tasks[f"{name}-part", i] = (_item, whole, i)
        tasks[keys[i]] = (_spread, block, tested, (f"{name}-part", i))
    fields = {"q_value": Field((), "f8")}
    return arrays_of_tasks(name, tasks, keys, fields, slabs.chunks, [slabs.z])["q_value"]


def _p_of_block(block: FloatArray, mask: BoolArray | None, two_sided: bool) -> FloatArray:
    return p_of_z(block[_tested(block, mask)].astype(np.float64), two_sided)


def _q_of_parts(parts: Sequence[FloatArray]) -> list[FloatArray]:
    q = q_values(np.concatenate(parts))
    return np.split(q, np.cumsum([part.size for part in parts])[:-1])


def _spread(
    block: FloatArray, mask: BoolArray | None, values: FloatArray
) -> Mapping[str, AnyArray]:
    out = np.full(block.shape, np.nan)
    out[_tested(block, mask)] = values
    return {"q_value": out}


def cluster_rows(thresholded: da.Array, numbers: da.Array) -> Delayed:
    """Return peaks and sizes of clusters, lazily.

    Parameters
    ----------
    thresholded, numbers : (x, y, z) dask arrays
        As from `threshold_map`, chunked in any way.

    Returns
    -------
    Delayed
        `ClusterRows` of the whole map.
    """
    values, labels = slabs_of_maps([thresholded, numbers])
    name = "clusters-" + tokenize(values.name, labels.name)
    starts = [0, *np.cumsum(values.chunks[-1]).tolist()][:-1]
    tasks: dict[Any, Any] = {
        (f"{name}-slab", i): (summarize_slab, *keys, start)
        for i, (*keys, start) in enumerate(
            zip(block_keys(values), block_keys(labels), starts, strict=True)
        )
    }
    tasks[name] = (merge_rows, list(tasks))
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=[values, labels])
    return Delayed(name, graph)
