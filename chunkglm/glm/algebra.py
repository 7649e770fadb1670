"""Models made from fits, without the data."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask.array as da

from chunkglm.design.selection import select_columns
from chunkglm.kernels.algebra import Part, of_part, within
from chunkglm.kernels.factor import DesignFactor, ShiftedBasis, factor_design
from chunkglm.kernels.moments import Moments
from chunkglm.lazy.algebra import moments_of_moments
from chunkglm.schema import MOMENTS

if TYPE_CHECKING:
    from chunkglm.glm.fitted import Fit


def sub_model(fit: "Fit", names: Any, *, drop: bool) -> "Fit":
    """See `Fit.select` and `Fit.drop`."""
    design = select_columns(fit.design, names, drop=drop)
    segments = fit.factor.segments
    factor = factor_design(segments.rows_of(design.values), segments)
    n_lags = fit.dataset.sizes["lag"] - 1
    arrays = moments_within(fit.moments, fit.factor.shifted_basis(n_lags), factor)
    found = {name: (MOMENTS[name].dims, a, MOMENTS[name].attrs()) for name, a in arrays.items()}
    dataset = fit.dataset.drop_vars(list(MOMENTS)).assign(found)
    return replace(fit, dataset=dataset, design=design, factor=factor)


def moments_within(
    moments: Mapping[str, da.Array], basis: ShiftedBasis, factor: DesignFactor
) -> dict[str, da.Array]:
    """Moments of a design within the span of a basis, from those of the basis.

    Parameters
    ----------
    moments : mapping of dask arrays
        One for each field of `Moments`.
    basis : ShiftedBasis
    factor : DesignFactor

    Returns
    -------
    dict of dask arrays
    """
    part = Part(basis.sums, within(factor.basis, basis.rows[0].T))
    inner = factor.shifted_basis(basis.n_lags)
    return moments_of_moments([moments], _of_part, (part,), inner)


def _of_part(moments: Sequence[Moments], part: Part) -> Moments:
    return of_part(moments[0], part)
