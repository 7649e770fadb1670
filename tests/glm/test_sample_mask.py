"""Volumes left out of a fit: the same as if they, and the pairs across them, were never there."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers.gaps import dense_gls
from helpers.gls import projection
from helpers_lazy import (
    SHAPE,
    distances,
    lazily,
    make_data,
    make_design,
    make_mask,
    one_line,
    small_plans,
    truth_of,
    write_run,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import chunkglm as cg
from chunkglm.errors import DesignError
from chunkglm.kernels.noise import parse_noise
from chunkglm.kernels.smoothing import VolumeSmoother

DESIGN, MASK = make_design(), make_mask()
T = SHAPE[3]
# Effects in standard errors, variances relative, against dense matrices. Seen: 4e-12.
DENSE = 1e-8
# Sums in another order. Seen: 3e-14.
ROUNDING = 1e-12

KEEP = np.ones(T, dtype=bool)
KEEP[[0, 5, 7, 16, 17, 28]] = False
NOISES: list[Any] = [
    "ols", "ar1", cg.AR(1, bins=50), "ar3", cg.AR(1, initial="stationary"),
    cg.AR(3, initial="stationary"), cg.AR(2, iterations=2),
]  # fmt: skip
EVERY_NOISE = pytest.mark.parametrize("noise", NOISES, ids=str)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run as floats with holes where volumes are dropped, in every form."""
    folder = tmp_path_factory.mktemp("runs")
    data = make_data(dtype=np.float32)
    data[..., ~KEEP] = np.nan
    for name in ("run.nii", "run.nii.gz"):
        write_run(folder / name, data, slope=np.float32(0.37), intercept=np.float32(-11.3))
    cg.convert(folder / "run.nii", folder / "run.zarr", progress=False)
    return folder


