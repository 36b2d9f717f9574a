"""Networks by name or from a file, with the preprocessing and the class names that belong to them."""

import dataclasses
import difflib
import json
import re
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import nn

from .preprocessing import Preprocessing
from .running import check_model
from .weights import first_line, fit_state, read_state, sha256

IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256, crop=224)
EMBEDDED = ("tiny_vgg", "tiny_resnet")
EMBEDDED_WEIGHTS = Path(__file__).parents[1] / "world" / "weights"


def load(name_or_module: str | nn.Module, weights: str | Path | None = None, *,
         device: str | torch.device = "cpu", preprocessing: Preprocessing | dict | None = None) -> nn.Module:
    """A network in evaluation mode that carries its `preprocessing` and the names of its `classes`.

    name_or_module: "tiny_vgg" or "tiny_resnet" (trained on the picture world, shipped with the book), the
    name of any of torchvision's classification networks, or a module of your own, which only gets the two
    attributes (classes "class 0" … unless it has names already): it is neither moved nor put into
    evaluation mode.
    weights: None (the shipped weights, or torchvision's best, which are downloaded), the name of one of
    torchvision's sets such as "IMAGENET1K_V1", or the path of a state dict (.pth or .safetensors), which
    must fit exactly and needs no network. A file called NAME-xxxxxxxx.pth must have a SHA-256 that begins
    so, as torchvision's own do.
    device: where a network given by name goes.
    preprocessing: None (what the weights were made for), a `Preprocessing`, or a dict with the fields that
    differ, such as {"mean": 0.5, "std": 0.5, "crop": 225}.

    Raises ValueError for an unknown name (the sentence lists near ones) and for weights that are damaged or
    do not fit, FileNotFoundError for a missing file and where weights cannot be downloaded.
    """
    if isinstance(name_or_module, nn.Module):
        if weights is not None:
            raise ValueError("Weights go with a network given by name: load them into your module with "
                             "module.load_state_dict, then pass the module alone.")
        check_model(name_or_module)
        net = name_or_module
        standard = _attribute(net, "preprocessing", Preprocessing) or IMAGENET
        classes = _attribute(net, "classes", tuple) or _numbered(net)
    elif not isinstance(name_or_module, str):
        raise TypeError("A network is given by its name or as a module, not as "
                        f"{type(name_or_module).__name__}.")
    elif name_or_module in EMBEDDED:
        net, standard, classes = _embedded(name_or_module, weights)
        _move(net.eval(), device)
    else:
        net, standard, classes = _torchvision(name_or_module, weights)
        _move(net.eval(), device)
    net.preprocessing = _override(standard, preprocessing)
    net.classes = tuple(classes)
    return net


def _attribute(net: nn.Module, name: str, kind: type) -> object:
    """An attribute that an earlier `load` set, or None; anything else of that name is left alone."""
    value = getattr(net, name, None)
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"The module has an attribute {name!r} of its own, where cambook keeps a "
                         f"{kind.__name__}: rename it, or wrap the module in another one.")
    return value


def _move(net: nn.Module, device: str | torch.device) -> None:
    try:
        net.to(device)
    except (RuntimeError, AssertionError) as error:      # which of the two depends on how torch was built
        raise ValueError(f"The network cannot be moved to device {str(device)!r} on this machine: "
                         'use device="cpu", or see what `python -m cambook doctor` says.') from error


def _override(standard: Preprocessing, given: Preprocessing | dict | None) -> Preprocessing:
    if given is None:
        return standard
    if isinstance(given, Preprocessing):
        return given
    fields = [field.name for field in dataclasses.fields(Preprocessing)]
    if not isinstance(given, dict) or not set(given) <= set(fields):
        raise ValueError(f"preprocessing is a Preprocessing or a dict with some of {', '.join(fields)}, not "
                         f"{given!r}.")
    return dataclasses.replace(standard, **given)


def _numbered(net: nn.Module) -> list[str]:
    """Class names for a network that has none; as many as its last layer has outputs."""
    outputs = [getattr(module, name) for module in net.modules() for name in ("out_features", "out_channels")
               if isinstance(getattr(module, name, None), int)]
    count = outputs[-1] if outputs else 0
    return [f"class {i}" for i in range(count)]


