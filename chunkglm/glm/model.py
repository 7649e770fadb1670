"""Fit a run: its moments as a Dataset, and the model that reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from chunkglm._types import BoolArray, FloatArray
from chunkglm.design import (
    Design,
    check_repetition_time,
    list_names,
    load_design,
    load_sample_mask,
    told_relations,
)
from chunkglm.errors import DesignError, ImageError, MaskError, warn_user
from chunkglm.glm.algebra import moments_within
from chunkglm.glm.fitted import Fit
from chunkglm.glm.inputs import read_here
from chunkglm.glm.labelled import moments_dataset
from chunkglm.glm.masks import load_mask
from chunkglm.glm.runs import check_run, open_run, untouched_source
from chunkglm.glm.space import Grid, grid_of, short_header
from chunkglm.io.files import is_url
from chunkglm.kernels.factor import (
    DesignFactor,
    ShiftedBasis,
    common_basis,
    factor_design,
    shifted_basis,
)
from chunkglm.kernels.noise import AR, DEFAULT_NOISE, check_order, parse_noise
from chunkglm.kernels.segments import Segments, segments_of_mask
from chunkglm.kernels.smoothing import sigma_in_voxels
from chunkglm.lazy.blas import one_blas_thread
from chunkglm.lazy.moments import Slabs, make_slabs, moments_of_array, moments_of_source
from chunkglm.schema import SPACE, TIME
from chunkglm.sizes import moment_bytes
from chunkglm.sizes import slabs as plan_slabs

# Sound designs stay well below: events with derivatives, cosines, 24 motion parameters, spikes,
# components and uncentred tissue signals have condition numbers up to 6.5e3. At 1e5 two columns
# differ by 1e-5 of their length, and telling them apart takes noise 1e5 times smaller.
ILL_CONDITIONED = 1e5
# Of the constant, at unit length, what lies in the span of regressors that were centred: rounding,
# also of those written to a file with six decimals.
CENTRED = 1e-5


class Options(TypedDict, total=False):
    """What `fit` takes beside the run and its design."""

    mask: Any
    noise: str | AR
    smoothing_fwhm: float | None
    scaling: str | None
    t_r: float | None
    sample_mask: Any
    storage_options: Mapping[str, Any] | None


@overload
def fit(
    run: xr.DataArray | str | Path, design: Mapping[Any, Any], **options: Unpack[Options]
) -> dict[Any, Fit]: ...
@overload
def fit(
    run: xr.DataArray | str | Path,
    design: list[Any] | tuple[Any, ...],
    **options: Unpack[Options],
) -> list[Fit]: ...
@overload
def fit(run: xr.DataArray | str | Path, design: Any, **options: Unpack[Options]) -> Fit: ...
def fit(
    run: xr.DataArray | str | Path,
    design: Any,
    *,
    mask: Any = None,
    noise: str | AR = DEFAULT_NOISE,
    smoothing_fwhm: float | None = None,
    scaling: str | None = "percent",
    t_r: float | None = None,
    sample_mask: Any = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Fit | list[Fit] | dict[Any, Fit]:
    """Fit the general linear model to a run; lazy.

    Parameters
    ----------
    run : DataArray, path or URL
        From `open_run`, or any DataArray with dims (x, y, z, time) and ``attrs["affine"]``.
    design : DataFrame, (T, k) array, path, or events
        Design matrix, one row per volume: a DataFrame, an array, a ``.csv``, ``.tsv``, ``.npy`` or
        ``.npz`` (array ``X``). A table with columns ``onset`` and ``duration`` is taken as events,
        from which nilearn makes the design with its defaults (`design_from_events` for others).
        Files may lie behind a URL that fsspec knows. Several designs in a dict or list are fitted
        in one pass over the run.
    mask : path, URL, image, (x, y, z) array, or None
        On the run's grid, 0 and one other value. None fits every voxel.
    noise : {"ar1", "ar2", ..., "ols"} or AR
        Autoregressive noise with coefficients of each voxel's own, or white noise. By default AR(1)
        with the coefficient corrected for what the design took out of the residuals'
        autocorrelation; ``"ar1"`` is the coefficient as the residuals have it, and
        ``AR(1, bins=100)`` truncates that as nilearn does. ``AR(3, corrected=True)``,
        ``AR(1, corrected=True, smooth_fwhm=15)`` and so on: see `AR`.
    smoothing_fwhm : float, optional
        Gaussian smoothing of the whole volume before the mask, full width at half maximum in mm.
    scaling : {"percent", None}
        Signal as percent of each voxel's mean over time, or as it is.
    t_r : float, optional
        Repetition time in seconds, for a design made from events; the run's by default.
    sample_mask : (T,) bool array, integer array, or path, optional
        Volumes that count: true where one is kept, or the indices of those kept, in memory or in a
        file. What the others hold does not matter; no lag of the noise model crosses a gap
        (save with ``AR(1, across_gaps=True)``), and mean, degrees of freedom and everything else
        are of the kept volumes. The design has a row for every volume, or for every kept one.
    storage_options : mapping, optional
        Passed to fsspec with URLs of run, design, mask and sample mask.

    Returns
    -------
    Fit
        Of several designs a dict or list of them, as they were given. Computed together, as by
        `load_together`, they read the run once.

    Raises
    ------
    DesignError
        When the design or the sample mask does not fit the run, or the noise model is of too high
        an order for it; the message names both.
    MaskError
        When the mask is not on the run's grid.
    ImageError, StoreError
        When the run cannot be opened, or is not (x, y, z, time).

    Warns
    -----
    UserWarning
        When columns of the design depend on others, or all but do, naming them; when no sum of them
        is constant.
    """
    if isinstance(run, (str, Path)):
        run = open_run(run, storage_options=storage_options if is_url(run) else None)
    label = check_run(run)
    percent = _check_scaling(scaling)
    noise = parse_noise(noise)
    known = run.attrs.get("repetition_time")
    t_r = known if t_r is None else check_repetition_time(t_r)
    n_scans = run.sizes[TIME]
    keep = read_here(
        lambda m: load_sample_mask(m, n_scans), sample_mask, storage_options, DesignError
    )
    segments = segments_of_mask(keep, across_gaps=noise.across_gaps)
    designs, factors = {}, {}
    for key, one in _by_key(design).items():
        designs[key] = _load(
            _without_missing(one, keep), key, storage_options, n_scans=n_scans, t_r=t_r,
            volumes=_volumes_left(run, known), n_kept=int(keep.sum()),
        )  # fmt: skip
        factors[key] = _factor(designs[key], segments, noise, percent=percent is not None)
    basis = _basis_of(list(factors.values()), noise.order)
    source = untouched_source(run)
    header = short_header(source.header) if source else None
    grid = Grid(grid_of(run, label).affine, header)
    shape = (run.sizes["x"], run.sizes["y"], run.sizes["z"])
    voxels = read_here(
        lambda m: load_mask(m, shape, grid.matrix(), label), mask, storage_options, MaskError
    )
    fwhm = _check_fwhm(smoothing_fwhm)
    sigma = _sigma(fwhm, grid.matrix())
    _sigma(noise.smooth_fwhm, grid.matrix())  # refused here, not when a map is taken
    slabs = _slabs_of(voxels, basis, source.plane_unit if source else 1)
    arrays = _moments_of(run, slabs, basis, sigma)
    fits = {}
    for key, factor in factors.items():
        found = arrays if len(factors) == 1 else moments_within(arrays, basis, factor)
        dataset = moments_dataset(found, slabs, {"run": label, "smoothing_fwhm": fwhm})
        if TIME in run.coords:
            dataset = dataset.assign_coords({TIME: run.coords[TIME].variable})
        fits[key] = Fit(dataset, designs[key], noise, percent, grid, slabs, factor)
    if isinstance(design, Mapping):
        return fits
    found_fits = list(fits.values())
    return found_fits if isinstance(design, (list, tuple)) else found_fits[0]


def _slabs_of(voxels: BoolArray, basis: ShiftedBasis, unit: int) -> Slabs:
    """Planes worked on together: whole units of the run's planes."""
    per_plane = voxels.sum(axis=(0, 1)).tolist()
    size = moment_bytes(basis.rank, basis.n_lags, basis.segments.n_segments)
    return make_slabs(voxels, plan_slabs(per_plane, size, unit))


