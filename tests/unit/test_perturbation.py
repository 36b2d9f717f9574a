"""Insertion and deletion: curves that can be written down, and the engine's passes over such pictures."""

import pytest
import torch
from torch import nn

from cambook import methods, models, scoring, targets, world
from cambook.metrics import deletion, insertion
from cambook.metrics.perturbation import PROTOCOLS

BOTH = (insertion, deletion)


class Light(nn.Module):
    """The mean of the picture: a score that is linear in the pixels. Notes what it is asked."""

    def __init__(self):
        super().__init__()
        self.batches, self.pictures = [], []

    def forward(self, images):
        self.batches.append(len(images))
        self.pictures.append(images.clone())
        light = images.mean((1, 2, 3))
        return torch.stack([light, -light], 1)


class Constant(nn.Module):
    def forward(self, images):
        return torch.tensor([[0.3, 0.7]]).log().expand(len(images), 2)


def random(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# Four pixels of light 4, 3, 2 and 1 (quarters of it count), and a map that takes them in another order.
IMAGE = torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]]])
MAP = torch.tensor([[[0.1, 0.9], [0.4, 0.3]]])


def curve(metric, image=IMAGE, map=MAP, **options):
    options = {"protocol": "scorecam", "score": "logit"} | options
    return metric(Light(), image, map, 0, **options)


def test_four_pixels_by_hand():
    """The order is 3, 2, 1, 4: deletion leaves 10, 7, 5, 4, 0 and insertion brings 0, 3, 5, 6, 10."""
    removed, brought = curve(deletion), curve(insertion)
    assert removed.curves.tolist() == [[2.5, 1.75, 1.25, 1.0, 0.0]]
    assert brought.curves.tolist() == [[0.0, 0.75, 1.25, 1.5, 2.5]]
    assert removed.fractions.tolist() == brought.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert removed.values.item() == (2.5 / 2 + 1.75 + 1.25 + 1.0) / 4
    assert brought.values.item() == (0.75 + 1.25 + 1.5 + 2.5 / 2) / 4
    assert removed.values.dtype == torch.float64 and removed.ties.tolist() == [0]


