import gzip
import os
import stat
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from chunkglm.errors import ImageError
from chunkglm.io.images import (
    ANYTHING,
    NOISE_AND_ZEROS,
    atomic_writer,
    gzip_writer,
    make_header,
    write_image,
    write_image_blocks,
)

AFFINE = np.array([[-3.0, 0, 0, 90], [0, 3, 0, -110], [0, 0, 4, -40], [0, 0, 0, 1]])
RNG = np.random.default_rng(0)


def bold_header(shape: tuple[int, ...] = (4, 5, 6, 7)) -> nib.Nifti1Header:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_shape(shape)
    header.set_sform(AFFINE, code="scanner")
    header.set_qform(AFFINE, code="scanner")
    header.set_zooms((3, 3, 4, 2.5)[: len(shape)])
    header.set_xyzt_units("mm", "msec")
    header.set_slope_inter(2.0, 5.0)
    header["cal_max"] = 7
    header["intent_code"] = 5
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"someone's name"))
    return header


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "f4", "f8"])
def test_write_image__returns_the_same_values(tmp_path: Path, suffix: str, dtype: str) -> None:
    data = (RNG.normal(60, 15, (4, 5, 6, 7))).astype(dtype)
    path = write_image(tmp_path / f"a{suffix}", data, AFFINE)
    image = nib.load(path)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), data)
    np.testing.assert_array_equal(image.affine, AFFINE)
    assert image.get_data_dtype() == np.dtype(dtype)
    assert left_behind(tmp_path) == [path.name]


def test_write_image__keeps_space_and_time_of_the_header(tmp_path: Path) -> None:
    data = RNG.normal(size=(4, 5, 6, 7)).astype("f4")
    path = write_image(tmp_path / "a.nii.gz", data, AFFINE, header=bold_header(), descrip="t of 1")
    header = nib.load(path).header
    np.testing.assert_allclose(header.get_zooms(), (3, 3, 4, 2.5))
    assert header.get_xyzt_units() == ("mm", "msec")
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    assert header["descrip"].item() == b"t of 1"


def test_write_image__drops_what_the_template_says_of_its_own_data(tmp_path: Path) -> None:
    path = write_image(
        tmp_path / "a.nii", np.ones((4, 5, 6)), AFFINE, header=bold_header(), dtype="f4"
    )
    raw = nib.Nifti1Header.from_fileobj(path.open("rb"))
    assert (float(raw["scl_slope"]), float(raw["scl_inter"])) == (1, 0)
    assert (float(raw["cal_max"]), int(raw["intent_code"])) == (0, 0)
    assert len(raw.extensions) == 0
    assert int(raw["vox_offset"]) == 352
    assert raw.endianness == "<"


def test_write_image__keeps_a_qform_that_differs_from_the_sform(tmp_path: Path) -> None:
    other = AFFINE.copy()
    other[:3, 3] += 5
    header = bold_header()
    header.set_qform(other, code="scanner")
    path = write_image(tmp_path / "a.nii", np.ones((4, 5, 6), "f4"), AFFINE, header=header)
    np.testing.assert_allclose(nib.load(path).header.get_qform(), other, atol=1e-4)


def test_write_image__marks_the_qform_unknown_under_another_affine(tmp_path: Path) -> None:
    other = AFFINE.copy()
    other[0, 3] += 1
    path = write_image(tmp_path / "a.nii", np.ones((4, 5, 6), "f4"), other, header=bold_header())
    image = nib.load(path)
    np.testing.assert_allclose(image.affine, other)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 0)


def test_write_image__takes_a_nifti2_header(tmp_path: Path) -> None:
    template = nib.Nifti2Header()
    template.set_data_shape((4, 5, 6, 7))
    template.set_sform(AFFINE, code="mni")
    template.set_zooms((3, 3, 4, 1.5))
    template.set_xyzt_units("mm", "sec")
    path = write_image(tmp_path / "a.nii", np.ones((4, 5, 6, 7), "f4"), AFFINE, header=template)
    header = nib.load(path).header
    assert isinstance(header, nib.Nifti1Header)
    assert (header.get_zooms()[3], int(header["sform_code"])) == (1.5, 4)


def test_write_image__same_data_same_bytes(tmp_path: Path) -> None:
    data = RNG.integers(0, 1000, (8, 8, 8, 9)).astype("i2")
    first = write_image(tmp_path / "a.nii.gz", data, AFFINE).read_bytes()
    second = write_image(tmp_path / "another name.nii.gz", data, AFFINE).read_bytes()
    assert first == second
    assert first[3] == 0  # no flags: no file name
    assert first[4:8] == bytes(4)  # no time


def test_write_image__any_layout_and_blocking_gives_the_same_bytes(tmp_path: Path) -> None:
    data = RNG.integers(0, 1000, (4, 5, 6, 7)).astype("i2")
    plain = write_image(tmp_path / "a.nii", data, AFFINE).read_bytes()
    fortran = write_image(tmp_path / "b.nii", np.asfortranarray(data), AFFINE).read_bytes()
    header = make_header(data.shape, "i2", AFFINE)
    pieces = (data[..., a:b] for a, b in ((0, 3), (3, 4), (4, 7)))
    blocks = write_image_blocks(tmp_path / "c.nii", header, pieces).read_bytes()
    volumes = (data[..., t].astype("f8") for t in range(7))
    floats = write_image_blocks(tmp_path / "d.nii", header, volumes).read_bytes()
    assert plain[352:] == data.tobytes("F")
    assert plain == fortran == blocks == floats


