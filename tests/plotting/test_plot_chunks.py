from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers_lazy import lazily, make_data, make_design, write_run
from helpers_plotting import SHAPE

import chunkglm as cg
from chunkglm.errors import ImageError, MaskError
from chunkglm.plotting import plot_chunks


@pytest.fixture
def run(tmp_path: Path) -> Any:
    path = write_run(tmp_path / "run.nii", make_data(SHAPE))
    return cg.open_run(path).chunk({"x": 5, "y": 8, "z": 3, "time": 16})


@pytest.fixture
def mask() -> Any:
    """Nothing in the last chunk of planes, and not in the first five columns of x."""
    found = np.zeros(SHAPE[:3], dtype=bool)
    found[5:, 2:6, 1:5] = True
    return found


def borders(axes: Any) -> tuple[list[float], list[float]]:
    """Where vertical and horizontal lines are."""
    across: list[float] = []
    along: list[float] = []
    for lines in axes.collections:
        if not hasattr(lines, "get_segments"):
            continue
        for (x0, y0), (x1, y1) in lines.get_segments():
            if x0 == x1:
                across.append(x0)
            if y0 == y1:
                along.append(y0)
    return across, along


def hatched(axes: Any) -> list[tuple[float, float]]:
    """Ranges of planes that are hatched."""
    found = []
    for one in axes.collections:
        if one.get_hatch():
            y = one.get_paths()[0].vertices[:, 1]
            found.append((y.min(), y.max()))
    return found


def test_plot_chunks__borders_are_those_of_the_chunks(run: Any, mask: Any) -> None:
    with lazily():
        front, side, series = plot_chunks(run, mask)
    assert borders(front) == ([0, 5, 9], [0, 3, 6, 7])
    assert borders(side) == ([0, 8], [0, 3, 6, 7])
    assert borders(series) == ([0, 16, 32, 40], [0, 3, 6, 7])


def test_plot_chunks__shows_the_mask_and_what_it_needs(run: Any, mask: Any) -> None:
    front, side, series = plot_chunks(run, mask)
    np.testing.assert_array_equal(np.ma.filled(front.images[0].get_array(), 0), mask.sum(axis=1).T)
    np.testing.assert_array_equal(np.ma.filled(side.images[0].get_array(), 0), mask.sum(axis=0).T)
    cells = series.collections[0].get_array()
    assert cells[:, 0].tolist() == [2 * 16, 2 * 16, None]
    assert hatched(series) == [(6, 7)]
    title = series.figure.get_suptitle()
    assert "9 × 8 × 7 × 40 int16, 41 kB" in title
    # Two of three along z, the second of two along x, three along time.
    assert "18 chunks of 5 × 8 × 3 × 16, 4 kB each; 6 hold voxels of the mask" in title


def test_plot_chunks__opens_stores_and_tells_of_compressed_files(tmp_path: Path) -> None:
    path = write_run(tmp_path / "sub-01_bold.nii.gz", make_data(SHAPE))
    with lazily():
        *_, series = plot_chunks(path)
        assert "compressed: a fit reads it once, forwards" in series.figure.get_suptitle()
        assert hatched(series) == []
        store = cg.convert(path, tmp_path / "run.zarr", progress=False)
        *_, series = plot_chunks(store)
    chunks = cg.open_run(store).chunks
    assert borders(series)[1] == [0, *np.cumsum(chunks[2])]
    assert "compressed" not in series.figure.get_suptitle()
    assert str(tmp_path) not in series.figure.get_suptitle()


def test_plot_chunks__of_a_fit_draws_its_slabs_and_their_moments(tmp_path: Path, mask: Any) -> None:
    path = write_run(tmp_path / "run.nii", make_data(SHAPE))
    fit = cg.fit(path, make_design(SHAPE[3]), mask=mask)
    with lazily():
        front, _, sizes = plot_chunks(fit)
    edges = [p.start for p in fit.slabs.planes] + [SHAPE[2]]
    assert borders(front)[1] == edges
    total = sum(bar.get_width() for bar in sizes.patches)
    assert total == pytest.approx(fit.dataset.drop_vars(["x", "y", "z"]).nbytes / 1e6)
    assert [b.get_width() > 0 for b in sizes.patches] == [n > 0 for n in fit.slabs.n_voxels]
    with pytest.raises(MaskError, match="a fit has its own mask"):
        plot_chunks(fit, mask)


def test_plot_chunks__refuses_what_is_no_run_and_writes_files(run: Any, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="must have dims"):
        plot_chunks(run.isel(time=0))
    with pytest.raises(MaskError, match="shape"):
        plot_chunks(run, np.ones((2, 2, 2)))
    assert plot_chunks(run, output_file=tmp_path / "chunks.png") is None
    assert (tmp_path / "chunks.png").stat().st_size > 1000
    assert plt.get_fignums() == []
