"""Names, dims, dtypes, units and meaning of every variable, in one table."""

from collections.abc import Mapping
from dataclasses import dataclass

SPACE = ("x", "y", "z")
VOXEL = "voxel"
TIME = "time"
REGRESSOR = "regressor"
CONTRAST = "contrast"
ROW, COLUMN = "row", "row_"  # rows of an F contrast, and again for their covariance


@dataclass(frozen=True, slots=True)
class VarSpec:
    """One variable."""

    name: str
    dims: tuple[str, ...]
    dtype: str
    long_name: str
    units: str = ""

    def attrs(self) -> dict[str, str]:
        """Return its attributes in a Dataset."""
        found = {"long_name": self.long_name}
        return {**found, "units": self.units} if self.units else found


def _table(*specs: VarSpec) -> Mapping[str, VarSpec]:
    return {spec.name: spec for spec in specs}


# Moments: coefficients of least squares about each voxel's first volume, and sums over time of what
# they leave; see kernels.moments.
MOMENTS = _table(
    VarSpec("reference", (VOXEL,), "f8", "first kept volume of the run", "signal"),
    VarSpec(
        "products",
        ("lag", "basis", VOXEL),
        "f8",
        "basis, shifted by lag, times residuals; lag 0: coefficients in the basis",
    ),
    VarSpec("autocovariance", ("lag", VOXEL), "f8", "sums of lagged products of residuals"),
    VarSpec("total", (VOXEL,), "f8", "sum of residuals over time", "signal"),
    VarSpec("head", ("edge", VOXEL), "f8", "first residuals of each segment", "signal"),
    VarSpec("tail", ("edge", VOXEL), "f8", "last residuals of each segment", "signal"),
)

# Units of effects are the signal's: percent of each voxel's mean unless scaling is None.
T_MAPS = _table(
    VarSpec("effect_size", SPACE, "f8", "contrast of the coefficients"),
    VarSpec("effect_variance", SPACE, "f8", "variance of the effect size"),
    VarSpec("stat", SPACE, "f8", "test statistic"),
    VarSpec("p_value", SPACE, "f8", "upper-tail probability, one-sided for t"),
    VarSpec("z_score", SPACE, "f8", "standard normal score of the same tail probability"),
)
F_MAPS = {
    **T_MAPS,
    **_table(
        VarSpec("effect_size", (ROW, *SPACE), "f8", "contrasts of the coefficients"),
        VarSpec("effect_variance", (ROW, COLUMN, *SPACE), "f8", "covariance of the effect sizes"),
    ),
}
# Over voxels, so that maps of runs of unlike length can be concatenated and combined.
DOF = VarSpec("dof", SPACE, "f8", "residual degrees of freedom")
VOXEL_STATUS = VarSpec(
    "voxel_status",
    SPACE,
    "i1",
    "0 estimated, 1 outside the mask, 2 constant, 3 not finite, 4 explained by the design",
)
POOLED = _table(
    VarSpec("n_runs", SPACE, "f8", "runs that count at the voxel"),
    DOF,
    VarSpec(
        "voxel_status",
        SPACE,
        "i1",
        "as of a run where all runs have the same, else 0 estimated, 8 no run counts, "
        "9 too little left after runs were taken out",
    ),
)
MODEL_MAPS = _table(
    VarSpec("beta", (REGRESSOR, *SPACE), "f8", "coefficients"),
    VarSpec("sigma2", SPACE, "f8", "variance of the innovations"),
    VarSpec("ar", ("lag", *SPACE), "f8", "autoregressive coefficients of the noise"),
    VarSpec("r_square", SPACE, "f8", "share of variance explained by least squares"),
)
SIGNAL_MAPS = _table(
    VarSpec("mean", SPACE, "f8", "mean over time", "signal"),
    VarSpec("tsnr", SPACE, "f8", "mean over standard deviation, over time"),
)
# In the units of the fit.
SERIES = _table(
    VarSpec("predicted", (*SPACE, TIME), "f8", "signal that the model predicts"),
    VarSpec("residuals", (*SPACE, TIME), "f8", "signal less what the model predicts"),
    VarSpec("whitened_predicted", (*SPACE, TIME), "f8", "whitened prediction"),
    VarSpec("whitened_residuals", (*SPACE, TIME), "f8", "whitened residuals"),
)
THRESHOLDED = _table(
    VarSpec("thresholded", SPACE, "f8", "statistic where it survives, 0 in the rest of the mask"),
    VarSpec("cluster", SPACE, "i4", "number of the cluster, 0 outside of any"),
    VarSpec("threshold", (), "f8", "height from which voxels survive"),
    VarSpec("n_tests", (), "i8", "voxels tested"),
)
Q_VALUE = VarSpec(
    "q_value", SPACE, "f8", "smallest false discovery rate that lets the voxel through"
)
