"""What a design takes out of the noise: against dense traces, simulated noise, and back again."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from chunkglm.kernels.bias import (
    FOLLOWED_LAGS,
    LARGEST,
    autocorrelations_of,
    lag_response,
    make_correction,
    reflections_of,
)
from chunkglm.kernels.segments import Segments, segments_of_mask, whole_run
from tests.helpers.designs import ar1_noise

Array = NDArray[np.float64]

# Traces by Fourier transforms against dense matrices; worst seen 4e-15.
TRACES = 1e-12

# Autocorrelations found again from the ratios they leave: by the table of AR(1), worst seen 2e-6;
# by Newton's method, worst seen 3e-8; where the run is longer than the lags followed, 2e-4 for
# the slowest noise of order 6.
TABLE, NEWTON, CUT_SHORT = 5e-6, 1e-6, 1e-3


def drifts_and_events(n_scans: int, n_drifts: int, rng: np.random.Generator) -> Array:
    """Orthonormal basis of slow cosines, a constant, and three responses to random events."""
    times = (np.arange(n_scans) + 0.5) / n_scans
    columns = [np.cos(np.pi * k * times) for k in range(n_drifts + 1)]
    response = np.exp(-0.5 * ((np.arange(12) - 3.0) / 1.5) ** 2)
    columns += [np.convolve(rng.random(n_scans) < 0.1, response)[:n_scans] for _ in range(3)]
    return np.asarray(np.linalg.qr(np.column_stack(columns))[0])


def dense_response(basis: Array, segments: Segments, n_lags: int) -> Array:
    """``tr[R D_l R S_k] / pairs`` with matrices of all volumes, dropped ones included."""
    n = segments.n_volumes
    Q = np.zeros((n, basis.shape[1]))
    Q[segments.kept] = basis
    label = np.full(n, -1)
    label[segments.kept] = segments.labels
    R = np.diag((label >= 0).astype(float)) - Q @ Q.T
    out = np.zeros((n_lags + 1, n))
    for lag in range(n_lags + 1):
        t = np.arange(n - lag)
        t = t[(label[t] >= 0) & (label[t] == label[t + lag])]
        D = np.zeros((n, n))
        D[t, t + lag] += 0.5
        D[t + lag, t] += 0.5
        for k in range(n):
            S = np.eye(n) if k == 0 else np.eye(n, k=k) + np.eye(n, k=-k)
            out[lag, k] = np.trace(R @ D @ R @ S) / max(t.size, 1)
    return out


@given(st.data())
def test_lag_response__equals_dense_traces(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    keep = rng.random(data.draw(st.integers(8, 40))) < data.draw(st.sampled_from([0.8, 0.95, 1.1]))
    keep[:4] = True
    segments = segments_of_mask(keep)
    rank = data.draw(st.integers(1, segments.n_kept - 1))
    basis = np.linalg.qr(rng.standard_normal((segments.n_kept, rank)))[0]
    n_lags = data.draw(st.integers(0, 4))
    found = lag_response(basis, segments, n_lags)
    np.testing.assert_allclose(found, dense_response(basis, segments, n_lags), atol=TRACES)


@pytest.mark.parametrize("dropped", [[], [0, 17, 40, 41, 42, 99]])
def test_lag_response__is_what_residuals_have_on_average(dropped: list[int]) -> None:
    rng = np.random.default_rng(0)
    keep = np.ones(100, dtype=bool)
    keep[dropped] = False
    segments = segments_of_mask(keep)
    basis = np.linalg.qr(drifts_and_events(100, 6, rng)[keep])[0]
    rho, n_voxels = 0.5, 40_000
    noise = ar1_noise(rng, 100, np.full(n_voxels, rho))[keep]
    left = noise - basis @ (basis.T @ noise)
    response = lag_response(basis, segments, 2)
    expected = response @ rho ** np.arange(100)
    for lag in range(3):
        n = segments.n_kept
        pair = segments.kept[lag:] - segments.kept[: n - lag] == lag
        products = (left[lag:] * left[: n - lag])[pair].mean(axis=0)
        assert pair.sum() == segments.n_pairs(lag)
        error = products.std() / np.sqrt(n_voxels)
        assert abs(products.mean() - expected[lag]) < 4 * error
        # The noise's own autocovariance is many errors away: the test can tell the two apart.
        assert abs(products.mean() - rho**lag) > 20 * error


def noise_of_order(order: int, rng: np.random.Generator, n_voxels: int) -> Array:
    """Reflection coefficients of noise such as fMRI's: strong at lag 1, weaker beyond."""
    scale = np.array([0.5, 0.25, 0.15, 0.1, 0.1, 0.1])[:order, None]
    return np.asarray(scale * rng.uniform(-1, 1, (order, n_voxels)) + 0.5 * scale)


