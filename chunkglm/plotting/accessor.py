"""What Datasets of maps can do by themselves: ``maps.glm``."""

from numbers import Real
from typing import TYPE_CHECKING, Any

import xarray as xr

from chunkglm.errors import MapsError
from chunkglm.glm.records import contributing, records_of, short_name
from chunkglm.glm.shown import amount, as_html, as_text, chunks_of, state_of
from chunkglm.schema import SPACE

if TYPE_CHECKING:
    import pandas as pd

# What its methods do is imported by them: it is registered by every fit, and seldom used.

NAME = "glm"
_RUNS_NAMED = 4


@xr.register_dataset_accessor(NAME)  # type: ignore[no-untyped-call]
@xr.register_dataarray_accessor(NAME)  # type: ignore[no-untyped-call]
class GlmAccessor:
    """Maps of a contrast, drawn, thresholded and turned into images.

    ``maps.glm`` is there on every Dataset and DataArray once chunkglm is used: from the first of
    its names that makes one (``cg.open_run``, ``cg.open_maps``), or from ``import
    chunkglm.plotting``. A bare ``import chunkglm`` loads no xarray, and registers nothing.
    """

    def __init__(self, maps: xr.Dataset | xr.DataArray) -> None:
        self._maps = maps

    def __repr__(self) -> str:
        """Show what the maps are, how large, and what of them is still lazy; computes nothing."""
        return as_text("maps", self._rows())

    def _repr_html_(self) -> str:
        return as_html("maps", self._rows())

    def _rows(self) -> dict[str, str]:
        from chunkglm.plotting.images import attrs_of, names_of

        maps = self._maps
        told = attrs_of(maps)
        names = names_of(maps) if isinstance(maps, xr.Dataset) else [str(maps.name)]
        rows = {
            "contrast": str(told.get("contrast", "")),
            "statistic": str(told.get("stat_type", "")),
            "of": _runs(maps) if "stat_type" in told else "",
            "degrees of freedom": f"{told['dof']:g}" if isinstance(told.get("dof"), Real) else "",
            "noise": str(told.get("noise", "")),
            "grid": " × ".join(str(maps.sizes[d]) for d in SPACE if d in maps.dims),
            "variables": ", ".join(names),
            "size": amount(maps.nbytes),
            "chunks": chunks_of(maps),
            "state": state_of(maps),
        }
        return {name: value for name, value in rows.items() if value}

    def plot(self, variable: str | None = None, **options: Any) -> Any:
        """Draw a map; `chunkglm.plotting.plot_stat_map` with these maps. Computes it.

        Parameters
        ----------
        variable : str, optional
            By default ``z_score``, or ``thresholded`` where there is one.
        **options
            ``threshold``, ``bg_img``, ``title``, and what nilearn's ``plot_stat_map`` takes.

        Returns
        -------
        nilearn.plotting.displays.BaseSlicer
        """
        from chunkglm.plotting.maps import plot_stat_map

        return plot_stat_map(self._maps, variable, **options)

    def to_nifti(self, variable: str | None = None) -> Any:
        """Make NIfTI images in memory; `chunkglm.save` writes files. Computes what it returns.

        Parameters
        ----------
        variable : str, optional
            Which one; by default all of them, computed together.

        Returns
        -------
        nibabel.Nifti1Image, or dict of them by variable
            Of a DataArray one image. Where nothing was estimated they hold what `save` writes.
        """
        from chunkglm.plotting.images import image_of, images_of

        if variable is None and isinstance(self._maps, xr.Dataset):
            return images_of(self._maps)
        return image_of(self._maps, variable)

    def threshold(self, **options: Any) -> xr.Dataset:
        """Threshold for many tests; `chunkglm.threshold` of these maps, lazy.

        Parameters
        ----------
        **options
            ``alpha``, ``height_control``, ``cluster_threshold`` and so on.

        Returns
        -------
        xarray.Dataset
        """
        from chunkglm.glm.thresholding import threshold

        return threshold(self._maps, **options)

    def clusters(self, **options: Any) -> "pd.DataFrame":
        """Make a table of clusters; `chunkglm.clusters`. Computes it.

        Parameters
        ----------
        **options
            How maps that are not thresholded yet are to be; see `chunkglm.threshold`.

        Returns
        -------
        pandas.DataFrame
        """
        from chunkglm.glm.thresholding import clusters, threshold

        maps = self._maps
        if not (isinstance(maps, xr.Dataset) and "cluster" in maps):
            return clusters(threshold(maps, **options))
        if options:
            msg = f"the maps are thresholded already; give {', '.join(options)} to threshold"
            raise MapsError(msg)
        return clusters(maps)


def _runs(maps: Any) -> str:
    """Name the runs behind maps, the first and last of many."""
    names = [short_name(name) for name in contributing(records_of(maps))]
    if len(names) <= _RUNS_NAMED:
        return ", ".join(names)
    return f"{len(names)} runs, {names[0]} to {names[-1]}"
