"""`compute_fixed_effects` beside nilearn's: every parameter, on the same images."""

import inspect
from pathlib import Path
from typing import Any

import nibabel as nib
import nilearn.glm
import numpy as np
import pytest
from helpers_drop_in import check_nilearn_takes, quietly
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn.maskers import NiftiMasker
from nilearn.surface import SurfaceImage

import chunkglm.nilearn
from chunkglm.errors import MapsError

AFFINE = np.array([[-3.0, 0, 0, 6], [0, 3, 0, -5], [0, 0, 3.5, -8], [0, 0, 0, 1]])
SHAPE = (6, 7, 5)
# Sums of a few runs in another order; worst seen 4e-16 for effects, 3e-15 for z.
ROUNDING = 1e-14


def images(n_runs: int = 3, rows: int = 0, dtype: Any = float, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    shape = (*SHAPE, rows) if rows else SHAPE
    effects = [nib.Nifti1Image(rng.normal(size=shape).astype(dtype), AFFINE) for _ in range(n_runs)]
    variances = [
        nib.Nifti1Image(rng.uniform(0.01, 2, size=SHAPE).astype(dtype), AFFINE)
        for _ in range(n_runs)
    ]
    return effects, variances


def mask_image(seed: int = 5) -> Any:
    mask = np.random.default_rng(seed).random(SHAPE) < 0.7
    return nib.Nifti1Image(mask.astype(np.uint8), AFFINE)


def both(*arguments: Any, **choices: Any) -> tuple[Any, Any]:
    with quietly():
        return (
            chunkglm.nilearn.compute_fixed_effects(*arguments, **choices),
            nilearn.glm.compute_fixed_effects(*arguments, **choices),
        )


def check_same(ours: Any, theirs: Any, tolerance: float = ROUNDING) -> None:
    assert len(ours) == len(theirs) == 4
    for mine, other in zip(ours, theirs, strict=True):
        assert type(mine) is type(other)
        assert mine.shape == other.shape
        np.testing.assert_array_equal(mine.affine, other.affine)
        expected = other.get_fdata()
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(mine.get_fdata(), expected, rtol=tolerance, atol=tolerance)


def test_signature__is_nilearns_and_the_older_ones() -> None:
    ours = inspect.signature(chunkglm.nilearn.compute_fixed_effects).parameters
    theirs = inspect.signature(nilearn.glm.compute_fixed_effects).parameters
    assert [(p.name, p.default) for p in theirs.values()] == [
        (p.name, p.default) for p in list(ours.values())[:-1]
    ]
    assert list(ours)[-1] == "return_z_score"


@pytest.mark.parametrize("precision_weighted", [False, True])
@pytest.mark.parametrize("n_runs", [1, 2, 5])
@pytest.mark.parametrize("dofs", [None, "each"])
def test_maps__are_nilearns(precision_weighted: bool, n_runs: int, dofs: Any) -> None:
    effects, variances = images(n_runs)
    given_dofs = None if dofs is None else list(range(7, 7 + n_runs))
    check_same(
        *both(
            effects,
            variances,
            mask_image(),
            precision_weighted=precision_weighted,
            dofs=given_dofs,
        )
    )


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.booleans(), st.integers(1, 300))
@settings(deadline=None, max_examples=15)
def test_maps__are_nilearns_on_random_images(seed: int, n: int, weighted: bool, dof: int) -> None:
    effects, variances = images(n, seed=seed)
    choices = {"precision_weighted": weighted, "dofs": [dof] * n}
    # z of t near 37 loses digits in both; worst seen 2e-13.
    check_same(*both(effects, variances, mask_image(), **choices), tolerance=1e-11)


@pytest.mark.parametrize("mask", ["none", "path", "masker", "fitted masker", "smoothing masker"])
def test_mask__of_every_kind(mask: str, tmp_path: Path) -> None:
    effects, variances = images()
    path = tmp_path / "mask.nii.gz"
    nib.save(mask_image(), path)
    masker = NiftiMasker(
        mask_img=path, standardize=None, smoothing_fwhm=4 if mask.startswith("smoothing") else None
    )
    kinds = {"none": None, "path": path, "masker": masker, "fitted masker": masker.fit()}
    check_same(*both(effects, variances, kinds.get(mask, masker)))


def test_images__as_paths(tmp_path: Path) -> None:
    effects, variances = images()
    paths = []
    for kind, of_runs in (("effect", effects), ("variance", variances)):
        paths.append([tmp_path / f"{kind}-{i}.nii.gz" for i in range(len(of_runs))])
        for image, path in zip(of_runs, paths[-1], strict=True):
            nib.save(image, path)
    check_same(*both(*paths, mask_image()))
    check_same(*both(*([str(p) for p in of_runs] for of_runs in paths), mask_image()))


def test_images__in_float32_are_summed_in_float64() -> None:
    effects, variances = images(40, dtype=np.float32)
    ours, theirs = both(effects, variances, mask_image())
    # nilearn's sums are float32; worst seen 5e-7 relative.
    check_same(ours, theirs, tolerance=2e-6)
    assert ours[0].get_data_dtype() == np.float64
    exact = np.mean([e.get_fdata() for e in effects], axis=0) * mask_image().get_fdata()
    np.testing.assert_allclose(ours[0].get_fdata(), exact, rtol=1e-12, atol=1e-15)


