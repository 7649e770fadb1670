"""Rows of a whole study, taken from what the scripts print that measure one."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.rows import SCRIPT, Row

# A pair beside nilearn takes 45 s, one of the two studies of workers together 40 s.
MOST_BESIDE, MOST_OF_WORKERS = 3, 7

# Blocks of `scaling.py` by the beginning of their heading.
WORKERS = {"workers": "16 runs of 64x64x30x191", "workers-small": "120 runs of 32x32x20x120"}
TIMES_OF_ONE = 1.8
_SIDES = ("1 worker", "2 workers")

_NUMBER = r"([0-9.]+)"
_RANGE = r"\(([0-9.]+-[0-9.]+)\)"


def study_rows(folder: Path, scratch: Path, repeats: int) -> Iterator[Row]:
    """Beside a loop of nilearn, two processes each; and 2 workers beside 1."""
    pairs = str(min(repeats, MOST_BESIDE))
    yield from beside_nilearn(
        _printed("benchmark_study.py", "--folder", str(folder / "study"), "--pairs", pairs)
    )
    pairs = str(min(repeats, MOST_OF_WORKERS))
    where = str(folder / "scaling")
    yield from of_workers(
        _printed("scaling.py", "--folder", where, "--pairs", pairs, "--time-only")
    )


def beside_nilearn(printed: str) -> Iterator[Row]:
    """Time and memory, of what `benchmark_study.py` printed."""
    seconds = _found(
        printed, rf"nilearn {_NUMBER} s, chunkglm {_NUMBER} s, ratio {_NUMBER} {_RANGE}"
    )
    theirs, ours, ratio = map(float, seconds[:3])
    yield Row("study", "8 subjects x 2 runs 64x64x40x240, two processes", theirs, ours, "s", ratio,
              ">= 6", ratio >= 6, seconds[3])  # fmt: skip
    peaks = _found(
        printed, rf"nilearn {_NUMBER} MB, chunkglm {_NUMBER} MB, share {_NUMBER} {_RANGE}"
    )
    theirs, ours, share = map(float, peaks[:3])
    yield Row("study-memory", "  peak memory of a worker", theirs, ours, "MB", share, "<= 0.33",
              share <= 1 / 3, peaks[3])  # fmt: skip


def of_workers(printed: str) -> Iterator[Row]:
    """2 workers beside 1 in both studies of `scaling.py`: what cores allow, and the projection."""
    for name, heading in WORKERS.items():
        block = _block(printed, f"{heading}, ")
        one, two = (float(_found(block, rf"\n  {n} +{_NUMBER} s ")[0]) for n in _SIDES)
        ratio, spread = _found(block, rf"\n  ratio +{_NUMBER} +{_RANGE}")
        if name == "workers":
            (beneath,) = _found(block, r"\n  (without a cluster, [^\n]*)")
        else:
            beneath = _block(printed, "projection: ")
        yield Row(
            name, f"{heading} on 2 workers", one, two, "s", float(ratio), f">= {TIMES_OF_ONE:g}",
            float(ratio) >= TIMES_OF_ONE, spread, beside="1 worker", beneath=beneath.rstrip(),
        )  # fmt: skip


def _printed(script: str, *arguments: str) -> str:
    command = [sys.executable, str(SCRIPT.with_name(script)), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{script}: ended with {done.returncode}; nothing is printed of it")
    return done.stdout


def _block(text: str, heading: str) -> str:
    """A line that begins so, and the indented ones that follow it."""
    blocks = [
        block for block in re.split(r"^(?=\S)", text, flags=re.M) if block.startswith(heading)
    ]
    if len(blocks) != 1:
        msg = f"{len(blocks)} blocks that begin with {heading!r} were printed, not one: {text}"
        raise ValueError(msg)
    return blocks[0]


def _found(text: str, pattern: str) -> tuple[str, ...]:
    match = re.search(pattern, text)
    if match is None:
        msg = f"nothing like {pattern!r} was printed: {text}"
        raise ValueError(msg)
    return match.groups()
