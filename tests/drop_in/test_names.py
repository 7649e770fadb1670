"""The table of `docs/nilearn.md` has a row for everything that nilearn's users can name."""

import inspect
import re
from pathlib import Path
from typing import Any

import nilearn.glm
import nilearn.glm.first_level
import numpy as np
import pytest
from helpers_drop_in import T_R, fit_both, make_events, make_mask, make_run
from nilearn.maskers import SurfaceMasker
from nilearn.surface import InMemoryMesh, SurfaceImage

import chunkglm as cg
from chunkglm.nilearn import FirstLevelModel

PAGE = Path(__file__).parents[2] / "docs" / "nilearn.md"
THEIRS = nilearn.glm.first_level.FirstLevelModel
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


@pytest.mark.parametrize("part", ["FirstLevelModel", "compute_fixed_effects"])
def test_table__every_row_has_a_verdict(part: str) -> None:
    found = [verdict for _, verdict in rows(part) if verdict]
    assert len(found) > 5
    assert set(found) <= VERDICTS


def test_verbose__tells_of_runs_as_nilearn_does(capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for kind in (FirstLevelModel, THEIRS):
        kind(t_r=T_R, mask_img=make_mask(), verbose=1).fit(make_run(), make_events())
        told.append(capsys.readouterr().out.splitlines())
    # Masking and fitting are one here: of those two nilearn tells as well.
    runs = [[line for line in lines if " runs " in line] for lines in told]
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
