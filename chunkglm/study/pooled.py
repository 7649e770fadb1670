"""Runs of one subject combined, all contrasts in one go where all runs have the same."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import xarray as xr

from chunkglm.glm import fixed_effects
from chunkglm.glm.together import of_one_contrast
from chunkglm.schema import CONTRAST, POOLED, T_MAPS

# Combined at once: so many bytes of maps.
_AT_ONCE = 32 * 2**20


class RunMaps(NamedTuple):
    """Maps of a run, in memory."""

    passes: tuple[xr.Dataset, ...]  # of one or several contrasts each
    places: Mapping[str, tuple[int, str]]  # by contrast: pass, and name there if it has several

    def alone(self, name: str) -> xr.Dataset:
        """Maps of one contrast."""
        number, label = self.places[name]
        return _one_of(self.passes[number], label)


def pooled_maps(
    runs: Sequence[RunMaps], contrasts: Iterable[str], *, precision_weighted: bool
) -> Iterator[tuple[str, xr.Dataset]]:
    """Fixed effects of each contrast over the runs that have it, in memory.

    Yields
    ------
    name : str
    maps : Dataset
    """
    if all(one.places == runs[0].places for one in runs):
        for number in range(len(runs[0].passes)):
            names = {label: name for name, (i, label) in runs[0].places.items() if i == number}
            for label, maps in _of_a_pass([r.passes[number] for r in runs], precision_weighted):
                yield names[label], maps
        return
    for name in contrasts:
        having = [one.alone(name) for one in runs if name in one.places]
        if having:
            yield name, fixed_effects(having, precision_weighted=precision_weighted).compute()


def _of_a_pass(
    maps: list[xr.Dataset], precision_weighted: bool
) -> Iterator[tuple[str, xr.Dataset]]:
    """Combine the contrasts of a pass, as many at once as are small together."""
    first = maps[0]
    if CONTRAST not in first.dims:
        yield "", fixed_effects(maps, precision_weighted=precision_weighted).compute()
        return
    voxels = first.sizes["x"] * first.sizes["y"] * first.sizes["z"]
    step = max(1, _AT_ONCE // (8 * (len(T_MAPS) + len(POOLED)) * voxels))
    for start in range(0, first.sizes[CONTRAST], step):
        some = [one.isel({CONTRAST: slice(start, start + step)}) for one in maps]
        pooled = fixed_effects(some, precision_weighted=precision_weighted).compute()
        for label in pooled[CONTRAST].to_numpy().tolist():
            yield label, _one_of(pooled, label)


def _one_of(maps: xr.Dataset, label: str) -> xr.Dataset:
    return of_one_contrast(maps.sel({CONTRAST: label})) if label else maps
