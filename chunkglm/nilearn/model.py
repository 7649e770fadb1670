"""The first-level model with nilearn's signature, fitted by this engine."""

import warnings
from dataclasses import replace
from typing import Any

import nilearn.glm.first_level as theirs
from nilearn.image import check_niimg
from sklearn.utils.validation import check_is_fitted

from chunkglm._types import BoolArray
from chunkglm.design import Design
from chunkglm.errors import ContrastError, ParameterError
from chunkglm.glm import fit
from chunkglm.glm.fitted import loaded
from chunkglm.kernels.noise import AR, parse_noise
from chunkglm.nilearn.aside import let_go, put_aside
from chunkglm.nilearn.checks import (
    check_masker,
    check_nilearn,
    check_parameters,
    check_runs,
    kept_volumes,
)
from chunkglm.nilearn.definitions import weights_of_runs
from chunkglm.nilearn.effects import effects_of_runs
from chunkglm.nilearn.maps import VoxelMaps
from chunkglm.nilearn.runs import as_image, as_run, finite, mean_image, stand_in
from chunkglm.nilearn.scaling import by_volume, fit_in_percent, grand_mean, run_in_percent
from chunkglm.nilearn.series import series_of
from chunkglm.nilearn.workers import give_back, workers
from chunkglm.schema import TIME

_OUTPUTS = ("z_score", "stat", "p_value", "effect_size", "effect_variance")


