"""`python -m cambook doctor`: is everything here that the book needs, and what to do about what is not?

One line for each thing: [OK], [SKIP] (optional and absent) or [FAIL] (with what to do). Nothing heavy is
imported at the top: the most common illness is a torch that cannot be imported, and this must still speak.
"""

import argparse
import hashlib
import importlib
import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent.parent
NETWORKS = ("tiny_vgg", "tiny_resnet")
JUPYTER = ("jupyterlab", "ipykernel", "ipywidgets", "matplotlib", "nbclient", "nbconvert", "papermill")

REINSTALL = "delete .venv and call make again"
TOGETHER = (
    "torch and torchvision must come together from the same registry (a CPU-only torch beside the registry's "
    "torchvision does this): pip install --force-reinstall -c constraints.txt torch torchvision, or "
    + REINSTALL
)


@dataclass(frozen=True)
class Line:
    """One finding. ``remedy`` is what to do, for FAIL only."""

    state: str  # "OK", "SKIP" or "FAIL"
    subject: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        first = f"{f'[{self.state}]':<6} {self.subject:<11} {self.text}"
        return f"{first}\n       what to do: {self.remedy}" if self.remedy else first


def python() -> Line:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()} ({sys.executable})"
    if sys.version_info < (3, 11):
        return Line(
            "FAIL", "Python", text, "cambook needs 3.11 or newer: install one, then make PYTHON=python3.12"
        )
    return Line("OK", "Python", text)


def torch() -> Line:
    try:
        module = importlib.import_module("torch")
    except Exception as error:  # whatever a broken installation raises: ImportError, OSError, RuntimeError …
        return Line("FAIL", "torch", f"cannot be imported: {_first_line(error)}", REINSTALL)
    if _release(module.__version__) < (2, 11):
        return Line(
            "FAIL",
            "torch",
            module.__version__,
            "cambook needs 2.11 or newer: pip install -U torch torchvision",
        )
    return Line("OK", "torch", f"{module.__version__}, {module.get_num_threads()} threads")


def torchvision() -> Line:
    """Import it and call one of its compiled operators: where torch does not fit, one of the two fails."""
    if "torch" not in sys.modules:
        return Line("SKIP", "torchvision", "not tried, because torch cannot be imported")
    try:
        module = importlib.import_module("torchvision")
        tensor = sys.modules["torch"].tensor
        module.ops.nms(tensor([[0.0, 0.0, 1.0, 1.0]]), tensor([1.0]), 0.5)
    except ModuleNotFoundError as error:
        return Line("FAIL", "torchvision", f"cannot be imported: {error}", REINSTALL)
    except Exception as error:
        return Line("FAIL", "torchvision", f"does not fit this torch: {_first_line(error)}", TOGETHER)
    return Line("OK", "torchvision", f"{module.__version__}, fits this torch")


def package(name: str) -> Line:
    try:
        return Line("OK", name, importlib.import_module(name).__version__)
    except Exception as error:
        return Line("FAIL", name, f"cannot be imported: {_first_line(error)}", REINSTALL)


def jupyter(name: str) -> Line:
    """Only look whether it is installed: importing all of Jupyter takes many seconds."""
    try:
        return Line("OK", name, version(name))
    except PackageNotFoundError:
        return Line(
            "FAIL",
            name,
            "is not installed",
            f'pip install -c constraints.txt -e ".[notebooks]", or {REINSTALL}',
        )


def cuda() -> Line:
    module = sys.modules.get("torch")
    if module is None or not module.cuda.is_available():
        return Line("SKIP", "CUDA", "no device: everything runs on the CPU")
    return Line("OK", "CUDA", f"{module.cuda.get_device_name()}, CUDA {module.version.cuda}")


def triton() -> Line:
    # Its Linux wheel imports without a GPU too, and dies at the first kernel: look for the device first.
    if cuda().state != "OK":
        return Line("SKIP", "Triton", "only used with a CUDA device")
    try:
        return Line("OK", "Triton", importlib.import_module("triton").__version__)
    except Exception as error:
        return Line(
            "SKIP", "Triton", f"cannot be imported, plain torch is used instead: {_first_line(error)}"
        )


def weights(name: str, folder: Path = PACKAGE / "world" / "weights") -> Line:
    """Compare a shipped network's file with the SHA-256 written beside it."""
    remedy = f"git checkout -- {folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder}"
    try:
        expected = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["sha256"]
        found = hashlib.sha256((folder / f"{name}.safetensors").read_bytes()).hexdigest()
    except FileNotFoundError as error:
        return Line("FAIL", "weights", f"{Path(error.filename).name} is missing", remedy)
    except (ValueError, KeyError) as error:
        return Line("FAIL", "weights", f"{name}.json cannot be read: {_first_line(error)}", remedy)
    if found != expected:
        return Line(
            "FAIL", "weights", f"{name}.safetensors has another checksum than {name}.json says", remedy
        )
    return Line("OK", "weights", f"{name}, checksum {found[:8]}…")


def pictures(folder: Path = ROOT.parent / "shared" / "real") -> Line:
    if not folder.is_dir():
        return Line(
            "SKIP", "pictures", "no real pictures in ../shared/real: the tests marked `real` are skipped"
        )
    return Line("OK", "pictures", "real pictures found in ../shared/real")


def examine() -> Iterator[Line]:
    """All findings in order. torch comes early because later lines look at the module it left behind."""
    yield python()
    yield torch()
    yield torchvision()
    for name in ("numpy", "safetensors"):
        yield package(name)
    yield cuda()
    yield triton()
    for name in NETWORKS:
        yield weights(name)
    yield pictures()
    for name in JUPYTER:
        yield jupyter(name)


def main(argv: list[str] | None = None) -> int:
    """Print the findings; the status is 1 when one of them is a FAIL."""
    argparse.ArgumentParser(
        prog="python -m cambook doctor", description="Check this installation."
    ).parse_args(argv)
    states = []
    for line in examine():
        print(line, flush=True)
        states.append(line.state)
    print(
        "Everything that is needed is here."
        if "FAIL" not in states
        else f"{states.count('FAIL')} of these failed."
    )
    return 1 if "FAIL" in states else 0


def _release(text: str) -> tuple[int, int]:
    """(major, minor) of a version such as "2.15.0+cpu"."""
    major, minor = text.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()))


def _first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
