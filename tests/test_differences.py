"""Where chunkglm differs from nilearn on purpose: each test shows nilearn, and what is right.

Both are measured by ``scripts/beside_nilearn.py``, of which ``scripts/differences.py`` makes
``docs/differences.md``. A test that begins to fail on nilearn's side says that nilearn has changed,
and that the page should.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import beside_nilearn as beside  # noqa: E402
import differences  # noqa: E402
from beside_nilearn import flat  # noqa: E402

# Against formulas worked out in numpy on well-conditioned problems; 1e-13 at worst seen.
SAME = 1e-9


def test_rank__not_the_number_of_columns_divides_the_variance() -> None:
    found = beside.redundant_column()
    np.testing.assert_allclose(found["theirs"], 36 / 35)  # 2.9 % too large, whilst
    assert found["their_dof"] == 36  # it reports the degrees of freedom of the rank
    np.testing.assert_allclose(found["ours"], 1, rtol=SAME)
    assert found["our_dof"] == 36
    assert "depend on the others" in found["told"]


def test_rank__a_contrast_that_the_data_do_not_determine_is_refused() -> None:
    found = beside.undetermined_contrast()
    # nilearn tests it all the same: a number that depends on the pseudo-inverse it chose.
    assert np.isfinite(found["theirs"]).all()
    assert "'a'" in found["refusal"]
    assert found["another"] == 36


def test_noise__is_corrected_for_what_the_design_took_out() -> None:
    """AR(1) noise of 0.3 and nothing else: one voxel in a thousand should be below p = .001."""
    found = beside.noise_coefficient()
    # Seen: 1.81, 1.85 and 1.18, with Monte Carlo errors of 0.15 and 0.12.
    assert found["theirs"] > 1.5
    assert abs(found["plain"] - found["theirs"]) < 0.2
    assert found["ours"] - 1 < 0.6 * (found["theirs"] - 1)


def test_fixed_effects__use_the_degrees_of_freedom_of_the_runs() -> None:
    found = beside.degrees_of_freedom()
    theirs, ours = np.abs(found["z"]["theirs"]), np.abs(found["z"]["ours"])
    assert found["dof"] == 16
    # Under the null: nominal 5 in 1000 above 2.5758 are 10 of 2000; nilearn's z is always bolder.
    assert np.sum(theirs > 2.5758) > np.sum(ours > 2.5758)
    assert (theirs >= ours - 1e-9).all()


def test_fixed_effects__bad_variances_never_get_weight() -> None:
    """A variance of zero gives nilearn t = 1e8, one below zero a share in the mean."""
    found = beside.bad_variances()
    assert found["theirs"] > 9e7
    for maps in found["ours"]:
        np.testing.assert_array_equal(flat(maps, "n_runs"), [2, 1, 1])
        np.testing.assert_array_equal(flat(maps, "dof"), [36, 18, 18])
        np.testing.assert_allclose(flat(maps, "effect_size"), [1.5, 2, 2])
        np.testing.assert_allclose(flat(maps, "effect_variance"), [0.5, 1, 1])


def test_fixed_effects__joint_f_uses_the_whole_covariance() -> None:
    found = beside.joint_f()
    assert found["ours"] < 1e-7  # the series lie at 1000 noises: 1e-11 seen
    assert np.max(np.abs(found["theirs"] - 1)) > 0.2


def test_contrasts__by_name_over_unequal_designs() -> None:
    """Vectors go by place, so columns in another order are another contrast; names do not."""
    found = beside.other_order()
    assert found["theirs"] > 0.1
    assert found["their_own"] < SAME  # the mean of two contrasts that are not the same
    assert found["ours"] < SAME
    assert "contrasts differ" in found["refusal"]


def test_voxels__that_are_constant_or_not_finite_are_marked() -> None:
    found = beside.unusable_voxels()
    # Rounding noise is given a t of the size of noise, and the NaN becomes 0 in silence.
    assert abs(found["constant"]) > 1e-2
    assert np.isfinite(found["theirs"]).all()
    np.testing.assert_array_equal(found["status"], [2, 0, 3])
    np.testing.assert_array_equal(np.isfinite(found["ours"]), [False, True, False])


def test_expressions__are_parsed_and_never_evaluated() -> None:
    """In nilearn an expression can write a file; here it is a text that has no such column."""
    found = beside.code_in_expressions()
    assert found["theirs"]
    assert not found["ours"]
    assert "columns" in found["refusal"]


def test_expressions__take_names_of_any_characters() -> None:
    found = beside.odd_names()
    assert "not valid" in found["refusal"]
    np.testing.assert_array_equal(found["by_name"], found["by_place"])


def test_integers__keep_their_digits() -> None:
    found = beside.large_integers()
    assert found["theirs"] > 1
    assert found["ours"] < 1e-7


def test_offsets__keep_their_digits() -> None:
    found = beside.large_offset()
    assert found["theirs"] > 1e-7
    assert found["ours"] < SAME


def test_scaled_columns__change_nothing() -> None:
    """Columns 1e-10 and 1e10 in size: a column of 1e-10 is a column like any other."""
    found = beside.scaled_columns()
    assert abs(found["theirs"] / found["right"] - 1) > 0.1
    assert found["ours"] < SAME


needs_real_runs = pytest.mark.skipif(
    not differences.REAL_RUNS.is_dir(), reason="the real runs, beside the project, are absent"
)


@needs_real_runs
def test_agreement__is_measured_on_the_real_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    found = beside.real_runs(differences.REAL_RUNS)
    assert 0 < found["runs"] < SAME
    assert 0 < found["fixed"] < SAME
    # Where they are absent no figure is made up.
    monkeypatch.setattr(differences, "REAL_RUNS", Path("nowhere"))
    assert "1e-8" in differences.agreement()


def test_page__has_every_point_and_names_a_test_that_is_here() -> None:
    page = differences.PAGE.read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == [
        point.what for point in differences.POINTS
    ]
    shown = {point.test for point in differences.POINTS if point.test}
    here = {name for name in globals() if name.startswith("test_")} - {
        test_page__has_every_point_and_names_a_test_that_is_here.__name__,
        test_agreement__is_measured_on_the_real_runs.__name__,
    }
    assert shown == here
    assert all(f"`{name}`" in page for name in shown)
    # A figure that no longer takes its place in a text is found here, not when the page is made.
    for point in differences.POINTS[-3:]:
        assert differences.row_of(point).count(" | ") == 3
