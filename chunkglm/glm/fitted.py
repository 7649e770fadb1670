"""A fitted run: its moments, the model under which they are read, and the maps they give."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from chunkglm._types import BoolArray
from chunkglm.design import Design
from chunkglm.glm.algebra import sub_model
from chunkglm.glm.labelled import maps_of_model, maps_of_signal
from chunkglm.glm.series import predicted_of, residuals_of
from chunkglm.glm.shown import html_of_fit, text_of_fit
from chunkglm.glm.space import Grid
from chunkglm.kernels.factor import DesignFactor
from chunkglm.kernels.moments import Moments
from chunkglm.kernels.noise import AR
from chunkglm.kernels.smoothing import sigma_in_voxels
from chunkglm.kernels.solve import Model
from chunkglm.lazy.blas import one_blas_thread
from chunkglm.lazy.graph import array_of_held, joined
from chunkglm.lazy.moments import Slabs
from chunkglm.lazy.neighbours import with_neighbours
from chunkglm.lazy.where import here_unless_told
from chunkglm.schema import REGRESSOR


@dataclass(frozen=True, slots=True, repr=False)
class Fit:
    """A fitted run, lazy: its moments, and the model under which they are read.

    Made by `fit`. Nothing is computed until something taken from it is.
    """

    dataset: xr.Dataset  # moments, over the voxels of the mask
    design: Design
    noise: AR
    scaling: str | None
    grid: Grid
    slabs: Slabs
    factor: DesignFactor

    @property
    def dof(self) -> int:
        """Residual degrees of freedom: volumes minus the rank of the design."""
        return self.factor.dof

    @property
    def sample_mask(self) -> BoolArray:
        """Whether a volume counts, (T,) booleans."""
        return self.factor.segments.keep

    @property
    def model(self) -> Model:
        """What the kernels need beside the moments."""
        # Threads only fight over matrices as narrow as a design's.
        with one_blas_thread():
            return Model(self.factor, self.noise, self.scaling == "percent" and not self.is_joined)

    @property
    def is_joined(self) -> bool:
        """Whether it is of several runs (`concatenate`), each of which is scaled already."""
        return "joined_runs" in self.dataset.attrs

    @property
    def moments(self) -> dict[str, da.Array]:
        """The moments as dask arrays, one chunk per slab of voxels."""
        chunks = self.slabs.voxel_chunks
        found = {}
        for name in Moments._fields:
            data = self.dataset[name].data
            if not isinstance(data, da.Array):
                data = array_of_held(np.asarray(data), chunks)
            found[name] = data
            if data.chunks[-1] != chunks:
                found[name] = data.rechunk({data.ndim - 1: chunks})
        return found

    @property
    def solved_from(self) -> dict[str, da.Array]:
        """What maps are solved from: moments, and averages over neighbours if the noise has any."""
        fwhm = self.noise.smooth_fwhm
        if fwhm is None:
            return self.moments
        sigma = sigma_in_voxels(fwhm, self.grid.matrix())
        return with_neighbours(self.moments, self.slabs, self.model, sigma)

    def load(self) -> "Fit":
        """Compute the moments once and hold them in memory.

        Returns
        -------
        Fit
            From which every contrast is taken without reading the run again. Some dozens of numbers
            a voxel, however long the run.
        """
        return loaded([self])[0]

    def save(
        self,
        path: Any,
        *,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> str:
        """Compute the moments and store them; `open_fit` takes contrasts from there.

        Parameters
        ----------
        path : str, Path or zarr store
            Folder to make, by custom ending in ``.zarr``, or a URL, or a zarr store object.
        overwrite : bool
            Replace a store of that name, once the new one is whole.
        storage_options : mapping, optional
            Passed to fsspec with a URL.

        Returns
        -------
        str
            The store's path.

        Raises
        ------
        StoreError
            When something is in the way, another process is writing it, or there is no room.
        """
        # What only stores need is loaded with them.
        from chunkglm.glm.form import stored_form
        from chunkglm.glm.stored import write_stored

        return write_stored(stored_form(self), path, overwrite, storage_options)

    @property
    def beta(self) -> xr.DataArray:
        """Coefficients, (regressor, x, y, z), in the units of the scaled signal."""
        return self._map("beta").assign_coords({REGRESSOR: list(self.design.names)})

    @property
    def sigma2(self) -> xr.DataArray:
        """Variance of the noise's innovations, (x, y, z)."""
        return self._map("sigma2")

    @property
    def ar(self) -> xr.DataArray:
        """Autoregressive coefficients, (lag, x, y, z); no lag for least squares."""
        return self._map("ar")

    @property
    def r_square(self) -> xr.DataArray:
        """Share of the variance over time that least squares explains, (x, y, z)."""
        return self._map("r_square")

    @property
    def voxel_status(self) -> xr.DataArray:
        """Why a voxel is NaN: 1 outside the mask, 2 constant, 3 not finite, 4 nothing left over."""
        return self._map("voxel_status")

    @property
    def mean(self) -> xr.DataArray:
        """Mean over time, (x, y, z), in the data's units; smoothed, if the fit is.

        Of runs joined by `concatenate`, which are scaled first, it is 0.
        """
        return maps_of_signal(self)["mean"]

    @property
    def tsnr(self) -> xr.DataArray:
        """Mean over standard deviation over time, (x, y, z); drifts and task count as noise."""
        return maps_of_signal(self)["tsnr"]

    def select(self, regressors: Any) -> "Fit":
        """Return the fit of a model with some of the regressors, from the moments alone; lazy.

        Parameters
        ----------
        regressors : str or list of str
            Columns of the design to keep, in the order wanted.

        Returns
        -------
        Fit
            As if the run had been fitted with these columns: noise and degrees of freedom are those
            of the smaller model. No data are read.

        Raises
        ------
        DesignError
            When a name is not the design's.
        """
        return sub_model(self, regressors, drop=False)

    def drop(self, regressors: Any) -> "Fit":
        """Return the fit of a model without some of the regressors; see `select`.

        Parameters
        ----------
        regressors : str or list of str
            Columns of the design to leave out.

        Returns
        -------
        Fit

        Raises
        ------
        DesignError
            When a name is not the design's, or none is left.
        """
        return sub_model(self, regressors, drop=True)

    def residuals(self, run: Any, *, whitened: bool = False) -> xr.DataArray:
        """What the model leaves of the run, (x, y, z, time); lazy, block by block.

        Parameters
        ----------
        run : DataArray or path
            The run that was fitted, in any form. Smoothing and scaling are those of the fit.
        whitened : bool
            Filtered with each voxel's autoregressive coefficients, ``W(y - X beta)``: the residuals
            whose squares are summed for `sigma2`. The first samples, of the run and after each gap,
            are as they are, or with a stationary start what the best predictor from fewer leaves.

        Returns
        -------
        xarray.DataArray
            In the units of the fit. NaN outside the mask, in volumes that `sample_mask` dropped,
            and where nothing is estimated; with
            `whitened`, also where the design explains everything (`voxel_status` 4).

        Raises
        ------
        ImageError
            When the run is not of the shape that was fitted, or, once computed, does not begin with
            the same volume.

        Notes
        -----
        nilearn's attribute `residuals` is something else with AR noise: the signal less the
        *whitened* prediction, ``y - W X beta``, which is
        ``residuals(run) + predicted() - predicted(whitened=True)``.

        A compressed run is read from its start for each 32 MB of it: `convert` a long one first.
        """
        return residuals_of(self, run, whitened=whitened)

    def predicted(self, *, whitened: bool = False) -> xr.DataArray:
        """What the model says of every volume, (x, y, z, time); lazy, and no run is read.

        Parameters
        ----------
        whitened : bool
            Filtered with each voxel's autoregressive coefficients, ``W X beta``: what nilearn calls
            `predicted`.

        Returns
        -------
        xarray.DataArray
            ``X beta`` in the units of the fit. NaN outside the mask, in volumes that `sample_mask`
            dropped, and where nothing is estimated.
        """
        return predicted_of(self, whitened=whitened)

    def _map(self, name: str) -> xr.DataArray:
        """One of the maps, with the grid that a Dataset has."""
        maps = maps_of_model(self)
        return maps[name].assign_attrs(maps.attrs)

    def __repr__(self) -> str:
        """Show what it holds and whether it is computed."""
        return text_of_fit(self)

    def _repr_html_(self) -> str:
        return html_of_fit(self)


