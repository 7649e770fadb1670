"""The report: a page about maps, or pages about a study."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from chunkglm.errors import MapsError
from chunkglm.io.images import atomic_writer
from chunkglm.reporting.computed import Heights
from chunkglm.reporting.page import Extra, page_of
from chunkglm.reporting.sources import source_of
from chunkglm.reporting.study import study_report


def report(
    maps: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    runs: Any = (),
    fits: Any = (),
    background: Any = None,
    title: str | None = None,
    alpha: float = 0.001,
    height_control: Any = "fpr",
    threshold: float | None = None,
    cluster_threshold: float = 0,
    two_sided: bool | None = None,
    subjects: Sequence[str] | None = None,
    progress: bool = True,
) -> Path:
    """Write a report: one HTML page that holds all it shows, or one for each subject of a study.

    Maps as projections and slices, a viewer to cut them anywhere, clusters, single runs, designs
    and contrasts, coverage, autocorrelation of the noise and temporal signal to noise, how it was
    made, and sentences for a methods section. What is not given is left out, and the page says so.
    Nothing is fetched from outside, and names are text: none is run.

    Parameters
    ----------
    maps : Dataset, mapping, or path
        From `fixed_effects` or `contrast`, of one contrast or several, or maps by name; lazy ones
        are computed once, together with all else. Or the folder that `run_study` wrote.
    path : path, optional
        The page, ``.html``; of a study the folder of its pages, ``report`` in the study's folder by
        default. What is there stays whole until the new page is.
    runs : sequence of Datasets, or mapping of such by contrast, optional
        Maps of the single runs, from `contrast`. By default those that `fits` give.
    fits : Fit, sequence or mapping of Fits, optional
        Of the runs: for designs, mean image, autocorrelation and signal to noise, from moments
        alone.
    background : path, image or (x, y, z) array, optional
        To draw maps on, on their grid. By default the mean of the runs, where fits tell it.
    title : str, optional
        Of the page; the names of the contrasts by default.
    alpha, height_control, threshold, cluster_threshold, two_sided
        How maps are thresholded, as `chunkglm.threshold` takes it.
    subjects : sequence of str, optional
        Of a study, the subjects to make pages of; all by default.
    progress : bool
        Of a study, show a progress bar on standard error.

    Returns
    -------
    Path
        The page; of a study its index.

    Raises
    ------
    MapsError
        When maps, runs, fits and background do not belong together.
    StudyError
        When the folder holds no study.
    ImageError
        When a page cannot be written.

    Notes
    -----
    One page holds one subject's maps in memory, whatever the study's size. Of a study the pages
    show what was kept: autocorrelation, signal to noise, mean image and single runs need
    ``save_moments = true`` in its model (single runs, or ``save_runs = true``).
    """
    heights = Heights(alpha, height_control, threshold, cluster_threshold, two_sided)
    if isinstance(maps, (str, os.PathLike)):
        _refuse_beside_a_study(runs, fits, background)
        return study_report(
            Path(maps), None if path is None else Path(path), heights, subjects=subjects,
            title=title, progress=progress,
        )  # fmt: skip
    if subjects is not None:
        msg = "subjects are those of a study; give the folder that run_study wrote, or leave it out"
        raise MapsError(msg)
    target = Path("report.html" if path is None else path)
    if target.suffix.lower() not in (".html", ".htm"):
        msg = f"{target}: a report is a page, its name must end in .html"
        raise MapsError(msg)
    source = source_of(maps, runs, fits, background, title, "maps")
    html, _ = page_of(source, heights, Extra())
    write_page(target, html)
    return target


def _refuse_beside_a_study(runs: Any, fits: Any, background: Any) -> None:
    given = {
        "runs": isinstance(runs, xr.Dataset) or len(runs) > 0,
        "fits": not isinstance(fits, (tuple, list, dict)) or len(fits) > 0,
        "background": background is not None,
    }
    for name, there in given.items():
        if there:
            msg = f"{name} is for a page about maps; a study's folder holds its own, leave it out"
            raise MapsError(msg)


def write_page(path: Path, html: str) -> None:
    """Write a page beside its place and rename it."""
    with atomic_writer(path) as file:
        file.write(html.encode())
