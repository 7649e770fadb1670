"""Models made from fits, without the data."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from chunkglm.design.selection import select_columns
from chunkglm.kernels.algebra import within
from chunkglm.kernels.factor import factor_design
from chunkglm.lazy.algebra import recombined

if TYPE_CHECKING:
    from chunkglm.glm.fitted import Fit


def sub_model(fit: "Fit", names: Any, *, drop: bool) -> "Fit":
    """See `Fit.select` and `Fit.drop`."""
    design = select_columns(fit.design, names, drop=drop)
    segments = fit.factor.segments
    factor = factor_design(segments.rows_of(design.values), segments)
    products = recombined(fit.moments["products"], within(factor, fit.factor))
    dataset = fit.dataset.drop_vars("products")
    variable = fit.dataset["products"]
    dataset = dataset.assign(products=(variable.dims, products, variable.attrs))
    return replace(fit, dataset=dataset[list(fit.dataset)], design=design, factor=factor)
