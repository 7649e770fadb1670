"""A stand-in for FIAC with the same files and shapes, and a truth to hold results against."""

import math
import operator
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import special

from chunkglm._types import FloatArray
from chunkglm.datasets._anatomy import Anatomy, affine_of, draw_anatomy, smooth_field
from chunkglm.datasets._layout import (
    ACTIVATION,
    CONDITIONS,
    DESIGNS,
    DOWNLOAD_RECORD,
    FIAC_FOLDER,
    FILES,
    MASK,
    RUNS,
    SIMULATION_RECORD,
    T_R,
    FiacData,
    fiac_data,
    file_hashes,
    is_intact,
    read_json,
    write_json,
)
from chunkglm.errors import StoreError
from chunkglm.io.images import atomic_writer, make_header, write_image, write_image_blocks

# Raised whenever the same seed gives other files.
VERSION = 1
SHAPE = (64, 64, 30)
N_SCANS = 191

# Percent of the mean per unit of a regressor. The difference is what makes each run's peak t lie
# between 6 and 9 after 5 mm of smoothing.
COMMON_PERCENT = 0.9
SAME_PERCENT = 0.5
DIFFERENCE_PERCENT = 0.56
DRIFT_PERCENT = 0.6

_N_DRIFT_MAPS = 3
_HIGH_PASS = 1 / 128  # Hz
_SENTENCE = 1.8  # s
_SLOT = 10 / 3  # s from one sentence to the next
_TRIALS = 14  # sentences in a block after its first, which has a column of its own
_REST = 9.0  # s after each block
_BLOCK_VOLUMES = 16
_FILES = (*FILES, ACTIVATION)


@dataclass(frozen=True, slots=True)
class _Design:
    X: FloatArray  # (T, P): conditions, first sentences, cosines, constant
    names: tuple[str, ...]
    n_events: int  # leading columns that are responses


def simulate_fiac(
    folder: str | os.PathLike[str],
    seed: int = 0,
    *,
    progress: Callable[[float], None] | None = None,
) -> FiacData:
    """Write a simulated FIAC subject: same layout, shapes, header and condition names.

    The noise is AR(1), white in space, with a coefficient from 0.1 to 0.5 and a standard
    deviation of 1 to 1.5 percent of the mean. Drifts lie in the span of the design's cosines.
    Different sentences (DSt) raise the signal more than the same ones (SSt) in five places,
    named by `FiacData.activation`; everywhere else the four conditions have one response, and
    any contrast between them is null.

    Parameters
    ----------
    folder : str or os.PathLike
        Made where missing. The files go to ``nipy-data-0.2/data/fiac/fiac0`` in it, as they do
        when the real data are unpacked. A complete simulation of the same seed is reused.
    seed : int, default 0
        Non-negative. The same seed gives the same bytes.
    progress : callable, optional
        Called with the fraction done, from 0 to 1.

    Returns
    -------
    FiacData
        Two runs of (64, 64, 30, 191) int16, 3 by 3 by 4 mm, repetition time 2.5 s.

    Raises
    ------
    StoreError
        If the folder holds the real data, or files whose origin is not recorded.
    """
    return _simulate(Path(folder), seed, progress=progress)


def _simulate(
    folder: Path,
    seed: int = 0,
    *,
    shape: tuple[int, int, int] = SHAPE,
    n_scans: int = N_SCANS,
    progress: Callable[[float], None] | None = None,
) -> FiacData:
    report = progress or (lambda _: None)
    seed = operator.index(seed)
    home = folder / FIAC_FOLDER
    parameters = _parameters(seed, shape, n_scans)
    record = read_json(home / SIMULATION_RECORD)
    same = record.get("complete") and record.get("parameters") == parameters
    if not (same and is_intact(home, record, _FILES)):
        _refuse_other_data(home)
        home.mkdir(parents=True, exist_ok=True)
        # The record comes first, to say the files are not FIAC's, and again last: complete.
        write_json(home / SIMULATION_RECORD, {"complete": False, "parameters": parameters})
        _write_all(home, seed, shape, n_scans, report)
        hashes = file_hashes(home, _FILES)
        finished = {"complete": True, "parameters": parameters, "sha256": hashes}
        write_json(home / SIMULATION_RECORD, finished)
    report(1.0)
    return fiac_data(home, simulated=True)


