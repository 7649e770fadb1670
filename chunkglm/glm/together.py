"""Maps that are to be combined: as a list, each usable, all alike."""

import json
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from chunkglm.errors import MapsError
from chunkglm.glm.masks import SAME_GRID
from chunkglm.glm.records import RECORDS, RUN, contributing, records_of, repeated, run_name
from chunkglm.glm.space import Grid, grid_of
from chunkglm.schema import CONTRAST, SPACE


def as_list(maps: Any) -> list[Any]:
    """Return maps, or fits, one by one."""
    if isinstance(maps, xr.Dataset):
        every = _split(maps) if RUN in maps.dims else [maps]
        return [of_one_contrast(one) for one in every]
    if not isinstance(maps, Sequence) or isinstance(maps, (str, bytes)):
        msg = f"fixed effects need a list of maps from contrast, but got {type(maps).__name__}"
        raise MapsError(msg)
    if not maps:
        msg = "fixed effects need the maps of at least one run, but the list is empty"
        raise MapsError(msg)
    return [of_one_contrast(one) if isinstance(one, xr.Dataset) else one for one in maps]


def _split(maps: xr.Dataset) -> list[xr.Dataset]:
    """Return the maps of each run; ``attrs["dof"]`` is one for all, or one each."""
    n_runs, dofs = maps.sizes[RUN], maps.attrs.get("dof")
    each = list(dofs) if isinstance(dofs, (list, tuple, np.ndarray)) else [dofs] * n_runs
    if len(each) != n_runs:
        msg = f"maps of {n_runs} runs have {len(each)} degrees of freedom; give one for each"
        raise MapsError(msg)
    # Attributes are those of the first run: they name none of the others.
    names = maps[RUN].to_numpy() if RUN in maps.coords else np.arange(n_runs)
    found = []
    for i, (name, dof) in enumerate(zip(names, each, strict=True)):
        one = maps.isel({RUN: i}, drop=True).assign_attrs(dof=dof, run=f"{RUN} {name}")
        one.attrs.pop(RECORDS, None)
        found.append(one)
    return found


def check_each(runs: Sequence[Any]) -> None:
    """Refuse what are no maps of a contrast, naming which."""
    for i, one in enumerate(runs):
        if not isinstance(one, xr.Dataset):
            msg = f"maps {i} must be a Dataset from contrast, but is {type(one).__name__}"
            raise MapsError(msg)
        missing = [n for n in ("effect_size", "effect_variance") if n not in one]
        missing += [f"attrs[{n!r}]" for n in ("stat_type", "dof") if n not in one.attrs]
        if missing:
            msg = f"{_label(i, one)}: {', '.join(missing)} missing; take them from contrast"
            raise MapsError(msg)
        if one.attrs["stat_type"] not in ("t", "F") or not set(SPACE) <= set(one.dims):
            msg = (
                f"{_label(i, one)}: must be t or F maps over {SPACE}, but are "
                f"{one.attrs['stat_type']!r} maps over {tuple(one.dims)}"
            )
            raise MapsError(msg)
        dof = one.attrs["dof"]
        if not (isinstance(dof, (int, float, np.number)) and np.isfinite(dof) and dof > 0):
            msg = f"{_label(i, one)}: dof must be a positive number, but is {dof!r}"
            raise MapsError(msg)


def _label(i: int, maps: xr.Dataset) -> str:
    return f"maps {i} ({run_name(maps)})"


def check_together(runs: Sequence[xr.Dataset]) -> Grid:
    """Refuse maps that do not belong together; return the grid of all."""
    first = runs[0]
    grid = grid_of(first, run_name(first))
    for one in runs[1:]:
        for what, a, b in (
            ("kinds of statistic", first.attrs["stat_type"], one.attrs["stat_type"]),
            ("rows of the contrast", first.attrs.get("rank", 1), one.attrs.get("rank", 1)),
            ("contrasts", *_what_is_compared(first, one)),
            ("contrasts", _contrasts(first), _contrasts(one)),
            ("smoothings", first.attrs.get("smoothing_fwhm"), one.attrs.get("smoothing_fwhm")),
            ("scalings", first.attrs.get("scaling"), one.attrs.get("scaling")),
            ("shapes", *(tuple(r.sizes[d] for d in SPACE) for r in (first, one))),
        ):
            if a != b:
                pair = f"{run_name(first)} and {run_name(one)}"
                msg = (
                    f"{pair}: their {what} differ, {a!r} and {b!r}; only like maps can be combined"
                )
                raise MapsError(msg)
        off = np.abs(grid.matrix() - grid_of(one, run_name(one)).matrix()).max()
        if not off <= SAME_GRID:
            pair = f"{run_name(first)} and {run_name(one)}"
            msg = f"{pair}: their affines differ by up to {off:.6g} mm; resample to one grid"
            raise MapsError(msg)
    return grid


def _what_is_compared(first: xr.Dataset, one: xr.Dataset) -> tuple[Any, Any]:
    """Weights by column, for a vector over columns in another order is another contrast."""
    labels = first.attrs.get("contrast"), one.attrs.get("contrast")
    weights = first.attrs.get("contrast_weights"), one.attrs.get("contrast_weights")
    if None in weights:
        return labels
    return labels if weights[0] != weights[1] and labels[0] != labels[1] else weights


def _contrasts(maps: xr.Dataset) -> list[Any]:
    """Names of several contrasts, in their order."""
    if CONTRAST not in maps.dims or CONTRAST not in maps.coords:
        return [None] * maps.sizes.get(CONTRAST, 0)
    return list(maps[CONTRAST].to_numpy().tolist())


def of_one_contrast(maps: xr.Dataset) -> xr.Dataset:
    """Tell maps that were selected from those of several contrasts which one they are of."""
    if CONTRAST not in maps.coords or maps[CONTRAST].ndim:
        return maps
    name, attrs = str(maps[CONTRAST].item()), dict(maps.attrs)
    try:
        attrs["contrast"] = json.loads(attrs["contrast"])[name]
        attrs["contrast_weights"] = json.dumps(json.loads(attrs["contrast_weights"])[name])
    except (KeyError, ValueError, TypeError):
        return maps
    return maps.drop_vars(CONTRAST).drop_attrs(deep=False).assign_attrs(attrs)


def check_weighting(runs: Sequence[xr.Dataset], precision_weighted: bool) -> None:
    """Parts that hold several runs merge exactly only by the weights they were made with."""
    for one in runs:
        made = bool(one.attrs.get("precision_weighted", precision_weighted))
        alone = RECORDS in one.attrs and len(contributing(records_of(one))) == 1
        if made != bool(precision_weighted) and not alone:
            msg = (
                f"{run_name(one)}: combined before with precision_weighted={made}, and now with "
                f"{bool(precision_weighted)}; combine their runs anew, or in the same way"
            )
            raise MapsError(msg)


def warn_of_repeats(names: Sequence[str]) -> None:
    """Tell of runs that are there more than once."""
    found = sorted(set(repeated(names)))
    if found:
        msg = f"{', '.join(found)}: given more than once; each counts as a run of its own"
        warnings.warn(msg, UserWarning, stacklevel=3)
