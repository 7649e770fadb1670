"""Models with some of the regressors, from moments alone: the same as fitting them."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers.designs import random_case
from helpers_lazy import (
    distances,
    lazily,
    make_data,
    make_design,
    make_mask,
    one_line,
    write_run,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import chunkglm as cg
from chunkglm.errors import ContrastError, DesignError

DESIGN, MASK = make_design(), make_mask()

# Effects in standard errors, variances relative, z: sums of products of unit vectors, combined once
# more. Seen in 700 models of condition numbers up to 300: 3e-12.
ROUNDING = 1e-10
WELL_CONDITIONED = 300.0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "run.nii.gz")


def as_run(series: Any) -> xr.DataArray:
    """(T, V) series as a run of V voxels in a row."""
    return xr.DataArray(
        series.T[:, None, None],
        dims=("x", "y", "z", "time"),
        attrs={"affine": np.eye(4).tolist()},
    )


@pytest.mark.parametrize("scaling", ["percent", None])
@pytest.mark.parametrize("noise", ["ols", "ar1", cg.AR(1, bins=100)], ids=str)
@pytest.mark.parametrize(
    "names", [["a", "constant"], ["drift", "a"], ["constant", "drift", "b", "a"], ["a"]], ids=str
)
def test_select__is_the_fit_of_those_columns(
    run: Path, names: list[str], noise: Any, scaling: str | None
) -> None:
    fit = cg.fit(run, DESIGN, mask=MASK, noise=noise, scaling=scaling)
    found = fit.select(names)
    expected = cg.fit(run, DESIGN[names], mask=MASK, noise=noise, scaling=scaling)
    assert found.design.names == tuple(names)
    assert found.dof == expected.dof == 30 - len(names)
    for definition in ("a", {"a": -2.0}, [names[0], names[-1]][: len(names)]):
        maps = (cg.contrast(f, definition).compute() for f in (found, expected))
        assert distances(*maps) < ROUNDING
    for name in ("beta", "sigma2", "ar", "r_square"):
        a, b = (getattr(f, name).compute() for f in (found, expected))
        xr.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    # It is another model than the one it came from.
    if len(names) < 4:
        whole = cg.contrast(fit, "a").compute()
        assert distances(cg.contrast(found, "a").compute(), whole) > 0.1


@given(
    seed=st.integers(0, 2**32 - 1),
    n_scans=st.integers(12, 80),
    rank=st.integers(2, 8),
    constant=st.booleans(),
    duplicates=st.integers(0, 2),
    decades=st.sampled_from([0.0, 3.0]),
    noise=st.sampled_from(["ols", "ar1"]),
    scaling=st.sampled_from(["percent", None]),
)
@settings(max_examples=25, deadline=None)
def test_select__of_any_design(
    seed: int,
    n_scans: int,
    rank: int,
    constant: bool,
    duplicates: int,
    decades: float,
    noise: str,
    scaling: str | None,
) -> None:
    rng = np.random.default_rng(seed)
    case = random_case(
        rng, n_scans=n_scans, rank=rank, constant=constant, duplicates=duplicates, decades=decades
    )
    unit = case.X / np.linalg.norm(case.X, axis=0)
    s = np.linalg.svd(unit, compute_uv=False)
    assume(s[0] < WELL_CONDITIONED * s[rank - 1])
    n_columns = case.X.shape[1]
    design = pd.DataFrame(case.X, columns=[f"x{j}" for j in range(n_columns)])
    kept = [f"x{j}" for j in rng.permutation(n_columns)[: rng.integers(1, n_columns + 1)]]
    run = as_run(case.Y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of dependent columns
        fit = cg.fit(run, design, noise=noise, scaling=scaling)
        expected = cg.fit(run, design[kept], noise=noise, scaling=scaling)
    found = fit.select(kept)
    assert found.dof == expected.dof
    # A combination of the design's rows is estimable, whatever the rank.
    for weights in rng.standard_normal((2, n_scans)) @ design[kept].to_numpy():
        maps = [cg.contrast(f, weights).compute() for f in (found, expected)]
        assert distances(*maps) < ROUNDING


def test_select__of_a_stored_fit_needs_no_data(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.nii")
    expected = cg.contrast(cg.fit(run, DESIGN.drop(columns="b"), mask=MASK), "a").compute()
    cg.fit(run, DESIGN, mask=MASK).save(tmp_path / "fit.zarr")
    run.unlink()
    found = cg.open_fit(tmp_path / "fit.zarr").drop("b")
    assert distances(cg.contrast(found, "a").compute(), expected) < ROUNDING
    # What was made can be kept, and taken apart again.
    found.save(tmp_path / "sub.zarr")
    again = cg.open_fit(tmp_path / "sub.zarr")
    assert distances(cg.contrast(again, "a").compute(), expected) < ROUNDING
    other = tmp_path / "other.nii"
    twice = cg.contrast(again.drop("drift"), "a").compute()
    direct = cg.fit(write_run(other), DESIGN[["a", "constant"]], mask=MASK)
    assert distances(twice, cg.contrast(direct, "a").compute()) < ROUNDING


def test_select__is_lazy_and_leaves_the_fit_as_it_was(run: Path) -> None:
    fit = cg.fit(run, DESIGN, mask=MASK, smoothing_fwhm=5)
    before = cg.contrast(fit, "a").compute()
    with lazily():
        smaller = fit.select(["a", "constant"]).drop("constant")
        cg.contrast(smaller, "a")
    assert fit.design.names == tuple(DESIGN.columns)
    assert cg.contrast(fit, "a").compute().identical(before)
    with pytest.raises(ContrastError):
        cg.contrast(smaller, "b")


def test_select__residuals_are_those_of_the_smaller_model(run: Path) -> None:
    found = cg.fit(run, DESIGN, mask=MASK, noise="ols", scaling=None).drop(["a", "b"])
    X = DESIGN[["drift", "constant"]].to_numpy()
    y = make_data()[MASK].astype(float).T
    left = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
    assert np.abs(found.residuals(run).to_numpy()[MASK].T - left).max() < 1e-10


def test_select__resolves_what_depended_on_a_column_left_out(run: Path) -> None:
    with pytest.warns(UserWarning, match="rank 4"):
        fit = cg.fit(run, DESIGN.assign(twice=2 * DESIGN["b"]), mask=MASK)
    with pytest.raises(ContrastError):
        cg.contrast(fit, "b")
    expected = cg.contrast(cg.fit(run, DESIGN, mask=MASK), "b").compute()
    assert distances(cg.contrast(fit.drop("twice"), "b").compute(), expected) < ROUNDING


def test_select__wrong_names_are_refused(run: Path) -> None:
    fit = cg.fit(run, DESIGN)
    with pytest.raises(DesignError) as caught:
        fit.drop("drif")
    one_line(caught.value, "'drif'", "did you mean 'drift'", "'constant'")
    for bad in (["a", "a"], [1], None, 5, [], ["house"], "house", [["a"]]):
        with pytest.raises(DesignError) as caught:
            fit.select(bad)
        one_line(caught.value)
    with pytest.raises(DesignError) as caught:
        fit.drop(list(DESIGN.columns))
    one_line(caught.value, "left")
