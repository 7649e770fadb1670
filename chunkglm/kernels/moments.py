"""One pass over the data: sums over time that add up over blocks, of what a fit leaves."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from chunkglm._types import AnyArray, FloatArray, IntArray
from chunkglm.kernels.factor import BasisSums, ShiftedBasis
from chunkglm.kernels.pages import Scratch, own_pages
from chunkglm.kernels.segments import Piece

# Numbers handled at once, samples and their products, that both stay in cache: 3.2 MB in float64.
# 100,000 voxels x 60 volumes x 30 regressors: 32 ms here, 43 ms with half as many.
SAMPLES_IN_CACHE = 400_000


# A block that begins a run is fitted by itself, and where that leaves less than this share of a
# voxel's squares, sums are taken about this fit: as differences of sums the residuals' would lose
# three digits and more. Of fMRI it leaves a tenth and more, so that nothing but the check is done.
EXPLAINED_BY_FIRST_BLOCK = 1e-3

# Directions of the basis that the first block tells apart: it holds this part at least of what
# falls to its volumes on average, so that its noise is not magnified tenfold over the run.
SEEN_IN_FIRST_BLOCK = 0.1


class Moments(NamedTuple):
    """All that a GLS fit with AR(p) noise needs of a run, for V voxels.

    With ``d = y - reference``, the least-squares coefficients are ``c = Q'd`` and all the rest is
    of the residuals ``r = d - Qc``: sums of squares of raw data lose every digit when the mean is
    1e4 times the noise, and sums about the reference as many as the fit explains. Sums are over the
    kept volumes. S is the number of segments (`kernels.segments`), 1 where no volume is dropped.

    While blocks are added, r is ``d - Qg`` instead, with a provisional g (`Provisional`) that is
    most often 0; `finish` turns these into those.
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


class Provisional(NamedTuple):
    """Coefficients about which the sums of some voxels are taken while blocks are added."""

    voxels: IntArray  # (n,), ascending
    g: FloatArray  # (r, n)


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


def add_block(
    moments: Moments,
    series: AnyArray,
    basis: ShiftedBasis,
    first_volume: int,
    provisional: Provisional | None = None,
    scratch: Scratch | None = None,
) -> Provisional | None:
    """Add the next block of time to moments, in place.

    Parameters
    ----------
    moments : Moments
        Of all volumes before `first_volume`; changed. The run's first kept volume becomes the
        reference.
    series : (t, V) array
        Data of t consecutive volumes, any real dtype; either axis may be the contiguous one. What
        dropped volumes hold does not matter.
    basis : ShiftedBasis
        Of the whole run.
    first_volume : int
        The block's first volume, counted from the run's first.
    provisional : Provisional, optional
        What adding the block before returned.
    scratch : Scratch, optional
        Memory of the calling thread's, for all its blocks.

    Returns
    -------
    Provisional or None
        For the next block, and for `finish`.
    """
    position, rows = basis.segments.within(first_volume, first_volume + series.shape[0])
    if not rows.size:
        return provisional
    if position == 0:
        moments.reference[:] = series[rows[0]]
    kept = None if rows.size == len(series) else rows
    # Samples that are not finite, or whose squares are not, make their own voxel NaN, in silence.
    with np.errstate(invalid="ignore", over="ignore"):
        _add_kept(moments, series, kept, basis, position, provisional, scratch or Scratch(np.empty))
        if position:
            return provisional
        return _begin_about_fit(moments, series, kept, basis, rows.size)


