"""Fusing scales: the rules by hand, what they guarantee, and GIG-CAM(F) from picture to map."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cambook import methods, models
from cambook.methods import fusion
from cambook.methods.fusion import STRENGTHS, fuse, normalise, scale_map
from cambook.methods.gig_cam_f import enlarge
from cambook.world import networks

RECURSIVE = ["res", "prod", "pow", "ratio", "lap"]


def stack(scales, batch=4, size=(12, 15), seed=0):
    """Random maps in [0, 1], with zeros in them."""
    generator = torch.Generator().manual_seed(seed)
    return [(torch.rand(batch, *size, generator=generator) - 0.3).clamp(min=0) for _ in range(scales)]


def fused(maps, rule="res", **options):
    grids = [(4 * (i + 1), 5 * (i + 1)) for i in range(len(maps))]
    return fuse(maps, rule, grids=grids, **options)


# The rules


def test_rules_by_hand():
    """S_0 = (1, ½, 0, ¼) and S_1 = (½, 1, 1, 0) on a grid of two cells of two."""
    small, large = torch.tensor([[[1.0, 0.5, 0, 0.25]]]), torch.tensor([[[0.5, 1.0, 1.0, 0]]])
    # C(S_1): means ¾ and ½, brought back to four places: ¾, 11/16, 9/16, ½
    ratio = [0.5 / 0.75, 0.5 / (11 / 16), 0, 0]
    lap = [1 - 0.25, 0.5 + 5 / 16, 7 / 16, 0]
    want = {
        "res": [1, 2 / 3, 0, 1 / 6],    # (3/2, 1, 0, 1/4) over 3/2
        "prod": [1, 1, 0, 0],
        "pow": [1, 0.5 / 0.5**0.5, 0, 0],
        "ratio": [value / max(ratio) for value in ratio],
        "lap": [value / max(lap) for value in lap],
        "avg": [0.75, 0.75, 0.5, 0.125],
    }
    assert want.keys() == STRENGTHS.keys()
    for rule, values in want.items():
        got = fuse([small, large], rule, grids=[(1, 2), (1, 4)])
        assert got[0].flatten().tolist() == pytest.approx(values, abs=1e-5), rule
        assert torch.equal(got[1], large)


def test_strengths_by_hand():
    small, large = torch.tensor([[[1.0, 0.5]]]), torch.tensor([[[0.25, 1.0]]])
    for rule, strength, values in (
        ("res", 3, [1, 2 / 3.25]),
        ("res", 0, [0.5, 1]),
        ("pow", 1, [0.5, 1]),
        ("pow", 0, [1, 0.5]),
        ("ratio", 0.5, [0.4 / 0.4, 0.25 / 0.4]),    # 0.25 / 0.625 = 0.4 and 1 / 0.625, which is cut to ½
        ("lap", 2, [(1 - 0.75) / 1.25, 1]),
    ):
        got = fuse([small, large], rule, strength=strength, grids=[(1, 1), (1, 2)])[0]
        assert got.flatten().tolist() == pytest.approx(values, abs=1e-5), (rule, strength)


def test_the_recursion_goes_from_large_to_small():
    """R_n = S_n, and each scale is refined by the result of the larger ones."""
    one, two, three = (normalise(map) for map in stack(3))
    second = normalise(two * (1 + three))
    got = fuse([one, two, three])
    for have, want in zip(got, (normalise(one * (1 + second)), second, three), strict=True):
        torch.testing.assert_close(have, want)
    weights = fuse([one, two, three], "pow")[0]
    torch.testing.assert_close(weights, normalise(one * two**0.5 * three**0.25), atol=1e-5, rtol=0)
    torch.testing.assert_close(fuse([one, two, three], "prod")[0], normalise(one * two * three))
    torch.testing.assert_close(fuse([one, two, three], "avg")[0], (one + two + three) / 3)


def test_which_rules_know_an_order():
    """The product and the mean do not care; the others do."""
    maps = stack(3)
    turned = [maps[2], maps[0], maps[1]]
    for rule in STRENGTHS:
        same = torch.allclose(fused(maps, rule)[0], fused(turned, rule)[0], atol=1e-5)
        assert same == (rule in ("prod", "avg")), rule


@pytest.mark.parametrize("rule", STRENGTHS)
def test_one_scale_is_that_scale(rule):
    [only] = fused(stack(1), rule)
    assert torch.equal(only, normalise(stack(1)[0]))


@pytest.mark.parametrize("rule", RECURSIVE)
@pytest.mark.parametrize("scales", [2, 3, 5])
def test_range_and_maximum(rule, scales):
    for each in fused(stack(scales), rule):
        assert each.min() >= 0 and each.amax((1, 2)).tolist() == [1] * 4


def test_limits_of_res():
    """λ → ∞ leaves the original scale, λ = 0 is the product, and a constant larger scale says nothing."""
    maps = stack(3)
    original = normalise(maps[0])
    torch.testing.assert_close(fuse(maps, strength=1e6)[0], original, atol=2e-6, rtol=0)
    assert torch.equal(fuse(maps, strength=0)[0], fuse(maps, "prod")[0])
    torch.testing.assert_close(fuse([maps[0], torch.full_like(maps[0], 0.3)])[0], original)


@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_what_res_guarantees(strength):
    """On 2000 random stacks: the support is the original's, and the peak lies where S_0 ≥ λ / (1 + λ)."""
    maps = stack(3, batch=2000, size=(6, 7), seed=1)
    original, result = normalise(maps[0]), fuse(maps, strength=strength)[0]
    assert torch.equal(result > 0, original > 0)
    at_peak = original.flatten(1).gather(1, result.flatten(1).argmax(1, keepdim=True))
    assert at_peak.min() >= strength / (1 + strength) - 1e-6
    others = fuse(maps, "prod")[0].flatten(1).argmax(1, keepdim=True)    # a product guarantees no such thing
    assert original.flatten(1).gather(1, others).min() < strength / (1 + strength)


