"""Poly-CAM against its published formulas written out one channel at a time, and each of its known traps."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from cambook import methods, metrics, models, scoring, targets
from cambook.kernels import lnorm_step
from cambook.methods.poly_cam import LAYER_LISTS, VARIANTS, channel_weights, recursion, robust_normalise
from cambook.world import networks


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


class Stages(nn.Module):
    """Three layers, each behind a ReLU; between the first two a pooling by `ratio`, then one by 2."""

    layers = ("first", "second", "third")

    def __init__(self, ratio=2, classes=4, channels=(5, 4, 6), seed=0, inplace=False):
        super().__init__()
        a, b, c = channels
        self.first = nn.Sequential(nn.Conv2d(3, a, 3, padding=1), nn.ReLU(inplace))
        self.second = nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(inplace))
        self.third = nn.Sequential(nn.Conv2d(b, c, 3, padding=1), nn.ReLU(inplace))
        self.ratio, self.fc = ratio, nn.Linear(c, classes)
        self.images = 0
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters()):
                values = random(*parameter.shape, seed=100 * seed + i)
                # Every channel alive, and no class certain.
                parameter.copy_(values.abs() if values.ndim == 1 else values * values[0].numel() ** -0.5)
            self.fc.weight.mul_(3)

    def maps(self, images):
        first = self.first(images)
        second = self.second(F.max_pool2d(first, self.ratio))
        return first, second, self.third(F.max_pool2d(second, 2))

    def forward(self, images):
        self.images += len(images)
        return self.fc(self.maps(images)[-1].mean((2, 3)))


# The formulas, as the official code computes them: one image, one channel, one layer at a time.


def resized(Z, size):
    return F.interpolate(Z[None, None], tuple(size), mode="bilinear", align_corners=False)[0, 0]


def robust(Z):
    low, high = (np.percentile(Z.double().numpy(), q) for q in (0.1, 99.9))
    return ((Z - low) / max(high, 1e-12)).clip(0, 1).float()


@torch.no_grad()
def plain(model, image, c, variant="pm", lnorm=True):
    """[S_L … S_1], [P_L … P_1] and [w_L … w_1] of one image (3, H, W)."""

    def f(picture):
        return model(picture[None])[0].softmax(0)[c].item()

    p0, size = f(image), image.shape[1:]
    S, P, W = [], [], []
    for A in reversed(model.maps(image[None])):
        w = []
        for channel in A[0]:
            M = robust(channel)
            keep, remove = f(resized(M, size) * image), f(resized(1 - M, size) * image)
            w.append({"plus": keep, "minus": p0 - remove, "pm": keep + p0 - remove}[variant])
            w[-1] = max(w[-1], 0.0)
        C = sum(weight * channel for weight, channel in zip(w, A[0], strict=True)).clip(min=0)
        if P:
            small = P[-1].shape
            mean = resized(resized(C, small), C.shape)
            detail = C / torch.maximum(mean, torch.tensor(1e-12)) if lnorm else C
            C = resized(P[-1], C.shape) * detail
        P.append(C)
        S.append(resized(robust(C), size))
        W.append(torch.tensor(w))
    return S, P, W


@torch.no_grad()
def two_classes(ratio=2, kind=Stages):
    """A network, two images, and their classes, which differ and suffer when something is removed."""
    model, images = kind(ratio, seed=3), random(2, 3, 32, 48)
    images[1] = images[1] / 2 + torch.tensor([1.0, -1, 0])[:, None, None]
    model.second[0].weight[2], model.second[0].bias[2] = 0, -1    # a dead channel: its weight does not matter
    model.fc.weight.mul_(2)
    model.fc.bias.sub_(model(images).mean(0))
    return model, images, model(images).argmax(1).tolist()


@pytest.mark.parametrize("lnorm", [True, False])
@pytest.mark.parametrize("ratio", [2, 4])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_official_formulas(variant, ratio, lnorm):
    """Every depth and every weight, for a batch of two images with two classes; theirs takes one image."""
    model, images, classes = two_classes(ratio)
    assert classes[0] != classes[1]
    e = methods.poly_cam(
        model, images, classes, variant=variant, layers=model.layers, lnorm=lnorm, trace=True, chunk=7
    )
    for b, c in enumerate(classes):
        S, P, W = plain(model, images[b], c, variant, lnorm)
        for depth in range(3):
            dead = e.trace["skipped"][depth][b]
            assert torch.nonzero(dead).tolist() == ([[2]] if depth == 1 else [])
            torch.testing.assert_close(
                e.trace["weights"][depth][b], W[depth].masked_fill(dead, 0), atol=2e-6, rtol=0
            )
            torch.testing.assert_close(e.trace["P"][depth][b], P[depth], rtol=1e-3, atol=1e-5)
            torch.testing.assert_close(e.trace["S"][depth][b], S[depth], atol=1e-5, rtol=0)
        torch.testing.assert_close(e.map[b], S[-1], atol=1e-5, rtol=0)
        torch.testing.assert_close(e.raw[b], P[-1], rtol=1e-3, atol=1e-5)
        assert S[-1].max() > 0.5, "a flat map proves nothing"


@pytest.mark.parametrize("variant", VARIANTS)
def test_layers_without_a_relu(variant):
    """Their sums may be negative, and each C_l is cut off at zero."""

    class Signed(Stages):
        def maps(self, images):
            first = self.first[0](images)
            second = self.second[0](F.max_pool2d(first.relu(), 2))
            return first, second, self.third[0](F.max_pool2d(second.relu(), 2))

        def forward(self, images):
            return self.fc(self.maps(images)[-1].relu().mean((2, 3)))

    model, images, classes = two_classes(kind=Signed)
    layers = [f"{name}.0" for name in model.layers]
    e = methods.poly_cam(model, images, classes, variant=variant, layers=layers, trace=True)
    assert any((C == 0).any() for C in e.trace["C"]) and all((A < 0).any() for A in e.trace["activations"])
    for b, c in enumerate(classes):
        torch.testing.assert_close(e.map[b], plain(model, images[b], c, variant)[0][-1], atol=1e-5, rtol=0)


# LNorm, which is lnorm_step with P = 1


def lnorm(C, small):
    return lnorm_step(torch.ones(len(C), *small), C)


def test_lnorm_of_a_constant_is_one():
    for size in ((8, 12), (4, 6), (2, 3), (3, 5)):
        torch.testing.assert_close(lnorm(torch.full((1, 8, 12), 7.0), size), torch.ones(1, 8, 12))


@pytest.mark.parametrize("ratio", [1, 2, 3, 4])
def test_lnorm_does_not_see_the_scale(ratio):
    C = uniform(2, 12, 24)
    expected = lnorm(C, (12 // ratio, 24 // ratio))
    for scale in (1e-6, 1e6):
        torch.testing.assert_close(lnorm(scale * C, (12 // ratio, 24 // ratio)), expected)


@pytest.mark.parametrize(("row", "column", "bound"), [(4, 6, 64 / 9), (0, 6, 16 / 3), (0, 11, 4.0)])
def test_lnorms_bound_at_ratio_two(row, column, bound):
    """One pixel alone, inside, at an edge and in a corner; and no picture comes above that."""
    C = torch.zeros(1, 8, 12)
    C[0, row, column] = 0.3
    assert lnorm(C, (4, 6))[0, row, column].item() == pytest.approx(bound)
    for seed in range(20):
        noise = uniform(1, 8, 12, seed=seed) ** 8
        assert lnorm(noise, (4, 6))[0, row, column] <= bound


def test_lnorm_at_ratio_one_is_where_something_is():
    C = random(1, 6, 9).relu()
    assert torch.equal(lnorm(C, (6, 9)), (C > 0).float())


def test_the_local_mean_is_one_at_ratio_two_only():
    """Trap 3: bilinear without antialiasing sees the central 2 × 2 of 4 × 4, and the centre of 3 × 3."""

    def shrunk(C, ratio):
        return F.interpolate(C[None], scale_factor=1 / ratio, mode="bilinear", align_corners=False)[0]

    C = uniform(1, 12, 24)
    torch.testing.assert_close(shrunk(C, 2), F.avg_pool2d(C, 2))
    torch.testing.assert_close(shrunk(C, 4), F.avg_pool2d(C[:, 1:-1, 1:-1], 2, stride=4))
    assert (shrunk(C, 4) - F.avg_pool2d(C, 4)).abs().max() > 0.1
    torch.testing.assert_close(shrunk(C, 3), C[:, 1::3, 1::3])
    # And this is what the recursion divides by.
    for ratio in (2, 3, 4):
        small = shrunk(C, ratio)
        mean = F.interpolate(small[None], size=(12, 24), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(lnorm(C, small.shape[1:]), C / mean)


def test_lnorm_at_ratio_four_has_no_bound():
    C = torch.zeros(1, 8, 8)
    C[0, 0, 0] = 1    # outside the four pixels that the shrinking sees
    assert lnorm(C, (2, 2))[0, 0, 0].item() == pytest.approx(1e12)


def test_mass_is_kept_where_the_blocks_are_alike():
    """Idealised, every block of P_l has the mean that P_l+1 has there; with equal block means it is so."""
    C = uniform(1, 8, 12)
    C = C / F.avg_pool2d(C, 2).repeat_interleave(2, 1).repeat_interleave(2, 2)
    above = torch.full((1, 4, 6), 0.4)
    refined = recursion([above, C])[1]
    torch.testing.assert_close(F.avg_pool2d(refined, 2), above)


def test_a_regional_gain_is_divided_out():
    """Why LNorm is there: C ten times as loud at one side. With it the coarse map still decides."""

    def agreement(C, above, **options):
        means = F.avg_pool2d(recursion([above, C], **options)[1], 2)
        return torch.corrcoef(torch.stack([means.flatten(), above.flatten()]))[0, 1].item()

    above, C = uniform(1, 28, 28), uniform(1, 56, 56, seed=1)
    gain = torch.linspace(1, 10, 56)
    with_it, without = agreement(C, above), agreement(C, above, lnorm=False)
    loud, loud_without = agreement(C * gain, above), agreement(C * gain, above, lnorm=False)
    assert loud == pytest.approx(with_it, abs=0.01) and with_it > without + 0.1 > loud_without + 0.2


def test_zero_stays_zero_and_a_factor_passes_through():
    cams = [uniform(2, 3, 4), random(2, 6, 8, seed=1).relu(), random(2, 12, 16, seed=2).relu()]
    steps = recursion(cams)
    assert all((step[cam == 0] == 0).all() for step, cam in zip(steps, cams, strict=True))
    louder = recursion([5 * cams[0], *cams[1:]])
    for step, other in zip(steps, louder, strict=True):
        torch.testing.assert_close(5 * step, other)


# The normaliser


def test_the_divisor_is_the_upper_percentile():
    """Trap 2: not the range. A map far from zero stays dark, and a negative one becomes black and white."""
    Z = 5 + uniform(100, 100)
    low, high = np.percentile(Z.numpy().astype(float), [0.1, 99.9])
    assert robust_normalise(Z[None])[0].max().item() == pytest.approx((Z.max().item() - low) / high, rel=1e-5)
    assert robust_normalise(Z[None])[0].max().item() == pytest.approx(0.166, abs=2e-3)
    assert set(robust_normalise(-Z[None]).unique().tolist()) == {0, 1}


def test_few_active_pixels_make_a_mask_of_zeros_and_ones():
    """The upper percentile is then zero, and the divisor its floor: 12 pixels of 112² are few, 14 are not."""
    Z = torch.zeros(2, 112, 112)
    Z[0].view(-1)[:12] = torch.linspace(1e-9, 1, 12)
    Z[1].view(-1)[:14] = torch.linspace(1e-9, 1, 14)
    few, more = robust_normalise(Z)
    assert set(few.unique().tolist()) == {0, 1} and few.sum() == 12
    assert len(more.unique()) > 2
    assert robust_normalise(torch.zeros(1, 5, 7)).tolist() == torch.zeros(1, 5, 7).tolist()


def test_each_map_has_its_own_percentiles():
    Z = random(2, 3, 9, 8).relu()
    alone = torch.stack([robust(Z[b, k]) for b in range(2) for k in range(3)]).view(2, 3, 9, 8)
    torch.testing.assert_close(robust_normalise(Z), alone)
    torch.testing.assert_close(robust_normalise(Z[1, 2]), alone[1, 2])


def test_masks_are_normalised_before_they_are_enlarged():
    """Trap 2: one peak between pixels loses height when it is enlarged, and is not stretched again."""
    Z = torch.zeros(1, 1, 4, 4)
    Z[..., 1, 2] = 3
    large = F.interpolate(robust_normalise(Z), (8, 8), mode="bilinear", align_corners=False)
    assert large.max().item() == pytest.approx(0.75**2)
    # Removing: 1 − M before or after it is enlarged is the same.
    other = F.interpolate(1 - robust_normalise(Z), (8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(other, 1 - large)


# The weights


def test_weights_by_hand():
    """One ReLU around a sum: a channel whose removal helps is paid less for what it shows."""
    own, keep = torch.tensor([0.5]), torch.tensor([[0.5, 0.25, 0.125, 0.0]])
    remove = torch.tensor([[0.25, 0.625, 0.875, 0.5]])
    assert channel_weights(own, keep, None).tolist() == [[0.5, 0.25, 0.125, 0]]
    assert channel_weights(own, None, remove).tolist() == [[0.25, 0, 0, 0]]
    assert channel_weights(own, keep, remove).tolist() == [[0.75, 0.125, 0, 0]]


def test_masks_of_ones_and_of_zeros():
    """All is kept, or nothing."""
    model, images = Stages(), random(2, 3, 16, 24)
    resolved = targets.resolve([1, 2], torch.zeros(2, 4))
    p0 = scoring.scores(model, images, resolved, "probability")
    empty = scoring.scores(model, torch.zeros_like(images), resolved, "probability")
    masks = torch.stack([torch.ones(2, 3, 3), torch.zeros(2, 3, 3)], 1)
    keep, remove = (
        scoring.masked_scores(model, images, m, resolved, kind="probability", normalise=False).values
        for m in (masks, 1 - masks)
    )
    for scores, expected in (
        ((keep, None), [p0, empty]),
        ((None, remove), [(p0 - empty).relu(), torch.zeros(2)]),
        ((keep, remove), [(2 * p0 - empty).relu(), empty]),
    ):
        torch.testing.assert_close(
            channel_weights(p0, *scores), torch.stack(expected, 1), atol=1e-6, rtol=0
        )


def test_nothing_is_subtracted_for_the_empty_image():
    """Trap 1: Score-CAM takes f_c of the empty image off. A constant channel's mask shows that image."""
    model, images = Stages(), random(1, 3, 16, 24)
    with torch.no_grad():
        model.third[0].weight[2], model.third[0].bias[2] = 0, 0.7
    empty = scoring.scores(model, torch.zeros_like(images), 1, "probability").item()
    options = {"layers": model.layers, "trace": True}
    plus, minus, both = (methods.poly_cam(model, images, 1, variant=v, **options).trace for v in VARIANTS)
    assert plus["weights"][0][0, 2].item() == pytest.approx(empty, abs=1e-6) and empty > 1e-3
    assert minus["weights"][0][0, 2].item() == pytest.approx(0, abs=1e-6)
    assert both["weights"][0][0, 2].item() == pytest.approx(empty, abs=1e-6)


