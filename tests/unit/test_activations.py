"""Clean capture: the right numbers, whatever stands behind the layer, and nothing left in the model."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from cambook import activations, targets
from cambook.activations import capture, check_images
from cambook.world import networks

LAYER = "features.28"       # a convolution with an in-place ReLU behind it


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def vgg():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return networks.build("tiny_vgg")


def scorer(given):
    return lambda output: targets.resolve(given, output).score(output)


def state_of(model):
    """Everything about a model that a caller could find changed."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = {name: (id(module), module.training, [list(getattr(module, kind)) for kind in hooks])
               for name, module in model.named_modules(remove_duplicate=False)}
    tensors = {name: (id(tensor), tensor.requires_grad, tensor._version, tensor.detach().clone(),
                      None if tensor.grad is None else (id(tensor.grad), tensor.grad.clone()))
               for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    return modules, tensors


def assert_same(before, after):
    assert before[0] == after[0]
    for name, old in before[1].items():
        new = after[1][name]
        assert old[:3] == new[:3] and torch.equal(old[3], new[3]), name
        assert (old[4] is None) == (new[4] is None), name
        assert old[4] is None or (old[4][0] == new[4][0] and torch.equal(old[4][1], new[4][1])), name


def by_hand(net, images, classes, cut=29):
    """Activations and gradients of tiny_vgg behind `features[cut - 1]`, by running its two halves."""
    net = copy.deepcopy(net).eval()
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    kept = net.features[:cut](images).detach().requires_grad_()
    output = net.classifier(net.avgpool(net.features[cut:](kept)).flatten(1))
    [gradient] = torch.autograd.grad(output[range(len(images)), classes].sum(), kept)
    return kept.detach(), gradient, output.detach()


# The numbers

def test_activations_and_gradients_are_those_of_the_two_halves(vgg, images):
    kept, gradient, output = by_hand(vgg, images, [4, 0, 9])
    got = capture(vgg, images, LAYER, scorer([4, 0, 9]))
    assert got.layers == [LAYER]
    assert torch.equal(got.activations[LAYER], kept) and kept.min() < 0     # not what the ReLU made of it
    torch.testing.assert_close(got.gradients[LAYER], gradient, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(got.output, output)
    assert not any(tensor.requires_grad for tensor in
                   (got.output, *got.activations.values(), *got.gradients.values()))


def test_several_layers_by_name_and_module_in_the_order_asked_for(vgg, images):
    got = capture(vgg, images, [vgg.features[28], "features.1", "features"], scorer(2))
    assert got.layers == list(got.activations) == list(got.gradients) == [LAYER, "features.1", "features"]
    kept, gradient, _ = by_hand(vgg, images, [2, 2, 2], cut=2)
    assert torch.equal(got.activations["features.1"], kept)
    torch.testing.assert_close(got.gradients["features.1"], gradient, rtol=1e-4, atol=1e-9)
    assert got.activations["features"].shape == (3, 96, 2, 3)


def test_without_a_score_there_are_no_gradients_and_the_same_activations(vgg, images):
    plain, scored = capture(vgg, images, LAYER), capture(vgg, images, LAYER, scorer(1))
    assert plain.gradients == {}
    assert torch.equal(plain.activations[LAYER], scored.activations[LAYER])
    assert torch.equal(plain.output, scored.output)


def test_images_of_a_batch_do_not_mix(vgg, images):
    together = capture(vgg, images, LAYER, scorer([1, 2, 3]))
    alone = capture(vgg, images[1:2], LAYER, scorer(2))
    torch.testing.assert_close(together.gradients[LAYER][1:2], alone.gradients[LAYER], rtol=1e-4, atol=1e-8)


def test_an_impulse_stays_in_its_row_and_column():
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(2 * 5 * 7, 4))
    picture = torch.zeros(1, 3, 5, 7)
    picture[0, :, 1, 6] = 9
    cells = (capture(net, picture, "0").activations["0"] - net[0].bias[:, None, None]).abs()[0].sum(0)
    assert cells.nonzero().tolist() == [[1, 6]]


@pytest.mark.parametrize("layer", ["features.28", "features.29", "features.27", "features.0"])
def test_in_place_relus_change_nothing(vgg, images, layer):
    safe = copy.deepcopy(vgg)
    for module in safe.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    one, two = (capture(net, images, layer, scorer(5)) for net in (vgg, safe))
    assert torch.equal(one.activations[layer], two.activations[layer])
    assert torch.equal(one.gradients[layer], two.gradients[layer])
    assert torch.equal(one.output, two.output)


class FunctionalRelu(nn.Module):
    """DenseNet's pattern: the map is overwritten by F.relu(inplace=True) right behind the layer."""

    def __init__(self, inplace=True):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.inplace = inplace

    def forward(self, x):
        return self.fc(F.relu(self.norm(self.conv(x)), inplace=self.inplace).mean((2, 3)))


def test_functional_in_place_relu(images):
    net = FunctionalRelu()
    one = capture(net, images, "norm", scorer(0))
    net.inplace = False
    two = capture(net, images, "norm", scorer(0))
    assert one.activations["norm"].min() < 0
    assert torch.equal(one.activations["norm"], two.activations["norm"])
    assert torch.equal(one.gradients["norm"], two.gradients["norm"])


def test_densenets_last_normalisation(images):
    net = torchvision.models.DenseNet(8, (2, 2), 16, num_classes=6, memory_efficient=True).train()
    before = state_of(net)
    got = capture(net, images, "features.norm5", scorer(1))
    assert got.activations["features.norm5"].min() < 0
    # DenseNet ends in ReLU, mean, linear: the gradient is w/N where the activation is positive.
    cells = got.activations["features.norm5"]
    expected = net.classifier.weight[1][None, :, None, None] * (cells > 0) / cells[0, 0].numel()
    torch.testing.assert_close(got.gradients["features.norm5"], expected.detach())
    # Its memory-saving blocks run again in the backward pass, which must not touch the batch statistics.
    assert_same(before, state_of(net))


def test_a_network_that_starts_in_place_leaves_the_images_alone():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 4 * 6, 3))
    images = torch.randn(2, 3, 6, 8)
    before = images.clone()
    for score in (None, scorer(0)):
        capture(net, images, "1", score)
        assert torch.equal(images, before) and not images.requires_grad


