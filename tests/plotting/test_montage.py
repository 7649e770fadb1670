import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib as mpl
import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest

from chunkglm.errors import MapsError
from chunkglm.plotting import plot_montage

SHAPE = (20, 24, 16)
AFFINE = np.array([[-6.0, 0, 0, 57], [0, 6, 0, -69], [0, 0, 6, -45], [0, 0, 0, 1]])


def head() -> tuple[np.ndarray, np.ndarray]:
    """Background, and a map of zeros that is NaN outside the head."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij"))
    radius = np.sqrt((grid**2).sum(axis=0))
    background = np.where(radius < 0.9, 5000 + 1000 * np.cos(9 * radius), 100)
    return background, np.where(radius < 0.9, 0.0, np.nan)


def pixels(path: Path) -> np.ndarray:
    return matplotlib.image.imread(path)[..., :3]


def red(path: Path) -> np.ndarray:
    picture = pixels(path)
    # The colour bar, on the right, is the same in all.
    picture = picture[:, : int(0.91 * picture.shape[1])]
    return (picture[..., 0] > 0.5) & (picture[..., 2] < 0.2)


def test_plot_montage__shows_the_activation_where_it_is(tmp_path: Path) -> None:
    background, stat = head()
    active = stat.copy()
    active[3:6, 10:14, 6:10] = 5.0  # x falls with the index: on the right
    kwargs = {"title": "DSt − SSt", "vmax": 8.0, "affine": AFFINE}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a map without activation is a result, not a mishap
        without = plot_montage(stat, background, tmp_path / "without.png", **kwargs)
    with_it = plot_montage(active, background, tmp_path / "with.png", **kwargs)
    assert with_it.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert red(without).sum() == 0
    assert red(with_it).sum() > 500
    # Drawn with the subject's left on the left: within a slice, right of the middle.
    columns = np.flatnonzero(red(with_it).any(axis=0))
    width = 0.91 * pixels(with_it).shape[1] / 6
    assert (columns % width > 0.5 * width).all()


def test_plot_montage__hides_what_is_below_the_threshold(tmp_path: Path) -> None:
    background, stat = head()
    active = stat.copy()
    active[8:12, 10:14, 6:10] = 2.9
    kwargs = {"title": "t", "vmax": 8.0, "affine": AFFINE}
    zero = pixels(plot_montage(stat, background, tmp_path / "a.png", **kwargs))
    low = pixels(plot_montage(active, background, tmp_path / "b.png", **kwargs))
    shown = pixels(
        plot_montage(active, background, tmp_path / "c.png", **kwargs | {"threshold": 2.5})
    )
    np.testing.assert_array_equal(zero, low)
    assert np.abs(zero - shown).max() > 0.5


def test_plot_montage__one_scale_for_both_signs_and_several_maps(tmp_path: Path) -> None:
    background, stat = head()
    pictures = []
    for value, vmax in ((5.0, 10.0), (5.0, 20.0), (-5.0, 10.0), (5.0, None)):
        active = stat.copy()
        active[8:12, 10:14, 6:10] = value
        path = tmp_path / f"{len(pictures)}.png"
        plot_montage(active, background, path, title="t", vmax=vmax, affine=AFFINE)
        pictures.append(pixels(path))
    inside = np.abs(pictures[0] - pictures[2]).sum(axis=2) > 0.5
    colours = [picture[inside].reshape(-1, 3).mean(axis=0) for picture in pictures]
    assert colours[0][0] > colours[0][2]  # red above zero
    assert colours[2][2] > colours[2][0]  # blue below
    # Five of ten is further up the scale than five of twenty, and five of five than both.
    assert colours[1].sum() < colours[0].sum() < colours[3].sum()


def test_plot_montage__title_and_bytes(tmp_path: Path) -> None:
    background, stat = head()
    first = plot_montage(stat, background, tmp_path / "a.png", title="Run 1", affine=AFFINE)
    again = plot_montage(stat, background, tmp_path / "b.png", title="Run 1", affine=AFFINE)
    other = plot_montage(stat, background, tmp_path / "c.png", title="Run 2", affine=AFFINE)
    assert first.read_bytes() == again.read_bytes()
    changed = np.argwhere(np.abs(pixels(first) - pixels(other)).max(axis=2) > 0.1)
    assert len(changed) > 10
    assert changed[:, 0].max() < 0.1 * pixels(first).shape[0]


def test_plot_montage__leaves_the_users_figures_and_backend(tmp_path: Path) -> None:
    before = mpl.get_backend()
    mine = plt.figure()
    try:
        plot_montage(*reversed(head()), tmp_path / "a.png", title="t", affine=AFFINE)
        assert mpl.get_backend() == before
        assert plt.get_fignums() == [mine.number]
        assert plt.gcf() is mine
        assert not mine.axes
    finally:
        plt.close(mine)


def test_plot_montage__takes_a_sheared_affine_and_one_slice(tmp_path: Path) -> None:
    background, stat = head()
    sheared = AFFINE.copy()
    sheared[1, 2] = 1.5
    plot_montage(stat, background, tmp_path / "sheared.png", title="t", affine=sheared)
    middle = np.s_[:, :, 7:8]
    plot_montage(stat[middle], background[middle], tmp_path / "one.png", title="t")
    assert pixels(tmp_path / "sheared.png").std() > 0.05
    assert pixels(tmp_path / "one.png").std() > 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stat_map": np.ones((2, 2, 2))}, r"of one shape, but got \(2, 2, 2\) and \(20, 24, 16\)"),
        ({"stat_map": np.full(SHAPE, np.nan)}, "nothing to draw"),
        ({"affine": np.eye(3)}, "4 by 4"),
        ({"threshold": -1.0}, "threshold must be 0 or above"),
        ({"vmax": 2.0}, "vmax must be above the threshold 3.0, but got 2.0"),
        ({"path": "a.jpg"}, r"must end in \.png"),
    ],
)
def test_plot_montage__refuses_with_the_reason(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    background, stat = head()
    path = tmp_path / str(change.pop("path", "a.png"))
    arguments = {"stat_map": stat, "background": background, "affine": AFFINE} | change
    with pytest.raises(MapsError, match=message):
        plot_montage(**arguments, path=path, title="t")
    assert list(tmp_path.iterdir()) == []


def test_plotting__import_is_cheap() -> None:
    code = (
        "import sys, chunkglm.plotting;"
        "print([m for m in ('nilearn', 'matplotlib', 'zarr', 'distributed') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
