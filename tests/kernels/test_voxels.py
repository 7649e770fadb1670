"""Voxels of a mask: taken out of blocks of volumes, and put back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkglm.kernels.voxels import scatter, select_voxels


def random_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    mask = rng.random(shape) < 0.4
    mask[tuple(rng.integers(0, n) for n in shape)] = True
    return mask


@settings(max_examples=80)
@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    n_volumes=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["i2", "u2", "f4", "f8", ">i2"]),
    data=st.data(),
)
def test_series__the_same_from_either_layout(
    shape: tuple[int, int, int], n_volumes: int, seed: int, dtype: str, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, shape)
    first = data.draw(st.integers(0, shape[2] - 1))
    planes = range(first, data.draw(st.integers(first + 1, shape[2])))
    if not mask[:, :, planes.start : planes.stop].any():
        mask[0, 0, planes.start] = True
    run = rng.integers(0, 1000, (*shape, n_volumes)).astype(dtype)
    selection = select_voxels(mask, planes, None)
    part = run[:, :, planes.start : planes.stop]
    # x runs fastest, as in the file.
    expected = np.array(
        [
            run[x, y, z]
            for z in planes
            for y in range(shape[1])
            for x in range(shape[0])
            if mask[x, y, z]
        ]
    ).T
    layouts = {
        "volumes, as in a file": np.ascontiguousarray(part.T),
        "series, as in a store": np.ascontiguousarray(part).T,
        "a slice of a larger array": part.T,
    }
    for name, block in layouts.items():
        assert block.shape == (n_volumes, len(planes), shape[1], shape[0])
        found = selection.series(block)
        np.testing.assert_array_equal(found, expected, err_msg=name)
        assert found.dtype == np.dtype(dtype)
    assert selection.n_voxels == expected.shape[1]


def test_series__voxels_in_another_order_are_noticed() -> None:
    # Negative control: z fastest, the order of a C-ordered (x, y, z) mask.
    rng = np.random.default_rng(0)
    mask = np.ones((3, 4, 5), dtype=bool)
    run = rng.standard_normal((3, 4, 5, 2))
    found = select_voxels(mask, range(5), None).series(np.ascontiguousarray(run.T))
    assert not np.array_equal(found, run[mask].T)


@settings(max_examples=60)
@given(shape=st.tuples(*[st.integers(1, 6)] * 3), seed=st.integers(0, 2**32 - 1))
def test_scatter__puts_series_back_where_they_came_from(
    shape: tuple[int, int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, shape)
    run = rng.standard_normal((*shape, 3))
    series = select_voxels(mask, range(shape[2]), None).series(np.ascontiguousarray(run.T))
    back = scatter(series, mask)
    assert back.shape == (3, *shape)
    np.testing.assert_array_equal(back[:, mask], np.moveaxis(run, -1, 0)[:, mask])
    assert np.isnan(back[:, ~mask]).all()


@pytest.mark.parametrize(("dtype", "fill"), [("f8", np.nan), ("i1", 1.0), ("f8", 0.0)])
def test_scatter__fills_the_rest_and_keeps_the_type(dtype: str, fill: float) -> None:
    mask = np.zeros((2, 3, 4), dtype=bool)
    mask[1, 2, 0] = mask[0, 1, 3] = True
    found = scatter(np.array([5, 7], dtype=dtype), mask, fill)
    assert found.dtype == np.dtype(dtype)
    # z = 0 comes before z = 3.
    assert (found[1, 2, 0], found[0, 1, 3]) == (5, 7)
    np.testing.assert_array_equal(found[~mask], np.full(22, fill, dtype=dtype))


def test_scatter__keeps_leading_axes() -> None:
    mask = np.zeros((2, 3, 4), dtype=bool)
    mask[1] = True
    values = np.arange(24.0).reshape(2, 1, 12)
    found = scatter(values, mask)
    assert found.shape == (2, 1, 2, 3, 4)
    np.testing.assert_array_equal(found[1, 0].T[mask.T], values[1, 0])
