"""Maps that were saved as NIfTI files, opened again."""

import re
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from itertools import starmap, zip_longest
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import dask.array as da
import nibabel as nib
import numpy as np
import xarray as xr
from nibabel.volumeutils import apply_read_scaling

from chunkglm._types import AnyArray, BoolArray
from chunkglm.alone import has_one_thread
from chunkglm.design._messages import list_names, suggest
from chunkglm.errors import MapsError
from chunkglm.glm.records import RECORDS
from chunkglm.glm.sidecars import ALWAYS, COVERAGE, opened_by, read_sidecar, stem
from chunkglm.glm.space import Grid, short_header, voxel_indices
from chunkglm.io.files import is_url
from chunkglm.io.inflate import inflate, inflated_size
from chunkglm.io.transfer import fetched
from chunkglm.kernels.estimate import statistics
from chunkglm.kernels.level import ESTIMATED, OUTSIDE_MASK
from chunkglm.kernels.pages import side_by_side
from chunkglm.lazy.graph import Field, arrays_of_tasks
from chunkglm.schema import COLUMN, ROW, SPACE

_NIFTI1_BYTES, _NIFTI2_BYTES = 348, 540
_NIFTI2 = _NIFTI2_BYTES.to_bytes(4, "little"), _NIFTI2_BYTES.to_bytes(4, "big")

# Bytes. Two maps of 64 x 64 x 30 are 720 kB: one thread takes 2.3 ms, another 0.1 to begin.
_WORTH_A_THREAD = 200_000


def open_maps(
    folder: str | Path, *, prefix: str, storage_options: Mapping[str, Any] | None = None
) -> xr.Dataset:
    """Open maps that `save` wrote, for `fixed_effects`.

    Parameters
    ----------
    folder : str or Path
        Or a URL that fsspec knows.
    prefix : str
        As given to `save`.
    storage_options : mapping, optional
        Passed to fsspec with a URL.

    Returns
    -------
    xarray.Dataset
        The variables and attributes of `contrast` or `fixed_effects`; of single runs without
        ``voxel_status``, which files do not hold. Voxels whose variance is 0 are NaN. The files are
        read and checked at once; ``stat``, ``p_value`` and ``z_score`` are lazy, of the effects.

    Raises
    ------
    MapsError
        When a file is missing or does not say what it is.
    """
    with ExitStack() as stack:

        def here(names: Sequence[str]) -> dict[str, tuple[Path, str]]:
            place = Path(folder)
            if is_url(folder):
                options = storage_options or {}
                place = stack.enter_context(fetched(names, str(folder), options, MapsError))
            return {name: (place / name, _label(folder, name)) for name in names}

        if not is_url(folder):
            _check_there(Path(folder), prefix)
        (sidecar,) = here([opened_by(prefix)]).values()
        attrs, stats = read_sidecar(*sidecar)
        wanted = [ALWAYS[name][0] for name in ("effect_size", "effect_variance")]
        coverage = {name: stat for name, (stat, _) in COVERAGE.items() if stat in stats}
        files = here([f"{stem(prefix, stat)}.nii.gz" for stat in (*wanted, *coverage.values())])
        (effect, grid), (variance, _), *more = _read_maps(list(files.values()))
    known = {name: data for name, (data, _) in zip(coverage, more, strict=True)}
    for (_, label), values in zip(files.values(), (effect, variance, *known.values()), strict=True):
        theirs, ours = values.shape[:-4:-1], effect.shape[:-4:-1]
        if theirs != ours:
            raise MapsError(f"{label}: has shape {theirs}, but the effects {ours}")
    variables = _variables(effect, variance, known, attrs)
    attrs.pop("n_runs", None)
    coords = voxel_indices(effect.shape[:-4:-1])
    return xr.Dataset(variables, coords=coords, attrs={**attrs, **grid.attrs()})


