"""Maps of runs in workers' memory, and the fixed effects of each contrast over them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import xarray as xr

from chunkglm.glm import fixed_effects
from chunkglm.glm.together import of_one_contrast
from chunkglm.schema import CONTRAST


class RunMaps(NamedTuple):
    """Maps of a run, in memory."""

    passes: tuple[xr.Dataset, ...]  # of one or several contrasts each
    places: Mapping[str, tuple[int, str]]  # by contrast: pass, and name there if it has several

    def alone(self, name: str) -> xr.Dataset:
        """Maps of one contrast."""
        number, label = self.places[name]
        maps = self.passes[number]
        return of_one_contrast(maps.sel({CONTRAST: label})) if label else maps


def pooled_maps(
    runs: Sequence[RunMaps], contrasts: Iterable[str], *, precision_weighted: bool
) -> Iterator[tuple[str, xr.Dataset]]:
    """Fixed effects of each contrast over the runs that have it, in memory.

    Each alone: how z is worked out depends on the number of voxels, so that several at once could
    differ in the last bit from what plain calls give.
    """
    for name in contrasts:
        having = [one.alone(name) for one in runs if name in one.places]
        if having:
            yield name, fixed_effects(having, precision_weighted=precision_weighted).compute()
