"""The still part of the simulation: brain, tissue, and where it answers to what.

Everything is drawn in millimetres, so a coarse grid shows the same head as the full one.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from chunkglm._types import AnyArray, BoolArray, FloatArray

FIELD_OF_VIEW = (192.0, 192.0, 120.0)  # mm
_CENTRE = (0.0, -17.5, 16.0)  # mm, the middle of the field of view

# Centre and radii in mm: superior temporal gyrus on both sides, left inferior frontal gyrus, left
# anterior temporal cortex and the supplementary motor area; about 1,000 voxels of 36 mm³.
ACTIVE = (
    ((-55.0, -20.0, 5.0), (10.0, 27.0, 10.0)),
    ((55.0, -17.0, 3.0), (10.0, 25.0, 10.0)),
    ((-45.0, 22.0, 16.0), (11.0, 14.0, 12.0)),
    ((-49.0, 9.0, -15.0), (9.0, 12.0, 10.0)),
    ((-6.0, 8.0, 54.0), (9.0, 13.0, 11.0)),
)
# Cortex that answers to every sentence alike.
AUDITORY = (
    ((-53.0, -20.0, 4.0), (16.0, 36.0, 17.0)),
    ((53.0, -18.0, 3.0), (16.0, 35.0, 17.0)),
)
_BACKGROUND = 100.0  # scanner units outside the head


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Maps of one head; (x, y, z) float32 arrays unless said otherwise."""

    affine: FloatArray  # (4, 4), voxel indices to mm
    mask: BoolArray
    mean: FloatArray  # scanner units
    rho: FloatArray  # AR(1) coefficient of the noise, 0 outside the mask
    noise: FloatArray  # standard deviation of the noise, scanner units
    auditory: FloatArray  # response to every sentence, 0 to 1
    active: FloatArray  # extra response to different sentences, 0 to 1


def affine_of(shape: tuple[int, int, int]) -> FloatArray:
    """Place a grid over the field of view; x runs from right to left, as FIAC's does."""
    voxel = np.array(FIELD_OF_VIEW) / shape * (-1, 1, 1)
    affine = np.diag([*voxel, 1.0])
    affine[:3, 3] = _CENTRE - voxel * (np.array(shape) - 1) / 2
    return affine


def draw_anatomy(shape: tuple[int, int, int], rng: np.random.Generator) -> Anatomy:
    """Draw one head on a grid of `shape`."""
    affine = affine_of(shape)
    x, y, z = (
        (affine[i, i] * np.arange(shape[i]) + affine[i, 3]).reshape(
            [-1 if i == j else 1 for j in range(3)]
        )
        for i in range(3)
    )
    depth = _depth(x, y, z)
    mask = depth > 0
    mean = _tissue(x, y, z, depth, affine, rng)
    rho = np.clip(0.3 + 0.1 * smooth_field(affine, shape, 15.0, rng), 0.1, 0.5)
    percent = np.clip(1.25 + 0.12 * smooth_field(affine, shape, 15.0, rng), 1.0, 1.5)
    active = np.where(mask, _ellipsoids(x, y, z, ACTIVE), 0)
    return Anatomy(
        affine=affine,
        mask=mask,
        mean=mean.astype(np.float32),
        rho=np.where(mask, rho, 0).astype(np.float32),
        noise=np.where(mask, mean * percent / 100, 0.01 * mean + 30).astype(np.float32),
        auditory=np.where(mask, _ellipsoids(x, y, z, AUDITORY), 0).astype(np.float32),
        active=active.astype(np.float32),
    )


def smooth_field(
    affine: FloatArray, shape: tuple[int, int, int], sigma_mm: float, rng: np.random.Generator
) -> FloatArray:
    """Draw a smooth random field of mean 0 and standard deviation 1; (x, y, z) float32."""
    white = rng.standard_normal(shape, dtype=np.float32)
    sigma = sigma_mm / np.abs(np.diag(affine)[:3])
    field = ndimage.gaussian_filter(white, sigma, mode="wrap", truncate=3.0)
    return np.asarray((field - field.mean()) / field.std())


def _depth(x: AnyArray, y: AnyArray, z: AnyArray) -> FloatArray:
    """Depth under the brain's surface in mm, negative outside; narrower in front, flat below."""
    along = (y + 18) / 86
    width = 70 * (1 - 0.10 * along - 0.06 * along**2)
    up = (z - 12) / np.where(z > 12, 63.0, 68.0)
    radius = np.sqrt((x / width) ** 2 + along**2 + np.abs(up) ** 2.2)
    return np.asarray((1 - radius) * 68)


