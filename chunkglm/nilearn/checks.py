"""What is refused, by name, before a run is looked at."""

from collections.abc import Iterable
from typing import Any

import nilearn.glm.first_level as theirs
import numpy as np
from nilearn.maskers import SurfaceMasker
from nilearn.surface import SurfaceImage

from chunkglm._types import IntArray
from chunkglm.errors import ParameterError

# What nilearn's own `fit` calls and `FirstLevelModel` puts in its place.
_HOOKS = (
    "_create_all_designs",
    "_create_single_design",
    "_fit_single_run",
    "_get_element_wise_model_attribute",
    "_prepare_mask",
)

# Of a masker: what would change the series before they are fitted.
_MASKER = ("detrend", "high_variance_confounds", "low_pass", "high_pass", "clean_args", "runs")

_SURFACE = "fit surfaces with nilearn"


def check_nilearn() -> None:
    """Refuse a nilearn whose `fit` does not call what is put in its place."""
    missing = [name for name in _HOOKS if not hasattr(theirs.FirstLevelModel, name)]
    if missing:
        msg = (
            f"this nilearn has no FirstLevelModel.{missing[0]}: chunkglm.nilearn.FirstLevelModel "
            "needs nilearn 0.14; use chunkglm.fit, or install it"
        )
        raise ImportError(msg)


def check_parameters(model: theirs.FirstLevelModel) -> None:
    """Refuse parameters of a model that cannot be honoured.

    Raises
    ------
    ParameterError
    """
    reasons = {
        "target_affine": (model.target_affine is not None, "resample the runs first"),
        "target_shape": (model.target_shape is not None, "resample the runs first"),
        "smoothing_fwhm": (
            not (model.smoothing_fwhm is None or np.isscalar(model.smoothing_fwhm))
            or isinstance(model.smoothing_fwhm, str),
            "give one number of mm",
        ),
        "standardize": (
            model.signal_scaling is False and model.standardize not in (False, None),
            "leave it out, or scale with signal_scaling=0",
        ),
        "mask_img": (isinstance(model.mask_img, (SurfaceImage, SurfaceMasker)), _SURFACE),
    }
    for name, (refused, instead) in reasons.items():
        if refused:
            msg = f"{name}={getattr(model, name)!r} cannot be honoured; {instead}"
            raise ParameterError(msg)


def check_runs(runs: Iterable[Any]) -> None:
    """Refuse runs on surfaces.

    Raises
    ------
    ParameterError
    """
    for i, run in enumerate(runs):
        if isinstance(run, SurfaceImage):
            msg = f"run_imgs: run {i} is a surface image, which cannot be honoured; {_SURFACE}"
            raise ParameterError(msg)


def kept_volumes(sample_mask: Any, n_scans: int) -> IntArray:
    """Indices of the volumes that a sample mask keeps.

    Raises
    ------
    ParameterError
        When they do not ascend.
    IndexError
        As nilearn, when one is not there.
    """
    kept: IntArray = np.arange(n_scans)[np.asarray(sample_mask)]
    if kept.size == 0 or (np.diff(kept) <= 0).any():
        msg = "sample_masks: volumes must be kept in ascending order, each once, and at least one"
        raise ParameterError(msg)
    return kept


def check_masker(masker: Any) -> None:
    """Refuse a masker that would filter the series.

    Raises
    ------
    ParameterError
    """
    set_to = [n for n in _MASKER if getattr(masker, n, None) not in (None, False, {}, [])]
    if set_to:
        msg = f"mask_img: a masker with {set_to[0]} set cannot be honoured; clean the runs first"
        raise ParameterError(msg)
