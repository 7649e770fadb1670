"""Where chunkglm differs from nilearn on purpose: each test shows nilearn, and what is right.

The figures are those of ``docs/differences.md``. A test that begins to fail on nilearn's side says
that nilearn has changed, and that the page should.
"""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from nilearn.glm.contrasts import (
    compute_contrast,
    compute_fixed_effects,
    expression_to_contrast_vector,
)
from nilearn.glm.first_level import FirstLevelModel, make_first_level_design_matrix, run_glm
from numpy.typing import NDArray

import chunkglm as cg
from chunkglm.errors import ContrastError, MapsError

Array = NDArray[np.float64]
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])

# Against formulas worked out in numpy on well-conditioned problems; 1e-13 at worst seen.
SAME = 1e-9


def run_of(series: NDArray[Any]) -> xr.DataArray:
    """A run of V voxels in a row from a (V, T) array."""
    values = series.reshape(len(series), 1, 1, -1)
    return xr.DataArray(values, dims=("x", "y", "z", "time"), attrs={"affine": AFFINE.tolist()})


def image_of(values: Any, dtype: Any = np.float64) -> nib.Nifti1Image:
    values = np.asarray(values, dtype)
    shape = (len(values), 1, 1, *values.shape[1:])
    return nib.Nifti1Image(values.reshape(shape), AFFINE, dtype=dtype)


def mask_of(n_voxels: int) -> nib.Nifti1Image:
    return image_of(np.ones(n_voxels), np.uint8)


def design_of(rng: np.random.Generator, names: list[str], n_scans: int) -> pd.DataFrame:
    """Noise regressors, the last one a constant."""
    values = np.c_[rng.standard_normal((n_scans, len(names) - 1)), np.ones(n_scans)]
    return pd.DataFrame(values, columns=names)


def nilearn_contrast(series: Array, X: Array, c: Any, noise: str = "ols") -> Any:
    labels, results = run_glm(series.T, X, noise_model=noise)
    return compute_contrast(labels, results, np.asarray(c, float), stat_type="t")


def ours(series: NDArray[Any], X: Any, c: Any, noise: Any = "ols") -> xr.Dataset:
    return cg.contrast(cg.fit(run_of(series), X, noise=noise, scaling=None), c).compute()


def flat(maps: xr.Dataset, name: str) -> Array:
    return np.asarray(maps[name].to_numpy().ravel())


def ols(y: Array, X: Array) -> tuple[Array, Array, Array]:
    """Coefficients (k, V), (X'X)^-1, and residual sums of squares (V,), for y (V, T)."""
    inverse = np.linalg.inv(X.T @ X)
    beta = inverse @ X.T @ y.T
    return beta, inverse, ((y.T - X @ beta) ** 2).sum(axis=0)


@pytest.mark.filterwarnings("ignore:.*depend on the others")
def test_rank__not_the_number_of_columns_divides_the_variance(rng: np.random.Generator) -> None:
    X = design_of(rng, list("abcd"), 40).to_numpy()
    redundant = np.c_[X, X[:, 0] + X[:, 1]]
    y = 100 + rng.standard_normal((50, 40))
    one, two = (nilearn_contrast(y, x, np.eye(x.shape[1])[2]) for x in (X, redundant))
    ratio = two.effect_variance() / one.effect_variance()
    np.testing.assert_allclose(ratio, 36 / 35)  # 2.9 % too large, whilst
    assert two.dof == 36  # it reports the degrees of freedom of the rank
    plain, dependent = (ours(y, x, np.eye(x.shape[1])[2]) for x in (X, redundant))
    np.testing.assert_allclose(
        flat(dependent, "effect_variance"), flat(plain, "effect_variance"), rtol=SAME
    )
    assert dependent.attrs["dof"] == 36


def test_rank__a_contrast_that_the_data_do_not_determine_is_refused(
    rng: np.random.Generator,
) -> None:
    X = design_of(rng, list("abcd"), 40)
    redundant = X.assign(sum=X["a"] + X["b"])
    y = 100 + rng.standard_normal((5, 40))
    # nilearn tests it all the same: a number that depends on the pseudo-inverse it chose.
    assert np.isfinite(nilearn_contrast(y, redundant.to_numpy(), [1, 0, 0, 0, 0]).stat()).all()
    with pytest.warns(UserWarning, match="depend on the others"):
        fit = cg.fit(run_of(y), redundant)
    with pytest.raises(ContrastError, match="'a'"):
        cg.contrast(fit, "a")
    assert cg.contrast(fit, "c").attrs["dof"] == 36