def _parameters(seed: int, shape: tuple[int, int, int], n_scans: int) -> dict[str, Any]:
    return {
        "version": VERSION,
        "seed": seed,
        "shape": list(shape),
        "n_scans": n_scans,
        "t_r": T_R,
        "common_percent": COMMON_PERCENT,
        "same_percent": SAME_PERCENT,
        "difference_percent": DIFFERENCE_PERCENT,
        "drift_percent": DRIFT_PERCENT,
    }


def _refuse_other_data(home: Path) -> None:
    """Never write over the real data: with a simulation's names they would be lost."""
    if (home / SIMULATION_RECORD).exists():
        return
    found = [name for name in (DOWNLOAD_RECORD, *FILES) if (home / name).exists()]
    if found:
        raise StoreError(
            f"{home}: holds {', '.join(found)}, which no simulation wrote;"
            " give another folder, or move them away"
        )


def _write_all(
    home: Path,
    seed: int,
    shape: tuple[int, int, int],
    n_scans: int,
    report: Callable[[float], None],
) -> None:
    # One stream for each part, so that no part depends on how much another has drawn.
    streams = [
        np.random.Generator(np.random.PCG64(child))
        for child in np.random.SeedSequence(seed).spawn(5)
    ]
    anatomy = draw_anatomy(shape, streams[0])
    template = _header((*shape, n_scans))
    for name, mask in ((MASK, anatomy.mask), (ACTIVATION, anatomy.active > 0)):
        write_image(home / name, mask.astype(np.int8), anatomy.affine, header=template)
    designs = [_draw_design(n_scans, streams[1 + run]) for run in range(2)]
    for run, design in enumerate(designs):
        with atomic_writer(home / DESIGNS[run]) as file:
            np.savez(file, X=design.X, conditions=np.array(design.names))
    for run, design in enumerate(designs):
        blocks = _draw_run(anatomy, design, streams[3 + run])
        write_image_blocks(home / RUNS[run], template, _reported(blocks, n_scans, run / 2, report))


def _reported(
    blocks: Iterator[FloatArray], n_scans: int, start: float, report: Callable[[float], None]
) -> Iterator[FloatArray]:
    done = 0
    for block in blocks:
        yield block
        done += block.shape[-1]
        report(start + 0.5 * done / n_scans)


def _header(shape: tuple[int, int, int, int]) -> nib.Nifti1Header:
    affine = affine_of(shape[:3])
    header = make_header(shape, np.int16, affine, descrip="simulated stand-in for FIAC")
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner")
    header.set_zooms((*header.get_zooms()[:3], T_R))
    header.set_xyzt_units("mm", "sec")
    return header


def _draw_design(n_scans: int, rng: np.random.Generator) -> _Design:
    """Draw onsets and build the design: (n_scans, P)."""
    times = T_R * np.arange(n_scans)
    names = (*CONDITIONS, "FirstSt")
    onsets: list[list[float]] = [[] for _ in names]
    block = _SLOT * (1 + _TRIALS) + _REST
    n_blocks = max(1, math.floor(n_scans * T_R / block))
    # As many of each condition as the run has room for, in an order of its own.
    order = rng.permutation(np.resize(np.arange(len(CONDITIONS)), n_blocks * _TRIALS))
    for index in range(n_blocks):
        start = index * block + rng.uniform(0, T_R)
        onsets[-1].append(start)
        for slot in range(_TRIALS):
            onsets[order[index * _TRIALS + slot]].append(start + _SLOT * (slot + 1))
    responses = [_response(times, np.array(onset)) for onset in onsets]
    n_cosines = min(n_scans - 1, math.floor(2 * n_scans * T_R * _HIGH_PASS))
    cosines = [
        math.sqrt(2 / n_scans) * np.cos(np.pi / n_scans * (np.arange(n_scans) + 0.5) * k)
        for k in range(1, n_cosines + 1)
    ]
    X = np.column_stack([*responses, *cosines, np.ones(n_scans)])
    drifts = (f"drift_{k}" for k in range(1, n_cosines + 1))
    return _Design(X, (*names, *drifts, "constant"), len(names))


