"""ROAD: the filling against closed forms and a dense solve, the order of removal, models that are known."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cambook import methods
from cambook.metrics import _imputation, road
from cambook.metrics._imputation import impute
from cambook.models import load
from cambook.world import scene


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def hole(height, width, *pixels):
    removed = torch.zeros(1, height, width, dtype=torch.bool)
    for row, column in pixels:
        removed[0, row, column] = True
    return removed


# Filling


def test_one_removed_pixel_is_the_weighted_mean_of_its_neighbours():
    image = torch.tensor([[6.0, 12, 24], [18, 99, 30], [36, 42, 48]])[None, None]
    filled = impute(image, hole(3, 3, (1, 1)))
    expected = (12 + 18 + 30 + 42) / 6 + (6 + 24 + 36 + 48) / 12
    torch.testing.assert_close(filled[0, 0, 1, 1].item(), expected, rtol=1e-4, atol=0)
    filled[0, 0, 1, 1] = 99
    assert torch.equal(filled, image)


def test_weights_at_the_corner_sum_to_one():
    image = torch.tensor([[99.0, 5], [10, 20]])[None, None]
    filled = impute(image, hole(2, 2, (0, 0)))
    expected = (5 / 6 + 10 / 6 + 20 / 12) / (5 / 12)
    torch.testing.assert_close(filled[0, 0, 0, 0].item(), expected, rtol=1e-4, atol=0)


def test_a_ramp_goes_on_through_the_hole():
    """Means of symmetric neighbours keep what is linear; a constant comes back also at the border."""
    row, column = torch.arange(40.0)[:, None], torch.arange(31.0)
    ramp = (0.02 * row - 0.03 * column + 0.4)[None, None]
    inside = torch.zeros(1, 40, 31, dtype=torch.bool)
    inside[:, 4:36, 5:27] = True
    torch.testing.assert_close(impute(ramp, inside), ramp, atol=2e-4, rtol=0)
    constant, edge = torch.full((1, 2, 40, 31), -1.7), torch.zeros(1, 40, 31, dtype=torch.bool)
    edge[:, 3:, :] = True
    torch.testing.assert_close(impute(constant, edge), constant, atol=2e-3, rtol=0)


def dense(image, removed):
    """The same equations written out one by one, for one image (C, H, W), in float64."""
    height, width = removed.shape
    number = {pixel: i for i, pixel in enumerate(map(tuple, removed.nonzero().tolist()))}
    left = torch.zeros(len(number), len(number), dtype=torch.float64)
    right = torch.zeros(len(number), len(image), dtype=torch.float64)
    for (row, column), i in number.items():
        for down, across in itertools.product((-1, 0, 1), repeat=2):
            near = row + down, column + across
            if (down or across) and 0 <= near[0] < height and 0 <= near[1] < width:
                weight = 1 / 6 if down == 0 or across == 0 else 1 / 12
                left[i, i] += weight
                if near in number:
                    left[i, number[near]] -= weight
                else:
                    right[i] += weight * image[:, near[0], near[1]].double()
    filled = image.double().clone()
    filled[:, removed] = torch.linalg.solve(left, right).T
    return filled


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 20), width=st.integers(2, 20), share=st.floats(0, 1), blob=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_filling_solves_the_equations(height, width, share, blob, seed):
    """Any size, scattered pixels and whole regions, down to one pixel that is left; two pictures at once."""
    images = random(2, 3, height, width, seed=seed) + seed % 3
    order = random(2, height, width, seed=seed + 1)
    if blob:
        order = order.cumsum(1).cumsum(2)
    count = min(int(share * height * width), height * width - 1)
    place = order.flatten(1).argsort(1).argsort(1).view(2, height, width)
    removed = place < count
    filled = impute(images, removed)
    assert torch.equal(filled.masked_fill(removed[:, None], 0), images.masked_fill(removed[:, None], 0))
    for b in range(2):
        if removed[b].any():
            # The equations are solved to 1e-5, which the largest holes here amplify to about 1e-4.
            error = (filled[b] - dense(images[b], removed[b])).abs().max()
            assert error <= 5e-4 * images.abs().max()


def test_what_was_removed_has_no_influence():
    removed = random(1, 30, 20) > 0
    one, two = random(1, 3, 30, 20), random(1, 3, 30, 20, seed=1)
    two = torch.where(removed[:, None], two * 1e6, one)
    assert torch.equal(impute(one, removed), impute(two, removed))


def test_the_rounds_do_not_grow_with_the_hole(monkeypatch):
    """Plain conjugate gradients need 350 rounds for this hole, as many as it is wide and more."""
    monkeypatch.setattr(_imputation, "ROUNDS", 20)
    row, column = torch.arange(160)[:, None], torch.arange(224)
    impute(random(1, 3, 160, 224), ((row - 10) ** 2 + (column - 20) ** 2 > 40**2)[None])
    monkeypatch.setattr(_imputation, "ROUNDS", 3)
    with pytest.raises(RuntimeError, match="were not filled in 3 rounds"):
        impute(random(1, 3, 160, 224), ((row - 10) ** 2 + (column - 20) ** 2 > 40**2)[None])


# Removal


class Kept(nn.Module):
    """Class scores are the channels' means; the pictures that came by are kept."""

    def __init__(self):
        super().__init__()
        self.scale, self.pictures = nn.Parameter(torch.ones(())), []

    def forward(self, images):
        self.pictures.append(images.clone())
        return self.scale * images.mean((2, 3))