def test_noise__is_corrected_for_what_the_design_took_out(rng: np.random.Generator) -> None:
    """AR(1) noise of 0.3 and nothing else: one voxel in a thousand should be below p = .001."""
    n_scans, n_voxels, rho = 100, 20_000, 0.3
    noise = rng.standard_normal((n_voxels, n_scans + 50))
    for t in range(1, n_scans + 50):
        noise[:, t] += rho * noise[:, t - 1]
    series = 100 + noise[:, 50:]
    times = 2.0 * (np.arange(n_scans) + 0.5)
    onsets = np.arange(4.0, 190.0, 5.0)
    trials = {"onset": onsets, "duration": 1.0, "trial_type": rng.permutation(38) % 2}
    events = pd.DataFrame(trials).replace({"trial_type": {0: "a", 1: "b"}})
    motion = 0.1 * rng.standard_normal((n_scans, 6)).cumsum(axis=0)
    X = make_first_level_design_matrix(times, events, drift_model="cosine", add_regs=motion)
    rates = []
    for corrected in (None, False, True):
        count = 0.0
        for name in ("a", "b"):
            if corrected is None:
                found = nilearn_contrast(series, X.to_numpy(), X.columns == name, "ar1")
                p = found.p_value()
            else:
                p = flat(ours(series, X, name, cg.AR(1, corrected=corrected)), "p_value")
            count += np.sum(p < 0.001) + np.sum(p > 0.999)
        rates.append(count / (4 * n_voxels * 0.001))
    theirs, plain, better = rates
    # Seen: 1.81, 1.85 and 1.18, with Monte Carlo errors of 0.15 and 0.12.
    assert theirs > 1.5
    assert abs(plain - theirs) < 0.2
    assert better - 1 < 0.6 * (theirs - 1)


def test_fixed_effects__use_the_degrees_of_freedom_of_the_runs(rng: np.random.Generator) -> None:
    """Two runs of 12 volumes, 8 degrees of freedom each: nilearn assumes 200."""
    designs = [design_of(rng, list("abcd"), 12) for _ in range(2)]
    series = [100 + rng.standard_normal((2000, 12)) for _ in range(2)]
    maps = [ours(y, X, "a") for y, X in zip(series, designs, strict=True)]
    found = cg.fixed_effects(maps).compute()
    effects, variances = (
        [image_of(flat(m, name)) for m in maps] for name in ("effect_size", "effect_variance")
    )
    *_, z_image = compute_fixed_effects(effects, variances, mask_of(2000))
    z = z_image.get_fdata().ravel()
    assert found.attrs["dof"] == 16
    # Under the null: nominal 5 in 1000 above 2.5758 are 10 of 2000; nilearn's z is always bolder.
    beyond = np.abs(z) > 2.5758
    mine = np.abs(flat(found, "z_score")) > 2.5758
    assert beyond.sum() > mine.sum()
    assert (np.abs(z) >= np.abs(flat(found, "z_score")) - 1e-9).all()


def test_fixed_effects__bad_variances_never_get_weight() -> None:
    """A variance of zero gives nilearn t = 1e8, one below zero a share in the mean."""
    effect, bad = np.array([1.0, 1.0, 1.0]), np.array([1.0, 0.0, -1.0])
    pair = [(effect, bad), (2 * effect, np.ones(3))]
    *_, stat, _ = compute_fixed_effects(
        [image_of(e) for e, _ in pair],
        [image_of(v) for _, v in pair],
        mask_of(3),
        precision_weighted=True,
    )
    assert stat.get_fdata().ravel()[1] > 9e7
    run = 100 + np.random.default_rng(0).standard_normal((3, 20))
    template = ours(run, np.c_[np.arange(20.0), np.ones(20)], [1, 0])
    maps = [
        template.assign(
            effect_size=template["effect_size"].copy(data=e.reshape(3, 1, 1)),
            effect_variance=template["effect_variance"].copy(data=v.reshape(3, 1, 1)),
        ).assign_attrs(run=f"run {i}")
        for i, (e, v) in enumerate(pair)
    ]
    for weighted in (False, True):
        found = cg.fixed_effects(maps, precision_weighted=weighted).compute()
        np.testing.assert_array_equal(flat(found, "n_runs"), [2, 1, 1])
        np.testing.assert_array_equal(flat(found, "dof"), [36, 18, 18])
        np.testing.assert_allclose(flat(found, "effect_size"), [1.5, 2, 2])
        np.testing.assert_allclose(flat(found, "effect_variance"), [0.5, 1, 1])


