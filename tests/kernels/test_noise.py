"""Noise models: what can be asked for, and the coefficient."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkglm.errors import DesignError
from chunkglm.kernels.noise import AR, ar1_coefficient, parse_noise


def test_parse_noise__spellings_and_values() -> None:
    assert parse_noise("ols") == AR(0)
    assert parse_noise("ar1") == AR(1)
    assert parse_noise(AR(1, bins=100)) == AR(1, bins=100)
    assert str(AR(1)) == "ar1"
    assert str(AR(0)) == "ols"


@pytest.mark.parametrize("noise", ["AR1", "ar", "ar-1", "arma11", "", "ar1 ", None, 1, 1.0])
def test_parse_noise__refuses_anything_else(noise: object) -> None:
    with pytest.raises(DesignError, match="noise must be"):
        parse_noise(noise)  # type: ignore[arg-type]


@pytest.mark.parametrize("bins", [0, -1, 0.5, True])
def test_ar__refuses_bins_below_one(bins: float) -> None:
    with pytest.raises(DesignError, match="bins must be"):
        AR(1, bins=bins)  # type: ignore[arg-type]


@given(rho=st.floats(-1, 1), n_scans=st.integers(3, 500))
def test_ar1_coefficient__is_truncated_toward_zero(rho: float, n_scans: int) -> None:
    squares = np.array([2.5])
    lagged = rho * squares * (n_scans - 1) / n_scans
    exact = ar1_coefficient(lagged, squares, n_scans, None)
    np.testing.assert_allclose(exact, rho, rtol=1e-14, atol=1e-300)
    binned = ar1_coefficient(lagged, squares, n_scans, 100)
    assert binned[0] == np.trunc(exact[0] * 100) / 100
    assert abs(binned[0]) <= abs(exact[0]) + 1e-15
    assert abs(binned[0] - exact[0]) < 0.01 + 1e-15


def test_ar1_coefficient__is_zero_where_nothing_is_left() -> None:
    found = ar1_coefficient(np.array([0.0, 1.0]), np.array([0.0, 2.0]), 11, None)
    np.testing.assert_allclose(found, [0.0, 0.55])
