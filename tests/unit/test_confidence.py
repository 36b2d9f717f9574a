"""Drop, increase, gain, ADD and ADCC, against numbers worked out by hand."""

import math

import pytest
import torch
from torch import nn

from cambook import methods, models, world
from cambook.explanation import Explanation
from cambook.metrics import adcc, average_drop, average_drop_in_deletion, average_gain, increase

FOUR = (average_drop, increase, average_gain, average_drop_in_deletion)


class Mean(nn.Module):
    """The share of light, and of what is missing to it: probabilities that can be read off the picture."""

    def __init__(self):
        super().__init__()
        self.asked = 0

    def forward(self, images):
        self.asked += len(images)
        light = images.mean((1, 2, 3))
        return torch.stack([light, 1 - light], 1)


def picture(*rows):
    return torch.tensor([[rows]], dtype=torch.float32)


# Light 0.8; under MAP it is (1·1 + 0.5·0.8)/4 = 0.35, and without what MAP shows 0.45.
IMAGE = picture([1.0, 0.8], [0.6, 0.8])
MAP = torch.tensor([[[1.0, 0.5], [0.0, 0.0]]])


def test_the_four_by_hand():
    def value(metric, target):
        return metric(Mean(), IMAGE, MAP, target, score="logit").values.item()

    assert value(average_drop, 0) == pytest.approx((0.8 - 0.35) / 0.8)
    assert value(increase, 0) == 0 and value(average_gain, 0) == 0
    assert value(average_drop_in_deletion, 0) == pytest.approx((0.8 - 0.45) / 0.8)
    # The other class: 0.2 before, 0.65 under the map, 0.55 without what it shows.
    assert value(average_drop, 1) == 0 and value(increase, 1) == 1
    assert value(average_gain, 1) == pytest.approx((0.65 - 0.2) / 0.8)
    assert value(average_drop_in_deletion, 1) == pytest.approx((0.2 - 0.55) / 0.2)


def test_the_class_is_the_clean_image_s_for_both_scores():
    """Under the map the other class is first: its score must not be taken."""
    assert average_drop(Mean(), IMAGE, MAP, score="logit").values.item() == pytest.approx(0.45 / 0.8)
    assert average_drop(Mean(), IMAGE, MAP, [lambda row: row[0]], score="logit").values.item() == (
        pytest.approx(0.45 / 0.8)
    )


def test_scores_are_probabilities_unless_told_otherwise():
    class Logits(nn.Module):
        def forward(self, images):
            light = 5 * images.mean((1, 2, 3))
            return torch.stack([light, torch.zeros_like(light)], 1)

    y, o = (1 / (1 + math.exp(-5 * light)) for light in (0.8, 0.35))
    assert average_drop(Logits(), IMAGE, MAP, 0).values.item() == pytest.approx((y - o) / y, abs=1e-6)
    assert average_drop(Logits(), IMAGE, MAP, 0, score=torch.sigmoid).values.item() == (
        pytest.approx((y - o) / y, abs=1e-6)
    )
    with pytest.raises(ValueError, match=r"scores must lie in \[0, 1\], but one is 4"):
        average_drop(Logits(), IMAGE, MAP, 0, score="logit")


def test_the_mean_is_that_of_the_ratios():
    """And not the ratio of the mean scores: 0.9 → 0.45 and 0.1 → 0.1 give 0.25, not 0.45."""
    images = torch.stack([torch.full((1, 2, 2), 0.9), torch.tensor([[[0.4, 0.0], [0.0, 0.0]]])])
    maps = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
    result = average_drop(Mean(), images, maps, 0, score="logit")
    assert result.values.tolist() == pytest.approx([0.5, 0.0], abs=1e-6)
    assert result.mean == pytest.approx(0.25)


def test_the_map_that_is_one_but_for_a_pixel_wins_for_free_except_in_adcc():
    fake = torch.ones(1, 10, 10)
    fake[0, 0, 0] = 0
    image = torch.full((1, 1, 10, 10), 0.5)
    assert average_drop(Mean(), image, fake, 0, score="logit").values.item() == pytest.approx(0.01)
    assert increase(Mean(), image, fake, 1, score="logit").values.item() == 1
    whole = adcc(Method(fake), Mean(), image, 0, score="logit")
    assert whole.complexity.item() == pytest.approx(0.99) and whole.values.item() <= 3 * 0.01