def _begin_about_fit(
    moments: Moments, series: AnyArray, kept: AnyArray | None, basis: ShiftedBasis, n_kept: int
) -> Provisional | None:
    """Take the first block's sums anew where a fit of it explains nearly all."""
    q = basis.rows[0][:, :n_kept]
    share, directions = np.linalg.eigh(q @ q.T)
    seen = share > SEEN_IN_FIRST_BLOCK * n_kept / basis.segments.n_kept
    # A fit of as many samples as coefficients explains whatever there is.
    if n_kept < 2 * np.count_nonzero(seen):
        return None
    directions = directions[:, seen] / np.sqrt(share[seen])
    squares = moments.autocovariance[0]
    explained = np.empty_like(squares)
    for part in _in_cache(squares.size, 2 * len(directions)):
        along = directions.T @ moments.products[0][:, part]
        np.einsum("rv,rv->v", along, along, out=explained[part])
    nearly_all = (1.0 - EXPLAINED_BY_FIRST_BLOCK) * squares
    voxels = np.flatnonzero((explained >= nearly_all) & (squares > 0))
    if not voxels.size:
        return None
    along = directions.T @ moments.products[0][:, voxels]
    found = Provisional(voxels, directions @ along)
    some = Moments(*(np.zeros_like(part[..., voxels]) for part in moments))
    some.reference[:] = moments.reference[voxels]
    of_some = found._replace(voxels=np.arange(voxels.size))
    _add_kept(some, series[:, voxels], kept, basis, 0, of_some, Scratch(np.empty))
    for field, again in zip(moments, some, strict=True):
        field[..., voxels] = again
    return found


