"""One page about the maps of one subject, or of any runs that were combined."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from chunkglm._types import AnyArray
from chunkglm.errors import MapsError
from chunkglm.reporting import pictures, viewer
from chunkglm.reporting.colours import StatScale, stops
from chunkglm.reporting.computed import Computed, Heights, compute, estimated
from chunkglm.reporting.designs import design_drawings
from chunkglm.reporting.drawn import (
    ShownContrast,
    drawn_contrast,
    drawn_quality,
    stat_volumes,
)
from chunkglm.reporting.methods import methods_of
from chunkglm.reporting.provenance import versions
from chunkglm.reporting.render import Link, render
from chunkglm.reporting.sources import Source, contrast_rows
from chunkglm.reporting.told import (
    coverage,
    digests,
    facts,
    left_out,
    parameters,
    run_rows,
    with_medians,
)
from chunkglm.reporting.view import View, view_of

# Of volumes for the viewer; with the pictures a page stays below 5 MB.
MOST_VOLUME_BYTES = 3_000_000

_BRIGHTEST = 15.0  # z, in the pictures of an index
_THUMB_WIDTH = 150  # pixels


@dataclass(frozen=True, slots=True)
class Summary:
    """What an index tells of a page."""

    thumbnail: pictures.Picture
    peaks: Mapping[str, float]  # of |z|, signed, by contrast
    surviving: Mapping[str, int]  # voxels, by contrast
    n_voxels: int
    dof: float
    tsnr: float | None
    ar: float | None


@dataclass(frozen=True, slots=True)
class Extra:
    """What a study knows beside the maps."""

    runs: Sequence[Mapping[str, Any]] = ()  # rows of the table of runs
    model: Mapping[str, Any] | None = None
    inputs: Sequence[tuple[str, str]] = ()  # file, SHA-256
    outputs: Sequence[tuple[str, str]] = ()
    links: Sequence[Link] = ()
    kicker: str = "Task fMRI"


def page_of(source: Source, heights: Heights, extra: Extra) -> tuple[str, Summary]:
    """Make the page of one source.

    Returns
    -------
    html : str
    summary : Summary
    """
    computed = compute(source, heights)
    inside = _inside(computed)
    if not inside.any():
        msg = f"{source.title}: no voxel of the maps has an estimate, there is nothing to show"
        raise MapsError(msg)
    view = view_of(source.grid.matrix(), inside)
    background = _background(computed, view)
    shown = [drawn_contrast(one, view, background) for one in computed.contrasts]
    quality, levels = drawn_quality(computed, view, background)
    volumes, rest = viewer.within(
        [*stat_volumes(computed, view, shown, of_runs=False), *levels,
         *stat_volumes(computed, view, shown, of_runs=True)],
        MOST_VOLUME_BYTES,
    )  # fmt: skip
    weights = {name: contrast_rows(maps) for name, maps in source.maps.items()}
    html = render(
        "page.html",
        title=source.title,
        kicker=extra.kicker,
        links=extra.links,
        facts=facts(source, computed),
        contrasts=shown,
        viewer=_viewer_data(view, background, volumes, shown),
        volumes=[v.data for v in volumes],
        grey=viewer.packed_grey(pictures.plain_grey(view) if background is None else background),
        groups=_by_group(volumes),
        background_is=computed.background_is,
        oblique=view.oblique,
        designs=design_drawings(source.designs, weights),
        quality=quality,
        coverage=coverage(computed),
        runs=with_medians(extra.runs, computed) or run_rows(source, computed),
        methods=methods_of(source, computed, heights, extra.model),
        parameters=parameters(source, computed, heights),
        versions=versions(),
        digests=digests(source, computed),
        inputs=extra.inputs,
        outputs=extra.outputs,
        left_out=left_out(source, computed, [v.name for v in rest]),
    )
    return html, _summary(computed, view, shown)


def _inside(computed: Computed) -> AnyArray:
    return np.asarray(np.any([np.isfinite(one.z) for one in computed.contrasts], axis=0))


def _background(computed: Computed, view: View) -> AnyArray | None:
    if computed.background is None:
        return None
    return pictures.grey(view.of(computed.background))


def _viewer_data(
    view: View,
    background: AnyArray | None,
    volumes: Sequence[viewer.Volume],
    shown: Sequence[ShownContrast],
) -> dict[str, Any]:
    best = next((one.peaks[0].at for one in shown if one.peaks), None)
    return {
        "shape": list(view.shape),
        "sizes": list(view.sizes),
        "affine": [[float(v) for v in row] for row in view.affine],
        "smooth": background is not None,
        "start": best or [n // 2 for n in view.shape],
        "colours": stops(),
        "volumes": [v.told() for v in volumes],
    }


def _by_group(volumes: Sequence[viewer.Volume]) -> dict[str, list[tuple[int, str]]]:
    found: dict[str, list[tuple[int, str]]] = {}
    for i, one in enumerate(volumes):
        found.setdefault(one.group, []).append((i, one.name))
    return found


def _summary(computed: Computed, view: View, shown: Sequence[ShownContrast]) -> Summary:
    first, drawn = computed.contrasts[0], shown[0]
    survives = view.of(np.where(np.nan_to_num(first.thresholded) != 0, first.z, 0.0))
    height = drawn.scale.threshold
    # One scale for all subjects, so that their pictures can be compared.
    scale = StatScale(height, max(_BRIGHTEST, 1.25 * height if np.isfinite(height) else 0.0))
    thumbnail = pictures.glass(
        view, survives, scale, width=_THUMB_WIDTH, planes=(0, 2), alt=f"{first.name}"
    )
    medians = computed.quality.medians.values()
    dof = first.maps.attrs.get("dof")
    return Summary(
        replace(thumbnail, marks=()),
        {one.name: one.strongest for one in shown},
        {one.name: one.n_surviving for one in shown},
        estimated(first),
        float(dof) if dof is not None else float("nan"),
        _median([one["tsnr"] for one in medians if "tsnr" in one]),
        _median([one["ar"] for one in medians if "ar" in one]),
    )


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None
