"""The command `python -m cambook explain PHOTO`: from a photo to a heat map in a file, without code."""

import argparse
import inspect
import sys
from pathlib import Path

import torch
from torch import nn

from . import methods, models, scoring, show
from .explanation import GAP_LIMIT, PathExplanation
from .files import whole


def main(arguments: list[str]) -> int:
    """Explain one photo as the command line says; returns the exit status, 2 for bad input.

    Prints the five most probable classes and what was explained, and writes the photo with the heat map over
    it. Bad input is one sentence on stderr, and leaves no file behind.
    """
    options = _parser().parse_args(arguments)
    try:
        _explain(options)
    except (ValueError, TypeError, OSError) as problem:
        print(f"cambook: {problem}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cambook explain", description="Draw a heat map over a photo."
    )
    parser.add_argument("photo", help="a picture file")
    parser.add_argument("--out", required=True, help="the PNG file to write")
    parser.add_argument(
        "--model",
        default="tiny_vgg",
        help="tiny_vgg, tiny_resnet, or a classification network of torchvision (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        help="a state dict (.pth, .safetensors) or the name of a torchvision weights set; default: the "
        "shipped weights, or torchvision's, which are downloaded",
    )
    parser.add_argument(
        "--method", default="grad_cam", help=f"{', '.join(methods.__all__)} (default: %(default)s)"
    )
    parser.add_argument("--target", help="class to explain, by number or name (default: the most probable)")
    parser.add_argument("--layer", help="layer to look at, by name (default: the last map)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, … (default: %(default)s)")
    add_preprocessing(parser)
    return parser


def add_preprocessing(parser: argparse.ArgumentParser) -> None:
    """The options that `preprocessing` reads."""
    group = parser.add_argument_group("preprocessing", "where it is not the one that belongs to the weights")
    group.add_argument("--mean", type=float, nargs="+", metavar="M", help="one number, or one a colour")
    group.add_argument("--std", type=float, nargs="+", metavar="S", help="one number, or one a colour")
    group.add_argument("--resize", type=int, metavar="PIXELS", help="length of the shorter side")
    group.add_argument("--crop", type=int, metavar="PIXELS", help="side of the square cut from the middle")


def _explain(options: argparse.Namespace) -> None:
    out = Path(options.out)
    if out.suffix.lower() != ".png":
        raise ValueError(f"The heat map becomes a PNG file, so --out must end in .png, unlike {out.name!r}.")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {out.parent} to write {out.name} into: create it first.")
    if options.method not in methods.__all__:
        choice = ", ".join(methods.__all__)
        raise ValueError(f"There is no method {options.method!r}: choose one of {choice}.")
    layers = _layers(options)
    device = _device(options.device)
    photo = models.open_photo(options.photo)

    net = models.load(options.model, options.weights, device=device, preprocessing=preprocessing(options))
    images = net.preprocessing(photo).to(device)    # (1, 3, H, W)
    height, width = images.shape[-2:]
    print(f"{options.photo}: {photo.width}x{photo.height} pixels, {options.model} sees {width}x{height}")

    probabilities = scoring.outputs(net, images)[0].float().softmax(0)
    for probability, number in zip(*probabilities.topk(min(5, len(probabilities))), strict=True):
        print(f"{probability:8.1%}  {_named(net, int(number))}")

    target = None if options.target is None else _class(net, options.target)
    explanation = getattr(methods, options.method)(net, images, target, **layers)
    where = f"layer {explanation.layers[0]}" if explanation.layers else "the input"
    print(
        f"{options.method} for {_named(net, int(explanation.targets[0]))} at {where}, "
        f"{explanation.forwards} images through the network"
    )
    if explanation.flat[0]:
        print(f"The map is flat: nothing in {where} speaks for this class.")
    if isinstance(explanation, PathExplanation) and explanation.incomplete[0]:
        print(f"The sum along the path is rough: it misses the change of the score by more than {GAP_LIMIT:.0%}.")

    pixels = net.preprocessing.photo(images)[0]    # (H, W, 3)
    with whole(out) as part:
        part.write_bytes(show.png(show.overlay(pixels, explanation.map[0])))
    print(f"wrote {out}")


def _layers(options: argparse.Namespace) -> dict:
    """The layer as an argument of the method; nothing for methods of the input's pixels."""
    if "layers" in inspect.signature(getattr(methods, options.method)).parameters:
        return {"layers": options.layer or "auto"}
    if options.layer is not None:
        raise ValueError(f"{options.method} looks at the input's pixels: leave --layer out.")
    return {}


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise ValueError(f"Device {name!r} cannot be used here: try --device cpu.") from None
    return device


def preprocessing(options: argparse.Namespace) -> dict:
    """The fields of a `models.Preprocessing` that the command line names."""
    given = {}
    for field in ("mean", "std"):
        values = getattr(options, field)
        if values is not None:
            given[field] = values[0] if len(values) == 1 else tuple(values)
    for field in ("resize", "crop"):
        if getattr(options, field) is not None:
            given[field] = getattr(options, field)
    return given


def _named(net: nn.Module, number: int) -> str:
    return f"{net.classes[number]} ({number})"


def _class(net: nn.Module, wanted: str) -> int:
    """A class by its number or its name; a number that does not exist is refused by the method."""
    if wanted.lstrip("-").isdecimal():
        return int(wanted)
    names = [name.lower() for name in net.classes]
    if names.count(wanted.lower()) != 1:
        known = "no class" if wanted.lower() not in names else "more than one class"
        raise ValueError(f"There is {known} called {wanted!r}: give its number, 0 to {len(names) - 1}.")
    return names.index(wanted.lower())
