"""Fit, contrast, fixed effects: labelled and lazy, in and out."""

from chunkglm.glm.combination import combine
from chunkglm.glm.contrasts import contrast
from chunkglm.glm.fitted import Fit, open_fit
from chunkglm.glm.fixed import drop_runs, fixed_effects, leave_one_run_out
from chunkglm.glm.joint import concatenate, load_together
from chunkglm.glm.maps import save
from chunkglm.glm.model import fit
from chunkglm.glm.opened import open_maps
from chunkglm.glm.planning import plan
from chunkglm.glm.plans import Plan
from chunkglm.glm.records import contributions
from chunkglm.glm.runs import convert, export_nifti, open_run, verify

__all__ = [
    "Fit",
    "Plan",
    "combine",
    "concatenate",
    "contrast",
    "contributions",
    "convert",
    "drop_runs",
    "export_nifti",
    "fit",
    "fixed_effects",
    "leave_one_run_out",
    "load_together",
    "open_fit",
    "open_maps",
    "open_run",
    "plan",
    "save",
    "verify",
]
