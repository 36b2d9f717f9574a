"""Increment-CAM against its definition, cell by cell, and the ten identities that follow from it."""

import itertools
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cambook import methods
from cambook.explanation import minmax
from cambook.methods.increment_cam import FEEDS, MERGES, SCORES, STRENGTHS, _entropy
from cambook.world import networks


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """Convolution, ReLU, global average, one linear layer."""

    def __init__(self, channels=5, classes=4, stride=2, smallest=1, seed=0):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, stride=stride, padding=1)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(channels, classes)
        self.smallest, self.seen = smallest, []
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters()):
                parameter.copy_(2 * random(*parameter.shape, seed=100 * seed + i))

    def forward(self, images):
        self.seen.append(tuple(images.shape))
        if min(images.shape[-2:]) < self.smallest:
            raise RuntimeError("Kernel size can't be greater than actual input size")
        return self.fc(self.relu(self.conv(images)).mean((2, 3)))


def undecided():
    """A network that takes the images for several classes, and many for others when they are small.

    One of its channels is dead.
    """
    model, images = Net(channels=12, seed=4), random(8, 3, 12, 18, seed=4)
    with torch.no_grad():
        model.conv.weight[3], model.conv.bias[3] = 0, -1
        model.fc.bias -= model(images).mean(0)
    return model, images


class Identity(nn.Module):
    """The features are the colours themselves, and the score is a weighted sum of their means."""

    def __init__(self, weights):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1, bias=False)
        self.head = nn.Linear(3, len(weights), bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(3)[:, :, None, None])
            self.head.weight.copy_(torch.as_tensor(weights))

    def forward(self, images):
        return self.head(self.layer(images).mean((2, 3)))


def resized(image, size):
    return F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True)[0]


def N(x):    # noqa: N802, the papers' letter
    x = x - x.min()
    return x / x.max() if x.max() > 0 else x


def by_definition(model, image, c, size, feed, score, merge, lam=0.5, regularise="minmax"):
    """One image, one channel at a time, straight from the docstring."""
    A = model.relu(model.conv(image[None]))[0].detach()
    K, h, w = A.shape
    alpha = model.fc.weight[c].detach() / (h * w)
    G = N(sum(alpha[k] * A[k] for k in range(K)).relu())

    def ask(picture):
        if feed == "upsample":
            picture = F.interpolate(picture[None], image.shape[1:], mode="bilinear", align_corners=False)[0]
        output = model(picture[None])[0].detach()
        return output[c] if score == "logit_softmax" else output.softmax(0)[c]

    small = image if size == tuple(image.shape[1:]) else resized(image, size)
    z = torch.zeros(K)
    for k in range(K):
        mask = N(F.interpolate(A[None, k : k + 1], size, mode="bilinear", align_corners=False)[0, 0])
        z[k] = ask(small * mask)
    if score == "logit_softmax":
        beta = z.exp() / z.exp().sum()
    elif score == "prob":
        beta = z
    else:
        beta = (z - ask(torch.zeros_like(small))).relu()
    S = N(sum(beta[k] * A[k] for k in range(K)).relu())

    if merge == "maps":
        L = lam * G + (1 - lam) * S
    elif merge == "weights":
        L = sum((alpha[k] / alpha.abs().sum() + beta[k]) * A[k] for k in range(K))
    elif merge == "multiplicative":
        L = sum(alpha[k] * (1 + N(z)[k]) * A[k] for k in range(K))
    else:
        gain = []
        empty = model(0 * image[None])[0].softmax(0)[c]
        for one in (G, S):
            full = F.interpolate(one[None, None], image.shape[1:], mode="bilinear", align_corners=False)[0, 0]
            gain.append(model((image * N(full))[None])[0].softmax(0)[c] - empty)
        L = (gain[0] * G + gain[1] * S).detach()
    L = N(L.relu())
    if regularise == "gaussian":
        smooth = torch.zeros_like(L)
        for y, x in itertools.product(range(h), range(w)):
            weight = torch.tensor(
                [[math.exp(-((y - i) ** 2 + (x - j) ** 2) / 2) for j in range(w)] for i in range(h)]
            )
            smooth[y, x] = (weight * L).sum() / weight.sum()
        L = smooth
    if regularise == "shrink":
        L = (L - torch.quantile(L.flatten(), 0.1)).relu()
    full = F.interpolate(N(L)[None, None], image.shape[1:], mode="bilinear", align_corners=False)[0, 0]
    return {"alpha": alpha, "beta": beta, "phase1": G, "phase2": S, "map": N(full)}


