"""Moments that `minimize_memory` puts on disk between contrasts."""

import pickle
import tempfile
from typing import Any

import numpy as np
import pytest
from helpers_drop_in import T_R, make_events, make_mask, make_run

from chunkglm.nilearn import FirstLevelModel, aside

CONTRAST = "face - house"


def fitted(*, minimize_memory: bool) -> Any:
    model = FirstLevelModel(t_r=T_R, mask_img=make_mask(), minimize_memory=minimize_memory)
    return model.fit(make_run(), make_events())


def is_on_disk(model: Any) -> bool:
    return aside._pages_of_file(model.results_[0].dataset["products"].to_numpy()) is not None


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "SMALLEST", 0)


@pytest.mark.usefixtures("everything_is_large")
def test_minimize_memory__puts_moments_on_disk__maps_are_the_same() -> None:
    kept, put = fitted(minimize_memory=False), fitted(minimize_memory=True)
    assert is_on_disk(put)
    assert not is_on_disk(kept)
    for _ in range(2):  # the pages were let go in between
        maps = [m.compute_contrast(CONTRAST, output_type="all") for m in (kept, put)]
        for name in maps[0]:
            np.testing.assert_array_equal(maps[0][name].dataobj, maps[1][name].dataobj)
            assert np.any(maps[1][name].get_fdata())


@pytest.mark.usefixtures("everything_is_large")
def test_what_lies_on_disk__goes_along_in_a_pickle() -> None:
    model = fitted(minimize_memory=True)
    again = pickle.loads(pickle.dumps(model))
    assert not is_on_disk(again)
    a, b = (m.compute_contrast(CONTRAST, output_type="stat").get_fdata() for m in (model, again))
    np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("everything_is_large")
def test_no_room_for_temporary_files__moments_stay_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    expected = fitted(minimize_memory=True).compute_contrast(CONTRAST).get_fdata()
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    model = fitted(minimize_memory=True)
    assert not is_on_disk(model)
    np.testing.assert_array_equal(model.compute_contrast(CONTRAST).get_fdata(), expected)


def test_small_moments__stay_in_memory() -> None:
    assert not is_on_disk(fitted(minimize_memory=True))
