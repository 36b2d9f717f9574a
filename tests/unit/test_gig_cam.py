"""Integrated Grad-CAM and GIG-CAM: what is added up, what the derivations prove, and what it costs."""

import itertools

import pytest
import torch
from torch import nn

from cambook import methods, models, world
from cambook.methods.gig_cam import FEATURES
from cambook.methods.guides import GUIDES
from cambook.world import networks

EVERY_GUIDE = [*GUIDES, FEATURES]
ACCUMULATIONS = ["A1", "A2", "A2e", "A4"]
BASELINE = torch.full((1, 3, 8, 10), -1.0)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """One convolution and ReLU, then either a pooled linear head or a smooth nonlinear one."""

    def __init__(self, head="nonlinear", seed=0):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.pooled = head == "pooled"
        self.hidden = nn.Linear(4 * 4 * 5, 6)
        self.fc = nn.Linear(4 if self.pooled else 6, 3)
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters()):
                spread = 3 / parameter[0].numel() ** 0.5
                parameter.copy_(spread * random(*parameter.shape, seed=100 * seed + i))

    def forward(self, images):
        features = self.relu(self.conv(images))
        if self.pooled:
            return self.fc(features.mean((2, 3)))
        return self.fc(torch.tanh(self.hidden(features.flatten(1))))


def net(head="nonlinear", dtype=torch.float64, **options):
    return Net(head, **options).to(dtype), random(2, 3, 8, 10, seed=50).to(dtype)


def run(model, images, method=methods.gig_cam, **options):
    start = {} if "path" in options else {"baseline": BASELINE, "steps": 8}
    return method(model, images, [2, 0], **start | {"trace": True} | options)


@pytest.fixture(scope="module")
def trained():
    """The shipped network with a nonlinear head, three scenes and their classes."""
    model, scenes = models.load("tiny_vgg"), [world.scene(seed) for seed in range(3)]
    images = torch.cat([model.preprocessing(scene.image) for scene in scenes])
    return model, images, [scene.label for scene in scenes]


# What is added up


def by_definition(trace, accumulation):
    """The formulas of each accumulation, over the points that the trace holds; float64 loops."""
    A, g = trace["activations"], trace["layer_gradients"]
    mean, steps = g.mean((3, 4), keepdim=True), len(A) - 1
    if accumulation == "A1":
        each = [(mean[t] * (A[t] - A[0])).sum(1).clamp(min=0) for t in range(1, steps + 1)]
        return sum(each) / steps
    if accumulation == "A4":
        average = sum((mean[t] + mean[t + 1]) / 2 for t in range(steps)) / steps
        return (average * (A[-1] - A[0])).sum(1)
    weights = mean if accumulation == "A2" else g
    return sum(((weights[t] + weights[t + 1]) / 2 * (A[t + 1] - A[t])).sum(1) for t in range(steps))