def _response(times: FloatArray, onsets: FloatArray) -> FloatArray:
    """Response to sentences at `onsets`, in seconds: Glover's haemodynamic response; (T,)."""
    since = times[:, None] - onsets[None, :]
    return np.asarray((_step(since) - _step(since - _SENTENCE)).sum(axis=1))


def _step(since: FloatArray) -> FloatArray:
    """Response to a step at 0: the integral of two gamma densities' difference, 1 in the end.

    In closed form, because importing a library's sampled one takes longer than the simulation.
    """
    scaled = np.clip(since, 0, None) / 0.9
    rise, undershoot = special.gammainc(6 / 0.9, scaled), special.gammainc(12 / 0.9, scaled)
    return np.asarray((rise - 0.48 * undershoot) / (1 - 0.48))


def _courses_and_maps(
    anatomy: Anatomy, design: _Design, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Split what is not noise into (T, K) time courses and K maps (K, x, y, z)."""
    shape = anatomy.mask.shape
    X = design.X
    every = X[:, : design.n_events].sum(axis=1)
    same, different = X[:, :2].sum(axis=1), X[:, 2:4].sum(axis=1)
    # Drifts are made of the design's own cosines: what it cannot explain would be noise that
    # no AR(1) describes, and the null would not hold.
    cosines = X[:, design.n_events : -1]
    falling = 1 / np.arange(1, cosines.shape[1] + 1)
    weights = falling[:, None] * rng.standard_normal((cosines.shape[1], _N_DRIFT_MAPS))
    drifts = cosines @ weights
    drifts /= np.maximum(drifts.std(axis=0), np.finfo(np.float64).tiny)
    courses = np.column_stack([every, same + different, different, drifts])
    unit = np.where(anatomy.mask, anatomy.mean, 0) / 100
    maps = [
        COMMON_PERCENT * anatomy.auditory * unit,
        SAME_PERCENT * anatomy.active * unit,
        DIFFERENCE_PERCENT * anatomy.active * unit,
    ]
    for _ in range(_N_DRIFT_MAPS):
        field = smooth_field(anatomy.affine, (shape[0], shape[1], shape[2]), 25.0, rng)
        maps.append(DRIFT_PERCENT * field * unit)
    return courses.astype(np.float32), np.stack(maps).astype(np.float32)


def _draw_run(anatomy: Anatomy, design: _Design, rng: np.random.Generator) -> Iterator[FloatArray]:
    """Draw one run; (x, y, z, t_block) float32 blocks in order, whole and non-negative numbers."""
    courses, maps = _courses_and_maps(anatomy, design, rng)
    # All arrays are held as (z, y, x): the order of the file, so that nothing is transposed.
    maps = np.ascontiguousarray(maps.transpose(0, 3, 2, 1))
    mean, rho, noise = (
        np.ascontiguousarray(array.T) for array in (anatomy.mean, anatomy.rho, anatomy.noise)
    )
    innovation = np.sqrt(1 - rho**2)
    state = rng.standard_normal(mean.shape, dtype=np.float32)
    n_scans = len(courses)
    for start in range(0, n_scans, _BLOCK_VOLUMES):
        stop = min(start + _BLOCK_VOLUMES, n_scans)
        block = np.empty((stop - start, *mean.shape), dtype=np.float32)
        for volume, course in zip(block, courses[start:stop], strict=True):
            np.multiply(noise, state, out=volume)
            volume += mean
            # Not a matrix product: BLAS adds in an order that depends on the machine.
            for value, stencil in zip(course, maps, strict=True):
                volume += value * stencil
            np.clip(np.rint(volume, out=volume), 0, 32767, out=volume)
            state *= rho
            state += innovation * rng.standard_normal(mean.shape, dtype=np.float32)
        yield block.T
