"""Noise models: what the user asks for, and the AR coefficients of every voxel."""

import re
from dataclasses import dataclass

import numpy as np

from chunkglm._types import FloatArray
from chunkglm.errors import DesignError


@dataclass(frozen=True, slots=True)
class AR:
    """Autoregressive noise of order 0 (white) or 1, its coefficient estimated in each voxel.

    Parameters
    ----------
    order : int
        0 for ordinary least squares, 1 for AR(1).
    bins : int, optional
        Truncate the coefficient toward zero to multiples of ``1 / bins``, as nilearn does with
        ``bins=100``. By default it is used as estimated.

    Raises
    ------
    DesignError
        For an order other than 0 or 1, or bins below 1.
    """

    order: int
    bins: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be fitted."""
        if isinstance(self.order, bool) or self.order not in (0, 1):
            msg = f'noise order must be 0 ("ols") or 1 ("ar1"), but got {self.order!r}'
            raise DesignError(msg)
        if self.bins is not None and (isinstance(self.bins, bool) or not self.bins >= 1):
            msg = f"bins must be a positive number of bins, but got {self.bins!r}"
            raise DesignError(msg)

    def __str__(self) -> str:
        """Spell the model the way `parse_noise` reads it, bins aside."""
        name = "ols" if self.order == 0 else f"ar{self.order}"
        return name if self.bins is None else f"{name}, {self.bins} bins"


def parse_noise(noise: "str | AR") -> AR:
    """Read a noise model from its spelling.

    Parameters
    ----------
    noise : str or AR
        ``"ols"``, ``"ar1"`` or an `AR` value.

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
        found = re.fullmatch(r"ar(\d{1,3})", noise)
        if found:
            return AR(int(found[1]))
    msg = f'noise must be "ols", "ar1" or a value such as AR(1, bins=100), but got {noise!r}'
    raise DesignError(msg)


def ar1_coefficient(
    lagged: FloatArray, squares: FloatArray, n_scans: int, bins: int | None
) -> FloatArray:
    """AR(1) coefficient of every voxel, by Yule-Walker on the least-squares residuals r.

    Parameters
    ----------
    lagged : (V,) array
        Sum of ``r_t r_{t+1}``.
    squares : (V,) array
        Sum of ``r_t ** 2``.
    n_scans : int
    bins : int or None
        See `AR`.

    Returns
    -------
    (V,) array
        ``[sum r_t r_{t+1} / (T - 1)] / [sum r_t**2 / T]``; 0 where there are no residuals.
    """
    scale = n_scans / (n_scans - 1)
    rho = np.divide(lagged * scale, squares, out=np.zeros_like(squares), where=squares > 0)
    return rho if bins is None else np.asarray(np.trunc(rho * bins) / bins)
