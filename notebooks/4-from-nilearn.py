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
# # From nilearn
#
# Analyses written for nilearn can stay as they are: `chunkglm.nilearn` has its `FirstLevelModel`
# and `compute_fixed_effects`, with the same arguments and the same images out. Below, one
# analysis is done twice, side by side, and the maps are subtracted.

# %%
import os
import tempfile
import warnings

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from nilearn import plotting
from nilearn.image import math_img, mean_img

import chunkglm as cg

folder = tempfile.TemporaryDirectory()
os.chdir(folder.name)  # all files below are written there
# nilearn says at every fit that it uses the mask that it was given
warnings.filterwarnings("ignore", ".*Generation of a mask")
data = cg.simulate_fiac("data")
designs = [pd.DataFrame(np.load(path)["X"]) for path in data.designs]
contrast = np.hstack(([-1, -1, 1, 1], np.zeros(designs[0].shape[1] - 4)))

# %% [markdown]
# ## One analysis
#
# The lines of nilearn's example for two runs. In a script it is the imports that decide which
# library does the work, `from chunkglm.nilearn import FirstLevelModel, compute_fixed_effects`;
# here both are handed in.


# %%
def analyse(FirstLevelModel, compute_fixed_effects, runs):
    """Fixed effects of both runs, and the model of the second."""
    summaries = []
    for run, design in zip(runs, designs, strict=True):
        model = FirstLevelModel(mask_img=data.mask, smoothing_fwhm=5, minimize_memory=True)
        model.fit(run, design_matrices=design)
        summaries.append(model.compute_contrast(contrast, output_type="all"))
    maps = compute_fixed_effects(
        [one["effect_size"] for one in summaries],
        [one["effect_variance"] for one in summaries],
        data.mask,
    )
    names = ("effect", "variance", "t", "z")
    return dict(zip(names, maps, strict=True)), model


# %%
import nilearn.glm
import nilearn.glm.first_level

nilearns = (nilearn.glm.first_level.FirstLevelModel, nilearn.glm.compute_fixed_effects)
theirs, _ = analyse(*nilearns, data.runs)

# %%
import chunkglm.nilearn

chunkglms = (chunkglm.nilearn.FirstLevelModel, chunkglm.nilearn.compute_fixed_effects)
ours, model = analyse(*chunkglms, data.runs)

# %% [markdown]
# The second takes a fraction of the time; README has figures that were measured with care.
#
# ## Side by side

# %%
background = mean_img(data.runs[0], copy_header=True)
slices = {"display_mode": "z", "cut_coords": (-20, 5, 15, 25, 50)}
figure, axes = plt.subplots(2, 1, figsize=(10, 6))
for axis, (name, maps) in zip(axes, {"nilearn": theirs, "chunkglm": ours}.items(), strict=True):
    plotting.plot_stat_map(
        maps["z"], bg_img=background, threshold=3, vmax=9, title=f"{name}: z", axes=axis, **slices
    )

# %% [markdown]
# ## The difference
#
# What is left when one is subtracted from the other, on a scale that ends at a
# hundred-thousandth:

# %%
difference = math_img("a - b", a=theirs["z"], b=ours["z"])
plotting.plot_stat_map(
    difference,
    bg_img=background,
    threshold=1e-9,
    vmax=1e-5,
    title="nilearn's z minus chunkglm's",
    cbar_tick_format="%.0e",
    **slices,
);


# %%
def differences(a, b):
    """Differences of each map, as shares of its largest value, in voxels of the mask."""
    inside = nib.load(data.mask).get_fdata() != 0
    found = {}
    for name in a:
        x, y = (maps[name].get_fdata()[inside] for maps in (a, b))
        share = np.abs(x - y) / np.abs(x).max()
        found[name] = [np.median(share), share.max(), (share > 1e-4).sum()]
    columns = ["median", "largest", "voxels above 1e-4"]
    table = pd.DataFrame.from_dict(found, orient="index", columns=columns)
    return table.map("{:.0e}".format).assign(**{columns[2]: table[columns[2]].astype(int)})


differences(theirs, ours)

# %% [markdown]
# Where does it come from? nilearn reads integer images as numbers of single precision, which
# have seven digits; chunkglm sums the integers themselves. A few voxels differ by more: nilearn
# cuts AR coefficients off after two decimals, and where a coefficient lies just at such a step,
# the seventh digit decides to which side it falls. Given both runs in double precision, nothing
# is left but rounding:

# %%
in_double = []
for path in data.runs:
    image = nib.load(path)
    in_double.append(nib.Nifti1Image(image.get_fdata(), image.affine, dtype=np.float64))
theirs, _ = analyse(*nilearns, in_double)
ours, model = analyse(*chunkglms, in_double)
differences(theirs, ours)

# %% [markdown]
# ## And on from there
#
# A fitted model holds this library's own `Fit`, of which any other contrast is taken without
# reading the run again:

# %%
fit = model.results_[0]
fit

# %%
speaker = cg.contrast(fit, [-1, 1, -1, 1] + [0] * (len(fit.design.names) - 4))
speaker.glm.plot(bg_img=background, title="different minus same speaker, second run: z");

# %% [markdown]
# What nilearn's scripts do not get is what its interface has no words for: exact degrees of
# freedom of combined runs, the corrected AR coefficient (`noise=cg.AR(1, corrected=True)`, the
# default of `cg.fit`), runs dropped or added to a result, plans, stores, studies.
# `docs/nilearn.md` lists parameter by parameter what is the same and what differs.