# The caller's model and surroundings

def test_the_model_comes_back_as_it_was(vgg, images):
    vgg.train()
    vgg.features[5].eval()
    vgg.features[0].weight.requires_grad_(False)
    vgg.features[3].register_forward_hook(lambda *_: None)
    vgg(images).sum().backward()                # the caller's own gradients
    before = state_of(vgg)
    for score in (None, scorer(0)):
        capture(vgg, images, [LAYER, "features.3"], score)
        assert_same(before, state_of(vgg))


def test_dropout_is_off_and_batch_statistics_are_not_updated(images):
    net = torchvision.models.resnet18(num_classes=4).train()
    before = state_of(net)
    one, two = (capture(net, images, "layer4", scorer(0)) for _ in range(2))
    assert torch.equal(one.output, two.output)
    assert_same(before, state_of(net))


def test_a_model_whose_train_method_is_its_own():
    class Merging(FunctionalRelu):
        """Changes its weights when it is switched, as networks with low-rank adapters do."""

        def train(self, mode=True):
            with torch.no_grad():
                self.conv.weight += 1
            return super().train(mode)

    net = Merging()
    before = state_of(net)
    capture(net, torch.rand(1, 3, 8, 9), "norm")
    assert_same(before, state_of(net))


def boom(*_):
    raise KeyError("boom")


def test_an_exception_in_the_score_leaves_everything_as_it_was(vgg, images):
    before = state_of(vgg.train())
    with pytest.raises(KeyError):
        capture(vgg, images, LAYER, boom)
    assert_same(before, state_of(vgg))


def test_an_exception_in_the_model_leaves_everything_as_it_was(vgg, images):
    hook = vgg.features[30].register_forward_hook(boom)
    before = state_of(vgg.train())
    with pytest.raises(KeyError):
        capture(vgg, images, LAYER, scorer(0))
    assert_same(before, state_of(vgg))
    hook.remove()


@pytest.mark.parametrize("layers", ["features.31", ["features.1", "nothing"], "classifier.0", []])
def test_a_wrong_layer_leaves_everything_as_it_was(vgg, images, layers):
    before = state_of(vgg.train())
    with pytest.raises(ValueError):
        capture(vgg, images, layers, scorer(0))
    assert_same(before, state_of(vgg))


