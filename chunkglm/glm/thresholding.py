"""Maps of many tests: thresholds, false discovery rates, tables of clusters."""

from numbers import Real
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from chunkglm._types import BoolArray
from chunkglm.errors import MapsError
from chunkglm.glm.labelled import label_maps
from chunkglm.glm.masks import load_mask
from chunkglm.glm.space import Grid, grid_of
from chunkglm.kernels.multiple import Height, HeightControl
from chunkglm.lazy.multiple import cluster_rows, q_map, threshold_map
from chunkglm.schema import Q_VALUE, SPACE, THRESHOLDED

_CONTROLS = ("fpr", "fdr", "bonferroni", None)

# Of the maps; what belongs to one of their variables only would be wrong on what is made of it.
_DROPPED = ("units", "long_name")


def threshold(
    maps: xr.Dataset | xr.DataArray,
    *,
    alpha: float = 0.001,
    height_control: HeightControl = "fpr",
    threshold: float | None = None,
    cluster_threshold: float = 0,
    two_sided: bool | None = None,
    mask: Any = None,
) -> xr.Dataset:
    """Threshold a map for its many tests, by height and by the extent of clusters; lazy.

    Parameters
    ----------
    maps : Dataset or DataArray
        From `contrast` or `fixed_effects`, of which ``z_score`` is taken; or a map of z scores over
        (x, y, z). Every finite voxel is a test.
    alpha : float
        False positive rate, false discovery rate, or chance of any false positive, as
        `height_control` says; of both tails together when `two_sided`.
    height_control : {"fpr", "fdr", "bonferroni", None}
        None takes `threshold` as it is.
    threshold : float, optional
        Height, for ``height_control=None`` only. Below 0 it keeps what is as low or lower, and
        `two_sided` must be False.
    cluster_threshold : float
        Clusters of fewer voxels are dropped.
    two_sided : bool, optional
        By default True for t maps and bare arrays; F statistics have one tail.
    mask : path, image, (x, y, z) array, or None
        Where tests are; needed for arrays that are 0 outside the brain.

    Returns
    -------
    xarray.Dataset
        ``thresholded``: the map where it survives, 0 in the rest of the mask, NaN where nothing
        was tested. ``cluster``: number of the cluster from 1, the upper tail first, each tail by
        falling peak, 0 outside of any. ``threshold``: the height used, infinite when no voxel can
        survive. ``n_tests``: voxels tested.

    Raises
    ------
    MapsError
        When the maps or a parameter cannot be used.
    MaskError
        When the mask is not on the maps' grid.

    Notes
    -----
    Voxels survive that reach the height. Neighbours share a face, and clusters have one sign. The
    same voxels as with nilearn's ``threshold_stats_img`` on the same map and mask, save that voxels
    of the mask without a statistic (constant, not finite) are no tests; nilearn counts them.
    False discovery rates are those of Benjamini and Hochberg (1995), exact, for independent or
    positively dependent tests.
    """
    z, grid, label = _map_of(maps)
    both = _tails(maps, two_sided, label)
    height = _height(alpha, height_control, threshold, both)
    smallest = _number(cluster_threshold, "cluster_threshold")
    if not smallest >= 0:
        msg = f"cluster_threshold must be a number of voxels, 0 or more, but is {smallest:g}"
        raise MapsError(msg)
    arrays = threshold_map(z, _mask(mask, z, grid, label), height, smallest)
    found = label_maps(arrays, THRESHOLDED, grid)
    told = {
        "height_control": height_control or "none",
        "cluster_threshold": smallest,
        "two_sided": both,
    }
    if height_control is not None:
        told["alpha"] = float(alpha)
    return found.assign_attrs({**_kept_attrs(maps), **found.attrs, **told})


def fdr(
    maps: xr.Dataset | xr.DataArray, *, two_sided: bool | None = None, mask: Any = None
) -> xr.DataArray:
    """Return q values: the smallest false discovery rate that lets each voxel through; lazy.

    Parameters
    ----------
    maps, two_sided, mask
        As in `threshold`.

    Returns
    -------
    xarray.DataArray
        ``q_value`` over (x, y, z), NaN where nothing was tested. Voxels with ``q_value`` below
        alpha are those of ``threshold(maps, alpha=alpha, height_control="fdr")``.

    Raises
    ------
    MapsError, MaskError
        As in `threshold`.

    Notes
    -----
    ``min over ranks j >= i of p_(j) n / j`` (Benjamini and Hochberg 1995). One task gathers the p
    values of the whole mask, 8 MB for a million voxels.
    """
    z, grid, label = _map_of(maps)
    both = _tails(maps, two_sided, label)
    q = q_map(z, _mask(mask, z, grid, label), both)
    found = label_maps({Q_VALUE.name: q}, {Q_VALUE.name: Q_VALUE}, grid)
    kept = {**_kept_attrs(maps), **found.attrs, "two_sided": both}
    return found[Q_VALUE.name].assign_attrs(kept)


