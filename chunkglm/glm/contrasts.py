"""Contrasts of a fitted run, one or several in one pass."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import xarray as xr

from chunkglm._types import FloatArray
from chunkglm.design import (
    ContrastWeights,
    list_names,
    named_contrasts,
    parse_contrast,
    told_relations,
)
from chunkglm.errors import ContrastError
from chunkglm.glm.fitted import Fit
from chunkglm.glm.labelled import FILLS, label_maps
from chunkglm.kernels.estimate import contrast_maps, row_singular_values
from chunkglm.lazy.graph import Field
from chunkglm.lazy.maps import maps_of_moments
from chunkglm.lazy.moments import make_slabs
from chunkglm.schema import CONTRAST, DOF, F_MAPS, T_MAPS, VOXEL_STATUS, VarSpec
from chunkglm.sizes import cut_slabs

# Rows of an F contrast follow from others when, at unit length in the basis of the design, their
# smallest singular value is below this. The basis keeps digits up to the condition of the design.
DEPENDENT_ROWS = 1e-10

# Their covariance cannot be inverted any more, whatever run it is of: its eigenvalues are squares.
ROWS_NOT_COMBINED = 1e-5


def contrast(
    fit: Fit, definition: Any, *, stat_type: Literal["t", "F"] | None = None
) -> xr.Dataset:
    """Take a contrast of a fitted run, or several in one pass; lazy.

    Parameters
    ----------
    fit : Fit
    definition : str, vector, matrix, list of str, or dict
        An expression of column names such as ``"face - house"`` (numbers, ``+ - * /`` and
        parentheses; names are matched exactly and text is never evaluated), weights in the order of
        the design's columns, ``{column: weight}``, or several rows for an F contrast. A dict whose
        values are not all numbers names several contrasts: ``{"faces": "face - house", "all":
        [1, 1, 0]}``; each voxel is solved once for all of them. They are all t, or all F with the
        same number of rows.
    stat_type : {"t", "F"}, optional
        By default t for one row, F for several.

    Returns
    -------
    xarray.Dataset
        ``effect_size``, ``effect_variance``, ``stat``, ``p_value``, ``z_score``, ``dof`` over
        (x, y, z) and ``voxel_status``; effects of an F contrast have a ``row`` dimension and
        their covariance two. Several contrasts have a ``contrast`` dimension, first, with their
        names: ``maps.sel(contrast="faces")`` is one of them. Voxels outside the mask, constant or
        not finite are NaN. Attributes ``stat_type``, ``dof``, ``contrast``, ``affine``.

    Raises
    ------
    ContrastError
        When a definition cannot be read, the design does not determine the contrast, or t and F, or
        F of unlike numbers of rows, are asked for in one pass.

    Warns
    -----
    UserWarning
        When rows of an F contrast are so nearly dependent that fixed effects cannot combine it.
    """
    _check_fit(fit)
    named = named_contrasts(definition)
    if named is None:
        taken = {"": _taken(fit, definition, stat_type)}
    else:
        taken = {name: _named(fit, name, d, stat_type) for name, d in named.items()}
        _check_alike({name: one.parsed for name, one in taken.items()})
    first = next(iter(taken.values())).parsed
    q, joint = len(first.weights), first.stat_type == "F"
    specs = {**(F_MAPS if joint else T_MAPS), DOF.name: DOF, VOXEL_STATUS.name: VOXEL_STATUS}
    rows = {"effect_size": (q,), "effect_variance": (q, q)} if joint else {}
    leading: dict[str, tuple[int, ...]] = {name: rows.get(name, ()) for name in specs}
    weights = next(iter(taken.values())).weights
    if named is not None:
        weights = np.stack([one.weights for one in taken.values()])
        for name, spec in T_MAPS.items():
            specs[name] = _over_contrasts(specs[name])
            leading[spec.name] = (len(taken), *leading[name])
        fit = _finer(fit, len(taken) * (q * q + q + len(T_MAPS)))
    fields = {name: Field(leading[name], spec.dtype) for name, spec in specs.items()}
    arrays = maps_of_moments(
        fit.solved_from,
        fit.slabs,
        contrast_maps,
        (fit.model, weights, first.stat_type),
        fields,
        FILLS,
    )
    maps = label_maps(arrays, specs, fit.grid)
    signal = "percent of the mean" if fit.scaling == "percent" else "signal"
    maps["effect_size"].attrs["units"] = signal
    maps["effect_variance"].attrs["units"] = f"({signal})^2"
    maps["stat"].attrs["long_name"] = f"{first.stat_type} statistic"
    if named is not None:
        maps = maps.assign_coords({CONTRAST: list(taken)})
    return maps.assign_attrs(_attrs(fit, taken, named is not None))


def basis_weights(
    fit: Fit, definition: Any, *, stat_type: Literal["t", "F"] | None = None
) -> FloatArray:
    """Weights of one contrast in the basis of a fit's design, for the kernels.

    Parameters
    ----------
    fit : Fit
    definition, stat_type
        As `contrast` takes them.

    Returns
    -------
    (q, r) array

    Raises
    ------
    ContrastError
        As `contrast` does.
    """
    return _taken(fit, definition, stat_type).weights


@dataclass(frozen=True, slots=True)
class _Taken:
    """A contrast that the design determines."""

    parsed: ContrastWeights
    weights: FloatArray  # (q, r), in the basis


def _taken(fit: Fit, definition: Any, stat_type: Literal["t", "F"] | None) -> _Taken:
    parsed = parse_contrast(
        definition, fit.design.names, stat_type=stat_type, source=fit.design.source
    )
    try:
        weights = fit.factor.contrast_in_basis(parsed.weights)
    except ValueError as error:
        relations = told_relations(fit.factor.relations(parsed.weights), fit.design.names)
        msg = (
            f"contrast {parsed.label!r} is {error} under {fit.design.source}: there {relations}, "
            "and the contrast needs these columns apart"
        )
        raise ContrastError(msg) from None
    _check_rows(weights, parsed.label, fit.design.source)
    return _Taken(parsed, weights)


def _named(fit: Fit, name: str, definition: Any, stat_type: Literal["t", "F"] | None) -> _Taken:
    """Take one of several contrasts; what is wrong with it names it."""
    try:
        return _taken(fit, definition, stat_type)
    except ContrastError as error:
        msg = f"{name!r}: {error}"
        raise ContrastError(msg) from None


def _check_rows(weights: FloatArray, label: str, source: str) -> None:
    """Refuse rows that say the same under a design, whatever they look like."""
    values = row_singular_values(weights)
    rank = int((values > DEPENDENT_ROWS * values[0]).sum())
    if rank < len(weights):
        msg = (
            f"contrast {label!r} has {len(weights)} rows but rank {rank} under {source}: some "
            "follow from the others; leave those out"
        )
        raise ContrastError(msg)
    if values[-1] < ROWS_NOT_COMBINED * values[0]:
        msg = (
            f"contrast {label!r}: rows are all but dependent (smallest singular value "
            f"{values[-1]:.1e}); F is right, but the covariance of the effects cannot be inverted, "
            "so that fixed effects have none: give rows that differ more"
        )
        warnings.warn(msg, UserWarning, stacklevel=5)


def _check_alike(named: Mapping[str, ContrastWeights]) -> None:
    """Refuse t beside F, and F of unlike numbers of rows: their maps have other shapes."""
    kinds: dict[tuple[str, int], list[str]] = {}
    for name, one in named.items():
        kinds.setdefault((one.stat_type, len(one.weights)), []).append(name)
    if len(kinds) > 1:
        told = "; ".join(
            f"{list_names(names)}: {kind} of {q} row{'s' if q > 1 else ''}"
            for (kind, q), names in kinds.items()
        )
        msg = (
            "contrasts of one pass are all t, or all F with the same number of rows, but these are "
            f"{told}; take each kind in a pass of its own"
        )
        raise ContrastError(msg)


def _over_contrasts(spec: VarSpec) -> VarSpec:
    return replace(spec, dims=(CONTRAST, *spec.dims))


def _finer(fit: Fit, n_numbers: int) -> Fit:
    """Cut slabs so that what several contrasts make of them is no larger than moments may be."""
    in_plane = int(np.count_nonzero(fit.slabs.mask, axis=(0, 1)).max(initial=0))
    planes = cut_slabs(list(fit.slabs.planes), 8 * n_numbers * in_plane)
    if len(planes) == len(fit.slabs.planes):
        return fit
    return replace(fit, slabs=make_slabs(fit.slabs.mask, planes))


def _attrs(fit: Fit, taken: Mapping[str, _Taken], several: bool) -> dict[str, Any]:
    """What the maps are, in kinds that netCDF can keep."""
    labels = {name: one.parsed.label for name, one in taken.items()}
    weights = {
        name: _by_column(one.parsed.weights, fit.design.names) for name, one in taken.items()
    }
    first = next(iter(taken.values())).parsed
    return {
        "stat_type": first.stat_type,
        "dof": float(fit.dof),
        "contrast": json.dumps(labels, ensure_ascii=False) if several else labels[""],
        "contrast_weights": json.dumps(weights if several else weights[""]),
        "rank": len(first.weights),
        "noise": str(fit.noise),
        "scaling": fit.scaling or "none",
        "smoothing_fwhm": float(fit.dataset.attrs["smoothing_fwhm"] or 0.0),
        "run": fit.dataset.attrs["run"],
        "design": fit.design.source,
    }


def _by_column(weights: FloatArray, names: tuple[str, ...]) -> list[dict[str, float]]:
    """Weights by column, row by row: what a contrast is, whatever the order of the columns."""
    return [
        {name: float(w) for name, w in sorted(zip(names, row, strict=True)) if w != 0}
        for row in weights
    ]


def _check_fit(fit: Any) -> None:
    if not isinstance(fit, Fit):
        msg = f"a contrast is taken of a Fit from cg.fit, but got {type(fit).__name__}"
        raise ContrastError(msg)