# The layers


def test_plus_at_one_layer_is_score_cam_with_probabilities():
    """Trap 14: a single layer has no recursion. What is left is the Score-CAM of 2021, but for N."""
    model, images = Stages(), random(2, 3, 16, 24)
    e = methods.poly_cam(model, images, [1, 2], variant="plus", layers="third", trace=True)
    maps = model.maps(images)[-1].detach()
    masks = F.interpolate(robust_normalise(maps), (16, 24), mode="bilinear", align_corners=False)
    for b, c in enumerate([1, 2]):
        weights = model(masks[b, :, None] * images[b]).softmax(1)[:, c].detach()
        torch.testing.assert_close(e.trace["weights"][0][b], weights, atol=1e-6, rtol=0)
        torch.testing.assert_close(e.raw[b], (weights[:, None, None] * maps[b]).sum(0))
    assert e.layers == ["third"] and len(e.trace["S"]) == 1
    other = methods.score_cam(model, images, [1, 2], layers="third", weighting="probability")
    assert torch.corrcoef(torch.stack([e.raw.flatten(), other.raw.flatten()]))[0, 1] > 0.98


def test_the_two_lists_of_resnet50():
    """Trap 4. Sizes and channels as in the reference; "auto" sees what the recommended list names."""
    net, images = torchvision.models.resnet50(weights=None).eval(), random(1, 3, 224, 224)
    repeated = []
    hook = net.layer2[0].relu.register_forward_hook(lambda *call: repeated.append(call[2].clone()))
    seen = {name: models_maps(net, images, names) for name, names in LAYER_LISTS.items()}
    hook.remove()
    sizes = {name: [tuple(A.shape[1:3]) for A in maps] for name, maps in seen.items()}
    assert sizes == {
        "resnet50_official": [(64, 112), (512, 28), (1024, 14), (2048, 7), (2048, 7)],
        "resnet50_recommended": [(64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7)],
    }
    # The official search names the block's ReLU, which runs three times; its hook keeps the last output.
    assert torch.equal(repeated[2], seen["resnet50_official"][1])
    auto = models_maps(net, images, models.stage_layers(net, images))
    assert all(torch.equal(a, b) for a, b in zip(auto, seen["resnet50_recommended"], strict=True))


