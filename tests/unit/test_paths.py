"""Integrated Gradients and Guided IG: worked examples, what every path promises, and awkward inputs."""

import pytest
import torch
from captum.attr import IntegratedGradients
from torch import nn

from cambook import methods, models
from cambook.methods import paths
from cambook.methods.guides import GUIDES
from cambook.world import networks

PIXEL = [methods.integrated_gradients, methods.guided_ig]
# (fraction, max_dist)
SETTINGS = [(0.25, 0.02), (0.5, 1.0), (0.1, 0.3), (1.0, 1.0), (0.3, 0.0)]
by_name = {"ids": lambda value: value.__name__}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Score(nn.Module):
    """A formula as a network: f gets (a, b), the two pixels of pictures (B, 1, 1, 2)."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, images):
        return self.f(*images[:, 0, 0].unbind(1))[:, None]


SQUARE = Score(lambda a, b: (2 * a + b) ** 2)


def explain(method, model, x, baseline=(0, 0), **options):
    """Attributions of a and b for a formula, in double precision."""
    x, baseline = (torch.tensor([[[list(map(float, point))]]]).double() for point in (x, baseline))
    e = method(model, x, 0, baseline=baseline, trace=True, **options)
    return e, *e.trace["attributions"].flatten().tolist()


class Bent(nn.Module):
    """A smooth network with a nonlinear head: a convolution, tanh, a linear layer, tanh, a linear layer."""

    def __init__(self, size=(6, 8), channels=3, seed=0):
        super().__init__()
        self.conv = nn.Conv2d(channels, 5, 3, padding=1)
        self.hidden = nn.Linear(5 * size[0] * size[1], 16)
        self.out = nn.Linear(16, 4)
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters()):
                parameter.copy_(random(*parameter.shape, seed=seed + i) / parameter[0].numel() ** 0.5)

    def forward(self, images):
        return self.out(torch.tanh(self.hidden(torch.tanh(self.conv(images)).flatten(1))))


BASELINE = torch.full((1, 3, 6, 8), -1.0)


@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(0)
    return models.load(networks.build("tiny_vgg").eval())


# Worked examples: f(a, b) = (2a + b)² from 0 to (3, 3), where b has half of a's gradient


def test_integrated_gradients_of_the_square():
    e, a, b = explain(methods.integrated_gradients, SQUARE, (3, 3))
    assert (a, b) == pytest.approx((54, 27), abs=1e-12)
    assert e.gap.item() == pytest.approx(0, abs=1e-6) and e.raw.flatten().tolist() == [54, 27]
    assert e.path_scores[0, [0, 25, 50]].tolist() == pytest.approx([0, 81 / 4, 81])


def test_guided_ig_of_the_square():
    """All of b moves first, where the gradient is small: 9 for b and the other 72 for a."""
    _, a, b = explain(methods.guided_ig, SQUARE, (3, 3), steps=300, fraction=0, max_dist=1, rule="trapezoid")
    assert (a, b) == pytest.approx((72, 9), abs=0.15)    # the first step moves both, whose gradients are 0


@pytest.mark.parametrize(("d", "steps"), [(0, 100), (0.1, 100), (0.2, 1000), (0.35, 100), (0.5, 100)])
def test_a_band_around_the_straight_line(d, steps):
    """attr_b = 27 − 72d + 72d², from the straight line's 27 to the free path's 9; the sums err by O(1/T)."""
    e, a, b = explain(methods.guided_ig, SQUARE, (3, 3), steps=steps, fraction=0, max_dist=d)
    assert b == pytest.approx(27 - 72 * d + 72 * d**2, abs=60 / steps)
    assert a + b == pytest.approx(81, abs=100 / steps)
    share = e.trace["path"].flatten(1) / 3 - torch.linspace(0, 1, steps + 1, dtype=torch.float64)[:, None]
    assert share.abs().max() <= d + 1e-12
    if steps == 1000:
        assert b == pytest.approx(15.47, abs=0.01)    # as measured with the published algorithm


@pytest.mark.parametrize(
    ("anchors", "each", "measured"), [(1, 100, 9.36), (2, 100, 18.09), (5, 100, 23.41), (20, 10, 26.10)]
)
def test_anchors(anchors, each, measured):
    """attr_b = 27 − 18/K, here with so many steps for each piece."""
    _, a, b = explain(
        methods.guided_ig, SQUARE, (3, 3), steps=each * anchors, fraction=0, max_dist=1, anchors=anchors,
        rule="trapezoid",
    )    # fmt: skip
    assert b == pytest.approx(measured, abs=0.005 if each == 100 else 0.01)
    assert b == pytest.approx(27 - 18 / anchors, abs=0.4)
    assert a + b == pytest.approx(81, abs=1e-9)


def test_every_path_passes_its_anchors():
    e, *_ = explain(methods.guided_ig, SQUARE, (3, 5), steps=20, fraction=0, max_dist=1, anchors=4)
    torch.testing.assert_close(e.trace["path"][::5].flatten(1)[:, 0], torch.linspace(0, 3, 5).double())
    torch.testing.assert_close(e.trace["path"][::5].flatten(1)[:, 1], torch.linspace(0, 5, 5).double())


@pytest.mark.parametrize("d", [0, 0.3, 1])
def test_linear_and_separable_functions_have_one_answer(d):
    """w ⊙ (x − x') for a linear function; for a separable one each variable's own change."""
    linear, separable = Score(lambda a, b: 2 * a + b), Score(lambda a, b: 2 * a**2 + b**2)
    options = {"steps": 100, "fraction": 0.1, "max_dist": d, "rule": "trapezoid"}
    _, a, b = explain(methods.guided_ig, linear, (10, 5), (-1, -3), **options)
    assert (a, b) == pytest.approx((22, 8), abs=1e-9)
    _, a, b = explain(methods.guided_ig, separable, (3, 3), **options)
    assert (a, b) == pytest.approx((18, 9), abs=1e-9)


def test_the_trapezoid_is_exact_for_a_square_and_the_left_rule_is_not():
    options = {"fraction": 0, "max_dist": 1}
    for steps, error in ((10, -8.8), (200, -0.45)):
        e, a, b = explain(methods.guided_ig, SQUARE, (3, 3), steps=steps, rule="trapezoid", **options)
        assert a + b == pytest.approx(81, abs=1e-9) and e.gap.item() < 1e-6
        e, a, b = explain(methods.guided_ig, SQUARE, (3, 3), steps=steps, rule="left", **options)
        assert a + b - 81 == pytest.approx(error, abs=0.05)
        assert e.gap.item() == pytest.approx(-error / 81, abs=0.001)
        assert e.incomplete.item() == (steps == 10) and ("over 5%" in repr(e)) == (steps == 10)


def test_variation_is_what_cancels():
    """From 0 to (1, 1) of a·(1 − b): up along a by 1, down along b by 1 if a goes first."""
    model = Score(lambda a, b: a * (1 - b))
    x = torch.ones(1, 1, 1, 2).double()
    corner = torch.tensor([[[[1.0, 0.0]]]]).double()
    e = methods.integrated_gradients(model, x, 0, path=[torch.zeros_like(x), corner, x])
    assert e.raw.flatten().tolist() == [1, -1] and e.variation.tolist() == [2]
    assert e.gap.tolist() == [0]    # no change, and a sum of 0
    straight = methods.integrated_gradients(model, x, 0, baseline=torch.zeros_like(x), steps=200)
    assert straight.variation.item() == pytest.approx(0.5 + 0.5, abs=1e-4)    # ∫(1 − t)dt + ∫t dt


def test_gap_without_a_change_of_the_score():
    """A sum of 1 where the score changes by 0 misses all of it, and nothing is NaN."""
    model = Score(lambda a, b: a * (2 - a) * 10 + 0 * b)
    x, zero = torch.tensor([[[[2.0, 0.0]]]]), torch.zeros(1, 1, 1, 2)
    e = methods.integrated_gradients(model, x, 0, baseline=zero, steps=1, rule="left")
    assert e.gap.tolist() == [float("inf")] and e.incomplete.all() and "gap up to inf%" in repr(e)


# Paths


def walk(method=methods.guided_ig, model=None, seed=3, **options):
    model, images = model or Bent().double(), random(2, 3, 6, 8, seed=seed).double()
    return images, method(model, images, [1, 2], baseline=BASELINE, trace=True, **options)


@pytest.mark.parametrize(("fraction", "max_dist"), SETTINGS)
def test_what_every_guided_path_promises(fraction, max_dist):
    """It begins and ends where it should, goes one way only, spends equal budgets, and stays in its band."""
    images, e = walk(steps=8, fraction=fraction, max_dist=max_dist)
    path, way, share = e.trace["path"], images - BASELINE, torch.linspace(0, 1, 9).double()
    assert path.shape == (9, 2, 3, 6, 8) and path.dtype == torch.float64
    assert torch.equal(path[0], BASELINE.double().expand_as(images)) and torch.equal(path[-1], images)
    assert (path.diff(dim=0) * way.sign() >= 0).all()
    left = (images - path).abs().sum((2, 3, 4))
    torch.testing.assert_close(left, (1 - share)[:, None] * way.abs().sum((1, 2, 3)), atol=1e-12, rtol=0)
    off = ((path - BASELINE) / way - share.view(-1, 1, 1, 1, 1)).abs()
    assert off.max() <= max_dist + 1e-12
    if fraction < 1 and max_dist > 0:
        assert off.max() > max_dist / 2


@pytest.mark.parametrize(("fraction", "max_dist"), [(1, 0.02), (1, 1), (0.25, 0), (0, 0)])
def test_two_ways_to_the_straight_line(fraction, max_dist):
    """And with it the left rule's Integrated Gradients, in the official code's words."""
    _, e = walk(steps=8, fraction=fraction, max_dist=max_dist)
    _, straight = walk(methods.integrated_gradients, steps=8, rule="left")
    torch.testing.assert_close(e.trace["path"], straight.trace["path"], atol=1e-14, rtol=0)
    torch.testing.assert_close(e.trace["attributions"], straight.trace["attributions"], atol=1e-12, rtol=0)


def test_integrated_gradients_and_captum():
    """Its trapezoid weighs n points with 1/n, ours of n − 1 steps with 1/(n − 1); it rounds to float32."""
    model = Bent().double()
    captum, baseline = IntegratedGradients(model), BASELINE.double().expand(2, -1, -1, -1)
    for steps, n, rule, scale in ((6, 6, "left", 1), (6, 7, "trapezoid", 7 / 6)):
        images, e = walk(methods.integrated_gradients, model, steps=steps, rule=rule)
        theirs = captum.attribute(
            images, baseline, target=torch.tensor([1, 2]), n_steps=n, method=f"riemann_{rule}"
        )
        torch.testing.assert_close(e.trace["attributions"], scale * theirs, atol=1e-6, rtol=0)


def test_a_guided_path_is_less_noisy_on_average():
    """Σ |attribution of a step| over twelve images; not promised for each single one."""
    model, images = Bent(seed=5), random(12, 3, 6, 8, seed=6)
    options = {"baseline": BASELINE, "steps": 40}
    straight = methods.integrated_gradients(model, images, 0, **options)
    for fraction in (0.5, 0.1):
        guided = methods.guided_ig(
            model, images, 0, fraction=fraction, max_dist=1, rule="trapezoid", **options
        )
        assert guided.variation.mean() < 0.95 * straight.variation.mean()
        change = guided.path_scores[:, -1] - guided.path_scores[:, 0]
        assert (guided.variation >= change.abs() * (1 - guided.gap)).all()


def test_completeness_improves_with_steps():
    gaps = [walk(steps=steps, fraction=0.25, max_dist=0.1, rule="trapezoid")[1].gap for steps in (4, 64)]
    assert (gaps[1] < gaps[0]).all() and gaps[1].max() < 0.01


def test_raw_and_map_of_pixels():
    """raw adds the colours up with their signs; the map is the positive part at the picture's size."""
    _, e = walk(steps=8)
    attributions = e.trace["attributions"].float()
    torch.testing.assert_close(e.raw, attributions.sum(1))
    positive = e.raw.relu()
    torch.testing.assert_close(e.map, positive / positive.amax((1, 2), keepdim=True))
    assert e.layers == [] and "guided_ig at the input" in repr(e)
    assert e.trace.keys() == {"path", "gradients", "attributions"}
    torch.testing.assert_close(
        (e.trace["path"].diff(dim=0) * e.trace["gradients"][:-1]).sum(0), e.trace["attributions"]
    )


@pytest.mark.parametrize("method", PIXEL, **by_name)
def test_each_image_has_its_own_path_and_class(method):
    model, images = Bent(), random(3, 3, 6, 8, seed=7)
    options = {"baseline": BASELINE, "steps": 7, "trace": True}
    together = method(model, images, [2, 0, 1], **options)
    for b, c in enumerate([2, 0, 1]):
        alone = method(model, images[b : b + 1], c, **options)
        torch.testing.assert_close(together.raw[b], alone.raw[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.trace["path"][:, b], alone.trace["path"][:, 0], atol=1e-5, rtol=0)
        for field in ("path_scores", "variation", "gap", "scores"):
            got, want = (getattr(e, field)[i] for e, i in ((together, b), (alone, 0)))
            torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)
    other = method(model, images[:1], 1, **options)
    assert (other.raw - together.raw[:1]).abs().max() > 0.01
    if method is methods.guided_ig:    # another class, another path
        assert (other.trace["path"][:, 0] - together.trace["path"][:, 0]).abs().max() > 0.01


@pytest.mark.parametrize("method", PIXEL, **by_name)
def test_any_list_of_inputs_is_a_path(method):
    """A path that was found is a path to give: the same attributions along it."""
    images, e = walk(method, steps=5, rule="trapezoid")
    again = methods.integrated_gradients(Bent().double(), images, [1, 2], path=e.trace["path"], trace=True)
    torch.testing.assert_close(again.trace["attributions"], e.trace["attributions"])
    torch.testing.assert_close(again.path_scores, e.path_scores)
    assert (again.config["path"], again.config["steps"], again.forwards) == ("given", 5, 12)
    detour = [BASELINE.double().expand_as(images), random(2, 3, 6, 8).double(), images]
    e = methods.integrated_gradients(Bent().double(), images, [1, 2], path=detour)
    torch.testing.assert_close(e.path_scores[:, 1], Bent().double()(detour[1])[[0, 1], [1, 2]].float())


# Baselines


def test_black_is_black_in_pixels(vgg):
    """(0 − mean) / std of each channel, and not zero, which is the mean colour."""
    images = random(1, 3, 32, 40)
    e = methods.integrated_gradients(vgg, images, 1, steps=2, trace=True)
    black = e.trace["path"][0]
    assert vgg.preprocessing.photo(black).max() == 0 and e.config["baseline"] == "black"
    imagenet = torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    torch.testing.assert_close(black[0, :, 0, 0], imagenet)
    given = methods.integrated_gradients(vgg, images, 1, steps=2, baseline=black[:1])
    torch.testing.assert_close(given.raw, e.raw)
    assert given.config["baseline"] == "given"


def test_a_baseline_for_each_image():
    model, images, start = Bent(), random(2, 3, 6, 8), random(2, 3, 6, 8, seed=1)
    e = methods.guided_ig(model, images, 1, baseline=start, steps=5)
    alone = methods.guided_ig(model, images[1:], 1, baseline=start[1:], steps=5)
    torch.testing.assert_close(e.raw[1], alone.raw[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(e.path_scores[:, 0], model(start)[:, 1].detach())


# Awkward inputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_that_is_its_baseline(dtype):
    model, images = Bent().to(dtype), torch.cat([BASELINE, random(1, 3, 6, 8)]).to(dtype)
    e = methods.guided_ig(model, images, 0, baseline=BASELINE, steps=6, fraction=0.3, max_dist=1)
    alone = methods.guided_ig(model, images[1:], 0, baseline=BASELINE, steps=6, fraction=0.3, max_dist=1)
    assert e.flat.tolist() == [True, False] and e.gap[0] == 0 and e.variation[0] == 0
    torch.testing.assert_close(e.raw[1], alone.raw[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("fraction", "max_dist"), SETTINGS)
def test_pixels_equal_to_the_baseline_never_move(fraction, max_dist):
    """D = 0, in float32: no division by zero, and nothing is attributed to them."""
    images = random(1, 3, 6, 8)
    images[..., :3] = -1
    e = methods.guided_ig(
        Bent(), images, 0, baseline=BASELINE, steps=9, fraction=fraction, max_dist=max_dist, trace=True
    )
    assert (e.trace["path"][..., :3] == -1).all() and (e.raw[..., :3] == 0).all() and e.raw.isfinite().all()
    left = (images - e.trace["path"]).abs().sum((1, 2, 3, 4))
    torch.testing.assert_close(left / left[0], torch.linspace(1, 0, 10), atol=1e-5, rtol=0)


def test_gradients_that_tie_move_together():
    """A network that answers with a constant has no gradient: all tie, and the path is the straight line."""
    model = Score(lambda a, b: 0 * (a + b))
    x = torch.tensor([[[[3.0, -2.0]]]])
    options = {"baseline": torch.zeros_like(x), "steps": 4, "fraction": 0, "max_dist": 1}
    e = methods.guided_ig(model, x, 0, trace=True, **options)
    torch.testing.assert_close(e.trace["path"][:, 0, 0, 0], torch.linspace(0, 1, 5)[:, None] * x.flatten())
    assert e.flat.all() and e.gap.tolist() == [0]


def test_float64_state_around_a_float32_network():
    """The network stays as it is; the path and the sums are exact to the last of many small steps."""
    model, images = Bent(), random(2, 3, 6, 8)
    options = {"baseline": BASELINE, "steps": 40, "fraction": 0.3, "max_dist": 0.4, "trace": True}
    exact = methods.guided_ig(model, images, 1, dtype=torch.float64, **options)
    plain = methods.guided_ig(model, images, 1, **options)
    assert exact.trace["path"].dtype == torch.float64 and plain.trace["path"].dtype == torch.float32
    assert (exact.config["dtype"], plain.config["dtype"]) == ("float64", "float32")
    assert exact.raw.dtype == exact.gap.dtype == torch.float32 and model.conv.weight.dtype == torch.float32
    budgets = (images - exact.trace["path"]).abs().sum((2, 3, 4)).diff(dim=0)
    torch.testing.assert_close(budgets, budgets[:1].expand_as(budgets), atol=1e-11, rtol=0)
    torch.testing.assert_close(plain.raw, exact.raw, atol=0.02 * exact.raw.abs().max().item(), rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", PIXEL, **by_name)
def test_half_precision_networks(method, dtype):
    """The path is float32 all the same."""
    options = {"baseline": BASELINE, "steps": 5, "trace": True}
    images = random(2, 3, 6, 8).to(dtype)
    exact = method(Bent(), images.float(), [1, 2], **options)
    half = method(Bent().to(dtype), images, [1, 2], **options)
    assert half.trace["path"].dtype == half.map.dtype == torch.float32
    torch.testing.assert_close(half.raw, exact.raw, atol=0.1 * exact.raw.abs().max().item(), rtol=0)


@pytest.mark.parametrize("method", PIXEL, **by_name)
def test_the_model_comes_back_as_it_was(method, vgg):
    """In training mode, frozen in parts, under the caller's modes, with images that want a gradient."""
    images, options = random(1, 3, 32, 40).requires_grad_(), {"steps": 2}
    expected = method(vgg, images, 1, **options).raw
    vgg.features[0].weight.grad = torch.ones_like(vgg.features[0].weight)
    before = {name: value.clone() for name, value in vgg.state_dict().items()}
    vgg.train().features.requires_grad_(False)
    try:
        for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            with mode():
                torch.testing.assert_close(method(vgg, images, 1, **options).raw, expected)
        assert all(module.training for module in vgg.modules())
        assert not any(module._forward_hooks for module in vgg.modules())
        assert not vgg.features[0].weight.requires_grad and (vgg.features[0].weight.grad == 1).all()
        assert all(torch.equal(value, before[name]) for name, value in vgg.state_dict().items())
    finally:
        vgg.eval().requires_grad_(True)
        vgg.features[0].weight.grad = None


class Counting(Bent):
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


@pytest.mark.parametrize("method", PIXEL, **by_name)
def test_cost_is_one_pass_a_point(method):
    model = Counting()
    e = method(model, random(2, 3, 6, 8), baseline=BASELINE, steps=5)
    assert e.forwards == model.forwards == e.backwards == model.backwards == 2 * 6


def test_defaults_are_those_of_the_official_code():
    _, e = walk()
    published = {"fraction": 0.25, "max_dist": 0.02, "steps": 200, "rule": "left", "anchors": 1}
    assert published.items() <= e.config.items()
    assert e.path_scores.shape == (2, 201) and e.trace["path"].shape[0] == 201


@pytest.mark.parametrize("method", PIXEL, **by_name)
@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"steps": 0}, ValueError, "steps must be a whole number of at least 1"),
        ({"steps": 2.5}, ValueError, "steps must be a whole number"),
        ({"rule": "right"}, ValueError, "The rule is one of left, trapezoid"),
        ({"baseline": torch.zeros(1, 3, 4, 4)}, ValueError, r"one image of the images' size, \(1, 3, 6, 8"),
        ({"baseline": torch.full((1, 3, 6, 8), float("nan"))}, ValueError, "baseline holds NaN"),
        ({"baseline": 0}, TypeError, "The baseline is a float tensor"),
        ({"baseline": None}, ValueError, "What is black for this Bent is not known"),
        ({"dtype": torch.float16}, ValueError, "computed in torch.float32 or torch.float64"),
        ({"score": "loud"}, ValueError, "kind of score"),
    ],
)
def test_bad_options(method, options, error, sentence):
    with pytest.raises(error, match=sentence):
        method(Bent(), random(2, 3, 6, 8), 0, **{"baseline": BASELINE, "steps": 2} | options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"fraction": 1.5}, "fraction is a share of the features"),
        ({"max_dist": -1}, "max_dist is a share of the way"),
        ({"max_dist": float("nan")}, "max_dist is a share of the way"),
        ({"anchors": 0}, "anchors must be a whole number"),
        ({"steps": 5, "anchors": 2}, "5 steps cannot be shared out among 2 pieces"),
    ],
)
def test_bad_paths_are_refused_before_any_pass(options, sentence):
    model = Counting()
    with pytest.raises(ValueError, match=sentence):
        methods.guided_ig(model, random(2, 3, 6, 8), 0, **{"baseline": BASELINE} | options)
    assert model.forwards == 0


