import hashlib
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from chunkglm.datasets import FiacData, _layout, simulate_fiac
from chunkglm.datasets import _simulate as module
from chunkglm.datasets._anatomy import draw_anatomy
from chunkglm.datasets._layout import FIAC_FOLDER, SIMULATION_RECORD
from chunkglm.datasets._simulate import _draw_design, _response, _simulate
from chunkglm.errors import StoreError

SMALL = {"shape": (24, 24, 12), "n_scans": 120}
CONDITIONS = ["SStSSp", "SStDSp", "DStSSp", "DStDSp"]
CONTRAST = (-1, -1, 1, 1)


def files(data: FiacData) -> dict[str, bytes]:
    assert data.activation is not None
    paths = (*data.runs, *data.designs, data.mask, data.activation)
    return {path.name: path.read_bytes() for path in paths}


def ols_t(data: FiacData, run: int) -> tuple[np.ndarray, np.ndarray]:
    """Contrast in percent of the mean, and t; (x, y, z) each."""
    mask = nib.load(data.mask).get_fdata() > 0
    Y = np.asarray(nib.load(data.runs[run]).dataobj)[mask].astype(np.float32).T
    Y *= 100 / Y.mean(axis=0)
    with np.load(data.designs[run], allow_pickle=False) as design:
        X = design["X"]
    c = np.zeros(X.shape[1])
    c[:4] = CONTRAST
    inverse = np.linalg.inv(X.T @ X)
    beta = (inverse @ X.T).astype(np.float32) @ Y
    Y -= X.astype(np.float32) @ beta
    variance = (Y**2).sum(axis=0) / (len(X) - X.shape[1]) * (c @ inverse @ c)
    effect, t = np.zeros(mask.shape), np.zeros(mask.shape)
    effect[mask] = c @ beta
    t[mask] = effect[mask] / np.sqrt(variance)
    return effect, t


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> FiacData:
    return _simulate(tmp_path_factory.mktemp("small"), seed=3, **SMALL)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> FiacData:
    return simulate_fiac(tmp_path_factory.mktemp("full"), seed=0)


def test_simulate_fiac__has_the_form_of_fiac(full: FiacData) -> None:
    for path in full.runs:
        image = nib.load(path)
        assert image.shape == (64, 64, 30, 191)
        assert image.get_data_dtype() == np.int16
        np.testing.assert_allclose(image.header.get_zooms(), (3, 3, 4, 2.5))
        assert image.header.get_xyzt_units() == ("mm", "sec")
        assert int(image.header["sform_code"]) > 0
        assert image.affine[0, 0] < 0
        np.testing.assert_array_equal(image.affine, nib.load(full.mask).affine)
    assert full.t_r == 2.5
    assert full.runs[0].parent.parts[-4:] == ("nipy-data-0.2", "data", "fiac", "fiac0")


def test_simulate_fiac__designs_are_plain_full_rank_and_unlike(full: FiacData) -> None:
    designs = []
    for path in full.designs:
        with np.load(path, allow_pickle=False) as archive:
            X, names = archive["X"], archive["conditions"]
        assert names[:4].tolist() == CONDITIONS
        assert names.dtype.kind == "U"
        assert X.dtype == np.float64
        assert X.shape == (191, len(names))
        assert 12 <= len(names) <= 14
        assert np.linalg.matrix_rank(X) == len(names)
        designs.append(X)
    assert np.abs(designs[0][:, :4] - designs[1][:, :4]).max() > 0.1


def test_simulate_fiac__truth_lies_in_a_brain_of_the_right_size(full: FiacData) -> None:
    assert full.activation is not None
    mask = nib.load(full.mask).get_fdata() > 0
    truth = nib.load(full.activation)
    active = truth.get_fdata() > 0
    assert 45_000 <= mask.sum() <= 50_000
    assert 1_000 <= active.sum() <= 2_000
    assert truth.get_data_dtype() == np.int8
    assert not (active & ~mask).any()
    n_regions = ndimage.label(active)[1]
    assert 3 <= n_regions <= 5