def _moments_of(
    run: xr.DataArray,
    slabs: Slabs,
    basis: ShiftedBasis,
    sigma: tuple[float, float, float] | None,
) -> dict[str, da.Array]:
    """One pass over a run on disk, or over whatever array it is."""
    source = untouched_source(run)
    if source is not None:
        return moments_of_source(source, slabs, basis, sigma)
    data = run.transpose(*SPACE, TIME).data
    data = data if isinstance(data, da.Array) else da.from_array(data)
    return moments_of_array(data, slabs, basis, sigma)


def _by_key(design: Any) -> Mapping[Any, Any]:
    """Several designs by name or place; one alone by None."""
    if not isinstance(design, (Mapping, list, tuple)):
        return {None: design}
    if not design:
        msg = f"design holds no designs, but is an empty {type(design).__name__}; give at least one"
        raise DesignError(msg)
    return design if isinstance(design, Mapping) else dict(enumerate(design))


def _load(design: Any, key: Any, options: Mapping[str, Any] | None, **about: Any) -> Design:
    """Read one design; a message tells which of several it is about."""
    try:
        return _design(design, options, **about)
    except DesignError as error:
        if key is None:
            raise
        msg = f"design {key!r}: {error}"
        raise DesignError(msg) from None


def _basis_of(factors: Sequence[DesignFactor], n_lags: int) -> ShiftedBasis:
    """Of one design its own, of several one that they share."""
    if len(factors) == 1:
        return factors[0].shifted_basis(n_lags)
    common = common_basis([factor.basis for factor in factors])
    return shifted_basis(common, n_lags, factors[0].segments)