@EVERY_NOISE
@pytest.mark.parametrize("scaling", ["percent", None])
def test_fit__of_kept_volumes_equals_dense_matrices(folder: Path, noise: Any, scaling: Any) -> None:
    fit = cg.fit(folder / "run.nii.gz", DESIGN, mask=MASK, noise=noise, sample_mask=KEEP,
                 scaling=scaling)  # fmt: skip
    C = np.array([[1.0, 0, 0, 0], [0, 1, 0.5, 0]])
    maps, ar, beta, sigma2, status = dask.compute(
        cg.contrast(fit, C), fit.ar, fit.beta, fit.sigma2, fit.voxel_status
    )
    assert (status.to_numpy()[MASK] == 0).all()
    assert ar.dims == ("lag", "x", "y", "z")
    Y = truth_of(folder / "run.nii").astype(float)[MASK].T
    if scaling == "percent":
        Y = 100 * (Y / Y[KEEP].mean(axis=0) - 1)
    stationary = fit.noise.initial == "stationary"
    truth = dense_gls(Y, DESIGN.to_numpy(), C, ar.to_numpy()[:, MASK], KEEP, stationary=stationary)
    spread = np.sqrt(np.einsum("qqv->qv", truth.covariance))
    effect = maps["effect_size"].to_numpy()[:, MASK]
    covariance = maps["effect_variance"].to_numpy()[:, :, MASK]
    assert (np.abs(effect - truth.effect) / spread).max() < DENSE
    assert (np.abs(covariance - truth.covariance) / spread[:, None] / spread[None]).max() < DENSE
    np.testing.assert_allclose(beta.to_numpy()[:, MASK], truth.beta, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(sigma2.to_numpy()[MASK], truth.sigma2, rtol=DENSE)
    assert fit.dof == maps.attrs["dof"] == KEEP.sum() - 4
    assert (maps["dof"].to_numpy()[MASK] == fit.dof).all()


def test_fit__reads_the_mask_in_every_form(folder: Path, tmp_path: Path) -> None:
    def t_of(sample_mask: Any, design: Any = DESIGN) -> xr.Dataset:
        fit = cg.fit(folder / "run.nii", design, mask=MASK, sample_mask=sample_mask)
        np.testing.assert_array_equal(fit.sample_mask, KEEP)
        return cg.contrast(fit, [1, -1, 0, 0]).compute()

    expected = t_of(KEEP)
    kept = np.flatnonzero(KEEP)
    for name, lines in {
        "flags.txt": KEEP.astype(int), "indices.tsv": ["kept", *kept], "words.csv": KEEP.tolist(),
    }.items():  # fmt: skip
        (tmp_path / name).write_text("\n".join(map(str, lines)) + "\n")
    np.save(tmp_path / "flags.npy", KEEP)
    np.save(tmp_path / "indices.npy", kept)
    for form in (KEEP.tolist(), kept, kept.tolist(), kept[::-1], kept.astype(np.uint8),
                 *tmp_path.iterdir(), str(tmp_path / "flags.txt")):  # fmt: skip
        assert t_of(form).identical(expected)
    # A design of the kept volumes, and one with holes where none is kept.
    holes = DESIGN.astype(float)
    holes[~KEEP] = np.nan
    for design in (DESIGN[KEEP], holes, holes.to_numpy(), DESIGN.to_numpy()[KEEP]):
        assert distances(t_of(KEEP, design), expected) == 0
    wrong = DESIGN.to_numpy().copy()
    wrong[~KEEP] = 1e6
    assert distances(t_of(KEEP, wrong), expected) == 0


def test_fit__with_all_volumes_kept_is_the_plain_fit(folder: Path) -> None:
    run = write_run(folder / "whole.nii")
    plain = cg.contrast(cg.fit(run, DESIGN, mask=MASK), "a").compute()
    for everything in (np.ones(T, bool), np.arange(T)):
        fit = cg.fit(run, DESIGN, mask=MASK, sample_mask=everything)
        assert cg.contrast(fit, "a").compute().identical(plain)
    assert "30 volumes," in repr(fit)


@pytest.mark.parametrize(
    ("sample_mask", "words"),
    [
        (np.ones(T - 1, bool), ("29 flags", "30 volumes")),
        ([0, 1, T], ("volume 30", "30 volumes", "0 to 29")),
        ([-1, 0, 1], ("volume -1",)),
        ([3, 4, 4], ("volume 4 more than once", "each once")),
        (np.ones(T, int), ("volume 1 more than once", "booleans")),
        (np.zeros(T, bool), ("none of the 30",)),
        ([], ("sample_mask",)),
        (np.linspace(0, 1, T), ("float64",)),
        (np.ones((T, 1), bool), ("(30, 1)",)),
        (["a"], ("sample_mask",)),
        (5, ("sample_mask", "()")),
        ("none.txt", ("none.txt", "does not exist")),
        (np.arange(5), ("order 2", "1 degrees")),
        (np.arange(4), ("rank 4", "4 volumes that are kept")),
        (np.arange(0, T, 2), ("order 1", "15 segments", "1 volumes")),
    ],
)
def test_fit__refuses_a_mask_that_does_not_fit(
    folder: Path, sample_mask: Any, words: tuple[str, ...]
) -> None:
    with pytest.raises(DesignError) as caught:
        cg.fit(folder / "run.nii", DESIGN, sample_mask=sample_mask, noise="ar1" if np.size(
            sample_mask) != 5 else "ar2")  # fmt: skip
    one_line(caught.value, *words)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("mask.txt", "1\n0\nx\n", ("line 3", "'x'")),
        ("mask.txt", "0.5\n", ("line 1", "0.5")),
        ("mask.txt", "nan\n1\n", ("line 1",)),
        ("mask.txt", "1e300\n", ("line 1",)),
        ("mask.txt", "1,2\n3,4\n", ("line 2", "3,4")),
        ("mask.json", "[1]", (".txt, .csv, .tsv or .npy",)),
        ("mask.npy", "not numpy", ("mask.npy", "np.save")),
        ("mask.txt", b"\xff\xfe", ("UTF-8",)),
    ],
)
def test_fit__refuses_a_file_that_is_no_mask(
    folder: Path, tmp_path: Path, name: str, content: str | bytes, words: tuple[str, ...]
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DesignError) as caught:
        cg.fit(folder / "run.nii", DESIGN, sample_mask=path)
    one_line(caught.value, path, *words)


