"""Contrasts of a fitted run."""

from typing import Any, Literal

import xarray as xr

from chunkglm._types import FloatArray
from chunkglm.design import parse_contrast, told_relations
from chunkglm.errors import ContrastError
from chunkglm.glm.fitted import FILLS, Fit, label_maps
from chunkglm.kernels.estimate import contrast_maps
from chunkglm.lazy.graph import Field
from chunkglm.lazy.maps import maps_of_moments
from chunkglm.schema import DOF, F_MAPS, T_MAPS, VOXEL_STATUS


def contrast(
    fit: Fit, definition: Any, *, stat_type: Literal["t", "F"] | None = None
) -> xr.Dataset:
    """Take a contrast of a fitted run; lazy.

    Parameters
    ----------
    fit : Fit
    definition : str, vector, matrix, list of str, or dict
        An expression of column names such as ``"face - house"`` (numbers, ``+ - * /`` and
        parentheses; names are matched exactly and text is never evaluated), weights in the order of
        the design's columns, ``{column: weight}``, or several rows for an F contrast.
    stat_type : {"t", "F"}, optional
        By default t for one row, F for several.

    Returns
    -------
    xarray.Dataset
        ``effect_size``, ``effect_variance``, ``stat``, ``p_value``, ``z_score``, ``dof`` over
        (x, y, z) and ``voxel_status``; effects of an F contrast have a ``row`` dimension and
        their covariance two. Voxels outside the mask, constant or not finite are NaN. Attributes
        ``stat_type``, ``dof``, ``contrast``, ``affine``.

    Raises
    ------
    ContrastError
        When the definition cannot be read, or the design does not determine the contrast.
    """
    _check_fit(fit)
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
    q = weights.shape[0]
    specs = {
        **(T_MAPS if parsed.stat_type == "t" else F_MAPS),
        DOF.name: DOF,
        VOXEL_STATUS.name: VOXEL_STATUS,
    }
    leading = {} if parsed.stat_type == "t" else {"effect_size": (q,), "effect_variance": (q, q)}
    fields = {n: Field(leading.get(n, ()), spec.dtype) for n, spec in specs.items()}
    arrays = maps_of_moments(
        fit.moments,
        fit.slabs,
        contrast_maps,
        (fit.model, weights, parsed.stat_type),
        fields,
        FILLS,
    )
    maps = label_maps(arrays, specs, fit.grid)
    signal = "percent of the mean" if fit.scaling == "percent" else "signal"
    maps["effect_size"].attrs["units"] = signal
    maps["effect_variance"].attrs["units"] = f"({signal})^2"
    maps["stat"].attrs["long_name"] = f"{parsed.stat_type} statistic"
    return maps.assign_attrs(
        stat_type=parsed.stat_type,
        dof=float(fit.dof),
        contrast=parsed.label,
        contrast_weights=_named(parsed.weights, fit.design.names),
        rank=q,
        noise=str(fit.noise),
        scaling=fit.scaling,
        smoothing_fwhm=fit.dataset.attrs["smoothing_fwhm"],
        run=fit.dataset.attrs["run"],
        design=fit.design.source,
    )


def _check_fit(fit: Any) -> None:
    if not isinstance(fit, Fit):
        msg = f"a contrast is taken of a Fit from cg.fit, but got {type(fit).__name__}"
        raise ContrastError(msg)


def _named(weights: FloatArray, names: tuple[str, ...]) -> list[dict[str, float]]:
    """Weights by column, row by row: what a contrast is, whatever the order of the columns."""
    return [
        {name: float(w) for name, w in sorted(zip(names, row, strict=True)) if w != 0}
        for row in weights
    ]
