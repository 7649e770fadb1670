"""What was done for each subject, kept beside the results: what a resumed study goes by."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from chunkglm.build import code_digest, version
from chunkglm.io.images import atomic_writer
from chunkglm.study.hashes import Stamp, has_changed
from chunkglm.study.model import StudyModel
from chunkglm.study.pieces import Pieces
from chunkglm.study.results import RunResult, SubjectResult
from chunkglm.study.table import RunRow

FOLDER = "records"
DONE, FAILED = "done", "failed"

# What is read back from any record, also of a subject that failed.
_READ_BACK = {"status": str, "runs": list, "files": dict}

# What a record was made with, and what is said when that is another now.
_TOLD = {
    "chunkglm": "chunkglm changed",
    "code": "chunkglm changed within its version",
    "model": "model changed",
}


# What of a row decides about results: not where it stands in the table, nor what is only kept.
_OF_ROW = tuple(f.name for f in fields(RunRow) if f.name not in ("row", "extra"))


def rows_digest(rows: Sequence[RunRow]) -> str:
    """SHA-256 of what a table says of a subject's runs, where in the table they stand aside."""
    plain = [{name: getattr(row, name) for name in _OF_ROW} for row in rows]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def made_with(model: StudyModel) -> dict[str, str]:
    """What decides about results besides the runs: version, code and model."""
    return {"chunkglm": version(), "code": code_digest(), "model": model.digest()}


def record_path(out: Path, subject: str) -> Path:
    """Where the record of a subject lies."""
    return out / FOLDER / f"sub-{subject}.json"


def write_record(
    out: Path, result: SubjectResult, rows: Sequence[RunRow], made: Mapping[str, str]
) -> None:
    """Write a subject's record, after all else: it says that the rest is there.

    Of a subject that failed nothing stays that could be taken for a result; nor do maps of before
    that are not among those of now.
    """
    before = read_record(out, result.subject) or {}
    stale = (
        {*before.get("files", ()), *result.files}
        if result.failure
        else set(before.get("files", ())).difference(result.files)
    )
    record = {
        "subject": result.subject,
        "status": FAILED if result.failure else DONE,
        "reason": result.failure,
        "seconds": round(result.seconds, 3),
        **made,
        "rows": rows_digest(rows),
        "runs": [_run(one) for one in result.runs],
        "files": {} if result.failure else result.files,
        "pieces": None if result.failure or not result.pieces else _pieces(result.pieces),
    }
    path = record_path(out, result.subject)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(out, stale)
    # What a killed worker was at when it died; also of a twin that does the same elsewhere, and
    # whose news nobody waits for.
    for left in (out / f"sub-{result.subject}").glob("**/.chunkglm-*"):
        shutil.rmtree(left, ignore_errors=True)
    # What it says is on the disk already, and nobody need wait until it is there itself: where the
    # power fails before, there is no record that can be read, and the subject is done again.
    with atomic_writer(path, flush=False) as file:
        file.write(_lines_of(record).encode())


def _lines_of(record: Mapping[str, Any]) -> str:
    """JSON, an entry a line: in 0.1 ms, where Python's own takes 3 to indent it all."""
    entries = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in record.items())
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _pieces(pieces: Pieces) -> dict[str, Any]:
    return {"shape": pieces.shape, "affine": pieces.affine, "files": pieces.files}


def _remove(out: Path, names: Iterable[str]) -> None:
    """Remove maps and stores that a record named; never what lies elsewhere."""
    for name in sorted(names):
        path = out / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            continue
        if path.suffix == ".zarr":
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _run(one: RunResult) -> dict[str, Any]:
    row = one.row
    return {
        "row": row.row,
        "label": row.label,
        **{k: getattr(row, k) for k in ("session", "task", "run", "space", "bold")},
        "status": FAILED if one.failure else DONE,
        "reason": one.failure,
        "seconds": round(one.seconds, 3),
        "dof": one.dof,
        "voxels": one.n_voxels,
        "t_r": row.t_r,
        "skipped": dict(one.skipped),
        "warnings": list(one.warnings),
        "inputs": {k: {"path": row.files[k], **v._asdict()} for k, v in one.inputs.items()},
        "extra": {k: str(v) for k, v in row.extra.items()},
    }


def read_record(out: Path, subject: str) -> dict[str, Any] | None:
    """Read a subject's record; None where there is none, or none that can be read.

    Nobody waits until a record is on the disk: where the power fails it may be empty, cut short, or
    zeros. Then the subject was not done.
    """
    try:
        found = json.loads(record_path(out, subject).read_bytes())
    except (OSError, ValueError):  # a ValueError too where bytes are no text
        return None
    if not isinstance(found, dict):
        return None
    whole = all(isinstance(found.get(name), kind) for name, kind in _READ_BACK.items())
    return found if whole else None


def why_again(
    out: Path,
    subject: str,
    rows: Sequence[RunRow],
    made: Mapping[str, str],
    storage: Mapping[str, Any],
) -> str:
    """Why a subject must be done, or done again; empty when what is there can be kept."""
    record = read_record(out, subject)
    if record is None:
        return "not done yet"
    try:
        return _difference(out, record, rows, made, storage)
    except (KeyError, TypeError, AttributeError):
        return "its record cannot be read"


def other_study(record: Mapping[str, Any], rows: Sequence[RunRow], made: Mapping[str, str]) -> str:
    """What a record was made with that is not so now, of version, model and table; or nothing."""
    for what, told in _TOLD.items():
        if record.get(what) != made[what]:
            return told
    if record.get("rows") != rows_digest(rows):
        return "its rows of the table changed"
    return ""


def _difference(
    out: Path,
    record: dict[str, Any],
    rows: Sequence[RunRow],
    made: Mapping[str, str],
    storage: Mapping[str, Any],
) -> str:
    if record["status"] != DONE:
        return f"failed before ({record['reason']})"
    if other := other_study(record, rows, made):
        return other
    for run in record["runs"]:
        for stamp in run["inputs"].values():
            if has_changed(stamp["path"], stamp_of(stamp), storage):
                return f"{stamp['path']} changed"
    for name, stamp in record["files"].items():
        if has_changed(str(out / name), Stamp(*stamp), {}):
            return f"{name} is missing or altered"
    return ""


def stamp_of(values: Mapping[str, Any]) -> Stamp:
    """Return the stamp that a record holds."""
    return Stamp(values["size"], values["mtime_ns"], values["sha256"])
