"""Maps as NIfTI files with JSON sidecars, and back."""

import json
import re
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel as nib
import numpy as np
import xarray as xr

from chunkglm._types import AnyArray
from chunkglm.errors import ImageError, MapsError
from chunkglm.glm.space import Grid, grid_of, short_header
from chunkglm.glm.thresholding import clusters
from chunkglm.io.files import is_url
from chunkglm.io.images import atomic_writer, write_image
from chunkglm.io.inflate import check_gzip
from chunkglm.io.transfer import fetched, put_files
from chunkglm.kernels.estimate import statistics
from chunkglm.kernels.solve import CONSTANT, EXPLAINED, NOT_FINITE
from chunkglm.schema import SPACE

# Which file holds which variable, and what stands where nothing was estimated.
_FILES = {
    "effect_size": ("effect", 0.0),
    "effect_variance": ("variance", 0.0),
    "stat": ("{stat_type}", 0.0),
    "p_value": ("p", 1.0),
    "z_score": ("z", 0.0),
}

# Attributes that go into the sidecars, under the names readers of BIDS derivatives expect.
_SIDECAR = {
    "contrast": "Contrast",
    "contrast_weights": "ContrastWeights",
    "stat_type": "StatType",
    "dof": "DegreesOfFreedom",
    "rank": "ContrastRows",
    "noise": "NoiseModel",
    "scaling": "SignalScaling",
    "smoothing_fwhm": "SmoothingFWHM",
    "run": "Run",
    "runs": "Runs",
    "design": "Design",
    "precision_weighted": "PrecisionWeighted",
    "height_control": "HeightControl",
    "alpha": "Alpha",
    "two_sided": "TwoSided",
    "cluster_threshold": "ClusterThreshold",
    "threshold": "Threshold",
    "n_tests": "Tests",
}

