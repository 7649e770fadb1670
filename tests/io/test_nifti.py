"""Runs read from NIfTI files: what their headers say, and damage of every kind refused."""

import gzip
import hashlib
import os
import shutil
import struct
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers_lazy import AFFINE, SHAPE, make_data, one_line, write_run
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkglm.errors import ImageError
from chunkglm.io import inflate
from chunkglm.io.files import open_file
from chunkglm.io.nifti import NiftiRun, open_nifti
from chunkglm.memory import BLOCKS_AHEAD

FULL = range(SHAPE[2])


def read_all(run: NiftiRun, n_volumes: int = 7) -> np.ndarray:
    """All blocks put together, as (x, y, z, t)."""
    return np.concatenate([b.copy() for _, b in run.blocks(range(run.shape[2]), n_volumes)]).T


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run in each form."""
    folder = tmp_path_factory.mktemp("forms")
    for name in ("run.nii", "run.nii.gz", "run.img"):
        write_run(folder / name)
    return folder


# --- what is read -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run.nii", "run.nii.gz", "run.img"])
@pytest.mark.parametrize("n_volumes", [1, 7, 30, 1000])
def test_blocks__hold_the_run_whatever_their_length(
    folder: Path, name: str, n_volumes: int
) -> None:
    run = open_nifti(folder / name)
    blocks = [(first, block.copy()) for first, block in run.blocks(FULL, n_volumes)]
    assert np.array_equal(np.concatenate([b for _, b in blocks]).T, make_data())
    lengths = [b.shape[0] for _, b in blocks]
    assert [first for first, _ in blocks] == np.cumsum([0, *lengths[:-1]]).tolist()
    assert max(lengths) <= n_volumes


@pytest.mark.parametrize("name", ["run.nii", "run.nii.gz"])
@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("n_volumes", [1, 7, 30])
def test_blocks__stay_as_they_are_until_the_next_and_share_memory(
    folder: Path, name: str, hashed: bool, n_volumes: int
) -> None:
    digest = hashlib.sha256() if hashed else None
    memory, pieces = set(), []
    for _, block in open_nifti(folder / name).blocks(FULL, n_volumes, digest=digest):
        first = block.copy()
        # Time enough for the thread that reads ahead to run into what is not yet used.
        time.sleep(0.01)
        assert np.array_equal(block, first)
        memory.add(block.__array_interface__["data"][0])
        pieces.append(first)
    assert np.array_equal(np.concatenate(pieces).T, make_data())
    assert len(memory) <= BLOCKS_AHEAD
    if digest is not None:
        assert digest.digest() == hashlib.sha256((folder / name).read_bytes()).digest()


@pytest.mark.parametrize("name", ["run.nii", "run.nii.gz", "run.img"])
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_blocks_and_read__hold_only_the_planes_asked_for(
    folder: Path, name: str, data: st.DataObject
) -> None:
    run, expected = open_nifti(folder / name), make_data()
    planes = sorted(data.draw(st.sets(st.integers(0, SHAPE[2]), min_size=2, max_size=2)))
    times = sorted(data.draw(st.sets(st.integers(0, SHAPE[3]), min_size=2, max_size=2)))
    wanted = range(*planes)
    blocks = run.blocks(wanted, data.draw(st.integers(1, 31)))
    found = np.concatenate([block.copy() for _, block in blocks]).T
    assert np.array_equal(found, expected[:, :, planes[0] : planes[1]])
    found = run.read(wanted, *times).T
    assert np.array_equal(found, expected[:, :, planes[0] : planes[1], times[0] : times[1]])


def test_plain_blocks__read_only_the_planes_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import chunkglm.io.nifti as module

    filled: list[int] = []
    original = module._fill

    def fill(file: object, out: np.ndarray) -> None:
        filled.append(out.nbytes)
        original(file, out)

    monkeypatch.setattr(module, "_fill", fill)
    run = open_nifti(folder / "run.nii")
    list(run.blocks(range(2, 4), 10))
    assert sum(filled) == run.volume_bytes * SHAPE[3] * 2 // SHAPE[2]


def test_read__seeks_the_planes_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import chunkglm.io.nifti as module

    filled: list[int] = []
    original = module._fill

    def fill(file: object, out: np.ndarray) -> None:
        filled.append(out.nbytes)
        original(file, out)

    monkeypatch.setattr(module, "_fill", fill)
    run = open_nifti(folder / "run.nii")
    found = run.read(range(2, 4), 5, 9)
    assert np.array_equal(found.T, make_data()[:, :, 2:4, 5:9])
    assert filled == [run.volume_bytes * 2 // SHAPE[2]] * 4


def test_open_nifti__keeps_the_header_as_it_lies_in_the_file(folder: Path) -> None:
    plain, compressed = open_nifti(folder / "run.nii"), open_nifti(folder / "run.nii.gz")
    assert plain.header == (folder / "run.nii").read_bytes()[:352] == compressed.header
    assert not plain.forward_only
    assert compressed.forward_only


def test_open_nifti__keeps_the_header_of_a_pair(folder: Path) -> None:
    run = open_nifti(folder / "run.img")
    assert run.header == (folder / "run.hdr").read_bytes()


def test_open_nifti__keeps_extensions(tmp_path: Path) -> None:
    image = nib.Nifti1Image(make_data(), AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"recorded by hand"))
    nib.save(image, tmp_path / "run.nii")
    run = open_nifti(tmp_path / "run.nii")
    assert b"recorded by hand" in run.header
    assert run.offset == len(run.header) > 352
    assert np.array_equal(read_all(run), make_data())


@pytest.mark.parametrize("suffix", [".hdr.gz", ".img.gz"])
def test_open_nifti__reads_compressed_pairs(tmp_path: Path, suffix: str) -> None:
    nib.save(nib.Nifti1Pair(make_data(), AFFINE), tmp_path / f"run{suffix}")
    run = open_nifti(tmp_path / f"run{suffix}")
    assert run.compressed
    assert np.array_equal(read_all(run), make_data())


# --- what is refused on opening ---------------------------------------------------------------


def test_open_nifti__refuses_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        open_nifti(tmp_path / "none.nii")
    one_line(caught.value, tmp_path / "none.nii", "no such file")
    with pytest.raises(ImageError) as caught:
        open_nifti(tmp_path)
    one_line(caught.value, tmp_path, "folder")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.nii", b""),
        ("empty.nii.gz", b""),
        ("text.nii.gz", b"not a gzip file at all\n" * 40),
        ("text.nii", b"not a NIfTI file at all\n" * 40),
        ("zeros.nii", bytes(1000)),
        ("inside.nii.gz", gzip.compress(b"text that was compressed\n" * 40, mtime=0)),
        ("short.nii", b"\x5c\x01\x00\x00" + bytes(40)),
        ("short.nii.gz", gzip.compress(b"\x5c\x01\x00\x00" + bytes(40), mtime=0)),
        ("run.csv", b"a,b\n1,2\n"),
        ("noname", b"12345"),
    ],
)
def test_open_nifti__refuses_what_is_not_nifti(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError) as caught:
        open_nifti(tmp_path / name)
    one_line(caught.value, tmp_path / name)


def test_open_nifti__refuses_half_of_a_pair(tmp_path: Path) -> None:
    write_run(tmp_path / "run.img")
    shutil.copy(tmp_path / "run.hdr", tmp_path / "alone.hdr")
    shutil.copy(tmp_path / "run.img", tmp_path / "lost.img")
    for name in ("alone.hdr", "lost.img"):
        with pytest.raises(ImageError) as caught:
            open_nifti(tmp_path / name)
        one_line(caught.value, tmp_path / name.split(".")[0])


@pytest.mark.parametrize(
    ("shape", "cause"),
    [
        ((5, 4, 6), "4 dimensions"),
        ((5, 4, 6, 1), "several volumes"),
        ((5, 4, 6, 1, 30), "4 dimensions"),
        ((5, 4, 6, 3, 2), "4 dimensions"),
    ],
)
def test_open_nifti__refuses_other_shapes(
    tmp_path: Path, shape: tuple[int, ...], cause: str
) -> None:
    path = write_run(tmp_path / "run.nii", np.ones(shape, np.int16))
    with pytest.raises(ImageError) as caught:
        open_nifti(path)
    one_line(caught.value, path, cause)


def test_open_nifti__takes_five_dimensions_when_the_last_is_one(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.nii", make_data()[..., None])
    run = open_nifti(path)
    assert run.shape == SHAPE
    assert np.array_equal(read_all(run), make_data())


@pytest.mark.parametrize(
    "dtype",
    [np.complex64, np.complex128, [("R", "u1"), ("G", "u1"), ("B", "u1")]],
)
def test_open_nifti__refuses_colours_and_complex(tmp_path: Path, dtype: object) -> None:
    path = write_run(tmp_path / "run.nii", np.zeros((3, 3, 3, 5), np.dtype(dtype)))
    with pytest.raises(ImageError) as caught:
        open_nifti(path)
    one_line(caught.value, path, "voxels must be")


@pytest.mark.parametrize("code", [1536, 1, 0, 255, 999])
def test_open_nifti__refuses_other_data_types(tmp_path: Path, code: int) -> None:
    # 1536 are long doubles, which mean other bytes on other machines; 1 are single bits.
    content = bytearray(write_run(tmp_path / "good.nii").read_bytes())
    content[70:72] = struct.pack("<h", code)
    path = tmp_path / "run.nii"
    path.write_bytes(content + bytes(100_000))
    with pytest.raises(ImageError) as caught:
        open_nifti(path)
    one_line(caught.value, path)


@pytest.mark.parametrize("dims", [(0, 4, 6, 30), (5, 4, 0, 30), (-5, 4, 6, 30), (5, -4, -6, 30)])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_open_nifti__refuses_dims_that_are_not_positive(
    tmp_path: Path, dims: tuple[int, ...], suffix: str
) -> None:
    content = bytearray(write_run(tmp_path / "good.nii").read_bytes())
    content[42:50] = struct.pack("<4h", *dims)
    path = tmp_path / f"run{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    with pytest.raises(ImageError) as caught:
        open_nifti(path)
    one_line(caught.value, path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_open_nifti__refuses_a_header_that_claims_everything_without_taking_memory(
    tmp_path: Path, suffix: str
) -> None:
    content = bytearray(write_run(tmp_path / "good.nii").read_bytes())
    content[42:50] = struct.pack("<4h", 32767, 32767, 32767, 32767)
    path = tmp_path / f"run{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError) as caught:
            open_nifti(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    one_line(caught.value, path, "promises", 352 + 2 * 32767**4)
    # Reading a header takes tens of kilobytes; a plane of 32,767 squared would be 2 GB.
    assert peak < 5_000_000


@pytest.mark.parametrize("offset", [1e5, 1e6, 3e38, np.nan, np.inf, -5.0])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_open_nifti__refuses_an_image_that_begins_elsewhere(
    tmp_path: Path, offset: float, suffix: str
) -> None:
    content = bytearray(write_run(tmp_path / "good.nii").read_bytes())
    content[108:112] = struct.pack("<f", offset)
    path = tmp_path / f"run{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    with pytest.raises(ImageError) as caught:
        list(open_nifti(path).blocks(FULL, 10))
    one_line(caught.value, path)


@pytest.mark.parametrize("suffix", [".nii.bz2", ".nii.zst"])
def test_open_nifti__refuses_other_compressions(tmp_path: Path, suffix: str) -> None:
    import bz2

    # Noise grows when it is compressed: by its size alone the file could hold the image.
    noise = np.random.default_rng(0).integers(-(2**15), 2**15, (8, 8, 8, 9), np.int16)
    content = write_run(tmp_path / "run.nii", noise).read_bytes()
    packed = bz2.compress(content) if suffix.endswith("bz2") else content
    assert len(packed) >= len(content)
    path = tmp_path / f"run{suffix}"
    path.write_bytes(packed)
    with pytest.raises(ImageError) as caught:
        open_nifti(path)
    one_line(caught.value, path)


# --- damage that only reading finds -----------------------------------------------------------


def _truncate(share: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(len(content) * share)]


def _flip(share: float) -> Callable[[bytes], bytes]:
    def damage(content: bytes) -> bytes:
        out = bytearray(content)
        out[int(len(out) * share)] ^= 0x10
        return bytes(out)

    return damage


def _wrong_checksum(content: bytes) -> bytes:
    return content[:-8] + struct.pack("<I", zlib.crc32(content)) + content[-4:]


def _wrong_length(content: bytes) -> bytes:
    return content[:-4] + struct.pack("<I", 12345)


DAMAGE_GZ = {
    "truncated at 20 %": _truncate(0.2),
    "truncated at 50 %": _truncate(0.5),
    "truncated at 99 %": _truncate(0.99),
    "without its last byte": lambda content: content[:-1],
    "without its trailer": lambda content: content[:-8],
    "with half a trailer": lambda content: content[:-4],
    "a bit flipped at 30 %": _flip(0.3),
    "a bit flipped at 60 %": _flip(0.6),
    "a bit flipped at 97 %": _flip(0.97),
    "wrong checksum": _wrong_checksum,
    "wrong length": _wrong_length,
}


@pytest.mark.parametrize("damage", DAMAGE_GZ.values(), ids=DAMAGE_GZ.keys())
@pytest.mark.parametrize("n_volumes", [1, 7, 30])
def test_compressed_blocks__refuse_damage(
    tmp_path: Path, folder: Path, damage: Callable[[bytes], bytes], n_volumes: int
) -> None:
    path = tmp_path / "run.nii.gz"
    path.write_bytes(damage((folder / "run.nii.gz").read_bytes()))
    seen = []
    with pytest.raises(ImageError) as caught:
        # So small a file may be found out on opening already: nibabel reads it all at once.
        seen.extend(first for first, _ in open_nifti(path).blocks(FULL, n_volumes))
    one_line(caught.value, path, "read")
    # The last block is never handed on: nobody can take the run for whole.
    assert len(seen) < -(-SHAPE[3] // n_volumes)


@pytest.mark.parametrize("damage", DAMAGE_GZ.values(), ids=DAMAGE_GZ.keys())
def test_read__of_the_last_volume_refuses_damage(
    tmp_path: Path, folder: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "run.nii.gz"
    path.write_bytes(damage((folder / "run.nii.gz").read_bytes()))
    with pytest.raises(ImageError) as caught:
        open_nifti(path).read(FULL, SHAPE[3] - 1, SHAPE[3])
    one_line(caught.value, path, "read")


@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_compressed_blocks__any_flipped_bit_is_refused_or_harmless(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, position: float, bit: int
) -> None:
    content = bytearray((folder / "run.nii.gz").read_bytes())
    content[int(position * len(content))] ^= 1 << bit
    path = folder / "flipped.nii.gz"
    path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = read_all(open_nifti(path))
    except ImageError as error:
        one_line(error, path)
    else:
        # A few bits of a gzip header say nothing about the data: its time, its system.
        assert np.array_equal(found, make_data())


@pytest.mark.parametrize("missing", [1, 1000])
def test_open_nifti__refuses_a_truncated_plain_file(tmp_path: Path, missing: int) -> None:
    path = write_run(tmp_path / "run.nii")
    size = path.stat().st_size
    os.truncate(path, size - missing)
    with pytest.raises(ImageError) as caught:
        open_nifti(path)
    one_line(caught.value, path, size, size - missing)


GARBAGE = {
    "text": b"garbage\n" * 10,
    "zeros and text": bytes(64) + b"x",
    "one byte": b"\x07",
    "long": b"0123456789" * 100_000,
}


@pytest.mark.parametrize("after", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("n_volumes", [1, 7, 30])
def test_compressed_blocks__warn_of_garbage_after_the_stream(
    tmp_path: Path, after: bytes, n_volumes: int
) -> None:
    path = write_run(tmp_path / "run.nii.gz", after=after)
    with pytest.warns(UserWarning, match="after the image were ignored") as seen:
        found = read_all(open_nifti(path), n_volumes)
    assert np.array_equal(found, make_data())
    assert str(path) in str(seen[0].message)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(("after", "opened"), [(b"", 1), (b"garbage", 2)])
def test_compressed_blocks__are_read_anew_only_where_igzip_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bytes, opened: int, quick: bool
) -> None:
    path = write_run(tmp_path / "run.nii.gz", after=after)
    run, files, digest = open_nifti(path), [], hashlib.sha256()
    if not quick:
        monkeypatch.setattr("chunkglm.io.inflate._Quick", None)
    monkeypatch.setattr(
        "chunkglm.io.nifti.open_file",
        lambda *args, **options: files.append(open_file(*args, **options)) or files[-1],
    )
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        blocks = [block.copy() for _, block in run.blocks(FULL, 7, digest=digest)]
    assert np.array_equal(np.concatenate(blocks).T, make_data())
    assert digest.digest() == hashlib.sha256(path.read_bytes()).digest()
    assert len(seen) == bool(after)
    assert len(files) == (opened if quick and inflate._Quick else 1)
    assert all(file.closed for file in files)


def test_compressed_blocks__are_silent_about_padding_with_zeros(tmp_path: Path) -> None:
    # Tapes and some transfers pad with zeros; the gzip format allows for it.
    path = write_run(tmp_path / "run.nii.gz", after=bytes(512))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read_all(open_nifti(path)), make_data())


def test_compressed_blocks__read_several_members(tmp_path: Path, folder: Path) -> None:
    content = (folder / "run.nii").read_bytes()
    path = tmp_path / "run.nii.gz"
    path.write_bytes(b"".join(gzip.compress(content[i : i + 999]) for i in range(0, 7552, 999)))
    assert np.array_equal(read_all(open_nifti(path)), make_data())


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_blocks__warn_of_more_image_than_the_header_promises(tmp_path: Path, suffix: str) -> None:
    content = write_run(tmp_path / "good.nii").read_bytes() + bytes(1440)
    path = tmp_path / f"run{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    with pytest.warns(UserWarning, match="1440 bytes after the image were ignored") as seen:
        found = read_all(open_nifti(path))
    assert np.array_equal(found, make_data())
    assert str(path) in str(seen[0].message)


def test_compressed_blocks__of_a_gzip_bomb_take_bounded_memory(tmp_path: Path) -> None:
    # 200 MB of zeros after a run of 7 kB, in 200 kB of gzip.
    content = write_run(tmp_path / "good.nii").read_bytes()
    path = tmp_path / "run.nii.gz"
    with gzip.open(path, "wb", compresslevel=6) as file:
        file.write(content)
        for _ in range(200):
            file.write(bytes(1_000_000))
    run = open_nifti(path)
    tracemalloc.start()
    try:
        with pytest.warns(UserWarning, match="200000000 bytes after the image"):
            found = read_all(run)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(found, make_data())
    # Pieces of 1 MB are read and dropped, two at a time at most.
    assert peak < 8_000_000


@pytest.mark.parametrize("name", ["run.nii", "run.nii.gz", "run.img"])
@pytest.mark.parametrize("how", ["blocks", "read"])
def test_reading__refuses_a_file_that_changed_since_it_was_opened(
    tmp_path: Path, name: str, how: str
) -> None:
    path = write_run(tmp_path / name)
    run = open_nifti(path)
    write_run(path, make_data(seed=1))
    os.utime(path, ns=(1, 1))
    with pytest.raises(ImageError) as caught:
        list(run.blocks(FULL, 9)) if how == "blocks" else run.read(FULL, 0, 3)
    one_line(caught.value, path, "changed since it was opened")
    path.unlink()
    with pytest.raises(ImageError) as caught:
        list(run.blocks(FULL, 9)) if how == "blocks" else run.read(FULL, 0, 3)
    one_line(caught.value, path, "cannot be read any more")


@pytest.mark.parametrize("name", ["run.nii", "run.nii.gz"])
def test_blocks__refuse_a_file_that_changes_while_it_is_read(tmp_path: Path, name: str) -> None:
    path = write_run(tmp_path / name)
    blocks = open_nifti(path).blocks(FULL, 5)
    next(blocks)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ImageError, match="changed since it was opened"):
        list(blocks)