def test_a_scale_without_evidence():
    """Zero at the larger scale changes nothing under "res", zero at the original scale leaves nothing."""
    maps = stack(2)
    zero = torch.zeros_like(maps[0])
    torch.testing.assert_close(fuse([maps[0], zero])[0], normalise(maps[0]))
    for rule in STRENGTHS:
        for case in ([zero, maps[1]], [maps[0], zero], [zero, zero]):
            assert all(each.isfinite().all() for each in fused(case, rule))
    assert fuse([zero, maps[1]])[0].abs().max() == 0


def test_maps_of_any_magnitude():
    maps = stack(3)
    scaled = [factor * map for factor, map in zip((1e-20, 1e20, 5), maps, strict=True)]
    for rule in STRENGTHS:
        torch.testing.assert_close(fused(scaled, rule)[0], fused(maps, rule)[0], atol=1e-5, rtol=0)


def test_a_raw_map_becomes_a_scale():
    """ReLU, bilinear, divided by the maximum; a constant stays exactly constant."""
    raw = torch.tensor([[[-8.0, 0.0, 2.0]], [[0.3, 0.3, 0.3]], [[-1.0, -2.0, 0.0]]])
    got = scale_map(raw, (7, 6))
    assert got[0, 3].tolist() == [0, 0, 0, 0.25, 0.75, 1]
    assert torch.equal(got[1], torch.ones(7, 6)) and got[2].abs().max() == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rule": "sum"}, "The rule of the fusion is one of res, prod, pow"),
        ({"rule": "prod", "strength": 1.0}, 'The rule "prod" has no strength'),
        ({"strength": -1.0}, "a number that is not negative, but was -1.0"),
        ({"strength": float("nan")}, "a number that is not negative"),
        ({"strength": float("inf")}, "a number that is not negative"),
        ({"rule": "ratio"}, 'The rule "ratio" needs the grid'),
        ({"rule": "lap", "grids": [(2, 2)]}, r"the grid \(h, w\) of each of 2 maps"),
        ({"maps": []}, "nothing to fuse"),
        ({"maps": [torch.ones(1, 2, 2), torch.ones(1, 4, 4)]}, r"map 1 \(1, 4, 4\)"),
        ({"maps": [torch.ones(2, 2)]}, r"All maps must be \(B, H, W\)"),
        ({"maps": [-torch.ones(1, 2, 2)]}, "Map 0 has negative"),
        ({"maps": [torch.full((1, 2, 2), float("nan"))]}, "Map 0 has negative or non-finite"),
    ],
)
def test_bad_fusions(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        fuse(**{"maps": [torch.ones(1, 2, 2)] * 2} | options)


# GIG-CAM(F)


class Counting(nn.Module):
    """tiny_vgg that notes the pictures it sees."""

    def __init__(self, net):
        super().__init__()
        self.net, self.sizes = net, []
        self.preprocessing, self.classes = net.preprocessing, net.classes

    def forward(self, images):
        self.sizes += [tuple(images.shape[-2:])] * len(images)
        return self.net(images)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return models.load(networks.build("tiny_vgg").eval())


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(3))


