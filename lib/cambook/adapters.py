"""Any method of the book as a captum attribution object or a Quantus explain_func. Needs neither package."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from . import methods


class Captum:
    """A method with captum's interface: `Captum("grad_cam", net).attribute(images, target=3)`.

    method: a name in `cambook.methods`, or a function called like them. model: the network. expand_channels:
    repeat the map over the colour channels, for metrics such as captum's infidelity that want an attribution
    for each value of the input. options: passed on to the method.

    Works with `captum.attr.NoiseTunnel`, `captum.metrics.sensitivity_max` and `captum.metrics.infidelity`.
    """

    # What NoiseTunnel asks of an attribution object.
    multiplies_by_inputs = False

    def __init__(self, method: str | Callable, model: nn.Module, *, expand_channels: bool = False, **options):
        self.method = _method(method)
        self.forward_func = model
        self.expand_channels = expand_channels
        self.options = options

    def has_convergence_delta(self) -> bool:
        return False

    # captum's metrics call under no_grad. As a decorator this also provides `attribute.__wrapped__`, through
    # which NoiseTunnel calls; the methods themselves switch gradients on where they need them.
    @torch.enable_grad()
    def attribute(
        self, inputs: Tensor | tuple[Tensor, ...], target=None, additional_forward_args=None
    ) -> Tensor | tuple[Tensor, ...]:
        """Maps (B, 1, H, W) in [0, 1], or (B, C, H, W) with `expand_channels`; a tuple for a tuple.

        inputs: (B, C, H, W) or a tuple with that one tensor. target: None (top-1), an int, a list of ints or
        a tensor (one element counts for all images). Raises ValueError for several inputs, a tuple as target
        (that would index an output of more than two dimensions) and additional_forward_args.
        """
        if additional_forward_args is not None:
            raise ValueError(
                "The methods call the model with the images alone: leave additional_forward_args out."
            )
        if isinstance(target, tuple):
            raise ValueError(
                "A tuple as target indexes outputs of more than two dimensions; the methods need (B, "
                "classes): give an int, a list or a tensor."
            )
        images = inputs
        if isinstance(inputs, tuple):
            if len(inputs) != 1:
                raise ValueError(
                    f"The methods explain one input tensor, but got {len(inputs)}: wrap the model so that it "
                    "takes the images alone."
                )
            images = inputs[0]
        if isinstance(target, Tensor) and target.numel() == 1:
            target = int(target)
        heat = self.method(self.forward_func, images, target, **self.options).map[:, None]
        if self.expand_channels:
            heat = heat.expand(-1, images.shape[1], -1, -1)
        return (heat,) if isinstance(inputs, tuple) else heat


def quantus(method: str | Callable, **options) -> Callable:
    """A Quantus `explain_func(model, inputs, targets, **kwargs)` made of a method.

    method: a name in `cambook.methods`, or a function called like them. options: passed on to the method;
    layers by name, because Quantus explains copies of the network, in which another network's module does not
    occur.

    The function takes NumPy (B, C, H, W) and (B,), and returns NumPy (B, 1, H, W) float32 at full size
    (Quantus rejects maps of the layer's size). It computes where the model is; Quantus' own keywords
    (`device` is always one) mean nothing here. Quantus refuses batches of maps that are all zero: look at
    `Explanation.flat` of the method if it does.

    Raises ValueError when a layer is given as a module.
    """
    layers = options.get("layers", "auto")
    if not isinstance(layers, (list, tuple)):
        layers = [layers]
    if any(isinstance(layer, nn.Module) for layer in layers):
        raise ValueError(
            "Quantus explains copies of the network, so give the layer by its name, not as a module."
        )
    method = _method(method)

    def explain_func(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **kwargs) -> np.ndarray:
        device = next((parameter.device for parameter in model.parameters()), "cpu")
        images = torch.as_tensor(inputs, dtype=torch.float32, device=device)
        classes = torch.as_tensor(targets, device=device).reshape(-1)
        return method(model, images, classes, **options).map[:, None].cpu().numpy()

    return explain_func


def _method(method: str | Callable) -> Callable:
    if callable(method):
        return method
    if method not in methods.__all__:
        raise ValueError(f"There is no method {method!r}: choose one of {', '.join(methods.__all__)}.")
    return getattr(methods, method)
