"""What all voxels of a run share: the design, factored once."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import qr, solve_triangular

from chunkglm._types import BoolArray, FloatArray, IntArray
from chunkglm.errors import DesignError

# A column counts as dependent when what the others leave of it, at unit length, is below this.
# Filip's polynomial of degree 10 (NIST) leaves 4e-10 and must pass; rounding leaves T * 2e-16.
DEPENDENT_COLUMN = 1e-12

# The constant lies in the span of the design when what is left of it, at unit length, is below
# this: of an offset of 1e4 times the noise, 1e-8 of the noise. Rounding leaves 1e-15.
CONSTANT_IN_SPAN = 1e-12

# A contrast is estimable when its weights on dependent columns are those the others imply, to this.
ESTIMABLE = 1e-8

# A weight in a relation among columns, or in the worst-determined combination of them, that is
# smaller than this share of the largest is not told: rounding, or of no help.
TOLD_WEIGHT = 1e-8
TOLD_IN_COMBINATION = 0.1


@dataclass(frozen=True, slots=True)
class DesignFactor:
    """An orthonormal basis of a design, in which the lag-1 product is diagonal.

    The basis ``Q`` spans the columns of ``X`` and is rotated so that ``Q'S_1Q`` is diagonal, where
    ``(S_d x)_t = x_{t+d} + x_{t-d}`` (zero outside the run). AR(1) precision is then diagonal plus
    rank one, and every voxel is solved in O(rank).
    """

    basis: FloatArray  # (T, r)
    eigenvalues: FloatArray  # (r,), the diagonal of Q'S_1Q
    triangle: FloatArray  # (r, r), R of the column-scaled, pivoted QR
    implied: FloatArray  # (r, k - r), R^-1 of the dependent columns
    rotation: FloatArray  # (r, r), from the QR's basis to `basis`
    column_scale: FloatArray  # (k,), Euclidean lengths of the columns
    pivots: IntArray  # (k,), columns in the order of the QR, dependent ones last
    rank: int
    constant: FloatArray  # (r,), Q'1
    constant_in_span: bool

    @property
    def n_scans(self) -> int:
        """Number of volumes T."""
        return int(self.basis.shape[0])

    @property
    def n_regressors(self) -> int:
        """Number of columns of the design, dependent ones included."""
        return int(self.pivots.size)

    @property
    def dof(self) -> int:
        """Residual degrees of freedom: scans minus rank, never minus columns."""
        return self.n_scans - self.rank

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

    def shifted_basis(self, n_lags: int) -> FloatArray:
        """``S_d Q`` for d = 0..n_lags, the rows against which a block of data is multiplied.

        Parameters
        ----------
        n_lags : int
            Order p of the noise model.

        Returns
        -------
        (n_lags + 1, r, T) array
        """
        return np.stack([symmetric_shift(self.basis, lag).T for lag in range(n_lags + 1)])

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


def symmetric_shift(x: FloatArray, lag: int) -> FloatArray:
    """``(S_d x)_t = x_{t+d} + x_{t-d}`` along the first axis, zero outside; S_0 is the identity.

    Parameters
    ----------
    x : (T, ...) array
    lag : int

    Returns
    -------
    (T, ...) array
    """
    if lag == 0:
        return x.copy()
    out = np.zeros_like(x)
    out[:-lag] += x[lag:]
    out[lag:] += x[:-lag]
    return out


def factor_design(X: FloatArray) -> DesignFactor:
    """Factor a design by column-scaled QR with column pivoting.

    Parameters
    ----------
    X : (T, k) array
        Design matrix; finite, no all-zero column.

    Returns
    -------
    DesignFactor

    Raises
    ------
    DesignError
        When no degrees of freedom are left (T <= rank).
    """
    X = np.asarray(X, dtype=np.float64)
    # Lengths from scaled columns: squares of columns at 1e200 would overflow, at 1e-200 vanish.
    largest = np.abs(X).max(axis=0)
    column_scale = largest * np.sqrt(((X / largest) ** 2).sum(axis=0))
    q, triangle, pivots = qr(X / column_scale, mode="economic", pivoting=True)
    rank = int(np.count_nonzero(np.abs(np.diag(triangle)) > DEPENDENT_COLUMN))
    if X.shape[0] <= rank:
        msg = (
            f"the design has rank {rank} and the run only {X.shape[0]} volumes, so nothing is left "
            "to estimate the noise from; use fewer regressors"
        )
        raise DesignError(msg)
    q = q[:, :rank]
    implied = solve_triangular(triangle[:rank, :rank], triangle[:rank, rank:])
    eigenvalues, rotation = np.linalg.eigh(q.T @ symmetric_shift(q, 1))
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
    )
