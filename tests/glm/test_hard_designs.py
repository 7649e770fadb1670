"""Designs that are hard to fit: named in warnings and errors, or fitted all the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers_lazy import AFFINE, MAPS, SHAPE, distances, make_data, make_design, one_line

import chunkglm as cg
from chunkglm.design import list_names, told_relations
from chunkglm.errors import ContrastError, DesignError
from chunkglm.kernels.factor import factor_design

DESIGN = make_design()
T = SHAPE[3]

# Columns of any length are brought to unit length first, and powers of ten are not exact in binary:
# what differs is rounding. Worst seen over 24 decades: 8e-14, of a standard error or in z.
SCALED_COLUMNS = 1e-11


@pytest.fixture(scope="module")
def run() -> xr.DataArray:
    return xr.DataArray(
        make_data(), dims=("x", "y", "z", "time"), attrs={"affine": AFFINE.tolist()}, name="bold"
    )


# --- rank ------------------------------------------------------------------------------------


def test_fit__says_how_columns_depend(run: Any) -> None:
    X = DESIGN.assign(rest=1 - 2 * DESIGN["a"], drift_again=1e-9 * DESIGN["drift"])
    with pytest.warns(UserWarning, match="rank 4") as caught:
        fit = cg.fit(run, X)
    told = one_line(caught[0].message, "6 columns of rank 4")
    # QR chooses which column follows from which; the relation is the same.
    relations = fit.factor.relations()
    assert len(relations) == 2
    for j, weights in relations:
        combined = sum(w * X.iloc[:, i] for i, w in weights.items())
        np.testing.assert_allclose(combined, X.iloc[:, j], atol=1e-12 * np.abs(X.iloc[:, j]).max())
    assert told_relations(relations, list(X)) in told


def test_contrast__not_estimable_says_which_columns_it_depends_on(run: Any) -> None:
    X = DESIGN.assign(rest=1 - DESIGN["a"], again=2 * DESIGN["b"])
    with pytest.warns(UserWarning, match="rank"):
        fit = cg.fit(run, X)
    with pytest.raises(ContrastError) as caught:
        cg.contrast(fit, "a")
    message = one_line(caught.value, "'a' is not estimable", "'a'", "'rest'", "'constant'", " = ")
    assert "'b'" not in message
    assert "'again'" not in message
    with pytest.raises(ContrastError) as caught:
        cg.contrast(fit, "b - again")
    message = one_line(caught.value, "'b'", "'again'")
    assert "'rest'" not in message
    # What the design does determine is taken: a - rest is not touched by which columns were kept.
    estimable = cg.contrast(fit, "a - rest").compute()
    alone = cg.contrast(cg.fit(run, DESIGN), "2*a - 0*constant").compute()
    free = cg.fit(run, DESIGN.drop(columns="constant").assign(rest=X["rest"]))
    assert distances(estimable, cg.contrast(free, "a - rest").compute()) < SCALED_COLUMNS
    assert np.isfinite(alone["stat"]).any()


def test_told_relations__reads_as_an_equation() -> None:
    names = ["a", "b", "c c", *"defghij"]
    assert told_relations([(0, {1: 1.0, 2: -2.5})], names) == "'a' = 'b' - 2.5*'c c'"
    assert told_relations([(2, {1: -1.0})], names) == "'c c' = -'b'"
    many = told_relations([(0, {j: float(j) for j in range(1, 10)})], names)
    assert many.endswith("+ 9*'j' and 3 more")
    assert "'b'" not in many
    seven = told_relations([(j, {0: 1.0}) for j in range(1, 8)], names)
    assert seven.endswith("'f' = 'a'; and 2 more columns follow from others")


def test_fit__needs_more_volumes_than_rank(run: Any) -> None:
    rng = np.random.default_rng(0)
    for k in (T, T + 3):
        with pytest.raises(DesignError) as caught:
            cg.fit(run, rng.standard_normal((T, k)))
        one_line(caught.value, f"{k} columns for {T} rows", "nothing is left")
    assert cg.fit(run, rng.standard_normal((T, T - 1))).dof == 1


# --- nearly dependent --------------------------------------------------------------------------


@pytest.mark.parametrize("off", [1e-6, 1e-8, 1e-10])
def test_fit__tells_the_condition_number_of_nearly_dependent_columns(run: Any, off: float) -> None:
    rng = np.random.default_rng(0)
    X = DESIGN.assign(near=1e6 * (DESIGN["a"] + off * rng.standard_normal(T)))
    with pytest.warns(UserWarning, match="condition number") as caught:
        fit = cg.fit(run, X)
    unit = X.to_numpy() / np.linalg.norm(X.to_numpy(), axis=0)
    condition, columns = fit.factor.condition()
    assert condition == pytest.approx(np.linalg.cond(unit), rel=1e-3)
    assert columns == (0, 4)
    message = one_line(caught[0].message, f"{condition:.2g}", "'a', 'near' are all but")
    assert "'drift'" not in message
    assert len(caught) == 1


def test_fit__does_not_warn_of_sound_designs(run: Any, recwarn: Any) -> None:
    rng = np.random.default_rng(0)
    motion = 0.02 * rng.standard_normal((T, 3)).cumsum(axis=0)
    tissue = 700 + rng.standard_normal((T, 1))
    confounds = np.hstack([motion, motion**2, tissue])
    X = DESIGN.join(pd.DataFrame(confounds, columns=[f"c{j}" for j in range(7)]))
    cg.fit(run, X)
    assert factor_design(X.to_numpy()).condition()[0] > 100
    assert [str(w.message) for w in recwarn] == []


# --- lengths, constant, other columns ----------------------------------------------------------


@pytest.mark.parametrize("noise", ["ols", "ar1"])
@pytest.mark.parametrize("lengths", [(1e-12, 1e12, 1e-12, 1.0), (1e12, 1e-6, 1e-3, 1e-12)])
def test_fit__columns_1e24_apart_give_the_same_results(
    run: Any, noise: str, lengths: tuple[float, ...], recwarn: Any
) -> None:
    plain = cg.fit(run, DESIGN, noise=noise)
    scaled = cg.fit(run, DESIGN * np.array(lengths), noise=noise)
    for definition in ([1.0, -0.5, 0, 0], [[1.0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]]):
        rows = np.atleast_2d(definition)
        expected = cg.contrast(plain, rows).compute()
        found = cg.contrast(scaled, rows * np.array(lengths)).compute()
        assert distances(found, expected) < SCALED_COLUMNS
    assert [str(w.message) for w in recwarn] == []


def test_fit__says_when_the_constant_was_forgotten(run: Any, recwarn: Any) -> None:
    X = DESIGN.drop(columns="constant")
    cg.fit(run, X)
    one_line(
        recwarn.pop(UserWarning).message, "DataFrame", "no column is constant", "column of ones"
    )
    # A sum of columns is a constant as well; and regressors about 0 need none, of data about 0.
    cg.fit(run, DESIGN.assign(on=DESIGN["a"] > 0, off=DESIGN["a"] <= 0)[["b", "on", "off"]])
    centred = (X - X.mean()).round(6)
    cg.fit(run, centred)
    assert len(recwarn) == 0
    cg.fit(run, centred, scaling=None)
    assert "no column is constant" in str(recwarn.pop(UserWarning).message)


def test_fit__warns_at_the_line_of_the_user(run: Any, tmp_path: Path) -> None:
    DESIGN.to_csv(tmp_path / "design.csv")
    with pytest.warns(UserWarning, match="taken as the index") as caught:
        cg.fit(run, tmp_path / "design.csv")
    assert caught[0].filename == __file__


@pytest.mark.parametrize("noise", ["ols", "ar1"])
def test_fit__without_a_constant_agrees_with_brute_force(run: Any, noise: str) -> None:
    X = DESIGN.drop(columns="constant")
    fit = cg.fit(run, X, noise=noise, scaling=None)
    maps = cg.contrast(fit, "a - b").compute()
    rho = fit.ar.to_numpy()[0] if noise == "ar1" else np.zeros(SHAPE[:3])
    c, data = np.array([1.0, -1, 0]), make_data().astype(float)
    for voxel in np.ndindex(2, 2, 2):
        y, W = data[voxel], np.eye(T) - rho[voxel] * np.eye(T, k=-1)
        A = W @ X.to_numpy()
        inverse = np.linalg.inv(A.T @ A)
        beta = inverse @ A.T @ W @ y
        variance = ((W @ y - A @ beta) ** 2).sum() / (T - 3) * (c @ inverse @ c)
        assert maps["effect_size"][voxel] == pytest.approx(c @ beta, abs=1e-9 * variance**0.5)
        assert maps["effect_variance"][voxel] == pytest.approx(variance, rel=1e-9)


def test_contrast__by_name_over_runs_with_other_columns(run: Any) -> None:
    rng = np.random.default_rng(0)
    wider = DESIGN[["drift", "b", "constant", "a"]].assign(motion=rng.standard_normal(T))
    maps = [cg.contrast(cg.fit(run, X), "a - b") for X in (DESIGN, wider)]
    assert maps[0].attrs["contrast_weights"] == maps[1].attrs["contrast_weights"]
    combined = cg.fixed_effects(maps).compute()
    effects = np.stack([m["effect_size"].to_numpy() for m in maps])
    np.testing.assert_allclose(combined["effect_size"], effects.mean(axis=0), rtol=1e-12)
    with pytest.raises(ContrastError) as caught:
        cg.contrast(cg.fit(run, DESIGN.drop(columns="b")), "a - b")
    one_line(caught.value, "no column 'b'", list_names(["a", "drift", "constant"]))


def test_fit__design_files_with_a_row_index(run: Any, tmp_path: Path) -> None:
    DESIGN.to_csv(tmp_path / "design.csv")
    with pytest.warns(UserWarning, match="taken as the index"):
        found = cg.contrast(cg.fit(run, tmp_path / "design.csv"), "a").compute()
    expected = cg.contrast(cg.fit(run, DESIGN), "a").compute()
    assert all((found[n].to_numpy() == expected[n].to_numpy()).all() for n in MAPS)
