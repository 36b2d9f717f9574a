"""The methods on networks so small that the answer is known, and on the book's two with random weights."""

import itertools

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from cambook import methods
from cambook.methods.grad_cam_pp import coefficients
from cambook.methods.score_cam import channel_softmax
from cambook.models import stage_layers
from cambook.world import networks

GRADIENT = [methods.grad_cam, methods.grad_cam_pp, methods.layer_cam]
# The region map of these two is Score-CAM's; `raw` is the map itself.
UNION = [methods.union_cam, methods.fusion_cam]
MASKING = [methods.score_cam, methods.increment_cam, *UNION]
EVERY = [methods.cam, *GRADIENT, *MASKING]
by_name = {"ids": lambda value: value.__name__}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Pooled(nn.Module):
    """Convolution, ReLU, global average, one linear layer: the head that CAM was made for."""

    def __init__(self, channels=4, classes=3, seed=0):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(channels, classes)
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters()):
                parameter.copy_(random(*parameter.shape, seed=100 * seed + i))

    def forward(self, images):
        return self.fc(self.relu(self.conv(images)).mean((2, 3)))


class Linear(nn.Module):
    """The score is a given weighted sum of the layer's cells: weights (classes, K, h, w) are its gradient."""

    def __init__(self, weights):
        super().__init__()
        self.layer = nn.Conv2d(weights.shape[1], weights.shape[1], 1, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(weights.shape[1])[:, :, None, None])
        self.register_buffer("weights", weights)

    def forward(self, images):
        return torch.einsum("ckhw,bkhw->bc", self.weights, self.layer(images))


def state(model):
    """All that a method must leave as it found it."""
    return {
        "tree": [(name, id(module)) for name, module in model.named_modules()],
        "hooks": [
            len(hooks)
            for module in model.modules()
            for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        ],
        "training": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "grad": [None if each.grad is None else each.grad.tolist() for each in model.parameters()],
        "values": {name: value.tolist() for name, value in model.state_dict().items()},
    }


@pytest.fixture(scope="module")
def nets():
    torch.manual_seed(0)
    return {name: networks.build(name).eval() for name in networks.NAMES}


# The formulas


def test_cam_is_the_classifiers_row():
    model, images = Pooled(), random(2, 3, 8, 12)
    e = methods.cam(model, images, [2, 0], trace=True)
    activations = model.relu(model.conv(images)).detach()
    for b, c in enumerate([2, 0]):
        expected = sum(model.fc.weight[c, k] * activations[b, k] for k in range(4)).detach()
        torch.testing.assert_close(e.raw[b], expected, atol=1e-5, rtol=0)
        # The map explains the logit completely: its mean, and the bias.
        torch.testing.assert_close(e.raw[b].mean() + model.fc.bias[c], e.scores[b], atol=1e-5, rtol=0)
    assert torch.equal(e.trace["weights"], model.fc.weight[[2, 0]])


