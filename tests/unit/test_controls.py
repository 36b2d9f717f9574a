"""The degenerate controls: what each map is, and that each keeps the contract of a method."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from cambook import metrics, scoring
from cambook.metrics import controls

EVERY = [controls.CONTROLS[name] for name in controls.CONTROLS if name != "exact_mask"]
by_name = {"ids": lambda value: value.__name__}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Small(nn.Module):
    """Convolution, ReLU, the mean over the picture, a dropout that evaluation switches off, linear layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU()
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(4, 3)
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.copy_(random(*parameter.shape, seed=number))

    def forward(self, images):
        return self.fc(self.drop(self.relu(self.conv(images)).mean((2, 3))))


@pytest.fixture
def net():
    return Small()    # in training mode, as a careless caller has it


@pytest.mark.parametrize("control", EVERY, **by_name)
class TestContract:
    def test_map_class_and_score(self, control, net):
        images = random(3, 3, 12, 20)
        got = control(net, images)
        answers = scoring.outputs(net, images)
        assert got.map.shape == (3, 12, 20) and got.map.dtype == torch.float32
        assert (got.map.amax((1, 2)) == 1).all() and (got.map >= 0).all() and not got.flat.any()
        assert got.targets.tolist() == answers.argmax(1).tolist()
        assert torch.equal(got.scores, answers.amax(1))
        assert got.config["method"] == control.__name__
        given = control(net, images, [2, 0, 1])
        assert given.targets.tolist() == [2, 0, 1]
        assert torch.equal(given.scores, answers[range(3), [2, 0, 1]])
        assert torch.equal(given.map, got.map), "the class changed a map that knows of no class"

    def test_a_map_does_not_depend_on_the_batch(self, control, net):
        images = random(3, 3, 12, 20)
        alone = torch.cat([control(net, image[None]).map for image in images])
        torch.testing.assert_close(control(net, images).map, alone, atol=1e-6, rtol=0)

    def test_forwards_are_counted_and_the_model_is_as_it_was(self, control, net):
        passed = []
        hook = net.fc.register_forward_hook(lambda module, given, output: passed.append(len(output)))
        before = {name: value.clone() for name, value in net.state_dict().items()}
        state = torch.get_rng_state()
        images = random(3, 3, 12, 20).requires_grad_()
        kept = images.detach().clone()
        got = control(net, images)
        hook.remove()
        assert got.forwards == sum(passed)
        assert net.training and all(parameter.grad is None for parameter in net.parameters())
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        assert torch.equal(images.detach(), kept) and torch.equal(torch.get_rng_state(), state)
        assert not got.map.requires_grad and not got.scores.requires_grad

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_other_precisions(self, control, net, dtype):
        got = control(net.to(dtype), random(2, 3, 12, 20))
        assert got.map.dtype == got.scores.dtype == torch.float32 and got.map.isfinite().all()

    def test_bad_images(self, control, net):
        bad = random(2, 3, 12, 20)
        bad[1, 0, 0, 0] = math.nan
        with pytest.raises(ValueError, match="Image 1 of the batch holds NaN"):
            control(net, bad)
        with pytest.raises(TypeError, match="must be a float tensor"):
            control(net, [1, 2])


def test_fake_cam_is_one_but_for_a_corner(net):
    got = controls.fake_cam(net, random(2, 3, 12, 20)).map
    assert (got[:, 0, 0] == 0).all() and (got.sum((1, 2)) == 12 * 20 - 1).all()


def test_fake_cam_has_hardly_a_drop_and_only_adcc_sees_it(net):
    images = random(8, 3, 40, 40)
    maps = controls.fake_cam(net, images).map
    assert metrics.average_drop(net, images, maps).mean < 0.01
    assert metrics.adcc(controls.fake_cam, net, images).mean < 0.01


def test_constant_is_excluded_and_its_energy_is_the_area(net):
    images = random(2, 3, 12, 20)
    maps = controls.constant(net, images).map
    masks = torch.zeros(2, 12, 20, dtype=torch.bool)
    masks[:, :3, :4] = True
    assert (maps == 1).all() and metrics.average_drop(net, images, maps).excluded.all()
    assert metrics.energy_pointing_game(maps, masks).values.tolist() == pytest.approx([12 / 240] * 2)