class FirstLevelModel(theirs.FirstLevelModel):  # type: ignore[misc]
    """nilearn's first-level model, out of core.

    Parameters, defaults and attributes are those of ``nilearn.glm.first_level.FirstLevelModel``, of
    which this is a subclass: designs, masks, reports and `save_glm_to_bids` are nilearn's own.
    Runs may also be stores made by `chunkglm.convert`. `fit` reads each run once, in blocks, and
    keeps sums over time; contrasts are taken from them.

    Parameters
    ----------
    **parameters
        As nilearn's. ``noise_model="ar1"`` truncates the coefficient of each voxel to 1 /
        ``bins``, as nilearn does; ``"arN"`` is exact in each voxel, where nilearn clusters the
        coefficients.

    Attributes
    ----------
    results_ : list of `chunkglm.Fit`
        One per run.
    labels_ : list of DataArrays
        The noise coefficients of each run, lazy.

    Raises
    ------
    ParameterError
        By `fit`, naming a parameter that cannot be honoured: `target_affine`, `target_shape`;
        `standardize` with ``signal_scaling=False``; `smoothing_fwhm` other than one number;
        surface images, of runs or as masks; maskers that filter.
    MaskError
        When the mask is on another grid than the runs; nilearn resamples the runs in silence.

    Notes
    -----
    Different from nilearn, on purpose:

    - Redundant columns: variances are divided by volumes minus *rank*; nilearn divides by volumes
      minus columns. A contrast that the design does not determine is refused.
    - Designs without a constant: the noise coefficient of a voxel is its own; nilearn first takes
      the mean residual of all voxels off.
    - Contrast expressions are parsed, never evaluated.
    - Voxels that are constant or not finite have no statistic: 0 in every map, 1 in p.
    - Sums are float64; nilearn reads integers as float32.
    - ``signal_scaling=1`` scales each volume, as nilearn documents it; there it raises.
    - Runs may be tuples, as nilearn documents; there it raises.
    - `verbose` tells of runs; masking and fitting are one and are not told of apart.
    - `minimize_memory`: what a fit holds most of lies in a temporary file between contrasts.
    - `n_jobs`: 1 and -1 leave the number of threads to dask, other numbers set it.
    - `memory` holds what nilearn's masker caches; fits are not cached.
    - `random_state` has nothing to seed.
    """

    results_: list[Any]

    def fit(
        self,
        run_imgs: Any,
        events: Any = None,
        confounds: Any = None,
        sample_masks: Any = None,
        design_matrices: Any = None,
        bins: int = 100,
    ) -> "FirstLevelModel":
        """Fit every run; reads each of them once.

        Parameters
        ----------
        run_imgs : image, path, store, or a list of them
        events, confounds, sample_masks, design_matrices
            As nilearn's. Volumes that `sample_masks` leaves out are dropped, and what is left is
            taken as one series, as in nilearn.
        bins : int
            For ``noise_model="ar1"``.

        Returns
        -------
        FirstLevelModel
            Itself.
        """
        check_nilearn()
        check_parameters(self)
        several = isinstance(run_imgs, (list, tuple))
        check_runs(run_imgs if several else [run_imgs])
        images = [as_image(run) for run in run_imgs] if several else as_image(run_imgs)
        self._runs: list[Any] = []
        for name in ("residuals_", "predicted_", "r_square_", "residuals", "predicted", "r_square"):
            self.__dict__.pop(name, None)  # nilearn keeps those of an earlier fit
        super().fit(images, events, confounds, sample_masks, design_matrices, bins)
        with workers(self.n_jobs):
            self.results_ = loaded(self.results_)
        if self.signal_scaling == (0, 1):
            self._scale_by_grand_mean()
        if self.minimize_memory:
            self.results_ = [put_aside(one) for one in self.results_]
        self.labels_ = [f.ar for f in self.results_]
        let_go(self.results_)
        return self

    def compute_contrast(
        self, contrast_def: Any, stat_type: str | None = None, output_type: str = "z_score"
    ) -> Any:
        """Take a contrast; over several runs, their fixed effects.

        Parameters
        ----------
        contrast_def : str, (k,) or (q, k) array, or list of one for each run
            Expressions of column names are parsed, never evaluated.
        stat_type : {"t", "F"}, optional
            By default t for one row, F for several.
        output_type : str
            ``"z_score"``, ``"stat"``, ``"p_value"``, ``"effect_size"``, ``"effect_variance"``, or
            ``"all"``.

        Returns
        -------
        image, or dict of images for ``"all"``
            As the masker makes them. Effects of an F contrast are whitened, as nilearn's are.

        Raises
        ------
        ContrastError
            When the contrast cannot be read or estimated. A ValueError.
        """
        check_is_fitted(self)
        if output_type not in (*_OUTPUTS, "all"):
            msg = f"output_type must be one of {(*_OUTPUTS, 'all')}, but is {output_type!r}"
            raise ParameterError(msg)
        columns = [[str(name) for name in X.columns] for X in self.design_matrices_]
        vectors = weights_of_runs(contrast_def, columns, stacklevel=2)
        taken = [i for i, w in enumerate(vectors) if w.any()]
        for i in set(range(len(vectors))) - set(taken):
            warnings.warn(f"Contrast for run {i} is null.", UserWarning, stacklevel=2)
        if not taken:
            msg = "All contrasts provided were null contrasts."
            raise ContrastError(msg)
        rows = {vectors[i].shape[0] for i in taken}
        if len(rows) > 1:
            msg = f"contrasts of runs must have as many rows as one another, but have {rows}"
            raise ContrastError(msg)
        kind = stat_type or ("t" if rows == {1} else "F")
        if kind == "F" and len(taken) > 1:
            msg = "Running approximate fixed effects on F statistics."
            warnings.warn(msg, UserWarning, stacklevel=2)
        label = [w[0] if w.shape[0] == 1 else w for w in vectors]
        wanted = _OUTPUTS if output_type == "all" else (output_type,)
        effects = effects_of_runs(
            [self.results_[i] for i in taken], [vectors[i] for i in taken], kind, self.n_jobs
        )
        onto = VoxelMaps(self.masker_)
        images = {name: onto.image(values) for name, values in effects.maps(wanted).items()}
        for name, image in images.items():
            image.header["descrip"] = f"{name} of contrast {label}"[:79]
        let_go(self.results_)
        give_back()
        return images if output_type == "all" else images[output_type]

    def _mask(self) -> BoolArray:
        return VoxelMaps(self.masker_).mask

    # What nilearn's `fit` calls ---------------------------------------------------------------

    def _prepare_mask(self, run_imgs: Any) -> None:
        """Let nilearn find the mask, from one volume in place of each run."""
        if self.mask_img is None:
            # nilearn thresholds the mean over time: of the mean it is the same.
            stand_ins = [finite(mean_image(image)) for image in run_imgs]
        else:
            stand_ins = [stand_in(run_imgs[0])] * len(run_imgs)
        with warnings.catch_warnings():
            # Of a masker that has a mask and is given images.
            warnings.filterwarnings("ignore", message=".*Generation of a mask.*")
            super()._prepare_mask(stand_ins)
        check_masker(self.masker_)

    def _create_all_designs(
        self, run_imgs: Any, events: Any, confounds: Any, design_matrices: Any
    ) -> Any:
        """Make designs as nilearn does, by the runs' shapes; nilearn reads the runs for theirs."""
        if design_matrices is not None:
            return design_matrices
        return [
            self._create_single_design(
                check_niimg(image, ensure_ndim=4).shape[3], events, confounds, i
            )
            for i, image in enumerate(run_imgs)
        ]

    def _fit_single_run(self, sample_masks: Any, bins: int, run_img: Any, run_idx: int) -> None:
        """Fit a run, lazily; all of them are computed together."""
        run, design = as_run(run_img), self.design_matrices_[run_idx]
        noise = AR(1, bins=bins) if self.noise_model == "ar1" else parse_noise(self.noise_model)
        kept = None
        if sample_masks is not None:
            kept = kept_volumes(sample_masks[run_idx], run.sizes[TIME])
            design = self.design_matrices_[run_idx] = design.iloc[kept, :]
            noise = replace(noise, across_gaps=True)
        scaling, fwhm = self.signal_scaling, self.masker_.smoothing_fwhm
        if scaling is not False and scaling == 1:
            with workers(self.n_jobs):
                run = by_volume(run, self._mask(), fwhm)
        self.results_.append(
            fit(
                run,
                Design(design.to_numpy(), tuple(design.columns), f"design of run {run_idx}"),
                mask=self.masker_.mask_img_,
                noise=noise,
                smoothing_fwhm=fwhm,
                sample_mask=kept,
                scaling="percent" if scaling is not False and scaling == 0 else None,
            )
        )
        self.labels_.append(None)
        self._runs.append(None if self.minimize_memory else run)

    def _scale_by_grand_mean(self) -> None:
        for i, (fitted, run) in enumerate(zip(self.results_, self._runs, strict=True)):
            mean = grand_mean(fitted)
            self.results_[i] = fit_in_percent(fitted, mean)
            self._runs[i] = None if run is None else run_in_percent(run, mean)

    def _get_element_wise_model_attribute(
        self, attribute: str, result_as_time_series: bool
    ) -> list[Any]:
        """Images of series or of summaries of them, one per run; nilearn's properties ask."""
        check_is_fitted(self)
        if self.minimize_memory:
            msg = (
                f"{attribute}: the runs are not kept; set minimize_memory=False when initializing "
                "the FirstLevelModel"
            )
            raise AttributeError(msg)
        pairs = zip(self.results_, self._runs, strict=True)
        mask = self._mask()
        return [
            self.masker_.inverse_transform(series_of(f, run, attribute, mask)) for f, run in pairs
        ]