def test_grad_cam_is_cam_where_cam_exists():
    """Up to the number of cells, which the min-max removes."""
    model, images = Pooled(), random(2, 3, 10, 14)
    a, b = methods.cam(model, images), methods.grad_cam(model, images)
    torch.testing.assert_close(a.raw / a.raw[0].numel(), b.raw, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(a.map, b.map, atol=1e-5, rtol=0)


def test_grad_cam_is_the_mean_gradient():
    weights, images = random(2, 3, 4, 5), random(2, 3, 4, 5, seed=1)
    e = methods.grad_cam(Linear(weights), images, [1, 0], layers="layer", trace=True)
    alpha = weights[[1, 0]].mean((2, 3))
    torch.testing.assert_close(e.trace["weights"], alpha)
    torch.testing.assert_close(e.trace["gradients"], weights[[1, 0]])
    torch.testing.assert_close(e.raw, torch.einsum("bk,bkhw->bhw", alpha, images))


def test_layer_cam_weighs_each_cell():
    """Two halves of a map with opposite gradients: the mean is zero, the positive half is not."""
    weights = torch.ones(1, 1, 2, 4)
    weights[..., 2:] = -1
    images = torch.arange(1.0, 9).view(1, 1, 2, 4)
    e = methods.layer_cam(Linear(weights), images, 0, layers="layer")
    assert e.raw[0].tolist() == [[1, 2, 0, 0], [5, 6, 0, 0]]
    assert methods.grad_cam(Linear(weights), images, 0, layers="layer").flat.all()


def published(activations, gradients):
    """Grad-CAM++'s coefficient as the paper writes it, cell by cell in double precision; 0 for 0/0."""
    activations, gradients = activations.double(), gradients.double()
    result = torch.zeros_like(gradients)
    for b, k in itertools.product(*map(range, gradients.shape[:2])):
        total = activations[b, k].sum()
        for i, j in itertools.product(*map(range, gradients.shape[2:])):
            g = gradients[b, k, i, j]
            denominator = 2 * g**2 + total * g**3
            if denominator != 0:
                result[b, k, i, j] = g**2 / denominator
    return result


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-12, 1e3])
def test_grad_cam_pp_follows_the_published_equation(scale):
    """Non-uniform A, both signs, g = 0. The sum over A is outside of g³; the denominator does take part; and
    with tiny gradients no epsilon outweighs the signal."""
    weights = random(2, 3, 4, 5) * scale
    weights[:, 1, :2] = 0
    images = random(2, 3, 4, 5, seed=1)
    e = methods.grad_cam_pp(Linear(weights), images, [1, 0], layers="layer", trace=True)
    a = published(images, weights[[1, 0]])
    w = (a * weights[[1, 0]].double().relu()).sum((2, 3))
    torch.testing.assert_close(e.trace["coefficients"].double(), a, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(e.trace["weights"].double(), w, rtol=1e-4, atol=1e-5 * scale)
    torch.testing.assert_close(
        e.raw.double(), torch.einsum("bk,bkhw->bhw", w, images.double()), rtol=1e-4, atol=1e-5 * scale
    )


def test_grad_cam_pp_where_the_denominator_is_zero():
    """g = 0 makes 0/0, and 2g² + ΣA g³ has another root at g = -2/ΣA."""
    activations = torch.tensor([[[[1.0, 3.0]]]])
    gradients = torch.tensor([[[[0.0, -0.5]]]])
    assert coefficients(activations, gradients).tolist() == [[[[0.0, 0.0]]]]
    assert coefficients(-activations, -gradients).tolist() == [[[[0.0, 0.0]]]]


def test_grad_cam_pp_depends_on_the_scale_of_the_logit():
    weights, images = random(1, 2, 3, 3), random(1, 2, 3, 3, seed=1).abs()
    maps = [methods.grad_cam_pp(Linear(t * weights), images, 0, layers="layer").map for t in (1, 10)]
    assert (maps[0] - maps[1]).abs().max() > 0.01


@pytest.mark.parametrize("weighting", ["softmax", "probability"])
@pytest.mark.parametrize("order", ["upsample_normalise", "normalise_upsample"])
def test_score_cam_from_its_definition(weighting, order):
    model, images, classes = Pooled(), random(2, 3, 12, 8), [2, 0]
    e = methods.score_cam(model, images, classes, weighting=weighting, order=order, layers="relu", trace=True)
    activations = model.relu(model.conv(images)).detach()
    weights = torch.zeros(2, 4)
    for b, k in itertools.product(range(2), range(4)):
        mask = activations[b, k]
        if order == "normalise_upsample":
            mask = (mask - mask.min()) / (mask.max() - mask.min())
        mask = F.interpolate(mask[None, None], (12, 8), mode="bilinear", align_corners=False)[0, 0]
        if order == "upsample_normalise":
            mask = (mask - mask.min()) / (mask.max() - mask.min())
        output = model((images[b] * mask)[None])[0].detach()
        if weighting == "softmax":
            weights[b, k] = output[classes[b]] - model(torch.zeros(1, 3, 12, 8))[0, classes[b]].detach()
        else:
            weights[b, k] = output.softmax(0)[classes[b]]
    if weighting == "softmax":
        torch.testing.assert_close(e.trace["increase"], weights, atol=1e-5, rtol=0)
        weights = weights.softmax(1)
    torch.testing.assert_close(e.trace["weights"], weights, atol=1e-5, rtol=0)
    torch.testing.assert_close(e.raw, torch.einsum("bk,bkhw->bhw", weights, activations), atol=1e-5, rtol=0)


def test_score_cams_softmax_does_not_see_the_baseline():
    """The channel softmax is invariant to a shift; the increase itself is not."""
    model, images = Pooled(), random(2, 3, 8, 8)
    zeros = methods.score_cam(model, images, 1, trace=True)
    other = methods.score_cam(model, images, 1, baseline=random(1, 3, 8, 8, seed=5), trace=True)
    each = methods.score_cam(model, images, 1, baseline=random(2, 3, 8, 8, seed=5), trace=True)
    torch.testing.assert_close(zeros.map, other.map, atol=1e-5, rtol=0)
    assert (zeros.trace["increase"] - other.trace["increase"]).abs().min() > 1e-3
    assert zeros.forwards == other.forwards == each.forwards - 1
    assert (zeros.config["baseline"], other.config["baseline"]) == ("zeros", "given")


def test_score_cams_scores():
    """Logit, probability or a function; each is what the clean image's score is, too."""
    model, images = Pooled(), random(2, 3, 8, 8)
    output = model(images).detach()
    for score, expected in (
        ("logit", output[:, 1]),
        ("probability", output.softmax(1)[:, 1]),
        (torch.tanh, output[:, 1].tanh()),
    ):
        e = methods.score_cam(model, images, 1, score=score, trace=True)
        torch.testing.assert_close(e.scores, expected)
        assert e.config["score"] == getattr(score, "__name__", score)
        torch.testing.assert_close(e.trace["weights"].sum(1), torch.ones(2))
    assert methods.score_cam(model, images, 1).config["score"] == "logit"
    assert methods.score_cam(model, images, 1, weighting="probability").config["score"] == "probability"


def test_channel_softmax_leaves_out_what_was_skipped():
    increase = torch.tensor([[1.0, 9.0, 1.0], [1.0, 2.0, 3.0]])
    skipped = torch.tensor([[False, True, False], [True, True, True]])
    assert channel_softmax(increase, skipped).tolist() == [[0.5, 0, 0.5], [0, 0, 0]]


# Heads for CAM


def test_cam_with_a_class_map_convolution():
    """SqueezeNet: the classifier is a 1×1 convolution before the average, with a ReLU between."""
    torch.manual_seed(1)
    net = torchvision.models.squeezenet1_1(num_classes=7).eval()
    images = random(2, 3, 64, 96)
    e = methods.cam(net, images, [3, 5])
    maps = net.classifier[1](net.features(images)).detach() - net.classifier[1].bias.detach()[:, None, None]
    torch.testing.assert_close(e.raw, maps[[0, 1], [3, 5]], atol=1e-5, rtol=0)
    assert e.layers == ["features.12"]


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "shufflenet_v2_x0_5"])
def test_cam_of_torchvisions_pooled_networks(name):
    torch.manual_seed(1)
    net = torchvision.models.get_model(name, num_classes=6).eval()
    images = random(2, 3, 64, 96)
    a, b = methods.cam(net, images, 4), methods.grad_cam(net, images, 4)
    torch.testing.assert_close(a.map, b.map, atol=1e-4, rtol=0)


