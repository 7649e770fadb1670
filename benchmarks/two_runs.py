"""Rows of the job that started it all: two runs to fixed effects, and contrasts of one of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.jobs import (
    CONTRAST,
    FWHM,
    chunkglm_job,
    fiac_files,
    nilearn_job,
    read_design,
    run_script,
)
from benchmarks.rows import (
    Row,
    alone_or_raise,
    decompression,
    faster_row,
    paired,
    refuse_unless,
    share_row,
)

SHAPE = (64, 64, 30, 191)

# nilearn casts int16 images to float32: t then differs by 1e-5 of itself (worst seen 6e-5).
SAME_T = 1e-3
# On float64 images nilearn computes in float64 too (worst seen 3e-14 of the largest t).
SAME_T_EXACT = 1e-6
# Share of voxels whose AR coefficient lies so near a bin's edge that float32 moves it across.
SAME_BUT_FOR = 1e-3


def off_share(ours: Any, theirs: Any, tolerance: float = SAME_T) -> Any:
    """Voxels whose t differs by more than the tolerance, of those that have one."""
    inside = np.isfinite(ours) & (theirs != 0)
    if not inside.any():
        return np.ones(1, dtype=bool)
    return np.abs(ours - theirs)[inside] > tolerance * np.abs(theirs[inside]).clip(1)


def warm_rows(folder: Path, scratch: Path, repeats: int) -> Iterator[Row]:
    """Two runs from .nii.gz to fixed effects, both sides warm in this process."""
    files = fiac_files(folder)
    t = np.asarray(nilearn_job(*files)[2].dataobj)
    found = chunkglm_job(*files)["stat"].compute().to_numpy()
    refuse_unless(off_share(found, t).mean() < SAME_BUT_FOR, "two runs")
    theirs, ours = paired(
        lambda: nilearn_job(*files), lambda: chunkglm_job(*files).compute(), repeats
    )
    floor = [decompression(files[0]) for _ in range(repeats)]
    yield faster_row(
        "two-runs", "two runs 64x64x30x191 .nii.gz, 5 mm, AR(1), FFX, warm", theirs, ours, 10
    )
    yield share_row(
        "two-runs-floor", "  over igzip's time for the same files", floor, ours, 2.5,
        beside="igzip alone",
    )  # fmt: skip


def drop_in_rows(folder: Path, scratch: Path, repeats: int) -> Iterator[Row]:
    """`scripts/fixed_effects_nilearn_style.py`, and the same file with its imports changed back."""
    off = _off_on_floats(folder)
    given = {}
    for side in ("nilearn", "drop-in"):
        out = scratch / f"script-{side}"
        out.mkdir()
        (out / "data").symlink_to(folder.absolute())
        given[side] = [str(out), *(["--nilearn"] if side == "nilearn" else [])]
    # The pictures are nilearn's own on both sides; in the processes below they are drawn.
    warm = paired(
        lambda: run_script([*given["nilearn"], "--no-plots"]),
        lambda: run_script([*given["drop-in"], "--no-plots"]),
        repeats,
    )
    _check_written(scratch)
    yield faster_row(
        "drop-in", "a script of nilearn's, its imports changed, warm", *warm, 7,
        note=f"{off} voxels on edges of bins",
    )  # fmt: skip
    peaks: dict[str, list[float]] = {side: [] for side in given}
    for _ in range(max(3, repeats)):
        for side, found in peaks.items():
            found.append(alone_or_raise(job="script", given=given[side]).megabytes)
    yield share_row(
        "drop-in-memory", "  its peak memory as a process, with plots", *peaks.values(), 0.5,
        unit="MB",
    )  # fmt: skip


def _off_on_floats(folder: Path) -> int:
    """Voxels whose fixed t is another than nilearn's to 1e-6, where both compute in float64."""
    import nibabel as nib

    files = fiac_files(folder)
    images = [nib.load(run) for run in files[0]]
    exact = [nib.Nifti1Image(np.asarray(i.dataobj, dtype=np.float64), i.affine) for i in images]
    sides = nilearn_job(exact, *files[1:]), nilearn_job(exact, *files[1:], drop_in=True)
    theirs, ours = (np.asarray(side[2].dataobj) for side in sides)
    off = off_share(ours, theirs, SAME_T_EXACT)
    refuse_unless(off.mean() < SAME_BUT_FOR, "chunkglm.nilearn")
    return int(off.sum())


def _check_written(scratch: Path) -> None:
    """Compare what the script wrote, where nilearn casts the runs to float32."""
    import nibabel as nib

    for name in ("run-1_t", "run-2_t", "fixed_t"):
        theirs, ours = (
            np.asarray(nib.load(scratch / f"script-{side}" / f"{name}.nii").dataobj)
            for side in ("nilearn", "drop-in")
        )
        refuse_unless(off_share(ours, theirs).mean() < SAME_BUT_FOR, f"the script's {name}")