@pytest.mark.parametrize("n_scans", [100, 191, 400])
@pytest.mark.parametrize("order", [1, 2, 3, 4, 6])
def test_correct__finds_the_noise_that_left_the_residuals(order: int, n_scans: int) -> None:
    rng = np.random.default_rng(n_scans + order)
    basis = drifts_and_events(n_scans, 6, rng)
    correction = make_correction(basis, whole_run(n_scans), order)
    noise = autocorrelations_of(noise_of_order(order, rng, 300), n_scans)
    left = lag_response(basis, whole_run(n_scans), order) @ noise
    units = 10.0 ** rng.uniform(-8, 8, 300)
    found = correction(left * units)
    tolerance = TABLE if order == 1 else CUT_SHORT if n_scans > FOLLOWED_LAGS else NEWTON
    np.testing.assert_allclose(found, noise[: order + 1], rtol=0, atol=tolerance)
    # Uncorrected they are far off: what is found is not what was given.
    assert np.abs(left[1:] / left[0] - noise[1 : order + 1]).mean() > 0.02


@pytest.mark.parametrize("order", [1, 2])
def test_correct__takes_most_of_the_bias_away(order: int) -> None:
    rng = np.random.default_rng(order)
    n_scans, n_voxels, rho = 100, 4000, 0.3
    basis = drifts_and_events(n_scans, 6, rng)
    noise = ar1_noise(rng, n_scans, np.full(n_voxels, rho))
    left = noise - basis @ (basis.T @ noise)
    plain = np.array(
        [(left[lag:] * left[: n_scans - lag]).mean(axis=0) for lag in range(order + 1)]
    )
    found = make_correction(basis, whole_run(n_scans), order)(plain)
    bias, before = found[1].mean() - rho, (plain[1] / plain[0]).mean() - rho
    assert before < -0.08
    # What is left is that the mean of a ratio is not the ratio of the means, about -2 rho / T.
    assert abs(bias) < 0.15 * abs(before)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_correct__of_a_voxel_does_not_depend_on_the_others(order: int) -> None:
    rng = np.random.default_rng(3)
    correction = make_correction(drifts_and_events(60, 6, rng), whole_run(60), order)
    ratios = rng.uniform(-1, 1, (order + 1, 500))  # of no process, many of them
    ratios[0] = 1.0
    whole = correction(ratios)
    parts = [correction(ratios[:, i : i + 7]) for i in range(0, 500, 7)]
    np.testing.assert_allclose(np.hstack(parts), whole, rtol=0, atol=NEWTON)


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_correct__is_a_stationary_process_whatever_it_is_given(order: int) -> None:
    rng = np.random.default_rng(order)
    correction = make_correction(drifts_and_events(40, 4, rng), whole_run(40), order)
    given_ = rng.uniform(-1, 1, (order + 1, 200))
    given_[0] = 1.0
    found = correction(given_)
    assert np.isfinite(found).all()
    lags = np.abs(np.subtract.outer(np.arange(order + 1), np.arange(order + 1)))
    least = [np.linalg.eigvalsh(v[lags])[0] for v in found.T]
    assert min(least) > 0
    assert np.abs(reflections_of(found[1:])).max() <= LARGEST + 1e-9


def test_correct__is_zero_where_nothing_can_be_estimated() -> None:
    rng = np.random.default_rng(0)
    for order in (1, 2):
        correction = make_correction(drifts_and_events(50, 3, rng), whole_run(50), order)
        given_ = np.array([[0.0, np.nan, 2.0, np.inf]] * (order + 1))
        given_[1:, 2] = [0.5, 0.1][:order]
        found = correction(given_)
        np.testing.assert_array_equal(found[0], 1.0)
        np.testing.assert_array_equal(found[1:, [0, 1, 3]], 0.0)
        assert (found[1, 2] > 0.2).all()


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("dof", [1, 2])
def test_correct__leaves_a_run_without_freedom_alone(order: int, dof: int) -> None:
    """One residual vector has one ratio, whatever the noise: nothing can be told from it."""
    rng = np.random.default_rng(5)
    basis = np.linalg.qr(rng.standard_normal((8, 8 - dof)))[0]
    correction = make_correction(basis, whole_run(8), order)
    found = correction(rng.uniform(0.5, 1, (order + 1, 20)))
    assert np.isfinite(found).all()
    assert np.abs(found[1:]).max() <= 1
    if dof == 1 and order == 1:
        np.testing.assert_array_equal(found[1], 0.0)


def test_make_correction__holds_no_square_of_a_long_run() -> None:
    rng = np.random.default_rng(0)
    n_scans, rank = 6804, 20
    basis = np.linalg.qr(rng.standard_normal((n_scans, rank)))[0]
    tracemalloc.start()
    try:
        make_correction(basis, whole_run(n_scans), 2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A (T, T) matrix is 370 MB; seen: 9 MB, eight times the basis.
    assert peak < 30e6


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_reflections__and_autocorrelations_are_each_others_inverse(order: int, seed: int) -> None:
    reflections = np.random.default_rng(seed).uniform(-0.9, 0.9, (order, 4))
    v = autocorrelations_of(reflections, order + 30)
    # Worst seen 1e-10: reflections near 0.9 leave little of the variance to the last ones.
    np.testing.assert_allclose(reflections_of(v[1 : order + 1]), reflections, atol=1e-7)
    # They are those of an AR(order) process: Yule and Walker's equations hold at all lags.
    lags = np.abs(np.subtract.outer(np.arange(order), np.arange(order)))
    for one in v.T:
        phi = np.linalg.solve(one[lags], one[1 : order + 1])
        for k in range(order + 1, order + 30):
            assert abs(one[k] - phi @ one[k - order : k][::-1]) < 1e-7
