"""Which runs are behind maps, and which were left out and why, as maps carry it in an attribute."""

import json
from collections.abc import Iterable, Sequence
from numbers import Real
from pathlib import PurePath
from typing import Any

import pandas as pd
import xarray as xr

from chunkglm.errors import MapsError
from chunkglm.io.files import is_url

RUN, RECORDS = "run", "contributions"
COLUMNS = ("run", "design", "dof", "contributed", "reason")

Record = dict[str, Any]


def contributions(maps: xr.Dataset) -> pd.DataFrame:
    """Tell which runs maps were made of, and which were left out.

    Parameters
    ----------
    maps : Dataset
        From `contrast`, `fixed_effects` or what was made of them, or opened again.

    Returns
    -------
    pandas.DataFrame
        One row per run: ``run``, ``design``, ``dof`` (residual degrees of freedom),
        ``contributed``, and the ``reason`` where it did not. Where in the brain a run counts is
        told by the maps ``n_runs`` and ``dof``.

    Raises
    ------
    MapsError
        When they are not such maps.
    """
    if not isinstance(maps, xr.Dataset) or "stat_type" not in maps.attrs:
        msg = (
            f"maps must be a Dataset from contrast or fixed_effects, but got {type(maps).__name__}"
        )
        raise MapsError(msg)
    return pd.DataFrame(records_of(maps), columns=list(COLUMNS))


def records_of(maps: xr.Dataset) -> list[Record]:
    """Return a record of each run behind maps or left out of them."""
    attrs = maps.attrs
    if RECORDS in attrs:
        return read_records(attrs[RECORDS], run_name(maps))
    dof = attrs.get("dof")
    dof = float(dof) if isinstance(dof, Real) else None
    return [make_record(str(attrs.get(RUN, RUN)), str(attrs.get("design", "")), dof)]


def make_record(run: str, design: str, dof: float | None, reason: str = "") -> Record:
    """Make the record of one run, left out when there is a reason."""
    return dict(zip(COLUMNS, (run, design, dof, not reason, reason), strict=True))


def read_records(text: Any, label: str) -> list[Record]:
    """Read records from an attribute or a sidecar, which hold them as JSON."""
    try:
        found = json.loads(text) if isinstance(text, str) else text
        return [
            {
                "run": str(one["run"]),
                "design": str(one.get("design", "")),
                "dof": None if one.get("dof") is None else float(one["dof"]),
                "contributed": bool(one["contributed"]),
                "reason": str(one.get("reason", "")),
            }
            for one in found
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        msg = f"{label}: what runs are behind these maps cannot be read ({error!r}); make them anew"
        raise MapsError(msg) from error


def write_records(records: Iterable[Record]) -> str:
    """Write records as an attribute that every format can keep."""
    return json.dumps(list(records))


def contributing(records: Iterable[Record]) -> list[str]:
    """Return the names of the runs that count."""
    return [one[RUN] for one in records if one["contributed"]]


def run_name(maps: xr.Dataset) -> str:
    """Return what messages call maps: their run, or the first and last of those behind them."""
    if RECORDS not in maps.attrs:
        return str(maps.attrs.get(RUN, RUN))
    names = contributing(read_records(maps.attrs[RECORDS], RECORDS))
    if len(names) < 3:
        return " with ".join(names) or "maps of no run"
    return f"{len(names)} runs from {names[0]} to {names[-1]}"


def short_name(name: str) -> str:
    """Return a name of a file that says nothing of the machine it lies on.

    From the folder of its subject on, as BIDS names files within a dataset; without one, folder and
    file. A URL keeps all but what follows a question mark, which may hold a key.

    Examples
    --------
    >>> short_name("/home/me/ds/sub-01/func/sub-01_task-x_bold.nii.gz")
    'sub-01/func/sub-01_task-x_bold.nii.gz'
    >>> short_name("/home/me/run1/bold.nii.gz")
    'run1/bold.nii.gz'
    """
    if is_url(name):
        return name.partition("?")[0]
    parts = PurePath(name).parts
    subjects = [i for i, part in enumerate(parts[:-1]) if part.startswith("sub-")]
    return "/".join(parts[subjects[0] if subjects else -2 :])


def same_run(a: str, b: str) -> bool:
    """Whether two names are of one run; maps that were saved know the short one only."""
    return a == b or (short_name(a) == short_name(b) and short_name(a) in (a, b))


def repeated(names: Sequence[str]) -> list[str]:
    """Return names that stand for a run that was there before."""
    return [
        name
        for i, name in enumerate(names)
        if name != RUN and any(same_run(name, other) for other in names[:i])
    ]
