"""Networks by name, from files, from torchvision's store; one sentence for each way that fails."""

import json
import urllib.error

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from cambook import models, world
from cambook.models import Preprocessing, loading
from cambook.models.weights import sha256
from cambook.world import networks

NAME = "shufflenet_v2_x0_5"         # small, and quick to build


@pytest.fixture(scope="module")
def state():
    return torchvision.models.get_model(NAME, weights=None).state_dict()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and an empty place for downloads."""
    def refuse(*_, **__):
        raise urllib.error.URLError("no route to host")
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


# Embedded networks

@pytest.mark.parametrize("name", ["tiny_vgg", "tiny_resnet"])
def test_the_shipped_networks_know_the_picture_world(name, offline):
    net = models.load(name)
    assert not any(module.training for module in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert net.classes == world.CLASSES
    scenes = [world.scene(seed) for seed in range(10**6, 10**6 + 50)]
    images = torch.cat([net.preprocessing(scene.image) for scene in scenes])
    assert images.shape == (50, 3, 128, 128)
    with torch.no_grad():
        right = net(images).argmax(1) == torch.tensor([scene.label for scene in scenes])
    assert right.float().mean() >= 0.9
    assert "preprocessing" not in net.state_dict() and "classes" not in net.state_dict()


@pytest.fixture
def shipped(monkeypatch, tmp_path):
    """A folder of shipped weights which a test may damage."""
    path = tmp_path / "tiny_vgg.safetensors"
    safetensors.torch.save_file(networks.build("tiny_vgg").state_dict(), path)
    (tmp_path / "tiny_vgg.json").write_text(json.dumps({"sha256": sha256(path)}))
    monkeypatch.setattr(loading, "EMBEDDED_WEIGHTS", tmp_path)
    return tmp_path


def test_shipped_weights_are_compared_with_their_card(shipped):
    weights, card = shipped / "tiny_vgg.safetensors", shipped / "tiny_vgg.json"
    assert torch.equal(models.load("tiny_vgg").features[0].weight,
                       safetensors.torch.load_file(weights)["features.0.weight"])
    intact = bytearray(weights.read_bytes())
    intact[-1] ^= 1                             # one bit of one weight: readable, but not what was trained
    weights.write_bytes(intact)
    with pytest.raises(ValueError, match="checksum of .*tiny_vgg.safetensors is not .* install cambook"):
        models.load("tiny_vgg")
    card.write_text("{")
    with pytest.raises(ValueError, match="model card .* is damaged"):
        models.load("tiny_vgg")
    card.unlink()
    with pytest.raises(FileNotFoundError, match="tiny_vgg.json .* missing"):
        models.load("tiny_vgg")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="tiny_vgg.safetensors .* missing: install .* or train"):
        models.load("tiny_vgg")


def test_other_weights_for_an_embedded_network(tmp_path):
    other = networks.build("tiny_resnet")
    torch.save(other.state_dict(), tmp_path / "mine.pth")
    net = models.load("tiny_resnet", weights=tmp_path / "mine.pth")
    assert torch.equal(net.fc.weight, other.fc.weight) and net.classes == world.CLASSES


# torchvision's networks from files

@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_local_state_dict_needs_no_network(tmp_path, offline, state, suffix):
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else safetensors.torch.save_file)(state, path)
    for given in (path, str(path)):
        net = models.load(NAME, weights=given)
        assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
        assert not any(module.training for module in net.modules())
        assert len(net.classes) == 1000 and net.classes[1] == "goldfish"
        assert net.preprocessing == loading.IMAGENET
    assert not offline.exists()


def test_preprocessing_follows_the_file_and_can_be_overridden(tmp_path, state):
    # EfficientNet-B1 has two sets of weights with different preprocessing; other files get the first's.
    for name, expected in [("efficientnet_b1_rwightman-bac287d4.pth", (256, 240, "bicubic")),
                           ("efficientnet_b1-c27df63c.pth", (255, 240, "bilinear")),
                           ("mine.pth", (256, 240, "bicubic"))]:
        chosen = loading._set_of(torchvision.models.EfficientNet_B1_Weights, tmp_path / name)
        got = loading._published(chosen)
        assert (got.resize, got.crop, got.interpolation) == expected
    torch.save(state, tmp_path / "w.pth")
    net = models.load(NAME, tmp_path / "w.pth", preprocessing={"mean": 0.5, "std": 0.5, "crop": 225})
    assert net.preprocessing == Preprocessing((0.5,) * 3, (0.5,) * 3, resize=256, crop=225)
    own = Preprocessing(0, 1, None, None)
    assert models.load(NAME, tmp_path / "w.pth", preprocessing=own).preprocessing is own
    for wrong in ({"size": 3}, "imagenet"):
        with pytest.raises(ValueError, match="a dict with some of mean, std, resize, crop, interpolation"):
            models.load(NAME, tmp_path / "w.pth", preprocessing=wrong)


def test_files_that_are_no_weights(tmp_path, state):
    with pytest.raises(FileNotFoundError, match="There is no weights file .*nowhere.pth"):
        models.load(NAME, tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match=f"neither a file nor one of .* sets for {NAME}: IMAGENET1K_V1"):
        models.load(NAME, "IMAGENET1K_V7")
    with pytest.raises(TypeError, match="the path of a file, not {"):
        models.load(NAME, {"fc.weight": 1})
    for name, content in {"text.pth": b"text", "empty.pth": b"", "text.safetensors": b"text"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} cannot be read as a state dict"):
            models.load(NAME, tmp_path / name)
    for name, save in [("half.pth", torch.save), ("half.safetensors", safetensors.torch.save_file)]:
        path = tmp_path / name
        save(state, path)
        path.write_bytes(path.read_bytes()[:100_000])
        with pytest.raises(ValueError, match=f"{name} cannot be read .* fetch it again"):
            models.load(NAME, path)


def test_nothing_in_a_file_is_executed(tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return print, ("executed",)
    torch.save({"fc.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="cannot be read as a state dict"):
        models.load(NAME, tmp_path / "evil.pth")
    assert capsys.readouterr().out == ""


def test_files_that_hold_something_else(tmp_path, state):
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match="holds a dict with 'epoch', 'state_dict' instead of a state dict"):
        models.load(NAME, tmp_path / "checkpoint.pth")
    torch.save({1: torch.zeros(2)}, tmp_path / "numbers.pth")
    with pytest.raises(ValueError, match="holds a dict with 1 instead of a state dict"):
        models.load(NAME, tmp_path / "numbers.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list instead of a state dict"):
        models.load(NAME, tmp_path / "list.pth")


def test_weights_that_do_not_fit_name_the_first_keys(tmp_path, state):
    path = tmp_path / "w.pth"
    torch.save({key.replace("fc.", "head."): value for key, value in state.items()}, path)
    with pytest.raises(ValueError, match=rf"do not fit {NAME} \(they lack fc.weight, fc.bias; the network has "
                                         r"no head.weight, head.bias\)"):
        models.load(NAME, path)
    torch.save({**state, "fc.weight": torch.zeros(10, 1024), "fc.bias": torch.zeros(10)}, path)
    with pytest.raises(ValueError, match=r"shapes: fc.weight \(10, 1024\) instead of \(1000, 1024\), fc.b"):
        models.load(NAME, path)
    with pytest.raises(ValueError, match=r"do not fit tiny_vgg \(they lack features.0.weight, .* …; the net"):
        models.load("tiny_vgg", path)


def test_the_checksum_in_a_files_name(tmp_path, state):
    torch.save(state, tmp_path / "w.pth")
    digest = sha256(tmp_path / "w.pth")
    for name in (f"mine-{digest[:8]}.pth", "mine-20240131.pth"):        # the second is a date
        (tmp_path / "w.pth").rename(tmp_path / name)
        models.load(NAME, tmp_path / name)
        (tmp_path / name).rename(tmp_path / "w.pth")
    wrong = "0a" if digest[0] != "0" else "1a"
    (tmp_path / "w.pth").rename(tmp_path / f"mine-{wrong}bcdef1.pth")
    with pytest.raises(ValueError, match=f"does not begin with {wrong}bcdef1 as its name says"):
        models.load(NAME, tmp_path / f"mine-{wrong}bcdef1.pth")


def test_files_of_older_versions(tmp_path, state):
    # Files older than `num_batches_tracked`, as many of torchvision's own are.
    old = {key: value for key, value in state.items() if "num_batches" not in key}
    torch.save(old, tmp_path / "old.pth")
    assert torch.equal(models.load(NAME, tmp_path / "old.pth").fc.weight, state["fc.weight"])
    # DenseNet's published files have names that the class no longer has.
    dense = torchvision.models.densenet121().state_dict()
    spelt = {key.replace("norm1.", "norm.1.").replace("norm2.", "norm.2.").replace("conv1.", "conv.1.")
             .replace("conv2.", "conv.2."): value for key, value in dense.items()}
    assert any("denselayer1.norm.1.weight" in key for key in spelt)
    torch.save(spelt, tmp_path / "dense.pth")
    net = models.load("densenet121", tmp_path / "dense.pth")
    assert all(torch.equal(value, dense[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("auxiliary", [True, False])
def test_googlenet_keeps_the_normalisation_its_weights_expect(tmp_path, auxiliary):
    other = torchvision.models.googlenet(aux_logits=auxiliary, init_weights=False)
    torch.save(other.state_dict(), tmp_path / "w.pth")
    net = models.load("googlenet", tmp_path / "w.pth")
    assert net.transform_input and isinstance(net(torch.rand(1, 3, 64, 64)), torch.Tensor)


# torchvision's store

def test_without_a_network_the_sentence_says_what_to_do(offline):
    for weights in (None, "IMAGENET1K_V1", torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1):
        with pytest.raises(FileNotFoundError, match=r"of squeezenet1_1 could not be downloaded \(no route to "
                                                    r"host\): fetch https://.*-b8a52dc0.pth .* weights=PATH"):
            models.load("squeezenet1_1", weights)
    assert not list(offline.parent.rglob("*.p*"))       # nothing half-written


def test_weights_that_were_downloaded_before_are_used_and_damaged_ones_named(offline):
    offline.mkdir(parents=True)
    stored = offline / "squeezenet1_1-b8a52dc0.pth"
    other = torchvision.models.squeezenet1_1()
    torch.save(other.state_dict(), stored)
    net = models.load("squeezenet1_1")
    assert torch.equal(net.features[0].weight, other.features[0].weight)
    assert net.classes[1] == "goldfish" and net.preprocessing == loading.IMAGENET
    for damaged in (stored.read_bytes()[:5000], b"", b"not weights"):
        stored.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"stored .*b8a52dc0.pth are damaged \(.*\): delete the file"):
            models.load("squeezenet1_1")


@pytest.mark.parametrize("wrong, near", [
    ("resnet5", "resnet50"), ("tinyvgg", "tiny_vgg"), ("VGG-16", "vgg16"), ("fcn_resnet50", "resnet50"),
    ("%", "tiny_vgg"),
])
def test_an_unknown_name_lists_near_ones(wrong, near):
    with pytest.raises(ValueError, match=f"no network called '{wrong}'; near names are: .*{near}"):
        models.load(wrong)


# Modules

def test_a_module_gets_two_attributes_and_is_otherwise_untouched():
    net = torchvision.models.squeezenet1_1(num_classes=7).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert models.load(net) is net and net.training
    assert net.preprocessing == loading.IMAGENET
    assert net.classes == tuple(f"class {i}" for i in range(7))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    # What was set once stays, unless it is overridden.
    net.classes = ("a", "b", "c", "d", "e", "f", "g")
    models.load(net, preprocessing={"crop": None})
    assert net.preprocessing.crop is None
    models.load(net)
    assert net.preprocessing.crop is None and net.classes[0] == "a"
    assert models.load(nn.Flatten()).classes == ()


def test_what_is_no_network():
    with pytest.raises(TypeError, match="by its name or as a module, not as int"):
        models.load(5)
    with pytest.raises(ValueError, match="load the weights|load them into your module"):
        models.load(nn.Linear(2, 3), weights="w.pth")
    with pytest.raises(ValueError, match="pass model.module"):
        models.load(nn.DataParallel(nn.Linear(2, 3)))
    taken = nn.Linear(2, 3)
    taken.classes = 3
    with pytest.raises(ValueError, match="attribute 'classes' of its own"):
        models.load(taken)
    assert taken.classes == 3 and not hasattr(taken, "preprocessing")


def test_a_device_that_is_not_there(tmp_path, state):
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="cannot be moved to device 'nonsense'"):
        models.load(NAME, tmp_path / "w.pth", device="nonsense")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="cannot be moved to device 'cuda'.* use device=\"cpu\""):
            models.load(NAME, tmp_path / "w.pth", device="cuda")
