"""Moments of one model from those of another, without the data."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from chunkglm._types import FloatArray
from chunkglm.kernels.factor import BasisSums
from chunkglm.kernels.level import units_of
from chunkglm.kernels.moments import Moments, plus_fitted, shifted_by
from chunkglm.kernels.solve import Model


class Part(NamedTuple):
    """Where a model stands within one whose moments are known.

    Its basis is ``QG`` in the volumes of the known one, of basis Q.
    """

    sums: BasisSums  # of Q
    matrix: FloatArray  # (r, r'), G


def within(inner: FloatArray, outer: FloatArray) -> FloatArray:
    """``G`` with ``inner = outer G``, of a basis within the span of another.

    Parameters
    ----------
    inner : (N, r') array
    outer : (N, r) array
        Orthonormal.

    Returns
    -------
    (r, r') array
    """
    return np.asarray(outer.T @ inner)


def of_part(moments: Moments, part: Part) -> Moments:
    """Moments of a model whose design lies within that of another.

    Parameters
    ----------
    moments : Moments
        Of the other.
    part : Part

    Returns
    -------
    Moments
    """
    with np.errstate(invalid="ignore", over="ignore"):
        coefficients = part.matrix.T @ moments.products[0]
        return _given(moments, part, coefficients)


def of_runs(runs: Sequence[Moments], models: Sequence[Model], parts: Sequence[Part]) -> Moments:
    """Moments of one model for several runs laid end to end.

    Parameters
    ----------
    runs : sequence of Moments
        Of each run under its own model.
    models : sequence of Model
        Of each run; its scaling is applied, so that what comes out is in the units of the fit.
    parts : sequence of Part
        The joint basis in the volumes of each run, within the run's own.

    Returns
    -------
    Moments
        With no scaling left to be done: in percent about 0, or as they are about the first run's
        reference.
    """
    percent = models[0].percent
    reference = np.zeros_like(runs[0].reference) if percent else runs[0].reference
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = [_scaled(run, m, reference) for run, m in zip(runs, models, strict=True)]
        pairs = list(zip(scaled, parts, strict=True))
        coefficients = np.sum([part.matrix.T @ run.products[0] for run, part in pairs], axis=0)
        found = [_given(run, part, coefficients) for run, part in pairs]
    return Moments(
        reference,
        np.concatenate([coefficients[None], np.sum([f.products[1:] for f in found], axis=0)]),
        np.sum([f.autocovariance for f in found], axis=0),
        np.sum([f.total for f in found], axis=0),
        np.concatenate([f.head for f in found]),
        np.concatenate([f.tail for f in found]),
    )


def _given(moments: Moments, part: Part, coefficients: FloatArray) -> Moments:
    """Moments of ``d - QG coefficients``, and products with ``QG``."""
    # What the smaller model does not say of the fit, w, is part of what it leaves.
    w = moments.products[0] - part.matrix @ coefficients
    found = plus_fitted(moments, w, part.sums)
    products = np.concatenate([coefficients[None], part.matrix.T @ found.products[1:]])
    return found._replace(products=products)


def _scaled(moments: Moments, model: Model, reference: FloatArray) -> Moments:
    """Moments in the units of the fit, about a reference in these."""
    slope, offset = units_of(moments, model.factor, model.percent)
    if not model.percent:
        offset = moments.reference - reference
    found = shifted_by(moments, offset, model.factor.shifted_basis(moments.n_lags))
    return Moments(
        reference,
        found.products * slope,
        found.autocovariance * slope**2,
        found.total * slope,
        found.head * slope,
        found.tail * slope,
    )
