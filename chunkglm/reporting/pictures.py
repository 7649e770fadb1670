"""Slices and projections of maps as pictures that a page holds in itself."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, features

from chunkglm._types import AnyArray, FloatArray
from chunkglm.reporting.colours import LevelScale, StatScale
from chunkglm.reporting.view import View

_PANEL = (13, 17, 23)  # behind every brain
_GAP = 6  # pixels between slices
_QUALITY = 84
_GLASS_COLOURS = 96
_RIM = 2  # voxels around the outline, which may lie at the edge of the scan


@dataclass(frozen=True, slots=True)
class Mark:
    """A word over a picture: where a slice lies, which side is left."""

    text: str
    left: float  # percent of the width
    top: float  # percent of the height


@dataclass(frozen=True, slots=True)
class Picture:
    """An image in a data URI, and what stands on it."""

    uri: str
    width: int
    height: int
    alt: str
    marks: tuple[Mark, ...] = ()


def slices(
    view: View,
    overlay: AnyArray | None,
    scale: StatScale | LevelScale,
    background: AnyArray | None,
    *,
    n: int,
    columns: int,
    width: int,
    alt: str,
) -> Picture:
    """Draw axial slices spread evenly over the brain.

    Parameters
    ----------
    view : View
    overlay : (x, y, z) array or None
        A map in the view's grid; NaN shows the background.
    scale : StatScale or LevelScale
    background : (x, y, z) uint8 array or None
        Grey values; the mask in one grey where there is none.
    n, columns : int
        Slices, and those in a row.
    width : int
        Pixels of the picture.
    alt : str
        What it shows, in words.
    """
    heights = _spread(view, n)
    columns = min(columns, len(heights))
    cell_width = (width - _GAP * (columns - 1)) // columns
    x, y, _ = (s * m for s, m in zip(view.shape, view.sizes, strict=True))
    cell_height = max(8, round(cell_width * y / x))
    rows = -(-len(heights) // columns)
    size = (width, rows * cell_height + _GAP * (rows - 1))
    sheet = Image.new("RGB", size, _PANEL)
    marks = []
    for i, k in enumerate(heights):
        left = (i % columns) * (cell_width + _GAP)
        top = (i // columns) * (cell_height + _GAP)
        cell = _slice(view, overlay, scale, background, k, (cell_width, cell_height))
        sheet.paste(cell, (left, top))
        label = f"{view.millimetres(2, k):.0f}"
        marks.append(Mark(label, 100 * left / size[0], 100 * top / size[1]))
    return Picture(_photo(sheet), *size, alt, tuple(marks))


def glass(
    view: View, stat: AnyArray, scale: StatScale, *, width: int, alt: str, planes: Sequence[int]
) -> Picture:
    """Draw the strongest value along each line of sight over the outline of the mask.

    Honest in any space: the outline is that of the voxels analysed, no template's.

    Parameters
    ----------
    view : View
    stat : (x, y, z) array
        In the view's grid.
    scale : StatScale
    width : int
        Pixels of the picture.
    alt : str
        What it shows, in words.
    planes : sequence of int
        Axes to look along: 0 from the right side, 1 from behind, 2 from above.
    """
    mm = [(s + 2 * _RIM) * m for s, m in zip(view.shape, view.sizes, strict=True)]
    across = {0: (1, 2), 1: (0, 2), 2: (0, 1)}
    gap = 2 * _GAP
    per_mm = (width - gap * (len(planes) - 1)) / sum(mm[across[a][0]] for a in planes)
    height = round(max(mm[across[a][1]] for a in planes) * per_mm)
    sheet = Image.new("RGB", (width, height), _PANEL)
    marks, left = [], 0
    for axis in planes:
        w, h = (max(1, round(mm[b] * per_mm)) for b in across[axis])
        size = w, h
        top = (height - size[1]) // 2
        sheet.paste(_projection(view, stat, scale, axis, size), (left, top))
        if axis > 0:
            right = 100 * (left + size[0]) / width
            marks += [Mark("L", 100 * left / width, 0.0), Mark("R", right - 3.2, 0.0)]
        left += size[0] + gap
    return Picture(_flat(sheet), width, height, alt, tuple(marks))


def grey(values: AnyArray) -> AnyArray:
    """Grey values of an image, uint8: from nothing to what few voxels are above."""
    known = np.isfinite(values) & (values > 0)
    if not known.any():
        return np.zeros(values.shape, dtype=np.uint8)
    low, high = np.percentile(values[known], (1, 99.5))
    low = min(low, 0.5 * high)
    shares = (np.nan_to_num(values, nan=0.0) - low) / max(high - low, 1e-12)
    # Not up to white, which is kept for the strongest values of a map.
    return np.where(known, 24 + 190 * np.clip(shares, 0, 1), 0).astype(np.uint8)


def plain_grey(view: View) -> AnyArray:
    """A brain without an image of it: the mask in one grey."""
    return np.where(view.inside, 92, 0).astype(np.uint8)


def matrix_picture(values: FloatArray) -> str:
    """Return a design as grey columns, one pixel a cell, each column by its largest value."""
    largest = np.abs(values).max(axis=0)
    shares = values / np.where(largest > 0, largest, 1.0)
    pixels = np.rint(127.5 + 127.5 * shares).astype(np.uint8)
    return _uri(Image.fromarray(pixels), "png", optimize=True)


def flat(plane: AnyArray) -> AnyArray:
    """A plane (a, b, ...) as rows of an image: b upwards, a to the right."""
    return np.ascontiguousarray(np.swapaxes(plane, 0, 1)[::-1])


def _spread(view: View, n: int) -> list[int]:
    """Slices that hold the brain, without the caps where little is seen."""
    count = view.inside.sum(axis=(0, 1)).cumsum()
    if not count[-1]:
        return list(range(view.shape[2]))[:n]
    low, high = np.searchsorted(count, (0.03 * count[-1], 0.985 * count[-1]))
    return [int(k) for k in dict.fromkeys(np.linspace(low, high, n).round())]


def _slice(
    view: View,
    overlay: AnyArray | None,
    scale: StatScale | LevelScale,
    background: AnyArray | None,
    k: int,
    size: tuple[int, int],
) -> Image.Image:
    below = plain_grey(view) if background is None else background
    image = Image.fromarray(flat(below[:, :, k]))
    # The image below is smoothed to look at; the map keeps its voxels, which are what was tested.
    way = Image.Resampling.NEAREST if background is None else Image.Resampling.BICUBIC
    cell = _toned(image.resize(size, way))
    if overlay is not None:
        colours = Image.fromarray(scale.rgba(flat(overlay[:, :, k])), "RGBA")
        colours = colours.resize(size, Image.Resampling.NEAREST)
        cell.paste(colours, (0, 0), colours)
    return cell


def _toned(image: Image.Image) -> Image.Image:
    """Grey over the panel's colour, so that black is the panel."""
    values = np.asarray(image, dtype=np.float32)[..., None] / 255
    panel = np.array(_PANEL, dtype=np.float32)
    return Image.fromarray((panel + values * (255 - panel)).round().astype(np.uint8))