def removed_pixels(images, maps, **options):
    """Which pixels were changed: (S, 2, B, H, W), with MoRF before LeRF. Noise marks every filled pixel."""
    model = Kept()
    result = road(model, images, maps, chunk=10**6, noise=100, **options)
    _, pictures = model.pictures
    steps = len(result.fractions)
    pictures = pictures.view(steps, 2, -1, *images.shape[1:])
    return (pictures != images).any(3)


def test_what_is_removed_first():
    maps = torch.tensor([[[0.1, 0.9, 0.3, 0.5], [0.8, 0.2, 0.7, 0.4]]])
    removed = removed_pixels(torch.zeros(1, 3, 2, 4), maps, fractions=[0.25, 0.5])
    morf, lerf = removed[:, :, 0].unbind(1)
    assert morf[0].nonzero().tolist() == [[0, 1], [1, 0]]
    assert morf[1].nonzero().tolist() == [[0, 1], [0, 3], [1, 0], [1, 2]]
    assert lerf[0].nonzero().tolist() == [[0, 0], [1, 1]]
    assert torch.equal(lerf[1], ~morf[1])


def test_zeros_do_not_go_all_at_once():
    """A map with 90 % zeros: by a threshold MoRF would remove everything, and LeRF the same at each step."""
    maps = torch.zeros(2, 20, 30)
    maps[:, 5:15, 10:16] = random(2, 10, 6).abs() + 1
    removed = removed_pixels(random(2, 3, 20, 30), maps)
    for step, share in enumerate((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)):
        assert (removed[step].sum((2, 3)) == round(share * 600)).all()
    morf, lerf = removed.unbind(1)
    assert torch.equal(morf[0], maps > 0) and torch.equal(lerf[-1], maps == 0)
    assert (morf[1:] & ~morf[:-1]).any() and not (morf[:-1] & ~morf[1:]).any()    # holes only grow
    assert torch.equal(lerf[2], ~morf[6])


def test_equal_pixels_go_in_a_random_order_and_not_from_an_edge():
    maps = torch.zeros(2, 20, 30)
    maps[0, 10, 15] = maps[1, 2, 2] = 1
    images = random(2, 3, 20, 30)
    half = removed_pixels(images, maps, fractions=[0.5])[0]
    for part in (half[..., :10, :], half[..., 10:, :], half[..., :15], half[..., 15:]):
        assert (part.double().mean((2, 3)) - 0.5).abs().max() < 0.1
    again, other = (removed_pixels(images, maps, fractions=[0.5], seed=seed)[0] for seed in (0, 1))
    assert torch.equal(half, again) and not torch.equal(half, other)


def test_at_least_one_pixel_stays():
    removed = removed_pixels(random(1, 3, 2, 3), random(1, 2, 3), fractions=[0.99])
    assert (removed.sum((3, 4)) == 5).all()


# Scores


def test_a_constant_model():
    """It answers the same whatever is removed: no difference, and always right or always wrong."""

    class Constant(Kept):
        def forward(self, images):
            return self.scale * torch.tensor([2.0, 1.0]).expand(len(images), -1)

    result = road(Constant(), random(2, 3, 8, 10), random(2, 8, 10), [0, 1])
    probability = torch.tensor([2.0, 1.0]).softmax(0)
    assert result.values.tolist() == [0, 0]
    for scores in (result.morf, result.lerf):
        torch.testing.assert_close(scores, probability.double()[:, None].expand(2, 9), atol=1e-6, rtol=0)
    assert result.morf_hits.tolist() == [[1] * 9, [0] * 9] and result.lerf_accuracy.tolist() == [0.5] * 9
    assert result.forwards == 2 + 2 * 2 * 9


def test_the_value_is_half_the_mean_difference():
    result = road(Kept(), random(2, 3, 8, 10), random(2, 8, 10), 1, score="logit")
    torch.testing.assert_close(result.values, ((result.lerf - result.morf) / 2).mean(1))
    assert result.fractions.tolist() == pytest.approx([i / 10 for i in range(1, 10)])


