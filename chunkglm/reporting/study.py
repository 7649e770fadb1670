"""Pages about a study: one a subject, made one after the other, and an index of all."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chunkglm.errors import ChunkglmError, StudyError
from chunkglm.io.images import atomic_writer
from chunkglm.reporting.computed import Heights
from chunkglm.reporting.kept import (
    KeptStudy,
    from_events,
    kept_study,
    run_rows,
    scrubbed,
    source_of_subject,
)
from chunkglm.reporting.page import Extra, Summary, page_of
from chunkglm.reporting.provenance import versions, without_places
from chunkglm.reporting.render import Link, own_digest, render
from chunkglm.study.run import make_folder

_INDEX, _MADE = "index.html", ".pages.json"

# On one page of the index; with their pictures 500 have 2 MB.
SUBJECTS_A_PAGE = 500

Row = dict[str, Any]  # what the index tells of a subject


def study_report(
    folder: Path,
    out: Path | None,
    heights: Heights,
    *,
    subjects: Sequence[str] | None,
    title: str | None,
    progress: bool,
) -> Path:
    """Write the pages of a study; those whose subject and settings are as before are kept.

    Parameters
    ----------
    folder : Path
        Of the study.
    out : Path, optional
        Of the pages, by default ``report`` below it.
    heights : Heights
    subjects : sequence of str, optional
        To make pages of; all by default.
    title : str, optional
    progress : bool

    Returns
    -------
    Path
        The index.

    Raises
    ------
    StudyError
        When the folder is no study, or has no such subject.
    """
    from tqdm import tqdm

    study = kept_study(folder)
    wanted = _wanted(study, subjects)
    pages = make_folder(folder / "report" if out is None else out)
    made = _made_before(pages)
    name = title or f"Study {folder.resolve().name}"
    rows: dict[str, Row] = {}
    for subject in tqdm(wanted, desc="pages", unit="subject", disable=not progress):
        record = study.record(subject)
        digest = _digest(record, heights, name)
        before = made.get(subject)
        page = pages / f"sub-{subject}.html"
        if before and before["digest"] == digest and page.exists():
            rows[subject] = before
            continue
        html, row = _subject_page(study, subject, record, heights, name)
        _write(page, html)
        rows[subject] = {**row, "digest": digest}
    for subject in study.subjects:
        if subject not in rows and subject in made and (pages / f"sub-{subject}.html").exists():
            rows[subject] = made[subject]
    for gone in set(made).difference(study.subjects):
        (pages / f"sub-{gone}.html").unlink(missing_ok=True)
    ordered = {s: rows[s] for s in study.subjects if s in rows}
    _write(pages / _MADE, json.dumps(ordered))
    _write_index(pages, study, ordered, heights, name)
    return pages / _INDEX


def _wanted(study: KeptStudy, subjects: Sequence[str] | None) -> Sequence[str]:
    if subjects is None:
        return study.subjects
    plain = [str(subject).removeprefix("sub-") for subject in subjects]
    if unknown := [subject for subject in plain if subject not in study.subjects]:
        few = ", ".join(study.subjects[:8]) + (", ..." if len(study.subjects) > 8 else "")
        msg = f"{study.folder}: has no results of sub-{unknown[0]}; there are {few}"
        raise StudyError(msg)
    return plain


def _write(path: Path, text: str) -> None:
    with atomic_writer(path) as file:
        file.write(text.encode())


def _made_before(pages: Path) -> dict[str, Row]:
    try:
        found = json.loads((pages / _MADE).read_bytes())
        return {str(s): dict(row) for s, row in found.items() if "digest" in row}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _digest(record: Mapping[str, Any] | None, heights: Heights, title: str) -> str:
    """What a page is made from: what was done, how it is shown, and what shows it."""
    text = json.dumps([record, asdict(heights), title, versions(), own_digest()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _subject_page(
    study: KeptStudy,
    subject: str,
    record: Mapping[str, Any] | None,
    heights: Heights,
    title: str,
) -> tuple[str, Row]:
    """The page of a subject, of one that failed too; and what the index tells of it."""
    if record is None:
        return _failed(subject, None, "its record cannot be read", title)
    if record["status"] != "done":
        return _failed(subject, record, scrubbed(record["reason"], record), title)
    try:
        source = source_of_subject(study, subject, record)
        html, summary = page_of(source, heights, _extra(study, record, title))
    except ChunkglmError as error:
        reason = f"no page can be made of its maps: {scrubbed(str(error), record)}"
        return _failed(subject, record, reason, title)
    return html, _row(record, summary)


def _extra(study: KeptStudy, record: Mapping[str, Any], title: str) -> Extra:
    inputs = {
        f"{run['label']}: {without_places(one['path'], [one['path']])}": one["sha256"]
        for run in record["runs"]
        for one in run["inputs"].values()
    }
    return Extra(
        runs=run_rows(record),
        model={**study.model.as_dict(), "_from_events": from_events(record)},
        inputs=list(inputs.items()),
        outputs=[(name, stamp[2]) for name, stamp in record["files"].items()],
        links=[Link("All subjects", _INDEX)],
        kicker=title,
    )


def _failed(
    subject: str, record: Mapping[str, Any] | None, reason: str, title: str
) -> tuple[str, Row]:
    runs = run_rows(record) if record else []
    html = render(
        "failed.html",
        title=f"sub-{subject}",
        kicker=title,
        index=_INDEX,
        reason=reason,
        runs=runs,
        versions=versions(),
    )
    return html, {"failed": reason, "n_runs": len(runs), "n_warnings": 0}


def _row(record: Mapping[str, Any], summary: Summary) -> Row:
    return {
        "failed": "",
        "thumbnail": summary.thumbnail.uri,
        "peaks": dict(summary.peaks),
        "surviving": dict(summary.surviving),
        "n_voxels": summary.n_voxels,
        "dof": summary.dof,
        "tsnr": summary.tsnr,
        "ar": summary.ar,
        "n_runs": len(record["runs"]),
        "n_warnings": sum(len(run["warnings"]) for run in record["runs"]),
        "seconds": sum(run["seconds"] for run in record["runs"]),
    }


def _write_index(
    pages: Path, study: KeptStudy, rows: Mapping[str, Row], heights: Heights, title: str
) -> None:
    """Write the index, on several pages where there are many subjects."""
    done = [s for s, row in rows.items() if not row["failed"]]
    parts = [done[i : i + SUBJECTS_A_PAGE] for i in range(0, len(done), SUBJECTS_A_PAGE)] or [[]]
    names = [_INDEX, *(f"index-{i}.html" for i in range(2, len(parts) + 1))]
    links = [
        Link(f"{part[0]} to {part[-1]}", name)
        for part, name in zip(parts, names, strict=True)
        if len(parts) > 1
    ]
    values = _index_values(study, rows, heights, title)
    for part, name in zip(parts, names, strict=True):
        text = render("index.html", **values, links=links, shown={s: rows[s] for s in part})
        _write(pages / name, text)
    for stale in set(pages.glob("index-*.html")).difference(pages / name for name in names):
        stale.unlink()


def _index_values(
    study: KeptStudy, rows: Mapping[str, Row], heights: Heights, title: str
) -> dict[str, Any]:
    """What all pages of the index tell."""
    done = [row for row in rows.values() if not row["failed"]]
    failed = {s: row["failed"] for s, row in rows.items() if row["failed"]}
    contrasts = list(dict.fromkeys(name for row in done for name in row["peaks"]))
    most = {
        name: max((row["surviving"].get(name, 0) for row in done), default=0) or 1
        for name in contrasts
    }
    notes = []
    if not study.finished:
        notes.append("The study is not finished: runs.tsv is not there yet.")
    if unseen := len(study.subjects) - len(rows):
        notes.append(f"{unseen} more subjects have results and no page yet.")
    if len(failed) > SUBJECTS_A_PAGE:
        notes.append(f"Of {len(failed)} failures the first {SUBJECTS_A_PAGE} are listed.")
    return {
        "title": title,
        "facts": [
            ("Subjects", f"{len(done)}" + (f" of {len(rows)}" if failed else "")),
            ("Runs", f"{sum(row['n_runs'] for row in rows.values()):,}"),
            ("Contrasts", f"{len(contrasts)}"),
            ("Failed", f"{len(failed)}"),
        ],
        "failed": dict(list(failed.items())[:SUBJECTS_A_PAGE]),
        "contrasts": contrasts,
        "most": most,
        "quality": any(row.get("tsnr") is not None for row in done),
        "notes": notes,
        "model": _told_model(study),
        "threshold": heights.told(),
        "versions": versions(),
    }


def _told_model(study: KeptStudy) -> list[tuple[str, str]]:
    found = []
    for name, value in study.model.as_dict().items():
        if value is None or value == "" or value == []:
            continue
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value
        found.append((name, str(text)))
    return found
