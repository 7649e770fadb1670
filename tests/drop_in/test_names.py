"""The table of `docs/nilearn.md` has a row for everything that nilearn's users can name."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import nilearn.glm
import nilearn.glm.first_level
import nilearn.image
import numpy as np
import pytest
from helpers_drop_in import (
    T_R,
    blocks_read,
    check_images,
    fit_both,
    make_events,
    make_mask,
    make_run,
)
from nilearn.maskers import SurfaceMasker
from nilearn.surface import InMemoryMesh, SurfaceImage

import chunkglm as cg
import chunkglm.nilearn
from chunkglm.nilearn import FirstLevelModel

PAGE = Path(__file__).parents[2] / "docs" / "nilearn.md"
THEIRS = nilearn.glm.first_level.FirstLevelModel
PARTS = ["FirstLevelModel", "compute_fixed_effects", "mean_img"]
VERDICTS = {"same", "different", "refused", "added"}


def rows(part: str) -> list[tuple[list[str], str]]:
    """Names in the first cell of each row, and its verdict, under a heading."""
    text = PAGE.read_text().split(f"## `{part}`")[1].split("\n## ")[0]
    cells = [line.split("|")[1:3] for line in text.splitlines() if re.match(r"\| ", line)]
    return [(re.findall(r"`(\w+)`", first), verdict.strip()) for first, verdict in cells]


def named(part: str) -> set[str]:
    return {name for names, _ in rows(part) for name in names}


def test_table__names_every_parameter_method_and_attribute() -> None:
    fitted = fit_both(make_run(), events=make_events())[1]
    public = {name for name in {*dir(THEIRS), *vars(fitted)} if not name.startswith("_")}
    called = (THEIRS.__init__, THEIRS.fit, THEIRS.compute_contrast)
    public |= {name for call in called for name in inspect.signature(call).parameters} - {"self"}
    # Of scikit-learn, for its own metadata routing; nilearn documents neither.
    routing = {"get_metadata_routing", "set_fit_request"}
    assert routing < public
    assert public - routing - named("FirstLevelModel") == set()


def test_table__names_every_parameter_of_fixed_effects() -> None:
    public = set(inspect.signature(nilearn.glm.compute_fixed_effects).parameters)
    assert named("compute_fixed_effects") - {"chunkglm", "fixed_effects"} >= public


def test_table__names_every_parameter_of_mean_img() -> None:
    assert named("mean_img") == set(inspect.signature(nilearn.image.mean_img).parameters)


@pytest.mark.parametrize("part", PARTS)
def test_table__every_row_has_a_verdict(part: str) -> None:
    found = [verdict for _, verdict in rows(part) if verdict]
    assert len(found) >= 3
    assert set(found) <= VERDICTS


def sources_of_tests() -> dict[str, str]:
    """Source of every test of this folder by name."""
    found = {}
    for path in Path(__file__).parent.glob("test_*.py"):
        text = path.read_text()
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                decorators = [ast.get_source_segment(text, d) or "" for d in node.decorator_list]
                found[node.name] = "\n".join(
                    [*decorators, ast.get_source_segment(text, node) or ""]
                )
    return found


# How a test of this folder runs nilearn: through a helper or fixture that fits both, or by itself.
RUNS_NILEARN = re.compile(
    r"\b(fit_both|both|contrast_both|THEIRS|Theirs|one|several|kept|nilearn\.glm\.compute_fixed_effects"
    r"|nilearn\.glm\.first_level|nilearn\.image\.mean_img)\b"
)


@pytest.mark.parametrize("part", PARTS)
def test_table__every_row_names_tests_that_run_both(part: str) -> None:
    sources = sources_of_tests()
    text = PAGE.read_text().split(f"## `{part}`")[1].split("\n## ")[0]
    lines = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    checked = 0
    for first, verdict, _, tests in lines:
        if not verdict.strip():
            continue  # a heading
        names = re.findall(r"`(test_\w+)`", tests)
        assert names, first
        for name in names:
            assert name in sources, f"{first}: {name}"
            assert RUNS_NILEARN.search(sources[name]), f"{name} does not run nilearn"
            checked += 1
    assert checked >= 3


def test_mean_img__is_nilearns(tmp_path: Path) -> None:
    image, other = make_run(), make_run(seed=1)
    whole = nib.Nifti1Image(image.get_fdata().round().astype(np.int16), image.affine, image.header)
    nib.save(whole, tmp_path / "run.nii.gz")
    store = cg.convert(tmp_path / "run.nii.gz", tmp_path / "run.zarr", progress=False)
    path = tmp_path / "run.nii.gz"
    cases: list[tuple[Any, Any, dict[str, Any]]] = [
        (path, path, {}),
        (str(path), str(path), {"copy_header": False}),
        (nib.load(path), path, {}),
        ([path, image, other], [path, image, other], {"n_jobs": 2, "verbose": 0}),
        (store, path, {}),
        (cg.open_run(path) * 1.0, path, {}),
        (image, image, {"target_affine": np.eye(3) * 4}),
        (image, image, {"target_affine": image.affine, "target_shape": (5, 6, 4)}),
        (make_mask(), make_mask(), {}),
    ]
    for ours, theirs, choices in cases:
        check_images(
            chunkglm.nilearn.mean_img(ours, **choices),
            nilearn.image.mean_img(theirs, **choices),
            tolerance=1e-14,  # another order of sums; worst seen 4e-16
        )
    theirs = nilearn.image.mean_img(path)
    assert chunkglm.nilearn.mean_img(path).header == theirs.header
    surface_run = surface()[0]
    for side, found in chunkglm.nilearn.mean_img(surface_run).data.parts.items():
        expected = nilearn.image.mean_img(surface_run).data.parts[side]
        np.testing.assert_array_equal(found, expected)
    signatures = [inspect.signature(m.mean_img) for m in (chunkglm.nilearn, nilearn.image)]
    names = [[(p.name, p.default) for p in s.parameters.values()] for s in signatures]
    assert names[0] == names[1]


def test_mean_img__holds_a_block_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nib.save(make_run(), tmp_path / "run.nii.gz")
    blocks = blocks_read(monkeypatch)
    monkeypatch.setattr("chunkglm.blocks.SERIES_BYTES", 40_000)
    chunkglm.nilearn.mean_img(tmp_path / "run.nii.gz")
    assert blocks == [6]


def test_verbose__tells_of_runs_as_nilearn_does(capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for kind in (FirstLevelModel, THEIRS):
        kind(t_r=T_R, mask_img=make_mask(), verbose=1).fit(make_run(), make_events())
        told.append(capsys.readouterr().out.splitlines())
    # Masking and fitting are one here: of those two nilearn tells as well.
    runs = [[line.split(" in ")[0] for line in lines if " runs " in line] for lines in told]
    assert len(runs[0]) == 2
    assert runs[0] == runs[1]
    FirstLevelModel(t_r=T_R, mask_img=make_mask()).fit(make_run(), make_events())
    assert capsys.readouterr().out == ""


def surface() -> tuple[Any, Any]:
    """A run of 40 volumes on two small hemispheres, and a mask of all of it."""
    rng = np.random.default_rng(0)
    faces = np.array([[0, 1, 2], [2, 3, 4], [5, 6, 7]])
    mesh = {side: InMemoryMesh(rng.normal(size=(8, 3)), faces) for side in ("left", "right")}
    run = SurfaceImage(mesh, {side: rng.uniform(90, 110, size=(8, 40)) for side in mesh})
    return run, SurfaceImage(mesh, {side: np.ones(8, dtype=bool) for side in mesh})


@pytest.mark.parametrize("kind", ["no mask", "in a list", "mask image", "masker"])
def test_surface__runs_and_masks_are_refused_at_once(kind: str) -> None:
    """nilearn fits them."""
    run, mask = surface()
    choices: dict[str, Any] = {
        "mask image": {"mask_img": mask},
        "masker": {"mask_img": SurfaceMasker(mask).fit()},
    }.get(kind, {})
    with pytest.raises(cg.ChunkglmError, match=r"(mask_img|run_imgs).*cannot be honoured"):
        FirstLevelModel(t_r=T_R, **choices).fit(
            [run] if kind == "in a list" else run, make_events()
        )
    assert THEIRS(t_r=T_R, **choices).fit(run, make_events()).results_


def test_memory__of_an_earlier_masker_is_nilearns() -> None:
    ours, theirs = fit_both(make_run(), events=make_events())
    assert type(ours.memory_) is type(theirs.memory_)
