"""The colours of every picture: one scale for statistics, one for what has no sign."""

from dataclasses import dataclass

import numpy as np

from chunkglm._types import AnyArray

# From the threshold to the largest value; both ends are as bright as each other, and the weakest
# voxel that survives is told from the darkest and the brightest of the image below it.
_ABOVE = ("#a81c12", "#e0561b", "#f9a02d", "#fdf0a8")
_BELOW = ("#14499c", "#1f7fcf", "#4db8e8", "#d3f4fb")
# Even steps of lightness (those of viridis), told apart in print and by the colour blind.
_LEVELS = ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725")
_STEPS = 256


@dataclass(frozen=True, slots=True)
class StatScale:
    """Colours of a statistic: none between minus and plus the threshold."""

    threshold: float  # infinite where nothing survives
    vmax: float

    def rgba(self, values: AnyArray) -> AnyArray:
        """Colours of values, (..., 4) uint8; transparent below the threshold and where NaN."""
        height = np.abs(np.nan_to_num(values, nan=0.0, posinf=self.vmax, neginf=-self.vmax))
        shown = np.isfinite(self.threshold) & (height >= self.threshold) & (height > 0)
        span = max(self.vmax - self.threshold, 1e-9) if np.isfinite(self.threshold) else 1.0
        above = _table(_ABOVE)[_index((height - min(self.threshold, self.vmax)) / span)]
        below = _table(_BELOW)[_index((height - min(self.threshold, self.vmax)) / span)]
        colour = np.where((np.nan_to_num(values) < 0)[..., None], below, above)
        return _with_alpha(colour, shown)

    @property
    def css_above(self) -> str:
        """The upper half as a CSS gradient."""
        return _gradient(_ABOVE)

    @property
    def css_below(self) -> str:
        """The lower half, its strongest value first."""
        return _gradient(_BELOW[::-1])


@dataclass(frozen=True, slots=True)
class LevelScale:
    """Colours of what has no sign, between two values."""

    low: float
    high: float

    def rgba(self, values: AnyArray) -> AnyArray:
        """Colours of values, (..., 4) uint8; transparent where NaN."""
        span = (self.high - self.low) or 1.0
        known = np.isfinite(values)
        share = (np.where(known, values, self.low) - self.low) / span
        return _with_alpha(_table(_LEVELS)[_index(share)], known)

    @property
    def css(self) -> str:
        """The scale as a CSS gradient."""
        return _gradient(_LEVELS)


def stops() -> dict[str, tuple[str, ...]]:
    """Return the colours between which scales are drawn, for the viewer."""
    return {"above": _ABOVE, "below": _BELOW, "levels": _LEVELS}


def _gradient(colours: tuple[str, ...]) -> str:
    return f"linear-gradient(to right, {', '.join(colours)})"


def _index(share: AnyArray) -> AnyArray:
    return (np.clip(share, 0, 1) * (_STEPS - 1)).round().astype(np.intp)


def _table(colours: tuple[str, ...]) -> AnyArray:
    """Colours in even steps between those given, (256, 3)."""
    known = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours], dtype=float)
    at = np.linspace(0, 1, len(colours))
    steps = np.linspace(0, 1, _STEPS)
    found = np.stack([np.interp(steps, at, channel) for channel in known.T], axis=-1)
    return found.round().astype(np.uint8)


def _with_alpha(colour: AnyArray, shown: AnyArray) -> AnyArray:
    alpha = np.where(shown, 255, 0).astype(np.uint8)
    return np.concatenate([colour, alpha[..., None]], axis=-1)
