"""Maps of contrasts, and of the data behind them, drawn for a page."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chunkglm._types import AnyArray
from chunkglm.reporting import pictures, viewer
from chunkglm.reporting.colours import LevelScale, StatScale
from chunkglm.reporting.computed import Computed, ContrastResult
from chunkglm.reporting.provenance import without_places
from chunkglm.reporting.view import View

# Pictures of single runs; one of each contrast is 15 kB.
RUNS_SHOWN = 60

_ROWS_SHOWN, _ROWS_OPEN = 40, 12  # of a table of clusters, and without a click
_SLICES, _COLUMNS, _WIDTH = 12, 6, 1560
_QUALITY_SLICES, _QUALITY_WIDTH = 8, 1400
_GLASS_WIDTH, _SMALL_WIDTH = 1000, 520


@dataclass(frozen=True, slots=True)
class Peak:
    """A cluster by its strongest voxel."""

    id: str
    x: float
    y: float
    z: float
    stat: float
    voxels: int
    mm3: float
    at: list[int]  # voxel in the view


@dataclass(frozen=True, slots=True)
class RunPicture:
    """The map of one run."""

    label: str
    picture: pictures.Picture
    peak: float


@dataclass(frozen=True, slots=True)
class ShownContrast:
    """A contrast as the page shows it."""

    name: str
    definition: str
    kind: str
    height: float | None
    scale: StatScale
    glass: pictures.Picture
    slices: pictures.Picture
    peaks: Sequence[Peak]
    more_peaks: Sequence[Peak]
    n_clusters: int
    n_surviving: int
    n_tests: int
    strongest: float
    runs: Sequence[RunPicture]
    n_runs: int
    two_sided: bool


def drawn_contrast(one: ContrastResult, view: View, background: AnyArray | None) -> ShownContrast:
    """Draw the maps of a contrast, all on one scale."""
    every = [one.z, *one.runs.values()]
    largest = max(_strongest(z) for z in every)
    height = one.height if np.isfinite(one.height) else np.inf
    floor = 1.25 * abs(height) if np.isfinite(height) else 1.0
    scale = StatScale(abs(height), float(np.ceil(10 * max(largest, floor)) / 10))
    survives = np.where(np.nan_to_num(one.thresholded) != 0, one.z, 0.0)
    alt = (
        f"{one.name}: z of the combined runs above {height:.2f}"
        if np.isfinite(height)
        else f"{one.name}: no voxel survives"
    )
    shown = view.of(survives)
    peaks = _peaks(one, view)
    combined = {"combined": one.z} if one.runs else {}
    runs = [
        RunPicture(
            label,
            pictures.glass(
                view, view.of(z), scale, width=_SMALL_WIDTH, planes=(0, 2),
                alt=f"{one.name}: z of {label}, seen from the side and from above",
            ),
            signed_peak(z),
        )
        for label, z in [*combined.items(), *one.runs.items()][: RUNS_SHOWN + 1]
    ]  # fmt: skip
    return ShownContrast(
        one.name,
        without_places(str(one.maps.attrs.get("contrast", one.name))),
        str(one.maps.attrs["stat_type"]),
        height if np.isfinite(height) else None,
        scale,
        pictures.glass(
            view, shown, scale, width=_GLASS_WIDTH, planes=(0, 1, 2),
            alt=f"{alt}, seen from the side, from behind and from above",
        ),
        pictures.slices(
            view, shown, scale, background, n=_SLICES, columns=_COLUMNS, width=_WIDTH,
            alt=f"{alt}, on {_SLICES} axial slices from bottom to top",
        ),
        peaks[:_ROWS_OPEN],
        peaks[_ROWS_OPEN:],
        len(one.table),
        one.n_surviving,
        one.n_tests,
        signed_peak(one.z),
        runs,
        len(one.runs),
        one.two_sided,
    )  # fmt: skip


def _strongest(z: AnyArray) -> float:
    known = z[np.isfinite(z)]
    return float(np.abs(known).max()) if known.size else 0.0


def signed_peak(z: AnyArray) -> float:
    """The value that is furthest from 0."""
    known = z[np.isfinite(z)]
    return float(known[np.abs(known).argmax()]) if known.size else float("nan")


def _peaks(one: ContrastResult, view: View) -> list[Peak]:
    found = []
    for row in one.table.head(_ROWS_SHOWN).itertuples(index=False):
        number, x, y, z, stat, mm3, voxels = row
        at = view.voxel_of(np.array([x, y, z]))
        found.append(Peak(str(number), x, y, z, stat, int(voxels), mm3, at))
    return found


def stat_volumes(
    computed: Computed, view: View, shown: Sequence[ShownContrast], *, of_runs: bool
) -> list[viewer.Volume]:
    """Volumes of the combined maps for the viewer, or of those of single runs."""
    found = []
    for one, drawn in zip(computed.contrasts, shown, strict=True):
        first = f"{one.name}: " if len(shown) > 1 else ""
        if of_runs:
            found += [
                viewer.stat_volume(view, z, f"{first}{label}", one.name, drawn.scale)
                for label, z in one.runs.items()
            ]
            continue
        name = f"{first}combined" if one.runs else one.name
        found.append(viewer.stat_volume(view, one.z, name, one.name, drawn.scale))
    return found


@dataclass(frozen=True, slots=True)
class QualityMap:
    """A map without sign."""

    title: str
    said: str
    scale: LevelScale
    low: str
    high: str
    picture: pictures.Picture


def drawn_quality(
    computed: Computed, view: View, background: AnyArray | None
) -> tuple[list[QualityMap], list[viewer.Volume]]:
    """Maps of coverage, noise and signal, and the volumes of the same for the viewer."""
    found: list[QualityMap] = []
    volumes: list[viewer.Volume] = []

    def add(
        values: AnyArray, title: str, said: str, scale: LevelScale, digits: int, unit: str
    ) -> None:
        cut = np.where(view.inside, view.of(values), np.nan)
        picture = pictures.slices(
            view, cut, scale, background, n=_QUALITY_SLICES, columns=_QUALITY_SLICES,
            width=_QUALITY_WIDTH, alt=f"{title} on {_QUALITY_SLICES} axial slices",
        )  # fmt: skip
        low, high = (f"{end:.{digits}f}" for end in (scale.low, scale.high))
        found.append(QualityMap(title, said, scale, low, high, picture))
        volumes.append(viewer.level_volume(view, values, title, "Quality", scale, unit))

    if computed.n_runs is not None and computed.n_most > 1:
        add(
            np.where(computed.n_runs > 0, computed.n_runs, np.nan),
            "Runs that count", "How many runs have an estimate at each voxel.",
            LevelScale(0.0, float(computed.n_most)), 0, "runs",
        )  # fmt: skip
    quality = computed.quality
    if quality.ar is not None:
        low, high = _range(quality.ar, view)
        add(
            quality.ar, "Autocorrelation of the noise",
            "The first autoregressive coefficient of each voxel, mean over runs.",
            LevelScale(min(0.0, low), high), 2, "",
        )  # fmt: skip
    if quality.tsnr is not None:
        _, high = _range(quality.tsnr, view)
        add(
            quality.tsnr, "Temporal signal to noise",
            "Mean over standard deviation of the series as it was fitted (smoothed, where the fit "
            "is; drifts and task count as noise), mean over runs.",
            LevelScale(0.0, high), 0, "",
        )  # fmt: skip
    return found, volumes


def _range(values: AnyArray, view: View) -> tuple[float, float]:
    known = view.of(values)[view.inside]
    known = known[np.isfinite(known)]
    if not known.size:
        return 0.0, 1.0
    low, high = np.percentile(known, (1, 99))
    return float(low), float(high if high > low else low + 1.0)
