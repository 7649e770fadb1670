"""NIST's Statistical Reference Datasets: every digit asked for, however the data are chunked."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT.parent / "shared" / "data" / "strd"

sys.path.insert(0, str(ROOT / "scripts"))
import nist_strd  # noqa: E402

pytestmark = [
    pytest.mark.skipif(
        not FOLDER.is_dir(), reason=f"{FOLDER} with NIST's datasets is not on this machine"
    ),
    # Polynomials of degree 10: the condition number is what these sets are for.
    pytest.mark.filterwarnings("ignore:.*condition number"),
]


@pytest.mark.parametrize("form", nist_strd.FORMS)
@pytest.mark.parametrize("name", [*nist_strd.LINEAR, *nist_strd.ANOVA])
def test_nist_strd__digits_asked_for(name: str, form: str) -> None:
    data = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    fit_one = nist_strd.linear if name in nist_strd.LINEAR else nist_strd.anova
    row = fit_one(name, data, form)
    assert row.reached, row


def test_nist_strd__a_digit_less_is_noticed() -> None:
    assert nist_strd.digits(1.0 + 1e-9, "1") == pytest.approx(9.0, abs=0.01)
    assert not nist_strd.Row("x", "numpy", (8.9, 12.0), (9.0, 12.0)).reached
    assert not nist_strd.Row("x", "numpy", (None,), (9.0,)).reached
