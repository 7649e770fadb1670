"""Estimates against brute force, voxel by voxel, and against nilearn."""

import warnings

import numpy as np
import pytest
from helpers.designs import Case, ar1_noise, cases, random_case
from helpers.gls import (
    Truth,
    brute_force,
    in_standard_errors,
    near_bin_edge,
    projection,
    relative,
    rho_of,
    scaled,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chunkglm.kernels.estimate import VOXELS_IN_CACHE, contrast_maps, model_maps
from chunkglm.kernels.factor import factor_design
from chunkglm.kernels.level import CONSTANT, ESTIMATED, NOT_FINITE
from chunkglm.kernels.noise import AR
from chunkglm.kernels.solve import Model
from chunkglm.kernels.summing import of_series

# Effects against brute force, in standard errors; variances, covariances and sigma2 relative. The
# mean is up to 1e4 times the noise, and columns are up to 24 decades apart in length. Seen in
# 12,000 short runs: 4e-10.
EFFECT = 1e-9
VARIANCE = 1e-9
# Joint statistics feel the condition of the contrast's covariance, 300 at most here. Seen: 2e-11.
JOINT = 1e-8
# Autoregressive coefficients, absolute. Seen: 1e-11.
RHO = 1e-9
# A residual sum is a difference of sums, and loses as many digits as the fit explains: with two
# degrees of freedom a design may leave a millionth of the squares by chance. Such voxels are left
# out here (1e-9 of a standard error was exceeded at a share of 5e-6).
SHARE_LEFT = 1e-4
# Designs this ill-conditioned (columns at unit length) lose digits in the oracle as well.
WELL_CONDITIONED = 300.0

# Against nilearn: sums in another order, about another origin. Seen: 1e-12, 2e-13.
NILEARN_EFFECT = 1e-10
NILEARN_VARIANCE = 1e-10

NOISES = [AR(0), AR(1), AR(1, bins=100)]
EVERY_NOISE = pytest.mark.parametrize("noise", NOISES, ids=str)
EVERY_SCALING = pytest.mark.parametrize("percent", [False, True], ids=["as it is", "percent"])


def maps(
    case: Case, noise: AR, *, percent: bool, stat_type: str = "F"
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    factor = factor_design(case.X)
    moments = of_series(case.Y, factor.shifted_basis(noise.order))
    model = Model(factor, noise, percent)
    weights = factor.contrast_in_basis(case.C)
    return contrast_maps(moments, model, weights, stat_type), model_maps(moments, model)


def truth(case: Case, noise: AR, *, percent: bool, rho_error: float = 0.0) -> Truth:
    return brute_force(
        case.Y, case.X, case.C, order=noise.order, bins=noise.bins, percent=percent,
        rho_error=rho_error,
    )  # fmt: skip


def is_well_conditioned(case: Case) -> bool:
    columns = case.X / np.abs(case.X).max(axis=0)
    s = np.linalg.svd(columns / np.linalg.norm(columns, axis=0), compute_uv=False)
    return bool(s[0] < WELL_CONDITIONED * s[case.rank - 1])


def comparable(case: Case, noise: AR, expected: Truth, *, percent: bool) -> np.ndarray:
    """Voxels of which residuals are left, and that rounding cannot move into another bin."""
    Y = scaled(case.Y, percent)
    squares = ((Y - Y[0] if case.constant else Y) ** 2).sum(axis=0)
    keep = expected.dof * expected.sigma2 > SHARE_LEFT * squares
    if noise.bins is None:
        return keep
    exact = truth(case, AR(1), percent=percent).rho
    return keep & ~near_bin_edge(exact, noise.bins)


def worst_error(found: dict[str, np.ndarray], expected: Truth, keep: np.ndarray) -> float:
    """Largest error of an F contrast: effects in standard errors, covariances relative."""
    variances = np.einsum("qqv->qv", expected.covariance)
    sizes = np.sqrt(variances[:, None] * variances[None])
    effect = np.abs(found["effect_size"] - expected.effect) / np.sqrt(variances)
    covariance = np.abs(found["effect_variance"] - expected.covariance) / sizes
    return max(
        float(np.max(effect[..., keep], initial=0.0)),
        float(np.max(covariance[..., keep], initial=0.0)),
    )


@EVERY_NOISE
@EVERY_SCALING
@settings(max_examples=80, deadline=None)
@given(case=cases(max_q=3))
def test_contrast_maps__equal_brute_force(noise: AR, percent: bool, case: Case) -> None:
    assume(is_well_conditioned(case))
    expected = truth(case, noise, percent=percent)
    found, _ = maps(case, noise, percent=percent)
    keep = comparable(case, noise, expected, percent=percent)
    assert worst_error(found, expected, keep) < EFFECT
    # The joint statistic: one solve per voxel.
    q = len(case.C)
    for v in np.flatnonzero(keep):
        e, V = expected.effect[:, v], expected.covariance[:, :, v]
        scale = np.sqrt(np.diag(V))
        unit = V / np.outer(scale, scale)
        if np.linalg.cond(unit) > WELL_CONDITIONED:
            continue
        stat = (e / scale) @ np.linalg.solve(unit, e / scale) / q
        assert abs(found["stat"][v] - stat) < JOINT * max(stat, 1.0)
    assert (found["voxel_status"] == ESTIMATED).all()


@EVERY_NOISE
@EVERY_SCALING
@settings(max_examples=80, deadline=None)
@given(case=cases())
def test_model_maps__equal_brute_force(noise: AR, percent: bool, case: Case) -> None:
    assume(is_well_conditioned(case))
    expected = truth(case, noise, percent=percent)
    _, found = maps(case, noise, percent=percent)
    keep = comparable(case, noise, expected, percent=percent)
    assert found["beta"].shape == (case.X.shape[1], case.Y.shape[1])
    assert found["ar"].shape == (noise.order, case.Y.shape[1])
    # Under rank deficiency coefficients are a choice; what they fit is not.
    largest = np.abs(case.X).max(axis=0)
    fitted = (case.X / largest) @ (found["beta"] * largest[:, None])
    for v in np.flatnonzero(keep):
        off = np.abs(fitted[:, v] - expected.fitted[:, v]).max()
        assert off < EFFECT * np.sqrt(expected.sigma2[v])
    assert relative(found["sigma2"][keep], expected.sigma2[keep]) < VARIANCE
    if noise.order:
        assert np.abs(found["ar"][0] - expected.rho)[keep].max(initial=0.0) < RHO
    if case.constant:
        assert np.abs(found["r_square"] - expected.r_square)[keep].max(initial=0.0) < VARIANCE


@EVERY_NOISE
@settings(max_examples=30, deadline=None)
@given(case=cases(duplicates=0))
def test_model_maps__coefficients_equal_brute_force(noise: AR, case: Case) -> None:
    assume(is_well_conditioned(case))
    k = case.X.shape[1]
    everything = Case(case.Y, case.X, np.eye(k), case.rank, case.constant)
    expected = truth(everything, noise, percent=False)
    _, found = maps(case, noise, percent=False)
    keep = comparable(case, noise, expected, percent=False)
    variances = np.einsum("qqv->qv", expected.covariance)[:, keep]
    off = in_standard_errors(found["beta"][:, keep], expected.effect[:, keep], variances)
    assert off < EFFECT


@pytest.mark.parametrize("rho_error", [1e-6, -1e-6])
def test_brute_force__another_rho_is_noticed(rho_error: float) -> None:
    # Negative control: one millionth in the coefficient moves results a hundred tolerances.
    case = random_case(np.random.default_rng(0), n_scans=60, rank=5, n_voxels=8)
    keep = np.ones(8, dtype=bool)
    found, _ = maps(case, AR(1), percent=False)
    assert worst_error(found, truth(case, AR(1), percent=False), keep) < EFFECT
    wrong = truth(case, AR(1), percent=False, rho_error=rho_error)
    assert worst_error(found, wrong, keep) > 100 * EFFECT


def test_brute_force__least_squares_binned_or_unscaled_is_noticed() -> None:
    case = random_case(np.random.default_rng(0), n_scans=60, rank=5, n_voxels=8)
    keep = np.ones(8, dtype=bool)
    expected = truth(case, AR(1), percent=False)
    for noise, percent in ((AR(0), False), (AR(1, bins=100), False), (AR(1), True)):
        found, _ = maps(case, noise, percent=percent)
        assert worst_error(found, expected, keep) > 1e-3


def test_brute_force__a_dispersion_by_columns_is_noticed() -> None:
    case = random_case(np.random.default_rng(0), n_scans=40, rank=4, duplicates=1)
    expected = truth(case, AR(1), percent=False)
    assert expected.dof == 36
    found, _ = maps(case, AR(1), percent=False)
    keep = np.ones(5, dtype=bool)
    assert worst_error(found, expected, keep) < VARIANCE
    by_columns = expected._replace(covariance=expected.covariance * 36 / 35)
    assert worst_error(found, by_columns, keep) > 0.02


@EVERY_NOISE
@pytest.mark.parametrize("duplicates", [1, 3])
def test_contrast_maps__redundant_columns_change_nothing(noise: AR, duplicates: int) -> None:
    case = random_case(np.random.default_rng(0), n_scans=60, rank=5, duplicates=0)
    found, _ = maps(case, noise, percent=True)
    more = case.X @ np.random.default_rng(1).standard_normal((5, duplicates))
    X = np.column_stack([case.X, more])
    # The same combination of the run's volumes, as weights of the wider design.
    C = case.C @ projection(case.X)[0] @ X
    wide, _ = maps(Case(case.Y, X, C, 5, True), noise, percent=True)
    off = in_standard_errors(
        wide["effect_size"], found["effect_size"], np.einsum("qqv->qv", found["effect_variance"])
    )
    assert off < EFFECT
    assert relative(wide["effect_variance"], found["effect_variance"]) < VARIANCE
    np.testing.assert_allclose(wide["z_score"], found["z_score"], rtol=1e-8)


@pytest.mark.parametrize("percent", [False, True])
@pytest.mark.parametrize("level", [1e4, 1e10])
def test_contrast_maps__a_large_mean_costs_no_digits(level: float, percent: bool) -> None:
    # Whole numbers: the oracle fits the series without its mean, exactly known.
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.standard_normal((60, 3)), np.ones(60)])
    noise = np.rint(100 * ar1_noise(rng, 60, np.full(6, 0.4)))
    case = Case(level + noise, X, np.eye(4)[:2], 4, True)
    found, _ = maps(case, AR(1), percent=percent)
    units = 100.0 / (level + noise.mean(axis=0)) if percent else np.ones(6)
    expected = brute_force(noise * units, X, case.C)
    # The mean is put back into the coefficients, so that an effect feels its rounding; a variance
    # does not. Seen: effects 1e-15 x mean / noise (1e-7 standard errors at 1e10), variances
    # 4e-15.
    variances = np.einsum("qqv->qv", expected.covariance)
    off = in_standard_errors(found["effect_size"], expected.effect, variances)
    assert off < max(1e-11, 1e-14 * level / 100)
    for row in range(2):
        assert relative(found["effect_variance"][row, row], variances[row]) < 1e-12


