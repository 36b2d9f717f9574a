"""Metrics for maps that are already computed: tensors in, one value per image and a mean out."""

from .localisation import EnergyResult, PointingResult, energy_pointing_game, pointing_game

__all__ = ["EnergyResult", "PointingResult", "energy_pointing_game", "pointing_game"]
