"""Designs that several runs share, made once; each run's own is made where the run is fitted."""

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd

from chunkglm.design import design_from_events, load_confounds
from chunkglm.errors import ChunkglmError
from chunkglm.glm import open_run
from chunkglm.study.hashes import stamp_file
from chunkglm.study.model import StudyModel
from chunkglm.study.table import RunRow
from chunkglm.study.told import Told, told_here

# A study has a few designs that all subjects share; one takes 40 ms to make, as much as the fit of
# a small run, and is a table of 100 kB.
_DESIGNS_KEPT = 32


@dataclass(frozen=True, slots=True)
class Design:
    """A design made from events, and of what."""

    events: str  # SHA-256 of the file
    n_scans: int
    t_r: float
    table: pd.DataFrame
    told: tuple[Told, ...]  # what was warned of when it was made


class SharedDesigns:
    """Makes designs for workers, who then need no nilearn: 90 MB of memory, and a second each.

    Only of events that several rows name, without confounds: a design of one run's own would cost
    the one driver of many workers more time than it has.
    """

    def __init__(self, model: StudyModel, rows: Iterable[RunRow], storage: Mapping[str, Any]):
        self._model = model
        self._storage = storage
        self._counts = Counter(row.events for row in rows if not row.confounds)
        self._made: dict[str, Design | None] = {}

    def of(self, rows: Sequence[RunRow]) -> tuple[Design, ...]:
        """Return what there is for some rows; a worker makes what is not, or does not suit."""
        wanted = {r.events: r for r in rows if r.events and not r.confounds}
        shared = (self._of(row) for events, row in wanted.items() if self._counts[events] > 1)
        return tuple(design for design in shared if design is not None)

    def _of(self, row: RunRow) -> Design | None:
        if row.events not in self._made:
            while len(self._made) >= _DESIGNS_KEPT:
                del self._made[next(iter(self._made))]
            self._made[row.events] = self._make(row)
        return self._made[row.events]

    def _make(self, row: RunRow) -> Design | None:
        try:
            with told_here():  # whoever fits the run tells
                run = open_run(row.bold, t_r=row.t_r)
                t_r = run.attrs.get("repetition_time") or 0.0
                stamp = stamp_file(row.events, self._storage)
                return make_design(row.events, stamp.sha256, run.sizes["time"], t_r, self._model)
        except (ChunkglmError, OSError):
            return None  # that is news of the run, and for the worker to find


def design_of(
    row: RunRow, model: StudyModel, events: str, n_scans: int, t_r: float, made: Iterable[Design]
) -> pd.DataFrame:
    """Return the design of a row with events.

    Parameters
    ----------
    row : RunRow
    model : StudyModel
    events : str
        SHA-256 of its events, or nothing where it is not known.
    n_scans, t_r : int, float
        Of its run.
    made : iterable of Design
        Where it may be among.
    """
    if row.confounds or not events:
        confounds: Any = row.confounds or None
        if confounds and model.confounds is not None:
            confounds = load_confounds(confounds, model.confounds) if model.confounds else None
        return design_from_events(
            row.events, n_scans=n_scans, t_r=t_r, confounds=confounds, **model.design_options()
        )
    wanted = (events, n_scans, t_r)
    found = next((d for d in made if (d.events, d.n_scans, d.t_r) == wanted), None)
    found = found or make_design(row.events, events, n_scans, t_r, model)
    for one in found.told:
        warnings.warn(one.text, one.category, stacklevel=2)
    return found.table


def make_design(path: str, events: str, n_scans: int, t_r: float, model: StudyModel) -> Design:
    """Make a design from events alone; what was made lately is given again."""
    options = model.design_options().items()
    plain = tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in options)
    return _made(path, events, n_scans, t_r, plain)


@lru_cache(maxsize=_DESIGNS_KEPT)
def _made(
    path: str, events: str, n_scans: int, t_r: float, options: tuple[tuple[str, Any], ...]
) -> Design:
    with told_here() as told:
        table = design_from_events(path, n_scans=n_scans, t_r=t_r, **dict(options))
    return Design(events, n_scans, t_r, table, tuple(told))
