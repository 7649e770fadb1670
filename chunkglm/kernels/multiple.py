"""Heights for maps of many tests: false positive rate, false discovery rate, Bonferroni."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from chunkglm._types import BoolArray, FloatArray

HeightControl = Literal["fpr", "fdr", "bonferroni"] | None

# The height lies this far below the last z that is let through, so that rounding cannot drop it.
_BELOW = 1e-12


@dataclass(frozen=True, slots=True)
class Height:
    """How high a z must be to survive."""

    control: HeightControl
    alpha: float  # of one tail
    two_sided: bool
    given: float  # used where there is no control

    def upper(self, z: FloatArray) -> FloatArray:
        """Return the values that are tested in the upper tail."""
        values = np.asarray(z, dtype=np.float64)
        return np.abs(values) if self.two_sided else values

    def survives(self, z: FloatArray, height: float) -> BoolArray:
        """Tell which voxels reach the height; NaN does not.

        A given height below 0 asks for the lower tail, as in nilearn.
        """
        height = float(height)  # a Python number, so that float32 maps are compared as float32
        if self.two_sided:
            return np.asarray((z >= height) | (z <= -height))
        lower = self.control is None and height < 0
        return np.asarray(z <= height if lower else z >= height)


class Survey(NamedTuple):
    """What a part of a map tells about the height of the whole."""

    n_tests: int
    candidates: FloatArray  # z in the upper tail that could pass a false discovery rate


def survey(z: FloatArray, tested: BoolArray, height: Height) -> Survey:
    """Count the tests of a part of a map, and gather what the height depends on.

    Parameters
    ----------
    z : (...,) array
    tested : (...,) bool array
        Where there is a test.
    height : Height

    Returns
    -------
    Survey
        Only z with ``p < alpha`` are candidates: ranks are counted from the largest z, so that
        the others change nothing. A null map of a million voxels at alpha .05 leaves 0.4 MB.
    """
    n_tests = int(np.count_nonzero(tested))
    if height.control != "fdr":
        return Survey(n_tests, np.empty(0))
    values = height.upper(z[tested])
    return Survey(n_tests, values[ndtr(-values) < height.alpha])


def merge(parts: Sequence[Survey]) -> Survey:
    """Put parts of a map together."""
    return Survey(
        sum(part.n_tests for part in parts),
        np.concatenate([np.empty(0), *(part.candidates for part in parts)]),
    )


def height_of(found: Survey, height: Height) -> float:
    """Return the z from which voxels survive; infinite where none can.

    Parameters
    ----------
    found : Survey
        Of the whole map.
    height : Height

    Returns
    -------
    float

    Notes
    -----
    ``"fdr"``: Benjamini and Hochberg (J R Stat Soc B 57, 1995): the last of the sorted p that lies
    below ``alpha * rank / n``.
    """
    match height.control:
        case "fpr":
            return float(-ndtri(height.alpha))
        case "bonferroni":
            return float(-ndtri(height.alpha / found.n_tests)) if found.n_tests else np.inf
        case "fdr":
            z = -np.sort(-found.candidates)
            bounds = height.alpha * np.arange(1, z.size + 1) / max(found.n_tests, 1)
            passed = np.flatnonzero(ndtr(-z) < bounds)
            return float(z[passed[-1]]) - _BELOW if passed.size else np.inf
    return height.given


def q_values(p: FloatArray) -> FloatArray:
    """Return the smallest false discovery rate at which each test is let through.

    Parameters
    ----------
    p : (n,) array

    Returns
    -------
    (n,) array
        ``min over ranks j >= i of p_(j) n / j``, at most 1 (Benjamini and Hochberg 1995).
    """
    order = np.argsort(p)
    scaled = p[order] * (p.size / np.arange(1, p.size + 1))
    found = np.empty(p.size)
    found[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return found


def p_of_z(z: FloatArray, two_sided: bool) -> FloatArray:
    """Return p of standard normal scores, in the upper tail or in both."""
    return np.asarray(2.0 * ndtr(-np.abs(z)) if two_sided else ndtr(-z))