def test_polycam_has_no_first_point_and_takes_the_mean(monkeypatch):
    monkeypatch.setitem(
        PROTOCOLS, "polycam", type(PROTOCOLS["polycam"])(4, torch.zeros_like, torch.zeros_like, False)
    )
    removed, brought = curve(deletion, protocol="polycam"), curve(insertion, protocol="polycam")
    assert removed.curves.tolist() == [[1.75, 1.25, 1.0, 0.0]] and removed.values.item() == 1.0
    assert brought.curves.tolist() == [[0.75, 1.25, 1.5, 2.5]] and brought.values.item() == 1.5
    assert removed.fractions.tolist() == [0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("metric", BOTH)
def test_a_constant_network_scores_its_probability(metric, protocol):
    """Whatever the map, the protocol and the number of steps: the area is normalised."""
    images, maps = random(2, 3, 26, 31), random(2, 26, 31, seed=2)
    for steps in (1, 7, 50):
        values = metric(Constant(), images, maps, [0, 1], protocol=protocol, steps=steps).values
        assert values.tolist() == pytest.approx([0.3, 0.7], abs=1e-6)


@pytest.mark.parametrize("steps", [1, 5, 16, 54])
def test_a_linear_network_has_the_curve_of_sums(steps):
    """The map is the picture: brightest first. 54 pixels in steps that need not divide them, H ≠ W."""
    image = random(1, 1, 6, 9)
    falling = torch.cat([torch.zeros(1), image.flatten().sort(descending=True).values]).double().cumsum(0)
    counts = [54 * i // steps for i in range(steps + 1)]
    brought = falling[counts] / 54
    fractions = torch.tensor(counts).double() / 54
    for metric, expected in ((insertion, brought), (deletion, brought[-1] - brought)):
        result = curve(metric, image, image[:, 0], steps=steps)
        torch.testing.assert_close(result.curves[0], expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(result.fractions, fractions)
        area = torch.trapezoid(expected, fractions).item()
        assert result.values.item() == pytest.approx(area, abs=1e-6)
    # No other order brings light sooner.
    best = curve(insertion, image, image[:, 0]).values
    assert curve(insertion, image, random(1, 6, 9, seed=3)).values < best


def test_deletion_is_the_insertion_of_the_opposite_map_read_backwards():
    """Where both begin and end with the same pictures; equal pixels are taken in the opposite order too."""
    images, maps = random(2, 3, 4, 6), (random(2, 4, 6, seed=2) * 5).round()
    removed = deletion(Light(), images, maps, 0, protocol="scorecam", ties="first")
    brought = insertion(Light(), images, -maps, 0, protocol="scorecam", ties="last")
    torch.testing.assert_close(removed.curves, brought.curves.flip(1))
    torch.testing.assert_close(removed.values, brought.values)
    other = insertion(Light(), images, -maps, 0, protocol="scorecam", ties="first")
    assert not torch.allclose(removed.values, other.values, atol=1e-6)


def test_equal_pixels():
    """Three of four are equal: the first, or the last, of them goes first; the map has no say."""
    map = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
    first, last = (curve(insertion, map=map, ties=ties) for ties in ("first", "last"))
    assert first.curves.tolist() == [[0.0, 0.5, 1.5, 2.25, 2.5]]
    assert last.curves.tolist() == [[0.0, 0.5, 0.75, 1.5, 2.5]]
    assert first.ties.tolist() == last.ties.tolist() == [3]
    pairs = torch.tensor([[[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [2.0, 0.0]]])
    assert curve(insertion, IMAGE.repeat(2, 1, 1, 1), pairs).ties.tolist() == [4, 2]


def test_pixels_are_taken_with_all_their_channels():
    model = Light()
    image = random(1, 3, 2, 2) + 1
    deletion(model, image, MAP, 0, protocol="scorecam")
    gone = (model.pictures[1] == 0).sum((1, 2, 3))
    assert gone.tolist() == [3, 6, 9, 12]
    assert torch.equal(model.pictures[1][0, :, 0, 1], torch.zeros(3))    # the pixel of the largest value


@pytest.mark.parametrize("metric", BOTH)
def test_the_area_of_the_mean_curve_is_the_mean_of_the_areas(metric):
    images, maps = random(3, 3, 5, 7), random(3, 5, 7, seed=2)
    result = metric(Light(), images, maps, 0, protocol="rise", steps=9)
    assert torch.trapezoid(result.curves.mean(0), result.fractions).item() == pytest.approx(result.mean)


@pytest.mark.parametrize("metric", BOTH)
@pytest.mark.parametrize(
    ("protocol", "steps"), [("rise", 224), ("polycam", 224), ("scorecam", 100), ("groupcam", 112)]
)
def test_each_protocol_has_its_steps(metric, protocol, steps):
    images, maps = random(1, 3, 26, 30), random(1, 26, 30, seed=2)
    result = metric(Constant(), images, maps, protocol=protocol)
    points = steps if protocol == "polycam" else steps + 1
    assert result.curves.shape == (1, points) and result.fractions.shape == (points,)
    assert result.fractions[-1] == 1 and (result.fractions[0] == 0) is not (protocol == "polycam")
    assert (result.fractions.diff() > 0).all()


def test_small_images_take_one_pixel_a_step():
    result = insertion(Constant(), random(1, 3, 6, 7), random(1, 6, 7, seed=2))
    assert result.curves.shape == (1, 43)


@pytest.mark.parametrize("metric", BOTH)
def test_the_clean_image_is_asked_about_once(metric):
    """It tells the class and is an end of the curve; flat maps are excluded and cost nothing more."""
    images = random(3, 3, 5, 7)
    maps = torch.stack([random(5, 7), torch.full((5, 7), 0.4), random(5, 7, seed=2)])
    model = Light()
    result = metric(model, images, maps, protocol="scorecam", steps=10, chunk=4)
    assert result.forwards == sum(model.batches) == 3 + 2 * 10
    clean = torch.cat(model.pictures).flatten(1)
    assert sum((clean == images[0].flatten()).all(1)).item() == 1
    assert result.excluded.tolist() == [False, True, False] and result.values.isnan().tolist() == [0, 1, 0]
    assert result.curves[1].isnan().all() and result.curves[[0, 2]].isfinite().all()
    assert result.ties.tolist() == [0, 35, 0]
    assert result.mean == pytest.approx(result.values[[0, 2]].mean().item())


def test_scores_that_are_not_finite_exclude_their_image():
    class Broken(nn.Module):
        def forward(self, images):
            dark = (images == 0).any(3).any(2).any(1) & (images.amax((1, 2, 3)) > 2)
            return torch.where(dark, float("nan"), 0.5)[:, None].expand(-1, 2)

    images, maps = torch.cat([torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 3.0)]), MAP.repeat(2, 1, 1)
    result = deletion(Broken(), images, maps, 0)
    assert result.excluded.tolist() == [False, True] and result.values[0] == 0.5
    assert result.curves.isnan().all(1).tolist() == [False, True]


def test_the_class_is_the_clean_image_s_all_along():
    """Without light the other class is first; its score must not be taken."""
    assert insertion(Light(), IMAGE, MAP, protocol="scorecam", score="logit").curves[0, 1] == 0.75


def test_scores_are_probabilities_unless_told_otherwise():
    result = insertion(Light(), IMAGE, MAP, 0, protocol="scorecam")
    expected = torch.sigmoid(2 * curve(insertion).curves)
    torch.testing.assert_close(result.curves, expected, atol=1e-6, rtol=0)


def test_the_blur_of_rise_is_nearly_a_box_and_darkens_the_border():
    point = torch.zeros(1, 2, 25, 31)
    point[0, 1, 12, 15] = 1
    spread = PROTOCOLS["rise"].inserted_into(point)[0]
    assert spread[0].abs().max() == 0 and spread[1].sum().item() == pytest.approx(1, abs=1e-6)
    inside = spread[1, 7:18, 10:21]
    assert (inside > 0).all() and spread[1].count_nonzero() == 121
    assert (inside[5, 5] / inside[0, 0]).item() == pytest.approx(1.14, abs=5e-3)
    field = PROTOCOLS["rise"].inserted_into(torch.ones(1, 1, 25, 31))[0, 0]
    assert field[0, 0] < 0.31 and field[5:-5, 5:-5].amin().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("protocol", "size"), [("polycam", 11), ("groupcam", 51)])
def test_a_true_blur_keeps_a_plain_image(protocol, size):
    blur = PROTOCOLS[protocol].inserted_into
    torch.testing.assert_close(blur(torch.ones(1, 3, 30, 40)), torch.ones(1, 3, 30, 40))
    point = torch.zeros(1, 1, 61, 61)
    point[0, 0, 30, 30] = 1
    assert blur(point).count_nonzero() == size**2
    with pytest.raises(ValueError, match=f"blur of {size} pixels needs images of {size // 2 + 1} pixels"):
        insertion(Constant(), random(1, 3, size // 2, 40), random(1, size // 2, 40), protocol=protocol)
    smallest = size // 2 + 1
    insertion(Constant(), random(1, 3, smallest, 40), random(1, smallest, 40), protocol=protocol, steps=2)


@pytest.mark.parametrize("metric", BOTH)
def test_only_polycam_deletes_towards_the_blur(metric):
    """The far end of deletion is the zero image, for Poly-CAM the blurred one; of insertion the image."""
    images, maps = random(1, 3, 26, 30) + 1, random(1, 26, 30, seed=2)
    for protocol in PROTOCOLS:
        model = Light()
        end = metric(model, images, maps, 0, protocol=protocol, steps=3, score="logit").curves[0, -1].item()
        towards_zero = metric is deletion and protocol != "polycam"
        assert end == pytest.approx(0 if towards_zero else images.mean().item(), abs=0.02)


@pytest.mark.parametrize("metric", BOTH)
def test_one_pixel_has_no_order(metric):
    result = metric(Constant(), random(1, 3, 1, 1), random(1, 1, 1))
    assert result.excluded.item() and result.ties.item() == 0 and result.forwards == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_and_the_fast_mode(dtype, monkeypatch):
    """A network in half precision, and one that the engine runs in it."""
    monkeypatch.setattr(scoring, "fast_dtype", lambda device: dtype)
    net = models.load("tiny_resnet")
    images = net.preprocessing(world.scene(7).image).reshape(1, 3, 128, 128)
    maps = methods.grad_cam(net, images).map
    exact = insertion(net, images, maps, steps=8)
    fast = insertion(net, images, maps, steps=8, precision="fast")
    half = insertion(net.to(dtype), images, maps.to(dtype), steps=8)
    assert not torch.equal(exact.curves, fast.curves)
    for other in (fast, half):
        torch.testing.assert_close(other.values, exact.values, atol=0.03, rtol=0)


def test_the_model_comes_back_as_it_was():
    net = models.load("tiny_resnet").train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    images = net.preprocessing(world.scene(7).image).reshape(1, 3, 128, 128).requires_grad_()
    result = insertion(net, images, images[:, 0], steps=3)
    assert net.training and all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not result.curves.requires_grad and not result.values.is_inference()


@pytest.mark.parametrize("metric", BOTH)
@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"protocol": "lime"}, ValueError, "The protocol is one of rise, polycam, scorecam, groupcam"),
        ({"ties": "random"}, ValueError, "The ties are taken first or last"),
        ({"steps": 0}, ValueError, "from 1 to 24"),
        ({"steps": 25}, ValueError, "from 1 to 24"),
        ({"steps": 2.0}, ValueError, "from 1 to 24"),
        ({"steps": True}, ValueError, "from 1 to 24"),
        ({"precision": "half"}, ValueError, "The precision is one of"),
        ({"chunk": 0}, ValueError, "The chunk is a positive number"),
        ({"maps": torch.rand(2, 2, 3)}, ValueError, r"= \(2, 4, 6\) like the images"),
        ({"maps": torch.rand(3, 4, 6)}, ValueError, r"= \(2, 4, 6\) like the images"),
        ({"maps": torch.full((2, 4, 6), float("nan"))}, ValueError, "the maps hold NaN"),
        ({"images": torch.rand(3, 4, 6)}, ValueError, "four dimensions"),
        ({"images": torch.full((2, 3, 4, 6), float("nan"))}, ValueError, "holds NaN"),
        ({"targets": [0, 1, 0]}, ValueError, "3 targets for 2 images"),
        ({"targets": 2}, ValueError, "out of range"),
    ],
)
def test_bad_input_is_said_in_a_sentence(metric, options, error, sentence):
    arguments = {"images": random(2, 3, 4, 6), "maps": random(2, 4, 6), "targets": [0, 1]} | options
    with pytest.raises(error, match=sentence):
        metric(Constant(), **arguments)


