"""What jobs are told and what they tell: of a run, and of a subject."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chunkglm.study.designs import Design
from chunkglm.study.hashes import Stamp
from chunkglm.study.model import StudyModel
from chunkglm.study.pieces import Pieces
from chunkglm.study.pooled import RunMaps
from chunkglm.study.table import RunRow

# What fixed effects need of a run; its statistics are worked out anew where they are saved.
NEEDED = ("effect_size", "effect_variance", "stat", "dof", "voxel_status")


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done with runs, and where results go."""

    model: StudyModel
    out: str
    storage: Mapping[str, Any] = field(default_factory=dict)
    designs: tuple[Design, ...] = ()  # made before
    made: Mapping[str, str] = field(default_factory=dict)  # with what, for the record


@dataclass(frozen=True, slots=True)
class RunResult:
    """One run, done or not."""

    row: RunRow
    seconds: float
    failure: str = ""
    details: str = ""  # a traceback, for the log
    maps: RunMaps | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)  # contrast, and why
    warnings: tuple[str, ...] = ()
    dof: int = 0
    n_voxels: int = 0
    inputs: Mapping[str, Stamp] = field(default_factory=dict)
    files: Mapping[str, Stamp] = field(default_factory=dict)  # written, by path below the output
    disk_full: bool = False


@dataclass(frozen=True, slots=True)
class SubjectResult:
    """One subject, done or not; its runs without their maps."""

    subject: str
    runs: tuple[RunResult, ...]
    seconds: float
    failure: str = ""
    details: str = ""
    files: Mapping[str, Stamp] = field(default_factory=dict)  # by path below the output folder
    pieces: Pieces | None = None  # of the store of all subjects
    disk_full: bool = False


@dataclass(slots=True)
class Written:
    """What of a subject is on the disk; it tells so also when something failed."""

    files: dict[str, Stamp] = field(default_factory=dict)
    pieces: Pieces | None = None