def test_frozen_models_have_gradients(vgg, images):
    expected = capture(vgg, images, LAYER, scorer(3)).gradients[LAYER]
    vgg.requires_grad_(False)
    got = capture(vgg, images, LAYER, scorer(3)).gradients[LAYER]
    assert torch.equal(got, expected) and expected.abs().max() > 0


def test_nothing_before_the_layer_is_kept_for_the_backward_pass(vgg, images):
    """Peers keep every intermediate result of the network, for gradients that nobody asks for."""
    kept = []
    vgg.requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda t: t):
        found = capture(vgg, images, "features.29", lambda output: output[:, 0])
    maps = [tensor.numel() for tensor in kept if tensor.ndim == 4]
    assert maps and max(maps) <= found.activations["features.29"].numel()
    assert all(parameter.requires_grad for parameter in vgg.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("frozen", [False, True])
def test_callers_without_gradients(vgg, images, mode, frozen):
    expected = capture(vgg, images, LAYER, scorer(3))
    vgg.requires_grad_(not frozen)
    with mode():
        inside = images + 0                     # an inference tensor under inference_mode
        got = capture(vgg, inside, LAYER, scorer(3))
        plain = capture(vgg, inside, LAYER)
        assert not torch.is_grad_enabled()
    assert torch.equal(got.gradients[LAYER], expected.gradients[LAYER])
    assert torch.equal(plain.activations[LAYER], expected.activations[LAYER])
    assert not got.gradients[LAYER].is_inference()
    got.activations[LAYER].requires_grad_()     # can be used with autograd afterwards


def test_a_backbone_that_runs_without_gradients(vgg, images):
    class Probe(nn.Module):
        """A fixed backbone under no_grad with a trained head, as in linear probing."""

        def __init__(self):
            super().__init__()
            self.backbone, self.fc = vgg.features, nn.Linear(96, 4)

        def forward(self, x):
            with torch.no_grad():
                x = self.backbone(x)
            return self.fc(x.mean((2, 3)))

    net = Probe()
    got = capture(net, images, "backbone", scorer(2))
    expected = net.fc.weight[2][None, :, None, None].expand(3, 96, 2, 3) / 6
    torch.testing.assert_close(got.gradients["backbone"], expected.detach())
    with pytest.raises(ValueError, match="'backbone.3' does not influence the score"):
        capture(net, images, "backbone.3", scorer(2))


def test_a_model_built_under_inference_mode(images):
    with torch.inference_mode():
        net = networks.build("tiny_vgg")
    with pytest.raises(ValueError, match="built under torch.inference_mode.*outside"):
        capture(net, images, LAYER, scorer(0))
    assert capture(net, images, LAYER).output.shape == (3, 10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_dead_channels(vgg, images, dtype):
    with torch.no_grad():
        vgg.features[28].weight[:10] = 0
        vgg.features[28].bias[:10] = 0
    full = capture(vgg, images, LAYER, scorer(1))
    half = capture(copy.deepcopy(vgg).to(dtype), images, LAYER, scorer(1))      # float32 images are cast
    assert half.activations[LAYER].dtype == half.gradients[LAYER].dtype == half.output.dtype == dtype
    # Cell by cell the gradients differ, where two cells compete in the max pooling behind; their sums do not.
    for wide, narrow in ((full.activations[LAYER], half.activations[LAYER]),
                         (full.gradients[LAYER].mean((2, 3)), half.gradients[LAYER].float().mean((2, 3)))):
        assert narrow.isfinite().all() and not narrow[:, :10].any()
        assert (wide - narrow).abs().max() < 0.02 * wide.abs().max()


def test_under_autocast_the_precision_is_that_of_the_layer(vgg, images):
    full = capture(vgg, images, LAYER, scorer(1)).activations[LAYER]
    with torch.autocast("cpu", torch.bfloat16):
        got = capture(vgg, images, LAYER, scorer(1))
    assert got.activations[LAYER].dtype == got.gradients[LAYER].dtype == torch.bfloat16
    assert (got.activations[LAYER] - full).abs().max() < 0.02 * full.abs().max()


def test_no_tensor_is_kept_alive_by_the_model(vgg, images):
    import gc
    import weakref
    got = capture(vgg, images, LAYER, scorer(0))
    tensor = weakref.ref(got.activations[LAYER])
    del got
    gc.collect()
    assert tensor() is None


# Sentences

class Odd(nn.Module):
    """A network with every kind of layer that cannot be explained."""

    def __init__(self):
        super().__init__()
        self.conv, self.same = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.pool, self.unused, self.pair = nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 3), Pair()
        self.side, self.fc = nn.Conv2d(4, 2, 1), nn.Linear(4, 5)

    def forward(self, x):
        x = self.same(self.same(self.conv(x)))
        self.side(x)
        return self.fc(self.pool(self.pair(x)[0]).flatten(1))


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize("layer, sentence", [
    ("same", "'same' runs 2 times in one forward pass.*choose a layer that runs once"),
    ("unused", "'unused' does not run"),
    ("fc", r"'fc' returns a tensor of shape \(3, 5\) instead of a map \(B, K, h, w\)"),
    ("pool", r"'pool' returns a tensor of shape \(3, 4, 1, 1\) instead of a map"),
    ("pair", "'pair' returns a tuple instead of a map"),
    ("side", "'side' does not influence the score"),
    ("sam", "no layer 'sam'; near names are: same"),
    ([], "No layer was asked for"),
])
def test_layers_that_have_no_map(layer, sentence):
    net = Odd()
    before = state_of(net)
    with pytest.raises(ValueError, match=sentence):
        capture(net, torch.rand(3, 3, 8, 11), layer, scorer(0))
    assert_same(before, state_of(net))


def test_the_sentence_names_layers_that_have_a_map(vgg, images):
    with pytest.raises(ValueError, match="have one: features.3, features.8, .*, features.22, features.29.$"):
        capture(vgg, images, "classifier.0")


class Says(nn.Module):
    """A network whose output is whatever the test wants."""

    def __init__(self, what):
        super().__init__()
        self.conv, self.what = nn.Conv2d(3, 4, 3), what

    def forward(self, x):
        return self.what(self.conv(x).mean((2, 3)))


@pytest.mark.parametrize("what, sentence", [
    (lambda x: {"out": x}, "returns a dict instead of a tensor"),
    (lambda x: (x, x), "returns a tuple instead of a tensor"),
    (lambda x: x[0], r"shape \(4,\) for 2 images: it must give one row"),
    (lambda x: x.sum(), r"shape \(\) for 2 images"),
    (lambda x: x[:, 0], r"shape \(2,\), so classes cannot be read off"),
    (lambda x: x * float("nan"), "answers with NaN"),
])
def test_outputs_that_are_no_class_scores(what, sentence):
    with pytest.raises(ValueError, match=sentence):
        capture(Says(what), torch.rand(2, 3, 6, 7), "conv", scorer(0))


def test_outputs_of_minus_infinity_are_fine():
    def masked(x):
        return x.masked_fill(torch.tensor([False, True, False, False]), float("-inf"))
    assert capture(Says(masked), torch.rand(2, 3, 6, 7), "conv", scorer(0)).gradients["conv"].isfinite().all()


@pytest.mark.parametrize("score", [lambda output: output, lambda output: output.sum(), lambda output: 1.0])
def test_a_score_is_one_number_an_image(score):
    with pytest.raises(ValueError, match="one number for each of the 2 images"):
        capture(Says(lambda x: x), torch.rand(2, 3, 6, 7), "conv", score)


@pytest.mark.parametrize("wrap, sentence", [
    (nn.DataParallel, "pass model.module"),
    (lambda net: torch.compile(net, backend="eager"), "pass model._orig_mod"),
])
def test_wrappers_whose_layers_are_hidden(wrap, sentence):
    with pytest.raises(ValueError, match=sentence):
        capture(wrap(FunctionalRelu()), torch.rand(1, 3, 8, 8), "conv")


PICTURES = torch.rand(2, 3, 8, 9)
WITH_NAN = PICTURES.clone()
WITH_NAN[1, 0, 0, 0] = float("nan")


@pytest.mark.parametrize("given, error, sentence", [
    (PICTURES[0], ValueError, r"four dimensions .* three \(3, 8, 9\): for one image pass image\[None\]"),
    (PICTURES[None], ValueError, r"have shape \(1, 2, 3, 8, 9\)"),
    (PICTURES[:0], ValueError, r"nothing to explain: the images have shape \(0, 3, 8, 9\)"),
    ((PICTURES * 255).to(torch.uint8), TypeError, "uint8 values, but must be a normalised float tensor"),
    (PICTURES.numpy(), TypeError, "not ndarray; net.preprocessing"),
    (WITH_NAN, ValueError, r"Image 1 of the batch holds NaN or infinite values \(1 of 2"),
    (PICTURES / 0, ValueError, "Image 0 of the batch holds NaN"),
    (PICTURES.to("meta"), ValueError, r"images are on meta but the model is on cpu: pass images.to\('cpu'\)"),
    (torch.rand(2, 4, 8, 9), ValueError, r"4 channels, but the model's first convolution \(conv\) takes 3"),
    (torch.rand(2, 3, 2, 9), ValueError, "2×9 pixels are too small"),
])
@pytest.mark.parametrize("score", [None, scorer(0)])
def test_images_that_cannot_be_explained(given, error, sentence, score):
    net = FunctionalRelu().train()
    before = state_of(net)
    with pytest.raises(error, match=sentence):
        capture(net, given, "conv", score)
    assert_same(before, state_of(net))


def test_images_that_do_not_fit_the_head():
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 4 * 6, 3))
    with pytest.raises(ValueError, match="7×8 pixels do not fit the model's fully connected layers"):
        capture(net, torch.rand(1, 3, 7, 8), "0")