# The engine


def perturbed(model, chunk="auto", **options):
    images, baselines = random(2, 3, 4, 6), random(2, 3, 4, 6, seed=2)
    ranks = torch.stack([torch.randperm(24, generator=torch.Generator().manual_seed(s)) for s in (3, 4)])
    counts, rows = torch.tensor([0, 24, 7, 3, 12, 20, 1]), torch.tensor([0, 1, 1, 0, 0, 1, 1])
    arguments = dict(images=images, baselines=baselines, ranks=ranks.view(2, 4, 6), counts=counts, rows=rows)
    arguments |= {"targets": targets.resolve([0, 1], torch.zeros(2, 2))} | options
    return scoring.perturbed_scores(model, **arguments, chunk=chunk), arguments


@pytest.mark.parametrize("chunk", [1, 3, 100, "auto"])
def test_perturbed_scores_are_the_definition(chunk):
    """Each picture of its own image, baseline, ranks and target, however they are cut into chunks."""
    model = Light()
    got, given = perturbed(model, chunk)
    for n, (count, row) in enumerate(zip(given["counts"], given["rows"], strict=True)):
        lost = given["ranks"][row] < count
        light = torch.where(lost, given["baselines"][row], given["images"][row]).mean()
        assert got.values[n].item() == pytest.approx((light if row == 0 else -light).item(), abs=1e-6)
    assert got.forwards == sum(model.batches) == 7 and got.dtype == torch.float32
    assert not got.values.is_inference()