def test_centred_gaussian_in_closed_form(net):
    got = controls.centred_gaussian(net, random(1, 3, 11, 21), width=0.5).map[0]
    assert got[5, 10] == 1 and got.flatten().argmax() == 5 * 21 + 10
    torch.testing.assert_close(got, got.flip(0))
    torch.testing.assert_close(got, got.flip(1))
    # Before the min-max: at the corner both offsets are (side - 1) / 2 pixels; each side has its own width.
    corner = math.exp(-0.5 * ((5 / 11) ** 2 + (10 / 21) ** 2) / 0.25)
    right = math.exp(-0.5 * (10 / 21) ** 2 / 0.25)
    assert got[5, 20].item() == pytest.approx((right - corner) / (1 - corner), abs=1e-6)
    assert got[0, 0] == 0


@pytest.mark.parametrize("width", [0, -1, math.inf, math.nan])
def test_centred_gaussian_needs_a_width(net, width):
    with pytest.raises(ValueError, match="width is a positive share"):
        controls.centred_gaussian(net, random(1, 3, 12, 20), width=width)


def test_random_maps_differ_by_picture_and_seed_and_come_from_cells(net):
    images = random(2, 3, 16, 24)
    got = controls.random(net, images, cells=4)
    assert got.raw.shape == (2, 4, 4)
    assert not torch.equal(got.map[0], got.map[1])
    assert torch.equal(got.map, controls.random(net, images, cells=4).map)
    assert not torch.equal(got.map, controls.random(net, images, cells=4, seed=1).map)


@pytest.mark.parametrize("cells", [1, 0, 2.5, True])
def test_random_needs_cells(net, cells):
    with pytest.raises(ValueError, match="cells are a whole number from 2 on"):
        controls.random(net, random(1, 3, 12, 20), cells=cells)


def test_edges_of_a_step(net):
    images = torch.zeros(2, 3, 12, 20)
    images[0, :, :, 8:] = 2.0    # between columns 7 and 8
    images[1, 0, 5:] = 3.0       # between rows 4 and 5, in one colour of three: a step of 1 in the mean
    got = controls.edges(net, images)
    expected = torch.zeros(2, 12, 20)
    expected[0, :, 7:9] = 1
    expected[1, 4:6] = 1
    assert torch.equal(got.map, expected)
    # Sobel's weights sum to 4 a side; the borders are repeated, so that they are no edge.
    assert got.raw[0, 3, 7] == 8 and got.raw[1, 4, 3] == pytest.approx(4)


def test_a_picture_without_edges_is_flat(net):
    got = controls.edges(net, torch.ones(1, 3, 12, 20))
    assert got.flat.all() and (got.map == 0).all()


def test_mean_activation_is_that_of_the_last_layer(net):
    images = random(2, 3, 12, 20)
    got = controls.mean_activation(net, images)
    assert got.layers == ["relu"] and got.config["layer"] == "relu"
    torch.testing.assert_close(got.raw, net.relu(net.conv(images)).mean(1).detach())


def test_exact_mask(net):
    images, masks = random(2, 3, 12, 20), torch.zeros(2, 12, 20, dtype=torch.bool)
    masks[0, 2:5, 3:9] = masks[1, 7:, 10:] = True
    got = controls.exact_mask(net, images, masks=masks)
    assert torch.equal(got.map, masks.float()) and not got.flat.any()
    oracle = partial(controls.exact_mask, masks=masks)
    assert metrics.max_sensitivity(oracle, net, images, samples=3).values.tolist() == [0, 0]
    masks[1] = False
    assert controls.exact_mask(net, images, masks=masks).flat.tolist() == [False, True]


@pytest.mark.parametrize(
    "masks",
    [torch.ones(2, 12, 20), torch.ones(2, 20, 12, dtype=torch.bool), torch.ones(3, 12, 20, dtype=torch.bool),
     torch.ones(0, 12, 20, dtype=torch.bool)],
)    # fmt: skip
def test_exact_mask_needs_masks_that_fit(net, masks):
    with pytest.raises(ValueError, match=r"masks must be bool \(B, H, W\) = \(2, 12, 20\) like the images"):
        controls.exact_mask(net, random(2, 3, 12, 20), masks=masks)
