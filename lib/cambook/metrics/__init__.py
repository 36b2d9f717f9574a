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

__all__ = [
    "ADCCResult",
    "ClassAverages",
    "CurveResult",
    "EnergyResult",
    "PointingResult",
    "adcc",
    "average_drop",
    "average_drop_in_deletion",
    "average_gain",
    "box_masks",
    "class_averages",
    "deletion",
    "difficult",
    "energy_pointing_game",
    "increase",
    "insertion",
    "pointing_game",
    "relevance_rank",
]
