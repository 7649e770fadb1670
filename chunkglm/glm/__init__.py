"""Fit, contrast, fixed effects: labelled and lazy, in and out."""

from chunkglm.glm.contrasts import contrast
from chunkglm.glm.fitted import Fit, open_fit
from chunkglm.glm.fixed import fixed_effects
from chunkglm.glm.maps import open_maps, save
from chunkglm.glm.model import fit
from chunkglm.glm.planning import plan
from chunkglm.glm.plans import Plan
from chunkglm.glm.runs import convert, export_nifti, open_run, verify

__all__ = [
    "Fit",
    "Plan",
    "contrast",
    "convert",
    "export_nifti",
    "fit",
    "fixed_effects",
    "open_fit",
    "open_maps",
    "open_run",
    "plan",
    "save",
    "verify",
]
