"""UnionCAM: the restated formulas, what is derived from them, and everything that must not go wrong."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cambook import methods, metrics, rows, scoring
from cambook.methods import candidates
from cambook.world import networks

LIBRARY = [methods.grad_cam, methods.layer_cam, methods.integrated_gradients, methods.gig_cam_f]


BLACK = torch.full((1, 3, 8, 10), -1.0)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """One convolution and ReLU, then a pooled linear head, a smooth nonlinear one, or a max pool and that."""

    HEADS = {"pooled": 6, "full": 6 * 4 * 5, "maximum": 6 * 2 * 2}

    def __init__(self, head="full", classes=4, seed=0):
        super().__init__()
        self.head = head
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.hidden = nn.Linear(self.HEADS[head], 8)
        self.fc = nn.Linear(self.HEADS[head] if head == "pooled" else 8, classes)
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters()):
                spread = 2 / parameter[0].numel() ** 0.5
                parameter.copy_(spread * random(*parameter.shape, seed=100 * seed + i))

    def forward(self, images):
        features = self.relu(self.conv(images))
        if self.head == "pooled":
            return self.fc(features.mean((2, 3)))
        if self.head == "maximum":
            features = F.max_pool2d(features, 2)
        return self.fc(torch.tanh(self.hidden(features.flatten(1))))


def pictures(count=2, seed=50):
    return random(count, 3, 8, 10, seed=seed)


def union(model, images, targets=None, **options):
    return methods.union_cam(model, images, targets, layers="relu", **options)


# The follow-up code, restated: one image, NumPy where it has NumPy


def n(heat):
    heat = heat - heat.min()
    return heat / heat.max() if heat.max() > 0 else heat


def enlarged(heat, size):
    heat = torch.as_tensor(heat, dtype=torch.float32)[None, None]
    return F.interpolate(heat, size, mode="bilinear", align_corners=False)[0, 0].numpy()


def restated(model, image, c, theta=10, denoise="gradient"):
    """L_Union, L_reg, L_fus, L_den and their β, of one image (3, H, W), without a guard."""
    size = tuple(image.shape[1:])
    seen = {}

    def keep(module, args, output):
        seen["A"] = output.clone().requires_grad_()
        return seen["A"].clone()

    hook = model.relu.register_forward_hook(keep)
    G = torch.autograd.grad(model(image[None])[0, c], seen["A"])[0][0].numpy()
    hook.remove()
    A = seen["A"].detach()[0].numpy()

    def ask(heat, kind="probability"):
        with torch.no_grad():
            output = model(image[None] * torch.from_numpy(np.float32(heat)))[0]
        return float(output.softmax(0)[c] if kind == "probability" else output[c])

    if denoise == "gradient":
        total = np.zeros(A.shape[1:], np.float32)
        for k in range(len(A)):
            cut = np.where(G[k] < np.percentile(G[k], theta), 0, G[k])
            total += np.maximum(cut, 0) / (np.maximum(cut, 0).sum() + 1e-8) * A[k]
        den = n(enlarged(total, size))
    else:
        grad_cam = n(enlarged(np.maximum(sum(G[k].mean() * A[k] for k in range(len(A))), 0), size))
        den = np.where(grad_cam >= np.percentile(grad_cam, theta), grad_cam, 0)
    logits = np.array([ask(n(enlarged(a, size)), "logit") for a in A])
    weights = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    reg = n(np.maximum(sum(w * enlarged(a, size) for w, a in zip(weights, A, strict=True)), 0))
    black = ask(np.zeros(size))
    b_den, b_reg = ask(den) - black, ask(reg) - black
    fus = n(b_den * den + b_reg * reg)
    b_fus = ask(fus) - black
    return {
        "map": fus if b_fus > b_reg else reg,
        "maps": np.stack([reg, fus, den]),
        "betas": np.array([b_reg, b_fus, b_den]),
    }


@pytest.mark.parametrize("head", ["full", "pooled", "maximum"])
@pytest.mark.parametrize("options", [{}, {"theta": 60}, {"theta": 35, "denoise": "map"}])
def test_without_the_guard_it_is_the_follow_up_code(head, options):
    """F0, with θ at which both readings do something, and with classes whose β are negative."""
    chosen = []
    for seed in range(3):
        model, images = Net(head, seed=seed), pictures(seed=50 + seed)
        for c in (0, 1, 2):
            e = union(model, images, c, guard=False, **options)
            for b, image in enumerate(images):
                one = restated(model, image, c, **options)
                np.testing.assert_allclose(e.increases[b].numpy(), one["betas"], atol=1e-5)
                # Where β is as small as its rounding error, so is what is known of the fused map.
                clear = 1e-3 if abs(one["betas"][[0, 2]]).min() > 1e-3 else 1
                np.testing.assert_allclose(e.candidates[b].numpy()[[0, 2]], one["maps"][[0, 2]], atol=2e-5)
                np.testing.assert_allclose(e.candidates[b].numpy()[1], one["maps"][1], atol=clear)
                if abs(one["betas"][1] - one["betas"][0]) > 1e-4:
                    np.testing.assert_allclose(e.map[b].numpy(), one["map"], atol=clear)
                    chosen.append((e.names[e.winner[b]], clear))
    assert {name for name, clear in chosen if clear < 1} == {"score_cam", "fused"}


def test_the_region_map_is_our_score_cam():
    model, images = Net(), pictures()
    e = union(model, images, 1)
    torch.testing.assert_close(
        e.candidates[:, 0], methods.score_cam(model, images, 1, layers="relu").map, atol=1e-6, rtol=0
    )


def test_a_worked_example():
    """θ = 50 of (-1, 1, 2, 4) is 1.5: 1 goes, although it is positive; of the positive ones it is 2."""
    gradients = torch.tensor([[[-1.0, 1.0], [2.0, 4.0]]])
    assert candidates.thresholds(gradients, 50).tolist() == [1.5]
    expected = torch.tensor([[[0, 0], [1 / 3, 2 / 3]]])
    torch.testing.assert_close(candidates.pixel_weights(gradients, 50), expected)
    assert candidates.thresholds(gradients, 50, positive=True).tolist() == [2]
    assert candidates.thresholds(gradients, 75, positive=True).tolist() == [3]
    assert candidates.pixel_weights(gradients, 75, positive=True)[0].tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("theta", [0, 10, 33.3, 50, 99, 100])
def test_percentiles_are_numpys(theta):
    """Of whole rows, and of as many of the largest as there are positive ones."""
    values = random(5, 37, seed=3)
    values[1] = 0.7                 # no rounding: nothing is strictly below
    values[2, :30] = -1
    values[3] = -values[3].abs()    # none positive
    expected = np.percentile(values.double().numpy(), theta, axis=1)
    np.testing.assert_allclose(candidates.percentile(values, theta).numpy(), expected, rtol=1e-5, atol=1e-6)
    assert not (values[1] < candidates.percentile(values, theta)[1]).any()
    found = candidates.thresholds(values[:, None], theta, positive=True)
    for row, t in zip(values, found, strict=True):
        wanted = np.percentile(row[row > 0].double().numpy(), theta) if (row > 0).any() else row.max().item()
        assert t.item() == pytest.approx(wanted, abs=1e-5)


# The facts that follow from the formulas


def test_f1_each_channels_weights_add_up_to_one():
    """Hence as a single weight a channel, ΣαR, the gradient would disappear: only 0 and 1 are left."""
    gradients = random(3, 5, 4, 6) * torch.tensor([1e-12, 1e-3, 1.0, 1e3, 1.0])[:, None, None]
    gradients[:, 4] = -gradients[:, 4].abs()
    for theta in (0, 30, 80):
        for positive in (False, True):
            sums = candidates.pixel_weights(gradients, theta, positive).sum((-2, -1))
            torch.testing.assert_close(sums, torch.tensor([1.0, 1, 1, 1, 0]).expand(3, 5))


def test_f2_the_threshold_bites_only_where_it_is_positive():
    """A channel changes with θ only where t_k > 0, so behind a 2×2 max pool not below θ = 75."""
    seen = {}
    for head in ("full", "maximum"):
        model, images = Net(head), pictures(4)
        plain = union(model, images, theta=0, trace=True).trace
        for theta in (10, 40, 70, 90):
            cut = union(model, images, theta=theta, trace=True).trace
            threshold = candidates.thresholds(plain["gradients"], theta)
            between = (plain["gradients"] > 0) & (plain["gradients"] < threshold[..., None, None])
            changed = (cut["weights"] != plain["weights"]).any(-1).any(-1)
            assert torch.equal(changed, between.any(-1).any(-1)) and (threshold[changed] > 0).all()
            seen[head, theta] = between.float().mean().item()
    assert seen["full", 10] == 0 < seen["full", 70] < seen["full", 90]
    assert seen["maximum", 70] == 0 < seen["maximum", 90]
    # The reading that does something there.
    a, b = (union(model, images, theta=t, denoise="positive_gradient").candidates[:, 2] for t in (0, 50))
    assert (a - b).abs().amax() > 0.05


def test_f3_behind_global_average_pooling_the_gradient_map_is_a_plain_sum():
    """L_den = N(Σ of the channels with w > 0): neither θ nor the size of w has a say."""
    model, images = Net("pooled"), pictures(4)
    c = 2
    activations = model.relu(model.conv(images)).detach()
    total = activations[:, model.fc.weight[c] > 0].sum(1)
    expected = F.interpolate(total[:, None], images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    for theta in (0, 10, 90, 100):
        found = union(model, images, c, theta=theta).candidates[:, 2]
        torch.testing.assert_close(found, methods.candidates.minmax(expected), atol=1e-5, rtol=0)
    with torch.no_grad():
        model.fc.weight[c] *= torch.linspace(0.1, 10, 6)
    found = union(model, images, c).candidates[:, 2]
    torch.testing.assert_close(found, methods.candidates.minmax(expected), atol=1e-5, rtol=0)
    cam = methods.cam(model, images, c, layers="relu").map
    assert (cam - found).abs().amax() > 0.2    # which knows what UnionCAM's does not


def test_f4_only_the_ratio_of_the_scores_counts():
    one, two = (candidates.minmax(random(3, 6, 7, seed=seed)) for seed in (1, 2))
    beta = torch.tensor([[0.2, 0.6], [1e-6, 3e-6], [0.5, 0.0]])
    fused = candidates.union(one, two, beta)
    torch.testing.assert_close(fused, candidates.union(one, two, 40 * beta))
    ratio = (beta[:, 0] / beta.sum(1))[:, None, None]
    torch.testing.assert_close(fused, candidates.minmax(ratio * one + (1 - ratio) * two))
    torch.testing.assert_close(fused[2], one[2])
    torch.testing.assert_close(fused[0], candidates.minmax(0.25 * one + 0.75 * two)[0])


@pytest.mark.parametrize("pool", ["pair", "triple", "all"])
@pytest.mark.parametrize("guard", [True, False])
def test_f5_never_worse_than_the_region_map_on_drop_and_increase(pool, guard):
    """On 120 images, 60 of them explained for a class that is not the top one."""
    gained = 0
    for seed in range(6):
        model, images = Net(seed=seed), pictures(20, seed=seed)
        targets = model(images).argmax(1)
        targets[10:] = (targets[10:] + 1) % 4
        e = union(model, images, targets, pool=pool, guard=guard, region=["score_cam", methods.grad_cam])
        best = e.increases[:, :2].argmax(1)
        for region in (0, 1):
            ours, theirs = (
                [metric(model, images, maps, targets) for metric in (metrics.average_drop, metrics.increase)]
                for maps in (e.map, e.candidates[:, region])
            )
            # A map of zeros has no drop; it cannot win over a region map unless that is worse than nothing.
            kept = ~(ours[0].excluded | theirs[0].excluded)
            assert (ours[0].values <= theirs[0].values + 1e-5)[kept].all()
            assert (ours[1].values >= theirs[1].values)[kept].all()
        found = e.increases[torch.arange(20), e.winner]
        assert (found >= e.increases[torch.arange(20), best]).all()
        gained += (found > e.increases[torch.arange(20), best]).sum().item()
    assert gained > 20


def test_f6_the_selection_needs_no_empty_image():
    """f(0) is in both sides of the comparison: without it the same candidate wins."""
    model, images = Net(), pictures(20)
    e = union(model, images, trace=True)
    kept = torch.stack([
        scoring.scores(model, images * e.candidates[:, i, None], e.targets, "probability") for i in range(2)
    ], 1)    # fmt: skip
    found = kept - e.trace["baseline_scores"][:, None]
    torch.testing.assert_close(found, e.increases[:, :2], atol=1e-6, rtol=0)
    clear = (kept[:, 0] - kept[:, 1]).abs() > 1e-6
    assert torch.equal(kept.argmax(1)[clear], e.winner[clear]) and len(set(e.winner.tolist())) == 2
    zeros = torch.zeros_like(images[:1])
    torch.testing.assert_close(
        e.trace["baseline_scores"], model(zeros).softmax(1)[0, e.targets].detach(), atol=1e-6, rtol=0
    )


# The denoising's ends, and no evidence


@pytest.mark.parametrize("denoise", candidates.DENOISE)
def test_theta_0_is_no_denoising_and_100_keeps_the_maxima(denoise):
    model, images = Net(), pictures()
    none, all_but = (union(model, images, 1, theta=t, denoise=denoise, trace=True) for t in (0, 100))
    if denoise == "map":
        plain = methods.grad_cam(model, images, 1, layers="relu").map
        torch.testing.assert_close(none.candidates[:, 2], plain)
        assert torch.equal(all_but.candidates[:, 2], (plain == 1).float())
        return
    relu = none.trace["gradients"].relu()
    torch.testing.assert_close(none.trace["weights"], relu / relu.sum((2, 3), keepdim=True))
    assert ((all_but.trace["weights"] > 0).sum((2, 3)) == 1).all()


def test_the_map_reading_cuts_at_full_size():
    model, images = Net(), pictures()
    plain = methods.grad_cam(model, images, 1, layers="relu").map
    found = union(model, images, 1, theta=70, denoise="map").candidates[:, 2]
    for one, cut in zip(plain, found, strict=True):
        threshold = np.percentile(one.numpy(), 70)
        expected = np.where(one.numpy() >= threshold, one.numpy(), 0)
        np.testing.assert_allclose(cut.numpy(), expected, atol=1e-6)


def test_without_a_gradient_it_is_the_region_map():
    """A class that nothing speaks for: L_den is zero, β of a zero map is 0, and the fused map is L_reg."""
    model = Net("pooled")
    with torch.no_grad():
        model.fc.weight[1] = -model.fc.weight[1].abs()
    e = union(model, pictures(), 1)
    assert e.candidates[:, 2].abs().max() == 0 and e.increases[:, 2].tolist() == [0, 0]
    assert torch.equal(e.map, e.candidates[:, 0]) and e.winner.tolist() == [0, 0]


def test_all_maps_flat():
    """A dead layer: all zero, said so, nothing asked but the empty image, and never NaN."""
    model = Net()
    with torch.no_grad():
        model.conv.weight.zero_(), model.conv.bias.fill_(-1)
    for guard in (True, False):
        e = union(model, pictures(), guard=guard)
        assert e.flat.all() and e.map.abs().max() == 0 and e.increases.abs().max() == 0
        assert e.forwards == 2 + 1


def test_an_empty_map_has_no_increase():
    model, images = Net(), pictures()
    seen = methods.look.look("test", model, images, 1, "relu", gradients=False)
    judge = candidates.Judge(model, seen, "probability", "auto")
    maps = torch.stack([torch.zeros(2, 8, 10), candidates.minmax(random(2, 8, 10))], 1)
    found = judge.increases(maps)
    assert found[:, 0].tolist() == [0, 0] and (found[:, 1] != 0).all() and judge.forwards == 1 + 2
    masked, empty = model(images * maps[:, 1, None]), model(torch.zeros(1, 3, 8, 10))
    direct = (masked.softmax(1) - empty.softmax(1))[:, 1].detach()
    torch.testing.assert_close(found[:, 1], direct, atol=1e-6, rtol=0)


# Negative scores


def unwanted(seed=0, count=20):
    """Images and the class each network thinks least of: both β are mostly negative."""
    model, images = Net(seed=seed), pictures(count)
    return model, images, model(images).argmin(1)


def test_negative_scores_never_invert_a_map():
    model, images, targets = unwanted()
    e = union(model, images, targets, pool="triple")
    both = (e.increases[:, [0, 2]] <= 0).all(1)
    assert both.sum() >= 5 and (~both).sum() >= 5
    assert torch.equal(e.map[both], e.candidates[both][:, 0]) and (e.winner[both] == 0).all()
    assert e.candidates[both][:, 1].abs().max() == 0    # nothing was fused
    strict = union(model, images, targets, guard=False)
    for b in torch.nonzero(both)[:, 0]:
        # What the guard is for: β_d L_den + β_r L_reg, both negative, turned inside out.
        parts = torch.stack([strict.candidates[b, 0], strict.candidates[b, 2], strict.candidates[b, 1]])
        weights = e.increases[b, [0, 2]].abs() / e.increases[b, [0, 2]].abs().sum()
        mixed = weights[0] * parts[0] + weights[1] * parts[1]
        assert torch.corrcoef(torch.stack([mixed, parts[2]]).flatten(1))[0, 1] < -0.99


def test_a_single_negative_score_counts_as_zero():
    found = {"region": 0, "denoised": 0}
    for seed in range(6):
        model, images, targets = unwanted(seed)
        e = union(model, images, targets)
        region, denoised = e.increases[:, 0] > 0, e.increases[:, 2] > 0
        alone = region & ~denoised
        # The same map to the last bit, whatever company it was asked in: a tie, and the region map's.
        assert torch.equal(e.candidates[alone][:, 1], e.candidates[alone][:, 0])
        assert torch.equal(e.increases[alone][:, 1], e.increases[alone][:, 0])
        assert (e.winner[alone] == 0).all()
        found["region"] += alone.sum().item()
        alone = denoised & ~region
        assert torch.equal(e.candidates[alone][:, 1], e.candidates[alone][:, 2])
        assert torch.equal(e.increases[alone][:, 1], e.increases[alone][:, 2])
        found["denoised"] += alone.sum().item()
    assert min(found.values()) > 3


# Region methods and pools


@pytest.mark.parametrize("method", LIBRARY, ids=lambda method: method.__name__)
def test_any_method_is_a_region_method(method):
    """With the same class for each image, the same layer, and its passes in the count."""
    model, images = Net(), pictures()
    options = {"steps": 3, "baseline": BLACK} if "steps" in method.__kwdefaults__ else {}
    if method is methods.gig_cam_f:
        options["scales"] = (1,)
    region = functools.partial(method, **options)
    e = union(model, images, [1, 3], region=region)
    layer = {"layers": "relu"} if "layers" in method.__kwdefaults__ else {}
    alone = region(model, images, [1, 3], **layer)
    torch.testing.assert_close(e.candidates[:, 0], alone.map)
    assert e.names[0] == method.__name__ == e.config["region"][0]
    assert e.forwards == 2 + alone.forwards + 1 + 4 + 2 - (e.increases == 0).sum()


def test_several_region_maps():
    """Of these, "pair" and "triple" fuse the best of each image, "all" every one."""
    model, images = Net(seed=1), pictures(12)
    region = ["score_cam", methods.grad_cam, functools.partial(methods.score_cam, weighting="probability")]
    pools = ("pair", "triple", "all")
    pair, triple, every = (union(model, images, region=region, pool=pool) for pool in pools)
    own = ["score_cam", "grad_cam", "score_cam_2"]
    assert pair.names == triple.names == [*own, "fused", "denoised"]
    assert every.names == [*own, *(f"fused with {name}" for name in own), "denoised"]
    assert every.candidates.shape == (12, 7, 8, 10) and pair.candidates.shape == (12, 5, 8, 10)
    rows = torch.arange(12)
    best = pair.increases[:, :3].argmax(1)
    assert len(set(best.tolist())) > 1
    torch.testing.assert_close(pair.candidates[:, 3], every.candidates[rows, 3 + best])
    assert (pair.winner != 4).all() and (triple.winner == 4).any()
    for e in (triple, every):
        positive = e.increases.amax(1) > 0    # else nothing was fused
        assert positive.sum() > 5
        expected = torch.where(positive, e.increases.argmax(1), e.increases[:, :3].argmax(1))
        assert torch.equal(e.winner, expected)
    fused = (pair.increases[:, 3] > pair.increases[rows, best]) & (pair.increases.amax(1) > 0)
    assert torch.equal(pair.winner, torch.where(fused, 3, best))
    assert 0 < every.forwards - pair.forwards <= 12 * 2    # equal maps and maps of zeros are not asked about


def test_ties_go_to_the_region_map():
    """L_den is L_reg, and so is what is fused of them."""
    model, images = Net(), pictures()
    e = union(model, images, region=methods.grad_cam, denoise="map", theta=0, pool="triple")
    torch.testing.assert_close(e.candidates[:, 0], e.candidates[:, 2])
    assert e.winner.tolist() == [0, 0]


def test_the_winner_is_the_map():
    model, images = Net(seed=1), pictures(12)
    e = union(model, images, pool="triple", trace=True)
    assert len(set(e.winner.tolist())) > 1
    assert torch.equal(e.map, e.candidates[torch.arange(12), e.winner]) and torch.equal(e.raw, e.map)
    assert e.map.shape == images[:, 0].shape and e.map.amin() == 0 and (e.map.amax((1, 2)) == 1).all()
    for name in ("candidates", "increases", "winner"):
        assert e.trace[name] is getattr(e, name)
    assert e.trace["weights"].shape == e.trace["gradients"].shape == (12, 6, 4, 5)
    assert e.config["pool"] == "triple" and e.config["theta"] == 10 and e.config["guard"] is True


# Cost


class Counting(Net):
    count = 0

    def forward(self, images):
        self.count += len(images)
        return super().forward(images)


def test_k_plus_5_passes():
    model = Counting()
    e = union(model, pictures(1))
    assert e.forwards == model.count == 6 + 5
    model = Counting()
    e = union(model, pictures(3))
    assert e.forwards == model.count == 3 * (6 + 4) + 1    # the empty image once
    model = Counting()
    assert methods.union_cam(model, pictures(1)).forwards == model.count == 6 + 5 + 1
    assert methods.score_cam(model, pictures(1), layers="relu").forwards == 6 + 2


# What must not go wrong


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    """The candidates stay near the float32 ones, with a dead channel in the layer."""
    model, images = Net(), pictures()
    with torch.no_grad():
        model.conv.weight[1], model.conv.bias[1] = 0, -1
    exact = union(model, images, [2, 1])
    half = union(model.to(dtype), images.to(dtype), [2, 1])
    assert half.map.dtype == half.candidates.dtype == half.increases.dtype == torch.float32
    torch.testing.assert_close(half.candidates[:, [0, 2]], exact.candidates[:, [0, 2]], atol=0.06, rtol=0)
    torch.testing.assert_close(half.increases[:, [0, 2]], exact.increases[:, [0, 2]], atol=0.02, rtol=0)
    assert half.map.isfinite().all()


def test_overflow_of_the_empty_image_is_an_error():
    model = Net(classes=2)
    with torch.no_grad():
        model.fc.bias.fill_(60000), model.fc.weight.fill_(3000)
    with pytest.raises(ValueError, match="not finite|answers with NaN"):
        union(model.half(), pictures().half(), 0)


def test_tiny_gradients_are_not_outweighed_by_an_epsilon():
    model, images = Net(), pictures()
    strong = union(model, images, 1).candidates[:, 2]
    with torch.no_grad():
        model.fc.weight.mul_(1e-9)
    weak = union(model, images, 1).candidates[:, 2]
    torch.testing.assert_close(weak, strong, atol=1e-4, rtol=0)


def test_one_logit_needs_another_score():
    model, images = Net(classes=1), pictures()
    with pytest.raises(ValueError, match="softmax needs two classes"):
        union(model, images, 0)
    e = union(model, images, 0, score=torch.sigmoid)
    assert e.config["increase"] == "sigmoid" and e.map.isfinite().all()
    logit = union(model, images, 0, score="logit")
    zero = model(torch.zeros(1, 3, 8, 10))[0, 0].detach()
    seen = scoring.scores(model, images * logit.candidates[:, 0, None], 0)
    torch.testing.assert_close(logit.increases[:, 0], seen - zero, atol=1e-5, rtol=0)


def test_callable_targets():
    model, images = Net(), pictures()
    numbers = union(model, images, [1, 2], region=["score_cam", methods.grad_cam])
    functions = union(model, images, [lambda row: row[1], 2], region=["score_cam", methods.grad_cam])
    torch.testing.assert_close(numbers.candidates, functions.candidates, atol=1e-5, rtol=0)
    assert functions.targets.tolist() == [-1, 2]


def test_batches_are_images_one_by_one():
    model, images = Net(), pictures(5)
    together = union(model, images, [0, 1, 2, 3, 0])
    for b, c in enumerate([0, 1, 2, 3, 0]):
        alone = union(model, images[b : b + 1], c)
        torch.testing.assert_close(together.candidates[b], alone.candidates[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(together.increases[b], alone.increases[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"theta": -1}, ValueError, "theta is a percentage, 0 to 100, not -1"),
        ({"theta": 101}, ValueError, "theta is a percentage"),
        ({"theta": float("nan")}, ValueError, "theta is a percentage"),
        ({"theta": "10"}, TypeError, "theta is a percentage"),
        ({"theta": True}, TypeError, "theta is a percentage"),
        ({"denoise": "both"}, ValueError, "denoise is one of gradient, map, positive_gradient, not 'both'"),
        ({"pool": 2}, ValueError, "The pool is one of pair, triple, all, not 2"),
        ({"region": "group_cam"}, ValueError, "A region method is"),
        ({"region": []}, ValueError, "no region method in the list"),
        ({"region": [None]}, ValueError, "A region method is"),
        ({"region": lambda model, images, targets: images}, TypeError, "<lambda> returned Tensor"),
        ({"score": "loud"}, ValueError, "kind of score"),
        ({"precision": "slow"}, ValueError, "The precision is"),
        ({"chunk": 0}, ValueError, "The chunk is"),
        ({"layers": "fc"}, ValueError, "'fc' returns"),
    ],
)
def test_bad_options(options, error, sentence):
    with pytest.raises(error, match=sentence):
        methods.union_cam(Net(), pictures(), 0, **options)


def test_a_region_method_whose_maps_do_not_fit():
    def smaller(model, images, targets, *, layers):
        return methods.grad_cam(Net("pooled"), images[..., :6, :], targets, layers=layers)

    with pytest.raises(ValueError, match=r"smaller must return finite maps of shape \(2, 8, 10\)"):
        union(Net(), pictures(), 0, region=smaller)


def test_on_the_books_networks():
    """H ≠ W, in training mode and frozen, under the caller's modes; the same candidates each time."""
    torch.manual_seed(0)
    net, images = networks.build("tiny_resnet").eval(), random(1, 3, 40, 56)
    expected = methods.union_cam(net, images, 3, layers="layer1")
    assert expected.map.shape == (1, 40, 56) and expected.forwards == 64 + 5
    net.requires_grad_(False).train()
    with torch.inference_mode():
        again = methods.union_cam(net, images.clone(), 3, layers="layer1", progress=False)
    torch.testing.assert_close(again.candidates, expected.candidates, atol=1e-5, rtol=0)
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize("method", [methods.union_cam, methods.fusion_cam], ids=lambda method: method.__name__)
def test_rows_of_the_table_share_one_score_cam(method, monkeypatch):
    """Each row says what the method says, maps and passes, and Score-CAM is asked once for the same pictures."""
    model, asked = Net(), []
    monkeypatch.setattr(rows, "_regions", {})
    monkeypatch.setattr(rows, "score_cam", lambda *args, **kw: asked.append(1) or methods.score_cam(*args, **kw))
    for images, classes in ((pictures(3), [0, 1, 2]), (pictures(3), [1, 1, 2]), (pictures(3, seed=1), [0, 1, 2])):
        for options in ({}, {"denoise": "map", "theta": 70}):
            want = method(model, images, classes, **options)
            for pick in ("winner", *want.names):
                e = rows.union_cam_by(model, images, classes, pick=pick, method=method, **options)
                expected = want.map if pick == "winner" else want.candidates[:, want.names.index(pick)]
                torch.testing.assert_close(e.map, expected, atol=1e-3, rtol=0)
                assert e.forwards == (3 + 1 if pick == "denoised" else want.forwards)
                assert e.config["region"] == want.config["region"] == ["score_cam"]
    assert len(asked) == 3