def test_cam_is_refused_without_its_head(nets):
    """A fully connected head, a head of the same width behind another pooling, a layer further down."""

    class Maximum(Pooled):
        def forward(self, images):
            return self.fc(self.relu(self.conv(images)).amax((2, 3)))

    with pytest.raises(ValueError, match=r"global average of layer 'features.29'.*methods\.grad_cam"):
        methods.cam(nets["tiny_vgg"], random(1, 3, 64, 64))
    with pytest.raises(ValueError, match="CAM does not apply"):
        methods.cam(Maximum(), random(2, 3, 8, 8))
    with pytest.raises(ValueError, match="CAM does not apply"):
        methods.cam(Pooled(), random(2, 3, 8, 8), layers="conv")
    with pytest.raises(ValueError, match="CAM does not apply"):
        methods.cam(nets["tiny_resnet"], random(1, 3, 64, 64), layers="layer3")
    with pytest.raises(ValueError, match="CAM does not apply"):
        methods.cam(Unweighted(), random(1, 3, 8, 8), layers="conv")


class Unweighted(nn.Module):
    """No classifier at all behind the maps."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images):
        return self.conv(images).mean((2, 3))


def test_cam_needs_class_numbers():
    with pytest.raises(ValueError, match="CAM needs class numbers"):
        methods.cam(Pooled(), random(1, 3, 8, 8), lambda row: row[0])


# Targets


@pytest.mark.parametrize("method", EVERY, **by_name)
def test_targets(method):
    """Top-1, one number for all, one for each, in any container; each image gets its own class."""
    model, images = Pooled(), random(3, 3, 8, 10)
    top = model(images).argmax(1)
    assert torch.equal(method(model, images).targets, top)
    torch.testing.assert_close(method(model, images).raw, method(model, images, top).raw)
    mixed = method(model, images, [2, 0, 1])
    assert mixed.targets.tolist() == [2, 0, 1]
    torch.testing.assert_close(mixed.scores, model(images)[[0, 1, 2], [2, 0, 1]].detach())
    for b, c in enumerate([2, 0, 1]):
        alone = method(model, images[b : b + 1], c)
        torch.testing.assert_close(mixed.map[b], alone.map[0], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="2 targets for 3 images"):
        method(model, images, [0, 1])
    with pytest.raises(ValueError, match="Target 3 is out of range"):
        method(model, images, 3)


@pytest.mark.parametrize("method", [*GRADIENT, methods.score_cam], **by_name)
def test_callable_targets(method):
    """A function of one image's output; the grad-cam package's target objects are such functions."""
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, images = Pooled(), random(2, 3, 8, 10)
    numbers = method(model, images, [2, 0])
    objects = method(model, images, [ClassifierOutputTarget(2), ClassifierOutputTarget(0)])
    torch.testing.assert_close(numbers.map, objects.map)
    assert objects.targets.tolist() == [-1, -1]
    difference = method(model, images, lambda row: row[2] - row[0])
    torch.testing.assert_close(difference.scores, (lambda y: y[:, 2] - y[:, 0])(model(images)).detach())


def test_one_logit_and_both_signs():
    """A binary network: what speaks for the one class speaks against the other."""
    model, images = Pooled(classes=1), random(2, 3, 8, 10)
    positive, negative = (methods.grad_cam(model, images, lambda row, s=s: s * row[0]) for s in (1, -1))
    torch.testing.assert_close(positive.raw, -negative.raw)
    torch.testing.assert_close(positive.raw, methods.grad_cam(model, images, 0).raw)


# Weak, absent and negative evidence


@pytest.mark.parametrize("method", EVERY, **by_name)
def test_weak_evidence_is_not_dimmed_and_not_hidden(method):
    """A head scaled down by a million: the map still reaches exactly 1, and the magnitude shows in `raw`."""
    model, images = Pooled(), random(1, 3, 8, 10)
    strong = method(model, images, 0)
    assert not strong.flat.any()
    with torch.no_grad():
        model.fc.weight.mul_(1e-6), model.fc.bias.mul_(1e-6)
    weak = method(model, images, 0)
    assert weak.map.max() == 1 and not weak.flat.any()
    if method not in MASKING:    # there the channel softmax hides the scale
        assert weak.raw.abs().max() < 1e-5 * strong.raw.abs().max()


@pytest.mark.parametrize("method", GRADIENT + [methods.cam], **by_name)
def test_zero_weights_give_a_zero_map(method):
    """The map starts at zero, not at one."""
    model = Pooled()
    nn.init.zeros_(model.fc.weight)
    e = method(model, random(2, 3, 8, 10), 0)
    assert e.flat.all() and e.map.abs().max() == 0 and e.raw.abs().max() == 0


def test_purely_negative_evidence():
    """All zero like a failure, but `flat` says so, `raw` keeps what was found, and nothing is inverted."""
    model = Pooled()
    with torch.no_grad():
        model.fc.weight.copy_(-model.fc.weight.abs())
    for method in (methods.cam, methods.grad_cam):
        e = method(model, random(2, 3, 8, 10), 0)
        assert e.flat.all() and e.map.abs().max() == 0 and (e.raw <= 0).all() and e.raw.min() < 0


@pytest.mark.parametrize("method", EVERY, **by_name)
@pytest.mark.parametrize("case", ["dead layer", "dead channel", "constant channel", "one channel"])
def test_dead_and_constant_channels(method, case):
    """Zeros, never NaN; and the other channels' map is not disturbed by a dead one."""
    model, images = Pooled(channels=1 if case == "one channel" else 4, seed=2), random(2, 3, 8, 10)
    with torch.no_grad():
        if case == "one channel":
            model.fc.weight.abs_()
        dead = {"dead layer": slice(None), "dead channel": 1, "constant channel": 1}.get(case)
        if dead is not None:
            model.conv.weight[dead] = 0
            model.conv.bias[dead] = 0.3 if case == "constant channel" else -1
    e = method(model, images, 0)
    assert e.map.isfinite().all() and e.raw.isfinite().all()
    if case == "dead layer":
        assert e.flat.all() and e.map.abs().max() == 0
        # Beside two images and the search for the layer: an empty picture, or the small ones.
        assert e.forwards == 3 + (2 if method is methods.increment_cam else method in MASKING)
    if case == "dead channel" and method is methods.score_cam:
        e = method(model, images, 0, trace=True)
        assert e.trace["skipped"].tolist() == [[False, True, False, False]] * 2
        assert e.trace["weights"][:, 1].tolist() == [0, 0] and not e.flat.any()


