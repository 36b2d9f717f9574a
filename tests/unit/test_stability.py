"""Max-sensitivity with methods whose maps are known in closed form."""

from functools import partial

import pytest
import torch
from torch import nn

from cambook import methods
from cambook.explanation import Explanation
from cambook.metrics import max_sensitivity


class Channels(nn.Module):
    """The class scores are the means of the image's channels; every picture that came by is kept."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return self.scale * images.mean((2, 3))


class Seen:
    """A method that is `raw(images)`, its map the same, or `heat(images)`; it keeps what it was given."""

    def __init__(self, raw, heat=None):
        self.raw, self.heat, self.images, self.targets = raw, heat or raw, [], []

    def __call__(self, model, images, targets=None):
        self.images.append(images)
        self.targets.append(targets)
        classes = model(images).argmax(1).detach() if targets is None else targets
        if callable(classes) or any(map(callable, classes)):
            classes = [-1] * len(images)
        return Explanation(
            map=self.heat(images),
            raw=self.raw(images),
            layers=[],
            targets=torch.as_tensor(classes),
            scores=torch.zeros(len(images)),
            forwards=len(images),
            config={},
            flat=torch.zeros(len(images), dtype=torch.bool),
        )


def first_channel(images):
    return images[:, 0]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def noises(shape, radius, samples, seed=0):
    """The draws as the docstring promises them: even in [-radius, radius], one image after another."""
    generator = torch.Generator().manual_seed(seed)
    return [(2 * torch.rand(shape, generator=generator) - 1) * radius for _ in range(samples)]


def test_the_definition():
    images = random(2, 3, 6, 8)
    result = max_sensitivity(Seen(first_channel), Channels(), images, radius=0.1, samples=4)
    for b in range(2):
        expected = [
            d[0].double().norm() / images[b, 0].double().norm() for d in noises((3, 6, 8), 0.1, 4)
        ]
        torch.testing.assert_close(result.draws[b], torch.stack(expected), rtol=1e-5, atol=0)
        assert result.values[b] == result.draws[b].max()
    assert result.values.dtype == torch.float64 and not result.excluded.any()


def test_the_noise_goes_both_ways_and_no_further():
    method, images = Seen(first_channel), torch.zeros(1, 3, 40, 40)
    max_sensitivity(method, Channels(), images + 1, radius=0.2, samples=5, chunk=1)
    noise = torch.cat(method.images[1:]) - 1
    assert noise.abs().max() <= 0.2 + 1e-6 and noise.min() < -0.19 and noise.max() > 0.19
    assert abs(noise.mean()) < 0.005    # in [0, radius], as elsewhere, it would be 0.1
    assert len({tuple(each.flatten().tolist()) for each in noise}) == 5


def test_more_samples_find_more():
    images = random(1, 3, 6, 8)
    few, many = (
        max_sensitivity(Seen(first_channel), Channels(), images, samples=n, chunk=3) for n in (3, 50)
    )
    assert torch.equal(few.draws, many.draws[:, :3]) and few.values < many.values


def test_a_map_that_looks_at_no_image_is_perfect():
    """Fake-CAM and the centred Gaussian win this metric."""
    fake = torch.ones(6, 8)
    fake[0, 0] = 0
    result = max_sensitivity(Seen(lambda x: fake.expand(len(x), -1, -1)), Channels(), random(2, 3, 6, 8))
    assert result.values.tolist() == [0, 0]


def test_flat_maps_are_excluded_not_perfect():
    """Dividing by 1 where the norm is 0, as captum does, would score the zero map as stable."""

    def heat(images):
        return torch.stack([torch.zeros(6, 8), torch.full((6, 8), 0.5), images[2, 0]])

    method = Seen(lambda x: torch.cat([heat(part) for part in x.split(3)]))
    result = max_sensitivity(method, Channels(), random(3, 3, 6, 8), samples=3)
    assert result.excluded.tolist() == [True, True, False]
    assert result.values[:2].isnan().all() and result.draws[:2].isnan().all()
    assert result.mean == result.values[2] > 0


def test_a_map_that_vanishes_has_changed_by_all_of_itself():
    images = torch.full((1, 3, 4, 4), 1.0)
    place = torch.arange(16.0).view(4, 4)
    method = Seen(lambda x: torch.stack([place * (image == 1).all() for image in x]))
    assert max_sensitivity(method, Channels(), images, samples=2).values.tolist() == [1]


@pytest.mark.parametrize("targets", [None, [1, 2], torch.tensor([1, 2])], ids=["top-1", "list", "tensor"])
def test_the_class_stays_that_of_the_clean_image(targets):
    """Two classes 0.0001 apart: the noise changes the winner, and must not change the class explained."""
    images = torch.zeros(2, 3, 4, 4)
    images[0, 1], images[1, 2] = 1e-4, 1e-4
    method, model = Seen(first_channel, lambda x: x[:, 0] + torch.arange(4.0)), Channels()
    max_sensitivity(method, model, images, targets, samples=8, chunk=4)
    noisy = torch.cat(method.images[1:])
    assert (model(noisy).argmax(1) != torch.tensor([1, 2]).repeat(8)).any(), "else this proves nothing"
    assert [list(each) for each in method.targets[1:]] == [[1, 2, 1, 2]] * 4


def test_callables_stay_too():
    def one(row):
        return row[0]

    def two(row):
        return row[1]

    for targets, expected in ((one, [one, one] * 2), ([one, two], [one, two] * 2)):
        method = Seen(first_channel)
        max_sensitivity(method, Channels(), random(2, 3, 4, 4), targets, samples=2, chunk=4)
        assert method.targets[1:] == [expected]
    mixed = max_sensitivity(methods.grad_cam, Small(), random(2, 3, 8, 8), [one, 1], samples=2)
    numbers = max_sensitivity(methods.grad_cam, Small(), random(2, 3, 8, 8), [0, 1], samples=2)
    assert torch.equal(mixed.draws, numbers.draws)


def test_the_value_depends_on_neither_chunk_nor_batch():
    images = random(3, 3, 8, 10)
    together = max_sensitivity(methods.grad_cam, Small(), images, [0, 1, 2], samples=5)
    for chunk in (1, 7):
        parts = max_sensitivity(methods.grad_cam, Small(), images, [0, 1, 2], samples=5, chunk=chunk)
        torch.testing.assert_close(parts.draws, together.draws, atol=1e-5, rtol=0)
    alone = max_sensitivity(methods.grad_cam, Small(), images[2:], 2, samples=5)
    torch.testing.assert_close(alone.draws[0], together.draws[2], atol=1e-5, rtol=0)
    other = max_sensitivity(methods.grad_cam, Small(), images, [0, 1, 2], samples=5, seed=1)
    assert (other.draws - together.draws).abs().min() > 0


def test_the_min_max_changes_the_value():
    """A map whose strength follows the image's brightness: after the min-max it stands still."""
    place = torch.arange(12.0).view(3, 4) / 11
    method = Seen(lambda x: x.mean((1, 2, 3))[:, None, None] * place, lambda x: place.expand(len(x), -1, -1))
    images = torch.full((1, 3, 8, 8), 0.1)
    values = {
        of: max_sensitivity(method, Channels(), images, radius=0.05, of=of).mean for of in ("map", "raw")
    }
    assert values["map"] == 0 and values["raw"] > 0.01


