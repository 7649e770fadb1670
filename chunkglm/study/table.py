"""A table of runs, checked whole before anything starts."""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd

from chunkglm.errors import StudyError
from chunkglm.io.files import is_url

REQUIRED = ("subject", "bold")
LABELS = ("subject", "session", "task", "run", "space")
PATHS = ("bold", "design", "events", "mask", "confounds", "sample_mask")

# BIDS labels are letters and digits; "+" is in some pipelines' spaces, and climbs nowhere.
# Of "confound" and "confounds" 0.94 is the same, of "events_file" and "events" 0.71.
_NEAR = 0.85

_LABEL = re.compile(r"[A-Za-z0-9+]+")


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run of a table: where its files are, and what it is called."""

    row: int  # in the table, counted from 1 below the header
    subject: str
    bold: str
    session: str = ""
    task: str = ""
    run: str = ""
    space: str = ""
    design: str = ""
    events: str = ""
    mask: str = ""
    confounds: str = ""
    sample_mask: str = ""
    t_r: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its BIDS entities, such as ``sub-01_ses-2_task-faces_run-1``."""
        return entities(
            sub=self.subject, ses=self.session, task=self.task, run=self.run, space=self.space
        )

    @property
    def files(self) -> dict[str, str]:
        """Its input files by column."""
        return {name: path for name in PATHS if (path := getattr(self, name))}


def entities(**labels: str) -> str:
    """Join BIDS entities that have a label.

    Examples
    --------
    >>> entities(sub="01", ses="", contrast="faces")
    'sub-01_contrast-faces'
    """
    return "_".join(f"{key}-{label}" for key, label in labels.items() if label)


def read_runs(table: Any) -> list[RunRow]:
    """Read and check a table of runs.

    Parameters
    ----------
    table : DataFrame or path
        ``.csv``, ``.tsv`` or ``.parquet``. Columns ``subject``, ``bold``, and ``design`` or
        ``events``; optional ``session``, ``run``, ``task``, ``space``, ``mask``, ``confounds``,
        ``sample_mask`` (volumes that count), ``t_r``; others are kept, but names that are all but
        one of these are refused. Relative paths begin at the table's folder, those of a DataFrame
        at the working directory.

    Returns
    -------
    list of RunRow

    Raises
    ------
    StudyError
        Naming every problem with its row.
    """
    frame, source, folder = _load(table)
    problems = [
        f"{source}: column {name!r} is missing" for name in REQUIRED if name not in frame.columns
    ]
    if not {"design", "events"} & set(frame.columns):
        problems.append(f"{source}: a column 'design' or 'events' is needed")
    problems += _near_names(source, [str(name).strip() for name in frame.columns])
    if not problems and len(frame) == 0:
        problems.append(f"{source}: holds no runs")
    if problems:
        raise StudyError.of(source, problems)
    rows: list[RunRow] = []
    for i, values in enumerate(_records(frame), start=1):
        rows.append(_row(i, values, folder, problems))
    _check_repeats(rows, problems)
    _check_files(rows, problems)
    if problems:
        raise StudyError.of(source, problems)
    return rows


def by_subject(rows: Sequence[RunRow]) -> dict[str, list[RunRow]]:
    """Group rows by subject, in the order of the table."""
    found: dict[str, list[RunRow]] = {}
    for row in rows:
        found.setdefault(row.subject, []).append(row)
    return found


def _near_names(source: str, columns: list[str]) -> list[str]:
    """Columns that a slip would leave out: without its confounds a study looks the same."""
    known = (*LABELS, *PATHS, "t_r")
    problems = [
        f"{source}: column {name!r} is there twice"
        for name in dict.fromkeys(columns)
        if columns.count(name) > 1
    ]
    for name in columns:
        near = get_close_matches(name.lower(), known, n=1, cutoff=_NEAR)
        if name not in known and near and near[0] not in columns:
            problems.append(f"{source}: column {name!r} is not known; did you mean {near[0]!r}?")
    return problems


def _load(table: Any) -> tuple[pd.DataFrame, str, Path]:
    if isinstance(table, pd.DataFrame):
        return table, "table", Path()
    path = Path(table)
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        elif path.suffix in (".csv", ".tsv"):
            # Text: a subject called 01 is not the number 1.
            separator = "," if path.suffix == ".csv" else "\t"
            frame = pd.read_csv(path, sep=separator, dtype=str, encoding="utf-8")
        else:
            raise StudyError.of(str(path), [f"{path}: must be a .csv, .tsv or .parquet file"])
    except (OSError, ValueError, ImportError) as error:
        if isinstance(error, StudyError):
            raise
        cause = " ".join(str(error).split())
        raise StudyError.of(str(path), [f"{path}: the table cannot be read ({cause})"]) from error
    return frame, str(path), path.absolute().parent


def _records(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    columns = [str(name).strip() for name in frame.columns]
    for values in frame.itertuples(index=False, name=None):
        yield dict(zip(columns, values, strict=True))


def _row(number: int, values: dict[str, Any], folder: Path, problems: list[str]) -> RunRow:
    found: dict[str, Any] = {}
    for name in LABELS:
        text = _text(values.pop(name, None))
        prefix = {"subject": "sub-", "session": "ses-"}.get(name, f"{name}-")
        text = text.removeprefix(prefix)
        if text and not _LABEL.fullmatch(text):
            problems.append(
                f"row {number}: {name} {text!r} must be letters and digits, as BIDS labels are"
            )
        found[name] = text
    for name in PATHS:
        text = _text(values.pop(name, None))
        found[name] = text if not text or is_url(text) else os.path.join(folder, text)  # noqa: PTH118
    problems += [f"row {number}: {name} is empty" for name in REQUIRED if not found[name]]
    if bool(found["design"]) == bool(found["events"]):
        both = "both given" if found["design"] else "both empty"
        problems.append(f"row {number}: design and events are {both}; give one of them")
    if found["design"] and found["confounds"]:
        problems.append(
            f"row {number}: confounds are for designs made from events; put them into the design"
        )
    found["t_r"] = _seconds(number, values.pop("t_r", None), problems)
    return RunRow(row=number, extra=values, **found)


def _text(value: Any) -> str:
    """A cell as text; empty where there is nothing, 1.0 read as 1."""
    if value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NA:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return "" if text == "n/a" else text


def _seconds(number: int, value: Any, problems: list[str]) -> float | None:
    text = _text(value)
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        problems.append(f"row {number}: t_r must be a positive number of seconds, but is {text!r}")
        return None
    return seconds


def _check_repeats(rows: list[RunRow], problems: list[str]) -> None:
    seen: dict[tuple[str, str], int] = {}
    for row in rows:
        for what, value in (("bold", row.bold), ("labels", row.label)):
            first = seen.setdefault((what, value), row.row)
            if first != row.row and value:
                problems.append(
                    f"row {row.row}: its {what} ({value}) are those of row {first}; a run counts "
                    "once (a column 'run' or 'session' tells runs of a subject apart)"
                )


def _check_files(rows: list[RunRow], problems: list[str]) -> None:
    known: dict[str, bool] = {}
    for row in rows:
        for name, path in row.files.items():
            if is_url(path):
                continue
            if path not in known:
                known[path] = os.path.exists(path)  # noqa: PTH110 (40,000 of them: Path costs more)
            if not known[path]:
                problems.append(f"row {row.row}: {name} {path} does not exist")
