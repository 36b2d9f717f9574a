"""Finding a network's layers: by name, by module, or by watching one forward pass."""

import difflib
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules import dropout, pooling

from .running import check_images, check_model, forward, frozen_eval

SAME_SCALE = 1.4    # a side that shrinks no more (unpadded convolutions do) has still the same resolution
ONE_STEP = 2.5      # a module that shrinks by more holds several resolutions, so its parts are looked at

# These only gather, drop or pass on what the layer before them found.
PASSIVE = tuple(getattr(kind, name) for kind in (pooling, dropout) for name in kind.__all__) + (nn.Identity,)


def layer(net: nn.Module, which: str | nn.Module) -> tuple[str, nn.Module]:
    """Name and module of a layer that is given by either.

    Raises ValueError for a name that does not exist (the sentence lists near ones) and for a module that is
    not part of the network, TypeError for anything else.
    """
    check_model(net)
    modules = {name: module for name, module in net.named_modules(remove_duplicate=False) if name}
    if isinstance(which, nn.Module):
        for name, module in modules.items():
            if module is which:
                return name, module
        raise ValueError(f"This {type(which).__name__} is not a layer of the model: take the layer from the "
                         "model itself, or give its name.")
    if not isinstance(which, str):
        raise TypeError(f"A layer is given by its name or as a module, not as {type(which).__name__}.")
    if which in modules:
        return which, modules[which]
    near = difflib.get_close_matches(which, modules, n=4, cutoff=0.4) or list(modules)[-4:]
    raise ValueError(f"The model has no layer {which!r}; near names are: {', '.join(near)}.")


def last_layer(net: nn.Module, images: Tensor) -> str:
    """Name of the last building block whose output has spatial extent: what "auto" means.

    `images` (B, 3, H, W): the first one goes through the network once, at its own size. Raises ValueError
    where no layer has a map, and for networks that go on with token sequences.
    """
    return stage_layers(net, images)[-1]


def stage_layers(net: nn.Module, images: Tensor) -> list[str]:
    """Names of the layers before each change of resolution, shallow to deep; the last one is `last_layer`.

    For VGG16 these are the last ReLUs of the five stages (features.3, 8, 15, 22, 29), for a ResNet the
    first ReLU and the last block of each stage. (The list that Poly-CAM's authors use; the rule for other
    networks is our reading.) Found by watching one forward pass of `images[:1]`, so it holds for images of
    that size.

    The rule: follow the building blocks in the order in which they run. A block is what one reaches from
    the root by opening Sequentials and every module that shrinks its input by more than ×2.5. Blocks count
    if they ran once, return (B, K, h, w) with more than one cell, and are no pooling, dropout or identity;
    a convolution that gives one map a class at the very end is the head and does not count. Of each
    resolution the last block is taken.
    """
    stages: list[_Call] = []
    for unit in _units(net, images):
        if stages and not _shrinks(stages[-1].output, unit.output, SAME_SCALE):
            stages.pop()
        stages.append(unit)
    return [unit.name for unit in stages]


def running_order(net: nn.Module, images: Tensor) -> list[str]:
    """Names of all modules ("" is the network) in the order in which they finish one pass of `images[:1]`.

    A module that runs twice is there twice; one that does not run, such as an auxiliary head, is not.
    """
    calls, _ = _watch(net, images)
    return [call.name for call in calls]


@dataclass(frozen=True)
class _Call:
    """One module's one run: the shapes of what went in and what came out (None where that is no tensor)."""

    name: str
    module: nn.Module
    input: tuple[int, ...] | None
    output: tuple[int, ...] | None


def _watch(net: nn.Module, images: Tensor) -> tuple[list[_Call], tuple[int, ...]]:
    """All modules in the order in which they finish a forward pass, and the shape of the network's output."""
    image = check_images(net, images)[:1].clone()       # a clone, in case the network starts in place
    names = {module: name for name, module in net.named_modules()}
    calls: list[_Call] = []

    def note(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        calls.append(_Call(names[module], module, tuple(tensors[0].shape) if tensors else None,
                           tuple(output.shape) if isinstance(output, Tensor) else None))

    hooks = []
    try:
        for module in names:
            hooks.append(module.register_forward_hook(note, with_kwargs=True))
        with frozen_eval(net), torch.no_grad():
            output = forward(net, image)
    finally:
        for hook in hooks:
            hook.remove()
    return calls, tuple(output.shape)


def _units(net: nn.Module, images: Tensor) -> list[_Call]:
    """The building blocks that may be chosen, in the order in which they run."""
    calls, output = _watch(net, images)
    runs = Counter(call.module for call in calls)
    closed = {call.name for call in calls if call.name and not _is_opened(call)}
    before_head = calls[:_head(calls, output)]
    units = [call for call in before_head if call.name in closed and not _parents(call.name) & closed]

    maps = [call for call in units if runs[call.module] == 1 and _is_map(call.output)
            and not isinstance(call.module, PASSIVE)]
    if not maps:
        raise ValueError(f"No layer of this {type(net).__name__} returns a map (B, K, h, w) with more than "
                         f"one cell for images of {images.shape[-2]}×{images.shape[-1]} pixels: class "
                         "activation maps need one.")
    if any(len(call.output or ()) == 3 for call in units[units.index(maps[-1]):]):
        raise ValueError(f"This {type(net).__name__} turns its maps into sequences of tokens, so no layer "
                         "can be chosen automatically: name one.")
    return maps


def _head(calls: list[_Call], output: tuple[int, ...]) -> int:
    """Position of the convolution that gives one map a class at the very end; the end where there is none."""
    learned = [i for i, call in enumerate(calls) if any(True for _ in call.module.parameters(recurse=False))]
    if learned and len(output) > 1:
        module = calls[learned[-1]].module
        if isinstance(module, nn.Conv2d) and module.out_channels == output[1]:
            return learned[-1]
    return len(calls)


def _is_map(shape: tuple[int, ...] | None) -> bool:
    return shape is not None and len(shape) == 4 and shape[2] * shape[3] > 1


def _is_opened(call: _Call) -> bool:
    if not any(True for _ in call.module.children()) or call.input is None or len(call.input) != 4:
        return False
    return isinstance(call.module, nn.Sequential) or not _is_map(call.output) or _shrinks(
        call.input, call.output, ONE_STEP)


def _shrinks(before: tuple[int, ...], after: tuple[int, ...], factor: float) -> bool:
    return before[2] > factor * after[2] or before[3] > factor * after[3]


def _parents(name: str) -> set[str]:
    """"a.b.c" -> {"a", "a.b"}"""
    parts = name.split(".")
    return {".".join(parts[:depth]) for depth in range(1, len(parts))}