def _check_there(folder: Path, prefix: str) -> None:
    """Refuse a prefix under which there are no maps, naming those of the folder."""
    if (folder / opened_by(prefix)).exists():
        return
    end = opened_by("")
    there = sorted(p.name.removesuffix(end) for p in folder.glob(f"*{end}"))
    held = f"{folder} holds {list_names(there)}" if there else f"{folder} holds none at all"
    missing = folder / opened_by(prefix)
    msg = f"{missing}: no such sidecar, so no maps saved whole{suggest(prefix, there)}; {held}"
    raise MapsError(msg)


def _variables(
    effect: AnyArray, variance: AnyArray, known: Mapping[str, AnyArray], attrs: Mapping[str, Any]
) -> dict[str, tuple[tuple[str, ...], Any]]:
    """Variables of maps from effects, variances, and what is known voxel by voxel."""
    # As they lie in files, x fastest: to turn them takes a quarter of the time to decompress them.
    joint, shape = attrs["stat_type"] == "F", effect.shape[-3:]
    q = int(attrs.get("rank", 1)) if joint else 1
    e, v = effect.reshape(q, *shape), variance.reshape(q, q, *shape)
    lost = ~(np.einsum("qq...->q...", v) > 0).all(axis=0)
    for values in (e, v):  # read for this, and for nobody else
        np.copyto(values, np.nan, where=lost)
    coverage = _coverage(lost, known, attrs)
    found: dict[str, tuple[tuple[str, ...], Any]] = {
        "effect_size": ((ROW, *SPACE), _turned(e)) if joint else (SPACE, _turned(e[0])),
        "effect_variance": ((ROW, COLUMN, *SPACE), _turned(v))
        if joint
        else (SPACE, _turned(v[0, 0])),
    }
    # Made of these when asked for: who combines maps does not ask.
    work = _Statistics(e, v, coverage["dof"], str(attrs["stat_type"]))
    held = {name: _turned(values) for name, values in coverage.items()}
    over_space = {**_lazy_statistics(work, shape[::-1]), **held}
    return found | {name: (SPACE, values) for name, values in over_space.items()}


def _turned(values: AnyArray) -> AnyArray:
    """(..., z, y, x) as (..., x, y, z), and back; a view."""
    return values.swapaxes(-1, -3)


@dataclass(frozen=True, slots=True, eq=False)
class _Statistics:
    """Statistic, p and z of maps, as a task."""

    effect: AnyArray  # (q, z, y, x)
    covariance: AnyArray  # (q, q, z, y, x)
    dof: AnyArray  # (z, y, x)
    stat_type: str

    def __call__(self) -> dict[str, AnyArray]:
        q, *shape = self.effect.shape
        found = statistics(
            self.effect.reshape(q, -1),
            self.covariance.reshape(q, q, -1),
            self.dof.reshape(-1),
            self.stat_type,
        )
        names = ("stat", "p_value", "z_score")
        return {name: _turned(a.reshape(shape)) for name, a in zip(names, found, strict=True)}


def _lazy_statistics(work: _Statistics, shape: tuple[int, ...]) -> dict[str, da.Array]:
    name = f"statistics-{secrets.token_hex(16)}"
    fields = {field: Field((), "f8") for field in ("stat", "p_value", "z_score")}
    chunks = tuple((n,) for n in shape)
    return arrays_of_tasks(name, {(name, 0): (work,)}, [(name, 0)], fields, chunks, [])


def _coverage(
    lost: BoolArray, known: Mapping[str, AnyArray], attrs: Mapping[str, Any]
) -> dict[str, AnyArray]:
    """What holds in each voxel, (z, y, x): of the maps, or the one number where there is no map."""
    pooled = RECORDS in attrs
    wanted = {"dof": np.nan, **({"n_runs": 0.0} if pooled else {})}
    made = side_by_side({n: (lost.shape, np.float64) for n in wanted if n not in known})
    found = {}
    for name, elsewhere in wanted.items():
        if name in made:
            made[name].fill(float(attrs[name]))
        found[name] = made[name] if name in made else known[name].reshape(lost.shape)
        np.copyto(found[name], elsewhere, where=lost)
    if not pooled:
        return found
    if "voxel_status" in known:
        status = known["voxel_status"].reshape(lost.shape)
    else:
        status = np.where(lost, np.int8(OUTSIDE_MASK), np.int8(ESTIMATED))
    return {**found, "voxel_status": status.astype(np.int8, copy=False)}


