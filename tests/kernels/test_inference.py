"""Tails of t and F against exact values, and F statistics against one solve per voxel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from chunkglm.kernels import inference
from chunkglm.kernels.inference import f_statistic, f_to_p_and_z, t_to_p_and_z
from chunkglm.kernels.tails import LARGEST_P, SMALLEST_DOF, SMALLEST_P

# The oracle: exact tails at 60 digits, statistics chosen so that |z| goes from 0.001 to 37. Made
# with mpmath 1.4 by `python tests/helpers/tails_mpmath.py`. Nothing in the table comes from scipy.
T_TAILS = [  # t, dof, upper tail, z
    (0.0010854019850946438, 3, 0.49960105778608893, 0.001),
    (0.5558551364898394, 3, 0.3085375387259869, 0.5),
    (3.1825559726443737, 3, 0.024997895148220435, 1.96),
    (156.6778411372026, 3, 2.8665157187919396e-07, 5.0),
    (276688.32031715295, 3, 5.205569744890285e-17, 8.3),
    (3.421201846862812e29, 3, 2.7536241186062344e-89, 20.0),
    (6.079716625129647e65, 3, 4.9067139271481864e-198, 30.0),
    (5.774849134869725e99, 3, 5.725571222524577e-300, 37.0),
    (0.0010125732063333847, 20, 0.49960105778608893, 0.001),
    (0.5079061289222713, 20, 0.3085375387259869, 0.5),
    (2.086005656883608, 20, 0.024997895148220428, 1.9600000000000002),
    (7.197477483436549, 20, 2.866515718791939e-07, 5.0),
    (25.446882466576405, 20, 5.2055697448902786e-17, 8.3),
    (106112.90318370724, 20, 2.7536241186062365e-89, 20.0),
    (29055201591.926613, 20, 4.906713927148189e-198, 30.0),
    (3629714688044936.0, 20, 5.725571222524577e-300, 37.0),
    (0.0010023391484838167, 107, 0.49960105778608893, 0.001),
    (0.5014635967801546, 107, 0.3085375387259869, 0.5),
    (1.9824204580017941, 107, 0.02499789514822043, 1.96),
    (5.320435116964526, 107, 2.866515718791939e-07, 5.0),
    (9.863285892323495, 107, 5.2055697448902995e-17, 8.299999999999999),
    (66.6834374478665, 107, 2.753624118606209e-89, 20.0),
    (700.5415321929798, 107, 4.906713927148181e-198, 30.0),
    (6282.3887548588555, 107, 5.725571222524556e-300, 37.0),
    (0.0010001947231810262, 1284, 0.49960105778608893, 0.001),
    (0.5001217131265003, 1284, 0.3085375387259869, 0.5),
    (1.961849364424739, 1284, 0.024997895148220428, 1.9600000000000002),
    (5.025423345669362, 1284, 2.8665157187919407e-07, 5.0),
    (8.414258661695118, 1284, 5.205569744890276e-17, 8.3),
    (21.668396952928088, 1284, 2.753624118606258e-89, 20.0),
    (36.12120716363006, 1284, 4.9067139271481255e-198, 30.0),
    (49.46270979800535, 1284, 5.7255712225243e-300, 37.0),
]
F_TAILS = [  # F, q, dof, upper tail, z
    (0.47279569125629856, 1, 20, 0.49960105778608893, 0.000999999999999989),
    (0.47101851070488465, 1, 20, 0.500398942213911, -0.0010000000000000122),
    (1.091802917953192, 1, 20, 0.30853753872598694, 0.49999999999999994),
    (0.16214330258491547, 1, 20, 0.6914624612740131, -0.5),
    (5.871686937561408, 1, 20, 0.02499789514822043, 1.96),
    (0.0010067754868837296, 1, 20, 0.9750021048517795, -1.96),
    (56.87182231939375, 1, 20, 2.8665157187919396e-07, 5.0),
    (1.3233703005749474e-13, 1, 20, 0.9999997133484281, -5.0),
    (695.3888137193331, 1, 20, 5.2055697448902854e-17, 8.3),
    (4.364246455022289e-33, 1, 20, 1.0, -8.3),
    (12068113695.322737, 1, 20, 2.7536241186062327e-89, 20.0),
    (1.2211866346642524e-177, 1, 20, 1.0, -20.0),
    (9.047962367943681e20, 1, 20, 4.906713927148184e-198, 30.0),
    (9.85967654375977e-305, 1, 20, 1.0, -26.307719229155193),
    (1.4120431791922773e31, 1, 20, 5.725571222524577e-300, 37.0),
    (9.85967654375977e-305, 1, 20, 1.0, -26.307719229155193),
    (0.6984654681481743, 2, 107, 0.49960105778608893, 0.000999999999999955),
    (0.6968488896113215, 2, 107, 0.5003989422139111, -0.001000000000000033),
    (1.188930035535492, 2, 107, 0.3085375387259869, 0.5000000000000001),
    (0.3702215078517924, 2, 107, 0.6914624612740131, -0.5),
    (3.8191197184766015, 2, 107, 0.024997895148220435, 1.96),
    (0.025321639661392746, 2, 107, 0.9750021048517795, -1.96),
    (17.399998255271957, 2, 107, 2.866515718791937e-07, 5.0),
    (2.8665161373169953e-07, 2, 107, 0.9999997133484281, -5.0),
    (54.32484961333081, 2, 107, 5.2055697448902854e-17, 8.3),
    (5.2055697448902854e-17, 2, 107, 1.0, -8.3),
    (2365.7606799331975, 2, 107, 2.7536241186062397e-89, 20.0),
    (2.7536241186062337e-89, 2, 107, 1.0, -20.0),
    (260787.81743774496, 2, 107, 4.9067139271481976e-198, 30.0),
    (4.906713927148187e-198, 2, 107, 1.0, -30.0),
    (20973189.0680511, 2, 107, 5.725571222524563e-300, 37.0),
    (5.725571222524577e-300, 2, 107, 1.0, -37.0),
    (0.84304300951955, 4, 177, 0.49960105778608893, 0.0010000000000000304),
    (0.8417527323958212, 4, 177, 0.500398942213911, -0.000999999999999935),
    (1.2093013627922824, 4, 177, 0.3085375387259868, 0.5000000000000001),
    (0.5607301361428104, 4, 177, 0.6914624612740131, -0.4999999999999999),
    (2.858904808319006, 4, 177, 0.02499789514822044, 1.96),
    (0.120584828802605, 4, 177, 0.9750021048517795, -1.96),
    (9.925937386884176, 4, 177, 2.86651571879194e-07, 5.0),
    (0.0003765596388341731, 4, 177, 0.9999997133484281, -5.0),
    (26.087566709661882, 4, 177, 5.205569744890282e-17, 8.3),
    (5.073168137391886e-09, 4, 177, 1.0, -8.3),
    (421.51053840014384, 4, 177, 2.7536241186062435e-89, 20.0),
    (3.689754306642701e-45, 4, 177, 1.0, -20.0),
    (7852.040090344839, 4, 177, 4.906713927148194e-198, 30.0),
    (1.557544591311986e-99, 4, 177, 1.0, -30.0),
    (111959.72580349859, 4, 177, 5.725571222524601e-300, 37.0),
    (1.6824978989144494e-150, 4, 177, 1.0, -37.0),
    (0.9189729073368978, 8, 1284, 0.499601057786089, 0.0009999999999999157),
    (0.9180189612584774, 8, 1284, 0.500398942213911, -0.0009999999999999929),
    (1.178387914835075, 8, 1284, 0.3085375387259869, 0.5),
    (0.700426282027572, 8, 1284, 0.6914624612740131, -0.5),
    (2.2017129041473957, 8, 1284, 0.024997895148220435, 1.96),
    (0.2720547995677335, 8, 1284, 0.9750021048517795, -1.96),
    (5.785079176490234, 8, 1284, 2.866515718791939e-07, 5.0),
    (0.012907043395820335, 8, 1284, 0.9999997133484281, -5.0),
    (12.252358319919528, 8, 1284, 5.205569744890291e-17, 8.3),
    (4.6893582526098715e-05, 8, 1284, 1.0, -8.3),
    (64.82645378531709, 8, 1284, 2.753624118606212e-89, 20.0),
    (3.99904338408339e-23, 8, 1284, 1.0, -20.0),
    (173.23060216639342, 8, 1284, 4.9067139271482815e-198, 30.0),
    (2.5982302574808157e-50, 8, 1284, 1.0, -30.0),
    (321.08929307730705, 8, 1284, 5.725571222524592e-300, 37.0),
    (8.539543531901701e-76, 8, 1284, 1.0, -37.0),
]

# Relative error of a tail probability down to 1e-300: the logarithm of the tail is 690 there, so
# its rounding alone is 690 x 2e-16 = 1.5e-13. Seen: 1.3e-13 (t = 36, 1284 degrees of freedom).
TAIL = 1e-12
# Relative error of z, which feels the tail's divided by z**2. Seen: 1.6e-14.
Z_EXACT = 1e-13
# Relative difference from scipy.stats, whose own tails use the same functions differently.
SCIPY_TAIL = 1e-11


def test_t_to_p_and_z__both_tails_are_exact_to_37() -> None:
    t, dof, tail, z = np.array(T_TAILS).T
    p, found = t_to_p_and_z(t, dof)
    np.testing.assert_allclose(p, tail, rtol=TAIL)
    np.testing.assert_allclose(found, z, rtol=Z_EXACT)
    p, found = t_to_p_and_z(-t, dof)
    np.testing.assert_allclose(found, -z, rtol=Z_EXACT)
    np.testing.assert_allclose(p, np.clip(1 - tail, None, LARGEST_P), rtol=1e-15)


def test_f_to_p_and_z__both_tails_are_exact_to_37() -> None:
    for f, q, dof, tail, z in F_TAILS:
        p, found = f_to_p_and_z(np.array([f]), int(q), dof)
        np.testing.assert_allclose(p, min(tail, LARGEST_P), rtol=TAIL)
        # Near the median z is a difference from 0: what counts there is the error of the tail.
        np.testing.assert_allclose(found, z, rtol=Z_EXACT, atol=1e-14)


def test_the_reference_tables__would_notice_a_lower_tail_by_subtraction() -> None:
    t, dof, _, z = np.array(T_TAILS).T
    by_subtraction = stats.norm.isf(np.clip(1 - stats.t.sf(t, dof), SMALLEST_P, LARGEST_P))
    assert np.abs(by_subtraction / -z - 1).max() > 0.5


@given(
    t=st.floats(-50, 50).filter(lambda t: t == 0 or abs(t) > 1e-100),
    dof=st.one_of(st.integers(1, 5000), st.floats(1, 5000)),
)
def test_t_to_p_and_z__agrees_with_scipy_and_is_symmetric(t: float, dof: float) -> None:
    p, z = t_to_p_and_z(np.array([t, -t]), float(dof))
    np.testing.assert_allclose(
        p, np.clip(stats.t.sf([t, -t], dof), SMALLEST_P, LARGEST_P), rtol=SCIPY_TAIL
    )
    assert z[0] == -z[1]
    expected = stats.norm.isf(max(stats.t.sf(abs(t), dof), SMALLEST_P))
    np.testing.assert_allclose(z[0], np.copysign(expected, t), rtol=1e-10, atol=1e-15)


@given(f=st.floats(0, 1e4), q=st.integers(1, 12), dof=st.integers(2, 5000))
def test_f_to_p_and_z__agrees_with_scipy(f: float, q: int, dof: int) -> None:
    p, z = f_to_p_and_z(np.array([f]), q, float(dof))
    upper, lower = stats.f.sf(f, q, dof), stats.f.cdf(f, q, dof)
    np.testing.assert_allclose(p, np.clip(upper, SMALLEST_P, LARGEST_P), rtol=SCIPY_TAIL)
    above, below = stats.norm.isf(max(upper, SMALLEST_P)), stats.norm.ppf(max(lower, SMALLEST_P))
    np.testing.assert_allclose(z, above if upper < 0.5 else below, rtol=1e-9, atol=1e-12)


def test_t_to_p_and_z__clips_where_z_would_be_infinite() -> None:
    p, z = t_to_p_and_z(np.array([1e300, -1e300, np.inf, -np.inf, 0.0, -0.0, np.nan]), 100.0)
    np.testing.assert_array_equal(p[:4], [SMALLEST_P, LARGEST_P, SMALLEST_P, LARGEST_P])
    # The normal score of 1e-300, from the same program as the tables.
    np.testing.assert_allclose(z[:4], 37.0471 * np.array([1, -1, 1, -1]), rtol=1e-6)
    assert p[4] == p[5] == 0.5
    assert not np.signbit(z[4])
    assert not np.signbit(z[5])
    assert z[4] == z[5] == 0
    assert np.isnan(p[6])
    assert np.isnan(z[6])


def test_f_to_p_and_z__of_one_row_is_the_two_sided_t() -> None:
    t = np.linspace(0.1, 30, 50)
    p, _ = f_to_p_and_z(t**2, 1, 60.0)
    np.testing.assert_allclose(p, 2 * t_to_p_and_z(t, 60.0)[0], rtol=SCIPY_TAIL)


def test_f_to_p_and_z__nan_stays_nan() -> None:
    p, z = f_to_p_and_z(np.array([np.nan, 1.0]), 3, np.array([20.0, 20.0]))
    np.testing.assert_array_equal(np.isnan(p), [True, False])
    np.testing.assert_array_equal(np.isnan(z), [True, False])


def covariances(rng: np.random.Generator, q: int, n: int, decades: float) -> np.ndarray:
    """Positive definite (q, q, n), rows in units up to 10**decades apart."""
    root = rng.standard_normal((n, q, q + 3))
    root *= 10.0 ** rng.uniform(-decades, decades, (1, q, 1))
    return np.moveaxis(root @ root.swapaxes(1, 2), 0, -1)


@settings(max_examples=60)
@given(
    q=st.integers(1, 6), seed=st.integers(0, 2**32 - 1), decades=st.sampled_from([0.0, 3.0, 100.0])
)
def test_f_statistic__equals_a_solve_per_voxel(q: int, seed: int, decades: float) -> None:
    rng = np.random.default_rng(seed)
    covariance = covariances(rng, q, 7, decades)
    effect = rng.standard_normal((q, 7)) * np.sqrt(np.einsum("qqv->qv", covariance))
    expected = []
    for v in range(7):
        scale = np.sqrt(np.diag(covariance[:, :, v]))
        unit = covariance[:, :, v] / scale[:, None] / scale
        # Cholesky, another way than the kernel's: the squared length of the whitened effect.
        whitened = np.linalg.solve(np.linalg.cholesky(unit), effect[:, v] / scale)
        expected.append(whitened @ whitened / q)
    # Seen: 2e-14; correlation matrices may have a condition of 1e3.
    np.testing.assert_allclose(f_statistic(effect, covariance), expected, rtol=1e-10)


def test_f_statistic__is_nan_where_a_covariance_is_no_use_and_only_there() -> None:
    rng = np.random.default_rng(0)
    covariance = covariances(rng, 2, 6, 0.0)
    effect = rng.standard_normal((2, 6))
    good = f_statistic(effect, covariance)
    covariance[0, 0, 1] = 0.0
    covariance[1, 1, 2] = -1.0
    covariance[0, 1, 3] = covariance[1, 0, 3] = np.nan
    covariance[0, 0, 4] = np.inf
    found = f_statistic(effect, covariance)
    np.testing.assert_array_equal(np.isnan(found), [False, True, True, True, True, False])
    np.testing.assert_array_equal(found[[0, 5]], good[[0, 5]])


def test_f_statistic__a_singular_covariance_makes_one_voxel_nan() -> None:
    covariance = covariances(np.random.default_rng(0), 2, 3, 0.0)
    covariance[:, :, 1] = 1.0
    found = f_statistic(np.ones((2, 3)), covariance)
    np.testing.assert_array_equal(np.isnan(found), [False, True, False])


# Both ways are right to rounding; p's relative error is z**2 times z's. Worst seen: 1.5e-15, 7e-13.
MANY_Z, MANY_P = 4e-15, 2e-12


@pytest.mark.parametrize("dof", [12, 20, 21, 34, 60, 61.5, 75, 107, 178, 500, 1284, 6800, 1e5, 1e7])
def test_t_to_p_and_z__many_voxels_are_as_exact_as_few(dof: float) -> None:
    rng = np.random.default_rng(0)
    spread = np.exp(rng.uniform(-20, 8, 8000)) * rng.choice([-1, 1], 8000)
    odd = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e200, -1e200, 1e-300]
    t = np.concatenate([2 * rng.standard_normal(8000), spread, odd])
    assert t.size > inference.MANY_VOXELS
    p, z = t_to_p_and_z(t, dof)
    few = [t_to_p_and_z(part, dof) for part in np.array_split(t, 40)]
    assert max(part[0].size for part in few) < inference.MANY_VOXELS
    expected_p, expected_z = (np.concatenate(values) for values in zip(*few, strict=True))
    np.testing.assert_allclose(z, expected_z, rtol=MANY_Z, atol=MANY_Z)
    np.testing.assert_allclose(p, expected_p, rtol=MANY_P)
    assert (z[-8:-6] == 0).all()
    assert not np.signbit(z[-8:-6]).any()


def test_t_to_p_and_z__many_voxels_have_exact_tails() -> None:
    for t, dof, tail, z in T_TAILS:
        if dof >= SMALLEST_DOF:
            many = np.full(inference.MANY_VOXELS, t)
            found_p, found_z = t_to_p_and_z(many.reshape(4, -1), dof)
            np.testing.assert_allclose(found_p, tail, rtol=MANY_P)
            np.testing.assert_allclose(found_z, z, rtol=MANY_Z, atol=MANY_Z)


def test_t_to_p_and_z__many_voxels_are_symmetric_and_exact_near_0() -> None:
    """P near a half says nothing of a small z, and what is fitted to it must not spread that."""
    t = np.exp(np.linspace(-40, 2, inference.MANY_VOXELS))
    for dof in (20.0, 178.0, 6800.0):
        _, z = t_to_p_and_z(t, dof)
        np.testing.assert_array_equal(t_to_p_and_z(-t, dof)[1], -z)
        # To first order z is t times the ratio of the densities at 0; scipy's have 11 digits.
        small = t < 1e-9
        ratio = stats.t.pdf(0, dof) / stats.norm.pdf(0)
        np.testing.assert_allclose(z[small], ratio * t[small], rtol=1e-11)


@pytest.mark.parametrize("counts", [(5000,), (3000, 1500, 40, 3), (600, 400, 5)])
def test_t_to_p_and_z__of_maps_goes_by_the_degrees_of_freedom_of_each_voxel(
    counts: tuple[int, ...],
) -> None:
    rng = np.random.default_rng(0)
    dofs = np.repeat([178.0, 356.0, 12.0, 89.5][: len(counts)], counts)
    rng.shuffle(dofs)
    t = 3 * rng.standard_normal(dofs.size)
    t[:50], dofs[40:100] = np.nan, np.nan
    p, z = t_to_p_and_z(t, dofs)
    each = [t_to_p_and_z(t[i : i + 1], dofs[i]) for i in range(t.size)]
    np.testing.assert_allclose(p, [one[0][0] for one in each], rtol=MANY_P)
    np.testing.assert_allclose(z, [one[1][0] for one in each], rtol=MANY_Z, atol=MANY_Z)
    assert np.isnan(z[:100]).all()
