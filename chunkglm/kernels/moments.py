"""The sums over time that a fit needs of a run, of what least squares leaves of it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from chunkglm._types import FloatArray
from chunkglm.kernels.factor import BasisSums, ShiftedBasis
from chunkglm.kernels.pages import own_pages


class Moments(NamedTuple):
    """All that a GLS fit with AR(p) noise needs of a run, for V voxels.

    With ``d = y - reference``, the least-squares coefficients are ``c = Q'd`` and all the rest is
    of the residuals ``r = d - Qc``: sums of squares of raw data lose every digit when the mean is
    1e4 times the noise, and sums about the reference as many as the fit explains. Sums are over the
    kept volumes. S is the number of segments (`kernels.segments`), 1 where no volume is dropped.

    While blocks are added (`kernels.summing`), r is ``d - Qg`` instead, with a provisional g that
    is most often 0; `summing.finish` turns these into those.
    """

    reference: FloatArray  # (V,), the first kept volume of the run, in the data's units
    products: FloatArray  # (p + 1, r, V), c, and (S_d Q)'r for d >= 1
    autocovariance: FloatArray  # (p + 1, V), r'S_d r: twice the sum of lagged products for lag >= 1
    total: FloatArray  # (V,), sum of r
    head: FloatArray  # (S * p, V), the first p samples of r in each segment, 0 after a shorter one
    tail: FloatArray  # (S * p, V), the last p samples of r in each segment, 0 before a shorter one

    @property
    def n_lags(self) -> int:
        """Largest lag p."""
        return int(self.autocovariance.shape[0]) - 1

    def of_voxels(self, voxels: slice) -> "Moments":
        """The moments of a range of voxels."""
        return Moments(*(part[..., voxels] for part in self))


def no_moments(
    n_voxels: int, basis: ShiftedBasis, zeros: Callable[[tuple[int, ...]], FloatArray] = own_pages
) -> Moments:
    """Moments of no volumes at all, to which blocks are added.

    Parameters
    ----------
    n_voxels : int
    basis : ShiftedBasis
    zeros : callable, optional
        Makes the largest array.

    Returns
    -------
    Moments
        Whose `reference` is set by the first block with a kept volume.
    """
    n_edges = basis.segments.n_segments * basis.n_lags
    return Moments(
        np.zeros(n_voxels),
        zeros((basis.n_lags + 1, basis.rank, n_voxels)),
        np.zeros((basis.n_lags + 1, n_voxels)),
        np.zeros(n_voxels),
        np.zeros((n_edges, n_voxels)),
        np.zeros((n_edges, n_voxels)),
    )


def plus_fitted(moments: Moments, w: FloatArray, sums: BasisSums) -> Moments:
    """Moments of ``r + Qw``, for a series r of which the basis says nothing.

    Parameters
    ----------
    moments : Moments
        Of least-squares residuals r; `products[0]` are not looked at.
    w : (r, V) array
    sums : BasisSums

    Returns
    -------
    Moments
        ``products[0]`` are w.
    """
    products, autocovariance = np.empty_like(moments.products), moments.autocovariance.copy()
    products[0] = w
    autocovariance[0] += np.einsum("rv,rv->v", w, w)
    for lag in range(1, moments.n_lags + 1):
        # (r + Qw)'S_d(r + Qw) = r'S_dr + w'[(S_dQ)'r + (S_dQ)'(r + Qw)]
        before = moments.products[lag]
        np.add(before, sums.lagged[lag] @ w, out=products[lag])
        autocovariance[lag] += np.einsum("rv,rv->v", w, before + products[lag])
    return Moments(
        moments.reference,
        products,
        autocovariance,
        moments.total + sums.constant @ w,
        moments.head + sums.heads @ w,
        moments.tail + sums.tails @ w,
    )


def copy_of(moments: Moments) -> Moments:
    """Moments to which a block may be added while the ones given stay as they are."""
    return Moments(*(part.copy() for part in moments))


def put_in_units(moments: Moments, slope: float, intercept: float) -> None:
    """Turn moments of y into those of ``slope * y + intercept``, in place.

    Parameters
    ----------
    moments : Moments
        Changed.
    slope, intercept : float
        A NIfTI header's scaling; integers are summed as they lie in the file and scaled once here.
    """
    if slope == 1.0 and intercept == 0.0:
        return
    np.add(moments.reference * slope, intercept, out=moments.reference)
    for part in (moments.products, moments.total, moments.head, moments.tail):
        np.multiply(part, slope, out=part)
    np.multiply(moments.autocovariance, slope**2, out=moments.autocovariance)


def in_units(moments: Moments, slope: float, intercept: float) -> Moments:
    """Moments of ``slope * y + intercept``, those of y left as they are; see `put_in_units`."""
    found = copy_of(moments)
    put_in_units(found, slope, intercept)
    return found


def shifted_by(moments: Moments, offset: FloatArray, basis: ShiftedBasis) -> Moments:
    """Moments about another reference: of ``d + offset``.

    Parameters
    ----------
    moments : Moments
        Of a whole run.
    offset : (V,) array
    basis : ShiftedBasis

    Returns
    -------
    Moments
        `reference` as it was.
    """
    segments, n_lags = basis.segments, moments.n_lags
    # What the basis leaves of a series of ones, and its sums: the residuals become r + offset u.
    constant = basis.rows[0].sum(axis=1)
    u = 1.0 - basis.rows[0].T @ constant
    edges = (segments.n_segments, n_lags, offset.size)
    head, tail = moments.head.reshape(edges), moments.tail.reshape(edges)
    products, autocovariance = moments.products.copy(), moments.autocovariance.copy()
    products[0] += np.multiply.outer(constant, offset)
    for lag in range(n_lags + 1):
        shifted = segments.shift(u, lag)
        along = moments.total
        if lag:
            # Each sample is in two pairs, but for those within `lag` of an edge of their segment.
            ends = head[:, :lag].sum(axis=(0, 1)) + tail[:, n_lags - lag :].sum(axis=(0, 1))
            along = 2.0 * moments.total - ends - constant @ moments.products[lag]
            products[lag] += np.multiply.outer(basis.rows[0] @ shifted, offset)
        autocovariance[lag] += offset * (2.0 * along + offset * (u @ shifted))
    there = segments.heads(u, n_lags).reshape(-1, 1), segments.tails(u, n_lags).reshape(-1, 1)
    return Moments(
        moments.reference,
        products,
        autocovariance,
        moments.total + u.sum() * offset,
        moments.head + there[0] * offset,
        moments.tail + there[1] * offset,
    )