def _label(folder: str | Path, name: str) -> str:
    return f"{str(folder).rstrip('/')}/{name}" if is_url(folder) else str(Path(folder) / name)


def _read_maps(files: Sequence[tuple[Path, str]]) -> list[tuple[AnyArray, Grid]]:
    """Read maps, large ones two at once, every other one by this thread."""
    packed = [_packed(*file) for file in files]
    sizes = {str(i): ((inflated_size(raw),), np.uint8) for i, raw in enumerate(packed)}
    # In the same pages, for they are kept together: to touch others takes a third as long as it
    # takes to decompress what lies in them.
    rooms = [room.data for room in side_by_side(sizes).values()]
    work = list(zip(packed, rooms, files, strict=True))
    if has_one_thread() or sum(map(len, packed)) < _WORTH_A_THREAD:
        return list(starmap(_read_map, work))
    with ThreadPoolExecutor(1, "chunkglm-maps") as thread:
        others = [thread.submit(_read_map, *one) for one in work[1::2]]
        ours = list(starmap(_read_map, work[::2]))
    return [one for pair in zip_longest(ours, (o.result() for o in others)) for one in pair if one]


def _packed(path: Path, label: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(error, path, label) from error


def _unreadable(error: Exception, path: Path, label: str) -> MapsError:
    cause = re.sub(r"\s+", " ", str(error)).replace(str(path), label)
    return MapsError(f"{label}: the map cannot be read ({cause})")


def _read_map(packed: bytes, room: memoryview, file: tuple[Path, str]) -> tuple[AnyArray, Grid]:
    """Read a map whole, (..., z, y, x) in float64; its checksum is compared, before nibabel."""
    try:
        raw = inflate(packed, room)
        n_bytes = _NIFTI2_BYTES if raw[:4] in _NIFTI2 else _NIFTI1_BYTES
        # Extensions are not read: none begins in these four bytes.
        found = _described(bytes(raw[:n_bytes]) + bytes(4))
        if (there := len(raw) - found.offset) < found.n_bytes:
            raise ValueError(f"{found.n_bytes} bytes of image are announced, but {there} are there")
        if len(found.shape) not in (3, 4):
            raise ValueError(f"a map has 3 or 4 axes, but the image is of shape {found.shape}")
        data = np.frombuffer(raw, found.dtype, prod(found.shape), found.offset)
        data = apply_read_scaling(data.reshape(found.shape[::-1]), found.slope, found.inter)
        return data.astype(np.float64, copy=False), found.grid
    except Exception as error:
        raise _unreadable(error, *file) from error


class _Described(NamedTuple):
    """What the header of an image says."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: AnyArray
    inter: AnyArray
    grid: Grid

    @property
    def n_bytes(self) -> int:
        """Bytes of the image."""
        return prod(self.shape) * self.dtype.itemsize


# nibabel takes 0.2 ms for a header, and the maps of a study have the same, but for a few.
@lru_cache(maxsize=64)
def _described(header: bytes) -> _Described:
    """Read a header as nibabel does."""
    kind = nib.Nifti2Image if header[:4] in _NIFTI2 else nib.Nifti1Image
    image = kind.from_bytes(header)
    proxy = image.dataobj
    affine = tuple(tuple(float(v) for v in row) for row in image.affine)
    grid = Grid(affine, short_header(image.header.binaryblock))
    slope, inter = (np.asarray(value, dtype=np.float64) for value in (proxy.slope, proxy.inter))
    return _Described(proxy.shape, proxy.dtype, proxy.offset, slope, inter, grid)
