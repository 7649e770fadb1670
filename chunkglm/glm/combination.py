"""Contrast algebra: sums and differences of maps of independent runs."""

import json
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import xarray as xr

from chunkglm.errors import MapsError
from chunkglm.glm.combined import combined
from chunkglm.glm.records import RECORDS, RUN, contributing, records_of, run_name, write_records
from chunkglm.glm.together import as_list, check_each, check_together, warn_of_repeats
from chunkglm.kernels.combination import linear_combination
from chunkglm.kernels.pooling import Estimate
from chunkglm.schema import CONTRAST


def combine(
    maps: Sequence[xr.Dataset] | xr.Dataset,
    weights: Sequence[float] | None = None,
    *,
    dof: Literal["sum", "satterthwaite"] = "sum",
) -> xr.Dataset:
    """Add, subtract and scale effects of independent runs; lazy.

    ``combine([a, b])`` is a + b, ``combine([a, b], [1, -1])`` is a - b (a session less another),
    ``combine([a], [2])`` twice a. Arithmetic on the Datasets themselves would add p values and
    variances as it adds effects.

    Parameters
    ----------
    maps : sequence of Datasets, or a Dataset with a ``run`` dimension
        From `contrast` or `fixed_effects`, or from this function; of runs that share no data:
        within one run, take the contrast of the difference. Contrasts may differ.
    weights : sequence of float, optional
        One for each, 1 by default.
    dof : {"sum", "satterthwaite"}
        Degrees of freedom of the result: those of all added, as fixed effects have them, which
        supposes that the runs' noise is alike; or Satterthwaite's, voxel by voxel and for t only,
        which does not.

    Returns
    -------
    xarray.Dataset
        The variables of `fixed_effects`: effect ``sum w_i e_i``, variance ``sum w_i**2 v_i``, and
        from these statistic, p and z. Voxels that any of the maps lacks are NaN.

    Raises
    ------
    MapsError
        When the maps do not belong together (grids, smoothing, scaling, kinds of statistic, rows,
        names of several contrasts), or weights are missing, 0 or not finite.

    Warns
    -----
    UserWarning
        When a run is there more than once: its noise would be taken for independent.
    """
    runs = as_list(maps)
    check_each(runs)
    numbers_ = _check_weights(weights, len(runs))
    if dof not in ("sum", "satterthwaite"):
        msg = f'dof must be "sum" or "satterthwaite", but got {dof!r}'
        raise MapsError(msg)
    if dof == "satterthwaite" and runs[0].attrs["stat_type"] != "t":
        msg = f"{run_name(runs[0])}: Satterthwaite's degrees of freedom are for t, but these are F"
        raise MapsError(msg)
    # Other contrasts of other runs add up as well.
    grid = check_together([one.assign_attrs(contrast="", contrast_weights="") for one in runs])
    records = [record for one in runs for record in records_of(one)]
    warn_of_repeats(contributing(records))
    kernel = _Weighted(numbers_, dof == "satterthwaite")
    (found,) = combined(kernel, runs, grid, precision_weighted=False)
    kept = {
        key: value
        for key, value in runs[0].attrs.items()
        if key not in (RUN, "design", "left_out", "affine", "nifti_header", "precision_weighted")
    }
    return found.assign_attrs(
        {
            **kept,
            "contrast": _told(runs, numbers_, "contrast"),
            "contrast_weights": _told(runs, numbers_, "contrast_weights"),
            "dof": float(sum(float(one.attrs["dof"]) for one in runs)),
            RECORDS: write_records(records),
        }
    )


@dataclass(frozen=True, slots=True)
class _Weighted:
    """`linear_combination` as `combined` calls it."""

    weights: tuple[float, ...]
    satterthwaite: bool

    def __call__(
        self, estimates: Sequence[Estimate], *, precision_weighted: bool
    ) -> list[Estimate]:
        return [linear_combination(estimates, self.weights, satterthwaite=self.satterthwaite)]


def _check_weights(weights: Any, n: int) -> tuple[float, ...]:
    if weights is None:
        return (1.0,) * n
    listed = list(weights) if isinstance(weights, Sequence) or hasattr(weights, "tolist") else []
    if isinstance(weights, str) or len(listed) != n:
        msg = f"{n} maps need {n} weights, one each, but got {weights!r}"
        raise MapsError(msg)
    for weight in listed:
        real = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
        if not real or not math.isfinite(weight) or weight == 0:
            msg = f"weights must be finite numbers other than 0, but got {weight!r}"
            raise MapsError(msg)
    return tuple(float(weight) for weight in listed)


def _told(runs: Sequence[xr.Dataset], weights: Sequence[float], key: str) -> str:
    """What a combination is of; of several contrasts, one by one, as JSON."""
    found = [one.attrs.get(key, "") for one in runs]
    if CONTRAST not in runs[0].dims:
        return _sum_of(found, weights, key)
    every = [json.loads(text) for text in found]
    told = {name: _sum_of([one[name] for one in every], weights, key) for name in every[0]}
    if key == "contrast_weights":
        told = {name: json.loads(text) for name, text in told.items()}
    return json.dumps(told, ensure_ascii=False)


def _sum_of(parts: Sequence[Any], weights: Sequence[float], key: str) -> str:
    if key == "contrast":
        return " + ".join(f"{w:g}*({part})" for w, part in zip(weights, parts, strict=True))
    read = [json.loads(part) if isinstance(part, str) and part else part for part in parts]
    return json.dumps([{"weight": w, "of": part} for w, part in zip(weights, read, strict=True)])