def _embedded(name: str, weights: str | Path | None) -> tuple[nn.Module, Preprocessing, tuple[str, ...]]:
    from cambook.world import CLASSES, networks

    path = _shipped(name) if weights is None else _path(weights)
    net = networks.build(name)
    fit_state(net, name, read_state(path), path)
    return net, Preprocessing(networks.MEAN, networks.STD, resize=128, crop=128), CLASSES


def _shipped(name: str) -> Path:
    """The shipped weights' file, after its checksum was compared."""
    path, card = EMBEDDED_WEIGHTS / f"{name}.safetensors", EMBEDDED_WEIGHTS / f"{name}.json"
    for file in (path, card):
        if not file.is_file():
            raise FileNotFoundError(f"The file {file} that should come with cambook is missing: install "
                                    "cambook again, or train the network with `python -m cambook.world "
                                    "train`.")
    try:
        expected = json.loads(card.read_text(encoding="utf-8"))["sha256"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"The model card {card} is damaged: install cambook again.") from None
    if sha256(path) != expected:
        raise ValueError(f"The checksum of {path} is not the one in its model card, so the file was damaged "
                         "or changed: install cambook again.")
    return path


def _torchvision(name: str, weights: object) -> tuple[nn.Module, Preprocessing, list[str]]:
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        near = difflib.get_close_matches(name.lower(), [*EMBEDDED, *names], n=4, cutoff=0.4) or EMBEDDED
        raise ValueError(f"There is no network called {name!r}; near names are: {', '.join(near)}.")
    sets = torchvision.models.get_model_weights(name)
    if weights is None:
        weights = sets.DEFAULT
    elif isinstance(weights, str) and weights in sets.__members__:
        weights = sets[weights]
    if isinstance(weights, sets):
        net, chosen = _download(name, weights), weights
    else:
        path = _path(weights)
        if not path.suffix and not path.exists():
            raise ValueError(f"weights={str(weights)!r} is neither a file nor one of torchvision's sets for "
                             f"{name}: {', '.join(sets.__members__)}.")
        net = _from_file(name, path)
        chosen = _set_of(sets, path)
    return net, _published(chosen), chosen.meta["categories"] or _numbered(net)


def _set_of(sets: type, path: Path) -> object:
    """The set of torchvision's weights that a file seems to be; if in doubt the first."""
    return next((known for known in sets if known.url.endswith("/" + path.name)), next(iter(sets)))


def _path(weights: object) -> Path:
    if not isinstance(weights, (str, Path)):
        raise TypeError("weights is None, the name of a set of weights, or the path of a file, not "
                        f"{weights!r:.60}.")
    return Path(weights)


def _published(weights: object) -> Preprocessing:
    """The preprocessing that torchvision states for a set of weights, as data."""
    preset = weights.transforms()
    return Preprocessing(tuple(preset.mean), tuple(preset.std), preset.resize_size[0], preset.crop_size[0],
                         preset.interpolation.value)


def _download(name: str, weights: object) -> nn.Module:
    """The network with torchvision's weights, from its store on this machine or from the internet."""
    import torchvision

    try:
        return torchvision.models.get_model(name, weights=weights)
    except (OSError, HTTPException, RuntimeError, EOFError, UnpicklingError) as error:
        # Torch keeps a file only after it arrived whole, so a file that is there was damaged later.
        stored = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        if stored.exists():
            raise ValueError(f"The stored weights {stored} are damaged ({first_line(error)}): delete the "
                             "file, so that it is downloaded again, or give weights=PATH.") from error
        reason = getattr(error, "reason", None) or first_line(error)
        raise FileNotFoundError(f"The weights of {name} could not be downloaded ({reason}): fetch "
                                f"{weights.url} on another machine and give the file with "
                                "weights=PATH.") from error


def _from_file(name: str, path: Path) -> nn.Module:
    import torchvision

    state = read_state(path)
    options = {}
    if name in ("googlenet", "inception_v3"):
        # torchvision's weights expect an older normalisation, which the builder switches on only with its
        # own download. The published files hold auxiliary heads; networks saved after loading those have
        # dropped them.
        auxiliary = any(key.startswith(("aux", "AuxLogits")) for key in state)
        options = {"transform_input": True, "init_weights": False, "aux_logits": auxiliary}
    elif name.startswith("densenet"):
        # The published files still spell "norm.1" what the class calls "norm1".
        state = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(?=\d)", r"\1", key): value
                 for key, value in state.items()}
    net = torchvision.models.get_model(name, weights=None, **options)
    fit_state(net, name, state, path)
    return net
