"""A statistic map over the mean image, as one picture of axial slices."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike

from chunkglm._types import AnyArray, FloatArray
from chunkglm.errors import MapsError
from chunkglm.io.images import atomic_writer
from chunkglm.plotting.drawing import ON_IMAGE, colour_bar, drawing_quietly, slices_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS, _COLUMNS = 2, 6
_DPI = 150
_INK = "0.92"
_OUTLINE = "#35e06f"  # green: neither in the map's colours nor in the background's


def plot_montage(
    stat_map: ArrayLike,
    background: ArrayLike,
    path: str | os.PathLike[str],
    *,
    title: str,
    threshold: float = 3.0,
    vmax: float | None = None,
    affine: ArrayLike | None = None,
    outline: ArrayLike | None = None,
) -> Path:
    """Draw twelve axial slices of a statistic map over the mean image.

    The slices are spread evenly over the part of the map that is not NaN: maps with the same
    mask show the same slices, and with the same `vmax` the same colours.

    Parameters
    ----------
    stat_map : (x, y, z) array
        Statistic, such as z or t. NaN is not in the mask.
    background : (x, y, z) array
        Image in scanner units to draw the map on, such as the run's mean.
    path : str or os.PathLike
        The PNG to write.
    title : str
        One line above the slices.
    threshold : float, default 3.0
        Voxels between minus and plus this value show the background.
    vmax : float, optional
        Ends of the colour scale. Left out: the largest absolute value, or 1.25 times the
        threshold if that is more.
    affine : (4, 4) array, or its 16 numbers as maps have them, optional
        Voxel indices to millimetres; the identity where left out.
    outline : (x, y, z) array, optional
        A region whose border is drawn, non-zero inside.

    Raises
    ------
    MapsError
        If the arrays do not belong together or there is nothing to draw.
    """
    target = Path(path)
    stat, mean = (np.asarray(data, dtype=np.float32) for data in (stat_map, background))
    matrix = np.eye(4) if affine is None else np.asarray(affine, dtype=np.float64)
    if matrix.shape == (16,):
        matrix = matrix.reshape(4, 4)
    _check(stat, mean, matrix, target, threshold, vmax)
    inside = np.isfinite(stat)
    # A map of zeros under a threshold of 0 still needs a scale.
    largest = max(float(np.abs(stat[inside]).max()), 1.25 * threshold) or 1.0
    figure = _draw(
        nib.Nifti1Image(np.where(inside, stat, 0), matrix),
        nib.Nifti1Image(np.nan_to_num(mean, posinf=0, neginf=0), matrix),
        slices_of(inside, matrix, _ROWS * _COLUMNS),
        title=title,
        threshold=threshold,
        vmax=largest if vmax is None else vmax,
        region=_region(outline, stat.shape, matrix, target),
    )
    with atomic_writer(target) as file:
        # No software version or date in the file: the same map gives the same bytes.
        figure.savefig(file, format="png", dpi=_DPI, facecolor="black", metadata={"Software": None})
    return target


def _check(
    stat: AnyArray,
    mean: AnyArray,
    affine: AnyArray,
    target: Path,
    threshold: float,
    vmax: float | None,
) -> None:
    if stat.ndim != 3 or stat.shape != mean.shape:
        raise MapsError(
            f"{target}: map and background must be 3-D and of one shape,"
            f" but got {stat.shape} and {mean.shape}"
        )
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise MapsError(f"{target}: affine must be 4 by 4 and finite, but got {affine.tolist()}")
    if not np.isfinite(stat).any():
        raise MapsError(f"{target}: no voxel of the map is finite, there is nothing to draw")
    if not threshold >= 0:
        raise MapsError(f"{target}: threshold must be 0 or above, but got {threshold}")
    if vmax is not None and not vmax > threshold:
        raise MapsError(f"{target}: vmax must be above the threshold {threshold}, but got {vmax}")
    if target.suffix.lower() != ".png":
        raise MapsError(f"{target}: a montage is a PNG, its name must end in .png")


def _region(
    outline: ArrayLike | None, shape: tuple[int, ...], affine: FloatArray, target: Path
) -> "nib.Nifti1Image | None":
    if outline is None:
        return None
    inside = np.asarray(outline) != 0
    if inside.shape != shape:
        raise MapsError(f"{target}: outline must have shape {shape}, but got {inside.shape}")
    return nib.Nifti1Image(inside.astype(np.float32), affine)


def _draw(
    stat: nib.Nifti1Image,
    mean: nib.Nifti1Image,
    cuts: list[float],
    *,
    title: str,
    threshold: float,
    vmax: float,
    region: "nib.Nifti1Image | None",
) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from nilearn.plotting import plot_stat_map

    # A figure with a canvas of its own is unknown to pyplot: the user's backend and figures
    # stay as they are.
    figure = Figure(figsize=(13.0, 5.0), facecolor="black")
    FigureCanvasAgg(figure)
    rows = [cuts[start : start + _COLUMNS] for start in range(0, len(cuts), _COLUMNS)]
    top, bottom, right = 0.90, 0.0, 0.915
    height = (top - bottom) / len(rows)
    with drawing_quietly():
        for index, row in enumerate(rows):
            display = plot_stat_map(
                stat,
                bg_img=mean,
                display_mode="z",
                cut_coords=row,
                figure=figure,
                axes=(0.005, top - (index + 1) * height, right - 0.005, height),
                threshold=threshold,
                vmin=-vmax,
                vmax=vmax,
                symmetric_cbar=True,
                cmap=ON_IMAGE,
                colorbar=False,
                black_bg=True,
                annotate=True,
                draw_cross=False,
                dim=0,
            )
            if region is not None:
                display.add_contours(region, levels=[0.5], colors=[_OUTLINE], linewidths=1.2)
    figure.text(0.012, 0.945, title, color=_INK, fontsize=17, va="center", weight="bold")
    colour_bar(
        figure, (0.932, 0.09, 0.013, 0.76), threshold, vmax, colours=ON_IMAGE, ink=_INK, size=12
    )
    return figure
