"""Out-of-core, parallel GLM for task fMRI on dask, xarray and zarr."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from chunkglm._lazily import imported_when_used

if TYPE_CHECKING:
    from chunkglm import plotting
    from chunkglm.datasets import fetch_fiac, simulate_fiac
    from chunkglm.design import (
        design_from_events,
        load_confounds,
        load_design,
        sample_mask_from_confounds,
    )
    from chunkglm.errors import ChunkglmError
    from chunkglm.glm import (
        Fit,
        Plan,
        combine,
        concatenate,
        contrast,
        contributions,
        convert,
        drop_runs,
        export_nifti,
        fit,
        fixed_effects,
        leave_one_run_out,
        load_together,
        open_fit,
        open_maps,
        open_run,
        plan,
        save,
        verify,
    )
    from chunkglm.glm.thresholding import clusters, fdr, threshold
    from chunkglm.kernels.noise import AR
    from chunkglm.lazy.progress import progress_bar
    from chunkglm.plotting import plot_montage
    from chunkglm.reporting import report
    from chunkglm.study import StudyModel, finalise, find_runs, run_study, verify_study

# Loaded when first used: xarray, dask and pandas take a second, and `chunkglm --help` needs none.
# A name whose home is the package itself is a module of it.
_HOME = {
    "AR": "chunkglm.kernels.noise",
    "ChunkglmError": "chunkglm.errors",
    "Fit": "chunkglm.glm",
    "Plan": "chunkglm.glm",
    "clusters": "chunkglm.glm.thresholding",
    "combine": "chunkglm.glm",
    "StudyModel": "chunkglm.study",
    "concatenate": "chunkglm.glm",
    "contrast": "chunkglm.glm",
    "contributions": "chunkglm.glm",
    "convert": "chunkglm.glm",
    "design_from_events": "chunkglm.design",
    "drop_runs": "chunkglm.glm",
    "export_nifti": "chunkglm.glm",
    "fdr": "chunkglm.glm.thresholding",
    "fetch_fiac": "chunkglm.datasets",
    "finalise": "chunkglm.study",
    "find_runs": "chunkglm.study",
    "fit": "chunkglm.glm",
    "fixed_effects": "chunkglm.glm",
    "leave_one_run_out": "chunkglm.glm",
    "load_confounds": "chunkglm.design",
    "load_design": "chunkglm.design",
    "load_together": "chunkglm.glm",
    "open_fit": "chunkglm.glm",
    "open_maps": "chunkglm.glm",
    "open_run": "chunkglm.glm",
    "plan": "chunkglm.glm",
    "plot_montage": "chunkglm.plotting",
    "plotting": "chunkglm",
    "progress_bar": "chunkglm.lazy.progress",
    "report": "chunkglm.reporting",
    "sample_mask_from_confounds": "chunkglm.design",
    "run_study": "chunkglm.study",
    "save": "chunkglm.glm",
    "simulate_fiac": "chunkglm.datasets",
    "threshold": "chunkglm.glm.thresholding",
    "verify": "chunkglm.glm",
    "verify_study": "chunkglm.study",
}

__all__ = [
    "AR",
    "ChunkglmError",
    "Fit",
    "Plan",
    "StudyModel",
    "clusters",
    "combine",
    "concatenate",
    "contrast",
    "contributions",
    "convert",
    "design_from_events",
    "drop_runs",
    "export_nifti",
    "fdr",
    "fetch_fiac",
    "finalise",
    "find_runs",
    "fit",
    "fixed_effects",
    "leave_one_run_out",
    "load_confounds",
    "load_design",
    "load_together",
    "open_fit",
    "open_maps",
    "open_run",
    "plan",
    "plot_montage",
    "plotting",
    "progress_bar",
    "report",
    "run_study",
    "sample_mask_from_confounds",
    "save",
    "simulate_fiac",
    "threshold",
    "verify",
    "verify_study",
]


_find = imported_when_used(__name__, _HOME)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    found = _find(name)
    if "chunkglm.glm" in sys.modules:
        # What makes Datasets is loaded, and xarray with it: now they can have `maps.glm`.
        import_module("chunkglm.plotting.accessor")
    return found


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
