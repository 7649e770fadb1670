"""Maps as NIfTI files with JSON sidecars."""

import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import xarray as xr

from chunkglm._types import AnyArray
from chunkglm.alone import has_one_thread
from chunkglm.errors import ImageError, MapsError
from chunkglm.glm.names import prefixes
from chunkglm.glm.sidecars import (
    ALWAYS,
    COVERAGE,
    every_stat,
    files_of,
    opened_by,
    stem,
    write_sidecar,
)
from chunkglm.glm.space import Grid, grid_of
from chunkglm.glm.together import of_one_contrast
from chunkglm.io.files import is_url
from chunkglm.io.images import (
    ANYTHING,
    NOISE_AND_ZEROS,
    atomic_writer,
    flushing,
    write_image,
)
from chunkglm.io.transfer import put_files, remove_files
from chunkglm.kernels.level import CONSTANT, EXPLAINED, NOT_FINITE, OUTSIDE_MASK
from chunkglm.kernels.pooling import DIGITS_LOST, NO_RUN
from chunkglm.lazy.where import here_unless_told
from chunkglm.schema import CONTRAST, SPACE

# Of thresholded maps: file, statistic, type on disk.
_THRESHOLDED_FILES = {
    "thresholded": ("stat-z_desc-thresholded_statmap", "z, thresholded", np.float64),
    "cluster": ("desc-clusters_dseg", "cluster", np.int32),
}

# zlib takes 35 to 70 ms for a map of 91 x 109 x 91, all else 15.
_WRITTEN_AT_ONCE = 2


