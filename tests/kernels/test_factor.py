"""The design, factored: basis, rank, contrasts in the basis, the constant."""

import numpy as np
import pytest
from helpers.designs import Case, cases
from helpers.gls import projection
from hypothesis import given, settings

from chunkglm.errors import DesignError
from chunkglm.kernels.factor import factor_design
from chunkglm.kernels.segments import whole_run

# Elements of Q'Q - I and off the diagonal of Q'S_1Q: a few roundings of unit vectors. Seen: 3e-15.
ORTHONORMAL = 1e-13
# Distance of unit-length columns from the span of the basis. Seen: 3e-15.
IN_SPAN = 1e-12
# Relative error of a contrast's weights in the basis against pinv, times the design's condition
# number, which is below 1e3 in most draws. Seen: 4e-15.
WEIGHTS = 1e-11


def unit_columns(X: np.ndarray) -> np.ndarray:
    largest = np.abs(X).max(axis=0)
    return X / largest / np.linalg.norm(X / largest, axis=0)


@settings(deadline=None)
@given(cases())
def test_factor_design__basis_is_orthonormal_and_diagonalises_the_shift(case: Case) -> None:
    factor = factor_design(case.X)
    Q = factor.basis
    np.testing.assert_allclose(Q.T @ Q, np.eye(factor.rank), atol=ORTHONORMAL)
    shifted = whole_run(len(Q)).shift(Q, 1)
    assert shifted[0] == pytest.approx(Q[1])
    np.testing.assert_allclose(Q.T @ shifted, np.diag(factor.eigenvalues), atol=ORTHONORMAL)
    X = unit_columns(case.X)
    np.testing.assert_allclose(Q @ (Q.T @ X), X, atol=IN_SPAN)


@given(cases())
def test_factor_design__counts_rank_not_columns(case: Case) -> None:
    factor = factor_design(case.X)
    assert factor.rank == case.rank
    assert factor.dof == len(case.X) - case.rank
    assert factor.n_regressors == case.X.shape[1]
    assert factor.basis.shape == (len(case.X), case.rank)
    dependent = factor.dependent_columns
    assert len(dependent) == case.X.shape[1] - case.rank
    kept = np.delete(np.arange(case.X.shape[1]), dependent)
    assert np.linalg.matrix_rank(unit_columns(case.X[:, kept])) == case.rank


@given(cases())
def test_factor_design__knows_whether_the_constant_is_in_the_span(case: Case) -> None:
    factor = factor_design(case.X)
    assert factor.constant_in_span == case.constant
    np.testing.assert_allclose(factor.constant, factor.basis.sum(axis=0))


def test_factor_design__finds_a_constant_made_of_several_columns() -> None:
    dummies = np.repeat(np.eye(3), 5, axis=0)
    assert factor_design(dummies).constant_in_span
    assert not factor_design(dummies[:, :2]).constant_in_span


@pytest.mark.parametrize("wobble", [1e-5, 1e-7, 1e-9])
def test_factor_design__a_column_that_is_nearly_constant_is_not_one(wobble: float) -> None:
    # What is left of an offset of 1e4 times the noise is 1e4 x wobble: 10 % of the noise at 1e-5.
    rng = np.random.default_rng(0)
    X = np.column_stack([1.0 + wobble * rng.standard_normal(80), rng.standard_normal(80)])
    assert not factor_design(X).constant_in_span
    assert factor_design(np.column_stack([X, np.ones(80)])).constant_in_span


@settings(max_examples=60)
@given(cases(max_q=4))
def test_contrast_in_basis__equals_pinv_algebra(case: Case) -> None:
    factor = factor_design(case.X)
    inverse, _ = projection(case.X)
    # c'beta = c' X^+ y = h'Q'y for every y: h' = c' X^+ Q.
    expected = case.C @ inverse @ factor.basis
    found = factor.contrast_in_basis(case.C)
    size = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found / size, expected / size, atol=WEIGHTS)


@settings(max_examples=60)
@given(cases())
def test_regressors_from_basis__gives_the_fit_of_the_basis(case: Case) -> None:
    factor = factor_design(case.X)
    M = factor.regressors_from_basis()
    assert not M[list(factor.dependent_columns)].any()
    largest = np.abs(case.X).max(axis=0)
    # X M = Q: the coefficients bring back what the basis fitted.
    np.testing.assert_allclose(
        case.X / largest @ (largest[:, None] * M), factor.basis, atol=WEIGHTS
    )


