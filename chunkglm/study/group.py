"""All subjects' maps as one store, for whoever goes on to the group."""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs.vlen import VLenUTF8
from zarr.codecs import BloscCodec, BytesCodec, VLenUTF8Codec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.dtype import parse_dtype
from zarr.core.group import GroupMetadata
from zarr.core.metadata import ArrayV3Metadata

from chunkglm._types import AnyArray
from chunkglm.glm.masks import SAME_GRID
from chunkglm.io.commit import committed
from chunkglm.io.manifest import RecordingStore
from chunkglm.io.place import place_of
from chunkglm.schema import SPACE
from chunkglm.study.model import StudyModel
from chunkglm.study.pieces import CODEC, VARIABLES

GROUP = "group"
FORMAT = 1

_log = logging.getLogger("chunkglm.study")


def write_group(out: Path, model: StudyModel, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Write ``group.zarr``: (subject, contrast, x, y, z), one chunk for each map.

    Its chunks are there already, made with the maps; here they get their place. Voxels without an
    estimate are NaN. Where subjects' grids differ there is no such store, and the log says so.

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
    grid = _common_grid(records)
    if grid is None:
        shutil.rmtree(target, ignore_errors=True)
        return
    shape, affine = grid
    needed = 8 * len(VARIABLES) * len(subjects) * len(contrasts) * prod(shape)
    attrs = {"holds": GROUP, "chunkglm_format": FORMAT, "affine": affine, "made_from": digest}
    with committed(place_of(target, None), overwrite=True, needed=needed) as store:
        axes = _axes(subjects, contrasts, shape)
        arrays = _make_arrays(store, axes, attrs)
        for (i, subject), (j, contrast) in product(enumerate(subjects), enumerate(contrasts)):
            for name, (path, size, crc) in records[subject]["pieces"]["files"][contrast].items():
                chunk = arrays[name].encode_chunk_key((i, j, 0, 0, 0))
                store.take(f"{name}/{chunk}", out / path, (size, crc))


def _axes(subjects: list[str], contrasts: list[str], shape: tuple[int, ...]) -> dict[str, AnyArray]:
    """What the store's dimensions are named after, and along."""
    # Strings of any length: those of a fixed length are no part of the format's specification.
    text = np.dtypes.StringDType()
    names = {"subject": np.array(subjects, text), "contrast": np.array(contrasts, text)}
    return names | {d: np.arange(n, dtype=np.int64) for d, n in zip(SPACE, shape, strict=True)}


def _make_arrays(
    store: RecordingStore, axes: Mapping[str, AnyArray], attrs: dict[str, Any]
) -> dict[str, ArrayV3Metadata]:
    """Make the arrays that chunks will be of, and write their axes.

    In this thread: zarr crosses to its own and back some times for each array, and of a study of 16
    runs on two workers, 1.8 s, all eight of them took 40 ms in which no worker has anything to do.
    """
    shape = tuple(map(len, axes.values()))
    grid = ArrayV3Metadata(
        shape=shape,
        data_type=parse_dtype("f8", zarr_format=3),
        chunk_grid=_regular((1, 1, *shape[2:])),
        # All chunks in one folder, for each folder costs as much to bring to the disk as one.
        chunk_key_encoding={"name": "default", "separator": "."},
        fill_value=np.nan,
        codecs=[BytesCodec(), BloscCodec(**CODEC, shuffle="shuffle", typesize=8)],
        attributes={},
        dimension_names=tuple(axes),
    )
    arrays = dict.fromkeys(VARIABLES, grid)
    arrays |= {name: _axis(name, values) for name, values in axes.items()}
    _put(store, "", GroupMetadata(attrs, zarr_format=3))
    for name, array in arrays.items():
        _put(store, f"{name}/", array)
    for name, values in axes.items():
        store.put(f"{name}/{arrays[name].encode_chunk_key((0,))}", _encoded(values))
    return arrays


def _put(store: RecordingStore, prefix: str, node: GroupMetadata | ArrayV3Metadata) -> None:
    for name, text in node.to_buffer_dict(default_buffer_prototype()).items():
        store.put(f"{prefix}{name}", text.to_bytes())


def _is_text(values: AnyArray) -> bool:
    return isinstance(values.dtype, np.dtypes.StringDType)


def _encoded(values: AnyArray) -> bytes:
    """Encode an axis as the codec does that `_axis` names."""
    if _is_text(values):
        return bytes(VLenUTF8().encode(values.astype(object)))
    return values.astype("<i8").tobytes()


def _axis(name: str, values: AnyArray) -> ArrayV3Metadata:
    kind = parse_dtype(values.dtype, zarr_format=3)
    return ArrayV3Metadata(
        shape=values.shape,
        data_type=kind,
        chunk_grid=_regular(values.shape),
        chunk_key_encoding={"name": "default"},
        fill_value=kind.default_scalar(),
        codecs=[VLenUTF8Codec() if _is_text(values) else BytesCodec()],
        attributes={},
        dimension_names=(name,),
    )


def _regular(chunks: tuple[int, ...]) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": chunks}}


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


def _common_grid(records: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[int, ...], Any] | None:
    first: tuple[tuple[int, ...], Any] | None = None
    for subject, record in records.items():
        grid = tuple(record["pieces"]["shape"]), record["pieces"]["affine"]
        first = first or grid
        off = np.abs(np.subtract(grid[1], first[1])).max()
        if grid[0] != first[0] or not off <= SAME_GRID:
            _log.warning("no group.zarr: sub-%s's grid differs from the first subject's", subject)
            return None
    return first