def _add_kept(
    moments: Moments,
    series: AnyArray,
    kept: AnyArray | None,
    basis: ShiftedBasis,
    position: int,
    provisional: Provisional | None,
    scratch: Scratch,
) -> None:
    """Add the kept volumes of a block, all where `kept` is None."""
    n_voxels = series.shape[1]
    n_kept = series.shape[0] if kept is None else kept.size
    products = moments.products.reshape(-1, n_voxels)
    of_block = basis.rows[:, :, position : position + n_kept]
    # A row of ones makes the sum over time part of the same product.
    rows = np.vstack([of_block.reshape(-1, n_kept), np.ones(n_kept)])
    pieces = list(basis.segments.pieces(position, n_kept))
    edges = (basis.segments.n_segments, basis.n_lags, n_voxels)
    head, tail = moments.head.reshape(edges), moments.tail.reshape(edges)
    step = max(1, min(n_voxels, SAMPLES_IN_CACHE // (n_kept + len(rows))))
    numbers = scratch.take((n_kept + len(rows)) * step)  # 3.2 MB at most where voxels are many
    for first in range(0, n_voxels, step):
        part = slice(first, min(first + step, n_voxels))
        width = part.stop - first
        both = numbers[: (n_kept + len(rows)) * width].reshape(-1, width)
        d, sums = both[:n_kept], both[n_kept:]
        values = series[:, part] if kept is None else series[kept, part]
        _about_reference(values, moments.reference[part], d)
        if provisional is not None:
            _about_fit(d, of_block[0], provisional, part)
        np.matmul(rows, d, out=sums)
        if position == 0:  # nothing to add to: not even the zeros are read
            products[:, part] = sums[:-1]
        else:
            products[:, part] += sums[:-1]
        moments.total[part] += sums[-1]
        moments.autocovariance[0, part] += np.einsum("tv,tv->v", d, d)
        if basis.n_lags:
            for piece in pieces:
                _add_lagged(
                    moments.autocovariance[:, part], d[piece.rows], piece,
                    head[piece.segment][:, part], tail[piece.segment][:, part],
                )  # fmt: skip


def _add_lagged(
    autocovariance: FloatArray, d: FloatArray, piece: Piece, head: FloatArray, tail: FloatArray
) -> None:
    """Add the lagged products of a piece of one segment, and keep the segment's edges."""
    n_lags = tail.shape[0]
    for lag in range(1, n_lags + 1):
        # S_d counts each pair of samples twice; pairs may straddle the border of the block.
        lagged = np.einsum("tv,tv->v", d[lag:], d[:-lag])
        if piece.position:
            near = d[:lag]
            lagged += np.einsum("tv,tv->v", near, tail[n_lags - lag :][: len(near)])
        autocovariance[lag] += 2.0 * lagged
    for t in range(piece.position, min(n_lags, piece.position + len(d))):
        head[t] = d[t - piece.position]
    tail[:] = np.concatenate([tail, d[-n_lags:]])[-n_lags:]


def _about_reference(series: AnyArray, reference: FloatArray, out: FloatArray) -> None:
    if series.dtype == np.float64:
        np.subtract(series, reference, out=out)
        return
    # Cast before subtracting: integer differences may overflow, and a cast inside the subtraction
    # is three times slower (5.5 against 1.8 ns a sample).
    np.copyto(out, series)
    out -= reference


def _about_fit(d: FloatArray, q: FloatArray, provisional: Provisional, part: slice) -> None:
    """Subtract ``Qg`` from the voxels of a part that have one."""
    a, b = np.searchsorted(provisional.voxels, [part.start, part.stop]).tolist()
    if a < b:
        d[:, provisional.voxels[a:b] - part.start] -= q.T @ provisional.g[:, a:b]


def finish(moments: Moments, basis: ShiftedBasis, provisional: Provisional | None) -> None:
    """Put moments of a whole run about its least-squares fit, in place.

    Parameters
    ----------
    moments : Moments
        To which all blocks were added; changed.
    basis : ShiftedBasis
    provisional : Provisional or None
        What adding the last block returned.
    """
    sums = basis.sums
    with np.errstate(invalid="ignore", over="ignore"):
        # A few voxels at a time: each sum is looked at several times, and should stay in cache.
        for part in _in_cache(moments.total.size, sum(sums.lagged.shape[:2])):
            _about_least_squares(moments.of_voxels(part), sums)
    if provisional is not None:
        moments.products[0][:, provisional.voxels] += provisional.g


def _about_least_squares(moments: Moments, sums: BasisSums) -> None:
    c = moments.products[0]
    moments.autocovariance[0] -= np.einsum("rv,rv->v", c, c)
    for lag in range(1, moments.n_lags + 1):
        # (d - Qc)'S_d(d - Qc) = d'S_dd - c'[(S_dQ)'d + (S_dQ)'(d - Qc)]
        before = np.einsum("rv,rv->v", c, moments.products[lag])
        moments.products[lag] -= sums.lagged[lag] @ c
        before += np.einsum("rv,rv->v", c, moments.products[lag])
        moments.autocovariance[lag] -= before
    moments.total[:] -= sums.constant @ c
    moments.head[:] -= sums.heads @ c
    moments.tail[:] -= sums.tails @ c


def _in_cache(n_voxels: int, rows: int) -> Iterator[slice]:
    step = max(1, SAMPLES_IN_CACHE // (2 * max(1, rows)))
    for first in range(0, n_voxels, step):
        yield slice(first, min(first + step, n_voxels))


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


def of_series(series: AnyArray, basis: ShiftedBasis) -> Moments:
    """Moments of a whole run held in memory.

    Parameters
    ----------
    series : (T, V) array
    basis : ShiftedBasis

    Returns
    -------
    Moments
    """
    # Memory that was used before, where there is: of one block, new pages are a tenth of the time.
    moments = no_moments(series.shape[1], basis, np.zeros)
    finish(moments, basis, add_block(moments, series, basis, 0))
    return moments


def copy_of(moments: Moments) -> Moments:
    """Moments to which a block may be added while the ones given stay as they are."""
    return Moments(*(part.copy() for part in moments))


def in_units(moments: Moments, slope: float, intercept: float) -> Moments:
    """Moments of ``slope * y + intercept``, given those of y.

    Parameters
    ----------
    moments : Moments
    slope, intercept : float
        A NIfTI header's scaling; integers are summed as they lie in the file and scaled once here.

    Returns
    -------
    Moments
    """
    if slope == 1.0 and intercept == 0.0:
        return moments
    return Moments(
        moments.reference * slope + intercept,
        moments.products * slope,
        moments.autocovariance * slope**2,
        moments.total * slope,
        moments.head * slope,
        moments.tail * slope,
    )


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
