"""What is done with every run of a study: a small file, or the same as a value."""

import hashlib
import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from chunkglm.errors import ChunkglmError, StudyError
from chunkglm.kernels.noise import AR, parse_noise
from chunkglm.study.table import RunRow

_LABEL = re.compile(r"[A-Za-z0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyModel:
    """The model of a study; see `read_model` for the file that holds one.

    Parameters
    ----------
    contrasts : mapping
        Definition by name; a name is letters and digits, as it becomes part of file names.
        An expression, weights, a matrix, a list of expressions, or weights by column.
    noise : str or mapping, optional
        As `fit` takes it, such as ``"ar1"``; or the fields of `AR`, such as
        ``{order = 1, bins = 100}``. By default what `fit` has by default.
    smoothing_fwhm : float
        In mm; 0 for none.
    scaling : {"percent", "none"}
    hrf_model, drift_model, high_pass, drift_order, fir_delays, slice_time_ref, min_onset
        Of designs made from events, as `design_from_events` takes them.
    confounds : sequence of str
        Columns of the confounds that enter the design, by name or pattern (``trans_*``).
        None means all of them.
    censor : sequence of str, optional
        Columns of the confounds, by name or pattern (``motion_outlier*``), that are not 0 at
        volumes to leave out.
    max_fd, max_std_dvars : float, optional
        Leave out volumes whose ``framewise_displacement`` (mm) or ``std_dvars`` is above this.
    level : {"subject", "session"}
        What runs are combined over.
    precision_weighted : bool
        Weigh runs by inverse variance.
    missing : {"error", "skip"}
        What to do with a run whose design lacks a condition of a contrast: set its subject aside,
        or combine the others.
    save_runs, save_moments, save_group : bool
        Write the maps of each run too; the moments of each run, from which other contrasts can be
        taken; all subjects' maps as one store.

    Raises
    ------
    StudyError
        Naming every field that cannot be used.
    """

    contrasts: Mapping[str, Any]
    noise: str | Mapping[str, Any] | None = None
    smoothing_fwhm: float = 0.0
    scaling: str = "percent"
    hrf_model: str = "glover"
    drift_model: str = "cosine"
    high_pass: float = 0.01
    drift_order: int = 1
    fir_delays: Sequence[int] = (0,)
    slice_time_ref: float = 0.0
    min_onset: float = -24.0
    confounds: Sequence[str] | None = None
    censor: Sequence[str] | None = None
    max_fd: float | None = None
    max_std_dvars: float | None = None
    level: str = "subject"
    precision_weighted: bool = False
    missing: str = "error"
    save_runs: bool = False
    save_moments: bool = False
    save_group: bool = True

    def __post_init__(self) -> None:
        """Check every field; report all that is wrong at once."""
        problems = [
            f"{name} must be {what}, but is {getattr(self, name)!r}"
            for name, (what, holds) in _CHECKS.items()
            if not holds(getattr(self, name))
        ]
        try:
            self.fit_options()
        except (ChunkglmError, TypeError) as error:
            problems.append(str(error))
        if problems:
            raise StudyError.of("model", problems)

    def fit_options(self) -> dict[str, Any]:
        """Arguments of `fit`."""
        found: dict[str, Any] = {
            "smoothing_fwhm": self.smoothing_fwhm or None,
            "scaling": None if self.scaling == "none" else self.scaling,
        }
        if isinstance(self.noise, Mapping):
            found["noise"] = AR(**self.noise)
        elif self.noise is not None:
            found["noise"] = parse_noise(self.noise)
        return found

    def design_options(self) -> dict[str, Any]:
        """Arguments of `design_from_events`."""
        found = {name: getattr(self, name) for name in _DESIGN}
        for name in ("hrf_model", "drift_model"):
            found[name] = None if found[name] == "none" else found[name]
        return found

    @property
    def censors(self) -> bool:
        """Whether volumes are left out by what the confounds say of them."""
        return bool(self.censor) or self.max_fd is not None or self.max_std_dvars is not None

    def check_rows(self, source: str, rows: Sequence[RunRow]) -> None:
        """Refuse a table that lacks what the model asks for, or has what it would pass over.

        Raises
        ------
        StudyError
            Naming every row.
        """
        problems = []
        for row in rows:
            asked = "volumes to leave out" if self.censors else ""
            asked = "confounds" if self.confounds else asked
            if asked and not row.confounds:
                problems.append(
                    f"row {row.row}: the model names {asked}, but the row has no confounds"
                )
            if self.censors and row.sample_mask:
                problems.append(
                    f"row {row.row}: the model and a sample_mask both say which volumes count; "
                    "give one of them"
                )
            if self.level == "session" and not row.session:
                problems.append(f'row {row.row}: the level is "session", but session is empty')
        if problems:
            raise StudyError.of(source, problems)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), default=_plain))
        return plain

    def digest(self) -> str:
        """SHA-256 of all its fields."""
        text = json.dumps(self.as_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


_DESIGN = (
    "hrf_model", "drift_model", "high_pass", "drift_order", "fir_delays", "slice_time_ref",
    "min_onset",
)  # fmt: skip


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else dict(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _are_contrasts(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(map(_is_label, value))


def _is_label(value: Any) -> bool:
    return isinstance(value, str) and bool(_LABEL.fullmatch(value))


def _are_names(value: Any) -> bool:
    if value is None:
        return True
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return listed and all(isinstance(name, str) and name for name in value)


def _one_of(*words: str) -> tuple[str, Callable[[Any], bool]]:
    return " or ".join(map(repr, words)), lambda value: value in words


_CHECKS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "contrasts": ("definitions by name, the names of letters and digits", _are_contrasts),
    "smoothing_fwhm": ("0 or more mm", lambda v: _is_number(v) and v >= 0),
    "scaling": _one_of("percent", "none"),
    "hrf_model": ("a word", lambda v: isinstance(v, str)),
    "drift_model": _one_of("cosine", "polynomial", "none"),
    "high_pass": ("a frequency in Hz", lambda v: _is_number(v) and v > 0),
    "drift_order": ("a whole number", lambda v: isinstance(v, int) and v >= 0),
    "slice_time_ref": ("a fraction from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1),
    "min_onset": ("a number of seconds", _is_number),
    "confounds": ("a list of names or patterns", _are_names),
    "censor": ("a list of names or patterns", _are_names),
    "max_fd": ("a positive number of mm", lambda v: v is None or (_is_number(v) and v > 0)),
    "max_std_dvars": ("a positive number", lambda v: v is None or (_is_number(v) and v > 0)),
    "level": _one_of("subject", "session"),
    "precision_weighted": ("true or false", _is_flag),
    "missing": _one_of("error", "skip"),
    "save_runs": ("true or false", _is_flag),
    "save_moments": ("true or false", _is_flag),
    "save_group": ("true or false", _is_flag),
}


def read_model(model: Any) -> StudyModel:
    """Read a model.

    Parameters
    ----------
    model : StudyModel, mapping or path
        A ``.toml`` or ``.json`` file with the fields of `StudyModel`::

            smoothing_fwhm = 5
            confounds = ["trans_*", "rot_*"]

            [contrasts]
            faces = "face - house"

    Returns
    -------
    StudyModel

    Raises
    ------
    StudyError
        Naming every key that is unknown, with the nearest that is known, and every wrong value.
    """
    if isinstance(model, StudyModel):
        return model
    source, values = ("model", model) if isinstance(model, Mapping) else _load(Path(model))
    known = {f.name: f for f in fields(StudyModel)}
    problems = []
    for key in values:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
            problems.append(f"unknown key {key!r}{hint}")
    problems += [
        f"{name} is missing"
        for name, f in known.items()
        if f.default is MISSING and name not in values
    ]
    if problems:
        raise StudyError.of(source, problems)
    try:
        return StudyModel(**values)
    except StudyError as error:
        raise StudyError.of(source, list(error.problems)) from None


def _load(path: Path) -> tuple[str, Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            found: Any = tomllib.loads(text)
        elif path.suffix == ".json":
            found = json.loads(text)
        else:
            raise StudyError.of(str(path), ["must be a .toml or .json file"])
    except (OSError, ValueError) as error:
        if isinstance(error, StudyError):
            raise
        cause = " ".join(str(error).split())
        raise StudyError.of(str(path), [f"the model cannot be read ({cause})"]) from error
    if not isinstance(found, dict):
        raise StudyError.of(str(path), [f"must hold keys and values, but holds {found!r}"])
    return str(path), found
