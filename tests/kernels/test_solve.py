"""Every noise model, with gaps and without, against dense matrices of the kept samples."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from helpers.gaps import (
    dense_gls,
    lagged_means,
    partials,
    residual_autocovariances,
    segments_of,
    yule_walker,
)
from helpers.gls import relative
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chunkglm.kernels.estimate import contrast_maps, estimate, model_maps
from chunkglm.kernels.factor import DesignFactor, factor_design
from chunkglm.kernels.level import ESTIMATED
from chunkglm.kernels.moments import Moments
from chunkglm.kernels.noise import AR, LARGEST_PARTIAL
from chunkglm.kernels.segments import segments_of_mask
from chunkglm.kernels.solve import Model, residual_autocovariance, solve
from chunkglm.kernels.summing import of_series

# Effects in standard errors; variances, covariances and sigma2 relative. Seen in 4,000 runs: 3e-10.
TOLERANCE = 1e-8
# Autocovariances relative to the variance, and coefficients.
COEFFICIENT = 1e-8
# Designs this ill-conditioned (columns at unit length) lose digits in the oracle as well.
WELL_CONDITIONED = 300.0
# As do voxels of which a short design explains nearly all, and coefficients of nearly singular
# equations: the condition of a process is at most the product of (1 + |k|) / (1 - |k|) over its
# partial autocorrelations k.
SHARE_LEFT = 1e-4
REGULAR = 1e6
REGULAR_EQUATIONS = 1e4


@dataclass(frozen=True)
class Run:
    """A run drawn at random, with the volumes that are kept."""

    Y: Any  # (T, V)
    X: Any  # (T, k)
    C: Any  # (2, k)
    keep: Any  # (T,)
    order: int
    percent: bool

    @property
    def factor(self) -> DesignFactor:
        return factor_design(self.X[self.keep], segments_of_mask(self.keep))

    def fitted(self, noise: AR) -> tuple[Moments, Model]:
        Y = self.Y.copy()
        Y[~self.keep] = np.nan
        factor = self.factor
        moments = of_series(Y, factor.shifted_basis(noise.order))
        return moments, Model(factor, noise, self.percent)

    @property
    def scaled(self) -> Any:
        if not self.percent:
            return self.Y
        mean = np.maximum(self.Y[self.keep].mean(axis=0), 1.0)
        return 100.0 * (self.Y - mean) / mean


def noise_of(rng: np.random.Generator, n_scans: int, n_voxels: int) -> Any:
    """Autoregressive noise of up to order 3, other coefficients in each voxel."""
    out = rng.standard_normal((n_scans + 50, n_voxels))
    for v in range(n_voxels):
        phi = np.zeros(0)
        for partial in rng.uniform(-0.7, 0.9, rng.integers(0, 4)):
            phi = np.append(phi - partial * phi[::-1], partial)
        for t in range(phi.size, len(out)):
            out[t, v] += phi @ out[t - phi.size : t, v][::-1]
    return out[50:]


@st.composite
def runs(draw: st.DrawFn, *, gaps: bool, orders: st.SearchStrategy[int]) -> Run:
    """Runs of any length that leaves a degree of freedom for each coefficient, and one more."""
    order = draw(orders)
    rank = draw(st.integers(1, 6))
    n_scans = rank + order + draw(st.integers(1, 90))
    keep = np.ones(n_scans, dtype=bool)
    if gaps:
        pattern = draw(st.sampled_from(["few", "many", "isolated", "edges"]))
        if pattern in ("few", "many"):
            share = 0.08 if pattern == "few" else 0.4
            keep = np.array(
                [x > share for x in draw(st.lists(
                    st.floats(0, 1), min_size=n_scans, max_size=n_scans))]
            )  # fmt: skip
        elif pattern == "isolated":
            first = draw(st.integers(0, n_scans - 1))
            n = min(n_scans - first, draw(st.integers(2, 21)))
            keep[first : first + n] = np.arange(n) % 2 == draw(st.integers(0, 1))
        else:
            keep[: draw(st.integers(0, n_scans // 4))] = False
            keep[n_scans - draw(st.integers(0, n_scans // 4)) :] = False
        kept = int(keep.sum())
        assume(kept > rank + order)
        assume(max(len(s) for s in segments_of(keep)) > order)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    X = rng.standard_normal((n_scans, rank))
    X[1:] += 0.5 * X[:-1]
    if draw(st.booleans()):
        X[:, 0] = 1.0
    Y = draw(st.sampled_from([0.0, 100.0, 1e4])) + X @ rng.standard_normal((rank, 4))
    Y += noise_of(rng, n_scans, 4)
    s = np.linalg.svd(X[keep] / np.linalg.norm(X[keep], axis=0), compute_uv=False)
    assume(s[0] < WELL_CONDITIONED * s[-1])
    return Run(Y, X, rng.standard_normal((2, rank)), keep, order, draw(st.booleans()))


def comparable(run: Run, model: Model, phi: Any, sigma2: Any) -> Any:
    """Voxels of which residuals are left, and whose coefficients lose no digits."""
    kept = run.scaled[run.keep]
    squares = ((kept - kept[0] if model.factor.constant_in_span else kept) ** 2).sum(axis=0)
    found = np.abs([partials(one) for one in phi.T])
    condition = np.prod((1 + found) / np.maximum(1 - found, 1e-300), axis=1)
    return (model.factor.dof * sigma2 > SHARE_LEFT * squares) & (condition < REGULAR)


GAPS = pytest.mark.parametrize("gaps", [False, True], ids=["whole", "gaps"])
INITIAL = pytest.mark.parametrize("initial", ["conditional", "stationary"])


def errors(run: Run, noise: AR) -> tuple[float, float, float]:
    """Worst effect in standard errors, relative covariance, relative sigma2."""
    moments, model = run.fitted(noise)
    weights = model.factor.contrast_in_basis(run.C)
    effect, covariance, status = estimate(moments, model, weights)
    maps = model_maps(moments, model)
    assert (status == ESTIMATED).all()
    keep = comparable(run, model, maps["ar"], maps["sigma2"])
    assert np.isfinite(effect).all()
    assert np.isfinite(covariance).all()
    truth = dense_gls(
        run.scaled[:, keep], run.X, run.C, maps["ar"][:, keep], run.keep,
        stationary=noise.initial == "stationary",
    )  # fmt: skip
    spread = np.sqrt(np.einsum("qqv->qv", truth.covariance))
    off = np.abs(effect[:, keep] - truth.effect) / spread
    wide = np.abs(covariance[..., keep] - truth.covariance) / (spread[:, None] * spread[None])
    return (
        float(off.max(initial=0.0)),
        float(wide.max(initial=0.0)),
        relative(maps["sigma2"][keep], truth.sigma2),
    )


@GAPS
@INITIAL
@pytest.mark.parametrize("order", range(7))
def test_solve__equals_dense_matrices(gaps: bool, initial: Any, order: int) -> None:
    @settings(max_examples=40, deadline=None)
    @given(run=runs(gaps=gaps, orders=st.just(order)))
    def check(run: Run) -> None:
        assert max(errors(run, AR(order, initial=initial))) < TOLERANCE

    check()


@GAPS
@INITIAL
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_solve__estimates_its_own_coefficients_as_yule_and_walker(
    gaps: bool, initial: Any, data: st.DataObject
) -> None:
    run = data.draw(runs(gaps=gaps, orders=st.integers(1, 6)))
    moments, model = run.fitted(AR(run.order, initial=initial))
    found = residual_autocovariance(moments, model)
    phi = solve(moments, model).phi
    assert phi.shape == (run.order, run.Y.shape[1])
    units = run.scaled.std(axis=0) / run.Y.std(axis=0)
    for v, y in enumerate(run.scaled.T):
        expected = residual_autocovariances(y, run.X, run.keep, run.order)
        kept = y[run.keep]
        squares = ((kept - kept[0] * model.factor.constant_in_span) ** 2).mean()
        if expected[0] < SHARE_LEFT * squares:
            continue
        off = np.abs(found[:, v] * units[v] ** 2 - expected)
        assert off.max() < COEFFICIENT * expected[0]
        # As the system is solved, unless it belongs to no stationary process.
        solved = [yule_walker(expected[: p + 1]) for p in range(1, run.order + 1)]
        last = np.abs([one[-1] for one in solved])
        if run.order == 1 and initial == "conditional":
            np.testing.assert_allclose(phi[:, v], solved[0], atol=COEFFICIENT)
        elif (last < LARGEST_PARTIAL).all():
            if np.prod((1 + last) / (1 - last)) < REGULAR_EQUATIONS:
                np.testing.assert_allclose(phi[:, v], solved[-1], atol=COEFFICIENT)
        else:
            stop = int(np.argmin(last < LARGEST_PARTIAL))
            assert (phi[stop + 1 :, v] == 0).all()
            assert np.abs(partials(phi[: stop + 1, v])).max() <= LARGEST_PARTIAL * (1 + 1e-9)


@GAPS
@INITIAL
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_solve__estimates_again_from_the_residuals_of_the_pass_before(
    gaps: bool, initial: Any, data: st.DataObject
) -> None:
    run = data.draw(runs(gaps=gaps, orders=st.integers(1, 3)))
    stationary = initial == "stationary"
    moments, model = run.fitted(AR(run.order, initial=initial, iterations=3))
    once = solve(moments, run.fitted(AR(run.order, initial=initial))[1])
    found = solve(moments, model)
    keep = comparable(run, model, found.phi, found.sigma2)
    keep &= comparable(run, model, once.phi, once.sigma2)
    phi = once.phi
    for _ in range(2):
        beta = dense_gls(
            run.scaled[:, keep], run.X, run.C, phi[:, keep], run.keep, stationary=stationary
        ).beta
        left = run.scaled[:, keep] - run.X @ beta
        means = np.array([lagged_means(r, run.keep, run.order) for r in left.T])
        phi = np.full_like(phi, np.nan)
        for v, one in zip(np.flatnonzero(keep), means, strict=True):
            phi[:, v] = yule_walker(one)
            last = np.abs(partials(phi[:, v]))
            # What is nearly no stationary process is held, and amplifies the rounding of a pass.
            keep[v] = last.max() < LARGEST_PARTIAL and np.prod((1 + last) / (1 - last)) < 100
        if not keep.any():
            return
    np.testing.assert_allclose(found.phi[:, keep], phi[:, keep], atol=1e-6)


def example(order: int = 3, keep: Any = None, n_scans: int = 60) -> Run:
    rng = np.random.default_rng(order)
    X = np.column_stack([rng.standard_normal((n_scans, 4)), np.ones(n_scans)])
    keep = np.ones(n_scans, dtype=bool) if keep is None else keep
    Y = 100 + noise_of(rng, n_scans, 6)
    return Run(Y, X, rng.standard_normal((2, 5)), keep, order, False)


def scrubbed(n_scans: int = 60) -> Any:
    """Single kept volumes, pairs, and longer segments."""
    keep = np.ones(n_scans, dtype=bool)
    keep[[0, 1, 10, 12, 14, 17, 20, 35, n_scans - 2]] = False
    return keep


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_dense_matrices__notice_what_is_left_out(order: int) -> None:
    # Negative controls: each mistake moves results far more than the tolerance.
    run = example(order, scrubbed())
    right = AR(order, initial="stationary")
    assert max(errors(run, right)) < TOLERANCE
    moments, model = run.fitted(right)
    found = solve(moments, model)
    weights = model.factor.contrast_in_basis(run.C)
    effect = found.effect_of(weights, np.zeros(2))
    for mistake in ("conditional", "across gaps"):
        if mistake == "conditional":
            _, other = run.fitted(AR(order))
            wrong = solve(moments, other)
        else:
            closed = Run(run.Y[run.keep], run.X[run.keep], run.C, np.ones(51, bool), order, False)
            some, other = closed.fitted(right)
            wrong = solve(some, other)
            weights = other.factor.contrast_in_basis(run.C)
        off = np.abs(wrong.effect_of(weights, np.zeros(2)) - effect)
        spread = np.sqrt(np.einsum("qqv->qv", found.covariance_of(
            model.factor.contrast_in_basis(run.C))))  # fmt: skip
        assert (off / spread).max() > 1e4 * TOLERANCE


def test_solve__closed_form_and_matrices_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    run = example(1)
    moments, model = run.fitted(AR(1))
    weights = model.factor.contrast_in_basis(run.C)
    closed = solve(moments, model)
    monkeypatch.setattr(Model, "closed_form", False)
    found = solve(moments, model)
    assert type(found.inverse) is not type(closed.inverse)
    for name in ("b", "sigma2", "phi"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(closed, name), rtol=1e-9, atol=1e-10
        )
    np.testing.assert_allclose(
        found.covariance_of(weights), closed.covariance_of(weights), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("keep", [None, scrubbed()], ids=["whole", "gaps"])
def test_solve__takes_autocorrelations_from_elsewhere(keep: Any) -> None:
    run = example(2, keep)
    moments, model = run.fitted(AR(2))
    own = residual_autocovariance(moments, model)
    as_it_is = solve(moments, model)
    # In any unit; one iteration, whatever the model says.
    again = solve(moments, Model(model.factor, AR(2, iterations=4), False), own / own[0])
    np.testing.assert_allclose(again.b, as_it_is.b, rtol=1e-10)
    # An average over voxels is every voxel's.
    mean = np.repeat((own / own[0]).mean(axis=1, keepdims=True), 6, axis=1)
    found = solve(moments, model, mean)
    assert np.ptp(found.phi, axis=1).max() == 0
    truth = dense_gls(run.Y, run.X, run.C, found.phi, run.keep, stationary=False)
    np.testing.assert_allclose(found.sigma2, truth.sigma2, rtol=TOLERANCE)


def test_solve__applies_a_correction_to_what_residuals_say() -> None:
    run = example(2)
    # More lags than the order, which the correction may use.
    moments = of_series(run.Y, run.factor.shifted_basis(5))
    seen = []

    def corrected(found: Any) -> Any:
        seen.append(found.shape)
        return found[:3] * np.array([[1.0], [1.1], [1.2]])

    model = Model(run.factor, AR(2), False, corrected)
    found = solve(moments, model)
    own = residual_autocovariance(moments, model)
    assert seen == [(6, 6)] == [own.shape]
    expected = [yule_walker(one) for one in corrected(own).T]
    np.testing.assert_allclose(found.phi.T, expected, rtol=1e-10)
    assert np.abs(solve(moments, Model(run.factor, AR(2), False)).phi - found.phi).min() > 1e-3


@INITIAL
@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("keep", [None, scrubbed()], ids=["whole", "gaps"])
def test_solve__more_lags_than_the_order_change_nothing(
    order: int, initial: Any, keep: Any
) -> None:
    run = example(order, keep)
    model = Model(run.factor, AR(order, initial=initial), False)
    few, more = (
        solve(of_series(run.Y[:, :], run.factor.shifted_basis(n)), model) for n in (order, 5)
    )
    for name in ("b", "sigma2", "phi", "r_square"):
        np.testing.assert_allclose(getattr(more, name), getattr(few, name), rtol=1e-10)


@INITIAL
@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_solve__noise_of_no_stationary_process_still_has_a_precision(
    order: int, initial: Any
) -> None:
    # Waves that die out at both ends: autocovariances divided by their numbers of pairs grow with
    # the lag. Two ends of the spectrum, its middle, and a random walk.
    t = np.arange(12)
    wave = np.sin(np.pi * (t + 0.5) / 12)
    walk = np.cumsum(np.random.default_rng(0).standard_normal(12))
    Y = np.column_stack([wave, wave * (-1.0) ** t, wave * np.cos(np.pi * t / 2), walk])
    X = np.sin(3 * np.pi * (t + 0.5) / 12)[:, None]  # orthogonal to the first two
    run = Run(Y, X, np.ones((1, 1)), np.ones(12, bool), order, False)
    moments, model = run.fitted(AR(order, initial=initial))
    raw = residual_autocovariance(moments, model)
    beyond = [max(abs(yule_walker(one[: p + 2])[-1]) for p in range(order)) for one in raw.T]
    assert max(beyond) > 1
    effect, covariance, status = estimate(moments, model, model.factor.contrast_in_basis(run.C))
    assert (status == ESTIMATED).all()
    assert np.isfinite(effect).all()
    assert (covariance > 0).all()
    phi = solve(moments, model).phi
    if order > 1 or initial == "stationary":
        assert max(np.abs(partials(one)).max() for one in phi.T) <= LARGEST_PARTIAL * (1 + 1e-9)


def test_f_contrast__equals_the_joint_statistic_of_dense_matrices() -> None:
    run = example(3, scrubbed())
    moments, model = run.fitted(AR(3))
    found = contrast_maps(moments, model, model.factor.contrast_in_basis(run.C), "F")
    truth = dense_gls(run.Y, run.X, run.C, solve(moments, model).phi, run.keep, stationary=False)
    for v in range(6):
        e = truth.effect[:, v]
        stat = e @ np.linalg.solve(truth.covariance[:, :, v], e) / 2
        np.testing.assert_allclose(found["stat"][v], stat, rtol=TOLERANCE)
    assert (found["dof"] == run.keep.sum() - 5).all()
