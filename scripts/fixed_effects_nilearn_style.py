"""Fixed effects of two runs, written for nilearn: only the imports and the data are chunkglm's."""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from nilearn import plotting

import chunkglm as cg

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("out", type=Path, nargs="?", default=Path("fixed-effects-nilearn-style"))
parser.add_argument("--fiac", action="store_true", help="the real runs; they are downloaded")
parser.add_argument("--nilearn", action="store_true", help="the same lines with nilearn's imports")
parser.add_argument("--no-plots", action="store_true")
options = parser.parse_args()

if options.nilearn:
    from nilearn.glm import compute_fixed_effects
    from nilearn.glm.first_level import FirstLevelModel
    from nilearn.image import mean_img
else:
    from chunkglm.nilearn import FirstLevelModel, compute_fixed_effects, mean_img

make_data = cg.fetch_fiac if options.fiac else cg.simulate_fiac
data = make_data(options.out / "data")

design_matrices = [pd.DataFrame(np.load(path)["X"]) for path in data.designs]
contrast = np.hstack(([-1, -1, 1, 1], np.zeros(design_matrices[0].shape[1] - 4)))

fmri_glm = FirstLevelModel(mask_img=data.mask, smoothing_fwhm=5, minimize_memory=True)
summaries = []
for fmri_img, design_matrix in zip(data.runs, design_matrices, strict=True):
    fmri_glm = fmri_glm.fit(fmri_img, design_matrices=design_matrix)
    summaries.append(fmri_glm.compute_contrast(contrast, output_type="all"))

effect, variance, stat, z_score = compute_fixed_effects(
    [summary["effect_size"] for summary in summaries],
    [summary["effect_variance"] for summary in summaries],
    data.mask,
)

maps = {f"run-{i}_t": summary["stat"] for i, summary in enumerate(summaries, start=1)}
maps |= {"fixed_effect": effect, "fixed_variance": variance, "fixed_t": stat, "fixed_z": z_score}
for name, image in maps.items():
    image.to_filename(options.out / f"{name}.nii")
    print(f"{name:<16}largest {image.get_fdata().max():.6f}")

if not options.no_plots:
    background = mean_img(data.runs[0], copy_header=True)
    for name in ("run-1_t", "run-2_t", "fixed_t"):
        plotting.plot_stat_map(
            maps[name],
            bg_img=background,
            threshold=3.0,
            title=f"{name}: DSt - SSt",
            output_file=options.out / f"{name}.png",
        )
