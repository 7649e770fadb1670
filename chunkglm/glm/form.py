"""What a store holds of a fit, and the fit made of it again."""

import secrets
from dataclasses import asdict, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkglm.design import Design
from chunkglm.glm.labelled import moments_dataset
from chunkglm.glm.space import grid_of_attrs
from chunkglm.glm.stored import Stored
from chunkglm.kernels.factor import DesignFactor
from chunkglm.kernels.noise import AR
from chunkglm.kernels.segments import Segments, whole_run
from chunkglm.lazy.moments import make_slabs, moments_fields
from chunkglm.lazy.packed import packed, unpacked
from chunkglm.schema import TIME

if TYPE_CHECKING:
    from chunkglm.glm.fitted import Fit

FIT = "fit"
_FACTOR = tuple(f.name for f in fields(DesignFactor) if f.name != "segments")


def stored_form(fitted: "Fit") -> Stored:
    """Return what a store holds of a fit: moments, design, and its factor as it was.

    The factor is kept, not made again: another BLAS may choose another basis of the same space,
    and the moments are those of this one.
    """
    factor, segments = fitted.factor, fitted.factor.segments
    model = {name: np.asarray(getattr(factor, name)) for name in _FACTOR}
    model |= {"kept": segments.kept, "edges": segments.edges, "design": fitted.design.values}
    attrs: dict[str, Any] = {}
    if TIME in fitted.dataset.coords:
        model[TIME] = fitted.dataset.coords[TIME].to_numpy()
        attrs["time"] = fitted.dataset.coords[TIME].attrs
    edges = [p.start for p in fitted.slabs.planes] + [fitted.slabs.mask.shape[2]]
    attrs |= {
        "holds": FIT,
        "moments": dict(fitted.dataset.attrs),
        "regressors": list(fitted.design.names),
        "design_source": fitted.design.source,
        "noise": asdict(fitted.noise),
        "n_lags": fitted.dataset.sizes["lag"] - 1,
        "n_volumes": segments.n_volumes,
        "scaling": fitted.scaling,
        "slab_edges": edges,
        "written": secrets.token_hex(16),
        **fitted.grid.attrs(),
    }
    return Stored(packed(fitted.moments, fitted.slabs), fitted.slabs.mask, model, attrs)


def parts_of_stored(stored: Stored, label: str) -> dict[str, Any]:
    """Return what the `Fit` that `stored_form` described is made of; its moments stay lazy."""
    attrs, model = stored.attrs, stored.model
    slabs = make_slabs(stored.mask, [range(a, b) for a, b in pairwise(attrs["slab_edges"])])
    kept, edges = (model[name].astype(np.intp) for name in ("kept", "edges"))
    whole = len(kept) == attrs["n_volumes"] and len(edges) == 2
    segments = whole_run(len(kept)) if whole else Segments(int(attrs["n_volumes"]), kept, edges)
    found: dict[str, Any] = {name: model[name] for name in _FACTOR}
    found |= {
        "pivots": model["pivots"].astype(np.intp),
        "rank": int(model["rank"]),
        "constant_in_span": bool(model["constant_in_span"]),
    }
    factor = DesignFactor(**found, segments=segments)
    fields_ = moments_fields(factor.shifted_basis(int(attrs["n_lags"])))
    moments = moments_dataset(unpacked(stored.moments, slabs, fields_), slabs, attrs["moments"])
    if TIME in model:
        moments = moments.assign_coords({TIME: (TIME, model[TIME], attrs["time"])})
    return {
        "dataset": moments,
        "design": Design(model["design"], tuple(attrs["regressors"]), attrs["design_source"]),
        "noise": AR(**attrs["noise"]),
        "scaling": attrs["scaling"],
        "grid": grid_of_attrs(attrs, label),
        "slabs": slabs,
        "factor": factor,
    }
