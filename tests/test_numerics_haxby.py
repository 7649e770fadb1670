"""Whole analyses against nilearn and against brute force: real runs, and a simulated one.

Twelve real runs (Haxby et al. 2001, subject 1) with the designs that nilearn makes of their
events, and one simulated run of FIAC's size with smoothing. The same numbers must come out of the
compressed file, out of stores and out of arrays chunked in any way.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import dask
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers.gls import (
    brute_force,
    in_standard_errors,
    near_bin_edge,
    relative,
    scaled,
    whitener,
)
from nilearn.glm.contrasts import compute_fixed_effects
from nilearn.glm.first_level import FirstLevelModel, make_first_level_design_matrix
from scipy.linalg import block_diag

import chunkglm as cg

HAXBY = Path(__file__).parents[2] / "shared" / "data" / "haxby"
T_R = 2.5
CONTRAST = "face - house"
FIAC_CONTRAST = "DStSSp + DStDSp - SStSSp - SStDSp"

# Against nilearn, effects and t in standard errors, variances relative, z absolute: sums in another
# order, about another origin. Seen: haxby 2e-13, FIAC 5e-13.
NILEARN = 1e-8
# Against brute force with the exact coefficient, in standard errors. Seen: 2e-13.
BRUTE_FORCE = 1e-9
# Between ways of reading one run. Seen: haxby 4e-15, FIAC 5e-13.
ANOTHER_PATH = 1e-10
# nilearn reads int16 as float32, and so differs from itself in float64. Seen: 1.4e-5 of a
# standard error (haxby, run 1).
NILEARN_FLOAT32 = 1e-4
# F over runs against one dense model of all of them, relative.
JOINT_F = 1e-8
# Share of voxels that rounding may put into another bin of the coefficient.
AT_BIN_EDGES = 1e-4

needs_haxby = pytest.mark.skipif(
    not HAXBY.is_dir(), reason="the real runs (shared/data/haxby, beside the project) are absent"
)


@dataclass(frozen=True)
class Run:
    """One run, its design, and nilearn's maps of it."""

    path: Path
    design: pd.DataFrame
    effect: np.ndarray  # (x, y, z)
    variance: np.ndarray
    t: np.ndarray
    z: np.ndarray


@dataclass(frozen=True)
class Study:
    """Runs of one subject under one mask."""

    mask_path: Path
    mask: np.ndarray
    runs: list[Run]
    folder: Path


def design_of(events: Path, n_scans: int) -> pd.DataFrame:
    return make_first_level_design_matrix(
        np.arange(n_scans) * T_R,
        pd.read_csv(events, sep="\t"),
        drift_model="cosine",
        high_pass=1 / 128,
    )


def as_float64(path: Path) -> nib.Nifti1Image:
    """Return the run with the same values in float64.

    nilearn casts int16 images to float32, and its results then differ from any made in float64 by
    some 1e-6 to 1e-5 of a standard error: enough to hide what is tested here.
    """
    image = nib.load(path)
    values = np.asarray(image.dataobj, dtype=np.float64)
    header = image.header.copy()
    header.set_data_dtype(np.float64)
    return nib.Nifti1Image(values, image.affine, header)


