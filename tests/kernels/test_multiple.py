import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, norm

from chunkglm.kernels.multiple import (
    Height,
    height_of,
    merge,
    p_of_z,
    q_values,
    survey,
)

# A few p values, so that ties are common.
coarse_z = st.lists(st.integers(-8, 50).map(lambda i: i / 10), min_size=1, max_size=60)


def fdr_height(z: np.ndarray, alpha: float, n_parts: int = 1) -> float:
    height = Height("fdr", alpha, two_sided=False, given=np.nan)
    parts = [survey(part, np.isfinite(part), height) for part in np.array_split(z, n_parts)]
    return height_of(merge(parts), height)


@given(coarse_z, st.sampled_from([0.001, 0.01, 0.05, 0.2, 0.5]), st.integers(1, 4))
def test_fdr_height__lets_through_what_q_values_do(z: list[float], alpha: float, n: int) -> None:
    values = np.array(z)
    height = Height("fdr", alpha, two_sided=False, given=np.nan)
    survives = height.survives(values, fdr_height(values, alpha, n))
    np.testing.assert_array_equal(survives, false_discovery_control(norm.sf(values)) < alpha)


def test_fdr_height__lets_all_ties_through_or_none() -> None:
    z = np.array([4.0, 3.0, 3.0, 3.0, 1.0])
    height = Height("fdr", 0.05, two_sided=False, given=np.nan)
    survives = height.survives(z, fdr_height(z, 0.05))
    np.testing.assert_array_equal(survives, [True, True, True, True, False])


def test_fdr_height__is_infinite_without_candidates() -> None:
    assert fdr_height(np.array([0.3, -2.0, 1.0]), 0.01) == np.inf
    assert fdr_height(np.array([np.nan]), 0.01) == np.inf


def test_survey__keeps_only_what_could_pass() -> None:
    z = np.random.default_rng(0).normal(size=100_000)
    height = Height("fdr", 0.025, two_sided=True, given=np.nan)
    found = survey(z, np.isfinite(z), height)
    assert found.n_tests == 100_000
    assert found.candidates.size == np.count_nonzero(norm.sf(np.abs(z)) < 0.025) < 6_000


@pytest.mark.parametrize("n_tests", [1, 7, 250_000])
def test_bonferroni__divides_alpha_by_the_tests(n_tests: int) -> None:
    z = np.zeros(n_tests)
    height = Height("bonferroni", 0.025, two_sided=True, given=np.nan)
    found = height_of(survey(z, np.isfinite(z), height), height)
    assert found == norm.isf(0.025 / n_tests)


def test_bonferroni__without_tests_nothing_can_survive() -> None:
    height = Height("bonferroni", 0.05, two_sided=False, given=np.nan)
    assert height_of(survey(np.empty(0), np.empty(0, bool), height), height) == np.inf


@given(coarse_z)
def test_q_values__are_scipys(z: list[float]) -> None:
    p = norm.sf(np.array(z))
    # Worst seen: 2 units in the last place, from the order of a product and a quotient.
    np.testing.assert_allclose(q_values(p), false_discovery_control(p), rtol=1e-15, atol=0)


def test_p_of_z__keeps_digits_in_both_tails() -> None:
    z = np.array([-35.0, -1.0, 0.0, 1.0, 35.0])
    np.testing.assert_allclose(p_of_z(z, two_sided=True), 2 * norm.sf(np.abs(z)), rtol=1e-13)
    np.testing.assert_allclose(p_of_z(z, two_sided=False), norm.sf(z), rtol=1e-13)


@pytest.mark.parametrize(
    ("height", "value", "expected"),
    [
        (Height(None, np.nan, True, 2.0), 2.0, [True, False, False, True, False]),
        (Height(None, np.nan, False, 2.0), 2.0, [False, False, False, True, False]),
        (Height(None, np.nan, False, -2.0), -2.0, [True, False, False, False, False]),
    ],
)
def test_survives__counts_the_height_itself_and_never_nan(
    height: Height, value: float, expected: list[bool]
) -> None:
    z = np.array([-2.0, -1.9, 1.9, 2.0, np.nan])
    np.testing.assert_array_equal(height.survives(z, value), expected)
