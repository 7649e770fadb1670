"""Maps of two small runs, and what a picture holds."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from helpers_lazy import make_data, make_design, make_mask, write_run

import chunkglm as cg

SHAPE = (9, 8, 7, 40)


def fit_runs(folder: Path, n: int = 2) -> list[Any]:
    fits = []
    for i in range(n):
        path = write_run(folder / f"run-{i + 1}_bold.nii.gz", make_data(SHAPE, seed=i))
        fits.append(cg.fit(path, make_design(SHAPE[3]), mask=make_mask(SHAPE)))
    return fits


def maps_of(folder: Path, n: int = 2) -> list[xr.Dataset]:
    return [cg.contrast(one, "a - b") for one in fit_runs(folder, n)]


def slices(display: Any) -> dict[float, Any]:
    """What each axial slice of nilearn's display shows of the map: its only image."""
    found = {}
    for height, axes in display.axes.items():
        (image,) = axes.ax.images
        found[height] = image
    return found


def values_of(image: Any) -> Any:
    """Sorted values that an image shows; what is masked is not shown."""
    return np.sort(np.ma.masked_invalid(image.get_array()).compressed())
