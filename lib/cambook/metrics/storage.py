"""What identifies a computation, and small files on disk that hold its result under that name."""

import ast
import functools
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

LIBRARY = Path(__file__).resolve().parents[1]


def digest(*parts) -> str:
    """Sixteen letters for a sequence of tensors and of anything that JSON can write."""
    summed = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            summed.update(f"{part.dtype}{tuple(part.shape)}".encode())
            summed.update(part.detach().cpu().flatten().contiguous().view(torch.uint8).numpy())
        else:
            summed.update(json.dumps(part, sort_keys=True).encode())
        summed.update(b"\0")
    return summed.hexdigest()[:16]


def describe_model(model: nn.Module) -> dict:
    """The network by its class and weights, and how its pictures are prepared."""
    state = model.state_dict()
    return {
        "network": type(model).__name__,
        "weights": digest(list(state), *state.values()),
        "preprocessing": str(model.preprocessing),
    }


def describe_function(function: Callable) -> dict:
    """The function by its name, and every choice: its defaults, and what functools.partial gave it."""
    options = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty:
            options[name] = _plain(parameter.default)
    bare = unwrap(function)
    return {"function": f"{bare.__module__}.{bare.__qualname__}", "options": options}


def unwrap(function: Callable) -> Callable:
    """The function inside of functools.partial. TypeError for what has no name to be known by."""
    while _is_partial(function):
        if function.args:
            raise TypeError("functools.partial must give options by name, as in partial(grad_cam, layers=…).")
        function = function.func
    if not inspect.isfunction(function):
        raise TypeError(
            "Methods and metrics of a table are functions, or functools.partial of functions, not "
            f"{type(function).__name__}."
        )
    return function


def sources(function: Callable) -> str:
    """A digest of the code that the function rests on, so that a mended formula is not met with old numbers.

    Of a function of this library, its file and all files of the library that it imports, directly or not,
    without comments and docstrings; of any other, its own text. Functions among its options count as well.
    """
    options = getattr(function, "keywords", {}).values()    # of functools.partial
    parts = [sources(option) for option in options if inspect.isfunction(option) or _is_partial(option)]
    function = unwrap(function)
    file = Path(inspect.getsourcefile(function) or "").resolve()
    if LIBRARY not in file.parents:
        if function.__closure__:
            raise ValueError(
                f"{function.__qualname__} has values of a surrounding function, which a cache cannot know: "
                "hand them over by functools.partial."
            )
        return digest(inspect.getsource(function), *parts)
    found, todo = set(), [file]
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            todo += _code(path)[1]
    return digest(*(_code(path)[0] for path in sorted(found)), *parts)


def read(path: Path) -> dict | None:
    """What the file holds; None where there is no such file, or a damaged one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def write(path: Path, content: dict | str) -> None:
    """Write a dict as JSON, or a text, whole or not at all: an interruption leaves what was there before."""
    if isinstance(content, dict):
        content = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(content, encoding="utf-8", newline="\n")
    part.replace(path)


def _plain(value):
    """The value as JSON knows it: a function by its name, a tensor by its digest."""
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)} {digest(value)}"
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if _is_partial(value):
        return describe_function(value)
    if "<" in getattr(value, "__qualname__", ""):
        raise ValueError(
            f"An option is the function {value.__qualname__}, which has no name to be known by in the "
            "settings of a table: define it outside of other functions."
        )
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)


def _is_partial(value) -> bool:
    return isinstance(value, functools.partial)


@functools.cache    # a process has imported the code once, too
def _code(path: Path) -> tuple[str, list[Path]]:
    """A digest of what the file says, and the files of the library that its import statements name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = [file for node in ast.walk(tree) for file in _imports(path, node)]
    for node in ast.walk(tree):
        described = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        if described and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return digest(ast.dump(tree)), imported


def _imports(path: Path, node: ast.AST) -> Iterator[Path]:
    if not isinstance(node, ast.ImportFrom):
        return
    names = node.module.split(".") if node.module else []
    if node.level:
        folder = path.parents[node.level - 1]
    elif names[0] == LIBRARY.name:
        folder = LIBRARY.parent
    else:
        return
    module = folder.joinpath(*names)
    for place in (module, *(module / name.name for name in node.names)):
        for file in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
            if file.is_file():
                yield file