# Of thresholded maps: file, statistic, type on disk.
_THRESHOLDED_FILES = {
    "thresholded": ("stat-z_desc-thresholded_statmap", "z, thresholded", np.float64),
    "cluster": ("desc-clusters_dseg", "cluster", np.int32),
}


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
        Beginning of the files' names, such as ``"sub-01_contrast-DStMinusSSt"``.
    storage_options : mapping, optional
        Passed to fsspec with a URL.

    Returns
    -------
    list of str
        ``PREFIX_stat-effect_statmap.nii.gz``, ``-variance``, ``-t`` or ``-F``, ``-p`` and ``-z``,
        in float64, with a JSON sidecar each. Voxels that are NaN are 0 (1 for p). Effects of an F
        contrast have one volume per row, their covariance row times row. Of thresholded maps
        ``PREFIX_stat-z_desc-thresholded_statmap.nii.gz``, ``PREFIX_desc-clusters_dseg.nii.gz`` and
        the table of clusters, ``PREFIX_clusters.tsv``.

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
    write = _write
    if isinstance(maps, xr.Dataset) and "thresholded" in maps:
        write = _write_thresholded
    else:
        _check_maps(maps)
    grid = grid_of(maps, prefix)
    if is_url(folder):
        with TemporaryDirectory(prefix="chunkglm-") as apart:
            images = write(maps, grid, Path(apart), prefix)
            options = storage_options or {}
            put_files(map(_sidecar_of, images), str(folder), options, ImageError)
            return put_files(images, str(folder), options, ImageError)
    if storage_options:
        msg = f"{folder}: storage_options are for URLs, and this is a local path; leave them out"
        raise MapsError(msg)
    out = Path(folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{out}: the folder cannot be made ({error.strerror})"
        raise ImageError(msg) from error
    return [str(path) for path in write(maps, grid, out, prefix)]


def _write(maps: xr.Dataset, grid: Grid, out: Path, prefix: str) -> list[Path]:
    wanted = [*_FILES, *(n for n in ("voxel_status", "dof") if n in maps)]
    computed = maps[wanted].compute()
    dof = computed.get("dof")
    if dof is not None and dof.notnull().any():
        # What voxels have where every run counts; attributes of concatenated runs know one only.
        maps = maps.assign_attrs(dof=float(dof.max()))
    _report_lost_voxels(computed, prefix)
    written = []
    for name, (stat, fill) in _FILES.items():
        stat = stat.format(stat_type=maps.attrs["stat_type"])
        path = out / f"{prefix}_stat-{stat}_statmap.nii.gz"
        data = np.nan_to_num(_space_first(computed[name]), nan=fill, posinf=np.inf, neginf=-np.inf)
        write_image(path, data, grid.matrix(), header=grid.nifti_header(), dtype=np.float64)
        _write_sidecar(path, maps, stat)
        written.append(path)
    return written


def _write_thresholded(maps: xr.Dataset, grid: Grid, out: Path, prefix: str) -> list[Path]:
    computed = maps.compute()
    table = clusters(computed)
    told = computed.assign_attrs({n: computed[n].item() for n in ("threshold", "n_tests")})
    if not np.isfinite(told.attrs["threshold"]):
        told.attrs["threshold"] = "none survives"  # JSON knows no infinity
    written = []
    for name, (ending, stat, dtype) in _THRESHOLDED_FILES.items():
        path = out / f"{prefix}_{ending}.nii.gz"
        data = np.nan_to_num(_space_first(computed[name]))
        write_image(path, data, grid.matrix(), header=grid.nifti_header(), dtype=dtype)
        _write_sidecar(path, told, stat)
        written.append(path)
    path = out / f"{prefix}_clusters.tsv"
    with atomic_writer(path) as file:
        file.write(table.to_csv(sep="\t", index=False).encode())
    _write_sidecar(path, told, "table of clusters")
    return [*written, path]


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
    missing = [name for name in _FILES if name not in maps]
    if missing or "stat_type" not in maps.attrs:
        lacking = ", ".join(missing) or "stat_type"
        msg = f"maps must come from contrast or fixed_effects, but {lacking} is missing"
        raise MapsError(msg)


def _report_lost_voxels(maps: xr.Dataset, prefix: str) -> None:
    if "voxel_status" not in maps:
        return
    counts = np.bincount(maps["voxel_status"].to_numpy().reshape(-1), minlength=EXPLAINED + 1)
    if counts[CONSTANT:].any():
        msg = (
            f"{prefix}: {counts[CONSTANT]} voxels of the mask are constant, {counts[NOT_FINITE]} "
            f"not finite, and of {counts[EXPLAINED]} the design leaves nothing over; they have no "
            "statistic"
        )
        warnings.warn(msg, UserWarning, stacklevel=4)


def _write_sidecar(image: Path, maps: xr.Dataset, stat: str) -> None:
    found = {name: maps.attrs[key] for key, name in _SIDECAR.items() if key in maps.attrs}
    text = json.dumps(
        {
            "Statistic": stat,
            **found,
            "SoftwareName": "chunkglm",
            "SoftwareVersion": version("chunkglm"),
        },
        indent=2,
    )
    with atomic_writer(_sidecar_of(image)) as file:
        file.write((text + "\n").encode())


def _sidecar_of(image: Path) -> Path:
    return image.with_name(image.name.removesuffix(".tsv").removesuffix(".nii.gz") + ".json")


def open_maps(
    folder: str | Path, *, prefix: str, storage_options: Mapping[str, Any] | None = None
) -> xr.Dataset:
    """Open maps that `save` wrote, for `fixed_effects`.

    Parameters
    ----------
    folder : str or Path
        Or a URL that fsspec knows.
    prefix : str
        As given to `save`.
    storage_options : mapping, optional
        Passed to fsspec with a URL.

    Returns
    -------
    xarray.Dataset
        The variables and attributes of `contrast`. Voxels whose variance is 0 are NaN.

    Raises
    ------
    MapsError
        When a file is missing or does not say what it is.
    """
    effect_name, variance_name = (f"{prefix}_stat-{s}_statmap" for s in ("effect", "variance"))
    names = f"{effect_name}.json", f"{effect_name}.nii.gz", f"{variance_name}.nii.gz"
    with ExitStack() as stack:
        here = Path(folder)
        if is_url(folder):
            here = stack.enter_context(
                fetched(names, str(folder), storage_options or {}, MapsError)
            )
        sidecar, effect_file, variance_file = ((here / n, _label(folder, n)) for n in names)
        attrs = _read_sidecar(*sidecar)
        effect, grid = _read_map(*effect_file)
        variance, _ = _read_map(*variance_file)
    q = int(attrs.get("rank", 1)) if attrs["stat_type"] == "F" else 1
    e, v = effect.reshape(-1, q).T.copy(), variance.reshape(-1, q * q).T.reshape(q, q, -1).copy()
    lost = ~(np.einsum("qqv->qv", v) > 0).all(axis=0)
    e[:, lost], v[:, :, lost] = np.nan, np.nan
    stat, p, z = statistics(e, v, float(attrs["dof"]), str(attrs["stat_type"]))
    shape = effect.shape[:3]
    found: dict[str, tuple[tuple[str, ...], AnyArray]]
    if attrs["stat_type"] == "t":
        found = {"effect_size": (SPACE, e[0]), "effect_variance": (SPACE, v[0, 0])}
    else:
        found = {
            "effect_size": (("row", *SPACE), e),
            "effect_variance": (("row", "row_", *SPACE), v),
        }
    found |= {"stat": (SPACE, stat), "p_value": (SPACE, p), "z_score": (SPACE, z)}
    variables = {n: (d, a.reshape(*a.shape[:-1], *shape)) for n, (d, a) in found.items()}
    coords = {d: np.arange(n) for d, n in zip(SPACE, shape, strict=True)}
    return xr.Dataset(variables, coords=coords, attrs={**attrs, **grid.attrs()})


def _label(folder: str | Path, name: str) -> str:
    return f"{str(folder).rstrip('/')}/{name}" if is_url(folder) else str(Path(folder) / name)


def _read_sidecar(path: Path, label: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        attrs = {key: found[name] for key, name in _SIDECAR.items() if name in found}
    except (OSError, ValueError, TypeError) as error:
        msg = f"{label}: the maps' sidecar cannot be read ({error}); save them with chunkglm"
        raise MapsError(msg) from error
    if attrs.get("stat_type") not in ("t", "F") or not isinstance(attrs.get("dof"), (int, float)):
        msg = f"{label}: StatType and DegreesOfFreedom are missing or wrong; save with chunkglm"
        raise MapsError(msg)
    return attrs


def _read_map(path: Path, label: str) -> tuple[AnyArray, Grid]:
    try:
        image = nib.load(path)
        check_gzip(path)
        data = np.asarray(image.dataobj, dtype=np.float64)
    except Exception as error:
        cause = re.sub(r"\s+", " ", str(error)).replace(str(path), label)
        msg = f"{label}: the map cannot be read ({cause})"
        raise MapsError(msg) from error
    header = short_header(image.header.binaryblock)
    affine = tuple(tuple(float(v) for v in row) for row in image.affine)
    return data, Grid(affine, header)