def _design(design: Any, options: Mapping[str, Any] | None, **about: Any) -> Design:
    loaded = read_here(lambda d: load_design(d, **about), design, options, DesignError)
    if isinstance(design, (str, Path)) and is_url(design):
        return replace(loaded, source=str(design))  # not that of the copy that was read
    return loaded


def _volumes_left(run: xr.DataArray, t_r: float | None) -> FloatArray | None:
    """Which volumes of the scan are left, by their times; None where nothing tells."""
    if t_r is None or TIME not in run.coords:
        return None
    return np.asarray(run.coords[TIME], dtype=np.float64) / t_r


def _check_scaling(scaling: str | None) -> str | None:
    if scaling not in ("percent", None):
        msg = f'scaling must be "percent" or None, but got {scaling!r}'
        raise DesignError(msg)
    return scaling


def _without_missing(design: Any, keep: BoolArray) -> Any:
    """Fill what a design in memory leaves out in rows of dropped volumes, which do not count."""
    if np.shape(design)[:1] != keep.shape or keep.all():
        return design
    if isinstance(design, pd.DataFrame) and "onset" not in design:
        return design.where(design.notna() | keep[:, None], 0.0)
    if isinstance(design, np.ndarray) and design.ndim == 2 and design.dtype.kind == "f":
        return np.where(np.isfinite(design) | keep[:, None], design, 0.0)
    return design


def _factor(design: Design, segments: Segments, noise: AR, *, percent: bool) -> DesignFactor:
    try:
        # Threads only fight over matrices this narrow: 6804 x 20 took 1 s on cores that were busy,
        # and 0.06 s with one thread.
        with one_blas_thread():
            factor = factor_design(segments.rows_of(design.values), segments)
        check_order(noise, segments, factor.dof)
    except DesignError as error:
        msg = f"{design.source}: {error}"
        raise DesignError(msg) from None
    if factor.dependent_columns:
        names = list_names(design.names[j] for j in factor.dependent_columns)
        msg = (
            f"{design.source}: the design has {len(design.names)} columns of rank {factor.rank}: "
            f"{names} depend on the others ({told_relations(factor.relations(), design.names)}); "
            "contrasts that need them apart are refused"
        )
        warn_user(msg)
    if not factor.constant_in_span and not (percent and _is_centred(factor)):
        # Percent signal change is about the mean, but regressors of events are not.
        warn_user(
            f"{design.source}: no column is constant, nor a sum of columns, and none is added, "
            "which biases the effects; add a column of ones"
        )
    condition, columns = factor.condition()
    if condition > ILL_CONDITIONED:
        msg = (
            f"{design.source}: the condition number of the design is {condition:.2g} (columns at "
            f"unit length): {list_names(design.names[j] for j in columns)} are all but linearly "
            "dependent, and contrasts that need them apart have huge variances; leave one out"
        )
        warn_user(msg)
    return factor


def _is_centred(factor: DesignFactor) -> bool:
    """Tell whether every regressor has mean 0, so that a constant would change no effect."""
    return bool(np.linalg.norm(factor.constant) < CENTRED * np.sqrt(len(factor.basis)))


def _check_fwhm(fwhm: Any) -> float | None:
    """Return the kernel's width as a float; None where there is nothing to smooth."""
    if fwhm is None:
        return None
    try:
        value = np.nan if isinstance(fwhm, (str, bytes)) else float(fwhm)
    except (TypeError, ValueError):
        value = np.nan
    if not (np.isfinite(value) and value >= 0):
        msg = f"smoothing_fwhm must be a positive number of mm, or None, but got {fwhm!r}"
        raise DesignError(msg)
    return value or None


def _sigma(fwhm: float | None, affine: FloatArray) -> tuple[float, float, float] | None:
    if fwhm is None:
        return None
    with np.errstate(divide="ignore"):
        sigma = sigma_in_voxels(fwhm, affine)
    if not np.isfinite(sigma).all():
        msg = f"smoothing needs voxel sizes, but the affine's columns have none: {affine.tolist()}"
        raise ImageError(msg)
    return sigma
