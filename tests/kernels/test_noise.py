"""Noise models: what can be asked for, and the coefficient."""

from typing import Any

import numpy as np
import pytest
from helpers.gaps import autocovariances, partials, yule_walker
from hypothesis import given
from hypothesis import strategies as st

from chunkglm.errors import DesignError
from chunkglm.kernels.noise import (
    AR,
    LARGEST_PARTIAL,
    ar_coefficients,
    check_order,
    levinson,
    lower_orders,
    parse_noise,
)
from chunkglm.kernels.segments import segments_of_mask, whole_run


def test_parse_noise__spellings_and_values() -> None:
    assert parse_noise("ols") == AR(0)
    assert parse_noise("ar1") == AR(1)
    assert parse_noise("ar3") == AR(3)
    assert parse_noise("ar12") == AR(12)
    for text in ("ar2, corrected", "ar2,corrected", str(AR(2, corrected=True))):
        assert parse_noise(text) == AR(2, corrected=True)
    assert parse_noise(AR(1, bins=100)) == AR(1, bins=100)
    assert str(AR(1)) == "ar1"
    assert str(AR(0)) == "ols"


@pytest.mark.parametrize(
    "noise",
    ["AR1", "ar", "ar-1", "arma11", "", "ar1 ", "ar1, right", "ols, corrected", None, 1, 1.0],
)
def test_parse_noise__refuses_anything_else(noise: object) -> None:
    with pytest.raises(DesignError, match="noise must be"):
        parse_noise(noise)  # type: ignore[arg-type]


@pytest.mark.parametrize("order", [0, 1, 2, 6, 40])
@pytest.mark.parametrize("initial", ["conditional", "stationary"])
@pytest.mark.parametrize("iterations", [1, 3])
def test_ar__spells_its_order(order: int, initial: Any, iterations: int) -> None:
    noise = AR(np.int64(order), initial=initial, iterations=np.int64(iterations))  # type: ignore[arg-type]
    assert noise == AR(order, None, initial, iterations)
    assert type(noise.order) is type(noise.iterations) is int
    spelled, *rest = str(noise).split(", ")
    assert parse_noise(spelled) == AR(order)
    assert rest == ["stationary"] * (initial == "stationary") + ["3 iterations"] * (iterations == 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"order": -1}, "noise order must be"),
        ({"order": True}, "noise order must be"),
        ({"order": 1.0}, "noise order must be"),
        ({"order": 2, "bins": 100}, "bins are for noise of order 1, but got order 2"),
        ({"order": 0, "bins": 100}, "bins are for noise of order 1"),
        ({"order": 1, "bins": 0}, "bins must be"),
        ({"order": 1, "bins": -1}, "bins must be"),
        ({"order": 1, "bins": 0.5}, "bins must be"),
        ({"order": 1, "bins": True}, "bins must be"),
        ({"order": 2, "initial": "exact"}, "initial must be"),
        ({"order": 2, "iterations": 0}, "iterations must be"),
        ({"order": 2, "iterations": None}, "iterations must be"),
    ],
)
def test_ar__refuses_what_is_no_model(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DesignError, match=message):
        AR(**values)


def test_check_order__refuses_what_the_volumes_cannot_tell() -> None:
    check_order(AR(9), whole_run(20), 15)
    with pytest.raises(DesignError, match="order 16 is more than the 15 degrees of freedom"):
        check_order(AR(16), whole_run(20), 15)
    gaps = segments_of_mask(np.arange(20) % 4 > 0)
    check_order(AR(2), gaps, 15)
    with pytest.raises(DesignError, match=r"order 3 .* the longest of 5 segments has 3 volumes"):
        check_order(AR(3), gaps, 15)
    check_order(AR(0), segments_of_mask(np.arange(20) % 2 > 0), 5)


def coefficients(lagged: float, squares: float, n_scans: int, noise: AR) -> float:
    found = np.array([[squares / n_scans], [lagged / (n_scans - 1)]])
    return float(ar_coefficients(found, noise)[0, 0])


@given(rho=st.floats(-1.2, 1.2), n_scans=st.integers(3, 500))
def test_ar_coefficients__of_order_1_are_a_ratio_truncated_toward_zero(
    rho: float, n_scans: int
) -> None:
    lagged = rho * 2.5 * (n_scans - 1) / n_scans
    exact = coefficients(lagged, 2.5, n_scans, AR(1))
    np.testing.assert_allclose(exact, rho, rtol=1e-14, atol=1e-300)
    binned = coefficients(lagged, 2.5, n_scans, AR(1, bins=100))
    assert binned == np.trunc(exact * 100) / 100
    assert abs(binned) <= abs(exact) + 1e-15
    assert abs(binned - exact) < 0.01 + 1e-15
    stationary = coefficients(lagged, 2.5, n_scans, AR(1, initial="stationary"))
    assert stationary == np.clip(exact, -LARGEST_PARTIAL, LARGEST_PARTIAL)


def test_ar_coefficients__are_zero_where_nothing_is_left() -> None:
    found = ar_coefficients(np.array([[0.0, 2.0], [0.0, 1.1], [0.0, 0.3]]), AR(2))
    assert (found[:, 0] == 0).all()
    assert (found[:, 1] != 0).all()


def test_ar_coefficients__a_correction_goes_before_everything() -> None:
    def half(found: Any) -> Any:
        return np.stack([found[0], 2 * found[1]])

    # Three lags go in, of which the correction makes what order 1 needs.
    found = np.array([[4.0], [1.0], [0.5]])
    assert ar_coefficients(found, AR(1), half) == 0.5
    assert ar_coefficients(found, AR(1)) == 0.25


@given(
    values=st.lists(st.floats(-1.5, 1.5), min_size=1, max_size=6),
    scale=st.sampled_from([1e-200, 1.0, 1e200]),
)
def test_levinson__always_gives_a_stationary_process(values: list[float], scale: float) -> None:
    autocovariance = np.array([1.0, *values])
    phi = levinson(autocovariance[:, None] * scale)[:, 0]
    assert np.isfinite(phi).all()
    found = partials(phi)
    assert np.abs(found).max() <= LARGEST_PARTIAL * (1 + 1e-9)
    # The equations are solved as they are up to the lag that belongs to no stationary process.
    good = np.abs(found) < LARGEST_PARTIAL * (1 - 1e-9)
    order = len(values) if good.all() else int(np.argmin(good))
    if order and np.abs(found[:order]).max() < 0.9:
        expected = yule_walker(autocovariance[: order + 1])
        np.testing.assert_allclose(levinson(autocovariance[: order + 1, None])[:, 0], expected,
                                   rtol=1e-8, atol=1e-10)  # fmt: skip


@given(values=st.lists(st.floats(-0.95, 0.95), min_size=1, max_size=6))
def test_lower_orders__are_the_best_predictors_from_fewer_samples(values: list[float]) -> None:
    phi = np.zeros(0)
    for partial in values:
        phi = np.append(phi - partial * phi[::-1], partial)
    g = autocovariances(phi, len(values) + 1)
    for m, (lower, ratio) in enumerate(lower_orders(phi[:, None])):
        innovation = g[0]
        if m:
            np.testing.assert_allclose(lower[:, 0], yule_walker(g[: m + 1]), rtol=1e-6, atol=1e-8)
            innovation -= yule_walker(g[: m + 1]) @ g[1 : m + 1]
        np.testing.assert_allclose(ratio, 1 / innovation, rtol=1e-6)
