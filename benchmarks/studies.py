"""Rows of a whole study, taken from the scripts that measure one."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.rows import SCRIPT, Row

_NUMBER = r"([0-9.]+)"


def study_rows(folder: Path, scratch: Path, repeats: int) -> Iterator[Row]:
    """Beside a loop of nilearn, two processes each; and 2 workers beside 1."""
    pairs = "3" if repeats <= 3 else "5"
    out = _printed("benchmark_study.py", "--folder", str(folder / "study"), "--pairs", pairs)
    seconds = _found(out, rf"nilearn {_NUMBER} s, chunkglm {_NUMBER} s, ratio {_NUMBER} \((.*?)\)")
    theirs, ours, ratio = map(float, seconds[:3])
    yield Row("study", "8 subjects x 2 runs 64x64x40x240, two processes", theirs, ours, "s", ratio,
              ">= 6", ratio >= 6, seconds[3])  # fmt: skip
    peaks = _found(out, rf"nilearn {_NUMBER} MB, chunkglm {_NUMBER} MB, share {_NUMBER} \((.*?)\)")
    theirs, ours, share = map(float, peaks[:3])
    yield Row("study-memory", "  peak memory of a worker", theirs, ours, "MB", share, "<= 0.33",
              share <= 1 / 3, peaks[3])  # fmt: skip
    out = _printed(
        "scaling.py", "--folder", str(folder / "scaling"), "--pairs", pairs, "--time-only"
    )
    one, two = (float(_found(out, rf"{n} workers? +{_NUMBER} s")[0]) for n in (1, 2))
    found = _found(out, rf"ratio +{_NUMBER} +\((.*?)\)")
    ratio = float(found[0])
    yield Row("workers", "120 runs of 32x32x20x120 on 2 workers", one, two, "s", ratio, ">= 1.8",
              ratio >= 1.8, found[1], beside="1 worker", note=_projection(out))  # fmt: skip


def _printed(script: str, *arguments: str) -> str:
    command = [sys.executable, str(SCRIPT.with_name(script)), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{script}: ended with {done.returncode}; nothing is printed of it")
    return done.stdout


def _found(text: str, pattern: str) -> tuple[str, ...]:
    match = re.search(pattern, text)
    if match is None:
        msg = f"nothing like {pattern!r} was printed: {text}"
        raise ValueError(msg)
    return match.groups()


def _projection(text: str) -> str:
    """The paper projection, on one line."""
    first = text.find("projection:")
    return " ".join(text[first:].split()) if first >= 0 else ""
