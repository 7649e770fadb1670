"""Sentences for a methods section, from the parameters of the analysis and nothing else."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from chunkglm.reporting.computed import Computed, ContrastResult, Heights
from chunkglm.reporting.sources import Source

_GLM = (
    "Friston KJ, Holmes AP, Worsley KJ, Poline JB, Frith CD, Frackowiak RSJ (1994). Statistical "
    "parametric maps in functional imaging: a general linear approach. Human Brain Mapping 2, "
    "189-210."
)
_WORSLEY = (
    "Worsley KJ, Liao CH, Aston J, Petre V, Duncan GH, Morales F, Evans AC (2002). A general "
    "statistical analysis for fMRI data. NeuroImage 15, 1-15."
)
_FDR = (
    "Benjamini Y, Hochberg Y (1995). Controlling the false discovery rate: a practical and "
    "powerful approach to multiple testing. Journal of the Royal Statistical Society B 57, 289-300."
)
_GLOVER = (
    "Glover GH (1999). Deconvolution of impulse response in event-related BOLD fMRI. NeuroImage 9, "
    "416-429."
)


@dataclass(frozen=True, slots=True)
class Methods:
    """Paragraphs, and what they cite."""

    paragraphs: tuple[str, ...]
    references: tuple[str, ...]


def methods_of(
    source: Source, computed: Computed, heights: Heights, model: Mapping[str, Any] | None
) -> Methods:
    """Write what was done.

    Parameters
    ----------
    source : Source
    computed : Computed
    heights : Heights
    model : mapping, optional
        Of a study; tells how designs were made from events.
    """
    maps = next(iter(source.maps.values()))
    noise, cited = noise_sentence(str(maps.attrs.get("noise", "")))
    first = [
        "The runs were analysed with a general linear model, each by itself (Friston et al. 1994), "
        f"in chunkglm {_version()}.",
        *_signal_sentences(maps),
        *_design_sentences(source, model),
        noise,
    ]
    references = [_GLM, *cited]
    if model and model.get("hrf_model") == "glover" and model.get("_from_events"):
        references.append(_GLOVER)
    second = [_contrast_sentence(one) for one in computed.contrasts]
    second.append(_combination_sentence(source, maps))
    third, more = _threshold_sentences(computed.contrasts, heights)
    references += more
    texts = (" ".join(s for s in part if s) for part in (first, second, third))
    return Methods(tuple(texts), tuple(dict.fromkeys(references)))


def noise_sentence(noise: str) -> tuple[str, list[str]]:
    """Say what the noise model was, as maps spell it; and what to cite."""
    orders = re.findall(r"\bar(\d+)\b", noise)
    if noise.startswith("ols") and not orders:
        return "Noise was taken as white (ordinary least squares).", []
    if len(orders) != 1 or "ols" in noise:
        return (f"Noise models of the runs: {noise}." if noise else ""), []
    (order,) = orders
    many = "a coefficient" if order == "1" else "coefficients"
    text = (
        f"Temporal autocorrelation was modelled in each voxel as an autoregressive process of "
        f"order {order}, with {many} estimated from the autocovariances of the least-squares "
        "residuals (Yule-Walker)"
    )
    cited = []
    if "corrected" in noise:
        text += (
            ", corrected for what the design takes out of them by inverting their expectation "
            "(after Worsley et al. 2002)"
        )
        cited.append(_WORSLEY)
    if found := re.search(r"(\d+) bins", noise):
        text += f", and truncated to multiples of 1/{found.group(1)}"
    if found := re.search(r"smoothed over ([\d.]+) mm", noise):
        text += f", averaged over neighbouring voxels with a Gaussian of {found.group(1)} mm"
    if found := re.search(r"(\d+) iterations", noise):
        text += f", in {found.group(1)} iterations"
    text += "; data and design were whitened with it"
    if "stationary" in noise:
        text += ", the first samples by the exact precision of the stationary process"
    return f"{text}.", cited


def _version() -> str:
    from importlib.metadata import version

    return version("chunkglm")


def _signal_sentences(maps: xr.Dataset) -> list[str]:
    fwhm, found = float(maps.attrs.get("smoothing_fwhm", 0) or 0), []
    if fwhm:
        found.append(
            f"Volumes were smoothed with a Gaussian of {fwhm:g} mm full width at half maximum."
        )
    else:
        found.append("Volumes were not smoothed in this analysis.")
    if maps.attrs.get("scaling") == "percent":
        found.append("The signal is percent of each voxel's mean over time.")
    return found


def _design_sentences(source: Source, model: Mapping[str, Any] | None) -> list[str]:
    found = []
    if source.designs:
        ranks = {(len(f.design.names), f.factor.rank) for f in source.designs.values()}
        told = [f"{k} columns" + (f" of rank {r}" if r < k else "") for k, r in sorted(ranks)]
        found.append(f"Designs had {' or '.join(told)}.")
        dropped = [int((~f.sample_mask).sum()) for f in source.designs.values()]
        if any(dropped):
            found.append(
                f"{sum(dropped)} volumes of {len(dropped)} runs were left out, and no "
                "autocorrelation was taken across the gaps."
            )
    if model and model.get("_from_events"):
        found.append(_events_sentence(model))
    return found


def _events_sentence(model: Mapping[str, Any]) -> str:
    hrf = model.get("hrf_model")
    response = (
        "Regressors are boxcars of the events"
        if hrf == "none"
        else f"Events were convolved with the haemodynamic response {hrf!r}"
        + (" (Glover 1999)" if hrf == "glover" else "")
    )
    drift = {
        "cosine": f"cosines of periods above {1 / float(model.get('high_pass', 0.01)):.4g} s",
        "polynomial": f"polynomials up to order {model.get('drift_order')}",
    }.get(str(model.get("drift_model")), "")
    drifts = f", slow drifts were modelled by {drift}" if drift else ""
    confounds = model.get("confounds")
    told = f"; confounds in the design: {', '.join(confounds)}" if confounds else ""
    return f"{response}{drifts}{told}."


def _contrast_sentence(one: ContrastResult) -> str:
    kind = one.maps.attrs["stat_type"]
    definition = str(one.maps.attrs.get("contrast", one.name))
    said = "" if definition == one.name else f", defined as {definition},"
    return f"The contrast {one.name!r}{said} was tested with {_article(kind)} {kind} statistic."


def _article(kind: str) -> str:
    return "an" if kind == "F" else "a"


def _combination_sentence(source: Source, maps: xr.Dataset) -> str:
    n = sum(bool(one["contributed"]) for one in source.records)
    if "precision_weighted" not in maps.attrs:
        return "The maps are of one run."
    weights = (
        "weighted by the inverse of their variances"
        if maps.attrs["precision_weighted"]
        else "with equal weights (the mean of the effects; the sum of the variances over n squared)"
    )
    runs = f"{n} run{'s' if n != 1 else ''}"
    dof = maps.attrs.get("dof")
    told = f"; {float(dof):g} degrees of freedom, those of the runs added" if dof else ""
    return f"Effects of {runs} were combined as fixed effects, {weights}{told}."


def _threshold_sentences(contrasts: Any, heights: Heights) -> tuple[list[str], list[str]]:
    found, cited = [], []
    reached = dict.fromkeys(f"{one.height:.2f}" for one in contrasts if np.isfinite(one.height))
    told = f" (z of {', '.join(reached)})" if reached else ""
    tails = {one.two_sided for one in contrasts}
    sides = "both tails together" if tails == {True} else "the upper tail"
    if len(tails) > 1:
        sides = "both tails together for t, the upper tail for F"
    control = heights.height_control
    if control is None:
        found.append(f"Maps were thresholded at |z| of {heights.threshold:g}.")
    elif control == "fdr":
        found.append(
            f"Maps were thresholded at a false discovery rate of {heights.alpha:g}, {sides} "
            f"(Benjamini & Hochberg 1995){told}."
        )
        cited.append(_FDR)
    else:
        how = "uncorrected" if control == "fpr" else "Bonferroni-corrected over voxels"
        found.append(f"Maps were thresholded at p < {heights.alpha:g}, {how}, {sides}{told}.")
    if heights.cluster_threshold:
        found.append(f"Clusters below {heights.cluster_threshold:g} voxels were dropped.")
    found.append("Neighbouring voxels share a face; clusters have one sign.")
    return found, cited
