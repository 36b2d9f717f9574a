"""Clean copies of what layers compute, and of gradients there; nothing of it stays behind in the network."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .models.layers import layer, stage_layers
from .models.running import check_images, forward, frozen_eval

__all__ = ["Captured", "capture", "check_images", "frozen_eval"]

# What stands for the images themselves among the names of layers; torch's name of the whole network.
INPUT = ""


@dataclass(frozen=True)
class Captured:
    """What one pass of B images showed; all tensors are detached.

    activations: layer name -> (B, K, h, w); gradients: the same shapes, empty without a score, the
    derivative of each image's score by its activations; output (B, C); layers: the names, in the order
    asked for; input_gradients: (B, 3, H, W), the derivative by the images, or None where not asked for.
    """

    activations: dict[str, Tensor]
    gradients: dict[str, Tensor]
    output: Tensor
    layers: list[str]
    input_gradients: Tensor | None = None


def capture(model: nn.Module, images: Tensor, layers: str | nn.Module | Sequence[str | nn.Module],
            score: Callable[[Tensor], Tensor] | None = None, *, inputs: bool = False) -> Captured:
    """Activations of `layers` in one forward pass, and the gradients of a `score` there.

    images: (B, 3, H, W), normalised; they go through the network once.
    layers: names or modules. score: None, or a function of the output (B, C) that returns (B,), one number
    an image; its sum is differentiated, which gives each image its own gradient because no layer mixes
    images in evaluation mode. Activations and gradients have the precision in which the model computes.
    inputs: also keep the score's gradient by the images, from the same backward pass; layers may be empty
    then.

    The model comes back as it was, also after an error: hooks, training flags, `requires_grad` and `.grad`.
    It runs in evaluation mode. Frozen models, callers under `torch.no_grad()` or `torch.inference_mode()`,
    and in-place operations behind a layer are fine.

    Raises ValueError for unsuitable images (see `check_images`), for a layer that does not exist, does not
    run, runs more than once, returns no map (B, K, h, w), or does not influence the score.
    """
    # A caller's inference mode would forbid gradients; what is made from here on are ordinary tensors.
    with torch.inference_mode(False), torch.set_grad_enabled(score is not None):
        # A clone, because networks that start with an in-place operation would overwrite the caller's images.
        images = check_images(model, images).detach().clone()
        if isinstance(layers, (str, nn.Module)):
            layers = [layers]
        modules = dict(layer(model, which) for which in layers)
        if not modules and not inputs:
            raise ValueError("No layer was asked for: give at least one name.")
        if inputs and score is None:
            raise ValueError("A gradient by the images needs a score to differentiate: give score.")
        if score is not None:
            _check_differentiable(model)
        # Evaluation mode lasts until after the backward pass: networks that save memory run parts of it
        # again there.
        tape = nullcontext() if score is None else _no_gradients_by_parameters(model)
        with frozen_eval(model), tape:
            # Again a clone, because a leaf that wants a gradient must not be overwritten.
            source = images.requires_grad_() if inputs else None
            kept, output = _run(model, images.clone() if inputs else images, modules, score is not None)
            places = kept | ({INPUT: source} if inputs else {})
            gradients = {} if score is None else _gradients(places, output, score)
        activations = {name: kept[name].detach() for name in modules}
        by_input = gradients.pop(INPUT, None)
        return Captured(activations, gradients, output.detach(), list(modules), by_input)


@contextmanager
def _no_gradients_by_parameters(model: nn.Module) -> Iterator[None]:
    """Switch `requires_grad` of the parameters off, and on again at the end.

    Nobody asks for these gradients, and with them torch would keep every intermediate result from the first
    layer on; so it begins where a gradient is wanted. On a CPU that saves a tenth of Grad-CAM's time.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _run(model: nn.Module, images: Tensor, modules: dict[str, nn.Module], track: bool) -> tuple[dict, Tensor]:
    """One forward pass that keeps a clone of each layer's output; no hook outlives it."""
    seen: dict[str, list] = {name: [] for name in modules}

    def keeper(name: str) -> Callable:
        def keep(module: nn.Module, args: tuple, output: object) -> Tensor | None:
            if seen[name] or not isinstance(output, Tensor) or output.ndim != 4:
                seen[name].append(output if isinstance(output, Tensor) else type(output).__name__)
                return None
            # Two clones. The first is ours: an in-place ReLU behind the layer would overwrite the output
            # itself. The second goes on through the network, so that such a ReLU leaves ours alone.
            with torch.set_grad_enabled(track):
                own = output.clone()
                if track and not own.requires_grad:
                    own.requires_grad_()        # behind frozen parameters, or parts that run without gradients
                seen[name].append(own)
                return own.clone() if track else None
        return keep

    hooks = []
    try:
        for name, module in modules.items():
            hooks.append(module.register_forward_hook(keeper(name)))
        output = forward(model, images)
    finally:
        for hook in hooks:
            hook.remove()
    kept = {name: _one_map(model, images, name, outputs) for name, outputs in seen.items()}
    if output.isnan().any():
        raise ValueError("The model answers with NaN: check its weights, or run it in float32 if it is in "
                         "half precision.")
    return kept, output


def _one_map(model: nn.Module, images: Tensor, name: str, outputs: list) -> Tensor:
    """The single map that a layer gave, or the sentence that says why there is none."""
    if not outputs:
        raise ValueError(f"Layer {name!r} does not run in a forward pass of this model in evaluation mode: "
                         "choose one that does.")
    if len(outputs) > 1:
        raise ValueError(f"Layer {name!r} runs {len(outputs)} times in one forward pass, so its activations "
                         "are not one map: choose a layer that runs once, such as the block around it.")
    [output] = outputs
    if not isinstance(output, Tensor) or output.ndim != 4 or output.shape[2] * output.shape[3] == 1:
        what = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {output}"
        raise ValueError(f"Layer {name!r} returns {what} instead of a map (B, K, h, w) with more than one "
                         f"cell; layers that have one: {', '.join(stage_layers(model, images.detach()))}.")
    return output


def _gradients(places: dict[str, Tensor], output: Tensor,
               score: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    scores = score(output)
    if not isinstance(scores, Tensor) or scores.shape != output.shape[:1]:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"The score must be a tensor with one number for each of the {len(output)} images, "
                         f"not {got}.")
    found = [None] * len(places)
    if scores.requires_grad:
        # autograd.grad instead of backward(): it writes to nobody's .grad.
        found = torch.autograd.grad(scores.sum(), list(places.values()), allow_unused=True)
    for name, gradient in zip(places, found, strict=True):
        if gradient is None and name == INPUT:
            raise ValueError("The images do not influence the score through operations that can be "
                             "differentiated: a part of the model runs without gradients.")
        if gradient is None:
            raise ValueError(f"Layer {name!r} does not influence the score through operations that can be "
                             "differentiated: choose a layer on the way to the output.")
    return dict(zip(places, found, strict=True))


def _check_differentiable(model: nn.Module) -> None:
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError("The model was built under torch.inference_mode(), where gradients cannot be had: "
                         "build or load it outside of that.")
