"""The engine for masked passes: the right numbers, few of them at a time, and nothing left behind."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cambook import methods, models, scoring, targets, world


class Plain(nn.Module):
    """Class scores from the mean colour, which can be worked out by hand. Notes what it is asked."""

    def __init__(self, classes=3):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.head = nn.Linear(3, classes)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(classes, 3, generator=generator))
            self.head.bias.copy_(torch.randn(classes, generator=generator))
        self.batches = []

    def forward(self, images):
        self.batches.append(len(images))
        return self.head(images.mean((2, 3)))


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_values(model, images, maps, classes, kind="logit", order="upsample_normalise", align_corners=False):
    """The same, one masked image at a time, straight from the definition."""

    def stretch(mask):
        return (mask - mask.min()) / (mask.max() - mask.min())

    def enlarge(mask):
        size = images.shape[-2:]
        return F.interpolate(mask[None, None], size, mode="bilinear", align_corners=align_corners)[0, 0]

    values = torch.zeros(maps.shape[:2])
    for b, image in enumerate(images):
        for k, channel in enumerate(maps[b]):
            mask = stretch(enlarge(channel)) if order == "upsample_normalise" else enlarge(stretch(channel))
            output = model((image * mask)[None])[0].detach()
            values[b, k] = (output.softmax(0) if kind == "probability" else output)[classes[b]]
    return values


@pytest.mark.parametrize("kind", ["logit", "probability"])
@pytest.mark.parametrize("order", scoring.ORDERS)
@pytest.mark.parametrize("align_corners", [False, True])
def test_values_are_the_definition(kind, order, align_corners):
    """Each mask meets its own image once, and the softmax runs over classes: no mask twice, no wrong axis."""
    model, images, maps = Plain(), random(2, 3, 6, 9), random(2, 5, 3, 4, seed=2)
    got = scoring.masked_scores(
        model, images, maps, [2, 0], kind=kind, order=order, align_corners=align_corners, chunk=3
    )
    expected = slow_values(model, images, maps, [2, 0], kind, order, align_corners)
    torch.testing.assert_close(got.values, expected, atol=1e-6, rtol=0)
    assert got.values.dtype == torch.float32 and not got.skipped.any()


def test_what_the_network_takes_each_masked_image_for():
    """Its greatest output, whatever the target; -1 for a mask that does not exist; for equal masks the same."""
    model, images, maps = Plain(), 20 * random(2, 3, 6, 9), random(2, 5, 6, 9, seed=2)
    maps[0, 3], maps[1, 2] = 1, maps[1, 0]
    got = scoring.masked_scores(model, images, maps, [2, 0], chunk=3)
    masks = (maps - maps.amin((2, 3), keepdim=True)) / (maps.amax((2, 3)) - maps.amin((2, 3)))[..., None, None]
    expected = model((images[:, None] * masks[:, :, None]).flatten(0, 1)).argmax(1).view(2, 5)
    expected[0, 3] = -1
    assert got.classes.tolist() == expected.tolist() and len(expected.unique()) > 2
    several = scoring.masked_scores(model, images, [maps[:, :2], maps[:, 2:]], [2, 0])
    assert torch.equal(several.classes, got.classes)


def test_one_number_an_image_is_no_class():
    class Sum(nn.Module):
        def forward(self, images):
            return images.sum((1, 2, 3))

    got = scoring.masked_scores(Sum(), random(2, 3, 6, 9), random(2, 2, 3, 4), lambda row: row.sum())
    assert got.classes.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("order", scoring.ORDERS)
@pytest.mark.parametrize("scale", [1e-12, 1e-30])
def test_weak_channels_have_full_masks(order, scale):
    """The division is by the exact range: an epsilon would dim the masks of weak channels."""
    images, maps = random(1, 3, 6, 9), random(1, 4, 3, 4, seed=2)
    strong = scoring.masked_scores(Plain(), images, maps, [1], order=order)
    weak = scoring.masked_scores(Plain(), images, maps * scale, [1], order=order)
    torch.testing.assert_close(weak.values, strong.values, atol=1e-5, rtol=0)


def test_two_channels_by_hand():
    """A black and white picture, two masks that are already of its size: numbers that fit on a line."""

    class Total(nn.Module):
        def forward(self, images):
            total = images.sum((1, 2, 3))
            return torch.stack([total, -total], 1)

    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    maps = torch.tensor([[[[0.0, 5.0], [0.0, 0.0]], [[2.0, 2.0], [3.0, 4.0]]]])
    # The masks: 0 1 / 0 0 and 0 0 / 0.5 1.
    got = scoring.masked_scores(Total(), image, maps, 0)
    assert got.values.tolist() == [[2.0, 5.5]]
    assert scoring.masked_scores(Total(), image, maps, 1).values.tolist() == [[-2.0, -5.5]]


def test_order_of_upsampling_and_normalising():
    """A peak between two pixels is cut off by interpolation; normalising afterwards brings it back to 1."""

    class Pixels(nn.Module):
        def forward(self, images):
            return images[:, 0, 0]

    image, maps = torch.ones(1, 1, 1, 4), torch.tensor([[[[0.0, 1.0, 0.0]]]])

    def mask(**options):
        return [scoring.masked_scores(Pixels(), image, maps, x, **options).values.item() for x in range(4)]

    assert mask(order="upsample_normalise") == [0, 1, 1, 0]
    assert mask(order="normalise_upsample") == [0, 0.625, 0.625, 0]
    assert mask(order="normalise_upsample", align_corners=True) == pytest.approx([0, 2 / 3, 2 / 3, 0])


@pytest.mark.parametrize("chunk", [1, 3, 4, 14, 100, "auto"])
def test_chunks_do_not_change_the_result(chunk):
    """Also where the number of channels is no multiple of the chunk, and chunks run across images."""
    model, images, maps = Plain(), random(2, 3, 8, 6), random(2, 7, 4, 3, seed=2)
    got = scoring.masked_scores(model, images, maps, [0, 2], chunk=chunk)
    torch.testing.assert_close(got.values, slow_values(model, images, maps, [0, 2]), atol=1e-6, rtol=0)


def test_forwards_are_counted_and_chunks_kept_to():
    model, images, maps = Plain(), random(2, 3, 8, 6), random(2, 7, 4, 3)
    got = scoring.masked_scores(model, images, maps, targets.resolve([0, 2], torch.zeros(2, 3)), chunk=4)
    assert model.batches == [4, 4, 4, 2] and got.forwards == 14
    model.batches.clear()
    assert scoring.masked_scores(model, images, maps, None, chunk=4).forwards == sum(model.batches) == 16


def test_channels_without_a_mask_are_skipped():
    """Constant, NaN and infinite channels have no min-max: no pass, value 0, the others as before."""
    model, images, maps = Plain(), random(1, 3, 7, 5), random(1, 6, 3, 3)
    whole = scoring.masked_scores(model, images, maps, [1]).values
    maps[0, 0] = 0
    maps[0, 2] = 0.1    # interpolated, 0.1 is no longer exactly constant
    maps[0, 3, 1, 1] = float("nan")
    maps[0, 5, 0, 0] = float("inf")
    model.batches.clear()
    got = scoring.masked_scores(model, images, maps, [1])
    assert got.skipped.tolist() == [[True, False, True, True, False, True]]
    assert got.values[got.skipped].tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(got.values[~got.skipped], whole[~got.skipped])
    assert got.forwards == sum(model.batches) == 2 + 1    # one more to check the target


def test_dead_layer_needs_no_pass():
    model = Plain()
    resolved = targets.resolve(1, torch.zeros(2, 3))
    got = scoring.masked_scores(model, random(2, 3, 4, 4), torch.zeros(2, 5, 2, 2), resolved)
    assert got.skipped.all() and got.forwards == 0 and model.batches == []


def test_map_that_vanishes_when_made_smaller():
    """A layer larger than the image: what is constant only after resizing is an empty mask, not NaN."""
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 0, 0] = 1
    got = scoring.masked_scores(Plain(), torch.ones(1, 3, 2, 2), maps, [0])
    assert got.values.item() == pytest.approx(Plain().head.bias[0].item())


def test_scores_that_are_not_finite_are_skipped():
    class Overflow(Plain):
        def forward(self, images):
            return torch.where(images.mean() > 0, float("inf"), 1.0) * super().forward(images)

    images = torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    maps = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    got = scoring.masked_scores(Overflow(), images, maps, targets.resolve(0, torch.zeros(1, 3)), chunk=1)
    assert got.skipped.tolist() == [[False, True]] and got.values[0, 1] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_a_dead_channel(dtype):
    """Masks are normalised in float32: in half precision an epsilon vanishes and a dead channel gives NaN."""
    images, maps = random(1, 3, 8, 8), random(1, 4, 4, 4).relu()
    maps[0, 1] = 0
    maps[0, 2] *= 1e-4
    model = Plain()
    exact = scoring.masked_scores(model, images, maps, [1])
    half = scoring.masked_scores(model.to(dtype), images, maps.to(dtype), [1])
    assert half.values.isfinite().all() and half.skipped.tolist() == [[False, True, False, False]]
    torch.testing.assert_close(half.values, exact.values, atol=2e-2, rtol=0)


class Record(TorchDispatchMode):
    """Notes every operation and the size of the largest tensor it makes."""

    def __init__(self):
        super().__init__()
        self.operations, self.largest = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.operations.append(function.overloadpacket.__name__)
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.numel())
        return result


def test_memory_is_that_of_a_chunk():
    """Nothing of the size K·H·W exists at any time."""
    images, maps = random(1, 3, 16, 16), random(1, 96, 4, 4)
    with Record() as record:
        scoring.masked_scores(Plain(), images, maps, [0], chunk=4)
    assert record.largest <= max(4 * 3 * 16 * 16, maps.numel())


def test_nothing_is_read_back_while_it_runs():
    """What forces the host to wait for the device happens before the loop, however many chunks there are."""

    def waits(chunk):
        images, maps = random(1, 3, 16, 16), random(1, 24, 4, 4)
        resolved = targets.resolve([0], torch.zeros(1, 3))
        with Record() as record:
            scoring.masked_scores(Plain(), images, maps, resolved, chunk=chunk)
        waiting = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal")
        return [name for name in record.operations if name in waiting]

    assert waits(2) == waits(24) == ["_local_scalar_dense", "nonzero"]


def test_evaluation_and_inference_mode_without_hooks():
    """Batch statistics and flags stay, no graph is built, no hook copies activations during the passes."""

    class Watched(Plain):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.drop = nn.Dropout(0.5)
            self.seen = []

        def forward(self, images):
            hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in self.modules())
            training = self.norm.training or self.drop.training
            self.seen.append((training, torch.is_inference_mode_enabled(), hooks))
            return super().forward(self.drop(self.norm(images)))

    model = Watched().train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    got = scoring.masked_scores(model, random(1, 3, 6, 6), random(1, 4, 3, 3), [0], chunk=2)
    assert set(model.seen) == {(False, True, 0)}
    assert model.training and model.drop.training and not model.norm.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not got.values.is_inference() and not got.skipped.is_inference() and not got.values.requires_grad


def test_an_exception_leaves_the_flags():
    class Broken(Plain):
        def forward(self, images):
            raise RuntimeError("broken on purpose")

    model = Broken().train()
    with pytest.raises(RuntimeError, match="on purpose"):
        resolved = targets.resolve(0, torch.zeros(1, 3))
        scoring.masked_scores(model, random(1, 3, 4, 4), random(1, 2, 2, 2), resolved)
    assert model.training and not torch.is_inference_mode_enabled()


class Small(Plain):
    """Runs out of memory with more than three images."""

    def forward(self, images):
        if len(images) > 3:
            raise torch.OutOfMemoryError("out of memory on purpose")
        return super().forward(images)


def test_auto_makes_smaller_chunks_when_memory_runs_out():
    model, images, maps = Small(), random(1, 3, 4, 4), random(1, 10, 2, 2)
    got = scoring.masked_scores(model, images, maps, [0])
    torch.testing.assert_close(got.values, slow_values(Plain(), images, maps, [0]), atol=1e-6, rtol=0)
    assert got.forwards == sum(model.batches) == 11
    with pytest.raises(torch.OutOfMemoryError):
        scoring.masked_scores(model, images, maps, [0], chunk=5)


def test_auto_keeps_to_free_memory(monkeypatch):
    images = random(1, 3, 32, 32)
    one = (3 * 3 + scoring.PLANES_INSIDE) * 32 * 32 * 4
    for affordable, expected in ((0, 1), (3, 3), (10_000, 2 * scoring.LARGEST_CHUNK["cpu"])):
        free = int(affordable * one / scoring.MEMORY_SHARE) + 9
        monkeypatch.setattr(scoring, "_free_bytes", lambda device, free=free: free)
        model = Plain()
        scoring.masked_scores(model, images, random(1, 40, 4, 4), targets.resolve(0, torch.zeros(1, 3)))
        assert max(model.batches) == expected


@pytest.mark.parametrize(("side", "expected"), [(56, 32), (112, 32), (192, 21), (224, 16), (320, 7), (896, 4)])
def test_auto_takes_more_of_smaller_images(side, expected, monkeypatch):
    monkeypatch.setattr(scoring, "_free_bytes", lambda device: 2**40)
    assert scoring.chunk_size("auto", torch.zeros(1, 3, 1, 1).expand(2, 3, side, side)) == expected


def test_free_memory_is_found_or_assumed(monkeypatch):
    cpu = torch.device("cpu")
    assert scoring._free_bytes(cpu) > 2**20
    monkeypatch.setattr("builtins.open", lambda *_: (_ for _ in ()).throw(FileNotFoundError()))
    assert scoring._free_bytes(cpu) > 2**20
    monkeypatch.delattr("os.sysconf", raising=False)    # Windows has neither
    assert scoring._free_bytes(cpu) == scoring.ASSUMED_FREE


@pytest.mark.parametrize(
    ("progress", "seconds", "shown"), [(True, 5, True), (False, 0, False), (None, 5, False), (None, 0, True)]
)
def test_progress_bar(capsys, monkeypatch, progress, seconds, shown):
    """On request, or by itself in a run that takes longer than a few seconds."""
    monkeypatch.setattr(scoring, "SECONDS_WITHOUT_BAR", seconds)
    scoring.masked_scores(Plain(), random(1, 3, 4, 4), random(1, 4, 2, 2), [0], progress=progress)
    written = capsys.readouterr()
    assert ("masked images" in written.err) is shown and written.out == ""


def test_without_tqdm(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tqdm", None)
    got = scoring.masked_scores(Plain(), random(1, 3, 4, 4), random(1, 4, 2, 2), [0], progress=True)
    assert got.forwards == 5


def test_scores_of_plain_images():
    model, images = Plain(), random(5, 3, 4, 4)
    with torch.no_grad():
        output = model(images)
    torch.testing.assert_close(scoring.scores(model, images, 1), output[:, 1])
    torch.testing.assert_close(scoring.scores(model, images, None, "probability"), output.softmax(1).amax(1))
    torch.testing.assert_close(
        scoring.scores(model, images, lambda row: row[0] - row[1], chunk=2), output[:, 0] - output[:, 1]
    )
    torch.testing.assert_close(scoring.scores(model, images, 1, torch.sigmoid), output[:, 1].sigmoid())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"order": "both"}, "The order is one of"),
        ({"precision": "half"}, "The precision is one of exact, fast"),
        ({"chunk": 0}, "The chunk is a positive number"),
        ({"chunk": "all"}, "The chunk is a positive number"),
        ({"chunk": True}, "The chunk is a positive number"),
        ({"targets": [0, 1, 2]}, "3 targets for 2 images"),
        ({"targets": 7}, "out of range"),
        ({"targets": targets.resolve([0], torch.zeros(1, 3))}, "1 target for 2 images"),
        ({"maps": torch.rand(1, 4, 2, 2)}, r"\(B, K, h, w\) for the 2 images"),
        ({"maps": torch.rand(2, 4, 2)}, r"\(B, K, h, w\) for the 2 images"),
        ({"images": torch.rand(3, 4, 4)}, "four dimensions"),
        ({"images": torch.full((2, 3, 4, 4), float("nan"))}, "NaN"),
        ({"kind": "loud"}, "kind of score"),
    ],
)
def test_bad_input(options, sentence):
    arguments = {"images": random(2, 3, 4, 4), "maps": random(2, 4, 2, 2), "targets": [0, 1]} | options
    with pytest.raises(ValueError, match=sentence):
        scoring.masked_scores(Plain(), **arguments)


def test_equal_channels_are_asked_about_once():
    """Of one image; the same map on another image is another question."""
    model, images, maps = Plain(), random(2, 3, 6, 6), random(1, 5, 3, 3).repeat(2, 1, 1, 1)
    maps[:, 3], maps[0, 4] = maps[:, 1], maps[0, 0]
    got = scoring.masked_scores(model, images, maps, targets.resolve([0, 2], torch.zeros(2, 3)), chunk=2)
    assert got.forwards == sum(model.batches) == 3 + 4
    torch.testing.assert_close(got.values, slow_values(model, images, maps, [0, 2]), atol=1e-6, rtol=0)
    assert torch.equal(got.values[:, 3], got.values[:, 1]) and got.values[0, 4] == got.values[0, 0]


def test_one_buffer_in_channels_last_memory():
    """The pictures of all chunks are written to the same place."""

    class Watched(Plain):
        def forward(self, images):
            places.append((images.data_ptr(), images.is_contiguous(memory_format=torch.channels_last)))
            return super().forward(images)

    places = []
    resolved = targets.resolve(0, torch.zeros(1, 3))
    scoring.masked_scores(Watched(), random(1, 3, 6, 6), random(1, 7, 3, 3), resolved, chunk=3)
    assert len(places) == 3 and len(set(places)) == 1 and places[0][1]


def test_masks_of_several_layers_are_one_stream():
    """Chunks run across layers of different sizes; each mask still meets its own image, and none is lost."""
    model, images = Plain(), random(2, 3, 8, 6)
    layers = [random(2, 5, 4, 3, seed=2), random(2, 3, 7, 7, seed=3), random(2, 4, 2, 2, seed=4)]
    layers[1][0, 1] = 0
    layers[2][1, 3] = layers[2][1, 0]
    resolved = targets.resolve([0, 2], torch.zeros(2, 3))
    got = scoring.masked_scores(model, images, layers, resolved, chunk=4)
    assert model.batches == [4] * 5 + [2] and got.forwards == 2 * 12 - 2
    assert torch.nonzero(got.skipped).tolist() == [[0, 6]]
    expected = torch.cat([slow_values(model, images, layer, [0, 2]) for layer in layers], 1)
    expected[0, 6] = 0
    torch.testing.assert_close(got.values, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("order", scoring.ORDERS)
def test_masks_that_are_masks_already(order):
    """Enlarged and nothing else; constant ones are masks, too: 1 shows the image itself and 0 nothing of it."""
    model, images, masks = Plain(), random(1, 3, 7, 5), torch.rand(1, 4, 3, 3) * 0.5
    masks[0, 1], masks[0, 2], masks[0, 3, 1, 1] = 1, 0, float("nan")
    got = scoring.masked_scores(model, images, masks, [1], order=order, normalise=False)
    large = F.interpolate(masks[:, :3], (7, 5), mode="bilinear", align_corners=False)[0, :, None]
    expected = torch.stack([model(images)[0, 1], model(images * large[0])[0, 1], model.head.bias[1]]).detach()
    torch.testing.assert_close(got.values[0, [1, 0, 2]], expected, atol=1e-6, rtol=0)
    assert got.skipped.tolist() == [[False, False, False, True]] and got.forwards == 1 + 3


def test_an_overflow_in_a_later_layer_is_asked_again(monkeypatch):
    """In its own precision and under its own mask, though the numbers asked again have gaps."""

    class Loud(Plain):
        def forward(self, images):
            self.batches.append(len(images))
            return (images * 1000).sum((2, 3))

    monkeypatch.setattr(scoring, "fast_dtype", lambda device: torch.float16)
    hole = torch.zeros(1, 1, 3, 3)
    hole[..., 0, 0] = 1
    model, images = Loud(), torch.ones(1, 3, 16, 16)
    layers = [torch.cat([random(1, 2, 3, 3), hole], 1), random(1, 3, 5, 4, seed=2)]
    resolved = targets.resolve(0, torch.zeros(1, 3))
    exact = scoring.masked_scores(model, images, layers, resolved)
    model.batches.clear()
    fast = scoring.masked_scores(model, images, layers, resolved, precision="fast", chunk=4)
    assert model.batches == [4, 2, 4, 1] and fast.forwards == 11 and not fast.skipped.any()
    torch.testing.assert_close(fast.values, exact.values, rtol=2e-3, atol=0)


def ranks(values):
    """Equal values share the mean of their places, as Spearman has it."""
    _, place = values.unique(return_inverse=True)
    counts = torch.bincount(place).double()
    return (counts.cumsum(0) - counts / 2)[place]


def correlation(one, two):
    return torch.corrcoef(torch.stack([one.flatten().double(), two.flatten().double()]))[0, 1].item()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "layer"), [("tiny_vgg", "features.29"), ("tiny_resnet", "layer4")])
def test_fast_keeps_the_ranking(name, layer, dtype, monkeypatch):
    """Half precision wherever the tests run: Spearman of the channels' scores, correlation of the maps."""
    monkeypatch.setattr(scoring, "fast_dtype", lambda device: dtype)
    net = models.load(name)
    images = net.preprocessing(world.scene(7).image)
    exact, fast = (
        methods.score_cam(net, images, layers=layer, precision=precision, trace=True, progress=False)
        for precision in scoring.PRECISIONS
    )
    assert (exact.config["dtype"], fast.config["dtype"]) == ("float32", str(dtype).removeprefix("torch."))
    alive = ~exact.trace["skipped"]
    one, two = (e.trace["masked_scores"][alive] for e in (exact, fast))
    assert not torch.equal(one, two)
    assert correlation(ranks(one), ranks(two)) >= 0.999
    assert correlation(exact.map, fast.map) >= 0.99


