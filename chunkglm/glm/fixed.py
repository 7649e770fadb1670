"""Fixed effects: maps of independent runs combined, added to, and taken apart again."""

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import xarray as xr

from chunkglm.errors import ContrastError, MapsError
from chunkglm.glm.combined import combined
from chunkglm.glm.contrasts import contrast as take_contrast
from chunkglm.glm.fitted import Fit
from chunkglm.glm.records import (
    RECORDS,
    RUN,
    Record,
    contributing,
    make_record,
    records_of,
    run_name,
    same_run,
    write_records,
)
from chunkglm.glm.together import (
    as_list,
    check_each,
    check_together,
    check_weighting,
    warn_of_repeats,
)
from chunkglm.kernels.pooling import Estimate, leave_one_out, pool, take_out


def fixed_effects(
    maps: Sequence[xr.Dataset | Fit] | xr.Dataset,
    *,
    contrast: Any = None,
    missing: Literal["error", "skip"] = "error",
    precision_weighted: bool = False,
) -> xr.Dataset:
    """Combine maps of one contrast over independent runs.

    Parameters
    ----------
    maps : sequence of Datasets or Fits, or a Dataset with a ``run`` dimension
        From `contrast`, or from `fixed_effects` itself: parts that are already combined merge with
        single runs and with each other as if all runs had been given at once. Of a `Fit` the
        `contrast` is taken.
    contrast : optional
        As `contrast` takes it, for fits. Designs may have other columns, or the same in another
        order: an expression or a dict names columns.
    missing : {"error", "skip"}
        What to do with a fit whose design lacks a column that the contrast names, or does not
        determine the contrast: refuse, or leave the run out, with a warning that names it.
    precision_weighted : bool
        Weigh runs by the inverse of their variance (covariance, for F) instead of equally.

    Returns
    -------
    xarray.Dataset
        The variables of `contrast`, with ``n_runs`` and ``dof`` over (x, y, z); lazy, unless all
        maps are in memory, as those of `open_maps` are: they are combined at once. A run whose
        variance is not positive and finite at a voxel does not count there; voxels without any
        run are NaN, and ``voxel_status`` says why where the runs agree (8 where they do not).
        `contributions` tells which runs are behind them.

    Raises
    ------
    MapsError
        When the maps do not belong together: grids, contrasts (by column, not by how they were
        written), smoothing or kinds of statistic differ, or parts were weighted in another way.
    ContrastError
        When the contrast cannot be taken of a fit, of no fit at all, or cannot be read.

    Warns
    -----
    UserWarning
        When a run is given more than once, or left out.

    Notes
    -----
    Equal weights: effect ``sum e_i / n``, variance ``sum v_i / n**2``. Precision weights:
    variance ``1 / sum(1 / v_i)``, effect ``variance * sum(e_i / v_i)``, which is generalised least
    squares of all runs in one model, their variances taken as known. Degrees of freedom are those
    of the runs that count, added.
    """
    runs, left_out = _maps_of(as_list(maps), contrast, missing)
    check_each(runs)
    grid = check_together(runs)
    check_weighting(runs, precision_weighted)
    records = [record for one in runs for record in records_of(one)]
    warn_of_repeats(contributing(records))
    (pooled,) = combined(_all, runs, grid, precision_weighted=precision_weighted)
    return pooled.assign_attrs(_attrs(runs, [*records, *left_out], precision_weighted))


def drop_runs(maps: xr.Dataset, dropped: Sequence[xr.Dataset] | xr.Dataset) -> xr.Dataset:
    """Take runs out of maps that were combined, without looking at the others.

    Parameters
    ----------
    maps : Dataset
        From `fixed_effects`, or opened again.
    dropped : Dataset or sequence of Datasets
        Maps of the runs to drop, as they were given to `fixed_effects`.

    Returns
    -------
    xarray.Dataset
        As `fixed_effects` of the other runs, and lazy where those are. Where less than a millionth
        of the variance (of the precision, where runs weigh by it) would be left, the difference is
        mostly rounding: those voxels are NaN, with 9 in ``voxel_status``, and need the others
        combined anew.

    Raises
    ------
    MapsError
        When a run is not among those combined, or none would be left, or maps do not belong
        together.
    """
    (whole,), parts = as_list([maps]), as_list(dropped)
    runs = [whole, *parts]
    check_each(runs)
    if "n_runs" not in whole:
        msg = f"{run_name(whole)}: runs are dropped from maps that fixed_effects made; it is none"
        raise MapsError(msg)
    grid = check_together(runs)
    precision_weighted = bool(whole.attrs.get("precision_weighted", False))
    check_weighting(runs, precision_weighted)
    records = _without(records_of(whole), [name for p in parts for name in _behind(p)])
    (rest,) = combined(_all_but, runs, grid, precision_weighted=precision_weighted)
    dof = float(whole.attrs["dof"]) - sum(float(part.attrs["dof"]) for part in parts)
    return rest.assign_attrs({**_attrs([whole], records, precision_weighted), "dof": dof})


