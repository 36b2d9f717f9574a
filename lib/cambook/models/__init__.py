"""Networks: loading them, preparing photos for them, and finding their layers."""

from .layers import last_layer, layer, stage_layers
from .loading import load
from .preprocessing import Preprocessing, open_photo

__all__ = ["Preprocessing", "last_layer", "layer", "load", "open_photo", "stage_layers"]
