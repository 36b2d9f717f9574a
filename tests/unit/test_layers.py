"""Layers by name, by module and by tracing, on torchvision's families at height ≠ width."""

import pytest
import torch
import torchvision
from torch import nn

from cambook import models
from cambook.world import networks

# What a reader of the papers would point at. Where a transition between stages is a layer of its own
# (DenseNet's 1×1 convolution, ConvNeXt's normalisation), that layer is the last one before the resolution changes.
EXPECTED = {
    "vgg16": ["features.3", "features.8", "features.15", "features.22", "features.29"],
    "vgg11_bn": ["features.2", "features.6", "features.13", "features.20", "features.27"],
    "alexnet": ["features.1", "features.4", "features.11"],
    "resnet18": ["relu", "layer1.1", "layer2.1", "layer3.1", "layer4.1"],
    "resnet50": ["relu", "layer1.2", "layer2.3", "layer3.5", "layer4.2"],
    "resnext50_32x4d": ["relu", "layer1.2", "layer2.3", "layer3.5", "layer4.2"],
    "wide_resnet50_2": ["relu", "layer1.2", "layer2.3", "layer3.5", "layer4.2"],
    "densenet121": ["features.relu0", "features.transition1.conv", "features.transition2.conv",
                    "features.transition3.conv", "features.norm5"],
    "squeezenet1_0": ["features.1", "features.5", "features.10", "features.12"],
    "squeezenet1_1": ["features.1", "features.4", "features.7", "features.12"],
    "mobilenet_v2": ["features.1", "features.3", "features.6", "features.13", "features.18.2"],
    "mobilenet_v3_large": ["features.1", "features.3", "features.6", "features.12", "features.16.2"],
    "mobilenet_v3_small": ["features.0.2", "features.1", "features.3", "features.8", "features.12.2"],
    "efficientnet_b0": ["features.1.0", "features.2.1", "features.3.1", "features.5.2", "features.8.2"],
    "efficientnet_v2_s": ["features.1.1", "features.2.3", "features.3.3", "features.5.8", "features.7.2"],
    "regnet_x_400mf": ["stem.2", "trunk_output.block1.block1-0", "trunk_output.block2.block2-1",
                       "trunk_output.block3.block3-6", "trunk_output.block4.block4-11"],
    "regnet_y_400mf": ["stem.2", "trunk_output.block1.block1-0", "trunk_output.block2.block2-2",
                       "trunk_output.block3.block3-5", "trunk_output.block4.block4-5"],
    "shufflenet_v2_x1_0": ["conv1.2", "stage2.3", "stage3.7", "conv5.2"],
    "googlenet": ["conv1", "conv3", "inception3b", "inception4e", "inception5b"],
    "inception_v3": ["Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"],
    "mnasnet0_5": ["layers.7", "layers.8.2", "layers.9.2", "layers.11.1", "layers.16"],
    "convnext_tiny": ["features.2.0", "features.4.0", "features.6.0", "features.7.2"],
}


def build(name):
    # These two draw their initial weights slowly and warn about it.
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, **options)


@pytest.mark.parametrize("name", EXPECTED)
def test_stages_of_torchvisions_families(name):
    net = build(name)
    images = torch.rand(2, 3, 107, 139) if name == "inception_v3" else torch.rand(2, 3, 96, 128)
    assert models.stage_layers(net, images) == EXPECTED[name]
    assert models.last_layer(net, images) == EXPECTED[name][-1]


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18", "mobilenet_v2", "shufflenet_v2_x1_0"])
@pytest.mark.parametrize("size", [(97, 131), (224, 160), (64, 200)])
def test_other_sizes_have_the_same_stages(name, size):
    assert models.stage_layers(build(name), torch.rand(1, 3, *size)) == EXPECTED[name]


def test_stages_of_the_embedded_networks():
    images = torch.rand(1, 3, 128, 128)
    vgg, resnet = networks.build("tiny_vgg"), networks.build("tiny_resnet")
    assert models.stage_layers(vgg, images) == EXPECTED["vgg16"]
    assert models.last_layer(resnet, images) == "layer4.1"


def test_one_forward_pass_of_one_image_in_evaluation_mode_and_nothing_left():
    net = networks.build("tiny_vgg").train()
    net.features[3].eval()
    flags = {name: module.training for name, module in net.named_modules()}
    passes = []
    net.features[0].register_forward_hook(lambda _, args, __: passes.append((args[0].shape, net.training)))
    models.last_layer(net, torch.rand(3, 3, 64, 96))
    assert passes == [(torch.Size([1, 3, 64, 96]), False)]
    assert {name: module.training for name, module in net.named_modules()} == flags
    assert sum(len(module._forward_hooks) for module in net.modules()) == 1