def clusters(thresholded: xr.Dataset) -> pd.DataFrame:
    """Make a table of the clusters of a thresholded map; computes.

    Parameters
    ----------
    thresholded : Dataset
        From `threshold`.

    Returns
    -------
    pandas.DataFrame
        One row per cluster, with the columns of nilearn's ``get_clusters_table``: ``Cluster ID``,
        as in ``cluster``; ``X``, ``Y``, ``Z`` of the peak in mm (the first in C order, of peaks
        that are equal); ``Peak Stat``; ``Cluster Size (mm3)``; and ``Cluster Size (voxels)``.

    Raises
    ------
    MapsError
        When the Dataset is not from `threshold`.

    Notes
    -----
    For peaks within clusters, give nilearn's ``get_clusters_table`` the saved map.
    """
    missing = [name for name in ("thresholded", "cluster") if name not in thresholded]
    if missing:
        msg = f"a table of clusters needs what threshold returns, but {missing[0]} is missing"
        raise MapsError(msg)
    grid = grid_of(thresholded, "thresholded map")
    rows = cluster_rows(*(_lazy(thresholded[name]) for name in ("thresholded", "cluster")))
    ids, peaks, sizes, voxels = dask.compute(rows)[0]
    axes, origin = grid.matrix()[:3, :3], grid.matrix()[:3, 3]
    x, y, z = (voxels @ axes.T + origin).T
    return pd.DataFrame(
        {
            "Cluster ID": ids,
            "X": x,
            "Y": y,
            "Z": z,
            "Peak Stat": peaks,
            "Cluster Size (mm3)": sizes * abs(np.linalg.det(axes)),
            "Cluster Size (voxels)": sizes,
        }
    )


def _map_of(maps: Any) -> tuple[da.Array, Grid | None, str]:
    if isinstance(maps, xr.Dataset):
        if "z_score" not in maps:
            msg = "maps must come from contrast or fixed_effects, but z_score is missing"
            raise MapsError(msg)
        z, label = maps["z_score"], f"maps of {maps.attrs.get('contrast', 'a contrast')}"
    elif isinstance(maps, xr.DataArray):
        z, label = maps, f"map {maps.name or ''}".strip()
    else:
        msg = f"maps must be a Dataset or DataArray, but got {type(maps).__name__}"
        raise MapsError(msg)
    if set(z.dims) != set(SPACE):
        extra = [str(d) for d in z.dims if d not in SPACE]
        msg = f"{label}: must lie over {SPACE}, but lies over {z.dims}"
        if extra:
            msg += f"; take one, such as maps.isel({extra[0]}=0)"
        raise MapsError(msg)
    if z.dtype.kind not in "iuf":
        msg = f"{label}: must hold numbers, but holds {z.dtype}"
        raise MapsError(msg)
    # A variable taken out of a Dataset does not bring the affine along; only masks and mm need it.
    grid = grid_of(maps, label) if "affine" in maps.attrs else None
    values = _lazy(z)
    return values if z.dtype.kind == "f" else values.astype(np.float64), grid, label


def _lazy(values: xr.DataArray) -> da.Array:
    data = values.transpose(*SPACE).data
    return data if isinstance(data, da.Array) else da.from_array(data, chunks=-1)


def _tails(maps: Any, two_sided: bool | None, label: str) -> bool:
    is_f = maps.attrs.get("stat_type") == "F"
    if two_sided is None:
        return not is_f
    if two_sided and is_f:
        msg = f"{label}: F statistics have one tail; leave out two_sided"
        raise MapsError(msg)
    return bool(two_sided)


def _height(alpha: Any, control: HeightControl, threshold: float | None, two_sided: bool) -> Height:
    if control not in _CONTROLS:
        msg = f"height_control must be one of {_CONTROLS}, but is {control!r}"
        raise MapsError(msg)
    if control is None:
        if threshold is None:
            msg = "height_control=None takes the height from threshold; give one, such as 3.1"
            raise MapsError(msg)
        given = _number(threshold, "threshold")
        if two_sided and given < 0:
            msg = f"threshold must be 0 or more when two_sided, but is {given:g}"
            raise MapsError(msg)
        return Height(None, np.nan, two_sided, given)
    if threshold is not None:
        msg = (
            f"threshold={threshold!r} says nothing beside height_control={control!r}; "
            "give height_control=None, or leave it out"
        )
        raise MapsError(msg)
    per_tail = _number(alpha, "alpha") / (2 if two_sided else 1)
    if not 0 < per_tail <= 0.5:
        most = 1 if two_sided else 0.5
        msg = f"alpha must be above 0 and at most {most}, but is {alpha!r}"
        raise MapsError(msg)
    return Height(control, per_tail, two_sided, np.nan)


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not np.isfinite(float(value)):
        msg = f"{name} must be a finite number, but is {value!r}"
        raise MapsError(msg)
    return float(value)


def _mask(mask: Any, z: da.Array, grid: Grid | None, label: str) -> BoolArray | None:
    if mask is None:
        return None
    if grid is None and not isinstance(mask, np.ndarray):
        msg = f'{label}: has no attrs["affine"] to compare with the mask\'s; give the whole Dataset'
        raise MapsError(msg)
    return load_mask(mask, z.shape, grid.matrix() if grid else np.eye(4), label)


def _kept_attrs(maps: Any) -> dict[str, Any]:
    return {k: v for k, v in maps.attrs.items() if k not in _DROPPED}