def test_one_scale_is_gig_cam(net, images):
    one = methods.gig_cam(net, images, [1, 2], steps=3, layers="features.22")
    e = methods.gig_cam_f(net, images, [1, 2], steps=3, layers="features.22", scales=[1])
    torch.testing.assert_close(e.map, one.map, atol=1e-5, rtol=0)
    assert (e.forwards, e.backwards, e.flat.tolist()) == (one.forwards, one.backwards, one.flat.tolist())
    torch.testing.assert_close(e.gap[:, 0], one.gap)


@pytest.mark.parametrize("guide", ["input_grad", "cam_high", "features"])
def test_from_its_parts(net, images, guide):
    """Each scale is GIG-CAM of the enlarged picture, from the black picture of that size; then the fusion."""
    options = {"steps": 3, "layers": "features.22", "guide": guide, "accumulation": "A2e"}
    e = methods.gig_cam_f(net, images, [1, 2], scales=(2, 1, 1.5), trace=True, **options)
    maps = []
    for i, size in enumerate([(32, 40), (48, 60), (64, 80)]):
        larger = F.interpolate(images, size, mode="bilinear", align_corners=False)
        part = methods.gig_cam(net, larger, [1, 2], trace=True, **options)
        positive = part.raw.relu()[:, None]
        positive = F.interpolate(positive, (32, 40), mode="bilinear", align_corners=False)[:, 0]
        maps.append(positive / positive.amax((1, 2), keepdim=True))
        torch.testing.assert_close(e.trace["maps"][i], maps[-1], atol=1e-5, rtol=0)
        torch.testing.assert_close(e.gap[:, i], part.gap)
        torch.testing.assert_close(e.variation[:, i], part.variation)
        torch.testing.assert_close(e.path_scores[:, i], part.path_scores)
        if guide != "features":
            start = e.trace["scales"][i].trace["path"][0]
            assert start.shape[-2:] == size and net.preprocessing.photo(start).max() == 0
    want = fuse(maps)
    torch.testing.assert_close(e.raw, want[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(e.trace["fused"], torch.stack(want), atol=1e-5, rtol=0)
    assert e.map.amax((1, 2)).tolist() == [1, 1] and e.path_scores.shape == (2, 3, 4)
    assert e.config["scales"] == (1, 1.5, 2) and e.config["strength"] == 1.0 and e.config["fusion"] == "res"
    assert torch.equal(e.incomplete, (e.gap > 0.05).any(1))


def test_rules_reach_the_fusion(net, images):
    options = {"steps": 2, "layers": "features.22", "scales": (1, 2)}
    for rule, strength in (("ratio", None), ("lap", 0.5), ("avg", None), ("res", 0)):
        e = methods.gig_cam_f(
            net, images, [1, 2], fusion=rule, strength=strength, trace=True, **options
        )
        want = fuse(list(e.trace["maps"]), rule, strength=strength, grids=[(4, 5), (8, 10)])[0]
        torch.testing.assert_close(e.raw, want)


def test_pictures_are_enlarged_in_pixel_space(net):
    """Bilinear weights add up to 1, so resizing what is normalised is normalising what was resized."""
    pixels = torch.rand(1, 3, 9, 14, generator=torch.Generator().manual_seed(0))
    large = F.interpolate(pixels, (14, 21), mode="bilinear", align_corners=False)
    got = enlarge(net.preprocessing.normalise(pixels), 1.5)
    torch.testing.assert_close(got, net.preprocessing.normalise(large), atol=1e-5, rtol=0)


def test_a_given_baseline_is_enlarged_too(net, images):
    baseline = torch.rand(1, 3, 32, 40, generator=torch.Generator().manual_seed(1))
    e = methods.gig_cam_f(net, images, 1, baseline=baseline, steps=2, layers="features.22", trace=True)
    for part, scale in zip(e.trace["scales"], (1, 1.5, 2), strict=True):
        start = part.trace["path"][0]
        torch.testing.assert_close(start, enlarge(baseline, scale).expand_as(start))


def test_cost_is_one_pass_a_point_and_scale(net, images):
    """The class and the layer are found at the original size; each scale costs T + 1 passes."""
    model = Counting(net)
    e = methods.gig_cam_f(model, images, steps=3, layers="net.features.22")
    assert e.forwards == len(model.sizes) == e.backwards == 2 * 3 * 4
    assert {size: model.sizes.count(size) for size in model.sizes} == {(32, 40): 8, (48, 60): 8, (64, 80): 8}
    assert torch.equal(e.targets, net(images).argmax(1))


class Fixed(nn.Module):
    """A network whose fully connected layer fits one size only, and that checks it in one of three ways."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.fc, self.how = nn.Conv2d(3, 2, 3, padding=1), nn.Linear(2 * 32 * 40, 3), how
        self.runs = 0

    def forward(self, images):
        self.runs += 1
        if self.how == "assert":
            assert images.shape[-2:] == (32, 40), "Wrong image height! Expected 32"
        features = self.conv(images)
        if self.how == "view":
            return self.fc(features.view(-1, 2 * 32 * 40).view(len(images), -1))
        return self.fc(features.flatten(1))


@pytest.mark.parametrize("how", ["linear", "view", "assert"])
def test_a_size_that_the_network_cannot_take(how, images):
    """One sentence, and before the first path is made."""
    model = models.load(Fixed(how))
    with pytest.raises(ValueError, match=r"At scale 1.5 the images have 48×60 pixels.*Fixed.*leave that sc"):
        methods.gig_cam_f(model, images, 1, steps=20, layers="conv")
    assert model.runs <= 3
    e = methods.gig_cam_f(model, images, 1, steps=2, layers="conv", scales=[1])
    assert e.map.shape == (2, 32, 40)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"scales": ()}, "scales are factors such as"),
        ({"scales": 2}, "scales are factors such as .* not 2"),
        ({"scales": (1.5, 2)}, "1, the original size, and larger ones"),
        ({"scales": (0.5, 1)}, "1, the original size, and larger ones"),
        ({"scales": (1, float("inf"))}, "scales are factors"),
        ({"scales": (1, float("nan"))}, "scales are factors"),
        ({"fusion": "sum"}, "The rule of the fusion"),
        ({"fusion": "avg", "strength": 1.0}, "has no strength"),
        ({"guide": "none"}, "The guide is one of"),
        ({"baseline": torch.zeros(1, 3, 8, 8)}, "must be one image of the images' size"),
    ],
)
def test_bad_options(net, images, options, sentence):
    model = Counting(net)
    with pytest.raises(ValueError, match=sentence):
        methods.gig_cam_f(model, images, 1, layers="net.features.22", **options)
    assert not model.sizes


def test_bad_images(net):
    with pytest.raises(ValueError, match="NaN"):
        methods.gig_cam_f(net, torch.full((1, 3, 32, 40), float("nan")))
    with pytest.raises(TypeError, match="uint8"):
        methods.gig_cam_f(net, torch.zeros(1, 3, 32, 40, dtype=torch.uint8))


def test_half_precision(net, images):
    exact = methods.gig_cam_f(net, images, [1, 2], steps=2, fraction=1, layers="features.22")
    torch.manual_seed(0)
    half = models.load(networks.build("tiny_vgg").eval().half())
    e = methods.gig_cam_f(half, images.half(), [1, 2], steps=2, fraction=1, layers="features.22")
    assert e.map.dtype == torch.float32 and e.map.isfinite().all()
    assert (e.map - exact.map).abs().mean() < 0.1


def test_without_evidence_the_map_is_flat(images):
    torch.manual_seed(0)
    net = models.load(networks.build("tiny_vgg").eval())
    nn.init.zeros_(net.classifier[-1].weight)
    e = methods.gig_cam_f(net, images, 1, steps=2)
    assert e.flat.all() and e.map.abs().max() == 0 and not e.incomplete.any()