def models_maps(net, images, names):
    from cambook.activations import capture

    captured = capture(net, images, names)
    return [captured.activations[name] for name in captured.layers]


@pytest.mark.parametrize(
    ("name", "channels", "sizes"),
    [
        ("vgg16", [64, 128, 256, 512, 512], [224, 112, 56, 28, 14]),
        ("resnet18", [64, 64, 128, 256, 512], [112, 56, 28, 14, 7]),
    ],
)
def test_what_auto_asks_of_the_papers_networks(name, channels, sizes):
    with torch.device("meta"):
        net = torchvision.models.get_model(name, weights=None)
        if name == "vgg16":
            net.classifier = nn.Linear(512 * 7 * 7, 3)    # not 120 million weights
    net = net.to_empty(device="cpu").eval()
    for tensor in (*net.parameters(), *net.buffers()):
        tensor.data.zero_()
    maps = models_maps(net, random(1, 3, 224, 224), models.stage_layers(net, random(1, 3, 224, 224)))
    assert [A.shape[1] for A in maps] == channels and [A.shape[2] for A in maps] == sizes
    assert sum(channels) == {"vgg16": 1472, "resnet18": 1024}[name]


def test_lists_by_name_module_and_auto():
    torch.manual_seed(0)
    net, images = networks.build("tiny_resnet").eval(), random(1, 3, 24, 32)
    named = methods.poly_cam(net, images, 3, variant="plus", layers="resnet50_official")
    assert named.layers == list(LAYER_LISTS["resnet50_official"])
    assert named.config["layers"] == "resnet50_official"
    model, images = Stages(), random(1, 3, 16, 24)
    expected = methods.poly_cam(model, images, 1, layers=["first", "second", "third"])
    modules = methods.poly_cam(model, images, 1, layers=(model.first, model.second, model.third))
    assert torch.equal(modules.map, expected.map) and modules.layers == list(model.layers)
    auto = methods.poly_cam(model, images, 1)
    assert auto.layers == models.stage_layers(model, images) and auto.config["layers"] == "auto"
    assert auto.forwards == expected.forwards + 1 and torch.equal(auto.map, expected.map)


