"""Pages about maps: what they hold, what they never do, and that their numbers are the maps'."""

import base64
import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import xarray as xr
from helpers_lazy import AFFINE, SHAPE, lazily, make_data, make_design, make_mask, write_run
from helpers_pages import Page

import chunkglm as cg
from chunkglm.errors import ContrastError, ImageError, MapsError
from chunkglm.reporting import write as writing

HOSTILE = "<script>alert(1)</script>\"'&"

# Sums about the first volume, against numpy's: 1e-13 seen.
SIGNAL_RTOL = 1e-10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    for i in (1, 2):
        write_run(folder / f"run-{i}.nii.gz", make_data(seed=i))
    make_design().to_csv(folder / "design.csv", index=False)
    return folder


def fits_of(folder: Path, **options: Any) -> list[Any]:
    options.setdefault("mask", make_mask())
    return [cg.fit(folder / f"run-{i}.nii.gz", make_design(), **options) for i in (1, 2)]


@pytest.fixture(scope="module")
def maps(folder: Path) -> Any:
    fits = fits_of(folder)
    runs = [cg.contrast(fit, "a - b") for fit in fits]
    return fits, runs, cg.fixed_effects(runs)


@pytest.fixture(scope="module")
def page(maps: Any, folder: Path) -> Page:
    fits, _, fixed = maps
    path = cg.report(fixed, folder / "report.html", fits=fits, title="Ten & one")
    return Page(path.read_text(encoding="utf-8"))


def test_report__has_every_part_of_what_was_given(page: Page) -> None:
    assert {"result", "look", "runs", "table", "design", "quality", "made", "methods"} <= page.ids()
    for words in (
        "Ten & one", "run-1.nii.gz", "Autocorrelation of the noise", "Temporal signal to noise",
        "Runs that count", "autoregressive process of order 1", "Worsley", "SHA-256",
    ):  # fmt: skip
        assert words in page.text, words
    assert "Not on this page" not in page.text
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")


def test_report__of_maps_alone_says_what_is_left_out(maps: Any, tmp_path: Path) -> None:
    found = Page(cg.report(maps[2], tmp_path / "r.html").read_text(encoding="utf-8"))
    assert {"result", "look", "table", "quality"} <= found.ids()
    assert not {"design", "runs"} & found.ids()
    for left in ("Design matrices", "Maps of single runs", "temporal signal to noise", "mask is"):
        assert left in found.text.partition("Not on this page")[2], left


def test_report__fetches_nothing_and_runs_its_own_script_only(page: Page) -> None:
    assert all(a.startswith(("data:", "#")) for a in page.addresses())
    assert not re.search(r"url\((?!['\"]?data:)", page.html)
    assert "@import" not in page.html
    (policy,) = [
        attrs["content"]
        for _, attrs in page.tags
        if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    scripts = [text for attrs, text in page.scripts if "type" not in attrs][1:]  # after the style
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]


def test_report__names_are_text(tmp_path: Path, folder: Path) -> None:
    design = make_design().rename(columns={"a": HOSTILE, "b": "<img src=x onerror=alert(2)>"})
    fit = cg.fit(folder / "run-1.nii.gz", design, mask=make_mask())
    maps = {HOSTILE: cg.contrast(fit, {HOSTILE: 1.0})}
    found = Page(
        cg.report(maps, tmp_path / "r.html", fits={HOSTILE: fit}, title=HOSTILE).read_text()
    )
    assert HOSTILE in found.text
    assert [a for t, a in found.tags if t == "script" and "type" not in a] == [{}]
    assert not [1 for t, a in found.tags if a.get("src") == "x" or "onerror" in a]
    assert "alert(1)" not in "".join(text for a, text in found.scripts if not a)


def test_report__counts_and_peaks_are_those_of_threshold_and_clusters(
    maps: Any, tmp_path: Path
) -> None:
    options = {"alpha": 0.05, "height_control": "fpr", "cluster_threshold": 2}
    found = Page(cg.report(maps[2], tmp_path / "r.html", **options).read_text())
    kept = cg.threshold(maps[2], **options).compute()
    table = cg.clusters(kept)
    surviving = int((np.nan_to_num(kept["thresholded"].to_numpy()) != 0).sum())
    assert surviving > 0
    assert f"{surviving} of {int(kept['n_tests'])} voxels survive" in found.text
    assert f"{len(table)} cluster" in found.text
    peak = f"{table['Peak Stat'][0]:.2f}".replace("-", "−")
    assert peak in found.text


