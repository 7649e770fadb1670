"""What work will read, write and hold, told before it starts."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import dask
import nibabel as nib
import numpy as np
import xarray as xr
from dask.highlevelgraph import HighLevelGraph
from dask.system import CPU_COUNT

from chunkglm import memory
from chunkglm.errors import DesignError, MapsError
from chunkglm.glm.fitted import Fit
from chunkglm.glm.fixed import fixed_effects
from chunkglm.glm.model import fit as fit_run
from chunkglm.glm.plans import Plan
from chunkglm.glm.records import RUN, run_name
from chunkglm.glm.runs import parse_bytes
from chunkglm.glm.together import as_list
from chunkglm.io import open_nifti
from chunkglm.io.nifti import NiftiRun
from chunkglm.lazy.collecting import threads_of_pass
from chunkglm.lazy.maps import Solved, solved_in
from chunkglm.lazy.moments import Pass, passes_in
from chunkglm.lazy.neighbours import waits_in
from chunkglm.lazy.passes import handed_on
from chunkglm.schema import SPACE
from chunkglm.sizes import MB, conversion_buffer, moment_bytes, store_chunks

# Maps that `save` writes: effect, variance, statistic, p and z, in float64. Degrees of freedom and
# status are computed beside them.
MAPS_SAVED, MAPS_COMPUTED = 5, 7

# Metadata of a store, and for each chunk its line of the manifest and its codec's header.
METADATA_BYTES, CHUNK_OVERHEAD_BYTES = MB // 10, 200


def plan(
    work: Any,
    target: Any = None,
    *,
    memory_limit: str | int | None = None,
    threads: int | None = None,
    **options: Any,
) -> Plan:
    """Tell what work will read, write and hold, before any of it is done.

    Only headers, the design and the mask are read.

    Parameters
    ----------
    work : run, Fit, Dataset, or list of Datasets
        With a store as `target`, the NIfTI file that `convert` is given. With a design, the run
        that `fit` is given. Alone: a `Fit`, for a contrast of it; the maps of a `contrast` or of
        `fixed_effects`; or a list of maps, for their fixed effects.
    target : store or design, optional
        A path or URL that ends in ``.zarr``, or a zarr store object, is a store to convert to;
        anything else a design.
    memory_limit : str or int, optional
        Of a worker process; `Plan.check` is called with it. Conversion uses smaller blocks to fit.
    threads : int, optional
        Tasks at work at once in a process; by default what dask would use.
    **options
        What `fit` takes: ``mask``, ``noise``, ``smoothing_fwhm``, ``scaling``, ``t_r``. What
        `convert` takes: ``storage_options``.

    Returns
    -------
    Plan
        Of fits: until all maps of a contrast are computed in this process, and saved. What makes
        a run that was changed after it was opened is not counted.

    Raises
    ------
    MemoryLimitError
        When it does not fit `memory_limit`.
    """
    if target is not None and is_store(target):
        found = plan_conversion(work, target, memory_limit, threads, **options)
    elif target is not None:
        found = _of_fit(fit_run(work, target, **options), _threads(threads))
    elif options:
        msg = f"plan needs a design beside the run when it is given {', '.join(options)}"
        raise DesignError(msg)
    elif isinstance(work, Fit):
        found = _of_fit(work, _threads(threads))
    else:
        found = _of_maps(work, _threads(threads))
    return found if memory_limit is None else found.check(memory_limit)


def _threads(threads: int | None) -> int:
    return int(threads or dask.config.get("num_workers", None) or CPU_COUNT)


def is_store(target: Any) -> bool:
    """Whether what stands beside a run is where to convert it to, not its design."""
    if isinstance(target, (str, Path)):
        return str(target).rstrip("/").endswith(".zarr")
    # Not isinstance: zarr takes 0.3 s to import, and a design does not need it.
    return any(base.__module__.startswith("zarr.") for base in type(target).__mro__)


def plan_conversion(
    source: Any,
    store: Any,
    memory_limit: str | int | None = None,
    threads: int | None = None,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> Plan:
    """Plan `convert`; what `plan` does when it is given a store."""
    run = open_nifti(source, storage_options)
    limit = None if memory_limit is None else parse_bytes(memory_limit)
    buffer = conversion_buffer(limit, run.volume_bytes)
    chunks = store_chunks(run.shape, run.dtype.itemsize, buffer)
    n_chunks = -(-run.shape[2] // chunks[2]) * -(-run.shape[3] // chunks[3])
    data = run.shape[3] * run.volume_bytes
    written = data + METADATA_BYTES + CHUNK_OVERHEAD_BYTES * n_chunks
    least = memory.conversion_bytes(run.volume_bytes, run.volume_bytes)
    way_out = f"with smaller blocks (memory_limit, --memory-limit) it needs {least}"
    if chunks[3] == 1:
        way_out = "it holds one volume at a time already; use a machine with more"
    return Plan(
        work=f"convert {run.path} to {store}",
        memory_bytes=memory.conversion_bytes(buffer, chunks[3] * run.volume_bytes),
        threads=_threads(threads),
        bytes_read=run.size,
        bytes_written=written,
        chunks=n_chunks,
        tasks=n_chunks,
        scratch_bytes=0,
        disk_bytes=written,
        way_out=way_out,
    )


def _of_fit(fit: Fit, threads: int) -> Plan:
    dataset: Any = fit.dataset
    graph = dataset.__dask_graph__()
    grid = fit.slabs.mask.size
    return _of_graph(
        f"fit {fit.dataset.attrs['run']}",
        graph or HighLevelGraph({}, {}),
        [Solved(fit.slabs.voxel_chunks, MAPS_COMPUTED)],
        grid,
        results=8 * grid * MAPS_COMPUTED,
        in_memory=fit.dataset.nbytes if graph is None else 0,
        stored=0 if graph is None or passes_in(graph) else fit.dataset.nbytes,
        threads=threads,
        waiting=fit.noise.smooth_fwhm is not None,
    )


def _of_maps(maps: Any, threads: int) -> Plan:
    if not isinstance(maps, xr.Dataset) or RUN in maps.dims:
        if not isinstance(maps, (xr.Dataset, Sequence)) or isinstance(maps, (str, bytes)):
            msg = f"plan needs a run with a store or a design, a Fit, or maps, but got {maps!r}"
            raise MapsError(msg)
        # Maps in memory would be combined at once, here and now; but not with one that is dask's.
        first, *others = as_list(maps)
        maps = fixed_effects([first.chunk() if isinstance(first, xr.Dataset) else first, *others])
    label = run_name(maps)
    graph = maps.__dask_graph__() or HighLevelGraph({}, {})
    held = _in_memory(graph) if graph.layers else maps.nbytes
    return _of_graph(
        f"compute {maps.attrs.get('contrast', 'maps')} of {label}",
        graph,
        solved_in(graph),
        prod(maps.sizes[d] for d in SPACE),
        results=maps.nbytes,
        in_memory=held,
        stored=0,
        threads=threads,
        waiting=waits_in(graph),
    )


def _in_memory(graph: HighLevelGraph) -> int:
    """Bytes of the arrays that a graph holds."""
    values = (v for layer in graph.layers.values() for v in dict(layer).values())
    each = (part for v in values for part in (v if isinstance(v, tuple) else (v,)))
    arrays = {id(a): a for v in each if isinstance(a := getattr(v, "value", v), np.ndarray)}
    return sum(a.nbytes for a in arrays.values())


def _of_graph(
    work: str,
    graph: HighLevelGraph,
    solved: Sequence[Solved],
    grid: int,
    *,
    results: int,
    in_memory: int,
    stored: int,
    threads: int,
    waiting: bool,
) -> Plan:
    passes = passes_in(graph)
    readings = [_reading(p) for p in passes]
    solvings = [memory.Solving(one.n_voxels, one.n_maps) for one in solved]
    sizes = (readings, solvings, grid, results, in_memory)
    read = [_amount_read(p, r) for p, r in zip(passes, readings, strict=True)]
    saved = 8 * MAPS_SAVED * grid
    return Plan(
        work=work,
        memory_bytes=memory.fit_bytes(*sizes, threads, waiting=waiting),
        threads=threads,
        bytes_read=sum(n for n, _ in read) + stored,
        bytes_written=saved,
        chunks=sum(n for _, n in read),
        tasks=sum(len(dict(layer)) for layer in graph.layers.values()),
        scratch_bytes=0,
        disk_bytes=saved,
        way_out=(
            f"with one thread it needs {memory.fit_bytes(*sizes, 1, waiting=waiting)}; fewer runs "
            "at once, a mask of fewer voxels and a store in place of a compressed file need less "
            "too"
        ),
    )


def _reading(one: Pass) -> memory.Reading:
    source, selection = one.source, one.selection
    # An array's blocks are held, cut and joined by dask; as float64, for it is likely to be scaled.
    itemsize = source.dtype.itemsize if source else 8
    in_store = source is not None and not isinstance(source, NiftiRun)
    samples = prod(selection.shape) * len(selection.planes)
    return memory.reading(
        n_voxels=selection.n_voxels,
        rank=one.rank,
        n_lags=one.n_lags,
        moments=moment_bytes(one.rank, one.n_lags, one.n_segments) * selection.n_voxels,
        n_scans=one.n_scans,
        volume=samples * itemsize,
        chunk_volumes=source.chunks[3] if source else 1,
        chunk=prod(source.chunks) * itemsize if source and in_store else 0,
        forward_only=bool(source and source.forward_only),
        copies=1 if source else memory.BLOCKS_OF_ARRAY,
        joined=one.held,
        smoothing=_smoothing(one, samples),
    )


def _smoothing(one: Pass, samples: int) -> memory.Smoothing | None:
    source, selection = one.source, one.selection
    if not selection.smoothed:
        return None
    threads, largest = 1, selection.n_voxels
    if source is not None:
        threads = threads_of_pass(selection)
        largest = max(part.index.size for part in selection.smoothed)
    itemsize = handed_on(source).itemsize if source is not None else 8
    return memory.Smoothing(threads, largest, selection.workspace_numbers, samples * itemsize)


def _amount_read(one: Pass, task: memory.Reading) -> tuple[int, int]:
    """Bytes and pieces that a task reads; of a store its chunks as they are decoded."""
    source, planes = one.source, one.selection.planes
    pieces = -(-one.n_scans // task.n_volumes)
    if isinstance(source, NiftiRun) and source.compressed:
        return source.size, pieces
    if source is None or isinstance(source, NiftiRun):
        return one.n_scans * task.volume, pieces
    chunk = source.chunks
    in_z = -(-planes.stop // chunk[2]) - planes.start // chunk[2]
    n_chunks = in_z * -(-one.n_scans // chunk[3])
    return n_chunks * prod(chunk) * source.dtype.itemsize, n_chunks


def plan_saved(maps: Iterable[tuple[Path, str]], *, threads: int | None = None) -> Plan:
    """Plan the fixed effects of maps that `save` wrote; only their headers are read.

    Parameters
    ----------
    maps : iterable of (folder, prefix)
    threads : int, optional

    Returns
    -------
    Plan
    """
    shapes, n_read = [], 0
    for folder, prefix in maps:
        for stat in ("effect", "variance"):
            path = folder / f"{prefix}_stat-{stat}_statmap.nii.gz"
            try:
                shapes.append(nib.load(path).shape)
                n_read += path.stat().st_size
            except (OSError, nib.filebasedimages.ImageFileError) as error:
                msg = f"{path}: the map cannot be read ({error}); save it with chunkglm fit"
                raise MapsError(msg) from error
    grid, n_runs = prod(shapes[0][:3]), len(shapes) // 2
    # As they are opened: effect and variance, and statistic, p and z worked out of them.
    opened = sum(map(prod, shapes)) + (3 * n_runs + memory.NUMBERS_SOLVING) * grid
    results = 8 * grid * MAPS_COMPUTED
    saved = 8 * MAPS_SAVED * grid
    return Plan(
        work=f"combine the maps of {n_runs} runs",
        memory_bytes=memory.fit_bytes((), (), grid, results, 8 * opened, _threads(threads)),
        threads=_threads(threads),
        bytes_read=n_read,
        bytes_written=saved,
        chunks=len(shapes),
        tasks=len(shapes),
        scratch_bytes=0,
        disk_bytes=saved,
        way_out="combine fewer runs at a time; what is combined can be combined again",
    )