def test_score_cam_leaves_out_a_channel_that_overflows():
    """It has no mask, and must not come back as 0 times infinity."""

    class Overflowing(Pooled):
        def forward(self, images):
            hidden = self.relu(self.conv(images) * torch.tensor([1, float("inf"), 1, 1])[:, None, None])
            return self.fc(hidden.nan_to_num(0, 0, 0).mean((2, 3)))

    e = methods.score_cam(Overflowing(), random(2, 3, 8, 10), 0, layers="relu", trace=True)
    assert not e.trace["activations"][:, 1].isfinite().all()
    assert e.trace["skipped"].tolist() == [[False, True, False, False]] * 2
    assert e.map.isfinite().all() and e.raw.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", EVERY, **by_name)
def test_half_precision(method, dtype):
    """Finite, float32 and near the float32 map, with a dead channel in the layer."""
    model, images = Pooled(channels=6), random(2, 3, 16, 20)
    with torch.no_grad():
        model.conv.weight[1], model.conv.bias[1] = 0, -1
    exact = method(model, images, [2, 1])
    half = method(model.to(dtype), images.to(dtype), [2, 1])
    assert half.map.dtype == half.raw.dtype == half.scores.dtype == torch.float32
    torch.testing.assert_close(half.map, exact.map, atol=0.05, rtol=0)
    assert half.flat.tolist() == exact.flat.tolist()


