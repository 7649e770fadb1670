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
# # Bigger than memory
#
# A long run, or one of high resolution, does not fit in memory: as decompressed numbers it takes
# gigabytes, and programs that read it whole need several times as much again while they work.
# Here a run of 630 MB is fitted by a process that may take 400 MB, of which Python and its
# libraries themselves need a good part. It would not take more for a longer run: what is held at
# once does not grow with the number of volumes.

# %%
import os
import subprocess
import sys
import tempfile
import textwrap
import time

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
import psutil

import chunkglm as cg

folder = tempfile.TemporaryDirectory()
os.chdir(folder.name)  # all files below are written there
LIMIT = "400MB"

# %% [markdown]
# ## A long run
#
# 2,400 volumes of 64×64×32, written in blocks of 100, so that making it takes little memory as
# well: noise, and in one region a response to a task of 20 volumes on, 20 volumes off.

# %%
shape, n_volumes, t_r = (64, 64, 32), 2400, 0.8
affine = nib.affines.from_matvec(np.diag([3.0, 3.0, 3.5]), [-96, -96, -56])
grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
radius = np.sqrt(sum(axis**2 for axis in grid))
brain = radius < 0.85
active = np.zeros(shape, dtype=bool)
active[40:48, 28:36, 18:23] = True

design = pd.DataFrame({"task": (np.arange(n_volumes) // 20 % 2).astype(float)})
for k in range(1, 6):
    design[f"drift_{k}"] = np.cos(np.pi * k * (np.arange(n_volumes) + 0.5) / n_volumes)
design["constant"] = 1.0

header = nib.Nifti1Header()
header.set_data_dtype(np.int16)
header.set_data_shape((*shape, n_volumes))
header.set_sform(affine, code=1)
header.set_zooms((3, 3, 3.5, t_r))
header.set_xyzt_units("mm", "sec")
header["vox_offset"] = 352

rng = np.random.default_rng(0)
level = np.where(brain, 8000, 200).T.astype(np.float32)  # (z, y, x), as NIfTI lies on disk
with open("bold.nii", "wb") as file:
    file.write(header.binaryblock + bytes(4))
    for first in range(0, n_volumes, 100):
        block = level * (1 + 0.02 * rng.standard_normal((100, *level.shape), dtype=np.float32))
        task = design["task"].to_numpy(dtype=np.float32)[first : first + 100]
        block += 80 * active.T * task[:, None, None, None]
        file.write(block.astype(np.int16).tobytes())
nib.save(nib.Nifti1Image(brain.astype(np.uint8), affine), "mask.nii.gz")
design.to_csv("design.csv", index=False)
print(f"bold.nii: {os.path.getsize('bold.nii') / 1e6:.0f} MB")

# %% [markdown]
# ## Plan first
#
# `plan` reads the header and says what the work will take at most. With a limit, work that would
# not fit is refused before it begins, with the reason and a way out:

# %%
try:
    cg.plan("bold.nii", "bold.zarr", memory_limit="150MB")
except cg.ChunkglmError as error:
    print(error)

# %% [markdown]
# With 400 MB there is room:

# %%
cg.plan("bold.nii", "bold.zarr", memory_limit=LIMIT)

# %% [markdown]
# ## Convert once
#
# A NIfTI file holds volume after volume; a fit wants the series of each voxel. `convert` writes
# a store of chunks that are short in space and long in time, compressed, each with a checksum.
# Runs can be fitted straight from `.nii` and `.nii.gz` as well: a store pays when a run is read
# more than once, in parts, or by several workers.
#
# To see its memory, the work is done by a process of its own, which is looked at 50 times a
# second.

# %%
def watched(code):
    """Run code in a fresh Python process; return seconds since its start, and its memory in MB."""
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    seen, start, watching = [], time.perf_counter(), psutil.Process(process.pid)
    while process.poll() is None:
        try:
            seen.append((time.perf_counter() - start, watching.memory_info().rss / 1e6))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.02)
    assert process.wait() == 0
    return np.array([one for one in seen if one[1] > 0])  # 0 once it has ended


converting = watched(f"""
    import chunkglm as cg
    cg.convert("bold.nii", "bold.zarr", memory_limit="{LIMIT}", progress=False)
""")

# %% [markdown]
# The chunks, over the mask. A fit reads those that hold voxels of the mask, one block of time
# after the other, and keeps only sums: a few numbers for each voxel, whatever the number of
# volumes.

# %%
cg.plotting.plot_chunks("bold.zarr", "mask.nii.gz");

# %% [markdown]
# A region of interest needs fewer of them; those that are hatched are not read.

# %%
cg.plotting.plot_chunks("bold.zarr", active);

# %% [markdown]
# ## Fit
#
# First the plan, again; then the fit, in another process.

# %%
cg.plan("bold.zarr", "design.csv", mask="mask.nii.gz", threads=2, memory_limit=LIMIT)

# %%
fitting = watched("""
    import dask
    import chunkglm as cg
    with dask.config.set(num_workers=2):
        fit = cg.fit("bold.zarr", "design.csv", mask="mask.nii.gz")
        cg.save(cg.contrast(fit, "task"), "out", prefix="task")
""")

# %%
figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
for seen, name in ((converting, "convert"), (fitting, "fit, contrast and five maps written")):
    axes.plot(*seen.T, label=f"{name}: at most {seen[:, 1].max():.0f} MB")
axes.axhline(400, color="black", linestyle="--", linewidth=1)
axes.text(0, 405, "limit", va="bottom")
size = os.path.getsize("bold.nii") / 1e6
axes.axhline(size, color="0.5", linestyle=":", linewidth=1)
axes.text(0, size + 5, "the run on disk, int16", va="bottom", color="0.4")
axes.set(xlabel="seconds", ylabel="memory of the process, MB", ylim=(0, size + 60))
axes.legend(loc="upper right", bbox_to_anchor=(1, 0.55));

# %% [markdown]
# Both processes stay below the limit; most of what they hold is Python and its libraries. The
# plans were upper bounds, and rightly so: they must hold on other machines too.

# %%
assert max(converting[:, 1].max(), fitting[:, 1].max()) < 400
maps = cg.open_maps("out", prefix="task")
maps.glm.plot(threshold=5);

# %% [markdown]
# The response is where it was put. And since only sums are kept of a run, a fit is small and can
# be stored: other contrasts are taken from it later, without the images.

# %%
fit = cg.fit("bold.zarr", "design.csv", mask="mask.nii.gz")
cg.open_fit(fit.save("fit.zarr"))