def test_the_right_map_wins_and_its_negative_loses_as_much():
    """A bright blob on black that the score measures: its map, the opposite, and chance between them."""
    row, column = torch.arange(24)[:, None], torch.arange(32)
    blob = torch.exp(-((row - 9.3) ** 2 + (column - 20.2) ** 2) / 30)
    images, model = blob.expand(1, 3, -1, -1).clone(), Kept()
    maps = blob[None], -blob[None], random(1, 24, 32)
    right, wrong, chance = (road(model, images, each, 0, score="logit", noise=0) for each in maps)
    assert right.values > 0.05 > abs(chance.values)
    torch.testing.assert_close(right.values, -wrong.values, atol=1e-4, rtol=0)
    torch.testing.assert_close(right.morf, wrong.lerf, atol=1e-4, rtol=0)


def test_flat_maps_are_excluded_and_not_asked_about():
    maps = torch.stack([torch.full((8, 10), 0.5), random(8, 10)])
    result = road(Kept(), random(2, 3, 8, 10), maps, fractions=[0.3, 0.6])
    assert result.excluded.tolist() == [True, False] and result.forwards == 2 + 4
    for part in (result.values, result.morf, result.lerf, result.morf_hits, result.lerf_hits):
        assert part[0].isnan().all() and part[1].isfinite().all()
    assert result.mean == result.values[1] and result.morf_accuracy.isfinite().all()
    nothing = road(Kept(), random(2, 3, 8, 10), torch.zeros(2, 8, 10))
    assert nothing.excluded.all() and nothing.forwards == 2


def test_callables_have_a_score_and_no_accuracy():
    images, maps = random(2, 3, 8, 10), random(2, 8, 10)
    numbers = road(Kept(), images, maps, [1, 1], score="logit")
    callables = road(Kept(), images, maps, [1, lambda row: row[1]], score="logit")
    torch.testing.assert_close(numbers.values, callables.values)
    assert callables.morf_hits[1].isnan().all() and callables.morf_hits[0].isfinite().all()
    assert road(Kept(), images, maps, lambda row: row[1]).lerf_accuracy.isnan().all()


def test_the_noise_is_on_filled_pixels_alone():
    model, images = Kept(), torch.full((1, 3, 40, 50), 2.0)
    road(model, images, random(1, 40, 50), fractions=[0.5], noise=0.1)
    changed = (model.pictures[1] - 2).flatten()
    noise = changed[changed != 0]
    assert len(noise) == 2 * 3 * 1000 and abs(noise.std() - 0.1) < 0.005 and abs(noise.mean()) < 0.01


def test_the_value_depends_on_neither_chunk_nor_batch():
    images, maps = random(3, 3, 12, 10), random(3, 12, 10).round(decimals=1)
    together = road(Kept(), images, maps, [0, 1, 2])
    parts = road(Kept(), images, maps, [0, 1, 2], chunk=7)
    alone = road(Kept(), images[2:], maps[2:], 2)
    torch.testing.assert_close(parts.values, together.values, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone.values[0], together.values[2], atol=1e-5, rtol=0)
    other = road(Kept(), images, maps, [0, 1, 2], seed=1)
    assert (other.morf != together.morf).any()


def test_nothing_is_left_behind():
    model, images = Kept().train(), random(1, 3, 8, 10).requires_grad_()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch.inference_mode():
        road(model, images, random(1, 8, 10))
    result = road(model, images, random(1, 8, 10).requires_grad_())
    assert torch.equal(torch.rand(3), expected)
    assert model.training and model.scale.grad is None and images.grad is None
    assert not result.values.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    images, maps = random(2, 3, 12, 10), random(2, 12, 10)
    exact = road(Kept(), images, maps, 0, score="logit")
    half = road(Kept().to(dtype), images.to(dtype), maps.to(dtype), 0, score="logit")
    torch.testing.assert_close(half.values, exact.values, atol=0.02, rtol=0)


def test_a_network_of_the_book():
    """Grad-CAM on its own pictures is better than its negative."""
    net = load("tiny_vgg")
    images = torch.cat([net.preprocessing(scene(seed).image) for seed in range(3)])
    maps = methods.grad_cam(net, images).map
    options = {"fractions": [0.2, 0.5, 0.8]}
    assert road(net, images, maps, **options).mean > 0.1 > road(net, images, 1 - maps, **options).mean


def test_bad_input_is_said_in_a_sentence():
    images, maps = random(1, 3, 8, 10), random(1, 8, 10)
    for options, says in (
        ({"fractions": []}, "The fractions are a list of shares"),
        ({"fractions": [0.5, 1]}, "The fractions are a list of shares"),
        ({"fractions": [10, 20]}, "The fractions are a list of shares"),
        ({"fractions": 0.5}, "The fractions are a list of shares"),
        ({"noise": -1}, "The noise is a standard deviation"),
        ({"maps": maps[:, :4]}, "F.interpolate"),
        ({"maps": maps * float("nan")}, "NaN or infinite"),
        ({"images": images[0]}, "three"),
        ({"chunk": 0}, "The chunk is a positive number"),
        ({"score": "softmax"}, "The kind of score"),
        ({"targets": 3}, "Target 3 is out of range"),
    ):
        with pytest.raises(ValueError, match=says):
            road(**{"model": Kept(), "images": images, "maps": maps} | options)
