"""Fits: against least squares by numpy, immutable, and every wrong argument named."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers_lazy import (
    AFFINE,
    SHAPE,
    distances,
    lazily,
    make_data,
    make_design,
    make_mask,
    one_line,
    write_run,
)

import chunkglm as cg
from chunkglm.errors import ChunkglmError, ContrastError, DesignError, ImageError

DESIGN, MASK = make_design(), make_mask()

# Both are least squares in float64; the QR of the design loses a digit or two. Worst seen: 2e-13.
LEAST_SQUARES = 1e-11


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "run.nii.gz")


def percent(data: Any) -> Any:
    return 100.0 * (data / data.mean(axis=-1, keepdims=True) - 1.0)


# --- what it gives ----------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", ["percent", None])
def test_fit__agrees_with_least_squares(run: Path, scaling: str | None) -> None:
    fit = cg.fit(run, DESIGN, mask=MASK, noise="ols", scaling=scaling)
    data = make_data().astype(float)
    series = (percent(data) if scaling else data)[MASK].T
    X = DESIGN.to_numpy()
    beta, squares, *_ = np.linalg.lstsq(X, series, rcond=None)
    found = fit.beta.compute()
    assert found.dims == ("regressor", "x", "y", "z")
    assert found["regressor"].to_numpy().tolist() == list(DESIGN.columns)
    np.testing.assert_allclose(found.to_numpy()[:, MASK], beta, rtol=0, atol=LEAST_SQUARES * 1e3)
    np.testing.assert_allclose(fit.sigma2.to_numpy()[MASK], squares / 26, rtol=LEAST_SQUARES)
    total = ((series - series.mean(axis=0)) ** 2).sum(axis=0)
    np.testing.assert_allclose(
        fit.r_square.to_numpy()[MASK], 1 - squares / total, rtol=0, atol=LEAST_SQUARES
    )
    assert fit.ar.shape == (0, *SHAPE[:3])
    assert np.array_equal(fit.voxel_status == 0, MASK)
    assert fit.dof == 26
    weights = np.array([1.0, -1.0, 0.0, 0.0])
    maps = cg.contrast(fit, "a - b").compute()
    effect = weights @ beta
    variance = squares / 26 * (weights @ np.linalg.inv(X.T @ X) @ weights)
    t = effect / np.sqrt(variance)
    np.testing.assert_allclose(maps["stat"].to_numpy()[MASK], t, rtol=1e-9)
    np.testing.assert_allclose(maps["effect_variance"].to_numpy()[MASK], variance, rtol=1e-10)


def test_fit__f_contrast_agrees_with_the_loss_of_leaving_columns_out(run: Path) -> None:
    maps = cg.contrast(cg.fit(run, DESIGN, mask=MASK, noise="ols"), ["a", "b"]).compute()
    series = percent(make_data().astype(float))[MASK].T
    full = np.linalg.lstsq(DESIGN.to_numpy(), series, rcond=None)[1]
    less = np.linalg.lstsq(DESIGN[["drift", "constant"]].to_numpy(), series, rcond=None)[1]
    expected = (less - full) / 2 / (full / 26)
    np.testing.assert_allclose(maps["stat"].to_numpy()[MASK], expected, rtol=1e-10)
    assert maps["effect_size"].dims == ("row", "x", "y", "z")
    assert maps["effect_variance"].dims == ("row", "row_", "x", "y", "z")
    assert maps.attrs["stat_type"] == "F"
    assert maps.attrs["rank"] == 2
    for i, name in enumerate(("a", "b")):
        one = cg.contrast(cg.fit(run, DESIGN, mask=MASK, noise="ols"), name).compute()
        np.testing.assert_allclose(maps["effect_size"][i], one["effect_size"], rtol=1e-12)
        np.testing.assert_allclose(
            maps["effect_variance"][i, i], one["effect_variance"], rtol=1e-12
        )
        joint = cg.contrast(
            cg.fit(run, DESIGN, mask=MASK, noise="ols"), name, stat_type="F"
        ).compute()
        np.testing.assert_allclose(joint["stat"], one["stat"] ** 2, rtol=1e-10)


def test_fit__ar1_agrees_with_whitening_each_voxel(run: Path) -> None:
    fit = cg.fit(run, DESIGN, mask=MASK, noise="ar1", scaling=None)
    found, rho, sigma2 = (a.compute().to_numpy() for a in (fit.beta, fit.ar, fit.sigma2))
    X, data = DESIGN.to_numpy(), make_data().astype(float)
    for voxel in np.argwhere(MASK)[:20]:
        y = data[tuple(voxel)]
        r = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
        phi = (r[1:] @ r[:-1] / 29) / (r @ r / 30)
        wx, wy = X.copy(), y.copy()
        wx[1:] -= phi * X[:-1]
        wy[1:] -= phi * y[:-1]
        b, squares, *_ = np.linalg.lstsq(wx, wy, rcond=None)
        at = (slice(None), *voxel)
        assert rho[at] == pytest.approx([phi], abs=1e-10)
        np.testing.assert_allclose(found[at], b, rtol=0, atol=1e-8)
        assert sigma2[tuple(voxel)] == pytest.approx(squares[0] / 26, rel=1e-10)


def test_fit__maps_are_labelled(run: Path) -> None:
    maps = cg.contrast(cg.fit(run, DESIGN, mask=MASK, smoothing_fwhm=5), "a - b")
    assert set(maps) >= {"effect_size", "effect_variance", "stat", "p_value", "z_score"}
    for name in ("effect_size", "stat", "p_value", "z_score", "voxel_status"):
        assert maps[name].dims == ("x", "y", "z")
        assert maps[name].attrs["long_name"]
    assert maps["effect_size"].attrs["units"] == "percent of the mean"
    for name, value in {
        "stat_type": "t", "dof": 26.0, "contrast": "a - b", "noise": "ar1, corrected",
        "scaling": "percent", "smoothing_fwhm": 5.0, "run": str(run),
        "affine": AFFINE.ravel().tolist(),
    }.items():  # fmt: skip
        assert maps.attrs[name] == value, name
    assert [maps[d].to_numpy().tolist() for d in "xyz"] == [list(range(n)) for n in SHAPE[:3]]


def test_fit__takes_the_same_run_in_every_form(run: Path) -> None:
    expected = cg.contrast(cg.fit(run, DESIGN, mask=MASK), "a").compute()
    array = cg.open_run(run)
    plain = xr.DataArray(
        make_data(), dims=("x", "y", "z", "time"), attrs={"affine": AFFINE.tolist()}
    )
    for form in (str(run), array, array.load(), plain, plain.transpose("time", "z", "x", "y")):
        found = cg.contrast(cg.fit(form, DESIGN, mask=MASK), "a").compute()
        # Another order of summation.
        assert distances(found, expected) < 1e-12


def test_fit__takes_the_design_in_every_form(run: Path, tmp_path: Path) -> None:
    expected = cg.contrast(cg.fit(run, DESIGN, mask=MASK), [1, -1, 0, 0]).compute()
    DESIGN.to_csv(tmp_path / "design.csv", index=False)
    DESIGN.to_csv(tmp_path / "design.tsv", sep="\t", index=False)
    np.save(tmp_path / "design.npy", DESIGN.to_numpy())
    np.savez(tmp_path / "design.npz", X=DESIGN.to_numpy())
    for design in (DESIGN.to_numpy(), *sorted(tmp_path.iterdir())):
        found = cg.contrast(cg.fit(run, design, mask=MASK), [1, -1, 0, 0]).compute()
        # A text file keeps 17 digits: all of them.
        assert distances(found, expected) < 1e-12


def test_fit__takes_events(run: Path, tmp_path: Path) -> None:
    events = pd.DataFrame(
        {"onset": [4.0, 20.0, 40.0], "duration": [6.0] * 3, "trial_type": ["a", "b", "a"]}
    )
    events.to_csv(tmp_path / "events.tsv", sep="\t", index=False)
    design = cg.design_from_events(events, n_scans=30, t_r=2.0)
    expected = cg.contrast(cg.fit(run, design, mask=MASK), "a - b").compute()
    for form in (events, tmp_path / "events.tsv"):
        found = cg.contrast(cg.fit(run, form, mask=MASK), "a - b").compute()
        assert distances(found, expected) < 1e-12
    slower = cg.fit(run, events, mask=MASK, t_r=3.0)
    assert distances(cg.contrast(slower, "a - b").compute(), expected) > 0.01


# --- a Fit is a value -------------------------------------------------------------------------


def test_fit__repr_says_what_it_holds_and_computes_nothing(run: Path) -> None:
    with lazily():
        fit = cg.fit(run, DESIGN, mask=MASK, smoothing_fwhm=5)
        text = repr(fit)
    for part in (run, f"{MASK.sum()} voxels", "5 x 4 x 6", "30 volumes", "4 regressors", "26 deg",
                 "ar1, corrected", "percent", "5.0 mm", "lazy"):  # fmt: skip
        assert str(part) in text
    assert "in memory" in repr(fit.load())


def test_fit__load_leaves_the_fit_it_came_from_as_it_was(run: Path) -> None:
    fit = cg.fit(run, DESIGN, mask=MASK)
    loaded = fit.load()
    assert "lazy" in repr(fit)
    assert all(v.chunks is not None for v in fit.dataset.data_vars.values())
    assert all(v.chunks is None for v in loaded.dataset.data_vars.values())
    for definition in ("a - b", ["a", "b"]):
        one, two = (cg.contrast(f, definition).compute() for f in (fit, loaded))
        assert one.identical(two)
    assert fit.beta.compute().identical(loaded.beta.compute())
    assert loaded.load().sigma2.compute().identical(fit.sigma2.compute())


def test_fit__cannot_be_changed(run: Path) -> None:
    fit = cg.fit(run, DESIGN, mask=MASK)
    with pytest.raises(AttributeError):
        fit.scaling = None  # type: ignore[misc]
    mask, design = MASK.copy(), DESIGN.to_numpy().copy()
    expected = cg.contrast(cg.fit(run, design, mask=mask), [1, 0, 0, 0]).compute()
    changed = cg.fit(run, design, mask=mask)
    design[:] = 0.0
    mask[:] = True
    assert cg.contrast(changed, [1, 0, 0, 0]).compute().identical(expected)


def test_fit__does_not_change_what_it_is_given(run: Path) -> None:
    array, design, mask = cg.open_run(run), DESIGN.copy(), MASK.copy()
    attrs = dict(array.attrs)
    cg.contrast(cg.fit(array, design, mask=mask, smoothing_fwhm=5, t_r=3), "a").compute()
    assert array.attrs == attrs
    assert design.equals(DESIGN)
    assert np.array_equal(mask, MASK)


# --- wrong arguments --------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [29, 31, 2])
def test_fit__refuses_a_design_of_other_length(run: Path, tmp_path: Path, rows: int) -> None:
    make_design(max(rows, 6)).iloc[:, : 1 if rows == 2 else 4].head(rows).to_csv(
        tmp_path / "design.csv", index=False
    )
    with pytest.raises(DesignError) as caught:
        cg.fit(run, tmp_path / "design.csv")
    one_line(caught.value, tmp_path / "design.csv", f"{rows} rows", "30 volumes")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_fit__refuses_a_design_that_is_not_finite(run: Path, value: float) -> None:
    design = DESIGN.copy()
    design.loc[3, "b"] = value
    with pytest.raises(DesignError) as caught:
        cg.fit(run, design)
    one_line(caught.value, "'b'")


@pytest.mark.parametrize("design", [None, 5, "none.csv", [[1.0]], np.ones(30), object()])
def test_fit__refuses_what_is_no_design(run: Path, design: Any) -> None:
    with pytest.raises(DesignError) as caught:
        cg.fit(run, design)
    one_line(caught.value)


def test_fit__warns_of_dependent_columns_and_refuses_contrasts_on_them(run: Path) -> None:
    design = DESIGN.assign(twice=2 * DESIGN["b"])
    with pytest.warns(UserWarning, match=r"5 columns of rank 4") as seen:
        fit = cg.fit(run, design, mask=MASK)
    message = str(seen[0].message)
    assert "'twice' = 2*'b'" in message or "'b' = 0.5*'twice'" in message
    # The warning points at the caller's line.
    assert seen[0].filename == __file__
    assert fit.dof == 26
    with pytest.raises(ContrastError) as caught:
        cg.contrast(fit, "b")
    one_line(caught.value, "'b'", "not estimable", "DataFrame")
    # What they have in common is determined, and what does not touch them too.
    expected = cg.contrast(cg.fit(run, DESIGN, mask=MASK), "a").compute()
    assert distances(cg.contrast(fit, "a").compute(), expected) < 1e-9


def test_contrast__refuses_what_is_not_there(run: Path) -> None:
    fit = cg.fit(run, DESIGN)
    for definition in ("a - house", {"house": 1}, [1, 0, 0], "", "0*a", [0, 0, 0, 0], None):
        with pytest.raises(ContrastError) as caught:
            cg.contrast(fit, definition)
        one_line(caught.value)
    with pytest.raises(ContrastError) as caught:
        cg.contrast(fit, "a - house")
    one_line(caught.value, "house", "'a'", "'b'", "'drift'", "'constant'")


def test_contrast__never_evaluates_text(run: Path, tmp_path: Path) -> None:
    fit = cg.fit(run, DESIGN)
    target = tmp_path / "owned"
    for text in (f"open({str(target)!r}, 'w')", "__import__('os')", "@a", "a.sum()", "a if b"):
        with pytest.raises(ContrastError):
            cg.contrast(fit, text)
    assert not target.exists()


@pytest.mark.parametrize("scaling", ["Percent", "grand", 0, 1, True, False, "", object()])
def test_fit__refuses_other_scalings(run: Path, scaling: Any) -> None:
    with pytest.raises(DesignError) as caught:
        cg.fit(run, DESIGN, scaling=scaling)
    one_line(caught.value, "scaling", '"percent" or None')


@pytest.mark.parametrize("noise", ["arma", "ar2 ", "AR1", "", None, 1, "ar", "ar-1", object()])
def test_fit__refuses_other_noise(run: Path, noise: Any) -> None:
    with pytest.raises(DesignError) as caught:
        cg.fit(run, DESIGN, noise=noise)
    one_line(caught.value, "noise")


@pytest.mark.parametrize("fwhm", [-1, np.nan, np.inf, "5", b"5", [5, 5, 5], {}, 1j, object()])
def test_fit__refuses_other_kernels(run: Path, fwhm: Any) -> None:
    with pytest.raises(DesignError) as caught:
        cg.fit(run, DESIGN, smoothing_fwhm=fwhm)
    one_line(caught.value, "smoothing_fwhm", "positive")


@pytest.mark.parametrize("fwhm", [5, 5.0, np.float32(5), np.int64(5), np.array(5.0)])
def test_fit__takes_the_kernel_as_any_number(run: Path, tmp_path: Path, fwhm: Any) -> None:
    maps = cg.contrast(cg.fit(run, DESIGN, mask=MASK, smoothing_fwhm=fwhm), "a")
    assert maps.attrs["smoothing_fwhm"] == 5.0
    assert cg.save(maps, tmp_path, prefix="p")
    unsmoothed = cg.contrast(cg.fit(run, DESIGN, mask=MASK), "a").compute()
    assert distances(maps.compute(), unsmoothed) > 0.1


def test_fit__kernel_of_zero_is_none(run: Path) -> None:
    zero = cg.contrast(cg.fit(run, DESIGN, mask=MASK, smoothing_fwhm=0), "a").compute()
    assert zero.identical(cg.contrast(cg.fit(run, DESIGN, mask=MASK), "a").compute())


def test_fit__refuses_what_is_no_run(run: Path) -> None:
    array = cg.open_run(run)
    for bad in (
        array.to_numpy(), None, 5, nib.load(run), array.to_dataset(), array.isel(time=0),
        array.rename(time="t"), array.expand_dims("run"), array.astype(complex),
        array.astype(str), array.astype(object),
    ):  # fmt: skip
        with pytest.raises(ImageError) as caught:
            cg.fit(bad, DESIGN)
        one_line(caught.value)


@pytest.mark.parametrize(
    "affine", [None, [1, 2, 3], np.eye(3), "text", [[1], [2, 3]], np.full((4, 4), np.nan)]
)
def test_fit__refuses_a_run_without_an_affine(affine: Any) -> None:
    attrs = {} if affine is None else {"affine": affine}
    run = xr.DataArray(make_data(), dims=("x", "y", "z", "time"), attrs=attrs)
    with pytest.raises(ChunkglmError) as caught:
        cg.fit(run, DESIGN)
    assert "affine" in str(caught.value)


def test_fit__refuses_to_smooth_without_voxel_sizes() -> None:
    flat = AFFINE.copy()
    flat[:3, 1] = 0.0
    run = xr.DataArray(make_data(), dims=("x", "y", "z", "time"), attrs={"affine": flat.tolist()})
    with pytest.raises(ImageError) as caught:
        cg.fit(run, DESIGN, smoothing_fwhm=5)
    one_line(caught.value, "voxel sizes")
