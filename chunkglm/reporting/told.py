"""What a page says in words and numbers: facts, runs, parameters, what is not on it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chunkglm.reporting.computed import Computed, Heights, estimated
from chunkglm.reporting.drawn import RUNS_SHOWN
from chunkglm.reporting.provenance import array_digest, without_places
from chunkglm.reporting.sources import Source


def coverage(computed: Computed) -> dict[str, Any]:
    """How many voxels have an estimate, and why others have none."""
    first = computed.contrasts[0]
    n_all = int((computed.n_runs == computed.n_most).sum()) if computed.n_runs is not None else None
    return {
        "estimated": estimated(first),
        "everywhere": n_all,
        "n_runs": computed.n_most,
        "lost": computed.lost,
    }


def facts(source: Source, computed: Computed) -> list[tuple[str, str]]:
    """What stands below the title."""
    first = computed.contrasts[0]
    sizes = np.linalg.norm(source.grid.matrix()[:3, :3], axis=0)
    records = source.records
    counted = sum(bool(one["contributed"]) for one in records)
    runs = f"{counted}" if counted == len(records) else f"{counted} of {len(records)}"
    dof = first.maps.attrs.get("dof")
    return [
        ("Runs", runs),
        ("Voxels with an estimate", f"{estimated(first):,}"),
        ("Voxel size", " × ".join(f"{s:.3g}" for s in sizes) + " mm"),
        ("Degrees of freedom", f"{float(dof):g}" if dof is not None else "–"),
    ]


def run_rows(source: Source, computed: Computed) -> list[dict[str, Any]]:
    """Rows of the table of runs, as maps and fits tell them."""
    medians = computed.quality.medians
    rows = []
    for i, one in enumerate(source.records):
        label = without_places(str(one["run"]), [str(one["run"])])
        found = medians.get(label, {})
        if not found and len(source.fits) == len(source.records):
            found = medians.get(list(source.fits)[i], {})
        rows.append(
            {
                "label": label,
                "failed": not one["contributed"],
                "status": "counts" if one["contributed"] else "left out",
                "reason": without_places(one["reason"], [str(one["run"]), str(one["design"])]),
                "design": without_places(one["design"], [one["design"]] if one["design"] else []),
                "dof": one["dof"],
                "tsnr": found.get("tsnr"),
                "ar": found.get("ar"),
            }
        )
    return rows


def with_medians(runs: Sequence[Mapping[str, Any]], computed: Computed) -> list[dict[str, Any]]:
    """Rows of a study with what its maps tell."""
    return [{**run, **computed.quality.medians.get(run["label"], {})} for run in runs]


def parameters(source: Source, computed: Computed, heights: Heights) -> list[tuple[str, str]]:
    """How it was done, by name."""
    attrs = next(iter(source.maps.values())).attrs
    fwhm = float(attrs.get("smoothing_fwhm", 0) or 0)
    known = {
        "Noise": attrs.get("noise", "not told"),
        "Smoothing": f"{fwhm:g} mm" if fwhm else "none",
        "Scaling": attrs.get("scaling", "not told"),
        "Runs weighted by": "precision" if attrs.get("precision_weighted") else "one each",
        "Threshold": heights.told(),
        "Smallest cluster": f"{max(heights.cluster_threshold, 1):g} voxel(s)",
    }
    tested = {
        f"Contrast {c.name}": c.maps.attrs.get("contrast", c.name) for c in computed.contrasts
    }
    return [(name, without_places(str(value))) for name, value in {**known, **tested}.items()]


def digests(source: Source, computed: Computed) -> list[tuple[str, str]]:
    """SHA-256 of the effects."""
    return [
        (f"effects of {one.name}", array_digest(one.maps["effect_size"].to_numpy()))
        for one in computed.contrasts
        if "effect_size" in one.maps
    ]


def left_out(source: Source, computed: Computed, volumes: Sequence[str]) -> list[str]:
    """What is not on the page, and why."""
    found = list(source.missing)
    if not source.fits and not source.missing:
        found.append("Autocorrelation and temporal signal to noise: no fits were given.")
    if not source.designs and not source.missing:
        found.append("Design matrices: no fits were given.")
    if not any(source.runs.values()) and len(source.records) > 1 and not source.missing:
        found.append("Maps of single runs: neither they nor fits were given.")
    if computed.background is None:
        found.append("An image below the maps: none was given; the mask is shown in its place.")
    if volumes:
        told = ", ".join(volumes[:8]) + (
            f" and {len(volumes) - 8} more" if len(volumes) > 8 else ""
        )
        found.append(f"In the viewer, to keep the page small: {told}.")
    found += [
        f"Pictures of {len(one.runs) - RUNS_SHOWN} more runs of {one.name}."
        for one in computed.contrasts
        if len(one.runs) > RUNS_SHOWN
    ]
    return [without_places(text) for text in found]