class Jump(nn.Module):
    """`low` for the clean image, `high` for any other."""

    def __init__(self, low, high):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, images):
        clean = images.amin((1, 2, 3)) > 0
        score = torch.where(clean, self.low, self.high)
        return torch.stack([score, 1 - score], 1)


@pytest.mark.parametrize(
    ("low", "high", "wins"),
    [
        (0.5, 0.5, 0),
        (0.5, 0.5000002, 0),
        (0.5, 0.50001, 1),
        (1e-9, 2e-9, 1),
        (0.9999999, 1.0, 0),
        (0.0, 0.1, 1),
    ],
)
def test_rounding_is_no_increase(low, high, wins):
    assert increase(Jump(low, high), IMAGE, MAP, 0, score="logit").values.item() == wins


def test_gain_of_an_image_that_cannot_gain():
    """1 - Y is 0 or a rounding error: no NaN, and no full mark for the last bit."""
    assert average_gain(Jump(1.0, 1.0), IMAGE, MAP, 0, score="logit").values.item() == 0
    assert average_gain(Jump(1 - 6e-8, 1.0), IMAGE, MAP, 0, score="logit").values.item() < 0.1
    assert average_gain(Jump(0.5, 0.75), IMAGE, MAP, 0, score="logit").values.item() == pytest.approx(0.5)


