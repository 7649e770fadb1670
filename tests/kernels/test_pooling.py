"""Fixed effects: weights, runs that do not count, parts of parts, nilearn."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkglm.kernels.estimate import statistics
from chunkglm.kernels.pooling import Pooled, pool

# Sums of a dozen runs in another order, relative to the largest. Seen: 5e-16.
ANOTHER_ORDER = 1e-13
# Inverses of q x q covariances too, of condition up to 1e3. Seen: 2e-15, relative to the largest.
INVERSES = 1e-9

BAD = [0.0, -1.0, np.nan, np.inf, -np.inf]


def runs(
    rng: np.random.Generator, n: int, q: int, n_voxels: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Effects, covariances, degrees of freedom and ones, of unlike precision."""
    effects = rng.standard_normal((n, q, n_voxels))
    root = rng.standard_normal((n, n_voxels, q, q + 4)) * 10.0 ** rng.uniform(-1, 1, (n, 1, 1, 1))
    covariances = np.moveaxis(root @ root.swapaxes(-1, -2), 1, -1)
    dofs = np.repeat(rng.integers(5, 200, (n, 1)).astype(float), n_voxels, axis=1)
    return effects, np.ascontiguousarray(covariances), dofs, np.ones((n, n_voxels))


def by_voxel(
    effects: np.ndarray, covariances: np.ndarray, dofs: np.ndarray, weighted: bool
) -> Pooled:
    """Pool one voxel at a time, run by run."""
    n, q, n_voxels = effects.shape
    effect, covariance = np.full((q, n_voxels), np.nan), np.full((q, q, n_voxels), np.nan)
    used, dof = np.zeros(n_voxels), np.full(n_voxels, np.nan)
    for v in range(n_voxels):
        good = [
            i
            for i in range(n)
            if np.isfinite(covariances[i, :, :, v]).all()
            and np.isfinite(effects[i, :, v]).all()
            and (np.diag(covariances[i, :, :, v]) > 0).all()
        ]
        if not good:
            continue
        used[v], dof[v] = len(good), sum(dofs[i, v] for i in good)
        if weighted:
            precision = [np.linalg.inv(covariances[i, :, :, v]) for i in good]
            covariance[:, :, v] = np.linalg.inv(sum(precision))
            together = sum(P @ effects[i, :, v] for P, i in zip(precision, good, strict=True))
            effect[:, v] = covariance[:, :, v] @ together
        else:
            effect[:, v] = np.mean([effects[i, :, v] for i in good], axis=0)
            covariance[:, :, v] = sum(covariances[i, :, :, v] for i in good) / len(good) ** 2
    return Pooled(effect, covariance, used, dof)


def assert_same(found: Pooled, expected: Pooled, rtol: float) -> None:
    for name, value, other in zip(Pooled._fields, found, expected, strict=True):
        size = np.nanmax(np.abs(other), initial=1e-300)
        np.testing.assert_allclose(value, other, rtol=rtol, atol=rtol * size, err_msg=name)


@pytest.mark.parametrize("weighted", [False, True])
@settings(max_examples=50)
@given(n=st.integers(1, 6), q=st.integers(1, 3), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_pool__equals_each_voxel_by_itself_whatever_is_bad(
    weighted: bool, n: int, q: int, seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    effects, covariances, dofs, ones = runs(rng, n, q, 4)
    for _ in range(data.draw(st.integers(0, 5))):
        run, voxel = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, 3))
        row, bad = data.draw(st.integers(0, q - 1)), data.draw(st.sampled_from(BAD))
        covariances[run, row, row, voxel] = bad
        if data.draw(st.booleans()):
            effects[run, row, voxel] = np.nan
    found = pool(effects, covariances, dofs, ones, precision_weighted=weighted)
    assert_same(found, by_voxel(effects, covariances, dofs, weighted), INVERSES)


@pytest.mark.parametrize("weighted", [False, True])
@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    q=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_pool__parts_of_runs_merge_as_if_all_were_given_at_once(
    weighted: bool, sizes: list[int], q: int, seed: int, data: st.DataObject
) -> None:
    n = sum(sizes)
    effects, covariances, dofs, ones = runs(np.random.default_rng(seed), n, q, 5)
    for _ in range(data.draw(st.integers(0, 4))):
        covariances[data.draw(st.integers(0, n - 1)), 0, 0, data.draw(st.integers(0, 4))] = 0.0
    edges = np.cumsum([0, *sizes])
    parts = [
        pool(*(a[i:j] for a in (effects, covariances, dofs, ones)), precision_weighted=weighted)
        for i, j in pairwise(edges)
    ]
    merged = pool(
        np.stack([p.effect for p in parts]),
        np.stack([p.covariance for p in parts]),
        np.stack([p.dof for p in parts]),
        np.stack([p.n_runs for p in parts]),
        precision_weighted=weighted,
    )
    at_once = pool(effects, covariances, dofs, ones, precision_weighted=weighted)
    assert_same(merged, at_once, ANOTHER_ORDER if q == 1 else INVERSES)


