"""Contrast algebra: sums and differences of independent runs, beside one model of both."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
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
)
from scipy import stats

import chunkglm as cg
from chunkglm.errors import MapsError

DESIGN, MASK = make_design(), make_mask()
T = SHAPE[3]

# Brute force solves 60 x 60 systems; the kernels sums of products. Worst seen: 2e-13.
BRUTE_FORCE = 1e-9
# One product of 20 contrasts beside one of each: worst seen 9e-16 of the largest.
ROUNDING_OF_SUMS = 1e-12


def run(seed: int) -> xr.DataArray:
    return xr.DataArray(
        make_data(seed=seed),
        dims=("x", "y", "z", "time"),
        attrs={"affine": AFFINE.tolist(), "source": f"run-{seed}"},
    )


@pytest.fixture(scope="module")
def fits() -> list[cg.Fit]:
    return [cg.fit(run(seed), DESIGN, mask=MASK, noise="ols", scaling=None) for seed in (1, 2)]


@pytest.mark.parametrize("weights", [[1, 1], [1, -1], [0.5, 2.0]])
def test_combine__is_the_contrast_of_one_model_of_both_runs(fits: Any, weights: Any) -> None:
    with lazily():
        lazy = cg.combine([cg.contrast(fit, "a - b") for fit in fits], weights)
    maps = lazy.compute()
    X = np.kron(np.eye(2), DESIGN.to_numpy())
    c = np.kron(weights, [1.0, -1, 0, 0])
    sigma2 = [fit.sigma2.to_numpy() for fit in fits]
    for voxel in [tuple(v) for v in np.argwhere(MASK)[::7]]:
        y = np.concatenate([make_data(seed=seed)[voxel].astype(float) for seed in (1, 2)])
        precision = np.diag(np.repeat([1 / s[voxel] for s in sigma2], T))
        inverse = np.linalg.inv(X.T @ precision @ X)
        beta, variance = inverse @ X.T @ precision @ y, c @ inverse @ c
        assert maps["effect_size"][voxel] == pytest.approx(
            c @ beta, abs=BRUTE_FORCE * variance**0.5
        )
        assert maps["effect_variance"][voxel] == pytest.approx(variance, rel=BRUTE_FORCE)
        t = c @ beta / variance**0.5
        assert maps["p_value"][voxel] == pytest.approx(stats.t.sf(t, 2 * (T - 4)), rel=1e-6)
        assert maps["n_runs"][voxel] == 2
        assert maps["dof"][voxel] == 2 * (T - 4)
    assert maps.attrs["dof"] == 2 * (T - 4)
    assert cg.contributions(maps)["run"].tolist() == ["run-1", "run-2"]
    assert np.isnan(maps["stat"].to_numpy()[~MASK]).all()


def test_combine__joint_f_is_that_of_one_model(fits: Any) -> None:
    rows = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0]])
    maps = cg.combine([cg.contrast(fit, rows) for fit in fits], [1, -1]).compute()
    voxel = tuple(np.argwhere(MASK)[5])
    each = [cg.contrast(fit, rows).compute() for fit in fits]
    effect = sum(
        w * m["effect_size"].to_numpy()[(slice(None), *voxel)]
        for w, m in zip((1, -1), each, strict=True)
    )
    inside = (slice(None), slice(None), *voxel)
    covariance = sum(m["effect_variance"].to_numpy()[inside] for m in each)
    expected = effect @ np.linalg.inv(covariance) @ effect / 2
    assert maps["stat"][voxel] == pytest.approx(expected, rel=BRUTE_FORCE)
    assert maps["p_value"][voxel] == pytest.approx(stats.f.sf(expected, 2, 2 * (T - 4)), rel=1e-6)
    with pytest.raises(MapsError, match="for t, but these are F"):
        cg.combine([cg.contrast(fit, rows) for fit in fits], dof="satterthwaite")


def test_combine__satterthwaite_lies_between_the_least_and_the_sum(fits: Any) -> None:
    maps = [cg.contrast(fit, "a") for fit in fits]
    found = cg.combine(maps, [3, 1], dof="satterthwaite").compute()
    v = [
        w * w * m["effect_variance"].compute().to_numpy() for w, m in zip((3, 1), maps, strict=True)
    ]
    expected = (v[0] + v[1]) ** 2 / ((v[0] ** 2 + v[1] ** 2) / (T - 4))
    np.testing.assert_allclose(found["dof"].to_numpy()[MASK], expected[MASK], rtol=1e-12)
    assert (found["dof"].to_numpy()[MASK] < 2 * (T - 4)).all()
    assert (found["dof"].to_numpy()[MASK] > T - 4).all()


def test_combine__is_an_algebra(fits: Any) -> None:
    a, b = (cg.contrast(fit, "a") for fit in fits)
    twice = cg.combine([a], [2]).compute()
    expected = cg.contrast(fits[0], "2*a").compute()
    assert distances(twice[list(expected)], expected) < 1e-12
    mean = cg.combine([cg.combine([a, b])], [0.5]).compute()
    assert distances(mean, cg.fixed_effects([a, b]).compute()) < 1e-12
    assert json.loads(mean.attrs["contrast_weights"])[0]["weight"] == 0.5
    minus = cg.combine([b, a], [-1, 1]).compute()
    assert distances(minus, cg.combine([a, b], [1, -1]).compute()) < 1e-12
    # Other contrasts of other runs add up too.
    assert np.isfinite(cg.combine([a, cg.contrast(fits[1], "b")], [1, -1])["stat"]).any()


def test_combine__several_contrasts_at_once(fits: Any, tmp_path: Path) -> None:
    maps = [cg.contrast(fit, {"A": "a", "A - B": "a - b"}) for fit in fits]
    both = cg.combine(maps, [1, -1])
    for name, definition in (("A", "a"), ("A - B", "a - b")):
        alone = cg.combine([cg.contrast(fit, definition) for fit in fits], [1, -1]).compute()
        assert distances(both.sel(contrast=name, drop=True).compute(), alone) < 1e-12
    written = cg.save(both, tmp_path, prefix="sub-01")
    assert len(written) == 10
    found = cg.open_maps(tmp_path, prefix="sub-01_contrast-AMinusB")
    assert found.attrs["contrast"] == "1*(a - b) + -1*(a - b)"
    assert found.attrs["dof"] == 2 * (T - 4)


def test_combine__a_voxel_without_one_of_the_runs_is_lost(fits: Any) -> None:
    a, b = (cg.contrast(fit, "a").compute() for fit in fits)
    voxel = tuple(np.argwhere(MASK)[3])
    b["effect_variance"][voxel] = 0.0
    found = cg.combine([a, b]).compute()
    assert np.isnan(found["stat"][voxel])
    assert found["n_runs"][voxel] == 0
    assert found["voxel_status"][voxel] != 0
    assert np.isfinite(found["stat"].to_numpy()).sum() == MASK.sum() - 1


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1], "2 maps need 2 weights"),
        ([1, 0], "other than 0, but got 0"),
        ([1, np.nan], "finite numbers"),
        ([1, "2"], "finite numbers"),
        ("12", "2 maps need 2 weights"),
        (3, "2 maps need 2 weights"),
    ],
)
def test_combine__refuses_weights(fits: Any, weights: Any, words: str) -> None:
    with pytest.raises(MapsError) as caught:
        cg.combine([cg.contrast(fit, "a") for fit in fits], weights)
    one_line(caught.value, words)


def test_combine__refuses_what_is_not_alike_and_tells_of_one_run_twice(fits: Any) -> None:
    a = cg.contrast(fits[0], "a")
    with pytest.raises(MapsError, match="kinds of statistic differ"):
        cg.combine([a, cg.contrast(fits[1], ["a", "b"])])
    with pytest.raises(MapsError, match='dof must be "sum"'):
        cg.combine([a], dof="welch")  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="run-1: given more than once"):
        cg.combine([a, a])


# --- saving several ----------------------------------------------------------------------------


def test_save__several_contrasts_are_the_files_of_each(fits: Any, tmp_path: Path) -> None:
    definitions = {"face": "a", "face - house": "a - b", "mean of all": [0.5, 0.5, 0, 0]}
    maps = cg.contrast(fits[0], definitions)
    names = cg.save(maps, tmp_path / "all", prefix="sub-01")
    labels = ["face", "faceMinusHouse", "meanOfAll"]
    for (name, definition), label in zip(definitions.items(), labels, strict=True):
        prefix = f"sub-01_contrast-{label}"
        alone = cg.save(cg.contrast(fits[0], definition), tmp_path / "alone", prefix=prefix)
        for path in map(Path, alone):
            assert str(tmp_path / "all" / path.name) in names
            assert_same_map(path, tmp_path / "all" / path.name)
            sidecar = path.name.replace(".nii.gz", ".json")
            assert (path.parent / sidecar).read_text() == (tmp_path / "all" / sidecar).read_text()
        one = cg.save(maps.sel(contrast=name), tmp_path / "one", prefix=prefix)
        assert Path(one[0]).read_bytes() == (tmp_path / "all" / Path(one[0]).name).read_bytes()
    assert len(names) == 15


def assert_same_map(path: Path, other: Path) -> None:
    """Contrasts of one pass share a matrix product, whose sums may round otherwise."""
    one, two = nib.load(path), nib.load(other)
    assert one.header.binaryblock == two.header.binaryblock
    np.testing.assert_allclose(one.get_fdata(), two.get_fdata(), rtol=ROUNDING_OF_SUMS, atol=1e-14)


def test_save__fixed_effects_of_several_contrasts(fits: Any, tmp_path: Path) -> None:
    pooled = cg.fixed_effects([cg.contrast(fit, {"A": "a", "B": "b"}) for fit in fits])
    cg.save(pooled, tmp_path, prefix="sub-01")
    found = cg.open_maps(tmp_path, prefix="sub-01_contrast-B")
    expected = cg.fixed_effects([cg.contrast(fit, "b") for fit in fits]).compute()
    assert distances(found.compute(), expected) < 1e-12


@pytest.mark.parametrize(
    ("names", "prefix", "words"),
    [
        (["a b", "aB"], "sub-01", "'a b' and 'aB' would have the same files"),
        (["x", "X"], "sub-01", "'x' and 'X' would have the same files"),
        (["顔", "x"], "sub-01", "'顔' has no letter or digit"),
        (["x", "y"], "sub-01_contrast-x", "names a contrast"),
        (["x", "y"], "../sub-01", "without folders"),
    ],
)
def test_save__refuses_names_that_make_no_files(
    fits: Any, tmp_path: Path, names: list[str], prefix: str, words: str
) -> None:
    with pytest.raises(MapsError) as caught:
        cg.save(cg.contrast(fits[0], dict.fromkeys(names, "a")), tmp_path, prefix=prefix)
    one_line(caught.value, words)
    assert list(tmp_path.iterdir()) == []
