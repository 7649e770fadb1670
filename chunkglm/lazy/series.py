"""Series over (x, y, z, time) from moments: predicted and left over, block by block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from chunkglm._types import AnyArray, BoolArray, FloatArray, IntArray, RunSource
from chunkglm.blocks import forward_block, series_block
from chunkglm.errors import ImageError
from chunkglm.kernels.series import Curves, curves_of, leave, predict, whiten
from chunkglm.kernels.solve import Model
from chunkglm.kernels.voxels import VoxelSelection, scatter, select_voxels
from chunkglm.lazy.blas import one_blas_thread
from chunkglm.lazy.moments import Slabs
from chunkglm.lazy.neighbours import as_solved_from, solved_from
from chunkglm.lazy.runs import run_array

# The first volume may differ from that of the run fitted by this share of its largest sample:
# integers are scaled after smoothing there and before it here. Seen: 7e-16.
SAME_VOLUME = 1e-9


@dataclass(frozen=True, slots=True)
class SeriesModel:
    """What series are made of, beside the data."""

    moments: Mapping[str, da.Array]
    slabs: Slabs
    model: Model
    ages: IntArray  # (T,), see `kernels.series.whiten`
    whitened: bool

    @property
    def reach(self) -> int:
        """Volumes before a block that its series need."""
        return self.model.noise.order if self.whitened else 0


@dataclass(frozen=True, slots=True)
class RunRead:
    """The run whose series are wanted; what messages call it, and the one that was fitted."""

    data: da.Array  # (x, y, z, time)
    source: RunSource | None
    sigma: tuple[float, float, float] | None  # smoothing in voxels
    label: str
    fitted: str


def predicted_array(wanted: SeriesModel) -> da.Array:
    """What the model says of every voxel and volume.

    Parameters
    ----------
    wanted : SeriesModel

    Returns
    -------
    (x, y, z, time) float64 dask array
        In slabs of planes and blocks of time; NaN outside the mask and where nothing is estimated.
    """
    times = _times(wanted, 1)
    name, tasks = _shared("predicted", wanted)
    for i in wanted.slabs.occupied:
        for j, block in enumerate(times):
            tasks[name, 0, 0, i, j] = (
                _predicted, (name, "curves", i), (name, "rows"), (name, "mask", i), block,
                wanted.reach,
            )  # fmt: skip
    return _array(name, tasks, wanted, times, [])


def residuals_array(run: RunRead, wanted: SeriesModel) -> da.Array:
    """What the model leaves of every voxel and volume.

    Parameters
    ----------
    run : RunRead
    wanted : SeriesModel

    Returns
    -------
    (x, y, z, time) float64 dask array
        As `predicted_array`. Computing it raises ImageError when the first volume is not that of
        the run that was fitted.
    """
    data = run.data
    if run.source is not None and run.source.forward_only:
        # Every block of a compressed file is read from the file's start: so let there be few.
        x, y, z, n_scans = run.source.shape
        n_volumes = forward_block(x * y * z * run.source.dtype.itemsize, n_scans)
        data = run_array(run.source, n_volumes)
    times = _times(wanted, max(data.chunks[3]))
    name, tasks = _shared("residuals", wanted, data, run.sigma)
    dependencies, first = [], int(wanted.model.factor.segments.kept[0])
    for i in wanted.slabs.occupied:
        selection = select_voxels(wanted.slabs.mask, wanted.slabs.planes[i], run.sigma)
        part = data[:, :, selection.planes.start : selection.planes.stop]
        part = part.rechunk({0: -1, 1: -1, 2: -1, 3: tuple(map(len, times))})
        dependencies.append(part)
        tasks[name, "reader", i] = _Reader(selection, first, run.label, run.fitted)
        curves, mask = (name, "curves", i), (name, "mask", i)
        for j, block in enumerate(times):
            samples = (part.name, 0, 0, 0, j)
            left = (_left, curves, (name, "rows"), (name, "reader", i), samples, block)
            if not wanted.reach:
                tasks[name, 0, 0, i, j] = (_on_grid, left, mask)
                continue
            # Filtering reaches back into the block before, of which only the end is passed on.
            tasks[name, "left", i, j] = left
            tasks[name, "end", i, j] = (_end, (name, "left", i, j), wanted.reach)
            before = (name, "end", i, j - 1) if j else None
            tasks[name, 0, 0, i, j] = (
                _whitened, curves, (name, "rows"), mask, (name, "left", i, j), before, block,
            )  # fmt: skip
    return _array(name, tasks, wanted, times, dependencies)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The design's part: one value of the graph, shared by all blocks."""

    basis: FloatArray  # (T, r), NaN in dropped volumes
    ages: IntArray  # (T,)


