"""What a study needs of memory and disk, told before it starts."""

import gzip
import logging
import shutil
import struct
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import dask

from chunkglm.errors import ChunkglmError, MemoryLimitError, StudyError
from chunkglm.glm.planning import MAPS_SAVED, plan
from chunkglm.glm.plans import Plan
from chunkglm.glm.shown import amount
from chunkglm.io.files import is_url
from chunkglm.sizes import PROCESS_BYTES
from chunkglm.study.engines import Engine
from chunkglm.study.fitting import contrasts_of, fit_row
from chunkglm.study.hashes import stamp_file
from chunkglm.study.model import StudyModel
from chunkglm.study.results import NEEDED
from chunkglm.study.table import RunRow

_log = logging.getLogger("chunkglm.study")

# nilearn, which makes a run's own design from events, and what it imports: workers that did runs of
# 12 x 12 x 8 x 80 held 236 MB with it, and 148 MB where the driver had made the design.
_IMPORTED_BYTES = 90_000_000

# Of all subjects' maps in one store.
_GROUP_MAPS = 3


def check_needs(
    subjects: Mapping[str, Sequence[RunRow]], model: StudyModel, out: Path, engine: Engine
) -> None:
    """Refuse a study with runs that no worker can hold, or maps that the disk cannot.

    Of runs of the same shape the first is planned, from its header, design and mask. A run that
    cannot be planned is left to fail by itself.

    Raises
    ------
    MemoryLimitError, StudyError
        Naming what is needed and what there is.
    """
    limit, n_threads = engine.worker
    largest = max(map(len, subjects.values()), default=0)
    maps_bytes = 0
    for row in first_of_each_shape([row for rows in subjects.values() for row in rows]):
        found = _plan(row, model)
        if found is None:
            continue
        one, grid, n_voxels = found
        needed = _worker_bytes(one, grid, model, largest, n_threads)
        _log.info("%s: a worker needs at most %s for its like", row.label, amount(needed))
        if limit is not None and needed > limit:
            msg = (
                f"{row.label} ({row.bold}): a run like this needs {amount(needed)} of memory on a "
                f"worker of {n_threads} threads, but one has {amount(limit)}; give workers more "
                "memory or fewer threads"
            )
            raise MemoryLimitError(msg)
        maps_bytes = max(maps_bytes, 8 * n_voxels * len(model.contrasts))
    n_maps = MAPS_SAVED + _GROUP_MAPS * model.save_group + MAPS_SAVED * largest * model.save_runs
    needed, free = len(subjects) * n_maps * maps_bytes, shutil.disk_usage(out).free
    if needed > free:
        msg = (
            f"{out}: the maps of {len(subjects)} subjects need {amount(needed)}, but only "
            f"{amount(free)} are free; make room or choose another folder"
        )
        raise StudyError(msg)


def first_of_each_shape(rows: Sequence[RunRow]) -> list[RunRow]:
    """Of runs whose files have the same shape and type, the first."""
    found: dict[bytes, RunRow] = {}
    for row in rows:
        found.setdefault(_shape_in(row.bold), row)
    return list(found.values())


def _shape_in(path: str) -> bytes:
    """The part of a file's header that tells sizes and type; 60 µs, where parsing takes 1 ms."""
    if is_url(path) or not path.endswith((".nii", ".nii.gz")):
        return b""
    try:
        with gzip.open(path) if path.endswith(".gz") else Path(path).open("rb") as file:
            head = file.read(80)
    except (OSError, EOFError):
        return b""
    if len(head) < 80:
        return b""
    of_nifti_2 = any(struct.unpack(order + "i", head[:4])[0] == 540 for order in "<>")
    return head[:4] + (head[12:80] if of_nifti_2 else head[40:72])


def _plan(row: RunRow, model: StudyModel) -> tuple[Plan, int, int] | None:
    """Plan one run; its voxels, all and those of the mask."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # With its events stamped: the design is then the one that workers are given.
            local = row.events and not is_url(row.events)
            fitted = fit_row(row, model, {"events": stamp_file(row.events, {})} if local else {})
            passes, _, _ = contrasts_of(fitted, model)
            with dask.config.set(scheduler="synchronous"):
                plans = [plan(one, threads=1) for one in passes]
        except (ChunkglmError, OSError):
            return None
    found = max(plans, key=lambda one: one.memory_bytes, default=None)
    mask = fitted.slabs.mask
    return None if found is None else (found, mask.size, int(mask.sum()))


def _worker_bytes(one: Plan, grid: int, model: StudyModel, n_runs: int, n_threads: int) -> int:
    """Runs at work in each thread, and the maps of as many subjects that wait for other runs."""
    maps = 8 * grid * len(NEEDED) * len(model.contrasts)
    at_work = one.memory_bytes - PROCESS_BYTES
    return PROCESS_BYTES + _IMPORTED_BYTES + n_threads * (at_work + (n_runs + 1) * maps)
