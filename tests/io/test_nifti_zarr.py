"""Runs in nifti-zarr stores: read at level 0, lazily, and refused where they are not a run."""

import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from helpers_lazy import (
    AFFINE,
    SHAPE,
    distances,
    make_data,
    make_design,
    make_mask,
    one_line,
    truth_of,
    write_run,
)
from numpy.lib import recfunctions

import chunkglm as cg
from chunkglm.errors import ImageError
from chunkglm.io.nifti_zarr import NiftiZarrRun, open_nifti_zarr
from chunkglm.io.place import place_of

CHUNKS = {"t": 7, "c": 1, "z": 2, "y": 3, "x": 4}
SPEC_AXES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
FULL = range(SHAPE[2])


def write_nifti_zarr(
    target: Any,
    nifti: Path,
    *,
    zarr_format: int = 3,
    axes: str = "tzyx",
    levels: int = 2,
    header_as: str = "u1",
    samples: Any = None,
    shards: bool = False,
) -> Any:
    """A store as the specification has it, made with plain zarr from a NIfTI file's bytes."""
    content = nifti.read_bytes()
    header = content[: 540 if content[:4] in (b"\x1c\2\0\0", b"\0\0\2\x1c") else 348]
    if samples is None:
        samples = np.asarray(cg.io.open_nifti(nifti).read(FULL, 0, SHAPE[3]))
    if "c" in axes and samples.ndim == 4:
        samples = samples[:, np.newaxis]
    group = zarr.create_group(target, zarr_format=zarr_format)
    multiscales = [
        {
            "axes": [{"name": a, "type": SPEC_AXES[a]} for a in axes],
            "datasets": [{"path": str(i)} for i in range(levels)],
        }
    ]
    with warnings.catch_warnings():
        # Of types that zarr v3 does not specify.
        warnings.simplefilter("ignore")
        for level in range(levels):
            data = samples[..., :: 2**level, :: 2**level, :: 2**level]
            array = group.create_array(
                str(level),
                shape=data.shape,
                chunks=tuple(CHUNKS[a] for a in axes),
                shards=tuple(2 * CHUNKS[a] for a in axes) if shards else None,
                dtype=data.dtype,
                config={"write_empty_chunks": True},
                chunk_key_encoding={
                    "name": "v2" if zarr_format == 2 else "default",
                    "separator": "/",
                },
            )
            array[...] = data
        raw = np.frombuffer(header, np.uint8 if header_as == "u1" else f"S{len(header)}")
        found = group.create_array("nifti", shape=raw.shape, chunks=raw.shape, dtype=raw.dtype)
        found[...] = raw
    group.attrs.update(
        {"multiscales": multiscales} if zarr_format == 2 else {"ome": {"multiscales": multiscales}}
    )
    return target


@pytest.fixture(scope="module")
def nifti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nifti")
    return write_run(
        folder / "run.nii", slope=0.37, intercept=-11.5, t_r=1500, units=("mm", "msec")
    )