def test_simulate_fiac__intensities_and_noise_are_those_of_a_scanner(full: FiacData) -> None:
    mask = nib.load(full.mask).get_fdata() > 0
    Y = np.asarray(nib.load(full.runs[0]).dataobj, dtype=np.float32)
    mean = Y.mean(axis=-1)
    assert 900 < mean[mask].min() < mean[mask].max() < 12_500
    assert 60 < np.median(mean[~mask]) < 400
    # Differences of neighbours in time leave the drifts out: 2 (1 - rho) of the variance.
    step = np.diff(Y[mask], axis=-1).std(axis=-1) / mean[mask] * 100
    rho = 0.3
    assert 1.0 < np.median(step) / np.sqrt(2 * (1 - rho)) < 1.5


def test_simulate_fiac__reports_progress_and_reuses_what_is_whole(tmp_path: Path) -> None:
    seen: list[float] = []
    data = _simulate(tmp_path, seed=1, **SMALL, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(seen) > 10
    times = {path: path.stat().st_mtime_ns for path in data.runs}
    assert _simulate(tmp_path, seed=1, **SMALL) == data
    assert times == {path: path.stat().st_mtime_ns for path in data.runs}


def test_simulate_fiac__same_seed_same_bytes(small: FiacData, tmp_path: Path) -> None:
    again = _simulate(tmp_path / "again", seed=3, **SMALL)
    other = _simulate(tmp_path / "other", seed=4, **SMALL)
    assert files(again) == files(small)
    assert files(other)["run1.nii.gz"] != files(small)["run1.nii.gz"]
    assert files(other)["run1_design.npz"] != files(small)["run1_design.npz"]
    assert files(small)["run1.nii.gz"] != files(small)["run2.nii.gz"]


@pytest.mark.parametrize("name", ["run2.nii.gz", "mask.nii.gz", SIMULATION_RECORD])
@pytest.mark.parametrize("damage", ["remove", "flip"])
def test_simulate_fiac__makes_a_damaged_one_again(
    small: FiacData, tmp_path: Path, name: str, damage: str
) -> None:
    data = _simulate(tmp_path, seed=3, **SMALL)
    victim = data.mask.with_name(name)
    if name == SIMULATION_RECORD:
        # What a killed simulation leaves: the record says incomplete.
        record = json.loads(victim.read_text())
        victim.write_text(json.dumps(record | {"complete": False}) if damage == "flip" else "{")
        data.runs[1].write_bytes(b"half")
    elif damage == "remove":
        victim.unlink()
    else:
        content = bytearray(victim.read_bytes())
        content[-20] ^= 1
        victim.write_bytes(content)
    assert files(_simulate(tmp_path, seed=3, **SMALL)) == files(small)


def test_simulate_fiac__another_seed_replaces_all(small: FiacData, tmp_path: Path) -> None:
    _simulate(tmp_path, seed=5, **SMALL)
    assert files(_simulate(tmp_path, seed=3, **SMALL)) == files(small)


def test_simulate_fiac__never_writes_over_real_data(tmp_path: Path) -> None:
    run = tmp_path / FIAC_FOLDER / "run1.nii.gz"
    run.parent.mkdir(parents=True)
    run.write_bytes(b"real data")
    with pytest.raises(StoreError, match=r"holds run1\.nii\.gz, which no simulation wrote"):
        _simulate(tmp_path, **SMALL)
    assert run.read_bytes() == b"real data"


def test_simulate_fiac__truth_is_null_outside_the_activation() -> None:
    rng = np.random.default_rng(0)
    anatomy = draw_anatomy(SMALL["shape"], rng)
    design = _draw_design(191, rng)
    courses, maps = module._courses_and_maps(anatomy, design, rng)
    # Noise-free: what the design estimates is the truth itself.
    Y = np.tensordot(maps.astype(float), courses.astype(float), axes=(0, 1))
    beta = np.linalg.lstsq(design.X, Y.reshape(-1, 191).T, rcond=None)[0]
    residual = Y.reshape(-1, 191).T - design.X @ beta
    contrast = np.reshape(np.array(CONTRAST) @ beta[:4], Y.shape[:3])
    scale = np.abs(Y).max()
    # float32 courses and maps: 1e-6 of the largest value; seen: 2e-7.
    assert np.abs(residual).max() < 1e-6 * scale
    assert np.abs(contrast[anatomy.active == 0]).max() < 1e-6 * scale
    expected = 2 * module.DIFFERENCE_PERCENT * anatomy.active * anatomy.mean / 100
    np.testing.assert_allclose(contrast, expected, atol=1e-6 * scale)
    # The null is not empty: auditory cortex answers to all four conditions.
    loud = (anatomy.auditory > 0) & (anatomy.active == 0)
    assert np.abs(np.reshape(beta[:4].min(axis=0), Y.shape[:3])[loud]).min() > 1


def test_simulate_fiac__estimates_find_the_truth(full: FiacData) -> None:
    assert full.activation is not None
    mask = nib.load(full.mask).get_fdata() > 0
    active = nib.load(full.activation).get_fdata() > 0
    far = mask & ~active
    effects, ts = zip(*(ols_t(full, run) for run in range(2)), strict=True)
    inside = np.mean([effect[active].mean() for effect in effects])
    outside = np.mean([effect[far].mean() for effect in effects])
    # The mean of 1 - 0.6 r² over an ellipsoid is 0.64; the standard error is 0.01.
    assert abs(inside - 2 * module.DIFFERENCE_PERCENT * 0.64) < 0.05
    assert abs(outside) < 0.01
    # Smoothing the map stands in for smoothing the data: 5 mm, in voxels.
    sigma = 5 / 2.3548 / np.array([3, 3, 4])
    smooth = [ndimage.gaussian_filter(t, sigma) for t in (*ts, ts[0] + ts[1])]
    peaks = [t[mask].max() / t[far].std() for t in smooth]
    assert active[mask][np.argsort(smooth[2][mask])[-100:]].all()
    assert all(5 < peak < 10 for peak in peaks[:2])
    assert peaks[2] > 1.1 * max(peaks[:2])
    # OLS under AR(1) of 0.3 is too sure of itself by about a tenth, and no more.
    assert 0.9 < ts[0][far].std() < 1.3


def test_draw_anatomy__a_coarse_grid_shows_the_same_head() -> None:
    fine = draw_anatomy((64, 64, 30), np.random.default_rng(0))
    coarse = draw_anatomy((16, 16, 10), np.random.default_rng(0))
    voxels = [abs(np.linalg.det(a.affine[:3, :3])) for a in (fine, coarse)]
    volumes = [v * a.mask.sum() for v, a in zip(voxels, (fine, coarse), strict=True)]
    np.testing.assert_allclose(volumes[0], volumes[1], rtol=0.05)
    corners = [
        a.affine @ (np.array([*a.mask.shape, 0]) / 2 - (0.5, 0.5, 0.5, -1)) for a in (fine, coarse)
    ]
    np.testing.assert_allclose(corners[0], corners[1])
    assert 0.1 <= fine.rho[fine.mask].min() < fine.rho[fine.mask].max() <= 0.5


def test_response__is_glovers() -> None:
    from nilearn.glm.first_level import compute_regressor

    times = 2.5 * np.arange(191)
    onsets = np.array([3.1, 20.0, 23.4, 60.7, 200.2])
    events = np.stack([onsets, np.full(5, 1.8), np.ones(5)])
    theirs = compute_regressor(events, "glover", times, oversampling=200)[0][:, 0]
    ours = _response(times, onsets)
    # Theirs is sampled, every 0.0125 s here; ours is exact. Seen: 1 % of the peak.
    np.testing.assert_allclose(ours, theirs, atol=0.02 * theirs.max())
    assert np.corrcoef(ours, theirs)[0, 1] > 0.9995


def test_sha256__of_a_file_is_taken_once_until_it_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    original = hashlib.file_digest

    def counted(file: Any, name: str) -> Any:
        taken.append(name)
        return original(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    path = tmp_path / "file"
    path.write_bytes(b"one")
    fresh = {_layout.sha256(path), _layout.sha256(path)}
    assert len(fresh) == 1
    # A file this new might be written again within one tick of the clock.
    assert len(taken) == 2
    monkeypatch.setattr(_layout, "_SETTLED", -1)
    assert {_layout.sha256(path), _layout.sha256(path)} == fresh
    assert len(taken) == 3
    path.write_bytes(b"another")
    assert _layout.sha256(path) == hashlib.sha256(b"another").hexdigest()