def loaded(fits: Sequence[Fit]) -> list[Fit]:
    """Compute the moments of fits together and hold them in memory.

    Parameters
    ----------
    fits : sequence of Fit

    Returns
    -------
    list of Fit
    """
    names = Moments._fields
    found = joined([f.moments[n] for f in fits for n in names]).compute(**here_unless_told())
    out = []
    for i, f in enumerate(fits):
        values = found[i * len(names) : (i + 1) * len(names)]
        held = {n: f.dataset[n].copy(data=v) for n, v in zip(names, values, strict=True)}
        out.append(replace(f, dataset=f.dataset.assign(held)))
    return out


def open_fit(path: Any, *, storage_options: Mapping[str, Any] | None = None) -> Fit:
    """Open a fit that `Fit.save` stored; contrasts are taken from it with no image data.

    Parameters
    ----------
    path : str, Path or zarr store
        A folder, a URL that fsspec knows, or a zarr store object.
    storage_options : mapping, optional
        Passed to fsspec with a URL.

    Returns
    -------
    Fit
        Lazy: moments are read, and checked, when something taken from it is computed.

    Raises
    ------
    StoreError
        When it is not there, not complete, or not a fit.
    """
    # zarr takes 0.3 s to import, and only stores need it.
    from chunkglm.glm.form import FIT, parts_of_stored
    from chunkglm.glm.stored import read_stored
    from chunkglm.io.checked import damage_told

    stored, label = read_stored(path, FIT, storage_options)
    with damage_told(label):
        return Fit(**parts_of_stored(stored, label))
