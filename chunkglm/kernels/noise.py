"""Noise models: what the user asks for, and the AR coefficients of every voxel."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from chunkglm._types import FloatArray
from chunkglm.errors import DesignError
from chunkglm.kernels.segments import Segments

# Partial autocorrelations are held within this of 0: beyond 1 there is no stationary process, which
# autocovariances divided by their own number of pairs do not rule out.
LARGEST_PARTIAL = 0.999

# From autocovariances of residuals, (n + 1, V), to those of the noise, (m + 1, V).
Correction = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, slots=True)
class AR:
    """Autoregressive noise, its coefficients estimated in each voxel.

    Coefficients are those of Yule and Walker, from autocovariances of the least-squares residuals
    that are each divided by its number of pairs. In short or much censored runs these may belong to
    no stationary process: then the partial autocorrelation that reaches 0.999 is held there, and
    those of higher lags are 0. Only with order 1 and the conditional start the coefficient is used
    as it is, as nilearn does; its filter needs no stationary process.

    Parameters
    ----------
    order : int
        0 for ordinary least squares, p for AR(p).
    bins : int, optional
        For order 1: truncate the coefficient toward zero to multiples of ``1 / bins``, as nilearn
        does with ``bins=100``. By default it is used as estimated.
    initial : {"conditional", "stationary"}
        How the first `order` samples of the run, and after each gap, are weighted: as they are, as
        nilearn does, or by the exact precision matrix of the stationary process.
    iterations : int
        Passes of generalised least squares. From the second on, the coefficients are estimated
        anew from the residuals of the pass before.
    corrected : bool
        Whether to put back what the design took out of the noise's autocorrelation: residuals are
        less correlated than the noise was, and a test that takes them for it is too bold. From the
        design alone, see ``chunkglm.kernels.bias``.
    smooth_fwhm : float, optional
        Average the residuals' autocorrelations over neighbouring voxels of the mask first, with a
        Gaussian of this full width at half maximum in mm. One voxel's are the noise's give or take
        ``1 / sqrt(T)``; the error of their average is several times smaller.
    across_gaps : bool
        Whether kept volumes to either side of dropped ones are taken for neighbours in time, as
        nilearn takes them. By default no lag crosses a gap.

    Raises
    ------
    DesignError
        For values that make no model.
    """

    order: int
    bins: int | None = None
    initial: Literal["conditional", "stationary"] = "conditional"
    iterations: int = 1
    corrected: bool = False
    smooth_fwhm: float | None = None
    across_gaps: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be fitted; whole numbers of any kind become ints."""
        if not _is_count(self.order, 0):
            msg = f"noise order must be 0 or a positive whole number, but got {self.order!r}"
            raise DesignError(msg)
        if self.bins is not None:
            if not _is_count(self.bins, 1):
                msg = f"bins must be a positive number of bins, but got {self.bins!r}"
                raise DesignError(msg)
            if self.order != 1:
                msg = f"bins are for noise of order 1, but got order {self.order}; leave them out"
                raise DesignError(msg)
        if self.initial not in ("conditional", "stationary"):
            msg = f'initial must be "conditional" or "stationary", but got {self.initial!r}'
            raise DesignError(msg)
        if not _is_count(self.iterations, 1):
            msg = f"iterations must be a positive whole number, but got {self.iterations!r}"
            raise DesignError(msg)
        for name in ("corrected", "across_gaps"):
            if not _is_bool(getattr(self, name)):
                msg = f"{name} must be True or False, but got {getattr(self, name)!r}"
                raise DesignError(msg)
        if self.smooth_fwhm is not None and not _is_length(self.smooth_fwhm):
            msg = (
                "smooth_fwhm must be a positive number of mm, or None, but got "
                f"{self.smooth_fwhm!r}"
            )
            raise DesignError(msg)
        self._check_together()

    def _check_together(self) -> None:
        """Refuse to correct or to smooth what is not there, or is another thing."""
        for name, asked in (
            ("corrected", self.corrected),
            ("smooth_fwhm", self.smooth_fwhm is not None),
        ):
            if asked and self.order == 0:
                msg = f"{name} is for noise of order 1 or more, but got order 0; leave it out"
                raise DesignError(msg)
            if asked and self.iterations > 1:
                # Residuals of a second pass keep more of the noise's correlation: at T = 100 and
                # 0.6, 0.51 in place of 0.49, and corrected as the first ones' they would be 0.63.
                msg = (
                    f"{name} is for the residuals of least squares, and {self.iterations} "
                    "iterations take others; leave out one of the two"
                )
                raise DesignError(msg)
        for name in ("order", "bins", "iterations"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else int(value))

    def __str__(self) -> str:
        """Spell the model the way `parse_noise` reads it, but for what is not the default."""
        return ", ".join(
            [
                "ols" if self.order == 0 else f"ar{self.order}",
                *([] if self.bins is None else [f"{self.bins} bins"]),
                *([] if self.initial == "conditional" else [self.initial]),
                *([] if self.iterations == 1 else [f"{self.iterations} iterations"]),
                *(["corrected"] if self.corrected else []),
                *([] if self.smooth_fwhm is None else [f"smoothed over {self.smooth_fwhm:g} mm"]),
                *(["across gaps"] if self.across_gaps else []),
            ]
        )


def _is_count(value: object, least: int) -> bool:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return whole and int(value) >= least  # type: ignore[call-overload]