def test_variances__of_nothing_are_raised_to_nilearns_floor() -> None:
    effects, variances = images()
    for value, i in ((0.0, 0), (-1.0, 1), (np.nan, 2), (1e-20, 0)):
        variances[i].get_fdata()[2, 2, i] = value
        variances[i] = nib.Nifti1Image(variances[i].get_fdata(), AFFINE)
    everywhere = nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE)
    for weighted in (False, True):
        ours, theirs = both(effects, variances, everywhere, precision_weighted=weighted)
        # t of 4e8: what counts is that it is the same 4e8.
        check_same(ours, theirs, tolerance=1e-12)


def test_effects__of_several_rows_are_f() -> None:
    effects, variances = images(rows=2)
    check_same(*both(effects, variances, mask_image()))


def test_effects__of_several_rows_weighted_by_run() -> None:
    """nilearn raises; with as many rows as runs it takes rows for runs."""
    effects, variances = images(3, rows=2)
    with pytest.raises(ValueError, match="broadcast"):
        nilearn.glm.compute_fixed_effects(effects, variances, mask_image(), precision_weighted=True)
    found = chunkglm.nilearn.compute_fixed_effects(
        effects, variances, mask_image(), precision_weighted=True
    )
    weights = [1 / v.get_fdata()[..., None] for v in variances]
    total = sum(w * e.get_fdata() for w, e in zip(weights, effects, strict=True))
    inside = mask_image().get_fdata()[..., None]
    np.testing.assert_allclose(
        found[0].get_fdata(), total / sum(weights) * inside, rtol=1e-12, atol=1e-14
    )


def test_return_z_score__leaves_the_z_map_out() -> None:
    effects, variances = images()
    four = nilearn.glm.compute_fixed_effects(effects, variances, mask_image())
    three = chunkglm.nilearn.compute_fixed_effects(
        effects, variances, mask_image(), return_z_score=False
    )
    assert (len(four), len(three)) == (4, 3)
    for a, b in zip(four[:3], three, strict=True):
        np.testing.assert_allclose(b.get_fdata(), a.get_fdata(), rtol=ROUNDING, atol=ROUNDING)


def test_surface__images_are_taken_too() -> None:
    rng = np.random.default_rng(0)
    coordinates, faces = rng.normal(size=(8, 3)), np.array([[0, 1, 2], [2, 3, 4], [5, 6, 7]])
    mesh = {"left": (coordinates, faces), "right": (coordinates, faces)}
    from nilearn.surface import InMemoryMesh

    def image() -> SurfaceImage:
        data = {side: rng.uniform(1, 2, size=8) for side in mesh}
        return SurfaceImage({s: InMemoryMesh(c, f) for s, (c, f) in mesh.items()}, data)

    effects, variances = ([image() for _ in range(3)] for _ in range(2))
    for mine, other in zip(*both(effects, variances), strict=True):
        for side in mesh:
            np.testing.assert_allclose(
                mine.data.parts[side], other.data.parts[side], rtol=ROUNDING, atol=ROUNDING
            )


@pytest.mark.parametrize(
    "change",
    [
        lambda e, v: ((e[:2], v), {}),
        lambda e, v: ((e, v), {"dofs": [100, 100]}),
    ],
)
def test_counts__that_differ_are_refused_as_nilearn_does(change: Any) -> None:
    arguments, choices = change(*images())
    messages = []
    for module in (chunkglm.nilearn, nilearn.glm):
        with pytest.raises(ValueError) as caught:
            module.compute_fixed_effects(*arguments, mask_image(), **choices)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_dofs__that_are_not_positive_are_refused() -> None:
    """nilearn sums them."""
    effects, variances = images()
    with pytest.raises(MapsError, match=r"positive numbers, but are \[10, 0, 10\]"):
        chunkglm.nilearn.compute_fixed_effects(effects, variances, mask_image(), dofs=[10, 0, 10])
    assert nilearn.glm.compute_fixed_effects(effects, variances, mask_image(), dofs=[10, 0, 10])


def test_lists__must_be_of_one_kind_and_not_empty() -> None:
    effects, variances = images()
    with pytest.raises(MapsError, match="empty"):
        chunkglm.nilearn.compute_fixed_effects([], [], mask_image())
    with pytest.raises(MapsError, match="run 1: its effects have 2 rows, those of run 0 have 1"):
        chunkglm.nilearn.compute_fixed_effects(
            [effects[0], *images(2, rows=2)[0]], variances, mask_image()
        )
    with pytest.raises(MapsError, match="variance must be one map"):
        chunkglm.nilearn.compute_fixed_effects(effects, images(rows=2)[0], mask_image())


def test_outputs__are_taken_by_nilearn() -> None:
    effects, variances = images()
    z = chunkglm.nilearn.compute_fixed_effects(effects, variances, mask_image())[3]
    check_nilearn_takes(z, mask_image())