def test_solve__blocks_of_voxels_do_not_show() -> None:
    n = VOXELS_IN_CACHE + 3
    case = random_case(np.random.default_rng(0), n_scans=30, rank=3, n_voxels=n)
    found, model = maps(case, AR(1), percent=True, stat_type="t")
    for part in (slice(0, 2), slice(n - 5, n)):
        few = Case(case.Y[:, part], case.X, case.C, case.rank, case.constant)
        some, some_model = maps(few, AR(1), percent=True, stat_type="t")
        for name, values in some.items():
            np.testing.assert_allclose(found[name][..., part], values, rtol=1e-11)
        for name, values in some_model.items():
            np.testing.assert_allclose(model[name][..., part], values, rtol=1e-11)


def test_contrast_maps__one_row_as_t_or_f() -> None:
    case = random_case(np.random.default_rng(0), n_scans=40, rank=4)
    t, _ = maps(case, AR(1), percent=False, stat_type="t")
    f, _ = maps(case, AR(1), percent=False, stat_type="F")
    assert t["effect_size"].shape == t["effect_variance"].shape == (5,)
    assert f["effect_size"].shape == (1, 5)
    assert f["effect_variance"].shape == (1, 1, 5)
    np.testing.assert_allclose(t["stat"] ** 2, f["stat"], rtol=1e-13)
    np.testing.assert_array_equal(t["effect_variance"], f["effect_variance"][0, 0])


