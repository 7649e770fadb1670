"""Plans: what is promised, and that fresh processes keep it."""

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from helpers.measure_peak import STATUS, measured

import chunkglm as cg
from chunkglm.errors import DesignError, MapsError, MemoryLimitError
from chunkglm.glm import combined as combining
from chunkglm.glm import planning

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
LEAST_SHARE = 0.4

only_linux = pytest.mark.skipif(not STATUS.exists(), reason="peak memory is read from /proc")


def write_run(path: Path, shape: tuple[int, int, int], n_scans: int, dtype: Any) -> Path:
    rng = np.random.default_rng(n_scans)
    some = rng.normal(1000, 50, (8, *reversed(shape))).astype(dtype)
    repeated = some[np.arange(n_scans) % 8].T  # cheap to make; its values do not matter here
    nib.save(nib.Nifti1Image(repeated, AFFINE, dtype=dtype), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plans")


def sphere(folder: Path, shape: tuple[int, int, int], n_voxels: int | None) -> Path | None:
    """A mask of the voxels nearest to the middle; all for None."""
    if n_voxels is None:
        return None
    away = np.indices(shape) - (np.array(shape)[:, None, None, None] - 1) / 2
    mask = np.zeros(shape, bool)
    mask.reshape(-1)[np.argsort((away**2).sum(axis=0), axis=None)[:n_voxels]] = True
    path = folder / f"mask-{n_voxels}-{shape[0]}.npy"
    np.save(path, mask)
    return path


def assert_kept(**job: Any) -> None:
    found = measured(**job)
    assert found.peak <= found.planned
    assert found.peak >= LEAST_SHARE * found.planned


@only_linux
@pytest.mark.parametrize(
    ("shape", "n_scans", "dtype", "limit"),
    [
        ((20, 20, 10), 50, np.int16, None),
        ((64, 64, 30), 100, np.int16, None),
        ((64, 64, 30), 100, np.float32, None),
        ((64, 64, 30), 100, np.int16, "220MB"),
        ((91, 109, 91), 20, np.int16, None),
    ],
)
def test_convert__stays_below_its_plan(
    tmp_path: Path, shape: tuple[int, int, int], n_scans: int, dtype: Any, limit: str | None
) -> None:
    run = write_run(tmp_path / "run.nii", shape, n_scans, dtype)
    assert_kept(work="convert", runs=[run], store=tmp_path / "run.zarr", memory_limit=limit)


@only_linux
@pytest.mark.parametrize("form", [".nii", ".nii.gz", ".zarr"])
@pytest.mark.parametrize(
    ("shape", "n_scans", "n_voxels", "fwhm"),
    [
        ((20, 20, 10), 50, None, 5),
        ((64, 64, 30), 100, None, None),
        ((64, 64, 30), 100, 20_000, 5),
        ((64, 64, 30), 100, 4_000, None),
    ],
)
def test_fixed_effects__stay_below_their_plan(
    tmp_path: Path,
    form: str,
    shape: tuple[int, int, int],
    n_scans: int,
    n_voxels: int | None,
    fwhm: float | None,
) -> None:
    suffix = ".nii" if form == ".zarr" else form
    runs = [write_run(tmp_path / f"run-{i}{suffix}", shape, n_scans, np.int16) for i in (1, 2)]
    if form == ".zarr":
        runs = [cg.convert(r, r.with_suffix(".zarr"), progress=False) for r in runs]
    mask = sphere(tmp_path, shape, n_voxels)
    assert_kept(work="fixed effects", runs=runs, mask=mask, smoothing_fwhm=fwhm)


@only_linux
@pytest.mark.parametrize(
    "chunks", [{"time": 7}, {"z": 5, "time": 64}, {"x": 16, "y": 16, "time": -1}]
)
def test_fit__of_an_array_stays_below_its_plan(tmp_path: Path, chunks: dict[str, int]) -> None:
    shape = (64, 64, 30)
    run = write_run(tmp_path / "run.nii", shape, 191, np.float32)
    mask = sphere(tmp_path, shape, 60_000)
    assert_kept(work="fit", runs=[run], mask=mask, smoothing_fwhm=5, chunks=chunks)


@only_linux
@pytest.mark.parametrize("form", [".nii", ".zarr"])
def test_fit__takes_no_more_for_a_longer_run(tmp_path: Path, form: str) -> None:
    shape, found = (48, 48, 30), []
    mask = sphere(tmp_path, shape, 20_000)
    for n_scans in (150, 1500):
        run: Any = write_run(tmp_path / f"{n_scans}.nii", shape, n_scans, np.int16)
        if form == ".zarr":
            run = cg.convert(run, tmp_path / f"{n_scans}.zarr", progress=False)
        found.append(measured(work="fit", runs=[run], mask=mask, smoothing_fwhm=5))
    short, long = found
    assert long.planned <= 1.1 * short.planned
    # What the C library keeps of freed memory differs from process to process, by up to 20 MB.
    assert long.peak <= 1.1 * short.peak + 20e6


@pytest.fixture(scope="module")
def small(folder: Path) -> Path:
    return write_run(folder / "small.nii.gz", (6, 5, 4), 40, np.int16)


def design(n_scans: int = 40) -> Any:
    noise = np.random.default_rng(0).standard_normal((n_scans, 2))
    return np.c_[noise, np.ones(n_scans)]


def test_plan__reads_no_data(folder: Path) -> None:
    run = write_run(folder / "cut.nii", (6, 5, 4), 40, np.int16)
    spoiled = folder / "spoiled.nii.gz"
    whole = gzip.compress(run.read_bytes(), mtime=0)
    spoiled.write_bytes(whole[:-8] + bytes(8))  # neither its checksum nor its length holds
    for found in (cg.plan(spoiled, folder / "new.zarr"), cg.plan(spoiled, design())):
        assert found.bytes_read == spoiled.stat().st_size
    assert not (folder / "new.zarr").exists()


def test_plan__of_a_conversion_counts_chunks_and_bytes(folder: Path, small: Path) -> None:
    found = cg.plan(small, folder / "run.zarr", threads=3)
    assert found.bytes_read == small.stat().st_size
    assert found.disk_bytes >= 6 * 5 * 4 * 40 * 2
    assert (found.chunks, found.tasks, found.scratch_bytes, found.threads) == (1, 1, 0, 3)
    cg.convert(small, folder / "run.zarr", progress=False)
    written = sum(f.stat().st_size for f in (folder / "run.zarr").rglob("*") if f.is_file())
    assert written <= found.bytes_written


def test_plan__of_a_run_and_of_its_fit_are_the_same(small: Path) -> None:
    options: dict[str, Any] = {"mask": np.ones((6, 5, 4)), "smoothing_fwhm": 5, "noise": "ols"}
    assert cg.plan(small, design(), **options) == cg.plan(cg.fit(small, design(), **options))


def test_plan__of_maps_and_of_their_fixed_effects_are_the_same(small: Path, folder: Path) -> None:
    runs = [small, write_run(folder / "other.nii.gz", (6, 5, 4), 40, np.int16)]
    maps = [cg.contrast(cg.fit(run, design()), [1, 0, 0]) for run in runs]
    found = cg.plan(maps)
    assert found == cg.plan(cg.fixed_effects(maps))
    assert found.bytes_read == sum(run.stat().st_size for run in runs)
    assert found.tasks > cg.plan(maps[0]).tasks
    computed = [one.compute() for one in maps]
    held = cg.plan(computed)
    assert (held.bytes_read, held.chunks) == (0, 0)
    # What is combined, and nothing else, is counted where it lies in the graph.
    combined = ("effect_size", "effect_variance", "dof", "voxel_status")
    graph = cg.fixed_effects([computed[0].chunk(), computed[1]]).__dask_graph__()
    assert planning._in_memory(graph) == sum(one[n].nbytes for one in computed for n in combined)


def test_plan__of_maps_in_memory_combines_nothing(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = [cg.contrast(cg.fit(small, design()), [1, 0, 0]).compute() for _ in range(2)]

    def refuse(*_: object) -> None:
        pytest.fail("maps were combined while their plan was made")

    monkeypatch.setattr(combining._Combine, "__call__", refuse)
    with pytest.warns(UserWarning, match="more than once"):
        assert cg.plan(maps).tasks > 0


def test_plan__of_a_changed_run_counts_its_blocks(small: Path) -> None:
    run = cg.open_run(small)
    found = cg.plan(run * 2.0, design())
    assert found.bytes_read == 6 * 5 * 4 * 40 * 8
    assert found.memory_bytes > cg.plan(cg.fit(run, design()).load()).memory_bytes


def test_plan__takes_any_zarr_store_as_a_store(small: Path) -> None:
    from zarr.storage import MemoryStore

    assert cg.plan(small, MemoryStore()).chunks == 1
    assert "s3://bucket/run.zarr" in cg.plan(small, "s3://bucket/run.zarr").work


def test_plan__needs_less_with_fewer_threads_and_fewer_voxels(folder: Path) -> None:
    run = write_run(folder / "large.nii", (64, 64, 30), 10, np.int16)
    mask = np.zeros((64, 64, 30))
    mask[30:34] = 1
    whole = cg.plan(run, design(10), threads=4).memory_bytes
    assert cg.plan(run, design(10), threads=1).memory_bytes < whole
    assert cg.plan(run, design(10), threads=4, mask=mask).memory_bytes < whole


def test_check__names_what_is_needed_the_limit_and_the_way_out(small: Path) -> None:
    found = cg.plan(small, design(), threads=2)
    assert found.check(found.memory_bytes) is found
    assert found.check("1GB") is found
    with pytest.raises(MemoryLimitError) as caught:
        found.check("100 MB")
    message = str(caught.value)
    for part in (str(small), f"needs {found.memory_bytes} bytes", "limit is 100000000", "thread"):
        assert part in message
    with pytest.raises(MemoryLimitError, match="needs"):
        cg.plan(small, design(), memory_limit="100MB")


def test_check__of_a_conversion_tells_of_smaller_blocks(folder: Path) -> None:
    run = write_run(folder / "blocks.nii", (64, 64, 30), 40, np.int16)
    with pytest.raises(MemoryLimitError, match="smaller blocks"):
        cg.plan(run, folder / "x.zarr").check("180MB")
    assert cg.plan(run, folder / "x.zarr", memory_limit="180MB").memory_bytes <= 180e6
    with pytest.raises(MemoryLimitError, match="limit is 160000000; it holds one volume"):
        cg.plan(run, folder / "x.zarr", memory_limit="160MB")


def test_repr__is_a_small_table(small: Path) -> None:
    lines = repr(cg.plan(small, design(), threads=2)).splitlines()
    assert str(small) in lines[0]
    assert [line.split()[0] for line in lines[1:]] == ["memory", "reads", "writes", "disk", "tasks"]
    assert "2 threads" in lines[1]
    assert all(len(line) < 80 for line in lines[1:])


@pytest.mark.parametrize(
    ("work", "options", "error"),
    [("run.nii", {}, MapsError), (3, {}, MapsError), (3, {"mask": 1}, DesignError)],
)
def test_plan__of_something_else_is_refused(
    work: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match="plan needs"):
        cg.plan(work, **options)


def chunkglm(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chunkglm", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_command__shows_plans_and_exits_with_2(folder: Path, small: Path) -> None:
    np.save(folder / "X.npy", design())
    fit = cg.fit(small, design())
    for prefix in ("a", "b"):
        cg.save(cg.contrast(fit, [1, 0, 0]), folder, prefix=prefix)
    for words, verb in (
        (("convert", small, folder / "cli.zarr"), "convert"),
        (("fit", small, folder / "X.npy", "--smoothing-fwhm", 5), "fit"),
        (("fixed-effects", folder / "a", folder / "b"), "combine"),
    ):
        done = chunkglm("plan", *words, "--memory-limit", "1GB")
        assert done.returncode == 0, done.stderr
        assert f"to {verb}" in done.stdout
        done = chunkglm("plan", *words, "--memory-limit", "100MB", "--threads", 1)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith("chunkglm: error: ")
        assert "limit is 100000000" in line
    assert not (folder / "cli.zarr").exists()
    done = chunkglm("plan", "fixed-effects", folder / "none")
    assert done.returncode == 2
    assert "none_stat-effect" in done.stderr
