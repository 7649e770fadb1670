"""One row of a table fitted as a model says, with all contrasts of it."""

import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import dask
import pandas as pd
import xarray as xr

from chunkglm.design import (
    design_from_events,
    load_confounds,
    parse_contrast,
    sample_mask_from_confounds,
)
from chunkglm.errors import ContrastError
from chunkglm.glm import Fit, contrast, fit, open_run
from chunkglm.glm.together import of_one_contrast
from chunkglm.schema import CONTRAST
from chunkglm.study.hashes import Stamp
from chunkglm.study.model import StudyModel
from chunkglm.study.table import RunRow
from chunkglm.study.told import Told, told_here

# Studies have a few designs that all subjects share; one takes 40 ms to make, as much as the fit
# of a small run, and is a table of 100 kB.
_DESIGNS_KEPT = 32


def fit_row(row: RunRow, model: StudyModel, stamps: Mapping[str, Stamp]) -> Fit:
    """Fit a row of a table as a model says; lazy.

    Parameters
    ----------
    row : RunRow
    model : StudyModel
    stamps : mapping
        Of its files, by column: designs of the same events are made once.
    """
    run = open_run(row.bold, t_r=row.t_r)
    design: Any = row.design
    if row.events:
        t_r = run.attrs.get("repetition_time")
        design = _design(row, model, stamps.get("events"), run.sizes["time"], t_r or 0.0)
    fitted: Fit = fit(
        run, design, mask=row.mask or None, t_r=row.t_r, sample_mask=_sample_mask(row, model),
        **model.fit_options(),
    )  # fmt: skip
    return fitted


def _design(
    row: RunRow, model: StudyModel, stamp: Stamp | None, n_scans: int, t_r: float
) -> pd.DataFrame:
    options = model.design_options()
    if row.confounds or stamp is None:
        confounds: Any = row.confounds or None
        if confounds and model.confounds is not None:
            confounds = load_confounds(confounds, model.confounds) if model.confounds else None
        return design_from_events(
            row.events, n_scans=n_scans, t_r=t_r, confounds=confounds, **options
        )
    plain = tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in options.items())
    design, told = _same_design(row.events, stamp.sha256, n_scans, t_r, plain)
    for one in told:
        warnings.warn(one.text, one.category, stacklevel=2)
    return design


@lru_cache(maxsize=_DESIGNS_KEPT)
def _same_design(
    events: str, sha256: str, n_scans: int, t_r: float, options: tuple[tuple[str, Any], ...]
) -> tuple[pd.DataFrame, tuple[Told, ...]]:
    with told_here() as told:
        design = design_from_events(events, n_scans=n_scans, t_r=t_r, **dict(options))
    return design, tuple(told)


def _sample_mask(row: RunRow, model: StudyModel) -> Any:
    if not model.censors:
        return row.sample_mask or None
    limits = {"max_fd": model.max_fd, "max_std_dvars": model.max_std_dvars}
    return sample_mask_from_confounds(row.confounds, outliers=model.censor or (), **limits)


def contrasts_of(
    fitted: Fit, model: StudyModel
) -> tuple[list[xr.Dataset], dict[str, tuple[int, str]], dict[str, str]]:
    """Take all contrasts of a model, those of a kind in one pass; lazy.

    Returns
    -------
    passes : list of Dataset
        Of one or several contrasts each.
    places : dict
        By contrast, number of its pass and its name there; no name where it is alone.
    skipped : dict
        Contrasts that the run's design lacks, and why, where the model lets them be missing.
    """
    kinds: dict[tuple[str, int], dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    for name, definition in model.contrasts.items():
        try:
            parsed = parse_contrast(definition, fitted.design.names, source=fitted.design.source)
            if model.missing == "skip":
                contrast(fitted, definition)  # is it estimable? Nothing is computed.
        except ContrastError as error:
            if model.missing == "error":
                msg = f"{name!r}: {error}"
                raise ContrastError(msg) from None
            skipped[name] = " ".join(str(error).split())
            continue
        kinds.setdefault((parsed.stat_type, len(parsed.weights)), {})[name] = definition
    passes, places = [], {}
    for i, wanted in enumerate(kinds.values()):
        (first, *others) = wanted
        passes.append(contrast(fitted, wanted if others else wanted[first]))
        places.update({name: (i, name if others else "") for name in wanted})
    return passes, places, skipped


def each_contrast(
    passes: list[xr.Dataset], places: Mapping[str, tuple[int, str]]
) -> dict[str, xr.Dataset]:
    """Compute passes together, and tell their contrasts apart."""
    computed = dask.compute(*passes)
    return {
        name: of_one_contrast(computed[i].sel({CONTRAST: key})) if key else computed[i]
        for name, (i, key) in places.items()
    }
