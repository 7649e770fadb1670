"""Design matrices and the weights of contrasts as drawings, with text that stays text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from chunkglm.glm import Fit
from chunkglm.reporting.pictures import matrix_picture
from chunkglm.reporting.provenance import array_digest

_WIDEST, _NARROWEST = 26.0, 3.0  # pixels a column
_WIDTH = 760.0
_HEIGHT = 300.0
_LETTER = 6.3  # pixels, about, of the names' type
_LONGEST = 32  # letters of a contrast's name
_NAMED = 9.0  # pixels a column needs to be named


@dataclass(frozen=True, slots=True)
class Column:
    """A regressor."""

    name: str
    x: float  # its middle
    named: bool


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight that is not 0."""

    column: int
    value: float
    x: float
    shade: float  # share of the row's largest


@dataclass(frozen=True, slots=True)
class WeightRow:
    """A row of a contrast under the design."""

    label: str
    weights: tuple[Weight, ...]


@dataclass(frozen=True, slots=True)
class DesignDrawing:
    """A design, drawn once for all runs that have it."""

    runs: tuple[str, ...]
    uri: str
    columns: tuple[Column, ...]
    rows: tuple[WeightRow, ...]
    n_volumes: int
    n_kept: int
    rank: int
    dof: int
    step: float
    matrix_width: float
    matrix_height: float
    top: float  # room for the names
    right: float  # and for those of the contrasts
    digest: str

    @property
    def width(self) -> float:
        """Of the drawing."""
        return self.matrix_width + self.right

    @property
    def height(self) -> float:
        """Of the drawing."""
        return self.top + self.matrix_height + 10.0 + 24.0 * len(self.rows)


def design_drawings(
    fits: Mapping[str, Fit], contrasts: Mapping[str, Sequence[Mapping[str, float]]]
) -> list[DesignDrawing]:
    """Draw the designs of runs; runs with the same one share a drawing.

    Parameters
    ----------
    fits : mapping
        By run.
    contrasts : mapping
        By contrast, weights by column, row by row.
    """
    groups: dict[tuple[str, tuple[str, ...], bytes], list[str]] = {}
    for label, fit in fits.items():
        key = (array_digest(fit.design.values), fit.design.names, fit.sample_mask.tobytes())
        groups.setdefault(key, []).append(label)
    return [
        _drawing(tuple(labels), fits[labels[0]], contrasts, key[0])
        for key, labels in groups.items()
    ]


def _drawing(
    labels: tuple[str, ...],
    fit: Fit,
    contrasts: Mapping[str, Sequence[Mapping[str, float]]],
    digest: str,
) -> DesignDrawing:
    names = fit.design.names
    step = float(np.clip(_WIDTH / len(names), _NARROWEST, _WIDEST))
    asked = {column for rows in contrasts.values() for row in rows for column in row}
    columns = tuple(
        Column(name, (i + 0.5) * step, step >= _NAMED or name in asked)
        for i, name in enumerate(names)
    )
    longest = max((len(c.name) for c in columns if c.named), default=0)
    rows = [
        _weight_row(_label(name, i, len(each)), row, names, step)
        for name, each in contrasts.items()
        for i, row in enumerate(each)
        if set(row) <= set(names)
    ]
    return DesignDrawing(
        labels,
        matrix_picture(fit.design.values),
        columns,
        tuple(rows),
        fit.design.values.shape[0],
        int(fit.sample_mask.sum()),
        fit.factor.rank,
        fit.dof,
        step,
        step * len(names),
        _HEIGHT,
        16.0 + min(150.0, _LETTER * longest * 0.72),
        max(_LETTER * longest * 0.7, 12 + _LETTER * max((len(r.label) for r in rows), default=0)),
        digest,
    )


def _label(name: str, row: int, n_rows: int) -> str:
    short = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
    return f"{short}, row {row + 1}" if n_rows > 1 else short


def _weight_row(
    label: str, row: Mapping[str, float], names: Sequence[str], step: float
) -> WeightRow:
    largest = max((abs(w) for w in row.values()), default=1.0) or 1.0
    weights = tuple(
        Weight(i, row[name], (i + 0.5) * step, abs(row[name]) / largest)
        for i, name in enumerate(names)
        if name in row
    )
    return WeightRow(label, weights)