def test_bad_paths_of_the_caller():
    model, images = Bent(), random(1, 3, 6, 8)

    def refuse(sentence, path, **options):
        with pytest.raises(ValueError, match=sentence):
            methods.integrated_gradients(model, images, 0, path=path, **options)

    refuse("two or more inputs", [images])
    refuse("two or more inputs", ["black", images])
    refuse(r"Point 0 of the path has shape \(3, 6, 8\)", [images[0], images])
    refuse("ends elsewhere", [images, BASELINE])
    refuse("leave baseline out", [BASELINE, images], baseline=BASELINE)


def test_black_is_known_for_three_channels():
    grey = models.load(Bent(channels=1))
    with pytest.raises(ValueError, match="Black is known for 3 channels, not for 1"):
        methods.integrated_gradients(grey, random(1, 1, 6, 8), 0)


def test_gradients_that_overflow_are_an_error():
    model = Score(lambda a, b: (a * 300) ** 2 + b)
    x = torch.full((1, 1, 1, 2), 1.0, dtype=torch.float16)
    with pytest.raises(ValueError, match="of the input are not finite for torch.float16|NaN"):
        methods.integrated_gradients(model, x, 0, baseline=torch.zeros_like(x), steps=2)


# Guides


def test_guides_by_hand():
    """One image of 1×2 pixels and two colours; a layer of 1×1 … 1×2 cells and two channels."""
    point = paths.Point(
        z=torch.zeros(1, 2, 1, 2),
        scores=torch.zeros(1),
        gradients=torch.tensor([[[[1.0, -2.0]], [[3.0, 0.5]]]]),
        activations=torch.tensor([[[[1.0, 2.0]], [[4.0, 0.0]]]]),
        layer_gradients=torch.tensor([[[[1.0, 3.0]], [[-1.0, 0.0]]]]),
    )
    # ḡ = (2, −½), Σ ḡ A = (2 − 2, 4 − 0) = (0, 4), divided by its maximum: (0, 1)
    want = {
        "input_grad": [1, -2, 3, 0.5],
        "input_grad_pixel": [4, 2.5, 4, 2.5],
        "cam_low": [0, 1, 0, 1],
        "cam_high": [1e6, 1, 1e6, 1],    # only the order counts
    }
    assert GUIDES.keys() == want.keys()
    for name, values in want.items():
        got = GUIDES[name](point)
        assert got.shape == point.z.shape
        if name == "cam_high":
            assert (got[..., 0] > 1e6).all()
            got = got.clamp(max=1e6)
        assert got.flatten().tolist() == pytest.approx(values, abs=3e-6)


def test_the_map_of_a_point_has_no_ties():
    """Exact zeros of the ReLU would move all at once; their order is drawn, and the same for each image."""
    point = paths.Point(
        z=torch.zeros(2, 3, 8, 8), scores=torch.zeros(2), gradients=torch.zeros(2, 3, 8, 8),
        activations=torch.ones(2, 1, 2, 2), layer_gradients=-torch.ones(2, 1, 2, 2),
    )    # fmt: skip
    for guide in (GUIDES["cam_low"], GUIDES["cam_high"]):
        score = guide(point)
        assert score.isfinite().all() and (score > 0).all() and len(score[0, 0].unique()) == 64
        assert torch.equal(score[0], score[1]) and torch.equal(score[:, 0], score[:, 2])
        assert torch.equal(score, guide(point))