@pytest.mark.parametrize("guide", EVERY_GUIDE)
@pytest.mark.parametrize("accumulation", ACCUMULATIONS)
def test_accumulations_by_their_definitions(accumulation, guide):
    e = run(*net(), guide=guide, accumulation=accumulation)
    want = by_definition(e.trace, accumulation)
    torch.testing.assert_close(e.raw, want.float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(e.trace["shares"].sum(0).float(), e.raw, atol=1e-5, rtol=1e-5)
    assert (e.config["guide"], e.config["accumulation"]) == (guide, accumulation)
    assert e.raw.abs().max() > 0.01


def test_activations_and_gradients_are_those_at_the_points():
    model, images = net()
    e = run(model, images)
    for t, z in enumerate(e.trace["path"]):
        leaf = z.clone().requires_grad_()
        A = torch.relu(model.conv(leaf))
        score = model.fc(torch.tanh(model.hidden(A.flatten(1))))[[0, 1], [2, 0]]
        by_layer, by_input = torch.autograd.grad(score.sum(), [A, leaf])
        torch.testing.assert_close(e.trace["activations"][t], A.detach())
        torch.testing.assert_close(e.trace["layer_gradients"][t], by_layer)
        torch.testing.assert_close(e.trace["gradients"][t], by_input)
        torch.testing.assert_close(e.path_scores[:, t], score.detach().float())
    torch.testing.assert_close(e.scores, e.path_scores[:, -1])


def test_integrated_grad_cam_is_its_figure():
    model, images = net()
    e = run(model, images, methods.integrated_grad_cam)
    torch.testing.assert_close(e.raw, by_definition(e.trace, "A1").float(), atol=1e-5, rtol=1e-5)
    share = torch.linspace(0, 1, 9, dtype=torch.float64).view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(e.trace["path"], BASELINE + share * (images - BASELINE))
    assert e.raw.min() >= 0 and e.config["steps"] == 8 and e.config["path"] == "straight"


def test_a1_on_the_straight_path_is_integrated_grad_cam():
    model, images = net()
    want = run(model, images, methods.integrated_grad_cam)
    for straight in ({"fraction": 1}, {"max_dist": 0}):
        got = run(model, images, accumulation="A1", **straight)
        torch.testing.assert_close(got.raw, want.raw, atol=1e-6, rtol=0)
    adaptive = run(model, images, accumulation="A1")
    assert (adaptive.raw - want.raw).abs().max() > 0.05 * want.raw.abs().max()


def test_the_arrival_weights_of_a1():
    """Abel's summation: without the ReLU in each step, A1 is Σ_s dA_s W_s, W_s = (1/T) Σ_{t ≥ s} ḡ(z_t)."""
    e = run(*net())
    A, steps = e.trace["activations"], 8
    mean = e.trace["layer_gradients"].mean((3, 4), keepdim=True)
    left = sum(mean[t] * (A[t] - A[0]) for t in range(1, steps + 1)) / steps
    right = sum((A[s] - A[s - 1]) * mean[s:].sum(0) / steps for s in range(1, steps + 1))
    torch.testing.assert_close(left, right, atol=1e-14, rtol=0)


def test_a1_weighs_early_evidence_more():
    """With a pooled head the weight falls from 1 in the first step to 1/T in the last."""
    model, images = net("pooled")
    with torch.no_grad():
        model.fc.weight.abs_()
    start, end = BASELINE.double().expand_as(images), images
    left, right = start.clone(), start.clone()
    left[..., :6], right[..., 6:] = end[..., :6], end[..., 6:]
    shares = {}
    for name, middle in (("first", left), ("last", right)):
        e = run(model, images, path=[start, middle, end], layers="relu")
        A, mean = e.trace["activations"], e.trace["layer_gradients"].mean((3, 4), keepdim=True)
        shares[name] = sum((mean[t] * (A[t] - A[0])).sum(1) for t in (1, 2)) / 2
        exact = (mean[1] * (A[2] - A[0])).sum(1)
        # A column that only the left half reaches: weight 1 if that half comes first, 1/2 if it comes last.
        torch.testing.assert_close(shares[name][..., 0], exact[..., 0] * (1 if name == "first" else 0.5))


# What the derivations prove


@pytest.mark.parametrize("accumulation", ["A2", "A2e"])
def test_a_pooled_head_has_one_map_for_all_paths(accumulation):
    """ReLU(CAM(x) − CAM(x')), whatever the path and however few its steps."""
    model, images = net("pooled", torch.float32)
    cams = [methods.cam(model, z, [2, 0], layers="relu").raw for z in (images, BASELINE.expand_as(images))]
    want = (cams[0] - cams[1]) / cams[0][0].numel()
    for guide, steps, d in itertools.product(EVERY_GUIDE, (1, 6), (0, 0.3, 1)):
        e = run(model, images, guide=guide, steps=steps, max_dist=d, accumulation=accumulation)
        torch.testing.assert_close(e.raw, want, atol=1e-6 * want.abs().max().item(), rtol=0)
        assert e.gap.max() < 1e-5
    detour = [BASELINE.expand_as(images), random(2, 3, 8, 10), images]
    e = run(model, images, path=detour, accumulation=accumulation)
    torch.testing.assert_close(e.raw, want, atol=1e-6 * want.abs().max().item(), rtol=0)


def test_on_the_shipped_network_with_a_pooled_head():
    """tiny_resnet's last layer: the straight and the adaptive path, to 1e-6 of the map."""
    model = models.load("tiny_resnet")
    images = model.preprocessing(world.scene(3).image)[..., ::2, ::2]
    straight, adaptive = (
        methods.gig_cam(model, images, layers="layer4", steps=3, max_dist=d, dtype=torch.float64).raw
        for d in (0, 1)
    )
    torch.testing.assert_close(straight, adaptive, atol=1e-6 * straight.abs().max().item(), rtol=0)


def test_a_nonlinear_head_tells_paths_apart():
    model, images = net()
    maps = [run(model, images, max_dist=d).raw for d in (0, 1)]
    assert (maps[0] - maps[1]).abs().max() > 0.02 * maps[0].abs().max()


@pytest.mark.parametrize(("options", "limit"), [({"max_dist": 0}, 0.01), ({"max_dist": 0.1}, 0.02)])
def test_a2e_is_complete_in_the_limit(options, limit):
    """Before ReLU, its cells add up to the change of the score."""
    model, images = net()
    coarse, fine = (run(model, images, accumulation="A2e", steps=n, **options) for n in (4, 128))
    change = fine.path_scores[:, -1] - fine.path_scores[:, 0]
    torch.testing.assert_close(fine.raw.sum((1, 2)), change, atol=limit * change.abs().max().item(), rtol=0)
    assert (fine.gap < coarse.gap).all() and fine.gap.max() < limit


def test_the_mean_gradient_breaks_the_sum():
    """A2 is not complete for a nonlinear head, and more steps do not help; its gap is A2e's all the same."""
    model, images = net()
    for steps in (32, 128):
        e, exact = (run(model, images, steps=steps, max_dist=0, accumulation=name) for name in ("A2", "A2e"))
        change = e.path_scores[:, -1] - e.path_scores[:, 0]
        assert ((e.raw.sum((1, 2)) - change) / change).abs().max() > 0.1
        torch.testing.assert_close(e.gap, exact.gap)


def test_the_gap_is_that_of_a2e():
    e = run(*net())
    total = by_definition(e.trace, "A2e").sum((1, 2))
    change = e.path_scores[:, -1] - e.path_scores[:, 0]
    torch.testing.assert_close(e.gap.double(), ((total - change) / change).abs(), atol=1e-5, rtol=1e-4)
    assert torch.equal(e.incomplete, e.gap > 0.05)


def test_less_variation_on_trained_pictures(trained):
    """The adaptive path of the shipped network is less noisy than the straight one, at the same price."""
    model, images, labels = trained
    straight, adaptive = (
        methods.gig_cam(model, images[..., ::2, ::2], labels, steps=20, max_dist=d) for d in (0, 1)
    )
    assert (adaptive.variation < straight.variation).all()
    assert adaptive.forwards == straight.forwards


# Paths


def test_the_path_is_guided_igs():
    model, images = net()
    options = {"baseline": BASELINE, "steps": 8, "fraction": 0.5, "max_dist": 1, "trace": True}
    theirs = methods.guided_ig(model, images, [2, 0], rule="trapezoid", **options)
    e = run(model, images)
    assert torch.equal(e.trace["path"], theirs.trace["path"])
    torch.testing.assert_close(e.trace["attributions"], theirs.trace["attributions"])
    torch.testing.assert_close(e.variation, theirs.variation)


def test_guides_give_different_paths():
    paths = [run(*net(), guide=guide).trace["path"] for guide in GUIDES]
    for one, other in itertools.combinations(paths, 2):
        assert (one - other).abs().max() > 0.1


@pytest.mark.parametrize("guide", ["input_grad_pixel", "cam_low", "cam_high"])
def test_whole_pixels_move(guide):
    """All colours of a pixel have gone the same share of their way."""
    e = run(*net(), guide=guide)
    path = e.trace["path"]
    share = (path - path[0]) / (path[-1] - path[0])
    torch.testing.assert_close(share, share[:, :, :1].expand_as(share), atol=1e-9, rtol=0)


def test_cam_low_brings_evidence_last():
    """What the Grad-CAM map of the picture shows arrives later with cam_low than with cam_high."""
    model, images = net("pooled")
    heat = methods.grad_cam(model, images, [2, 0]).map
    late = {}
    for guide in ("cam_low", "cam_high"):
        path = run(model, images, guide=guide, fraction=0.1).trace["path"]
        share = ((path - path[0]) / (path[-1] - path[0])).mean((0, 2))
        late[guide] = (share * heat).sum() / heat.sum() - share.mean()
    assert late["cam_low"] < 0 < late["cam_high"]


def test_a_path_among_features():
    """From A(x') to A(x) in equal budgets, each point in the place of the layer's output."""
    model, images = net()
    e = run(model, images, guide=FEATURES, accumulation="A2e", fraction=0.3)
    path = e.trace["path"]
    ends = [torch.relu(model.conv(z)).detach() for z in (BASELINE.double().expand_as(images), images)]
    torch.testing.assert_close(path[0], ends[0])
    torch.testing.assert_close(path[-1], ends[1])
    left = (path[-1] - path).abs().sum((2, 3, 4))
    torch.testing.assert_close(left / left[0], torch.linspace(1, 0, 9).double()[:, None].expand(-1, 2))
    assert torch.equal(path, e.trace["activations"])
    assert torch.equal(e.trace["gradients"], e.trace["layer_gradients"])
    for t, z in enumerate(path):
        score = model.fc(torch.tanh(model.hidden(z.flatten(1))))[[0, 1], [2, 0]]
        torch.testing.assert_close(e.path_scores[:, t], score.detach().float())
    torch.testing.assert_close(e.raw, e.trace["attributions"].sum(1).float())
    assert not model.relu._forward_hooks


def test_any_list_of_inputs_is_a_path():
    model, images = net()
    e = run(model, images, guide="cam_high", accumulation="A4")
    again = run(model, images, path=e.trace["path"], accumulation="A4")
    torch.testing.assert_close(again.raw, e.raw)
    torch.testing.assert_close(again.gap, e.gap)
    assert again.config["path"] == "given" and "guide" not in again.config and again.config["steps"] == 8
    with pytest.raises(ValueError, match="ends elsewhere"):
        run(model, images, path=[images, images + 1])
    for options in ({"baseline": BASELINE}, {"guide": FEATURES}):
        with pytest.raises(ValueError, match="leave baseline and guide"):
            run(model, images, path=e.trace["path"], **options)


@pytest.mark.parametrize("guide", EVERY_GUIDE)
def test_each_image_has_its_own_path_and_class(guide):
    model, images = net(dtype=torch.float32)
    together = run(model, images, guide=guide)
    for b, c in enumerate([2, 0]):
        alone = methods.gig_cam(
            model, images[b : b + 1], c, baseline=BASELINE, steps=8, guide=guide, trace=True
        )
        torch.testing.assert_close(together.trace["path"][:, b], alone.trace["path"][:, 0], atol=1e-4, rtol=0)
        torch.testing.assert_close(together.raw[b], alone.raw[0], atol=1e-3, rtol=0)
        torch.testing.assert_close(together.map[b], alone.map[0], atol=1e-3, rtol=0)


# The network and what is returned


class Counting(Net):
    """Counts the images that go through, and those that come back."""

    forwards = backwards = 0

    def forward(self, images):
        self.forwards += len(images)
        output = super().forward(images)
        if output.requires_grad:
            output.register_hook(self.count)
        return output

    def count(self, gradient):
        self.backwards += len(gradient)


@pytest.mark.parametrize("guide", EVERY_GUIDE)
def test_cost_is_one_pass_a_point(guide):
    """T + 1 forward and backward passes; "auto" is one more image forwards."""
    for layers, more in (("relu", 0), ("auto", 1)):
        model, images = Counting(), random(2, 3, 8, 10)
        e = methods.gig_cam(model, images, baseline=BASELINE, steps=5, guide=guide, layers=layers)
        assert e.forwards == model.forwards == 2 * 6 + more and e.backwards == model.backwards == 2 * 6
    model = Counting()
    e = methods.integrated_grad_cam(model, images, baseline=BASELINE, steps=5, layers="relu")
    assert e.forwards == model.forwards == e.backwards == model.backwards == 12


@pytest.mark.parametrize("guide", EVERY_GUIDE)
@pytest.mark.parametrize("case", ["dead layer", "no way", "constant"])
def test_without_evidence_the_map_is_flat(case, guide):
    model, images = net(dtype=torch.float32)
    with torch.no_grad():
        if case == "dead layer":
            model.conv.weight.zero_()
            model.conv.bias.fill_(-1)
        if case == "constant":
            model.fc.weight.zero_()
    if case == "no way":
        images = BASELINE.expand(2, -1, -1, -1).clone()
    e = run(model, images, guide=guide)
    assert e.flat.all() and e.map.abs().max() == 0 and e.raw.isfinite().all()
    assert e.gap.tolist() == [0, 0] and e.trace["path"].isfinite().all()


@pytest.mark.parametrize("guide", EVERY_GUIDE)
def test_every_point_goes_through_in_one_layout(guide):
    """On some processors the layout decides the last bit, and a flat map would be the rounding's."""
    model, images = net(dtype=torch.float32)
    seen = []
    model.conv.register_forward_hook(lambda _, args, __: seen.append(args[0].stride()))
    run(model, images, guide=guide, layers="relu")
    channels_last = images.contiguous(memory_format=torch.channels_last).stride()
    assert seen == [channels_last] * 9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("guide", EVERY_GUIDE)
def test_half_precision_networks(guide, dtype):
    model, images = net(dtype=torch.float32)
    exact = run(model, images, guide=guide, fraction=1)
    half = run(model.to(dtype), images.to(dtype), guide=guide, fraction=1)
    assert half.map.dtype == half.raw.dtype == half.trace["path"].dtype == torch.float32
    torch.testing.assert_close(half.map, exact.map, atol=0.15, rtol=0)


def test_float64_on_request():
    model, images = net(dtype=torch.float32)
    e = run(model, images, dtype=torch.float64, fraction=1)
    assert e.trace["path"].dtype == e.trace["shares"].dtype == torch.float64 and e.raw.dtype == torch.float32
    torch.testing.assert_close(e.raw, run(model, images, fraction=1).raw, atol=1e-4, rtol=0)


@pytest.mark.parametrize("guide", EVERY_GUIDE)
@pytest.mark.parametrize("method", [methods.gig_cam, methods.integrated_grad_cam])
def test_the_model_comes_back_as_it_was(method, guide):
    """Training flags, frozen parameters, a gradient, hooks; also after an exception on the way."""
    model, images = net(dtype=torch.float32)
    options = {"baseline": BASELINE, "steps": 3} | ({"guide": guide} if method is methods.gig_cam else {})
    expected = method(model, images, 1, **options).raw
    model.train().conv.requires_grad_(False)
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    calls = []

    def fails(row):
        calls.append(1)
        if len(calls) > 6:    # somewhere on the path
            raise RuntimeError("on purpose")
        return row[1]

    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(method(model, images, 1, **options).raw, expected)
    with pytest.raises(RuntimeError, match="on purpose"):
        method(model, images, fails, **options)
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert not model.conv.weight.requires_grad and (model.fc.weight.grad == 1).all()


def test_a_hook_of_the_callers_does_not_disturb_the_path_among_features():
    model, images = net()
    want = run(model, images, guide=FEATURES).raw
    hook = model.relu.register_forward_hook(lambda module, args, output: output * 1.0)
    try:
        torch.testing.assert_close(run(model, images, guide=FEATURES).raw, want)
    finally:
        hook.remove()


def test_targets_and_layers(trained):
    model, images, labels = trained
    small = images[..., ::2, ::2]
    e = methods.gig_cam(model, small, steps=2)
    assert torch.equal(e.targets, model(small).argmax(1)) and e.layers == ["features.29"]
    assert e.raw.shape == (3, 4, 4) and e.map.shape == (3, 64, 64)
    before = methods.gig_cam(model, small, labels, steps=2, layers="features.22")
    assert before.raw.shape == (3, 8, 8) and before.targets.tolist() == labels
    callable_ = methods.gig_cam(model, small, [lambda row, c=c: row[c] for c in labels], steps=2)
    torch.testing.assert_close(callable_.raw, methods.gig_cam(model, small, labels, steps=2).raw)
    assert callable_.targets.tolist() == [-1, -1, -1]
    probability = methods.gig_cam(model, small, labels, steps=2, score="probability")
    want = model(small).softmax(1)[[0, 1, 2], labels].detach()
    torch.testing.assert_close(probability.path_scores[:, -1], want)


def test_config_and_trace():
    model, images = net()
    e = run(model, images, trace=False)
    assert e.trace == {}
    chosen = {
        "method": "gig_cam", "layer": "relu", "layers": "auto", "steps": 8, "fraction": 0.5, "max_dist": 1.0,
        "guide": "input_grad", "accumulation": "A2", "baseline": "given", "path": "guided", "score": "logit",
        "dtype": "float64",
    }    # fmt: skip
    assert chosen.items() <= e.config.items()
    trace = run(model, images).trace
    assert {name: tuple(value.shape) for name, value in trace.items()} == {
        "path": (9, 2, 3, 8, 10),
        "gradients": (9, 2, 3, 8, 10),
        "activations": (9, 2, 4, 4, 5),
        "layer_gradients": (9, 2, 4, 4, 5),
        "shares": (8, 2, 4, 5),
        "attributions": (2, 3, 8, 10),
    }


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"guide": "saliency"}, "The guide is one of input_grad, .*features"),
        ({"accumulation": "A3"}, "The accumulation is one of A1, A2, A2e, A4"),
        ({"steps": 0}, "steps must be"),
        ({"fraction": -0.1}, "fraction is a share"),
        ({"max_dist": -0.1}, "max_dist is a share"),
        ({"baseline": None}, "What is black for this Net is not known"),
        ({"layers": ["conv", "relu"]}, "explains one layer"),
        ({"layers": "fc"}, "'fc' returns"),
    ],
)
def test_bad_options(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(*net(), **options)


def test_a_layer_is_needed():
    with pytest.raises(TypeError, match="A layer is given by its name or as a module"):
        run(*net(), layers=None)