@pytest.fixture(scope="module")
def store(nifti: Path) -> Path:
    return write_nifti_zarr(nifti.with_name("run.nii.zarr"), nifti)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every key read."""
    keys: list[str] = []
    original: Callable[..., Any] = zarr.storage.LocalStore.get

    async def get(self: Any, key: str, *rest: Any, **kwargs: Any) -> Any:
        keys.append(key)
        return await original(self, key, *rest, **kwargs)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", get)
    return keys


# --- what is read -----------------------------------------------------------------------------


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("axes", ["tzyx", "tczyx"])
@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("kind", [1, 2])
def test_open_run__is_that_of_the_nifti_file(
    tmp_path: Path, zarr_format: int, axes: str, endian: str, kind: int
) -> None:
    source = write_run(
        tmp_path / "run.nii",
        slope=0.37, intercept=-11.5, t_r=1500, units=("mm", "msec"), endian=endian, nifti=kind,
    )  # fmt: skip
    store = write_nifti_zarr(tmp_path / "run.nii.zarr", source, zarr_format=zarr_format, axes=axes)
    run, expected = cg.open_run(store), cg.open_run(source)
    assert run.sizes == expected.sizes
    assert run.dtype == expected.dtype
    assert run.to_numpy().tobytes() == truth_of(source).tobytes("C")
    assert run.attrs == {**expected.attrs, "source": str(store)}
    assert run["time"].identical(expected["time"])
    assert run.attrs["affine"] == AFFINE.tolist()
    assert run.attrs["repetition_time"] == 1.5


@pytest.mark.parametrize("options", [{"header_as": "S"}, {"shards": True}, {"levels": 1}], ids=str)
def test_open_run__takes_what_the_specification_allows(
    tmp_path: Path, nifti: Path, options: dict[str, Any]
) -> None:
    if "header_as" in options:
        options = {**options, "zarr_format": 2}
    store = write_nifti_zarr(tmp_path / "any-name.zarr", nifti, **options)
    assert np.array_equal(cg.open_run(store).to_numpy(), truth_of(nifti))


def test_open_run__takes_store_objects_and_urls(nifti: Path) -> None:
    memory = write_nifti_zarr(zarr.storage.MemoryStore(), nifti)
    assert np.array_equal(cg.open_run(memory).to_numpy(), truth_of(nifti))
    write_nifti_zarr("memory://niftizarr/run.nii.zarr", nifti)
    run = cg.open_run("memory://niftizarr/run.nii.zarr")
    assert np.array_equal(run.to_numpy(), truth_of(nifti))


@pytest.mark.parametrize("n_volumes", [1, 8, 14, 1000])
def test_blocks_and_read__hold_only_what_is_asked_for(
    store: Path, n_volumes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chunkglm.io.nifti_zarr.CHUNK_BYTES", 1)
    run = open_nifti_zarr(place_of(store))
    assert run.chunks == (5, 4, 2, 7)
    assert run.plane_unit == 2
    blocks = list(run.blocks(range(1, 4), n_volumes))
    lengths = [b.shape[0] for _, b in blocks]
    assert [first for first, _ in blocks] == np.cumsum([0, *lengths[:-1]]).tolist()
    assert np.array_equal(np.concatenate([b for _, b in blocks]).T, make_data()[:, :, 1:4])
    assert np.array_equal(run.read(range(1, 4), 3, 17).T, make_data()[:, :, 1:4, 3:17])


def test_open_run__reads_no_voxel(store: Path, fetched: list[str]) -> None:
    cg.open_run(store)
    assert not [key for key in fetched if key.startswith(("0/c", "1/"))]


def test_read__does_not_touch_chunks_outside_what_is_asked(store: Path, fetched: list[str]) -> None:
    run = open_nifti_zarr(place_of(store))
    fetched.clear()
    run.read(range(2, 4), 7, 14)
    chunks = {key for key in fetched if key.startswith("0/c/")}
    assert chunks == {f"0/c/1/1/{y}/{x}" for y in (0, 1) for x in (0, 1)}


def decoded_by_zarrs() -> Any:
    """Chunks of small stores decoded by compiled threads, as the extra `fast` offers."""
    pytest.importorskip("zarrs")
    return zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})


@pytest.mark.parametrize("shards", [False, True])
def test_fit__is_the_same_when_zarrs_decodes(nifti: Path, tmp_path: Path, shards: bool) -> None:
    theirs = write_nifti_zarr(tmp_path / "run.nii.zarr", nifti, shards=shards)
    for store in (theirs, cg.convert(nifti, tmp_path / "run.zarr", progress=False)):
        maps = cg.contrast(cg.fit(store, make_design(), mask=make_mask()), "a - b")
        expected = maps.compute()
        with decoded_by_zarrs():
            assert maps.compute().identical(expected)


def test_open_run__says_what_zarrs_cannot_decode(nifti: Path, tmp_path: Path) -> None:
    samples = make_data().T.astype(">i2")
    store = write_nifti_zarr(tmp_path / "run.nii.zarr", nifti, samples=samples, zarr_format=2)
    run = cg.open_run(store)
    with decoded_by_zarrs(), pytest.raises(ImageError, match=r"run\.nii\.zarr.*byte order"):
        run.compute()


def test_fit__of_a_nifti_zarr_is_that_of_the_file(store: Path, nifti: Path) -> None:
    for options in ({}, {"smoothing_fwhm": 5.0}):
        found, expected = (
            cg.contrast(cg.fit(path, make_design(), mask=make_mask(), **options), "a - b").compute()
            for path in (store, nifti)
        )
        # Blocks of time are of other lengths, and sums in another order.
        assert distances(found, expected) < 1e-10
        assert found.attrs["affine"] == AFFINE.ravel().tolist()


def test_source__can_be_sent(store: Path) -> None:
    run = open_nifti_zarr(place_of(store))
    sent = pickle.loads(pickle.dumps(run))
    assert isinstance(sent, NiftiZarrRun)
    assert sent.token == run.token
    assert np.array_equal(sent.read(FULL, 0, 30).T, make_data())


# --- what is refused --------------------------------------------------------------------------


def test_channels__are_refused(tmp_path: Path) -> None:
    several = np.stack([make_data().T] * 3, axis=1)
    source = write_run(tmp_path / "run.nii", np.stack([make_data()] * 3, axis=-1))
    store = write_nifti_zarr(tmp_path / "run.nii.zarr", source, axes="tczyx", samples=several)
    with pytest.raises(ImageError) as caught:
        cg.open_run(store)
    one_line(caught.value, store, "must have 4 dimensions", (*SHAPE, 3))


@pytest.mark.filterwarnings("ignore::Warning")  # of types that zarr v3 does not specify
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("kind", ["complex", "rgb"])
def test_complex_and_colours__are_refused(tmp_path: Path, kind: str, zarr_format: int) -> None:
    if kind == "complex":
        data = make_data().astype(np.complex64)
    else:
        parts = np.stack([make_data(dtype=np.uint8)] * 3, axis=-1)
        data = recfunctions.unstructured_to_structured(
            parts, np.dtype([(name, "u1") for name in "RGB"])
        )
    source = write_run(tmp_path / "run.nii", data)
    store = write_nifti_zarr(
        tmp_path / "run.nii.zarr", source, zarr_format=zarr_format, samples=data.T
    )
    with pytest.raises(ImageError) as caught:
        cg.open_run(store)
    one_line(caught.value, store, "voxels must be integers or floats")


def test_volume_without_time__is_refused(tmp_path: Path, nifti: Path) -> None:
    store = write_nifti_zarr(
        tmp_path / "t1w.nii.zarr", nifti, axes="zyx", samples=make_data()[..., 0].T
    )
    with pytest.raises(ImageError) as caught:
        cg.open_run(store)
    one_line(caught.value, store, "must have 4 dimensions", SHAPE[:3])


def damaged(store: Path, kind: str) -> None:
    group = zarr.open_group(store)
    if kind == "no multiscales":
        group.attrs.put({})
    elif kind == "other axes":
        group.attrs.update(ome={"multiscales": [{"axes": [{"name": a} for a in "xyzt"],
                                                 "datasets": [{"path": "0"}]}]})  # fmt: skip
    elif kind == "no level":
        shutil.rmtree(store / "0")
    elif kind == "short header":
        group.create_array("nifti", data=np.zeros(100, "u1"), overwrite=True)
    elif kind == "text header":
        group.create_array("nifti", data=np.full(348, 65, "u1"), overwrite=True)
    elif kind == "other shape":
        group.create_array("0", data=make_data((5, 4, 6, 31)).T, overwrite=True)
    elif kind == "other type":
        group.create_array("0", data=make_data(dtype="f4").T, overwrite=True)
    elif kind == "text":
        (store / "zarr.json").write_text("not JSON")


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("no multiscales", "multiscales"),
        ("other axes", "order t, c, z, y, x"),
        ("no level", "no arrays 0 and nifti"),
        ("short header", "the array nifti"),
        ("text header", "the array nifti"),
        ("other shape", (5, 4, 6, 31)),
        ("other type", "float32"),
        ("text", "zarr group"),
    ],
)
def test_damaged_stores__are_refused_in_a_line(
    store: Path, tmp_path: Path, kind: str, cause: object
) -> None:
    copy = tmp_path / "run.nii.zarr"
    shutil.copytree(store, copy)
    damaged(copy, kind)
    with pytest.raises(ImageError) as caught:
        cg.open_run(copy)
    one_line(caught.value, copy, cause)


def test_chunk__that_cannot_be_decoded_is_refused(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run.nii.zarr"
    shutil.copytree(store, copy)
    chunk = copy / "0/c/0/0/0/0"
    chunk.write_bytes(chunk.read_bytes()[:10])
    with pytest.raises(ImageError) as caught:
        cg.open_run(copy).to_numpy()
    one_line(caught.value, copy, "a chunk of 0 cannot be read")


@pytest.mark.filterwarnings("error")
def test_absent_chunks__of_a_sharded_array_are_told(tmp_path: Path, nifti: Path) -> None:
    store = write_nifti_zarr(tmp_path / "run.nii.zarr", nifti, shards=True)
    cg.open_run(store)
    (store / "0/c/0/0/0/0").unlink()
    with pytest.warns(UserWarning, match="1 of 6 chunks are absent"):
        cg.open_run(store)


def test_absent_chunks__are_told(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run.nii.zarr"
    shutil.copytree(store, copy)
    (copy / "0/c/0/0/0/0").unlink()
    with pytest.warns(UserWarning, match="1 of 60 chunks are absent and are read as 0"):
        cg.open_run(copy)


def test_store_written_anew__is_told_when_it_is_read(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run.nii.zarr"
    shutil.copytree(store, copy)
    run = cg.open_run(copy)
    shutil.rmtree(copy)
    other = write_run(tmp_path / "other.nii", slope=2.0)
    write_nifti_zarr(copy, other)
    with pytest.raises(ImageError) as caught:
        run.to_numpy()
    one_line(caught.value, copy, "written anew since it was opened")