def _is_bool(value: object) -> bool:
    return isinstance(value, (bool, np.bool_))


def _is_length(value: object) -> bool:
    number = isinstance(value, (int, float, np.integer, np.floating))
    return number and not isinstance(value, bool) and 0 < float(value) < np.inf  # type: ignore[arg-type]


# What `fit` takes when nothing is said: beside the plain coefficient, 0.4 or less of the excess of
# false positives is left (docs/noise.md).
DEFAULT_NOISE = AR(1, corrected=True)


def parse_noise(noise: "str | AR") -> AR:
    """Read a noise model from its spelling.

    Parameters
    ----------
    noise : str or AR
        ``"ols"``, ``"ar1"``, ``"ar2"``, …, ``"ar1, corrected"``, …, or an `AR` value.

    Returns
    -------
    AR

    Raises
    ------
    DesignError
        For anything else.
    """
    if isinstance(noise, AR):
        return noise
    if isinstance(noise, str):
        if noise == "ols":
            return AR(0)
        found = re.fullmatch(r"ar([0-9]{1,3})(, ?corrected)?", noise)
        if found:
            return AR(int(found[1]), corrected=found[2] is not None)
    msg = (
        'noise must be "ols", "ar1", "ar2" and so on, "ar1, corrected", or a value such as '
        f"AR(1, bins=100), but got {noise!r}"
    )
    raise DesignError(msg)


def check_order(noise: AR, segments: Segments, dof: int) -> None:
    """Refuse an order that the kept volumes cannot tell anything about.

    Parameters
    ----------
    noise : AR
    segments : Segments
    dof : int
        Residual degrees of freedom.

    Raises
    ------
    DesignError
        When the order is above the degrees of freedom, or no two volumes of a segment lie so far
        apart.
    """
    if noise.order > dof:
        msg = (
            f"noise of order {noise.order} is more than the {dof} degrees of freedom of the "
            "residuals can tell; choose a lower order"
        )
        raise DesignError(msg)
    if noise.order and not segments.n_pairs(noise.order):
        msg = (
            f"noise of order {noise.order} needs volumes that lie {noise.order} apart with none "
            f"dropped between, but the longest of {segments.n_segments} segments has "
            f"{segments.lengths.max()} volumes; choose a lower order or keep more volumes"
        )
        raise DesignError(msg)


def ar_coefficients(
    autocovariance: FloatArray, noise: AR, correction: Correction | None = None
) -> FloatArray:
    """AR coefficients of every voxel from the autocovariances of its residuals.

    The one place where residuals become coefficients, whatever they were: least-squares ones,
    those of another pass, or averages over neighbours.

    Parameters
    ----------
    autocovariance : (n + 1, V) array
        n >= p lags, each divided by its number of pairs, see `solve.residual_autocovariance`; in
        any unit, for only their ratios count.
    noise : AR
    correction : callable, optional
        Turns them into (m + 1, V) autocovariances of the noise, m >= p; as found by default.

    Returns
    -------
    (p, V) array
        0 where the residuals are 0.
    """
    found = autocovariance if correction is None else correction(autocovariance)
    as_it_is = noise.order == 1 and noise.initial == "conditional"
    phi = levinson(found[: noise.order + 1], np.inf if as_it_is else LARGEST_PARTIAL)
    if noise.bins is not None:
        phi = np.trunc(phi * noise.bins) / noise.bins
    return phi


def levinson(autocovariance: FloatArray, largest: float = LARGEST_PARTIAL) -> FloatArray:
    """Solve the Yule-Walker equations by Levinson's and Durbin's recursion, for all voxels at once.

    Parameters
    ----------
    autocovariance : (p + 1, V) array
    largest : float
        Where a partial autocorrelation would be further from 0 it is held there, and the recursion
        ends. Below 1 every solution is of a stationary process.

    Returns
    -------
    (p, V) array
    """
    order = autocovariance.shape[0] - 1
    phi = np.zeros((order, autocovariance.shape[1]))
    innovation = autocovariance[0].copy()
    open_ = innovation > 0
    for m in range(1, order + 1):
        rest = autocovariance[m] - np.einsum(
            "iv,iv->v", phi[: m - 1], autocovariance[m - 1 : 0 : -1]
        )
        partial = np.divide(rest, innovation, out=np.zeros_like(rest), where=open_)
        within = np.abs(partial) <= largest
        np.clip(partial, -largest, largest, out=partial)
        phi[: m - 1] -= partial * phi[: m - 1][::-1]
        phi[m - 1] = partial
        innovation *= 1.0 - partial**2
        open_ &= within
    return phi


def lower_orders(phi: FloatArray) -> list[tuple[FloatArray, FloatArray]]:
    """Best predictors from fewer samples, by Levinson's recursion run backwards.

    Parameters
    ----------
    phi : (p, V) array
        Coefficients of a stationary process.

    Returns
    -------
    list of (coefficients, ratio)
        Entry m, for m = 0..p: (m, V) coefficients of order m, and (V,) the innovation variance of
        order p over that of order m.
    """
    found: list[tuple[FloatArray, FloatArray]] = [(phi, np.ones(phi.shape[1]))]
    for m in range(phi.shape[0], 0, -1):
        higher, ratio = found[-1]
        partial = higher[m - 1]
        left = 1.0 - partial**2
        lower = (higher[: m - 1] + partial * higher[: m - 1][::-1]) / left
        found.append((lower, ratio * left))
    return found[::-1]
