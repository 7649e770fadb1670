"""The results of a study put together: what was done, run by run, and all subjects in one store."""

import csv
import io
import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chunkglm.errors import StudyError
from chunkglm.glm import verify
from chunkglm.io.images import atomic_writer
from chunkglm.study.hashes import Stamp, has_changed, sha256_of
from chunkglm.study.model import read_model
from chunkglm.study.records import (
    FAILED,
    made_with,
    other_study,
    read_record,
    record_path,
    stamp_of,
)
from chunkglm.study.table import RunRow, by_subject, read_runs

_log = logging.getLogger("chunkglm.study")

_COLUMNS = (
    "subject", "session", "task", "run", "space", "bold", "status", "reason", "seconds", "dof",
    "voxels", "skipped", "warnings",
)  # fmt: skip
_PARTS = "partitions"


def partition_path(out: Path, i: int, n: int) -> Path:
    """Where a part says that it is done."""
    return out / _PARTS / f"{i}-of-{n}.json"


def finalise(table: Any, model: Any, out: str | Path) -> dict[str, str]:
    """Complete the results once every subject was done, by one process or by parts.

    Parameters
    ----------
    table, model, out
        As `run_study` was given them.

    Returns
    -------
    dict
        The subjects that failed, and why.

    Raises
    ------
    StudyError
        When subjects were not done yet, or with another table, model or version, naming them and
        the parts that are missing.
    """
    rows: Sequence[RunRow] = table if isinstance(table, list) else read_runs(table)
    model, folder = read_model(model), Path(out)
    subjects, made = by_subject(rows), made_with(model)
    found: dict[str, dict[str, Any]] = {}
    missing: dict[str, str] = {}
    for subject, runs in subjects.items():
        record = read_record(folder, subject)
        if record is None:
            missing[subject] = "was not done"
        elif other := other_study(record, runs, made):
            missing[subject] = f"was not done again since ({other})"
        else:
            found[subject] = record
    if missing:
        problems = _missing_parts(folder, list(subjects), list(missing))
        problems += [f"sub-{subject} {why}" for subject, why in missing.items()]
        raise StudyError.of(str(folder), problems)
    _write_runs(folder, found, rows)
    failed = {s: r["reason"] for s, r in found.items() if r["status"] == FAILED}
    _note_others(folder, subjects)
    if model.save_group:
        from chunkglm.study.group import write_group  # zarr, which workers have no use for

        write_group(folder, model, {s: r for s, r in found.items() if s not in failed})
    else:
        shutil.rmtree(folder / "group.zarr", ignore_errors=True)  # of another model
    return failed


def _note_others(out: Path, subjects: Iterable[str]) -> None:
    """Results of subjects that the table no longer has stay, and are told of."""
    there = {p.stem.removeprefix("sub-") for p in record_path(out, "x").parent.glob("sub-*.json")}
    if others := sorted(there.difference(subjects)):
        _log.warning("not in the table, but with results of before: %s", ", ".join(others))


def _missing_parts(out: Path, subjects: list[str], missing: list[str]) -> list[str]:
    """Name parts of which nothing was finished, by the parts that were."""
    there = {path.stem for path in (out / _PARTS).glob("*-of-*.json")}
    found = []
    for n in sorted({int(name.partition("-of-")[2]) for name in there}):
        found += [
            f"partition {i}/{n} is missing"
            for i in range(n)
            if f"{i}-of-{n}" not in there and set(subjects[i::n]) & set(missing)
        ]
    return found


def _write_runs(
    out: Path, records: Mapping[str, Mapping[str, Any]], rows: Sequence[RunRow]
) -> None:
    extra = list(dict.fromkeys(str(key) for row in rows for key in row.extra))
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow([*_COLUMNS, *extra])
    done = {run["row"]: (subject, run) for subject, r in records.items() for run in r["runs"]}
    for row in rows:
        record = records[row.subject]
        _, run = done.get(row.row, (None, None))
        found = dict(run) if run else _untried(row, record)
        skipped = "; ".join(f"{name}: {why}" for name, why in found["skipped"].items())
        values = {
            **found,
            "subject": row.subject,
            "skipped": skipped,
            "warnings": "; ".join(found["warnings"]),
        }
        cells = [values[name] for name in _COLUMNS] + [row.extra.get(name, "") for name in extra]
        writer.writerow([_cell(value) for value in cells])
    with atomic_writer(out / "runs.tsv") as file:
        file.write(text.getvalue().encode())


def _untried(row: RunRow, record: Mapping[str, Any]) -> dict[str, Any]:
    """A run that was not begun, as its subject had failed before."""
    labels = {k: getattr(row, k) for k in ("session", "task", "run", "space", "bold")}
    return {
        **labels, "status": "not tried", "reason": record["reason"], "seconds": "", "dof": "",
        "voxels": "", "skipped": {}, "warnings": [],
    }  # fmt: skip


def _cell(value: Any) -> str:
    text = " ".join(str(value).split())
    return text or "n/a"


def verify_study(out: str | Path) -> list[str]:
    """Compare the results of a study, and its inputs, with what was recorded.

    Parameters
    ----------
    out : str or Path
        As `run_study` was given it.

    Returns
    -------
    list of str
        What is missing or altered, each naming the file; empty when all is as it was.

    Raises
    ------
    StudyError
        When there are no records.
    """
    folder = Path(out)
    paths = sorted(record_path(folder, "x").parent.glob("sub-*.json"))
    if not paths:
        msg = f"{folder}: has no records of a study; give the folder that chunkglm run wrote"
        raise StudyError(msg)
    wrong = []
    for path in paths:
        subject = path.stem.removeprefix("sub-")
        record = read_record(folder, subject)
        if record is None:
            wrong.append(f"{path}: cannot be read")
            continue
        wrong += _wrong_of(folder, record)
    if (folder / "group.zarr").exists():
        wrong += [f"{folder / 'group.zarr'}: {what}" for what in verify(folder / "group.zarr")]
    return wrong


def _wrong_of(out: Path, record: Mapping[str, Any]) -> list[str]:
    wrong = []
    for name, stamp in record["files"].items():
        path = out / name
        if not path.exists():
            wrong.append(f"{path}: is missing")
        elif path.is_dir():
            wrong += [f"{path}: {what}" for what in verify(path)]
        elif sha256_of(str(path)) != Stamp(*stamp).sha256:
            wrong.append(f"{path}: is not what was written")
    inputs = [stamp for run in record["runs"] for stamp in run["inputs"].values()]
    changed = [s["path"] for s in inputs if has_changed(s["path"], stamp_of(s), {})]
    return wrong + [f"{path}: input is missing or not what was read" for path in changed]


def is_study(out: str | Path) -> bool:
    """Whether a folder holds the results of a study."""
    try:
        found = json.loads((Path(out) / "dataset_description.json").read_bytes())
        return found["GeneratedBy"][0]["Name"] == "chunkglm" and (Path(out) / "records").is_dir()
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return False
