"""What pictures of maps have in common: slices, scales, titles."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import nibabel as nib
import numpy as np

from chunkglm._types import AnyArray, BoolArray, FloatArray

# On an image: blue below zero, red above, black between. On white, where black would shout, and
# white be lost: blue and red, white between.
ON_IMAGE, ON_WHITE = "cold_hot", "RdBu_r"

_OUTLINE = "0.55"

# Of statistics. Of noise alone one voxel of a thousand is above 3, and one below -3.
THRESHOLD = 3.0
_STATISTICS = ("z_score", "stat")

# Their colours are the same to either side of 0.
SIGNED = ("z_score", "thresholded", "effect_size")

# Other maps are drawn wherever they are not 0; nilearn's own.
_EVERYTHING = 1e-6

_TITLES = {
    "effect_size": "effect",
    "effect_variance": "variance of the effect",
    "z_score": "z",
    "p_value": "p",
    "thresholded": "z, thresholded",
}


def threshold_of(name: str) -> float:
    """Return the threshold of a variable for which none was given."""
    return THRESHOLD if name in _STATISTICS else _EVERYTHING


def title_of(attrs: Mapping[str, Any], name: str) -> str:
    """Say what a map is: the contrast, and the variable."""
    variable = str(attrs.get("stat_type", "")) if name == "stat" else ""
    variable = variable or _TITLES.get(name, name.replace("_", " "))
    contrast = str(attrs.get("contrast", ""))
    return f"{contrast}: {variable}" if contrast else variable


def slices_of(inside: AnyArray, affine: FloatArray, wanted: int | Sequence[float]) -> list[float]:
    """Heights of axial slices in mm, bottom to top; caps of a mask, with little in them, left out.

    Parameters
    ----------
    inside : (x, y, z) bool array
    affine : (4, 4) array
    wanted : int or sequence of float
        How many, or the heights themselves.
    """
    if not isinstance(wanted, (int, np.integer)):
        return [float(z) for z in wanted]
    height = np.argwhere(inside) @ affine[2, :3] + affine[2, 3]
    low, high = np.percentile(height, (2, 98))
    return [float(z) for z in dict.fromkeys(np.linspace(low, high, int(wanted)).round(3))]


@contextmanager
def drawing_quietly() -> Iterator[None]:
    """Let a map with nothing above its threshold be a result like any other."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "empty mask")
        warnings.filterwarnings("ignore", "No contour levels were found")
        yield


def colour_bar(
    figure: Any,
    place: tuple[float, float, float, float],
    threshold: float,
    vmax: float,
    *,
    colours: str,
    ink: str,
    size: float,
) -> None:
    """Draw one scale for all slices of a figure, grey where maps are below the threshold."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from nilearn.plotting import cm

    levels = np.linspace(-vmax, vmax, 512)
    found = (cm.cold_hot if colours == ON_IMAGE else colormaps[colours])(np.linspace(0, 1, 512))
    # Dark grey beside light ink, and the other way round.
    found[np.abs(levels) < threshold] = (*([0.25 if float(ink) > 0.5 else 0.85] * 3), 1)
    scale = ScalarMappable(Normalize(-vmax, vmax), ListedColormap(found))
    bar = figure.colorbar(scale, cax=figure.add_axes(place))
    ticks = sorted({-vmax, -threshold, 0.0, threshold, vmax} - {-_EVERYTHING, _EVERYTHING})
    bar.set_ticks(ticks, labels=[f"{tick:.3g}".replace("-", "−") for tick in ticks])
    bar.ax.tick_params(colors=ink, labelsize=size, length=3)
    bar.outline.set_edgecolor(ink)


def outline(display: Any, inside: BoolArray, affine: FloatArray) -> None:
    """Draw the border of the mask, where there is no image to draw a map on."""
    if not inside.all():
        mask = nib.Nifti1Image(inside.astype(np.float32), affine)
        display.add_contours(mask, levels=[0.5], colors=[_OUTLINE], linewidths=1.0)


def inside_of(values: Any) -> BoolArray:
    """Tell where a computed map holds numbers, (x, y, z)."""
    found: BoolArray = np.isfinite(values.transpose("x", "y", "z").to_numpy())
    return found