def test_perturbed_pictures_share_the_engine():
    """Smaller chunks where memory runs out, evaluation and inference mode, one buffer."""

    class Small(Light):
        def forward(self, images):
            if len(images) > 2:
                raise torch.OutOfMemoryError("out of memory on purpose")
            places.add((images.data_ptr(), self.training, torch.is_inference_mode_enabled()))
            return super().forward(images)

    places = set()
    model = Small().train()
    got, _ = perturbed(model)
    torch.testing.assert_close(got.values, perturbed(Light())[0].values)
    assert model.batches == [2, 2, 2, 1] and model.training    # 16, 8 and 4 at once were too many
    assert {place[1:] for place in places} == {(False, True)} and len(places) == 1
    with pytest.raises(torch.OutOfMemoryError):
        perturbed(Small(), chunk=3)


def test_the_bar_says_what_is_done(capsys):
    perturbed(Light(), progress=True)
    assert "perturbed images" in capsys.readouterr().err


def test_perturbed_scores_are_left_as_they_are():
    """NaN is an answer here: a curve with a hole must not pass for one that touches 0."""

    class Nothing(Light):
        def forward(self, images):
            return super().forward(images) * float("nan")

    assert perturbed(Nothing())[0].values.isnan().all()


def test_perturbed_scores_refuse_what_does_not_belong_together():
    for options, sentence in (
        ({"precision": "half"}, "The precision is one of"),
        ({"baselines": torch.rand(3, 3, 4, 6)}, "baselines"),
        ({"ranks": torch.zeros(2, 4, 5, dtype=torch.int64)}, "ranks"),
        ({"targets": targets.resolve([0], torch.zeros(1, 2))}, "1 target for 2 images"),
    ):
        with pytest.raises(ValueError, match=sentence):
            perturbed(Light(), **options)