def test_tiny_raw_maps_do_not_vanish():
    images = random(1, 3, 6, 8)
    large = max_sensitivity(Seen(first_channel), Channels(), images, samples=3, of="raw")
    tiny = max_sensitivity(Seen(lambda x: x[:, 0] * 1e-30), Channels(), images, samples=3, of="raw")
    torch.testing.assert_close(tiny.values, large.values, rtol=1e-5, atol=0)


class Small(nn.Module):
    """A convolution, ReLU, the mean and a head."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Linear(4, 3)
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters()):
                parameter.copy_(random(*parameter.shape, seed=i))

    def forward(self, images):
        return self.head(self.relu(self.conv(images)).mean((2, 3)))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_nothing_is_left_behind(mode):
    model, images = Small().train(), random(2, 3, 8, 10).requires_grad_()
    model.conv.weight.requires_grad = False
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with mode():
        result = max_sensitivity(partial(methods.score_cam, progress=False), model, images, samples=2)
    assert torch.equal(torch.rand(3), expected)
    assert model.training and model.conv.training and not model.conv.weight.requires_grad
    assert images.grad is None and all(p.grad is None for p in model.parameters())
    assert not result.values.requires_grad and result.values.isfinite().all()


def test_forwards_are_counted():
    assert max_sensitivity(Seen(first_channel), Channels(), random(2, 3, 4, 4), samples=7).forwards == 2 * 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    """The noise is added in float32: in bfloat16 a radius of 0.02 is two steps around 2."""
    images = (2 + random(1, 3, 8, 10) / 4).to(dtype)
    method = Seen(lambda x: x[:, 0].float())
    result = max_sensitivity(method, Channels().to(dtype), images, samples=3)
    assert method.images[1].dtype == torch.float32
    expected = [d[0].norm() / images[0, 0].float().norm() for d in noises((3, 8, 10), 0.02, 3)]
    torch.testing.assert_close(result.draws[0].float(), torch.stack(expected), rtol=1e-3, atol=0)
    real = max_sensitivity(methods.grad_cam, Small().to(dtype), images, 1, samples=3)
    assert real.values.isfinite().all()


def test_bad_input_is_said_in_a_sentence():
    model, images = Small(), random(1, 3, 8, 8)
    for options, says in (
        ({"radius": 0}, "The radius is a positive number"),
        ({"radius": float("nan")}, "The radius is a positive number"),
        ({"samples": 0}, "The samples are a positive number"),
        ({"samples": 2.5}, "The samples are a positive number"),
        ({"of": "heat"}, "one of map, raw"),
        ({"chunk": 0}, "The chunk is a positive number"),
    ):
        with pytest.raises(ValueError, match=says):
            max_sensitivity(methods.grad_cam, model, images, **options)
    with pytest.raises(ValueError, match="NaN or infinite"):
        max_sensitivity(methods.grad_cam, model, images * float("nan"))
    with pytest.raises(TypeError, match="The first argument is the method.*not a Small"):
        max_sensitivity(model, images, [0])
    with pytest.raises(TypeError, match="The first argument is the method.*not a str"):
        max_sensitivity("grad_cam", model, images)
    with pytest.raises(TypeError, match="must return an Explanation.*not a Tensor"):
        max_sensitivity(lambda model, images, targets: images[:, 0], model, images)
