"""Maps as files: names, contents, headers, sidecars, and the way back."""

import gzip
import json
import os
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import xarray as xr
from helpers_lazy import (
    AFFINE,
    MAPS,
    SHAPE,
    distances,
    lazily,
    make_data,
    make_design,
    make_mask,
    names_in,
    one_line,
    write_run,
)

import chunkglm as cg
from chunkglm import sizes
from chunkglm.errors import ChunkglmError, ImageError, MapsError

DESIGN, MASK = make_design(), make_mask()
STATS = ("effect", "variance", "{kind}", "p", "z")


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> list[cg.Fit]:
    folder = tmp_path_factory.mktemp("runs")
    return [
        cg.fit(
            write_run(folder / f"run-{i}.nii", make_data(seed=i), t_r=2000.0, units=("mm", "msec")),
            DESIGN,
            mask=MASK,
        )
        for i in range(3)
    ]


@pytest.mark.parametrize("definition", ["a - b", ["a", "b"]])
def test_save__writes_five_images_with_a_sidecar_each(
    fits: list[cg.Fit], tmp_path: Path, definition: Any
) -> None:
    maps = cg.contrast(fits[0], definition)
    kind = maps.attrs["stat_type"]
    found = cg.save(maps, tmp_path / "new" / "folder", prefix="sub-01_contrast-x")
    stems = [f"sub-01_contrast-x_stat-{s.format(kind=kind)}_statmap" for s in STATS]
    assert [Path(f).name for f in found] == [f"{s}.nii.gz" for s in stems]
    assert names_in(tmp_path / "new/folder") == sorted(
        [f"{s}.nii.gz" for s in stems] + [f"{s}.json" for s in stems]
    )
    computed = maps.compute()
    for file, name in zip(found, MAPS, strict=True):
        image = nib.load(file)
        data = image.get_fdata()
        expected = computed[name].to_numpy()
        if expected.ndim > 3:
            expected = np.moveaxis(expected.reshape(-1, *SHAPE[:3]), 0, -1)
        assert image.get_data_dtype() == np.float64
        assert (image.header["scl_slope"], image.header["scl_inter"]) == (1, 0) or np.isnan(
            image.header["scl_slope"]
        )
        assert data.shape == expected.shape
        assert np.array_equal(data[MASK], expected[MASK])
        assert (data[~MASK] == (1.0 if name == "p_value" else 0.0)).all()


def test_save__inherits_where_the_run_lies(fits: list[cg.Fit], tmp_path: Path) -> None:
    for file in cg.save(cg.contrast(fits[0], "a"), tmp_path, prefix="p"):
        header = nib.load(file).header
        assert np.array_equal(nib.load(file).affine, AFFINE)
        assert int(header["sform_code"]) == int(header["qform_code"]) == 1
        assert header.get_xyzt_units() == ("mm", "msec")
        assert header.get_zooms()[:3] == (3.0, 3.0, 3.5)


@pytest.mark.parametrize("suffix", [".nii.gz", ".img", ".zarr"])
def test_save__inherits_from_every_kind_of_run(tmp_path: Path, suffix: str) -> None:
    path = write_run(tmp_path / ("run.nii" if suffix == ".zarr" else f"run{suffix}"), endian=">")
    if suffix == ".zarr":
        path = Path(cg.convert(path, tmp_path / "run.zarr", progress=False))
    file = cg.save(cg.contrast(cg.fit(path, DESIGN), "a"), tmp_path / "out", prefix="p")[0]
    header = nib.load(file).header
    assert int(header["sform_code"]) == int(header["qform_code"]) == 1
    assert header.get_xyzt_units()[0] == "mm"


def test_save__of_a_run_without_a_header_has_the_affine(tmp_path: Path) -> None:
    run = xr.DataArray(make_data(), dims=("x", "y", "z", "time"), attrs={"affine": AFFINE.tolist()})
    file = cg.save(cg.contrast(cg.fit(run, DESIGN), "a"), tmp_path, prefix="p")[0]
    assert np.array_equal(nib.load(file).affine, AFFINE)


