"""The network of a run, as each process loads it."""

from pathlib import Path

import torch
from torch import nn

from .. import models
from ..models.weights import fit_state, read_state
from .plan import Plan


def load(plan: Plan, device: str = "cpu") -> nn.Module:
    """The plan's network on a device; errors as in `models.load`.

    Beyond that a weights file may be of a network of torchvision's with another number of classes, as those
    trained on VOC or CUB are; its classes are then numbers, and its pictures are prepared as ImageNet's.
    """
    weights, preprocessing = plan.weights, plan.preprocessing or None
    if weights and Path(weights).is_file() and plan.network not in models.loading.EMBEDDED:
        state = read_state(Path(weights))
        # torchvision's networks register their head last.
        count = len(next(reversed(state.values())))
        if count != 1000:
            net = _with_classes(plan.network, count)
            fit_state(net, plan.network, state, Path(weights))
            return models.load(net.to(device).eval(), preprocessing=preprocessing)
    return models.load(plan.network, weights, device=device, preprocessing=preprocessing)


def stored(plan: Plan, data: Path) -> str | None:
    """The plan's weights; torchvision's own as a file, where `data_download` has put it below `data`."""
    if plan.network in models.loading.EMBEDDED or (plan.weights and Path(plan.weights).is_file()):
        return plan.weights
    import torchvision

    if plan.network not in torchvision.models.list_models(module=torchvision.models):
        return plan.weights    # models.load says what is wrong
    sets = torchvision.models.get_model_weights(plan.network)
    if plan.weights is not None and plan.weights not in sets.__members__:
        return plan.weights
    chosen = sets.DEFAULT if plan.weights is None else sets[plan.weights]
    file = data / "weights" / Path(chosen.url).name
    return str(file) if file.is_file() else plan.weights


def _with_classes(name: str, count: int) -> nn.Module:
    import torchvision

    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(f"There is no network called {name!r} in torchvision.")
    try:
        return torchvision.models.get_model(name, weights=None, num_classes=count)
    except TypeError as error:
        raise ValueError(f"torchvision's {name} cannot have {count} classes: {error}.") from error


def best_device() -> str:
    """"cuda" where there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"
