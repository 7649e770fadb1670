"""Array types used in annotations, and what a run that can be read in blocks looks like."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]
BoolArray = NDArray[np.bool_]
AnyArray = NDArray[Any]


class RunSource(Protocol):
    """A run on disk, readable in blocks of volumes; it holds no data and can be sent anywhere."""

    @property
    def path(self) -> str:
        """Where it lies, for messages."""

    @property
    def token(self) -> str:
        """Tells this state of this run from any other."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Sizes of x, y, z and time."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the samples as stored."""

    @property
    def chunks(self) -> tuple[int, int, int, int]:
        """Blocks in which it is best looked at."""

    @property
    def slope(self) -> float:
        """A sample's value is slope * stored + intercept."""

    @property
    def intercept(self) -> float:
        """See `slope`."""

    @property
    def affine(self) -> tuple[tuple[float, ...], ...]:
        """4 x 4, voxel to mm."""

    @property
    def t_r(self) -> float | None:
        """Repetition time in seconds, if it is known."""

    @property
    def header(self) -> bytes:
        """The NIfTI header and its extensions, as they lie in the file."""

    @property
    def forward_only(self) -> bool:
        """Whether it is best read once, from start to end: compressed, or behind a URL."""

    @property
    def plane_unit(self) -> int:
        """Planes that are read together at no extra cost."""

    def blocks(self, planes: range, n_volumes: int) -> Iterator[tuple[int, AnyArray]]:
        """Read forwards: first volume, and (t, z, y, x) samples; the next may overwrite them."""

    def read(self, planes: range, first: int, stop: int) -> AnyArray:
        """Read planes of a range of volumes: (t, z, y, x) samples as stored."""
