"""Smoothing as matrix products against scipy's filter, in parts and whole, and nilearn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d

from chunkglm.kernels.smoothing import (
    BAND,
    TRUNCATE,
    VolumeSmoother,
    axis_smoother,
    kernel_radius,
    sigma_in_voxels,
    smooth_within,
)
from chunkglm.kernels.voxels import select_voxels

# Weighted means of samples, relative to the largest sample. Seen: 5e-16.
WEIGHTED_MEAN = 1e-14

AXES = st.tuples(*[st.integers(1, 40)] * 3)
SIGMAS = st.tuples(*[st.one_of(st.just(0.0), st.floats(0.05, 12.0))] * 3)


def by_scipy(volume: np.ndarray, sigma: tuple[float, float, float]) -> np.ndarray:
    """Smooth a (z, y, x) volume, sigma being along x, y, z."""
    out = np.where(np.isfinite(volume), volume, 0.0).astype(np.float64)
    for axis, s in zip((2, 1, 0), sigma, strict=True):
        if s > 0:
            out = gaussian_filter1d(out, s, axis=axis, mode="reflect", truncate=TRUNCATE)
    return out


def whole(shape: tuple[int, int, int], sigma: tuple[float, float, float]) -> VolumeSmoother:
    """Smoother of whole (z, y, x) volumes, sigma being along x, y, z."""
    parts = [
        axis_smoother(n, s, range(n), range(n)) for n, s in zip(shape, sigma[::-1], strict=True)
    ]
    return VolumeSmoother(*parts)


def assert_close(found: np.ndarray, expected: np.ndarray, largest: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=WEIGHTED_MEAN * largest)


@settings(max_examples=60, deadline=None)
@given(shape=AXES, sigma=SIGMAS, seed=st.integers(0, 2**32 - 1))
def test_volume_smoother__equals_scipy_on_any_shape(
    shape: tuple[int, int, int], sigma: tuple[float, float, float], seed: int
) -> None:
    volume = 1e3 + 100 * np.random.default_rng(seed).standard_normal(shape)
    kept = volume.copy()
    assert_close(whole(shape, sigma)(volume), by_scipy(volume, sigma), 2e3)
    np.testing.assert_array_equal(volume, kept)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 1), (2, 3, 1), (1, BAND, BAND + 1)])
@pytest.mark.parametrize("sigma", [0.05, 0.2, 1.3, 50.0])
def test_volume_smoother__short_axes_and_wide_kernels(
    shape: tuple[int, int, int], sigma: float
) -> None:
    volume = np.random.default_rng(0).standard_normal(shape)
    found = whole(shape, (sigma,) * 3)(volume)
    assert_close(found, by_scipy(volume, (sigma,) * 3), 4.0)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 60),
    sigma=st.one_of(st.just(0.0), st.floats(0.05, 8.0)),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_axis_smoother__a_slab_with_its_halo_equals_the_whole(
    n: int, sigma: float, seed: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, n - 1))
    stop = data.draw(st.integers(start + 1, n))
    radius = kernel_radius(sigma)
    available = range(max(0, start - radius), min(n, stop + radius))
    volume = np.random.default_rng(seed).standard_normal((n, 3, 2))
    plain = [axis_smoother(m, 0.0, range(m), range(m)) for m in (3, 2)]
    part = VolumeSmoother(axis_smoother(n, sigma, range(start, stop), available), *plain)
    found = part(volume[available.start : available.stop])
    assert_close(found, by_scipy(volume, (0.0, 0.0, sigma))[start:stop], 5.0)


def test_axis_smoother__a_halo_too_short_is_refused() -> None:
    wanted = range(10, 20)
    radius = kernel_radius(1.5)
    axis_smoother(30, 1.5, wanted, range(10 - radius, 20 + radius))
    for available in (range(11 - radius, 20 + radius), range(10 - radius, 19 + radius)):
        with pytest.raises(ValueError, match="needed, but only"):
            axis_smoother(30, 1.5, wanted, available)


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4"])
def test_volume_smoother__what_is_not_finite_counts_as_zero(dtype: str) -> None:
    rng = np.random.default_rng(0)
    volume = rng.standard_normal((6, 7, 8)).astype(dtype)
    volume[1, 2, 3], volume[2, 2, 2], volume[5, 6, 7], volume[0, 0, 0] = (
        np.nan, np.inf, -np.inf, np.inf,
    )  # fmt: skip
    sigma = (0.9, 0.0, 1.4)
    found = whole((6, 7, 8), sigma)(volume)
    assert np.isfinite(found).all()
    assert_close(found, by_scipy(volume, sigma), 4.0)


def test_volume_smoother__a_sum_that_overflows_is_finite_all_the_same() -> None:
    volume = np.full((4, 4, 4), 1.5e308)
    with np.errstate(over="ignore"):
        found = whole((4, 4, 4), (0.0, 0.0, 0.0))(volume)
    np.testing.assert_array_equal(found, volume)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4", "f4"])
def test_volume_smoother__any_type_is_smoothed_in_float64(dtype: str) -> None:
    kind = np.dtype(dtype)
    top = np.iinfo(kind).max if kind.kind in "iu" else 1e6
    volume = (np.random.default_rng(0).uniform(0, top, (5, 6, 7))).astype(kind)
    found = whole((5, 6, 7), (1.0, 1.0, 1.0))(volume)
    assert found.dtype == np.float64
    assert_close(found, by_scipy(volume.astype(np.float64), (1.0, 1.0, 1.0)), float(top))


@pytest.mark.parametrize("fwhm", [0.5, 5.0, 40.0])
def test_smoothing__equals_nilearn_on_an_oblique_grid(fwhm: float) -> None:
    import nibabel as nib
    from nilearn.image import smooth_img

    # Voxels of 3 x 2 x 4 mm, turned about z: sizes are the lengths of the affine's columns.
    angle = 0.3
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-3.0, 2.0, 4.0])
    data = 1e3 + np.random.default_rng(0).standard_normal((12, 9, 7, 3))
    data[3, 3, 3, 1] = np.nan
    theirs = smooth_img(nib.Nifti1Image(data, affine), fwhm).get_fdata()
    sigma = sigma_in_voxels(fwhm, affine)
    np.testing.assert_allclose(sigma, fwhm / np.sqrt(8 * np.log(2)) / np.array([3, 2, 4]))
    smoother = whole((7, 9, 12), sigma)
    for t in range(3):
        assert_close(smoother(data[..., t].T).T, theirs[..., t], 1e3)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), sigma=SIGMAS, data=st.data())
def test_select_voxels__smoothed_series_of_slabs_equal_those_of_the_whole(
    seed: int, sigma: tuple[float, float, float], data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(data.draw(st.integers(1, 9)) for _ in range(3))
    mask = rng.random(shape) < 0.3
    mask[tuple(rng.integers(0, n) for n in shape)] = True
    run = rng.standard_normal((2, *shape[::-1]))
    expected = np.stack([by_scipy(volume, sigma)[mask.T] for volume in run])
    found, cut = [], data.draw(st.integers(0, shape[2]))
    for planes in (range(cut), range(cut, shape[2])):
        if not mask[:, :, planes.start : planes.stop].any():
            continue
        selection = select_voxels(mask, planes, sigma)
        block = run[:, selection.planes.start : selection.planes.stop]
        found.append(selection.series(block))
        # The same samples as a transposed view of (x, y, z, t) data.
        view = np.ascontiguousarray(block.T).T
        np.testing.assert_array_equal(selection.series(view), found[-1])
    assert_close(np.concatenate(found, axis=1), expected, 5.0)


def test_smoothing__another_width_or_edge_is_noticed() -> None:
    # Negative control: a tenth of a percent of sigma, or another rule at the edges.
    volume = np.random.default_rng(0).standard_normal((8, 8, 8))
    found = whole((8, 8, 8), (1.5, 1.5, 1.5))(volume)
    assert np.abs(found - by_scipy(volume, (1.5, 1.5, 1.5015))).max() > 1e-5
    nearest = gaussian_filter1d(by_scipy(volume, (1.5, 1.5, 0.0)), 1.5, axis=0, mode="nearest")
    assert np.abs(found - nearest).max() > 1e-3


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), sigma=SIGMAS, share=st.sampled_from([0.05, 0.5, 1.0]))
def test_smooth_within__is_the_weighted_mean_of_voxels_that_count(
    seed: int, sigma: tuple[float, float, float], share: float
) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 8, 3))
    counts = rng.random(shape) < share
    maps = rng.standard_normal((2, *shape))
    maps[:, ~counts] = rng.choice([np.nan, np.inf, 1e300])
    found = smooth_within(maps, counts, sigma)
    distances = [np.subtract.outer(np.arange(n), np.arange(n)) for n in shape]
    kernels = [
        np.exp(-0.5 * (d / s) ** 2) * (np.abs(d) <= kernel_radius(s)) if s > 0 else 1.0 * (d == 0)
        for d, s in zip(distances, sigma, strict=True)
    ]
    weight = np.einsum("ai,bj,ck,ijk->abc", *kernels, counts.astype(float))
    expected = np.einsum("ai,bj,ck,nijk->nabc", *kernels, np.where(counts, maps, 0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        expected /= weight
    # Far from any voxel that counts, the kernel's own rounding is all there is.
    near = weight > 1e-6
    np.testing.assert_allclose(found[:, near], expected[:, near], rtol=0, atol=1e-9)
    assert np.isfinite(found[:, counts]).all()


def test_smooth_within__does_not_fade_at_the_border_of_the_mask() -> None:
    counts = np.zeros((9, 9, 9), dtype=bool)
    counts[2:5, 3:, 4] = True
    found = smooth_within(np.full((1, 9, 9, 9), 0.4), counts, (1.0, 2.0, 3.0))
    np.testing.assert_allclose(found[0, counts], 0.4, rtol=WEIGHTED_MEAN)
