"""A study of a few subjects, small enough for tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

SHAPE = (8, 8, 6, 60)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four subjects of two runs: ``runs.csv``, ``model.toml``; not to be changed."""
    from make_study import make_study

    folder = tmp_path_factory.mktemp("study")
    make_study(folder, 4, 2, SHAPE)
    return folder
