"""Networks by name or from a file, with the preprocessing and the class names that belong to them."""

import dataclasses
import difflib
import hashlib
import json
import re
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn

from .preprocessing import Preprocessing
from .running import check_model

IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256, crop=224)
EMBEDDED = ("tiny_vgg", "tiny_resnet")
EMBEDDED_WEIGHTS = Path(__file__).parents[1] / "world" / "weights"


def load(name_or_module: str | nn.Module, weights: str | Path | None = None, *, device: str | torch.device = "cpu",
         preprocessing: Preprocessing | dict | None = None) -> nn.Module:
    """A network in evaluation mode that knows its preprocessing (`net.preprocessing`) and classes (`net.classes`).

    name_or_module: "tiny_vgg" or "tiny_resnet" (trained on the picture world, shipped with the book), the name of any
    of torchvision's classification networks, or a module of your own, which only gets the two attributes: it is
    neither moved nor put into evaluation mode.
    weights: None (the shipped weights, or torchvision's best, which are downloaded), the name of one of torchvision's
    sets such as "IMAGENET1K_V1", or the path of a state dict (.pth or .safetensors), which must fit exactly and needs
    no network. A file called NAME-xxxxxxxx.pth is checked against its SHA-256, as torchvision's own are.
    device: where a network given by name goes.
    preprocessing: None (what the weights were made for), a `Preprocessing`, or a dict with the fields that differ,
    such as {"mean": 0.5, "std": 0.5, "crop": 225}.

    Raises ValueError for an unknown name (the sentence lists near ones) and for weights that are damaged or do not
    fit, FileNotFoundError for a missing file, ConnectionError where weights cannot be downloaded.
    """
    if isinstance(name_or_module, nn.Module):
        if weights is not None:
            raise ValueError("Weights go with a network given by name: load them into your module with "
                             "module.load_state_dict, then pass the module alone.")
        check_model(name_or_module)
        net, standard, classes = name_or_module, IMAGENET, None
        standard = getattr(net, "preprocessing", None) or IMAGENET
        classes = getattr(net, "classes", None) or _numbered(net)
    elif not isinstance(name_or_module, str):
        raise TypeError(f"A network is given by its name or as a module, not as {type(name_or_module).__name__}.")
    elif name_or_module in EMBEDDED:
        net, standard, classes = _embedded(name_or_module, weights)
        net.eval().to(device)
    else:
        net, standard, classes = _torchvision(name_or_module, weights)
        net.eval().to(device)
    # Not registered as parameters or buffers: a state dict of the network stays what it was.
    net.preprocessing = _override(standard, preprocessing)
    net.classes = tuple(classes)
    return net


def _override(standard: Preprocessing, given: Preprocessing | dict | None) -> Preprocessing:
    if given is None:
        return standard
    if isinstance(given, Preprocessing):
        return given
    fields = [field.name for field in dataclasses.fields(Preprocessing)]
    if not isinstance(given, dict) or not set(given) <= set(fields):
        raise ValueError(f"preprocessing is a Preprocessing or a dict with some of {', '.join(fields)}, not {given!r}.")
    return dataclasses.replace(standard, **given)


def _numbered(net: nn.Module) -> list[str]:
    """Names for the classes of a network that says nothing about them; as many as its last layer has outputs."""
    outputs = [getattr(module, "out_features", getattr(module, "out_channels", None)) for module in net.modules()]
    count = next((number for number in reversed(outputs) if isinstance(number, int)), 0)
    return [f"class {i}" for i in range(count)]


def _embedded(name: str, weights: str | Path | None) -> tuple[nn.Module, Preprocessing, tuple[str, ...]]:
    from cambook.world import CLASSES, networks

    if weights is None:
        weights = _shipped(name)
    net = networks.build(name)
    _fill(net, name, Path(weights))
    return net, Preprocessing(networks.MEAN, networks.STD, resize=128, crop=128), CLASSES


def _shipped(name: str) -> Path:
    """The shipped weights' file, after its checksum was compared."""
    path, card = EMBEDDED_WEIGHTS / f"{name}.safetensors", EMBEDDED_WEIGHTS / f"{name}.json"
    for file in (path, card):
        if not file.is_file():
            raise FileNotFoundError(f"The file {file} that should come with cambook is missing: install cambook again, "
                                    "or train the network with `python -m cambook.world train`.")
    try:
        expected = json.loads(card.read_text(encoding="utf-8"))["sha256"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"The model card {card} is damaged: install cambook again.") from None
    if _sha256(path) != expected:
        raise ValueError(f"The checksum of {path} is not the one in its model card, so the file was damaged or changed: "
                         "install cambook again.")
    return path