# Cost


@pytest.mark.parametrize("variant", VARIANTS)
def test_forwards(variant):
    """1 + Σ K, or 1 + 2 Σ K, as counted by the network; the official code asks for f_c(X) L times more."""
    model, images = Stages(), random(3, 3, 32, 32)
    with torch.no_grad():
        for stage in (model.first, model.second, model.third):
            stage[0].bias.fill_(2)
    e = methods.poly_cam(model, images, 1, variant=variant, layers=model.layers, chunk=4)
    assert e.forwards == model.images == 3 * (1 + (2 if variant == "pm" else 1) * (5 + 4 + 6))
    with torch.no_grad():    # two dead channels in one layer, one in another
        model.first[0].weight[:2], model.first[0].bias[:2] = 0, -1
        model.third[0].weight[0], model.third[0].bias[0] = 0, -1
    model.images = 0
    e = methods.poly_cam(model, images, 1, variant=variant, layers=model.layers, chunk=4)
    assert e.forwards == model.images == 3 * (1 + (2 if variant == "pm" else 1) * (5 + 4 + 6 - 3))


def test_the_size_of_the_chunk_does_not_matter():
    """Trap 5. One stream: a chunk runs on into the next layer, so that only the last one is not full."""
    model, images, seen = Stages(), random(1, 3, 16, 24), []
    model.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    one, four, all_at_once = (
        methods.poly_cam(model, images, 1, layers=model.layers, chunk=chunk).map for chunk in (1, 4, 100)
    )
    torch.testing.assert_close(one, four, atol=1e-5, rtol=0)
    torch.testing.assert_close(one, all_at_once, atol=1e-5, rtol=0)
    assert seen == [1] * 31 + [1] + [4] * 7 + [2] + [1, 30]


