"""Values of the voxels of a mask as images, and back, as nilearn's maskers make them.

A masker checks its mask again at every step: 3 ms an image of 64 x 64 x 30, where its voxels take
0.3. Here it is read once. What a masker does beside masking is left to it.
"""

from typing import Any

import numpy as np
from nilearn.image import check_niimg, new_img_like
from nilearn.maskers import NiftiMasker

from chunkglm._types import AnyArray, FloatArray


class VoxelMaps:
    """Maps over the voxels of a fitted masker.

    Voxels are numbered x fastest, then y, then z, as NIfTI holds them.
    """

    def __init__(self, masker: NiftiMasker) -> None:
        self._masker = masker
        self.mask = np.asarray(masker.mask_img_.dataobj) > 0

    def image(self, values: AnyArray) -> Any:
        """Return the image of (V,) values, or of (n, V) one with n volumes; 0 outside the mask."""
        if self._masker.dtype is not None:
            return self._masker.inverse_transform(values[..., self._in_rows()])
        grid = np.zeros((*self.mask.shape, *values.shape[:-1]), values.dtype, order="F")
        grid.T[..., self.mask.T] = values
        bare = new_img_like(self._masker.mask_img_, grid, copy_header=False)
        return new_img_like(bare, grid)  # which tells of smallest and largest values

    def values(self, image: Any) -> FloatArray:
        """Return (n, V) values of an image or path; what is not finite is 0, as in nilearn."""
        found = check_niimg(image)
        data, here = np.asanyarray(found.dataobj), self._masker.mask_img_
        same = found.shape[:3] == self.mask.shape and np.allclose(found.affine, here.affine)
        if data.dtype.kind != "f" or not same:
            # To be resampled, or refused, by the masker.
            rows = np.atleast_2d(self._masker.transform(image))
            out = np.empty(rows.shape)
            out[:, self._in_rows()] = rows
            return out
        taken = np.atleast_2d(data.T[..., self.mask.T]).astype(np.float64)
        return np.where(np.isfinite(taken), taken, 0.0)

    def _in_rows(self) -> AnyArray:
        """Number here of each voxel in the order of nilearn, z fastest."""
        numbers = np.zeros(self.mask.shape, dtype=np.intp)
        numbers.T[self.mask.T] = np.arange(np.count_nonzero(self.mask))
        return numbers[self.mask]
