"""Volumes that a page holds in itself, for the viewer to cut anywhere: one byte a voxel."""

import base64
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from chunkglm._types import AnyArray
from chunkglm.reporting.colours import LevelScale, StatScale
from chunkglm.reporting.view import View

_LEVELS = 127  # of either sign
_NONE = -128  # no value: outside the mask, or not estimated


@dataclass(frozen=True, slots=True)
class Volume:
    """A map in whole steps."""

    name: str
    group: str
    kind: str  # "stat" or "level"
    step: float  # of one unit
    low: float  # of unit 0
    high: float  # end of the colour scale
    threshold: float
    unit: str
    data: str  # int8, x fastest, deflated, in base64

    def told(self) -> dict[str, Any]:
        """What the viewer's script is told of it, beside the data."""
        return {n: getattr(self, n) for n in self.__dataclass_fields__ if n != "data"}


def stat_volume(view: View, z: AnyArray, name: str, group: str, scale: StatScale) -> Volume:
    """Bring a statistic into steps of which a whole number is the threshold.

    So the voxels that the viewer shows at the threshold are those that survive it.

    Parameters
    ----------
    view : View
    z : (x, y, z) array
        On the whole grid.
    name, group : str
    scale : StatScale
    """
    values = view.of(z)
    if np.isfinite(scale.threshold) and scale.threshold > 0:
        steps = max(1, int(_LEVELS * scale.threshold / max(scale.vmax, scale.threshold)))
        step = scale.threshold / steps
    else:
        step = scale.vmax / _LEVELS
    known = np.isfinite(values)
    # Rounded down, give or take rounding: a voxel at the height is at the height.
    units = np.floor(np.abs(np.where(known, values, 0)) / step + 1e-9) * np.sign(values)
    held = np.where(known, np.clip(units, -_LEVELS, _LEVELS), _NONE)
    height = scale.threshold if np.isfinite(scale.threshold) else scale.vmax
    return Volume(name, group, "stat", step, 0.0, scale.vmax, height, "z", _packed(held))


def level_volume(
    view: View, values: AnyArray, name: str, group: str, scale: LevelScale, unit: str
) -> Volume:
    """Bring a map without sign into 128 steps between the ends of its colours."""
    cut = view.of(values)
    step = (scale.high - scale.low) / _LEVELS or 1.0
    known = np.isfinite(cut)
    units = np.rint((np.where(known, cut, scale.low) - scale.low) / step)
    held = np.where(known, np.clip(units, 0, _LEVELS), _NONE)
    return Volume(name, group, "level", step, scale.low, scale.high, scale.low, unit, _packed(held))


def within(volumes: Iterable[Volume], most_bytes: int) -> tuple[list[Volume], list[Volume]]:
    """Part volumes into those that fit a page, in their order, and the rest."""
    kept: list[Volume] = []
    rest: list[Volume] = []
    size = 0
    for volume in volumes:
        fits = size + len(volume.data) <= most_bytes
        (kept if fits else rest).append(volume)
        size += len(volume.data) if fits else 0
    return kept, rest


def packed_grey(grey: AnyArray) -> str:
    """Grey values of the image below, uint8, as the viewer reads them."""
    return _encoded(grey.astype(np.uint8))


def _packed(units: AnyArray) -> str:
    return _encoded(units.astype(np.int8))


def _encoded(values: AnyArray) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(order="F"), 9)).decode("ascii")
