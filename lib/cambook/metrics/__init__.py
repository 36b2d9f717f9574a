"""Metrics: tensors in, one value for each image and a mean out.

Most take maps that are already computed; those that compute maps again take the method as well.
"""

from . import controls
from .bootstrap import interval
from .confidence import ADCCResult, adcc, average_drop, average_drop_in_deletion, average_gain, increase
from .ground_truth import Picture
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
from .summary import Table, read_table
from .table import energy_in_box, energy_in_part, table

__all__ = [
    "ADCCResult",
    "ClassAverages",
    "CurveResult",
    "EnergyResult",
    "Picture",
    "PointingResult",
    "RandomisationResult",
    "RoadResult",
    "SensitivityResult",
    "Table",
    "adcc",
    "average_drop",
    "average_drop_in_deletion",
    "average_gain",
    "box_masks",
    "cascading_randomisation",
    "class_averages",
    "controls",
    "deletion",
    "difficult",
    "energy_in_box",
    "energy_in_part",
    "energy_pointing_game",
    "increase",
    "insertion",
    "interval",
    "max_sensitivity",
    "pointing_game",
    "read_table",
    "relevance_rank",
    "road",
    "spearman",
    "ssim",
    "table",
]
