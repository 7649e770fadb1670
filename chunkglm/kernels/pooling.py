"""Fixed effects: estimates of independent runs combined, voxel by voxel.

What is combined are sums, so that parts merge, runs can be added later and taken out again:
``sum n_i e_i`` and ``sum n_i^2 V_i`` where runs weigh equally (an estimate of n runs holds their
mean), ``sum V_i^-1 e_i`` and ``sum V_i^-1`` where they weigh by precision.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from chunkglm._types import BoolArray, FloatArray, IntArray
from chunkglm.kernels.inference import positive_definite
from chunkglm.kernels.level import ESTIMATED

# voxel_status codes of pooled maps, where no run counts: all runs that say why say something else,
# or none says; and where so little is left after runs were taken out that it is mostly rounding.
NO_RUN, DIGITS_LOST = 8, 9

# Share of the variance (of the precision, where runs weigh by it) that must be left after runs are
# taken out. Sums of a dozen runs round to 5e-16, so that what is left is right to 1e-9.
LEAST_LEFT = 1e-6


class Estimate(NamedTuple):
    """Effect of a contrast in V voxels, of one run or of several combined; NaN without any."""

    effect: FloatArray  # (q, V)
    covariance: FloatArray  # (q, q, V)
    n_runs: FloatArray  # (V,), runs behind it
    dof: FloatArray  # (V,), their residual degrees of freedom together
    status: IntArray  # (V,), voxel_status


class Sums(NamedTuple):
    """What estimates of independent runs add up to."""

    effect: FloatArray  # (q, V)
    spread: FloatArray  # (q, q, V), of the covariances or of their inverses
    n_runs: FloatArray  # (V,)
    dof: FloatArray  # (V,)
    status: IntArray  # (V,), why no run counts, where none does


def pool(estimates: Iterable[Estimate], *, precision_weighted: bool) -> Estimate:
    """Combine estimates of the same effect.

    Parameters
    ----------
    estimates : iterable of Estimates
        Of single runs, or combined before by this function and in the same way.
    precision_weighted : bool
        False: mean effect, ``sum V_i / n**2``. True: ``(sum V_i^-1)^-1`` weights.

    Returns
    -------
    Estimate

    Notes
    -----
    A run whose variance is zero, negative or not finite (whose covariance is singular), or whose
    effect is not finite, does not count at that voxel. Estimates that are themselves combined
    merge exactly: their sums are recovered from `n_runs`.
    """
    total = None
    for estimate in estimates:
        sums = _sums_of(estimate, precision_weighted)
        total = sums if total is None else _add(total, sums)
    if total is None:
        msg = "there is nothing to combine"
        raise ValueError(msg)
    return _finish(total, precision_weighted)


def take_out(whole: Estimate, parts: Sequence[Estimate], *, precision_weighted: bool) -> Estimate:
    """Take estimates out of what they were combined into.

    Parameters
    ----------
    whole : Estimate
        From `pool`, with the same weights.
    parts : sequence of Estimate
        As they were given to `pool`.
    precision_weighted : bool

    Returns
    -------
    Estimate
        As if `pool` had been given the others. Where less than `LEAST_LEFT` of the variance (the
        precision) is left the difference is mostly rounding: NaN, status `DIGITS_LOST`.
    """
    total = _sums_of(whole, precision_weighted)
    effect, spread, n_runs, dof = (a.copy() for a in total[:4])
    for part in parts:
        sums = _sums_of(part, precision_weighted)
        effect -= sums.effect
        spread -= sums.spread
        n_runs -= sums.n_runs
        dof -= sums.dof
    left = n_runs > 0
    lost = left & ~_enough_left(spread, total.spread, left)
    keep = left & ~lost
    # Where all runs are gone the codes of the others are not known.
    status = np.where((total.n_runs > 0) & ~left, NO_RUN, total.status)
    status = np.where(lost, DIGITS_LOST, status).astype(np.int8)
    effect, spread, n_runs, dof = (_where(keep, a, 0.0) for a in (effect, spread, n_runs, dof))
    rest = Sums(effect, spread, n_runs, dof, status)
    return _finish(rest, precision_weighted)


def leave_one_out(estimates: Sequence[Estimate], *, precision_weighted: bool) -> list[Estimate]:
    """Combine all estimates but one, for each of them.

    Parameters
    ----------
    estimates : sequence of R >= 2 Estimates
    precision_weighted : bool

    Returns
    -------
    list of R Estimates

    Notes
    -----
    From sums of the estimates before each and after each: 3 R additions, and nothing is subtracted.
    """
    sums = [_sums_of(estimate, precision_weighted) for estimate in estimates]
    before = list(accumulate(sums, _add))
    after = list(accumulate(reversed(sums), _add))[::-1]
    middle = [_add(a, b) for a, b in zip(before[:-2], after[2:], strict=True)]
    return [_finish(rest, precision_weighted) for rest in (after[1], *middle, before[-2])]


def _sums_of(estimate: Estimate, precision_weighted: bool) -> Sums:
    """Sums of one estimate; 0 where it does not count."""
    effect, covariance, n_runs, dof, status = estimate
    counts = (
        np.isfinite(effect).all(axis=0) & positive_definite(covariance) & (dof > 0) & (n_runs > 0)
    )
    effect, n_runs = _where(counts, effect, 0.0), _where(counts, n_runs, 0.0)
    if precision_weighted:
        spread = _where(counts, _inverse(covariance, counts), 0.0)
        effect = np.einsum("abv,bv->av", spread, effect)
    else:
        spread = _where(counts, covariance, 0.0) * n_runs**2
        effect = effect * n_runs
    why = np.where(status == ESTIMATED, NO_RUN, status)
    status = np.where(counts, ESTIMATED, why).astype(np.int8)
    return Sums(effect, spread, n_runs, _where(counts, dof, 0.0), status)


def _where(used: BoolArray, values: FloatArray, elsewhere: float) -> FloatArray:
    """Values where they are used: of most voxels that are combined at once, everywhere."""
    return values if used.all() else np.where(used, values, elsewhere)


def _add(a: Sums, b: Sums) -> Sums:
    n_runs = a.n_runs + b.n_runs
    why = np.where(a.status == b.status, a.status, NO_RUN)
    status = np.where(n_runs > 0, ESTIMATED, why).astype(np.int8)
    return Sums(a.effect + b.effect, a.spread + b.spread, n_runs, a.dof + b.dof, status)


def _finish(sums: Sums, precision_weighted: bool) -> Estimate:
    some = sums.n_runs > 0
    if precision_weighted:
        covariance = _inverse(sums.spread, some)
        effect = np.einsum("abv,bv->av", covariance, sums.effect)
    else:
        n = _where(some, sums.n_runs, 1.0)
        effect, covariance = sums.effect / n, sums.spread / n**2
    effect, covariance, dof = (_where(some, a, np.nan) for a in (effect, covariance, sums.dof))
    return Estimate(effect, covariance, sums.n_runs, dof, sums.status)


def _inverse(matrices: FloatArray, usable: BoolArray) -> FloatArray:
    """Inverses of (q, q, V) positive definite matrices; the identity's where not usable."""
    q = matrices.shape[0]
    identity = np.eye(q)[:, :, None]
    safe = matrices if usable.all() else np.where(usable, matrices, identity)
    if q == 1:
        return 1.0 / safe
    # Unit diagonal first, so that rows in unlike units do not spoil the inverse.
    scale = np.sqrt(np.einsum("qqv->qv", safe))
    pairs = scale[:, None] * scale[None]
    inverse = np.linalg.inv(np.moveaxis(safe / pairs, -1, 0))
    return np.asarray(np.moveaxis(inverse, 0, -1) / pairs)


def _enough_left(rest: FloatArray, total: FloatArray, usable: BoolArray) -> BoolArray:
    """Whether ``rest`` is not mostly rounding of ``total``, in any direction; (q, q, V) each."""
    if rest.shape[0] == 1:
        return np.asarray(rest[0, 0] > LEAST_LEFT * total[0, 0])
    identity = np.eye(rest.shape[0])[:, :, None]
    root = np.linalg.cholesky(np.moveaxis(np.where(usable, total, identity), -1, 0))
    part = np.moveaxis(np.where(usable, rest, identity), -1, 0)
    half = np.linalg.solve(root, part)
    share = np.linalg.solve(root, half.swapaxes(-1, -2))
    return np.asarray(np.linalg.eigvalsh(share)[:, 0] > LEAST_LEFT)
