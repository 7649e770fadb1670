"""From NIfTI to a store and back: every byte of header, extensions and voxels."""

import gzip
import itertools
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from helpers_lazy import make_data, names_in, one_line, write_run
from test_numerics_haxby import HAXBY, needs_haxby

import chunkglm as cg
from chunkglm.errors import ImageError, StoreError

DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
SUFFIXES = (".nii", ".nii.gz", ".img")
SHAPE = (3, 4, 5, 7)


def content(path: Path) -> bytes:
    """A file's bytes, inflated where it is compressed."""
    found = path.read_bytes()
    return gzip.decompress(found) if path.name.endswith(".gz") else found


def there_and_back(source: Path) -> None:
    """Check that a run comes back as it was."""
    folder = source.parent / f"of-{source.name}"
    folder.mkdir()
    cg.convert(source, folder / "s.zarr", progress=False)
    back = folder / source.name
    assert cg.export_nifti(folder / "s.zarr", back) == str(back)
    assert content(back) == content(source)
    if source.suffix == ".img":
        assert back.with_suffix(".hdr").read_bytes() == source.with_suffix(".hdr").read_bytes()
    found, expected = (np.asarray(nib.load(p).dataobj) for p in (back, source))
    assert found.tobytes() == expected.tobytes()
    names = {"s.zarr", back.name} | ({back.stem + ".hdr"} if source.suffix == ".img" else set())
    assert set(names_in(folder)) == names


def extremes(dtype: str) -> Any:
    """Random bit patterns of every kind: subnormal, infinite, NaN with payloads, signed zeros."""
    count = int(np.prod(SHAPE)) * np.dtype(dtype).itemsize
    bits = np.random.default_rng(3).integers(0, 256, count, dtype=np.uint8)
    data = bits.view(dtype)
    if np.dtype(dtype).kind == "f":
        unsigned = data.view(f"u{data.itemsize}")
        nan = unsigned.dtype.type({"f4": 0x7F800000, "f8": 0x7FF0000000000000}[dtype])
        # Signalling and quiet, of both signs, and the two zeros.
        unsigned[:6] = nan + 1, nan + 0xABCDE, ~unsigned.dtype.type(0), nan, 0, nan << 1
        unsigned[6] = unsigned.dtype.type(1) << unsigned.dtype.type(8 * data.itemsize - 1)
        assert np.isnan(data[:3]).all()
    return data.reshape(SHAPE)


@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip__of_every_type_order_and_kind(tmp_path: Path, dtype: str) -> None:
    for endian, nifti, suffix in itertools.product("<>", (1, 2), SUFFIXES):
        order = "little" if endian == "<" else "big"
        path = tmp_path / f"{order}-{nifti}{suffix}"
        there_and_back(write_run(path, extremes(dtype), endian=endian, nifti=nifti))


@pytest.mark.parametrize(
    ("slope", "intercept"),
    [(0.0, 0.0), (np.nan, 0.0), (np.nan, np.nan), (np.inf, 3.0), (-0.3, 1e9), (1e-38, -1.0),
     (1.0, 0.0), (0.0, 5.0)],
)  # fmt: skip
def test_round_trip__of_slopes(tmp_path: Path, slope: float, intercept: float) -> None:
    for suffix in SUFFIXES:
        path = write_run(tmp_path / f"run{suffix}", make_data(SHAPE), slope=slope,
                         intercept=intercept)  # fmt: skip
        try:
            nib.load(path).dataobj  # noqa: B018
        except Exception:
            with pytest.raises(ImageError):
                cg.convert(path, tmp_path / "s.zarr", progress=False)
            continue
        there_and_back(path)


def with_extensions(path: Path, endian: str, nifti: int) -> Path:
    """Put extensions between header and image."""
    plain = write_run(path, make_data(SHAPE), endian=endian, nifti=nifti)
    found = bytearray(content(plain))
    start = 348 if nifti == 1 else 540
    head, samples = found[:start], found[start + 4 :]
    text = b"a comment, with a zero \0 and bytes \xff in it"
    extensions = b"".join(
        struct.pack(f"{endian}ii", 8 + len(body), code) + body
        for code, body in ((6, text.ljust(56, b" ")), (44, bytes(range(24))), (6, bytes(8)))
    )
    offset = start + 4 + len(extensions)
    place = (108, f"{endian}f") if nifti == 1 else (168, f"{endian}q")
    struct.pack_into(place[1], head, place[0], offset)
    whole = bytes(head) + b"\1\0\0\0" + extensions + bytes(samples)
    path.write_bytes(gzip.compress(whole) if path.name.endswith(".gz") else whole)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("nifti", [1, 2])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_round_trip__of_extensions(tmp_path: Path, endian: str, nifti: int, suffix: str) -> None:
    path = with_extensions(tmp_path / f"run{suffix}", endian, nifti)
    assert len(nib.load(path).header.extensions) == 3
    there_and_back(path)


