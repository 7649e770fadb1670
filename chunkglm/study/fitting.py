"""One row of a table fitted as a model says, with all contrasts of it."""

from collections.abc import Iterable, Mapping
from typing import Any

import xarray as xr

from chunkglm.design import parse_contrast, sample_mask_from_confounds
from chunkglm.errors import ContrastError
from chunkglm.glm import Fit, contrast, fit, open_run
from chunkglm.study.designs import Design, design_of
from chunkglm.study.hashes import Stamp
from chunkglm.study.model import StudyModel
from chunkglm.study.table import RunRow


def fit_row(
    row: RunRow, model: StudyModel, stamps: Mapping[str, Stamp], made: Iterable[Design] = ()
) -> Fit:
    """Fit a row of a table as a model says; lazy.

    Parameters
    ----------
    row : RunRow
    model : StudyModel
    stamps : mapping
        Of its files, by column: designs of the same events are made once.
    made : iterable of Design
        Made before, of this row's events or others.
    """
    run = open_run(row.bold, t_r=row.t_r)
    design: Any = row.design
    if row.events:
        t_r = run.attrs.get("repetition_time") or 0.0
        events = stamps["events"].sha256 if "events" in stamps else ""
        design = design_of(row, model, events, run.sizes["time"], t_r, made)
    fitted: Fit = fit(
        run, design, mask=row.mask or None, t_r=row.t_r, sample_mask=_sample_mask(row, model),
        **model.fit_options(),
    )  # fmt: skip
    return fitted


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