def test_save__sidecars_say_what_was_done(fits: list[cg.Fit], tmp_path: Path) -> None:
    cg.save(cg.contrast(fits[0], "a - b"), tmp_path, prefix="p")
    found = json.loads((tmp_path / "p_stat-t_statmap.json").read_text())
    assert found.items() >= {
        "Statistic": "t", "StatType": "t", "Contrast": "a - b", "DegreesOfFreedom": 26.0,
        "NoiseModel": "ar1, corrected", "SignalScaling": "percent", "SmoothingFWHM": 0.0,
        "ContrastWeights": [{"a": 1.0, "b": -1.0}], "Maps": ["effect", "variance", "t", "p", "z"],
        "SoftwareName": "chunkglm",
    }.items()  # fmt: skip
    runs = ["/".join(Path(f.dataset.attrs["run"]).parts[-2:]) for f in fits]
    assert found["Run"] == runs[0]
    cg.save(cg.fixed_effects([cg.contrast(f, "a - b") for f in fits]), tmp_path, prefix="ffx")
    found = json.loads((tmp_path / "ffx_stat-z_statmap.json").read_text())
    assert found["Statistic"] == "z"
    assert found["DegreesOfFreedom"] == 78.0
    assert found["Runs"] == [
        {"run": run, "design": "DataFrame", "dof": 26.0, "contributed": True, "reason": ""}
        for run in runs
    ]
    assert found["NumberOfRuns"] == 3
    assert found["PrecisionWeighted"] is False


def test_save__says_nothing_of_the_machine(tmp_path: Path) -> None:
    folder = tmp_path / "sub-01" / "func"
    folder.mkdir(parents=True)
    table = folder / "design.csv"
    DESIGN.to_csv(table, index=False)
    fits = []
    for i, columns in enumerate((list(DESIGN), ["a", "drift", "constant"])):
        run = write_run(folder / f"sub-01_run-{i}_bold.nii", make_data(seed=i))
        DESIGN[columns].to_csv(folder / f"design-{i}.csv", index=False)
        fits.append(cg.fit(run, folder / f"design-{i}.csv", mask=MASK))
    with pytest.warns(UserWarning, match="left out"):
        pooled = cg.fixed_effects(fits, contrast="a - b", missing="skip")
    cg.save(pooled, tmp_path / "out", prefix="p")
    cg.save(cg.contrast(fits[0], "a"), tmp_path / "out", prefix="one")
    for name in names_in(tmp_path / "out"):
        if name.endswith(".json"):
            text = (tmp_path / "out" / name).read_text()
            assert str(tmp_path) not in text, name
            assert "sub-01/func/sub-01_run-0_bold.nii" in text
    opened = cg.open_maps(tmp_path / "out", prefix="p")
    assert cg.contributions(opened)["contributed"].tolist() == [True, False]
    # And still a run that is given again is noticed.
    with pytest.warns(UserWarning, match="sub-01_run-0_bold.nii: given more than once"):
        cg.fixed_effects([opened, cg.contrast(fits[0], "a - b")])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("definition", ["a - b", ["a", "b"]])
