"""Metrics: tensors in, one value for each image and a mean out.

Most take maps that are already computed; those that compute maps again take the method as well.
"""

from .confidence import ADCCResult, adcc, average_drop, average_drop_in_deletion, average_gain, increase
from .localisation import EnergyResult, PointingResult, energy_pointing_game, pointing_game
from .perturbation import CurveResult, deletion, insertion

__all__ = [
    "ADCCResult",
    "CurveResult",
    "EnergyResult",
    "PointingResult",
    "adcc",
    "average_drop",
    "average_drop_in_deletion",
    "average_gain",
    "deletion",
    "energy_pointing_game",
    "increase",
    "insertion",
    "pointing_game",
]
