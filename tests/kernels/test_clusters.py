from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import label

from chunkglm.kernels.clusters import (
    describe_slab,
    join_slabs,
    label_slab,
    merge_rows,
    summarize_slab,
)


def number(values: np.ndarray, edges: list[int], smallest: float = 0) -> np.ndarray:
    """Clusters of a map that is looked at in slabs between the edges."""
    slabs = [values[:, :, a:b] for a, b in pairwise(edges)]
    labels = [label_slab(slab) for slab in slabs]
    found = [
        describe_slab(of, slab, first, values.shape[2])
        for of, slab, first in zip(labels, slabs, edges[:-1], strict=True)
    ]
    numbers = join_slabs(found, smallest)
    return np.concatenate([n[of] for n, of in zip(numbers, labels, strict=True)], axis=2)


def as_sets(labels: np.ndarray) -> set[frozenset[int]]:
    """Clusters as sets of voxels: what they are, whatever their numbers."""
    flat = labels.reshape(-1)
    return {frozenset(np.flatnonzero(flat == i)) for i in np.unique(flat[flat > 0])}


@st.composite
def maps_and_edges(draw: st.DrawFn) -> tuple[np.ndarray, list[int]]:
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 9)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # Few levels, so that peaks are often equal; a third, half or most voxels survive.
    values = rng.integers(-2, 3, size=shape).astype(float)
    values[rng.random(shape) < draw(st.sampled_from([0.1, 0.4, 0.7]))] = 0
    cuts = draw(st.sets(st.integers(1, shape[2]), max_size=8)) - {shape[2]}
    return values, [0, *sorted(cuts), shape[2]]


@given(maps_and_edges())
def test_join_slabs__finds_the_clusters_of_the_whole_map(case: tuple) -> None:
    values, edges = case
    whole = as_sets(label(values > 0)[0]) | as_sets(label(values < 0)[0])
    assert as_sets(number(values, edges)) == whole


@given(maps_and_edges())
def test_join_slabs__numbers_alike_whatever_the_slabs(case: tuple) -> None:
    values, edges = case
    np.testing.assert_array_equal(
        number(values, edges), number(values, [0, values.shape[2]]), strict=True
    )


@given(maps_and_edges(), st.integers(1, 6))
def test_join_slabs__drops_small_clusters_by_their_whole_size(case: tuple, n: int) -> None:
    values, edges = case
    whole = as_sets(label(values > 0)[0]) | as_sets(label(values < 0)[0])
    assert as_sets(number(values, edges, n)) == {c for c in whole if len(c) >= n}


def test_join_slabs__corners_do_not_touch_and_signs_do_not_mix() -> None:
    values = np.zeros((3, 3, 4))
    values[0, 0, 1], values[1, 0, 2] = 3.0, 2.0  # across the border, by an edge
    values[2, 2, 1], values[2, 2, 2] = 4.0, -4.0  # across the border, by a face
    numbers = number(values, [0, 2, 4])
    assert numbers.max() == 4
    # The upper tail first, by falling peak.
    found = [numbers[2, 2, 1], numbers[0, 0, 1], numbers[1, 0, 2], numbers[2, 2, 2]]
    assert found == [1, 2, 3, 4]


def test_join_slabs__follows_a_cluster_that_leaves_a_slab_and_comes_back() -> None:
    values = np.zeros((3, 1, 3))
    values[0, 0, :] = values[2, 0, :] = 1.0  # two legs
    values[1, 0, 2] = 1.0  # joined in the last plane only
    assert number(values, [0, 1, 2, 3]).max() == 1


def test_join_slabs__many_faces_are_one_join() -> None:
    # 256 pairs of one edge: counted in a byte they would be none.
    assert number(np.ones((16, 16, 2)), [0, 1, 2]).max() == 1


@given(maps_and_edges())
def test_summarize_slab__sizes_and_peaks_whatever_the_slabs(case: tuple) -> None:
    values, edges = case
    numbers = number(values, edges)
    rows = merge_rows(
        [summarize_slab(values[:, :, a:b], numbers[:, :, a:b], a) for a, b in pairwise(edges)]
    )
    np.testing.assert_array_equal(rows.ids, np.arange(1, numbers.max() + 1))
    for i, peak, size, voxel in zip(*rows, strict=True):
        inside = np.argwhere(numbers == i)
        found = values[tuple(inside.T)]
        assert size == len(inside)
        assert abs(peak) == np.abs(found).max()
        np.testing.assert_array_equal(voxel, inside[np.abs(found).argmax()])
