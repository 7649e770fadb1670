"""nilearn's signatures and images, this engine inside: change the import line and nothing else.

Arguments, defaults, returned images and the errors for wrong arguments are nilearn's; what is done
differently stands in each docstring. nilearn's maskers, plots and reports are used as they are.
"""

from chunkglm.nilearn.fixed import compute_fixed_effects
from chunkglm.nilearn.means import mean_img
from chunkglm.nilearn.model import FirstLevelModel

__all__ = ["FirstLevelModel", "compute_fixed_effects", "mean_img"]
