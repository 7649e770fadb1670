"""A subject's part of the store of all subjects: its chunks, made where its maps are in memory.

The store would else be made from the maps' files by one process, after all else: of 16 small
subjects that took 0.6 s, as long as their fits on four workers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from chunkglm._types import AnyArray
from chunkglm.glm.space import grid_of
from chunkglm.io.images import atomic_writer
from chunkglm.io.inflate import crc32
from chunkglm.schema import SPACE

FOLDER = "pieces"

# Variables of the store; an F contrast has no single effect.
VARIABLES = ("effect_size", "effect_variance", "z_score")

# How chunks are compressed: what zarr calls it, and numcodecs.
CODEC: dict[str, Any] = {"cname": "lz4", "clevel": 5}


@dataclass(frozen=True, slots=True)
class Pieces:
    """What a subject has for the store of all subjects."""

    shape: tuple[int, ...]  # of the grid
    affine: tuple[tuple[float, ...], ...]
    files: Mapping[str, Mapping[str, tuple[str, int, int]]]
    """By contrast and variable: path below the output folder, size, CRC-32."""


def grid_of_pieces(maps: xr.Dataset, label: str) -> tuple[tuple[int, ...], Any]:
    """Shape and affine, as plain numbers."""
    matrix = grid_of(maps, label).matrix()
    return tuple(maps.sizes[d] for d in SPACE), tuple(tuple(row) for row in matrix.tolist())


def write_pieces(maps: xr.Dataset, out: Path, subject: str, contrast: str) -> Any:
    """Write the chunks of one contrast, not flushed yet.

    Returns
    -------
    dict
        Their paths below the output folder, sizes and checksums, by variable.
    """
    from numcodecs.blosc import Blosc

    codec = Blosc(**CODEC, shuffle=Blosc.SHUFFLE)
    folder = out / FOLDER / f"sub-{subject}"
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, values in _values_of(maps):
        data = bytes(codec.encode(np.ascontiguousarray(values, dtype="<f8")))
        path = folder / f"contrast-{contrast}_{name}"
        with atomic_writer(path, flush=False) as file:
            file.write(data)
        found[name] = (path.relative_to(out).as_posix(), len(data), crc32(data))
    return found


def _values_of(maps: xr.Dataset) -> Iterator[tuple[str, AnyArray]]:
    """Each variable over (x, y, z), NaN where there is no estimate, or no single one."""
    variance = maps["effect_variance"]
    rows = tuple(i for i, d in enumerate(variance.dims) if d not in SPACE)
    estimated = np.any(variance.to_numpy() > 0, axis=rows)
    for name in VARIABLES:
        single = set(maps[name].dims) == set(SPACE)
        values = maps[name].transpose(*SPACE).to_numpy() if single else np.nan
        yield name, np.where(estimated, values, np.nan)