@pytest.mark.parametrize("method", [methods.grad_cam, methods.layer_cam], **by_name)
def test_overflow_is_an_error(method):
    """A gradient beyond half precision must not become a NaN map."""
    model = Linear(torch.full((2, 2, 3, 3), 60000.0).half()).half()
    with pytest.raises(ValueError, match="not finite for torch.float16.*bfloat16"):
        method(model, torch.full((1, 2, 3, 3), 60000.0).half(), lambda row: row[0] * 1e9, layers="layer")


# Layers


def test_layers_by_name_module_and_auto(nets):
    net, images = nets["tiny_vgg"], random(1, 3, 64, 96)
    auto = methods.grad_cam(net, images, 3)
    name = methods.grad_cam(net, images, 3, layers="features.29")
    module = methods.grad_cam(net, images, 3, layers=[net.features[29]])
    assert auto.layers == name.layers == module.layers == ["features.29"]
    torch.testing.assert_close(auto.map, name.map)
    torch.testing.assert_close(auto.map, module.map)
    assert (auto.forwards, name.forwards) == (2, 1)
    assert (auto.config["layers"], auto.config["layer"]) == ("auto", "features.29")


@pytest.mark.parametrize("method", GRADIENT, **by_name)
def test_another_layer_gives_another_map(method, nets):
    net, images = nets["tiny_vgg"], random(1, 3, 64, 96)
    seen = [method(net, images, 3, layers=name) for name in stage_layers(net, images)]
    assert [tuple(e.raw.shape[1:]) for e in seen] == [(64, 96), (32, 48), (16, 24), (8, 12), (4, 6)]
    last, before = (method(net, images, 3, layers=name).raw for name in ("features.29", "features.27"))
    assert (last - before).abs().max() > 0.1 * last.abs().max() > 0


