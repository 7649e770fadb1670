"""Damaged and changing input, all the way through convert, fit and looking at the data."""

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_lazy import SHAPE, make_data, make_design, make_mask, names_in, one_line, write_run

import chunkglm as cg
from chunkglm.errors import ImageError, StoreError

DESIGN, MASK = make_design(), make_mask()

# Long enough that neither nibabel nor a buffer sees the end while the header is read.
LONG = (12, 12, 12, 60)


def _flip(content: bytes, share: float) -> bytes:
    out = bytearray(content)
    out[int(len(out) * share)] ^= 0x04
    return bytes(out)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda c: b"",
    "half a header": lambda c: c[:9],
    "truncated early": lambda c: c[: len(c) // 20],
    "truncated halfway": lambda c: c[: len(c) // 2],
    "truncated at the end": lambda c: c[:-9],
    "without trailer": lambda c: c[:-8],
    "without a byte of its trailer": lambda c: c[:-1],
    "a bit flipped early": lambda c: _flip(c, 0.1),
    "a bit flipped in the middle": lambda c: _flip(c, 0.5),
    "a bit flipped late": lambda c: _flip(c, 0.98),
    "wrong checksum": lambda c: c[:-8] + b"\0\1\2\3" + c[-4:],
    "wrong length": lambda c: c[:-4] + b"\0\1\2\3",
    "text": lambda c: b"this is text, not an image\n" * 50,
    "gzipped text": lambda c: gzip.compress(b"this is text, not an image\n" * 50),
}


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("long") / "run.nii.gz"
    return write_run(path, make_data(LONG)).read_bytes()


def computing(path: Path) -> dict[str, Callable[[], Any]]:
    """Ways to use all of a run."""
    design = make_design(LONG[3])
    return {
        "fit": lambda: cg.contrast(cg.fit(path, design), "a").compute(),
        "smoothed": lambda: cg.fit(path, design, smoothing_fwhm=5).load(),
        "changed": lambda: cg.contrast(cg.fit(cg.open_run(path) + 1, design), "a").compute(),
        "beta": lambda: cg.fit(path, design).beta.compute(),
        "looked at": lambda: cg.open_run(path).mean("time").compute(),
        "saved": lambda: cg.save(
            cg.contrast(cg.fit(path, design), "a"), path.parent / "out", prefix="p"
        ),
    }


@pytest.mark.parametrize("how", list(computing(Path())))
@pytest.mark.parametrize("damage", list(DAMAGE))
def test_computing__refuses_damage(tmp_path: Path, content: bytes, damage: str, how: str) -> None:
    path = tmp_path / "run.nii.gz"
    path.write_bytes(DAMAGE[damage](content))
    with pytest.raises(ImageError) as caught:
        computing(path)[how]()
    one_line(caught.value, path)
    # No file that could be taken for a result.
    assert not list(tmp_path.rglob("*statmap*"))
    # Negative control: the undamaged run goes through.
    path.write_bytes(content)
    computing(path)[how]()


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_convert__refuses_damage_and_leaves_nothing_behind(
    tmp_path: Path, content: bytes, damage: str
) -> None:
    path = tmp_path / "run.nii.gz"
    path.write_bytes(DAMAGE[damage](content))
    with pytest.raises(ImageError) as caught:
        cg.convert(path, tmp_path / "run.zarr", progress=False)
    one_line(caught.value, path)
    assert names_in(tmp_path) == ["run.nii.gz"]


@pytest.mark.parametrize("missing", [1, 100, 5000])
def test_plain_file__truncated_before_or_after_it_was_opened_is_refused(
    tmp_path: Path, missing: int
) -> None:
    path = write_run(tmp_path / "run.nii")
    maps = cg.contrast(cg.fit(path, DESIGN, mask=MASK), "a")
    os.truncate(path, path.stat().st_size - missing)
    for call in (
        maps.compute,
        lambda: cg.open_run(path),
        lambda: cg.convert(path, tmp_path / "run.zarr", progress=False),
    ):
        with pytest.raises(ImageError) as caught:
            call()
        one_line(caught.value, path)
    assert names_in(tmp_path) == ["run.nii"]


@pytest.mark.parametrize("name", ["run.nii", "run.nii.gz"])
@pytest.mark.parametrize("change", ["deleted", "replaced", "touched"])
def test_file__changed_between_opening_and_computing_is_refused(
    tmp_path: Path, name: str, change: str
) -> None:
    path = write_run(tmp_path / name)
    run = cg.open_run(path)
    maps = [cg.contrast(cg.fit(r, DESIGN, mask=MASK), "a") for r in (run, run * 2)]
    if change == "deleted":
        path.unlink()
    elif change == "replaced":
        write_run(tmp_path / f"new-{name}", make_data(seed=5)).rename(path)
    else:
        os.utime(path, ns=(1, 1))
    # A fit made now of the run opened then, too.
    maps.append(cg.contrast(cg.fit(run, DESIGN, mask=MASK), "a"))
    for one in maps:
        with pytest.raises(ImageError) as caught:
            one.compute()
        one_line(caught.value, path)


def test_file__replaced_by_another_run_is_not_taken_for_the_one_opened(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.nii.gz")
    run = cg.open_run(path)
    write_run(path, make_data(seed=5))
    os.utime(path, ns=(10**18, 10**18))
    assert np.array_equal(cg.open_run(path).to_numpy(), make_data(seed=5))
    with pytest.raises(ImageError, match="changed since it was opened"):
        cg.contrast(cg.fit(run, DESIGN), "a").compute()


def test_garbage_after_gzip__works_with_a_warning(tmp_path: Path) -> None:
    clean = write_run(tmp_path / "clean.nii.gz")
    path = write_run(tmp_path / "run.nii.gz", after=b"appended by a broken tool\n")
    expected = cg.contrast(cg.fit(clean, DESIGN, mask=MASK), "a").compute()
    with pytest.warns(UserWarning, match=r"run\.nii\.gz.*after the image were ignored"):
        found = cg.contrast(cg.fit(path, DESIGN, mask=MASK), "a").compute()
    assert found.drop_attrs().equals(expected.drop_attrs())
    with pytest.warns(UserWarning, match=r"run\.nii\.gz.*after the image were ignored"):
        store = cg.convert(path, tmp_path / "run.zarr", progress=False)
    assert np.array_equal(cg.open_run(store).to_numpy(), make_data())


def test_header__that_claims_more_volumes_than_there_are_is_refused(
    tmp_path: Path, content: bytes
) -> None:
    plain = bytearray(gzip.decompress(content))
    plain[48:50] = struct.pack("<h", LONG[3] + 1)
    path = tmp_path / "run.nii.gz"
    path.write_bytes(gzip.compress(plain))
    with pytest.raises(ImageError) as caught:
        cg.fit(path, make_design(LONG[3] + 1)).load()
    one_line(caught.value, path, "truncated or corrupt")


def test_non_finite_and_constant_voxels__are_nan_with_a_reason(tmp_path: Path) -> None:
    data = make_data(dtype="f4")
    data[0, 0, 1] = 7.5
    data[1, 0, 1, 3] = np.nan
    data[2, 0, 1, 0] = np.nan
    data[3, 0, 1] = 0.0
    mask = np.ones(SHAPE[:3], bool)
    mask[4, 0, 1] = False
    for name in ("run.nii", "run.nii.gz"):
        fit = cg.fit(write_run(tmp_path / name, data), DESIGN, mask=mask)
        maps = cg.contrast(fit, "a").compute()
        status = maps["voxel_status"].to_numpy()
        assert status[:, 0, 1].tolist() == [2, 3, 3, 2, 1]
        assert (status == 0).sum() == status.size - 5
        for found in (*(maps[n] for n in ("effect_size", "stat", "z_score")), fit.sigma2):
            assert np.array_equal(np.isnan(found.to_numpy()), status != 0)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("volume", [0, 5, 29])
def test_infinite_sample__gives_nan_without_a_warning(tmp_path: Path, volume: int) -> None:
    data = make_data(dtype="f4")
    data[2, 0, 1, volume] = np.inf
    maps = cg.contrast(cg.fit(write_run(tmp_path / "run.nii", data), DESIGN), "a").compute()
    assert maps["voxel_status"].to_numpy()[2, 0, 1] == 3


def test_stores__of_which_a_chunk_is_lost_are_refused_on_opening_and_later(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.nii")
    store = Path(cg.convert(path, tmp_path / "run.zarr", progress=False))
    maps = cg.contrast(cg.fit(store, DESIGN, mask=MASK), "a")
    chunk = next(p for p in (store / "bold" / "c").rglob("*") if p.is_file())
    chunk.unlink()
    with pytest.raises(StoreError) as caught:
        cg.open_run(store)
    one_line(caught.value, store, "1 of 5 keys (chunks and metadata) are missing")
    with pytest.raises(StoreError) as caught:
        maps.compute()
    one_line(caught.value, store, "missing")


def test_stores__written_anew_since_they_were_opened_are_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.nii")
    store = cg.convert(path, tmp_path / "run.zarr", progress=False)
    run = cg.open_run(store)
    maps = [cg.contrast(cg.fit(r, DESIGN, mask=MASK), "a") for r in (run, run * 1)]
    cg.convert(path, store, overwrite=True, progress=False)
    maps.append(cg.contrast(cg.fit(run, DESIGN, mask=MASK), "a"))
    for one in maps:
        with pytest.raises(StoreError) as caught:
            one.compute()
        one_line(caught.value, store, "written anew")