def leave_one_run_out(
    maps: Sequence[xr.Dataset] | xr.Dataset, *, precision_weighted: bool = False
) -> list[xr.Dataset]:
    """Combine all runs but one, for each of them; lazy.

    Parameters
    ----------
    maps : sequence of Datasets, or a Dataset with a ``run`` dimension
        As for `fixed_effects`; at least two. Parts that are already combined are left out whole.
    precision_weighted : bool
        As for `fixed_effects`.

    Returns
    -------
    list of xarray.Dataset
        In the order of `maps`: `fixed_effects` of the others; ``attrs["left_out"]`` names the run
        that is not in it. Computed together (``dask.compute(*found)``), each map is read once.

    Raises
    ------
    MapsError
        As for `fixed_effects`.

    Examples
    --------
    How much each run matters::

        others = leave_one_run_out(maps)
        spread = xr.concat(others, "left_out")["z_score"].std("left_out")
    """
    runs = as_list(maps)
    check_each(runs)
    if len(runs) < 2:
        msg = f"{run_name(runs[0])}: is the only run, and without it nothing is left to combine"
        raise MapsError(msg)
    grid = check_together(runs)
    check_weighting(runs, precision_weighted)
    warn_of_repeats([name for one in runs for name in _behind(one)])
    found = []
    computed = combined(
        leave_one_out, runs, grid, precision_weighted=precision_weighted, n_out=len(runs)
    )
    for i, rest in enumerate(computed):
        others = [*runs[:i], *runs[i + 1 :]]
        records = [record for one in others for record in records_of(one)]
        attrs = _attrs(others, records, precision_weighted)
        found.append(rest.assign_attrs(attrs, left_out=run_name(runs[i])))
    return found


def _all(estimates: Sequence[Estimate], *, precision_weighted: bool) -> list[Estimate]:
    return [pool(estimates, precision_weighted=precision_weighted)]


def _all_but(estimates: Sequence[Estimate], *, precision_weighted: bool) -> list[Estimate]:
    """Take all others out of the first."""
    return [take_out(estimates[0], estimates[1:], precision_weighted=precision_weighted)]


def _maps_of(
    items: list[Any], definition: Any, missing: str
) -> tuple[list[xr.Dataset], list[Record]]:
    """Maps of each run, and a record of each that was left out."""
    if missing not in ("error", "skip"):
        msg = f'missing must be "error" or "skip", but got {missing!r}'
        raise MapsError(msg)
    fits = [one for one in items if isinstance(one, Fit)]
    if definition is None and fits:
        msg = f'{_label(fits[0])}: is a fit; name the contrast, as in contrast="face - house"'
        raise MapsError(msg)
    if definition is not None and not fits:
        msg = "contrast is for fits, and these are maps, of which one was taken; leave it out"
        raise MapsError(msg)
    found: list[xr.Dataset] = []
    refused: list[tuple[Fit, ContrastError]] = []
    for one in items:
        if not isinstance(one, Fit):
            found.append(one)
            continue
        try:
            found.append(take_contrast(one, definition))
        except ContrastError as error:
            refused.append((one, error))
    # What no design can be asked is wrong in itself, and no reason to leave runs out.
    if refused and (missing == "error" or not found):
        fit, cause = refused[0]
        way_out = '; missing="skip" leaves such runs out' if found else ""
        msg = f"{_label(fit)}: {cause}{way_out}"
        raise ContrastError(msg) from None
    if refused:
        lines = "; ".join(f"{_label(fit)} ({cause})" for fit, cause in refused)
        msg = f"{len(refused)} of {len(items)} runs are left out: {lines}"
        warnings.warn(msg, UserWarning, stacklevel=3)
    return found, [
        make_record(_label(fit), fit.design.source, float(fit.dof), str(cause))
        for fit, cause in refused
    ]


def _label(fit: Fit) -> str:
    return str(fit.dataset.attrs[RUN])


def _behind(maps: xr.Dataset) -> list[str]:
    return contributing(records_of(maps))


def _without(records: list[Record], names: list[str]) -> list[Record]:
    """Records but for the runs named; each must be there."""
    left = list(records)
    for name in names:
        found = [i for i, r in enumerate(left) if r["contributed"] and same_run(r[RUN], name)]
        if not found:
            runs = ", ".join(contributing(left))
            msg = f"{name}: is not among the runs combined, so it cannot be dropped: {runs}"
            raise MapsError(msg)
        del left[found[0]]
    if not contributing(left):
        msg = f"{', '.join(names)}: are all the runs that were combined; nothing would be left"
        raise MapsError(msg)
    return left


def _attrs(
    runs: Sequence[xr.Dataset], records: Sequence[Record], precision_weighted: bool
) -> dict[str, Any]:
    """Attributes of what runs were combined into; all of kinds that netCDF can keep."""
    kept = {
        k: v
        for k, v in runs[0].attrs.items()
        if k not in (RUN, "design", "left_out", "affine", "nifti_header")
    }
    if "noise" in kept:
        kept["noise"] = ", ".join(dict.fromkeys(str(one.attrs.get("noise")) for one in runs))
    return {
        **kept,
        "dof": float(sum(float(one.attrs["dof"]) for one in runs)),
        RECORDS: write_records(records),
        "precision_weighted": int(precision_weighted),
    }
