"""nilearn and chunkglm on the same small data, where they differ on purpose: one function a point.

Each returns its figures by name. `differences.py` makes a page of them, and the tests hold them to
what they should be.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import xarray as xr
from nilearn.glm.contrasts import (
    compute_contrast,
    compute_fixed_effects,
    expression_to_contrast_vector,
)
from nilearn.glm.first_level import FirstLevelModel, make_first_level_design_matrix, run_glm
from numpy.typing import NDArray

import chunkglm as cg
from chunkglm.errors import ContrastError, MapsError

Array = NDArray[np.float64]
Figures = dict[str, Any]
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
SEED = 20


def run_of(series: NDArray[Any]) -> xr.DataArray:
    """A run of V voxels in a row from a (V, T) array."""
    values = series.reshape(len(series), 1, 1, -1)
    return xr.DataArray(values, dims=("x", "y", "z", "time"), attrs={"affine": AFFINE.tolist()})


def image_of(values: Any, dtype: Any = np.float64) -> nib.Nifti1Image:
    """V voxels, (V,) or (V, T): in a row, or rows of 1,000, as a NIfTI axis ends at 32,767."""
    values = np.asarray(values, dtype)
    rows = (len(values) // 1000, 1000) if len(values) % 1000 == 0 else (len(values), 1)
    return nib.Nifti1Image(values.reshape(*rows, 1, *values.shape[1:]), AFFINE, dtype=dtype)


def mask_of(n_voxels: int) -> nib.Nifti1Image:
    """A mask of all voxels."""
    return image_of(np.ones(n_voxels), np.uint8)


def design_of(rng: np.random.Generator, names: str | list[str], n_scans: int) -> pd.DataFrame:
    """Noise regressors, the last one a constant."""
    values = np.c_[rng.standard_normal((n_scans, len(names) - 1)), np.ones(n_scans)]
    return pd.DataFrame(values, columns=list(names))


def nilearn_contrast(series: Array, X: Array, c: Any, noise: str = "ols") -> Any:
    """A contrast by nilearn, of series (V, T)."""
    labels, results = run_glm(series.T, X, noise_model=noise)
    return compute_contrast(labels, results, np.asarray(c, float), stat_type="t")


def nilearn_model(images: Any, designs: Any, n_voxels: int) -> FirstLevelModel:
    """A model by nilearn, of images: least squares of the data as they are."""
    model = FirstLevelModel(
        mask_img=mask_of(n_voxels), noise_model="ols", t_r=2, signal_scaling=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(images, design_matrices=designs)


def ours(series: NDArray[Any], X: Any, c: Any, noise: Any = "ols") -> xr.Dataset:
    """A contrast by chunkglm, of series (V, T)."""
    return cg.contrast(cg.fit(run_of(series), X, noise=noise, scaling=None), c).compute()


def flat(maps: xr.Dataset, name: str) -> Array:
    """One number a voxel."""
    return np.asarray(maps[name].to_numpy().ravel())


def ols(y: Array, X: Array) -> tuple[Array, Array, Array]:
    """Coefficients (k, V), (X'X)^-1, and residual sums of squares (V,), for y (V, T)."""
    inverse = np.linalg.inv(X.T @ X)
    beta = inverse @ X.T @ y.T
    return beta, inverse, ((y.T - X @ beta) ** 2).sum(axis=0)


def message_of(error: type[Exception], work: Any) -> str:
    """What an error says that some work ends with; nothing where it does not."""
    try:
        work()
    except error as found:
        return str(found)
    return ""


def redundant_column() -> Figures:
    """The variance of a contrast with a column more that is the sum of two, over that without."""
    rng = np.random.default_rng(SEED)
    X = design_of(rng, "abcd", 40).to_numpy()
    y = 100 + rng.standard_normal((50, 40))
    designs = X, np.c_[X, X[:, 0] + X[:, 1]]
    one, two = (nilearn_contrast(y, x, np.eye(x.shape[1])[2]) for x in designs)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        plain, more = (ours(y, x, np.eye(x.shape[1])[2]) for x in designs)
    return {
        "theirs": two.effect_variance() / one.effect_variance(),
        "their_dof": two.dof,
        "ours": flat(more, "effect_variance") / flat(plain, "effect_variance"),
        "our_dof": more.attrs["dof"],
        "told": " ".join(str(one.message) for one in told),
    }


def undetermined_contrast() -> Figures:
    """One of two columns whose sum is a third."""
    rng = np.random.default_rng(SEED)
    X = design_of(rng, "abcd", 40)
    more = X.assign(sum=X["a"] + X["b"])
    y = 100 + rng.standard_normal((5, 40))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = cg.fit(run_of(y), more)
    return {
        "theirs": nilearn_contrast(y, more.to_numpy(), [1, 0, 0, 0, 0]).stat(),
        "refusal": message_of(ContrastError, lambda: cg.contrast(fit, "a")),
        "another": cg.contrast(fit, "c").attrs["dof"],
    }


def noise_coefficient(n_voxels: int = 20_000) -> Figures:
    """False positives over nominal at p < .001 of AR(1) noise of 0.3 and nothing else."""
    rng = np.random.default_rng(SEED)
    n_scans, rho = 100, 0.3
    noise = rng.standard_normal((n_voxels, n_scans + 50))
    for t in range(1, n_scans + 50):
        noise[:, t] += rho * noise[:, t - 1]
    series = 100 + noise[:, 50:]
    times = 2.0 * (np.arange(n_scans) + 0.5)
    onsets = np.arange(4.0, 190.0, 5.0)
    trials = {"onset": onsets, "duration": 1.0, "trial_type": rng.permutation(38) % 2}
    events = pd.DataFrame(trials).replace({"trial_type": {0: "a", 1: "b"}})
    motion = 0.1 * rng.standard_normal((n_scans, 6)).cumsum(axis=0)
    X = make_first_level_design_matrix(times, events, drift_model="cosine", add_regs=motion)
    counts = dict.fromkeys(("theirs", "plain", "ours"), 0)
    for name in ("a", "b"):
        p_of = {
            "theirs": nilearn_contrast(series, X.to_numpy(), X.columns == name, "ar1").p_value(),
            "plain": flat(ours(series, X, name, cg.AR(1, corrected=False)), "p_value"),
            "ours": flat(ours(series, X, name, cg.AR(1, corrected=True)), "p_value"),
        }
        for which, p in p_of.items():
            counts[which] += np.sum(p < 0.001) + np.sum(p > 0.999)
    rates = {which: float(n / (4 * n_voxels * 0.001)) for which, n in counts.items()}
    return {**rates, "n_columns": X.shape[1], "n_scans": n_scans, "rho": rho}


def degrees_of_freedom(n_voxels: int = 2000) -> Figures:
    """Two runs of 12 volumes, 8 degrees of freedom each: nilearn assumes 200."""
    rng = np.random.default_rng(SEED)
    designs = [design_of(rng, "abcd", 12) for _ in range(2)]
    series = [100 + rng.standard_normal((n_voxels, 12)) for _ in range(2)]
    maps = [ours(y, X, "a") for y, X in zip(series, designs, strict=True)]
    found = cg.fixed_effects(maps).compute()
    effects, variances = (
        [image_of(flat(m, name)) for m in maps] for name in ("effect_size", "effect_variance")
    )
    *_, image = compute_fixed_effects(effects, variances, mask_of(n_voxels))
    z = {"theirs": image.get_fdata().ravel(), "ours": flat(found, "z_score")}
    # 3.0902: p = .001 in either tail.
    rates = {k: float(np.mean(np.abs(v) > 3.0902) / 0.002) for k, v in z.items()}
    return {**rates, "z": z, "dof": found.attrs["dof"]}


def bad_variances() -> Figures:
    """A variance of one of two runs that is 1, 0 and -1, in three voxels."""
    effect, bad = np.array([1.0, 1.0, 1.0]), np.array([1.0, 0.0, -1.0])
    pair = [(effect, bad), (2 * effect, np.ones(3))]
    images = [[image_of(one[i]) for one in pair] for i in range(2)]
    *_, stat, _ = compute_fixed_effects(*images, mask_of(3), precision_weighted=True)
    run = 100 + np.random.default_rng(0).standard_normal((3, 20))
    template = ours(run, np.c_[np.arange(20.0), np.ones(20)], [1, 0])
    maps = [
        template.assign(
            effect_size=template["effect_size"].copy(data=e.reshape(3, 1, 1)),
            effect_variance=template["effect_variance"].copy(data=v.reshape(3, 1, 1)),
        ).assign_attrs(run=f"run {i}")
        for i, (e, v) in enumerate(pair)
    ]
    return {
        "theirs": float(stat.get_fdata().ravel()[1]),
        "ours": [cg.fixed_effects(maps, precision_weighted=w).compute() for w in (False, True)],
    }


def joint_f(n_voxels: int = 20) -> Figures:
    """F of two rows over two runs, over that of the runs' whole covariances."""
    rng = np.random.default_rng(SEED)
    designs = [design_of(rng, "abcd", 60) for _ in range(2)]
    series = [1000 + rng.standard_normal((n_voxels, 60)) for _ in range(2)]
    model = nilearn_model([image_of(y) for y in series], designs, n_voxels)
    rows = np.eye(4)[:2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stat = model.compute_contrast(rows, stat_type="F", output_type="stat")
    effect, covariance = np.zeros((n_voxels, 2)), np.zeros((n_voxels, 2, 2))
    for y, X in zip(series, designs, strict=True):
        beta, inverse, rss = ols(y, X.to_numpy())
        effect += beta[:2].T / 2
        covariance += rss[:, None, None] / 56 * inverse[:2, :2] / 4
    weighted = np.linalg.solve(covariance, effect[..., None])[..., 0]
    joint = (effect * weighted).sum(axis=1) / 2
    maps = [ours(y, X, rows) for y, X in zip(series, designs, strict=True)]
    found = flat(cg.fixed_effects(maps).compute(), "stat")
    ratio = stat.get_fdata().ravel() / joint
    return {
        "theirs": ratio, "least": ratio.min(), "most": ratio.max(), "n_voxels": n_voxels,
        "ours": np.max(np.abs(found / joint - 1)),
    }  # fmt: skip


def other_order() -> Figures:
    """The same columns in another order in the second run."""
    rng = np.random.default_rng(SEED)
    runs = [design_of(rng, names, 40) for names in ("abcd", "bacd")]
    series = [100 + rng.standard_normal((5, 40)) for _ in range(2)]
    beta = [ols(y, X.to_numpy())[0] for y, X in zip(series, runs, strict=True)]
    by_name = [
        b[list(X).index("a")] - b[list(X).index("b")] for b, X in zip(beta, runs, strict=True)
    ]
    by_place = [b[0] - b[1] for b in beta]
    expected = sum(by_name) / 2
    named, placed = (
        [ours(y, X, c) for y, X in zip(series, runs, strict=True)] for c in ("a - b", [1, -1, 0, 0])
    )
    model, weights = nilearn_model([image_of(y) for y in series], runs, 5), np.array([1, -1, 0, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = model.compute_contrast([weights] * 2, output_type="effect_size").get_fdata()
    return {
        "theirs": np.max(np.abs(theirs.ravel() - expected)),
        "their_own": np.max(np.abs(theirs.ravel() - sum(by_place) / 2)),
        "ours": np.max(np.abs(flat(cg.fixed_effects(named).compute(), "effect_size") - expected)),
        "refusal": message_of(MapsError, lambda: cg.fixed_effects(placed)),
        "largest": np.max(np.abs(expected)),
    }


def unusable_voxels() -> Figures:
    """A voxel that is 0.1 throughout, a sound one, and one with a sample that is NaN."""
    rng = np.random.default_rng(SEED)
    y = np.full((3, 40), 0.1)
    y[1] += rng.standard_normal(40)
    y[2] = rng.standard_normal(40) + 10
    y[2, 3] = np.nan
    X = design_of(rng, "abcd", 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = FirstLevelModel(mask_img=mask_of(3), t_r=2).fit(image_of(y), design_matrices=X)
        stat = model.compute_contrast("c", output_type="stat").get_fdata().ravel()
        found = ours(y, X, "c", "ar1")
    constant = nilearn_contrast(y[:1], X.to_numpy(), [0, 0, 1, 0], "ar1").stat()[0]
    return {
        "constant": float(constant), "missing": float(stat[2]), "theirs": stat,
        "ours": flat(found, "stat"), "status": flat(found, "voxel_status"),
    }  # fmt: skip


def code_in_expressions() -> Figures:
    """An expression that would write a file."""
    y = np.random.default_rng(0).standard_normal((1, 20))
    fit = cg.fit(run_of(y), pd.DataFrame({"a": y[0] ** 2, "b": 1.0}))
    with tempfile.TemporaryDirectory() as folder:
        theirs, mine = Path(folder) / "theirs.csv", Path(folder) / "mine.csv"
        text = f"a.to_csv({str(theirs)!r})"
        message_of(ValueError, lambda: expression_to_contrast_vector(text, ["a", "b"]))
        refusal = message_of(ContrastError, lambda: cg.contrast(fit, f"a.to_csv({str(mine)!r})"))
        return {"theirs": theirs.exists(), "ours": mine.exists(), "refusal": refusal}


def odd_names() -> Figures:
    """Names of columns with other characters than letters."""
    names = ["face-1", "house", "_ n"]
    y = np.random.default_rng(0).standard_normal((1, 20))
    X = pd.DataFrame(np.c_[np.random.default_rng(1).standard_normal((20, 2)), np.ones(20)])
    fit = cg.fit(run_of(y), X.set_axis(names, axis=1))
    text = "face-1 - house"
    by_name, by_place = (cg.contrast(fit, c).compute() for c in (text, [1, -1, 0]))
    return {
        "refusal": message_of(ValueError, lambda: expression_to_contrast_vector(text, names)),
        "by_name": flat(by_name, "stat"), "by_place": flat(by_place, "stat"),
    }  # fmt: skip


def large_integers() -> Figures:
    """Signals of a few units on an offset of 2**30: float32 has steps of 64 there."""
    rng = np.random.default_rng(SEED)
    small = rng.integers(-5, 6, (20, 60))
    y = (small + 2**30).astype(np.int32)
    X = design_of(rng, "abcd", 60)
    beta, inverse, rss = ols(small.astype(float), X.to_numpy())
    expected = beta[0] / np.sqrt(rss / 56 * inverse[0, 0])
    model = nilearn_model(image_of(y, np.int32), X, 20)
    theirs = model.compute_contrast("a", output_type="stat").get_fdata().ravel()
    return {
        "theirs": np.max(np.abs(theirs - expected)),
        "ours": np.max(np.abs(flat(ours(y, X, "a"), "stat") / expected - 1)),
        "largest": np.max(np.abs(expected)),
    }


def large_offset(offset: float = 1e10) -> Figures:
    """An analysis of variance on an offset of so many times the noise."""
    groups = np.repeat(np.arange(3), 20)
    small = np.random.default_rng(SEED).integers(0, 10, (1, 60)).astype(float)
    y = small + offset
    X = np.c_[(groups[:, None] == np.arange(2)).astype(float), np.ones(60)]
    beta, inverse, rss = ols(small, X)
    expected = float(beta[0, 0] / np.sqrt(rss[0] / 57 * inverse[0, 0]))
    return {
        "theirs": abs(float(nilearn_contrast(y, X, [1, 0, 0]).stat()[0]) / expected - 1),
        "ours": abs(float(flat(ours(y, X, [1, 0, 0]), "stat")[0]) / expected - 1),
    }


def scaled_columns() -> Figures:
    """What t is with a column 1e-10 in size and one of 1e10, beside that of columns of 1."""
    rng = np.random.default_rng(SEED)
    X = design_of(rng, "abcd", 40).to_numpy()
    y = 100 + rng.standard_normal((5, 40))
    designs, c = (X, X * np.array([1e-10, 1e10, 1, 1])), [1, 0, 0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = [nilearn_contrast(y, x, c).stat() for x in designs]
    plain, scaled = (flat(ours(y, x, c), "stat") for x in designs)
    worst = int(np.argmax(np.abs(theirs[1] / theirs[0] - 1)))
    return {
        "theirs": float(theirs[1][worst]), "right": float(plain[worst]),
        "ours": np.max(np.abs(scaled / plain - 1)),
    }  # fmt: skip


def real_runs(folder: Path) -> Figures:
    """How far runs with events, fitted as nilearn fits them, and their fixed effects are off.

    At most: effects, t and z in standard errors, variances as shares. nilearn is given float64:
    int16 images it casts to float32, and then differs from itself by 1e-5.
    """
    mask, contrast, t_r = folder / "mask.nii.gz", "face - house", 2.5
    model = FirstLevelModel(mask_img=str(mask), t_r=t_r, signal_scaling=0)
    inside = np.asarray(nib.load(mask).dataobj) > 0
    names = ("effect_size", "effect_variance", "stat", "z_score")

    def off(ours: xr.Dataset, theirs: Any) -> float:
        its = {n: image.get_fdata()[inside] for n, image in zip(names, theirs, strict=True)}
        units = {"effect_size": its[names[1]] ** 0.5, "effect_variance": its[names[1]]}
        shares = [np.abs(ours[n].values[inside] - its[n]) / units.get(n, 1) for n in names]
        return float(np.max(shares))

    maps, images = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for run in sorted(folder.glob("run-*")):
            image = nib.load(run / "bold.nii.gz")
            exact = nib.Nifti1Image(np.asarray(image.dataobj, np.float64), image.affine)
            events = pd.read_csv(run / "events.tsv", sep="\t")
            X = make_first_level_design_matrix(t_r * np.arange(image.shape[3]), events)
            fit = cg.fit(run / "bold.nii.gz", X, mask=mask, noise=cg.AR(1, bins=100))
            maps.append(cg.contrast(fit, contrast).compute())
            found = model.fit(exact, design_matrices=X).compute_contrast(
                contrast, output_type="all"
            )
            images.append([found[n] for n in names])
    pairs = ([one[i] for one in images] for i in range(2))
    dofs = [one.attrs["dof"] for one in maps]
    fixed = compute_fixed_effects(*pairs, str(mask), dofs=dofs)
    runs = [off(*both) for both in zip(maps, images, strict=True)]
    return {"runs": np.max(runs), "fixed": off(cg.fixed_effects(maps).compute(), fixed)}
