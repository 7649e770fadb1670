"""Tiny runs written byte by byte, a guard against computing, and distances between maps."""

import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import strategies as st

import chunkglm.blocks
import chunkglm.sizes

SHAPE = (5, 4, 6, 30)
AFFINE = np.array([[-3.0, 0, 0, 6], [0, 3, 0, -5], [0, 0, 3.5, -8], [0, 0, 0, 1]])
MAPS = ("effect_size", "effect_variance", "stat", "p_value", "z_score")


# Chunks of a store, not so small that a tiny run becomes thousands of files.
store_chunkings = st.tuples(
    st.integers(2, 5), st.integers(2, 4), st.integers(1, 6), st.integers(4, 30)
)


class ComputedError(Exception):
    """Something was computed where nothing may be."""


@contextmanager
def small_plans(slab_bytes: int, series_bytes: int) -> Iterator[None]:
    """Plans for a machine with next to no memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunkglm.sizes, "SMALLEST_SLAB_BYTES", slab_bytes)
        patch.setattr(chunkglm.sizes, "SLAB_BYTES", slab_bytes)
        patch.setattr(chunkglm.blocks, "SERIES_BYTES", series_bytes)
        yield


@contextmanager
def lazily() -> Iterator[None]:
    """Make any computation by dask an error."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise ComputedError("dask was asked to compute")

    with dask.config.set(scheduler=refuse):
        yield


def make_data(shape: tuple[int, ...] = SHAPE, dtype: Any = np.int16, seed: int = 0) -> Any:
    """Autocorrelated noise with a task in it, on a level that differs between voxels."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=shape)
    noise[..., 1:] += 0.4 * noise[..., :-1]
    level = rng.uniform(800, 1200, size=shape[:3])[..., None]
    task = 15.0 * make_design(shape[3])["a"].to_numpy()
    values = level + 20.0 * noise + task
    dtype = np.dtype(dtype)
    if dtype.kind in "iu" and dtype.itemsize == 1:
        values = values / 20.0
    return values.round().astype(dtype) if dtype.kind in "iu" else values.astype(dtype)


def make_design(n_scans: int = SHAPE[3]) -> pd.DataFrame:
    """Two conditions, a drift and a constant."""
    t = np.arange(n_scans)
    return pd.DataFrame(
        {
            "a": (t % 8 < 3).astype(float),
            "b": (t % 7 < 2).astype(float),
            "drift": t / n_scans - 0.5,
            "constant": 1.0,
        }
    )


def make_mask(shape: tuple[int, ...] = SHAPE) -> Any:
    """A ball-like mask that leaves the first and last planes empty."""
    mask = np.random.default_rng(9).random(shape[:3]) < 0.7
    mask[:, :, 0] = mask[:, :, -1] = False
    mask[1, 1, 1:-1] = True
    return mask


def write_run(
    path: Path,
    data: Any = None,
    *,
    slope: float = 1.0,
    intercept: float = 0.0,
    t_r: float = 2.0,
    units: tuple[str, str] = ("mm", "sec"),
    affine: Any = AFFINE,
    endian: str = "<",
    nifti: int = 1,
    after: bytes = b"",
) -> Path:
    """Write a NIfTI file without the help of a library's writer: the bytes are the test's own.

    The name's end decides: ``.nii``, ``.nii.gz``, or ``.img`` (with its ``.hdr``).
    """
    data = make_data() if data is None else np.asarray(data)
    data = data.astype(data.dtype.newbyteorder(endian))
    pair = path.suffix == ".img"
    kinds = {
        (1, False): nib.Nifti1Header,
        (2, False): nib.Nifti2Header,
        (1, True): nib.nifti1.Nifti1PairHeader,
        (2, True): nib.nifti2.Nifti2PairHeader,
    }
    header = kinds[nifti, pair](endianness=endian)
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header.set_qform(affine, code="scanner")
    header.set_sform(affine, code="scanner")
    header.set_xyzt_units(*units)
    if data.ndim > 3:
        header["pixdim"][4] = t_r
    header["scl_slope"], header["scl_inter"] = slope, intercept
    samples = data.tobytes(order="F")
    if pair:
        path.with_suffix(".hdr").write_bytes(header.binaryblock)
        path.write_bytes(samples + after)
        return path
    header["vox_offset"] = len(header.binaryblock) + 4
    content = header.binaryblock + bytes(4) + samples
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(content, 6, mtime=0) + after)
    else:
        path.write_bytes(content + after)
    return path


def truth_of(path: Path) -> Any:
    """The run's values as nibabel reads them."""
    return np.asarray(nib.load(path).dataobj)


def distances(found: xr.Dataset, expected: xr.Dataset) -> float:
    """Largest difference of two sets of t or F maps, in units that mean something.

    Effects in standard errors, variances relative, z as it is. Infinite where one is NaN and the
    other is not, or where nothing was estimated at all.
    """
    worst = 0.0
    variance = expected["effect_variance"].to_numpy()
    spread = variance
    if variance.ndim == 5:
        spread = np.einsum("qqxyz->qxyz", variance)
        variance = np.sqrt(spread[:, None] * spread[None])
    units = {"effect_size": np.sqrt(spread), "effect_variance": variance, "z_score": 1.0}
    for name, unit in units.items():
        a, b = found[name].to_numpy(), expected[name].to_numpy()
        if a.shape != b.shape or not (np.isnan(a) == np.isnan(b)).all() or np.isnan(b).all():
            return np.inf
        with np.errstate(invalid="ignore"):
            worst = max(worst, float(np.nanmax(np.abs((a - b) / unit))))
    return worst


def same_bytes(found: xr.Dataset, expected: xr.Dataset) -> bool:
    """Whether all variables hold the same bytes."""
    return set(found) == set(expected) and all(
        found[name].to_numpy().tobytes() == expected[name].to_numpy().tobytes() for name in expected
    )


def counting(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Replace a function by itself, with each call's arguments noted in the list returned."""
    original: Callable[..., Any] = getattr(owner, name)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs))
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls


def one_line(error: BaseException, *parts: object) -> str:
    """Check that a message is one line that holds the parts, and return it."""
    message = str(error)
    assert "\n" not in message, message
    for part in parts:
        assert str(part) in message, f"{part!r} is not in {message!r}"
    return message


def names_in(folder: Path) -> list[str]:
    """What a folder holds, hidden files too."""
    return sorted(p.name for p in folder.iterdir())