@dataclass(frozen=True, slots=True)
class _Reader:
    """How a slab's series are taken out of a block of the run."""

    selection: VoxelSelection
    reference: int  # the volume that is the moments' reference, the first kept one
    label: str
    fitted: str

    def series(self, samples: AnyArray, block: range, reference: FloatArray) -> AnyArray:
        """Series (t, V) of a block (x, y, z, t), checked against the reference where it is held."""
        found = self.selection.series(samples.T)
        if self.reference in block:
            with np.errstate(invalid="ignore", over="ignore"):
                off = np.abs(found[self.reference - block.start] - reference)
            largest = np.abs(reference[np.isfinite(reference)]).max(initial=0.0)
            if np.any(off > SAME_VOLUME * largest):
                msg = (
                    f"{self.label}: this is not the run that was fitted, {self.fitted}: their "
                    f"first volumes differ by up to {np.nanmax(off):.6g}; pass the run of the fit"
                )
                raise ImageError(msg)
        return found


def _left(
    curves: Curves, rows: _Rows, reader: _Reader, samples: AnyArray, block: range
) -> FloatArray:
    with one_blas_thread():
        series = reader.series(samples, block, curves.reference)
        return leave(curves, rows.basis[block.start : block.stop], series)


def _end(series: FloatArray, n: int) -> FloatArray:
    return series[-n:].copy()


def _whitened(
    curves: Curves,
    rows: _Rows,
    mask: BoolArray,
    series: FloatArray,
    before: FloatArray | None,
    block: range,
) -> FloatArray:
    before = series[:0] if before is None else before
    return _on_grid(whiten(series, before, curves, rows.ages[block.start : block.stop]), mask)


def _predicted(
    curves: Curves, rows: _Rows, mask: BoolArray, block: range, reach: int
) -> FloatArray:
    first = max(0, block.start - reach)
    with one_blas_thread():
        series = predict(curves, rows.basis[first : block.stop])
    if reach:
        before, series = np.split(series, [block.start - first])
        series = whiten(series, before, curves, rows.ages[block.start : block.stop])
    return _on_grid(series, mask)


def _on_grid(series: FloatArray, mask: BoolArray) -> FloatArray:
    """Put (t, V) on (x, y, z, t)."""
    return np.moveaxis(scatter(series, mask), 0, -1)


def _nothing(shape: tuple[int, ...]) -> FloatArray:
    return np.broadcast_to(np.nan, shape)


def _times(wanted: SeriesModel, chunk: int) -> list[range]:
    """Blocks of time of all slabs; of one length, as stores want them, but for the last."""
    x, y, _ = wanted.slabs.mask.shape
    planes = max((len(wanted.slabs.planes[i]) for i in wanted.slabs.occupied), default=1)
    n_scans = wanted.model.factor.segments.n_volumes
    length = max(wanted.reach, series_block(x * y * planes * 8, chunk, n_scans))
    edges = [*range(0, n_scans, length), n_scans]
    return [range(a, b) for a, b in pairwise(edges)]


def _shared(kind: str, wanted: SeriesModel, *more: Any) -> tuple[str, dict[Any, Any]]:
    """Name of the graph, and the tasks that all blocks of a slab share."""
    parts, blocks = solved_from(wanted.moments)
    slabs, model = wanted.slabs, wanted.model
    name = f"{kind}-" + tokenize(
        [p.name for p in parts], slabs.mask, slabs.planes, model, wanted.ages, wanted.reach, *more
    )
    tasks: dict[Any, Any] = {
        (name, "model"): model,
        (name, "rows"): _Rows(model.factor.segments.on_run(model.factor.basis), wanted.ages),
    }
    for i, keys in zip(slabs.occupied, blocks, strict=True):
        tasks[name, "curves", i] = (_curves, (name, "model"), *keys)
        planes = slabs.planes[i]
        tasks[name, "mask", i] = slabs.mask[:, :, planes.start : planes.stop]
    return name, tasks


def _curves(model: Model, *parts: FloatArray) -> Curves:
    moments, autocorrelation = as_solved_from(parts)
    with one_blas_thread():
        return curves_of(moments, model, autocorrelation)


def _array(
    name: str,
    tasks: dict[Any, Any],
    wanted: SeriesModel,
    times: Sequence[range],
    dependencies: Sequence[da.Array],
) -> da.Array:
    x, y, _ = wanted.slabs.mask.shape
    for i, planes in enumerate(wanted.slabs.planes):
        if not wanted.slabs.n_voxels[i]:
            for j, block in enumerate(times):
                tasks[name, 0, 0, i, j] = (_nothing, (x, y, len(planes), len(block)))
    chunks = ((x,), (y,), tuple(map(len, wanted.slabs.planes)), tuple(map(len, times)))
    parts, _ = solved_from(wanted.moments)
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=[*parts, *dependencies])
    return da.Array(graph, name, chunks, dtype=np.dtype(np.float64))
