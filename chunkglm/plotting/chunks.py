"""How a run lies in chunks, and which of them a mask needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from chunkglm._types import AnyArray, BoolArray, FloatArray
from chunkglm.errors import MaskError
from chunkglm.glm import Fit, open_run
from chunkglm.glm.masks import load_mask
from chunkglm.glm.records import short_name
from chunkglm.glm.runs import check_run, untouched_source
from chunkglm.glm.shown import amount
from chunkglm.glm.space import grid_of
from chunkglm.schema import SPACE, TIME

_BORDER = {"color": "#08519c", "linewidth": 1.0}
_EMPTY = "#d9d9d9"
_DARKEST = 0.55  # of the colour map, so that text and borders are seen on it
_TEXT_CELLS = 60  # more of them are too small to write in
_TIME_BORDERS = 30  # more of them are drawn thin
_HEIGHT = 2.7  # inches of the volume's z
_TIME_INCHES = 4.0


@dataclass(frozen=True, slots=True)
class _Layout:
    """Chunks along each axis, in voxels and volumes, over a mask."""

    mask: BoolArray  # (x, y, z)
    chunks: tuple[tuple[int, ...], ...]  # of x, y, z, and of time for a run
    voxel: FloatArray  # mm
    title: str
    voxel_bytes: int = 0  # of the moments of a fit

    def edges(self, axis: int) -> list[int]:
        return [0, *accumulate(self.chunks[axis])]

    @property
    def counts(self) -> list[int]:
        """Voxels of the mask in each range of planes."""
        return [int(self.mask[:, :, a:b].sum()) for a, b in pairwise(self.edges(2))]


def plot_chunks(
    run: Any, mask: Any = None, *, output_file: str | Path | None = None
) -> AnyArray | None:
    """Draw the chunks of a run, or the slabs of a fit, over the mask; nothing is computed.

    From the front and from the side: the mask, darker where more of its voxels lie behind one
    another, and the borders of chunks. On the right: every chunk along z and time, darker the more
    voxels of the mask it holds; hatched ones hold none, and a fit with this mask does not read
    them. Of a fit: the moments of each slab.

    Parameters
    ----------
    run : DataArray, path or Fit
        A run from `open_run`, or any over (x, y, z, time) with its ``affine``. Of a `Fit`, the
        slabs of planes whose moments are worked on together.
    mask : path, image or (x, y, z) array, optional
        As `fit` takes it; None means every voxel. A fit has its own.
    output_file : path, optional
        Where to write the picture, in place of showing it.

    Returns
    -------
    (3,) array of matplotlib.axes.Axes
        Front, side, and chunks or slabs; None with `output_file`.

    Raises
    ------
    ImageError, MaskError
        When the run is none, or the mask does not lie on its grid.
    """
    import matplotlib.pyplot as plt

    layout = _of_fit(run, mask) if isinstance(run, Fit) else _of_run(run, mask)
    nx, ny, nz = np.array(layout.mask.shape) * layout.voxel
    wide = [float(np.clip(_HEIGHT * n / nz, 1.2, 4.0)) for n in (nx, ny)] + [_TIME_INCHES]
    figure, axes = plt.subplots(
        1, 3, figsize=(sum(wide) + 1.2, _HEIGHT + 1.1), sharey=True, width_ratios=wide,
        layout="constrained",
    )  # fmt: skip
    _draw_projection(axes[0], layout, axis=0)
    _draw_projection(axes[1], layout, axis=1)
    (_draw_series if len(layout.chunks) > 3 else _draw_slabs)(axes[2], layout)
    axes[0].set_ylabel("z, planes")
    axes[0].set_ylim(0, layout.mask.shape[2])
    figure.suptitle(layout.title, fontsize=10, x=0.01, ha="left")
    if output_file is None:
        found: AnyArray = axes
        return found
    figure.savefig(output_file)
    plt.close(figure)
    return None


def _of_run(run: Any, mask: Any) -> _Layout:
    array = open_run(run) if isinstance(run, (str, Path)) else run
    label = check_run(array)
    array = array.transpose(*SPACE, TIME)
    affine = grid_of(array, label).matrix()
    x, y, z, _ = array.shape
    inside = load_mask(mask, (x, y, z), affine, label)
    chunks = array.chunks or tuple((n,) for n in array.shape)
    layout = _Layout(inside, chunks, _voxel_size(affine), "")
    every = prod(map(len, chunks))
    largest = [max(c) for c in chunks]
    size = f"{amount(prod(largest) * array.dtype.itemsize)} each"
    lines = [
        f"{short_name(label)}: {_by(array.shape)} {array.dtype}, {amount(array.nbytes)}",
        f"{every} chunks of {_by(largest)}, {size}" if every > 1 else "one chunk",
    ]
    if mask is not None:
        lines[1] += f"; {_needed(inside, chunks)} hold voxels of the mask"
    source = untouched_source(array)
    if source is not None and source.forward_only:
        lines[1] += "; compressed: a fit reads it once, forwards"
    return _Layout(layout.mask, chunks, layout.voxel, "\n".join(lines))


def _of_fit(fit: Fit, mask: Any) -> _Layout:
    if mask is not None:
        msg = "a fit has its own mask; leave out mask, or draw the run with it"
        raise MaskError(msg)
    inside, planes = fit.slabs.mask, tuple(len(p) for p in fit.slabs.planes)
    n_voxels, size = int(inside.sum()), fit.dataset.drop_vars(SPACE).nbytes
    title = (
        f"fit of {short_name(str(fit.dataset.attrs['run']))}: {n_voxels} voxels of "
        f"{_by(inside.shape)}\nmoments {amount(size)}, in {len(fit.slabs.occupied)} slabs"
    )
    chunks = ((inside.shape[0],), (inside.shape[1],), planes)
    return _Layout(inside, chunks, _voxel_size(fit.grid.matrix()), title, size // n_voxels)


def _voxel_size(affine: FloatArray) -> FloatArray:
    size: FloatArray = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    return np.where(size > 0, size, 1.0)


def _by(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _needed(mask: BoolArray, chunks: tuple[tuple[int, ...], ...]) -> int:
    """Count the chunks that hold voxels of the mask."""
    starts = [np.cumsum((0, *c[:-1])) for c in chunks[:3]]
    counts = mask.astype(np.int64)
    for axis, first in enumerate(starts):
        counts = np.add.reduceat(counts, first, axis=axis)
    return int((counts > 0).sum()) * len(chunks[3])


def _draw_projection(axes: Any, layout: _Layout, *, axis: int) -> None:
    """Draw the mask, seen along y (for x) or along x (for y), and the borders of chunks."""
    seen = layout.mask.sum(axis=1 - axis)  # (x or y, z)
    n, nz = seen.shape
    axes.imshow(
        np.ma.masked_equal(seen.T, 0), origin="lower", aspect="auto", cmap="Greys",
        extent=(0, n, 0, nz), vmin=0, vmax=seen.max() / _DARKEST, interpolation="nearest",
    )  # fmt: skip
    axes.vlines(layout.edges(axis), 0, nz, **_BORDER)
    axes.hlines(layout.edges(2), 0, n, **_BORDER)
    axes.set_xlim(0, n)
    axes.set_xlabel(f"{SPACE[axis]}, voxels")
    axes.set_title(("front", "side")[axis], fontsize=10)


def _draw_series(axes: Any, layout: _Layout) -> None:
    """Draw every chunk along z and time."""
    z, t = layout.edges(2), layout.edges(3)
    counts = np.repeat(np.array(layout.counts)[:, None], len(t) - 1, axis=1)
    axes.pcolormesh(
        t, z, np.ma.masked_equal(counts, 0), cmap="Blues", vmin=0, vmax=counts.max() / _DARKEST
    )
    _hatch_empty(axes, layout, t[-1])
    crowded = len(t) > _TIME_BORDERS
    axes.vlines(t, 0, z[-1], **(_BORDER | {"linewidth": 0.5} if crowded else _BORDER))
    axes.hlines(z, 0, t[-1], **_BORDER)
    if counts.size <= _TEXT_CELLS:
        for (a, b), n in zip(pairwise(z), layout.counts, strict=True):
            for first, stop in pairwise(t):
                middle = (first + stop) / 2, (a + b) / 2
                axes.text(*middle, str(n), ha="center", va="center", fontsize=8, clip_on=True)
    axes.set_xlim(0, t[-1])
    axes.set_xlabel("time, volumes")
    axes.set_title("chunks along time; voxels of the mask in each", fontsize=10)


def _draw_slabs(axes: Any, layout: _Layout) -> None:
    """Draw the moments of each slab."""
    z, counts = layout.edges(2), layout.counts
    sizes = [n * layout.voxel_bytes / 1e6 for n in counts]
    widest = max(sizes)
    axes.barh(
        z[:-1], sizes, height=layout.chunks[2], align="edge", color="#9ecae1", edgecolor="#1f77b4"
    )
    _hatch_empty(axes, layout, widest * 1.02)
    for (a, b), n, size in zip(pairwise(z), counts, sizes, strict=True):
        if n:
            text = f" {n} voxels, {size:.1f} MB"
            axes.text(0, (a + b) / 2, text, va="center", fontsize=8)
    axes.set_xlim(0, widest * 1.02)
    axes.set_xlabel("moments, MB")
    axes.set_title("slabs: one task each after the data are read", fontsize=10)


def _hatch_empty(axes: Any, layout: _Layout, width: float) -> None:
    for (a, b), n in zip(pairwise(layout.edges(2)), layout.counts, strict=True):
        if not n:
            axes.fill_between(
                (0, width), a, b, facecolor="white", edgecolor=_EMPTY, hatch="///", linewidth=0
            )