def test_pool__parts_taken_for_single_runs_are_noticed() -> None:
    # Negative control: without n_runs the part of three runs weighs as much as the one run.
    effects, covariances, dofs, ones = runs(np.random.default_rng(0), 4, 1, 5)
    three = pool(effects[:3], covariances[:3], dofs[:3], ones[:3], precision_weighted=False)
    merged = pool(
        np.stack([three.effect, effects[3]]),
        np.stack([three.covariance, covariances[3]]),
        np.stack([three.dof, dofs[3]]),
        np.ones((2, 5)),
        precision_weighted=False,
    )
    at_once = pool(effects, covariances, dofs, ones, precision_weighted=False)
    assert np.abs(merged.effect - at_once.effect).max() > 1e-2


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("q", [1, 2])
@pytest.mark.parametrize("bad", BAD)
def test_pool__a_bad_variance_gets_no_weight(weighted: bool, q: int, bad: float) -> None:
    effects, covariances, dofs, ones = runs(np.random.default_rng(0), 3, q, 4)
    spoilt = covariances.copy()
    spoilt[1, 0, 0, 2] = bad
    spoilt[:, 0, 0, 3] = bad
    found = pool(effects, spoilt, dofs, ones, precision_weighted=weighted)
    without = [0, 2]
    expected = pool(
        effects[without], covariances[without], dofs[without], ones[without],
        precision_weighted=weighted,
    )  # fmt: skip
    np.testing.assert_allclose(found.effect[:, 2], expected.effect[:, 2], rtol=1e-12)
    np.testing.assert_allclose(found.covariance[..., 2], expected.covariance[..., 2], rtol=1e-12)
    assert found.n_runs.tolist() == [3, 3, 2, 0]
    np.testing.assert_array_equal(found.dof[:3], [dofs[:, 0].sum()] * 2 + [dofs[[0, 2], 0].sum()])
    # No usable run: nothing is claimed.
    for values in (found.effect, found.covariance, found.dof):
        assert np.isnan(values[..., 3]).all()


def test_pool__runs_without_degrees_of_freedom_or_runs_do_not_count() -> None:
    effects, covariances, dofs, ones = runs(np.random.default_rng(0), 2, 1, 3)
    dofs[0, 0], dofs[0, 1], ones[0, 2] = 0.0, np.nan, 0.0
    found = pool(effects, covariances, dofs, ones, precision_weighted=False)
    assert found.n_runs.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(found.effect, effects[1])
    np.testing.assert_array_equal(found.dof, dofs[1])


@pytest.mark.parametrize("weighted", [False, True])
def test_pool__equals_nilearn_given_the_true_dofs(weighted: bool) -> None:
    import nibabel as nib
    from nilearn.glm.contrasts import compute_fixed_effects

    effects, covariances, dofs, ones = runs(np.random.default_rng(0), 5, 1, 60)
    shape = (3, 4, 5)
    affine = np.eye(4)
    images = [
        [nib.Nifti1Image(a.reshape(shape), affine) for a in stack]
        for stack in (effects[:, 0], covariances[:, 0, 0])
    ]
    mask = nib.Nifti1Image(np.ones(shape, dtype=np.int8), affine)
    theirs = compute_fixed_effects(
        *images, mask=mask, precision_weighted=weighted, dofs=dofs[:, 0].tolist()
    )
    effect, variance, t, z = (image.get_fdata().reshape(-1) for image in theirs)
    found = pool(effects, covariances, dofs, ones, precision_weighted=weighted)
    stat, _, z_score = statistics(found.effect, found.covariance, found.dof, "t")
    # Seen: 3e-15.
    np.testing.assert_allclose(found.effect[0], effect, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(found.covariance[0, 0], variance, rtol=1e-12)
    np.testing.assert_allclose(stat, t, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(z_score, z, rtol=1e-11, atol=1e-13)


def test_pool__where_nilearn_hands_out_weight_to_a_variance_of_zero() -> None:
    effects = np.array([1.0, 2.0]).reshape(2, 1, 1)
    covariances = np.array([0.0, 4.0]).reshape(2, 1, 1, 1)
    found = pool(
        effects, covariances, np.full((2, 1), 50.0), np.ones((2, 1)), precision_weighted=True
    )
    stat, _, _ = statistics(found.effect, found.covariance, found.dof, "t")
    # nilearn floors the variance at 1e-16 and reports t = 1e8.
    assert (found.effect[0, 0], found.covariance[0, 0, 0], stat[0]) == (2.0, 4.0, 1.0)


def test_pool__a_singular_covariance_gets_no_weight() -> None:
    effects, covariances, dofs, ones = runs(np.random.default_rng(0), 2, 2, 3)
    covariances[0, :, :, 1] = 1.0
    found = pool(effects, covariances, dofs, ones, precision_weighted=True)
    assert found.n_runs.tolist() == [2, 1, 2]


def test_pool__a_variance_too_small_to_invert_gets_no_weight() -> None:
    covariances = np.array([1e-320, 1.0]).reshape(2, 1, 1, 1)
    with np.errstate(all="ignore"):
        found = pool(
            np.ones((2, 1, 1)), covariances, np.ones((2, 1)), np.ones((2, 1)),
            precision_weighted=True,
        )  # fmt: skip
    assert found.n_runs[0] == 1
    assert found.covariance[0, 0, 0] == 1.0