# --- nilearn ---------------------------------------------------------------------------------


def nilearn_contrast(
    Y: np.ndarray, X: np.ndarray, C: np.ndarray, noise: AR, stat_type: str
) -> tuple[object, np.ndarray]:
    from nilearn.glm import compute_contrast
    from nilearn.glm.first_level import run_glm

    name = "ols" if noise.order == 0 else "ar1"
    labels, results = run_glm(Y, X, noise_model=name)
    definition = C[0] if stat_type == "t" else C
    return compute_contrast(labels, results, definition, stat_type=stat_type), labels


def block_design(rng: np.random.Generator, n_scans: int) -> np.ndarray:
    """Two conditions in blocks, slow cosines, a constant."""
    t = np.arange(n_scans)
    blocks = [
        np.convolve((t // 9 % 3 == i).astype(float), np.ones(5) / 5)[:n_scans] for i in (0, 1)
    ]
    cosines = [np.cos(np.pi * k * (t + 0.5) / n_scans) for k in range(1, 7)]
    return np.column_stack([*blocks, *cosines, np.ones(n_scans)])


@pytest.mark.parametrize("noise", [AR(0), AR(1, bins=100)], ids=str)
@EVERY_SCALING
def test_contrast_maps__t_equals_nilearn(noise: AR, percent: bool) -> None:
    rng = np.random.default_rng(3)
    X = block_design(rng, 191)
    rho = rng.uniform(-0.2, 0.7, 4000)
    Y = 5000 + 80 * ar1_noise(rng, 191, rho) + X[:, :8] @ rng.normal(0, 60, (8, 4000))
    case = Case(Y, X, np.eye(9)[:1] - np.eye(9)[1:2], 9, True)
    found, model = maps(case, noise, percent=percent, stat_type="t")
    expected, labels = nilearn_contrast(scaled(Y, percent), X, case.C, noise, "t")
    keep = np.ones(4000, dtype=bool)
    if noise.order:
        # Voxels that rounding moves over the edge of a bin are counted, not compared.
        inverse, _ = projection(X)
        exact = np.array([rho_of(y - X @ (inverse @ y)) for y in Y.T])
        keep = ~near_bin_edge(exact, 100)
        assert (~keep).sum() <= len(keep) / 10_000
        np.testing.assert_allclose(model["ar"][0][keep], labels.astype(float)[keep], atol=1e-12)
    effect, variance = expected.effect[keep], expected.variance[keep]
    found = {name: values[keep] for name, values in found.items()}
    assert in_standard_errors(found["effect_size"], effect, variance) < NILEARN_EFFECT
    assert relative(found["effect_variance"], variance) < NILEARN_VARIANCE
    # A statistic is an effect in standard errors; its p moves by about |t| times as much.
    np.testing.assert_allclose(found["stat"], expected.stat()[keep], atol=1e-10, rtol=1e-10)
    np.testing.assert_allclose(found["p_value"], expected.p_value()[keep], rtol=1e-8, atol=1e-15)
    np.testing.assert_allclose(found["z_score"], expected.z_score()[keep], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("noise", [AR(0), AR(1, bins=100)], ids=str)
def test_contrast_maps__f_equals_nilearn(noise: AR) -> None:
    rng = np.random.default_rng(4)
    X = block_design(rng, 150)
    Y = 5000 + 80 * ar1_noise(rng, 150, rng.uniform(-0.2, 0.7, 1000))
    Y += X[:, :8] @ rng.normal(0, 60, (8, 1000))
    C = np.eye(9)[:3]
    found, _ = maps(Case(Y, X, C, 9, True), noise, percent=False)
    expected, _ = nilearn_contrast(Y, X, C, noise, "F")
    inverse, _ = projection(X)
    exact = np.array([rho_of(y - X @ (inverse @ y)) for y in Y.T])
    keep = ~near_bin_edge(exact, 100)
    assert (~keep).sum() <= 1
    # nilearn takes a matrix square root of an inverse on the way. Seen: 6e-11 (of a small p).
    np.testing.assert_allclose(found["stat"][keep], expected.stat()[keep], rtol=1e-9)
    np.testing.assert_allclose(found["p_value"][keep], expected.p_value()[keep], rtol=1e-7)
    np.testing.assert_allclose(found["z_score"][keep], expected.z_score()[keep], rtol=1e-8)


def test_contrast_maps__nilearn_divides_by_columns_and_this_by_rank() -> None:
    rng = np.random.default_rng(5)
    X = block_design(rng, 100)
    X = np.column_stack([X, X[:, 0] + X[:, 1]])
    Y = 100 + ar1_noise(rng, 100, np.zeros(50))
    # Sums the dependent columns in the one way that they determine.
    C = (np.eye(10)[0] + np.eye(10)[9] - np.eye(10)[1] - np.eye(10)[9])[None]
    found, _ = maps(Case(Y, X, C, 9, True), AR(0), percent=False, stat_type="t")
    expected, _ = nilearn_contrast(Y, X, C, AR(0), "t")
    ratio = expected.variance / found["effect_variance"]
    # 91 degrees of freedom, of which nilearn uses 90 in the variance and reports 91.
    np.testing.assert_allclose(ratio, 91 / 90, rtol=1e-9)
    assert expected.dof == 91


# --- voxels that cannot be estimated -----------------------------------------------------------


def one_bad_voxel(values: np.ndarray) -> Case:
    """A run of which voxel 2 is given."""
    case = random_case(np.random.default_rng(0), n_scans=30, rank=4, n_voxels=6, level=100.0)
    case.Y[:, 2] = values
    return case


@EVERY_NOISE
@EVERY_SCALING
@pytest.mark.parametrize("level", [0.0, 0.1, -0.1, 1e-300, 1e10, 1 / 3])
def test_voxel_status__constant(noise: AR, percent: bool, level: float) -> None:
    # Constant about its level by rounding, as after smoothing or another scaling; nilearn gives
    # such a voxel |t| of about 1.3.
    rounding = level * (1 + 2.3e-16 * (np.arange(30) % 2))
    for values in (np.full(30, level), rounding):
        check_only_voxel_2_is_missing(one_bad_voxel(values), noise, percent, CONSTANT)


@EVERY_NOISE
@EVERY_SCALING
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
@pytest.mark.parametrize("t", [0, 13, 29])
def test_voxel_status__not_finite(noise: AR, percent: bool, bad: float, t: int) -> None:
    values = 100 + np.random.default_rng(9).standard_normal(30)
    values[t] = bad
    with np.errstate(all="ignore"):
        check_only_voxel_2_is_missing(one_bad_voxel(values), noise, percent, NOT_FINITE)


def check_only_voxel_2_is_missing(case: Case, noise: AR, percent: bool, status: int) -> None:
    found = maps(case, noise, percent=percent, stat_type="t")
    good = np.arange(6) != 2
    rest = Case(case.Y[:, good], case.X, case.C, case.rank, case.constant)
    expected = maps(rest, noise, percent=percent, stat_type="t")
    for these, those in zip(found, expected, strict=True):
        for name, values in these.items():
            if name == "voxel_status":
                assert values.tolist() == [0, 0, status, 0, 0, 0]
                continue
            assert np.isnan(values[..., 2]).all(), name
            np.testing.assert_allclose(values[..., good], those[name], rtol=1e-11, err_msg=name)


@pytest.mark.parametrize("level", [1.0, 1e5, 1e10])
def test_voxel_status__a_small_signal_on_a_large_offset_is_estimated(level: float) -> None:
    signal = np.rint(np.random.default_rng(9).normal(0, 3, 30))
    found, _ = maps(one_bad_voxel(level + signal), AR(1), percent=False, stat_type="t")
    assert (found["voxel_status"] == ESTIMATED).all()
    assert np.isfinite(found["stat"]).all()


@pytest.mark.parametrize("mean", [-50.0, 0.0, 0.5, 1.0, 2.0])
def test_percent__a_mean_below_one_counts_as_one(mean: float) -> None:
    from nilearn.glm.first_level import mean_scaling

    rng = np.random.default_rng(0)
    case = random_case(rng, n_scans=40, rank=4, level=0.0)
    Y = case.Y - case.Y.mean(axis=0) + mean
    case = Case(Y, case.X, case.C, case.rank, True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nilearn warns of means of 0
        by_nilearn, _ = mean_scaling(Y)
    expected = brute_force(by_nilearn, case.X, case.C)
    found, _ = maps(case, AR(1), percent=True)
    assert worst_error(found, expected, np.ones(5, dtype=bool)) < EFFECT


def test_model_maps__r_square_without_a_constant_keeps_its_digits() -> None:
    # Share explained about the mean, by a design that has no mean: hugely negative, and what
    # counts is 1 - r_square, relative. Seen: 1e-8 at a mean of 1e4 times the noise, and 3e-5 in a
    # run of four volumes.
    case = random_case(np.random.default_rng(0), n_scans=40, rank=3, constant=False, level=1e4)
    expected = truth(case, AR(0), percent=False).r_square
    _, found = maps(case, AR(0), percent=False)
    assert relative(1 - found["r_square"], 1 - expected) < VARIANCE


@settings(max_examples=20)
@given(level=st.sampled_from([0.0, 1.0]), seed=st.integers(0, 2**32 - 1))
def test_model_maps__r_square_without_a_constant(level: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = random_case(rng, n_scans=40, rank=3, constant=False, level=level)
    expected = truth(case, AR(0), percent=False).r_square
    _, found = maps(case, AR(0), percent=False)
    assert relative(1 - found["r_square"], 1 - expected) < VARIANCE
