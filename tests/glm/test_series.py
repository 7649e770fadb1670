"""Residuals and predictions: beside whitening by hand and nilearn, in any blocks."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import xarray as xr
from helpers_lazy import (
    AFFINE,
    SHAPE,
    lazily,
    make_data,
    make_design,
    make_mask,
    one_line,
    write_run,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d

import chunkglm as cg
import chunkglm.blocks
import chunkglm.sizes
from chunkglm.errors import ImageError

DESIGN, MASK = make_design(), make_mask()
NOISES = ["ols", "ar1", cg.AR(1, bins=100)]

# Samples of 2 % noise on a level of 1000, in percent or as they are: about 20 in size. Worst seen:
# 2e-14 in percent, 7e-13 of the signal.
PERCENT, SIGNAL = 1e-12, 2e-11
# nilearn scales in another order and solves the normal equations by a pseudo-inverse. Seen: 6e-14.
NILEARN = 1e-11


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "run.nii.gz")


def by_hand(fit: cg.Fit, data: Any, *, percent: bool) -> dict[str, Any]:
    """All four series of the voxels of the mask, (V, T), from the maps of the fit."""
    y = data[MASK].astype(float)
    if percent:
        y = 100.0 * (y / y.mean(axis=1, keepdims=True) - 1.0)
    predicted = (DESIGN.to_numpy() @ fit.beta.to_numpy()[:, MASK]).T
    out = {"residuals": y - predicted, "predicted": predicted}
    ar = fit.ar.to_numpy()[:, MASK]
    for name in ("residuals", "predicted"):
        whitened = out[name].copy()
        for lag, coefficient in enumerate(ar, start=1):
            whitened[:, lag:] -= coefficient[:, None] * out[name][:, :-lag]
        out[f"whitened_{name}"] = whitened
    return out


def found_in(fit: cg.Fit, run: Any) -> dict[str, xr.DataArray]:
    return {
        "residuals": fit.residuals(run),
        "predicted": fit.predicted(),
        "whitened_residuals": fit.residuals(run, whitened=True),
        "whitened_predicted": fit.predicted(whitened=True),
    }


@contextmanager
def small_blocks(slab: int, block: int, forward: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunkglm.sizes, "SMALLEST_SLAB_BYTES", slab)
        patch.setattr(chunkglm.sizes, "SLAB_BYTES", slab)
        patch.setattr(chunkglm.blocks, "SERIES_BLOCK_BYTES", block)
        patch.setattr(chunkglm.blocks, "FORWARD_BLOCK_BYTES", forward)
        yield


@pytest.mark.parametrize("scaling", ["percent", None])
@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_series__agree_with_whitening_by_hand(run: Path, noise: Any, scaling: str | None) -> None:
    fit = cg.fit(run, DESIGN, mask=MASK, noise=noise, scaling=scaling)
    expected = by_hand(fit, make_data(), percent=scaling is not None)
    for name, array in found_in(fit, run).items():
        assert array.name == name
        assert array.dims == ("x", "y", "z", "time")
        assert array.attrs["units"] == ("percent of the mean" if scaling else "signal")
        assert array["time"].to_numpy().tolist() == [2.0 * t for t in range(30)]
        found = array.to_numpy()
        assert np.isnan(found[~MASK]).all()
        off = np.abs(found[MASK] - expected[name]).max()
        assert off < (PERCENT if scaling else SIGNAL), name


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_series__whitened_squares_are_the_variance(run: Path, noise: Any) -> None:
    fit = cg.fit(run, DESIGN, mask=MASK, noise=noise)
    squares = (fit.residuals(run, whitened=True) ** 2).sum("time", skipna=False) / fit.dof
    np.testing.assert_allclose(squares, fit.sigma2, rtol=1e-11)


@pytest.mark.parametrize("scaling", ["percent", None])
def test_series__of_a_design_without_a_constant(run: Path, scaling: str | None) -> None:
    design = DESIGN[["a", "b", "drift"]]
    fit = cg.fit(run, design, mask=MASK, scaling=scaling)
    data = make_data()[MASK].astype(float)
    y = 100.0 * (data / data.mean(axis=1, keepdims=True) - 1.0) if scaling else data
    predicted = (design.to_numpy() @ fit.beta.to_numpy()[:, MASK]).T
    tolerance = PERCENT if scaling else SIGNAL
    assert np.abs(fit.predicted().to_numpy()[MASK] - predicted).max() < tolerance
    assert np.abs(fit.residuals(run).to_numpy()[MASK] - (y - predicted)).max() < tolerance


@pytest.mark.parametrize("noise", ["ols", "ar1"])
def test_series__beside_nilearn(tmp_path: Path, noise: str) -> None:
    """nilearn's `predicted` is whitened, and its `residuals` are the signal less that."""
    from nilearn.glm.first_level import FirstLevelModel

    mask_image = nib.Nifti1Image(MASK.astype(np.int8), AFFINE)
    # As float64: nilearn turns integers into float32.
    run = write_run(tmp_path / "run.nii", make_data(dtype=np.float64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = FirstLevelModel(
            mask_img=mask_image, noise_model=noise, minimize_memory=False, signal_scaling=0
        ).fit(nib.load(run), design_matrices=DESIGN)
        images = model.predicted[0], model.residuals[0]
    fit = cg.fit(run, DESIGN, mask=MASK, noise=cg.AR(1, bins=100) if noise == "ar1" else "ols")
    predicted, residuals = (image.get_fdata()[MASK] for image in images)
    found = {name: a.to_numpy()[MASK] for name, a in found_in(fit, run).items()}
    assert np.abs(found["whitened_predicted"] - predicted).max() < NILEARN
    theirs = found["residuals"] + found["predicted"] - found["whitened_predicted"]
    assert np.abs(theirs - residuals).max() < NILEARN
    # With AR noise nilearn's are neither the residuals nor the whitened ones.
    same = np.abs(found["residuals"] - residuals).max() < NILEARN
    assert same == (noise == "ols")
    if noise == "ar1":
        assert np.abs(found["whitened_residuals"] - residuals).max() > 0.01


def test_series__smoothed_as_in_the_fit(run: Path) -> None:
    fit = cg.fit(run, DESIGN, mask=MASK, smoothing_fwhm=6)
    data = make_data().astype(float)
    for axis, size in enumerate((3.0, 3.0, 3.5)):
        sigma = 6 / (np.sqrt(8 * np.log(2)) * size)
        data = gaussian_filter1d(data, sigma, axis=axis, mode="reflect")
    expected = by_hand(fit, data, percent=True)
    for name, array in found_in(fit, run).items():
        assert np.abs(array.to_numpy()[MASK] - expected[name]).max() < PERCENT, name


@given(
    slab=st.sampled_from([1, 2000, 10**9]),
    block=st.integers(1, 30_000),
    forward=st.integers(1, 5000),
    chunks=st.fixed_dictionaries(
        {d: st.integers(1, n) for d, n in zip(("x", "y", "z", "time"), SHAPE, strict=True)}
    ),
    form=st.sampled_from(["nii", "nii.gz", "zarr", "array"]),
    fwhm=st.sampled_from([None, 5.0]),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_series__any_blocks_and_form_give_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    slab: int,
    block: int,
    forward: int,
    chunks: dict[str, int],
    form: str,
    fwhm: float | None,
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    path = write_run(folder / f"run.{'nii' if form in ('zarr', 'array') else form}", slope=0.5)
    expected = found_in(cg.fit(path, DESIGN, mask=MASK, smoothing_fwhm=fwhm), path)
    form_of: Any = path
    with small_blocks(slab, block, forward):
        if form == "zarr":
            form_of = cg.convert(path, folder / "run.zarr", progress=False)
        if form == "array":
            form_of = cg.open_run(path).load().chunk(chunks).transpose("time", "z", "x", "y")
        fit = cg.fit(form_of, DESIGN, mask=MASK, smoothing_fwhm=fwhm)
        for name, array in found_in(fit, form_of).items():
            off = np.abs(array.to_numpy() - expected[name].to_numpy())
            assert np.nanmax(off) < PERCENT, name
            assert np.array_equal(np.isnan(off), ~np.broadcast_to(MASK[..., None], SHAPE))


def test_series__nothing_is_computed(run: Path) -> None:
    with lazily():
        fit = cg.fit(run, DESIGN, mask=MASK, smoothing_fwhm=5)
        for array in found_in(fit, run).values():
            assert array.chunks is not None


def test_series__predictions_read_no_data(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.nii")
    fit = cg.open_fit(cg.fit(run, DESIGN, mask=MASK).save(tmp_path / "fit.zarr"))
    expected = cg.fit(run, DESIGN, mask=MASK).predicted().compute()
    residuals = fit.residuals(run).compute()
    run.unlink()
    assert fit.predicted().compute().identical(expected)
    assert np.isfinite(residuals.to_numpy()[MASK]).all()


def test_series__blocks_are_bounded_and_suit_a_store(tmp_path: Path) -> None:
    run = xr.DataArray(
        np.broadcast_to(np.int16(7), (96, 96, 60, 2000)),
        dims=("x", "y", "z", "time"),
        attrs={"affine": np.eye(4).tolist()},
    ).chunk({"time": 100})
    design = np.random.default_rng(0).normal(size=(2000, 5))
    mask = np.zeros((96, 96, 60), dtype=bool)
    mask[40:50, 40:50, 5:55] = True
    fit = cg.fit(run, design, mask=mask)
    for array in found_in(fit, run).values():
        largest = np.prod([max(c) for c in array.chunks])
        assert largest * 8 <= chunkglm.blocks.SERIES_BLOCK_BYTES
        assert len(set(array.chunks[3][:-1])) == 1
        assert array.chunks[3][-1] <= array.chunks[3][0]


def test_series__lost_voxels_are_nan(tmp_path: Path) -> None:
    data = make_data(dtype=np.float32)
    data[1, 1, 2] = 900.0  # constant
    data[1, 1, 3, 7] = np.nan
    data[1, 1, 4] = 1000.0 + 5.0 * DESIGN["drift"]  # explained, but for float32's rounding
    exact = data.astype(float)
    exact[1, 1, 4] = 1000.0 + 5.0 * DESIGN["drift"]
    run = write_run(tmp_path / "run.nii", exact)
    fit = cg.fit(run, DESIGN, mask=MASK)
    status = fit.voxel_status.to_numpy()
    assert status[1, 1, 2:5].tolist() == [2, 3, 4]
    for name, array in found_in(fit, run).items():
        found = array.to_numpy()
        assert np.isnan(found[1, 1, 2:4]).all(), name
        # What is explained has a prediction, and no coefficient to whiten with.
        lost = np.isnan(found[1, 1, 4]).any()
        assert lost == name.startswith("whitened"), name
        assert np.isfinite(found[status == 0]).all(), name
    assert np.abs(fit.residuals(run).to_numpy()[1, 1, 4]).max() < 1e-11


def test_series__another_run_is_refused(run: Path, tmp_path: Path) -> None:
    fit = cg.fit(run, DESIGN, mask=MASK)
    shorter = write_run(tmp_path / "shorter.nii", make_data((*SHAPE[:3], 29)))
    for other in (shorter, cg.open_run(run).isel(x=slice(1, None))):
        with pytest.raises(ImageError) as caught:
            fit.residuals(other)
        one_line(caught.value, run, "(5, 4, 6, 30)", "pass the run of the fit")
    one_line(caught.value, "(4, 4, 6, 30)")
    with pytest.raises(ImageError) as caught:
        fit.residuals(make_data())
    other = write_run(tmp_path / "other.nii", make_data(seed=1))
    with pytest.raises(ImageError) as caught:
        fit.residuals(other).compute()
    one_line(caught.value, other, run, "first volumes differ")
