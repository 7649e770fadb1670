"""Moments add up over any blocks of time, from any layout and type of number."""

from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkglm.kernels.factor import factor_design
from chunkglm.kernels.moments import (
    SAMPLES_IN_CACHE,
    Moments,
    add_block,
    copy_of,
    in_units,
    merge,
    no_moments,
    of_block,
)

# Sums in another order differ by rounding, relative to the sum of absolute values. Seen: 1e-15.
ANOTHER_ORDER = 1e-14


def basis(n_scans: int, n_lags: int, rank: int = 3) -> np.ndarray:
    X = np.random.default_rng(n_scans).standard_normal((n_scans, min(rank, n_scans - 1)))
    return factor_design(X).shifted_basis(n_lags)


def dense(Y: np.ndarray, shifted: np.ndarray) -> Moments:
    """Moments from their definition, with dense (T, T) shifts."""
    n_lags, n_scans = shifted.shape[0] - 1, len(Y)
    reference = Y[0].astype(np.float64)
    d = Y.astype(np.float64) - reference
    S = [np.eye(n_scans)]
    S += [np.eye(n_scans, k=lag) + np.eye(n_scans, k=-lag) for lag in range(1, n_lags + 1)]
    Q = shifted[0].T
    return Moments(
        reference,
        np.stack([(s @ Q).T @ d for s in S]),
        np.stack([(d * (s @ d)).sum(axis=0) for s in S]),
        d.sum(axis=0),
        d[:n_lags],
        d[n_scans - n_lags :],
    )


def worst_difference(found: Moments, expected: Moments) -> float:
    """Largest difference, each field relative to what its sums are made of."""
    squares = expected.autocovariance[0]
    size = np.sqrt(squares)
    sizes = (np.abs(expected.reference) + 1e-300, size, squares, size, size, size)
    return max(
        float(np.max(np.abs(f - e) / np.where(s > 0, s, 1.0), initial=0.0))
        for f, e, s in zip(found, expected, sizes, strict=True)
    )


def blocks_of(n_scans: int, sizes: list[int]) -> list[slice]:
    edges = np.cumsum([0, *sizes])
    assert edges[-1] == n_scans
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


@st.composite
def partitions(draw: st.DrawFn, shortest: int) -> list[int]:
    """Lengths of adjacent blocks of time that make a run."""
    sizes = draw(st.lists(st.integers(shortest, 9), min_size=1, max_size=8))
    return sizes if sum(sizes) > 3 else [*sizes, 4]


def merge_without_the_border(earlier: Moments, later: Moments) -> Moments:
    """Merge blocks, forgetting the pairs of volumes on either side of the border."""
    autocovariance = earlier.autocovariance + later.autocovariance
    return merge(earlier, later)._replace(autocovariance=autocovariance)


@pytest.mark.parametrize("n_lags", [0, 1, 2, 3])
def test_of_block__equals_the_definition(n_lags: int) -> None:
    Y = 1e4 + np.random.default_rng(0).standard_normal((30, 7))
    shifted = basis(30, n_lags)
    assert worst_difference(of_block(Y, shifted), dense(Y, shifted)) < ANOTHER_ORDER


@given(data=st.data(), n_lags=st.integers(0, 2), seed=st.integers(0, 2**32 - 1), tree=st.booleans())
def test_merge__any_blocks_give_what_one_gives(
    data: st.DataObject, n_lags: int, seed: int, tree: bool
) -> None:
    sizes = data.draw(partitions(max(1, n_lags)))
    n_scans = sum(sizes)
    Y = 1e3 + np.random.default_rng(seed).standard_normal((n_scans, 4))
    shifted = basis(n_scans, n_lags)
    reference = Y[0]
    parts = [of_block(Y[s], shifted[:, :, s], reference) for s in blocks_of(n_scans, sizes)]
    # From the left, or from the right: associativity.
    merged = reduce(merge, parts) if tree else reduce(lambda b, a: merge(a, b), reversed(parts))
    assert worst_difference(merged, of_block(Y, shifted)) < ANOTHER_ORDER


@given(data=st.data(), n_lags=st.integers(0, 3), seed=st.integers(0, 2**32 - 1))
def test_add_block__any_blocks_give_what_one_gives_however_short(
    data: st.DataObject, n_lags: int, seed: int
) -> None:
    sizes = data.draw(partitions(1))
    n_scans = sum(sizes)
    Y = 1e3 + np.random.default_rng(seed).standard_normal((n_scans, 4))
    shifted = basis(n_scans, n_lags)
    moments = no_moments(Y[0].copy(), shifted.shape[1], n_lags)
    for s in blocks_of(n_scans, sizes):
        add_block(moments, Y[s], shifted[:, :, s], s.start)
    assert worst_difference(moments, dense(Y, shifted)) < ANOTHER_ORDER


def test_merge__a_missing_border_is_noticed() -> None:
    # Negative control of the two tests above: the error is of the size of one product of 30.
    Y = np.random.default_rng(0).standard_normal((30, 4))
    shifted = basis(30, 1)
    parts = [of_block(Y[s], shifted[:, :, s], Y[0]) for s in (slice(0, 12), slice(12, 30))]
    assert worst_difference(merge(*parts), of_block(Y, shifted)) < ANOTHER_ORDER
    assert worst_difference(merge_without_the_border(*parts), of_block(Y, shifted)) > 1e-3


