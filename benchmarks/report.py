"""What was measured, as JSON, as a page of the docs, as README's table, and beside a baseline."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.rows import Row

# A ratio that fell by more than this share since the baseline is told of.
MAY_FALL = 0.25

BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"

# README's rows: name and what they are called there.
README = {
    "kernel": "kernel: AR(1) and a contrast, 20,000 voxels × 191 × 12, one thread",
    "kernel-ar3": "the same with AR(3)",
    "two-runs": "two runs from `.nii.gz`, 5 mm, AR(1), fixed effects, warm process",
    "two-runs-floor": "the same over the time igzip alone takes for the files",
    "whole": "the same as a whole process, imports and written maps included",
    "whole-memory": "its peak memory",
    "drop-in": "nilearn's own lines with two imports changed, warm process",
    "drop-in-memory": "their peak memory as a whole process",
    "new-contrast": "a new contrast of a stored fit; nilearn fits again",
    "small-mask": "4,000 voxels of a store; the whole brain beside it",
    "large": "91×109×91×1200 `.nii.gz`, 5 mm, 30 regressors, whole process",
    "large-memory": "its peak memory",
    "large-floor": "its time over igzip's",
    "long-nii": "peak memory of 64×76×64×6804, 4.2 GB, `.nii`",
    "study": "8 subjects × 2 runs of 64×64×40×240, two processes",
    "study-memory": "peak memory of one of the two",
    "workers": "16 runs of 64×64×30×191 on two workers; on one beside it",
}


def as_json(machine: dict[str, str], rows: list[Row], extra: dict[str, Any]) -> str:
    """All that was measured."""
    found = {"machine": machine, "rows": [asdict(row) for row in rows], **extra}
    return json.dumps(found, indent=2) + "\n"


def read(path: Path) -> tuple[dict[str, str], list[Row], dict[str, Any]]:
    """What `as_json` wrote."""
    found = json.loads(path.read_text())
    rows = [Row(**row) for row in found["rows"]]
    extra = {name: value for name, value in found.items() if name not in ("machine", "rows")}
    return found["machine"], rows, extra


def markdown(machine: dict[str, str], rows: list[Row], extra: dict[str, Any]) -> str:
    """The docs' page."""
    lines = [
        "# Benchmark",
        "",
        "Made by `python scripts/benchmark.py`; both sides in turn, medians, and the range of the",
        "ratios of pairs. A ratio is printed only where both sides give the same numbers. The left",
        "column is nilearn's unless the row says what else it is.",
        "",
        *(f"- {name}: {value}" for name, value in machine.items()),
        "",
        "| work | beside | left | chunkglm | | ratio | goal | reached | range |",
        "|---|---|---:|---:|---|---:|---|---|---|",
    ]
    for row in rows:
        work = ("… " + row.work.strip()) if row.work.startswith(" ") else row.work
        note = f" ({row.note})" if row.note else ""
        lines.append(
            f"| {work}{note} | {row.beside} | {_number(row.left)} | {_number(row.right)} | "
            f"{row.unit} | {_number(row.ratio)} | {row.goal} | {'yes' if row.reached else 'no'} | "
            f"{row.spread} |"
        )
    for row in rows:
        if row.beneath:
            lines += ["", "```text", row.beneath, "```"]
    for title, text in extra.items():
        lines += ["", f"## {title.capitalize()}", "", "```text", text.rstrip(), "```"]
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    for least, digits in ((100, 0), (10, 1), (1, 2)):
        if abs(value) >= least:
            return f"{value:,.{digits}f}"
    return f"{value:.3f}"


def readme_table(rows: list[Row]) -> str:
    """README's table, without its markers."""
    there = {row.name: row for row in rows}
    lines = ["| work | nilearn | chunkglm | ratio |", "|---|---|---|---|"]
    for name, title in README.items():
        row = there.get(name)
        if row is None:
            continue
        left = ""
        if row.beside == "nilearn":
            left = f"{_number(row.left)} {row.unit}" if row.left is not None else row.note
        right, ratio = f"{_number(row.right)} {row.unit}", ""
        if row.beside in ("the whole brain", "1 worker"):
            right = f"{_number(row.right)} s of {_number(row.left)} s"
        if row.ratio is not None and row.beside != "the goal":
            times = row.goal.startswith(">=")
            ratio = f"{_number(row.ratio)}×" if times else f"{row.ratio:.2f}"
        lines.append(f"| {title} | {left} | {right} | {ratio} |")
    return "\n".join(lines)


def update_readme(path: Path, rows: list[Row]) -> None:
    """Replace what lies between the markers."""
    text = path.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        msg = f"{path}: needs the lines {BEGIN} and {END} once each, around the table"
        raise ValueError(msg)
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{readme_table(rows)}\n{END}{after}")


def fallen(rows: list[Row], baseline: Path) -> list[str]:
    """What is worse than the baseline by more than `MAY_FALL`, a line each."""
    before = {row.name: row for row in read(baseline)[1]}
    found = []
    for row in rows:
        was = before.get(row.name)
        if was is None or was.ratio is None or row.ratio is None or not row.goal:
            continue
        # For times faster more is better, for shares less is.
        change = row.ratio / was.ratio if row.goal.startswith(">") else was.ratio / row.ratio
        if change < 1 - MAY_FALL:
            found.append(
                f"{row.name}: {row.ratio:.2f}, {was.ratio:.2f} in the baseline "
                f"({1 - change:.0%} worse; {row.work.strip()})"
            )
    return found