def save(
    maps: xr.Dataset,
    folder: str | Path,
    *,
    prefix: str,
    storage_options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write maps as NIfTI files; computes them, together and once.

    Parameters
    ----------
    maps : Dataset
        From `contrast`, `fixed_effects` or `threshold`.
    folder : str or Path
        Made if it does not exist; or a URL that fsspec knows, such as ``s3://bucket/maps``, where
        the files appear once all of them are made, one after the other and each of them whole.
    prefix : str
        Beginning of the files' names, such as ``"sub-01_contrast-DStMinusSSt"``. Maps that were
        saved under it before, of either statistic, are replaced once all of the new are made. Maps
        of several contrasts are named by them, ``PREFIX_contrast-NAME``: letters and digits only,
        ``"face - house"`` is ``faceMinusHouse``.
    storage_options : mapping, optional
        Passed to fsspec with a URL.

    Returns
    -------
    list of str
        ``PREFIX_stat-effect_statmap.nii.gz``, ``-variance``, ``-t`` or ``-F``, ``-p`` and ``-z``,
        in float64, with a JSON sidecar each, which names files from their ``sub-`` folder on, or
        by folder and name. Of pooled maps also ``-dof``, ``-nruns`` and ``-status``, where degrees
        of freedom and runs are not the same in all voxels that have any, and where there are other
        reasons than the mask for having none. Voxels that are NaN are 0 (1 for p and status).
        Effects of an F contrast have one volume per row, their covariance row times row. Of
        thresholded maps ``PREFIX_stat-z_desc-thresholded_statmap.nii.gz``,
        ``PREFIX_desc-clusters_dseg.nii.gz`` and the table of clusters, ``PREFIX_clusters.tsv``.

    Raises
    ------
    MapsError
        When the maps or the prefix cannot be used.
    ImageError
        When a file cannot be written.
    """
    if not prefix or Path(prefix).name != prefix or prefix == ".." or "\0" in prefix:
        msg = f"prefix must be the beginning of a file name, without folders, but got {prefix!r}"
        raise MapsError(msg)
    if isinstance(maps, xr.Dataset) and CONTRAST in maps.dims:
        return _save_several(maps, folder, prefix, storage_options)
    write = _write
    if isinstance(maps, xr.Dataset) and "thresholded" in maps:
        write = _write_thresholded
    else:
        _check_maps(maps)
        maps = of_one_contrast(maps)
    grid = grid_of(maps, prefix)
    if is_url(folder):
        options, url = storage_options or {}, str(folder)
        with TemporaryDirectory(prefix="chunkglm-") as apart:
            made = write(maps, grid, Path(apart), prefix, _leave)
            remove_files(made.in_the_way, url, options, ImageError)
            put_files((Path(apart) / name for name in made.files), url, options, ImageError)
        return [f"{url.rstrip('/')}/{name}" for name in made.told]
    if storage_options:
        msg = f"{folder}: storage_options are for URLs, and this is a local path; leave them out"
        raise MapsError(msg)
    out = Path(folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
        aside = TemporaryDirectory(prefix=".chunkglm-", dir=out)
    except OSError as error:
        msg = f"{out}: the folder cannot be made or written to ({error.strerror})"
        raise ImageError(msg) from error
    with aside as apart:
        try:
            with flushing() as written:
                made = write(maps, grid, Path(apart), prefix, written)
            _put_in_place(made, Path(apart), out)
        except ImageError as error:
            raise ImageError(str(error).replace(apart, str(out))) from error
    return [str(out / name) for name in made.told]


def _save_several(
    maps: xr.Dataset,
    folder: str | Path,
    prefix: str,
    storage_options: Mapping[str, Any] | None,
) -> list[str]:
    """Save each contrast as maps of its own; all are computed at once, and held."""
    if "thresholded" not in maps:
        _check_maps(maps)
    if CONTRAST not in maps.coords:
        msg = f"maps of {maps.sizes[CONTRAST]} contrasts have no names; give them as a coordinate"
        raise MapsError(msg)
    names = prefixes(prefix, [str(name) for name in maps[CONTRAST].to_numpy()])
    computed = maps.compute(**here_unless_told())
    written = []
    for i, one in enumerate(names.values()):
        alone = computed.isel({CONTRAST: i})
        written += save(alone, folder, prefix=one, storage_options=storage_options)
    return written


@dataclass(frozen=True, slots=True)
class _Made:
    """Names of files that were written beside their place."""

    told: list[str]  # what the user is told of
    files: list[str]  # all, in the order in which they are put in place
    in_the_way: list[str]  # of older maps, in the order in which they are removed


def _put_in_place(made: _Made, apart: Path, out: Path) -> None:
    try:
        for name in made.in_the_way:
            (out / name).unlink(missing_ok=True)
        for name in made.files:
            (apart / name).replace(out / name)
    except OSError as error:
        where = error.filename2 or error.filename
        msg = f"{where}: the map cannot be put in place ({error.strerror})"
        raise ImageError(msg) from error


def _leave(_: Path) -> None:
    """Do nothing with a file that has been written: it is on its way to somewhere else."""


def _write(
    maps: xr.Dataset, grid: Grid, out: Path, prefix: str, written: Callable[[Path], None]
) -> _Made:
    wanted = [*ALWAYS, *(name for name in COVERAGE if name in maps)]
    computed = maps[wanted].compute(**here_unless_told())
    _report_lost_voxels(computed, prefix)
    attrs, coverage = _what_all_share(computed, dict(maps.attrs))
    files = {**ALWAYS, **{name: COVERAGE[name] for name in coverage}}
    stats = [stat.format(stat_type=attrs["stat_type"]) for stat, _ in files.values()]

    def write(name: str, stat: str) -> None:
        fill = files[name][1]
        values = _space_first(computed[name])
        noise = name in ALWAYS and fill == 0
        path = out / stem(prefix, stat)
        written(_write_map(path, values, grid, np.float64, fill=fill, noise=noise))
        written(write_sidecar(path, attrs, stat, stats))

    if has_one_thread():
        list(map(write, files, stats))
    else:
        with ThreadPoolExecutor(_WRITTEN_AT_ONCE, "chunkglm-maps") as threads:
            list(threads.map(write, files, stats))
    made = files_of(prefix, stats)
    # Maps are not opened without this one, which is removed first and comes last: no one finds old
    # and new ones mixed.
    stale = [name for name in files_of(prefix, every_stat()) if name not in made]
    told = [f"{stem(prefix, stat)}.nii.gz" for stat in stats]
    return _Made(told, made, [opened_by(prefix), *stale])


def _write_thresholded(
    maps: xr.Dataset, grid: Grid, out: Path, prefix: str, written: Callable[[Path], None]
) -> _Made:
    # Not at the top: whoever saves plain maps has no use for what joins clusters.
    from chunkglm.glm.thresholding import clusters

    computed = maps.compute(**here_unless_told())
    table = clusters(computed)
    told = {**maps.attrs, **{n: computed[n].item() for n in ("threshold", "n_tests")}}
    if not np.isfinite(told["threshold"]):
        told["threshold"] = "none survives"  # JSON knows no infinity
    names = []
    for name, (ending, stat, dtype) in _THRESHOLDED_FILES.items():
        path = out / f"{prefix}_{ending}"
        written(_write_map(path, _space_first(computed[name]), grid, dtype))
        written(write_sidecar(path, told, stat))
        names.append(f"{prefix}_{ending}.nii.gz")
    path = out / f"{prefix}_clusters.tsv"
    with atomic_writer(path, flush=False) as file:
        file.write(table.to_csv(sep="\t", index=False).encode())
    written(path)
    written(write_sidecar(out / f"{prefix}_clusters", told, "table of clusters"))
    names.append(f"{prefix}_clusters.tsv")
    sidecars = [f"{name.removesuffix('.tsv').removesuffix('.nii.gz')}.json" for name in names]
    return _Made(names, [*sidecars, *names], [])


def _write_map(
    path: Path, values: AnyArray, grid: Grid, dtype: Any, *, fill: float = 0.0, noise: bool = False
) -> Path:
    """Write one image, under a name that still lacks its end; `noise` where it is not 0, or any."""
    file = path.with_name(f"{path.name}.nii.gz")
    write_image(
        file,
        np.nan_to_num(values, nan=fill, posinf=np.inf, neginf=-np.inf),
        grid.matrix(),
        header=grid.nifti_header(),
        dtype=dtype,
        flush=False,
        strategy=NOISE_AND_ZEROS if noise else ANYTHING,
    )
    return file


def _what_all_share(
    computed: xr.Dataset, attrs: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Attributes that hold in all voxels, and the variables that say more."""
    if "dof" in computed and computed["dof"].notnull().any():
        # What voxels have where every run counts; attributes of concatenated runs know one only.
        attrs["dof"] = float(computed["dof"].max())
    if "n_runs" not in computed:
        return attrs, []
    n_runs = computed["n_runs"].to_numpy()
    attrs["n_runs"] = float(n_runs.max(initial=0.0))
    there = n_runs > 0
    several = {
        "dof": bool((computed["dof"].to_numpy()[there] != attrs["dof"]).any()),
        "n_runs": bool((n_runs[there] != attrs["n_runs"]).any()),
        "voxel_status": bool((computed["voxel_status"] > OUTSIDE_MASK).any())
        if "voxel_status" in computed
        else False,
    }
    return attrs, [name for name in COVERAGE if several[name]]


def _space_first(values: xr.DataArray) -> AnyArray:
    """(x, y, z) or (x, y, z, rows): NIfTI keeps space first."""
    leading = [d for d in values.dims if d not in SPACE]
    data = values.transpose(*SPACE, *leading).to_numpy()
    return data.reshape(*data.shape[:3], -1) if leading else data


def _check_maps(maps: Any) -> None:
    if not isinstance(maps, xr.Dataset):
        kind = type(maps).__name__
        msg = f"maps must be a Dataset from contrast or fixed_effects, but got {kind}"
        raise MapsError(msg)
    missing = [name for name in ALWAYS if name not in maps]
    if missing or "stat_type" not in maps.attrs:
        lacking = ", ".join(missing) or "stat_type"
        msg = f"maps must come from contrast or fixed_effects, but {lacking} is missing"
        raise MapsError(msg)


def _report_lost_voxels(maps: xr.Dataset, prefix: str) -> None:
    if "voxel_status" not in maps:
        return
    counts = np.bincount(maps["voxel_status"].to_numpy().reshape(-1), minlength=DIGITS_LOST + 1)
    if counts[CONSTANT:NO_RUN].any():
        msg = (
            f"{prefix}: {counts[CONSTANT]} voxels of the mask are constant, {counts[NOT_FINITE]} "
            f"not finite, and of {counts[EXPLAINED]} the design leaves nothing over; they have no "
            "statistic"
        )
        warnings.warn(msg, UserWarning, stacklevel=5)
    if counts[DIGITS_LOST]:
        msg = (
            f"{prefix}: in {counts[DIGITS_LOST]} voxels too little is left after runs were taken "
            "out, and they have no statistic; combine the other runs anew"
        )
        warnings.warn(msg, UserWarning, stacklevel=5)