def test_merge__blocks_in_the_wrong_order_are_noticed() -> None:
    Y = np.random.default_rng(0).standard_normal((30, 4))
    shifted = basis(30, 1)
    first, second = (of_block(Y[s], shifted[:, :, s], Y[0]) for s in (slice(12), slice(12, None)))
    assert worst_difference(merge(second, first), of_block(Y, shifted)) > 1e-3


def test_copy_of__leaves_the_original_alone() -> None:
    Y = np.random.default_rng(0).standard_normal((12, 5))
    shifted = basis(12, 1)
    first = of_block(Y[:5], shifted[:, :, :5])
    before = [part.copy() for part in first]
    longer = copy_of(first)
    add_block(longer, Y[5:], shifted[:, :, 5:], 5)
    for part, kept in zip(first, before, strict=True):
        np.testing.assert_array_equal(part, kept)
    assert worst_difference(longer, of_block(Y, shifted)) < ANOTHER_ORDER


@pytest.mark.parametrize(
    "dtype", ["i2", "u2", "i4", "u4", "f4", "f8", ">i2", ">u2", ">i4", ">f4", ">f8", "u1", "i1"]
)
@pytest.mark.parametrize("layout", ["time last", "time first", "strided"])
def test_of_block__any_type_and_layout(dtype: str, layout: str) -> None:
    kind = np.dtype(dtype)
    rng = np.random.default_rng(0)
    if kind.kind in "iu":
        # The ends of the range, where a difference of integers overflows.
        info = np.iinfo(kind)
        Y = rng.choice(np.array([info.min, info.min + 1, info.max - 1, info.max], kind), (20, 50))
    else:
        Y = (1e4 + rng.standard_normal((20, 50))).astype(kind)
    expected = dense(Y, basis(20, 1))
    arranged = {
        "time last": np.asfortranarray(Y),
        "time first": np.ascontiguousarray(Y),
        "strided": np.repeat(np.repeat(Y, 2, axis=0), 3, axis=1)[::2, ::3],
    }[layout]
    assert arranged.dtype == kind
    found = of_block(arranged, basis(20, 1))
    assert worst_difference(found, expected) < ANOTHER_ORDER
    assert all(part.dtype == np.float64 for part in found)


def test_of_block__more_voxels_than_are_held_in_cache() -> None:
    n_scans = 40
    Y = np.random.default_rng(0).standard_normal((n_scans, 2 * SAMPLES_IN_CACHE // n_scans + 17))
    shifted = basis(n_scans, 1)
    found = of_block(Y, shifted)
    for v in (0, 2499, 2500, 5016):
        one = of_block(Y[:, v : v + 1], shifted)
        assert worst_difference(found.of_voxels(slice(v, v + 1)), one) < ANOTHER_ORDER


@pytest.mark.parametrize("level", [1e4, 1e10])
@pytest.mark.parametrize("sign", [1, -1])
def test_of_block__a_large_mean_costs_no_digits(level: float, sign: int) -> None:
    # Whole numbers, so that the same series without its mean is known exactly.
    noise = np.random.default_rng(0).integers(-1000, 1000, (50, 6)).astype(np.float64)
    noise[0] = 0
    shifted = basis(50, 1)
    found, expected = of_block(sign * level + noise, shifted), dense(noise, shifted)
    assert worst_difference(found._replace(reference=noise[0]), expected) < ANOTHER_ORDER
    np.testing.assert_array_equal(found.reference, sign * level)


@settings(max_examples=40)
@given(slope=st.floats(1e-6, 1e6), intercept=st.floats(-1e6, 1e6), seed=st.integers(0, 2**32 - 1))
def test_in_units__equals_the_moments_of_scaled_samples(
    slope: float, intercept: float, seed: int
) -> None:
    raw = np.random.default_rng(seed).integers(-2000, 2000, (25, 4)).astype(np.int16)
    shifted = basis(25, 1)
    found = in_units(of_block(raw, shifted), slope, intercept)
    scaled = raw.astype(np.float64) * slope + intercept
    expected = of_block(scaled, shifted)
    # Scaled samples are rounded about the intercept, up to 1e12 x the signal here; sums of raw
    # ones are not, so the oracle is what is inexact.
    size = 1.0 + np.abs(scaled).max() / (slope * np.ptp(raw.astype(float), axis=0).min())
    assert worst_difference(found, expected) < 1e-14 * size


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("t", [0, 3, 11])
def test_of_block__a_sample_that_is_not_finite_stays_in_its_voxel(bad: float, t: int) -> None:
    Y = np.random.default_rng(0).standard_normal((12, 40))
    shifted = basis(12, 1)
    good = of_block(Y, shifted)
    Y[t, 5] = bad
    with np.errstate(invalid="ignore"):
        found = of_block(Y, shifted)
    others = np.arange(40) != 5
    for part, expected in zip(found, good, strict=True):
        np.testing.assert_array_equal(part[..., others], expected[..., others])
    assert not np.isfinite(found.autocovariance[0, 5])
