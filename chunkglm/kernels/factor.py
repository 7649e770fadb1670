"""What all voxels of a run share: the design, factored once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import qr, solve_triangular

from chunkglm._types import BoolArray, FloatArray, IntArray
from chunkglm.errors import DesignError
from chunkglm.kernels.segments import Segments, whole_run

# A column counts as dependent when what the others leave of it, at unit length, is below this.
# Filip's polynomial of degree 10 (NIST) leaves 4e-10 and must pass; rounding leaves T * 2e-16.
DEPENDENT_COLUMN = 1e-12

# What the common basis of several designs leaves of theirs, of unit length; rounding leaves 1e-15.
LEFT_OUT_OF_COMMON = 1e-13

# The constant lies in the span of the design when what is left of it, at unit length, is below
# this: of an offset of 1e4 times the noise, 1e-8 of the noise. Rounding leaves 1e-15.
CONSTANT_IN_SPAN = 1e-12

# A contrast is estimable when its weights on dependent columns are those the others imply, to this.
ESTIMABLE = 1e-8

# A weight in a relation among columns, or in the worst-determined combination of them, that is
# smaller than this share of the largest is not told: rounding, or of no help.
TOLD_WEIGHT = 1e-8
TOLD_IN_COMBINATION = 0.1


class BasisSums(NamedTuple):
    """How a basis stands to itself and to its edges: what its combinations do to moments."""

    lagged: FloatArray  # (p + 1, r, r), Q'S_dQ
    constant: FloatArray  # (r,), Q'1
    heads: FloatArray  # (S * p, r), the first p rows of each segment
    tails: FloatArray  # (S * p, r), the last p rows of each segment


@dataclass(frozen=True, slots=True, eq=False)
class ShiftedBasis:
    """What the data of a run are multiplied with, and which volumes count."""

    rows: FloatArray  # (p + 1, r, N), S_d Q for d = 0..p
    segments: Segments

    @property
    def n_lags(self) -> int:
        """Largest shift p."""
        return int(self.rows.shape[0]) - 1

    @property
    def rank(self) -> int:
        """Vectors of the basis."""
        return int(self.rows.shape[1])

    @property
    def sums(self) -> BasisSums:
        """Sums over the volumes; made anew each time, at the cost of a few voxels."""
        # What arrives from another process may lie anywhere in memory, and numpy and BLAS round by
        # that: copied, it lies as it did there.
        rows = self.rows.copy()
        q = rows[0].T
        edges = (
            f(q, self.n_lags).reshape(-1, self.rank)
            for f in (self.segments.heads, self.segments.tails)
        )
        return BasisSums(rows @ q, q.sum(axis=0), *edges)


@dataclass(frozen=True, slots=True)
class DesignFactor:
    """An orthonormal basis of a design, in which the lag-1 product is diagonal.

    The basis ``Q`` spans the columns of ``X`` over the N kept volumes and is rotated so that
    ``Q'S_1Q`` is diagonal, where ``(S_d x)_t = x_{t+d} + x_{t-d}`` (zero outside the segment). In
    one segment AR(1) precision is then diagonal plus rank one, and every voxel is solved in
    O(rank).
    """

    basis: FloatArray  # (N, r)
    eigenvalues: FloatArray  # (r,), the diagonal of Q'S_1Q
    triangle: FloatArray  # (r, r), R of the column-scaled, pivoted QR
    implied: FloatArray  # (r, k - r), R^-1 of the dependent columns
    rotation: FloatArray  # (r, r), from the QR's basis to `basis`
    column_scale: FloatArray  # (k,), Euclidean lengths of the columns
    pivots: IntArray  # (k,), columns in the order of the QR, dependent ones last
    rank: int
    constant: FloatArray  # (r,), Q'1
    constant_in_span: bool
    segments: Segments

    @property
    def n_kept(self) -> int:
        """Number of volumes that count, N."""
        return self.segments.n_kept

    @property
    def n_regressors(self) -> int:
        """Number of columns of the design, dependent ones included."""
        return int(self.pivots.size)

    @property
    def dof(self) -> int:
        """Residual degrees of freedom: kept volumes minus rank, never minus columns."""
        return self.n_kept - self.rank

    @property
    def dependent_columns(self) -> tuple[int, ...]:
        """Columns that the others already explain, in the order of the design."""
        return tuple(sorted(int(j) for j in self.pivots[self.rank :]))

    def relations(self, weights: FloatArray | None = None) -> list[tuple[int, dict[int, float]]]:
        """How dependent columns follow from others.

        Parameters
        ----------
        weights : (q, k) array, optional
            Only the relations that keep this contrast from being estimable.

        Returns
        -------
        list of (column, {other column: weight})
            ``column = sum(weight * other)``, by column number.
        """
        independent = self.pivots[: self.rank]
        dependent = self.pivots[self.rank :]
        hindering: BoolArray = np.ones(dependent.size, dtype=bool)
        if weights is not None:
            hindering = np.any(self._not_estimable(np.atleast_2d(weights)), axis=0)
        found = []
        for j, scaled in zip(dependent[hindering], self.implied.T[hindering], strict=True):
            told = np.abs(scaled) > TOLD_WEIGHT * np.abs(scaled).max()
            weight = scaled * self.column_scale[j] / self.column_scale[independent]
            others = zip(independent[told].tolist(), weight[told].tolist(), strict=True)
            found.append((int(j), dict(sorted(others))))
        return sorted(found)

    def condition(self) -> tuple[float, tuple[int, ...]]:
        """Condition number of the design, columns at unit length, dependent ones left out.

        Returns
        -------
        float
            Largest over smallest singular value: by so much larger than that of separate columns
            the standard error of some combination of them is.
        tuple of int
            The columns of that combination.
        """
        _, values, right = np.linalg.svd(self.triangle)
        worst = np.abs(right[-1])
        columns = self.pivots[: self.rank][worst > TOLD_IN_COMBINATION * worst.max()]
        return float(values[0] / values[-1]), tuple(sorted(int(j) for j in columns))

    def _not_estimable(self, weights: FloatArray) -> BoolArray:
        """Where (q, k) weights on dependent columns are not those the others imply, (q, k - r)."""
        scaled = weights / self.column_scale
        independent = scaled[:, self.pivots[: self.rank]]
        dependent = scaled[:, self.pivots[self.rank :]]
        off = np.abs(dependent - independent @ self.implied)
        return np.asarray(off > ESTIMABLE * np.abs(scaled).max(axis=1, keepdims=True))

    def shifted_basis(self, n_lags: int) -> ShiftedBasis:
        """``S_d Q`` for d = 0..n_lags, the rows with which a block of data is multiplied.

        Parameters
        ----------
        n_lags : int
            Order p of the noise model.

        Returns
        -------
        ShiftedBasis
        """
        return shifted_basis(self.basis, n_lags, self.segments)

    def lagged(self, lag: int) -> FloatArray:
        """``Q'S_dQ``, (r, r); diagonal for lags 0 and 1."""
        return np.asarray(self.basis.T @ self.segments.shift(self.basis, lag))

    def contrast_in_basis(self, weights: FloatArray) -> FloatArray:
        """Weights on regressors expressed in the basis, so that ``c'beta = h'b``.

        Parameters
        ----------
        weights : (q, k) array
            Contrast weights, one row per contrast.

        Returns
        -------
        (q, r) array

        Raises
        ------
        ValueError
            Where the contrast is not estimable: the data do not determine it.
        """
        weights = np.atleast_2d(weights)
        if self._not_estimable(weights).any():
            msg = "not estimable"
            raise ValueError(msg)
        independent = (weights / self.column_scale)[:, self.pivots[: self.rank]]
        rows = solve_triangular(self.triangle, independent.T, trans="T")
        return np.asarray(rows.T @ self.rotation)

    def regressors_of(self, b: FloatArray) -> FloatArray:
        """``M b``, with the digits that the product with M loses.

        Parameters
        ----------
        b : (r, V) array
            Coefficients in the basis.

        Returns
        -------
        (k, V) array
            Coefficients of the regressors; those of dependent columns are 0.
        """
        out = np.zeros((self.n_regressors, b.shape[1]))
        independent = self.pivots[: self.rank]
        # In the order of the factorisation: the inverse alone has entries as large as the condition
        # number, and their sums cancel.
        out[independent] = solve_triangular(self.triangle, self.rotation @ b, check_finite=False)
        out /= self.column_scale[:, None]
        return out

    def regressors_from_basis(self) -> FloatArray:
        """``M`` with ``beta = M b``; dependent columns get zero.

        Returns
        -------
        (k, r) array
        """
        independent = solve_triangular(self.triangle, self.rotation)
        out = np.zeros((self.n_regressors, self.rank))
        out[self.pivots[: self.rank]] = independent
        return np.asarray(out / self.column_scale[:, None])


