"""The page of all points on which chunkglm's numbers differ from nilearn's on purpose, measured.

    python scripts/differences.py [PAGE]

Runs both on the same data (`beside_nilearn.py`), some ten seconds, and writes PAGE, by default
``docs/differences.md``.
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import beside_nilearn as beside
import nilearn

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "differences.md"

# Twelve real runs (Haxby et al. 2001, subject 1), where they lie beside the project.
REAL_RUNS = ROOT.parent / "shared" / "data" / "haxby"

# Voxels whose false positives are counted for the page; a tenth of nominal is then 0.1 or less off.
MANY_VOXELS, MANY_SERIES = 400_000, 100_000

INTRODUCTION = """\
# Where the numbers differ from nilearn's, on purpose

Where nilearn is right, chunkglm gives the same numbers: effects, variances, t and z of twelve real
runs agree to {agreement}
(`tests/test_numerics_haxby.py`, with `noise=AR(1, bins=100)`, which is nilearn's way of rounding
the coefficient). On the following points it is different on purpose.
`python scripts/differences.py` runs both on the same data and writes this page; the
figures are nilearn {version}'s. Each point has a test in
`tests/test_differences.py`, named in the last column.

| what | nilearn | chunkglm | test |
|---|---|---|---|
"""


def agreement() -> str:
    """How far real runs are off; where they are absent, what the test holds them to."""
    if not REAL_RUNS.is_dir():
        return "1e-8 of a standard error, and so do their fixed effects"
    text = "{runs:.0e} of a standard error, fixed effects with equal weights to {fixed:.0e}"
    return _typeset(text.format_map(beside.real_runs(REAL_RUNS)))


class Point(NamedTuple):
    """A row of the page; its texts take the figures that are measured."""

    what: str
    nilearn: str
    chunkglm: str
    test: str  # its name, or "" for that of the point before
    measured: Callable[[], Mapping[str, Any]]


def redundant_column() -> Mapping[str, Any]:
    found = beside.redundant_column()
    off = [f"{100 * (found[which].mean() - 1):.1f} %" for which in ("theirs", "ours")]
    return {**found, "their_off": off[0], "our_off": off[1].replace("-0.0", "0.0")}


def noise_coefficient() -> Mapping[str, Any]:
    return beside.noise_coefficient(MANY_SERIES)


def degrees_of_freedom() -> Mapping[str, Any]:
    return beside.degrees_of_freedom(MANY_VOXELS)


def offsets() -> Mapping[str, Any]:
    larger = beside.large_offset(1e12)
    return {**beside.large_offset(), "their_larger": larger["theirs"], "our_larger": larger["ours"]}


POINTS = (
    Point(
        "a redundant column in the design",
        "divides residuals by volumes minus *columns*: variances {their_off} too large (40 "
        "volumes, rank 4, 5 columns), whilst it reports {their_dof:.0f} degrees of freedom, those "
        "of the rank",
        "rank counts, everywhere: {our_off}; a warning names the columns",
        "test_rank__not_the_number_of_columns_divides_the_variance",
        redundant_column,
    ),
    Point(
        "a contrast that the data do not determine",
        "a t, such as {theirs[0]:.2f}, that depends on the pseudo-inverse",
        "refused, naming the columns",
        "test_rank__a_contrast_that_the_data_do_not_determine_is_refused",
        beside.undetermined_contrast,
    ),
    Point(
        "the AR coefficient",
        "as the residuals have it, too small after drifts and confounds: {theirs:.2f} times the "
        "nominal false positives at p < .001 ({n_scans} volumes, ρ = {rho}, {n_columns} columns)",
        "`AR(1, corrected=True)` puts back what the design took out: {ours:.2f} times; averaged "
        "over neighbours too, less: see the [tables](noise.md) over many designs",
        "test_noise__is_corrected_for_what_the_design_took_out",
        noise_coefficient,
    ),
    Point(
        "degrees of freedom of fixed effects",
        "100 a run unless told: with two runs of 8, {theirs:.2f} times the nominal false positives "
        "at p < .001",
        "those of the runs, {dof:.0f}: {ours:.2f} times",
        "test_fixed_effects__use_the_degrees_of_freedom_of_the_runs",
        degrees_of_freedom,
    ),
    Point(
        "a variance of 0, below 0, NaN or infinite",
        "floored: t = {theirs:.0e}, or a share in the mean",
        "that run does not count at that voxel; maps `n_runs` and `dof` say so",
        "test_fixed_effects__bad_variances_never_get_weight",
        beside.bad_variances,
    ),
    Point(
        "F over several runs",
        "one variance for all rows: F between {least:.2f} and {most:.2f} of the joint one in "
        "{n_voxels} voxels",
        "the whole covariance of each run: {ours:.0e} off",
        "test_fixed_effects__joint_f_uses_the_whole_covariance",
        beside.joint_f,
    ),
    Point(
        "columns in another order in another run",
        "vectors go by place: an effect is {theirs:.2f} off, where the largest is {largest:.2f}",
        "compared by column name, {ours:.0e} off; other weights are refused",
        "test_contrasts__by_name_over_unequal_designs",
        beside.other_order,
    ),
    Point(
        "constant voxels",
        "t of rounding noise: {constant:.2f} for a voxel that is 0.1 throughout",
        "NaN, with a reason in `voxel_status` ({status[0]})",
        "test_voxels__that_are_constant_or_not_finite_are_marked",
        beside.unusable_voxels,
    ),
    Point(
        "a sample that is NaN",
        "0 in its place, in silence: t = {missing:.2f}",
        "NaN, with a reason in `voxel_status` ({status[2]})",
        "",
        beside.unusable_voxels,
    ),
    Point(
        "expressions of contrasts",
        "evaluated: one was made to write a file",
        "parsed, by a grammar that knows numbers, names, `+ - * /` and parentheses",
        "test_expressions__are_parsed_and_never_evaluated",
        beside.code_in_expressions,
    ),
    Point(
        "names such as `face-1`",
        "cannot be used in an expression",
        "any characters; the longest name that fits",
        "test_expressions__take_names_of_any_characters",
        beside.odd_names,
    ),
    Point(
        "integers near 2³⁰",
        "cast to float32, in steps of 64: t off by {theirs:.1f} where the largest is {largest:.1f}",
        "{ours:.0e} off",
        "test_integers__keep_their_digits",
        beside.large_integers,
    ),
    Point(
        "an offset of 10¹⁰ times the noise",
        "t off by {theirs:.0e} (10¹²: by {their_larger:.0e})",
        "{ours:.0e} off (10¹²: {our_larger:.0e}); all of NIST's datasets: "
        "`scripts/nist_strd.py`",
        "test_offsets__keep_their_digits",
        offsets,
    ),
    Point(
        "a column in units of 1e-10 beside one of 1e10",
        "taken for a zero: t = {theirs:.0f} in place of {right:.2f}",
        "columns are scaled first: {ours:.0e} off",
        "test_scaled_columns__change_nothing",
        beside.scaled_columns,
    ),
)  # fmt: skip


def row_of(point: Point) -> str:
    """A line of the table, with the figures of now."""
    figures = point.measured()
    test = f"`{point.test}`" if point.test else "the same"
    texts = (text.format_map(figures) for text in (point.nilearn, point.chunkglm))
    cells = [point.what, *map(_typeset, texts), test]
    return f"| {' | '.join(cells)} |"


def _typeset(text: str) -> str:
    """Numbers as they are written: 4e-6 for 4e-06, and with a minus sign."""
    text = re.sub(r"(?<=\de)\+?(-?)0*(?=\d)", r"\1", text)
    return re.sub(r"(?<== )-(?=\d)", "−", text)


def main() -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", nargs="?", type=Path, default=PAGE, help="where it is written")
    page = parser.parse_args().page
    rows = [row_of(point) for point in POINTS]
    introduction = INTRODUCTION.format(version=nilearn.__version__, agreement=agreement())
    text = introduction + "\n".join(rows) + "\n"
    page.write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
