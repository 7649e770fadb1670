"""Fixed effects: maps of independent runs combined."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from chunkglm._types import AnyArray
from chunkglm.errors import MapsError
from chunkglm.glm.fitted import label_maps
from chunkglm.glm.masks import SAME_GRID
from chunkglm.glm.space import Grid, grid_of
from chunkglm.kernels.estimate import statistics
from chunkglm.kernels.pooling import pool
from chunkglm.lazy.graph import Field
from chunkglm.lazy.maps import maps_of_maps
from chunkglm.schema import F_MAPS, POOLED, SPACE, T_MAPS

RUN = "run"


def fixed_effects(
    maps: Sequence[xr.Dataset] | xr.Dataset, *, precision_weighted: bool = False
) -> xr.Dataset:
    """Combine maps of one contrast over independent runs; lazy.

    Parameters
    ----------
    maps : sequence of Datasets, or a Dataset with a ``run`` dimension
        From `contrast`, or from `fixed_effects` itself: parts that are already combined merge with
        single runs and with each other as if all runs had been given at once.
    precision_weighted : bool
        Weigh runs by the inverse of their variance (covariance, for F) instead of equally.

    Returns
    -------
    xarray.Dataset
        The variables of `contrast`, with ``n_runs`` and ``dof`` over (x, y, z). A run whose
        variance is not positive and finite at a voxel does not count there; voxels without any
        run are NaN.

    Raises
    ------
    MapsError
        When the maps do not belong together: grids, contrasts (by column, not by how they were
        written), smoothing or kinds of statistic differ, or parts were weighted in another way.

    Warns
    -----
    UserWarning
        When a run is given more than once.

    Notes
    -----
    Equal weights: effect ``sum e_i / n``, variance ``sum v_i / n**2``. Precision weights:
    variance ``1 / sum(1 / v_i)``, effect ``variance * sum(e_i / v_i)``. Degrees of freedom are
    those of the runs that count, added.
    """
    runs = _as_list(maps)
    first = runs[0]
    stat_type, q = str(first.attrs["stat_type"]), int(first.attrs.get("rank", 1))
    grid = _check_together(runs)
    _check_weighting(runs, precision_weighted)
    names = [name for one in runs for name in one.attrs.get("runs", [_run_name(one)])]
    _warn_of_repeats(names)
    inputs: list[da.Array] = []
    for one in runs:
        inputs += [_array(one, name) for name in ("effect_size", "effect_variance")]
        # Pooled maps that were saved and opened again know their runs by name only.
        n_runs = len(one.attrs.get("runs", [RUN]))
        inputs += [
            _map_or_value(one, "dof", one.attrs["dof"]),
            _map_or_value(one, "n_runs", n_runs),
        ]
    work = _PoolBlocks(stat_type, precision_weighted)
    specs = {**(T_MAPS if stat_type == "t" else F_MAPS), **POOLED}
    leading = {} if stat_type == "t" else {"effect_size": (q,), "effect_variance": (q, q)}
    fields = {n: Field(leading.get(n, ()), spec.dtype) for n, spec in specs.items()}
    pooled = label_maps(maps_of_maps(inputs, work, fields), specs, grid)
    for name in ("effect_size", "effect_variance", "stat"):
        pooled[name].attrs = dict(first[name].attrs)
    kept = {k: v for k, v in first.attrs.items() if k not in ("run", "runs", "design", "dof")}
    return pooled.assign_attrs(
        {
            **kept,
            "dof": float(sum(float(one.attrs["dof"]) for one in runs)),
            "runs": names,
            "precision_weighted": bool(precision_weighted),
        }
    )


def _run_name(maps: xr.Dataset) -> str:
    return str(maps.attrs.get("run", "run"))


def _as_list(maps: Any) -> list[xr.Dataset]:
    if isinstance(maps, xr.Dataset):
        if RUN not in maps.dims:
            return _check_each([maps])
        return _check_each(_split(maps))
    if not isinstance(maps, Sequence):
        msg = f"fixed effects need a list of maps from contrast, but got {type(maps).__name__}"
        raise MapsError(msg)
    return _check_each(list(maps))


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
        if "n_runs" in maps:
            one.attrs.pop("runs", None)
        found.append(one)
    return found


def _check_each(runs: list[Any]) -> list[xr.Dataset]:
    if not runs:
        msg = "fixed effects need the maps of at least one run, but the list is empty"
        raise MapsError(msg)
    for i, one in enumerate(runs):
        if not isinstance(one, xr.Dataset):
            msg = f"maps {i} must be a Dataset from contrast, but is {type(one).__name__}"
            raise MapsError(msg)
        missing = [n for n in ("effect_size", "effect_variance") if n not in one]
        missing += [f"attrs[{n!r}]" for n in ("stat_type", "dof") if n not in one.attrs]
        if missing:
            lacking = ", ".join(missing)
            msg = f"maps {i} ({_run_name(one)}): {lacking} missing; take them from contrast"
            raise MapsError(msg)
        if one.attrs["stat_type"] not in ("t", "F") or not set(SPACE) <= set(one.dims):
            msg = (
                f"maps {i} ({_run_name(one)}): must be t or F maps over {SPACE}, but are "
                f"{one.attrs['stat_type']!r} maps over {tuple(one.dims)}"
            )
            raise MapsError(msg)
        dof = one.attrs["dof"]
        if not (isinstance(dof, (int, float, np.number)) and np.isfinite(dof) and dof > 0):
            msg = f"maps {i} ({_run_name(one)}): dof must be a positive number, but is {dof!r}"
            raise MapsError(msg)
    return runs


def _check_together(runs: list[xr.Dataset]) -> Grid:
    first = runs[0]
    grid = grid_of(first, _run_name(first))
    for one in runs[1:]:
        pair = f"{_run_name(first)} and {_run_name(one)}"
        for what, a, b in (
            ("kinds of statistic", first.attrs["stat_type"], one.attrs["stat_type"]),
            ("rows of the contrast", first.attrs.get("rank", 1), one.attrs.get("rank", 1)),
            ("contrasts", *_what_is_compared(first, one)),
            ("smoothings", first.attrs.get("smoothing_fwhm"), one.attrs.get("smoothing_fwhm")),
            ("scalings", first.attrs.get("scaling"), one.attrs.get("scaling")),
            ("shapes", *(tuple(r.sizes[d] for d in SPACE) for r in (first, one))),
        ):
            if a != b:
                msg = (
                    f"{pair}: their {what} differ, {a!r} and {b!r}; only like maps can be combined"
                )
                raise MapsError(msg)
        off = np.abs(grid.matrix() - grid_of(one, _run_name(one)).matrix()).max()
        if not off <= SAME_GRID:
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


def _check_weighting(runs: list[xr.Dataset], precision_weighted: bool) -> None:
    """Parts that hold several runs merge exactly only by the weights they were made with."""
    for one in runs:
        made = one.attrs.get("precision_weighted", precision_weighted)
        if len(one.attrs.get("runs", [])) > 1 and bool(made) != bool(precision_weighted):
            msg = (
                f"{', '.join(one.attrs['runs'])}: combined before with precision_weighted={made}, "
                f"and now with {precision_weighted}; combine their runs anew, or in the same way"
            )
            raise MapsError(msg)


def _warn_of_repeats(names: list[str]) -> None:
    repeated = sorted({name for name in names if name != RUN and names.count(name) > 1})
    if repeated:
        msg = f"{', '.join(repeated)}: given more than once; each counts as a run of its own"
        warnings.warn(msg, UserWarning, stacklevel=3)


def _array(maps: xr.Dataset, name: str) -> da.Array:
    found = maps[name]
    leading = [d for d in found.dims if d not in SPACE]
    data = found.transpose(*leading, *SPACE).data
    return data if isinstance(data, da.Array) else da.from_array(data, chunks=-1)


def _map_or_value(maps: xr.Dataset, name: str, value: Any) -> da.Array:
    """Return a map, or the one value that holds everywhere, in the chunks of the effects."""
    if name in maps:
        return _array(maps, name)
    effect = _array(maps, "effect_size")
    return da.full(effect.shape[-3:], float(value), chunks=effect.chunks[-3:])


@dataclass(frozen=True, slots=True)
class _PoolBlocks:
    """Pools one slab: effect, variance, dof and n_runs of each run, in turn."""

    stat_type: str
    precision_weighted: bool

    def __call__(self, *blocks: AnyArray) -> dict[str, AnyArray]:
        shape = blocks[0].shape[-3:]
        q = 1 if self.stat_type == "t" else blocks[0].shape[0]
        effects = np.stack([b.reshape(q, -1) for b in blocks[0::4]])
        covariances = np.stack([b.reshape(q, q, -1) for b in blocks[1::4]])
        dofs = np.stack([b.reshape(-1) for b in blocks[2::4]])
        n_runs = np.stack([b.reshape(-1) for b in blocks[3::4]])
        pooled = pool(
            effects, covariances, dofs, n_runs, precision_weighted=self.precision_weighted
        )
        stat, p, z = statistics(pooled.effect, pooled.covariance, pooled.dof, self.stat_type)
        one = self.stat_type == "t"
        found = {
            "effect_size": pooled.effect[0] if one else pooled.effect,
            "effect_variance": pooled.covariance[0, 0] if one else pooled.covariance,
            "stat": stat,
            "p_value": p,
            "z_score": z,
            "n_runs": pooled.n_runs,
            "dof": pooled.dof,
        }
        return {name: values.reshape(*values.shape[:-1], *shape) for name, values in found.items()}