def shifted_basis(basis: FloatArray, n_lags: int, segments: Segments) -> ShiftedBasis:
    """``S_d Q`` for d = 0..n_lags, of any (N, r) basis; see `DesignFactor.shifted_basis`."""
    rows = np.stack([segments.shift(basis, lag).T for lag in range(n_lags + 1)])
    # In the order in which they arrive at another process: sums then round there as they do here.
    return ShiftedBasis(np.ascontiguousarray(rows), segments)


def common_basis(bases: Sequence[FloatArray]) -> FloatArray:
    """Return an orthonormal basis of all that several span together.

    Parameters
    ----------
    bases : sequence of (N, r_i) arrays
        Each orthonormal.

    Returns
    -------
    (N, r) array
        Designs that share columns make it little larger than the largest.
    """
    u, s, _ = np.linalg.svd(np.hstack(bases), full_matrices=False)
    return np.ascontiguousarray(u[:, s > LEFT_OUT_OF_COMMON])


def factor_design(X: FloatArray, segments: Segments | None = None) -> DesignFactor:
    """Factor a design by column-scaled QR with column pivoting.

    Parameters
    ----------
    X : (N, k) array
        Design matrix, the rows of kept volumes; finite. A column of zeros counts as dependent.
    segments : Segments, optional
        Of N kept volumes; by default one segment of all.

    Returns
    -------
    DesignFactor

    Raises
    ------
    DesignError
        When no degrees of freedom are left (N <= rank), or nothing of the design.
    """
    X = np.asarray(X, dtype=np.float64)
    segments = whole_run(len(X)) if segments is None else segments
    # Lengths from scaled columns: squares of columns at 1e200 would overflow, at 1e-200 vanish.
    largest = np.abs(X).max(axis=0)
    largest[largest == 0] = 1.0  # a regressor of dropped volumes alone
    column_scale = largest * np.sqrt(((X / largest) ** 2).sum(axis=0))
    column_scale[column_scale == 0] = 1.0
    q, triangle, pivots = qr(X / column_scale, mode="economic", pivoting=True)
    rank = int(np.count_nonzero(np.abs(np.diag(triangle)) > DEPENDENT_COLUMN))
    if rank == 0:
        msg = "the design is 0 in all volumes that are kept; keep some in which it is not"
        raise DesignError(msg)
    if X.shape[0] <= rank:
        msg = (
            f"the design has rank {rank} and the run only {X.shape[0]} volumes"
            f"{' that are kept' if len(X) < segments.n_volumes else ''}, so nothing is left "
            "to estimate the noise from; use fewer regressors"
        )
        raise DesignError(msg)
    q = q[:, :rank]
    implied = solve_triangular(triangle[:rank, :rank], triangle[:rank, rank:])
    eigenvalues, rotation = np.linalg.eigh(q.T @ segments.shift(q, 1))
    basis = np.ascontiguousarray(q @ rotation)
    constant = basis.sum(axis=0)
    left_over = np.sqrt(np.mean((1.0 - basis @ constant) ** 2))
    return DesignFactor(
        basis=basis,
        eigenvalues=eigenvalues,
        triangle=triangle[:rank, :rank],
        implied=implied,
        rotation=rotation,
        column_scale=column_scale,
        pivots=pivots,
        rank=rank,
        constant=constant,
        constant_in_span=bool(left_over < CONSTANT_IN_SPAN),
        segments=segments,
    )
