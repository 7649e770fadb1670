"""What maps are, in the JSON files beside their images."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chunkglm.build import version
from chunkglm.errors import MapsError
from chunkglm.glm.records import RECORDS, RUN, read_records, short_name, write_records
from chunkglm.io.images import atomic_writer
from chunkglm.kernels.level import OUTSIDE_MASK

# Which file holds which variable, and what stands where nothing was estimated.
ALWAYS = {
    "effect_size": ("effect", 0.0),
    "effect_variance": ("variance", 0.0),
    "stat": ("{stat_type}", 0.0),
    "p_value": ("p", 1.0),
    "z_score": ("z", 0.0),
}
# Of pooled maps, where they say more than one number could.
COVERAGE = {
    "dof": ("dof", 0.0),
    "n_runs": ("nruns", 0.0),
    "voxel_status": ("status", float(OUTSIDE_MASK)),
}

# Attributes that go into the sidecars, under the names readers of BIDS derivatives expect.
_KEYS = {
    "contrast": "Contrast",
    "contrast_weights": "ContrastWeights",
    "stat_type": "StatType",
    "dof": "DegreesOfFreedom",
    "rank": "ContrastRows",
    "noise": "NoiseModel",
    "scaling": "SignalScaling",
    "smoothing_fwhm": "SmoothingFWHM",
    "run": "Run",
    "n_runs": "NumberOfRuns",
    RECORDS: "Runs",
    "left_out": "LeftOut",
    "design": "Design",
    "precision_weighted": "PrecisionWeighted",
    "height_control": "HeightControl",
    "alpha": "Alpha",
    "two_sided": "TwoSided",
    "cluster_threshold": "ClusterThreshold",
    "threshold": "Threshold",
    "n_tests": "Tests",
}
_MAPS = "Maps"


def stem(prefix: str, stat: str) -> str:
    """Return the name of a map's files, without the end.

    Examples
    --------
    >>> stem("sub-01_contrast-x", "effect")
    'sub-01_contrast-x_stat-effect_statmap'
    """
    return f"{prefix}_stat-{stat}_statmap"


def files_of(prefix: str, stats: Sequence[str]) -> list[str]:
    """Return the names of the files of maps; the sidecar by which they are opened comes last."""
    names = [f"{stem(prefix, stat)}{end}" for stat in stats for end in (".nii.gz", ".json")]
    key = opened_by(prefix)
    return [*(name for name in names if name != key), *(name for name in names if name == key)]


def opened_by(prefix: str) -> str:
    """Return the name of the sidecar without which maps are not opened."""
    return f"{stem(prefix, ALWAYS['effect_size'][0])}.json"


def every_stat() -> list[str]:
    """Return all that may be in the name of a map's file."""
    names = [stat for stat, _ in {**ALWAYS, **COVERAGE}.values()]
    return [stat.format(stat_type=kind) for stat in names for kind in ("t", "F")]


def write_sidecar(
    path: Path, attrs: Mapping[str, Any], stat: str, stats: Sequence[str] = ()
) -> Path:
    """Write what one map is, under a name that still lacks its end, and the maps of its set.

    Files are named in it without saying where they lie.
    """
    found = {name: attrs[key] for key, name in _KEYS.items() if key in attrs}
    if "contrast_weights" in attrs:
        found["ContrastWeights"] = json.loads(attrs["contrast_weights"])
    for key in ("precision_weighted", "two_sided"):
        if key in attrs:
            found[_KEYS[key]] = bool(attrs[key])
    for name in ("Run", "Design", "LeftOut"):
        if name in found:
            found[name] = short_name(str(found[name]))
    if RECORDS in attrs:
        found["Runs"] = [_short(record) for record in read_records(attrs[RECORDS], str(path))]
    text = json.dumps(
        {
            "Statistic": stat,
            **found,
            **({_MAPS: list(stats)} if stats else {}),
            "SoftwareName": "chunkglm",
            "SoftwareVersion": version(),
        },
        indent=2,
        default=_plain,
    )
    # Flushed together with its image, by who writes both.
    sidecar = path.with_name(f"{path.name}.json")
    with atomic_writer(sidecar, flush=False) as file:
        file.write((text + "\n").encode())
    return sidecar


def _short(record: dict[str, Any]) -> dict[str, Any]:
    found = dict(record)
    for name in (RUN, "design"):
        long, found[name] = record[name], short_name(record[name])
        if long:
            found["reason"] = found["reason"].replace(long, found[name])
    return found


def _plain(value: Any) -> Any:
    """Numbers that came back from netCDF are numpy's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    msg = f"{type(value).__name__} cannot be written in a sidecar"
    raise TypeError(msg)


def read_sidecar(path: Path, label: str) -> tuple[dict[str, Any], list[str]]:
    """Read the attributes of maps, and the maps there are.

    Raises
    ------
    MapsError
        When it cannot be read, or does not say what the maps are.
    """
    try:
        found = json.loads(path.read_bytes().decode())
        attrs = {key: found[name] for key, name in _KEYS.items() if found.get(name) is not None}
        stats = [str(stat) for stat in found.get(_MAPS, [])]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        msg = f"{label}: the maps' sidecar cannot be read ({error}); save them with chunkglm"
        raise MapsError(msg) from error
    if attrs.get("stat_type") not in ("t", "F") or not isinstance(attrs.get("dof"), (int, float)):
        msg = f"{label}: StatType and DegreesOfFreedom are missing or wrong; save with chunkglm"
        raise MapsError(msg)
    if "contrast_weights" in attrs:
        attrs["contrast_weights"] = json.dumps(attrs["contrast_weights"])
    if "precision_weighted" in attrs:
        attrs["precision_weighted"] = int(bool(attrs["precision_weighted"]))
    if RECORDS in attrs:
        attrs[RECORDS] = write_records(read_records(attrs[RECORDS], label))
    return attrs, stats
