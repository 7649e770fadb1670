"""Every noise model, with gaps and without, against dense matrices of the kept samples."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from helpers.gaps import (
    dense_gls,
    partials,
    segments_of,
)
from helpers.gls import relative
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chunkglm.kernels.estimate import estimate, model_maps
from chunkglm.kernels.factor import DesignFactor, factor_design
from chunkglm.kernels.moments import Moments, of_series
from chunkglm.kernels.noise import AR
from chunkglm.kernels.segments import segments_of_mask
from chunkglm.kernels.solve import ESTIMATED, Model

# Effects in standard errors; variances, covariances and sigma2 relative.
TOLERANCE = 1e-8
# Autocovariances relative to the variance, and coefficients.
COEFFICIENT = 1e-8
# Designs this ill-conditioned (columns at unit length) lose digits in the oracle as well.
WELL_CONDITIONED = 300.0
# As do voxels of which a short design explains nearly all, and coefficients of nearly singular
# equations: the condition of a process is at most the product of (1 + |k|) / (1 - |k|) over its
# partial autocorrelations k.
SHARE_LEFT = 1e-4
REGULAR = 1e4


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
