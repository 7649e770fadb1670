"""Fit, contrast, fixed effects: labelled and lazy, in and out."""

from typing import TYPE_CHECKING

from chunkglm._lazily import imported_when_used

if TYPE_CHECKING:
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

# Loaded when first used: what fits and maps do without takes 40 ms to load, with what it imports.
_HOME = {
    "Fit": "chunkglm.glm.fitted",
    "Plan": "chunkglm.glm.plans",
    "combine": "chunkglm.glm.combination",
    "concatenate": "chunkglm.glm.joint",
    "contrast": "chunkglm.glm.contrasts",
    "contributions": "chunkglm.glm.records",
    "convert": "chunkglm.glm.runs",
    "drop_runs": "chunkglm.glm.fixed",
    "export_nifti": "chunkglm.glm.runs",
    "fit": "chunkglm.glm.model",
    "fixed_effects": "chunkglm.glm.fixed",
    "leave_one_run_out": "chunkglm.glm.fixed",
    "load_together": "chunkglm.glm.joint",
    "open_fit": "chunkglm.glm.fitted",
    "open_maps": "chunkglm.glm.opened",
    "open_run": "chunkglm.glm.runs",
    "plan": "chunkglm.glm.planning",
    "save": "chunkglm.glm.maps",
    "verify": "chunkglm.glm.runs",
}

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

__getattr__ = imported_when_used(__name__, _HOME)