def test_save__keeps_what_pooled_maps_need_to_merge(
    tmp_path: Path, definition: Any, weighted: bool
) -> None:
    maps = []
    for i, n_scans in enumerate((30, 41, 36)):
        data = make_data((*SHAPE[:3], n_scans), seed=i)
        data[2, 2, 1 + i] = data[3, 3, 3] = 1000
        mask = MASK.copy()
        mask[i, 1, 2:4] = False
        mask[2, 2, 1:4] = mask[3, 3, 3] = True
        fit = cg.fit(write_run(tmp_path / f"{i}.nii", data), make_design(n_scans), mask=mask)
        maps.append(cg.contrast(fit, definition))
    two = cg.fixed_effects(maps[:2], precision_weighted=weighted)
    with pytest.warns(UserWarning, match="1 voxels of the mask are constant"):
        files = cg.save(two, tmp_path, prefix="two")
    assert [Path(f).name.split("_")[1] for f in files[5:]] == [
        "stat-dof", "stat-nruns", "stat-status"
    ]  # fmt: skip
    opened = cg.open_maps(tmp_path, prefix="two")
    for name in ("n_runs", "dof", "voxel_status"):
        assert opened[name].equals(two[name].compute()), name
    for a, b in (([two], [opened]), ([two, maps[2]], [opened, maps[2]])):
        expected = cg.fixed_effects(a, precision_weighted=weighted).compute()
        found = cg.fixed_effects(b, precision_weighted=weighted).compute()
        for name in expected:
            assert found[name].equals(expected[name]), name
    # And one taken out again.
    rest = cg.drop_runs(cg.open_maps(tmp_path, prefix="two"), maps[1]).compute()
    assert distances(rest, maps[0].compute()) < 1e-12
    assert set(np.unique(two["voxel_status"])) == {0, 1, 2}


@pytest.mark.parametrize("first", ["t", "F"])
def test_save__leaves_nothing_of_older_maps(fits: list[cg.Fit], tmp_path: Path, first: str) -> None:
    thin = MASK.copy()
    thin[1, 1] = False
    odd = cg.fit(write_run(tmp_path / "run.nii", make_data(seed=7)), DESIGN, mask=thin)
    kinds = {"t": "a", "F": ["a", "b"]}
    out = tmp_path / "out"
    old = [cg.contrast(fit, kinds[first]) for fit in (fits[0], odd)]
    cg.save(cg.fixed_effects(old), out, prefix="p")
    cg.save(cg.fixed_effects(old), out, prefix="p_stat-x")
    assert "p_stat-nruns_statmap.nii.gz" in names_in(out)
    before = [name for name in names_in(out) if name.startswith("p_stat-x")]
    second = "F" if first == "t" else "t"
    files = cg.save(cg.contrast(fits[0], kinds[second]), out, prefix="p")
    stems = {Path(f).name.removesuffix(".nii.gz") for f in files}
    new = sorted(f"{s}{end}" for s in stems for end in (".nii.gz", ".json"))
    assert names_in(out) == sorted([*new, *before])
    assert f"p_stat-{first}_statmap.json" not in new