def test_fit__never_unpickles_a_mask(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DesignError) as caught:
        cg.fit(folder / "run.nii", DESIGN, sample_mask=tmp_path / "mask.npy")
    one_line(caught.value, "mask.npy")


def test_fit__a_regressor_of_dropped_volumes_alone_is_told(folder: Path) -> None:
    spike = DESIGN.assign(spike=np.arange(T) == 5)
    with pytest.warns(UserWarning, match="'spike' = 0"):
        fit = cg.fit(folder / "run.nii", spike, mask=MASK, sample_mask=KEEP)
    assert fit.dof == KEEP.sum() - 4
    expected = cg.contrast(cg.fit(folder / "run.nii", DESIGN, mask=MASK, sample_mask=KEEP), "a")
    assert distances(cg.contrast(fit, "a").compute(), expected.compute()) < ROUNDING
    with pytest.raises(cg.ChunkglmError, match="spike"):
        cg.contrast(fit, "spike")


def test_fit__of_events_drops_volumes_of_the_whole_design(folder: Path) -> None:
    events = pd.DataFrame({"onset": [4.0, 30.0], "duration": 6.0, "trial_type": ["a", "b"]})
    design = cg.design_from_events(events, n_scans=T, t_r=2.0)
    fits = [cg.fit(folder / "run.nii", d, mask=MASK, sample_mask=KEEP) for d in (events, design)]
    maps = [cg.contrast(fit, "a - b").compute() for fit in fits]
    assert distances(*maps) == 0


def test_fit__refuses_an_order_beyond_the_data(folder: Path) -> None:
    for noise, words in (("ar27", ("order 27", "26 degrees")), ("ar999", ("order 999",))):
        with pytest.raises(DesignError) as caught:
            cg.fit(folder / "run.nii", DESIGN, noise=noise)
        one_line(caught.value, *words)


# --- any blocks --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[Any, xr.Dataset]:
    data = cg.open_run(folder / "run.nii").load()
    return {
        (str(noise), fwhm): maps_of(data, noise, fwhm) for noise in NOISES for fwhm in (None, 5.0)
    }


def maps_of(run: Any, noise: Any, fwhm: float | None) -> xr.Dataset:
    fit = cg.fit(run, DESIGN, mask=MASK, noise=noise, sample_mask=KEEP, smoothing_fwhm=fwhm)
    return cg.contrast(fit, ["a", "b"]).compute()


chunkings = st.fixed_dictionaries(
    {d: st.integers(1, n) for d, n in zip(("x", "y", "z", "time"), SHAPE, strict=True)}
)


@given(
    chunks=chunkings, slab=st.sampled_from([1, 1000, 10**9]), series=st.integers(1, 50_000),
    noise=st.sampled_from(NOISES), fwhm=st.sampled_from([None, 5.0]),
)  # fmt: skip
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_dask_array__any_chunking_of_kept_volumes_gives_the_same_maps(
    folder: Path, expected: dict[Any, xr.Dataset], chunks: dict[str, int], slab: int, series: int,
    noise: Any, fwhm: float | None,
) -> None:  # fmt: skip
    with small_plans(slab, series):
        run = cg.open_run(folder / "run.nii.gz").load().chunk(chunks)
        assert distances(maps_of(run, noise, fwhm), expected[str(noise), fwhm]) < ROUNDING


@EVERY_NOISE
@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "zarr"])
@pytest.mark.parametrize(("slab", "series"), [(1, 1), (3000, 3000)])
def test_sources__all_forms_and_plans_give_the_same_maps(
    folder: Path, expected: dict[Any, xr.Dataset], suffix: str, noise: Any, slab: int, series: int
) -> None:
    with small_plans(slab, series):
        found = maps_of(folder / f"run.{suffix}", noise, None)
    assert distances(found, expected[str(noise), None]) < ROUNDING