def test_no_hook_and_no_gradient_during_the_masked_passes():
    class Watched(Stages):
        def forward(self, images):
            hooks = sum(len(module._forward_hooks) for module in self.modules())
            seen.append((hooks, torch.is_inference_mode_enabled()))
            return super().forward(images)

    seen = []
    e = methods.poly_cam(Watched(), random(1, 3, 16, 16), 1, layers=Stages.layers)
    assert seen[0][0] == 3 and set(seen[1:]) == {(0, True)}
    assert not e.map.requires_grad and not e.map.is_inference()


# What is explained


def test_one_output_needs_a_sigmoid():
    """Trap 6: the softmax over one class is 1 for every picture."""
    model, images = Stages(classes=1), random(2, 3, 16, 24)
    with pytest.raises(ValueError, match="softmax needs two classes"):
        methods.poly_cam(model, images, 0, layers=model.layers)
    e = methods.poly_cam(model, images, 0, layers=model.layers, score=torch.sigmoid, trace=True)
    torch.testing.assert_close(e.scores, model(images)[:, 0].sigmoid().detach())
    assert e.trace["keep"][0].unique().numel() > 2 and e.config["score"] == "sigmoid"


def test_the_score_is_the_networks_output():
    """Trap 7: not what the module that was registered last returns. The softmax runs over classes."""

    class Auxiliary(Stages):
        def __init__(self):
            super().__init__()
            self.unused = nn.Linear(6, 4)

        def forward(self, images):
            output = super().forward(images)
            self.unused(torch.zeros(len(images), 6))
            return output

    images = random(2, 3, 16, 24)
    e = methods.poly_cam(Auxiliary(), images, [0, 2], layers=Stages.layers)
    assert torch.equal(e.map, methods.poly_cam(Stages(), images, [0, 2], layers=Stages.layers).map)
    torch.testing.assert_close(e.scores, Stages()(images).softmax(1)[[0, 1], [0, 2]].detach())


