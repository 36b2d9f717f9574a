"""Cascading randomisation on networks whose layers can be followed one by one, and its two similarities."""

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cambook import methods
from cambook.explanation import Explanation
from cambook.metrics import cascading_randomisation, spearman, ssim
from cambook.world import networks

NAN = float("nan")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Small(nn.Module):
    """Registered head first and run last; with batch normalisation, and a layer that never runs."""

    def __init__(self):
        super().__init__()
        self.head, self.unused = nn.Linear(4, 3), nn.Linear(2, 2)
        self.conv, self.norm, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters()):
                parameter.copy_(random(*parameter.shape, seed=i))
            self.norm.running_mean.fill_(0.5)
        self.eval()

    def forward(self, images):
        return self.head(self.relu(self.norm(self.conv(images))).mean((2, 3)))


class Seen:
    """A method that is `raw(network, images)`; it keeps each network's parameters and the targets."""

    def __init__(self, raw):
        self.raw, self.states, self.targets = raw, [], []

    def __call__(self, model, images, targets=None):
        self.states.append({name: value.clone() for name, value in model.state_dict().items()})
        self.targets.append(targets)
        raw = self.raw(model, images)
        return Explanation(
            map=torch.zeros(len(images), *images.shape[2:]),
            raw=raw,
            layers=[],
            targets=model(images).argmax(1) if targets is None else torch.as_tensor(targets),
            scores=torch.zeros(len(images)),
            forwards=10 * len(images),
            config={},
            flat=torch.zeros(len(images), dtype=torch.bool),
        )


def mean_activation(model, images):
    """Class-agnostic: the activations of the layer, all channels alike."""
    with torch.no_grad():
        return model.conv(images).mean(1)


def first_channel(model, images):
    return images[:, 0]


# The two similarities


def test_spearman_by_hand():
    one = torch.tensor([[[1.0, 2], [3, 4]]]).expand(4, -1, -1)
    two = torch.tensor([[[1, 20], [300, 4000]], [[4, 3], [2, 1]], [[1, 2], [4, 3]], [[5, 5], [5, 5]]])
    values = spearman(one, two.float())
    # One swap of neighbours among four: 1 - 6 · (1 + 1) / (4 · 15).
    assert values[:3].tolist() == pytest.approx([1, -1, 0.8]) and values[3].isnan()


def test_spearman_shares_the_ranks_of_equal_cells():
    """Ranks 1.5 1.5 3.5 3.5 against 1 2 3 4: a sort would find 1 or less, as the cells happen to lie."""
    one, two = torch.tensor([[[0.0, 0, 7, 7]]]), torch.tensor([[[1.0, 2, 3, 4]]])
    assert spearman(one, two).item() == pytest.approx(4 / math.sqrt(4 * 5))


def test_spearman_of_two_maps_that_are_mostly_zero():
    """Two evidence cells that share no place: the zeros in common must not make the maps alike."""
    one, two = torch.zeros(1, 10, 10), torch.zeros(1, 10, 10)
    one[0, 2, 3], two[0, 7, 1] = 1, 5
    assert spearman(one, two).item() == pytest.approx(-1 / 99)
    assert spearman(one, one).item() == 1


def test_ssim_of_one_window_is_the_formula():
    one, two = torch.rand(2, 1, 5, 6, generator=torch.Generator().manual_seed(0)).double()
    expected = []
    for column in (0, 1):    # two windows of 5×5
        x, y = ((m - m.min()) / (m.max() - m.min()) for m in (one, two))
        x, y = (m[0, :, column : column + 5].flatten() for m in (x, y))
        cov = (x * y).mean() - x.mean() * y.mean()
        expected.append(
            (2 * x.mean() * y.mean() + 1e-4) * (2 * cov + 9e-4)
            / ((x.mean() ** 2 + y.mean() ** 2 + 1e-4) * (x.var(correction=0) + y.var(correction=0) + 9e-4))
        )    # fmt: skip
    torch.testing.assert_close(ssim(one, two)[0], sum(expected) / 2)


def test_ssim_at_its_ends():
    maps = torch.rand(3, 9, 12, generator=torch.Generator().manual_seed(0))
    assert ssim(maps, 5 * maps + 2).tolist() == pytest.approx([1, 1, 1])
    assert (ssim(maps, -maps) < 0).all()
    assert ssim(maps, torch.ones(3, 9, 12)).isnan().all() and ssim(torch.zeros(3, 9, 12), maps).isnan().all()
    for shape in ((1, 2, 2), (1, 1, 5), (1, 6, 1)):
        small = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        assert ssim(small, small).item() == pytest.approx(1)


def test_upsampling_makes_maps_alike():
    """Why stages are compared at the layer's size: two maps that have nothing in common."""
    one, two = random(2, 20, 7, 7)
    large = [F.interpolate(m[:, None], (112, 112), mode="bilinear")[:, 0] for m in (one, two)]
    assert ssim(*large).mean() > ssim(one, two).mean() + 0.1


