"""Runs, events and models for comparing the drop-in face with nilearn on the same lines."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import nibabel as nib
import nilearn.glm.first_level
import numpy as np
import pandas as pd
import pytest
from nilearn.glm import threshold_stats_img
from nilearn.reporting import get_clusters_table

import chunkglm.nilearn
from chunkglm.io.nifti import NiftiRun

T_R = 2.0
AFFINE = np.array([[-3.0, 0, 0, 14], [0, 3, 0, -15], [0, 0, 3.5, -14], [0, 0, 0, 1]])
SHAPE = (9, 10, 8)
OUTPUTS = ("z_score", "stat", "p_value", "effect_size", "effect_variance")

# Largest difference over the largest value of a map. On float64 images nilearn computes in float64
# too; worst seen 4e-13, for z of F without scaling.
SAME = 1e-10
# nilearn reads integers as float32, so that samples are rounded to 6e-8 of their level, which is
# fifty times the noise; worst seen 4e-5.
SAME_FROM_INTEGERS = 5e-4


def make_run(n_scans: int = 40, seed: int = 0, dtype: Any = np.float64) -> Any:
    """A bright ball in a dark box, with autocorrelated noise and a task in it."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    ball = (grid**2).sum(axis=0) < 0.8
    noise = rng.normal(size=(*SHAPE, n_scans))
    noise[..., 1:] += 0.4 * noise[..., :-1]
    task = (np.arange(n_scans) % 14 < 5) * 0.8
    level = 60 + 900 * ball + rng.uniform(0, 40, size=SHAPE)
    data = level[..., None] * (1 + 0.02 * (noise + task))
    image = nib.Nifti1Image(data.astype(dtype), AFFINE)
    image.header.set_zooms((3, 3, 3.5, T_R))
    return image


def make_events(seed: int = 0) -> pd.DataFrame:
    onsets = np.arange(2.0, 70, 7) + np.random.default_rng(seed).uniform(0, 2, size=10)
    return pd.DataFrame({"onset": onsets, "duration": 3.0, "trial_type": ["face", "house"] * 5})


def make_confounds(n_scans: int = 40, seed: int = 0) -> pd.DataFrame:
    values = np.random.default_rng(seed).normal(size=(n_scans, 2))
    return pd.DataFrame(values, columns=["trans_x", "rot_z"])


def make_mask() -> Any:
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    return nib.Nifti1Image(((grid**2).sum(axis=0) < 0.7).astype(np.uint8), AFFINE)


@contextmanager
def quietly() -> Iterator[None]:
    """Neither's warnings are what is compared."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def blocks_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Volumes of a block, of each pass over a NIfTI file from now on."""
    passes: list[int] = []
    original = NiftiRun.blocks

    def counted(self: Any, planes: range, n_volumes: int) -> Any:
        passes.append(n_volumes)
        return original(self, planes, n_volumes)

    monkeypatch.setattr(NiftiRun, "blocks", counted)
    return passes


def check_nilearn_takes(z: Any, mask: Any) -> None:
    """A map of z goes through nilearn's thresholds and tables."""
    image, height = threshold_stats_img(z, mask, alpha=0.05)
    assert np.count_nonzero(image.get_fdata())
    assert len(get_clusters_table(z, height, two_sided=True))


def fit_both(run_imgs: Any, *, model: Any = None, **choices: Any) -> tuple[Any, Any]:
    """The same model fitted by chunkglm and by nilearn."""
    found = []
    for module in (chunkglm.nilearn, nilearn.glm.first_level):
        with quietly():
            parameters = {"t_r": T_R, "mask_img": make_mask(), **(model or {})}
            found.append(module.FirstLevelModel(**parameters).fit(run_imgs, **choices))
    return found[0], found[1]


def contrast_both(models: tuple[Any, Any], contrast: Any, **choices: Any) -> tuple[Any, Any]:
    with quietly():
        ours, theirs = (m.compute_contrast(contrast, **choices) for m in models)
    return ours, theirs


def check_images(ours: Any, theirs: Any, tolerance: float = SAME, name: str = "") -> None:
    """Equal type, shape, grid, and values to a tolerance of the largest."""
    assert type(ours) is type(theirs), name
    assert ours.shape == theirs.shape, name
    np.testing.assert_array_equal(ours.affine, theirs.affine, name)
    expected = theirs.get_fdata()
    largest = np.abs(expected).max()
    assert largest > 0, name
    off = np.abs(ours.get_fdata() - expected).max() / largest
    assert off <= tolerance, f"{name}: {off:.3g}"


def check_same(
    models: tuple[Any, Any], contrast: Any = "face - house", tolerance: float = SAME, **choices: Any
) -> None:
    """All five maps of a contrast."""
    ours, theirs = contrast_both(models, contrast, output_type="all", **choices)
    assert list(ours) == list(theirs) == list(OUTPUTS)
    for name in OUTPUTS:
        check_images(ours[name], theirs[name], tolerance, name)
