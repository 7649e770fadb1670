"""What values show of themselves, in text and in notebooks."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from helpers_lazy import lazily, make_data, make_design, make_mask, write_run

import chunkglm as cg
from chunkglm.glm.shown import as_html, as_text

SHAPE = (5, 4, 6, 30)


class Table(HTMLParser):
    """Rows of a table, and text that is folded away; tags must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.folded: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1] in ("th", "td"):
            self.cells.append(data)
        if "details" in self.open:
            self.folded.append(data)

    @property
    def rows(self) -> dict[str, str]:
        return dict(zip(self.cells[::2], self.cells[1::2], strict=True))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "sub-01_bold.nii.gz", make_data(SHAPE))


def fit_of(run: Path) -> cg.Fit:
    return cg.fit(run, make_design(SHAPE[3]), mask=make_mask(SHAPE), smoothing_fwhm=5)


def test_fit__shows_sizes_and_what_is_lazy_and_computes_nothing(run: Path) -> None:
    with lazily():
        fit = fit_of(run)
        table = Table(fit._repr_html_())
    rows = table.rows
    assert rows["run"] == f"{run}: 30 volumes"
    assert rows["voxels"] == f"{make_mask(SHAPE).sum()} of 5 × 4 × 6"
    assert rows["design"] == "4 regressors, 26 degrees of freedom"
    assert rows["signal"] == "percent of each voxel's mean, smoothed by 5 mm"
    assert rows["state"] == "lazy: computing reads the run"
    assert rows["moments"].endswith(f"in {len(fit.slabs.voxel_chunks)} chunks")
    assert table.folded == ["regressors", "a, b, drift, constant"]
    loaded = fit.load()
    assert Table(loaded._repr_html_()).rows["state"] == "in memory"
    assert repr(fit).endswith("lazy: computing reads the run>")
    assert repr(loaded).endswith("in memory>")


def test_fit__from_a_store_reads_no_run(run: Path, tmp_path: Path) -> None:
    opened = cg.open_fit(fit_of(run).save(tmp_path / "fit.zarr"))
    with lazily():
        assert "lazy: computing reads no run" in repr(opened)


def test_plan__shows_the_same_in_text_and_in_notebooks(run: Path) -> None:
    with lazily():
        found = cg.plan(fit_of(run), threads=2)
    rows = Table(found._repr_html_()).rows
    assert rows.pop("work") == found.work
    for line, (name, value) in zip(repr(found).splitlines()[1:], rows.items(), strict=True):
        assert line.removesuffix(">").split(maxsplit=1) == [name, value]


def test_maps__show_contrast_runs_sizes_and_what_is_lazy(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "sub-02_bold.nii.gz", make_data(SHAPE, seed=1))
    with lazily():
        maps = [cg.contrast(fit_of(path), "a - b") for path in (run, other)]
        fixed = cg.fixed_effects(maps)
        rows = Table(fixed.glm._repr_html_()).rows
        text = repr(fixed.glm)
        assert "state       lazy: computing reads the run>" in repr(maps[0].glm).replace(
            "state" + " " * 15, "state       "
        )
    assert rows["contrast"] == "a - b"
    assert rows["of"].count("bold.nii.gz") == 2
    assert str(tmp_path.parent) not in rows["of"]
    assert rows["degrees of freedom"] == "52"
    assert rows["state"] == "lazy: computing reads 2 runs"
    assert rows["chunks"].startswith(f"{fixed['stat'].data.npartitions} a map, ")
    assert all(value in text for value in rows.values())
    computed = Table(fixed.compute().glm._repr_html_()).rows
    assert computed["state"] == "in memory"
    assert "chunks" not in computed
    assert repr(fixed.drop_attrs().glm).startswith("<chunkglm.maps")
    assert "beta" in repr(fit_of(run).beta.glm)


def test_as_html__escapes_what_it_is_given() -> None:
    text = as_html("<b>", {"<i>": "a & b < c"}, {"more": "<script>"})
    assert "<script>" not in text
    assert Table(text).rows == {"<i>": "a & b < c"}
    assert as_text("Fit", {"a": "1", "bcd": "2"}) == "<chunkglm.Fit\n  a    1\n  bcd  2>"