@pytest.mark.parametrize("method", EVERY, **by_name)
def test_layers_that_do_not_fit(method, nets):
    net, images = nets["tiny_resnet"], random(1, 3, 64, 64)
    with pytest.raises(ValueError, match="no layer 'layer5'.*layer4"):
        method(net, images, layers="layer5")
    with pytest.raises(ValueError, match="'fc' returns"):
        method(net, images, layers="fc")
    with pytest.raises(ValueError, match="explains one layer, but 2"):
        method(net, images, layers=["layer3", "layer4"])


def test_layer_that_runs_twice():
    """The first run's activation must not meet the second run's gradient."""

    class Shared(Pooled):
        def forward(self, images):
            return self.fc(self.relu(self.relu(self.conv(images)) - 1).mean((2, 3)))

    for method in EVERY:
        with pytest.raises(ValueError, match="runs 2 times"):
            method(Shared(), random(1, 3, 8, 8), 0, layers="relu")


# Shapes and places


@pytest.mark.parametrize("method", EVERY, **by_name)
def test_odd_sizes(method, nets):
    """No size is built in, and height is not width."""
    # 64 instead of 512 masks for Score-CAM
    layer, size = ("layer1", (17, 23)) if method in MASKING else ("layer4", (5, 6))
    size = (65, 91) if method in UNION else size
    e = method(nets["tiny_resnet"], random(1, 3, 65, 91), 3, layers=layer)
    assert e.map.shape == (1, 65, 91) and e.raw.shape == (1, *size)


def test_the_map_lies_where_the_evidence_is():
    """A spot at row 1, column 8 of a picture that is 12 high and 20 wide."""
    model = Pooled(channels=1)
    with torch.no_grad():
        model.conv.weight.zero_()[:, :, 1, 1] = 1
        model.conv.bias.zero_()
        model.fc.weight.abs_()
    images = torch.zeros(1, 3, 12, 20)
    images[0, :, 2, 16] = 1
    for method in EVERY:
        e = method(model, images, 0)
        if method not in UNION:
            assert e.raw[0].argmax() == 1 * 10 + 8
        row, column = divmod(int(e.map[0].argmax()), 20)
        assert row in (2, 3) and column in (16, 17)


# The caller's model