def decoded(page: Page, which: str, shape: Any, dtype: Any) -> Any:
    (text,) = [text for attrs, text in page.scripts if attrs.get("id") == which]
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype).reshape(shape, order="F")


def test_report__viewer_holds_the_maps_where_they_are(maps: Any, page: Page) -> None:
    (told,) = [json.loads(t) for a, t in page.scripts if a.get("id") == "viewer-data"]
    z = maps[2]["z_score"].compute().to_numpy()
    held = decoded(page, "volume-0", told["shape"], np.int8)
    affine, matrix = np.array(told["affine"]), AFFINE
    step = told["volumes"][0]["step"]
    height = told["volumes"][0]["threshold"]
    assert abs(height / step - round(height / step)) < 1e-9
    n_known = 0
    for place in np.argwhere(held != -128):
        mm = affine[:3, :3] @ place + affine[:3, 3]
        voxel = np.rint(np.linalg.solve(matrix[:3, :3], mm - matrix[:3, 3])).astype(int)
        true, units = z[tuple(voxel)], int(held[tuple(place)])
        n_known += 1
        assert abs(units * step) <= abs(true) + 1e-9
        assert abs(true) < (abs(units) + 1) * step + 1e-9 or abs(units) == 127
        assert (abs(units) * step >= height - 1e-9) == (abs(true) >= height)
    assert n_known == int(np.isfinite(z).sum()) > 50
    # Axes run to the right, the front and the top.
    assert all(affine[i, i] > 0 for i in range(3))


def test_report__computes_lazy_maps_together_and_reads_each_run_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chunkglm.io.nifti import NiftiRun

    read = []
    blocks = NiftiRun.blocks
    monkeypatch.setattr(
        NiftiRun, "blocks", lambda self, *a, **k: read.append(self.path) or blocks(self, *a, **k)
    )
    with lazily():
        fits = fits_of(folder)
        fixed = cg.fixed_effects([cg.contrast(fit, "a - b") for fit in fits])
    assert read == []
    cg.report(fixed, tmp_path / "r.html", fits=fits)
    assert sorted(Path(p).name for p in read) == ["run-1.nii.gz", "run-2.nii.gz"]


@pytest.mark.parametrize("scaling", ["percent", None])
def test_fit__mean_and_tsnr_are_numpys(folder: Path, scaling: str | None) -> None:
    kept = np.ones(SHAPE[3], dtype=bool)
    kept[[3, 4, 17]] = False
    fit = cg.fit(
        folder / "run-1.nii.gz", make_design(), mask=make_mask(), scaling=scaling, sample_mask=kept
    )
    with lazily():
        mean, tsnr = fit.mean, fit.tsnr
    data = make_data(seed=1).astype(float)[..., kept]
    expected = np.where(make_mask(), data.mean(-1), np.nan)
    np.testing.assert_allclose(mean.to_numpy(), expected, rtol=SIGNAL_RTOL)
    ratio = np.where(make_mask(), data.mean(-1) / data.std(-1), np.nan)
    np.testing.assert_allclose(tsnr.to_numpy(), ratio, rtol=SIGNAL_RTOL)


def test_fit__tsnr_of_constant_and_broken_voxels_is_not_there(tmp_path: Path) -> None:
    data = make_data(dtype=np.float32)
    data[1, 1, 1], data[1, 1, 2, 5] = 7.0, np.nan
    write_run(tmp_path / "run.nii", data)
    fit = cg.fit(tmp_path / "run.nii", make_design())
    mean, tsnr = fit.mean.to_numpy(), fit.tsnr.to_numpy()
    assert mean[1, 1, 1] == 7.0
    assert np.isnan(mean[1, 1, 2])
    assert np.isnan(tsnr[[1, 1], [1, 1], [1, 2]]).all()
    assert np.isfinite(tsnr).sum() == tsnr.size - 2


def test_report__several_contrasts_and_f_on_one_page(maps: Any, tmp_path: Path) -> None:
    fits = maps[0]
    faces = [cg.contrast(f, {"a": "a", "both": "a + b"}) for f in fits]
    several = cg.fixed_effects(faces)
    joint = cg.fixed_effects([cg.contrast(f, ["a", "b"]) for f in fits])
    named = {**{n: several.sel(contrast=n) for n in ("a", "both")}, "any": joint}
    found = Page(cg.report(named, tmp_path / "r.html", fits=fits).read_text())
    assert {"contrast-1", "contrast-2", "contrast-3"} <= found.ids()
    assert "'any'" in found.text
    assert "F statistic" in found.text
    assert "any, row 2" in found.text
    again = Page(cg.report(several, tmp_path / "s.html").read_text())
    assert {"contrast-1", "contrast-2"} <= again.ids()