@pytest.mark.parametrize(("nifti", "endian"), [(1, "<"), (1, ">"), (2, "<"), (2, ">")])
def test_round_trip__of_a_pair_with_extensions_and_bytes_before_the_image(
    tmp_path: Path, nifti: int, endian: str
) -> None:
    path = write_run(tmp_path / "run.img", make_data(SHAPE), nifti=nifti, endian=endian)
    head = path.with_suffix(".hdr")
    found = bytearray(head.read_bytes())
    struct.pack_into(*((f"{endian}f", found, 108) if nifti == 1 else (f"{endian}q", found, 168)),
                     16)  # fmt: skip
    extension = struct.pack(f"{endian}ii", 32, 6) + b"twenty-four bytes of it."
    head.write_bytes(bytes(found) + b"\1\0\0\0" + extension)
    path.write_bytes(bytes(16) + path.read_bytes())
    there_and_back(path)


def test_round_trip__of_five_dimensions_and_trailing_garbage(tmp_path: Path) -> None:
    data = make_data(SHAPE)
    path = write_run(tmp_path / "five.nii", data[..., None])
    there_and_back(path)
    path = write_run(tmp_path / "long.nii", data, after=b"garbage")
    with pytest.warns(UserWarning, match="after the image were ignored"):
        cg.convert(path, tmp_path / "s.zarr", progress=False)
    cg.export_nifti(tmp_path / "s.zarr", tmp_path / "back.nii")
    assert content(path) == content(tmp_path / "back.nii") + b"garbage"


def test_export__between_plain_and_compressed_keeps_every_byte(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.nii", make_data(SHAPE))
    cg.convert(path, tmp_path / "s.zarr", progress=False)
    cg.export_nifti(tmp_path / "s.zarr", tmp_path / "back.nii.gz")
    assert content(tmp_path / "back.nii.gz") == content(path)
    # The same bytes each time: neither the time nor the name is in it.
    cg.export_nifti(tmp_path / "s.zarr", tmp_path / "other.nii.gz")
    assert (tmp_path / "other.nii.gz").read_bytes() == (tmp_path / "back.nii.gz").read_bytes()


EPI = HAXBY.parent / "epi" / "bold.nii.gz"


@needs_haxby
@pytest.mark.parametrize(
    "source", [*sorted(HAXBY.glob("run-*/bold.nii.gz")), EPI], ids=lambda p: p.parent.name
)
def test_round_trip__of_real_runs(tmp_path: Path, source: Path) -> None:
    (tmp_path / "run.nii.gz").symlink_to(source)
    there_and_back(tmp_path / "run.nii.gz")


# --- refused ----------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Path:
    cg.convert(write_run(tmp_path / "run.nii", make_data(SHAPE)), tmp_path / "s.zarr",
               progress=False)  # fmt: skip
    return tmp_path / "s.zarr"


def test_export__refuses_what_is_in_the_way(store: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.nii").mkdir()
    (tmp_path / "there.nii").write_text("precious")
    for name, cause in {
        "there.nii": "overwrite=True",
        "folder.nii": "is a folder",
        "none/x.nii": "does not exist",
        "x.txt": "must end in",
        "x.img": "the run was one file",
    }.items():
        with pytest.raises(ImageError) as caught:
            cg.export_nifti(store, tmp_path / name)
        one_line(caught.value, tmp_path / name, cause)
    assert (tmp_path / "there.nii").read_text() == "precious"
    with pytest.raises(ImageError, match="is a folder"):
        cg.export_nifti(store, tmp_path / "folder.nii", overwrite=True)
    cg.export_nifti(store, tmp_path / "there.nii", overwrite=True)
    assert content(tmp_path / "there.nii") == content(tmp_path / "run.nii")
    assert names_in(tmp_path) == ["folder.nii", "run.nii", "s.zarr", "there.nii"]


def test_export__of_a_pair_asks_for_a_pair_and_for_both_names(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.img", make_data(SHAPE))
    cg.convert(path, tmp_path / "s.zarr", progress=False)
    with pytest.raises(ImageError, match=r"the run was a pair; end the name in \.img"):
        cg.export_nifti(tmp_path / "s.zarr", tmp_path / "x.nii.gz")
    (tmp_path / "x.hdr").write_text("precious")
    with pytest.raises(ImageError, match=r"x\.hdr: exists"):
        cg.export_nifti(tmp_path / "s.zarr", tmp_path / "x.img")
    assert names_in(tmp_path) == ["run.hdr", "run.img", "s.zarr", "x.hdr"]


def test_export__of_a_damaged_store_leaves_nothing(store: Path, tmp_path: Path) -> None:
    chunk = next(p for p in (store / "bold" / "c").rglob("*") if p.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"X")
    (tmp_path / "old.nii").write_text("precious")
    for name in ("x.nii", "x.nii.gz", "old.nii"):
        with pytest.raises(StoreError) as caught:
            cg.export_nifti(store, tmp_path / name, overwrite=True)
        one_line(caught.value, store, "bold/c/")
    assert (tmp_path / "old.nii").read_text() == "precious"
    assert names_in(tmp_path) == ["old.nii", "run.nii", "s.zarr"]


def test_export__of_a_fit_is_refused(store: Path, tmp_path: Path) -> None:
    from helpers_lazy import make_design

    cg.fit(store, make_design(SHAPE[3])[["a", "constant"]]).save(tmp_path / "f.zarr")
    with pytest.raises(StoreError, match="must hold a run"):
        cg.export_nifti(tmp_path / "f.zarr", tmp_path / "x.nii")