def test_other_errors_of_the_model_are_its_own():
    def fails(x):
        raise RuntimeError("channels of communication are closed")
    with pytest.raises(RuntimeError, match="communication"):
        capture(Says(fails), PICTURES, "conv")


def test_images_too_large_for_half_precision():
    with pytest.raises(ValueError, match="beyond 65504"):
        check_images(FunctionalRelu().half(), PICTURES * 1e6)


def test_checked_images_have_the_models_precision():
    assert check_images(FunctionalRelu(), PICTURES.double()).dtype == torch.float32
    assert check_images(FunctionalRelu().double(), PICTURES).dtype == torch.float64
    assert check_images(nn.Flatten(), PICTURES) is PICTURES         # no parameters, no opinion
    with pytest.raises(TypeError, match="must be a torch.nn.Module, not function"):
        check_images(boom, PICTURES)


def test_frozen_eval_restores_each_flag_also_after_an_exception(vgg):
    vgg.train()
    vgg.classifier.eval()
    flags = [module.training for module in vgg.modules()]
    with pytest.raises(KeyError), activations.frozen_eval(vgg) as same:
        assert same is vgg and not any(module.training for module in vgg.modules())
        boom()
    assert [module.training for module in vgg.modules()] == flags


# The gradient by the images


def test_the_gradient_by_the_images_comes_from_the_same_pass(vgg, images):
    """With layers and without, in a network full of in-place operations, and the layers' are the same."""
    vgg.eval()
    before, classes = images.clone(), [1, 4, 7]
    with_layers = capture(vgg, images, [LAYER], scorer(classes), inputs=True)
    leaf = images.clone().requires_grad_()
    vgg(leaf)[[0, 1, 2], classes].sum().backward()
    torch.testing.assert_close(with_layers.input_gradients, leaf.grad, atol=0, rtol=0)
    without = capture(vgg, images, [], scorer(classes), inputs=True)
    assert torch.equal(without.input_gradients, leaf.grad) and not without.activations
    plain = capture(vgg, images, LAYER, scorer(classes))
    assert torch.equal(with_layers.gradients[LAYER], plain.gradients[LAYER]) and plain.input_gradients is None
    assert torch.equal(images, before) and not images.requires_grad


def test_the_gradient_by_the_images_of_a_network_that_starts_in_place():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(1, 1, 1), nn.Flatten())
    images = torch.tensor([[[[1.0, -2.0]]]])
    seen = capture(net, images, "1", lambda output: output.sum(1), inputs=True)
    assert seen.input_gradients.tolist() == [[[[net[1].weight.item(), 0]]]]


def test_errors_of_the_gradient_by_the_images(images):
    class Without(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)

        def forward(self, images):
            return self.conv(images.detach()).mean((2, 3))

    with pytest.raises(ValueError, match="needs a score"):
        capture(Without(), images, "conv", inputs=True)
    with pytest.raises(ValueError, match="The images do not influence the score"):
        capture(Without(), images, "conv", scorer(0), inputs=True)
