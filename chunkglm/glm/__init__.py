"""Fit, contrast, fixed effects: labelled and lazy, in and out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
    "Fit": "fitted",
    "Plan": "plans",
    "combine": "combination",
    "concatenate": "joint",
    "contrast": "contrasts",
    "contributions": "records",
    "convert": "runs",
    "drop_runs": "fixed",
    "export_nifti": "runs",
    "fit": "model",
    "fixed_effects": "fixed",
    "leave_one_run_out": "fixed",
    "load_together": "joint",
    "open_fit": "fitted",
    "open_maps": "opened",
    "open_run": "runs",
    "plan": "planning",
    "save": "maps",
    "verify": "runs",
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


def __getattr__(name: str) -> Any:
    """Import a name when it is first used."""
    if name not in _HOME:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found
    return found