def test_smoothing__holes_in_kept_volumes_are_zeros_and_in_dropped_ones_nothing(
    folder: Path, expected: dict[Any, xr.Dataset]
) -> None:
    whole = make_data(dtype=np.float32)
    other = whole.copy()
    other[..., ~KEEP] = 1e5
    options = {"slope": np.float32(0.37), "intercept": np.float32(-11.3)}
    run = write_run(folder / "other.nii", other, **options)
    assert distances(maps_of(run, "ar3", 5.0), expected["ar3", 5.0]) == 0


@pytest.mark.parametrize("form", ["run.nii", "run.nii.gz", "run.zarr", "array"])
@pytest.mark.parametrize("series", [3000, 10**6])
def test_smoothing__is_of_kept_volumes_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, form: str, series: int
) -> None:
    smoothed, whole = [], VolumeSmoother.smoothed

    def counted(self: VolumeSmoother, volumes: Any, workspace: Any) -> Iterator[Any]:
        for made in whole(self, volumes, workspace):
            smoothed.append(self.z.n_out)
            yield made

    monkeypatch.setattr(VolumeSmoother, "smoothed", counted)
    with small_plans(10**9, series):
        run = cg.open_run(folder / ("run.nii" if form == "array" else form))
        fit = cg.fit(run * 1.0 if form == "array" else run, DESIGN, mask=MASK, sample_mask=KEEP,
                     smoothing_fwhm=5.0)  # fmt: skip
        fit.load()
    planes = np.flatnonzero(MASK.any(axis=(0, 1)))
    assert sum(smoothed) == KEEP.sum() * (planes[-1] + 1 - planes[0])


# --- stores, series, and what is shown ------------------------------------------------------------


@EVERY_NOISE
def test_open_fit__keeps_gaps_and_noise(folder: Path, tmp_path: Path, noise: Any) -> None:
    for design in (DESIGN, DESIGN[KEEP]):
        fit = cg.fit(folder / "run.nii", design, mask=MASK, noise=noise, sample_mask=KEEP)
        fit.save(tmp_path / "fit.zarr", overwrite=True)
        with lazily():
            found = cg.open_fit(tmp_path / "fit.zarr")
            assert repr(found).split("\n")[1:3] == repr(fit).split("\n")[1:3]
        assert found.noise == fit.noise
        np.testing.assert_array_equal(found.sample_mask, KEEP)
        np.testing.assert_array_equal(found.design.values, fit.design.values)
        assert distances(
            cg.contrast(found, ["a", "b"]).compute(), cg.contrast(fit, ["a", "b"]).compute()
        ) < ROUNDING  # fmt: skip
    assert "30 volumes (24 kept, in 5 segments)" in repr(fit)
    assert str(fit.noise) in repr(fit)


@pytest.mark.parametrize(
    "noise", ["ols", "ar1", "ar3", cg.AR(1, initial="stationary"), cg.AR(3, initial="stationary")],
    ids=str,
)  # fmt: skip
def test_series__are_missing_where_volumes_are_dropped(folder: Path, noise: Any) -> None:
    fit = cg.fit(folder / "run.nii", DESIGN, mask=MASK, noise=noise, sample_mask=KEEP).load()
    beta = fit.beta.to_numpy()[:, MASK]
    Y = truth_of(folder / "run.nii").astype(float)[MASK]
    Y = 100 * (Y / Y[:, KEEP].mean(axis=1, keepdims=True) - 1)
    left = Y - (DESIGN.to_numpy() @ beta).T
    ar = fit.ar.to_numpy()[:, MASK]
    white = left.copy()
    for t in range(T):
        for lag, coefficient in enumerate(ar, start=1):
            if t >= lag and KEEP[t - lag : t + 1].all():
                white[:, t] -= coefficient * left[:, t - lag]
    for small in (False, True):
        with small_plans(1, 1) if small else small_plans(10**9, 10**9):
            found = fit.residuals(folder / "run.nii.gz").compute().to_numpy()[MASK]
            whitened = fit.residuals(folder / "run.nii", whitened=True).compute().to_numpy()[MASK]
            predicted = fit.predicted().compute().to_numpy()[MASK]
        np.testing.assert_array_equal(np.isnan(found), np.broadcast_to(~KEEP, found.shape))
        np.testing.assert_array_equal(np.isnan(whitened), np.isnan(found))
        np.testing.assert_allclose(found[:, KEEP], left[:, KEEP], atol=1e-9)
        if fit.noise.initial == "conditional":
            np.testing.assert_allclose(whitened[:, KEEP], white[:, KEEP], atol=1e-9)
        np.testing.assert_allclose(predicted[:, KEEP], (Y - left)[:, KEEP], atol=1e-9)
    # The squares of whitened residuals are what sigma2 is made of.
    squares = (whitened[:, KEEP] ** 2).sum(axis=1) / fit.dof
    np.testing.assert_allclose(squares, fit.sigma2.to_numpy()[MASK], rtol=1e-9)