def test_save__interrupted_is_not_opened_as_a_mixture(
    fits: list[cg.Fit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cg.save(cg.contrast(fits[0], "a"), tmp_path, prefix="p")
    whole = {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)}
    replaced, allowed = [], [0]
    original = Path.replace

    def replace(self: Path, target: Any) -> Path:
        if "stat" in Path(target).name and Path(target).parent == tmp_path:
            if len(replaced) == allowed[0]:
                raise KeyboardInterrupt
            replaced.append(target)
        return original(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    for allowed[0] in range(10):
        replaced.clear()
        with pytest.raises(KeyboardInterrupt):
            cg.save(cg.contrast(fits[1], "a"), tmp_path, prefix="p")
        with pytest.raises(MapsError, match="sidecar"):
            cg.open_maps(tmp_path, prefix="p")
        for name, content in whole.items():
            (tmp_path / name).write_bytes(content)
    assert names_in(tmp_path) == sorted(whole)


def test_save__that_fails_keeps_the_older_maps(
    fits: list[cg.Fit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cg.save(cg.contrast(fits[0], "a"), tmp_path, prefix="p")
    whole = {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)}

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ImageError) as caught:
        cg.save(cg.contrast(fits[1], "a"), tmp_path, prefix="p")
    one_line(caught.value, tmp_path / "p_stat-", "_statmap.", "disk is full")
    assert {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)} == whole


# --- as Datasets ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["netcdf", "zarr"])
@pytest.mark.parametrize("definition", ["a - b", ["a", "b"]])
def test_maps__go_to_netcdf_and_zarr_and_come_back(
    fits: list[cg.Fit], tmp_path: Path, definition: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "MAP_CHUNK_BYTES", 0)
    one, two, three = (cg.contrast(fit, definition) for fit in fits)
    pooled = cg.fixed_effects([one, two])
    # Slabs begin where the mask does: unlike chunks, that zarr does not take by itself.
    assert len(set(one["stat"].chunks[-1])) > 1
    back = []
    for name, maps in (("one", one), ("pooled", pooled), ("three", three)):
        path = tmp_path / name
        if kind == "netcdf":
            maps.to_netcdf(path)
            back.append(xr.load_dataset(path))
        else:
            maps.to_zarr(path, consolidated=False)
            back.append(xr.open_zarr(path, consolidated=False))
        xr.testing.assert_equal(back[-1], maps.compute())
        for key, value in maps.attrs.items():
            assert np.array_equal(back[-1].attrs[key], value), key
    assert distances(back[0].compute(), one.compute()) == 0.0
    merged, expected = cg.fixed_effects(back[1:]), cg.fixed_effects([pooled, three])
    assert merged.attrs == expected.attrs
    assert merged.compute().equals(expected.compute())
    # What came back from a file can be written as images.
    cg.save(merged, tmp_path / "out", prefix="p")
    assert cg.open_maps(tmp_path / "out", prefix="p")["stat"].equals(merged["stat"].compute())


def test_maps__hold_attributes_that_every_format_can_keep(fits: list[cg.Fit]) -> None:
    # netCDF: text, numbers and rows of numbers; no None, no bool, nothing nested.
    one = cg.contrast(fits[0], ["a", "b"])
    for maps in (one, cg.fixed_effects([one]), cg.contrast(fits[1], "a")):
        for key, value in maps.attrs.items():
            good = isinstance(value, (str, int, float)) and not isinstance(value, bool)
            numbers = isinstance(value, list) and all(isinstance(v, float) for v in value)
            assert good or numbers, (key, value)


def test_save__writes_the_same_bytes_again(fits: list[cg.Fit], tmp_path: Path) -> None:
    for folder in ("one", "two"):
        cg.save(cg.contrast(fits[0], "a"), tmp_path / folder, prefix="p")
    for name in names_in(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_save__replaces_what_is_there(fits: list[cg.Fit], tmp_path: Path) -> None:
    cg.save(cg.contrast(fits[0], "a"), tmp_path, prefix="p")
    files = cg.save(cg.contrast(fits[1], "a"), tmp_path, prefix="p")
    expected = cg.contrast(fits[1], "a")["effect_size"].to_numpy()
    assert np.array_equal(nib.load(files[0]).get_fdata()[MASK], expected[MASK])
    assert len(names_in(tmp_path)) == 10


def test_save__warns_with_the_counts_of_lost_voxels(tmp_path: Path) -> None:
    data = make_data(dtype="f4")
    data[0, 0, 1] = 3.0
    data[1, 0, 1, 5] = data[2, 0, 1, 6] = np.nan
    mask = np.ones(SHAPE[:3], bool)
    maps = cg.contrast(cg.fit(write_run(tmp_path / "run.nii", data), DESIGN, mask=mask), "a")
    with pytest.warns(UserWarning, match="1 voxels of the mask are constant, 2 not finite") as w:
        cg.save(maps, tmp_path, prefix="sub-01")
    assert str(w[0].message).startswith("sub-01:")
    assert len(w) == 1


def test_save__is_silent_when_no_voxel_is_lost(fits: list[cg.Fit], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cg.save(cg.contrast(fits[0], "a"), tmp_path, prefix="p")


# --- and back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("definition", ["a - b", ["a", "b"]])
@pytest.mark.parametrize("weighted", [False, True])
def test_open_maps__gives_the_same_fixed_effects(
    fits: list[cg.Fit], tmp_path: Path, definition: Any, weighted: bool
) -> None:
    maps = [cg.contrast(fit, definition) for fit in fits]
    for i, one in enumerate(maps):
        cg.save(one, tmp_path, prefix=f"run-{i}")
    opened = [cg.open_maps(tmp_path, prefix=f"run-{i}") for i in range(3)]
    for one, two in zip(maps, opened, strict=True):
        # F is taken of orthonormal rows in the fit, of the rows as they are in maps: 1.8e-15 seen.
        assert distances(two, one.compute()) <= (1e-13 if one.attrs["stat_type"] == "F" else 0.0)
        assert two["dof"].equals(one["dof"].compute())
        for name in one.attrs:
            if name not in ("run", "nifti_header"):
                assert two.attrs[name] == one.attrs[name], name
    expected = cg.fixed_effects(maps, precision_weighted=weighted).compute()
    lazy = cg.fixed_effects(opened, precision_weighted=weighted)
    found = lazy.compute()
    assert distances(found, expected) == 0.0
    assert found["n_runs"].equals(expected["n_runs"])
    assert {n: v.dtype for n, v in found.items()} == {n: v.dtype for n, v in lazy.items()}


@pytest.mark.parametrize("definition", ["a - b", ["a", "b"]])
def test_open_maps__of_fixed_effects_still_merge(
    fits: list[cg.Fit], tmp_path: Path, definition: Any
) -> None:
    maps = [cg.contrast(fit, definition) for fit in fits]
    assert len(cg.save(cg.fixed_effects(maps[:2]), tmp_path, prefix="two")) == 5
    merged = cg.fixed_effects([cg.open_maps(tmp_path, prefix="two"), maps[2]]).compute()
    expected = cg.fixed_effects(maps).compute()
    # The same sums in another order; worst seen 2e-15.
    assert distances(merged, expected) < 1e-13
    for name in ("n_runs", "dof", "voxel_status"):
        assert merged[name].equals(expected[name]), name
    assert merged.attrs["dof"] == expected.attrs["dof"]


def test_open_maps__refuses_what_is_missing_or_damaged(fits: list[cg.Fit], tmp_path: Path) -> None:
    files = [Path(f) for f in cg.save(cg.contrast(fits[0], "a"), tmp_path, prefix="p")]
    sidecar = tmp_path / "p_stat-effect_statmap.json"
    for path, contents in (
        (files[0], [None, b"", b"text", files[0].read_bytes()[:-3], _damaged(files[0])]),
        (files[1], [None, b"", files[1].read_bytes()[:200], _damaged(files[1])]),
        (files[0], [_shorter(files[0], 1), _shorter(files[0], 400), _of_two_axes(files[0])]),
        (sidecar, [None, b"", b"not JSON", b"[1]", b"{}", b'{"StatType": "z"}', b"\xff\xfe"]),
    ):
        good = path.read_bytes()
        for content in contents:
            path.unlink()
            if content is not None:
                path.write_bytes(content)
            with pytest.raises(MapsError) as caught:
                cg.open_maps(tmp_path, prefix="p")
            one_line(caught.value, path)
            path.write_bytes(good)
    cg.open_maps(tmp_path, prefix="p")
    with pytest.raises(MapsError) as caught:
        cg.open_maps(tmp_path, prefix="q")
    one_line(caught.value, tmp_path / "q_stat-effect_statmap.json")


def _damaged(path: Path) -> bytes:
    """Other numbers under the old checksum: valid deflate, that nibabel reads in silence."""
    content = path.read_bytes()
    other = gzip.compress(gzip.decompress(content)[:-8] + b"\1\2\3\4\5\6\7\10")
    return other[:-8] + content[-8:]


def _shorter(path: Path, n_bytes: int) -> bytes:
    """A whole gzip file of an image that is not whole."""
    content = gzip.decompress(path.read_bytes())
    return gzip.compress(content[: max(len(content) - n_bytes, 352)])


def _of_two_axes(path: Path) -> bytes:
    plane = np.asarray(nib.load(path).dataobj)[:, :, 0]
    return gzip.compress(nib.Nifti1Image(plane, AFFINE).to_bytes())


@pytest.mark.parametrize("kind", ["int16", ">f8", "NIfTI-2", "extension", "members", "plain"])
def test_open_maps__reads_images_as_nibabel_does(
    fits: list[cg.Fit], tmp_path: Path, kind: str
) -> None:
    """Maps that another program wrote anew: scaled, in another byte order, format or packing."""
    files = cg.save(cg.contrast(fits[0], ["a", "b"]), tmp_path, prefix="p")
    path = Path(next(f for f in files if "stat-effect" in f))
    before = cg.open_maps(tmp_path, prefix="p")["effect_size"]
    image = nib.load(path)
    form = nib.Nifti2Image if kind == "NIfTI-2" else nib.Nifti1Image
    new = form(image.get_fdata(), image.affine, image.header)
    if kind == "int16":
        new.set_data_dtype(np.int16)  # nibabel chooses slope and intercept
    if kind == ">f8":
        new = form(new.get_fdata(), image.affine, image.header.as_byteswapped(">"))
    if kind == "extension":
        new.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"by someone else"))
    content = new.to_bytes()
    if kind == "members":
        path.write_bytes(gzip.compress(content[:500]) + gzip.compress(content[500:]) + bytes(9))
    else:
        path.write_bytes(content if kind == "plain" else gzip.compress(content))
    opened = cg.open_maps(tmp_path, prefix="p")
    found = opened["effect_size"]
    expected = np.moveaxis(new.__class__.from_bytes(content).get_fdata(), -1, 0)
    np.testing.assert_array_equal(found, np.where(before.isnull(), np.nan, expected))
    assert np.isfinite(found).any()
    found[...] = 0.0  # is the user's to change
    np.testing.assert_array_equal(opened.attrs["affine"], image.affine.ravel())


# --- wrong arguments --------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "a/b", "..", "../x", "/tmp/x", "a/", ".", "a\0b"])  # noqa: S108
def test_save__refuses_a_prefix_that_is_no_name(
    fits: list[cg.Fit], tmp_path: Path, prefix: str
) -> None:
    with lazily(), pytest.raises(MapsError) as caught:
        cg.save(cg.contrast(fits[0], "a"), tmp_path / "out", prefix=prefix)
    one_line(caught.value, repr(prefix))
    assert names_in(tmp_path) == []


def test_save__refuses_maps_that_lack_something(fits: list[cg.Fit], tmp_path: Path) -> None:
    maps = cg.contrast(fits[0], "a")
    without = {k: v for k, v in maps.attrs.items() if k != "stat_type"}
    with lazily():
        for bad in (
            maps.drop_vars("stat"),
            maps.drop_attrs(deep=False),
            maps.drop_attrs(deep=False).assign_attrs(without),
            maps.assign_attrs(affine=None),
        ):
            with pytest.raises(MapsError) as caught:
                cg.save(bad, tmp_path / "out", prefix="p")
            one_line(caught.value)
    assert names_in(tmp_path) == []


def test_save__refuses_a_folder_that_is_a_file_before_computing(
    fits: list[cg.Fit], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("precious")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with lazily(), pytest.raises(ImageError) as caught:
            cg.save(cg.contrast(fits[0], "a"), folder, prefix="p")
        one_line(caught.value, folder)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_save__refuses_a_read_only_folder(fits: list[cg.Fit], tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ChunkglmError) as caught:
            cg.save(cg.contrast(fits[0], "a"), tmp_path, prefix="p")
    finally:
        tmp_path.chmod(0o700)
    one_line(caught.value, tmp_path)
    assert names_in(tmp_path) == []


def test_save__that_cannot_write_leaves_no_half_file(
    fits: list[cg.Fit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ImageError) as caught:
        cg.save(cg.contrast(fits[0], "a"), tmp_path, prefix="p")
    one_line(caught.value, tmp_path, "disk is full")
    assert names_in(tmp_path) == []
