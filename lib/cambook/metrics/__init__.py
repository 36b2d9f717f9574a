"""Metrics: tensors in, one value for each image and a mean out.

Most take maps that are already computed; those that compute maps again take the method as well.
"""

from .confidence import ADCCResult, adcc, average_drop, average_drop_in_deletion, average_gain, increase
from .localisation import (
    ClassAverages,
    EnergyResult,
    PointingResult,
    box_masks,
    class_averages,
    difficult,
    energy_pointing_game,
    pointing_game,
    relevance_rank,
)
from .perturbation import CurveResult, deletion, insertion
from .road import RoadResult, road
from .sanity import RandomisationResult, cascading_randomisation, spearman, ssim
from .stability import SensitivityResult, max_sensitivity

__all__ = [
    "ADCCResult",
    "ClassAverages",
    "CurveResult",
    "EnergyResult",
    "PointingResult",
    "RandomisationResult",
    "RoadResult",
    "SensitivityResult",
    "adcc",
    "average_drop",
    "average_drop_in_deletion",
    "average_gain",
    "box_masks",
    "cascading_randomisation",
    "class_averages",
    "deletion",
    "difficult",
    "energy_pointing_game",
    "increase",
    "insertion",
    "max_sensitivity",
    "pointing_game",
    "relevance_rank",
    "road",
    "spearman",
    "ssim",
]
