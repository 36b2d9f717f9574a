"""State dicts: reading them from files, and fitting them into networks."""

import hashlib
import re
from pathlib import Path

import torch
from torch import Tensor, nn


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a file (.pth or .safetensors), on the CPU; nothing in the file is executed.

    A name that ends in -xxxxxxxx (8 hexadecimal digits or more) states the beginning of the file's SHA-256, as
    in torchvision's store, and must be right. Raises FileNotFoundError for a missing file, ValueError for a
    damaged one and for one that holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {path}: check the path.")
    named = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", path.name)
    # Digits alone are more often a date than a checksum.
    if named and not named[1].isdigit() and not sha256(path).startswith(named[1]):
        raise ValueError(f"The checksum of {path} does not begin with {named[1]} as its name says: fetch it "
                         "again (or rename it, if the name means something else).")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:      # the readers raise many types, from EOFError to UnpicklingError
        raise ValueError(f"{path} cannot be read as a state dict, so it is damaged or something else "
                         f"({first_line(error)}): fetch it again, or save net.state_dict().") from error
    if not isinstance(state, dict) or not all(isinstance(key, str) and isinstance(value, Tensor)
                                              for key, value in state.items()):
        keys = f" with {', '.join(map(repr, list(state)[:4]))}" if isinstance(state, dict) else ""
        raise ValueError(f"{path} holds a {type(state).__name__}{keys} instead of a state dict: "
                         "save net.state_dict() alone.")
    return state


def fit_state(net: nn.Module, name: str, state: dict[str, Tensor], path: Path) -> None:
    """Copy a state dict into the network called `name`.

    Raises ValueError where it does not fit exactly; the sentence names the first missing, unknown and
    reshaped keys.
    """
    own = net.state_dict()
    reshaped = [f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}" for key in own
                if key in state and state[key].shape != own[key].shape]
    # Not strict, because torch knows which keys (num_batches_tracked) the files of older versions may lack.
    missing, unexpected = ([], []) if reshaped else net.load_state_dict(state, strict=False)
    problems = [f"{what} {', '.join(keys[:3])}{' …' if len(keys) > 3 else ''}" for what, keys in (
        ("they lack", missing), ("the network has no", unexpected), ("other shapes:", reshaped)) if keys]
    if problems:
        raise ValueError(f"The weights in {path} do not fit {name} ({'; '.join(problems)}): give those of "
                         "this network; a changed network is built by yourself and passed as a module.")


def first_line(error: Exception) -> str:
    """What an exception says, as far as it fits into a sentence."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def sha256(path: Path) -> str:
    """Checksum of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
