"""What a page is made of: maps by contrast, those of single runs, fits; checked, still lazy."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from chunkglm._types import FloatArray
from chunkglm.errors import ChunkglmError, MapsError
from chunkglm.glm import Fit, contrast
from chunkglm.glm.masks import SAME_GRID
from chunkglm.glm.records import RUN, Record, records_of, run_name, short_name
from chunkglm.glm.space import Grid, grid_of
from chunkglm.glm.together import as_list, of_one_contrast
from chunkglm.schema import CONTRAST, SPACE


@dataclass(frozen=True, slots=True)
class RunMaps:
    """Maps of one run of one contrast."""

    label: str
    maps: xr.Dataset


@dataclass(frozen=True, slots=True)
class Source:
    """All that a page may show; what is not there is left out of it, and said."""

    title: str
    maps: Mapping[str, xr.Dataset]  # by contrast
    grid: Grid
    runs: Mapping[str, Sequence[RunMaps]] = field(default_factory=dict)  # by contrast
    fits: Mapping[str, Fit] = field(default_factory=dict)  # by run
    designs: Mapping[str, Fit] = field(default_factory=dict)  # by run; of these only the design
    background: Any = None  # (x, y, z) array on the maps' grid
    background_is: str = ""
    missing: tuple[str, ...] = ()  # what is left out, and why

    @property
    def records(self) -> list[Record]:
        """Of the runs behind the maps."""
        return records_of(next(iter(self.maps.values())))


def source_of(
    maps: Any, runs: Any, fits: Any, background: Any, title: str | None, label: str
) -> Source:
    """Check what a report is made of, and bring it into one form.

    Raises
    ------
    MapsError
        Naming what does not belong together.
    """
    named = by_contrast(maps)
    grid = grid_of(next(iter(named.values())), label)
    shape = shape_of(next(iter(named.values())))
    for name, one in named.items():
        _check_grid(grid_of(one, name), shape_of(one), grid, shape, f"contrast {name!r}")
    fitted = _fits_by_run(fits)
    for name, fit in fitted.items():
        _check_grid(fit.grid, tuple(fit.slabs.mask.shape), grid, shape, f"fit of {name}")
    of_runs, missing = _runs_of(named, runs, fitted)
    for each in of_runs.values():
        for run in each:
            _check_grid(grid_of(run.maps, run.label), shape_of(run.maps), grid, shape, run.label)
    image, said = None, ""
    if background is not None:
        image = load_background(background, shape, grid)
        said = "the image that was given"
    return Source(
        title or ", ".join(named), named, grid, of_runs, fitted, fitted,
        image, said, tuple(missing),
    )  # fmt: skip


def by_contrast(maps: Any) -> dict[str, xr.Dataset]:
    """Maps of each contrast by its name."""
    if isinstance(maps, xr.Dataset) and CONTRAST in maps.dims:
        names = [str(name) for name in maps[CONTRAST].to_numpy()]
        maps = {n: maps.isel({CONTRAST: i}) for i, n in enumerate(names)}
    if isinstance(maps, xr.Dataset):
        maps = {str(maps.attrs.get("contrast", "contrast")): maps}
    if not isinstance(maps, Mapping) or not maps:
        msg = (
            "a report is made of maps from contrast or fixed_effects, of a mapping of such by "
            f"name, or of the folder of a study, but got {type(maps).__name__}"
        )
        raise MapsError(msg)
    found = {}
    for name, one in maps.items():
        if not isinstance(one, xr.Dataset) or "z_score" not in one or "stat_type" not in one.attrs:
            msg = f"{name!r}: must be maps from contrast or fixed_effects, with z_score"
            raise MapsError(msg)
        if set(one["z_score"].dims) != set(SPACE):
            msg = f"{name!r}: z_score must lie over {SPACE}, but lies over {one['z_score'].dims}"
            raise MapsError(msg)
        found[str(name)] = of_one_contrast(one)
    return found


def shape_of(maps: xr.Dataset) -> tuple[int, ...]:
    """Voxels along x, y, z."""
    return tuple(maps.sizes[d] for d in SPACE)


def _fits_by_run(fits: Any) -> dict[str, Fit]:
    if isinstance(fits, Fit):
        fits = [fits]
    if isinstance(fits, Mapping):
        named = {str(name): fit for name, fit in fits.items()}
    else:
        named = {}
        for i, fit in enumerate(fits):
            name = short_name(str(fit.dataset.attrs[RUN])) if isinstance(fit, Fit) else str(i)
            named[name if name not in named else f"{name} ({i + 1})"] = fit
    for name, fit in named.items():
        if not isinstance(fit, Fit):
            msg = f"fits: {name!r} must be a Fit from cg.fit, but is {type(fit).__name__}"
            raise MapsError(msg)
    return named


def _runs_of(
    named: Mapping[str, xr.Dataset], runs: Any, fits: Mapping[str, Fit]
) -> tuple[dict[str, list[RunMaps]], list[str]]:
    """Maps of single runs: those given, or those that the fits give."""
    if isinstance(runs, xr.Dataset) or (isinstance(runs, Sequence) and len(runs)):
        if len(named) > 1:
            msg = "runs: with several contrasts, give them by contrast: {name: [maps, ...]}"
            raise MapsError(msg)
        runs = {next(iter(named)): runs}
    if runs:
        if unknown := [name for name in runs if name not in named]:
            msg = f"runs: {unknown[0]!r} is not one of the contrasts {list(named)}"
            raise MapsError(msg)
        return {
            str(name): [RunMaps(short_name(run_name(one)), one) for one in as_list(list(each))]
            for name, each in runs.items()
        }, []
    found: dict[str, list[RunMaps]] = {}
    missing = []
    for name, maps in named.items():
        for label, fit in fits.items():
            try:
                one = contrast(fit, weights_of(maps, fit), stat_type=maps.attrs["stat_type"])
            except ChunkglmError as error:
                missing.append(f"Maps of {label} for {name}: {error}")
                continue
            found.setdefault(name, []).append(RunMaps(label, one))
    return found, missing


def weights_of(maps: xr.Dataset, fit: Fit) -> FloatArray:
    """The weights that maps were made with, (q, k) in the order of a fit's columns.

    Raises
    ------
    MapsError
        When the maps do not say, or a column is not in the design.
    """
    rows = contrast_rows(maps)
    if not rows:
        msg = "the maps do not tell the weights of their contrast"
        raise MapsError(msg)
    names = fit.design.names
    if unknown := [c for row in rows for c in row if c not in names]:
        msg = f"its design has no column {unknown[0]!r}"
        raise MapsError(msg)
    return np.array([[row.get(name, 0.0) for name in names] for row in rows])


def contrast_rows(maps: xr.Dataset) -> list[dict[str, float]]:
    """Weights by column, row by row; empty where maps do not tell."""
    try:
        found = json.loads(maps.attrs["contrast_weights"])
        return [{str(k): float(v) for k, v in row.items()} for row in found]
    except (KeyError, ValueError, TypeError, AttributeError):
        return []


def _check_grid(
    one: Grid, one_shape: tuple[int, ...], grid: Grid, shape: tuple[int, ...], label: str
) -> None:
    off = np.abs(one.matrix() - grid.matrix()).max() if one_shape == shape else np.inf
    if not off <= SAME_GRID:
        msg = (
            f"{label}: is not on the grid of the maps ({one_shape} and {shape} voxels"
            + (f", affines {off:.6g} mm apart)" if np.isfinite(off) else ")")
            + "; a page shows one grid"
        )
        raise MapsError(msg)


def load_background(image: Any, shape: tuple[int, ...], grid: Grid) -> Any:
    """Read the image to draw maps on: an array, an image or a path, on the maps' grid."""
    import nibabel as nib

    label = "background"
    if isinstance(image, (str, bytes)) or hasattr(image, "__fspath__"):
        label = f"background {image}"
        try:
            image = nib.load(image)
        except Exception as error:
            msg = f"{label}: cannot be read ({error})"
            raise MapsError(msg) from error
    if hasattr(image, "dataobj"):
        _check_grid(Grid(tuple(map(tuple, image.affine)), None), image.shape, grid, shape, label)
        return np.asarray(image.dataobj, dtype=np.float32)
    if isinstance(image, xr.DataArray) and set(image.dims) == set(SPACE):
        image = image.transpose(*SPACE)
    if tuple(image.shape) != shape:
        msg = f"{label}: must have shape {shape}, as the maps, but has {tuple(image.shape)}"
        raise MapsError(msg)
    return image
