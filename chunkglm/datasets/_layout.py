"""Where FIAC's files lie, and the record that says they are complete."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
    """Hash a file, in bounded memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