def _torchvision(name: str, weights: object) -> tuple[nn.Module, Preprocessing, list[str]]:
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        near = difflib.get_close_matches(name, [*EMBEDDED, *names], n=4, cutoff=0.4) or EMBEDDED
        raise ValueError(f"There is no network called {name!r}; near names are: {', '.join(near)}.")
    sets = torchvision.models.get_model_weights(name)
    if weights is None:
        chosen = sets.DEFAULT
    elif isinstance(weights, sets):
        chosen = weights
    else:
        chosen = sets.__members__.get(str(weights))
    if chosen is not None:
        net = _download(name, chosen)
    else:
        path = Path(weights)
        if not path.suffix and not path.exists():
            raise ValueError(f"weights={str(weights)!r} is neither a file nor one of torchvision's sets for {name}: "
                             f"{', '.join(sets.__members__)}.")
        net = _from_file(name, path)
        chosen = sets.DEFAULT
    return net, _published(chosen), chosen.meta["categories"]


def _published(weights: object) -> Preprocessing:
    """The preprocessing that torchvision states for a set of weights, as data."""
    preset = weights.transforms()
    return Preprocessing(tuple(preset.mean), tuple(preset.std), preset.resize_size[0], preset.crop_size[0],
                         preset.interpolation.value)


def _download(name: str, weights: object) -> nn.Module:
    import torchvision

    try:
        return torchvision.models.get_model(name, weights=weights)
    except (URLError, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        raise ConnectionError(f"The weights of {name} could not be downloaded ({reason}): fetch {weights.url} on another "
                              "machine and give the file with weights=PATH.") from error
    except RuntimeError as error:
        if "invalid hash" not in str(error):
            raise
        raise ValueError(f"The download of {weights.url} was damaged on its way: try again, or give a local file with "
                         "weights=PATH.") from error


def _from_file(name: str, path: Path) -> nn.Module:
    import torchvision

    state = _read(path)
    options = {}
    if name in ("googlenet", "inception_v3"):
        # torchvision's weights expect the older normalisation, which the builder switches on only with its own download.
        # The auxiliary heads are in the published files, but not in those saved from a network that dropped them.
        auxiliary = any(key.startswith(("aux", "AuxLogits")) for key in state)
        options = {"transform_input": True, "init_weights": False, "aux_logits": auxiliary}
    net = torchvision.models.get_model(name, weights=None, **options)
    _fit(net, name, state, path)
    return net


def _fill(net: nn.Module, name: str, path: Path) -> None:
    _fit(net, name, _read(path), path)


def _read(path: Path) -> dict[str, Tensor]:
    """The state dict in a file; nothing in the file is executed."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {path}: check the path.")
    named = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", path.name)
    if named and not _sha256(path).startswith(named[1]):
        raise ValueError(f"The checksum of {path} does not begin with {named[1]} as its name says: fetch it again "
                         "(or rename it, if the name means something else).")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:      # the readers raise many types, from EOFError to UnpicklingError
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path} cannot be read as a state dict, so it is damaged or something else ({reason}): "
                         "fetch it again, or save net.state_dict().") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        holds = f"a dict with {', '.join(map(repr, list(state)[:4]))}" if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"{path} holds {holds} instead of a state dict: save net.state_dict() alone.")
    return state


def _fit(net: nn.Module, name: str, state: dict[str, Tensor], path: Path) -> None:
    """Copy a state dict into the network; the sentence names the first keys that do not fit."""
    own = net.state_dict()
    problems = [f"{word} {', '.join(keys[:3])}{' …' if len(keys) > 3 else ''}" for word, keys in (
        ("it lacks", [key for key in own if key not in state]),
        ("it has the unknown", [key for key in state if key not in own]),
        ("other shapes for", [f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}" for key in own
                              if key in state and state[key].shape != own[key].shape])) if keys]
    if problems:
        raise ValueError(f"The weights in {path} do not fit {name}: {'; '.join(problems)}. For a changed network, build "
                         "it yourself and pass the module.")
    net.load_state_dict(state, strict=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