@pytest.mark.filterwarnings("ignore")
def test_fixed_effects__joint_f_uses_the_whole_covariance(rng: np.random.Generator) -> None:
    designs = [design_of(rng, list("abcd"), 60) for _ in range(2)]
    series = [1000 + rng.standard_normal((20, 60)) for _ in range(2)]
    model = FirstLevelModel(
        mask_img=mask_of(20), noise_model="ols", t_r=2, signal_scaling=False
    ).fit([image_of(y) for y in series], design_matrices=designs)
    rows = np.eye(4)[:2]
    theirs = model.compute_contrast(rows, stat_type="F", output_type="stat").get_fdata().ravel()
    effect, covariance = np.zeros((20, 2)), np.zeros((20, 2, 2))
    for y, X in zip(series, designs, strict=True):
        beta, inverse, rss = ols(y, X.to_numpy())
        effect += beta[:2].T / 2
        covariance += rss[:, None, None] / 56 * inverse[:2, :2] / 4
    weighted = np.linalg.solve(covariance, effect[..., None])[..., 0]
    joint = (effect * weighted).sum(axis=1) / 2
    maps = [ours(y, X, rows) for y, X in zip(series, designs, strict=True)]
    found = flat(cg.fixed_effects(maps).compute(), "stat")
    np.testing.assert_allclose(found, joint, rtol=1e-7)  # the series lie at 1000 noises: 1e-11 seen
    assert np.max(np.abs(theirs / joint - 1)) > 0.2


def test_contrasts__by_name_over_unequal_designs(rng: np.random.Generator) -> None:
    """Vectors go by place, so columns in another order are another contrast; names do not."""
    designs = [design_of(rng, list(names), 40) for names in ("abcd", "bacd")]
    series = [100 + rng.standard_normal((5, 40)) for _ in range(2)]
    maps = [ours(y, X, "a - b") for y, X in zip(series, designs, strict=True)]
    expected = sum(
        ols(y, X.to_numpy())[0][list(X).index("a")] - ols(y, X.to_numpy())[0][list(X).index("b")]
        for y, X in zip(series, designs, strict=True)
    )
    found = cg.fixed_effects(maps).compute()
    np.testing.assert_allclose(flat(found, "effect_size"), expected / 2, rtol=1e-6)
    vectors = [ours(y, X, [1, -1, 0, 0]) for y, X in zip(series, designs, strict=True)]
    with pytest.raises(MapsError, match="contrasts differ"):
        cg.fixed_effects(vectors)


@pytest.mark.filterwarnings("ignore")
def test_voxels__that_are_constant_or_not_finite_are_marked(rng: np.random.Generator) -> None:
    y = np.full((3, 40), 0.1)
    y[1] += rng.standard_normal(40)
    y[2] = rng.standard_normal(40) + 10
    y[2, 3] = np.nan
    X = design_of(rng, list("abcd"), 40)
    # Rounding noise is given a t of the size of noise, and the NaN becomes 0 in silence.
    assert abs(nilearn_contrast(y[:1], X.to_numpy(), [0, 0, 1, 0], "ar1").stat()[0]) > 1e-2
    model = FirstLevelModel(mask_img=mask_of(3), t_r=2).fit(image_of(y), design_matrices=X)
    assert np.isfinite(model.compute_contrast("c", output_type="stat").get_fdata()).all()
    found = ours(y, X, "c", "ar1")
    np.testing.assert_array_equal(flat(found, "voxel_status"), [2, 0, 3])
    np.testing.assert_array_equal(np.isfinite(flat(found, "stat")), [False, True, False])


