# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fixed effects of two runs
#
# One subject listened to sentences in two runs. Sentences were repeated or new (same or
# different sentence, `SSt` or `DSt`), and so were speakers (`SSp`, `DSp`). Where in the brain
# does a new sentence give more signal than a repeated one, over both runs together?
#
# This is nilearn's example *Example of explicit fixed effects fMRI model fitting* told in
# chunkglm. The data are simulated with the layout of the FIAC study and the drifts,
# autocorrelated noise and response sizes one would expect; nothing is downloaded.
# `cg.fetch_fiac("data")` in place of `cg.simulate_fiac("data")` gets the real runs.

# %%
import os
import tempfile

import dask
import nibabel as nib

import chunkglm as cg

folder = tempfile.TemporaryDirectory()
os.chdir(folder.name)  # all files below are written there
data = cg.simulate_fiac("data")

# %% [markdown]
# ## Runs and designs
#
# `open_run` reads the header and nothing else. What it returns is an `xarray.DataArray` whose
# values are read when something needs them.

# %%
run = cg.open_run(data.runs[0])
print(dict(run.sizes))
print(f"{run.nbytes / 1e6:.0f} MB once decompressed, in {run.data.npartitions} chunks")

# %% [markdown]
# A design is a table with a column for each regressor and a row for each volume. These have four
# conditions, a regressor for the first sentence of each block, slow drifts and a constant.

# %%
cg.plotting.plot_design(data.designs[0]);

# %% [markdown]
# ## The model
#
# `fit` smooths with 5 mm, scales to percent of each voxel's mean, and models the noise as AR(1)
# with a coefficient of each voxel's own. It is lazy too: the fit below has not read a single
# volume.

# %%
fits = [
    cg.fit(path, design, mask=data.mask, smoothing_fwhm=5)
    for path, design in zip(data.runs, data.designs, strict=True)
]
fits[0]

# %% [markdown]
# The contrast: new minus repeated sentences, whoever speaks.

# %%
new_minus_repeated = "DStSSp + DStDSp - SStSSp - SStDSp"
cg.plotting.plot_contrast(fits[0], new_minus_repeated);

# %%
maps = [cg.contrast(fit, new_minus_repeated) for fit in fits]
fixed = cg.fixed_effects(maps)
fixed.glm

# %% [markdown]
# What will it take? `plan` tells from headers and masks alone, as an upper bound.

# %%
cg.plan(fixed)

# %% [markdown]
# ## Computing
#
# Everything is computed in one go, so that each run is read once.

# %%
with cg.progress_bar("fixed effects"):
    *runs, fixed = dask.compute(*maps, fixed)

# %% [markdown]
# Each run, and both together, with the same slices and the same colours. Noise changes from run
# to run; the response stays, and stands out more clearly over both.

# %%
cg.plotting.plot_runs(runs, fixed);

# %% [markdown]
# On the mean image of the first run, where its largest response is:

# %%
fixed.glm.plot(bg_img=run.mean("time"));

# %% [markdown]
# ## How much of it is chance?
#
# Some of the single voxels above are: 45,592 were tested. At a false discovery rate of 5 %, one
# in twenty of the voxels that are left is expected to be a false positive, at most. Clusters of
# fewer than ten voxels are left out as well.

# %%
kept = fixed.glm.threshold(height_control="fdr", alpha=0.05, cluster_threshold=10)
kept.glm.plot(bg_img=run.mean("time"), display_mode="z", cut_coords=6);

# %%
kept.glm.clusters().round(1)

# %% [markdown]
# Since the runs are simulated, the truth is known:

# %%
truth = nib.load(data.activation).get_fdata() != 0
found = kept["thresholded"].to_numpy() > 0
print(f"{100 * found[truth].mean():.0f} % of the activated voxels are found,")
print(f"{(found & ~truth).sum()} of {found.sum()} voxels found lie outside of what was activated")

# %% [markdown]
# ## Keeping it
#
# As NIfTI files with a JSON sidecar each, for any other program:

# %%
for path in cg.save(fixed, "out", prefix="sub-01_contrast-NewMinusRepeated"):
    print(path)

# %% [markdown]
# Or go on in Python: `fixed.glm.to_nifti("z_score")` is a nibabel image, and
# `fit.save("fit.zarr")` keeps what was summed over a run, from which any other contrast can be
# taken without the images.
