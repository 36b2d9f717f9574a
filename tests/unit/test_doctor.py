"""doctor: it must speak most clearly where the installation is most broken."""

import hashlib
import json
import os
import re
import subprocess
import sys

import pytest

from cambook import doctor

TORCH = """
__version__ = "{version}"
def get_num_threads(): return 2
def tensor(values): return values
class cuda:
    def is_available(): return False
"""
TORCHVISION = """
__version__ = "0.29.2"
class ops:
    def nms(boxes, scores, threshold): {nms}
"""


def run(tmp_path, module=("cambook", "doctor"), **files):
    """doctor in a process of its own, where the given packages stand in for the installed ones."""
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
    path = os.pathsep.join([str(tmp_path), str(doctor.ROOT / "lib")])
    done = subprocess.run(
        [sys.executable, "-m", *module],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


def lines(done, subject):
    """The finding on a subject and, where it has one, its remedy."""
    text = done.stdout.splitlines()
    at = next(i for i, line in enumerate(text) if re.match(rf"\[\w+\] +{subject} ", line))
    return " ".join(text[at : at + 2])


def test_torch_that_cannot_be_imported(tmp_path):
    done = run(tmp_path, torch='raise OSError("libtorch_cpu.so: cannot open\\nmore")')
    assert done.returncode == 1
    assert "[FAIL] torch " in done.stdout and "libtorch_cpu.so: cannot open" in lines(done, "torch")
    assert "what to do: delete .venv" in lines(done, "torch")
    assert lines(done, "torchvision").startswith("[SKIP]")
    assert lines(done, "CUDA").startswith("[SKIP]") and lines(done, "Triton").startswith("[SKIP]")


def test_works_as_a_module_too(tmp_path):
    done = run(tmp_path, module=("cambook.doctor",), torch='raise ImportError("no")')
    assert done.returncode == 1 and "[FAIL] torch " in done.stdout


@pytest.mark.parametrize(
    "nms",
    [
        "raise RuntimeError('operator torchvision::nms does not exist')",
        "raise NotImplementedError('torchvision::nms: no backend')",
    ],
)
def test_torchvision_that_does_not_fit(tmp_path, nms):
    done = run(tmp_path, torch=TORCH.format(version="2.15.0+cpu"), torchvision=TORCHVISION.format(nms=nms))
    assert done.returncode == 1
    assert "[OK]   torch " in done.stdout
    assert "[FAIL] torchvision" in done.stdout and "torchvision::nms" in lines(done, "torchvision")
    assert "must come together" in lines(done, "torchvision")


def test_mismatch_already_at_import(tmp_path):
    done = run(
        tmp_path,
        torch=TORCH.format(version="2.15.0+cpu"),
        torchvision='raise RuntimeError("operator torchvision::nms does not exist")',
    )
    assert "[FAIL] torchvision" in done.stdout and "must come together" in lines(done, "torchvision")


@pytest.mark.parametrize(
    "version, state", [("2.9.1", "FAIL"), ("2.10.0+cu130", "FAIL"), ("2.11.0", "OK"), ("3.0.1", "OK")]
)
def test_oldest_torch(tmp_path, version, state):
    done = run(tmp_path, torch=TORCH.format(version=version), torchvision=TORCHVISION.format(nms="pass"))
    assert lines(done, "torch").startswith(f"[{state}]")


def test_old_python(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    assert doctor.python().state == "FAIL" and "3.11" in doctor.python().remedy


def card(folder, name="net", **change):
    """A weights file with its card, as the project ships them."""
    content = b"\x00" * 1000
    (folder / f"{name}.safetensors").write_bytes(content)
    record = {"sha256": hashlib.sha256(content).hexdigest()} | change
    (folder / f"{name}.json").write_text(json.dumps(record))


def test_weights_in_order(tmp_path):
    card(tmp_path)
    assert doctor.weights("net", tmp_path).state == "OK"


def test_weights_damaged_missing_or_without_a_card(tmp_path):
    card(tmp_path)
    (tmp_path / "net.safetensors").write_bytes(b"\x00" * 999 + b"\x01")
    assert doctor.weights("net", tmp_path).state == "FAIL"
    assert "git checkout" in doctor.weights("net", tmp_path).remedy
    (tmp_path / "net.safetensors").unlink()
    assert "net.safetensors is missing" in doctor.weights("net", tmp_path).text
    (tmp_path / "net.json").write_text("{}")
    (tmp_path / "net.safetensors").write_bytes(b"")
    assert "cannot be read" in doctor.weights("net", tmp_path).text
    (tmp_path / "net.json").unlink()
    assert "net.json is missing" in doctor.weights("net", tmp_path).text


def test_pictures_are_optional(tmp_path):
    assert doctor.pictures(tmp_path).state == "OK"
    assert doctor.pictures(tmp_path / "absent").state == "SKIP"


def test_missing_jupyter_package():
    line = doctor.jupyter("a-package-that-nobody-has")
    assert line.state == "FAIL" and "[notebooks]" in line.remedy


def test_status_and_format(monkeypatch, capsys):
    good, bad = doctor.Line("OK", "one", "fine"), doctor.Line("FAIL", "two", "broken", "mend it")
    monkeypatch.setattr(doctor, "examine", lambda: iter([good]))
    assert doctor.main([]) == 0
    monkeypatch.setattr(doctor, "examine", lambda: iter([good, bad]))
    assert doctor.main([]) == 1
    assert (
        "[FAIL] two         broken\n       what to do: mend it\n1 of these failed." in capsys.readouterr().out
    )


def test_this_installation_passes():
    assert [str(line) for line in doctor.examine() if line.state == "FAIL"] == []
