"""Values of voxels as images, and back, beside the maskers' own."""

from typing import Any

import nibabel as nib
import numpy as np
import pytest
from helpers_drop_in import AFFINE, SHAPE, make_mask
from nilearn.maskers import NiftiMasker

from chunkglm.nilearn.maps import VoxelMaps

MASK = np.asarray(make_mask().dataobj) > 0
GRID = np.random.default_rng(0).standard_normal((*SHAPE, 2))


@pytest.mark.parametrize("dtype", [None, "float32", "auto"])
@pytest.mark.parametrize("volumes", [0, slice(None)])
def test_image__is_the_maskers(dtype: Any, volumes: Any) -> None:
    masker = NiftiMasker(mask_img=make_mask(), standardize=None, dtype=dtype).fit()
    data = GRID[..., volumes]
    found = VoxelMaps(masker).image(data.T[..., MASK.T])
    expected = masker.inverse_transform(data[MASK].T)
    assert type(found) is type(expected)
    assert found.header == expected.header
    assert found.get_data_dtype() == expected.get_data_dtype()
    np.testing.assert_array_equal(found.affine, expected.affine)
    np.testing.assert_array_equal(found.dataobj, expected.dataobj)


def _image(kind: str) -> Any:
    data, affine = GRID[..., 0].copy(), AFFINE.copy()
    if kind == "volumes":
        data = GRID
    elif kind == "integers":
        data = (100 * data).astype(np.int16)
    elif kind == "not finite":
        data[4, 5, 3:6] = np.nan, np.inf, -np.inf
    elif kind == "another grid":
        affine[0, 3] += 1.5
    return nib.Nifti1Image(data, affine)


@pytest.mark.parametrize("kind", ["one", "volumes", "integers", "not finite", "another grid"])
def test_values__are_the_maskers(kind: str) -> None:
    masker = NiftiMasker(mask_img=make_mask(), standardize=None).fit()
    found = VoxelMaps(masker).values(_image(kind))
    rows = np.atleast_2d(masker.transform(_image(kind)))
    expected = np.zeros((*SHAPE, len(rows)))
    expected[MASK] = rows.T
    np.testing.assert_array_equal(found, expected.T[:, MASK.T])
