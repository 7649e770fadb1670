"""All subjects' maps as one store, for whoever goes on to the group."""

import hashlib
import json
import logging
import os
import shutil
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import xarray as xr

from chunkglm._types import AnyArray
from chunkglm.glm.masks import SAME_GRID
from chunkglm.schema import SPACE
from chunkglm.study.model import StudyModel

GROUP = "group"
FORMAT = 1

# Variable of the store by the file's statistic; an F contrast has no single effect.
_VARIABLES = {"effect_size": "effect", "effect_variance": "variance", "z_score": "z"}

_log = logging.getLogger("chunkglm.study")


def write_group(out: Path, model: StudyModel, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Write ``group.zarr``: (subject, contrast, x, y, z), one chunk for each map.

    Each core holds the maps of one subject's contrast at a time. Voxels without an estimate are
    NaN. Where subjects' grids differ there is no such store, and the log says so.

    Parameters
    ----------
    out : Path
    model : StudyModel
    records : mapping
        Of the subjects that are done.
    """
    target = out / "group.zarr"
    digest = _digest(model, records)
    if _held(target) == digest:
        return
    subjects, contrasts = list(records), list(model.contrasts)
    files = {s: _effects_by_contrast(records[s], contrasts) for s in subjects}
    grid = _common_grid(out, files)
    if grid is None:
        shutil.rmtree(target, ignore_errors=True)
        return
    import zarr
    from zarr.codecs import BloscCodec

    from chunkglm.io.commit import committed
    from chunkglm.io.place import place_of

    shape, affine = grid
    whole = (len(subjects), len(contrasts), *shape)
    needed = 8 * len(_VARIABLES) * int(np.prod(whole))
    attrs = {"holds": GROUP, "chunkglm_format": FORMAT, "affine": affine.tolist()}
    attrs["made_from"] = digest
    with committed(place_of(target, None), overwrite=True, needed=needed) as store:
        _named_axes(subjects, contrasts, shape).assign_attrs(attrs).to_zarr(
            store, zarr_format=3, consolidated=False
        )
        group = zarr.open_group(store, mode="r+")
        arrays: dict[str, Any] = {}
        for name, stat in _VARIABLES.items():
            array = group.create_array(
                name,
                shape=whole,
                chunks=(1, 1, *shape),
                dtype="f8",
                fill_value=np.nan,
                dimension_names=("subject", "contrast", *SPACE),
                compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")],
                config={"write_empty_chunks": True},
            )
            arrays[stat] = array

        def put(place: tuple[int, int]) -> None:
            i, j = place
            name = files[subjects[i]].get(contrasts[j])
            maps = _maps_of(out / name, shape) if name else {}
            for stat, array in arrays.items():
                array[place] = maps.get(stat, np.nan)

        places = list(product(range(len(subjects)), range(len(contrasts))))
        # Decompression and compression hold no lock of the interpreter.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            deque(pool.map(put, places), maxlen=0)


def _digest(model: StudyModel, records: Mapping[str, Mapping[str, Any]]) -> str:
    """What the store is made from: maps by content, subjects and contrasts in their order."""
    maps = [[s, [[n, stamp[2]] for n, stamp in r["files"].items()]] for s, r in records.items()]
    text = json.dumps([list(model.contrasts), maps])
    return hashlib.sha256(text.encode()).hexdigest()


def _held(target: Path) -> str:
    """What a store that is there was made from."""
    try:
        found = json.loads((target / "zarr.json").read_bytes())
        return str(found["attributes"]["made_from"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _named_axes(
    subjects: Sequence[str], contrasts: Sequence[str], shape: tuple[int, ...]
) -> xr.Dataset:
    # Strings of any length: those of a fixed length are no part of the format's specification.
    text = np.dtypes.StringDType()
    names = {"subject": subjects, "contrast": contrasts}
    coords: dict[str, Any] = {k: (k, np.array(v, dtype=text)) for k, v in names.items()}
    coords |= {d: (d, np.arange(n)) for d, n in zip(SPACE, shape, strict=True)}
    return xr.Dataset(coords=coords)


def _effects_by_contrast(record: Mapping[str, Any], contrasts: Sequence[str]) -> dict[str, str]:
    """The file of each contrast's effect over all runs of a subject."""
    found = {}
    for name in contrasts:
        ending = f"_contrast-{name}_stat-effect_statmap.nii.gz"
        whole = [f for f in record["files"] if f.endswith(ending) and f.count("/") == 1]
        if whole:
            found[name] = whole[0]
    return found


def _common_grid(
    out: Path, files: Mapping[str, Mapping[str, str]]
) -> tuple[tuple[int, ...], AnyArray] | None:
    first: tuple[tuple[int, ...], AnyArray] | None = None
    for subject, by_contrast in files.items():
        for file in by_contrast.values():
            image = nib.load(out / file)
            grid = image.shape[:3], image.affine
            first = first or grid
            same = grid[0] == first[0] and np.abs(grid[1] - first[1]).max() <= SAME_GRID
            if not same:
                _log.warning(
                    "no group.zarr: sub-%s's grid differs from the first subject's", subject
                )
                return None
    return first


def _maps_of(effect: Path, shape: tuple[int, ...]) -> dict[str, AnyArray]:
    """Maps of a subject by statistic, NaN where there is no estimate; of F contrasts only z."""
    maps = {
        stat: _load(effect.with_name(effect.name.replace("_stat-effect_", f"_stat-{stat}_")))
        for stat in _VARIABLES.values()
    }
    estimated = (maps["variance"] > 0).reshape(*shape, -1).any(axis=-1)
    return {k: np.where(estimated, v, np.nan) for k, v in maps.items() if v.ndim == len(shape)}


def _load(path: Path) -> AnyArray:
    return np.asarray(nib.load(path).dataobj, dtype=np.float64)
