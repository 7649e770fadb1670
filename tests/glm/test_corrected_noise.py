"""Corrected and smoothed AR coefficients: against dense matrices, lazily, and from stores."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from helpers_lazy import (
    AFFINE,
    SHAPE,
    counting,
    distances,
    lazily,
    make_data,
    make_design,
    make_mask,
    one_line,
    same_bytes,
    write_run,
)
from scipy.optimize import brentq

import chunkglm as cg
import chunkglm.lazy.neighbours
import chunkglm.sizes
from chunkglm.errors import DesignError
from tests.helpers.gls import relative

FWHM = 8.0
CORRECTED = cg.AR(1, corrected=True)
SMOOTHED = cg.AR(1, corrected=True, smooth_fwhm=FWHM)
DESIGN, MASK = make_design(), make_mask()

# A coefficient read off the table (worst seen 1e-6), and what that does to a variance.
COEFFICIENT, VARIANCE = 5e-6, 2e-5

# Sums of a run are added in another order, then averaged over neighbours; worst seen 5e-14.
ROUNDING = 1e-12


def run_of(data: Any) -> xr.DataArray:
    attrs = {"affine": AFFINE.tolist()}
    return xr.DataArray(data, dims=("x", "y", "z", "time"), attrs=attrs)


def residual_maker(X: Any) -> Any:
    q = np.linalg.qr(X)[0]
    return np.eye(len(X)) - q @ q.T


def autocorrelation(residuals: Any) -> Any:
    n = residuals.shape[0]
    lagged = (residuals[1:] * residuals[:-1]).sum(axis=0) / (n - 1)
    return lagged / ((residuals**2).sum(axis=0) / n)


def correlations(rho: float, n: int) -> Any:
    return rho ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))


def dense_inverse(ratio: float, R: Any) -> float:
    """The coefficient that leaves this ratio in residuals, by (T, T) matrices and bisection."""
    n = len(R)
    shift = np.eye(n, k=1)

    def left(rho: float) -> float:
        V = R @ correlations(rho, n) @ R
        return float(n / (n - 1) * np.trace(shift @ V) / np.trace(V) - ratio)

    return float(brentq(left, -0.98, 0.98, xtol=1e-12))


def test_corrected__is_the_coefficient_that_leaves_such_residuals() -> None:
    data = make_data(dtype=np.float64)
    R = residual_maker(DESIGN.to_numpy())
    fit = cg.fit(run_of(data), DESIGN, mask=MASK, noise=CORRECTED, scaling=None).load()
    plain = cg.fit(run_of(data), DESIGN, mask=MASK, noise="ar1", scaling=None).load()
    ratios = autocorrelation(R @ data[MASK].T)
    np.testing.assert_allclose(plain.ar.to_numpy()[0][MASK], ratios, atol=1e-9)
    expected = np.array([dense_inverse(ratio, R) for ratio in ratios])
    np.testing.assert_allclose(fit.ar.to_numpy()[0][MASK], expected, atol=COEFFICIENT)
    assert (expected - ratios).mean() > 0.05
    # And the variance is that of the whitening with it.
    maps = cg.contrast(fit, "a - b").compute()
    variance = maps["effect_variance"].to_numpy()[MASK]
    np.testing.assert_allclose(variance, whitened_variance(data, expected), rtol=VARIANCE)
    bolder = cg.contrast(plain, "a - b")["effect_variance"].to_numpy()[MASK]
    assert relative(bolder, variance) > 0.01


def whitened_variance(data: Any, rho: Any) -> Any:
    """Variance of a - b in every voxel of the mask, each whitened with its own matrix."""
    X, c = DESIGN.to_numpy(), np.array([1.0, -1.0, 0.0, 0.0])
    found = []
    for y, one in zip(data[MASK], rho, strict=True):
        W = np.eye(len(y)) - one * np.eye(len(y), k=-1)
        inverse = np.linalg.inv((W @ X).T @ W @ X)
        left = W @ (y - X @ (inverse @ (W @ X).T @ W @ y))
        found.append(left @ left / (len(y) - 4) * (c @ inverse @ c))
    return np.array(found)


def neighbours(maps: Any, counts: Any, fwhm: float) -> Any:
    """Means over the voxels that count, weighted by distance in mm, one voxel at a time."""
    sizes = np.linalg.norm(AFFINE[:3, :3], axis=0)
    sigma = fwhm / np.sqrt(8 * np.log(2))
    places = np.argwhere(counts)
    found = np.full(maps.shape, np.nan)
    for place in places:
        steps = places - place
        reach = np.abs(steps) <= (4 * sigma / sizes + 0.5).astype(int)
        weight = np.exp(-0.5 * (((steps * sizes) / sigma) ** 2).sum(axis=1)) * reach.all(axis=1)
        found[tuple(place)] = weight @ maps[tuple(places.T)] / weight.sum()
    return found


def test_smoothed__is_the_average_over_the_mask_corrected() -> None:
    data = make_data(dtype=np.float64)
    # What cannot be estimated does not contribute: a constant voxel, one that is not finite.
    data[1, 1, 2], data[1, 1, 3, 5] = 7.0, np.nan
    counts = MASK.copy()
    counts[1, 1, 2:4] = False
    R = residual_maker(DESIGN.to_numpy())
    ratios = np.zeros(SHAPE[:3])
    ratios[counts] = autocorrelation(R @ data[counts].T)
    averages = neighbours(ratios, counts, FWHM)
    fit = cg.fit(run_of(data), DESIGN, mask=MASK, noise=SMOOTHED, scaling=None)
    found = fit.ar.to_numpy()[0]
    np.testing.assert_array_equal(np.isnan(found), ~counts)
    expected = [dense_inverse(ratio, R) for ratio in averages[counts]]
    np.testing.assert_allclose(found[counts], expected, atol=COEFFICIENT)
    # Neighbours had their say.
    own = [dense_inverse(ratio, R) for ratio in ratios[counts]]
    assert np.std(expected) < 0.5 * np.std(own)
    only = cg.fit(run_of(data), DESIGN, mask=MASK, noise=cg.AR(1, smooth_fwhm=FWHM), scaling=None)
    np.testing.assert_allclose(only.ar.to_numpy()[0][counts], averages[counts], atol=1e-9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("run.nii", "run.nii.gz"):
        write_run(folder / name)
    cg.convert(folder / "run.nii", folder / "run.zarr", progress=False)
    return folder


def everything(fit: Any) -> dict[str, xr.Dataset]:
    """All that is solved from moments."""
    return {
        "t": cg.contrast(fit, "a - b"),
        "F": cg.contrast(fit, ["a", "b"]),
        "model": xr.Dataset(
            {
                "beta": fit.beta,
                "sigma2": fit.sigma2,
                "ar": fit.ar,
                "status": fit.voxel_status,
                "predicted": fit.predicted(),
                "whitened": fit.predicted(whitened=True),
            }
        ),
    }


def assert_same(found: dict[str, xr.Dataset], expected: dict[str, xr.Dataset]) -> None:
    for kind in ("t", "F"):
        assert distances(found[kind], expected[kind]) < ROUNDING
    for name, values in expected["model"].items():
        scale = float(np.abs(values).max())
        np.testing.assert_allclose(found["model"][name], values, rtol=0, atol=ROUNDING * scale)


@pytest.mark.parametrize("noise", [SMOOTHED, cg.AR(2, corrected=True, smooth_fwhm=FWHM)])
def test_smoothed__any_source_and_slabs_give_the_same_maps(
    folder: Path, noise: cg.AR, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = cg.open_run(folder / "run.nii").load()
    expected = {
        kind: maps.compute()
        for kind, maps in everything(cg.fit(data, DESIGN, mask=MASK, noise=noise)).items()
    }
    monkeypatch.setattr(chunkglm.sizes, "SMALLEST_SLAB_BYTES", 1)
    monkeypatch.setattr(chunkglm.sizes, "SLAB_BYTES", 1)
    runs = [folder / "run.nii", folder / "run.nii.gz", folder / "run.zarr"]
    for run in [*runs, data.chunk({"time": 7, "z": 2, "x": 3})]:
        fit = cg.fit(run, DESIGN, mask=MASK, noise=noise)
        if run is not runs[-1]:  # whose chunks are read whole
            assert len(fit.slabs.voxel_chunks) == 4  # a plane each
        assert_same({k: maps.compute() for k, maps in everything(fit).items()}, expected)


def test_smoothed__is_lazy_and_made_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunkglm.sizes, "SMALLEST_SLAB_BYTES", 1)
    smoothed = counting(monkeypatch, chunkglm.lazy.neighbours, "smooth_within")
    with lazily():
        fit = cg.fit(folder / "run.zarr", DESIGN, mask=MASK, noise=SMOOTHED)
        repr(fit)
        maps = everything(fit)
        for one in maps.values():
            assert all(isinstance(values.data, da.Array) for values in one.values())
    assert not smoothed
    dask.compute(*maps.values())
    assert len(smoothed) == 1


def test_smoothed__from_a_store_of_the_fit_with_the_run_gone(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.nii.gz")
    for noise in (CORRECTED, SMOOTHED, cg.AR(2, corrected=True, smooth_fwhm=FWHM)):
        fit = cg.fit(path, DESIGN, mask=MASK, noise=noise)
        expected = {k: maps.compute() for k, maps in everything(fit).items()}
        fit.save(tmp_path / "fit.zarr", overwrite=True)
        opened = cg.open_fit(tmp_path / "fit.zarr")
        assert opened.noise == noise
        assert repr(opened).count(str(noise)) == 1
        assert_same({k: maps.compute() for k, maps in everything(opened).items()}, expected)
        assert_same({k: maps.compute() for k, maps in everything(opened.load()).items()}, expected)


def test_smoothed__threads_and_workers_give_the_same_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(chunkglm.sizes, "SMALLEST_SLAB_BYTES", 1)
    maps = cg.contrast(cg.fit(folder / "run.zarr", DESIGN, mask=MASK, noise=SMOOTHED), "a")
    expected = maps.compute(scheduler="synchronous")
    assert same_bytes(maps.compute(scheduler="threads", num_workers=3), expected)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        assert same_bytes(client.compute(maps).result(timeout=60), expected)


def test_corrected__of_gaps_takes_lags_within_segments_only() -> None:
    data = make_data(dtype=np.float64)
    keep = np.ones(SHAPE[3], dtype=bool)
    keep[[0, 9, 10, 21]] = False
    garbage = data.copy()
    garbage[..., ~keep] = 1e6
    fit = cg.fit(
        run_of(garbage), DESIGN, mask=MASK, noise=CORRECTED, scaling=None, sample_mask=keep
    )
    Q = np.zeros((SHAPE[3], 4))
    Q[keep] = np.linalg.qr(DESIGN.to_numpy()[keep])[0]
    R = np.diag(keep.astype(float)) - Q @ Q.T
    pairs = keep[1:] & keep[:-1]
    left = R @ data[MASK].T
    ratios = (left[1:] * left[:-1])[pairs].sum(axis=0) / pairs.sum()
    ratios /= (left**2).sum(axis=0) / keep.sum()
    shift = np.zeros((SHAPE[3], SHAPE[3]))
    shift[np.flatnonzero(pairs), np.flatnonzero(pairs) + 1] = 1.0

    def leaves(rho: float, ratio: float) -> float:
        V = R @ correlations(rho, SHAPE[3]) @ R
        n_pairs = pairs.sum() / keep.sum()
        return float(np.trace(shift @ V) / np.trace(V) / n_pairs - ratio)

    expected = [brentq(leaves, -0.98, 0.98, args=(ratio,)) for ratio in ratios]
    np.testing.assert_allclose(fit.ar.to_numpy()[0][MASK], expected, atol=COEFFICIENT)


def test_smoothed__needs_voxel_sizes() -> None:
    run = run_of(make_data())
    run.attrs["affine"] = np.zeros((4, 4)).tolist()
    with pytest.raises(cg.ChunkglmError, match=r"affine"):
        cg.fit(run, DESIGN, mask=MASK, noise=SMOOTHED)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"order": 0, "corrected": True}, ("corrected", "order 0")),
        ({"order": 0, "smooth_fwhm": 5.0}, ("smooth_fwhm", "order 0")),
        ({"order": 1, "corrected": True, "iterations": 2}, ("corrected", "2 iterations")),
        ({"order": 1, "smooth_fwhm": 5.0, "iterations": 3}, ("smooth_fwhm", "3 iterations")),
        ({"order": 1, "corrected": "yes"}, ("corrected", "'yes'")),
        ({"order": 1, "corrected": 1}, ("corrected", "True or False")),
        ({"order": 1, "smooth_fwhm": 0}, ("smooth_fwhm", "positive")),
        ({"order": 1, "smooth_fwhm": -3.0}, ("smooth_fwhm", "-3.0")),
        ({"order": 1, "smooth_fwhm": np.nan}, ("smooth_fwhm", "nan")),
        ({"order": 1, "smooth_fwhm": np.inf}, ("smooth_fwhm", "inf")),
        ({"order": 1, "smooth_fwhm": True}, ("smooth_fwhm", "True")),
        ({"order": 1, "smooth_fwhm": "15"}, ("smooth_fwhm", "'15'")),
    ],
)
def test_ar__refuses_what_cannot_be_corrected_or_smoothed(
    wrong: dict[str, Any], told: tuple[str, ...]
) -> None:
    with pytest.raises(DesignError) as error:
        cg.AR(**wrong)
    one_line(error.value, *told)


def test_ar__says_what_it_does() -> None:
    names = ["ar1", "ar1, corrected", "ar1, corrected, smoothed over 8 mm"]
    assert [str(noise) for noise in (cg.AR(1), CORRECTED, SMOOTHED)] == names
    assert all(a != b for a, b in pairwise([cg.AR(1), CORRECTED, SMOOTHED]))
