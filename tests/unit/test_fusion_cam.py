"""Fusion-CAM: its formulas, their closed form, and that negative scores do no harm."""

import numpy as np
import pytest
import torch
from torch import nn

from cambook import methods, metrics
from cambook.methods.candidates import minmax
from cambook.methods.fusion_cam import blend


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """One convolution and ReLU, and a smooth nonlinear head."""

    def __init__(self, seed=0):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.hidden = nn.Linear(6 * 4 * 5, 8)
        self.fc = nn.Linear(8, 4)
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters()):
                spread = 2 / parameter[0].numel() ** 0.5
                parameter.copy_(spread * random(*parameter.shape, seed=100 * seed + i))

    def forward(self, images):
        return self.fc(torch.tanh(self.hidden(self.relu(self.conv(images)).flatten(1))))


def pictures(count=2):
    return random(count, 3, 8, 10, seed=50)


def fusion(model, images, targets=None, **options):
    return methods.fusion_cam(model, images, targets, layers="relu", **options)


def test_a_worked_example():
    """L_1 = (0.8, 0.4), L_2 = (0.3, 0.4): S = (0.5, 1), so 0.5 · 0.8 + 0.5 · 0.55 and 0.4."""
    one, two = torch.tensor([[[1.0, 0.5]]]), torch.tensor([[[0.5, 2 / 3]]])
    mixed, similarity = blend(one, two, torch.tensor([[0.8, 0.6]]))
    torch.testing.assert_close(similarity, torch.tensor([[[0.5, 1.0]]]))
    torch.testing.assert_close(mixed, torch.tensor([[[0.675, 0.4]]]))


def test_the_closed_form():
    """m + d(1 − d)/2: nothing is added in full agreement or full conflict, 1/8 halfway; for d over 1, m."""
    one, two = (minmax(random(5, 9, 11, seed=seed)) for seed in (1, 2))
    beta = torch.rand(5, 2, generator=torch.Generator().manual_seed(0))
    first, second = one * beta[:, :1, None], two * beta[:, 1:, None]
    mean, d = (first + second) / 2, (first - second).abs()
    mixed, _ = blend(one, two, beta)
    torch.testing.assert_close(mixed, mean + d * (1 - d) / 2, atol=2e-7, rtol=0)
    assert (mixed - mean).max() <= 1 / 8
    far, similarity = blend(torch.ones(1, 1, 2), torch.tensor([[[0.0, 0.5]]]), torch.tensor([[3.0, 1.0]]))
    assert far.tolist() == [[[1.5, 1.75]]] and similarity.tolist() == [[[0, 0]]]


@pytest.mark.parametrize("theta", [10, 60])
@pytest.mark.parametrize("guard", [False, True])
def test_from_its_definition(theta, guard):
    """Step by step in NumPy, and with UnionCAM's denoising as an option."""
    model, images = Net(), pictures(12)
    targets = [0, 1, 2, 3] * 3
    e = fusion(model, images, targets, theta=theta, guard=guard, trace=True)
    grad_cam = methods.grad_cam(model, images, targets, layers="relu").map.numpy()
    region = methods.score_cam(model, images, targets, layers="relu").map.numpy()
    black = model(torch.zeros(1, 3, 8, 10)).softmax(1)[0].detach().numpy()
    compared = 0
    for b, c in enumerate(targets):

        def beta(heat, b=b, c=c):
            seen = model(images[b : b + 1] * torch.from_numpy(heat))
            return max(seen.softmax(1)[0, c].item() - black[c], 0 if guard else -1)

        denoised = np.where(grad_cam[b] >= np.percentile(grad_cam[b], theta), grad_cam[b], 0)
        fused = beta(denoised) * denoised + beta(region[b]) * region[b]
        if min(abs(beta(denoised)), abs(beta(region[b]))) < 1e-3:
            continue
        fused = (fused - fused.min()) / (fused.max() - fused.min())
        first, second = beta(fused) * fused, beta(region[b]) * region[b]
        similar = np.clip(1 - np.abs(first - second), 0, 1)
        mixed = similar * np.maximum(first, second) + (1 - similar) * (first + second) / 2
        mixed = (mixed - mixed.min()) / (mixed.max() - mixed.min())
        np.testing.assert_allclose(e.map[b].numpy(), mixed, atol=1e-3)
        np.testing.assert_allclose(e.trace["similarity"][b].numpy(), similar, atol=1e-3)
        np.testing.assert_allclose(e.candidates[b].numpy(), [region[b], fused, denoised], atol=1e-3)
        compared += 1
    assert compared >= 3
    other = fusion(model, images, targets, denoise="gradient")
    union = methods.union_cam(model, images, targets, layers="relu")
    assert torch.equal(other.candidates, union.candidates) and other.names == union.names


def test_negative_scores_never_invert_a_map():
    inverted = 0
    for seed in range(3):
        model, images = Net(seed), pictures(12)
        least = model(images).argmin(1)
        e, strict = fusion(model, images, least), fusion(model, images, least, guard=False)
        both = (e.increases[:, [0, 2]] <= 0).all(1)
        assert torch.equal(e.map[both], e.candidates[both][:, 0])
        for b in torch.nonzero(both)[:, 0]:
            with_region = torch.corrcoef(torch.stack([strict.map[b], e.map[b]]).flatten(1))[0, 1]
            inverted += bool(with_region < 0)
        assert e.map.amin() == 0 and (e.map.amax((1, 2)) == 1).all()
    assert inverted > 0


def test_one_negative_score_counts_as_zero():
    """Then L_2 is zero, and the blend orders the pixels as the fused map does."""
    found = 0
    for seed in range(4):
        model, images = Net(seed), pictures(12)
        e = fusion(model, images, model(images).argmin(1))
        for b in torch.nonzero((e.increases[:, 0] < 0) & (e.increases[:, 1:] > 1e-4).all(1))[:, 0]:
            first = e.increases[b, 1] * e.candidates[b, 1]
            torch.testing.assert_close(e.map[b], minmax((first - first**2 / 2)[None])[0], atol=1e-5, rtol=0)
            found += 1
    assert found > 0


def test_it_promises_nothing_about_the_drop():
    """It is not scored again: on some images the region map keeps more of the class."""
    lower = 0
    for seed in range(4):
        model, images = Net(seed), pictures(12)
        e = fusion(model, images)
        ours, regions = (
            metrics.average_drop(model, images, maps, e.targets).values
            for maps in (e.map, e.candidates[:, 0])
        )
        lower += (ours > regions + 1e-3).sum().item()
    assert lower > 0


def test_flat_maps_and_forwards():
    model = Net()
    e = fusion(model, pictures(1))
    assert e.forwards == 6 + 5 and e.config["denoise"] == "map" and e.config["method"] == "fusion_cam"
    with torch.no_grad():
        model.conv.weight.zero_(), model.conv.bias.fill_(-1)
    for guard in (True, False):
        e = fusion(model, pictures(), guard=guard)
        assert e.flat.all() and e.map.abs().max() == 0 and e.increases.abs().max() == 0


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"region": ["score_cam", methods.grad_cam]}, ValueError, "one region map, but 2 methods"),
        ({"region": "rise"}, ValueError, "A region method is"),
        ({"theta": 200}, ValueError, "theta is a percentage"),
        ({"denoise": "none"}, ValueError, "denoise is one of"),
    ],
)
def test_bad_options(options, error, sentence):
    with pytest.raises(error, match=sentence):
        fusion(Net(), pictures(), 0, **options)