def test_fast_is_exact_where_bfloat16_is_slow(monkeypatch):
    monkeypatch.setattr(scoring, "fast_dtype", lambda device: None)
    images, maps = random(1, 3, 6, 6), random(1, 4, 3, 3)
    exact, fast = (
        scoring.masked_scores(Plain(), images, maps, [1], precision=precision)
        for precision in scoring.PRECISIONS
    )
    assert torch.equal(exact.values, fast.values) and fast.dtype == torch.float32


@pytest.mark.parametrize(
    ("able", "dtype"),
    [
        ({}, None),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True, "avx512_fp16": True}, torch.float16),
        ({"amx_fp16": True}, torch.float16),
    ],
)
def test_fast_asks_what_the_processor_can_do(able, dtype, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert scoring.fast_dtype(torch.device("cpu")) == dtype
    assert scoring.fast_dtype(torch.device("meta")) is None


def test_what_overflows_in_half_precision_is_asked_again(monkeypatch):
    """Pictures that add up to more than 65504: infinite in float16, and their score is the exact one."""

    class Loud(Plain):
        def forward(self, images):
            self.batches.append(len(images))
            return (images * 1000).sum((2, 3))

    monkeypatch.setattr(scoring, "fast_dtype", lambda device: torch.float16)
    model, images, maps = Loud(), torch.ones(2, 3, 16, 16), random(1, 4, 3, 3).repeat(2, 1, 1, 1)
    images[1, 1] = 2    # its own class has another score than the first image's
    maps[:, 2] = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]])    # a small hole: these do not overflow
    resolved = targets.resolve([0, 1], torch.zeros(2, 3))
    exact = scoring.masked_scores(model, images, maps, resolved)
    model.batches.clear()
    fast = scoring.masked_scores(model, images, maps, resolved, precision="fast")
    assert model.batches == [8, 6] and fast.forwards == 14 and not fast.skipped.any()
    torch.testing.assert_close(fast.values, exact.values, rtol=2e-3, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", scoring.PRECISIONS)
def test_a_recorded_graph_gives_the_same_scores(precision, monkeypatch):
    """Twenty chunks, enough to record one, against passes that are all launched one by one."""
    net = models.load("tiny_resnet", device="cuda")
    images, maps = random(1, 3, 64, 48).cuda(), random(1, 82, 8, 6).cuda()
    recorded = scoring.masked_scores(net, images, maps, [1], chunk=4, precision=precision)
    monkeypatch.setattr(scoring, "GRAPH_FROM", 1000)
    launched = scoring.masked_scores(net, images, maps, [1], chunk=4, precision=precision)
    torch.testing.assert_close(recorded.values, launched.values, atol=1e-5, rtol=0)


@pytest.mark.gpu
def test_a_network_that_cannot_be_recorded_is_launched():
    class Reads(Plain):
        def forward(self, images):
            if images.sum().item() > 1e9:
                raise RuntimeError("unreachable")
            return super().forward(images)

    model, images, maps = Reads().cuda(), random(1, 3, 6, 6).cuda(), random(1, 40, 3, 3).cuda()
    got = scoring.masked_scores(model, images, maps, [0], chunk=2)
    expected = slow_values(model.cpu(), images.cpu(), maps.cpu(), [0])
    torch.testing.assert_close(got.values.cpu(), expected, atol=1e-5, rtol=0)
