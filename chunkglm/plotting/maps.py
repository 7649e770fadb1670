"""A statistic map, drawn with nilearn."""

from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr

from chunkglm.errors import MapsError
from chunkglm.plotting.drawing import (
    SIGNED,
    THRESHOLD,
    drawing_quietly,
    inside_of,
    outline,
    threshold_of,
    title_of,
)
from chunkglm.plotting.images import attrs_of, background_of, map_of, nifti_of


def plot_stat_map(
    maps: Any,
    variable: str | None = None,
    *,
    threshold: float | str | None = None,
    bg_img: Any = None,
    title: str | None = None,
    output_file: str | Path | None = None,
    **options: Any,
) -> Any:
    """Draw a map with nilearn's ``plot_stat_map``; computes that map, and no other.

    Parameters
    ----------
    maps : Dataset, DataArray, image or path
        Maps from `contrast`, `fixed_effects` or `threshold`, lazy or not; an array over (x, y, z)
        with its ``affine``; or whatever nilearn takes.
    variable : str, optional
        Which variable of a Dataset. By default ``z_score``, or ``thresholded`` where there is one.
    threshold : float or str, optional
        Values between minus and plus this are not drawn. By default 3 for z, t, F and images; for
        maps from `threshold` the height they were cut at; and else all but 0 is drawn. A string
        such as ``"95%"`` is a percentile.
    bg_img : image, path or DataArray, optional
        What to draw on, such as ``run.mean("time")`` or a T1 image. By default the outline of the
        mask: only the user knows whether maps lie in the space of nilearn's template.
    title : str, optional
        By default the contrast and the variable.
    output_file : path, optional
        Where to write the picture, in place of showing it.
    **options
        As nilearn's ``plot_stat_map`` takes them: ``display_mode``, ``cut_coords``, ``vmax``,
        ``cmap`` and so on.

    Returns
    -------
    nilearn.plotting.displays.BaseSlicer
        None with `output_file`.

    Raises
    ------
    MapsError
        When there is no such map, it is of several contrasts, or nothing was estimated.
    """
    from nilearn.plotting import plot_stat_map

    ours = isinstance(maps, (xr.Dataset, xr.DataArray))
    if ours or bg_img is not None:
        options["bg_img"] = background_of(bg_img)
    if ours:
        lazy, grid = map_of(maps, variable, rows=False)
        values, height = dask.compute(lazy, _height_of(maps, str(lazy.name)))
        height = float(height)
        name, inside = str(values.name), inside_of(values)
        if not inside.any():
            msg = f"{name}: no voxel of the map is finite, there is nothing to draw"
            raise MapsError(msg)
        image = nifti_of(values, grid, fill=0.0)
        threshold = height if threshold is None else threshold
        if name in SIGNED:
            options.setdefault("symmetric_cbar", True)
        title = title_of(attrs_of(maps), name) if title is None else title
    else:
        image, inside = str(maps) if isinstance(maps, Path) else maps, None
        threshold = THRESHOLD if threshold is None else threshold
    with drawing_quietly():
        display = plot_stat_map(image, threshold=threshold, title=title, **options)
        if bg_img is None and inside is not None:
            outline(display, inside, image.affine)
    if output_file is None:
        return display
    display.savefig(output_file)
    return display.close()


def _height_of(maps: xr.Dataset | xr.DataArray, name: str) -> Any:
    """Return the threshold for which none was given, lazy where the maps have one of their own."""
    if name == "thresholded" and isinstance(maps, xr.Dataset) and "threshold" in maps:
        # A little less: what reaches the height is in the map, and drawn.
        height = abs(maps["threshold"]) * (1 - 1e-6)
        return height.where(np.isfinite(height) & (height > 0), threshold_of(name)).data
    return threshold_of(name)