def _projection(
    view: View, stat: AnyArray, scale: StatScale, axis: int, size: tuple[int, int]
) -> Image.Image:
    filled, inside = np.pad(np.nan_to_num(stat, nan=0.0), _RIM), np.pad(view.inside, _RIM)
    strongest = np.abs(filled).argmax(axis=axis)
    along = np.take_along_axis(filled, np.expand_dims(strongest, axis), axis).squeeze(axis)
    depth = inside.sum(axis=axis)
    shade = 44 * (depth / max(depth.max(), 1)) ** 0.5
    body = Image.fromarray(flat(shade).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    panel = _toned(body)
    silhouette = Image.fromarray(flat(255 * (depth > 0)).astype(np.uint8))
    edge = _outline(silhouette.resize(size, Image.Resampling.BICUBIC))
    panel.paste(Image.new("RGB", size, (150, 160, 172)), (0, 0), edge)
    colours = Image.fromarray(scale.rgba(flat(along)), "RGBA")
    colours = colours.resize(size, Image.Resampling.NEAREST)
    panel.paste(colours, (0, 0), colours)
    return panel


def _outline(silhouette: Image.Image) -> Image.Image:
    """How much of each pixel the border of a silhouette covers."""
    soft = silhouette.filter(ImageFilter.GaussianBlur(silhouette.width / 140))
    values = np.asarray(soft, dtype=np.float32) / 255
    return Image.fromarray((255 * np.clip(1 - np.abs(values - 0.5) / 0.3, 0, 1)).astype(np.uint8))


def _photo(image: Image.Image) -> str:
    if features.check("webp"):
        return _uri(image, "webp", quality=_QUALITY, method=4)
    return _uri(image, "jpeg", quality=_QUALITY, subsampling=0)


def _flat(image: Image.Image) -> str:
    few = image.quantize(_GLASS_COLOURS, dither=Image.Dither.NONE)
    return _uri(few, "png", optimize=True)


def _uri(image: Image.Image, kind: str, **options: Any) -> str:
    held = io.BytesIO()
    image.save(held, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(held.getvalue()).decode('ascii')}"
