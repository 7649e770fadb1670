"""Where FIAC's files lie, and the record that says they are complete."""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from chunkglm.io.images import atomic_writer

T_R = 2.5
CONDITIONS = ("SStSSp", "SStDSp", "DStSSp", "DStDSp")

FIAC_FOLDER = Path("nipy-data-0.2", "data", "fiac", "fiac0")
RUNS = ("run1.nii.gz", "run2.nii.gz")
DESIGNS = ("run1_design.npz", "run2_design.npz")
MASK = "mask.nii.gz"
FILES = (*RUNS, *DESIGNS, MASK)
ACTIVATION = "activation.nii.gz"

SIMULATION_RECORD = "simulation.json"
DOWNLOAD_RECORD = "download.json"

_SETTLED = 2_000_000_000  # ns: file systems count in up to 2 s


@dataclass(frozen=True, slots=True)
class FiacData:
    """The files of one FIAC subject: two runs of a two-by-two sentence and speaker design.

    Attributes
    ----------
    runs : tuple of two Path
        BOLD runs, (64, 64, 30, 191) int16.
    designs : tuple of two Path
        Archives with `X`, a (191, k) float64 design matrix, and `conditions`, its k column
        names. The first four are SStSSp, SStDSp, DStSSp and DStDSp: same or different sentence,
        same or different speaker.
    mask : Path
        Brain mask, (64, 64, 30).
    t_r : float
        Repetition time, in seconds.
    activation : Path or None
        Where the simulation put a response to different sentences that is larger than to the
        same one, (64, 64, 30) int8. None for the real data.
    """

    runs: tuple[Path, Path]
    designs: tuple[Path, Path]
    mask: Path
    t_r: float = T_R
    activation: Path | None = None


def fiac_data(home: Path, *, simulated: bool) -> FiacData:
    """Name the files in `home`."""
    return FiacData(
        runs=(home / RUNS[0], home / RUNS[1]),
        designs=(home / DESIGNS[0], home / DESIGNS[1]),
        mask=home / MASK,
        activation=home / ACTIVATION if simulated else None,
    )


def sha256(path: Path) -> str:
    """Hash a file, in bounded memory; in one process once, as long as it is not written again."""
    found = path.stat()
    state = (
        str(path.absolute()),
        found.st_ino,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )
    # Written this instant, it may be written again without another time of writing.
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < _SETTLED:
        return _hash(state)
    return _hash_once(state)


def _hash(state: tuple[str, int, int, int, int]) -> str:
    with Path(state[0]).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_hash_once = lru_cache(maxsize=64)(_hash)


def file_hashes(home: Path, names: Iterable[str]) -> dict[str, str]:
    """Hash the named files of a folder."""
    return {name: sha256(home / name) for name in names}


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record; it is there whole, or not at all."""
    with atomic_writer(path) as file:
        file.write(json.dumps(record, indent=2).encode() + b"\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a record; one that is missing or damaged says nothing."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def is_intact(home: Path, record: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Say whether every named file is there with the bytes its record tells of."""
    hashes = record.get("sha256")
    if not isinstance(hashes, dict):
        return False
    return all(
        (home / name).is_file() and hashes.get(name) == sha256(home / name) for name in names
    )
