"""A small study of which one run is broken, done and reported."""

import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

SHAPE = (12, 14, 9, 60)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three subjects of two runs, one of them cut short, with moments kept; not to be changed."""
    from make_study import make_study

    import chunkglm as cg

    folder = tmp_path_factory.mktemp("reported")
    make_study(folder, 3, 2, SHAPE)
    table = pd.read_csv(folder / "runs.csv", dtype=str)
    broken = folder / table.bold[5]
    broken.write_bytes(broken.read_bytes()[:20_000])
    model = (folder / "model.toml").read_text()
    (folder / "kept.toml").write_text("save_moments = true\nsmoothing_fwhm = 4\n" + model)
    found = cg.run_study(folder / "runs.csv", folder / "kept.toml", folder / "out", progress=False)
    assert list(found.failed) == ["03"]
    return folder


@pytest.fixture(scope="session")
def pages(study: Path) -> Path:
    """The folder of its pages."""
    import chunkglm as cg

    index = cg.report(study / "out", progress=False)
    assert index == study / "out" / "report" / "index.html"
    return index.parent
