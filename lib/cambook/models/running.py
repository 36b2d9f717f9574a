"""Running somebody else's network without leaving a trace: evaluation mode, checked images."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@contextmanager
def frozen_eval(model: nn.Module) -> Iterator[nn.Module]:
    """Put every module into evaluation mode, and give each its own `training` flag back at the end.

    The flags are set one by one instead of through `model.eval()`: networks that override `train()` (to
    keep batch normalisation frozen, say) would otherwise come back changed.
    """
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        yield model
    finally:
        for module, training in flags:
            module.training = training


def check_model(model: nn.Module) -> None:
    """Refuse what is no module, and wrappers whose layers are copies."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"The model must be a torch.nn.Module, not {type(model).__name__}; "
                        "cambook.models.load(name) builds one by name.")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise ValueError(f"{type(model).__name__} runs copies of the layers, whose activations cannot be put "
                         "together: pass model.module instead.")
    if hasattr(model, "_orig_mod"):
        raise ValueError("A model compiled by torch.compile hides its layers: pass model._orig_mod instead.")


def _home(model: nn.Module, images: Tensor) -> tuple[torch.device, torch.dtype]:
    """Device and floating type of the model; those of the images where it has no parameters."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return images.device, images.dtype


def check_images(model: nn.Module, images: Tensor) -> Tensor:
    """Images (B, C, H, W), checked for the usual mistakes and cast to the floating type of the model.

    Raises TypeError for anything but a floating tensor, and ValueError for 3-D or empty batches, NaN or
    infinite values, and another device than the model's. The number of channels is checked by `forward`,
    because only the network itself knows what it makes of them.
    """
    check_model(model)
    if not isinstance(images, Tensor):
        raise TypeError(f"Images must be a float tensor (B, 3, H, W), not {type(images).__name__}; "
                        "net.preprocessing(photo) turns a photo into one.")
    if not images.is_floating_point():
        raise TypeError(f"Images are {str(images.dtype).removeprefix('torch.')} values, but must be a "
                        "normalised float tensor (B, 3, H, W): net.preprocessing(photo) turns a photo into "
                        "one.")
    if images.ndim == 3:
        raise ValueError(f"Images must have four dimensions (B, 3, H, W), but have three {_shape(images)}: "
                         "for one image pass image[None].")
    if images.ndim != 4:
        raise ValueError(f"Images must have four dimensions (B, 3, H, W), but have shape {_shape(images)}.")
    if images.numel() == 0:
        raise ValueError(f"There is nothing to explain: the images have shape {_shape(images)}.")
    device, dtype = _home(model, images)
    if images.device != device:
        raise ValueError(f"The images are on {images.device} but the model is on {device}: "
                         f"pass images.to({str(device)!r}).")
    finite = images.isfinite().flatten(1).all(1)
    if not finite.all():
        bad = [i for i, fine in enumerate(finite.tolist()) if not fine]
        raise ValueError(f"Image {bad[0]} of the batch holds NaN or infinite values ({len(bad)} of "
                         f"{len(images)} images do): check how it was loaded and normalised.")
    cast = images.to(dtype)
    if cast.dtype == torch.float16 and not cast.isfinite().all():
        raise ValueError("The images hold values beyond 65504, which the model's float16 cannot hold: "
                         "normalise them first.")
    return cast


def forward(model: nn.Module, images: Tensor) -> Tensor:
    """`model(images)`, with torch's errors about unsuitable images put into one sentence.

    Returns the model's output, a tensor with one row an image. Raises ValueError when the images have the
    wrong number of channels or are too small, or when the output is no such tensor.
    """
    try:
        with _ViewsOfAnyMemory():
            output = model(images)
    except RuntimeError as error:
        sentence = _explain(model, images, str(error))
        if sentence is None:
            raise
        raise ValueError(sentence) from error
    if not isinstance(output, Tensor):
        raise ValueError(f"The model returns a {type(output).__name__} instead of a tensor (B, classes): "
                         "wrap it in a module that returns the class scores alone.")
    if output.ndim == 0 or len(output) != len(images):
        raise ValueError(f"The model returns a tensor of shape {_shape(output)} for {len(images)} images: "
                         "it must give one row of class scores for each image.")
    return output


class _ViewsOfAnyMemory(TorchFunctionMode):
    """Makes a copy where `view` cannot: a network that flattens with it was written for contiguous memory.

    Ours is often channels-last, because convolutions are faster in it. The images do not tell: with one channel
    they are both at once.
    """

    def __torch_function__(self, function: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None):
        if function is Tensor.view and not kwargs and not isinstance(args[1], torch.dtype):
            function = Tensor.reshape
        return function(*args, **(kwargs or {}))


def _explain(model: nn.Module, images: Tensor, message: str) -> str | None:
    """What torch's message means for the images, or None where it has nothing to do with them."""
    height, width = images.shape[-2:]
    if "channels" in message:
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d):
                if module.in_channels == images.shape[1]:
                    return None
                return (f"The images have {images.shape[1]} channels, but the model's first convolution "
                        f"({name}) takes {module.in_channels}.")
    if "Kernel size can't be greater" in message or "Output size is too small" in message:
        return f"Images of {height}×{width} pixels are too small for this model."
    if "shapes cannot be multiplied" in message:
        return (f"Images of {height}×{width} pixels do not fit the model's fully connected layers: "
                "resize them to the size it was made for.")
    return None


def _shape(tensor: Tensor) -> str:
    return "(" + ", ".join(map(str, tensor.shape)) + ("," if tensor.ndim == 1 else "") + ")"