def whole_rows(folder: Path, scratch: Path, repeats: int) -> Iterator[Row]:
    """Wall time and peak memory of fresh processes."""
    sides = ("nilearn", "chunkglm")
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    megabytes: dict[str, list[float]] = {side: [] for side in sides}
    for counted in [False] + [True] * repeats:
        for side in sides:
            job = {"side": side, "folder": str(folder), "out": str(scratch / "maps")}
            found = alone_or_raise(job="two_runs", **job)
            if counted:
                seconds[side].append(found.seconds)
                megabytes[side].append(found.megabytes)
    work = "two runs, whole process with imports and maps written"
    yield faster_row("whole", work, *seconds.values(), 3.5)
    yield share_row("whole-memory", "  its peak memory", *megabytes.values(), 0.5, unit="MB")


def contrast_rows(folder: Path, scratch: Path, repeats: int) -> Iterator[Row]:
    """Contrasts after the first: of a stored fit beside a refit, and twenty beside one."""
    from nilearn.glm.first_level import FirstLevelModel

    import chunkglm as cg

    runs, designs, mask = fiac_files(folder)
    run, design = runs[0], read_design(designs[0])
    store = str(scratch / "fit.zarr")
    noise = cg.AR(1, bins=100)
    cg.fit(cg.open_run(run), design, mask=mask, smoothing_fwhm=FWHM, noise=noise).save(
        store, overwrite=True
    )

    def refit() -> Any:
        model = FirstLevelModel(mask_img=str(mask), smoothing_fwhm=FWHM)
        model.fit(str(run), design_matrices=design)
        return model.compute_contrast(CONTRAST, output_type="all")

    def reopened() -> Any:
        return cg.contrast(cg.open_fit(store), CONTRAST).compute()

    def whole(definition: Any) -> Any:
        fit = cg.fit(cg.open_run(run), design, mask=mask, smoothing_fwhm=FWHM)
        return cg.contrast(fit, definition).compute()

    t, found = np.asarray(refit()["stat"].dataobj), reopened()["stat"].to_numpy()
    refuse_unless(off_share(found, t).mean() < SAME_BUT_FOR, "contrast of a stored fit")
    work = "a new contrast of a stored fit, 64x64x30x191; a refit"
    yield faster_row("new-contrast", work, *paired(refit, reopened, repeats), 50)
    weights = np.random.default_rng(0).standard_normal((20, len(design.columns)))
    twenty = {f"contrast {i}": row for i, row in enumerate(weights)}
    one, every = whole(weights[7]), whole(twenty)
    same = np.nanmax(np.abs(every["stat"].to_numpy()[7] - one["stat"].to_numpy())) < SAME_T_EXACT
    refuse_unless(bool(same), "20 contrasts")
    times = paired(lambda: whole(weights[7]), lambda: whole(twenty), repeats)
    yield share_row(
        "twenty-contrasts", "one run with 20 contrasts", *times, 1.3, beside="1 contrast"
    )


def leave_one_out_row(folder: Path, scratch: Path, repeats: int, n_runs: int = 12) -> Iterator[Row]:
    """One run taken out of what is combined, beside fitting all the others again."""
    import chunkglm as cg

    runs, designs, mask = fiac_files(folder)
    # Under names of their own, or the same run would be read once.
    links = [scratch / f"run-{i}.nii.gz" for i in range(n_runs)]
    for i, link in enumerate(links):
        link.unlink(missing_ok=True)
        link.symlink_to(runs[i % 2].absolute())

    def maps(n: int) -> list[Any]:
        return [
            cg.contrast(
                cg.fit(cg.open_run(link), designs[i % 2], mask=mask, smoothing_fwhm=FWHM), CONTRAST
            )
            for i, link in enumerate(links[:n])
        ]

    held = cg.fixed_effects(maps(n_runs)).compute()
    last = maps(n_runs)[-1].compute()

    def refit() -> Any:
        return cg.fixed_effects(maps(n_runs - 1)).compute()

    def without() -> Any:
        return cg.drop_runs(held, last).compute()

    difference = np.nanmax(np.abs(refit()["stat"].to_numpy() - without()["stat"].to_numpy()))
    refuse_unless(bool(difference < SAME_T_EXACT), "a run left out")
    yield share_row(
        "leave-one-out", f"one of {n_runs} runs left out of what was combined",
        *paired(refit, without, repeats), 0.05, beside="a refit of the others",
    )  # fmt: skip