def by_nilearn(
    image: nib.Nifti1Image, mask: Path, design: pd.DataFrame, contrast: str, fwhm: float | None
) -> dict[str, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = FirstLevelModel(
            t_r=T_R, noise_model="ar1", mask_img=str(mask), smoothing_fwhm=fwhm, signal_scaling=0
        )
        model.fit(image, design_matrices=design)
        found = model.compute_contrast(contrast, output_type="all")
    names = {
        "effect": "effect_size", "variance": "effect_variance", "t": "stat", "z": "z_score",
    }  # fmt: skip
    return {ours: found[theirs].get_fdata() for ours, theirs in names.items()}


def maps_of(
    run: xr.DataArray | Path,
    design: pd.DataFrame,
    mask: Path,
    *,
    noise: cg.AR | str,
    contrast: str = CONTRAST,
    fwhm: float | None = None,
) -> tuple[xr.Dataset, cg.Fit]:
    fit = cg.fit(run, design, mask=mask, noise=noise, smoothing_fwhm=fwhm)
    return cg.contrast(fit, contrast).compute(), fit


def exact_edges(run: Run, mask: Path, **options: object) -> np.ndarray:
    """Voxels whose coefficient lies within rounding of the edge of a bin, (x, y, z)."""
    fit = cg.fit(run.path, run.design, mask=mask, noise="ar1", **options)
    return near_bin_edge(np.nan_to_num(fit.ar.compute().values[0]), 100)


def assert_equals_nilearn(maps: xr.Dataset, run: Run, keep: np.ndarray) -> None:
    found = {name: maps[name].values[keep] for name in maps.data_vars}
    effect, variance = run.effect[keep], run.variance[keep]
    assert in_standard_errors(found["effect_size"], effect, variance) < NILEARN
    assert relative(found["effect_variance"], variance) < NILEARN
    assert np.abs(found["stat"] - run.t[keep]).max() < NILEARN
    assert np.abs(found["z_score"] - run.z[keep]).max() < NILEARN


def assert_same_maps(found: xr.Dataset, expected: xr.Dataset, mask: np.ndarray) -> None:
    variance = expected["effect_variance"].values[mask]
    effects = [m["effect_size"].values[mask] for m in (found, expected)]
    assert in_standard_errors(*effects, variance) < ANOTHER_PATH
    assert relative(found["effect_variance"].values[mask], variance) < ANOTHER_PATH
    for name in ("stat", "z_score"):
        assert np.abs(found[name].values[mask] - expected[name].values[mask]).max() < ANOTHER_PATH
    for name in expected.data_vars:
        np.testing.assert_array_equal(np.isnan(found[name]), np.isnan(expected[name]))


@pytest.fixture(scope="module")
def haxby(tmp_path_factory: pytest.TempPathFactory) -> Study:
    mask_path = HAXBY / "mask.nii.gz"
    mask = np.asarray(nib.load(mask_path).dataobj) > 0
    runs = []
    for folder in sorted(HAXBY.glob("run-*")):
        path = folder / "bold.nii.gz"
        image = as_float64(path)
        design = design_of(folder / "events.tsv", image.shape[3])
        found = by_nilearn(image, mask_path, design, CONTRAST, None)
        runs.append(Run(path, design, **found))
    return Study(mask_path, mask, runs, tmp_path_factory.mktemp("haxby"))


@needs_haxby
def test_haxby__every_run_equals_nilearn(haxby: Study) -> None:
    assert len(haxby.runs) == 12
    assert haxby.mask.sum() == 530
    left_out = 0
    for run in haxby.runs:
        edges = exact_edges(run, haxby.mask_path)
        left_out += int(edges[haxby.mask].sum())
        maps, _ = maps_of(run.path, run.design, haxby.mask_path, noise=cg.AR(1, bins=100))
        assert maps.attrs["dof"] == 121 - run.design.shape[1]
        assert (maps["voxel_status"].values[haxby.mask] == 0).all()
        assert np.isnan(maps["stat"].values[~haxby.mask]).all()
        assert_equals_nilearn(maps, run, haxby.mask & ~edges)
    assert left_out <= AT_BIN_EDGES * 12 * 530


@needs_haxby
def test_haxby__another_noise_model_is_noticed(haxby: Study) -> None:
    # Negative control: the exact coefficient is not nilearn's, by up to 0.01.
    run = haxby.runs[0]
    maps, _ = maps_of(run.path, run.design, haxby.mask_path, noise="ar1")
    with pytest.raises(AssertionError):
        assert_equals_nilearn(maps, run, haxby.mask)


@needs_haxby
def test_haxby__nilearn_on_int16_differs_from_itself_in_float64(haxby: Study) -> None:
    run = haxby.runs[0]
    image = nib.load(run.path)
    assert image.get_data_dtype() == np.int16
    in_float32 = by_nilearn(image, haxby.mask_path, run.design, CONTRAST, None)
    mask = haxby.mask & ~exact_edges(run, haxby.mask_path)
    off = in_standard_errors(in_float32["effect"][mask], run.effect[mask], run.variance[mask])
    assert NILEARN < off < NILEARN_FLOAT32


@needs_haxby
@pytest.mark.parametrize("noise", ["ols", "ar1", cg.AR(1, bins=100)], ids=str)
def test_haxby__files_stores_and_chunks_give_the_same_maps(
    haxby: Study, noise: cg.AR | str
) -> None:
    for number in (0, 7):
        run = haxby.runs[number]
        from_file, _ = maps_of(run.path, run.design, haxby.mask_path, noise=noise)
        store = haxby.folder / f"run-{number}.zarr"
        if not store.exists():
            cg.convert(run.path, store, progress=False)
        opened = cg.open_run(store)
        others = {
            "store": opened,
            "time in 7": opened.chunk({"time": 7}),
            "one volume": opened.chunk({"x": 40, "y": 20, "z": 1, "time": 1}),
            "uneven": opened.chunk({"x": (13, 27), "y": (1, 19), "time": (2, 50, 69)}),
            "columns": opened.chunk({"x": 3, "y": 4, "time": -1}),
            "file, chunked": cg.open_run(run.path).chunk({"x": 11, "time": 33}),
            "in memory": opened.compute(),
            "other order": opened.transpose("time", "z", "y", "x"),
        }
        # Rounding in another order may move a coefficient over the edge of a bin.
        mask = haxby.mask & ~exact_edges(run, haxby.mask_path)
        for name, array in others.items():
            found, _ = maps_of(array, run.design, haxby.mask_path, noise=noise)
            assert found["stat"].shape == haxby.mask.shape, name
            assert_same_maps(found, from_file, mask)


@needs_haxby
@pytest.mark.parametrize("weighted", [False, True])
def test_haxby__fixed_effects_equal_nilearn_given_the_true_dofs(
    haxby: Study, weighted: bool
) -> None:
    noise = cg.AR(1, bins=100)
    maps, dofs, edges = [], [], np.zeros_like(haxby.mask)
    for run in haxby.runs:
        fit = cg.fit(run.path, run.design, mask=haxby.mask_path, noise=noise)
        maps.append(cg.contrast(fit, CONTRAST))
        dofs.append(fit.dof)
        edges |= exact_edges(run, haxby.mask_path)
    affine = nib.load(haxby.mask_path).affine
    theirs = compute_fixed_effects(
        [nib.Nifti1Image(run.effect, affine) for run in haxby.runs],
        [nib.Nifti1Image(run.variance, affine) for run in haxby.runs],
        mask=str(haxby.mask_path),
        precision_weighted=weighted,
        dofs=dofs,
    )
    names = ("effect", "variance", "t", "z")
    expected = dict(zip(names, (image.get_fdata() for image in theirs), strict=True))
    pooled = cg.fixed_effects(maps, precision_weighted=weighted).compute()
    keep = haxby.mask & ~edges
    assert keep.sum() >= 530 * (1 - 12 * AT_BIN_EDGES) - 1
    assert_equals_nilearn(pooled, Run(haxby.mask_path, haxby.runs[0].design, **expected), keep)
    assert (pooled["n_runs"].values[keep] == 12).all()
    assert (pooled["dof"].values[keep] == sum(dofs)).all()
    # The result is a sensible one: faces and houses are told apart.
    assert np.abs(pooled["z_score"].values[keep]).max() > 7
    # Nine runs and three, pooled before, merge to the same.
    parts = [cg.fixed_effects(p, precision_weighted=weighted) for p in (maps[:9], maps[9:])]
    merged = cg.fixed_effects(parts, precision_weighted=weighted).compute()
    assert_same_maps(merged, pooled, haxby.mask)


@needs_haxby
def test_haxby__joint_f_is_that_of_one_model_of_all_runs() -> None:
    """Three contrasts shared by twelve runs, all else each run's own."""
    rows = [("face", "house"), ("cat", "house"), ("chair", "house")]
    mask = np.asarray(nib.load(HAXBY / "mask.nii.gz").dataobj) > 0
    paths = sorted(HAXBY.glob("run-*"))
    designs = [design_of(p / "events.tsv", 121) for p in paths]
    fits = [
        cg.fit(p / "bold.nii.gz", X, mask=mask, noise="ar1")
        for p, X in zip(paths, designs, strict=True)
    ]
    maps = [cg.contrast(f, [f"{a} - {b}" for a, b in rows]) for f in fits]
    pooled, *noise = dask.compute(
        cg.fixed_effects(maps, precision_weighted=True), *((f.sigma2, f.ar) for f in fits)
    )
    data = [np.asarray(nib.load(p / "bold.nii.gz").dataobj, float) for p in paths]
    halves = [shared_and_own(X, rows) for X in designs]
    X = np.hstack(
        [np.vstack([shared for shared, _ in halves]), block_diag(*(own for _, own in halves))]
    )
    assert np.linalg.matrix_rank(X) == X.shape[1] > 100
    far = []
    for at in map(tuple, np.argwhere(mask)[::100]):
        whitened = []
        for half, run, (sigma2, ar) in zip(halves, data, noise, strict=True):
            W = whitener(float(ar.values[0][at]), 121) / np.sqrt(float(sigma2.values[at]))
            whitened.append((W, W @ scaled(run[at][:, None], percent=True)[:, 0], half))
        WX = block_diag(*(W for W, _, _ in whitened)) @ X
        inverse = np.linalg.inv(WX.T @ WX)
        beta = inverse @ (WX.T @ np.concatenate([y for _, y, _ in whitened]))
        covariance = inverse[:3, :3]
        f = beta[:3] @ np.linalg.solve(covariance, beta[:3]) / 3
        far.append(abs(float(pooled["stat"].values[at]) / f - 1))
    assert len(far) > 5
    assert max(far) < JOINT_F


def shared_and_own(X: pd.DataFrame, rows: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """A design as columns whose coefficients are the contrasts, and columns for the rest."""
    C = np.zeros((len(rows), X.shape[1]))
    for row, (plus, minus) in zip(C, rows, strict=True):
        row[[list(X).index(plus), list(X).index(minus)]] = 1, -1
    rest = np.linalg.svd(C)[2][len(rows) :].T
    return X.to_numpy() @ np.linalg.pinv(C), X.to_numpy() @ rest


@needs_haxby
def test_haxby__the_exact_coefficient_equals_brute_force(haxby: Study) -> None:
    for run in haxby.runs[::3]:
        Y = np.asarray(nib.load(run.path).dataobj, dtype=np.float64)[haxby.mask].T
        X = run.design.to_numpy()
        C = np.zeros((1, X.shape[1]))
        C[0, run.design.columns.get_loc("face")] = 1
        C[0, run.design.columns.get_loc("house")] = -1
        expected = brute_force(Y[:, ::4], X, C, percent=True)
        maps, fit = maps_of(run.path, run.design, haxby.mask_path, noise="ar1")
        found = {name: maps[name].values[haxby.mask][::4] for name in maps.data_vars}
        variance = expected.covariance[0, 0]
        off = in_standard_errors(found["effect_size"], expected.effect[0], variance)
        assert off < BRUTE_FORCE
        assert relative(found["effect_variance"], variance) < BRUTE_FORCE
        assert np.abs(fit.ar.values[0][haxby.mask][::4] - expected.rho).max() < BRUTE_FORCE
        assert relative(fit.sigma2.values[haxby.mask][::4], expected.sigma2) < BRUTE_FORCE
        r_square = fit.r_square.values[haxby.mask][::4]
        assert np.abs(r_square - expected.r_square).max() < BRUTE_FORCE


# --- one simulated run of FIAC's size, smoothed ------------------------------------------------


@pytest.fixture(scope="module")
def fiac(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("fiac")
    data = cg.simulate_fiac(folder)
    with np.load(data.designs[0], allow_pickle=False) as archive:
        design = pd.DataFrame(archive["X"], columns=[str(n) for n in archive["conditions"]])
    mask = np.asarray(nib.load(data.mask).dataobj) > 0
    found = by_nilearn(as_float64(data.runs[0]), data.mask, design, FIAC_CONTRAST, 5.0)
    run = Run(data.runs[0], design, **found)
    cg.convert(run.path, folder / "run.zarr", progress=False)
    return Study(data.mask, mask, [run], folder)


FIAC = {"contrast": FIAC_CONTRAST, "fwhm": 5.0, "noise": cg.AR(1, bins=100)}


@pytest.fixture(scope="module")
def fiac_maps(fiac: Study) -> tuple[xr.Dataset, np.ndarray]:
    """Maps straight from the compressed file, and voxels not at the edge of a bin."""
    run = fiac.runs[0]
    maps, _ = maps_of(run.path, run.design, fiac.mask_path, **FIAC)
    edges = exact_edges(run, fiac.mask_path, smoothing_fwhm=5.0)
    assert edges[fiac.mask].sum() <= AT_BIN_EDGES * fiac.mask.sum()
    return maps, fiac.mask & ~edges


def test_fiac__a_smoothed_run_equals_nilearn(
    fiac: Study, fiac_maps: tuple[xr.Dataset, np.ndarray]
) -> None:
    maps, keep = fiac_maps
    assert keep.sum() > 40_000
    assert_equals_nilearn(maps, fiac.runs[0], keep)
    assert np.nanmax(maps["stat"].values) > 5


@pytest.mark.parametrize(
    "chunks",
    [
        None,
        {"x": -1, "y": -1, "z": 5, "time": 40},
        {"x": 17, "y": 64, "z": (1, 28, 1), "time": 191},
        {"x": 64, "y": (3, 61), "z": 30, "time": (1, 2, 88, 100)},
    ],
    ids=["as stored", "slabs and blocks", "cut in x, whole series", "uneven"],
)
def test_fiac__stores_in_any_chunks_give_the_same_maps(
    fiac: Study, fiac_maps: tuple[xr.Dataset, np.ndarray], chunks: dict[str, object] | None
) -> None:
    run = cg.open_run(fiac.folder / "run.zarr")
    if chunks is not None:
        run = run.chunk(chunks)
    maps, _ = maps_of(run, fiac.runs[0].design, fiac.mask_path, **FIAC)
    from_file, keep = fiac_maps
    assert_same_maps(maps, from_file, keep)
    assert_equals_nilearn(maps, fiac.runs[0], keep)


def test_fiac__another_width_is_noticed(
    fiac: Study, fiac_maps: tuple[xr.Dataset, np.ndarray]
) -> None:
    # Negative control: a thousandth of the kernel's width.
    run = fiac.runs[0]
    other = {**FIAC, "fwhm": 5.005}
    maps, _ = maps_of(fiac.folder / "run.zarr", run.design, fiac.mask_path, **other)
    with pytest.raises(AssertionError):
        assert_same_maps(maps, fiac_maps[0], fiac_maps[1])