def test_similarities_of_bad_maps():
    for similarity in (spearman, ssim):
        with pytest.raises(ValueError, match="must be of one size.*compare both"):
            similarity(torch.rand(1, 3, 3), torch.rand(1, 6, 6))
        with pytest.raises(ValueError, match="NaN"):
            similarity(torch.rand(1, 3, 3), torch.full((1, 3, 3), NAN))


# The cascade


def test_the_cascade_goes_from_the_head_down_and_leaves_random_what_was():
    method, model = Seen(first_channel), Small()
    result = cascading_randomisation(method, model, random(2, 3, 8, 8))
    assert result.stages == ("head", "norm", "conv") and result.kept == ("unused",)
    clean, *stages = method.states
    changed = [
        {name.split(".")[0] for name, value in state.items() if not torch.equal(value, clean[name])}
        for state in stages
    ]
    assert changed == [{"head"}, {"head", "norm"}, {"head", "norm", "conv"}]
    assert torch.equal(stages[0]["head.weight"], stages[2]["head.weight"])
    # Batch normalisation loses its statistics, too.
    assert stages[1]["norm.running_mean"].tolist() == [0] * 4 and stages[1]["norm.weight"].tolist() == [1] * 4
    assert result.forwards == 1 + 4 * 20


def test_layers_of_equal_shape_get_different_numbers():
    """The same seed before each layer, as elsewhere, would make them twins."""
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(48, 2))
    method = Seen(first_channel)
    cascading_randomisation(method, model, random(1, 3, 8, 8))
    assert not torch.equal(method.states[-1]["0.weight"], method.states[-1]["1.weight"])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_model_and_generator_stay_as_they_were(mode):
    model, images = Small().train(), random(2, 3, 8, 8)
    model.conv.weight.requires_grad = False
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with mode():
        first = cascading_randomisation(methods.grad_cam, model, images)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and all(p.grad is None for p in model.parameters())
    again = cascading_randomisation(methods.grad_cam, model, images)
    other = cascading_randomisation(methods.grad_cam, model, images, seed=1)
    torch.testing.assert_close(first.spearman, again.spearman, equal_nan=True)
    assert not torch.allclose(first.spearman.nan_to_num(0), other.spearman.nan_to_num(0), atol=1e-3)


@pytest.mark.parametrize("targets", [None, [1, 0]], ids=["top-1", "given"])
def test_the_class_stays_that_of_the_untouched_network(targets):
    """Not the random network's top-1, which is another."""
    method, model, images = Seen(first_channel), Small(), random(2, 3, 8, 8)
    cascading_randomisation(method, model, images, targets)
    classes = targets or model(images).argmax(1).tolist()
    assert method.targets[1:] == [classes] * 3


def test_the_trivial_one_is_in_no_mean():
    """At each of three stages the map turns into its negative: the mean is -1, not -0.5."""
    flip = iter([1, -1, -1, -1])
    method = Seen(lambda model, images: next(flip) * images[:, 0])
    result = cascading_randomisation(method, Small(), random(2, 3, 8, 8), signed=True)
    assert result.values.tolist() == pytest.approx([-1, -1]) and result.spearman.shape == (2, 3)


def test_relu_cuts_unless_signed():
    """Without the sign only the positive cells compare: here the two maps share none."""
    images = torch.tensor([-2.0, -1, 1, 2]).expand(1, 3, 4, 4)
    for signed, expected in ((True, -1), (False, -0.8888889)):
        flip = iter([1, -1, -1, -1])
        method = Seen(lambda model, images, flip=flip: next(flip) * images[:, 0])
        result = cascading_randomisation(method, Small(), images, signed=signed)
        assert result.values.item() == pytest.approx(expected)


def test_a_map_that_vanishes_is_counted_not_dropped_and_not_scored():
    """Image 0 fails at the first stage, image 1 always, image 2 has no map at all, image 3 is fine."""

    def raw(model, images):
        maps = images[:, 0].abs() + 0.1
        fails = [[2], [0, 1, 2], [1, 2], [1, 2]][len(method.states) - 1]
        maps[fails] *= -1
        return maps

    method = Seen(raw)
    result = cascading_randomisation(method, Small(), random(4, 3, 8, 8))
    assert result.failed.tolist() == [[True, False, False], [True] * 3, [False] * 3, [False] * 3]
    assert result.failures.tolist() == [2, 1, 1]
    assert result.excluded.tolist() == [False, True, True, False]
    assert result.values[[0, 3]].tolist() == pytest.approx([1, 1]) and result.values[[1, 2]].isnan().all()
    without_map = torch.tensor([False, False, True, False])[:, None]
    for similarity in (result.spearman, result.ssim):
        assert torch.equal(similarity.isnan(), result.failed | without_map)
    assert result.mean_spearman.tolist() == pytest.approx([1, 1, 1])
    assert result.mean_ssim.tolist() == pytest.approx([1, 1, 1])