def test_report__nothing_survives(maps: Any, tmp_path: Path) -> None:
    options: Any = {"alpha": 1e-9, "height_control": "bonferroni"}
    found = Page(cg.report(maps[2], tmp_path / "r.html", **options).read_text())
    assert "No voxel survives the threshold" in found.text
    rates = Page(
        cg.report(maps[2], tmp_path / "q.html", alpha=1e-9, height_control="fdr").read_text()
    )
    assert "Benjamini" in rates.text


def test_report__a_failure_leaves_the_page_that_was_there(
    maps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.html"
    path.write_text("before")
    monkeypatch.setattr(writing, "page_of", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cg.report(maps[2], path)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]
    monkeypatch.undo()
    with pytest.raises(ImageError, match="no folder"):
        cg.report(maps[2], tmp_path / "nowhere" / "r.html")


def test_report__refuses_what_does_not_belong_together(maps: Any, tmp_path: Path) -> None:
    fits, runs, fixed = maps
    path = tmp_path / "r.html"
    for wrong, options, words in (
        (fixed, {"path": tmp_path / "r.pdf"}, "must end in .html"),
        ([1], {}, "got list"),
        ({"x": 3}, {}, "'x': must be maps"),
        (fixed, {"fits": [3]}, "must be a Fit"),
        (fixed, {"background": np.zeros((2, 2, 2))}, "background: must have shape"),
        (fixed, {"background": tmp_path / "none.nii"}, "none.nii: cannot be read"),
        (fixed, {"subjects": ["01"]}, "subjects are those of a study"),
        (fixed, {"runs": {"other": runs}}, "'other' is not one of the contrasts"),
        (fixed, {"fits": fits, "runs": [runs[0].isel(x=slice(1, 4))]}, "not on the grid"),
    ):
        with pytest.raises((MapsError, ContrastError), match=re.escape(words)):
            cg.report(wrong, **{"path": path, **options})
    assert not path.exists()


@pytest.mark.parametrize("x", [3.0, -3.0])
def test_report__right_is_right_whichever_way_the_voxels_run(x: float, tmp_path: Path) -> None:
    """A blob at the right, front and top is there in the pictures, whatever the affine."""
    from chunkglm.reporting.colours import StatScale
    from chunkglm.reporting.pictures import _projection
    from chunkglm.reporting.view import view_of

    affine = np.diag([x, 3.0, 3.0, 1.0])
    affine[0, 3] = -x * 9.5
    stat = np.zeros((20, 16, 12))
    right = slice(15, 18) if x > 0 else slice(2, 5)
    stat[right, 12:14, 9:11] = 8.0
    view = view_of(affine, np.ones(stat.shape, dtype=bool))
    for axis, (across, up) in {
        0: ("front", "top"),
        1: ("right", "top"),
        2: ("right", "front"),
    }.items():
        picture = np.asarray(
            _projection(view, view.of(stat), StatScale(3.0, 8.0), axis, (240, 200))
        )
        red = (picture[..., 0].astype(int) - picture[..., 2]) > 60
        rows, columns = np.nonzero(red)
        assert columns.min() > 120, across
        assert rows.max() < 100, up


def test_report__background_of_an_image_on_the_grid(maps: Any, folder: Path) -> None:
    image = nib.Nifti1Image(make_data()[..., 0].astype(np.float32), AFFINE)
    nib.save(image, folder / "mean.nii.gz")
    for background in (folder / "mean.nii.gz", image, image.get_fdata()):
        page = Page(cg.report(maps[2], folder / "b.html", background=background).read_text())
        assert "the image that was given" in page.text
    wrong = nib.Nifti1Image(image.get_fdata(), np.eye(4))
    with pytest.raises(MapsError, match="background: is not on the grid"):
        cg.report(maps[2], folder / "b.html", background=wrong)


def test_report__of_runs_in_files(maps: Any, tmp_path: Path) -> None:
    """What was saved and opened again is reported as it was."""
    cg.save(maps[2], tmp_path, prefix="fixed")
    opened = cg.open_maps(tmp_path, prefix="fixed")
    assert isinstance(opened, xr.Dataset)
    page = Page(cg.report(opened, tmp_path / "r.html").read_text())
    assert "run-1.nii.gz" in page.text
    assert str(tmp_path) not in page.html