def test_write_image__gives_the_same_bytes_whatever_memory_held(tmp_path: Path) -> None:
    """As it is in fresh processes whose memory holds other things to begin with."""
    data = np.random.default_rng(0).standard_normal((30, 30, 20))
    np.save(tmp_path / "data.npy", data)
    code = (
        "import sys, numpy as np; from chunkglm.io.images import write_image; "
        "write_image(sys.argv[2], np.load(sys.argv[1]), np.eye(4))"
    )
    written = []
    for perturbed in ("0", "85", "255"):
        path = tmp_path / f"{perturbed}.nii.gz"
        command = [sys.executable, "-c", code, str(tmp_path / "data.npy"), str(path)]
        subprocess.run(command, check=True, env={**os.environ, "MALLOC_PERTURB_": perturbed})
        written.append(path.read_bytes())
    assert written[0] == written[1] == written[2]
    assert written[0][3:8] == bytes(5)  # no time, no name


def test_write_image__rounds_to_integers(tmp_path: Path) -> None:
    data = np.array([-1.5, 0.4, 0.6, 126.7]).reshape(4, 1, 1)
    path = write_image(tmp_path / "a.nii", data, AFFINE, dtype="i1")
    assert np.asanyarray(nib.load(path).dataobj).ravel().tolist() == [-2, 0, 1, 127]


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(40000.0, "i2"), (-1.0, "u1"), (np.nan, "i2"), (np.inf, "i4"), (2.0**31, "i4"), (1e39, "f4")],
)
def test_write_image__refuses_values_that_do_not_fit(
    tmp_path: Path, value: float, dtype: str
) -> None:
    with pytest.raises(ImageError, match=r"a\.nii: values .*do not fit"):
        write_image(tmp_path / "a.nii", np.full((2, 2, 2), value), AFFINE, dtype=dtype)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "data", "affine", "message"),
    [
        ("a.img", np.ones((2, 2, 2)), AFFINE, r"must end in \.nii or \.nii\.gz"),
        ("a.nii", np.ones((2, 2)), AFFINE, r"3 or 4 axes.*\(2, 2\)"),
        ("a.nii", np.ones((2, 2, 2, 0)), AFFINE, "none empty"),
        ("a.nii", np.ones((2, 2, 2)), np.eye(3), "4 by 4"),
        ("a.nii", np.ones((2, 2, 2)), AFFINE * np.nan, "finite"),
        ("a.nii", np.ones((2, 2, 2), "f2"), AFFINE, "float16"),
        ("a.nii", np.ones((40000, 1, 1), "u1"), AFFINE, "40000"),
        ("none/a.nii", np.ones((2, 2, 2)), AFFINE, "there is no folder"),
    ],
)
def test_write_image__refuses_with_the_reason(
    tmp_path: Path, name: str, data: np.ndarray, affine: np.ndarray, message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        write_image(tmp_path / name, data, affine)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_write_image_blocks__failure_keeps_the_old_file(tmp_path: Path, suffix: str) -> None:
    old = np.zeros((4, 5, 6, 7), "i2")
    path = write_image(tmp_path / f"a{suffix}", old, AFFINE)
    before = path.read_bytes()

    def broken():
        yield old[..., :3]
        raise RuntimeError("the source failed")

    with pytest.raises(RuntimeError, match="the source failed"):
        write_image_blocks(path, make_header(old.shape, "i2", AFFINE), broken())
    with pytest.raises(ImageError, match="says 7 volumes, but got 3"):
        write_image_blocks(path, make_header(old.shape, "i2", AFFINE), [old[..., :3]])
    with pytest.raises(ImageError, match=r"block of shape \(5, 4, 6, 7\)"):
        write_image_blocks(path, make_header(old.shape, "i2", AFFINE), [old.transpose(1, 0, 2, 3)])
    assert path.read_bytes() == before
    assert left_behind(tmp_path) == [path.name]


def test_atomic_writer__is_invisible_until_complete(tmp_path: Path) -> None:
    path = tmp_path / "a b [1]#.bin"
    with atomic_writer(path) as file:
        file.write(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half"
    reference = tmp_path / "reference"
    reference.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(reference.stat().st_mode)


def test_atomic_writer__writes_through_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with atomic_writer(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_atomic_writer__full_disk_names_the_file(tmp_path: Path) -> None:
    with (
        pytest.raises(ImageError, match=r"a\.bin: cannot be written, the disk is full.*free"),
        atomic_writer(tmp_path / "a.bin"),
    ):
        raise OSError(28, "No space left on device")
    assert left_behind(tmp_path) == []


def test_atomic_writer__leaves_other_errors_alone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"), atomic_writer(tmp_path / "a.bin"):
        (tmp_path / "missing").read_bytes()
    with pytest.raises(gzip.BadGzipFile), atomic_writer(tmp_path / "a.bin"):
        gzip.decompress(b"not gzip at all")


def test_gzip_writer__round_trip(tmp_path: Path) -> None:
    content = RNG.integers(0, 9, 100_000).astype("u1").tobytes()
    with gzip_writer(tmp_path / "a.gz") as file:
        file.write(content[:777])
        file.write(content[777:])
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == content
    assert (tmp_path / "a.gz").stat().st_size < len(content)


def test_write_image__of_noise_and_zeros_is_smaller_where_that_is_told(tmp_path: Path) -> None:
    values = np.zeros((40, 40, 30))
    values[8:32, 8:32, 6:24] = RNG.standard_normal((24, 24, 18))
    path, size = tmp_path / "z.nii.gz", {}
    for strategy in (ANYTHING, NOISE_AND_ZEROS):
        write_image(path, values, AFFINE, strategy=strategy)
        size[strategy] = path.stat().st_size
        np.testing.assert_array_equal(nib.load(path).get_fdata(), values)
        subprocess.run(["gzip", "--test", path], check=True)
    assert size[NOISE_AND_ZEROS] < size[ANYTHING]
