"""The design matrix of an events table, made by nilearn."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from chunkglm._types import AnyArray, FloatArray
from chunkglm.design._messages import list_names, quote
from chunkglm.design._tables import (
    check_count,
    check_finite,
    check_repetition_time,
    numeric_column,
)
from chunkglm.design.confounds import confound_regressors, text_table
from chunkglm.errors import DesignError

_REQUIRED = ("onset", "duration")


def design_from_events(
    events: pd.DataFrame | str | os.PathLike[str],
    *,
    n_scans: int,
    t_r: float,
    hrf_model: str | Callable[..., Any] | Sequence[Callable[..., Any]] | None = "glover",
    drift_model: str | None = "cosine",
    high_pass: float = 0.01,
    drift_order: int = 1,
    fir_delays: Sequence[int] | None = (0,),
    slice_time_ref: float = 0.0,
    confounds: pd.DataFrame | AnyArray | str | os.PathLike[str] | None = None,
    min_onset: float = -24,
) -> pd.DataFrame:
    """Make the design matrix of a run from its events.

    nilearn's `make_first_level_design_matrix` makes it, and every default is that of
    nilearn's `FirstLevelModel` (0.14.1), whose design it equals to the last bit.

    Parameters
    ----------
    events : DataFrame or path
        ``.csv`` or ``.tsv`` file, or table, with the columns ``onset`` and ``duration``
        (seconds), and as wanted ``trial_type`` and ``modulation``; others are ignored.
        Single events after the run's end have no effect; a condition of such is refused.
    n_scans : int
        Number of volumes of the run.
    t_r : float
        Repetition time in seconds.
    hrf_model, drift_model, high_pass, drift_order, min_onset
        As nilearn has them.
    fir_delays : sequence of int
        Delays in scans, for ``hrf_model="fir"``; None is ``(0,)``.
    slice_time_ref : float
        The time in each volume, as a fraction of `t_r`, that its values stand for: volume i
        is modelled at ``(i + slice_time_ref) * t_r``.
    confounds : DataFrame, (n_scans, c) array or path, optional
        Regressors to add; those without a name are called ``confound_0`` and on. `load_confounds`
        takes them from fMRIPrep's tables.

    Returns
    -------
    (n_scans, k) DataFrame
        One column per regressor, indexed by the frame times in seconds.

    Raises
    ------
    DesignError
        When no design can be made; rows in its message are counted from 0.
    """
    n_scans, t_r = check_count(n_scans), check_repetition_time(t_r)
    if n_scans < 2:
        raise DesignError(f"a design needs at least 2 volumes, but n_scans is {n_scans}")
    if not 0 <= slice_time_ref <= 1:
        raise DesignError(
            f"slice_time_ref must be a fraction of t_r from 0 to 1, but got {slice_time_ref!r}"
        )
    table, source = _load_events(events, n_scans * t_r)
    regressors = None if confounds is None else confound_regressors(confounds, n_scans)
    return _call_nilearn(
        source,
        # As FirstLevelModel computes them: the last bit decides into which of the 50 steps per
        # volume an onset that falls on a frame time is put.
        np.linspace(slice_time_ref * t_r, (n_scans - 1 + slice_time_ref) * t_r, n_scans),
        events=table,
        hrf_model=hrf_model,
        drift_model=drift_model,
        high_pass=high_pass,
        drift_order=drift_order,
        fir_delays=_whole_delays(fir_delays),
        add_regs=regressors,
        min_onset=min_onset,
    )


def _whole_delays(fir_delays: Any) -> list[int]:
    """Return the delays as nilearn wants them; it cuts fractions off without a word."""
    delays = [0] if fir_delays is None else list(fir_delays)
    real = (int, float, np.integer, np.floating)
    if not all(isinstance(delay, real) and delay >= 0 and delay % 1 == 0 for delay in delays):
        raise DesignError(
            f"fir_delays must be whole numbers of scans, 0 or more, but got {fir_delays!r}"
        )
    return [int(delay) for delay in delays]


def _call_nilearn(source: str, frame_times: FloatArray, **options: Any) -> pd.DataFrame:
    """Let nilearn make the design; what it refuses is a DesignError."""
    # nilearn takes 1.5 s to import, which only users of events shall pay.
    from nilearn.glm.first_level import make_first_level_design_matrix

    try:
        design: pd.DataFrame = make_first_level_design_matrix(frame_times, **options)
    except (
        ValueError,
        TypeError,
        AttributeError,
        AssertionError,
        NotImplementedError,
        ArithmeticError,
    ) as error:
        reason = " ".join(str(error).split())
        raise DesignError(
            f"{source}: nilearn makes no design of these events and options: {reason}"
        ) from error
    return design


def _load_events(
    events: pd.DataFrame | str | os.PathLike[str], run_length: float
) -> tuple[pd.DataFrame, str]:
    """Return the columns nilearn uses, checked, and what to call them in messages."""
    if isinstance(events, pd.DataFrame):
        table, source = events, "events"
    elif isinstance(events, (str, os.PathLike)):
        table, source = text_table(Path(events))[0], str(Path(events))
    else:
        raise DesignError(f"events must be a path or a DataFrame, but got {type(events).__name__}")
    table = table.set_axis([str(name).strip() for name in table.columns], axis=1)
    missing = [name for name in _REQUIRED if name not in table.columns]
    if missing:
        raise DesignError(
            f"{source} has no column {list_names(missing)}, which events need; it has: "
            f"{list_names(table.columns)}"
        )
    used = [name for name in (*_REQUIRED, "trial_type", "modulation") if name in table.columns]
    for name in used:
        if isinstance(table[name], pd.DataFrame):
            raise DesignError(f"{source} has more than one column {name!r}; keep one")
    table = table[used].reset_index(drop=True)
    if len(table) == 0:
        raise DesignError(f"{source} has no events; it needs at least one row")
    _check_events(table, source, run_length)
    return table, source


def _check_events(table: pd.DataFrame, source: str, run_length: float) -> None:
    """Refuse events that nilearn would model as something else; make numbers of text in place."""
    for name in table.columns.intersection([*_REQUIRED, "modulation"]):
        values = numeric_column(table[name], name, source)
        check_finite(values[:, np.newaxis], (name,), source)
        # Plain numbers keep their type; objects, text and nullable types become float64.
        dtype = table[name].dtype
        if not (isinstance(dtype, np.dtype) and dtype.kind in "iuf"):
            table[name] = values
    duration = table["duration"].to_numpy(dtype=np.float64)
    if (duration < 0).any():
        row = int(np.argmax(duration < 0))
        raise DesignError(
            f"{source}: the duration in row {row} (counted from 0) is negative "
            f"({duration[row]:g} s); durations are in seconds, 0 for an instant"
        )
    onset = table["onset"].to_numpy(dtype=np.float64)
    _check_inside({"": onset}, source, run_length)
    if "trial_type" not in table.columns:
        return
    condition = table["trial_type"].to_numpy(dtype=object)
    # nilearn drops events without a condition, and says nothing.
    nameless = [bool(pd.isna(name)) or str(name).strip() in ("", "n/a") for name in condition]
    if any(nameless):
        raise DesignError(
            f"{source}: the trial_type in row {nameless.index(True)} (counted from 0) is "
            "missing; name it, or drop the row"
        )
    names = dict.fromkeys(condition)
    onsets = {f" of {quote(name)}": onset[condition == name] for name in names}
    _check_inside(onsets, source, run_length)


def _check_inside(onsets: dict[str, FloatArray], source: str, run_length: float) -> None:
    """Refuse a group of events that begin after the run's end, all of them.

    One late event changes nothing, as a scanner may stop early; a condition of late events
    would be a column of zeros.
    """
    for which, times in onsets.items():
        if times.min() >= run_length:
            raise DesignError(
                f"{source}: all events{which} come after the run's end: the last onset is at "
                f"{times.max():g} s, but the run is {run_length:g} s long; check that onsets are "
                "in seconds, and n_scans and t_r"
            )
