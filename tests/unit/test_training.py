"""Training can be interrupted anywhere, the shipped networks are the ones that were measured, and folding changes nothing."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file

from cambook import models, world
from cambook.world import evaluate, networks, train


@pytest.fixture
def short_plan(monkeypatch):
    """A training of seconds: 192 scenes, two or three epochs."""
    monkeypatch.setattr(train, "SCENES", 192)
    monkeypatch.setattr(train, "PLAN", {"tiny_vgg": ((1e-3, ((1, 32),)), (1e-4, ((1, 32), (1, 64)))),
                                        "tiny_resnet": ((1e-3, ((1, 32),)), (1e-4, ((1, 32),)))})


# Three steps an epoch: the fifth falls into the second epoch (tiny_vgg has just been folded), the eighth into the third.
@pytest.mark.parametrize(("name", "stop"), [("tiny_vgg", 5), ("tiny_vgg", 8), ("tiny_resnet", 5)])
def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(name, stop, short_plan, tmp_path, monkeypatch):
    whole = load_file(train.train(name, tmp_path / "whole"))
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "training_192.npz").symlink_to(tmp_path / "whole" / "training_192.npz")
    augment, calls = train.augment, []

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return augment(*arguments)

    monkeypatch.setattr(train, "augment", stopping)
    with pytest.raises(KeyboardInterrupt):
        train.train(name, tmp_path / "cut")
    monkeypatch.setattr(train, "augment", augment)
    resumed = load_file(train.train(name, tmp_path / "cut"))
    assert whole.keys() == resumed.keys()
    for key in whole:
        torch.testing.assert_close(resumed[key], whole[key], rtol=0, atol=1e-6, msg=key)
    assert not list((tmp_path / "cut").glob("*.part"))


def test_a_checkpoint_of_another_plan_is_refused(short_plan, tmp_path, monkeypatch):
    train.train("tiny_resnet", tmp_path)
    with pytest.raises(ValueError, match="another seed or plan"):
        train.train("tiny_resnet", tmp_path, seed=1)


def test_folding_batch_normalisation_changes_nothing():
    torch.manual_seed(0)
    trained = networks.TinyVGG(batch_norm=True)
    trained(torch.randn(4, 3, 64, 64))                       # gives the running statistics some values
    images = torch.randn(2, 3, 64, 80)
    with torch.no_grad():
        expected = trained.eval()(images)
        folded = networks.fold(trained)
        torch.testing.assert_close(folded(images), expected, rtol=1e-4, atol=1e-4)
    assert [type(layer) for layer in folded.features] == [type(layer) for layer in networks.TinyVGG().features]


@pytest.mark.parametrize("name", networks.NAMES)
def test_the_shipped_weights_are_the_measured_ones(name):
    facts = json.loads((evaluate.WEIGHTS / f"{name}.json").read_text())
    assert hashlib.sha256((evaluate.WEIGHTS / f"{name}.safetensors").read_bytes()).hexdigest() == facts["sha256"]
    assert (evaluate.WEIGHTS / f"{name}.md").read_text() == evaluate.card(name, facts)
    assert facts["accuracy"] >= .97 and facts["both_in_top_2"] >= .90
    assert facts["scenes_per_class"] == 5000 and all(sum(row) == 5000 for row in facts["confusion"])


@pytest.mark.parametrize("name", networks.NAMES)
def test_the_shipped_weights_are_as_good_as_their_card(name):
    net = models.load(name)
    drawn = [world.scene(seed) for seed in range(70_000, 70_200)]
    right = evaluate.logits(net, [scene.image for scene in drawn]).argmax(1)
    right = (right == torch.tensor([scene.label for scene in drawn])).float().mean()
    assert right >= .94, f"{right:.1%} of 200 scenes"        # 97 % less 2.5 standard deviations of a sample of 200
    pairs = [world.two_class_scene(seed) for seed in range(70_000, 70_100)]
    top = evaluate.logits(net, [scene.image for scene in pairs]).topk(2).indices
    both = sum(set(found.tolist()) == set(scene.labels) for found, scene in zip(top, pairs))
    assert both >= 83, f"both classes in the top 2 in {both} of 100 scenes"


def test_a_network_by_another_name_is_refused():
    with pytest.raises(ValueError, match="no embedded network is called 'vgg'"):
        networks.build("vgg")
