"""Moments add up over any blocks of time, from any layout and type of number."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkglm.kernels import summing as module
from chunkglm.kernels.factor import ShiftedBasis, factor_design
from chunkglm.kernels.moments import Moments, copy_of, in_units, no_moments, shifted_by
from chunkglm.kernels.segments import Segments, joined, segments_of_mask, whole_run
from chunkglm.kernels.summing import (
    SAMPLES_IN_CACHE,
    Provisional,
    add_block,
    finish,
    of_series,
)

# Sums in another order differ by rounding, relative to the sum of absolute values. Seen: 2e-15.
ANOTHER_ORDER = 1e-14


def basis(n_scans: int, n_lags: int, segments: Segments | None = None) -> ShiftedBasis:
    segments = whole_run(n_scans) if segments is None else segments
    n_kept = segments.n_kept
    X = np.random.default_rng(n_scans).standard_normal((n_kept, min(3, n_kept - 1)))
    return factor_design(X, segments).shifted_basis(n_lags)


def dense(Y: np.ndarray, shifted: ShiftedBasis) -> Moments:
    """Moments from their definition, with dense (N, N) shifts within segments.

    Of residuals, like those of `finish`; `worst_difference` knows what they are left of.
    """
    segments, n_lags = shifted.segments, shifted.n_lags
    Y = Y[segments.kept].astype(np.float64)
    reference = Y[0]
    d = Y - reference
    n, label = len(Y), segments.labels
    same = label[:, None] == label[None]
    S = [np.eye(n)]
    S += [same * (np.eye(n, k=lag) + np.eye(n, k=-lag)) for lag in range(1, n_lags + 1)]
    Q = shifted.rows[0].T
    c = Q.T @ d
    r = d - Q @ c
    parts = [r[label == s] for s in range(segments.n_segments)]
    nothing = np.zeros((n_lags, d.shape[1]))
    return Moments(
        reference,
        np.stack([c, *((s @ Q).T @ r for s in S[1:])]),
        np.stack([(r * (s @ r)).sum(axis=0) for s in S]),
        r.sum(axis=0),
        np.concatenate([np.concatenate([x, nothing])[:n_lags] for x in parts]),
        np.concatenate([np.concatenate([nothing, x])[len(x) :] for x in parts]),
    )


def finished(moments: Moments, shifted: ShiftedBasis, provisional: Provisional | None) -> Moments:
    out = copy_of(moments)
    finish(out, shifted, provisional)
    return out


def worst_difference(found: Moments, expected: Moments) -> float:
    """Largest difference, each field relative to what its sums are made of."""
    squares = expected.autocovariance[0] + (expected.products[0] ** 2).sum(axis=0)
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


@st.composite
def gaps(draw: st.DrawFn, n_scans: int) -> Segments:
    """A run without gaps, with gaps, or joined of runs; at least two volumes are kept."""
    keep = np.array(draw(st.lists(st.booleans(), min_size=n_scans, max_size=n_scans)))
    keep[draw(st.integers(0, n_scans - 2)) :][:2] = True
    kind = draw(st.sampled_from(["whole", "gaps", "runs", "runs with gaps"]))
    cut = draw(st.integers(2, n_scans - 1))
    if kind == "whole":
        return whole_run(n_scans)
    if kind == "gaps":
        return segments_of_mask(keep)
    if kind == "runs":
        return joined([whole_run(cut), whole_run(n_scans - cut)])
    keep[[0, -1]] = True
    return joined([segments_of_mask(keep[:cut]), segments_of_mask(keep[cut:])])


@pytest.mark.parametrize("n_lags", [0, 1, 2, 3])
def test_of_series__equals_the_definition(n_lags: int) -> None:
    Y = 1e4 + np.random.default_rng(0).standard_normal((30, 7))
    shifted = basis(30, n_lags)
    assert worst_difference(of_series(Y, shifted), dense(Y, shifted)) < ANOTHER_ORDER


@settings(max_examples=200, deadline=None)
@given(data=st.data(), n_lags=st.integers(0, 4), seed=st.integers(0, 2**32 - 1))
def test_add_block__any_blocks_give_what_one_gives_whatever_is_dropped(
    data: st.DataObject, n_lags: int, seed: int
) -> None:
    sizes = data.draw(partitions(1))
    n_scans = sum(sizes)
    segments = data.draw(gaps(n_scans))
    Y = 1e3 + np.random.default_rng(seed).standard_normal((n_scans, 4))
    shifted = basis(n_scans, n_lags, segments)
    expected = dense(Y, shifted)
    Y[~segments.keep] = np.nan
    moments, provisional = no_moments(4, shifted), None
    for s in blocks_of(n_scans, sizes):
        provisional = add_block(moments, Y[s], shifted, s.start, provisional)
    assert worst_difference(finished(moments, shifted, provisional), expected) < ANOTHER_ORDER
    assert worst_difference(of_series(Y, shifted), expected) < ANOTHER_ORDER


def test_add_block__a_pair_across_a_gap_or_a_missing_border_is_noticed() -> None:
    # Negative control of the test above: the error is of the size of one product of 30.
    Y = np.random.default_rng(0).standard_normal((30, 4))
    keep = np.arange(30) != 12
    shifted = basis(30, 2, segments_of_mask(keep))
    expected = dense(Y, shifted)
    closed = ShiftedBasis(shifted.rows, whole_run(29))
    across = of_series(Y[keep], closed).autocovariance
    assert np.abs(across - expected.autocovariance)[1:].max() > 1e-3
    moments = no_moments(4, shifted)
    add_block(moments, Y[:6], shifted, 0)
    moments.tail[:] = 0.0
    add_block(moments, Y[6:], shifted, 6)
    assert worst_difference(finished(moments, shifted, None), expected) > 1e-3


@given(data=st.data(), n_lags=st.integers(0, 3), level=st.sampled_from([1.0, -30.0]))
def test_shifted_by__equals_the_moments_of_shifted_series(
    data: st.DataObject, n_lags: int, level: float
) -> None:
    segments = data.draw(gaps(14))
    Y = np.random.default_rng(0).standard_normal((14, 4))
    shifted = basis(14, n_lags, segments)
    offset = level * np.arange(1.0, 5.0)
    found = shifted_by(of_series(Y, shifted), offset, shifted)
    Q = shifted.rows[0].T
    d = Y[segments.kept] - Y[segments.kept[0]] + offset
    r = d - Q @ (Q.T @ d)
    np.testing.assert_allclose(found.products[0], Q.T @ d, rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(found.total, r.sum(axis=0), rtol=1e-12, atol=1e-11)
    for lag in range(n_lags + 1):
        S = segments.shift(np.eye(segments.n_kept), lag)
        np.testing.assert_allclose(
            found.autocovariance[lag], (r * (S @ r)).sum(axis=0), rtol=1e-12, atol=1e-10
        )
        if lag:
            np.testing.assert_allclose(found.products[lag], (S @ Q).T @ r, rtol=1e-12, atol=1e-10)
    edges = segments.n_segments * n_lags
    np.testing.assert_allclose(found.head, segments.heads(r, n_lags).reshape(edges, 4), atol=1e-12)
    np.testing.assert_allclose(found.tail, segments.tails(r, n_lags).reshape(edges, 4), atol=1e-12)


def test_copy_of__leaves_the_original_alone() -> None:
    Y = np.random.default_rng(0).standard_normal((12, 5))
    shifted = basis(12, 1)
    first = no_moments(5, shifted)
    add_block(first, Y[:5], shifted, 0)
    before = [part.copy() for part in first]
    longer = copy_of(first)
    add_block(longer, Y[5:], shifted, 5)
    for part, kept in zip(first, before, strict=True):
        np.testing.assert_array_equal(part, kept)
    assert worst_difference(finished(longer, shifted, None), of_series(Y, shifted)) < ANOTHER_ORDER


@pytest.mark.parametrize(
    "dtype", ["i2", "u2", "i4", "u4", "f4", "f8", ">i2", ">u2", ">i4", ">f4", ">f8", "u1", "i1"]
)
@pytest.mark.parametrize("layout", ["time last", "time first", "strided"])
def test_of_series__any_type_and_layout(dtype: str, layout: str) -> None:
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
    found = of_series(arranged, basis(20, 1))
    assert worst_difference(found, expected) < ANOTHER_ORDER
    assert all(part.dtype == np.float64 for part in found)


def test_of_series__more_voxels_than_are_held_in_cache() -> None:
    n_scans = 40
    Y = np.random.default_rng(0).standard_normal((n_scans, 2 * SAMPLES_IN_CACHE // n_scans + 17))
    shifted = basis(n_scans, 1)
    found = of_series(Y, shifted)
    for v in (0, 2499, 2500, 5016):
        one = of_series(Y[:, v : v + 1], shifted)
        assert worst_difference(found.of_voxels(slice(v, v + 1)), one) < ANOTHER_ORDER


@pytest.mark.parametrize("level", [1e4, 1e10])
@pytest.mark.parametrize("sign", [1, -1])
def test_of_series__a_large_mean_costs_no_digits(level: float, sign: int) -> None:
    # Whole numbers, so that the same series without its mean is known exactly.
    noise = np.random.default_rng(0).integers(-1000, 1000, (50, 6)).astype(np.float64)
    noise[0] = 0
    shifted = basis(50, 1)
    found, expected = of_series(sign * level + noise, shifted), dense(noise, shifted)
    assert worst_difference(found._replace(reference=noise[0]), expected) < ANOTHER_ORDER
    np.testing.assert_array_equal(found.reference, sign * level)


@settings(max_examples=40)
@given(slope=st.floats(1e-6, 1e6), intercept=st.floats(-1e6, 1e6), seed=st.integers(0, 2**32 - 1))
def test_in_units__equals_the_moments_of_scaled_samples(
    slope: float, intercept: float, seed: int
) -> None:
    raw = np.random.default_rng(seed).integers(-2000, 2000, (25, 4)).astype(np.int16)
    shifted = basis(25, 1)
    found = in_units(of_series(raw, shifted), slope, intercept)
    scaled = raw.astype(np.float64) * slope + intercept
    expected = of_series(scaled, shifted)
    # Scaled samples are rounded about the intercept, up to 1e12 x the signal here; sums of raw
    # ones are not, so the oracle is what is inexact.
    size = 1.0 + np.abs(scaled).max() / (slope * np.ptp(raw.astype(float), axis=0).min())
    assert worst_difference(found, expected) < 1e-14 * size


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("t", [0, 3, 11])
def test_of_series__a_sample_that_is_not_finite_stays_in_its_voxel(bad: float, t: int) -> None:
    Y = np.random.default_rng(0).standard_normal((12, 40))
    shifted = basis(12, 1)
    good = of_series(Y, shifted)
    Y[t, 5] = bad
    with np.errstate(invalid="ignore"):
        found = of_series(Y, shifted)
    others = np.arange(40) != 5
    for part, expected in zip(found, good, strict=True):
        np.testing.assert_array_equal(part[..., others], expected[..., others])
    assert not np.isfinite(found.autocovariance[0, 5])


# --- what a fit explains nearly all of ------------------------------------------------------------

# Residuals are a millionth of the signal: their squares, as differences of sums, would keep four
# digits. About a fit of the first block they lose none, but for the rounding of the samples, 1e-10
# of a residual. Seen: 2e-11.
ABOUT_A_FIT = 1e-9


@settings(max_examples=40, deadline=None)
@given(sizes=partitions(1), n_lags=st.integers(0, 2), seed=st.integers(0, 2**32 - 1))
def test_add_block__sums_are_about_a_fit_of_the_first_block(
    sizes: list[int], n_lags: int, seed: int
) -> None:
    sizes = [12, *sizes]
    keep = np.ones(sum(sizes), dtype=bool)
    keep[[4, 14]] = False
    segments = segments_of_mask(keep)
    n = segments.n_kept
    # What the first block shows of each column comes again.
    X = np.sin(np.outer(np.arange(n), [0.7, 1.3]))
    X = np.column_stack([X, np.ones(n)])
    shifted = factor_design(X, segments).shifted_basis(n_lags)
    Q, rng = shifted.rows[0].T, np.random.default_rng(seed)
    r = rng.standard_normal((n, 4))
    r -= Q @ (Q.T @ r)
    Y = np.full((segments.n_volumes, 4), np.nan)
    Y[segments.kept] = 1e6 * (Q @ rng.standard_normal((Q.shape[1], 4))) + r
    Y[:, 1] = rng.standard_normal(len(Y))  # and of this voxel next to nothing
    moments, provisional = no_moments(4, shifted), None
    for s in blocks_of(sum(sizes), sizes):
        provisional = add_block(moments, Y[s], shifted, s.start, provisional)
    found = finished(moments, shifted, provisional)
    voxels = [0, 2, 3]
    assert provisional is not None
    assert provisional.voxels.tolist() == voxels
    exact = [(r * segments.shift(r, lag)).sum(axis=0)[voxels] for lag in range(n_lags + 1)]
    off = np.abs(found.autocovariance[:, voxels] - exact) / exact[0]
    assert off.max() < ABOUT_A_FIT
    # Without it: what this test is about.
    plain = no_moments(4, shifted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "EXPLAINED_BY_FIRST_BLOCK", 0.0)
        for s in blocks_of(sum(sizes), sizes):
            assert add_block(plain, Y[s], shifted, s.start) is None
    lost = finished(plain, shifted, None).autocovariance[0, voxels]
    assert np.abs(lost / exact[0] - 1).max() > 1e4 * off.max()