@pytest.mark.parametrize("variant", VARIANTS)
def test_batches(variant):
    """Trap 8: theirs takes one image, and three dimensions end in an IndexError."""
    model, images = Stages(), random(3, 3, 16, 24)
    together = methods.poly_cam(model, images, [0, 3, 1], variant=variant, layers=model.layers)
    for b, c in enumerate([0, 3, 1]):
        alone = methods.poly_cam(model, images[b : b + 1], c, variant=variant, layers=model.layers)
        torch.testing.assert_close(together.map[b], alone.map[0], atol=1e-5, rtol=0)
    assert together.targets.tolist() == [0, 3, 1]
    top = methods.poly_cam(model, images, variant=variant, layers=model.layers)
    assert torch.equal(top.targets, model(images).argmax(1))
    with pytest.raises(ValueError, match="four dimensions"):
        methods.poly_cam(model, images[0])


def test_callable_targets_read_probabilities():
    model, images = Stages(), random(2, 3, 16, 24)
    numbers = methods.poly_cam(model, images, 2, layers=model.layers)
    functions = methods.poly_cam(model, images, lambda row: row[2], layers=model.layers)
    torch.testing.assert_close(numbers.map, functions.map)
    assert functions.targets.tolist() == [-1, -1]


def test_in_place_operations_behind_a_layer():
    """Trap 9: a ReLU in place overwrites what a hook on the convolution kept."""
    images = random(1, 3, 16, 24)
    maps = [
        methods.poly_cam(Stages(inplace=inplace), images, 1, layers=["first.0", "second.0", "third.0"]).map
        for inplace in (False, True)
    ]
    assert torch.equal(*maps)


def test_minmax_divides_by_the_range():
    """Trap 10: s − min/max in the place of (s − min)/(max − min), in the official average drop."""
    model, images = Stages(), random(1, 3, 16, 24)
    heat = 0.25 + 0.5 * uniform(1, 16, 24)
    got = metrics.average_drop(model, images, heat, 1)
    before, after = (scoring.scores(model, x, 1, "probability").double() for x in (images, images * heat))
    torch.testing.assert_close(got.values, ((before - after) / before).relu())


def test_randomised_networks_are_asked_for_the_same_class():
    """Trap 11: the official sanity check explains whatever the random network takes the picture for."""
    model, images, asked = Stages(), random(1, 3, 16, 24), []

    def method(network, images, targets):
        e = methods.poly_cam(network, images, targets, variant="plus", layers=model.layers)
        asked.append(e.targets.tolist())
        return e

    metrics.cascading_randomisation(method, model, images, layers=["fc", "third", "second"], progress=False)
    assert len(asked) == 4 and all(each == model(images).argmax(1).tolist() for each in asked)


def test_the_map_is_shown_as_it_is_measured():
    """Trap 12: the official overlay squares the map before it is coloured."""
    from cambook import show

    half = show.heat(torch.full((2, 2), 0.5))
    assert np.array_equal(half, show.heat(torch.tensor([[0.5, 0.5], [0.5, 0.5]]))) and (half[0, 0, 0] > 150)


def test_preprocessing_keeps_the_aspect_ratio():
    """Trap 13: theirs squeezes pictures into a square, without antialiasing; ours says what it does."""
    seen = models.Preprocessing(mean=0.5, std=0.5, resize=32, crop=None)(np.zeros((40, 80, 3), np.uint8))
    assert seen.shape == (1, 3, 32, 64)


# Where there is nothing to see


def test_minus_may_vanish_and_says_so():
    """A class that gains whatever is removed: all weights are zero, and so is every map."""
    model, images = Stages(), random(2, 3, 16, 24)
    with torch.no_grad():
        model.fc.weight.zero_()[1] = -0.002
        for stage in (model.first, model.second, model.third):
            stage[0].weight.abs_()
    images = images.abs()
    e = methods.poly_cam(model, images, [1, 2], variant="minus", layers=model.layers, trace=True)
    assert e.flat.tolist() == [True, False] and "flat: [0]" in repr(e)
    assert e.map[0].abs().max() == 0 and e.raw[0].abs().max() == 0 and e.map.isfinite().all()
    assert all(weights[0].abs().max() == 0 for weights in e.trace["weights"])
    alone = methods.poly_cam(model, images[1:], 2, variant="minus", layers=model.layers)
    torch.testing.assert_close(e.map[1:], alone.map, atol=1e-5, rtol=0)
    assert not methods.poly_cam(model, images, [1, 2], layers=model.layers).flat.any()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layer", ["first", "second", "third"])
def test_a_dead_layer_is_a_flat_map(variant, layer):
    model, images = Stages(), random(2, 3, 16, 24)
    with torch.no_grad():
        model.get_submodule(layer)[0].weight.zero_(), model.get_submodule(layer)[0].bias.fill_(-1)
    e = methods.poly_cam(model, images, 1, variant=variant, layers=model.layers)
    assert e.flat.all() and e.map.abs().max() == 0