SIZES = {"activation": (6, 9), "input": (12, 18), 8: (8, 12), 1: (1, 2)}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("merge", MERGES)
def test_from_its_definition(size, feed, score, merge):
    """Two images of which each has its own class, H ≠ W, all readings."""
    model, images, classes = Net(), random(2, 3, 12, 18), [2, 0]
    e = methods.increment_cam(
        model, images, classes, phase2_size=size, phase2_feed=feed, score=score, merge=merge, trace=True
    )
    assert e.config["phase2_used"] == SIZES[size]
    for b, c in enumerate(classes):
        expected = by_definition(model, images[b], c, SIZES[size], feed, score, merge)
        for name in ("alpha", "beta", "phase1", "phase2"):
            torch.testing.assert_close(e.trace[name][b], expected[name], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(e.map[b], expected["map"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("regularise", STRENGTHS)
@pytest.mark.parametrize("merge", MERGES)
def test_regularisers_from_their_definition(regularise, merge):
    model, images = Net(), random(1, 3, 12, 18)
    e = methods.increment_cam(model, images, 2, merge=merge, regularise=regularise)
    expected = by_definition(
        model, images[0], 2, (6, 9), "native", "logit_softmax", merge, regularise=regularise
    )
    torch.testing.assert_close(e.map[0], expected["map"], atol=1e-4, rtol=0)


# The identities


def test_1_both_ends_are_known_methods():
    """λ = 1 is Grad-CAM to the last bit; λ = 0 at the input's size is Score-CAM."""
    for model, images in ((Net(), random(2, 3, 12, 18)), (Net(channels=40, seed=3), random(2, 3, 9, 8))):
        one = methods.increment_cam(model, images, lam=1)
        zero = methods.increment_cam(model, images, lam=0, phase2_size="input", trace=True)
        score = methods.score_cam(model, images, trace=True)
        assert torch.equal(one.map, methods.grad_cam(model, images).map)
        torch.testing.assert_close(zero.map, score.map, atol=1e-6, rtol=0)
        torch.testing.assert_close(zero.trace["beta"], score.trace["weights"], atol=1e-6, rtol=0)
        other = methods.increment_cam(model, images, lam=0, phase2_size="input", score="prob")
        assert torch.equal(other.map, methods.score_cam(model, images, weighting="probability").map)


def test_2_without_strides_the_abstracts_size_is_score_cam():
    """Nothing is shrunk and nothing enlarged; the network sees no other size than the images'."""
    model, images = Net(stride=1), random(2, 3, 10, 7)
    e = methods.increment_cam(model, images, lam=0, layers="relu")
    torch.testing.assert_close(e.map, methods.score_cam(model, images).map, atol=1e-6, rtol=0)
    assert {shape[-2:] for shape in model.seen} == {(10, 7)} and e.recognised.all()
    assert e.forwards == 2 + 2 * 5    # no picture of another size had to be tried


def test_3_a_network_computed_by_hand():
    """Colours are features: α_k = w_k / hw, and z_j = Σ_k w_k mean(X_k N(X_j))."""
    weights = torch.tensor([[1.0, -2.0, 4.0], [0.5, 3.0, 0.0]])
    image = torch.tensor([[[4.0, 0], [0, 0]], [[0, 2], [2, 0]], [[1, 1], [1, 3]]])
    e = methods.increment_cam(Identity(weights), image[None], 0, layers="layer", trace=True)
    assert e.trace["alpha"][0].tolist() == [0.25, -0.5, 1]
    masks = torch.tensor([[[1.0, 0], [0, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 1]]])
    # Under the first mask 4 · 1 and 1 · 4 are left of the first cell, over four cells; and so on.
    assert e.trace["masked_scores"][0].tolist() == [2, 0, 3]
    z = torch.tensor([2.0, 0, 3])
    beta = z.exp() / z.exp().sum()
    torch.testing.assert_close(e.trace["beta"][0], beta)
    assert e.trace["phase1"][0].tolist() == N(torch.tensor([[2.0, 0], [0, 3]])).tolist()
    merged = (N(torch.tensor([[2.0, 0], [0, 3]])) + N((beta[:, None, None] * image).sum(0))) / 2
    torch.testing.assert_close(e.raw[0], merged)
    assert torch.equal(e.map[0], minmax(e.raw)[0])    # 2×2 in, 2×2 out
    assert masks.sum((1, 2)).tolist() == [1, 2, 1]


def test_4_behind_global_pooling_phase_1_is_cam():
    model, images = Net(), random(2, 3, 12, 18)
    e = methods.increment_cam(model, images, [1, 3], trace=True)
    torch.testing.assert_close(e.trace["alpha"], model.fc.weight.detach()[[1, 3]] / 54)
    cam = methods.cam(model, images, [1, 3]).raw
    torch.testing.assert_close(e.trace["phase1"], minmax(cam.relu()), atol=1e-5, rtol=0)


def test_5_the_softmax_sees_no_baseline():
    """A constant on the class's logit changes nothing; with probabilities it does."""
    model, images = Net(), random(2, 3, 12, 18)
    before = {score: methods.increment_cam(model, images, 1, score=score) for score in SCORES}
    with torch.no_grad():
        model.fc.bias[1] += 5
    after = {score: methods.increment_cam(model, images, 1, score=score) for score in SCORES}
    gap = {score: (after[score].map - before[score].map).abs().max() for score in SCORES}
    assert gap["logit_softmax"] < 1e-5 < 1e-3 < gap["prob"] and gap["cic"] > 1e-3


def test_6_louder_logits_sharpen_phase_2_only():
    model, images = Net(), random(2, 3, 12, 18)
    before = methods.increment_cam(model, images, 1, trace=True)
    with torch.no_grad():
        model.fc.weight.mul_(8), model.fc.bias.mul_(8)
    after = methods.increment_cam(model, images, 1, trace=True)
    torch.testing.assert_close(after.trace["phase1"], before.trace["phase1"], atol=1e-5, rtol=0)
    assert (after.entropy < before.entropy - 0.05).all()
    assert (after.map - before.map).abs().max() > 0.01


def test_7_flat_scores_give_the_mean_of_the_channels():
    """β = 1/K, whatever the class; the entropy says so. With it identity 9: there is no Grad-CAM either."""
    model, images = Net(), random(2, 3, 12, 18)
    nn.init.zeros_(model.fc.weight)
    one, other = (methods.increment_cam(model, images, c, trace=True) for c in (0, 3))
    assert torch.equal(one.map, other.map) and not one.flat.any()
    torch.testing.assert_close(one.trace["beta"], torch.full((2, 5), 0.2))
    torch.testing.assert_close(
        one.trace["phase2"], minmax(one.trace["activations"].mean(1)), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(one.entropy, torch.ones(2))
    assert one.blind.all() and "phase 2 blind at 6x9: [0, 1]" in repr(one)


@pytest.mark.parametrize("merge", MERGES)
def test_8_the_order_of_channels_does_not_matter(merge):
    model, images, order = Net(), random(2, 3, 12, 18), [3, 0, 4, 2, 1]
    before = methods.increment_cam(model, images, 1, merge=merge)
    with torch.no_grad():
        model.conv.weight.copy_(model.conv.weight[order]), model.conv.bias.copy_(model.conv.bias[order])
        model.fc.weight.copy_(model.fc.weight[:, order])
    torch.testing.assert_close(
        methods.increment_cam(model, images, 1, merge=merge).map, before.map, atol=1e-5, rtol=0
    )


def test_8_a_louder_channel_behind_a_quieter_weight_changes_phase_2():
    """The network computes the same, Grad-CAM and all masks are the same: β is, but not β_k A_k."""
    model, images = Net(), random(2, 3, 12, 18)
    before = methods.increment_cam(model, images, 1, trace=True)
    with torch.no_grad():
        model.conv.weight[0] *= 16
        model.conv.bias[0] *= 16
        model.fc.weight[:, 0] /= 16
    after = methods.increment_cam(model, images, 1, trace=True)
    for name in ("phase1", "beta", "masked_scores"):
        torch.testing.assert_close(after.trace[name], before.trace[name], atol=1e-4, rtol=0)
    assert (after.trace["phase2"] - before.trace["phase2"]).abs().max() > 0.05


def test_9_without_grad_cam_the_merge_shows_phase_2():
    """All gradients negative: G = 0, and the merge rescues a map of what the scores prefer."""
    model, images = Net(), random(2, 3, 12, 18)
    with torch.no_grad():
        model.fc.weight.copy_(-model.fc.weight.abs())
    e = methods.increment_cam(model, images, 1, trace=True)
    assert e.trace["phase1"].abs().max() == 0 and methods.grad_cam(model, images, 1).flat.all()
    torch.testing.assert_close(minmax(e.raw), e.trace["phase2"], atol=1e-6, rtol=0)
    assert not e.flat.any()
    # No rescue where every weight must keep the sign of α.
    assert methods.increment_cam(model, images, 1, merge="multiplicative").flat.all()


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("regularise", STRENGTHS)
@pytest.mark.parametrize("case", ["dead channel", "constant channel", "dead layer", "one channel", "usual"])
def test_10_between_0_and_1_and_never_nan(merge, score, regularise, case):
    model, images = Net(channels=1 if case == "one channel" else 5, seed=2), random(2, 3, 8, 10)
    with torch.no_grad():
        dead = {"dead layer": slice(None), "dead channel": 1, "constant channel": 1}.get(case)
        if dead is not None:
            model.conv.weight[dead] = 0
            model.conv.bias[dead] = 0.3 if case == "constant channel" else -1
    e = methods.increment_cam(
        model, images, 0, merge=merge, score=score, regularise=regularise, trace=True
    )
    for tensor in (e.map, e.raw, e.entropy, e.agreement):
        assert tensor.isfinite().all()
    assert e.map.amin((1, 2)).tolist() == [0, 0]
    assert e.map.amax((1, 2)).tolist() == [0.0 if flat else 1.0 for flat in e.flat.tolist()]
    assert (e.entropy >= 0).all() and (e.entropy <= 1).all()
    if case in ("dead channel", "constant channel"):
        assert e.trace["skipped"].tolist() == [[False, True, False, False, False]] * 2
        assert e.trace["beta"][:, 1].tolist() == [0, 0]
    if case == "dead layer":
        assert e.flat.all() and e.entropy.tolist() == [1, 1] and e.agreement.tolist() == [0, 0]


# Merging


def test_only_merged_weights_can_cancel():
    """ReLU(Σ (α + β) A) ≤ ReLU(Σ α A) + Σ β A; and a cell that both maps show may be gone."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        A, alpha = torch.rand(4, 3, 3, generator=generator), torch.randn(4, generator=generator)
        beta = torch.randn(4, generator=generator).softmax(0)
        sums = [torch.einsum("k,khw->hw", weights, A) for weights in (alpha, beta, alpha + beta)]
        assert (sums[2].relu() <= sums[0].relu() + sums[1] + 1e-6).all()

    # Two things, one feature each: the class is for the first and against the second.
    image = torch.tensor([[[4.0, 0], [0, 0]], [[0, 0], [0, 4]], [[0, 0], [0, 0]]])
    model = Identity([[1.0, -1.0, 0.0]])
    maps, weights = (
        methods.increment_cam(model, image[None], 0, layers="layer", merge=merge, trace=True)
        for merge in ("maps", "weights")
    )
    assert maps.raw[0, 1, 1] > 0.05 and maps.map[0, 1, 1] > 0.05
    assert weights.raw[0, 1, 1] < 0 and weights.map[0, 1, 1] == 0
    assert maps.map[0, 0, 0] == weights.map[0, 0, 0] == 1


def test_one_mask_alone_would_be_grad_cam():
    """Why Phase 2 masks each channel: with Grad-CAM's map as the only mask there is one score β, and
    N((1 + β) G) = N(G)."""
    G = methods.grad_cam(Net(), random(2, 3, 12, 18)).raw.relu()
    for beta in (0.0, 0.3, 2.0):
        torch.testing.assert_close(minmax((1 + beta) * G), minmax(G), atol=1e-6, rtol=0)


def test_shrinking_does_nothing_where_a_tenth_is_zero_already():
    """The quantile is 0 then, and so it is with one cell of a hundred for τ below it."""
    model, images = Net(seed=1), random(2, 3, 12, 18)
    plain, shrunk, harder = (
        methods.increment_cam(model, images, 1, merge="multiplicative", regularise=r, strength=s)
        for r, s in (("minmax", None), ("shrink", 0.1), ("shrink", 0.9))
    )
    assert ((plain.raw.relu() == 0).flatten(1).float().mean(1) > 0.15).all()
    torch.testing.assert_close(plain.map, shrunk.map, atol=1e-6, rtol=0)
    assert ((harder.raw > 0).flatten(1).sum(1) <= 6).all() and (harder.map - plain.map).abs().max() > 0.1


def test_the_gaussian_spreads_and_its_strength_is_its_width():
    model, images = Net(), random(1, 3, 24, 18)
    means = [
        float(methods.increment_cam(model, images, 1, regularise="gaussian", strength=s).raw.amax())
        for s in (0.01, 0.5, 1, 2, 1000)
    ]
    assert means == sorted(means, reverse=True) and means[0] == 1
    plain = methods.increment_cam(model, images, 1)
    exact = methods.increment_cam(model, images, 1, regularise="gaussian", strength=0.01)
    torch.testing.assert_close(exact.map, plain.map, atol=1e-6, rtol=0)    # no neighbour takes part
    # So wide that every cell has the mean of all: smoothed away, up to what min-max brings back.
    wide = methods.increment_cam(model, images, 1, regularise="gaussian", strength=1000).raw
    mean = minmax(plain.raw).mean((1, 2), keepdim=True)
    torch.testing.assert_close(wide, mean.expand_as(wide), atol=1e-4, rtol=0)


def test_a_constant_map_is_not_stretched_by_the_gaussian():
    """The rounding noise of a smoothed constant must not become a map."""

    class Constant(Net):
        def forward(self, images):
            return self.fc(self.relu(images * 0 + 0.1).repeat(1, 2, 1, 1)[:, :5].mean((2, 3)))

    e = methods.increment_cam(
        Constant(), random(1, 3, 7, 9), 1, layers="relu", merge="weights", regularise="gaussian"
    )
    assert e.flat.all() and e.map.abs().max() == 0


# The size of Phase 2


@pytest.mark.parametrize(
    ("smallest", "size", "full", "used"),
    [
        (8, "activation", (12, 18), (8, 12)),
        (12, "activation", (12, 18), (12, 18)),    # nothing but the images' own size
        (7, 5, (18, 12), (10, 7)),
        (31, 3, (64, 64), (31, 31)),
        (4, 3, (5, 5), (4, 4)),
    ],
)
def test_a_refused_size_is_said_and_the_smallest_is_found(smallest, size, full, used):
    model = Net(smallest=smallest)
    asked = ((full[0] + 1) // 2, (full[1] + 1) // 2) if size == "activation" else None
    asked = asked or tuple(round(size * side / min(full)) for side in full)
    with pytest.warns(
        UserWarning, match=f"refuses images of {asked[0]}×{asked[1]} .* {used[0]}×{used[1]} is used, the smallest"
    ) as caught:
        e = methods.increment_cam(model, random(2, 3, *full), 1, phase2_size=size, layers="relu", trace=True)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert e.config["phase2_used"] == used == tuple(e.trace["small_images"].shape[-2:])
    assert e.config["phase2_size"] == size
    assert e.forwards == sum(shape[0] for shape in model.seen)
    assert model.seen[-1][-2:] == used


def test_an_answer_that_is_no_number_counts_as_refusal():
    class Deviation(Net):
        def forward(self, images):
            hidden = self.relu(self.conv(images))
            cells = hidden[0, 0].numel()
            deviation = hidden.flatten(2).var(2, correction=0) * cells / torch.tensor(cells - 1.0)
            return self.fc(hidden.mean((2, 3)) + deviation)    # of one cell: 0 / 0

    with pytest.warns(UserWarning, match=r"1×1 pixels.* 3×3 is used"):
        e = methods.increment_cam(Deviation(), random(1, 3, 12, 12), 1, phase2_size=1)
    assert e.map.isfinite().all()


def test_nothing_is_refused_when_the_small_picture_is_enlarged():
    model = Net(smallest=12)
    e = methods.increment_cam(model, random(2, 3, 12, 18), 1, phase2_feed="upsample", trace=True)
    assert e.config["phase2_used"] == (6, 9) and e.config["phase2_feed"] == "upsample"
    assert {shape[-2:] for shape in model.seen} == {(12, 18)}
    assert e.trace["small_images"].shape[-2:] == (6, 9)


def test_memory_that_runs_out_is_no_refusal():
    class Full(Net):
        def forward(self, images):
            if images.shape[-1] < 12:
                raise torch.OutOfMemoryError("on purpose")
            return super().forward(images)

    with pytest.raises(torch.OutOfMemoryError):
        methods.increment_cam(Full(), random(1, 3, 12, 18), 1)


def test_the_books_networks():
    """A convolutional head takes 8 pixels of 128; a VGG needs 32."""
    torch.manual_seed(0)
    images = random(1, 3, 64, 96)
    with pytest.warns(UserWarning, match="refuses images of 4×6 .* 32×48 is used"):
        e = methods.increment_cam(networks.build("tiny_vgg").eval(), images, 3)
    assert e.config["phase2_used"] == (32, 48) and e.map.shape == (1, 64, 96)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        e = methods.increment_cam(networks.build("tiny_resnet").eval(), images, 3, layers="layer1")
    assert e.config["phase2_used"] == tuple(e.raw.shape[1:])


# The gauges


def test_agreement_and_recognition_by_hand():
    """Which share of the masked pictures is named as the clean one, whatever class is explained."""
    model, images = undecided()
    clean = model(images).argmax(1)
    for size in ("activation", "input"):
        e = methods.increment_cam(model, images, 1, phase2_size=size, layers="relu", trace=True)
        A, small = e.trace["activations"], e.trace["small_images"]
        masks = F.interpolate(A, small.shape[-2:], mode="bilinear", align_corners=False)
        for b in range(8):
            live = [k for k in range(12) if not e.trace["skipped"][b, k]]
            named = [model((small[b] * N(masks[b, k]))[None]).argmax() == clean[b] for k in live]
            assert e.agreement[b] == pytest.approx(sum(map(bool, named)) / len(named))
        assert 0 < e.agreement.mean() < 1 and len(e.agreement.unique()) > 2
        assert e.recognised.tolist() == (model(small).argmax(1) == clean).tolist()
    assert e.recognised.all()


def test_entropy_by_hand():
    """Of ¼, ¼, ½ it is 1.5 bits of log₂ 3; a channel without a mask does not count."""
    weights = torch.tensor([[0.25, 0.25, 0.5, 0.0], [0.0, 0.0, 3.0, 0.0], [0.0] * 4, [2.0, 2.0, 2.0, 0.0]])
    skipped = torch.tensor([[False, False, False, True]] * 4)
    expected = torch.tensor([1.5 / math.log2(3), 0, 1, 1])
    torch.testing.assert_close(_entropy(weights, skipped), expected)


def test_blind_for_either_reason():
    """A class lost on the small picture is enough, and is said; with nothing to say nothing is."""
    model, images = undecided()
    e = methods.increment_cam(model, images, 1)
    assert not e.recognised.all() and e.recognised.any() and (e.entropy < 0.98).all()
    assert torch.equal(e.blind, ~e.recognised) and "blind" in repr(e)
    assert "blind" not in repr(methods.increment_cam(model, images, 1, phase2_size="input"))


# What a caller may rely on


def test_config_and_trace():
    model, images = Net(), random(2, 3, 12, 18)
    e = methods.increment_cam(model, images, 1)
    assert e.trace == {} and e.config["method"] == "increment_cam" and e.layers == ["relu"]
    chosen = ("phase2_size", "phase2_feed", "score", "merge", "lam", "regularise")
    defaults = ["activation", "native", "logit_softmax", "maps", 0.5, "minmax"]
    assert [e.config[key] for key in chosen] == defaults
    other = methods.increment_cam(
        model, images, 1, merge="weights", regularise="gaussian", score="cic", trace=True
    )
    assert other.config["lam"] is None and other.config["strength"] == 1 and other.config["score"] == "cic"
    shapes = {name: tuple(tensor.shape) for name, tensor in other.trace.items()}
    maps, planes = dict.fromkeys(("phase1", "phase2", "merged"), (2, 6, 9)), (2, 5, 6, 9)
    rows = dict.fromkeys(("alpha", "beta", "masked_scores", "skipped"), (2, 5))
    assert shapes == maps | rows | {"activations": planes, "gradients": planes, "small_images": (2, 3, 6, 9)}
    assert not any(tensor.requires_grad or tensor.is_inference() for tensor in other.trace.values())


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("feed", FEEDS)
def test_forwards_are_what_went_through(merge, score, feed):
    model = Net()
    e = methods.increment_cam(
        model, random(3, 3, 12, 18), 1, layers="relu", merge=merge, score=score, phase2_feed=feed
    )
    assert e.forwards == sum(shape[0] for shape in model.seen)


@pytest.mark.parametrize("feed", FEEDS)
def test_the_model_comes_back_as_it_was(feed):
    """In training mode, frozen, with a gradient and a hook; and after an error in the middle."""
    model = Net()
    expected = methods.increment_cam(model, random(2, 3, 12, 18), 1, phase2_feed=feed).map
    model.train().requires_grad_(False)
    model.relu.eval()
    model.fc.weight.grad = random(4, 5)
    model.relu.register_forward_hook(lambda *_: None)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        e = methods.increment_cam(model, random(2, 3, 12, 18), 1, phase2_feed=feed)
    torch.testing.assert_close(e.map, expected)

    calls = iter(range(10))

    def fails(row):
        if next(calls) > 3:
            raise RuntimeError("on purpose")
        return row[0]

    with pytest.raises(RuntimeError, match="on purpose"):
        methods.increment_cam(model, random(2, 3, 12, 18), fails, phase2_feed=feed)
    assert model.training and not model.relu.training and model.fc.weight.grad is not None
    assert len(model.relu._forward_hooks) == 1 and not any(p.requires_grad for p in model.parameters())
    assert [name for name, _ in model.named_modules()] == ["", "conv", "relu", "fc"]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("merge", MERGES)
def test_other_precisions(dtype, merge):
    model, images = Net(), random(2, 3, 12, 18)
    exact = methods.increment_cam(model, images, 1, merge=merge)
    e = methods.increment_cam(model.to(dtype), images.to(dtype), 1, merge=merge, trace=True)
    assert e.map.dtype == e.raw.dtype == e.entropy.dtype == e.agreement.dtype == torch.float32
    assert e.trace["small_images"].dtype == dtype
    torch.testing.assert_close(e.map, exact.map, atol=1e-5 if dtype == torch.float64 else 0.05, rtol=0)


def test_each_image_of_a_batch_is_on_its_own():
    model, images = Net(), random(3, 3, 12, 18)
    together = methods.increment_cam(model, images, [0, 1, 2], merge="self_scored", score="cic")
    for b in range(3):
        alone = methods.increment_cam(model, images[b : b + 1], b, merge="self_scored", score="cic")
        torch.testing.assert_close(together.map[b], alone.map[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.entropy[b], alone.entropy[0], atol=1e-5, rtol=0)


def test_callables_as_targets():
    model, images = Net(), random(2, 3, 12, 18)
    expected = methods.increment_cam(model, images, 2)
    e = methods.increment_cam(model, images, lambda row: row[2])
    torch.testing.assert_close(e.map, expected.map)
    torch.testing.assert_close(e.agreement, expected.agreement)
    assert e.targets.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"phase2_size": 0}, "from 1 to 12, the shorter side of the images, not 0"),
        ({"phase2_size": 13}, "from 1 to 12"),
        ({"phase2_size": 6.0}, 'is "activation", "input" or a number'),
        ({"phase2_size": True}, 'is "activation", "input" or a number'),
        ({"phase2_size": "half"}, 'is "activation", "input" or a number.*\'half\''),
        ({"phase2_feed": "big"}, "The phase2_feed is one of native, upsample, not 'big'"),
        ({"score": "logit"}, "The score is one of logit_softmax, prob, cic, not 'logit'"),
        ({"merge": "sum"}, "The merge is one of maps, weights"),
        ({"merge": ["maps"]}, "The merge is one of maps, weights"),
        ({"regularise": None}, "The regularise is one of minmax, gaussian, shrink"),
        ({"lam": 1.5}, "lam is a number from 0"),
        ({"lam": float("nan")}, "lam is a number from 0"),
        ({"lam": "half"}, "lam is a number from 0"),
        ({"lam": 0.3, "merge": "weights"}, 'leave it out with merge="weights"'),
        ({"strength": 1}, "minmax.*leave strength out"),
        ({"regularise": "gaussian", "strength": 0}, "σ in cells, above 0"),
        ({"regularise": "gaussian", "strength": float("inf")}, "σ in cells, above 0"),
        ({"regularise": "shrink", "strength": 1}, r"share of the cells in \[0, 1\)"),
        ({"layers": ["conv", "relu"]}, "explains one layer, but 2"),
        ({"chunk": 0}, "The chunk is"),
        ({"precision": "best"}, "The precision is"),
    ],
)
def test_bad_options(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        methods.increment_cam(Net(), random(2, 3, 12, 18), 0, **options)