def test_what_is_excluded():
    """Flat maps of any height, a clean score of 0 where it is divided by, scores that are not finite."""
    images = torch.cat([IMAGE, IMAGE, IMAGE])
    maps = torch.cat([MAP, torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    for metric in FOUR:
        result = metric(Mean(), images, maps, 0, score="logit")
        assert result.excluded.tolist() == [False, True, True] and result.values[1:].isnan().all()
        assert result.mean == result.values[0] and result.values.dtype == torch.float64
        lost = metric(Jump(float("nan"), 0.5), IMAGE, MAP, 0, score="logit")
        assert lost.excluded.item() and math.isnan(lost.mean)
        divides = metric in (average_drop, average_drop_in_deletion)
        assert metric(Jump(0.0, 0.5), IMAGE, MAP, 0, score="logit").excluded.item() is divides


@pytest.mark.parametrize("metric", FOUR)
def test_passes_are_counted_and_chunks_change_nothing(metric):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 3, 6, 9, generator=generator)
    maps = torch.rand(5, 6, 9, generator=generator)
    model = Mean()
    result = metric(model, images, maps, chunk=2)
    assert result.forwards == model.asked == 10
    torch.testing.assert_close(result.values, metric(Mean(), images, maps).values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(dtype):
    net = models.load("tiny_resnet")
    images = net.preprocessing(world.scene(7).image).reshape(1, 3, 128, 128)
    maps = methods.grad_cam(net, images).map
    exact = average_drop(net, images, maps).values
    half = average_drop(net.to(dtype), images, maps.to(dtype)).values
    torch.testing.assert_close(half, exact, atol=0.05, rtol=0)


def test_the_model_comes_back_as_it_was():
    net = models.load("tiny_resnet").train()
    net.layer1.eval()
    flags = [module.training for module in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    images = net.preprocessing(world.scene(7).image).reshape(1, 3, 128, 128).requires_grad_()
    result = adcc(methods.grad_cam, net, images)
    assert not any(value.requires_grad for value in (result.values, result.coherency, result.drop))
    assert [module.training for module in net.modules()] == flags and images.grad is None
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


class Method:
    """Gives the maps it was made with, one a call, and notes what it was asked."""

    def __init__(self, *maps):
        self.maps, self.images, self.targets = maps, [], []

    def __call__(self, model, images, targets=None):
        self.images.append(images)
        self.targets.append(targets)
        heat = self.maps[min(len(self.images), len(self.maps)) - 1]
        none = torch.zeros(len(heat))
        return Explanation(
            map=heat, raw=heat, layers=[], targets=none.long(), scores=none, forwards=7, config={},
            flat=none.bool(),
        )    # fmt: skip


def test_adcc_by_hand():
    again = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    method = Method(MAP, again)
    model = Mean()
    result = adcc(method, model, IMAGE, score="logit")
    # Both less their means: (5, 1, -3, -3)/8 and (3, -1, -1, -1)/4, so ρ = 20/√(44·12).
    coherency = (20 / math.sqrt(44 * 12) + 1) / 2
    drop = 0.45 / 0.8
    assert result.coherency.item() == pytest.approx(coherency)
    assert result.complexity.item() == pytest.approx(0.375)
    assert result.drop.item() == pytest.approx(drop)
    assert result.values.item() == pytest.approx(3 / (1 / coherency + 1 / 0.625 + 1 / (1 - drop)))
    assert result.forwards == 7 + 7 + 2 and model.asked == 2
    assert not adcc(Method(MAP.clone().requires_grad_()), model, IMAGE, score="logit").values.requires_grad
    torch.testing.assert_close(method.images[1], IMAGE * MAP)


def test_adcc_explains_the_clean_image_s_class_twice():
    """What the map keeps may look like another class; that one is not asked about."""
    method = Method(MAP)
    adcc(method, Mean(), IMAGE, score="logit")
    assert method.targets[0] is None and method.targets[1].tolist() == [0]
    method = Method(MAP)
    adcc(method, Mean(), IMAGE, [1], score="logit")
    assert method.targets == [[1], [1]]


@pytest.mark.parametrize("again", [1 - MAP, torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
def test_no_coherency_is_zero_as_is_the_whole(again):
    """The opposite map has ρ = -1; a flat one has no ρ."""
    result = adcc(Method(MAP, again), Mean(), IMAGE, score="logit")
    assert result.coherency.item() == pytest.approx(0, abs=1e-12) and not result.excluded.item()
    assert result.values.item() == pytest.approx(0, abs=1e-9)


def test_adcc_is_zero_where_all_is_lost():
    """Light 0 under the map: the drop is 1, and 1/0 is no error."""
    image = picture([0.0, 0.8], [0.8, 0.8])
    result = adcc(Method(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])), Mean(), image, 0, score="logit")
    assert result.drop.item() == 1 and result.values.item() == 0 and not result.excluded.item()


def test_adcc_is_computed_per_image_and_flat_maps_are_excluded():
    images = torch.cat([IMAGE, picture([1.0, 0.0], [0.0, 0.0]), IMAGE])
    sharp = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    result = adcc(Method(torch.cat([MAP, sharp, torch.zeros(1, 2, 2)])), Mean(), images, 0, score="logit")
    assert result.excluded.tolist() == [False, False, True]
    for part in (result.values, result.coherency, result.complexity, result.drop):
        assert part.isnan().tolist() == [False, False, True]
    assert result.mean == pytest.approx(result.values[:2].mean().item())
    means = [result.coherency[:2].mean(), 1 - result.complexity[:2].mean(), 1 - result.drop[:2].mean()]
    assert result.mean != pytest.approx((3 / sum(1 / part for part in means)).item(), abs=1e-3)


@pytest.mark.parametrize("metric", FOUR)
@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"maps": torch.rand(1, 2, 2)}, ValueError, r"= \(2, 4, 6\) like the images.*F.interpolate"),
        ({"maps": torch.rand(1, 4, 6)}, ValueError, r"= \(2, 4, 6\) like the images"),
        ({"maps": torch.rand(2, 6, 4)}, ValueError, r"= \(2, 4, 6\) like the images"),
        ({"maps": torch.rand(2, 1, 4, 6)}, ValueError, r"must be \(B, H, W\), one for each image"),
        ({"maps": torch.rand(2, 4, 6) - 0.5}, ValueError, "take explanation.map, or clamp"),
        ({"maps": torch.rand(2, 4, 6) * 255}, ValueError, r"must lie in \[0, 1\], but reach 2"),
        ({"maps": torch.full((2, 4, 6), float("nan"))}, ValueError, "the maps hold NaN"),
        ({"images": torch.rand(3, 4, 6)}, ValueError, "four dimensions"),
        ({"images": torch.full((2, 3, 4, 6), float("inf"))}, ValueError, "holds NaN or infinite"),
        ({"images": None}, TypeError, "must be a float tensor"),
        ({"targets": [0]}, ValueError, "1 target for 2 images"),
        ({"targets": 7}, ValueError, "out of range"),
        ({"score": "loud"}, ValueError, "kind of score"),
        ({"chunk": 0}, ValueError, "The chunk is a positive number"),
    ],
)
def test_bad_input_is_said_in_a_sentence(metric, options, error, sentence):
    arguments = {"images": torch.rand(2, 3, 4, 6), "maps": torch.rand(2, 4, 6), "targets": [0, 1]} | options
    with pytest.raises(error, match=sentence):
        metric(Mean(), **arguments)
