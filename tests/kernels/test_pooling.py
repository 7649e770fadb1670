"""Fixed effects: weights, runs that do not count, parts of parts, nilearn."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import block_diag

from chunkglm.kernels.estimate import statistics
from chunkglm.kernels.level import CONSTANT, ESTIMATED, OUTSIDE_MASK
from chunkglm.kernels.pooling import (
    DIGITS_LOST,
    NO_RUN,
    Estimate,
    leave_one_out,
    pool,
    take_out,
)

# Sums of a dozen runs in another order, relative to the largest. Seen: 5e-16.
ANOTHER_ORDER = 1e-13
# Inverses of q x q covariances too, of condition up to 1e3. Seen: 2e-15, relative to the largest.
INVERSES = 1e-9

# Differences of sums of which at least 1e-5 is left here, times the condition.
TAKEN_OUT = 1e-9
# Dense matrices of 189 x 189, inverted. Seen: 3e-14.
ONE_MODEL = 1e-10

BAD = [0.0, -1.0, np.nan, np.inf, -np.inf]


def runs(rng: np.random.Generator, n: int, q: int, n_voxels: int) -> list[Estimate]:
    """Estimates of single runs, of unlike precision."""
    found = []
    for _ in range(n):
        root = rng.standard_normal((n_voxels, q, q + 4)) * 10.0 ** rng.uniform(-1, 1)
        covariance = np.moveaxis(root @ root.swapaxes(-1, -2), 0, -1).copy()
        dof = np.full(n_voxels, float(rng.integers(5, 200)))
        effect = rng.standard_normal((q, n_voxels))
        status = np.zeros(n_voxels, dtype=np.int8)
        found.append(Estimate(effect, covariance, np.ones(n_voxels), dof, status))
    return found


def spoil(estimates: list[Estimate], data: st.DataObject, most: int) -> None:
    """Make some runs unusable at some voxels, in all the ways there are."""
    q, n_voxels = estimates[0].effect.shape
    for _ in range(data.draw(st.integers(0, most))):
        one = estimates[data.draw(st.integers(0, len(estimates) - 1))]
        voxel, row = data.draw(st.integers(0, n_voxels - 1)), data.draw(st.integers(0, q - 1))
        one.covariance[row, row, voxel] = data.draw(st.sampled_from(BAD))
        one.status[voxel] = data.draw(st.sampled_from([ESTIMATED, OUTSIDE_MASK, CONSTANT]))
        if data.draw(st.booleans()):
            one.effect[row, voxel] = np.nan


def by_voxel(estimates: list[Estimate], weighted: bool) -> Estimate:
    """Pool one voxel at a time, run by run."""
    q, n_voxels = estimates[0].effect.shape
    effect, covariance = np.full((q, n_voxels), np.nan), np.full((q, q, n_voxels), np.nan)
    used, dof = np.zeros(n_voxels), np.full(n_voxels, np.nan)
    status = np.zeros(n_voxels, dtype=np.int8)
    for v in range(n_voxels):
        every = [(one.effect[:, v], one.covariance[:, :, v], one.dof[v]) for one in estimates]
        good = [
            (e, c, d)
            for e, c, d in every
            if np.isfinite(c).all() and np.isfinite(e).all() and (np.diag(c) > 0).all()
        ]
        if not good:
            reasons = {int(one.status[v]) for one in estimates}
            status[v] = reasons.pop() if len(reasons) == 1 and 0 not in reasons else NO_RUN
            continue
        e, c = np.stack([g[0] for g in good]), np.stack([g[1] for g in good])
        used[v], dof[v] = len(good), sum(g[2] for g in good)
        if weighted:
            precision = np.linalg.inv(c)
            covariance[:, :, v] = np.linalg.inv(precision.sum(axis=0))
            effect[:, v] = covariance[:, :, v] @ np.einsum("iab,ib->a", precision, e)
        else:
            effect[:, v], covariance[:, :, v] = e.mean(axis=0), c.sum(axis=0) / len(good) ** 2
    return Estimate(effect, covariance, used, dof, status)


def assert_same(found: Estimate, expected: Estimate, rtol: float) -> None:
    for name, value, other in zip(Estimate._fields, found, expected, strict=True):
        size = np.nanmax(np.abs(other), initial=1e-300)
        np.testing.assert_allclose(value, other, rtol=rtol, atol=rtol * size, err_msg=name)


@pytest.mark.parametrize("weighted", [False, True])
@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 6), q=st.integers(1, 3), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_pool__equals_each_voxel_by_itself_whatever_is_bad(
    weighted: bool, n: int, q: int, seed: int, data: st.DataObject
) -> None:
    estimates = runs(np.random.default_rng(seed), n, q, 4)
    spoil(estimates, data, 5)
    found = pool(estimates, precision_weighted=weighted)
    assert_same(found, by_voxel(estimates, weighted), INVERSES)


@pytest.mark.parametrize("weighted", [False, True])
@settings(max_examples=60, deadline=None)
@given(
    order=st.permutations(range(7)),
    n=st.integers(2, 7),
    edges=st.sets(st.integers(1, 6), max_size=3),
    q=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_pool__parts_of_runs_merge_as_if_all_were_given_at_once(
    weighted: bool, order: list[int], n: int, edges: set[int], q: int, seed: int,
    data: st.DataObject,
) -> None:  # fmt: skip
    estimates = runs(np.random.default_rng(seed), n, q, 5)
    spoil(estimates, data, 6)
    shuffled = [estimates[i] for i in order if i < n]
    cuts = [0, *sorted(e for e in edges if e < n), n]
    parts = [pool(shuffled[i:j], precision_weighted=weighted) for i, j in pairwise(cuts)]
    merged = pool(parts, precision_weighted=weighted)
    at_once = pool(estimates, precision_weighted=weighted)
    assert_same(merged, at_once, ANOTHER_ORDER if q == 1 else INVERSES)


@pytest.mark.parametrize("weighted", [False, True])
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 7),
    dropped=st.sets(st.integers(0, 6), min_size=1, max_size=3),
    q=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_take_out__of_the_whole_leaves_the_others(
    weighted: bool, n: int, dropped: set[int], q: int, seed: int, data: st.DataObject
) -> None:
    estimates = runs(np.random.default_rng(seed), n, q, 5)
    spoil(estimates, data, 8)
    gone = sorted(i for i in dropped if i < n)
    if not 0 < len(gone) < n:
        gone = [0]
    whole = pool(estimates, precision_weighted=weighted)
    found = take_out(whole, [estimates[i] for i in gone], precision_weighted=weighted)
    others = [one for i, one in enumerate(estimates) if i not in gone]
    expected = pool(others, precision_weighted=weighted)
    # Where no run is left the reason may be one that only the runs themselves know.
    same = (found.status == expected.status) | (found.status == NO_RUN)
    assert same.all()
    assert_same(found._replace(status=expected.status), expected, TAKEN_OUT)


@pytest.mark.parametrize("weighted", [False, True])
@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 6), q=st.integers(1, 2), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_leave_one_out__equals_pooling_the_others(
    weighted: bool, n: int, q: int, seed: int, data: st.DataObject
) -> None:
    estimates = runs(np.random.default_rng(seed), n, q, 4)
    spoil(estimates, data, 8)
    found = leave_one_out(estimates, precision_weighted=weighted)
    assert len(found) == n
    for i, one in enumerate(found):
        others = [*estimates[:i], *estimates[i + 1 :]]
        expected = pool(others, precision_weighted=weighted)
        assert_same(one, expected, ANOTHER_ORDER if q == 1 else INVERSES)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("q", [1, 2])
def test_take_out__where_nothing_but_rounding_is_left_is_nan(weighted: bool, q: int) -> None:
    estimates = runs(np.random.default_rng(0), 3, q, 4)
    # A run that is nearly all of the variance (of the precision), in one direction at one voxel.
    factor = 1e-9 if weighted else 1e9
    estimates[1].covariance[:, 0, 2] *= factor**0.5
    estimates[1].covariance[0, :, 2] *= factor**0.5
    whole = pool(estimates, precision_weighted=weighted)
    found = take_out(whole, estimates[1:2], precision_weighted=weighted)
    assert found.status.tolist() == [0, 0, DIGITS_LOST, 0]
    assert np.isnan(found.effect[:, 2]).all()
    assert found.n_runs.tolist() == [2, 2, 0, 2]
    # The sums before and after it hold every digit.
    kept = leave_one_out(estimates, precision_weighted=weighted)[1]
    assert_same(kept, pool(estimates[::2], precision_weighted=weighted), INVERSES)


def test_take_out__a_run_that_was_never_in_leaves_nothing() -> None:
    one, other = runs(np.random.default_rng(0), 2, 1, 3)
    found = take_out(pool([one], precision_weighted=False), [one, other], precision_weighted=False)
    assert found.n_runs.tolist() == [0, 0, 0]
    assert np.isnan(found.effect).all()


@pytest.mark.parametrize("q", [1, 2, 3])
def test_pool__joint_f_is_that_of_the_runs_in_one_model_under_known_variances(q: int) -> None:
    """Generalised least squares of all runs at once: shared conditions, own nuisance and noise."""
    rng = np.random.default_rng(q)
    lengths, estimates = (40, 55, 33, 61), []
    shared, nuisance, noise, data = [], [], [], []
    for n_scans in lengths:
        x, z = rng.standard_normal((n_scans, q)), rng.standard_normal((n_scans, 3))
        lag = np.abs(np.subtract.outer(np.arange(n_scans), np.arange(n_scans)))
        sigma = rng.uniform(0.3, 4.0) * rng.uniform(-0.5, 0.7) ** lag
        y = x @ rng.standard_normal((q, 1)) + rng.multivariate_normal(np.zeros(n_scans), sigma, 5).T
        precision = np.linalg.inv(sigma)
        both = np.hstack([x, z])
        covariance = np.linalg.inv(both.T @ precision @ both)
        beta = covariance @ both.T @ precision @ y
        ones = np.ones(5)
        spread = np.repeat(covariance[:q, :q, None], 5, axis=2)
        status = np.zeros(5, dtype=np.int8)
        estimates.append(Estimate(beta[:q], spread, ones, ones * (n_scans - q - 3), status))
        shared, nuisance, noise, data = [*shared, x], [*nuisance, z], [*noise, sigma], [*data, y]
    X = np.hstack([np.vstack(shared), block_diag(*nuisance)])
    precision, y = np.linalg.inv(block_diag(*noise)), np.vstack(data)
    covariance = np.linalg.inv(X.T @ precision @ X)
    beta = (covariance @ X.T @ precision @ y)[:q]
    f = np.einsum("av,ab,bv->v", beta, np.linalg.inv(covariance[:q, :q]), beta) / q
    found = pool(estimates, precision_weighted=True)
    stat, _, _ = statistics(found.effect, found.covariance, found.dof, "F")
    # Seen: 2e-14.
    np.testing.assert_allclose(stat, f, rtol=ONE_MODEL)
    np.testing.assert_allclose(found.effect, beta, rtol=ONE_MODEL)
    np.testing.assert_allclose(found.covariance[..., 0], covariance[:q, :q], rtol=ONE_MODEL)
    # Equal weights are another estimate.
    plain = pool(estimates, precision_weighted=False)
    assert np.abs(plain.effect - beta).max() > 0.01


def test_pool__parts_taken_for_single_runs_are_noticed() -> None:
    # Negative control: without n_runs the part of three runs weighs as much as the one run.
    estimates = runs(np.random.default_rng(0), 4, 1, 5)
    three = pool(estimates[:3], precision_weighted=False)
    forgotten = three._replace(n_runs=np.ones(5))
    merged = pool([forgotten, estimates[3]], precision_weighted=False)
    at_once = pool(estimates, precision_weighted=False)
    assert np.abs(merged.effect - at_once.effect).max() > 1e-2


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("q", [1, 2])
@pytest.mark.parametrize("bad", BAD)
def test_pool__a_bad_variance_gets_no_weight(weighted: bool, q: int, bad: float) -> None:
    estimates = runs(np.random.default_rng(0), 3, q, 4)
    dofs = [one.dof[0] for one in estimates]
    expected = pool(estimates[::2], precision_weighted=weighted)
    estimates[1].covariance[0, 0, 2] = bad
    for one in estimates:
        one.covariance[0, 0, 3] = bad
    found = pool(estimates, precision_weighted=weighted)
    np.testing.assert_allclose(found.effect[:, 2], expected.effect[:, 2], rtol=1e-12)
    np.testing.assert_allclose(found.covariance[..., 2], expected.covariance[..., 2], rtol=1e-12)
    assert found.n_runs.tolist() == [3, 3, 2, 0]
    np.testing.assert_array_equal(found.dof[:3], [sum(dofs)] * 2 + [dofs[0] + dofs[2]])
    # No usable run: nothing is claimed.
    for values in (found.effect, found.covariance, found.dof):
        assert np.isnan(values[..., 3]).all()
    assert found.status.tolist() == [0, 0, 0, NO_RUN]


def test_pool__runs_without_degrees_of_freedom_or_runs_do_not_count() -> None:
    one, other = runs(np.random.default_rng(0), 2, 1, 3)
    one.dof[0], one.dof[1], one.n_runs[2] = 0.0, np.nan, 0.0
    found = pool([one, other], precision_weighted=False)
    assert found.n_runs.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(found.effect, other.effect)
    np.testing.assert_array_equal(found.dof, other.dof)


def test_pool__of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        pool([], precision_weighted=False)


@pytest.mark.parametrize("weighted", [False, True])
def test_pool__equals_nilearn_given_the_true_dofs(weighted: bool) -> None:
    import nibabel as nib
    from nilearn.glm.contrasts import compute_fixed_effects

    estimates = runs(np.random.default_rng(0), 5, 1, 60)
    shape = (3, 4, 5)
    affine = np.eye(4)
    images = [
        [nib.Nifti1Image(a.reshape(shape), affine) for a in stack]
        for stack in ([one.effect for one in estimates], [one.covariance for one in estimates])
    ]
    mask = nib.Nifti1Image(np.ones(shape, dtype=np.int8), affine)
    theirs = compute_fixed_effects(
        *images,
        mask=mask,
        precision_weighted=weighted,
        dofs=[float(one.dof[0]) for one in estimates],
    )
    effect, variance, t, z = (image.get_fdata().reshape(-1) for image in theirs)
    found = pool(estimates, precision_weighted=weighted)
    stat, _, z_score = statistics(found.effect, found.covariance, found.dof, "t")
    # Seen: 3e-15.
    np.testing.assert_allclose(found.effect[0], effect, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(found.covariance[0, 0], variance, rtol=1e-12)
    np.testing.assert_allclose(stat, t, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(z_score, z, rtol=1e-11, atol=1e-13)


def of_variances(*variances: float) -> list[Estimate]:
    """Effects 1, 2, ... of these variances in one voxel."""
    one, status = np.ones(1), np.zeros(1, dtype=np.int8)
    return [
        Estimate(np.full((1, 1), i + 1.0), np.full((1, 1, 1), variance), one, 50 * one, status)
        for i, variance in enumerate(variances)
    ]


def test_pool__where_nilearn_hands_out_weight_to_a_variance_of_zero() -> None:
    found = pool(of_variances(0.0, 4.0), precision_weighted=True)
    stat, _, _ = statistics(found.effect, found.covariance, found.dof, "t")
    # nilearn floors the variance at 1e-16 and reports t = 1e8.
    assert (found.effect[0, 0], found.covariance[0, 0, 0], stat[0]) == (2.0, 4.0, 1.0)


def test_pool__a_singular_covariance_gets_no_weight() -> None:
    estimates = runs(np.random.default_rng(0), 2, 2, 3)
    estimates[0].covariance[:, :, 1] = 1.0
    found = pool(estimates, precision_weighted=True)
    assert found.n_runs.tolist() == [2, 1, 2]


def test_pool__a_variance_too_small_to_invert_gets_no_weight() -> None:
    found = pool(of_variances(1e-320, 1.0), precision_weighted=True)
    assert found.n_runs[0] == 1
    assert found.covariance[0, 0, 0] == 1.0


def test_pool__rows_in_unlike_units_keep_their_digits() -> None:
    estimates = runs(np.random.default_rng(0), 4, 2, 6)
    units = np.array([1e-12, 1e12])
    scaled = [
        one._replace(
            effect=one.effect * units[:, None],
            covariance=one.covariance * np.multiply.outer(units, units)[:, :, None],
        )
        for one in estimates
    ]
    plain, found = (pool(e, precision_weighted=True) for e in (estimates, scaled))
    np.testing.assert_allclose(found.effect / units[:, None], plain.effect, rtol=1e-11)
