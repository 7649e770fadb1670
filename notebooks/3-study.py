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
# # A study on a cluster
#
# Six subjects, two runs each; of every subject the fixed effects over its runs, and then a
# picture of the group. The work is described by two things: a table of runs, and a model. A
# cluster does it: here two worker processes on this machine, elsewhere whatever
# `dask.distributed` can start (SLURM, Kubernetes, a few machines with ssh). One file is broken,
# as it happens; we shall see what becomes of it.

# %%
import logging
import os
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import xarray as xr
from distributed import Client, LocalCluster

import chunkglm as cg

folder = tempfile.TemporaryDirectory()
os.chdir(folder.name)  # all files below are written there

# %% [markdown]
# ## Data
#
# Simulated: blocks of conditions A and B in turn. Both raise the signal; in a region in the
# middle B raises it more, by about 1 % of the mean, and not by the same amount in everyone.

# %%
shape, n_volumes, t_r = (32, 32, 20), 120, 2.0
affine = nib.affines.from_matvec(np.diag([5.0, 5.0, 5.0]), [-77, -95, -45])
grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
radius = np.sqrt(sum(axis**2 for axis in grid))
brain, region = radius < 0.9, radius < 0.3
nib.save(nib.Nifti1Image(brain.astype(np.uint8), affine), "mask.nii.gz")

onsets = np.arange(0, n_volumes * t_r - 20, 40.0)
events = pd.DataFrame({"onset": onsets, "duration": 20.0})
events["trial_type"] = np.resize(["A", "B"], len(onsets))
events.to_csv("events.tsv", sep="\t", index=False)
response = cg.design_from_events("events.tsv", n_scans=n_volumes, t_r=t_r)

rows = []
for subject in range(1, 7):
    rng = np.random.default_rng(subject)
    difference = 1.0 + 0.4 * rng.standard_normal()  # percent
    for run in (1, 2):
        percent = 1.5 * rng.standard_normal((*shape, n_volumes), dtype=np.float32)
        percent += 0.6 * (response["A"] + response["B"]).to_numpy(np.float32)
        percent[region] += difference * response["B"].to_numpy(np.float32)
        values = np.where(brain[..., None], 1000 + 10 * percent, 0).astype(np.int16)
        image = nib.Nifti1Image(values, affine)
        image.header.set_zooms((5, 5, 5, t_r))
        path = Path(f"sub-{subject:02d}") / f"sub-{subject:02d}_run-{run}_bold.nii.gz"
        path.parent.mkdir(exist_ok=True)
        nib.save(image, path)
        rows.append({"subject": f"{subject:02d}", "run": run, "bold": str(path)})

# %% [markdown]
# ## The table and the model
#
# A row for each run. `cg.find_runs` makes such a table from a folder of fMRIPrep's.

# %%
table = pd.DataFrame(rows).assign(events="events.tsv", mask="mask.nii.gz")
table.head(4)

# %%
model = cg.StudyModel(smoothing_fwhm=8, contrasts={"BminusA": "B - A", "mean": "(A + B) / 2"})

# %% [markdown]
# ## A fault
#
# The copying of one file was cut off. That is what an interrupted download looks like:

# %%
broken = Path(table["bold"][6])
whole = broken.read_bytes()
broken.write_bytes(whole[:300_000])
print(f"{broken.name} has {300_000 / len(whole):.0%} of its bytes")

# %% [markdown]
# ## Run it
#
# `LocalCluster` listens on this machine only, as told here. With a client of your own cluster
# the rest is the same. The dashboard, where bokeh is installed, shows what each worker does.

# %%
cluster = LocalCluster(
    n_workers=2,
    threads_per_worker=1,
    host="127.0.0.1",
    dashboard_address="127.0.0.1:0",
    silence_logs=logging.ERROR,
)
client = Client(cluster)
report = cg.run_study(table, model, "out", client=client)
report

# %% [markdown]
# Five subjects are done. The sixth is set aside by name, with the file and the cause; nothing of
# it is in the results, and nothing else was held up.
#
# ## Mend it, and run again
#
# With the whole file in place the same call does what is missing, and only that: what was done
# is kept if its inputs, model and version are the same.

# %%
broken.write_bytes(whole)
report = cg.run_study(table, model, "out", client=client)
report

# %%
client.close()
cluster.close()
runs = pd.read_csv("out/runs.tsv", sep="\t", dtype={"subject": str})
runs[["subject", "run", "status", "dof", "voxels", "seconds"]].head(4)

# %% [markdown]
# `runs.tsv` tells what became of each run. The maps of each subject lie in folders as in other
# BIDS derivatives:

# %%
for path in sorted(Path("out/sub-01").glob("*contrast-BminusA*.nii.gz")):
    print(path)

# %% [markdown]
# Three of the subjects in one picture, and what holds for them together:

# %%
names = [f"sub-{subject:02d}" for subject in range(1, 4)]
subjects = [cg.open_maps(f"out/{name}", prefix=f"{name}_contrast-BminusA") for name in names]
cg.plotting.plot_runs(
    subjects,
    labels=names,
    cut_coords=6,
    title="B - A: z of three subjects, and of their fixed effects",
);

# %% [markdown]
# ## The group
#
# Fixed effects say what holds for the subjects at hand. Whether it holds for people like them is
# a question about the differences between subjects; `group.zarr` holds all their maps as one
# array, from which any group analysis can start. Here the simplest: is the mean effect different
# from 0, measured by its spread over subjects?

# %%
group = xr.open_zarr("out/group.zarr", consolidated=False)
effects = group["effect_size"].sel(contrast="BminusA")
n = effects.sizes["subject"]
spread = effects.std("subject", ddof=1, skipna=False)
t = effects.mean("subject", skipna=False) / (spread / np.sqrt(n))
picture = t.rename("stat").to_dataset().assign_attrs(affine=group.attrs["affine"], stat_type="t")
picture.glm.plot("stat", threshold=4.03, title=f"B - A, {n} subjects: t, p < .005 in each voxel");

# %%
middle = effects.where(xr.DataArray(region, dims=("x", "y", "z"))).mean(["x", "y", "z"]).to_numpy()
print("mean effect in the region, percent of the mean:", middle.round(2))
