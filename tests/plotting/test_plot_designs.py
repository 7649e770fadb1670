from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers_lazy import lazily, make_data, make_design, make_mask, write_run
from helpers_plotting import SHAPE, fit_runs

import chunkglm as cg
from chunkglm.errors import ContrastError, DesignError
from chunkglm.plotting import plot_contrast, plot_design


def test_plot_design__shows_the_columns_of_a_fit_a_table_or_a_file(tmp_path: Path) -> None:
    design = make_design(SHAPE[3])
    design.to_csv(tmp_path / "design.csv", index=False)
    with lazily():
        for given in (fit_runs(tmp_path, 1)[0], design, tmp_path / "design.csv"):
            axes = plot_design(given, rescale=False)
            (image,) = axes.images
            np.testing.assert_allclose(image.get_array(), design.to_numpy())
            assert [t.get_text() for t in axes.get_xticklabels()] == list(design.columns)


def test_plot_design__marks_the_volumes_that_do_not_count(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.nii.gz", make_data(SHAPE))
    keep = np.ones(SHAPE[3], dtype=bool)
    keep[[4, 5, 30]] = False
    fit = cg.fit(path, make_design(SHAPE[3]), mask=make_mask(SHAPE), sample_mask=keep)
    axes = plot_design(fit)
    (lines,) = axes.collections
    assert [segment[0, 1] for segment in lines.get_segments()] == [4, 5, 30]
    assert "3 dropped" in axes.get_ylabel()


def test_plot_contrast__draws_the_weights_by_column(tmp_path: Path) -> None:
    fit = fit_runs(tmp_path, 1)[0]
    with lazily():
        (image,) = plot_contrast(fit, "2*a - b").images
        np.testing.assert_array_equal(image.get_array(), [[2, -1, 0, 0]])
        axes = plot_contrast(fit, {"one": "a", "f": ["a", "b"]})
    np.testing.assert_array_equal(axes.images[0].get_array(), np.eye(4)[[0, 0, 1]])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["one", "f 1", "f 2"]
    with pytest.raises(ContrastError, match="c"):
        plot_contrast(fit, "a - c")


def test_plot_design_and_contrast__write_files_and_leave_no_figure(tmp_path: Path) -> None:
    design = make_design(SHAPE[3])
    assert plot_design(design, output_file=tmp_path / "design.png") is None
    assert plot_contrast(design, "a", output_file=tmp_path / "contrast.png") is None
    assert min(p.stat().st_size for p in tmp_path.glob("*.png")) > 1000
    assert plt.get_fignums() == []
    with pytest.raises(DesignError):
        plot_design([1, 2])
