"""Models of studies: a small file, checked."""

import json
from pathlib import Path
from typing import Any

import pytest

from chunkglm.errors import StudyError
from chunkglm.study.model import StudyModel, read_model

CONTRASTS = {"faces": "face - house"}


def test_read_model__from_toml_json_and_values_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(
        'smoothing_fwhm = 5\nnoise = {order = 1, bins = 100}\nconfounds = ["trans_*"]\n'
        '[contrasts]\nfaces = "face - house"\n'
    )
    values: dict[str, Any] = {
        "contrasts": CONTRASTS,
        "smoothing_fwhm": 5,
        "noise": {"order": 1, "bins": 100},
        "confounds": ["trans_*"],
    }
    (tmp_path / "m.json").write_text(json.dumps(values))
    models = [read_model(m) for m in (tmp_path / "m.toml", tmp_path / "m.json", values)]
    assert len({m.digest() for m in models}) == 1
    assert read_model(models[0]) is models[0]
    options = models[0].fit_options()
    assert (options["smoothing_fwhm"], options["noise"].bins) == (5, 100)
    assert StudyModel(contrasts=CONTRASTS).digest() != models[0].digest()
    assert "noise" not in StudyModel(contrasts=CONTRASTS).fit_options()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "contrasts is missing"),
        ({"contrasts": CONTRASTS, "smoothing": 5}, "did you mean 'smoothing_fwhm'"),
        ({"contrasts": CONTRASTS, "smoothing_fwhm": -5}, "smoothing_fwhm must be 0 or more"),
        ({"contrasts": CONTRASTS, "smoothing_fwhm": True}, "smoothing_fwhm must be 0 or more"),
        ({"contrasts": {}}, "contrasts must be"),
        ({"contrasts": {"../a": "a"}}, "contrasts must be"),
        ({"contrasts": CONTRASTS, "noise": "arma"}, "noise must be"),
        ({"contrasts": CONTRASTS, "noise": {"ordre": 1}}, "ordre"),
        ({"contrasts": CONTRASTS, "level": "group"}, "'subject' or 'session'"),
        ({"contrasts": CONTRASTS, "missing": "drop"}, "'error' or 'skip'"),
        ({"contrasts": CONTRASTS, "confounds": "trans_x"}, "confounds must be a list"),
        ({"contrasts": CONTRASTS, "save_runs": "yes"}, "save_runs must be true or false"),
    ],
)
def test_read_model__refuses_by_name(values: dict[str, Any], words: str) -> None:
    with pytest.raises(StudyError, match=words):
        read_model(values)


def test_read_model__tells_all_at_once() -> None:
    with pytest.raises(StudyError) as caught:
        read_model({"contrasts": CONTRASTS, "high_pass": 0, "drift_order": -1, "scaling": "no"})
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("name", "text"), [("m.toml", "a ="), ("m.json", "[1]"), ("m.yaml", "a: 1"), ("no.toml", None)]
)
def test_read_model__files_that_hold_none(tmp_path: Path, name: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(StudyError, match=name):
        read_model(tmp_path / name)