def _ellipsoids(
    x: AnyArray,
    y: AnyArray,
    z: AnyArray,
    blobs: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...],
) -> FloatArray:
    """Sum of blobs that fall from 1 at the centre to 0.4 at the edge, and are 0 beyond."""
    total = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape))
    for centre, radii in blobs:
        squared = sum(
            ((axis - c) / r) ** 2 for axis, c, r in zip((x, y, z), centre, radii, strict=True)
        )
        total = np.maximum(total, np.where(squared < 1, 1 - 0.6 * squared, 0))
    return np.asarray(total)


def _tissue(
    x: AnyArray,
    y: AnyArray,
    z: AnyArray,
    depth: FloatArray,
    affine: FloatArray,
    rng: np.random.Generator,
) -> FloatArray:
    """Mean intensity of an echo-planar image: fluid above grey above white matter."""
    shape = (depth.shape[0], depth.shape[1], depth.shape[2])
    # The zero lines of a smooth field wind through the brain as sulci do.
    fold = np.abs(smooth_field(affine, shape, 6.0, rng))
    cortex = np.exp(-np.clip(depth - 4, 0, None) / 14)
    sulcus = cortex * np.exp(-((fold / 0.28) ** 2))
    fissure = np.exp(-((x / 2.5) ** 2)) * np.where(z > 25, 1.0, 0.0) * (depth < 30)
    grey = np.clip(1.5 * cortex * np.exp(-((fold / 0.75) ** 2)) + 0.55 * (depth < 9), 0, 1)
    grey = np.maximum(grey, _nuclei(x, y, z))
    fluid = np.clip(0.85 * sulcus + 0.9 * fissure + _ventricles(x, y, z), 0, 1)
    brain = 5600 + 2000 * grey
    brain = brain + (11500 - brain) * fluid
    # A voxel holds some of its neighbours: 1.5 mm of blur takes the edges off.
    brain = ndimage.gaussian_filter(brain, 1.5 / np.abs(np.diag(affine)[:3]))
    # The field of the air above the nose takes the signal from the orbitofrontal cortex.
    dropout = 1 - 0.75 * np.exp(-((x / 22) ** 2) - ((y - 42) / 20) ** 2 - ((z + 30) / 18) ** 2)
    coil = 1 + 0.10 * smooth_field(affine, shape, 45.0, rng) / 2 + 0.12 * depth.clip(-10, 0) / 10
    texture = 1 + 0.03 * smooth_field(affine, shape, 2.0, rng)
    head = brain * dropout * coil * texture
    # Skull, then scalp, then air.
    scalp = 1500 * np.exp(-(((depth + 11) / 4) ** 2))
    outside = _BACKGROUND + scalp + 3500 * np.exp(np.minimum(depth, 0) / 1.8)
    return np.asarray(np.where(depth > 0, np.clip(head, 1000, 12000), outside))


def _nuclei(x: AnyArray, y: AnyArray, z: AnyArray) -> FloatArray:
    pairs = tuple(
        ((side * cx, cy, cz), radii)
        for side in (-1.0, 1.0)
        for (cx, cy, cz), radii in (
            ((12.0, -18.0, 8.0), (9.0, 13.0, 10.0)),  # thalamus
            ((25.0, 2.0, 2.0), (7.0, 16.0, 10.0)),  # putamen
        )
    )
    return np.asarray(np.minimum(1.2 * _ellipsoids(x, y, z, pairs), 1))


def _ventricles(x: AnyArray, y: AnyArray, z: AnyArray) -> FloatArray:
    pairs = tuple(
        ((side * cx, cy, cz), radii)
        for side in (-1.0, 1.0)
        for (cx, cy, cz), radii in (
            ((9.0, 12.0, 14.0), (6.0, 20.0, 9.0)),  # frontal horns
            ((14.0, -20.0, 23.0), (6.0, 24.0, 7.0)),  # bodies
            ((24.0, -42.0, 12.0), (6.0, 14.0, 9.0)),  # trigones
        )
    )
    return np.asarray(np.minimum(1.6 * _ellipsoids(x, y, z, pairs), 1))
