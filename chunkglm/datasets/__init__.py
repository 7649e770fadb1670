"""Example data: FIAC, downloaded or simulated."""

from chunkglm.datasets._fetch import fetch_fiac
from chunkglm.datasets._layout import FiacData
from chunkglm.datasets._simulate import simulate_fiac

__all__ = ["FiacData", "fetch_fiac", "simulate_fiac"]