@pytest.mark.parametrize("exponent", [12, 100, 150])
def test_factor_design__columns_of_any_length(exponent: int) -> None:
    rng = np.random.default_rng(exponent)
    X = rng.standard_normal((40, 4))
    X[:, 3] = 1.0
    lengths = 10.0 ** np.array([-exponent, exponent, 0, -exponent])
    plain, scaled = factor_design(X), factor_design(X * lengths)
    assert scaled.rank == 4
    assert scaled.constant_in_span
    # The basis is unique up to the sign of its vectors.
    signs = np.sign((plain.basis * scaled.basis).sum(axis=0))
    np.testing.assert_allclose(scaled.basis * signs, plain.basis, atol=IN_SPAN)
    for c in np.eye(4):
        expected = plain.contrast_in_basis(c) / (c @ lengths)
        found = scaled.contrast_in_basis(c) * signs
        size = np.abs(expected).max()
        np.testing.assert_allclose(found / size, expected / size, atol=IN_SPAN)
    assert factor_design(np.column_stack([X * lengths, 1e7 * X[:, 0]])).dependent_columns


def test_factor_design__keeps_what_is_nearly_dependent_and_drops_what_rounding_leaves() -> None:
    x = np.linspace(-1, 1, 60)
    rng = np.random.default_rng(0)
    for left, rank in ((1e-6, 3), (1e-10, 3), (1e-14, 2)):
        near = x + left * rng.standard_normal(60)
        assert factor_design(np.column_stack([x, near, np.ones(60)])).rank == rank


def test_contrast_in_basis__refuses_what_is_not_estimable() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 30))
    factor = factor_design(np.column_stack([a, b, 2.0 * a, np.ones(30)]))
    assert factor.rank == 3
    assert factor.dependent_columns in ((0,), (2,))
    for estimable in ([0, 1, 0, 0], [1, 0, 2, 0], [0, -1, 0, 3], [0.5, 1, 1, 0]):
        assert factor.contrast_in_basis(np.array([estimable], dtype=float)).shape == (1, 3)
    for confounded in ([1, 0, 0, 0], [0, 0, 1, 0], [1, 0, -0.5, 0], [2, -1, 0, 0]):
        with pytest.raises(ValueError, match="not estimable"):
            factor.contrast_in_basis(np.array([confounded], dtype=float))


def test_contrast_in_basis__refuses_one_row_of_an_f_contrast_whatever_the_others() -> None:
    # The first column is 1e-12 as long, so weights on it are 1e12 times the others': each row must
    # be judged by its own size.
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 30))
    factor = factor_design(np.column_stack([1e-12 * a, b, b]))
    rows = np.array([[1.0, 0, 0], [0, 1, -1]])
    assert factor.contrast_in_basis(rows[:1]).shape == (1, 2)
    with pytest.raises(ValueError, match="not estimable"):
        factor.contrast_in_basis(rows)


def test_factor_design__needs_more_volumes_than_rank() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((6, 6))
    with pytest.raises(DesignError, match=r"rank 6 and the run only 6 volumes"):
        factor_design(X)
    with pytest.raises(DesignError, match=r"rank 4 and the run only 4 volumes"):
        factor_design(X[:4])
    assert factor_design(X[:, :5]).dof == 1
    # Six columns of rank five leave one degree of freedom: columns are not what counts.
    X[:, 5] = X[:, 0] - X[:, 1]
    assert factor_design(X).dof == 1


def test_shifted_basis__is_the_sum_of_both_shifts() -> None:
    factor = factor_design(np.random.default_rng(0).standard_normal((9, 2)))
    shifted = factor.shifted_basis(3).rows
    assert shifted.shape == (4, 2, 9)
    np.testing.assert_array_equal(shifted[0], factor.basis.T)
    for lag in (1, 2, 3):
        S = np.eye(9, k=lag) + np.eye(9, k=-lag)
        np.testing.assert_allclose(shifted[lag], (S @ factor.basis).T, atol=1e-15)
