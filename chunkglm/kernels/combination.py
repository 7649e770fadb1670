"""Sums of effects of independent runs, with weights of the user's."""

from collections.abc import Sequence

import numpy as np

from chunkglm._types import FloatArray
from chunkglm.kernels.inference import positive_definite
from chunkglm.kernels.level import ESTIMATED
from chunkglm.kernels.pooling import NO_RUN, Estimate


def linear_combination(
    estimates: Sequence[Estimate], weights: Sequence[float], *, satterthwaite: bool
) -> Estimate:
    """``sum w_i e_i`` of independent estimates.

    Parameters
    ----------
    estimates : sequence of Estimates
    weights : sequence of float
    satterthwaite : bool
        Degrees of freedom ``(sum u_i)**2 / sum(u_i**2 / dof_i)`` with ``u_i = w_i**2 v_i``, for one
        row (Satterthwaite, Biometrics Bulletin 2, 1946), in place of their sum.

    Returns
    -------
    Estimate
        Covariance ``sum w_i**2 V_i``. NaN where any of the estimates cannot be used.
    """
    good = np.ones(estimates[0].n_runs.shape, dtype=bool)
    for one in estimates:
        good &= np.isfinite(one.effect).all(axis=0) & positive_definite(one.covariance)
        good &= one.dof > 0
    pairs = list(zip(weights, estimates, strict=True))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        effect = sum((w * one.effect for w, one in pairs), np.zeros(()))
        covariance = sum((w * w * one.covariance for w, one in pairs), np.zeros(()))
        dof: FloatArray = np.asarray(sum((one.dof for one in estimates), np.zeros(())))
        if satterthwaite:
            shares = [w * w * one.covariance[0, 0] for w, one in pairs]
            spread = sum(
                (u**2 / one.dof for u, (_, one) in zip(shares, pairs, strict=True)), np.zeros(())
            )
            dof = np.asarray(sum(shares, np.zeros(())) ** 2 / spread)
    # Of runs that disagree on why a voxel is lost, the largest code tells.
    why = np.max([one.status for one in estimates], axis=0)
    why = np.where(why == ESTIMATED, NO_RUN, why)
    return Estimate(
        np.where(good, effect, np.nan),
        np.where(good, covariance, np.nan),
        np.where(good, sum((one.n_runs for one in estimates), np.zeros(())), 0.0),
        np.where(good, dof, np.nan),
        np.where(good, ESTIMATED, why).astype(np.int8),
    )
