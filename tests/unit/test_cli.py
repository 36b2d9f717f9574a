"""`python -m cambook …` as its users meet it: output, the file, and one sentence for each mistake."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cambook.explain
from cambook import files, methods, models, show
from cambook.__main__ import main
from cambook.world import CLASSES, networks

LIB = Path(cambook.explain.__file__).parents[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A state dict of the small network, so that the test does not depend on the trained one."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(networks.build("tiny_resnet").state_dict(), path)
    return path


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "wide.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 140, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def explain(photo, weights, tmp_path):
    """Runs the command in this process: explain(*more) -> (exit status, path of the picture)."""

    def run(*more, photo=photo, out="heat.png", weights=weights):
        out = tmp_path / out
        chosen = ["--model", "tiny_resnet", "--weights", weights, "--resize", "64", "--crop", "64"]
        return main(["explain", *map(str, [photo, *chosen, "--out", out, *more])]), out

    return run


def test_explain_draws_what_the_library_computes(explain, photo, weights, capsys):
    status, out = explain("--target", "3")
    assert status == 0 and capsys.readouterr().err == ""
    net = models.load("tiny_resnet", weights, preprocessing={"resize": 64, "crop": 64})
    images = net.preprocessing(photo)
    heat = methods.grad_cam(net, images, 3).map[0]
    picture = show.overlay(net.preprocessing.photo(images)[0], heat.numpy())
    assert out.read_bytes() == show.png(picture)
    with Image.open(out) as written:
        assert written.size == (64, 64)
    assert os.listdir(out.parent) == ["heat.png"]


def test_explain_prints_classes_with_probabilities(explain, photo, weights, capsys):
    explain()
    lines = capsys.readouterr().out.splitlines()
    net = models.load("tiny_resnet", weights, preprocessing={"resize": 64, "crop": 64})
    with torch.no_grad():
        probabilities = net(net.preprocessing(photo))[0].softmax(0)
    top = probabilities.topk(5)
    assert lines[0].endswith("140x90 pixels, tiny_resnet sees 64x64")
    for line, value, number in zip(lines[1:6], *map(torch.Tensor.tolist, top), strict=True):
        assert line.split() == [f"{value:.1%}", CLASSES[number], f"({number})"]
    best = int(top.indices[0])
    found = f"grad_cam for {CLASSES[best]} ({best}) at layer layer4.1, 2 images through the network"
    assert lines[6] == found
    assert lines[7].startswith("wrote ") and len(lines) == 8


@pytest.mark.parametrize("method", methods.__all__)
def test_every_method(explain, method):
    layer = ["--layer", "layer1.0"] if method not in ("cam", "guided_ig", "integrated_gradients") else []
    status, out = explain("--method", method, "--target", "rocket", *layer)
    assert status == 0 and out.is_file()


def test_target_by_name_is_target_by_number(explain):
    name, number = explain("--target", CLASSES[4].upper(), out="a.png"), explain("--target", "4", out="b.png")
    assert name[0] == number[0] == 0 and name[1].read_bytes() == number[1].read_bytes()


def test_preprocessing_options(explain, capsys):
    plain = explain(out="a.png")[1].read_bytes()
    assert explain("--mean", "0.4", "--std", "0.2", "0.3", "0.2", out="b.png")[1].read_bytes() != plain
    explain("--resize", "80", "--crop", "72", out="c.png")
    assert "sees 72x72" in capsys.readouterr().out


def test_a_flat_map_is_said(explain, weights, tmp_path, capsys):
    state = torch.load(weights, weights_only=True)
    state["fc.weight"].zero_()
    torch.save(state, tmp_path / "zero.pth")
    status, out = explain(weights=tmp_path / "zero.pth")
    assert status == 0 and "The map is flat" in capsys.readouterr().out and out.is_file()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--method", "gradcam"], "There is no method 'gradcam': choose one of cam"),
        (["--model", "tiny_rasnet"], "no network called 'tiny_rasnet'; near names are: tiny_resnet"),
        (["--target", "10"], "Target 10 is out of range"),
        (["--target", "-1"], "Target -1 is out of range"),
        (["--target", "dog"], "no class called 'dog': give its number, 0 to 9"),
        (["--layer", "layer9"], "no layer 'layer9'"),
        (["--method", "guided_ig", "--layer", "layer1"], "looks at the input's pixels: leave --layer out"),
        (["--device", "toaster"], "Device 'toaster' cannot be used"),
        (["--crop", "500"], "500"),
        (["--mean", "1", "2"], "mean must be one number or three"),
        (["--weights", "nowhere.pth"], "no weights file nowhere.pth"),
    ],
)
def test_mistakes_are_one_sentence(explain, more, sentence, capsys):
    status, out = explain(*more)
    written = capsys.readouterr().err
    assert status == 2 and sentence in written and written.count("\n") == 1
    assert list(out.parent.iterdir()) == []


def test_mistakes_with_files(explain, tmp_path, capsys):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    for options, sentence in (
        ({"photo": tmp_path / "missing.jpg"}, "missing.jpg"),
        ({"photo": broken}, "not a picture"),
        ({"out": "heat.jpg"}, "must end in .png"),
        ({"out": "no/such/heat.png"}, "There is no folder"),
    ):
        assert explain(**options)[0] == 2
        assert sentence in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [broken]


def test_a_file_that_cannot_be_finished_leaves_the_old_one(explain, monkeypatch, capsys):
    """The picture is written beside its place and moved there when it is whole."""
    _, out = explain()
    before = out.read_bytes()

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    assert explain("--target", "1")[0] == 2 and "No space left" in capsys.readouterr().err
    assert out.read_bytes() == before and list(out.parent.iterdir()) == [out]


def test_commands(capsys):
    assert main([]) == 2 and "usage" in capsys.readouterr().err
    assert main(["draw"]) == 2 and "no command 'draw'" in capsys.readouterr().err
    assert main(["--help"]) == 0 and "explain PHOTO" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["explain", "--help"])
    assert stop.value.code == 0


def _python(*arguments):
    environment = os.environ | {"PYTHONPATH": str(LIB)}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_from_the_shell(tmp_path):
    """The real command: its exit status, and a sentence instead of a traceback."""
    run = _python("-m", "cambook", "explain", tmp_path / "missing.jpg", "--out", tmp_path / "heat.png")
    assert run.returncode == 2 and run.stdout == ""
    assert "missing.jpg" in run.stderr and "Traceback" not in run.stderr and run.stderr.count("\n") == 1


def test_doctor_is_reached_without_torch(tmp_path):
    """Where importing torch fails, the doctor must still be able to say so."""
    (tmp_path / "torch.py").write_text("raise ImportError('broken on purpose')\n")
    code = (
        "import sys, types; sys.path.insert(0, sys.argv[1]); doctor = types.ModuleType('cambook.doctor');"
        "doctor.main = lambda arguments: 40 + len(arguments); import cambook; cambook.doctor = doctor;"
        "sys.modules['cambook.doctor'] = doctor;"
        "from cambook.__main__ import main; sys.exit(main(['doctor', 'a', 'b']))"
    )
    run = _python("-c", code, tmp_path)
    assert run.returncode == 42, run.stderr
