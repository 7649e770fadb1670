"""Clusters of a map that is looked at in slabs of planes: labelled apart, joined at their faces.

Voxels are neighbours when they share a face, so that of two slabs only the planes that touch
matter. Clusters have one sign: those of the upper and of the lower tail are never joined.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.ndimage import label
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from chunkglm._types import AnyArray, BoolArray, FloatArray, IntArray

# Of labels: more than a whole brain can have, and half the memory of the default.
_LABEL = np.int32


class SlabClusters(NamedTuple):
    """Clusters of one slab, numbered from 1."""

    bottom: IntArray  # (x, y) labels of the first plane
    top: IntArray  # (x, y) labels of the last plane
    positive: BoolArray  # (n,) whether a cluster lies in the upper tail
    sizes: IntArray  # (n,) voxels
    peaks: FloatArray  # (n,) largest absolute values
    firsts: IntArray  # (n,) smallest index of a voxel in the whole map, in C order


def label_slab(values: FloatArray) -> IntArray:
    """Label the clusters of one slab: those above 0 first, then those below.

    Parameters
    ----------
    values : (x, y, z) array
        0 where nothing survived.

    Returns
    -------
    (x, y, z) int32 array
    """
    above, n_above = label(values > 0)
    below, _ = label(values < 0)
    return np.where(below > 0, below + n_above, above).astype(_LABEL)


def describe_slab(
    labels: IntArray, values: FloatArray, first_plane: int, n_planes: int
) -> SlabClusters:
    """Gather what joining needs of a slab.

    Parameters
    ----------
    labels, values : (x, y, z) arrays
        As given to and by `label_slab`.
    first_plane : int
        Of the slab, in the whole map.
    n_planes : int
        Of the whole map.
    """
    order, starts, sizes, where = group(labels)
    inside = np.abs(values).reshape(-1)[order]
    peaks = np.maximum.reduceat(inside, starts) if starts.size else np.empty(0)
    # The order is stable: where a cluster starts is its first voxel in the slab, and so in the map.
    i, j, k = np.unravel_index(where, labels.shape)
    firsts = (i * labels.shape[1] + j) * n_planes + k + first_plane
    positive = values.reshape(-1)[where] > 0
    return SlabClusters(labels[:, :, 0], labels[:, :, -1], positive, sizes, peaks, firsts)


def group(labels: IntArray) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Sort the labelled voxels by label.

    Returns
    -------
    order : (m,) flat indices of labelled voxels, label by label, in C order within each
    starts : (n,) where in `order` each label starts
    sizes : (n,) voxels of each label
    firsts : (n,) flat index of each label's first voxel
    """
    flat = labels.reshape(-1)
    inside = np.flatnonzero(flat)
    order = inside[np.argsort(flat[inside], kind="stable")]
    starts = np.flatnonzero(np.diff(flat[order], prepend=0))
    sizes = np.diff(starts, append=order.size)
    return order, starts, sizes, order[starts]


def join_slabs(slabs: Sequence[SlabClusters], smallest: float) -> list[IntArray]:
    """Number the clusters of the whole map.

    Parameters
    ----------
    slabs : sequence of SlabClusters
        In the order of their planes.
    smallest : float
        Clusters of fewer voxels are dropped.

    Returns
    -------
    list of (n + 1,) int32 arrays
        For each slab, the number of each of its labels; 0 for label 0 and for clusters that are
        dropped. Numbers run from 1: the upper tail first, each tail by falling peak, and clusters
        of one peak by their first voxel: the same whatever the slabs.
    """
    offsets = np.cumsum([0, *(s.sizes.size for s in slabs)])
    total = int(offsets[-1])
    joined = _components(slabs, offsets, total)
    n = int(joined.max()) + 1 if total else 0
    sizes, peaks = np.zeros(n, dtype=np.int64), np.zeros(n)
    firsts = np.full(n, np.iinfo(np.int64).max)
    positive = np.zeros(n, dtype=bool)
    np.add.at(sizes, joined, _all(slabs, "sizes", np.int64))
    np.maximum.at(peaks, joined, _all(slabs, "peaks", np.float64))
    np.minimum.at(firsts, joined, _all(slabs, "firsts", np.int64))
    positive[joined] = _all(slabs, "positive", np.bool_)
    kept = np.flatnonzero(sizes >= smallest)
    order = kept[np.lexsort((firsts[kept], -peaks[kept], ~positive[kept]))]
    numbers = np.zeros(n, dtype=_LABEL)
    numbers[order] = np.arange(1, order.size + 1)
    return [
        np.concatenate([np.zeros(1, dtype=_LABEL), numbers[joined[a:b]]])
        for a, b in pairwise(offsets)
    ]


def _all(slabs: Sequence[SlabClusters], name: str, dtype: type) -> AnyArray:
    return np.concatenate([np.empty(0, dtype=dtype), *(getattr(s, name) for s in slabs)])


def _components(slabs: Sequence[SlabClusters], offsets: IntArray, total: int) -> IntArray:
    """For each label of each slab in turn, the cluster of the whole map that it belongs to."""
    pairs = [np.empty((2, 0), dtype=np.int64)]
    for i, (lower, upper) in enumerate(pairwise(slabs)):
        touching = (lower.top > 0) & (upper.bottom > 0)
        a, b = lower.top[touching] - 1, upper.bottom[touching] - 1
        same = lower.positive[a] == upper.positive[b]
        pairs.append(np.stack([a[same] + offsets[i], b[same] + offsets[i + 1]]))
    a, b = np.concatenate(pairs, axis=1)
    if not total:
        return np.empty(0, dtype=np.int64)
    graph = coo_array((np.ones(a.size), (a, b)), shape=(total, total))
    return np.asarray(connected_components(graph, directed=False)[1])


class ClusterRows(NamedTuple):
    """Clusters by number: of a part of a map, or of the whole."""

    ids: IntArray  # (n,)
    peaks: FloatArray  # (n,) the values furthest from 0
    sizes: IntArray  # (n,) voxels
    voxels: IntArray  # (n, 3) where the peaks are: the first in C order, of peaks that are equal


def summarize_slab(values: FloatArray, numbers: IntArray, first_plane: int) -> ClusterRows:
    """Return peaks and sizes of the clusters of one slab.

    Parameters
    ----------
    values : (x, y, z) array
    numbers : (x, y, z) int array
        Of the clusters, 0 outside of any.
    first_plane : int
        Of the slab, in the whole map.
    """
    inside = np.flatnonzero(numbers)
    voxels = np.stack(np.unravel_index(inside, numbers.shape), axis=1)
    voxels[:, 2] += first_plane
    ids, found = numbers.reshape(-1)[inside], values.reshape(-1)[inside]
    return merge_rows([ClusterRows(ids, found, np.ones(ids.size, dtype=np.int64), voxels)])


def merge_rows(parts: Sequence[ClusterRows]) -> ClusterRows:
    """Put rows of the same clusters together, in the order of their numbers."""
    ids, peaks, sizes, voxels = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((*voxels.T[::-1], -np.abs(peaks), ids))
    starts = np.flatnonzero(np.diff(ids[order], prepend=0))
    summed = np.add.reduceat(sizes[order], starts) if starts.size else sizes[:0]
    best = order[starts]
    return ClusterRows(ids[best], peaks[best], summed, voxels[best])