def test_maps_that_mix_without_the_class_pass_a_random_head():
    """Raw activations are intact until the layer below is reached: similarity 1 unmasks them."""
    model, images = Small(), random(2, 3, 8, 8)
    result = cascading_randomisation(Seen(mean_activation), model, images)
    assert result.mean_spearman[:2].tolist() == pytest.approx([1, 1]) and result.mean_spearman[2] < 0.9
    result = cascading_randomisation(methods.grad_cam, model, images, 0, layers=["head"], signed=True)
    assert (result.spearman < 0.9).all()


def test_a_method_that_ignores_the_network_has_one_everywhere():
    result = cascading_randomisation(Seen(first_channel), Small(), random(2, 3, 8, 8))
    assert result.spearman.flatten().tolist() == pytest.approx([1] * 6)
    assert result.ssim.flatten().tolist() == pytest.approx([1] * 6)


def test_a_method_bound_to_modules_of_the_untouched_model_is_refused():
    """By name the layer is found in the random network; as a module it would be the old one's."""
    model, images = Small(), random(2, 3, 8, 8)
    cascading_randomisation(partial(methods.grad_cam, layers="relu"), model, images)
    with pytest.raises(ValueError, match="is not a layer of the model"):
        cascading_randomisation(partial(methods.grad_cam, layers=model.relu), model, images)


def test_chosen_stages():
    """Blocks at once, by name or module, in the given order; a network of the book."""
    torch.manual_seed(0)
    net, images = networks.build("tiny_resnet").eval(), random(1, 3, 64, 64)
    method = Seen(first_channel)
    result = cascading_randomisation(method, net, images, layers=["fc", net.layer4, "fc"])
    assert result.stages == ("fc", "layer4") and result.forwards == 30
    assert "layer3.0.conv1" in result.kept and not any(name.startswith("layer4") for name in result.kept)
    clean, *stages = method.states
    changed = {name for name, value in stages[1].items() if not torch.equal(value, clean[name])}
    assert {name.split(".")[0] for name in changed} == {"fc", "layer4"}
    assert {"layer4.0.conv1.weight", "layer4.1.conv3.weight", "fc.bias"} <= changed
    assert cascading_randomisation(method, net, images, layers="fc").stages == ("fc",)


def test_a_block_with_parameters_of_its_own_does_not_take_its_parts_along():
    class Scaled(Small):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.full((), 2.0))

        def reset_parameters(self):
            nn.init.ones_(self.scale)

        def forward(self, images):
            return self.scale * super().forward(images)

    method = Seen(first_channel)
    result = cascading_randomisation(method, Scaled(), random(1, 3, 8, 8))
    assert result.stages == ("", "head", "norm", "conv")
    clean, first, *_ = method.states
    assert [name for name, value in first.items() if not torch.equal(value, clean[name])] == ["scale"]


def test_what_cannot_be_initialised_is_listed():
    class Scaled(Small):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, images):
            return self.scale * super().forward(images)

    result = cascading_randomisation(Seen(first_channel), Scaled(), random(1, 3, 8, 8))
    assert result.kept == ("", "unused")


@pytest.mark.parametrize("name", networks.NAMES)
def test_the_networks_of_the_book(name):
    torch.manual_seed(0)
    net, images = networks.build(name).eval(), random(1, 3, 48, 64)
    result = cascading_randomisation(methods.grad_cam, net, images)
    learned = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.BatchNorm2d))]
    assert len(result.stages) == len(learned) and result.kept == ()
    assert result.stages[0] in ("fc", "classifier.6")
    assert not result.spearman[~result.failed & ~result.excluded[:, None]].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    result = cascading_randomisation(methods.grad_cam, Small().to(dtype), random(2, 3, 8, 8), signed=True)
    assert result.spearman.isfinite().all()


def test_bad_input_is_said_in_a_sentence():
    model, images = Small(), random(1, 3, 8, 8)
    for layers, says in (
        (["relu"], "'relu' holds no parameters"),
        (["heads"], "no layer 'heads'; near names are: head"),
        ([], "There is no stage"),
    ):
        with pytest.raises(ValueError, match=says):
            cascading_randomisation(methods.grad_cam, model, images, layers=layers)
    with pytest.raises(ValueError, match="No layer of this Flatten has parameters"):
        cascading_randomisation(methods.grad_cam, nn.Flatten(), images)
    with pytest.raises(ValueError, match="three"):
        cascading_randomisation(methods.grad_cam, model, images[0])
    with pytest.raises(TypeError, match="The first argument is the method"):
        cascading_randomisation(model, images, [0])
