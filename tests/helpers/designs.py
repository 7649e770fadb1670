"""Random designs and data for the kernels' tests."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A run drawn at random: (T, V) data, (T, k) design, (q, k) estimable contrast."""

    Y: Array
    X: Array
    C: Array
    rank: int
    constant: bool


def ar1_noise(rng: np.random.Generator, n_scans: int, rho: Array) -> Array:
    """Stationary AR(1) noise of unit variance, (T, V)."""
    noise = rng.standard_normal((n_scans, rho.size))
    for t in range(1, n_scans):
        noise[t] = rho * noise[t - 1] + np.sqrt(1 - rho**2) * noise[t]
    return noise


def random_case(
    rng: np.random.Generator,
    *,
    n_scans: int,
    rank: int,
    q: int = 1,
    n_voxels: int = 5,
    constant: bool = True,
    duplicates: int = 0,
    decades: float = 0.0,
    level: float = 1e4,
) -> Case:
    """Draw a run whose mean is `level` times its noise.

    Columns are smooth (responses and drifts are), lengths differ by up to 10**`decades`, and
    `duplicates` further columns are combinations of the first ones.
    """
    columns = rng.standard_normal((n_scans, rank))
    columns[1:] += 0.5 * columns[:-1]
    if constant:
        columns[:, -1] = 1.0
    further = columns @ rng.standard_normal((rank, duplicates))
    # Not every dependent column is a general combination: one is the plain copy of another.
    if duplicates:
        further[:, 0] = columns[:, 0]
    X = np.column_stack([columns, further])
    X = X[:, rng.permutation(X.shape[1])]
    X *= 10.0 ** rng.uniform(-decades, decades, X.shape[1])
    rho = rng.uniform(-0.3, 0.8, n_voxels)
    Y = level + columns @ rng.standard_normal((rank, n_voxels)) + ar1_noise(rng, n_scans, rho)
    # Weights that are combinations of the design's rows are estimable, whatever its rank.
    C = rng.standard_normal((q, n_scans)) @ X
    return Case(Y, X, C, rank, constant)


@st.composite
def cases(
    draw: st.DrawFn,
    *,
    max_rank: int = 7,
    max_q: int = 1,
    constant: bool | None = None,
    duplicates: int | None = None,
) -> Case:
    """Runs of any length from rank + 2 on; hypothesis shrinks sizes, a seed makes the numbers."""
    rank = draw(st.integers(2, max_rank))
    q = draw(st.integers(1, min(max_q, rank)))
    return random_case(
        np.random.default_rng(draw(st.integers(0, 2**32 - 1))),
        n_scans=rank + draw(st.integers(2, 60)),
        rank=rank,
        q=q,
        constant=draw(st.booleans()) if constant is None else constant,
        duplicates=draw(st.integers(0, 3)) if duplicates is None else duplicates,
        decades=draw(st.sampled_from([0.0, 3.0, 12.0])),
        level=draw(st.sampled_from([0.0, 100.0, 1e4])),
    )