def test_a_channel_that_overflows_is_left_out():
    """The official sum ignores NaN; the mask of such a channel does not exist."""

    class Overflowing(Stages):
        def __init__(self, bad):
            super().__init__()
            self.scale = nn.Identity()
            self.bad = bad

        def maps(self, images):
            first, second, third = super().maps(images)
            return first, second, self.scale(third * torch.tensor([1, self.bad, 1, 1, 1, 1])[:, None, None])

        def forward(self, images):
            return self.fc(self.maps(images)[-1].nan_to_num(0, 0, 0).mean((2, 3)))

    images, layers = random(2, 3, 16, 24), ("first", "second", "scale")
    broken = methods.poly_cam(Overflowing(float("inf")), images, 1, layers=layers, trace=True)
    dead = methods.poly_cam(Overflowing(0.0), images, 1, layers=layers, trace=True)
    assert broken.trace["skipped"][0].tolist() == [[False, True, False, False, False, False]] * 2
    torch.testing.assert_close(broken.map, dead.map, atol=1e-5, rtol=0)


def test_a_score_that_overflows_counts_neither_way():
    """One of a channel's two questions has no answer: then there is no weight, instead of half of one."""

    class Sometimes(Stages):
        def forward(self, images):
            dark = images.abs().mean((1, 2, 3))[:, None] < 0.45
            return torch.where(dark, torch.inf, super().forward(images))

    images = random(1, 3, 16, 24)
    e = methods.poly_cam(Sometimes(), images, 1, layers=Stages.layers, trace=True)
    seen = 0
    for A, skipped, weights in zip(*(e.trace[n] for n in ("activations", "skipped", "weights")), strict=True):
        M = F.interpolate(robust_normalise(A), (16, 24), mode="bilinear", align_corners=False)[0, :, None]
        dark = [(mask * images).abs().mean((1, 2, 3)) < 0.45 for mask in (M, 1 - M)]
        assert torch.equal(skipped[0], dark[0] | dark[1]) and (weights[skipped] == 0).all()
        seen += (dark[0] != dark[1]).sum()
    assert seen > 3 and e.map.isfinite().all()


def test_an_overflow_of_the_recursion_is_an_error():
    """Ratio 4 four times: each may multiply by 1e12."""

    class Spots(nn.Module):
        def __init__(self):
            super().__init__()
            self.scales = nn.ModuleList(nn.MaxPool2d(s, s) if s > 1 else nn.ReLU() for s in (1, 4, 16, 64))

        def forward(self, images):
            maps = [scale(images) for scale in self.scales]
            return torch.stack([sum(m.mean((1, 2, 3)) for m in maps), images.sum((1, 2, 3)) * 0], 1)

    images = torch.zeros(1, 1, 256, 256)
    images[..., 0, 0] = 1e4
    model = Spots()
    with pytest.raises(ValueError, match="leave out layers between"):
        methods.poly_cam(model, images, 0, variant="plus", layers=list(model.scales))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("variant", ["plus", "pm"])
def test_half_precision(variant, dtype):
    """Float32 from the activations on, finite, and near the float32 map, with a dead channel."""
    model, images = Stages(), random(2, 3, 16, 24)
    with torch.no_grad():
        model.second[0].weight[1], model.second[0].bias[1] = 0, -1
    exact = methods.poly_cam(model, images, [2, 1], variant=variant, layers=model.layers)
    half = methods.poly_cam(model.to(dtype), images, [2, 1], variant=variant, layers=model.layers, trace=True)
    assert half.map.dtype == half.raw.dtype == half.scores.dtype == torch.float32
    assert half.trace["skipped"][1].tolist() == [[False, True, False, False]] * 2
    torch.testing.assert_close(half.map, exact.map, atol=0.08, rtol=0)
    assert half.config["dtype"] == str(dtype).removeprefix("torch.")


