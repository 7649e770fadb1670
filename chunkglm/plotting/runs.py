"""Maps of runs beside their fixed effects."""

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import dask
import numpy as np
import xarray as xr

from chunkglm.errors import MapsError
from chunkglm.glm import fixed_effects
from chunkglm.glm.records import run_name, short_name
from chunkglm.glm.together import as_list
from chunkglm.plotting.drawing import (
    ON_IMAGE,
    ON_WHITE,
    colour_bar,
    drawing_quietly,
    inside_of,
    outline,
    slices_of,
    threshold_of,
    title_of,
)
from chunkglm.plotting.images import (
    attrs_of,
    background_of,
    map_of,
    nifti_of,
    shown,
)

# Inches.
_ROW, _SLICE, _LABEL, _SCALE, _HEADING = 1.5, 1.3, 1.2, 0.9, 0.6
_GAP = 0.08  # between rows

FIXED = "fixed effects"


def plot_runs(
    maps: Sequence[xr.Dataset] | xr.Dataset,
    fixed: xr.Dataset | None = None,
    *,
    variable: str | None = None,
    threshold: float | None = None,
    vmax: float | None = None,
    cut_coords: int | Sequence[float] = 7,
    labels: Sequence[str] | None = None,
    bg_img: Any = None,
    title: str | None = None,
    output_file: str | Path | None = None,
) -> dict[str, Any] | None:
    """Draw the map of each run above that of their fixed effects: same slices, one colour scale.

    Computes what is drawn, together, so that each run is read once.

    Parameters
    ----------
    maps : sequence of Datasets, or a Dataset with a ``run`` dimension
        From `contrast`, on one grid.
    fixed : Dataset, optional
        By default ``fixed_effects(maps)``.
    variable : str, optional
        By default ``z_score``.
    threshold : float, optional
        By default 3 for z, t and F, and else all but 0 is drawn.
    vmax : float, optional
        Ends of the colour scale; by default the largest absolute value of all maps.
    cut_coords : int or sequence of float
        How many axial slices, evenly spread over the mask of the fixed effects, or their z in mm.
    labels : sequence of str, optional
        What runs are called; by default the names of their files.
    bg_img : image, path or DataArray, optional
        As in `plot_stat_map`.
    title : str, optional
        By default the contrast and the variable.
    output_file : path, optional
        Where to write the picture, in place of showing it.

    Returns
    -------
    dict or None
        nilearn's display of each row by its label; None with `output_file`.

    Raises
    ------
    MapsError
        When maps do not belong together, or there is nothing to draw.
    """
    import matplotlib.pyplot as plt

    runs = as_list(maps)
    fixed = fixed_effects(runs) if fixed is None else fixed
    names = [*_labels(runs, labels), FIXED]
    name = variable or shown(fixed)
    chosen = [map_of(one, name, rows=False) for one in (*runs, fixed)]
    values: Sequence[xr.DataArray] = dask.compute(*(array for array, _ in chosen))
    inside = inside_of(values[-1])
    if not inside.any():
        msg = f"{name}: no voxel of the fixed effects is finite, there is nothing to draw"
        raise MapsError(msg)
    height = threshold_of(name) if threshold is None else float(threshold)
    if vmax is None:
        largest = max(float(np.abs(v).max()) for v in values)
        vmax = max(largest, 1.25 * height)
    images = [nifti_of(v, grid, fill=0.0) for v, (_, grid) in zip(values, chosen, strict=True)]
    drawn: dict[str, Any] = {"threshold": height, "vmin": -vmax, "vmax": vmax}
    drawn["bg_img"] = background_of(bg_img)
    drawn["cmap"] = ON_WHITE if bg_img is None else ON_IMAGE
    cuts = slices_of(inside, images[-1].affine, cut_coords)
    figure, displays = _rows(dict(zip(names, images, strict=True)), cuts, drawn)
    if bg_img is None:
        for display in displays.values():
            outline(display, inside, images[-1].affine)
    heading = title_of(attrs_of(fixed), name) if title is None else title
    wide, tall = figure.get_size_inches()
    figure.text(0.1 / wide, 1 - 0.2 / tall, heading, va="center", fontsize=12)
    place = (1 - (_SCALE - 0.2) / wide, 0.15, 0.12 / wide, 0.62)
    colour_bar(figure, place, height, vmax, colours=drawn["cmap"], ink="0.15", size=9)
    if output_file is None:
        return displays
    figure.savefig(output_file)
    plt.close(figure)
    return None


def _rows(
    images: dict[str, Any], cuts: list[float], drawn: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Draw one row of slices for each image."""
    import matplotlib.pyplot as plt
    from nilearn.plotting import plot_stat_map

    wide, tall = _LABEL + _SLICE * len(cuts) + _SCALE, _HEADING + _ROW * len(images)
    figure = plt.figure(figsize=(wide, tall), facecolor="white")
    displays = {}
    with drawing_quietly():
        for i, (label, image) in enumerate(images.items()):
            bottom = (len(images) - 1 - i) * _ROW / tall
            place = (_LABEL / wide, bottom, _SLICE * len(cuts) / wide, (_ROW - _GAP) / tall)
            displays[label] = plot_stat_map(
                image,
                display_mode="z",
                cut_coords=cuts,
                figure=figure,
                axes=place,
                symmetric_cbar=True,
                colorbar=False,
                draw_cross=False,
                annotate=False,
                **drawn,
            )
            if i == 0:
                _name_slices(displays[label], figure, place[1] + place[3] + 0.05 / tall)
            middle = bottom + _ROW / 2 / tall
            figure.text(0.1 / wide, middle, label, va="center", fontsize=10)
    return figure, displays


def _name_slices(display: Any, figure: Any, above: float) -> None:
    """Write the height of each slice above it, and which side is which."""
    for height, axes in display.axes.items():
        box = axes.ax.get_position()
        text = f"z = {height:.0f} mm".replace("-", "−")
        figure.text((box.x0 + box.x1) / 2, above, text, fontsize=8, ha="center")
    display.annotate(left_right=True, positions=False, size=8)


def _labels(runs: Sequence[xr.Dataset], labels: Sequence[str] | None) -> list[str]:
    if labels is not None:
        if len(labels) != len(runs) or len(set(labels)) < len(runs) or FIXED in labels:
            msg = f"labels must be {len(runs)} different names, one for each run, but got {labels}"
            raise MapsError(msg)
        return [str(label) for label in labels]
    names = [run_name(one) for one in runs]
    for shorter in (lambda name: PurePath(name).name.partition(".")[0], short_name):
        found = [shorter(name) for name in names]
        if len(set(found)) == len(found):
            return found
    return [f"run {i + 1}" for i in range(len(runs))]