def test_hooks_go_and_flags_return_when_the_forward_pass_fails():
    net = networks.build("tiny_vgg").train()
    net.classifier.append(nn.Linear(3, 3))      # fits nothing
    with pytest.raises(ValueError, match="fully connected"):
        models.last_layer(net, torch.rand(1, 3, 64, 64))
    assert not any(module._forward_hooks for module in net.modules())
    assert all(module.training for module in net.modules())


def test_images_of_the_caller_are_not_changed_by_a_network_that_works_in_place():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    net(torch.rand(1, 3, 8, 9))
    images = torch.randn(1, 3, 8, 9)
    before = images.clone()
    models.last_layer(net, images)
    assert torch.equal(images, before)


class Reused(nn.Module):
    """One ReLU object behind every convolution."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.relu, self.fc = nn.ReLU(), nn.Linear(6, 5)

    def forward(self, x):
        return self.fc(self.relu(self.second(self.relu(self.first(x)))).mean((2, 3)))


class Listed(nn.Module):
    """Stages in a ModuleList, which itself never runs."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU()),
                                     nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.ReLU())])
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        return self.fc(x.mean((2, 3)))


class Wrapped(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x=x) if isinstance(self.net, Listed) else self.net(x)


def test_a_module_that_runs_twice_is_not_chosen():
    assert models.stage_layers(Reused(), torch.rand(1, 3, 8, 12)) == ["first", "second"]


def test_module_lists_wrappers_and_keyword_arguments_are_looked_through():
    stages = models.stage_layers(Wrapped(Listed()), torch.rand(1, 3, 16, 24))
    assert stages == ["net.stages.0.1", "net.stages.1.1"]


@pytest.mark.parametrize("steps, expected", [((2, 2), ["0.a", "0.b"]), ((2, 1), ["0"])])
def test_a_module_is_looked_into_if_it_spans_several_resolutions(steps, expected):
    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Conv2d(3, 3, 3, stride=step, padding=1) for step in steps)

        def forward(self, x):
            return self.b(self.a(x))

    net = nn.Sequential(Backbone(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    assert models.stage_layers(net, torch.rand(1, 3, 16, 24)) == expected


@pytest.mark.parametrize("stride", [(2, 1), (1, 2)])
def test_a_stage_ends_where_either_side_shrinks(stride):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1, stride), nn.Flatten())
    assert models.stage_layers(net, torch.rand(1, 3, 16, 24)) == ["1", "2"]


def test_a_head_of_class_maps_is_not_a_layer_but_an_equal_convolution_in_the_middle_is():
    class Head(nn.Module):
        def __init__(self, last):
            super().__init__()
            self.conv, self.same, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), last

        def forward(self, x):
            x = self.last(self.same(self.conv(x)).relu())
            return x.mean((2, 3))

    images = torch.rand(1, 3, 12, 17)
    assert models.last_layer(Head(nn.Conv2d(5, 5, 1)), images) == "same"
    assert models.last_layer(Head(nn.Identity()), images) == "conv"       # now `same` gives one map a class


def test_networks_without_a_map_say_so():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 6, 5))
    with pytest.raises(ValueError, match="No layer of this Sequential returns a map .* images of 4×6 pixels"):
        models.last_layer(flat, torch.rand(1, 3, 4, 6))
    with pytest.raises(ValueError, match="sequences of tokens.*name one"):
        vit = torchvision.models.VisionTransformer(16, 8, 1, 2, 8, 16)
        models.last_layer(vit, torch.rand(1, 3, 16, 16))


def test_images_are_checked():
    for wrong, sentence in [(torch.rand(3, 8, 8), "pass image"), (torch.rand(0, 3, 8, 8), "nothing to explain")]:
        with pytest.raises(ValueError, match=sentence):
            models.last_layer(networks.build("tiny_vgg"), wrong)


def test_layer_by_name_and_by_module():
    net = networks.build("tiny_vgg")
    assert models.layer(net, "features.29") == ("features.29", net.features[29])
    assert models.layer(net, net.features[29]) == ("features.29", net.features[29])


@pytest.mark.parametrize("wrong, near", [("features.31", "features.30"), ("feature.29", "features.29"),
                                         ("layer4", "classifier.6"), ("", "classifier.6")])
def test_a_wrong_name_lists_near_ones(wrong, near):
    with pytest.raises(ValueError, match=f"no layer '{wrong}'; near names are: .*{near}"):
        models.layer(networks.build("tiny_vgg"), wrong)


def test_a_foreign_module_or_another_type_is_refused():
    net = networks.build("tiny_vgg")
    with pytest.raises(ValueError, match="This Conv2d is not a layer of the model"):
        models.layer(net, nn.Conv2d(3, 3, 3))
    with pytest.raises(TypeError, match="not as int"):
        models.layer(net, 29)
