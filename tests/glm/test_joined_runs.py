"""Several runs in one model, from their moments alone: beside dense matrices on the joined data."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers_lazy import (
    AFFINE,
    SHAPE,
    lazily,
    make_data,
    make_design,
    make_mask,
    one_line,
    write_run,
)

import chunkglm as cg
from chunkglm.errors import ContrastError, DesignError, ImageError

MASK = make_mask()
LENGTHS = (30, 26, 34)

# Effects in standard errors, variances and F relative. Seen: below 1e-11.
ROUNDING = 1e-9


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [
        write_run(folder / f"run-{i}.nii", make_data((*SHAPE[:3], n), seed=i))
        for i, n in enumerate(LENGTHS)
    ]


def designs() -> list[pd.DataFrame]:
    """Unlike ones: another order, a condition missing, no drift."""
    one, two, three = (make_design(n) for n in LENGTHS)
    return [one, two[["constant", "b", "drift", "a"]], three[["a", "constant"]]]


def joined_design(shared: list[str], keep: list[Any]) -> pd.DataFrame:
    """The block design, written out."""
    blocks = []
    for i, (design, kept) in enumerate(zip(designs(), keep, strict=True), 1):
        names = {c: c if c in shared else f"run{i}_{c}" for c in design}
        blocks.append(design.rename(columns=names)[kept])
    whole = pd.concat(blocks, ignore_index=True).fillna(0.0)
    return whole[[*shared, *(c for c in whole if c not in shared)]]


def dense(X: Any, series: list[Any], order: int) -> dict[str, Any]:
    """GLS of one voxel: block-diagonal whitening, one set of coefficients for all runs."""
    y = np.concatenate(series)
    edges = np.cumsum([0, *map(len, series)])
    b = np.linalg.lstsq(X, y, rcond=None)[0]
    r = y - X @ b
    parts = [r[a:z] for a, z in pairwise(edges)]
    c = [
        sum((p[lag:] * p[: len(p) - lag]).sum() for p in parts) / sum(len(p) - lag for p in parts)
        for lag in range(order + 1)
    ]
    phi = np.zeros(0)
    if order:
        R = np.array([[c[abs(i - j)] for j in range(order)] for i in range(order)])
        phi = np.linalg.solve(R, c[1:])
    W = np.zeros((len(y), len(y)))
    for a, z in pairwise(edges):
        W[a:z, a:z] = np.eye(z - a)
        for lag, p in enumerate(phi, 1):
            W[a:z, a:z] -= p * np.eye(z - a, k=-lag)
    WX, Wy = W @ X, W @ y
    beta = np.linalg.lstsq(WX, Wy, rcond=None)[0]
    sigma2 = ((Wy - WX @ beta) ** 2).sum() / (len(y) - X.shape[1])
    return {"beta": beta, "cov": sigma2 * np.linalg.inv(WX.T @ WX), "sigma2": sigma2, "phi": phi}


@pytest.mark.parametrize("scaling", ["percent", None])
@pytest.mark.parametrize("noise", ["ols", "ar1", "ar2"])
@pytest.mark.parametrize("gaps", [False, True], ids=["whole", "gaps"])
def test_concatenate__is_the_model_of_the_joined_data(
    runs: list[Path], noise: str, scaling: str | None, gaps: bool
) -> None:
    order = 0 if noise == "ols" else int(noise[2:])
    keep = [np.ones(n, dtype=bool) for n in LENGTHS]
    if gaps:  # volumes at the ends, so that the oracle's segments stay whole
        keep[0][:3] = keep[2][-2:] = False
    fits = [
        cg.fit(run, design, mask=MASK, noise=noise, scaling=scaling, sample_mask=kept)
        for run, design, kept in zip(runs, designs(), keep, strict=True)
    ]
    with lazily():
        fit = cg.concatenate(fits, ["a", "b"])
        lazy = cg.contrast(fit, "a - b")
    design = joined_design(["a", "b"], keep)
    assert fit.design.names == tuple(design)
    assert fit.dof == len(design) - design.shape[1]
    maps, sigma2, ar = lazy.compute(), fit.sigma2.compute(), fit.ar.compute()
    joint = cg.contrast(fit, ["a", "b"]).compute()
    X = design.to_numpy()
    weights = np.zeros(len(design.columns))
    weights[:2] = 1, -1
    for voxel in np.argwhere(MASK)[::6]:
        at = tuple(voxel)
        series = []
        for i, n in enumerate(LENGTHS):
            y = make_data((*SHAPE[:3], n), seed=i)[at].astype(float)[keep[i]]
            series.append(100.0 * (y / y.mean() - 1.0) if scaling else y)
        truth = dense(X, series, order)
        variance = weights @ truth["cov"] @ weights
        off = maps["effect_size"].to_numpy()[at] - weights @ truth["beta"]
        assert abs(off) < ROUNDING * np.sqrt(variance)
        assert maps["effect_variance"].to_numpy()[at] == pytest.approx(variance, rel=ROUNDING)
        assert sigma2.to_numpy()[at] == pytest.approx(truth["sigma2"], rel=ROUNDING)
        np.testing.assert_allclose(ar.to_numpy()[(slice(None), *at)], truth["phi"], atol=1e-9)
        b, cov = truth["beta"][:2], truth["cov"][:2, :2]
        assert joint["stat"].to_numpy()[at] == pytest.approx(
            b @ np.linalg.solve(cov, b) / 2, rel=1e-8
        )
    assert np.isnan(maps["effect_size"].to_numpy()[~MASK]).all()
    assert maps["effect_size"].attrs["units"] == ("percent of the mean" if scaling else "signal")


def test_concatenate__needs_no_data_and_can_be_stored(tmp_path: Path) -> None:
    fits = []
    for i, (n, design) in enumerate(zip(LENGTHS, designs(), strict=True)):
        run = write_run(tmp_path / f"run-{i}.nii", make_data((*SHAPE[:3], n), seed=i))
        fits.append(cg.open_fit(cg.fit(run, design, mask=MASK).save(tmp_path / f"{i}.zarr")))
        run.unlink()
    fit = cg.concatenate(fits, "a")
    expected = cg.contrast(fit, "a").compute()
    again = cg.open_fit(fit.save(tmp_path / "joined.zarr"))
    found = cg.contrast(again, "a").compute()
    np.testing.assert_allclose(found["stat"], expected["stat"], rtol=1e-12)
    assert found["effect_size"].attrs == expected["effect_size"].attrs
    # A part of it is the joint model of parts.
    fewer = again.drop(["run1_b", "run2_b"])
    assert fewer.dof == again.dof + 2
    parts = cg.concatenate([f.drop("b") if "b" in f.design.names else f for f in fits], "a")
    np.testing.assert_allclose(
        cg.contrast(fewer, "a")["stat"], cg.contrast(parts, "a")["stat"], rtol=1e-9
    )
    with pytest.raises(ContrastError):
        cg.contrast(again, "b")


def test_concatenate__what_does_not_belong_together_is_refused(runs: list[Path]) -> None:
    fits = [cg.fit(r, d, mask=MASK) for r, d in zip(runs, designs(), strict=True)]
    one, design = runs[1], designs()[1]
    for other, part in (
        (cg.fit(one, design), "masks"),
        (cg.fit(one, design, mask=MASK, noise="ols"), "noise models"),
        (cg.fit(one, design, mask=MASK, scaling=None), "scalings"),
        (cg.fit(one, design, mask=MASK, smoothing_fwhm=4), "smoothing"),
    ):
        with pytest.raises(DesignError) as caught:
            cg.concatenate([fits[0], other], "a")
        one_line(caught.value, part, runs[0], one)
    for bad in ([], fits[:1], fits[0], [fits[0], None]):
        with pytest.raises(DesignError) as caught:
            cg.concatenate(bad, "a")  # type: ignore[arg-type]
        assert "list of two Fits" in str(caught.value)
    with pytest.raises(DesignError) as caught:
        cg.concatenate(fits, ["a", "house"])
    one_line(caught.value, "'house'", "'drift'")
    joint = cg.concatenate(fits, "a")
    with pytest.raises(DesignError, match="joined already"):
        cg.concatenate([joint, fits[0]], "a")
    with pytest.raises(ImageError) as caught:
        joint.residuals(runs[0])
    one_line(caught.value, "of one run")
    assert np.ravel(cg.contrast(joint, "a").attrs["affine"]).tolist() == AFFINE.ravel().tolist()