@pytest.mark.parametrize("method", [*EVERY[1:], methods.gig_cam, methods.guided_ig, methods.poly_cam], **by_name)
@pytest.mark.parametrize("sizes", [lambda f: (len(f), -1), lambda f: [(len(f), 160)]], ids=["numbers", "tuple"])
@pytest.mark.parametrize("colours", [1, 3])
def test_networks_that_flatten_with_view(method, sizes, colours):
    """As most tutorials do. Such a network needs contiguous memory, and convolutions like channels-last better."""

    class Flattened(nn.Module):
        def __init__(self, flatten):
            super().__init__()
            self.flatten = flatten
            self.conv, self.fc = nn.Conv2d(colours, 5, 3, padding=1), nn.Linear(160, 4)
            with torch.no_grad():
                for i, parameter in enumerate(self.parameters()):
                    parameter.copy_(random(*parameter.shape, seed=i) / parameter[0].numel() ** 0.5)

        def forward(self, images):
            assert images.detach().view(torch.int32).shape == images.shape    # another kind of view
            return self.fc(self.flatten(self.conv(images).relu()))

    options = {"layers": "conv"}
    if method in (methods.gig_cam, methods.guided_ig):
        options = {"steps": 3, "baseline": torch.zeros(1, colours, 4, 8)}
    images = random(2, colours, 4, 8, seed=9)
    found, expected = (
        method(Flattened(flatten), images, [1, 3], **options).raw
        for flatten in (lambda f: f.view(*sizes(f)), lambda f: f.flatten(1))
    )
    torch.testing.assert_close(found, expected)
    assert expected.abs().max() > 0


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("method", [*GRADIENT, methods.score_cam], **by_name)
def test_in_place_operations_change_nothing(method, inplace):
    """A ReLU behind the layer that overwrites the layer's own output, as a module and as a function."""

    class Behind(Pooled):
        def forward(self, images):
            hidden = self.conv(images)
            hidden = F.relu(hidden, inplace=True) if inplace else F.relu(hidden)
            return self.fc(nn.ReLU(inplace=inplace)(hidden - 0.1).mean((2, 3)))

    images = random(2, 3, 8, 10)
    e = method(Behind(), images, [0, 1], layers="conv", trace=True)
    torch.testing.assert_close(e.trace["activations"], Behind().conv(images).detach())
    hidden = Behind().conv(images)
    assert (e.trace["activations"] < 0).any()
    if method is methods.grad_cam:
        gradient = Behind().fc.weight[[0, 1]][:, :, None, None] * (hidden > 0.1) / hidden[0, 0].numel()
        torch.testing.assert_close(e.trace["gradients"], gradient.detach())


def test_in_place_relus_of_a_whole_network(nets):
    torch.manual_seed(3)
    net, images = networks.build("tiny_vgg").eval(), random(2, 3, 64, 64)
    with_them = [method(net, images, 1, layers="features.28").map for method in GRADIENT]
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    without = [method(net, images, 1, layers="features.28").map for method in GRADIENT]
    assert all(torch.equal(a, b) for a, b in zip(with_them, without, strict=True))


@pytest.mark.parametrize("method", EVERY, **by_name)
def test_the_model_comes_back_as_it_was(method):
    """Flags that differ from module to module, a frozen parameter, a gradient and a hook of the caller's."""
    model = nn.Sequential(Pooled(), nn.BatchNorm1d(3))[0]
    model.train()
    model.relu.eval()
    model.fc.weight.grad = random(3, 4)
    model.conv.weight.requires_grad_(False)
    model.relu.register_forward_hook(lambda *_: None)
    before = state(model)
    e = method(model, random(2, 3, 8, 8))
    assert state(model) == before
    assert not e.map.requires_grad and not e.raw.requires_grad and not e.scores.requires_grad

    def fails(row):
        raise RuntimeError("on purpose")

    with pytest.raises((RuntimeError, ValueError)):
        method(model, random(2, 3, 8, 8), fails)
    assert state(model) == before


@pytest.mark.parametrize("method", EVERY, **by_name)
def test_frozen_models_and_the_callers_modes(method):
    """No parameter wants a gradient, the caller forbids them, or the model is in training mode: same map."""
    torch.manual_seed(0)
    model = networks.build("tiny_resnet").eval()
    images = random(1, 3, 48, 64)
    options = {"layers": "layer1"} if method is not methods.cam else {}
    expected = method(model, images, 3, **options).map
    with torch.no_grad():
        torch.testing.assert_close(method(model, images, 3, **options).map, expected)
    with torch.inference_mode():
        torch.testing.assert_close(method(model, images.clone(), 3, **options).map, expected)
    model.requires_grad_(False).train()
    torch.testing.assert_close(method(model, images, 3, **options).map, expected)


def test_data_parallel_is_refused():
    """It gathers only a part of the layer's activations."""
    with pytest.raises(ValueError, match="model.module"):
        methods.grad_cam(nn.DataParallel(Pooled()), random(2, 3, 8, 8))