def test_expressions__are_parsed_and_never_evaluated(tmp_path: Path) -> None:
    """In nilearn an expression can write a file; here it is a text that has no such column."""
    y = np.random.default_rng(0).standard_normal((1, 20))
    fit = cg.fit(run_of(y), pd.DataFrame({"a": y[0] ** 2, "b": 1.0}))
    theirs, mine = tmp_path / "theirs.csv", tmp_path / "mine.csv"
    with pytest.raises(ValueError, match="not valid"):
        expression_to_contrast_vector(f"a.to_csv({str(theirs)!r})", ["a", "b"])
    with pytest.raises(ContrastError, match="columns"):
        cg.contrast(fit, f"a.to_csv({str(mine)!r})")
    assert theirs.exists()
    assert not mine.exists()


def test_expressions__take_names_of_any_characters() -> None:
    names = ["face-1", "house", "_ n"]
    with pytest.raises(ValueError, match="not valid"):
        expression_to_contrast_vector("face-1 - house", names)
    y = np.random.default_rng(0).standard_normal((1, 20))
    X = pd.DataFrame(np.c_[np.random.default_rng(1).standard_normal((20, 2)), np.ones(20)])
    fit = cg.fit(run_of(y), X.set_axis(names, axis=1))
    by_name, by_place = (cg.contrast(fit, c) for c in ("face-1 - house", [1, -1, 0]))
    np.testing.assert_array_equal(flat(by_name.compute(), "stat"), flat(by_place.compute(), "stat"))


@pytest.mark.filterwarnings("ignore")
def test_integers__keep_their_digits(rng: np.random.Generator) -> None:
    """Signals of a few units on an offset of 2**30: float32 has steps of 64 there."""
    small = rng.integers(-5, 6, (20, 60))
    y = (small + 2**30).astype(np.int32)
    X = design_of(rng, list("abcd"), 60)
    beta, inverse, rss = ols(small.astype(float), X.to_numpy())
    expected = beta[0] / np.sqrt(rss / 56 * inverse[0, 0])
    model = FirstLevelModel(mask_img=mask_of(20), noise_model="ols", t_r=2, signal_scaling=False)
    model.fit(image_of(y, np.int32), design_matrices=X)
    theirs = model.compute_contrast("a", output_type="stat").get_fdata().ravel()
    assert np.max(np.abs(theirs - expected)) > 1
    np.testing.assert_allclose(flat(ours(y, X, "a"), "stat"), expected, rtol=1e-7)


def test_offsets__keep_their_digits(rng: np.random.Generator) -> None:
    """An analysis of variance on an offset of 1e10 times the noise."""
    groups = np.repeat(np.arange(3), 20)
    small = rng.integers(0, 10, (1, 60)).astype(float)
    y = small + 1e10
    X = np.c_[(groups[:, None] == np.arange(2)).astype(float), np.ones(60)]
    beta, inverse, rss = ols(small, X)
    expected = float(beta[0, 0] / np.sqrt(rss[0] / 57 * inverse[0, 0]))
    theirs = float(nilearn_contrast(y, X, [1, 0, 0]).stat()[0])
    assert abs(theirs / expected - 1) > 1e-7
    assert abs(float(flat(ours(y, X, [1, 0, 0]), "stat")[0]) / expected - 1) < 1e-9


def test_scaled_columns__change_nothing(rng: np.random.Generator) -> None:
    """Columns 1e-10 and 1e10 in size: a column of 1e-10 is a column like any other."""
    X = design_of(rng, list("abcd"), 40).to_numpy()
    y = 100 + rng.standard_normal((5, 40))
    scales = np.array([1e-10, 1e10, 1, 1])
    plain = flat(ours(y, X, [1, 0, 0, 0]), "stat")
    np.testing.assert_allclose(flat(ours(y, X * scales, [1, 0, 0, 0]), "stat"), plain, rtol=SAME)
    theirs = [nilearn_contrast(y, x, [1, 0, 0, 0]).stat() for x in (X, X * scales)]
    assert np.max(np.abs(theirs[1] / theirs[0] - 1)) > 0.1


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)