def test_a_constant_voxel__among_kept_volumes_is_told(folder: Path) -> None:
    data = make_data(dtype=np.float32)
    data[1, 1, 2] = 7.0
    data[1, 1, 2, ~KEEP] = 1000.0
    run = write_run(folder / "constant.nii", data)
    status = cg.fit(run, DESIGN, mask=MASK, sample_mask=KEEP, noise="ar2").voxel_status.to_numpy()
    assert status[1, 1, 2] == 2
    assert (status[MASK] > 0).sum() == 1


def test_least_squares__of_kept_volumes_is_that_of_a_shorter_run(folder: Path) -> None:
    fit = cg.fit(folder / "run.nii", DESIGN, mask=MASK, noise="ols", sample_mask=KEEP)
    Y = truth_of(folder / "run.nii").astype(float)[MASK][:, KEEP]
    Y = 100 * (Y / Y.mean(axis=1, keepdims=True) - 1)
    inverse, _ = projection(DESIGN.to_numpy()[KEEP])
    np.testing.assert_allclose(fit.beta.to_numpy()[:, MASK], inverse @ Y.T, rtol=1e-9, atol=1e-9)


@EVERY_NOISE
def test_select__of_kept_volumes_is_the_fit_of_fewer_regressors(folder: Path, noise: Any) -> None:
    options = {"mask": MASK, "noise": noise, "sample_mask": KEEP}
    columns = ["a", "drift", "constant"]
    for rows in (np.ones(T, bool), KEEP):
        whole = cg.fit(folder / "run.nii", DESIGN[rows], **options)
        expected = cg.fit(folder / "run.nii", DESIGN[columns][rows], **options)
        found = whole.select(columns)
        assert found.dof == expected.dof
        assert distances(
            cg.contrast(found, ["a", "drift"]).compute(),
            cg.contrast(expected, ["a", "drift"]).compute(),
        ) < 1e-10  # fmt: skip


@pytest.mark.parametrize("noise", ["ar1", "ar3"])
@pytest.mark.parametrize("form", ["run.nii.gz", "run.zarr", "array"])
def test_across_gaps__the_kept_volumes_are_one_series(folder: Path, noise: str, form: str) -> None:
    """As nilearn takes them: the fit of a run that never had the others."""
    joined = replace(parse_noise(noise), across_gaps=True)
    run = cg.open_run(folder / ("run.nii.gz" if form == "array" else form))
    run = run * 1.0 if form == "array" else run
    rows = DESIGN[KEEP]
    found = cg.fit(run, rows, mask=MASK, noise=joined, sample_mask=KEEP, smoothing_fwhm=6)
    shorter = cg.open_run(folder / "run.nii").isel(time=np.flatnonzero(KEEP))
    expected = cg.fit(shorter, rows, mask=MASK, noise=noise, smoothing_fwhm=6)
    maps = [cg.contrast(f, [1.0, 0, 0, 0]).compute() for f in (found, expected)]
    for name in ("effect_size", "effect_variance", "z_score"):
        np.testing.assert_allclose(*(m[name] for m in maps), rtol=1e-9, atol=1e-9)
    with pytest.raises(DesignError, match="whitened series"):
        found.residuals(run, whitened=True)