# What is returned


@pytest.mark.parametrize("method", EVERY, **by_name)
def test_forwards_are_what_went_through(method):
    """Counted by the network: the clean pass, the tracing for "auto", the masked images, the baseline."""

    class Counting(Pooled):
        images = 0

        def forward(self, images):
            self.images += len(images)
            return super().forward(images)

    for options in ({}, {"layers": "relu"}):
        model = Counting()
        assert method(model, random(3, 3, 8, 8), 0, **options).forwards == model.images
    if method is methods.score_cam:
        model = Counting()
        e = method(model, random(3, 3, 8, 8), 0, weighting="probability")
        assert e.forwards == model.images == 1 + 3 + 3 * 4


def test_score_cam_keeps_no_hook_during_masked_passes():
    """With hooks alive every masked image's activations would be copied and kept."""

    class Watched(Pooled):
        counts = []

        def forward(self, images):
            self.counts.append(sum(len(module._forward_hooks) for module in self.modules()))
            return super().forward(images)

    model = Watched()
    methods.score_cam(model, random(1, 3, 8, 8), 0, layers="relu", chunk=1)
    assert model.counts == [1] + [0] * 5    # clean; baseline and four masks


@pytest.mark.parametrize("method", EVERY, **by_name)
def test_config_and_trace(method):
    model, images = Pooled(), random(2, 3, 8, 8)
    e = method(model, images, 1)
    assert e.config["method"] == method.__name__ and e.config["layer"] == "relu" and e.trace == {}
    assert {"layers", "targets", "score", "relu", "upsampling", "normalise"} <= e.config.keys()
    if method is methods.score_cam:
        assert {"weighting", "order", "align_corners", "baseline", "chunk"} <= e.config.keys()
    parts = method(model, images, 1, trace=True).trace
    of_channels = {"alpha", "beta"} if method is methods.increment_cam else {"weights"}
    assert of_channels | {"activations"} <= parts.keys()
    if method in GRADIENT:
        assert parts["gradients"].shape == parts["activations"].shape == (2, 4, 4, 4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weighting": "mean"}, "The weighting is one of"),
        ({"weighting": "probability", "score": "logit"}, "leave score out"),
        ({"weighting": "probability", "baseline": torch.zeros(1, 3, 8, 8)}, "leave baseline out"),
        ({"baseline": torch.zeros(1, 3, 4, 4)}, "The baseline has shape"),
        ({"baseline": torch.zeros(3, 3, 8, 8)}, "The baseline has shape"),
        ({"score": "loud"}, "kind of score"),
        ({"order": "both"}, "The order is one of"),
        ({"chunk": -1}, "The chunk is"),
    ],
)
def test_score_cams_bad_options(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        methods.score_cam(Pooled(), random(2, 3, 8, 8), 0, **options)


@pytest.mark.parametrize("method", EVERY, **by_name)
@pytest.mark.parametrize(
    ("images", "error", "sentence"),
    [
        (torch.zeros(3, 8, 8), ValueError, "four dimensions"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, "uint8"),
        (torch.full((1, 3, 8, 8), float("nan")), ValueError, "NaN"),
        (torch.zeros(1, 4, 8, 8), ValueError, "4 channels"),
    ],
)
def test_bad_images(method, images, error, sentence):
    with pytest.raises(error, match=sentence):
        method(Pooled(), images)


@pytest.mark.gpu
@pytest.mark.parametrize("method", EVERY, **by_name)
def test_on_a_gpu(method, nets):
    """The same map as on the CPU, with class numbers from either; nothing returns to the CPU by itself."""
    torch.manual_seed(0)
    net, images = networks.build("tiny_resnet").eval(), random(2, 3, 64, 96)
    expected = method(net, images, [3, 4])
    net.cuda()
    for targets in ([3, 4], torch.tensor([3, 4]), torch.tensor([3, 4], device="cuda")):
        e = method(net, images.cuda(), targets)
        assert e.map.is_cuda and e.targets.is_cuda
        torch.testing.assert_close(e.map.cpu(), expected.map, atol=1e-3, rtol=0)