def test_double_precision():
    model, images = Stages(), random(1, 3, 16, 24)
    exact = methods.poly_cam(model, images, 1, layers=model.layers)
    double = methods.poly_cam(model.double(), images.double(), 1, layers=model.layers, trace=True)
    assert double.map.dtype == torch.float32 and double.trace["P"][-1].dtype == torch.float64
    torch.testing.assert_close(double.map, exact.map, atol=1e-4, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_fast_is_near_exact(variant, monkeypatch):
    monkeypatch.setattr(scoring, "fast_dtype", lambda device: torch.bfloat16)
    model, images = Stages(channels=(16, 24, 32)), random(2, 3, 32, 32)
    exact, fast = (
        methods.poly_cam(model, images, variant=variant, layers=model.layers, precision=precision)
        for precision in scoring.PRECISIONS
    )
    assert (exact.config["dtype"], fast.config["dtype"]) == ("float32", "bfloat16")
    for one, two in zip(exact.map, fast.map, strict=True):
        assert torch.corrcoef(torch.stack([one.flatten(), two.flatten()]))[0, 1] > 0.99


@pytest.mark.parametrize("size", [(37, 53), (16, 40), (40, 16)])
def test_any_size(size):
    """Height is not width, and no step has to be exactly 2."""
    model, images = Stages(), random(2, 3, *size)
    e = methods.poly_cam(model, images, 1, layers=model.layers, trace=True)
    assert e.map.shape == (2, *size) and [tuple(S.shape) for S in e.trace["S"]] == [(2, *size)] * 3
    assert [tuple(P.shape[1:]) for P in e.trace["P"]] == [
        (size[0] // 4, size[1] // 4), (size[0] // 2, size[1] // 2), size
    ]    # fmt: skip
    S, _, _ = plain(model, images[1], 1)
    torch.testing.assert_close(e.map[1], S[-1], atol=1e-5, rtol=0)


# The caller's model


def test_the_model_comes_back_as_it_was():
    """Training mode, a frozen parameter, a gradient and a hook of the caller's; also after an error."""
    model, images = Stages().train(), random(2, 3, 16, 24)
    model.second.eval()
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    model.first[0].weight.requires_grad_(False)
    model.first.register_forward_hook(lambda *_: None)

    def state():
        return (
            [module.training for module in model.modules()],
            [len(module._forward_hooks) for module in model.modules()],
            [(p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in model.parameters()],
            {name: value.tolist() for name, value in model.state_dict().items()},
        )

    before = state()
    methods.poly_cam(model, images, layers=model.layers)
    assert state() == before

    def fails(row):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        methods.poly_cam(model, images, fails, layers=model.layers)
    assert state() == before


def test_frozen_models_and_the_callers_modes():
    """Batch statistics and dropout would change the map in training mode."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(5, 3),
    )    # fmt: skip
    model.eval()
    images, options = random(2, 3, 16, 24), {"layers": ["2", "4"]}
    expected = methods.poly_cam(model, images, 1, **options).map
    with torch.no_grad():
        assert torch.equal(methods.poly_cam(model, images, 1, **options).map, expected)
    with torch.inference_mode():
        assert torch.equal(methods.poly_cam(model, images.clone(), 1, **options).map, expected)
    other = copy.deepcopy(model).requires_grad_(False).train()
    assert torch.equal(methods.poly_cam(other, images, 1, **options).map, expected)


# What is returned


def test_config_and_trace():
    model, images = Stages(), random(2, 3, 16, 24)
    e = methods.poly_cam(model, images, 1, layers=model.layers)
    assert e.trace == {} and e.config["method"] == "poly_cam" and e.layers == list(model.layers)
    assert (e.config["variant"], e.config["lnorm"], e.config["score"]) == ("pm", True, "probability")
    assert e.config["normalise"] == "percentiles 0.1 and 99.9" and e.config["layers"] == list(model.layers)
    for variant, lists in (("plus", ("keep",)), ("minus", ("remove",)), ("pm", ("keep", "remove"))):
        trace = methods.poly_cam(model, images, 1, variant=variant, layers=model.layers, trace=True).trace
        for name in ("weights", "skipped", *lists):
            assert [tuple(part.shape) for part in trace[name]] == [(2, 6), (2, 4), (2, 5)]
        assert [name for name in ("keep", "remove") if trace[name]] == list(lists)
        for name in ("P", "C"):
            assert [tuple(part.shape) for part in trace[name]] == [(2, 4, 6), (2, 8, 12), (2, 16, 24)]
        maps = [tuple(part.shape) for part in trace["activations"]]
        assert maps == [(2, 6, 4, 6), (2, 4, 8, 12), (2, 5, 16, 24)]
        assert torch.equal(trace["P"][0], trace["C"][0])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"variant": "both"}, "The variant is one of plus, minus, pm, not 'both'"),
        ({"layers": ["third", "second"]}, "shallow to deep.*'third' with 4×6.*before 'second' with 8×12"),
        ({"layers": ["first", "first"]}, "each once"),
        ({"layers": ["first", "fourth"]}, "no layer 'fourth'"),
        ({"layers": "resnet50_official"}, "no layer 'relu'"),
        ({"layers": []}, "No layer was asked for"),
        ({"score": "loud"}, "kind of score"),
        ({"precision": "half"}, "The precision is one of"),
        ({"chunk": 0}, "The chunk is"),
        ({"targets": 7}, "out of range"),
        ({"targets": [0, 1, 2]}, "3 targets for 2 images"),
        ({"images": torch.full((2, 3, 16, 24), float("nan"))}, "NaN"),
        ({"images": torch.zeros(2, 4, 16, 24)}, "4 channels"),
    ],
)
def test_wrong_input(options, sentence):
    model = Stages()
    arguments = {"images": random(2, 3, 16, 24), "targets": 1, "layers": model.layers} | options
    with pytest.raises(ValueError, match=sentence):
        methods.poly_cam(model, **arguments)
